//! Listeners that are replaced and removed while they are used: no crash, no probe without an answer.

use std::time::Duration;

use e2e::config::{Config, cluster, listener};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin, HEALTHY, healthy};
use e2e::prober::{Prober, probe_at_once};
use e2e::truth::Probing;
use e2e::xds::Lds;
use e2e::{Build, free_port, until};
use serde_json::{Value, json};
use tokio::sync::watch;

both_builds! {
    replaced_and_removed_under_load,
    stats_and_records_of_what_is_replaced,
    replaced_listeners_leave_nothing_behind,
}

/// Replaces the listeners, and waits until the old ones are gone.
async fn update(lds: &Lds, envoy: &Envoy, listeners: Vec<Value>) {
    lds.replace(listeners);
    lds.taken(envoy).await;
    let draining = "listener_manager.total_listeners_draining";
    envoy.wait_for_stat(draining, 0).await;
}

fn ours(build: Build, port: u16, path: &str) -> Value {
    let endpoints = json!([{"path": path, "clusters": ["c"]}]);
    build.listener(
        port,
        &json!({"admin_timeout_ms": 30000, "endpoints": endpoints}),
    )
}

/// The filter is replaced, taken out and put back under load, so that its module is opened and closed
/// again and again while workers are in it.
async fn replaced_and_removed_under_load(build: Build) {
    let (port, steady) = (free_port(), free_port());
    let healthz = || ours(build, port, "/healthz");
    let without = |port| listener(port, []);
    let lds = Lds::new(vec![healthz(), without(steady)]);
    let config = Config::new().cluster(cluster("c", &[1])).lds(&lds);
    let envoy = config.start_with(&["--drain-time-s", "1"]).await;
    let probe = |port| Probing::start(move || Prober::http(port), Duration::ZERO);
    let load = [port, steady].map(probe);
    let rows = [
        ("/healthz", 418, without(port)),
        ("/readyz", 200, ours(build, port, "/readyz")),
        ("/healthz", 200, healthz()),
    ];
    for (path, status, listener) in rows.iter().cycle().take(11) {
        lds.replace(vec![listener.clone(), without(steady)]);
        lds.taken(&envoy).await;
        until("the new listener is used", async || {
            let answer = Prober::http(port).try_get(path).await;
            answer.is_ok_and(|answer| answer.status == *status)
        })
        .await;
    }
    // All listeners go, and with them the last configuration that names the module.
    update(&lds, &envoy, vec![without(steady)]).await;
    lds.replace(vec![healthz(), without(steady)]);
    lds.taken(&envoy).await;
    Prober::http(port).wait_for(200).await;
    for probing in load {
        let answers = probing.stop().await;
        assert!(answers.len() > 20, "only {} answers", answers.len());
        for answer in &answers {
            // While there is no listener, or it goes, there is no answer.
            let good = matches!(answer.status, None | Some(200 | 418));
            assert!(good, "{answer:?}");
        }
    }
}

/// A refused update leaves the old listener as it was; an endpoint that is gone leaves no gauge.
async fn stats_and_records_of_what_is_replaced(build: Build) {
    let port = free_port();
    let lds = Lds::new(vec![ours(build, port, "/healthz")]);
    // Unhealthy: an alert would stay.
    let config = Config::new().cluster(cluster("c", &[])).lds(&lds);
    let envoy = config.start_with(&["--drain-time-s", "1"]).await;
    Prober::http(port).wait_for(503).await;
    // An alert looks for this 0. The wasm build's gauges cannot go: they become 1.
    let alarm = async |path: &str, expected: bool| {
        let gauge = build.stat("healthy", &[("filter", "default"), ("path", path)]);
        until(&format!("{gauge} is 0: {expected}"), async || {
            let stats = envoy.admin.get("/stats").await.body;
            stats.contains(&format!("{gauge}: 0\n")) == expected
        })
        .await;
    };
    alarm("/healthz", true).await;

    lds.replace(vec![ours(build, port, "healthz")]);
    let rejected = "listener_manager.lds.update_rejected";
    envoy.wait_for_stat(rejected, 1).await;
    let line = "envoy-healthz: endpoints[0].path: must start with '/', got \"healthz\"";
    assert!(!envoy.logged(&[line]).is_empty());
    assert_eq!(Prober::http(port).get("/healthz").await.status, 503);

    // The same filter in a listener that is new: nothing has changed, so nothing is logged, and the
    // gauge is there once the new one has been probed.
    let mut changed = ours(build, port, "/healthz");
    changed["per_connection_buffer_limit_bytes"] = json!(65536);
    update(&lds, &envoy, vec![changed]).await;
    Prober::http(port).wait_for(503).await;
    alarm("/healthz", true).await;
    let line = "envoy-healthz[default]: /healthz is unhealthy";
    assert_eq!(envoy.logged(&[line]).len(), 1);

    update(&lds, &envoy, vec![ours(build, port, "/readyz")]).await;
    until("the new endpoint is answered", async || {
        let answer = Prober::http(port).try_get("/readyz").await;
        answer.is_ok_and(|answer| answer.status == 503)
    })
    .await;
    alarm("/readyz", true).await;
    alarm("/healthz", false).await;
}

