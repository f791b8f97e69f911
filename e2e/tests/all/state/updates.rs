//! A configuration that is replaced and put back while the one before it drains.

use e2e::config::{Config, cluster, manager, with_grpc_check};
use e2e::prober::Connection;
use e2e::{Build, dead_port, free_port, timed};
use serde_json::{Value, json};

use super::{Sidecar, agree, healthz_for, in_force, listener};

both_builds! {
    a_rollback,
    an_outage_after_a_rollback,
    an_outage_while_an_update_warms,
    an_outage_found_on_the_old_listener,
    an_outage_found_on_the_old_listener_after_the_new_one_was_probed,
}

/// The good configuration, and one with a typo in the cluster's name.
fn good(build: Build, port: u16) -> Vec<Value> {
    vec![listener(build, port, "good", &healthz_for("c"))]
}

fn typo(build: Build, port: u16) -> Vec<Value> {
    vec![listener(build, port, "typo", &healthz_for("cc"))]
}

/// The same rule as the good one's, in another configuration.
fn with_another_endpoint() -> Value {
    let mut config = healthz_for("c");
    let endpoints = config["endpoints"].as_array_mut().expect("endpoints");
    endpoints.push(json!({"path": "/livez", "clusters": []}));
    config
}

async fn a_rollback(build: Build) {
    let port = free_port();
    let mut sidecar = Sidecar::start(build, good(build, port)).await;
    sidecar.agrees(port, 200).await;
    sidecar.update(typo(build, port));
    sidecar.agrees(port, 503).await;
    sidecar.update(good(build, port));
    sidecar.agrees(port, 200).await;
    sidecar.outage();
    sidecar.agrees(port, 503).await;
}

/// The one in between is not probed.
async fn an_outage_after_a_rollback(build: Build) {
    let port = free_port();
    let mut sidecar = Sidecar::start(build, good(build, port)).await;
    sidecar.agrees(port, 200).await;
    sidecar.update(typo(build, port));
    in_force(port, "typo").await;
    sidecar.update(good(build, port));
    in_force(port, "good").await;
    sidecar.outage();
    sidecar.agrees(port, 503).await;
    sidecar.recovery().await;
    sidecar.agrees(port, 200).await;
}

/// The update's routes do not come, so that its listener answers nobody.
async fn an_outage_while_an_update_warms(build: Build) {
    let port = free_port();
    let nobody = with_grpc_check(cluster("xds", &[dead_port()]));
    let config = Config::new().cluster(nobody);
    let mut sidecar = Sidecar::start_with(build, good(build, port), config, &[]).await;
    sidecar.agrees(port, 200).await;

    let mut update = listener(build, port, "update", &with_another_endpoint());
    let manager = manager(&mut update).as_object_mut().expect("fields");
    manager.remove("route_config");
    let source = json!({
        "resource_api_version": "V3",
        "initial_fetch_timeout": "0s",
        "api_config_source": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
        },
    });
    let rds = json!({"route_config_name": "routes", "config_source": source});
    manager.insert("rds".to_owned(), rds);
    sidecar.update(vec![update]);
    let warming = "listener_manager.total_listeners_warming";
    sidecar.envoy.wait_for_stat(warming, 1).await;

    sidecar.outage();
    sidecar.agrees(port, 503).await;
    sidecar.recovery().await;
    sidecar.agrees(port, 200).await;
}

/// In so long a drain Envoy closes next to no connection after a response, unless it has stood still.
const LONG_DRAIN: [&str; 2] = ["--drain-time-s", "1000000"];

async fn an_outage_found_on_the_old_listener(build: Build) {
    timed(async || stays_on_the_old_listener(build, false).await);
}

async fn an_outage_found_on_the_old_listener_after_the_new_one_was_probed(build: Build) {
    timed(async || stays_on_the_old_listener(build, true).await);
}

/// The only prober keeps its connection, and so the listener that took it.
async fn stays_on_the_old_listener(build: Build, probe_the_new_one: bool) {
    let port = free_port();
    let config = Config::new();
    let mut sidecar = Sidecar::start_with(build, good(build, port), config, &LONG_DRAIN).await;
    sidecar.agrees(port, 200).await;
    let mut connection = Connection::open(port).await;
    assert_eq!(connection.get("/healthz").await.0, 200);

    sidecar.update(vec![listener(build, port, "new", &with_another_endpoint())]);
    in_force(port, "new").await;
    if probe_the_new_one {
        assert_eq!(Connection::open(port).await.get("/healthz").await.0, 200);
    }
    sidecar.outage();
    let probe = async || connection.get("/healthz").await.0;
    agree(build, &sidecar.envoy, 503, probe).await;
    assert_eq!(connection.get("/").await.1, "good", "the old listener");
}
