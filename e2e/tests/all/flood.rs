//! Fifty probers and a backend that stops and starts at random: no answer is wrong.

use std::time::{Duration, Instant};

use e2e::config::{Config, cluster, health_check, listener, with_tcp_check};
use e2e::prober::Prober;
use e2e::truth::{Probing, Sampler};
use e2e::{Build, TcpHost, free_port, timed};
use serde_json::json;

both_builds! { no_answer_is_wrong_while_the_backend_stops_and_starts }

const LENGTH: Duration = Duration::from_secs(60);
const MAX_AGE: Duration = Duration::from_millis(250);
const STOPS: u32 = 5;
const PROBERS: usize = 50;

async fn no_answer_is_wrong_while_the_backend_stops_and_starts(build: Build) {
    timed(async || flood(build).await);
}

async fn flood(build: Build) {
    let (ours, built_in, backend) = (free_port(), free_port(), free_port());
    let filter = json!({"max_age_ms": MAX_AGE.as_millis() as u64});
    let config = Config::new()
        .cluster(with_tcp_check(cluster("c", &[backend])))
        .listener(build.listener(ours, &filter))
        .listener(listener(built_in, [health_check("/healthz", "c", 1.0)]));
    let envoy = config.start().await;

    let begun = Instant::now();
    let sampler = Sampler::start(Prober::http(built_in)).await;
    let start = |_| {
        let prober = Prober::http(ours);
        Probing::start(move || prober.clone(), Duration::from_millis(15))
    };
    let probing: Vec<_> = (0..PROBERS).map(start).collect();
    // Times that differ from run to run, and make up the whole length.
    for _ in 0..STOPS {
        let host = TcpHost::start(backend).await;
        let share = Duration::from_millis(fastrand::u64(3000..8000));
        tokio::time::sleep(share).await;
        drop(host);
        tokio::time::sleep((LENGTH / STOPS).saturating_sub(share)).await;
    }
    let mut answers = Vec::new();
    for probing in probing {
        answers.extend(probing.stop().await);
    }
    let truth = sampler.stop().await;
    let (count, changes) = (answers.len(), truth.changes());
    println!("{count} answers, {changes} changes");
    assert!(changes >= 2 * STOPS as usize - 1, "only {changes} changes");
    assert!(count > 10 * PROBERS, "only {count} answers");
    assert_eq!(truth.judge(answers, MAX_AGE).fault(), None);

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
