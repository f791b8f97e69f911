//! `make rehearsal`: what each way of answering `/healthz` costs callers behind a load balancer.
//!
//! Plays every event with every way, and writes docs/rehearsal.md and a timeline of one run.

use std::fmt::Write as _;
use std::time::Duration;

use e2e::rehearsal::{Answers, Course, Event, play};
use e2e::root;
use plotters::prelude::*;

const ANSWERS: [(Answers, &str); 4] = [
    (Answers::Filter, "envoy-healthz"),
    (Answers::Grpc, "its native module, asked by gRPC"),
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
    let mut timelines = Vec::new();
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
            if event == Event::Hang {
                timelines.push((who, course));
            }
        }
    }
    let docs = root().join("docs");
    std::fs::create_dir_all(&docs).expect("docs can be made");
    std::fs::write(docs.join("rehearsal.md"), table).expect("the table can be written");
    plot(&docs.join("rehearsal.svg"), &timelines).expect("the timeline can be drawn");
}

/// A band a way: the pod's place in the pool, and each failed call.
fn plot(
    path: &std::path::Path,
    timelines: &[(&str, Course)],
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(path, (860, 90 + 90 * timelines.len() as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let last = timelines
        .iter()
        .filter_map(|(_, course)| course.pool.last());
    let end = last.map(|(time, _)| time.as_secs_f64()).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "a hung backend: in the pool (blue) or out (grey), and failed calls (red)",
            ("sans-serif", 16),
        )
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(120)
        .build_cartesian_2d(0.0..end, 0.0..timelines.len() as f64)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .y_labels(0)
        .x_desc("seconds")
        .draw()?;
    for (index, (who, course)) in timelines.iter().enumerate() {
        let base = (timelines.len() - index - 1) as f64;
        let (_, y) = chart.backend_coord(&(0.0, base + 0.5));
        area.draw(&Text::new(
            who.to_string(),
            (14, y - 7),
            ("sans-serif", 14).into_font(),
        ))?;
        for looks in course.pool.windows(2) {
            let color = if looks[0].1[0] {
                RGBColor(49, 104, 142)
            } else {
                RGBColor(200, 200, 200)
            };
            let (from, to) = (looks[0].0.as_secs_f64(), looks[1].0.as_secs_f64());
            let band = Rectangle::new([(from, base + 0.2), (to, base + 0.45)], color.filled());
            chart.draw_series([band])?;
        }
        let failed = course.calls.iter().filter(|(_, good)| !good);
        chart.draw_series(failed.map(|(time, _)| {
            let time = time.as_secs_f64();
            PathElement::new(
                [(time, base + 0.5), (time, base + 0.8)],
                RED.stroke_width(2),
            )
        }))?;
        for mark in course.marks {
            let time = mark.as_secs_f64();
            chart.draw_series([PathElement::new(
                [(time, base + 0.1), (time, base + 0.9)],
                BLACK,
            )])?;
        }
    }
    area.present()?;
    Ok(())
}
