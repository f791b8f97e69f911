//! A live backend while Envoy's main thread is busy: its health checks and its admin stand still.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::prober::{Answer, Prober};
use e2e::{TcpHost, free_port};
use reqwest::Method;

use crate::Plan;
use crate::claims::Claim;
use crate::subjects::{Bench, name};

/// Other clusters: a scrape of their stats holds the main thread for more than a second.
pub const OTHERS: usize = 4000;
const SUBJECTS: [&str; 4] = ["built_in", "age_250", "age_0", "background"];
/// A probe of Kubernetes waits one second in all.
const SLOWEST: Duration = Duration::from_millis(500);

/// What one subject's prober saw.
#[derive(Default)]
pub struct Seen {
    pub subject: &'static str,
    pub probes: u64,
    pub wrong: u64,
    pub slowest: Duration,
}

/// What all of them saw, and how long the scrapes took.
pub struct Busy {
    pub seen: Vec<Seen>,
    pub longest_scrape: Duration,
}

/// Probes each subject while three scrapes at once hold the main thread, again and again.
pub async fn measure(plan: &Plan) -> Busy {
    let backend = free_port();
    let _host = TcpHost::start(backend).await;
    let bench = Bench::start(OTHERS, backend, |subject| SUBJECTS.contains(&subject)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let probers: Vec<_> = SUBJECTS
        .iter()
        .map(|subject| tokio::spawn(probe(subject, bench.port(subject), Arc::clone(&stop))))
        .collect();
    let mut longest_scrape = Duration::ZERO;
    for round in 0..plan.rounds {
        let scrape = || async {
            let begun = Instant::now();
            let scrape = bench.envoy.admin.request(Method::GET, "/stats/prometheus");
            let answer = Answer::to(scrape.timeout(Duration::from_secs(60))).await;
            assert!(answer.is_ok_and(|answer| answer.status == 200), "a scrape");
            begun.elapsed()
        };
        let scrapes: [Duration; 3] = tokio::join!(scrape(), scrape(), scrape()).into();
        longest_scrape = scrapes.into_iter().fold(longest_scrape, Duration::max);
        // A scraper comes back after a while, and meanwhile snapshots are renewed.
        let ready = bench.envoy.admin.request(Method::GET, "/ready");
        let _ = Answer::to(ready.timeout(Duration::from_secs(60))).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        eprintln!(
            "bench: busy main thread, round {} of {}",
            round + 1,
            plan.rounds
        );
    }
    stop.store(true, Ordering::Relaxed);
    let mut seen = Vec::new();
    for prober in probers {
        seen.push(prober.await.expect("a prober"));
    }
    Busy {
        seen,
        longest_scrape,
    }
}

/// A probe every 10 ms until it is told to stop.
async fn probe(subject: &'static str, port: u16, stop: Arc<AtomicBool>) -> Seen {
    let prober = Prober::http(port);
    let mut seen = Seen {
        subject,
        ..Seen::default()
    };
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = prober.try_get("/healthz").await;
        seen.slowest = seen.slowest.max(begun.elapsed());
        seen.probes += 1;
        seen.wrong += u64::from(!answer.is_ok_and(|answer| answer.status == 200));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    seen
}

/// That the filter answers 200 all the time, and soon.
pub fn claims(busy: &Busy) -> Vec<Claim> {
    let ours = busy.seen.iter().filter(|seen| seen.subject != "built_in");
    ours.map(|seen| Claim {
        what: format!(
            "main thread busy for up to {:.1} s, {OTHERS} other clusters, backend up: {}",
            busy.longest_scrape.as_secs_f64(),
            name(&crate::subjects::SUBJECTS, seen.subject)
        ),
        limit: format!(
            "no wrong answer, slowest probe at most {} ms",
            SLOWEST.as_millis()
        ),
        found: format!(
            "{} of {} wrong, slowest {} ms",
            seen.wrong,
            seen.probes,
            seen.slowest.as_millis()
        ),
        met: seen.probes > 0 && seen.wrong == 0 && seen.slowest <= SLOWEST,
        timed: true,
    })
    .collect()
}
