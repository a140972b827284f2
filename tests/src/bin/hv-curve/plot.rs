//! The curve as a picture.

use crate::Point;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use std::path::Path;
use tests::curve::{Between, Plan, wilson};

const SIZE: (u32, u32) = (900, 560);
/// One colour for each number of instances that are told late: three, two, one.
const COLOURS: [(usize, RGBColor); 3] =
    [(3, RGBColor(0, 90, 160)), (2, RGBColor(200, 90, 0)), (1, RGBColor(110, 110, 110))];
const ALONE: RGBColor = RGBColor(180, 0, 40);
const TOGETHER: RGBColor = RGBColor(0, 140, 70);
/// Lines for different numbers of instances stand a little apart, so that their error bars can be
/// seen.
const APART: f64 = 1.06;

/// Draws shares of lost runs over delays, with their confidence intervals.
///
/// # Errors
/// The file cannot be written.
pub fn draw(file: &Path, points: &[Point], plan: &Plan, frr: &str) -> Result<()> {
    paint(file, points, plan, frr).map_err(|e| anyhow!("{}: {e}", file.display()))
}

fn paint(file: &Path, points: &[Point], plan: &Plan, frr: &str) -> Result<(), Box<dyn std::error::Error>> {
    let delays = points.iter().filter_map(delay).map(|(delay, _)| delay);
    let most = delays.fold(10.0, f64::max) * 1.5;
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            format!("The lost re-announcement: three {frr} told things late ({} runs a point)", plan.runs),
            ("sans-serif", 20),
        )
        .margin(12)
        .x_label_area_size(50)
        .y_label_area_size(64)
        .build_cartesian_2d((0.7..most).log_scale(), 0.0..100.0)?;
    chart
        .configure_mesh()
        .x_desc("greatest delay, ms (logarithmic)")
        .y_desc("runs after which the neighbour lacks the route, % (bars: 95 % confidence)")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .max_light_lines(0)
        .label_style(("sans-serif", 16))
        .draw()?;
    let interval = f64::from(plan.interval_s) * 1_000.0;
    chart
        .draw_series(LineSeries::new([(interval, 0.0), (interval, 100.0)], BLACK.mix(0.3)))?
        .label(format!("the advertisement interval, {} s", plan.interval_s))
        .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], BLACK.mix(0.3)));
    let flat = |between: fn(&Between) -> bool| points.iter().find(|p| between(&p.between)).map(|p| p.share() * 100.0);
    let alone = flat(|b| *b == Between::Alone).map(|share| (share, ALONE, "one FRR alone"));
    let together = flat(|b| matches!(b, Between::Behind { delay_ms: 0, .. }));
    let together = together.map(|share| (share, TOGETHER, "three, told everything at once"));
    for (share, colour, words) in [alone, together].into_iter().flatten() {
        let line = [(0.7, share), (most, share)];
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(1)))?
            .label(words)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour));
    }
    for (late, colour) in COLOURS {
        let apart = APART.powi(2 - late as i32);
        let of: Vec<_> =
            points.iter().filter_map(|p| delay(p).filter(|(_, n)| *n == late).map(|d| (d.0 * apart, p))).collect();
        if of.is_empty() {
            continue;
        }
        chart
            .draw_series(LineSeries::new(of.iter().map(|(x, p)| (*x, p.share() * 100.0)), colour.stroke_width(2)))?
            .label(format!("three, {late} of them late"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
        chart.draw_series(of.iter().map(|(x, p)| Circle::new((*x, p.share() * 100.0), 3, colour.filled())))?;
        chart.draw_series(of.iter().map(|(x, p)| {
            let (low, high) = wilson(p.lost, p.runs);
            PathElement::new([(*x, low * 100.0), (*x, high * 100.0)], colour.stroke_width(1))
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .label_font(("sans-serif", 16))
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

/// The delay of a point, and of how many instances; none where there is no delay.
fn delay(point: &Point) -> Option<(f64, usize)> {
    match point.between {
        Between::Behind { delay_ms, delayed } if delay_ms > 0 => Some((delay_ms.into(), delayed)),
        _ => None,
    }
}
