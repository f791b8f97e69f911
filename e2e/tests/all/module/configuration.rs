//! Configurations: as JSON and as plain YAML, and what the module alone refuses.

use e2e::config::{bootstrap, cluster, listener};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::{Build, free_port, module};
use serde_json::json;

#[test]
fn what_is_not_for_the_module_is_refused() {
    module::folder();
    let endpoints = json!([{"path": "/healthz", "clusters": ["a"]}]);
    for (field, value, reason) in [
        (
            "admin_cluster",
            json!("a"),
            "which reads host counts itself",
        ),
        (
            "admin_timeout_ms",
            json!(1000),
            "which reads host counts itself",
        ),
        ("max_age_ms", json!(0), "which has no snapshot"),
        ("max_stale_ms", json!(0), "which has no snapshot"),
        ("refresh_interval_ms", json!(100), "which has no snapshot"),
        (
            "fail_when_draining",
            json!(true),
            "put Envoy's health_check filter",
        ),
    ] {
        let config = json!({field: value, "endpoints": endpoints});
        for filter in [module::filter(&config), module::filter_of_struct(&config)] {
            e2e::config::refused(
                filter,
                &format!("envoy-healthz: {field}: not supported by the module"),
            );
        }
        e2e::config::refused(module::filter(&config), reason);
    }
    let endpoint = json!({"path": "/", "clusters": [], "fail_when_draining": true});
    e2e::config::refused(
        module::filter(&json!({"endpoints": [endpoint]})),
        "envoy-healthz: endpoints[0].fail_when_draining: not supported by the module",
    );
    let mut absent = module::filter_text("");
    let fields = absent["typed_config"].as_object_mut().unwrap();
    fields.remove("filter_config");
    e2e::config::refused(absent, "envoy-healthz: configuration: is empty");
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
    let (admin, first, second) = (free_port(), free_port(), free_port());
    let listeners = [
        (first, Build::Module.filter(&config)),
        (second, module::filter_of_struct(&config)),
    ]
    .map(|(port, filter)| module::with_network_filter(listener(port, [filter])));
    let clusters = vec![cluster("c", &[1])];
    let config = bootstrap(admin, listeners.into(), clusters);
    let envoy = Envoy::start(&config.to_string(), &[]).await;
    for port in [first, second] {
        let answer = Prober::http(port).get("/two?verbose").await;
        assert_eq!(
            answer.body,
            "[-]c 1/1 healthy, 2 needed\nhealthz check failed\n"
        );
        assert_eq!(Prober::http(port).get("/all").await.status, 200);
    }
    assert!(
        !envoy
            .logged(&["envoy-healthz[one]: /all is healthy"])
            .is_empty()
    );
}
