//! Listeners that are replaced and removed while they are used: no crash, no probe without an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::config::{Lds, bootstrap, cluster, listener, listener_with_filters};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::truth::Seen;
use e2e::{eventually, free_port, module};
use serde_json::{Value, json};

fn ours(port: u16, path: &str) -> Value {
    let filter = module::filter(&json!({"endpoints": [{"path": path, "clusters": ["c"]}]}));
    module::with_network_filter(listener(port, filter))
}

async fn taken(envoy: &Envoy, version: u64) {
    eventually("the update is taken", async || {
        let updates = envoy.stat("listener_manager.lds.update_success").await;
        (updates > version).then_some(())
    })
    .await;
}

/// The filter is replaced, taken out and put back under load, so that its module is opened and closed
/// again and again while workers are in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_and_removed_under_load() {
    let (admin, port, steady) = (free_port(), free_port(), free_port());
    let clusters = vec![cluster("c", &[("127.0.0.1", 1)])];
    let mut config = bootstrap(admin, vec![], clusters);
    let without = |port: u16| listener_with_filters(port, vec![]);
    let lds = Lds::add_to(&mut config, vec![ours(port, "/healthz"), without(steady)]);
    let arguments = ["--drain-time-s", "1"];
    let envoy = Envoy::start_text(&config.to_string(), admin, &arguments).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = [port, steady]
        .into_iter()
        .map(|port| {
            let stop = Arc::clone(&stop);
            let ask = Seen::keep_asking(move || Prober::http(port), Duration::ZERO, stop);
            tokio::spawn(ask)
        })
        .collect();
    for version in 1..12 {
        let listener = match version % 3 {
            0 => ours(port, "/healthz"),
            1 => without(port),
            _ => ours(port, "/readyz"),
        };
        lds.replace(version, vec![listener, without(steady)]);
        taken(&envoy, version).await;
        let path = if version % 3 == 2 {
            "/readyz"
        } else {
            "/healthz"
        };
        let expected = if version % 3 == 1 { 418 } else { 200 };
        eventually("the new listener is used", async || {
            let answer = Prober::http(port).try_get(path).await.ok()?;
            (answer.status == expected).then_some(())
        })
        .await;
    }
    // All listeners go, and with them the last configuration that names the module.
    lds.replace(12, vec![without(steady)]);
    taken(&envoy, 12).await;
    eventually("the old listeners are gone", async || {
        let draining = envoy
            .stat("listener_manager.total_listeners_draining")
            .await;
        (draining == 0).then_some(())
    })
    .await;
    lds.replace(13, vec![ours(port, "/healthz"), without(steady)]);
    taken(&envoy, 13).await;
    Prober::http(port).wait_for(200).await;
    stop.store(true, Ordering::Relaxed);
    for answers in load {
        let answers = answers.await.unwrap();
        assert!(answers.len() > 20, "only {} answers", answers.len());
        for answer in &answers {
            // While there is no listener, or it goes, there is no answer.
            assert!(
                matches!(answer.status, None | Some(200 | 418)),
                "{answer:?}"
            );
        }
    }
}

/// A refused update leaves the old listener as it was; an endpoint that is gone leaves no gauge.
#[tokio::test]
async fn stats_and_records_of_what_is_replaced() {
    let (admin, port) = (free_port(), free_port());
    // Unhealthy: an alert would stay.
    let mut config = bootstrap(admin, vec![], vec![cluster("c", &[])]);
    let lds = Lds::add_to(&mut config, vec![ours(port, "/healthz")]);
    let arguments = ["--drain-time-s", "1"];
    let envoy = Envoy::start_text(&config.to_string(), admin, &arguments).await;
    Prober::http(port).wait_for(503).await;
    let shown = async |path: &str| {
        let name = format!("healthz.healthy.filter.default.path.{path}: 0");
        envoy.admin.get("/stats").await.body.contains(&name)
    };
    assert!(shown("/healthz").await);

    lds.replace(1, vec![ours(port, "healthz")]);
    eventually("the bad update is refused", async || {
        let rejected = envoy.stat("listener_manager.lds.update_rejected").await;
        (rejected == 1).then_some(())
    })
    .await;
    let line = "envoy-healthz: endpoints[0].path: must start with '/', got \"healthz\"";
    assert!(!envoy.logged(&[line]).is_empty());
    assert_eq!(Prober::http(port).get("/healthz").await.status, 503);

    // The same filter in a listener that is new: nothing has changed, so nothing is logged, and the
    // gauge is there once the new one has been asked.
    let mut changed = ours(port, "/healthz");
    changed["per_connection_buffer_limit_bytes"] = json!(65536);
    lds.replace(2, vec![changed]);
    taken(&envoy, 1).await;
    let gone = async || {
        eventually("the old listener is gone", async || {
            let draining = envoy
                .stat("listener_manager.total_listeners_draining")
                .await;
            (draining == 0).then_some(())
        })
        .await;
    };
    gone().await;
    Prober::http(port).wait_for(503).await;
    assert!(shown("/healthz").await);
    let line = "envoy-healthz[default]: /healthz is unhealthy";
    assert_eq!(envoy.logged(&[line]).len(), 1);

    lds.replace(3, vec![ours(port, "/readyz")]);
    taken(&envoy, 2).await;
    gone().await;
    eventually("the new endpoint is asked", async || {
        let answer = Prober::http(port).try_get("/readyz").await.ok()?;
        (answer.status == 503).then_some(())
    })
    .await;
    assert!(shown("/readyz").await);
    eventually("the gauge of what is gone goes", async || {
        (!shown("/healthz").await).then_some(())
    })
    .await;
}
