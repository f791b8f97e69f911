//! The native module in Envoy configurations.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::typed;
use crate::root;

/// The variable by which Envoy finds `libenvoy_healthz.so`.
pub const SEARCH_PATH: &str = "ENVOY_DYNAMIC_MODULES_SEARCH_PATH";

/// The folder of the module that users get.
pub fn folder() -> PathBuf {
    built(root().join("dist"), "make module")
}

/// The folder of the one that panics in the hook that `ENVOY_HEALTHZ_PANIC` names.
pub fn panicking_folder() -> PathBuf {
    built(root().join("target/panicking"), "make panicking-module")
}

fn built(folder: PathBuf, command: &str) -> PathBuf {
    let path = folder.join("libenvoy_healthz.so");
    assert!(path.exists(), "{path:?} is missing: run {command}");
    folder
}

/// Where Envoy looks for modules in every test; [`folder`] says whether one is there.
pub fn search_path() -> PathBuf {
    root().join("dist")
}

/// Waits until the module hands over what it has counted with the next probe: it does so 50 ms after it last did.
pub async fn wait_to_count() {
    tokio::time::sleep(Duration::from_millis(60)).await;
}

/// How the module is named in a filter's configuration.
fn module() -> Value {
    json!({"name": "envoy_healthz", "metrics_namespace": "healthz"})
}

/// The module as an HTTP filter, on for every route.
pub fn filter(config: &Value) -> Value {
    filter_text(&config.to_string())
}

/// The same with the configuration's text.
pub fn filter_text(config: &str) -> Value {
    filter_of(json!({
        "@type": "type.googleapis.com/google.protobuf.StringValue",
        "value": config,
    }))
}

/// The same with the configuration as a Struct, which is plain YAML.
pub fn filter_of_struct(config: &Value) -> Value {
    filter_of(json!({
        "@type": "type.googleapis.com/google.protobuf.Struct",
        "value": config,
    }))
}

fn filter_of(config: Value) -> Value {
    typed(
        "envoy-healthz",
        "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
        json!({"dynamic_module_config": module(), "filter_name": "healthz", "filter_config": config}),
    )
}

/// `/healthz` for this cluster.
pub fn filter_for(cluster: &str) -> Value {
    filter(&json!({"endpoints": [{"path": "/healthz", "clusters": [cluster]}]}))
}

/// Puts the module's network filter before a listener's HTTP connection manager.
pub fn with_network_filter(mut listener: Value) -> Value {
    let filter = typed(
        "envoy.filters.network.dynamic_modules",
        "envoy.extensions.filters.network.dynamic_modules.v3.DynamicModuleNetworkFilter",
        json!({"dynamic_module_config": module(), "filter_name": "healthz"}),
    );
    let chains = listener["filter_chains"].as_array_mut().expect("chains");
    for chain in chains {
        let filters = chain["filters"].as_array_mut().expect("filters");
        filters.insert(0, filter.clone());
    }
    listener
}

/// What makes probes fail while Envoy drains: Envoy's health_check filter, and before it one that takes
/// its headers off.
pub fn drain_filters() -> Vec<Value> {
    let remove = |name: &str| json!({"remove": name});
    vec![
        typed(
            "envoy.filters.http.header_mutation",
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            json!({"mutations": {"response_mutations": [
                remove("x-envoy-upstream-healthchecked-cluster"),
                remove("x-envoy-immediate-health-check-fail"),
            ]}}),
        ),
        typed(
            "envoy.filters.http.health_check",
            "envoy.extensions.filters.http.health_check.v3.HealthCheck",
            json!({
                "pass_through_mode": true,
                "headers": [{"name": ":path", "present_match": true}],
            }),
        ),
    ]
}

/// A route for this path to this cluster.
pub fn route(path: &str, cluster: &str) -> Value {
    json!({"match": {"path": path}, "route": {"cluster": cluster}})
}
