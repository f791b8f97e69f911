//! What a trap in the VM does, by `make trap`'s build: it traps at a probe `/healthz?trap`, and at
//! an admin's reply of 599.

use std::time::{Duration, Instant};

use e2e::config::{Config, listener, manager};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin, healthy};
use e2e::prober::{Prober, probe_at_once};
use e2e::{Build, free_port, root, timed, until};
use serde_json::{Value, json};

/// Longer than Envoy's `reload_config.backoff`: 1 s by default, and some jitter.
const BACKOFF: Duration = Duration::from_secs(3);

/// An Envoy with one worker, and the same filter on two listeners: on the first for every route, on
/// the second for `/healthz` alone.
struct Trapping {
    envoy: Envoy,
    fake: FakeAdmin,
    everywhere: Prober,
    one_route: Prober,
}

impl Trapping {
    async fn start(policy: &str, workers: &str, fields: Value) -> Self {
        let path = root().join("target/trap/wasm32-wasip1/wasm/envoy_healthz.wasm");
        assert!(path.exists(), "{path:?} is missing: run make trap");
        let fake = FakeAdmin::start(healthy()).await;
        let mut config = json!({"admin_timeout_ms": 60000, "max_age_ms": 0});
        let fields = fields.as_object().expect("fields").clone();
        config.as_object_mut().expect("an object").extend(fields);
        let mut filter = Build::Wasm.filter(&config);
        filter["typed_config"]["config"]["failure_policy"] = json!(policy);
        filter["typed_config"]["config"]["vm_config"]["code"]["local"]["filename"] = json!(path);
        let (everywhere, one_route) = (free_port(), free_port());
        let mut off = filter.clone();
        off["disabled"] = json!(true);
        let mut one = listener(one_route, [off]);
        let routes = &mut manager(&mut one)["route_config"]["virtual_hosts"][0]["routes"];
        let route = json!({
            "match": {"path": "/healthz"}, "direct_response": {"status": 503},
            "typed_per_filter_config": {"envoy-healthz": {
                "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {},
            }},
        });
        routes.as_array_mut().expect("routes").insert(0, route);
        let mut all = listener(everywhere, [filter]);
        // What bounds the wait of the probes that a trap has made the filter forget.
        manager(&mut all)["stream_idle_timeout"] = json!("3s");
        let config = Config::new().fake_admin(fake.port).listeners([all, one]);
        Self {
            envoy: config.start_with(&["--concurrency", workers]).await,
            fake,
            everywhere: Prober::http(everywhere),
            one_route: Prober::http(one_route),
        }
    }

    /// Probes the way into the trap.
    async fn trap(&self) {
        let traps = self.traps();
        assert_eq!(self.everywhere.get("/healthz?trap").await.status, 503);
        until("it traps", async || self.traps() > traps).await;
    }

    fn traps(&self) -> usize {
        self.envoy.logged(&["failed: Uncaught RuntimeError"]).len()
    }

    async fn statuses(&self, path: &str) -> (u16, u16) {
        let everywhere = self.everywhere.get(path).await.status;
        (everywhere, self.one_route.get(path).await.status)
    }
}

#[test]
fn fail_reload_makes_a_new_vm() {
    timed(fail_reload);
}

async fn fail_reload() {
    let trapping = Trapping::start("FAIL_RELOAD", "1", json!({})).await;
    assert_eq!(trapping.statuses("/healthz").await, (200, 200));
    // Envoy makes no new machine before the last one is a second and some jitter old.
    tokio::time::sleep(BACKOFF).await;
    trapping.trap().await;
    // The next request has the new machine: no probe after the one that trapped is harmed.
    let begun = Instant::now();
    assert_eq!(trapping.everywhere.get("/healthz").await.status, 200);
    println!("200 again {:?} after the trap", begun.elapsed());
    assert_eq!(trapping.statuses("/other").await, (418, 418));

    // Another trap at once: until the second machine is old enough, probes are answered 503.
    trapping.trap().await;
    let trapped = Instant::now();
    let status = trapping.everywhere.get("/healthz").await.status;
    // On a machine that was held up it is old enough by now.
    if begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(status, 503);
    }
    assert_eq!(trapping.one_route.get("/other").await.status, 418);
    trapping.everywhere.wait_for(200).await;
    println!("200 again {:?} after a second trap", trapped.elapsed());
    assert_eq!(trapping.statuses("/healthz").await, (200, 200));
}

#[tokio::test]
async fn fail_closed_stays_closed() {
    let trapping = Trapping::start("FAIL_CLOSED", "1", json!({})).await;
    assert_eq!(trapping.statuses("/healthz").await, (200, 200));
    trapping.trap().await;
    // For longer than FAIL_RELOAD would take; traffic without the filter goes on.
    let begun = Instant::now();
    while begun.elapsed() < BACKOFF {
        assert_eq!(trapping.statuses("/healthz").await, (503, 503));
        assert_eq!(trapping.statuses("/other").await, (503, 418));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A trap makes the VM forget who waits; Envoy's `stream_idle_timeout` answers them.
#[test]
fn probes_that_wait_when_it_traps() {
    timed(probes_wait);
}

async fn probes_wait() {
    let trapping = Trapping::start("FAIL_RELOAD", "1", json!({})).await;
    assert_eq!(trapping.statuses("/healthz").await, (200, 200));
    trapping.fake.change_to(Does::Hang);
    let waiting = tokio::spawn(probe_at_once(trapping.everywhere.port, 5));
    let active = "http.e2e.downstream_rq_active";
    trapping.envoy.wait_for_stat(active, 5).await;
    trapping.trap().await;
    trapping.fake.change_to(healthy());
    trapping.everywhere.wait_for(200).await;
    assert_eq!(waiting.await.unwrap(), [503; 5]);
}

/// The worker that refreshes in the background traps: the others go on, and it comes back.
#[tokio::test]
async fn a_trap_in_a_background_refresh() {
    let fields = json!({"max_age_ms": 1000, "refresh_interval_ms": 50, "admin_timeout_ms": 300});
    let trapping = Trapping::start("FAIL_RELOAD", "2", fields).await;
    trapping.everywhere.wait_for(200).await;
    // Every machine that refreshes traps, until none is left that would.
    trapping.fake.change_to(Does::Answer(599, vec![]));
    let prober = trapping.everywhere.clone();
    until("each of three machines has trapped", async || {
        let _ = prober.try_get("/healthz").await;
        trapping.traps() >= 3
    })
    .await;
    trapping.fake.change_to(healthy());
    trapping.everywhere.wait_for(200).await;
    // For longer than max_age_ms, on connections to either worker.
    let begun = Instant::now();
    while begun.elapsed() < BACKOFF {
        trapping.everywhere.wait_for(200).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
