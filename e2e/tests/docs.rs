//! The documents: each relative link and its anchor lead somewhere, each `make X` is a target of the
//! Makefile, each file that is named in backticks is there, what is quoted is in the file or the code that it is
//! quoted from, all pages are found from README, and none has grown too long. `make lint` runs this.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use e2e::root;
use regex::Regex;

/// Endings of files that are named without their folder, like `admin.rs`.
const ENDINGS: [&str; 9] = [
    ".json", ".md", ".proto", ".py", ".rs", ".sh", ".svg", ".toml", ".yaml",
];

/// What a document may name.
struct Repository {
    /// Every file and folder, as a path from the root.
    paths: HashSet<PathBuf>,
    /// What is built and not committed: .gitignore.
    built: Vec<PathBuf>,
    targets: HashSet<String>,
}

impl Repository {
    fn read() -> Self {
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
    fn has(&self, path: &str) -> bool {
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
    fn is_meant(&self, code: &str) -> bool {
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
            let file = fs::read_to_string(root().join(&found[1])).unwrap();
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
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
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
    let schema = fs::read_to_string(root().join("envoy/config.schema.json")).unwrap();
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let page = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
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
