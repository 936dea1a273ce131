//! Histograms in the formats of HdrHistogram's tools.

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::case::to_f64;
use super::latency::Latency;

/// Nanoseconds per unit of the percentile files: they show microseconds.
const HGRM_DIVISOR: f64 = 1e3;
/// Lines per halving of the distance to 100 %, the usual number.
const HGRM_TICKS: u32 = 5;

/// The percentile distribution as HistogramLogProcessor prints it, in microseconds.
pub(crate) fn hgrm(latency: &Latency) -> String {
    let histogram = latency.histogram();
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let mut total = 0;
    for step in histogram.iter_quantiles(HGRM_TICKS) {
        total += step.count_since_last_iteration();
        let value = to_f64(step.value_iterated_to()) / HGRM_DIVISOR;
        let quantile = step.quantile();
        let _ = write!(text, "{value:12.3} {quantile:1.12} {total:10}");
        // The last line, at 100 %, has no such number.
        let _ = if quantile < 1.0 { writeln!(text, " {:14.2}", 1.0 / (1.0 - quantile)) } else { writeln!(text) };
    }
    let scaled = |value: f64| value / HGRM_DIVISOR;
    let (mean, deviation) = if histogram.is_empty() { (0.0, 0.0) } else { (histogram.mean(), histogram.stdev()) };
    let _ = writeln!(text, "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]", scaled(mean), scaled(deviation));
    let _ = writeln!(
        text,
        "#[Max     = {:12.3}, Total count    = {:12}]",
        scaled(to_f64(histogram.max())),
        histogram.len()
    );
    let _ = writeln!(text, "#[Buckets = {:12}, SubBuckets     = {:12}]", histogram.buckets(), 2048);
    text
}

/// One interval: its tag, start and length in seconds since `begin`.
#[derive(Debug)]
pub(crate) struct Interval<'a> {
    pub(crate) tag: &'a str,
    pub(crate) start_s: f64,
    pub(crate) seconds: f64,
    pub(crate) latency: &'a Latency,
}

/// An interval log, format 2. Values are nanoseconds; the maximum column is in milliseconds.
pub(crate) fn hlog(begin: SystemTime, intervals: &[Interval<'_>]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment("[Histogram log format version 1.3]");
    builder.add_comment("walbench: values in nanoseconds, Interval_Max in milliseconds");
    builder.with_start_time(begin).with_base_time(begin).with_max_value_divisor(1e6);
    let mut log = builder.begin_log_with(&mut bytes, &mut serializer)?;
    for interval in intervals {
        log.write_histogram(
            interval.latency.histogram(),
            Duration::from_secs_f64(interval.start_s.max(0.0)),
            Duration::from_secs_f64(interval.seconds.max(0.0)),
            Tag::new(interval.tag),
        )
        .map_err(|error| io::Error::other(format!("{error:?}")))?;
    }
    drop(log);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    fn sample() -> Latency {
        let mut latency = Latency::default();
        for micros in 1..=1000 {
            latency.record(micros * 1000, 1);
        }
        latency
    }

    #[test]
    fn a_percentile_file_rises_to_the_maximum_and_counts_everything() {
        let text = hgrm(&sample());
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_ascii_whitespace().map(|field| field.parse().expect("a number")).collect())
            .collect();
        assert!(rows.len() > 20 && rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1]));
        let last = rows.last().expect("rows");
        assert!((last[1] - 1.0).abs() < 1e-12 && (last[2] - 1000.0).abs() < 1e-9 && last.len() == 3, "{last:?}");
        assert!((last[0] - 1000.0).abs() < 1.0, "{last:?}");
        assert!(text.contains("Total count    =         1000]"), "{text}");
        assert!(hgrm(&Latency::default()).contains("Total count"));
    }

    #[test]
    fn an_interval_log_is_read_back() {
        let sample = sample();
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let intervals = [0.0, 0.5].map(|start_s| Interval { tag: "case-a", start_s, seconds: 0.25, latency: &sample });
        let bytes = hlog(begin, &intervals).expect("written");
        let mut starts = Vec::new();
        for entry in IntervalLogIterator::new(&bytes) {
            match entry.expect("parsed") {
                LogEntry::Interval(interval) => {
                    assert_eq!(interval.tag().expect("tagged").as_str(), "case-a");
                    assert_eq!(interval.duration(), Duration::from_millis(250));
                    let encoded = interval.encoded_histogram();
                    let raw = decode_base64(encoded);
                    let found: Histogram<u64> = Deserializer::new().deserialize(&mut &raw[..]).expect("a histogram");
                    assert_eq!(found.len(), 1000);
                    assert_eq!(found.value_at_quantile(0.5), sample.at(0.5));
                    starts.push(interval.start_timestamp());
                }
                LogEntry::StartTime(time) | LogEntry::BaseTime(time) => assert_eq!(time.as_secs(), 1_700_000_000),
            }
        }
        assert_eq!(starts, [Duration::ZERO, Duration::from_millis(500)]);
    }

    /// The standard alphabet, padded.
    fn decode_base64(text: &str) -> Vec<u8> {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let (mut bits, mut held, mut bytes) = (0u32, 0u32, Vec::new());
        for byte in text.bytes().filter(|byte| *byte != b'=') {
            let value = ALPHABET.iter().position(|known| *known == byte).expect("base64");
            bits = (bits << 6) | u32::try_from(value).expect("below 64");
            held += 6;
            if held >= 8 {
                held -= 8;
                bytes.push(u8::try_from((bits >> held) & 0xff).expect("a byte"));
            }
        }
        bytes
    }
}
