//! The documents.
//!
//! - [`names`]: links, files, targets of the Makefile
//! - [`commands`], [`programs`], [`curl`]: commands
//! - [`numbers`], from [`limits`], [`costs`] (by [`sources`]), [`measured`]: numbers
//! - [`quotes`]: quoted configurations, alerts, log lines, fields
//!
//! Here: all pages are found from README, and none has grown too long.

mod commands;
mod costs;
mod curl;
mod limits;
mod measured;
mod names;
mod numbers;
mod programs;
mod quotes;
mod sources;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use e2e::root;
use regex::Regex;

/// README.md and all others of the root, and those of `docs/` and `docs/dev/`.
fn documents() -> Vec<PathBuf> {
    let mut documents = Vec::new();
    for folder in ["", "docs", "docs/dev", ".github"] {
        let folder = root().join(folder);
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    documents.sort();
    documents
}

/// A document's prose, and its code: blocks, and what stands in backticks.
fn split(text: &str) -> (String, Vec<String>, Vec<String>) {
    let block = Regex::new(r"(?ms)^```\w*\n(.*?)^```$").unwrap();
    let span = Regex::new(r"`([^`]+)`").unwrap();
    let codes = |regex: &Regex, text: &str| {
        let found = regex.captures_iter(text);
        found.map(|found| found[1].to_owned()).collect()
    };
    let prose = block.replace_all(text, "").into_owned();
    (prose.clone(), codes(&block, text), codes(&span, &prose))
}

/// README is read by everybody: what not everybody needs is in `docs/`. Nobody reads a book, either: not
/// counted are the doctor's rules, which are generated, README in Japanese, mdBook's list of pages, and what is
/// for contributors.
#[test]
fn pages_are_short() {
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    let readme = size(&root().join("README.md"));
    assert!(readme <= 6 * 1024, "README.md has {readme} bytes");
    let pages = documents();
    let pages = pages.iter().filter(|page| {
        page.parent().unwrap().ends_with("docs")
            && !["doctor.md", "README.ja.md", "SUMMARY.md"]
                .iter()
                .any(|name| page.ends_with(name))
    });
    let all: u64 = pages.map(|page| size(page)).sum();
    assert!(all <= 60 * 1024, "docs/*.md have {all} bytes");
}

/// Where a document's links lead, without anchors.
fn links(document: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(document).unwrap();
    let link = Regex::new(r"\]\(([^)\s#]+)").unwrap();
    let targets = link.captures_iter(&text);
    targets
        .filter_map(|found| document.with_file_name(&found[1]).canonicalize().ok())
        .collect()
}

#[test]
fn every_page_is_found_from_readme() {
    let pages: BTreeSet<PathBuf> = documents()
        .iter()
        .map(|page| page.canonicalize().unwrap())
        .filter(|page| !page.ends_with("SUMMARY.md") && !page.ends_with("pull_request_template.md"))
        .collect();
    let mut found = BTreeSet::from([root().join("README.md").canonicalize().unwrap()]);
    let mut next: Vec<PathBuf> = found.iter().cloned().collect();
    while let Some(page) = next.pop() {
        for link in links(&page) {
            if pages.contains(&link) && found.insert(link.clone()) {
                next.push(link);
            }
        }
    }
    let lost: Vec<_> = pages.difference(&found).collect();
    assert!(lost.is_empty(), "no link leads to {lost:?}");
}
