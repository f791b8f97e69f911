//! An endpoint that stays unhealthy, and why it does.

use std::time::{Duration, Instant};

use e2e::config::Config;
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, HEALTHY, envoy_with_fake, healthy};
use e2e::prober::Prober;
use e2e::{Build, TcpHost, dead_port, free_port, timed, until};
use serde_json::{Value, json};

use super::{Sidecar, agree, checked, listener};

both_builds! {
    another_cause_is_logged_and_at_most_one_in_ten_seconds,
    the_same_clusters_with_other_hosts_are_not_logged_again,
}

/// What the log says of an unhealthy `/healthz`, in order.
fn causes(envoy: &Envoy) -> Vec<String> {
    envoy.logged(&["envoy-healthz[default]: /healthz ", "unhealthy"])
}

/// Probes until each answer has had this among its details for long enough that each worker has looked
/// at what is recorded, which it does once a second.
async fn details(port: u16, line: &str) {
    let mut since = Instant::now();
    until(&format!("probes say {line:?}"), async || {
        let answer = Prober::http(port).get("/healthz?verbose").await;
        if !answer.body.contains(line) {
            since = Instant::now();
        }
        since.elapsed() > Duration::from_secs(2)
    })
    .await;
}

/// A listener whose `/healthz` is for these clusters.
fn healthz(build: Build, port: u16, clusters: Value) -> Vec<Value> {
    let endpoint = json!({"path": "/healthz", "clusters": clusters, "details": true});
    let config = json!({"endpoints": [endpoint]});
    vec![listener(build, port, "details", &config)]
}

/// One cluster is dead, and another one comes and goes.
async fn another_cause_is_logged_and_at_most_one_in_ten_seconds(build: Build) {
    const CHANGES: usize = 3;
    let port = free_port();
    let listeners = healthz(build, port, json!(["c", "dead"]));
    let config = Config::new().cluster(checked("dead", &[dead_port()]));
    let mut sidecar = Sidecar::start_with(build, listeners, config, &[]).await;
    details(port, "[-]dead 0/1 healthy").await;
    sidecar.agrees(port, 503).await;

    let begun = Instant::now();
    let mut lines = causes(&sidecar.envoy);
    while lines.len() < 1 + CHANGES {
        sidecar.outage();
        details(port, "[-]c 0/1 healthy").await;
        sidecar.recovery().await;
        details(port, "[+]c 1/1 healthy").await;
        lines = causes(&sidecar.envoy);
        let passed = begun.elapsed();
        let most = 2 + passed.as_secs() as usize / 10;
        assert!(lines.len() <= most, "{lines:#?} after {passed:?}");
        // Three of them need twenty seconds and more.
        let limit = 2 * e2e::DEADLINE;
        assert!(passed < limit, "{lines:#?} after {passed:?}");
    }
    let mut all = lines.iter();
    let dead = all.all(|line| line.contains("dead 0/1 healthy"));
    assert!(dead, "{lines:#?}");
    // Each says another cause than the one before.
    for (nth, line) in lines.iter().enumerate() {
        assert_eq!(line.contains("c 0/1"), nth % 2 == 1, "{lines:#?}");
    }
}

/// One host after the other stops: it is the same cluster that fails. Then another one fails too.
async fn the_same_clusters_with_other_hosts_are_not_logged_again(build: Build) {
    let port = free_port();
    let rule = json!({"name": "three", "min_healthy": 3});
    let listeners = healthz(build, port, json!([rule, "c"]));
    let ports = [(); 3].map(|()| free_port());
    let config = Config::new().cluster(checked("three", &ports));
    let mut hosts = Vec::new();
    for port in ports {
        hosts.push(TcpHost::start(port).await);
    }
    let mut sidecar = Sidecar::start_with(build, listeners, config, &[]).await;
    sidecar.agrees(port, 200).await;
    for left in (0..3).rev() {
        hosts.pop();
        details(port, &format!("[-]three {left}/3 healthy")).await;
    }
    sidecar.agrees(port, 503).await;
    assert_eq!(causes(&sidecar.envoy).len(), 1);
    sidecar.outage();
    until("that c fails is logged", async || {
        Prober::http(port).get("/healthz").await;
        causes(&sidecar.envoy).len() > 1
    })
    .await;
    let lines = causes(&sidecar.envoy);
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].contains("three 2/3 healthy"), "{lines:#?}");
    assert!(lines[1].contains("c 0/1 healthy"), "{lines:#?}");
}

/// Which fault of the admin it is, and what is true once there is none.
#[test]
fn another_fault_of_the_admin_is_logged() {
    timed(another_fault);
}

async fn another_fault() {
    let fields = json!({"max_age_ms": 0, "max_stale_ms": 0, "admin_timeout_ms": 1000});
    let wrong = Does::Answer(500, HEALTHY.to_vec());
    let (envoy, fake) = envoy_with_fake(wrong.clone(), "2", fields).await;
    let probe = async || Prober::http(envoy.port).get("/healthz").await.status;
    let failed = b"c::127.0.0.1:9000::health_flags::/failed_active_hc\n";
    let mut lines = Vec::new();
    for (does, cause) in [
        (wrong, "/clusters answered 500"),
        (Does::Hang, "/clusters did not answer"),
        (Does::Answer(200, failed.to_vec()), "c 0/1 healthy"),
    ] {
        fake.change_to(does);
        until(&format!("{cause:?} is logged"), async || {
            assert_eq!(probe().await, 503);
            lines = causes(&envoy);
            lines.last().is_some_and(|line| line.contains(cause))
        })
        .await;
    }
    assert_eq!(lines.len(), 3, "{lines:#?}");
    fake.change_to(healthy());
    agree(Build::Wasm, &envoy, 200, probe).await;
}
