//! What the worker's own view is for: it waits for nobody, and knows what the worker's calls know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::config::{
    bootstrap, cluster, listener_with_filters, listener_with_routes, with_tcp_check,
};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin};
use e2e::prober::Prober;
use e2e::{free_port, module};

use crate::judgement::{Eds, endpoint};

/// The main thread is busy for as long as it takes to write the stats of many clusters, three times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_main_thread_delays_no_probe() {
    let mut clusters: Vec<_> = (0..3000)
        .map(|nth| cluster(&format!("other_{nth}"), &[("127.0.0.1", 1)]))
        .collect();
    clusters.push(cluster("c", &[("127.0.0.1", 1)]));
    let (admin, port) = (free_port(), free_port());
    let filter = module::filter_for("c");
    let listener = module::with_network_filter(listener_with_filters(port, vec![filter]));
    let envoy = Envoy::start(&bootstrap(admin, vec![listener], clusters), admin).await;
    Prober::http(port).wait_for(200).await;

    let done = Arc::new(AtomicBool::new(false));
    // On a thread of its own: to take in the scrapes costs this process a while, too.
    let probing = std::thread::spawn({
        let done = Arc::clone(&done);
        move || probe_until(port, &done)
    });
    let started = Instant::now();
    // On a slow machine it may give up waiting; Envoy was busy all the same.
    let scrape = || envoy.admin.try_get("/stats/prometheus");
    let _ = tokio::join!(scrape(), scrape(), scrape());
    let busy = started.elapsed();
    done.store(true, Ordering::Relaxed);
    let (slowest, count) = probing.join().unwrap();
    println!("busy for {busy:?}: {count} probes, the slowest {slowest:?}");
    // A probe that waited for the main thread would take a third of that time and more.
    assert!(count > 20, "{count} probes in {busy:?}");
    assert!(slowest < busy / 6, "a probe took {slowest:?} of {busy:?}");
}

/// How slow the slowest probe was, and how many there were. Every one of them says 200.
fn probe_until(port: u16, done: &AtomicBool) -> (Duration, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let prober = Prober::http(port);
        prober.wait_for(200).await;
        let (mut slowest, mut count) = (Duration::ZERO, 0);
        while !done.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let answer = prober.get("/healthz").await;
            slowest = slowest.max(asked.elapsed());
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
            count += 1;
        }
        (slowest, count)
    })
}

/// New hosts with the default `update_merge_window`, by which workers learn of some of them a second
/// after the admin: whenever a probe says 200, a call through the same worker succeeds.
#[tokio::test]
async fn a_new_host_is_not_announced_before_it_takes_calls() {
    let eds = Eds::new("c", &[]);
    let (admin, port) = (free_port(), free_port());
    let filters = vec![module::filter_for("c")];
    let routes = vec![module::route("/", "c")];
    let listener = module::with_network_filter(listener_with_routes(port, filters, routes));
    let config = bootstrap(admin, vec![listener], vec![with_tcp_check(eds.cluster())]);
    let one_worker = ["--concurrency", "1"];
    let envoy = Envoy::start_text(&config.to_string(), admin, &one_worker).await;
    let prober = Prober::http(port);
    let mut before_us = 0;
    for _ in 0..6 {
        let host = FakeAdmin::start(Does::Answer(200, b"hello".to_vec())).await;
        eds.write(&[endpoint(host.port, "UNKNOWN")]);
        let line = format!("c::127.0.0.1:{}::health_flags::healthy", host.port);
        e2e::eventually("a probe says 200", async || {
            if prober.get("/healthz").await.status == 200 {
                assert_eq!(prober.get("/").await.status, 200, "the first call");
                return Some(());
            }
            let page = envoy.admin.get("/clusters").await.body;
            before_us += usize::from(page.contains(&line));
            None
        })
        .await;
        drop(host);
        eds.write(&[]);
        prober.wait_for(503).await;
    }
    println!("the admin knew of a host {before_us} times before the worker did");
}
