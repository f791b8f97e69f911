//! Envoy's main thread is busy, as scrapes of many stats make it: probes of a live backend are answered
//! 200 in good time all the same, and a backend that stops is found afterwards.

use std::time::{Duration, Instant};

use e2e::config::{Config, cluster, health_check, listener, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::truth::{Probing, Seen};
use e2e::{Build, TcpHost, exchange, free_port, timed, until};
use serde_json::json;
use tokio::task::JoinSet;

both_builds! { a_busy_main_thread_is_no_sick_backend }

const CLUSTERS: usize = 2000;
const ROUNDS: usize = 2;
/// Probes of the wasm build are judged that were sent so soon after the scrapes began: by default
/// `max_stale_ms` is 5 s, and a worker's last snapshot may be more than a second old by then. A slow
/// machine is busy for longer.
const JUDGED: Duration = Duration::from_secs(3);
/// What a probe of the wasm build may take in such a time, beside what the built-in filter takes.
const LIMIT: Duration = Duration::from_millis(500);

/// Three scrapes of all stats at once; how long they took.
async fn scrape(admin: u16) -> Duration {
    let request = b"GET /stats/prometheus HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let begun = Instant::now();
    let mut scrapes = JoinSet::new();
    for _ in 0..3 {
        scrapes.spawn(exchange(admin, request));
    }
    scrapes.join_all().await;
    begun.elapsed()
}

fn longest(probes: &[Seen]) -> Duration {
    let times = probes.iter().map(|probe| probe.came - probe.sent);
    times.max().expect("a probe")
}

/// An Envoy with many clusters and a live backend, and a prober for each row: the last one is of Envoy's own
/// filter.
async fn start(build: Build) -> (Envoy, Vec<(&'static str, Prober)>, TcpHost) {
    let rows = match build {
        Build::Wasm => vec![
            ("on demand", json!({"name": "row_0"})),
            ("max_age_ms 0", json!({"name": "row_1", "max_age_ms": 0})),
            (
                "in the background",
                json!({"name": "row_2", "refresh_interval_ms": 100}),
            ),
        ],
        Build::Module => vec![("the worker's own view", json!({"name": "row_0"}))],
    };
    let (backend, built_in) = (free_port(), free_port());
    let mut checked = with_tcp_check(cluster("c", &[backend]));
    // The checks stand still as well meanwhile, and must not time out for that: no filter could know
    // better.
    checked["health_checks"][0]["timeout"] = json!("600s");
    let others = (0..CLUSTERS).map(|nth| cluster(&format!("other_{nth}"), &[1]));
    let mut config = Config::new().clusters(others).cluster(checked);
    let mut probers = Vec::new();
    for (row, filter) in rows {
        let port = free_port();
        config = config.listener(build.listener(port, &filter));
        probers.push((row, Prober::http(port)));
    }
    config = config.listener(listener(built_in, [health_check("/healthz", "c", 1.0)]));
    probers.push(("built-in", Prober::http(built_in)));
    let host = TcpHost::start(backend).await;
    (config.start().await, probers, host)
}

async fn a_busy_main_thread_is_no_sick_backend(build: Build) {
    timed(async || busy(build).await);
}

async fn busy(build: Build) {
    let (envoy, probers, host) = start(build).await;
    for round in 0..ROUNDS {
        for (_, prober) in &probers {
            prober.wait_for(200).await;
        }
        let probing = probers.iter().map(|(_, prober)| {
            let prober = prober.clone();
            Probing::start(move || prober.clone(), Duration::from_millis(25))
        });
        let (probing, begun): (Vec<_>, _) = (probing.collect(), Instant::now());
        let busy = scrape(envoy.admin.port).await;
        assert!(busy > LIMIT, "the main thread was busy for {busy:?} only");
        let mut seen = Vec::new();
        for probing in probing {
            let mut probes = probing.stop().await;
            if build == Build::Wasm {
                probes.retain(|probe| probe.sent - begun < JUDGED);
            }
            seen.push(probes);
        }
        let built_in = longest(seen.last().expect("the built-in filter"));
        for ((row, _), probes) in probers.iter().zip(&seen) {
            check(build, row, probes, busy, built_in);
            println!(
                "round {round}, busy for {busy:?}: {row}: {:?}",
                longest(probes)
            );
        }
    }

    drop(host);
    until("each has logged it once", async || {
        for (_, prober) in &probers {
            prober.wait_for(503).await;
        }
        // A row that was busy for longer than its snapshot may be used is unhealthy already, and logs
        // another cause.
        let line = "unhealthy: c 0/1 healthy";
        envoy.logged(&[line]).len() == probers.len() - 1
    })
    .await;
}

/// Each was answered 200, soon enough.
fn check(build: Build, row: &str, probes: &[Seen], busy: Duration, built_in: Duration) {
    let count = probes.len();
    assert!(build == Build::Wasm || count > 20, "{row}: {count} probes");
    let statuses: Vec<_> = probes.iter().map(|probe| probe.status).collect();
    let all_good = statuses.iter().all(|status| *status == Some(200));
    assert!(all_good, "{row}: {statuses:?}");
    let limit = match build {
        Build::Wasm => LIMIT + 2 * built_in,
        // One that waited for the main thread would take a third of that time and more.
        Build::Module => busy / 6,
    };
    let longest = longest(probes);
    assert!(longest < limit, "{row}: {longest:?}, beside {built_in:?}");
}
