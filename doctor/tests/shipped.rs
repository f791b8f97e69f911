//! Every configuration that we ship, and every whole one in the documents, has no error and no warning.

// As in any test, a fault is a panic.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use healthz_doctor::rules::Severity;
use healthz_doctor::{Options, check};

/// Has no health endpoint: it is the load balancer before those that have.
const WITHOUT: &str = "envoy/balancer.yaml";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files of a folder with this ending, from the root.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> = names
        .filter(|name| name.ends_with(ending))
        .map(|name| Path::new(folder).join(name).to_str().unwrap().to_owned())
        .collect();
    files.sort();
    files
}

/// What is whole: it has listeners and clusters.
fn is_whole(text: &str) -> bool {
    text.lines().any(|line| line == "static_resources:")
}

/// The whole configurations in a document, with the lines before each as comments.
fn blocks(document: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    let text = fs::read_to_string(root().join(document)).unwrap();
    for (index, line) in text.lines().enumerate() {
        match (line, &mut block) {
            ("```yaml", None) => block = Some("#\n".repeat(index + 1)),
            ("```", Some(_)) => blocks.extend(block.take()),
            (line, Some(block)) => {
                block.push_str(line);
                block.push('\n');
            }
            _ => {}
        }
    }
    blocks.retain(|block| is_whole(block));
    blocks
}

#[test]
fn no_error_and_no_warning() {
    let mut configurations: Vec<(String, String)> = Vec::new();
    let folders = ["envoy", "envoy/gke", "envoy/gke/module"];
    for file in folders.map(|folder| files(folder, ".yaml")).concat() {
        let text = fs::read_to_string(root().join(&file)).unwrap();
        configurations.push((file, text));
    }
    configurations.retain(|(file, text)| is_whole(text) && file != WITHOUT);
    assert!(configurations.len() >= 6, "{configurations:?}");
    let documents = [files("", ".md"), files("docs", ".md")].concat();
    let whole = documents.iter().flat_map(|document| {
        blocks(document)
            .into_iter()
            .map(move |block| (document.clone(), block))
    });
    let whole: Vec<_> = whole.collect();
    assert!(whole.iter().any(|(document, _)| document == "README.md"));
    configurations.extend(whole);

    let mut faults = Vec::new();
    for (file, text) in configurations {
        match check(&file, text.as_bytes(), &Options::default()) {
            Err(refusal) => faults.push(format!("{file}: {refusal}")),
            Ok(report) => {
                println!("{}", report.text());
                if report
                    .findings
                    .iter()
                    .any(|found| found.severity >= Severity::Warning)
                {
                    faults.push(report.text());
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
