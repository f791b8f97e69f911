//! Bad configurations: Envoy refuses to start, and one line says why.

use e2e::config::{bootstrap, healthz_text, listener};
use e2e::envoy::validate;
use serde_json::{Value, json};

fn check(configuration: &str, line: &str) {
    let listeners = vec![listener(10_000, healthz_text(configuration))];
    let (good, log) = validate(&bootstrap(10_001, listeners, vec![]).to_string());
    assert!(!good, "Envoy takes {configuration}");
    let ours: Vec<_> = log
        .lines()
        .filter(|entry| entry.contains("envoy-healthz"))
        .filter(|entry| !entry.contains("envoy_healthz.wasm"))
        .collect();
    assert_eq!(ours.len(), 1, "{configuration}: {log}");
    assert!(ours[0].contains(line), "{line:?} is not in {:?}", ours[0]);
    assert!(!log.contains(FORGED), "{configuration}: {log}");
}

/// What a name would add to the log if its line feed got there.
const FORGED: &str = "\n[warning] forged";

/// The smallest configuration.
fn smallest() -> Value {
    json!({
        "admin_cluster": "local_admin",
        "endpoints": [{"path": "/healthz", "clusters": ["my_service"]}],
    })
}

#[test]
fn a_good_one_is_taken() {
    let mut named = smallest();
    named["name"] = json!("Edge_1-b");
    let mut odd = smallest();
    odd["endpoints"][0]["clusters"] = json!(["a::b [c] \"d\" \u{e9}"]);
    let mut liveness = smallest();
    liveness["endpoints"][0]["clusters"] = json!([]);
    for configuration in [smallest(), named, odd, liveness] {
        let filter = healthz_text(&configuration.to_string());
        let listeners = vec![listener(10_000, filter)];
        let (good, log) = validate(&bootstrap(10_001, listeners, vec![]).to_string());
        assert!(good, "{configuration}: {log}");
    }
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
    let mut module_only = smallest();
    module_only["grpc_health"] = json!({"services": {"": "/healthz"}});
    check(
        &module_only.to_string(),
        "envoy-healthz: grpc_health: is not for the wasm build",
    );
}

/// A name with a control character could forge a line of the log, of `?verbose` or of a metric.
#[test]
fn a_control_character_in_a_name_is_refused() {
    let with = |field: &str, value: Value| {
        let mut configuration = smallest();
        configuration["name"] = json!("x");
        *configuration.pointer_mut(field).expect("a field") = value;
        configuration.to_string()
    };
    let cluster = "/endpoints/0/clusters/0";
    let cluster_line = "envoy-healthz: endpoints[0].clusters[0]: must not contain a control";
    for char in ['\r', '\t', '\u{0}', '\u{1b}', '\u{7f}', '\u{85}'] {
        let name = format!("a{char}b");
        let line = format!("{cluster_line} character, got {name:?}");
        check(&with(cluster, json!(name)), &line);
    }
    let name = format!("a{FORGED}");
    for (field, value, line) in [
        (cluster, json!(name), cluster_line),
        (
            cluster,
            json!({"name": name, "min_healthy": 2}),
            cluster_line,
        ),
        (
            "/admin_cluster",
            json!(name),
            "envoy-healthz: admin_cluster: must not contain a control character, got",
        ),
        (
            "/name",
            json!(name),
            "envoy-healthz: name: invalid value: string",
        ),
        (
            "/endpoints/0/path",
            json!(format!("/{name}")),
            "envoy-healthz: endpoints[0].path: must not contain '\\n', got",
        ),
    ] {
        check(&with(field, value), line);
    }
    let mut unknown = smallest();
    unknown[name] = json!(1);
    check(
        &unknown.to_string(),
        "envoy-healthz: a\\n[warning] forged: unknown field",
    );
}
