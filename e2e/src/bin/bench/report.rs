//! The page that is written, docs/bench.md.

use std::fmt::{self, Display, Formatter};

use e2e::envoy::version;

use crate::Plan;
use crate::busy::{self, Busy};
use crate::claims::Claim;
use crate::costs::Memory;
use crate::load::{Load, Series};
use crate::numbers::{median, quantile};
use crate::subjects::{SUBJECTS, name};
use crate::traffic::TRAFFIC;

/// Everything that was measured.
pub struct Report<'a> {
    pub plan: &'a Plan,
    pub claims: &'a [Claim],
    pub probes: &'a [Series],
    pub traffic: &'a [Series],
    pub delays: &'a [(&'static str, Vec<f64>)],
    pub busy: &'a Busy,
    pub start_up: &'a [(&'static str, f64, f64)],
    pub memory: &'a [Memory],
}

impl Display for Report<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        self.head(out)?;
        self.claims(out)?;
        self.probes(out)?;
        self.traffic(out)?;
        self.delays(out)?;
        self.busy(out)?;
        self.costs(out)
    }
}

impl Report<'_> {
    fn head(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let machine = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = machine
            .lines()
            .find_map(|line| line.strip_prefix("model name\t: "));
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        writeln!(
            out,
            "# Benchmark\n\nMade by `make bench` on {} with Envoy {}, one worker, on {cores} shared cores of {}. \
             {} rounds of {} s (3 s with 50 connections), in turn; medians, and the quartiles in brackets. \
             Absolute times are this machine's; the ratios are what is claimed.\n",
            jiff::Zoned::now().strftime("%Y-%m-%d"),
            version(),
            model.unwrap_or("an unknown kind"),
            self.plan.rounds,
            self.plan.seconds,
        )
    }

    fn claims(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "## Claims\n\n| what | reach | found | |\n|---|---|---|---|"
        )?;
        for claim in self.claims {
            let met = if claim.met { "met" } else { "**missed**" };
            writeln!(
                out,
                "| {} | {} | {} | {met} |",
                claim.what, claim.limit, claim.found
            )?;
        }
        Ok(())
    }

    fn probes(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "\n## Probes\n\nCPU is the worker's, user and system, from `/proc`.\n\n\
             | other clusters | connections | | p50 µs | p99 µs | requests/s | CPU per probe µs | wrong answers | admin calls/s |\n\
             |---|---|---|---|---|---|---|---|---|"
        )?;
        for series in self.probes {
            let load = common(series, &SUBJECTS);
            let cpu = typical(series, |load| load.cpu);
            let wrong: u64 = series.rounds.iter().map(|load| load.wrong).sum();
            let answers: u64 = series.rounds.iter().map(|load| load.answers).sum();
            let calls = typical(series, |load| load.admin_calls as f64 / load.seconds);
            writeln!(
                out,
                "| {} {load} {cpu:.1} | {wrong} of {answers} | {calls:.0} |",
                series.others
            )?;
        }
        Ok(())
    }

    fn traffic(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "\n## Other traffic\n\n| connections | | p50 µs | p99 µs | requests/s |\n|---|---|---|---|---|"
        )?;
        for series in self.traffic {
            writeln!(out, "{}", common(series, &TRAFFIC))?;
        }
        Ok(())
    }

    fn delays(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "\n## From the backend's stop to the first 503\n\nHealth checks every 100 ms.\n\n| | ms, median | at worst |\n|---|---|---|"
        )?;
        for (subject, delays) in self.delays {
            let mut delays = delays.clone();
            let (middle, worst) = (quantile(&mut delays, 0.5), quantile(&mut delays, 1.0));
            let name = name(&SUBJECTS, subject);
            writeln!(out, "| {name} | {middle:.0} | {worst:.0} |")?;
        }
        Ok(())
    }

    fn busy(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "\n## Main thread busy\n\n{} other clusters, three scrapes of `/stats/prometheus` at once, {} times; \
             the longest took {:.1} s. The backend is up. A snapshot answers until it is 5 s old (`max_stale_ms`): a thread held for longer brings 503.\n\n| | 503 or no answer | slowest probe ms |\n|---|---|---|",
            busy::OTHERS,
            self.plan.rounds,
            self.busy.longest_scrape.as_secs_f64()
        )?;
        for seen in &self.busy.seen {
            writeln!(
                out,
                "| {} | {} of {} | {} |",
                name(&SUBJECTS, seen.subject),
                seen.wrong,
                seen.probes,
                seen.slowest.as_millis()
            )?;
        }
        Ok(())
    }

    fn costs(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "\n## Start-up and memory\n\n| one worker | start-up ms | resident MiB |\n|---|---|---|"
        )?;
        for (name, start, memory) in self.start_up {
            writeln!(out, "| {name} | {start:.0} | {memory:.0} |")?;
        }
        writeln!(
            out,
            "\nEnvoy's resident memory after each worker has had probes:\n\n\
             | workers | without MiB | with the filter MiB | more |\n|---|---|---|---|"
        )?;
        for Memory {
            workers,
            without,
            with,
        } in self.memory
        {
            let more = with - without;
            writeln!(out, "| {workers} | {without:.0} | {with:.0} | {more:.0} |")?;
        }
        Ok(())
    }
}

/// The columns that probes and other traffic have in common.
fn common(series: &Series, names: &[(&str, &str)]) -> String {
    format!(
        "| {} | {} | {:.0} | {:.0} | {:.0} |",
        series.connections,
        name(names, series.subject),
        typical(series, |load| load.p50),
        typical(series, |load| load.p99),
        typical(series, |load| load.per_second),
    )
}

/// The median of the rounds.
fn typical(series: &Series, of: impl Fn(&Load) -> f64) -> f64 {
    median(series.rounds.iter().map(of).collect())
}
