//! The pictures: horizontal bars on a log scale.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Found;
use crate::load::{Load, find};
use crate::probes::OTHERS;
use crate::subjects::SUBJECTS;

type Drawn = Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A bar for each value, and a value for each group.
type Row<'a> = (&'a str, Vec<f64>);

const COLORS: [RGBColor; 2] = [RGBColor(49, 104, 142), RGBColor(253, 141, 60)];
const GROUPS: [&str; 2] = ["no other clusters", "1000 other clusters of 5 hosts"];

pub fn draw_all(folder: &Path, found: &Found) -> Drawn {
    let rows = |connections: usize, of: fn(&Load) -> f64| -> Vec<Row> {
        let row = |(subject, name)| {
            let values =
                OTHERS.map(|others| find(&found.probes, subject, others, connections).median(of));
            (name, values.into())
        };
        SUBJECTS.into_iter().map(row).collect()
    };
    draw(
        &folder.join("latency.svg"),
        "p50 of a probe, one connection, µs (log scale)",
        &rows(1, |load| load.p50),
        &GROUPS,
    )?;
    draw(
        &folder.join("cpu.svg"),
        "worker's CPU time a probe, 50 connections, µs (log scale)",
        &rows(50, |load| load.cpu),
        &GROUPS,
    )
}

fn draw(path: &Path, title: &str, rows: &[Row], groups: &[&str]) -> Drawn {
    let height = 90 + 44 * rows.len() as u32;
    let area = SVGBackend::new(path, (860, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let values = || rows.iter().flat_map(|(_, values)| values).copied();
    let left = values().fold(f64::MAX, f64::min) / 2.0;
    let right = values().fold(0.0, f64::max) * 3.0;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(26)
        .y_label_area_size(250)
        .build_cartesian_2d((left..right).log_scale(), 0.0..rows.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_labels(6)
        .y_labels(0)
        .x_label_formatter(&|value| format!("{value}"))
        .draw()?;
    let thick = 0.8 / groups.len() as f64;
    for (index, (name, values)) in rows.iter().enumerate() {
        let top = (rows.len() - index) as f64 - 0.1;
        let (_, middle) = chart.backend_coord(&(left, top - 0.4));
        write(&area, name, (16, middle - 7), 14)?;
        for (group, value) in values.iter().enumerate() {
            let from = top - thick * group as f64;
            let to = top - thick * (group as f64 + 0.9);
            let bar = Rectangle::new([(left, to), (*value, from)], COLORS[group].filled());
            chart.draw_series([bar])?;
            let (x, y) = chart.backend_coord(&(*value, (from + to) / 2.0));
            let digits = if *value < 100.0 { 1 } else { 0 };
            write(&area, &format!("{value:.digits$}"), (x + 4, y - 6), 12)?;
        }
    }
    if groups.len() > 1 {
        legend(&area, groups)?;
    }
    area.present()?;
    Ok(())
}

fn legend(area: &Area, groups: &[&str]) -> Drawn {
    for (group, name) in groups.iter().enumerate() {
        let y = 34 + 15 * group as i32;
        let corners = [(600, y), (612, y + 10)];
        area.draw(&Rectangle::new(corners, COLORS[group].filled()))?;
        write(area, name, (618, y), 12)?;
    }
    Ok(())
}

fn write(area: &Area, text: &str, at: (i32, i32), size: i32) -> Drawn {
    let style = ("sans-serif", size).into_font();
    area.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}
