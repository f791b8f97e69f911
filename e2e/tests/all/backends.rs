//! The rows of the fault matrix in which the backend fails, or its cluster is taken away: what the
//! filter says, and Envoy's own filter beside it. A cluster that resolves to nothing, has no host
//! or is warming is in `judgement.rs`.

use std::time::Duration;

use e2e::backend::Backend;
use e2e::config::{Config, cluster, host, with_grpc_check, with_tcp_check};
use e2e::pair::{Pair, one_of, rule};
use e2e::truth::{Probing, Sampler};
use e2e::xds::{Cds, Eds};
use e2e::{Build, TcpHost, free_port, timed, until};
use serde_json::json;

both_builds! {
    refused_and_hung,
    flapping_every_100_ms,
    removed_and_added_again_by_cds,
    hosts_removed_and_added_again_by_eds,
    a_thousand_hosts,
}

async fn refused_and_hung(build: Build) {
    timed(async || stops_and_hangs(build).await);
}

async fn stops_and_hangs(build: Build) {
    let port = free_port();
    let mut cluster = with_grpc_check(cluster("backend", &[port]));
    // So that it is soon seen to hang.
    cluster["health_checks"][0]["timeout"] = json!("1s");
    let config = Config::new().cluster(cluster);
    let pair = Pair::start(build, [one_of("backend")], config).await;
    let follows = async |flags, status| pair.follows("backend", flags, status).await;
    follows("/failed_active_hc", 503).await;
    let backend = Backend::start(port).await;
    follows("healthy", 200).await;
    backend.hang();
    follows("/failed_active_hc/active_hc_timeout", 503).await;
    backend.go_on();
    follows("healthy", 200).await;
    backend.kill();
    follows("/failed_active_hc", 503).await;
}

/// Stops and starts every 100 ms, as fast as the checks come: some answer is right at any time, and
/// it is the one that Envoy would give.
async fn flapping_every_100_ms(build: Build) {
    timed(async || flapping(build).await);
}

async fn flapping(build: Build) {
    let port = free_port();
    let config = Config::new().cluster(with_tcp_check(cluster("healthz", &[port])));
    let pair = Pair::start(build, [one_of("healthz")], config).await;
    let sampler = Sampler::start(pair.built_in.clone()).await;
    // One alone: probes that wait at the same time share a call that one of them has sent before.
    let prober = pair.ours.clone();
    let probing = Probing::start(move || prober.clone(), Duration::from_millis(3));
    for _ in 0..50 {
        let host = TcpHost::start(port).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(host);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let answers = probing.stop().await;
    let truth = sampler.stop().await;
    let changes = truth.changes();
    assert!(changes >= 10, "only {changes} changes were seen");
    let max_age = match build {
        Build::Wasm => Duration::ZERO,
        // Workers learn of a change a moment after the gauges that the built-in filter reads.
        Build::Module => Duration::from_millis(50),
    };
    assert_eq!(truth.judge(answers, max_age).fault(), None);
}

async fn removed_and_added_again_by_cds(build: Build) {
    let (_live, live) = TcpHost::on_free_port().await;
    let given = with_tcp_check(cluster("given", &[live]));
    let mut cds = Cds::new(vec![given.clone()]);
    let pair = Pair::start(build, [one_of("given")], Config::new().cds(&cds)).await;
    for round in 1..4 {
        pair.follows("given", "healthy", 200).await;
        cds.set("given", None);
        until("it is removed", async || {
            pair.envoy.stat("cluster_manager.cluster_removed").await >= round
        })
        .await;
        pair.check("given", 503, 503, None).await;
        cds.set("given", Some(given.clone()));
    }
    pair.follows("given", "healthy", 200).await;
}

async fn hosts_removed_and_added_again_by_eds(build: Build) {
    let (_live, live) = TcpHost::on_free_port().await;
    let eds = Eds::new("eds", &[]);
    let config = Config::new().cluster(eds.cluster());
    let pair = Pair::start(build, [one_of("eds")], config).await;
    for _ in 0..3 {
        eds.replace(&[host(live, "HEALTHY")]);
        pair.follows("eds", "healthy", 200).await;
        eds.replace(&[]);
        let hosts = "cluster.eds.membership_total";
        pair.envoy.wait_for_stat(hosts, 0).await;
        pair.check("eds", 503, 503, None).await;
    }
}

/// All thousand are counted: one that fails, the last or another, makes the difference.
async fn a_thousand_hosts(build: Build) {
    let hosts = |failed: Option<u16>| -> Vec<_> {
        let status = |port| match failed == Some(port) {
            true => "UNHEALTHY",
            false => "HEALTHY",
        };
        (1..=1000).map(|port| host(port, status(port))).collect()
    };
    let eds = Eds::new("eds", &hosts(None));
    let rules = [
        ("all", json!(1000), 100.0),
        ("percent", json!("100%"), 100.0),
        ("most", json!(999), 99.0),
    ];
    let rules = rules.map(|(path, min_healthy, percent)| {
        let of = json!({"name": "eds", "min_healthy": min_healthy});
        rule(path, json!({"clusters": [of]}), percent)
    });
    let pair = Pair::start(build, rules, Config::new().cluster(eds.cluster())).await;
    for failed in [None, Some(1), Some(1000), None, Some(500)] {
        eds.replace(&hosts(failed));
        let healthy = 1000 - u64::from(failed.is_some());
        let shown = "cluster.eds.membership_healthy";
        pair.envoy.wait_for_stat(shown, healthy).await;
        let status = if failed.is_some() { 503 } else { 200 };
        pair.check("all", status, status, None).await;
        pair.check("percent", status, status, None).await;
        pair.check("most", 200, 200, None).await;
    }
}
