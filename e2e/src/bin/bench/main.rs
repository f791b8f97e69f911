//! `make bench`: the filter, Envoy's own health_check filter and the Lua script, side by side.
//!
//! Each subject is a listener of an Envoy with one worker; they are measured one by one, in
//! rounds and each time in another order, with `wrk`, gRPC calls with `h2load`. A claim about time is
//! a ratio of two subjects within a round; the median of the rounds decides.
//!
//! [`subjects`] says what is measured and [`load`] how; then come the measurements, and what is made of
//! them: [`claims`], [`report`], [`plots`].

mod subjects;

mod instructions;
mod load;

mod busy;
mod checks;
mod costs;
mod detection;
mod probes;
mod traffic;

mod claims;
mod plots;
mod report;
mod statistics;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use e2e::root;

use crate::load::Series;

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

/// How much is measured.
struct Plan {
    quick: bool,
    rounds: usize,
}

/// What was found.
struct Found {
    probes: Vec<Series>,
    traffic: Vec<Series>,
    checks: Vec<Series>,
    delays: Vec<(&'static str, Vec<f64>)>,
    busy: busy::Busy,
    costs: Vec<costs::Cost>,
    background: costs::Background,
    growth: costs::Growth,
    instructions: Vec<(&'static str, f64)>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let plan = Plan::new(Options::parse().quick);
    let found = Found {
        probes: probes::measure(&plan).await,
        traffic: traffic::measure(&plan).await,
        checks: checks::measure(&plan).await,
        delays: detection::measure(&plan).await,
        busy: busy::measure(&plan).await,
        costs: costs::measure(&plan).await,
        background: costs::background(&plan).await,
        growth: costs::growth(&plan).await,
        instructions: instructions::measure(&plan).await,
    };
    let claims = claims::all(&plan, &found);
    let report = report::write(&plan, &found, &claims);

    let folder = plan.folder();
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    std::fs::write(folder.join("bench.md"), &report).expect("the report can be written");
    plots::draw_all(&folder, &found).expect("the plots can be drawn");
    println!("{report}");
    match claims.iter().all(|claim| claim.met) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

impl Plan {
    fn new(quick: bool) -> Self {
        Self {
            quick,
            rounds: if quick { 1 } else { 7 },
        }
    }

    /// How long a load with so many connections lasts: the goal about fifty is one about three seconds.
    fn seconds(&self, connections: usize) -> u32 {
        match (self.quick, connections) {
            (true, _) => 1,
            (false, 1) => 2,
            (false, _) => 3,
        }
    }

    /// Where the report goes.
    fn folder(&self) -> PathBuf {
        root().join(if self.quick {
            "target/bench"
        } else {
            "docs/dev"
        })
    }

    /// Says on stderr how far it is.
    fn progress(&self, what: &str, round: usize) {
        eprintln!("bench: {what}, round {}", round + 1);
    }
}
