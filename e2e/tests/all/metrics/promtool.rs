//! Prometheus' own tool, which `make` fetches: what Prometheus says to a text and to the rules.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e2e::root;
use serde_json::json;

fn promtool() -> PathBuf {
    let path = root().join(".tools/promtool");
    assert!(path.exists(), "{path:?} is missing: run make promtool");
    path
}

/// Whether Prometheus can read a text; its parser's complaint if not.
pub fn readable(text: &str) -> Result<(), String> {
    let mut child = Command::new(promtool())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    let mut input = child.stdin.take().expect("a pipe");
    let text = text.to_owned();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, text.as_bytes()));
    let output = child.wait_with_output().expect("promtool ends");
    let _ = writer.join();
    match output.status.code() {
        // 3: readable, but with names that promtool would rather not see, such as Envoy's own.
        Some(0 | 3) => Ok(()),
        _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// What Prometheus, scraping this text for ten minutes, says to a rule of `rules.yaml`: whether the
/// alerts that fire are just these, each a filter's name and a path.
pub fn alerts(text: &str, alert: &str, expected: &[(&str, &str)]) -> Result<(), String> {
    let series: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("envoy_healthz_"))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            let name = name.replacen('{', "{instance=\"pod-1\",", 1);
            json!({"series": name, "values": format!("{value}x10")})
        })
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(filter, path)| {
            let summary = format!(" pod-1: {path} is unhealthy (filter {filter})");
            json!({
                "exp_labels": {
                    "severity": "warning", "instance": "pod-1", "filter": filter, "path": path,
                },
                "exp_annotations": {"summary": summary},
            })
        })
        .collect();
    let test = json!({
        "rule_files": [root().join("envoy/monitoring/rules.yaml")],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": series,
            "alert_rule_test": [{"alertname": alert, "eval_time": "5m", "exp_alerts": expected}],
        }],
    });
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("test.yaml");
    std::fs::write(&path, test.to_string()).expect("the test can be written");
    test_rules(&path)
}

/// Whether rules pass the tests of this file; promtool's complaint if not.
pub fn test_rules(path: &Path) -> Result<(), String> {
    let output = Command::new(promtool())
        .args(["test", "rules"])
        .arg(path)
        .output();
    let output = output.expect("promtool runs");
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
