//! The command: arguments, exit status, formats, and texts that are made to hurt.

// As in any test, a fault is a panic.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs it in `cases/`, with this on its standard input.
fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_healthz-doctor"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("cases"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // It may have ended before it has read all.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn exits(arguments: &[&str], status: i32) -> Output {
    let output = run(arguments, b"");
    assert_eq!(
        output.status.code(),
        Some(status),
        "{arguments:?}: {output:?}"
    );
    output
}

const ERROR: &str = "HZ101/bad.yaml";
const WARNING: &str = "HZ102/bad.yaml";
const NOTE: &str = "HZ502/bad.yaml";
const GOOD: &str = "HZ101/good.yaml";

#[test]
fn the_exit_status_says_how_bad_it_is() {
    for (level, error, warning, note) in [
        ("error", 1, 0, 0),
        ("warning", 1, 1, 0),
        ("note", 1, 1, 1),
        ("never", 0, 0, 0),
    ] {
        for (file, status) in [(ERROR, error), (WARNING, warning), (NOTE, note), (GOOD, 0)] {
            exits(&["--fail-on", level, file], status);
        }
    }
    exits(&[ERROR], 1);
    exits(&[WARNING], 0);
    exits(&[GOOD, ERROR], 1);
    exits(&[ERROR, "nowhere.yaml"], 2);
    exits(&["nowhere.yaml", ERROR], 2);
    exits(&["--fail-on", "never", "nowhere.yaml"], 2);
    exits(&["--ignore", "HZ101", ERROR], 0);
    exits(
        &[
            "--ignore",
            "hz101,HZ102",
            "--fail-on",
            "note",
            ERROR,
            WARNING,
        ],
        0,
    );
}

#[test]
fn wrong_arguments_are_2_and_a_line() {
    for arguments in [
        &[][..],
        &["--fail-on", "bad", GOOD],
        &["--format", "xml", GOOD],
        &["--prober", "nobody", GOOD],
        &["--ignore", "HZ999", GOOD],
        &["--explain", "HZ999"],
        &["--max-detection", "soon", GOOD],
        &["--unknown", GOOD],
    ] {
        let output = exits(arguments, 2);
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["--explain", "HZ101"],
        &["--explain", "all"],
    ] {
        exits(arguments, 0);
    }
}

#[test]
fn what_cannot_be_checked_is_2_and_one_line() {
    let aliases: String = (1..40)
        .map(|n| format!("a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1))
        .collect();
    // Each level refers to the one below often enough for 2^39 values, in a list that would be walked.
    let bomb = format!("a0: &a0 [x]\n{aliases}admin: *a39\n");
    let refused = |json: &str| {
        let text = std::fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("cases")
                .join(GOOD),
        )
        .unwrap();
        text.replace("\"clusters\": [\"my_service\"]", json)
            .into_bytes()
    };
    for (what, input) in [
        ("is empty", Vec::new()),
        ("is no text", b"\x00\xff\xfe".to_vec()),
        ("is no YAML", b"\x00\x01\x02".to_vec()),
        ("is no YAML", b"a: [".to_vec()),
        ("is no Envoy configuration", b"just a text".to_vec()),
        ("is no Envoy configuration", b"[1, 2]".to_vec()),
        (
            "is no Envoy configuration",
            b"apiVersion: v1\nkind: Pod\n".to_vec(),
        ),
        ("without its bootstrap", b"{\"configs\": []}".to_vec()),
        (
            "no health endpoint",
            b"static_resources: {listeners: [], clusters: []}".to_vec(),
        ),
        ("more than 3000000 values", bomb.into_bytes()),
        ("nested deeper", "- ".repeat(1_000_000).into_bytes()),
        ("is no YAML", "{\"a\":".repeat(1_000_000).into_bytes()),
        ("longer than", vec![b'x'; 50_000_000]),
        ("longer than", vec![b'\n'; 50_000_000]),
        (
            "more than 3000000 values",
            format!("admin: [{}]", "1,".repeat(10_000_000)).into_bytes(),
        ),
        ("unknown field `cluster`", refused("\"cluster\": []")),
        (
            "endpoints[0].clusters[0]: must name a cluster",
            refused("\"clusters\": [\"\"]"),
        ),
    ] {
        let output = run(&["-"], &input);
        let error = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(2), "{what}: {error}");
        assert!(error.contains(what), "{error:?} does not say {what:?}");
        assert_eq!(error.lines().count(), 1, "{error:?}");
        assert!(output.stdout.is_empty(), "{what}");
    }
}

