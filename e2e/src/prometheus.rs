//! What Prometheus makes of a text of metrics, by promtool, its own tool.

use std::io::{Seek, Write};
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::root;

/// Our series in a text: each one's name with its labels, and its value.
pub fn series(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text
        .lines()
        .filter(|line| line.starts_with("envoy_healthz_"));
    lines.map(|line| line.rsplit_once(' ').expect("a value"))
}

/// Whether Prometheus can read a text; its parser's complaint if not.
pub fn readable(text: &str) -> Result<(), String> {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("it can be written");
    file.rewind().expect("it can be read");
    // 3: readable, but with names that promtool would rather not see, such as Envoy's own.
    run(promtool().args(["check", "metrics"]).stdin(file), &[0, 3])
}

/// Whether rules pass the unit tests in this file; what is wrong if not.
pub fn test_rules(tests: &Path) -> Result<(), String> {
    run(promtool().args(["test", "rules"]).arg(tests), &[0])
}

/// What Prometheus, scraping this text for ten minutes, says to a rule of `rules.yaml`: whether the
/// alerts that fire are just these, each a filter's name and a path.
pub fn alerts(text: &str, alert: &str, expected: &[(&str, &str)]) -> Result<(), String> {
    let series = series(text).map(|(name, value)| {
        let name = name.replacen('{', "{instance=\"pod-1\",", 1);
        json!({"series": name, "values": format!("{value}x10")})
    });
    let expected = expected.iter().map(|(filter, path)| {
        let summary = format!(" pod-1: {path} is unhealthy (filter {filter})");
        json!({
            "exp_labels": {
                "severity": "warning", "instance": "pod-1", "filter": filter, "path": path,
            },
            "exp_annotations": {"summary": summary},
        })
    });
    let expected: Vec<_> = expected.collect();
    let test = json!({
        "rule_files": [root().join("envoy/monitoring/rules.yaml")],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": series.collect::<Vec<_>>(),
            "alert_rule_test": [{"alertname": alert, "eval_time": "5m", "exp_alerts": expected}],
        }],
    });
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("test.yaml");
    std::fs::write(&path, test.to_string()).expect("the test can be written");
    test_rules(&path)
}

/// Prometheus' own tool, which `make` fetches.
fn promtool() -> Command {
    let path = root().join(".tools/promtool");
    assert!(path.exists(), "{path:?} is missing: run make promtool");
    Command::new(path)
}

fn run(command: &mut Command, good: &[i32]) -> Result<(), String> {
    let output = command.output().expect("promtool runs");
    match output
        .status
        .code()
        .is_some_and(|code| good.contains(&code))
    {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
