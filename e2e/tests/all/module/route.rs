//! Without the network filter the module knows the cluster that the route leads to, and no other.

use e2e::config::{cluster, with_tcp_check};
use e2e::pair::spread;
use e2e::{TcpHost, free_port};
use serde_json::json;

use super::on_routes;

#[tokio::test]
async fn the_cluster_of_the_route() {
    let port = free_port();
    let endpoints = json!([
        {"path": "/healthz", "clusters": ["c"], "details": true},
        {"path": "/other", "clusters": ["c"], "details": true},
        {"path": "/gone", "clusters": ["unknown"], "details": true},
        {"path": "/livez", "clusters": []},
    ]);
    let routes = [("/healthz", "c"), ("/other", "d"), ("/livez", "d")];
    let config = on_routes(endpoints, &routes)
        .clusters([with_tcp_check(cluster("c", &[port])), cluster("d", &[1])]);
    let envoy = config.start().await;
    envoy.wait_for("/healthz", 503, "unavailable").await;
    let _host = TcpHost::start(port).await;
    envoy.wait_for("/healthz", 200, "ok").await;
    envoy.wait_for("/livez", 200, "ok").await;
    for (path, cluster, leads_to) in [
        ("/other", "c", "\"d\""),
        ("/gone", "unknown", "no cluster that Envoy knows"),
    ] {
        let cause = format!(
            "cannot read cluster {cluster:?}: this route leads to {leads_to}. Add the network filter (docs/module.md, Several clusters)"
        );
        let expected = format!("[-]{cause}\nhealthz check failed\n");
        let path_and_query = format!("{path}?verbose");
        envoy.wait_for(&path_and_query, 503, &expected).await;
        let line = format!("envoy-healthz[default]: {path} is unhealthy: {cause}");
        assert_eq!(envoy.logged(&["[warning]", &line]).len(), 1);
    }
}

#[tokio::test]
async fn its_priorities_are_added_up() {
    let rule = json!({"name": "c", "min_healthy": 4});
    let endpoints = json!([{"path": "/healthz", "clusters": [rule], "details": true}]);
    let config = on_routes(endpoints, &[("/healthz", "c")]).cluster(spread());
    let envoy = config.start().await;
    let passed = "[+]c 4/4 healthy, 4 needed\nhealthz check passed\n";
    envoy.wait_for("/healthz?verbose", 200, passed).await;
}
