//! What the demo measured, as text.

use comfy_table::{Table, presets};

use super::region;
use super::visibility::PairDelay;

/// Bars of the histogram: upper bounds in milliseconds above the one-way delay.
const STEPS_MS: [f64; 8] = [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0];

/// Widest bar, in characters.
const BAR_WIDTH: u64 = 40;

/// Quantiles per pair, and what is left of them above the cable's own delay.
pub(crate) fn quantiles(title: &str, delays: &[PairDelay]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["pair", "writes", "one way", "p50", "p99", "max", "p50 − one way", "p99 − one way"]);
    for delay in delays {
        let one_way = region::one_way_ms(delay.source, delay.target);
        let at = |quantile: f64| to_ms(delay.micros.value_at_quantile(quantile));
        table.add_row([
            pair(delay),
            delay.micros.len().to_string(),
            format!("{one_way:.1}"),
            format!("{:.1}", at(0.5)),
            format!("{:.1}", at(0.99)),
            format!("{:.1}", to_ms(delay.micros.max())),
            format!("{:.1}", at(0.5) - one_way),
            format!("{:.1}", at(0.99) - one_way),
        ]);
    }
    format!("{title} (milliseconds)\n{table}\n")
}

/// A histogram per pair of what a write takes beyond the cable's delay.
pub(crate) fn histograms(delays: &[PairDelay]) -> String {
    let mut text = String::new();
    for delay in delays {
        text += &format!("{}: milliseconds beyond the one-way delay\n", pair(delay));
        let one_way_ms = region::one_way_ms(delay.source, delay.target);
        let mut counts = [0; STEPS_MS.len() + 1];
        for value in delay.micros.iter_recorded() {
            let beyond_ms = to_ms(value.value_iterated_to()) - one_way_ms;
            counts[STEPS_MS.partition_point(|step| *step < beyond_ms)] += value.count_at_value();
        }
        let total = delay.micros.len().max(1);
        for (index, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let width = (count * BAR_WIDTH).div_ceil(total);
            let bar = "█".repeat(usize::try_from(width).unwrap_or(0));
            let label = STEPS_MS.get(index).map_or_else(|| "  more".to_owned(), |step| format!("≤ {step:>4}"));
            text += &format!("  {label} {count:>7}  {bar}\n");
        }
    }
    text
}

fn pair(delay: &PairDelay) -> String {
    format!("{} → {}", region::name(delay.source), region::name(delay.target))
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a delay are far below 2^52")]
fn to_ms(micros: u64) -> f64 {
    micros as f64 / 1000.0
}
