//! Probes of each subject, with and without other clusters.

use e2e::TcpHost;

use crate::Plan;
use crate::load::{Series, in_any_order, unmeasured};
use crate::subjects::{Bench, SUBJECTS};

/// How many clusters there are that no endpoint has.
pub const OTHERS: [usize; 2] = [0, 1000];

/// Those that have an Envoy of their own, for they work while nobody probes them; the script a new one
/// each round: with a thousand clusters it leaves minutes of work on the main thread.
const ALONE: [&str; 2] = ["background", "lua"];

pub async fn measure(plan: &Plan) -> Vec<Series> {
    let mut series = Vec::new();
    for others in OTHERS {
        series.extend(measure_with(plan, others).await);
    }
    series
}

async fn measure_with(plan: &Plan, others: usize) -> Vec<Series> {
    let (_host, backend) = TcpHost::on_free_port().await;
    let together = Bench::start(others, backend, |subject| !ALONE.contains(&subject)).await;
    let background = Bench::start(others, backend, |subject| subject == "background").await;
    let mut all = unmeasured(&SUBJECTS, others);
    for round in 0..plan.rounds {
        for series in in_any_order(&mut all) {
            let seconds = plan.seconds(series.connections);
            let load = match series.subject {
                "lua" => {
                    let script = Bench::start(others, backend, |subject| subject == "lua").await;
                    let load = script.load("lua", series.connections, seconds).await;
                    script.envoy.kill();
                    load
                }
                "background" => {
                    let subject = series.subject;
                    background.load(subject, series.connections, seconds).await
                }
                subject => together.load(subject, series.connections, seconds).await,
            };
            series.rounds.push(load);
        }
        plan.progress(&format!("{others} other clusters"), round);
    }
    all
}
