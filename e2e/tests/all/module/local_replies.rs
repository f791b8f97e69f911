//! What Envoy's configuration and a file's replacement do to the module alone: lines of
//! `docs/local-replies.md`.

use std::path::Path;

use e2e::config::{bootstrap, cluster, listener_with_routes};
use e2e::envoy::Envoy;
use e2e::module::{self, route};
use e2e::prober::Prober;
use e2e::{Build, eventually, free_port};
use serde_json::json;

use crate::Served;

/// The module knows the cluster that a request's route has chosen, and a filter never sees its routes when
/// it is configured.
#[tokio::test]
async fn weighted_clusters_answer_part_of_the_probes_503() {
    module::folder();
    let (admin, port) = (free_port(), free_port());
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
    let filter = module::filter(&json!({"endpoints": endpoints}));
    let listener = listener_with_routes(port, vec![filter], vec![weighted, sure]);
    let clusters = ["c", "d"].map(|name| cluster(name, &[1]));
    let config = bootstrap(admin, vec![listener], clusters.into());
    let served = Served::of(&config, admin, port).await;
    let mut seen = [false; 2];
    eventually("both answers are seen", async || {
        match served.prober.get("/healthz").await.status {
            200 => seen[0] = true,
            503 => seen[1] = true,
            status => panic!("{status}"),
        }
        assert_eq!(served.prober.get("/sure").await.status, 200);
        (seen == [true, true]).then_some(())
    })
    .await;
}

/// A running Envoy has the file mapped: a new one goes beside it and is moved over it. `cp` cuts the
/// file in use off before it writes.
#[tokio::test]
async fn cp_over_the_loaded_file_ends_envoy_and_mv_does_not() {
    use std::os::unix::process::ExitStatusExt;

    let dir = tempfile::tempdir().unwrap();
    let (loaded, new) = (
        dir.path().join("libenvoy_healthz.so"),
        dir.path().join("new"),
    );
    let built = module::folder().join("libenvoy_healthz.so");
    std::fs::copy(&built, &loaded).unwrap();
    let (admin, port) = (free_port(), free_port());
    let config = json!({"endpoints": [{"path": "/healthz", "clusters": ["c"]}]});
    let listeners = vec![Build::Module.listener(port, &config)];
    let clusters = vec![cluster("c", &[1])];
    let config = bootstrap(admin, listeners, clusters).to_string();
    let variables: [(&str, &Path); 1] = [(module::SEARCH_PATH, dir.path())];
    let start = async || Envoy::start_in(&config, &[], &variables).await;
    let run = |command: &str| {
        let mut command = std::process::Command::new(command);
        assert!(command.arg(&new).arg(&loaded).status().unwrap().success());
    };

    let envoy = start().await;
    let prober = Prober::http(port);
    prober.wait_for(200).await;
    std::fs::copy(&built, &new).unwrap();
    run("mv");
    for _ in 0..50 {
        assert_eq!(Prober::http(port).get("/healthz").await.status, 200);
    }
    drop(envoy);

    let mut envoy = start().await;
    Prober::http(port).wait_for(200).await;
    // As far as cp has come with a new file at some moment.
    std::fs::write(&new, &std::fs::read(&built).unwrap()[..4096]).unwrap();
    run("cp");
    eventually("nobody answers", async || {
        Prober::http(port).try_get("/healthz").await.err()
    })
    .await;
    let signal = envoy.stop().signal();
    assert!(
        matches!(signal, Some(7 | 11)),
        "SIGBUS or SIGSEGV: {signal:?}"
    );
}
