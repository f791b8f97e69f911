//! Load by `wrk`, and what it found.

use std::process::Command;

use crate::subjects::CONNECTIONS;

/// What one run of `wrk` found; times in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    pub p50: f64,
    pub p99: f64,
    pub per_second: f64,
    /// The worker's CPU time per answer; 0 where it is not measured.
    pub cpu: f64,
    pub answers: u64,
    /// Not 200, or none at all: the backend is up.
    pub wrong: u64,
    pub admin_calls: u64,
    pub seconds: f64,
}

/// The rounds of one subject under one load.
pub struct Series {
    pub subject: &'static str,
    pub others: usize,
    pub connections: usize,
    pub rounds: Vec<Load>,
}

/// A series for each subject and number of connections.
pub fn unmeasured(subjects: &[(&'static str, &str)], others: usize) -> Vec<Series> {
    let mut all = Vec::new();
    for connections in CONNECTIONS {
        all.extend(subjects.iter().map(|&(subject, _)| Series {
            subject,
            others,
            connections,
            rounds: Vec::new(),
        }));
    }
    all
}

pub fn find<'a>(all: &'a [Series], subject: &str, others: usize, connections: usize) -> &'a Series {
    all.iter()
        .find(|series| {
            (series.subject, series.others, series.connections) == (subject, others, connections)
        })
        .expect("it was measured")
}

/// Runs `wrk` for so long; its own report is replaced by a line of numbers.
pub fn wrk(port: u16, path: &str, connections: usize, seconds: u32) -> Load {
    const REPORT: &str = r#"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %f %f %d %f %d %d\n", latency:percentile(50), latency:percentile(99),
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout))
end
"#;
    let script =
        std::env::temp_dir().join(format!("envoy-healthz-bench-{}.lua", std::process::id()));
    std::fs::write(&script, REPORT).expect("the script can be written");
    let output = Command::new("wrk")
        .args([
            "-t1",
            &format!("-c{connections}"),
            &format!("-d{seconds}s"),
            "--timeout",
            "10s",
            "-s",
        ])
        .arg(&script)
        .arg(format!("http://127.0.0.1:{port}{path}"))
        .output()
        .expect("wrk runs");
    let _ = std::fs::remove_file(&script);
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let numbers: Vec<f64> = line
        .unwrap_or_else(|| panic!("wrk says {text}"))
        .split(' ')
        .map(|number| number.parse().expect("a number"))
        .collect();
    let &[p50, p99, requests, microseconds, status, lost] = numbers.as_slice() else {
        panic!("wrk says {text}");
    };
    let seconds = microseconds / 1e6;
    Load {
        p50,
        p99,
        per_second: requests / seconds,
        cpu: 0.0,
        answers: requests as u64,
        wrong: (status + lost) as u64,
        admin_calls: 0,
        seconds,
    }
}
