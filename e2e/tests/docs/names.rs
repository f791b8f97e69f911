//! Each relative link and its anchor lead somewhere, each `make X` is a target of the Makefile, each file that is
//! named in backticks is there.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use e2e::root;
use regex::Regex;

use crate::{documents, split};

/// Endings of files that are named without their folder, like `admin.rs`.
const ENDINGS: [&str; 9] = [
    ".json", ".md", ".proto", ".py", ".rs", ".sh", ".svg", ".toml", ".yaml",
];

/// What a document may name.
pub struct Repository {
    /// Every file and folder, as a path from the root.
    paths: HashSet<PathBuf>,
    /// What is built and not committed: .gitignore.
    built: Vec<PathBuf>,
    targets: HashSet<String>,
}

impl Repository {
    pub fn read() -> Self {
        let read = |file| fs::read_to_string(root().join(file)).unwrap();
        let built = read(".gitignore");
        let built: Vec<PathBuf> = built
            .lines()
            .map(|line| line.trim_start_matches('/').into())
            .collect();
        let mut paths = HashSet::new();
        add_paths(root(), &built, &mut paths);
        let target = Regex::new(r"(?m)^([a-z][a-z0-9-]*):").unwrap();
        let targets = target
            .captures_iter(&read("Makefile"))
            .map(|found| found[1].to_owned())
            .collect();
        Self {
            paths,
            built,
            targets,
        }
    }

    /// Whether this is a file or folder of ours, or is built. A file may be named without its folder.
    pub fn has(&self, path: &str) -> bool {
        let path = Path::new(path.trim_start_matches("./"));
        self.paths.contains(path)
            || self.built.iter().any(|built| path.starts_with(built))
            || path.components().count() == 1
                && self
                    .paths
                    .iter()
                    .any(|known| known.file_name() == path.file_name())
    }

    /// Whether this, from between backticks, is meant as a path of ours.
    pub fn is_meant(&self, code: &str) -> bool {
        let first = code.trim_start_matches("./").split('/').next().unwrap();
        let ours = code.contains('/') && self.paths.contains(Path::new(first));
        ours || ENDINGS.iter().any(|ending| code.ends_with(ending))
    }
}

fn add_paths(folder: &Path, built: &[PathBuf], paths: &mut HashSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        let path = path.strip_prefix(root()).unwrap().to_owned();
        if path == Path::new(".git") || built.contains(&path) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            add_paths(&entry.path(), built, paths);
        }
        paths.insert(path);
    }
}

/// The anchors that GitHub and mdBook give to a document's headings.
fn anchors(text: &str) -> HashSet<String> {
    let link = Regex::new(r"\[([^\]]*)\]\([^)]*\)").unwrap();
    let (prose, ..) = split(text);
    let headings = prose.lines().filter_map(|line| {
        let heading = line.strip_prefix('#')?.trim_start_matches('#');
        heading.strip_prefix(' ')
    });
    headings
        .map(|heading| {
            let heading = link.replace_all(heading, "$1").to_lowercase();
            heading
                .chars()
                .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// What is wrong with a document.
fn faults(repository: &Repository, document: &Path, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let (prose, blocks, spans) = split(text);
    let link = Regex::new(r"\]\(([^)\s]+)\)|(?m)^\[[^\]]+\]:\s*(\S+)").unwrap();
    for found in link.captures_iter(&prose) {
        let target = found.get(1).or(found.get(2)).unwrap().as_str();
        if !target.contains("://") && !leads_somewhere(document, text, target) {
            faults.push(format!("the link {target} leads nowhere"));
        }
    }
    let make = Regex::new(r"(?m)^\s*make ([a-z][a-z0-9-]*)").unwrap();
    for code in blocks.iter().chain(&spans) {
        for found in make.captures_iter(code) {
            if !repository.targets.contains(&found[1]) {
                faults.push(format!("the Makefile has no {}", &found[1]));
            }
        }
    }
    let path = Regex::new(r"^[\w./-]+$").unwrap();
    for code in spans {
        let is_path = path.is_match(&code) && !code.starts_with('/');
        if is_path && repository.is_meant(&code) && !repository.has(&code) {
            faults.push(format!("there is no {code}"));
        }
    }
    faults
}

fn leads_somewhere(document: &Path, text: &str, target: &str) -> bool {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    if file.starts_with('/') {
        return false;
    }
    if file.is_empty() {
        return anchors(text).contains(anchor);
    }
    let file = document.with_file_name(file);
    file.exists()
        && (anchor.is_empty()
            || fs::read_to_string(file).is_ok_and(|text| anchors(&text).contains(anchor)))
}

#[test]
fn documents_name_what_is_there() {
    let repository = Repository::read();
    let faults: Vec<_> = documents()
        .iter()
        .flat_map(|document| {
            let text = fs::read_to_string(document).unwrap();
            let name = document.strip_prefix(root()).unwrap().display();
            faults(&repository, document, &text)
                .iter()
                .map(|fault| format!("{name}: {fault}"))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Each row: a text, and the fault that must be found in it, if any.
#[test]
fn each_kind_of_fault_is_found() {
    let nowhere = |link: &str| format!("the link {link} leads nowhere");
    let none = String::new;
    let rows = [
        ("[x](README.md) [y](docs/module.md#draining)", none()),
        ("## Which `max_age_ms`?\n[x](#which-max_age_ms)", none()),
        ("[x](https://example.com/no-such-page)", none()),
        ("[x](no-such.md)", nowhere("no-such.md")),
        ("[x](/README.md)", nowhere("/README.md")),
        ("![x](docs/no.svg)", nowhere("docs/no.svg")),
        ("[x](#no-such)", nowhere("#no-such")),
        ("```sh\n# no-such\n```\n[x](#no-such)", nowhere("#no-such")),
        ("[x](docs/module.md#no)", nowhere("docs/module.md#no")),
        ("[x]\n\n[x]: no-such.md\n", nowhere("no-such.md")),
        ("`make test`, `make bench BENCH=--quick`", none()),
        ("`make no-such`", "the Makefile has no no-such".to_owned()),
        (
            "```sh\nmake no-such # y\n```",
            "the Makefile has no no-such".to_owned(),
        ),
        ("`e2e/tests/all/` `admin.rs` `dist/x.wasm`", none()),
        ("`./wasm-build.sh` `/healthz` `application/grpc`", none()),
        ("`10.0.0.7:9000` `grpc.health.v1`", none()),
        ("`e2e/no-such`", "there is no e2e/no-such".to_owned()),
        ("`no_such.rs`", "there is no no_such.rs".to_owned()),
        (
            "`nowhere/admin.rs`",
            "there is no nowhere/admin.rs".to_owned(),
        ),
    ];
    let repository = Repository::read();
    let document = root().join("README.md");
    for (text, fault) in rows {
        let found = faults(&repository, &document, text).join("\n");
        assert_eq!(found, fault, "{text}");
    }
}
