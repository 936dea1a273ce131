//! Latency by percentile as a picture: the axis is the distance to 100 %, halved at each step, so that the tail has room.

use plotters::prelude::*;

use super::case::to_f64;
use super::latency::Latency;

const SIZE: (u32, u32) = (1000, 600);
/// Up to 99.9999 %.
const NINES_MAX: f64 = 6.0;
const COLORS: [RGBColor; 8] = [
    RGBColor(0x1b, 0x6c, 0xa8),
    RGBColor(0xd9, 0x5f, 0x02),
    RGBColor(0x1b, 0x9e, 0x77),
    RGBColor(0x75, 0x70, 0xb3),
    RGBColor(0xe7, 0x29, 0x8a),
    RGBColor(0x66, 0xa6, 0x1e),
    RGBColor(0xa6, 0x76, 0x1d),
    RGBColor(0x44, 0x44, 0x44),
];

/// Draws each curve under its name. The error says what the drawing library did not like.
pub(crate) fn draw(title: &str, curves: &[(String, &Latency)]) -> Result<String, String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        plot(&root, title, curves).map_err(|error| error.to_string())?;
        root.present().map_err(|error| error.to_string())?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type DrawError<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn plot<'a>(root: &Area<'a>, title: &str, curves: &[(String, &Latency)]) -> Result<(), DrawError<'a>> {
    root.fill(&WHITE)?;
    let series: Vec<(&str, Vec<(f64, f64)>)> = curves
        .iter()
        .map(|(name, latency)| (name.as_str(), points(latency)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let values = || series.iter().flat_map(|(_, points)| points.iter().map(|(_, micros)| *micros));
    let low = values().fold(f64::INFINITY, f64::min).clamp(0.01, 1e9) / 1.5;
    let high = values().fold(0.0, f64::max).clamp(low * 10.0, 1e10) * 1.5;
    let mut chart = ChartBuilder::on(root)
        .caption(title, ("sans-serif", 20))
        .margin(15)
        .x_label_area_size(45)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..NINES_MAX, (low..high).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("latency, microseconds")
        .x_labels(7)
        .x_label_formatter(&|nines| percentile_label(*nines))
        .y_label_formatter(&|micros| micros_label(*micros))
        .draw()?;
    for (index, (name, points)) in series.into_iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK)
        .draw()?;
    Ok(())
}

/// From a histogram: nines of the percentile, and microseconds.
fn points(latency: &Latency) -> Vec<(f64, f64)> {
    let histogram = latency.histogram();
    let steps = histogram.iter_quantiles(20).take_while(|step| step.quantile() < 1.0);
    let points = steps.map(|step| (-(1.0 - step.quantile()).log10(), to_f64(step.value_iterated_to()) / 1e3));
    points.filter(|(nines, micros)| *nines <= NINES_MAX && *micros > 0.0).collect()
}

fn percentile_label(nines: f64) -> String {
    let percentile = 100.0 * (1.0 - 10f64.powf(-nines));
    // One digit per nine behind the second.
    let decimals = if nines < 2.5 {
        0
    } else if nines < 3.5 {
        1
    } else if nines < 4.5 {
        2
    } else if nines < 5.5 {
        3
    } else {
        4
    };
    format!("{percentile:.decimals$}")
}

fn micros_label(micros: f64) -> String {
    if micros >= 1.0 { format!("{micros:.0}") } else { format!("{micros}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_is_drawn_and_the_text_is_one_picture() {
        let mut latency = Latency::default();
        for micros in 1..=10_000 {
            latency.record(micros * 1000, 1);
        }
        let empty = Latency::default();
        let curves = [("the log".to_owned(), &latency), ("<floor>".to_owned(), &latency), ("none".to_owned(), &empty)];
        let text = draw("latency & percentile", &curves).expect("drawn");
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        assert!(text.contains("the log") && text.contains("&lt;floor&gt;") && !text.contains("<floor>"));
        assert!(text.matches("<polyline").count() >= 2, "{text}");
        assert!(draw("nothing", &[]).expect("drawn").ends_with("</svg>\n"));
    }

    #[test]
    fn labels_count_nines() {
        assert_eq!([0.0, 1.0, 2.0, 3.0, 5.0].map(percentile_label), ["0", "90", "99", "99.9", "99.999"]);
    }
}
