//! Envoy's main thread is busy, as scrapes of many stats make it: probes of a live backend go on being
//! told 200 in good time, and a backend that stops is found afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::config::{bootstrap, cluster, health_check, listener, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::{Build, TcpHost, eventually, free_port};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

both_builds! { a_busy_main_thread_is_no_sick_backend }

const CLUSTERS: usize = 2000;
const ROUNDS: usize = 2;
/// Probes of the wasm build are judged that came so soon after the scrapes began: by default
/// `max_stale_ms` is 5 s, and a worker's last snapshot may be more than a second old by then. A slow
/// machine is busy for longer.
const JUDGED: Duration = Duration::from_secs(3);
/// What a probe of the wasm build may take in such a time, beside what the built-in filter takes.
const LIMIT: Duration = Duration::from_millis(500);

/// A probe: when it came, how long its answer took, and its status if there was one.
struct Probe {
    came: Instant,
    took: Duration,
    status: Option<u16>,
}

async fn keep_probing(prober: Prober, stop: Arc<AtomicBool>) -> Vec<Probe> {
    let mut probes = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let status = prober.try_get("/healthz").await;
        probes.push(Probe {
            came: asked,
            took: asked.elapsed(),
            status: status.ok().map(|answer| answer.status),
        });
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    probes
}

/// Reads all stats, and forgets them.
async fn scrape(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = b"GET /stats/prometheus HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut page = vec![0; 1 << 20];
    while stream.read(&mut page).await.unwrap() > 0 {}
}

async fn a_busy_main_thread_is_no_sick_backend(build: Build) {
    let (admin, backend) = (free_port(), free_port());
    let rows = match build {
        Build::Wasm => vec![
            ("on demand", json!({})),
            ("max_age_ms 0", json!({"max_age_ms": 0})),
            ("in the background", json!({"refresh_interval_ms": 100})),
        ],
        Build::Module => vec![("the worker's own view", json!({}))],
    };
    let filters = rows.len();
    let mut listeners = Vec::new();
    let mut probers = Vec::new();
    for (index, (row, fields)) in rows.into_iter().enumerate() {
        let mut config = fields;
        config["name"] = json!(format!("row_{index}"));
        config["endpoints"] = json!([{"path": "/healthz", "clusters": ["c"]}]);
        let port = free_port();
        listeners.push(build.listener(port, &config));
        probers.push((row, Prober::http(port)));
    }
    let built_in = free_port();
    listeners.push(listener(built_in, health_check("/healthz", "c", 1.0)));
    probers.push(("built-in", Prober::http(built_in)));
    let others = (0..CLUSTERS).map(|nth| cluster(&format!("other_{nth}"), &[("127.0.0.1", 1)]));
    let mut clusters: Vec<_> = others.collect();
    let mut checked = with_tcp_check(cluster("c", &[("127.0.0.1", backend)]));
    // The checks stand still as well meanwhile, and must not time out for that: no filter could know
    // better.
    checked["health_checks"][0]["timeout"] = json!("600s");
    clusters.push(checked);
    let host = TcpHost::start(backend).await;
    let envoy = Envoy::start(&bootstrap(admin, listeners, clusters), admin).await;
    let all_say = async |status: u16| {
        for (row, prober) in &probers {
            eventually(&format!("{row}: {status}"), async || {
                (prober.get("/healthz").await.status == status).then_some(())
            })
            .await;
        }
    };

    for round in 0..ROUNDS {
        all_say(200).await;
        let stop = Arc::new(AtomicBool::new(false));
        let probing: Vec<_> = probers
            .iter()
            .map(|(_, prober)| tokio::spawn(keep_probing(prober.clone(), Arc::clone(&stop))))
            .collect();
        let begun = Instant::now();
        let mut scrapes = JoinSet::new();
        for _ in 0..3 {
            scrapes.spawn(scrape(admin));
        }
        scrapes.join_all().await;
        let busy = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        assert!(busy > LIMIT, "the main thread was busy for {busy:?} only");
        let mut seen = Vec::new();
        for probes in probing {
            let mut probes = probes.await.unwrap();
            if build == Build::Wasm {
                probes.retain(|probe| probe.came - begun < JUDGED);
            }
            seen.push(probes);
        }
        let longest = |probes: &[Probe]| probes.iter().map(|probe| probe.took).max();
        let built_in = longest(seen.last().expect("the built-in filter")).expect("a probe");
        for ((row, _), probes) in probers.iter().zip(&seen) {
            let longest = longest(probes).expect("a probe");
            let count = probes.len();
            assert!(build == Build::Wasm || count > 20, "{row}: {count} probes");
            println!("round {round}, busy for {busy:?}: {row}: {count} probes, {longest:?}");
            let statuses: Vec<_> = probes.iter().map(|probe| probe.status).collect();
            let all_good = statuses.iter().all(|status| *status == Some(200));
            assert!(all_good, "{row}: {statuses:?} in round {round}");
            let limit = match build {
                Build::Wasm => LIMIT + 2 * built_in,
                // One that waited for the main thread would take a third of that time and more.
                Build::Module => busy / 6,
            };
            assert!(longest < limit, "{row}: {longest:?}, beside {built_in:?}");
        }
    }

    drop(host);
    // A row that was busy for longer than its snapshot may be used is unhealthy already, and logs another
    // cause.
    let line = "unhealthy: c 0/1 healthy";
    eventually("each has logged it once", async || {
        all_say(503).await;
        (envoy.logged(&[line]).len() == filters).then_some(())
    })
    .await;
}
