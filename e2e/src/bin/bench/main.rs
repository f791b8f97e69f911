//! `make bench`: the filter, Envoy's own health_check filter and the Lua script, side by side.
//!
//! All subjects are listeners of one Envoy with one worker, measured in turn, round after round,
//! with `wrk`. Two have an Envoy to themselves: the background refresh, and the script, which gets
//! a new one each round, for with a thousand clusters it leaves minutes of work on the main thread.
//! A claim is a ratio of two subjects within a round; it fails if the median of the rounds misses
//! its limit and so do three quarters of the rounds.

mod busy;
mod claims;
mod costs;
mod delays;
mod load;
mod numbers;
mod plot;
mod probes;
mod report;
mod subjects;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use e2e::root;

use crate::subjects::OTHERS;

#[derive(Parser)]
#[command(
    name = "bench",
    about = "Measures the filter beside Envoy's own and the Lua script."
)]
struct Options {
    /// Few and short rounds; checks answers and admin calls, makes no claim about time, and writes
    /// to target/bench instead of docs.
    #[arg(long)]
    quick: bool,
}

struct Plan {
    rounds: usize,
    seconds: u32,
    quick: bool,
    out: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let quick = Options::parse().quick;
    let out = if quick { "target/bench" } else { "docs" };
    let plan = Plan {
        rounds: if quick { 2 } else { 7 },
        seconds: if quick { 1 } else { 2 },
        quick,
        out: root().join(out),
    };
    std::fs::create_dir_all(&plan.out).expect("the folder can be made");

    let mut probes = Vec::new();
    for others in OTHERS {
        probes.extend(probes::measure(&plan, others).await);
    }
    let traffic = traffic::measure(&plan).await;
    let delays = delays::measure(&plan).await;
    let busy = busy::measure(&plan).await;
    let start_up = costs::measure_start_up(&plan).await;
    let memory = costs::measure_workers(&plan).await;

    let mut claims = claims::of_probes(&probes);
    claims.extend(claims::of_traffic(&traffic));
    claims.extend(claims::of_answers(&probes));
    claims.push(costs::measure_background(&plan).await);
    claims.push(costs::measure_vm(&plan).await);
    claims.extend(delays::claims(&delays));
    claims.extend(busy::claims(&busy));
    claims.push(claims::of_size());
    let report = report::Report {
        plan: &plan,
        claims: &claims,
        probes: &probes,
        traffic: &traffic,
        delays: &delays,
        busy: &busy,
        start_up: &start_up,
        memory: &memory,
    };
    let text = report.to_string();
    std::fs::write(plan.out.join("bench.md"), &text).expect("the report can be written");
    plot::all(&plan.out, &probes, &delays).expect("the plots can be drawn");
    println!("{text}");

    let failed = claims
        .iter()
        .filter(|claim| !(quick && claim.timed))
        .any(|claim| !claim.met);
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
