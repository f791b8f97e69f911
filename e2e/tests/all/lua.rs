//! The Lua script beside the filter, in one Envoy: every row where the script is wrong.

use e2e::config::{Config, address, cluster, cluster_of, cluster_of_endpoints, host, listener};
use e2e::config::{lua, pipe, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin};
use e2e::prober::Prober;
use e2e::{Build, TcpHost, dead_port, free_port, until};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

/// The answer of [`listener`]'s route: the request went past the filter.
const UPSTREAM: u16 = 418;

const MY_SERVICE: &str = "my_service";
/// What the script takes for a healthy host.
const HEALTHY: &[u8] = b"my_service::127.0.0.1:9000::health_flags::healthy\n";

/// An Envoy with the script and the filter, each on a listener, for this cluster.
async fn start(target: &str, config: Config) -> (Envoy, [Prober; 2]) {
    let ports = [free_port(), free_port()];
    let endpoints = json!([{"path": "/healthz", "clusters": [target]}]);
    let filter = json!({"admin_timeout_ms": 30000, "endpoints": endpoints});
    let config = config
        .listener(listener(ports[0], [lua(target, "local_admin")]))
        .listener(Build::Wasm.listener(ports[1], &filter));
    (config.start().await, ports.map(Prober::http))
}

/// What each of the two answers to `/healthz`, in an Envoy with this configuration.
async fn check(case: &str, [lua, filter]: [u16; 2], target: &str, config: Config) {
    check_path(case, "/healthz", [lua, filter], target, config).await;
}

async fn check_path(case: &str, path: &str, expected: [u16; 2], target: &str, config: Config) {
    let (_envoy, probers) = start(target, config).await;
    for (prober, expected) in probers.iter().zip(expected).rev() {
        // Health checks may still have to run; what is asserted stays as it is then.
        prober.wait_for_answer(path, expected, "").await;
        // The script's 50 ms may be too short now and then, but not for ever.
        until(&format!("{case}: three times {expected}"), async || {
            let mut statuses = [0; 3];
            for status in &mut statuses {
                *status = prober.get(path).await.status;
            }
            statuses == [expected; 3]
        })
        .await;
    }
}

/// The same for `my_service`, in an Envoy with these clusters.
async fn check_with(case: &str, expected: [u16; 2], clusters: impl IntoIterator<Item = Value>) {
    let config = Config::new().clusters(clusters);
    check(case, expected, MY_SERVICE, config).await;
}

#[tokio::test]
async fn both_are_right_where_the_case_is_plain() {
    let (_live, live) = TcpHost::on_free_port().await;
    for (case, port, status) in [("up", live, 200), ("down", dead_port(), 503)] {
        let cluster = with_tcp_check(cluster(MY_SERVICE, &[port]));
        check_with(case, [status; 2], [cluster]).await;
    }
}

#[tokio::test]
async fn admin_cluster_missing() {
    let mut config = Config::new();
    config["static_resources"]["clusters"] = json!([cluster(MY_SERVICE, &[1])]);
    check("no admin cluster", [UPSTREAM, 503], MY_SERVICE, config).await;
}

/// A real Envoy whose `local_admin` leads to a fake one.
async fn check_with_fake(case: &str, expected: [u16; 2], does: Does) {
    let fake = FakeAdmin::start(does).await;
    let config = Config::new().fake_admin(fake.port);
    check(case, expected, MY_SERVICE, config).await;
    assert!(fake.requests() > 0, "no request to the fake admin");
}

#[tokio::test]
async fn admin_reply_empty() {
    let empty = Does::Answer(200, vec![]);
    check_with_fake("empty reply", [UPSTREAM, 503], empty).await;
}

#[tokio::test]
async fn admin_answers_500_with_matching_text() {
    let matching = Does::Answer(500, HEALTHY.to_vec());
    check_with_fake("500", [200, 503], matching).await;
}

#[tokio::test]
async fn ipv6_host() {
    let listener = TcpListener::bind(("::1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let ipv6 = cluster_of(MY_SERVICE, vec![address("::1", port)]);
    check_with("IPv6", [503, 200], [with_tcp_check(ipv6)]).await;
}

#[tokio::test]
async fn unix_socket_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let _socket = UnixListener::bind(&path).unwrap();
    let socket = cluster_of(MY_SERVICE, vec![pipe(path.to_str().unwrap())]);
    check_with("unix socket", [503, 200], [with_tcp_check(socket)]).await;
}

#[tokio::test]
async fn another_cluster_ends_with_the_name() {
    let (_live, live) = TcpHost::on_free_port().await;
    let dead = with_tcp_check(cluster(MY_SERVICE, &[dead_port()]));
    let other = cluster("other_my_service", &[live]);
    let both = [dead, other.clone()];
    check_with("failed, namesake healthy", [200, 503], both).await;
    check_with("absent, namesake healthy", [200, 503], [other]).await;
}

#[tokio::test]
async fn degraded_host() {
    let (_live, live) = TcpHost::on_free_port().await;
    let degraded = cluster_of_endpoints(MY_SERVICE, vec![host(live, "DEGRADED")]);
    check_with("degraded", [503, 200], [degraded]).await;
}

#[tokio::test]
async fn name_with_a_lua_operator() {
    let (_live, live) = TcpHost::on_free_port().await;
    let dashed = with_tcp_check(cluster("my-service", &[live]));
    let config = Config::new().cluster(dashed);
    check("a dash in the name", [503, 200], "my-service", config).await;
}

#[tokio::test]
async fn query() {
    let (_live, live) = TcpHost::on_free_port().await;
    let up = with_tcp_check(cluster(MY_SERVICE, &[live]));
    let config = Config::new().cluster(up);
    check_path("query", "/healthz?x=1", [UPSTREAM, 200], MY_SERVICE, config).await;
}

/// The script waits 50 ms for the admin. How often that is too short for a thousand clusters depends
/// on the machine (`make bench` counts), so here the admin is surely slower than that.
#[tokio::test]
async fn slow_admin() {
    let (tell, told) = watch::channel(false);
    let fake = FakeAdmin::start(Does::WhenTold(told, HEALTHY.to_vec())).await;
    let config = Config::new().fake_admin(fake.port);
    let (_envoy, [lua, filter]) = start(MY_SERVICE, config).await;
    assert_ne!(lua.get("/healthz").await.status, 200);
    tell.send(true).unwrap();
    assert_eq!(filter.get("/healthz").await.status, 200);
}
