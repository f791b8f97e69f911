//! That our hand-written signatures are those of the Envoy at hand: every function of Envoy's that the
//! module uses is called, and what it should have done is seen.

use e2e::config::{Config, address, cluster, cluster_of, with_tcp_check};
use e2e::envoy::version;
use e2e::{Build, free_port};
use reqwest::Method;
use serde_json::json;

use super::{names_in_the_file, on_routes};

/// What the module uses of Envoy, and where it is seen below. `http_send_response`, the answer after a
/// fault, is seen in `panics.rs`; bodies, trailers, schedulers and the attribute in `grpc.rs`. Of the network
/// filter's attribute the name alone is looked for.
const USED: [&str; 20] = [
    "http_filter_config_define_counter",
    "http_filter_config_define_gauge",
    "http_filter_get_attribute_string",
    "http_filter_increment_counter",
    "http_filter_scheduler_commit",
    "http_filter_scheduler_delete",
    "http_filter_scheduler_new",
    "http_filter_set_gauge",
    "http_get_body_chunks",
    "http_get_body_chunks_size",
    "http_get_cluster_host_count",
    "http_get_cluster_name",
    "http_get_header",
    "http_send_response",
    "http_send_response_data",
    "http_send_response_headers",
    "http_send_response_trailers",
    "log",
    "network_filter_get_attribute_string",
    "network_filter_get_cluster_host_count",
];

#[test]
fn the_list_is_whole() {
    let used = names_in_the_file("envoy_dynamic_module_callback_");
    assert_eq!(used, USED.map(str::to_owned).into());
}

#[tokio::test]
async fn each_is_called_and_does_what_it_should() {
    let port = free_port();
    let endpoints = json!([{"path": "/healthz", "clusters": [{"name": "c", "min_healthy": 2}], "details": true}]);
    let hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|host| address(host, port));
    let checked = with_tcp_check(cluster_of("c", hosts.into()));
    let by_name = Build::Module.listener(free_port(), &json!({"endpoints": endpoints}));
    let by_name = Config::new().listener(by_name);
    let routed = on_routes(endpoints, &[("/healthz", "c")]);
    for config in [by_name, routed] {
        let envoy = config.cluster(checked.clone()).start().await;
        let failed = "[-]c 0/3 healthy, 2 needed\nhealthz check failed\n";
        envoy.wait_for("/healthz?verbose", 503, failed).await;
        let line = "envoy-healthz[default]: /healthz is unhealthy: c 0/3 healthy, 2 needed";
        assert_eq!(envoy.logged(&["[warning]", line]).len(), 1);
        let gauge = "healthz.healthy.filter.default.path./healthz";
        assert_eq!(envoy.stat(gauge).await, 0);
        let counter = "healthz.probes.filter.default.path./healthz.code.503";
        assert!(envoy.stat(counter).await > 0);
        let json = [("accept", "application/json")];
        let answer = envoy.prober.send(Method::GET, "/healthz", &json).await;
        let content_type = answer.header("content-type");
        assert_eq!(content_type, Some("application/health+json"));
        let counts = r#""total":3,"required":2"#;
        assert!(answer.body.contains(counts), "{}", answer.body);
    }
}

/// One .so for every version of Envoy that has the ABI; what each says of it.
#[tokio::test]
async fn the_version_of_the_abi() {
    let config = Config::new()
        .cluster(cluster("c", &[1]))
        .listener(Build::Module.listener(free_port(), &json!({})));
    let envoy = config.start().await;
    envoy.wait_for("/healthz", 200, "ok").await;
    let line = match version().get(..5) {
        Some("1.38." | "1.39.") => "ABI version v0.2.0 is deprecated",
        Some("1.40.") => "ABI version v0.2.0 matched",
        _ => {
            println!("SKIPPED: nobody has looked at what {} logs", version());
            return;
        }
    };
    assert!(!envoy.logged(&[line]).is_empty(), "{line}");
}

/// Where Envoy keeps no stats at all, its own filter that counts hosts always says 503.
#[tokio::test]
async fn no_stats_are_needed() {
    let endpoints = json!([{"path": "/healthz", "clusters": ["c"]}]);
    let mut config = on_routes(endpoints, &[("/healthz", "c")]).cluster(cluster("c", &[1]));
    config["stats_config"] = json!({"stats_matcher": {"reject_all": true}});
    let envoy = config.start().await;
    assert_eq!(envoy.get("/healthz").await.status, 200);
    envoy.post("/healthcheck/fail").await;
    assert_eq!(envoy.get("/healthz").await.status, 503);
}
