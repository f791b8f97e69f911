//! Bad configurations: Envoy refuses to start, and one line says why.

use e2e::Build;
use e2e::config::{Config, FORGED, listener, refused};
use serde_json::{Value, json};

both_builds! {
    a_good_one_is_taken,
    a_bad_one_is_refused_with_its_line,
    a_control_character_in_a_name_is_refused,
    a_path_that_envoy_refuses_is_refused,
    an_unknown_field_is_answered_with_those_that_the_build_has,
}

/// The smallest configuration.
fn smallest() -> Value {
    json!({
        "admin_cluster": "local_admin",
        "endpoints": [{"path": "/healthz", "clusters": ["my_service"]}],
    })
}

async fn a_good_one_is_taken(build: Build) {
    let mut named = smallest();
    named["name"] = json!("Edge_1-b");
    let mut odd = smallest();
    odd["endpoints"][0]["clusters"] = json!(["a::b [c] \"d\" \u{e9}"]);
    let mut liveness = smallest();
    liveness["endpoints"][0]["clusters"] = json!([]);
    let listener = |(port, configuration)| listener(port, [build.filter(&configuration)]);
    let listeners = (10_000..)
        .zip([smallest(), named, odd, liveness])
        .map(listener);
    let (good, log) = Config::new().listeners(listeners).validate();
    assert!(good, "{log}");
}

async fn a_bad_one_is_refused_with_its_line(build: Build) {
    let empty = match build {
        Build::Wasm => "is empty; give a google.protobuf.StringValue",
        Build::Module => "is empty; give {\"endpoints\"",
    };
    for (text, line) in [("", empty), ("{", "EOF while parsing")] {
        let line = format!("envoy-healthz: configuration: {line}");
        refused(build.filter_text(text), &line);
    }
    let mut no_slash = smallest();
    no_slash["endpoints"][0]["path"] = json!("healthz");
    let line = r#"envoy-healthz: endpoints[0].path: must start with '/', got "healthz""#;
    refused(build.filter(&no_slash), line);
}

#[test]
fn what_the_wasm_build_alone_refuses() {
    let build = Build::Wasm;
    let mut no_admin = smallest();
    no_admin.as_object_mut().unwrap().remove("admin_cluster");
    let line = "envoy-healthz: configuration: missing field `admin_cluster`";
    refused(build.filter_text(&no_admin.to_string()), line);
    let mut module_only = smallest();
    module_only["grpc_health"] = json!({"services": {"": "/healthz"}});
    let line = "envoy-healthz: grpc_health: needs the native module";
    refused(build.filter(&module_only), line);
}

/// Envoy hands a wasm filter a Struct as binary protobuf.
#[test]
fn a_struct_for_the_wasm_build_is_refused_by_words_that_name_a_string_value() {
    let mut filter = Build::Wasm.filter(&smallest());
    filter["typed_config"]["config"]["configuration"] = json!({
        "@type": "type.googleapis.com/google.protobuf.Struct",
        "value": smallest(),
    });
    let line =
        "envoy-healthz: configuration: is not JSON; give a google.protobuf.StringValue of JSON";
    refused(filter, line);
}

/// Envoy answers a request for such a path itself, with a 400.
async fn a_path_that_envoy_refuses_is_refused(build: Build) {
    let mut configuration = smallest();
    configuration["endpoints"][0]["path"] = json!("/\u{e9}");
    let line = "envoy-healthz: endpoints[0].path: must not contain '\u{e9}', got \"/\u{e9}\"";
    refused(build.filter(&configuration), line);
}

/// Of fields that only the other build has nothing is offered.
async fn an_unknown_field_is_answered_with_those_that_the_build_has(build: Build) {
    let mut configuration = smallest();
    configuration["max_age"] = json!(250);
    let offered = match build {
        Build::Wasm => {
            "`name`, `admin_cluster`, `admin_timeout_ms`, `max_stale_ms`, `max_age_ms`, \
             `refresh_interval_ms`, `fail_when_draining`, `endpoints`"
        }
        Build::Module => "`name`, `endpoints`, `grpc_health`",
    };
    let line =
        format!("envoy-healthz: max_age: unknown field `max_age`, expected one of {offered}");
    refused(build.filter(&configuration), &line);
}

/// A name with a control character could forge a line of the log, of `?verbose` or of a metric.
async fn a_control_character_in_a_name_is_refused(build: Build) {
    let with = |field: &str, value: Value| {
        let mut configuration = smallest();
        configuration["name"] = json!("x");
        *configuration.pointer_mut(field).expect("a field") = value;
        build.filter(&configuration)
    };
    let cluster = "/endpoints/0/clusters/0";
    let cluster_line = "envoy-healthz: endpoints[0].clusters[0]: must not contain a control";
    let line = format!("{cluster_line} character, got \"a\\u{{85}}b\"");
    refused(with(cluster, json!("a\u{85}b")), &line);
    let name = format!("a{FORGED}");
    let rule = json!({"name": name, "min_healthy": 2});
    let (path, with_slash) = ("/endpoints/0/path", format!("/{name}"));
    let path_line = "envoy-healthz: endpoints[0].path: must not contain '\\n', got";
    let name_line = "envoy-healthz: name: invalid value: string";
    for (field, value, line) in [
        (cluster, json!(name), cluster_line),
        (cluster, rule, cluster_line),
        ("/name", json!(name), name_line),
        (path, json!(with_slash), path_line),
    ] {
        refused(with(field, value), line);
    }
    let mut unknown = smallest();
    unknown[&name] = json!(1);
    let line = "envoy-healthz: a\\n[warning] forged: unknown field";
    refused(build.filter(&unknown), line);
    if build == Build::Wasm {
        let line = "envoy-healthz: admin_cluster: must not contain a control character, got";
        refused(with("/admin_cluster", json!(name)), line);
    }
}
