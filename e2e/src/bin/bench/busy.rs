//! Probes while Envoy's main thread, where its admin and its health checks run, is busy with scrapes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::TcpHost;
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use reqwest::{Method, RequestBuilder, StatusCode};

use crate::Plan;
use crate::statistics::worst;
use crate::subjects::Bench;

pub const SUBJECTS: [&str; 5] = ["built_in", "module", "age_250", "age_0", "background"];

/// How many request `/stats/prometheus` at once.
pub const SCRAPES: usize = 3;

/// What was found in all rounds.
pub struct Busy {
    /// How many other clusters there were.
    pub others: usize,
    /// How long the scrapes of a round took, in seconds.
    pub scrapes: Vec<f64>,
    /// By subject, as in [`SUBJECTS`].
    pub probes: Vec<Probes>,
}

/// The probes of one subject, one after the other, every few milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Probes {
    pub answers: u64,
    /// Not 200: the backend is up.
    pub wrong: u64,
    /// In milliseconds.
    pub slowest: f64,
}

pub async fn measure(plan: &Plan) -> Busy {
    let (_host, backend) = TcpHost::on_free_port().await;
    let others = if plan.quick { 1000 } else { 4000 };
    let bench = Bench::start(others, backend, |subject| SUBJECTS.contains(&subject)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let probers = SUBJECTS.map(|subject| {
        let prober = Prober::http(bench.port(subject));
        tokio::spawn(probe_until(stop.clone(), prober))
    });
    let mut scrapes = Vec::new();
    for round in 0..if plan.quick { 1 } else { 5 } {
        // Scrapers come back after a while: meanwhile snapshots are renewed.
        tokio::time::sleep(Duration::from_secs(1)).await;
        scrapes.push(scrape(&bench.envoy).await);
        plan.progress("a busy main thread", round);
    }
    stop.store(true, Ordering::Relaxed);
    let mut probes = Vec::new();
    for prober in probers {
        probes.push(prober.await.expect("a prober"));
    }
    Busy {
        others,
        scrapes,
        probes,
    }
}

/// Scrapes all at once; gives how long it took until the last had its answer, in seconds.
async fn scrape(envoy: &Envoy) -> f64 {
    let begun = Instant::now();
    let scrapes = [(); SCRAPES].map(|()| {
        let request = envoy.admin.request(Method::GET, "/stats/prometheus");
        tokio::spawn(read(request.timeout(Duration::from_secs(120))))
    });
    for scrape in scrapes {
        assert_eq!(
            scrape.await.expect("a scrape").expect("an answer"),
            StatusCode::OK
        );
    }
    begun.elapsed().as_secs_f64()
}

/// Reads an answer piece by piece and forgets it: a page of 50 MB, read as a whole, would keep from
/// their work the threads that the probers need.
async fn read(request: RequestBuilder) -> reqwest::Result<StatusCode> {
    let mut response = request.send().await?;
    while response.chunk().await?.is_some() {}
    Ok(response.status())
}

async fn probe_until(stop: Arc<AtomicBool>, prober: Prober) -> Probes {
    let mut probes = Probes::default();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = prober.get("/healthz").await;
        let took = begun.elapsed().as_secs_f64() * 1e3;
        probes.answers += 1;
        probes.wrong += u64::from(answer.status != 200);
        probes.slowest = worst([probes.slowest, took]);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    probes
}
