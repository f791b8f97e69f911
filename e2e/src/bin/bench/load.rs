//! A load on a listener by `wrk`, and the rounds of a subject under it.

use std::process::Command;
use std::time::Instant;

use e2e::envoy::Envoy;

use crate::statistics::median;

/// How many connections probe at once.
pub const CONNECTIONS: [usize; 2] = [1, 50];

/// What one run of `wrk` found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    /// In microseconds.
    pub p50: f64,
    /// In microseconds.
    pub p99: f64,
    pub per_second: f64,
    pub answers: u64,
    /// Not 200, or none at all.
    pub wrong: u64,
    /// How long it was there, at most.
    pub seconds: f64,
    /// The worker's CPU time for an answer, in microseconds.
    pub cpu: f64,
    pub admin_calls: u64,
}

/// The rounds of one subject under one load.
pub struct Series {
    pub subject: &'static str,
    /// How many clusters there are that no endpoint has.
    pub others: usize,
    pub connections: usize,
    pub rounds: Vec<Load>,
}

impl Series {
    pub fn median(&self, of: fn(&Load) -> f64) -> f64 {
        median(self.rounds.iter().map(of))
    }
}

/// A series for each subject and number of connections.
pub fn unmeasured(subjects: &[(&'static str, &str)], others: usize) -> Vec<Series> {
    let series = |connections| {
        subjects.iter().map(move |&(subject, _)| Series {
            subject,
            others,
            connections,
            rounds: Vec::new(),
        })
    };
    CONNECTIONS.into_iter().flat_map(series).collect()
}

pub fn find<'a>(all: &'a [Series], subject: &str, others: usize, connections: usize) -> &'a Series {
    all.iter()
        .find(|series| {
            (series.subject, series.others, series.connections) == (subject, others, connections)
        })
        .expect("it was measured")
}

/// Asks this Envoy for so many seconds.
pub fn load(envoy: &Envoy, port: u16, path: &str, connections: usize, seconds: u32) -> Load {
    measured(envoy, || wrk(port, path, connections, seconds))
}

/// Adds what a load took of this Envoy.
pub fn measured(envoy: &Envoy, run: impl FnOnce() -> Load) -> Load {
    let (begun, before) = (Instant::now(), envoy.worker_cpu());
    let mut load = run();
    let used = envoy.worker_cpu() - before;
    load.seconds = begun.elapsed().as_secs_f64();
    load.cpu = used.as_secs_f64() * 1e6 / load.answers.max(1) as f64;
    load
}

/// Runs `wrk`; a line of numbers takes the place of its own report.
fn wrk(port: u16, path: &str, connections: usize, seconds: u32) -> Load {
    const REPORT: &str = r#"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %f %f %d %f %d\n", latency:percentile(50), latency:percentile(99),
    summary.requests, summary.duration, e.status + e.connect + e.read + e.write + e.timeout))
end
"#;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let script = dir.path().join("report.lua");
    std::fs::write(&script, REPORT).expect("the script can be written");
    let output = Command::new("wrk")
        .args(["-t1", "--timeout", "10s", "-s"])
        .arg(&script)
        .args([format!("-c{connections}"), format!("-d{seconds}s")])
        .arg(format!("http://127.0.0.1:{port}{path}"))
        .output()
        .expect("wrk runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let numbers: Vec<f64> = line
        .unwrap_or_else(|| panic!("wrk says {text}"))
        .split(' ')
        .map(|number| number.parse().expect("a number"))
        .collect();
    let &[p50, p99, requests, microseconds, wrong] = numbers.as_slice() else {
        panic!("wrk says {text}");
    };
    Load {
        p50,
        p99,
        per_second: requests / (microseconds / 1e6),
        answers: requests as u64,
        wrong: wrong as u64,
        ..Load::default()
    }
}

/// In another order each time: what drifts on the machine, and what a load leaves behind, meets each of them alike.
pub fn in_any_order(all: &mut [Series]) -> Vec<&mut Series> {
    let mut order: Vec<_> = all.iter_mut().collect();
    fastrand::shuffle(&mut order);
    order
}
