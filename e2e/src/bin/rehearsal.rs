//! `make rehearsal`: what each way of answering `/healthz` costs callers behind a load balancer.
//!
//! Plays every event with every way, and writes docs/dev/rehearsal.md.

use std::fmt::Write as _;
use std::time::Duration;

use e2e::rehearsal::{Answers, Event, play};
use e2e::root;

const ANSWERS: [(Answers, &str); 4] = [
    (Answers::Filter, "envoy-healthz"),
    (Answers::Grpc, "its native module, checked by gRPC"),
    (Answers::Lua, "the Lua script"),
    (Answers::Always, "always 200"),
];

const EVENTS: [(Event, &str); 4] = [
    (Event::Kill, "backend killed for 8 s"),
    (Event::Hang, "backend hung for 8 s"),
    (
        Event::Drain,
        "pod drained: `/healthcheck/fail`, 4 s, SIGTERM",
    ),
    (Event::RollOver, "backend restarted without a drain"),
];

#[tokio::main]
async fn main() {
    let mut table = String::from(
        "# Rehearsal\n\nMade by `make rehearsal`: an Envoy as load balancer, two pods, two callers without \
         pause, calls of at most 1 s. The balancer checks every 0.5 s, `/healthz` or where it says so by \
         `grpc_health_check`, out after 2, in after 1; the \
         sidecars check their backend every 1 s, threshold 2.\n\n\
         | what happens to one pod | answers by | out after | back in after | calls failed |\n|---|---|---|---|---|\n",
    );
    for (event, what) in EVENTS {
        for (answers, who) in ANSWERS {
            let course = play(answers, event).await;
            let seconds = |time: Option<Duration>| {
                time.map_or("never".to_owned(), |time| {
                    format!("{:.1} s", time.as_secs_f64())
                })
            };
            let row = format!(
                "| {what} | {who} | {} | {} | {} of {} |",
                seconds(course.out_after),
                match course.out_after {
                    None => "—".to_owned(),
                    Some(_) => seconds(course.in_after),
                },
                course.failed(),
                course.calls.len()
            );
            println!("{row}");
            let _ = writeln!(table, "{row}");
        }
    }
    let page = root().join("docs/dev/rehearsal.md");
    std::fs::write(page, table).expect("the table can be written");
}
