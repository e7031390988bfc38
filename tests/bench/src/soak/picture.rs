//! What was measured, as a picture: a strip for each quantity, one below the other, over the same time.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::quantity::{QUANTITIES, Quantity, Sample};

/// In pixels.
const WIDTH: u32 = 900;
const STRIP: u32 = 100;
const MOST_POINTS: usize = 400;
const FONT: &str = "sans-serif";
const LINE: RGBColor = RGBColor(31, 119, 180);
const WARM_UP: RGBColor = RGBColor(238, 238, 238);

/// An SVG document; the warm-up, a part of the whole, is grey.
pub(super) fn draw(samples: &[Sample], warm_up: f64) -> Result<String> {
    let mut svg = String::new();
    let height = STRIP * u32::try_from(QUANTITIES.len())?;
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        for ((index, quantity), area) in QUANTITIES.iter().enumerate().zip(root.split_evenly((QUANTITIES.len(), 1))) {
            strip(&area, quantity, &points(samples, index), warm_up)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

fn strip<DB: DrawingBackend>(
    area: &DrawingArea<DB, plotters::coord::Shift>,
    quantity: &Quantity,
    points: &[(f64, f64)],
    warm_up: f64,
) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let end = points.last().map_or(1.0, |(minute, _)| *minute);
    // Zero is always in sight: what looks steep would else be noise.
    let top = points.iter().map(|(_, value)| *value).fold(1.0, f64::max) * 1.1;
    let comma = if quantity.unit.is_empty() { "" } else { ", " };
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{}{comma}{}", quantity.name, quantity.unit), (FONT, 13))
        .margin(4)
        .margin_right(20)
        .x_label_area_size(18)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..end, 0.0..top)
        .map_err(failed)?;
    let grey = Rectangle::new([(0.0, 0.0), (end * warm_up, top)], WARM_UP.filled());
    chart.draw_series([grey]).map_err(failed)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(0)
        .x_labels(10)
        .y_labels(4)
        .label_style((FONT, 11))
        .draw()
        .map_err(failed)?;
    chart.draw_series(LineSeries::new(points.iter().copied(), LINE.stroke_width(1))).map_err(failed)?;
    Ok(())
}

/// Minutes and values. Of more samples than there is room for, the largest of each few: a peak stays in sight.
fn points(samples: &[Sample], index: usize) -> Vec<(f64, f64)> {
    let few = samples.len().div_ceil(MOST_POINTS).max(1);
    let point = |few: &[Sample]| {
        let minute = few.first()?.at.as_secs_f64() / 60.0;
        let most = few.iter().filter_map(|sample| sample.values.get(index).copied()).reduce(f64::max)?;
        Some((minute, most))
    };
    samples.chunks(few).filter_map(point).collect()
}

fn failed(error: impl std::error::Error) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_quantity_has_its_strip() {
        let sample = |second| Sample { at: Duration::from_secs(second), values: [1.0; QUANTITIES.len()] };
        let svg = draw(&[sample(1), sample(60), sample(120)], 0.2).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for quantity in &QUANTITIES {
            assert!(svg.contains(quantity.name), "{}", quantity.name);
        }
        assert_eq!(svg.matches("stroke=\"#1F77B4\"").count(), QUANTITIES.len());
        // Nothing was measured: a picture without lines, and no panic.
        assert!(draw(&[], 0.2).unwrap().contains("open cases"));
    }

    #[test]
    fn a_peak_stays_in_sight_in_a_long_soak() {
        let sample = |second: u32| Sample {
            at: Duration::from_secs(second.into()),
            values: [if second == 1_234 { 99.0 } else { 1.0 }; QUANTITIES.len()],
        };
        let points = points(&(1..=3_600).map(sample).collect::<Vec<_>>(), 3);
        assert!(points.len() <= MOST_POINTS, "{}", points.len());
        assert_eq!(points.iter().filter(|(_, value)| *value > 1.0).count(), 1);
    }
}
