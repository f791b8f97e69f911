//! What only the module answers: Watches, List, and probes on a route whose cluster xDS takes away.

use std::time::{Duration, Instant};

use e2e::config::{Config, listener_with_routes, manager};
use e2e::envoy::Envoy;
use e2e::grpc_health::{Connection, LIST, NOT_SERVING, SERVING, Sent, Watch, channel};
use e2e::prober::Prober;
use e2e::xds::{Cds, Rds};
use e2e::{Build, TcpHost, free_port, module, until};
use serde_json::{Value, json};

use super::{
    STEADY, Sidecar, agree, checked, healthy_gauge, healthz_for, in_force, last_line, listener,
};

/// `/healthz` on new connections, log and gauge agree.
async fn agrees(envoy: &Envoy, status: u16) {
    let probe = async || Prober::http(envoy.port).get("/healthz").await.status;
    agree(Build::Module, envoy, status, probe).await;
}

/// Without the network filter the filter reads the route's cluster, with it that of its name.
async fn without_its_cluster(change: impl Fn(Value) -> Value) {
    let (_host, live) = TcpHost::on_free_port().await;
    let routes = vec![module::route("/healthz", "c")];
    let filter = Build::Module.filter(&json!({}));
    let mut listener = listener_with_routes(free_port(), [filter], routes);
    manager(&mut listener)["route_config"]["validate_clusters"] = json!(false);
    let c = checked("c", &[live]);
    let mut cds = Cds::new(vec![c.clone()]);
    let config = Config::new().cds(&cds).listener(change(listener));
    let envoy = config.start().await;
    agrees(&envoy, 200).await;
    cds.set("c", None);
    agrees(&envoy, 503).await;
    cds.set("c", Some(c));
    agrees(&envoy, 200).await;
}

#[tokio::test]
async fn cds_takes_the_cluster_of_the_route() {
    without_its_cluster(|listener| listener).await;
}

#[tokio::test]
async fn cds_takes_a_cluster_that_the_network_filter_knew() {
    without_its_cluster(module::with_network_filter).await;
}

/// RDS leads the route to another cluster. What has been open before goes on by the old route, and says
/// nothing, for nothing changes there.
async fn led_elsewhere(with_a_watch: bool) {
    let (_host, live) = TcpHost::on_free_port().await;
    let filter = Build::Module.filter(&with_grpc());
    let mut listener = listener_with_routes(free_port(), [filter], vec![]);
    let to = |cluster: &str| {
        let route = json!({"cluster": cluster, "timeout": "0s", "idle_timeout": "0s"});
        vec![json!({"match": {"prefix": "/"}, "route": route})]
    };
    let rds = Rds::of(&mut listener, to("c"));
    let clusters = ["c", "other"].map(|name| checked(name, &[live]));
    let config = Config::new().clusters(clusters).listener(listener);
    let envoy = config.start().await;
    agrees(&envoy, 200).await;
    let channel = channel(envoy.port);
    let watch = with_a_watch.then(|| Watch::start(&channel, ""));
    if let Some(watch) = &watch {
        watch.wait_for(SERVING).await;
    }
    rds.replace(to("other"));
    agrees(&envoy, 503).await;
    if let Some(watch) = &watch {
        assert_eq!(watch.seen(), [SERVING]);
    }
    rds.replace(to("c"));
    agrees(&envoy, 200).await;
}

#[tokio::test]
async fn rds_leads_the_route_elsewhere() {
    led_elsewhere(false).await;
}

#[tokio::test]
async fn rds_leads_the_route_elsewhere_while_an_old_watch_is_open() {
    led_elsewhere(true).await;
}

/// `/healthz`, and the service `""`, for cluster `c`.
fn with_grpc() -> Value {
    let mut config = healthz_for("c");
    config["grpc_health"] = json!({"services": {"": "/healthz"}});
    config
}

