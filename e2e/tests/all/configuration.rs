//! Bad configurations: Envoy refuses to start, and one line says why.

use e2e::config::{bootstrap, healthz_text, listener};
use e2e::envoy::validate;
use serde_json::json;

fn check(configuration: &str, line: &str) {
    let listeners = vec![listener(10_000, healthz_text(configuration))];
    let (good, log) = validate(&bootstrap(10_001, listeners, vec![]).to_string());
    assert!(!good, "Envoy takes {configuration}");
    let ours: Vec<_> = log
        .lines()
        .filter(|entry| entry.contains("envoy-healthz: "))
        .collect();
    assert_eq!(ours.len(), 1, "{configuration}: {log}");
    assert!(ours[0].contains(line), "{line:?} is not in {:?}", ours[0]);
}

#[test]
fn a_good_one_is_taken() {
    let configuration = json!({
        "admin_cluster": "local_admin",
        "endpoints": [{"path": "/healthz", "clusters": ["my_service"]}],
    });
    let listeners = vec![listener(10_000, healthz_text(&configuration.to_string()))];
    let (good, log) = validate(&bootstrap(10_001, listeners, vec![]).to_string());
    assert!(good, "{log}");
}

#[test]
fn a_bad_one_is_refused_with_its_line() {
    check("", "envoy-healthz: configuration: is empty; give");
    check("{", "envoy-healthz: configuration: EOF while parsing");
    check(
        r#"{"endpoints": [{"path": "/healthz", "clusters": ["a"]}]}"#,
        "envoy-healthz: configuration: missing field `admin_cluster`",
    );
    check(
        r#"{"admin_cluster": "a", "endpoints": [{"path": "healthz", "clusters": ["a"]}]}"#,
        r#"envoy-healthz: endpoints[0].path: must start with '/', got "healthz""#,
    );
}
