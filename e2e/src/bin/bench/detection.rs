//! From the backend's stop to the first 503 of each subject.

use std::time::{Duration, Instant};

use e2e::prober::Prober;
use e2e::{DEADLINE, TcpHost, free_port};

use crate::Plan;
use crate::subjects::Bench;

/// The built-in filter comes first: it shows Envoy's own detection.
pub const DETECTORS: [&str; 6] = [
    "built_in",
    "module",
    "age_0",
    "age_250",
    "background",
    "lua",
];

/// How long each took, in milliseconds, a number a round.
pub async fn measure(plan: &Plan) -> Vec<(&'static str, Vec<f64>)> {
    let backend = free_port();
    let mut host = Some(TcpHost::start(backend).await);
    let bench = Bench::start(0, backend, |subject| DETECTORS.contains(&subject)).await;
    let mut delays = DETECTORS.map(|subject| (subject, Vec::new()));
    for round in 0..plan.rounds {
        for (_, port) in &bench.ports {
            Prober::http(*port).wait_for(200).await;
        }
        let pollers = DETECTORS.map(|subject| tokio::spawn(first_503(bench.port(subject))));
        // Snapshots and health checks are of another age each round. A second change within a second, the
        // default update_merge_window, would reach the workers late: their calls and the module's answers.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1200..1600))).await;
        let stopped = Instant::now();
        drop(host.take());
        for (poller, (_, delays)) in pollers.into_iter().zip(&mut delays) {
            let seen = poller.await.expect("a poller");
            delays.push(seen.saturating_duration_since(stopped).as_secs_f64() * 1e3);
        }
        host = Some(TcpHost::start(backend).await);
        plan.progress("the backend stops", round);
    }
    delays.into()
}

async fn first_503(port: u16) -> Instant {
    let (prober, begun) = (Prober::http(port), Instant::now());
    while prober.get("/healthz").await.status != 503 {
        assert!(begun.elapsed() < DEADLINE, "the stop is not seen");
    }
    Instant::now()
}
