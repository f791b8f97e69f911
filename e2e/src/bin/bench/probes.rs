//! Probes: each subject under one connection and under fifty, round by round.

use e2e::{TcpHost, free_port};

use crate::Plan;
use crate::load::{Series, unmeasured};
use crate::subjects::{ALONE, Bench, SUBJECTS};

pub async fn measure(plan: &Plan, others: usize) -> Vec<Series> {
    let backend = free_port();
    let _host = TcpHost::start(backend).await;
    let together = Bench::start(others, backend, |subject| !ALONE.contains(&subject)).await;
    let background = Bench::start(others, backend, |subject| subject == "background").await;
    let mut all = unmeasured(&SUBJECTS, others);
    for round in 0..plan.rounds {
        for series in &mut all {
            // The claim about fifty probes is one about three seconds.
            let seconds = plan.seconds + u32::from(series.connections > 1 && !plan.quick);
            let load = match series.subject {
                "lua" => {
                    let script = Bench::start(others, backend, |subject| subject == "lua").await;
                    let load = script.load("lua", series.connections, seconds).await;
                    script.envoy.kill();
                    load
                }
                "background" => {
                    background
                        .load("background", series.connections, seconds)
                        .await
                }
                subject => together.load(subject, series.connections, seconds).await,
            };
            series.rounds.push(load);
        }
        eprintln!(
            "bench: {others} other clusters, round {} of {}",
            round + 1,
            plan.rounds
        );
    }
    all
}