/// Listeners that were replaced leave no tick behind that wakes Envoy for nothing, and little memory,
/// though all of them answered probes on both workers.
async fn replaced_listeners_leave_nothing_behind(build: Build) {
    const SETTLED: u64 = 20;
    const LAST: u64 = 60;
    /// In bytes. Envoy 1.40.0 keeps 2.1 KB of these two listeners if their filter does nothing, and
    /// about 4 more of each distinct configuration: it never forgets the keys of shared records. The
    /// two snapshots themselves, were they kept, are 25 KB.
    const KEPT: u64 = 12288;
    let ports = [free_port(), free_port()];
    let listeners = |version: u64| {
        // No two configurations are the same.
        let rule = json!({"name": "c", "min_healthy": 1 + version});
        let endpoints = json!([{"path": "/healthz", "clusters": [rule]}]);
        let plain = json!({"admin_timeout_ms": 30_000, "max_age_ms": 0, "endpoints": endpoints});
        let mut refreshed = plain.clone();
        refreshed["max_age_ms"] = json!(1000);
        // Like the first one, the last one does not refresh.
        if version > 0 && version < LAST {
            refreshed["refresh_interval_ms"] = json!(50);
        }
        let listeners = [(ports[0], plain), (ports[1], refreshed)];
        listeners
            .map(|(port, filter)| build.listener(port, &filter))
            .to_vec()
    };
    // What workers share of so many hosts would show, were it kept.
    let hosts: Vec<_> = (1..=250).collect();
    let lds = Lds::new(listeners(0));
    let config = Config::new().cluster(cluster("c", &hosts)).lds(&lds);
    let envoy = config.start_with(&["--drain-time-s", "0"]).await;
    let sleeps_in_a_second = async || {
        let before = envoy.sleeps();
        tokio::time::sleep(Duration::from_secs(1)).await;
        envoy.sleeps() - before
    };
    let sleeps = sleeps_in_a_second().await;
    let mut settled = 0;
    for version in 1..=LAST {
        update(&lds, &envoy, listeners(version)).await;
        for port in ports.repeat(8) {
            assert_eq!(Prober::http(port).get("/healthz").await.status, 200);
        }
        if version == SETTLED {
            settled = allocated(&envoy).await;
        }
    }
    until("Envoy sleeps as it did before", async || {
        let now = sleeps_in_a_second().await;
        println!("{sleeps} sleeps in a second before, {now} now");
        now < sleeps + 50
    })
    .await;
    until("its memory is what it was", async || {
        let kept = allocated(&envoy).await.saturating_sub(settled) / (LAST - SETTLED);
        println!("{kept} bytes kept of an update");
        kept < KEPT
    })
    .await;
    if build == Build::Wasm {
        // Envoy drops the stats of a module's filter with it.
        let labels = [("filter", "default"), ("code", "200"), ("path", "/healthz")];
        let probes = envoy.stat(&build.stat("probes", &labels)).await;
        assert_eq!(probes, 16 * LAST, "counters go on");
    }
}

/// The bytes that Envoy has allocated.
async fn allocated(envoy: &Envoy) -> u64 {
    let memory: Value = serde_json::from_str(&envoy.admin.get("/memory").await.body).expect("JSON");
    let allocated = memory["allocated"].as_str().expect("a string");
    allocated.parse().expect("a number")
}

/// The filter's own configuration is replaced while probes wait: all of them are answered.
#[tokio::test]
async fn an_update_of_the_listener_leaves_no_probe_waiting() {
    let fake = FakeAdmin::start(healthy()).await;
    let port = free_port();
    let listeners = |version: u64| {
        let filter = json!({
            "admin_timeout_ms": 30000, "max_stale_ms": 0, "max_age_ms": version,
        });
        vec![Build::Wasm.listener(port, &filter)]
    };
    let lds = Lds::new(listeners(0));
    let envoy = Config::new().fake_admin(fake.port).lds(&lds).start().await;
    Prober::http(port).wait_for(200).await;

    for version in 1..5 {
        let (tell, told) = watch::channel(false);
        fake.change_to(Does::WhenTold(told, HEALTHY.to_vec()));
        // No worker has a snapshot that is young enough.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let waiting = tokio::spawn(probe_at_once(port, 20));
        envoy
            .wait_for_stat("http.e2e.downstream_rq_active", 20)
            .await;
        lds.replace(listeners(version));
        lds.taken(&envoy).await;
        tell.send(true).unwrap();
        assert_eq!(waiting.await.unwrap(), [200; 20], "update {version}");
    }
}
