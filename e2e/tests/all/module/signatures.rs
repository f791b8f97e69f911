//! That our hand-written signatures are those of the Envoy at hand: every function of Envoy's that the
//! module uses is called, and what it should have done is seen.

use e2e::config::{bootstrap, cluster, listener_with_routes, with_tcp_check};
use e2e::envoy::{Envoy, version};
use e2e::prober::Prober;
use e2e::{Build, free_port, module};
use serde_json::json;

use super::{names_in_the_file, on_routes};
use crate::Served;

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
    let clusters = || {
        let hosts =
            ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|host| e2e::config::address(host, port));
        vec![with_tcp_check(e2e::config::cluster_of("c", hosts.into()))]
    };
    let routed = on_routes(endpoints.clone(), &[("/healthz", "c")], clusters()).await;
    let config = json!({"endpoints": endpoints});
    let by_name = Served::start(Build::Module, &config, clusters()).await;
    for served in [by_name, routed] {
        let failed = "[-]c 0/3 healthy, 2 needed\nhealthz check failed\n";
        served.wait_for("/healthz?verbose", 503, failed).await;
        let line = "envoy-healthz[default]: /healthz is unhealthy: c 0/3 healthy, 2 needed";
        assert_eq!(served.envoy.logged(&["[warning]", line]).len(), 1);
        let gauge = "healthz.healthy.filter.default.path./healthz";
        assert_eq!(served.envoy.stat(gauge).await, 0);
        let counter = "healthz.probes.filter.default.path./healthz.code.503";
        assert!(served.envoy.stat(counter).await > 0);
        let request = served.prober.request(reqwest::Method::GET, "/healthz");
        let request = request.header("accept", "application/json");
        let answer = e2e::prober::Answer::to(request).await.unwrap();
        assert_eq!(
            answer.header("content-type"),
            Some("application/health+json")
        );
        assert!(
            answer.body.contains(r#""total":3,"required":2"#),
            "{}",
            answer.body
        );
    }
}

/// One .so for every version of Envoy that has the ABI; what each says of it.
#[tokio::test]
async fn the_version_of_the_abi() {
    let clusters = vec![cluster("c", &[1])];
    let config = json!({"endpoints": [{"path": "/healthz", "clusters": ["c"]}]});
    let served = Served::start(Build::Module, &config, clusters).await;
    served.wait_for("/healthz", 200, "ok").await;
    let line = match version().get(..5) {
        Some("1.38." | "1.39.") => "ABI version v0.2.0 is deprecated",
        Some("1.40.") => "ABI version v0.2.0 matched",
        _ => {
            println!(
                "SKIPPED: nobody has looked at what Envoy {} says",
                version()
            );
            return;
        }
    };
    assert!(!served.envoy.logged(&[line]).is_empty(), "{line}");
}

/// Where Envoy keeps no stats at all, its own filter that counts hosts always says 503.
#[tokio::test]
async fn no_stats_are_needed() {
    let (admin, port) = (free_port(), free_port());
    let mut filters = module::drain_filters();
    filters.push(module::filter_for("c"));
    let routes = vec![module::route("/healthz", "c")];
    let listener = listener_with_routes(port, filters, routes);
    let mut config = bootstrap(admin, vec![listener], vec![cluster("c", &[1])]);
    config["stats_config"] = json!({"stats_matcher": {"reject_all": true}});
    let envoy = Envoy::start(&config.to_string(), &[]).await;
    let prober = Prober::http(port);
    assert_eq!(prober.get("/healthz").await.status, 200);
    envoy.post("/healthcheck/fail").await;
    assert_eq!(prober.get("/healthz").await.status, 503);
}
