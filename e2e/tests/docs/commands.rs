//! Each command of the pages, in a block or in backticks: its own program takes it, with the network and the servers
//! out of reach, or it is in [`NOT_RUN`].
//!
//! They run in a folder as a reader has it: the repository's files that they name, `envoy.yaml` from README, a
//! certificate.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use e2e::{certificate, root};
use regex::Regex;
use tempfile::TempDir;

use crate::curl;
use crate::documents;
use crate::names::Repository;
use crate::programs::check;

/// Programs that cannot be had here (neither from Debian nor PyPI nor crates.io), and what is known of their lines.
/// The files that they name are looked up all the same.
pub const NOT_RUN: [(&str, &str); 5] = [
    ("cosign", "security.md says so; workflows/release.yml signs"),
    ("git", "it gets a tag, and there is none yet"),
    (
        "grpcurl",
        "the demo's backend has reflection: gRPC clients of e2e call it",
    ),
    ("helm", "run by others: facts.md, 11"),
    (
        "kind",
        "its node image cannot be pulled here: docs/dev/kubernetes.md says what was run",
    ),
];

/// Not to be missed in backticks.
const PROGRAMS: [&str; 16] = [
    "cargo",
    "curl",
    "docker",
    "docker-compose",
    "envoy",
    "gcloud",
    "healthz-doctor",
    "istioctl",
    "kubectl",
    "make",
    "mdbook",
    "openssl",
    "promtool",
    "rustup",
    "sha256sum",
    "wasm-build.sh",
];

/// Words that readers replace.
const PLACEHOLDERS: [(&str, &str); 4] = [
    ("REGISTRY", "registry.example"),
    ("$RELEASE", "http://release.example"),
    ("localhost:PORT", "localhost:8080"),
    ("ADDRESS", "localhost"),
];

/// A command line's words, for each of its commands: they are separated by `|`, `&&` and `;`. A comment ends it.
fn split_line(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars().chain([' ']) {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (' ' | '|' | '&' | ';', None) => {
                commands.last_mut().unwrap().extend(word.take());
                if c != ' ' {
                    commands.push(Vec::new());
                }
            }
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    for words in &mut commands {
        let is_before = |word: &String| {
            ["while", "do", "done"].contains(&&**word) || word.starts_with("ENVOY=")
        };
        let first = words
            .iter()
            .position(|word| !is_before(word))
            .unwrap_or(words.len());
        words.drain(..first);
    }
    commands.retain(|words| !words.is_empty());
    commands
}

/// All commands of a page. Of a block that is not `sh`, and of what is in backticks, those of programs that we know.
fn commands(text: &str) -> Vec<Vec<String>> {
    let block = Regex::new(r"(?ms)^```(\w*)\n(.*?)^```$").unwrap();
    let span = Regex::new(r"`([^`]+)`").unwrap();
    let is_known = |words: &Vec<String>| {
        let program = words[0].trim_start_matches("./");
        let known = PROGRAMS.contains(&program) || NOT_RUN.iter().any(|(name, _)| *name == program);
        known && (words.len() > 1 || words[0].starts_with("./"))
    };
    let mut found = Vec::new();
    for block in block.captures_iter(text) {
        for line in block[2].replace("\\\n", "").lines() {
            let mut line = split_line(line.trim_start().trim_start_matches("$ "));
            if &block[1] != "sh" {
                line.retain(is_known);
            }
            found.extend(line);
        }
    }
    for span in span.captures_iter(&block.replace_all(text, "")) {
        found.extend(split_line(&span[1]).into_iter().filter(is_known));
    }
    found
}

/// What a reader has.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let copy = "cp -r docker-compose.yml Dockerfile envoy envoy/mesh/*.yaml envoy/tls/tls.* \"$0\" && cd \"$0\" && \
        mkdir -p dist/release envoy/gke/generated && touch envoy/gke/generated/envoy_healthz.wasm && \
        cp tls.* envoy/gke/generated/";
    certificate();
    let copied = Command::new("sh")
        .args(["-ec", copy])
        .arg(folder.path())
        .current_dir(root())
        .status();
    assert!(copied.unwrap().success());
    let wasm = e2e::wasm();
    let readme = curl::in_readme().replace("/etc/envoy/envoy_healthz.wasm", wasm.to_str().unwrap());
    fs::write(folder.path().join("envoy.yaml"), readme).unwrap();
    for sums in ["SHA256SUMS", "dist/release/SHA256SUMS"] {
        let sum = Command::new("sha256sum")
            .arg("envoy.yaml")
            .current_dir(&folder)
            .output()
            .unwrap();
        fs::write(folder.path().join(sums), sum.stdout).unwrap();
    }
    folder
}

#[test]
fn each_command_is_taken_by_its_program() {
    let folder = folder();
    let repository = Repository::read();
    let mut faults = Vec::new();
    let mut programs = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for document in documents() {
        let page = document.strip_prefix(root()).unwrap().to_str().unwrap();
        // What has been is not run again.
        if page == "docs/dev/changelog.md" {
            continue;
        }
        for words in commands(&fs::read_to_string(&document).unwrap()) {
            programs.insert(words[0].clone());
            let line = words.join(" ");
            let replace = |text: String, (from, to): &(&str, &str)| text.replace(from, to);
            let words = words
                .into_iter()
                .map(|word| PLACEHOLDERS.iter().fold(word, replace));
            let words: Vec<String> = words.collect();
            let words: Vec<&str> = words.iter().map(|word| &**word).collect();
            let paths = words
                .iter()
                .filter(|word| repository.is_meant(word) && !word.ends_with(".sigstore.json"));
            let lost =
                paths.filter(|path| !repository.has(path) && !folder.path().join(path).exists());
            faults.extend(lost.map(|path| format!("{page}: {line}: there is no {path}")));
            // Of `curl` the page matters.
            if words[0] != "curl" && !taken.insert(line.clone()) {
                continue;
            }
            if let Err(why) = check(folder.path(), page, &words) {
                faults.push(format!("{page}: {line}: {why}"));
            }
        }
    }
    for (program, _) in NOT_RUN {
        if !programs.contains(program) {
            faults.push(format!(
                "no page has a line of {program}: take it out of NOT_RUN"
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(programs.len() > 15, "{programs:?}");
}
