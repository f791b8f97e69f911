//! The report, in Markdown.

use std::fmt::{Result, Write as _};

use e2e::envoy::version;

use crate::busy;
use crate::checks::CHECKS;
use crate::claims::Claim;
use crate::load::Series;
use crate::statistics::{median, worst};
use crate::subjects::{SUBJECTS, name};
use crate::traffic::TRAFFIC;
use crate::{Found, Plan};

pub fn write(plan: &Plan, found: &Found, claims: &[Claim]) -> String {
    let mut text = String::new();
    let written = opening(&mut text, plan)
        .and_then(|()| claims_table(&mut text, claims))
        .and_then(|()| probes(&mut text, &found.probes))
        .and_then(|()| traffic(&mut text, "Other traffic", &found.traffic, &TRAFFIC))
        .and_then(|()| traffic(&mut text, "Check over gRPC", &found.checks, &CHECKS))
        .and_then(|()| detection(&mut text, &found.delays))
        .and_then(|()| busy_thread(&mut text, &found.busy))
        .and_then(|()| costs(&mut text, found));
    written.expect("a string can be written to");
    text
}

fn opening(text: &mut String, plan: &Plan) -> Result {
    let machine = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut lines = machine.lines();
    let model = lines.find_map(|line| line.strip_prefix("model name\t: "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let command = if plan.quick {
        "make bench BENCH=--quick"
    } else {
        "make bench"
    };
    writeln!(
        text,
        "# Benchmark\n\n\
         Made by `{command}` on {} with Envoy {}, one worker where nothing else is said, on {cores} cores of {} \
         that others use too (load average of the last 15 minutes at its end: {}). Rounds: {}, each of {} s \
         with one connection and {} s with fifty, the subjects in another order each time. Numbers are \
         medians, with the quartiles of the rounds in brackets; the median decides. Absolute times are this machine's; the ratios are what \
         is claimed.",
        jiff::Zoned::now().strftime("%Y-%m-%d"),
        version(),
        model.unwrap_or("an unknown kind"),
        load.split(' ').nth(2).unwrap_or("unknown"),
        plan.rounds,
        plan.seconds(1),
        plan.seconds(50),
    )
}

fn claims_table(text: &mut String, claims: &[Claim]) -> Result {
    heading(text, "Claims", &["what", "goal", "found", ""])?;
    for Claim {
        what,
        goal,
        found,
        met,
    } in claims
    {
        let met = if *met { "met" } else { "**missed**" };
        writeln!(text, "| {what} | {goal} | {found} | {met} |")?;
    }
    writeln!(text, "\nThe short names in the claims:\n")?;
    for (key, name) in SUBJECTS.into_iter().chain(CHECKS) {
        writeln!(text, "- `{key}`: {name}")?;
    }
    writeln!(
        text,
        "- `from_memory`: envoy-healthz, answered from a snapshot that is at hand"
    )
}

fn probes(text: &mut String, all: &[Series]) -> Result {
    let columns = [
        "other clusters",
        "connections",
        "",
        "p50 µs",
        "p99 µs",
        "probes/s",
        "worker's CPU µs",
        "wrong answers",
        "admin calls/s",
    ];
    heading(text, "Probes", &columns)?;
    for series in all {
        let wrong: u64 = series.rounds.iter().map(|load| load.wrong).sum();
        let answers: u64 = series.rounds.iter().map(|load| load.answers).sum();
        let calls = series.median(|load| load.admin_calls as f64 / load.seconds);
        writeln!(
            text,
            "| {} {} {wrong} of {answers} | {calls:.0} |",
            series.others,
            times(series, &SUBJECTS),
        )?;
    }
    Ok(())
}

fn traffic(text: &mut String, title: &str, all: &[Series], names: &[(&str, &str)]) -> Result {
    let columns = [
        "connections",
        "",
        "p50 µs",
        "p99 µs",
        "requests/s",
        "worker's CPU µs",
    ];
    heading(text, title, &columns)?;
    for series in all {
        writeln!(text, "{}", times(series, names))?;
    }
    Ok(())
}

/// The cells that probes and other requests have in common.
fn times(series: &Series, names: &[(&str, &str)]) -> String {
    format!(
        "| {} | {} | {:.0} | {:.0} | {:.0} | {:.1} |",
        series.connections,
        name(names, series.subject),
        series.median(|load| load.p50),
        series.median(|load| load.p99),
        series.median(|load| load.per_second),
        series.median(|load| load.cpu),
    )
}

fn detection(text: &mut String, delays: &[(&str, Vec<f64>)]) -> Result {
    let title = "From the backend's stop to the first 503";
    heading(text, title, &["", "ms, median", "at worst"])?;
    for (subject, delays) in delays {
        let (typical, longest) = (median(delays.clone()), worst(delays.clone()));
        let name = name(&SUBJECTS, subject);
        writeln!(text, "| {name} | {typical:.0} | {longest:.0} |")?;
    }
    writeln!(text, "\nHealth checks every 100 ms.")
}

fn busy_thread(text: &mut String, found: &busy::Busy) -> Result {
    let title = "While the main thread is busy";
    let columns = ["", "probes", "not 200", "slowest, ms"];
    heading(text, title, &columns)?;
    for (subject, probes) in busy::SUBJECTS.into_iter().zip(&found.probes) {
        let name = name(&SUBJECTS, subject);
        let busy::Probes {
            answers,
            wrong,
            slowest,
        } = probes;
        writeln!(text, "| {name} | {answers} | {wrong} | {slowest:.0} |")?;
    }
    let scrapes = &found.scrapes;
    writeln!(
        text,
        "\nThe backend is up; {} other clusters of 5 hosts; {} scrapes of `/stats/prometheus` at once, {} times, \
         took {:.1} s (at worst {:.1} s).",
        found.others,
        busy::SCRAPES,
        scrapes.len(),
        median(scrapes.clone()),
        worst(scrapes.clone()),
    )
}

fn costs(text: &mut String, found: &Found) -> Result {
    let columns = [
        "workers",
        "",
        "start-up, ms",
        "resident, MB",
        "more than without, MB",
    ];
    heading(text, "Cost", &columns)?;
    for cost in &found.costs {
        writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} | {:.1} |",
            cost.workers, cost.name, cost.start, cost.memory, cost.more
        )?;
    }
    Ok(())
}

fn heading(text: &mut String, title: &str, columns: &[&str]) -> Result {
    writeln!(text, "\n## {title}\n\n| {} |", columns.join(" | "))?;
    writeln!(text, "|{}", "---|".repeat(columns.len()))
}
