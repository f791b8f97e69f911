//! What is printed: text for people, JSON, and annotations for GitHub Actions.

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::detection::{Detection, seconds};
use crate::endpoint::{Build, Endpoint};
use crate::envoy::follows_readiness;
use crate::rules::{Case, Finding, Rule, Severity};
use crate::tree::Node;

/// What was found in one file.
#[derive(Debug)]
pub struct Report {
    /// The file's name.
    pub file: String,
    /// The endpoints in it.
    pub endpoints: Vec<Checked>,
    /// What was found, the worst first.
    pub findings: Vec<Found>,
    /// How many endpoints could not be walked to.
    pub not_walked: usize,
}

/// An endpoint, and how soon its clusters' troubles are found.
#[derive(Debug)]
pub struct Checked {
    /// The request path.
    pub path: String,
    /// What answers it.
    pub build: Build,
    /// The filter's name.
    pub name: String,
    /// The listener's name.
    pub listener: String,
    /// The clusters, each with its health checks; without any, nothing is found.
    pub clusters: Vec<(String, Vec<Detection>)>,
}

/// A finding.
#[derive(Debug)]
pub struct Found {
    /// The rule.
    pub id: &'static str,
    /// How bad.
    pub severity: Severity,
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// Where, like `static_resources.clusters[0]`.
    pub at: String,
    /// What is there.
    pub what: String,
    /// What follows.
    pub then: String,
    /// What to change.
    pub set: String,
}

/// What is said of an endpoint.
pub fn endpoint(case: &Case<'_>, endpoint: &Endpoint<'_>) -> Checked {
    let clusters = endpoint.targets.iter().map(|target| {
        let cluster = case.envoy.cluster(&target.cluster);
        let checks = cluster.into_iter().flat_map(|cluster| cluster.checks());
        (target.cluster.clone(), checks.map(Detection::of).collect())
    });
    Checked {
        path: endpoint.path.clone(),
        build: endpoint.build,
        name: endpoint.name.to_owned(),
        listener: endpoint.listener.name.clone(),
        clusters: clusters.collect(),
    }
}

/// Adds the way to each finding.
pub fn findings(root: &Node, findings: Vec<(&'static Rule, Finding<'_>)>) -> Vec<Found> {
    let mut ways = HashMap::new();
    for (_, finding) in &findings {
        ways.insert(std::ptr::from_ref(finding.node), None);
    }
    let mut way = String::new();
    name(root, &mut way, &mut ways);
    let found = findings.into_iter().map(|(rule, finding)| Found {
        id: rule.id,
        severity: finding.severity,
        line: finding.place.0,
        column: finding.place.1,
        at: ways
            .get(&std::ptr::from_ref(finding.node))
            .cloned()
            .flatten()
            .unwrap_or_default(),
        what: finding.what,
        then: finding.then.unwrap_or_else(|| rule.then.to_owned()),
        set: finding.set.unwrap_or_else(|| rule.set.to_owned()),
    });
    found.collect()
}

/// Names the nodes that are asked for, each by the first way to it.
fn name(node: &Node, way: &mut String, ways: &mut HashMap<*const Node, Option<String>>) {
    if let Some(found @ None) = ways.get_mut(&std::ptr::from_ref(node)) {
        *found = Some(way.clone());
    }
    let length = way.len();
    for (key, value) in node.entries() {
        if length > 0 {
            way.push('.');
        }
        way.push_str(key);
        name(value, way, ways);
        way.truncate(length);
    }
    for (index, value) in node.items().enumerate() {
        let _ = write!(way, "[{index}]");
        name(value, way, ways);
        way.truncate(length);
    }
}

