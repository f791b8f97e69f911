//! How soon a backend's stop is seen.

use std::time::{Duration, Instant};

use e2e::prober::Prober;
use e2e::{DEADLINE, TcpHost, free_port};

use crate::Plan;
use crate::claims::Claim;
use crate::numbers::quantile;
use crate::subjects::Bench;

/// From the backend's stop to the first 503 of each subject, in milliseconds, a list a round.
pub async fn measure(plan: &Plan) -> Vec<(&'static str, Vec<f64>)> {
    let backend = free_port();
    let mut host = Some(TcpHost::start(backend).await);
    let bench = Bench::start(0, backend, |_| true).await;
    let ports = &bench.ports;
    let subjects = ["built_in", "age_0", "age_250", "background", "lua"];
    let mut delays: Vec<_> = subjects
        .iter()
        .map(|subject| (*subject, Vec::new()))
        .collect();
    for _ in 0..plan.rounds {
        for (_, port) in ports {
            Prober::http(*port).wait_for(200).await;
        }
        // A moment in the life of a snapshot that differs from round to round.
        tokio::time::sleep(Duration::from_millis(
            u64::from(std::process::id() % 97) + 130,
        ))
        .await;
        let pollers: Vec<_> = subjects
            .iter()
            .map(|subject| {
                let (_, port) = ports
                    .iter()
                    .find(|(name, _)| name == subject)
                    .expect("a port");
                let prober = Prober::http(*port);
                tokio::spawn(async move {
                    let begun = Instant::now();
                    while prober.get("/healthz").await.status != 503 {
                        assert!(begun.elapsed() < DEADLINE, "the stop is not seen");
                    }
                    Instant::now()
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let stopped = Instant::now();
        drop(host.take());
        for (poller, (_, delays)) in pollers.into_iter().zip(&mut delays) {
            let seen = poller.await.expect("a poller");
            delays.push(seen.saturating_duration_since(stopped).as_secs_f64() * 1e3);
        }
        host = Some(TcpHost::start(backend).await);
    }
    delays
}

/// The first 503 of each subject, measured from that of the built-in filter, which shows Envoy's
/// own detection.
pub fn claims(delays: &[(&str, Vec<f64>)]) -> Vec<Claim> {
    let of = |name: &str| {
        &delays
            .iter()
            .find(|(subject, _)| *subject == name)
            .expect("measured")
            .1
    };
    let detection = of("built_in");
    [("age_0", 0.0), ("age_250", 250.0), ("background", 250.0)]
        .into_iter()
        .map(|(subject, max_age)| {
            let mut later: Vec<f64> = of(subject)
                .iter()
                .zip(detection)
                .map(|(one, other)| one - other)
                .collect();
            let typical = quantile(&mut later, 0.75);
            Claim {
                what: format!(
                    "backend stops: first 503 of {subject} after Envoy's own detection, ms"
                ),
                limit: format!("at most {}", max_age + 100.0),
                found: format!(
                    "{:.0} (at worst {:.0})",
                    quantile(&mut later, 0.5),
                    quantile(&mut later, 1.0)
                ),
                met: typical <= max_age + 100.0,
                timed: true,
            }
        })
        .collect()
}
