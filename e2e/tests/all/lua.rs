//! The Lua script beside the filter, in one Envoy: every row where the script is wrong.

use std::time::Duration;

use e2e::config::{
    Config, address, cluster, cluster_of, cluster_of_endpoints, healthz_for, host, listener,
    lua_for, pipe, with_tcp_check,
};
use e2e::fake_admin::{Does, FakeAdmin};
use e2e::prober::Prober;
use e2e::{TcpHost, free_port};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};

/// What `/clusters` says of a healthy host.
const HEALTHY: &[u8] = b"my_service::127.0.0.1:9000::health_flags::healthy\n";

/// The answer of [`listener`]'s route: the request went past the filter.
const UPSTREAM: u16 = 418;

/// What each of the two answers to `/healthz`.
struct Row {
    case: &'static str,
    lua: u16,
    filter: u16,
}

const fn row(case: &'static str, lua: u16, filter: u16) -> Row {
    Row { case, lua, filter }
}

/// Probes both, in an Envoy with these clusters, for this one.
async fn check(row: Row, target: &str, clusters: impl IntoIterator<Item = Value>) {
    let config = Config::new().clusters(clusters);
    check_in(row, "/healthz", target, config).await;
}

async fn check_in(row: Row, path: &str, target: &str, config: Config) {
    let both = [
        ("filter", row.filter, healthz_for(target)),
        ("lua", row.lua, lua_for(target)),
    ];
    let both = both.map(|(name, expected, filter)| (name, expected, free_port(), filter));
    let listeners = both
        .clone()
        .map(|(_, _, port, filter)| listener(port, [filter]));
    let _envoy = config.listeners(listeners).start().await;
    for (name, expected, port, _) in both {
        let prober = Prober::http(port);
        // Health checks may still have to run; what is asserted stays as it is then.
        prober.wait_for_answer(path, expected, "").await;
        for _ in 0..3 {
            let status = prober.get(path).await.status;
            assert_eq!(status, expected, "{}: {name}", row.case);
        }
    }
}

#[tokio::test]
async fn both_are_right_where_the_case_is_plain() {
    let (_live, live) = TcpHost::on_free_port().await;
    let up = with_tcp_check(cluster("my_service", &[live]));
    check(row("up", 200, 200), "my_service", [up]).await;
    let down = with_tcp_check(cluster("my_service", &[free_port()]));
    check(row("down", 503, 503), "my_service", [down]).await;
}

#[tokio::test]
async fn admin_cluster_missing() {
    let mut config = Config::new();
    config["static_resources"]["clusters"] = json!([cluster("my_service", &[1])]);
    let row = row("no admin cluster", UPSTREAM, 503);
    check_in(row, "/healthz", "my_service", config).await;
}

/// A real Envoy whose `local_admin` leads to a fake one.
async fn check_with_fake(row: Row, does: Does) {
    let fake = FakeAdmin::start(does).await;
    let config = Config::new().fake_admin(fake.port);
    check_in(row, "/healthz", "my_service", config).await;
    assert!(fake.requests() > 0, "the fake admin was not queried");
}

#[tokio::test]
async fn admin_reply_empty() {
    check_with_fake(row("empty reply", UPSTREAM, 503), Does::Answer(200, vec![])).await;
}

#[tokio::test]
async fn admin_answers_500_with_matching_text() {
    check_with_fake(row("500", 200, 503), Does::Answer(500, HEALTHY.to_vec())).await;
}

#[tokio::test]
async fn ipv6_host() {
    let listener = TcpListener::bind(("::1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let ipv6 = with_tcp_check(cluster_of("my_service", vec![address("::1", port)]));
    check(row("IPv6", 503, 200), "my_service", [ipv6]).await;
}

#[tokio::test]
async fn unix_socket_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let _socket = UnixListener::bind(&path).unwrap();
    let socket = with_tcp_check(cluster_of("my_service", vec![pipe(path.to_str().unwrap())]));
    check(row("unix socket", 503, 200), "my_service", [socket]).await;
}

#[tokio::test]
async fn another_cluster_ends_with_the_name() {
    let (_live, live) = TcpHost::on_free_port().await;
    let dead = with_tcp_check(cluster("my_service", &[free_port()]));
    let other = cluster("other_my_service", &[live]);
    let failed = row("failed, namesake healthy", 200, 503);
    check(failed, "my_service", [dead, other.clone()]).await;
    let absent = row("absent, namesake healthy", 200, 503);
    check(absent, "my_service", [other]).await;
}

#[tokio::test]
async fn degraded_host() {
    let (_live, live) = TcpHost::on_free_port().await;
    let degraded = cluster_of_endpoints("my_service", vec![host(live, "DEGRADED")]);
    check(row("degraded", 503, 200), "my_service", [degraded]).await;
}

#[tokio::test]
async fn name_with_a_lua_operator() {
    let (_live, live) = TcpHost::on_free_port().await;
    let dashed = with_tcp_check(cluster("my-service", &[live]));
    let row = row("a dash in the name", 503, 200);
    check(row, "my-service", [dashed]).await;
}

#[tokio::test]
async fn query() {
    let (_live, live) = TcpHost::on_free_port().await;
    let up = with_tcp_check(cluster("my_service", &[live]));
    let (row, config) = (row("query", UPSTREAM, 200), Config::new().cluster(up));
    check_in(row, "/healthz?x=1", "my_service", config).await;
}

/// The script waits 50 ms for the admin. How often that is too short for a thousand clusters depends
/// on the machine (`make bench` counts), so here the admin is surely slower than that.
#[tokio::test]
async fn slow_admin() {
    let late = Does::Delay(Duration::from_millis(200), HEALTHY.to_vec());
    let fake = FakeAdmin::start(late).await;
    let lua = free_port();
    let config = Config::new()
        .fake_admin(fake.port)
        .listener(listener(free_port(), [healthz_for("my_service")]))
        .listener(listener(lua, [lua_for("my_service")]));
    let envoy = config.start().await;
    assert_ne!(Prober::http(lua).get("/healthz").await.status, 200);
    assert_eq!(envoy.get("/healthz").await.status, 200);
}
