//! Configurations: as JSON and as plain YAML, and what the module alone refuses.

use e2e::config::{Config, cluster, listener, refused};
use e2e::prober::Prober;
use e2e::{Build, free_port, module};
use serde_json::json;

#[test]
fn what_is_not_for_the_module_is_refused() {
    module::folder();
    let endpoints = json!([{"path": "/healthz", "clusters": ["a"]}]);
    let itself = "which reads host counts itself";
    let no_snapshot = "which has no snapshot";
    let drain = "put Envoy's health_check filter";
    for (field, value, reason) in [
        ("admin_cluster", json!("a"), itself),
        ("admin_timeout_ms", json!(1000), itself),
        ("max_age_ms", json!(0), no_snapshot),
        ("max_stale_ms", json!(0), no_snapshot),
        ("refresh_interval_ms", json!(100), no_snapshot),
        ("fail_when_draining", json!(true), drain),
    ] {
        let config = json!({field: value, "endpoints": endpoints});
        let line = format!("envoy-healthz: {field}: not supported by the module");
        refused(module::filter(&config), &line);
        refused(module::filter_of_struct(&config), &line);
        refused(module::filter(&config), reason);
    }
    let endpoint = json!({"path": "/", "clusters": [], "fail_when_draining": true});
    let line = "envoy-healthz: endpoints[0].fail_when_draining: not supported by the module";
    refused(module::filter(&json!({"endpoints": [endpoint]})), line);
    let mut absent = module::filter_text("");
    let fields = absent["typed_config"].as_object_mut().unwrap();
    fields.remove("filter_config");
    refused(absent, "envoy-healthz: configuration: is empty");
}

/// A Struct knows no integers but numbers; they are read as integers where they are.
#[tokio::test]
async fn json_and_yaml_are_the_same() {
    let config = json!({
        "name": "one", "endpoints": [
            {"path": "/two", "clusters": [{"name": "c", "min_healthy": 2}], "details": true},
            {"path": "/all", "clusters": [{"name": "c", "min_healthy": "100%"}]},
        ],
    });
    let ports = [free_port(), free_port()];
    let filters = [
        Build::Module.filter(&config),
        module::filter_of_struct(&config),
    ];
    let listeners = ports.into_iter().zip(filters);
    let listeners = listeners.map(|(port, filter)| listener(port, [filter]));
    let config = Config::new()
        .cluster(cluster("c", &[1]))
        .listeners(listeners.map(module::with_network_filter));
    let envoy = config.start().await;
    for port in ports {
        let two = Prober::http(port).get("/two?verbose").await.body;
        assert_eq!(two, "[-]c 1/1 healthy, 2 needed\nhealthz check failed\n");
        assert_eq!(Prober::http(port).get("/all").await.status, 200);
    }
    let line = "envoy-healthz[one]: /all is healthy";
    assert!(!envoy.logged(&[line]).is_empty());
}
