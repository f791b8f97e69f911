//! Fifty probers and a backend that stops and starts at random.
//!
//! What is right is what Envoy itself knew at some moment from `max_age_ms` before the probe until
//! its answer. Envoy's own health_check filter, which reads that knowledge at every request, is
//! sampled beside: an answer is wrong if no sample of that time, nor the one before or after,
//! agrees with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::config::{bootstrap, cluster, health_check, healthz, listener, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::{TcpHost, free_port};
use serde_json::json;

const LENGTH: Duration = Duration::from_secs(60);
const MAX_AGE: Duration = Duration::from_millis(250);
const STOPS: u32 = 5;
const PROBERS: usize = 50;

/// A status, when it was asked for and when it came.
#[derive(Debug, Clone, Copy)]
struct Seen {
    asked: Instant,
    came: Instant,
    status: u16,
}

async fn keep_asking(prober: Prober, pause: Duration, stop: Arc<AtomicBool>) -> Vec<Seen> {
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let status = prober.get("/healthz").await.status;
        let came = Instant::now();
        seen.push(Seen {
            asked,
            came,
            status,
        });
        tokio::time::sleep(pause).await;
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_wrong_while_the_backend_flaps() {
    let (admin, ours, built_in, backend) = (free_port(), free_port(), free_port(), free_port());
    let filter = healthz(&json!({
        "admin_cluster": "local_admin",
        "max_age_ms": MAX_AGE.as_millis() as u64,
        "endpoints": [{"path": "/healthz", "clusters": ["c"]}],
    }));
    let listeners = vec![
        listener(ours, filter),
        listener(built_in, health_check("/healthz", "c", 1.0)),
    ];
    let hosts = vec![with_tcp_check(cluster("c", &[("127.0.0.1", backend)]))];
    let envoy = Envoy::start(&bootstrap(admin, listeners, hosts), admin).await;

    let begun = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let ask = |port, pause| {
        let pause = Duration::from_millis(pause);
        tokio::spawn(keep_asking(Prober::http(port), pause, Arc::clone(&stop)))
    };
    let samples = ask(built_in, 2);
    let probers: Vec<_> = (0..PROBERS).map(|_| ask(ours, 15)).collect();
    // Times that differ from run to run, and make up the whole length.
    let mut seed = std::process::id();
    for _ in 0..STOPS {
        let host = TcpHost::start(backend).await;
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let share = Duration::from_millis(u64::from(seed >> 16) % 5000 + 3000);
        tokio::time::sleep(share).await;
        drop(host);
        tokio::time::sleep((LENGTH / STOPS).saturating_sub(share)).await;
    }
    stop.store(true, Ordering::Relaxed);

    let samples = samples.await.unwrap();
    let turns = samples
        .windows(2)
        .filter(|two| two[0].status != two[1].status)
        .count();
    assert!(
        turns >= 2 * STOPS as usize - 1,
        "only {turns} turns were seen"
    );
    let mut answers = 0;
    for prober in probers {
        for answer in prober.await.unwrap() {
            answers += 1;
            let from = answer.asked - MAX_AGE;
            let first = samples
                .partition_point(|sample| sample.came < from)
                .saturating_sub(1);
            let last = samples.partition_point(|sample| sample.asked <= answer.came);
            let known = &samples[first..(last + 1).min(samples.len())];
            let right = known.iter().any(|sample| sample.status == answer.status);
            assert!(right, "{answer:?} is wrong beside {known:?}");
        }
    }
    assert!(answers > 10 * PROBERS, "only {answers} answers");

    let refreshes = envoy
        .stat("wasmcustom.envoy_healthz.refreshes.succeeded")
        .await
        + envoy
            .stat("wasmcustom.envoy_healthz.refreshes.failed")
            .await;
    let most = 2 * (begun.elapsed().as_millis() / MAX_AGE.as_millis() + 1);
    assert!(
        u128::from(refreshes) <= most,
        "{refreshes} refreshes, {most} allowed"
    );
    println!("{answers} answers, {turns} turns, {refreshes} refreshes, none wrong");
}
