//! What `healthz-doctor` says is seen on a real Envoy: Envoy takes each bad file, the bad file lies to a
//! prober and its good twin does not, and the running Envoy's `/config_dump` gives the same findings.

mod dumps;
mod lies;
mod times;

use std::collections::BTreeSet;
use std::path::PathBuf;

use e2e::envoy::{Envoy, validate};
use e2e::shipped::at_home;
use e2e::{free_port, replaced, root};
use healthz_doctor::{Options, check};

/// A case of `doctor/cases` moved to free ports and this machine's files.
struct Case {
    text: String,
    port: u16,
}

impl Case {
    /// This file, its backend on this port, with these changes.
    fn of(file: &str, backend: u16, changes: &[(&str, &str)]) -> Self {
        let text = std::fs::read_to_string(folder().join(file)).unwrap();
        Self::of_text(&text, backend, changes)
    }

    fn of_text(text: &str, backend: u16, changes: &[(&str, &str)]) -> Self {
        let (port, admin) = (free_port(), free_port());
        let mut text = at_home(text.to_owned());
        for (from, to) in changes {
            text = replaced(&text, from, to);
        }
        let allowed = "  allow_paths:\n";
        for (from, to) in [
            (
                allowed,
                &*format!("{allowed}  - {{prefix: /config_dump}}\n"),
            ),
            ("0.0.0.0", "127.0.0.1"),
            ("port_value: 8080", &format!("port_value: {port}")),
            ("port_value: 9000", &format!("port_value: {backend}")),
            ("port_value: 9901", &format!("port_value: {admin}")),
        ] {
            text = text.replace(from, to);
        }
        Self { text, port }
    }

    async fn start(&self) -> Envoy {
        Envoy::start(&self.text, &[]).await
    }

    /// What the doctor finds in the file; that everything is on loopback here is ours.
    fn findings(&self) -> BTreeSet<(String, String)> {
        findings(&self.text)
    }
}

fn folder() -> PathBuf {
    root().join("doctor/cases")
}

/// What the doctor finds: the rules and what is there, without lines.
fn findings(text: &str) -> BTreeSet<(String, String)> {
    let report = check("envoy.yaml", text.as_bytes(), &Options::default()).unwrap();
    let found = report.findings.into_iter();
    let found = found.filter(|found| found.id != "HZ216");
    found
        .map(|found| (found.id.to_owned(), found.what))
        .collect()
}

/// The findings of the `/config_dump` of an Envoy that runs.
async fn findings_of_dump(envoy: &Envoy) -> BTreeSet<(String, String)> {
    let dump = envoy.admin.get("/config_dump?include_eds").await;
    assert_eq!(dump.status, 200, "{}", dump.body);
    findings(&dump.body)
}

/// Envoy takes each bad file: a rule that it came to refuse itself would have to go.
#[test]
fn envoy_takes_every_bad_file() {
    let mut files = Vec::new();
    for case in std::fs::read_dir(folder()).unwrap() {
        for file in std::fs::read_dir(case.unwrap().path()).unwrap() {
            files.push(file.unwrap().path());
        }
    }
    files.retain(|file| {
        let name = file.file_name().unwrap().to_str();
        name.unwrap().starts_with("bad")
    });
    assert!(files.len() > 40);
    let faults: Vec<String> = std::thread::scope(|scope| {
        let halves = files.chunks(files.len().div_ceil(2));
        let halves: Vec<_> = halves.map(|files| scope.spawn(|| refused(files))).collect();
        let faults = halves.into_iter().flat_map(|half| half.join().unwrap());
        faults.collect()
    });
    assert!(faults.is_empty(), "Envoy refuses\n{}", faults.join("\n"));
}

fn refused(files: &[PathBuf]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        let (good, log) = validate(&at_home(text));
        if !good {
            faults.push(format!("{}: {log}", file.display()));
        }
    }
    faults
}
