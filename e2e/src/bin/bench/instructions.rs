//! The instructions that Envoy's process takes for a probe, counted by callgrind: steady however busy the
//! machine is.

use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::eventually;
use e2e::prober::Prober;
use tempfile::TempDir;

use crate::Plan;
use crate::subjects::start_under;

/// Those that are counted, by the names of [`crate::subjects::SUBJECTS`], and one whose snapshot lasts: a
/// refresh in between would count as well.
pub const SUBJECTS: [&str; 5] = [
    "floor",
    "built_in",
    "from_memory",
    "module_no_drain",
    "module",
];

/// Of each subject, for one probe.
pub async fn measure(plan: &Plan) -> Vec<(&'static str, f64)> {
    let (subjects, probes): (&[_], _) = match plan.quick {
        true => (&["floor", "module"], 300),
        false => (&SUBJECTS, 3000),
    };
    let mut counted = Vec::new();
    for &subject in subjects {
        counted.push((subject, count(subject, probes).await));
        eprintln!("bench: instructions of {subject}");
    }
    counted
}

async fn count(subject: &str, probes: u32) -> f64 {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let to = format!("--callgrind-out-file={}", out.display());
    let tool = [
        "valgrind",
        "--quiet",
        "--tool=callgrind",
        "--instr-atstart=no",
        &to,
    ];
    let envoy = start_under(&tool, subject, 1).await;
    let port = envoy.port;
    let prober = Prober::http(port);
    let control = |argument: &[&str]| {
        let mut command = Command::new("callgrind_control");
        let output = command.args(argument).arg(envoy.id().to_string()).output();
        let output = output.expect("callgrind_control runs: make bench-tools");
        assert!(output.status.success(), "{output:?}");
    };
    for _ in 0..100 {
        prober.wait_for(200).await;
    }
    control(&["--instr=on"]);
    // Its code is translated with the first probes that are counted.
    for _ in 0..100 {
        prober.wait_for(200).await;
    }
    control(&["--zero"]);
    for _ in 0..probes {
        prober.wait_for(200).await;
    }
    control(&["--dump"]);
    let total = eventually("it is dumped", async || total(&dir.path().join("out.1"))).await;
    total / f64::from(probes)
}

/// The whole count of a dump.
fn total(path: &Path) -> Option<f64> {
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("totals: "))?;
    total.trim().parse().ok()
}