impl Report {
    /// How many findings of this severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings
            .iter()
            .filter(|found| found.severity == severity)
            .count()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for found in &self.findings {
            let Found {
                id,
                severity,
                line,
                what,
                then,
                set,
                ..
            } = found;
            let _ = writeln!(text, "{}:{line}: {severity}[{id}] {what}", self.file);
            let _ = writeln!(text, "    then: {then}\n    set:  {set}\n");
        }
        for endpoint in &self.endpoints {
            endpoint.write(&mut text);
        }
        let _ = writeln!(text, "{}: {}", self.file, self.summary());
        text
    }

    fn summary(&self) -> String {
        let count = |number: usize, noun: &str| {
            let plural = if number == 1 { "" } else { "s" };
            (number > 0).then(|| format!("{number} {noun}{plural}"))
        };
        let found = [
            count(self.count(Severity::Error), "error"),
            count(self.count(Severity::Warning), "warning"),
            count(self.count(Severity::Note), "note"),
        ];
        let found: Vec<String> = found.into_iter().flatten().collect();
        let found = if found.is_empty() {
            "nothing found".to_owned()
        } else {
            found.join(", ")
        };
        let endpoints =
            count(self.endpoints.len(), "endpoint").unwrap_or_else(|| "no endpoint".to_owned());
        match self.not_walked {
            0 => format!("{found}; {endpoints} checked"),
            number => format!(
                "{found}; {endpoints} checked, {number} without the way to it (routes or chains that are not walked: ask with its /config_dump)"
            ),
        }
    }

    /// One line for each finding: a workflow command of GitHub Actions.
    pub fn github(&self) -> String {
        let mut text = String::new();
        for found in &self.findings {
            let level = match found.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "notice",
            };
            let message = format!("{}\nthen: {}\nset: {}", found.what, found.then, found.set);
            let _ = writeln!(
                text,
                "::{level} file={},line={},title={}::{}",
                property(&self.file),
                found.line,
                found.id,
                escaped(&message)
            );
        }
        text
    }

    /// This file's part of the JSON report.
    pub fn json(&self) -> Value {
        let endpoints: Vec<Value> = self.endpoints.iter().map(Checked::json).collect();
        let findings = self.findings.iter().map(|found| {
            json!({
                "id": found.id,
                "severity": found.severity.to_string(),
                "line": found.line,
                "column": found.column,
                "at": found.at,
                "what": found.what,
                "then": found.then,
                "set": found.set,
                "url": format!("docs/doctor.md#{}", found.id.to_lowercase()),
            })
        });
        let findings: Vec<Value> = findings.collect();
        json!({"file": self.file, "endpoints": endpoints, "findings": findings})
    }
}

impl Checked {
    fn write(&self, text: &mut String) {
        let build = self.build.as_str();
        let _ = writeln!(
            text,
            "{} on listener {} ({}, {build})",
            self.path, self.listener, self.name
        );
        for (cluster, checks) in &self.clusters {
            if checks.is_empty() {
                let what = match follows_readiness(cluster) {
                    true => "Kubernetes readiness finds a stop or a hang",
                    false => "neither a stop nor a hang is found",
                };
                let _ = writeln!(text, "    {cluster}: no health check; {what}");
            }
            for times in checks {
                let _ = writeln!(text, "    {cluster}: {}", times_of(times));
            }
        }
    }

    fn json(&self) -> Value {
        let clusters: Vec<&str> = self
            .clusters
            .iter()
            .map(|(cluster, _)| cluster.as_str())
            .collect();
        let detection = self.clusters.iter().flat_map(|(cluster, checks)| {
            checks.iter().map(move |times| {
                json!({
                    "cluster": cluster,
                    "check": times.check,
                    "stop_s": number(times.stop),
                    "hang_s": times.hang.map(number),
                    "back_s": number(times.back),
                    "idle_stop_s": number(times.idle_stop),
                })
            })
        });
        let detection: Vec<Value> = detection.collect();
        json!({
            "path": self.path,
            "build": self.build.as_str(),
            "listener": self.listener,
            "clusters": clusters,
            "detection": detection,
        })
    }
}

fn times_of(times: &Detection) -> String {
    let hang = |hang: Option<f64>| match hang {
        Some(hang) => format!("within {}", seconds(hang)),
        None => "never".to_owned(),
    };
    let mut text = format!(
        "{} check each {}; a stop is found within {}, a hang {}",
        times.check,
        seconds(times.interval),
        seconds(times.stop),
        hang(times.hang)
    );
    if times.idles() {
        let hang = times.idle_hang.map(|hang| format!(", {}", seconds(hang)));
        let _ = write!(
            text,
            " (before the first call: {}{})",
            seconds(times.idle_stop),
            hang.unwrap_or_default()
        );
    }
    text
}

/// A whole number without a point.
fn number(seconds: f64) -> Value {
    if seconds.fract() == 0.0 && (0.0..1e15).contains(&seconds) {
        return json!(seconds as u64);
    }
    json!(seconds)
}

/// The JSON report of all files; `version` changes only if a field changes its meaning or goes.
pub fn json(reports: &[Report]) -> Value {
    let files: Vec<Value> = reports.iter().map(Report::json).collect();
    let count = |severity| {
        reports
            .iter()
            .map(|report| report.count(severity))
            .sum::<usize>()
    };
    json!({
        "version": 1,
        "files": files,
        "errors": count(Severity::Error),
        "warnings": count(Severity::Warning),
        "notes": count(Severity::Note),
    })
}

/// A message of a workflow command.
fn escaped(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// A property of a workflow command.
fn property(text: &str) -> String {
    escaped(text).replace(':', "%3A").replace(',', "%2C")
}