/// For [`STEADY`], and whatever is done meanwhile, log and gauge say that `/healthz` is healthy.
async fn stays_healthy(envoy: &Envoy, mut meanwhile: impl AsyncFnMut()) {
    let begun = Instant::now();
    while begun.elapsed() < STEADY {
        meanwhile().await;
        let gauge = healthy_gauge(Build::Module, envoy).await;
        assert_eq!((gauge, last_line(envoy)), (Some(1), Some(true)));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A Watch on a listener that was replaced is the only one that an outage is sent to; the new listener
/// was probed before.
#[tokio::test]
async fn an_outage_told_to_a_watch_on_the_old_listener() {
    let port = free_port();
    let mut config = with_grpc();
    let old = listener(Build::Module, port, "old", &config);
    let mut sidecar = Sidecar::start(Build::Module, vec![old]).await;
    let channel = channel(port);
    let watch = Watch::start(&channel, "");
    watch.wait_for(SERVING).await;
    config["endpoints"][0]["details"] = json!(true);
    sidecar.update(vec![listener(Build::Module, port, "new", &config)]);
    in_force(port, "new").await;
    sidecar.agrees(port, 200).await;
    let last = async || match watch.last() {
        Some(SERVING) => 200,
        Some(NOT_SERVING) => 503,
        _ => 0,
    };
    sidecar.outage();
    agree(Build::Module, &sidecar.envoy, 503, last).await;
    sidecar.recovery().await;
    agree(Build::Module, &sidecar.envoy, 200, last).await;
    assert_eq!(watch.seen(), [SERVING, NOT_SERVING, SERVING]);
}

/// The host stops so soon after the first message that the change is recorded a moment after the only
/// Watch has been sent it.
#[tokio::test]
async fn an_outage_told_to_the_only_watch_at_once() {
    let port = free_port();
    let listener = listener(Build::Module, port, "one", &with_grpc());
    let mut sidecar = Sidecar::start(Build::Module, vec![listener]).await;
    let channel = channel(port);
    let watch = Watch::start(&channel, "");
    watch.wait_for(SERVING).await;
    sidecar.outage();
    watch.wait_for(NOT_SERVING).await;
    agree(Build::Module, &sidecar.envoy, 503, async || 503).await;
    assert_eq!(watch.seen(), [SERVING, NOT_SERVING]);
}

/// `List` is a look at the whole, and no probe.
#[tokio::test]
async fn a_list_is_not_recorded() {
    let port = free_port();
    let listener = listener(Build::Module, port, "one", &with_grpc());
    let mut sidecar = Sidecar::start(Build::Module, vec![listener]).await;
    sidecar.agrees(port, 200).await;
    let connection = Connection::open(port).await;
    let list = async || {
        let reply = connection.call(&Sent::call(LIST, b"")).await;
        reply.expect("an answer").body
    };
    let healthy = list().await;
    sidecar.outage();
    let what = "List is another one";
    until(what, async || list().await != healthy).await;
    stays_healthy(&sidecar.envoy, async || assert_ne!(list().await, healthy)).await;
    sidecar.agrees(port, 503).await;
}

/// In a drain Envoy's health_check filter refuses the probes, and Watches are sent that: the endpoint
/// is what it was.
#[tokio::test]
async fn a_drain_is_not_recorded() {
    let port = free_port();
    let mut one = listener(Build::Module, port, "one", &with_grpc());
    // With DEFAULT the Watch would be on a connection that Envoy closes.
    one["drain_type"] = json!("MODIFY_ONLY");
    let sidecar = Sidecar::start(Build::Module, vec![one]).await;
    sidecar.agrees(port, 200).await;
    let channel = channel(port);
    let watch = Watch::start(&channel, "");
    watch.wait_for(SERVING).await;
    sidecar.envoy.post("/healthcheck/fail").await;
    Prober::http(port).wait_for(503).await;
    // Before 1.39 an open Watch is not sent it.
    if !e2e::envoy::version().starts_with("1.38.") {
        watch.wait_for(NOT_SERVING).await;
    }
    let probe = async || assert_eq!(Prober::http(port).get("/healthz").await.status, 503);
    stays_healthy(&sidecar.envoy, probe).await;
    sidecar.envoy.post("/healthcheck/ok").await;
    sidecar.agrees(port, 200).await;
    watch.wait_for(SERVING).await;
}
