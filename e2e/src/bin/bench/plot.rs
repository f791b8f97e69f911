//! The plots beside it.

use std::path::Path;

use plotters::prelude::*;

use crate::load::{Load, Series, find};
use crate::numbers::median;
use crate::subjects::{OTHERS, SUBJECTS, name};

type Drawn = Result<(), Box<dyn std::error::Error>>;

pub fn all(out: &Path, series: &[Series], delays: &[(&str, Vec<f64>)]) -> Drawn {
    let bars = |connections: usize, of: fn(&Load) -> f64| -> Vec<(&str, Vec<f64>)> {
        SUBJECTS
            .iter()
            .map(|(subject, name)| {
                let values = OTHERS
                    .iter()
                    .map(|&others| {
                        let rounds = &find(series, subject, others, connections).rounds;
                        median(rounds.iter().map(of).collect())
                    })
                    .collect();
                (*name, values)
            })
            .collect()
    };
    let groups = ["no other clusters", "1000 other clusters of 5 hosts"];
    let latency = bars(1, |load| load.p50);
    plot(
        &out.join("latency.svg"),
        "p50 of a probe, one connection, µs (log scale)",
        &latency,
        &groups,
    )?;
    let rate = bars(50, |load| load.per_second);
    plot(
        &out.join("rate.svg"),
        "probes answered a second, 50 connections (log scale)",
        &rate,
        &groups,
    )?;
    let wrong = bars(50, |load| {
        0.1 + 100.0 * load.wrong as f64 / load.answers.max(1) as f64
    });
    plot(
        &out.join("wrong.svg"),
        "wrong answers, 50 connections, % (log scale; 0.1 is none)",
        &wrong,
        &groups,
    )?;
    let delays: Vec<_> = delays
        .iter()
        .map(|(subject, delays)| (name(&SUBJECTS, subject), vec![median(delays.clone())]))
        .collect();
    plot(
        &out.join("detection.svg"),
        "from the backend's stop to the first 503, ms (log scale)",
        &delays,
        &["checks every 100 ms"],
    )
}

/// Horizontal bars on a log scale, a group a row.
fn plot(path: &Path, title: &str, rows: &[(&str, Vec<f64>)], groups: &[&str]) -> Drawn {
    const COLORS: [RGBColor; 2] = [RGBColor(49, 104, 142), RGBColor(253, 141, 60)];
    let height = 90 + 44 * rows.len() as u32;
    let area = SVGBackend::new(path, (860, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let values = || rows.iter().flat_map(|(_, values)| values).copied();
    let (low, high) = (
        values().fold(f64::MAX, f64::min),
        values().fold(0.0, f64::max),
    );
    let range = (low / 2.0..high * 3.0).log_scale();
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(26)
        .y_label_area_size(250)
        .build_cartesian_2d(range, 0.0..rows.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_label_formatter(&|value| format!("{value}"))
        .draw()?;
    let thick = 0.8 / groups.len() as f64;
    for (index, (name, values)) in rows.iter().enumerate() {
        let top = (rows.len() - index) as f64 - 0.1;
        let middle = chart.backend_coord(&(low / 2.0, top - 0.4));
        let style = ("sans-serif", 14).into_font();
        area.draw(&Text::new(name.to_string(), (16, middle.1 - 7), style))?;
        for (group, value) in values.iter().enumerate() {
            let (from, to) = (
                top - thick * group as f64,
                top - thick * (group as f64 + 0.9),
            );
            let bar = Rectangle::new([(low / 2.0, to), (*value, from)], COLORS[group].filled());
            chart.draw_series([bar])?;
            let end = chart.backend_coord(&(*value, (from + to) / 2.0));
            let label = if *value < 10.0 {
                format!("{value:.1}")
            } else {
                format!("{value:.0}")
            };
            area.draw(&Text::new(
                label,
                (end.0 + 4, end.1 - 6),
                ("sans-serif", 12).into_font(),
            ))?;
        }
    }
    if groups.len() > 1 {
        for (group, name) in groups.iter().enumerate() {
            let y = 34 + 15 * group as i32;
            area.draw(&Rectangle::new(
                [(600, y), (612, y + 10)],
                COLORS[group].filled(),
            ))?;
            area.draw(&Text::new(
                name.to_string(),
                (618, y),
                ("sans-serif", 12).into_font(),
            ))?;
        }
    }
    area.present()?;
    Ok(())
}
