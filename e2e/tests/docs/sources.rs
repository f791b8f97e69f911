//! Where numbers of the pages come from.

use e2e::{read, root};
use regex::Regex;

/// What the group of this pattern matches in a file.
pub fn found(file: &str, pattern: &str) -> String {
    let pattern = Regex::new(pattern).unwrap();
    let text = read(file);
    let found = pattern.captures(&text);
    found.unwrap_or_else(|| panic!("{file} has no {pattern}"))[1].to_owned()
}

/// A variable of the Makefile.
pub fn makefile(name: &str) -> String {
    found("Makefile", &format!(r"(?m)^{name} \??:?= (.*)$"))
}

/// A constant of the code: a number, or a duration in milliseconds.
pub fn constant(file: &str, name: &str) -> u64 {
    let value = found(file, &format!(r"const {name}: \w+ = ([^;]+);"));
    let number = value.replace('_', "");
    let number = Regex::new(r"\d+").unwrap().find(&number).unwrap();
    let number: u64 = number.as_str().parse().unwrap();
    if value.contains("from_secs") {
        number * 1000
    } else {
        number
    }
}

/// What the schema says of a field.
pub fn schema(field: &str, what: &str) -> u64 {
    let schema: serde_json::Value =
        serde_json::from_str(&read("envoy/config.schema.json")).unwrap();
    schema["properties"][field][what].as_u64().unwrap()
}

/// The oldest and the newest Envoy of the Makefile's MATRIX that run the wasm or the module, like `1.36` and `1.40`.
pub fn envoys(module: bool) -> (String, String) {
    let matrix = makefile("MATRIX");
    let is_run = |version: &&str| {
        let skipped =
            read("Makefile").contains(&format!("\nTESTS_OF_{version} := --skip module::"));
        !(module && skipped)
    };
    let mut versions = matrix.split(' ').filter(is_run);
    let minor = |version: &str| version.rsplit_once('.').unwrap().0.to_owned();
    let oldest = minor(versions.next().unwrap());
    (oldest, versions.next_back().map(minor).unwrap())
}

/// The first row of a page's table that begins so: its cells.
pub fn row(page: &str, begins: &str) -> Vec<String> {
    let text = read(page);
    let row = text
        .lines()
        .find(|line| line.starts_with(&format!("| {begins} |")));
    let row = row.unwrap_or_else(|| panic!("{page} has no row {begins}"));
    row.trim_matches(['|', ' '])
        .split(" | ")
        .map(|cell| cell.trim().to_owned())
        .collect()
}

/// The first number of a cell of docs/dev/bench.md.
pub fn bench(begins: &str, cell: usize) -> f64 {
    let row = row("docs/dev/bench.md", begins);
    row[cell].split(' ').next().unwrap().parse().unwrap()
}

/// A claim's median.
pub fn claim(what: &str) -> f64 {
    bench(what, 2)
}

/// The table of probes: of this many connections and this subject, without other clusters.
pub fn probes(connections: u32, subject: &str, cell: usize) -> f64 {
    bench(&format!("0 | {connections} | {subject}"), cell)
}

/// Like `8 of 1166`, of docs/dev/rehearsal.md.
pub fn lost(event: &str, answer: &str) -> String {
    row("docs/dev/rehearsal.md", &format!("{event} | {answer}"))[4].clone()
}

/// Bytes of a file in dist, if it is built.
pub fn built(file: &str) -> Option<u64> {
    let file = std::fs::metadata(root().join("dist").join(file));
    file.ok().map(|file| file.len())
}

/// With a comma before the thousands.
pub fn thousands(number: u64) -> String {
    format!("{},{:03}", number / 1000, number % 1000)
}