#[test]
fn text_is_as_documented() {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/doctor.md"))
            .unwrap();
    let said = stdout(&exits(&["HZ204/bad.yaml"], 1)).replace("HZ204/bad.yaml", "envoy.yaml");
    assert!(page.contains(&said), "docs/doctor.md does not show\n{said}");
}

#[test]
fn json_has_the_fields_of_the_contract() {
    let output = exits(&["--format", "json", "HZ102/bad.yaml", GOOD], 0);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["version"], 1);
    assert_eq!(
        (&report["errors"], &report["warnings"], &report["notes"]),
        (&0.into(), &1.into(), &0.into())
    );
    let file = &report["files"][0];
    assert_eq!(file["file"], "HZ102/bad.yaml");
    let finding = &file["findings"][0];
    for (field, value) in [
        ("id", "HZ102"),
        ("severity", "warning"),
        ("at", "static_resources.clusters[0].health_checks[0]"),
        ("set", "no_traffic_interval: 1s"),
        ("url", "docs/doctor.md#hz102"),
    ] {
        assert_eq!(finding[field], value, "{field}");
    }
    assert_eq!(
        (&finding["line"], &finding["column"]),
        (&63.into(), &8.into())
    );
    let endpoint = &file["endpoints"][0];
    assert_eq!(endpoint["path"], "/healthz");
    assert_eq!(endpoint["build"], "wasm");
    assert_eq!(endpoint["listener"], "grpc");
    assert_eq!(endpoint["clusters"][0], "my_service");
    let times = &endpoint["detection"][0];
    assert_eq!(
        (&times["stop_s"], &times["hang_s"], &times["idle_stop_s"]),
        (&2.into(), &4.into(), &120.into())
    );
    assert_eq!(report["files"][1]["findings"], serde_json::json!([]));
}

#[test]
fn annotations_of_github_are_one_line_each() {
    let text = stdout(&exits(&["--format", "github", "HZ204/bad.yaml", NOTE], 1));
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("::error file=HZ204/bad.yaml,line=26,title=HZ204::/healthz: "),
        "{text}"
    );
    assert!(
        lines[0].ends_with(
            "%0Athen: 401 for ever%0Aset: move it between \"envoy-healthz\" and the router in http_filters"
        )
    );
    assert!(
        lines[1].starts_with("::notice file=HZ502/bad.yaml,"),
        "{text}"
    );
    assert_eq!(lines.len(), 2);
}

#[test]
fn the_file_itself_may_ignore_a_finding() {
    let case =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/HZ107/bad.yaml"))
            .unwrap();
    let check = "    - {timeout: 1s";
    for (comment, status) in [
        ("    # doctor: ignore HZ107 no health service\n", 0),
        ("    # doctor: ignore HZ102,HZ107 no health service\n", 0),
        ("    # doctor: ignore HZ102 another\n", 1),
        ("    # doctor: ignore HZ107 too far away\n\n", 1),
    ] {
        let text = case.replace(check, &format!("{comment}{check}"));
        let output = run(&["--fail-on", "warning", "-"], text.as_bytes());
        assert_eq!(output.status.code(), Some(status), "{comment}");
    }
    let same_line = case.replace(
        "tcp_health_check: {}}",
        "tcp_health_check: {}} # doctor: ignore HZ107 no health service",
    );
    let output = run(&["--fail-on", "warning", "-"], same_line.as_bytes());
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("-: nothing found; 1 endpoint checked"));
}

#[test]
fn the_page_is_made_from_the_rules() {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/doctor.md"))
            .unwrap();
    let made = stdout(&exits(&["--explain", "all"], 0));
    assert!(page == made, "docs/doctor.md is old: run make doctor-page");
}
