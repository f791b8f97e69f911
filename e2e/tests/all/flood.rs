//! Fifty probers and a backend that stops and starts at random: no answer is wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::config::{bootstrap, cluster, health_check, listener, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::truth::{Sampler, Seen};
use e2e::{Build, TcpHost, free_port};
use serde_json::json;
use tokio::task::JoinSet;

both_builds! { no_answer_is_wrong_while_the_backend_stops_and_starts }

const LENGTH: Duration = Duration::from_secs(60);
const MAX_AGE: Duration = Duration::from_millis(250);
const STOPS: u32 = 5;
const PROBERS: usize = 50;

async fn no_answer_is_wrong_while_the_backend_stops_and_starts(build: Build) {
    let (admin, ours, built_in, backend) = (free_port(), free_port(), free_port(), free_port());
    let filter = json!({
        "max_age_ms": MAX_AGE.as_millis() as u64,
        "endpoints": [{"path": "/healthz", "clusters": ["c"]}],
    });
    let listeners = vec![
        build.listener(ours, &filter),
        listener(built_in, [health_check("/healthz", "c", 1.0)]),
    ];
    let hosts = vec![with_tcp_check(cluster("c", &[backend]))];
    let envoy = Envoy::start(&bootstrap(admin, listeners, hosts).to_string(), &[]).await;

    let begun = Instant::now();
    let sampler = Sampler::start(Prober::http(built_in)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut probers = JoinSet::new();
    for _ in 0..PROBERS {
        let (prober, pause) = (Prober::http(ours), Duration::from_millis(15));
        let prober = move || prober.clone();
        probers.spawn(Seen::keep_asking(prober, pause, Arc::clone(&stop)));
    }
    // Times that differ from run to run, and make up the whole length.
    for _ in 0..STOPS {
        let host = TcpHost::start(backend).await;
        let share = Duration::from_millis(fastrand::u64(3000..8000));
        tokio::time::sleep(share).await;
        drop(host);
        tokio::time::sleep((LENGTH / STOPS).saturating_sub(share)).await;
    }
    stop.store(true, Ordering::Relaxed);

    let answers = probers.join_all().await.concat();
    let truth = sampler.stop().await;
    let changes = truth.changes();
    assert!(
        changes >= 2 * STOPS as usize - 1,
        "only {changes} changes were seen"
    );
    let count = answers.len();
    assert!(count > 10 * PROBERS, "only {count} answers");
    assert_eq!(truth.judge(answers, MAX_AGE).fault(), None);

    println!("{count} answers, {changes} changes, none wrong");
    if build == Build::Wasm {
        let mut refreshes = 0;
        for result in ["succeeded", "failed"] {
            let labels = [("filter", "default"), ("result", result)];
            refreshes += envoy.stat(&build.stat("refreshes", &labels)).await;
        }
        let most = 2 * (begun.elapsed().as_millis() / MAX_AGE.as_millis() + 1);
        println!("{refreshes} refreshes, {most} allowed");
        assert!(u128::from(refreshes) <= most);
    }
}
