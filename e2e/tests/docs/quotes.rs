//! What the pages quote is in the file or the code that it is quoted from.

use std::fs;
use std::path::Path;

use e2e::{between, read, root};
use regex::Regex;

use crate::documents;

/// Lines without what all of them are indented by.
fn dedent(lines: &[&str]) -> Vec<String> {
    let lines = lines.iter().map(|line| line.trim_end());
    let indent = |line: &str| line.len() - line.trim_start().len();
    let least = lines.clone().map(indent).min().unwrap_or(0);
    lines.map(|line| line[least..].to_owned()).collect()
}

/// A block whose first line is `# envoy/FILE` is in that file, at any depth.
#[test]
fn quoted_configurations_are_in_their_files() {
    let block = Regex::new(r"(?ms)^```yaml\n# (envoy/\S+)\n(.*?)^```$").unwrap();
    let mut quoted = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for found in block.captures_iter(&text) {
            let file = read(&found[1]);
            let file: Vec<_> = file.lines().collect();
            let wanted = dedent(&found[2].lines().collect::<Vec<_>>());
            let mut places = file.windows(wanted.len());
            assert!(
                places.any(|lines| dedent(lines) == wanted),
                "{}: {} does not have\n{}",
                document.display(),
                &found[1],
                &found[2]
            );
            quoted += 1;
        }
    }
    assert!(quoted > 0);
}

/// All Rust sources of what runs in Envoy, as one text whose string literals are as they are written.
fn sources() -> String {
    fn add(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                *text += &fs::read_to_string(&path).unwrap();
            }
        }
    }
    let mut text = String::new();
    for folder in ["src", "core/src", "dynamic-module/src"] {
        add(&root().join(folder), &mut text);
    }
    // A literal that goes on in the next line, and quotes within one.
    let next_line = Regex::new(r"\\\n\s*").unwrap();
    next_line.replace_all(&text, "").replace("\\\"", "\"")
}

/// The first column of the tables of `docs/troubleshooting.md` under these headings quotes log lines and refusals;
/// `…` stands for what differs. Each piece of them is in the code.
#[test]
fn quoted_lines_are_in_the_code() {
    const OTHERS: [&str; 6] = [
        // Envoy's own, and examples of hosts.
        "Failed to load dynamic module",
        "no such field: 'metrics_namespace'",
        "no such field: 'allow_paths'",
        "ABI version v0.2.0 is deprecated",
        "… 0/1 healthy: 127.0.0.1:9000 failed_active_hc",
        "… 1/1 healthy, 2 needed",
    ];
    // serde's.
    const SERDE: [&str; 3] = ["unknown field `", "`, expected one of ", "missing field"];
    let page = read("docs/troubleshooting.md");
    let (_, page) = page.split_once("\n## Log lines: an endpoint\n").unwrap();
    let span = Regex::new(r"``(.+?)``|`([^`]+)`").unwrap();
    let code = sources();
    let mut missing = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cell = row[2..].split(" | ").next().unwrap();
        for found in span.captures_iter(cell) {
            let line = found.get(1).or(found.get(2)).unwrap().as_str();
            if OTHERS.contains(&line) {
                continue;
            }
            for piece in line.split('…') {
                if !SERDE.contains(&piece) && !code.contains(piece) {
                    missing.push(piece.to_owned());
                }
            }
        }
    }
    assert!(missing.is_empty(), "not in the code: {missing:#?}");
}

/// The table of fields has the bounds and defaults of the JSON Schema.
#[test]
fn the_fields_are_those_of_the_schema() {
    let schema = read("envoy/config.schema.json");
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let page = read("docs/configuration.md");
    let fields = schema["properties"].as_object().unwrap();
    for (name, field) in fields {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` |")))
            .unwrap_or_else(|| panic!("no row for {name}"));
        let cells: Vec<_> = row.split(" | ").collect();
        if let Some(default) = field.get("default") {
            let default = default.to_string();
            assert_eq!(cells[2].trim_matches('`'), default, "{name}");
        }
        if let (Some(least), Some(most)) = (field.get("minimum"), field.get("maximum")) {
            // refresh_interval_ms is bounded by another field.
            let whole = format!("{least}..={most}");
            let other = format!("{least}..=`max_age_ms`");
            assert!(
                [whole, other].iter().any(|bounds| cells[1] == bounds),
                "{row}"
            );
        }
    }
}

/// `docs/operations.md` has all alerts: their names, how long they wait, and what they ask.
#[test]
fn the_alerts_are_those_of_the_rules() {
    let rules = read("envoy/monitoring/rules.yaml");
    let rules = healthz_doctor::tree::parse(rules.as_bytes()).unwrap();
    let mut alerts = String::new();
    for rule in rules.list("groups").flat_map(|group| group.list("rules")) {
        let [name, wait, asked] = ["alert", "for", "expr"].map(|field| rule.str(field).unwrap());
        alerts += &format!("# {name}, for {wait}\n{}\n", asked.trim_end());
    }
    let page = read("docs/operations.md");
    assert_eq!(between(&page, "```promql\n", "```"), alerts);
}
