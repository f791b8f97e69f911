//! What Envoy's configuration and a file's replacement do to the module alone: lines of
//! `docs/local-replies.md`.

use std::path::Path;

use e2e::config::{Config, cluster, listener_with_routes};
use e2e::envoy::Envoy;
use e2e::module::{self, route};
use e2e::prober::Prober;
use e2e::{Build, free_port, until};
use serde_json::json;

/// The module knows the cluster that a request's route has chosen, and a filter never sees its routes when
/// it is configured.
#[tokio::test]
async fn weighted_clusters_answer_part_of_the_probes_503() {
    let weighted = json!({
        "match": {"path": "/healthz"},
        "route": {"weighted_clusters": {"clusters": [
            {"name": "c", "weight": 50}, {"name": "d", "weight": 50},
        ]}},
    });
    let sure = route("/sure", "c");
    let endpoints = json!([
        {"path": "/healthz", "clusters": ["c"]},
        {"path": "/sure", "clusters": ["c"]},
    ]);
    let filter = Build::Module.filter(&json!({"endpoints": endpoints}));
    let listener = listener_with_routes(free_port(), [filter], vec![weighted, sure]);
    let config = Config::new().listener(listener);
    let config = config.clusters(["c", "d"].map(|name| cluster(name, &[1])));
    let envoy = config.start().await;
    let mut seen = [false; 2];
    until("both answers are seen", async || {
        match envoy.get("/healthz").await.status {
            200 => seen[0] = true,
            503 => seen[1] = true,
            status => panic!("{status}"),
        }
        assert_eq!(envoy.get("/sure").await.status, 200);
        seen == [true, true]
    })
    .await;
}

/// A running Envoy has the file mapped: a new one goes beside it and is moved over it. `cp` cuts the
/// file in use off before it writes.
#[tokio::test]
async fn cp_over_the_loaded_file_ends_envoy_and_mv_does_not() {
    use std::os::unix::process::ExitStatusExt;

    let dir = tempfile::tempdir().unwrap();
    let loaded = dir.path().join("libenvoy_healthz.so");
    let new = dir.path().join("new");
    let built = module::folder().join("libenvoy_healthz.so");
    std::fs::copy(&built, &loaded).unwrap();
    let config = Config::new()
        .cluster(cluster("c", &[1]))
        .listener(Build::Module.listener(free_port(), &json!({})))
        .to_string();
    let variables: [(&str, &Path); 1] = [(module::SEARCH_PATH, dir.path())];
    let start = async || Envoy::start_in(&config, &[], &variables).await;
    let run = |command: &str| {
        let mut command = std::process::Command::new(command);
        assert!(command.arg(&new).arg(&loaded).status().unwrap().success());
    };

    let envoy = start().await;
    envoy.prober.wait_for(200).await;
    std::fs::copy(&built, &new).unwrap();
    run("mv");
    for _ in 0..50 {
        let answer = Prober::http(envoy.port).get("/healthz").await;
        assert_eq!(answer.status, 200);
    }
    drop(envoy);

    let mut envoy = start().await;
    envoy.prober.wait_for(200).await;
    // As far as cp has come with a new file at some moment.
    std::fs::write(&new, &std::fs::read(&built).unwrap()[..4096]).unwrap();
    run("cp");
    until("nobody answers", async || {
        Prober::http(envoy.port).try_get("/healthz").await.is_err()
    })
    .await;
    let signal = envoy.stop().signal();
    let good = matches!(signal, Some(7 | 11));
    assert!(good, "SIGBUS or SIGSEGV: {signal:?}");
}
