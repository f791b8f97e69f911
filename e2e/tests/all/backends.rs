//! The rows of the fault matrix in which the backend fails, or its cluster is taken away: what the
//! filter says, and Envoy's own filter beside it. A cluster that resolves to nothing, has no host
//! or is warming is in `judgement.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::backend::Backend;
use e2e::config::{cluster, with_grpc_check, with_tcp_check};
use e2e::truth::{Sampler, Seen};
use e2e::{Build, TcpHost, free_port, replace_file};
use serde_json::{Value, json};

use crate::judgement::{Eds, Pair, clusters, endpoint, one_of, rule};

both_builds! {
    refused_and_hung,
    flapping_every_100_ms,
    removed_and_added_again_by_cds,
    hosts_removed_and_added_again_by_eds,
    a_thousand_hosts,
}

/// Waits until the filter says so, and then asks both.
async fn follow(pair: &Pair, cluster: &str, flags: &str, status: u16) {
    pair.wait_for_flags(cluster, flags).await;
    pair.check(cluster, status, status, None).await;
}

async fn refused_and_hung(build: Build) {
    let port = free_port();
    let checked = with_grpc_check(cluster("backend", &[port]));
    let pair = Pair::start(build, vec![one_of("backend")], clusters(vec![checked])).await;
    follow(&pair, "backend", "/failed_active_hc", 503).await;
    let backend = Backend::start(port).await;
    follow(&pair, "backend", "healthy", 200).await;
    backend.hang();
    let timed_out = "/failed_active_hc/active_hc_timeout";
    follow(&pair, "backend", timed_out, 503).await;
    backend.go_on();
    follow(&pair, "backend", "healthy", 200).await;
    backend.kill();
    follow(&pair, "backend", "/failed_active_hc", 503).await;
}

/// Stops and starts every 100 ms, as fast as the checks come: some answer is right at any time, and
/// it is the one that Envoy would give.
async fn flapping_every_100_ms(build: Build) {
    let port = free_port();
    let flapping = with_tcp_check(cluster("healthz", &[port]));
    let pair = Pair::start(build, vec![one_of("healthz")], clusters(vec![flapping])).await;
    let sampler = Sampler::start(pair.built_in.clone()).await;
    let stop = Arc::new(AtomicBool::new(false));
    // One alone: probes that wait at the same time share a call that one of them has sent before.
    let pause = Duration::from_millis(3);
    let prober = pair.ours.clone();
    let prober = move || prober.clone();
    let answers = tokio::spawn(Seen::keep_asking(prober, pause, Arc::clone(&stop)));
    for _ in 0..50 {
        let host = TcpHost::start(port).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(host);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let answers = answers.await.unwrap();
    let truth = sampler.stop().await;
    let changes = truth.changes();
    assert!(changes >= 10, "only {changes} changes were seen");
    // max_age_ms is 0.
    assert_eq!(truth.judge(answers, Duration::ZERO).fault(), None);
}

async fn removed_and_added_again_by_cds(build: Build) {
    let dir = tempfile::tempdir().unwrap();
    let cds = dir.path().join("cds.json");
    let (_live, live) = TcpHost::on_free_port().await;
    let mut given = with_tcp_check(cluster("given", &[live]));
    given["@type"] = json!("type.googleapis.com/envoy.config.cluster.v3.Cluster");
    let write = |version: u64, resources: Vec<Value>| {
        let version = version.to_string();
        replace_file(
            &cds,
            &json!({"version_info": version, "resources": resources}),
        );
    };
    write(0, vec![given.clone()]);
    let pair = Pair::start(build, vec![one_of("given")], |config| {
        config["dynamic_resources"] = json!({"cds_config": {
            "resource_api_version": "V3", "path_config_source": {"path": cds},
        }});
    })
    .await;
    for round in 1..4 {
        follow(&pair, "given", "healthy", 200).await;
        write(2 * round, vec![]);
        let updates = "cluster_manager.cluster_removed";
        e2e::eventually("it is removed", async || {
            (pair.envoy.stat(updates).await >= round).then_some(())
        })
        .await;
        pair.check("given", 503, 503, None).await;
        write(2 * round + 1, vec![given.clone()]);
    }
    follow(&pair, "given", "healthy", 200).await;
}

async fn hosts_removed_and_added_again_by_eds(build: Build) {
    let (_live, live) = TcpHost::on_free_port().await;
    let eds = Eds::new("eds", &[]);
    let pair = Pair::start(build, vec![one_of("eds")], clusters(vec![eds.cluster()])).await;
    for _ in 0..3 {
        eds.write(&[endpoint(live, "HEALTHY")]);
        follow(&pair, "eds", "healthy", 200).await;
        eds.write(&[]);
        e2e::eventually("it has no host", async || {
            let hosts = pair.envoy.stat("cluster.eds.membership_total").await;
            (hosts == 0).then_some(())
        })
        .await;
        pair.check("eds", 503, 503, None).await;
    }
}

/// All thousand are counted: one that fails, the last or another, makes the difference.
async fn a_thousand_hosts(build: Build) {
    let hosts = |failed: Option<u16>| -> Vec<Value> {
        let status = |port| match failed == Some(port) {
            true => "UNHEALTHY",
            false => "HEALTHY",
        };
        (1..=1000)
            .map(|port| endpoint(port, status(port)))
            .collect()
    };
    let eds = Eds::new("eds", &hosts(None));
    let all = json!({"clusters": [{"name": "eds", "min_healthy": 1000}]});
    let percent = json!({"clusters": [{"name": "eds", "min_healthy": "100%"}]});
    let most = json!({"clusters": [{"name": "eds", "min_healthy": 999}]});
    let pair = Pair::start(
        build,
        vec![
            rule("all", all, 100.0),
            rule("percent", percent, 100.0),
            rule("most", most, 99.0),
        ],
        clusters(vec![eds.cluster()]),
    )
    .await;
    for failed in [None, Some(1), Some(1000), None, Some(500)] {
        eds.write(&hosts(failed));
        e2e::eventually("Envoy has taken them", async || {
            let healthy = pair.envoy.stat("cluster.eds.membership_healthy").await;
            (healthy == 1000 - u64::from(failed.is_some())).then_some(())
        })
        .await;
        let status = if failed.is_some() { 503 } else { 200 };
        pair.check("all", status, status, None).await;
        pair.check("percent", status, status, None).await;
        pair.check("most", 200, 200, None).await;
    }
}
