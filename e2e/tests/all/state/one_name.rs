//! Two listeners whose filters have one name and path, but not one configuration.

use std::time::Instant;

use e2e::config::{Config, cluster, manager};
use e2e::prober::Prober;
use e2e::{Build, free_port, until};
use serde_json::json;

use super::{Sidecar, healthy_gauge, healthz_for, listener};

both_builds! {
    the_one_that_is_probed,
    an_outage_found_by_one_of_two,
    the_end_of_one_of_two,
    two_that_disagree,
}

/// With a cluster that has no host.
fn with_empty() -> Config {
    Config::new().cluster(cluster("empty", &[]))
}

/// They are about different clusters, and now the one is probed, now the other.
async fn the_one_that_is_probed(build: Build) {
    let (healthy, unhealthy) = (free_port(), free_port());
    let listeners = vec![
        listener(build, healthy, "healthy", &healthz_for("c")),
        listener(build, unhealthy, "unhealthy", &healthz_for("empty")),
    ];
    let sidecar = Sidecar::start_with(build, listeners, with_empty(), &[]).await;
    for _ in 0..2 {
        sidecar.agrees(healthy, 200).await;
        sidecar.agrees(unhealthy, 503).await;
    }
}

/// A public listener, and an internal one with details, which somebody looks at once.
async fn an_outage_found_by_one_of_two(build: Build) {
    let (public, internal) = (free_port(), free_port());
    let mut details = healthz_for("c");
    details["endpoints"][0]["details"] = json!(true);
    let public_one = || listener(build, public, "public", &healthz_for("c"));
    let internal_one = || listener(build, internal, "internal", &details);
    for listeners in [
        vec![public_one(), internal_one()],
        vec![internal_one(), public_one()],
    ] {
        let mut sidecar = Sidecar::start(build, listeners).await;
        sidecar.agrees(public, 200).await;
        assert_eq!(Prober::http(internal).get("/healthz").await.status, 200);
        sidecar.outage();
        sidecar.agrees(public, 503).await;
    }
}

/// One of them is removed, and has been the last to be probed. The gauge of the wasm build is 1 from
/// then on, that of the module is gone, until the other one is probed again.
async fn the_end_of_one_of_two(build: Build) {
    let ports = [free_port(), free_port()];
    for ends in [0, 1] {
        let listeners: Vec<_> = ports
            .iter()
            .map(|&port| {
                // Two configurations.
                let mut config = healthz_for("empty");
                config["endpoints"][0]["details"] = json!(port == ports[0]);
                listener(build, port, "one", &config)
            })
            .collect();
        let (stays, left) = (ports[1 - ends], vec![listeners[1 - ends].clone()]);
        let drain = ["--drain-time-s", "1"];
        let mut sidecar = Sidecar::start_with(build, listeners, with_empty(), &drain).await;
        sidecar.agrees(stays, 503).await;
        sidecar.agrees(ports[ends], 503).await;
        sidecar.update(left);
        sidecar.lds.taken(&sidecar.envoy).await;
        let draining = "listener_manager.total_listeners_draining";
        sidecar.envoy.wait_for_stat(draining, 0).await;
        sidecar.agrees(stays, 503).await;
    }
}

/// Both are probed all the time, one healthy and one not: what was said last alternates, but not more
/// often than once a second.
async fn two_that_disagree(build: Build) {
    let ports @ [healthy, unhealthy] = [free_port(), free_port()];
    let listeners = vec![
        listener(build, healthy, "healthy", &healthz_for("c")),
        listener(build, unhealthy, "unhealthy", &healthz_for("empty")),
    ];
    let sidecar = Sidecar::start_with(build, listeners, with_empty(), &[]).await;
    let begun = Instant::now();
    until("what is recorded alternates", async || {
        for port in ports {
            Prober::http(port).get("/healthz").await;
        }
        let text = "envoy-healthz[default]: /healthz is ";
        let lines = sidecar.envoy.logged(&[text]);
        let passed = begun.elapsed();
        let most = 1 + passed.as_secs() as usize;
        assert!(lines.len() <= most, "{lines:#?} after {passed:?}");
        let unhealthy = |line: &String| line.contains("unhealthy");
        let mut pairs = lines.windows(2);
        let alternate = pairs.all(|two| unhealthy(&two[0]) != unhealthy(&two[1]));
        assert!(alternate, "{lines:#?}");
        lines.len() >= 5
    })
    .await;
    sidecar.agrees(unhealthy, 503).await;
    sidecar.agrees(healthy, 200).await;
}

/// Filters of two VMs know nothing of each other but the gauge, which whoever is probed puts right.
#[tokio::test]
async fn filters_of_two_vms() {
    let build = Build::Wasm;
    let [healthy, unhealthy] = [free_port(), free_port()];
    let mut other = listener(build, healthy, "healthy", &healthz_for("c"));
    let filter = &mut manager(&mut other)["http_filters"][0]["typed_config"]["config"];
    filter["vm_config"]["vm_id"] = json!("other");
    let listeners = vec![
        other,
        listener(build, unhealthy, "unhealthy", &healthz_for("empty")),
    ];
    let sidecar = Sidecar::start_with(build, listeners, with_empty(), &[]).await;
    let shows = async |port: u16, status: u16| {
        until(&format!("gauge and probes say {status}"), async || {
            let answer = Prober::http(port).get("/healthz").await.status;
            let gauge = healthy_gauge(build, &sidecar.envoy).await;
            answer == status && gauge == Some(u64::from(status == 200))
        })
        .await;
    };
    for _ in 0..2 {
        shows(healthy, 200).await;
        shows(unhealthy, 503).await;
    }
}
