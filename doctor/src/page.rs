//! What is said of the rules: `--explain`, and `docs/doctor.md` as a whole.

use std::fmt::Write;

use crate::rules::{self, Rule};

/// The page before its rules.
const HEAD: &str = include_str!("page.md");

/// A rule for who has the binary alone.
pub fn explain(rule: &Rule) -> String {
    let mut text = format!("{} {} ({})\n\n", rule.id, rule.title, rule.severity);
    for (label, said) in parts(rule) {
        let _ = writeln!(text, "{label}: {said}");
    }
    text
}

/// `docs/doctor.md`.
pub fn page() -> String {
    let mut text = format!("{}\n", HEAD.trim_end());
    let mut group = "";
    for rule in rules::all() {
        let title = match rule.id.get(..3) {
            Some("HZ1") => "Clusters: what Envoy itself can know",
            Some("HZ2") => "Reach: whether the probe comes to the filter",
            Some("HZ3") => "Admin and VM (wasm)",
            Some("HZ4") => "Module",
            _ => "Operations",
        };
        if title != group {
            let _ = writeln!(text, "\n## {title}");
            group = title;
        }
        let _ = writeln!(
            text,
            "\n### {}\n\n**{}** ({})\n",
            rule.id, rule.title, rule.severity
        );
        for (label, said) in parts(rule) {
            let _ = writeln!(text, "- {label}: {said}");
        }
    }
    text
}

fn parts(rule: &Rule) -> Vec<(&'static str, String)> {
    let mut parts = vec![
        ("When", rule.when.to_owned()),
        ("Then", rule.then.to_owned()),
        ("Measured", rule.measured.to_owned()),
    ];
    if !rule.unless.is_empty() {
        parts.push(("Not, or ignore it", rule.unless.to_owned()));
    }
    parts.push(("Set", rule.set.to_owned()));
    parts
}
