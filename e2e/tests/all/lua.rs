//! The Lua script beside the filter, in one Envoy: every row where the script is wrong.

use std::time::Duration;

use e2e::config::{
    address, bootstrap, bootstrap_with_fake, cluster, cluster_of, cluster_of_endpoints,
    healthz_for, listener, lua_for, pipe, with_tcp_check,
};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin};
use e2e::prober::Prober;
use e2e::{TcpHost, eventually, free_port};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};

/// The answer of [`listener`]'s route: the request went past the filter.
const UPSTREAM: u16 = 418;

/// What is asked for, and what each of the two says.
struct Row {
    case: &'static str,
    path: &'static str,
    lua: u16,
    filter: u16,
}

const fn row(case: &'static str, lua: u16, filter: u16) -> Row {
    let path = "/healthz";
    Row {
        case,
        path,
        lua,
        filter,
    }
}

/// Asks both, in an Envoy with these clusters, about the cluster `target`.
async fn check(row: Row, target: &str, clusters: Vec<Value>) {
    let admin_port = free_port();
    check_in(row, target, admin_port, |listeners| {
        bootstrap(admin_port, listeners, clusters)
    })
    .await;
}

async fn check_in(row: Row, target: &str, _admin: u16, config: impl FnOnce(Vec<Value>) -> Value) {
    let (lua, filter) = (free_port(), free_port());
    let listeners = vec![
        listener(lua, [lua_for(target)]),
        listener(filter, [healthz_for(target)]),
    ];
    let envoy = Envoy::start(&config(listeners).to_string(), &[]).await;
    for (name, port, expected) in [("filter", filter, row.filter), ("lua", lua, row.lua)] {
        let prober = Prober::http(port);
        // Health checks may still have to run; what is asserted stays as it is then.
        let what = format!("{}: {name} says {expected}", row.case);
        eventually(&what, async || {
            let status = prober.get(row.path).await.status;
            (status == expected).then_some(())
        })
        .await;
        for _ in 0..3 {
            assert_eq!(prober.get(row.path).await.status, expected, "{what}");
        }
    }
    drop(envoy);
}

#[tokio::test]
async fn both_are_right_where_the_case_is_plain() {
    let (_live, live) = TcpHost::on_free_port().await;
    let up = with_tcp_check(cluster("my_service", &[live]));
    check(row("up", 200, 200), "my_service", vec![up]).await;
    let down = with_tcp_check(cluster("my_service", &[free_port()]));
    check(row("down", 503, 503), "my_service", vec![down]).await;
}

#[tokio::test]
async fn admin_cluster_missing() {
    let admin = free_port();
    check_in(
        row("no admin cluster", UPSTREAM, 503),
        "my_service",
        admin,
        |listeners| {
            let mut config = bootstrap(admin, listeners, vec![]);
            let dead = cluster("my_service", &[1]);
            config["static_resources"]["clusters"] = json!([dead]);
            config
        },
    )
    .await;
}

/// A real Envoy whose `local_admin` leads to a fake one.
async fn check_with_fake(row: Row, does: Does) {
    let fake = FakeAdmin::start(does).await;
    let admin = free_port();
    check_in(row, "my_service", admin, |listeners| {
        bootstrap_with_fake(admin, fake.port, listeners, vec![])
    })
    .await;
    assert!(fake.requests() > 0, "the fake admin was not asked");
}

#[tokio::test]
async fn admin_reply_empty() {
    check_with_fake(row("empty reply", UPSTREAM, 503), Does::Answer(200, vec![])).await;
}

#[tokio::test]
async fn admin_answers_500_with_matching_text() {
    let text = b"my_service::127.0.0.1:9000::health_flags::healthy\n";
    check_with_fake(row("500", 200, 503), Does::Answer(500, text.to_vec())).await;
}

#[tokio::test]
async fn ipv6_host() {
    let listener = TcpListener::bind(("::1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let ipv6 = with_tcp_check(cluster_of("my_service", vec![address("::1", port)]));
    check(row("IPv6", 503, 200), "my_service", vec![ipv6]).await;
}

#[tokio::test]
async fn unix_socket_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let _socket = UnixListener::bind(&path).unwrap();
    let socket = with_tcp_check(cluster_of("my_service", vec![pipe(path.to_str().unwrap())]));
    check(row("unix socket", 503, 200), "my_service", vec![socket]).await;
}

#[tokio::test]
async fn another_cluster_ends_with_the_name() {
    let (_live, live) = TcpHost::on_free_port().await;
    let dead = with_tcp_check(cluster("my_service", &[free_port()]));
    let other = cluster("other_my_service", &[live]);
    check(
        row("failed, namesake healthy", 200, 503),
        "my_service",
        vec![dead, other.clone()],
    )
    .await;
    check(
        row("absent, namesake healthy", 200, 503),
        "my_service",
        vec![other],
    )
    .await;
}

#[tokio::test]
async fn degraded_host() {
    let (_live, live) = TcpHost::on_free_port().await;
    let endpoint = json!({
        "endpoint": {"address": address("127.0.0.1", live)},
        "health_status": "DEGRADED",
    });
    let degraded = cluster_of_endpoints("my_service", vec![endpoint]);
    check(row("degraded", 503, 200), "my_service", vec![degraded]).await;
}

#[tokio::test]
async fn name_with_a_lua_operator() {
    let (_live, live) = TcpHost::on_free_port().await;
    let dashed = with_tcp_check(cluster("my-service", &[live]));
    check(
        row("a dash in the name", 503, 200),
        "my-service",
        vec![dashed],
    )
    .await;
}

#[tokio::test]
async fn query() {
    let (_live, live) = TcpHost::on_free_port().await;
    let up = with_tcp_check(cluster("my_service", &[live]));
    let asked = Row {
        path: "/healthz?x=1",
        ..row("query", UPSTREAM, 200)
    };
    check(asked, "my_service", vec![up]).await;
}

/// The script waits 50 ms for the admin. How often that is too short for a thousand clusters depends
/// on the machine (`make bench` counts), so here the admin is surely slower than that.
#[tokio::test]
async fn slow_admin() {
    let text = b"my_service::127.0.0.1:9000::health_flags::healthy\n".to_vec();
    let fake = FakeAdmin::start(Does::Delay(Duration::from_millis(200), text)).await;
    let (lua, filter, admin) = (free_port(), free_port(), free_port());
    let listeners = vec![
        listener(lua, [lua_for("my_service")]),
        listener(filter, [healthz_for("my_service")]),
    ];
    let config = bootstrap_with_fake(admin, fake.port, listeners, vec![]);
    let _envoy = Envoy::start(&config.to_string(), &[]).await;
    assert_ne!(Prober::http(lua).get("/healthz").await.status, 200);
    assert_eq!(Prober::http(filter).get("/healthz").await.status, 200);
}
