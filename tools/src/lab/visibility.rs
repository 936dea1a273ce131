//! How long a write takes to be readable in another region: writers at a fixed rate, one observer per pair of regions.
//!
//! The clock of a write starts when it was *meant* to be sent (no coordinated omission) and stops when an observer in the
//! other region first reads it, so that both commits, both cables' delay and the observer's own pace are in it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use net::resp::Value;

use super::region::{self, Region};
use super::{LabError, io_error};

/// How often an observer looks.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// How often a writer sends what is due.
const SEND_EVERY: Duration = Duration::from_micros(500);

/// Keys that an observer asks for at once.
const LOOK_AHEAD: usize = 64;

/// Longest delay that is told apart, in microseconds.
const DELAY_US_MAX: u64 = 60_000_000;

/// How long after the last write an observer gives up.
const SEEN_WITHIN: Duration = Duration::from_secs(20);

/// What one region writes in a phase.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// The writing region.
    pub(crate) source: usize,
    /// Begins every key and is in every value; distinct between phases and between runs.
    pub(crate) prefix: String,
    /// Writes.
    pub(crate) count: usize,
    /// Writes per second.
    pub(crate) rate: u32,
}

/// What one pair of regions showed: microseconds, three significant digits.
#[derive(Debug)]
pub(crate) struct PairDelay {
    pub(crate) source: usize,
    pub(crate) target: usize,
    pub(crate) micros: Histogram<u64>,
}

/// The key of the `n`-th write.
pub(crate) fn key(prefix: &str, n: usize) -> String {
    format!("{prefix}:{n:07}")
}

/// The value of the `n`-th write.
pub(crate) fn value(prefix: &str, n: usize) -> String {
    format!("written as number {n} of {prefix}")
}

/// One load while it runs.
struct Running<'a> {
    load: &'a Load,
    began: Instant,
    /// Writes sent so far.
    sent: AtomicU64,
    failed: AtomicBool,
}

impl Running<'_> {
    /// When the `n`-th write is meant to be sent.
    fn due(&self, n: usize) -> Instant {
        let nanos = n as u64 * 1_000_000_000 / u64::from(self.load.rate);
        self.began + Duration::from_nanos(nanos)
    }

    fn sent(&self) -> usize {
        usize::try_from(self.sent.load(Ordering::Acquire)).unwrap_or(usize::MAX)
    }
}

/// Runs all loads at once and observes each from every other region.
///
/// # Errors
/// When a client fails, a write is refused, or a write is not seen in time or earlier than the distance allows.
pub(crate) fn measure(regions: &[Region], loads: &[Load]) -> Result<Vec<PairDelay>, LabError> {
    let began = Instant::now() + Duration::from_millis(100);
    let running: Vec<Running<'_>> = loads
        .iter()
        .map(|load| Running { load, began, sent: AtomicU64::new(0), failed: AtomicBool::new(false) })
        .collect();
    thread::scope(|scope| {
        let mut writers = Vec::new();
        let mut observers = Vec::new();
        for running in &running {
            let source = running.load.source;
            writers.push(scope.spawn(move || {
                let outcome = write(running, &regions[source]);
                running.failed.store(outcome.is_err(), Ordering::Release);
                outcome
            }));
            for target in (0..regions.len()).filter(|target| *target != source) {
                observers.push(scope.spawn(move || observe(running, &regions[target])));
            }
        }
        for writer in writers {
            writer.join().unwrap_or_else(|_| Err(LabError::Failed("a writer panicked".into())))?;
        }
        let panicked = || Err(LabError::Failed("an observer panicked".into()));
        observers.into_iter().map(|observer| observer.join().unwrap_or_else(|_| panicked())).collect()
    })
}

fn write(running: &Running<'_>, region: &Region) -> Result<(), LabError> {
    let load = running.load;
    let lost = || io_error(format!("a writer lost its connection to {}", region::name(load.source)));
    let mut client = region.client()?;
    let mut next = 0;
    while next < load.count {
        let now = Instant::now();
        let first = next;
        while next < load.count && running.due(next) <= now {
            client.queue(&["SET", &key(&load.prefix, next), &value(&load.prefix, next)]);
            next += 1;
        }
        if next > first {
            client.flush().map_err(lost())?;
            running.sent.store(next as u64, Ordering::Release);
            for n in first..next {
                let reply = client.receive().map_err(lost())?;
                if reply != Value::Simple("OK".into()) {
                    let name = region::name(load.source);
                    return Err(LabError::Failed(format!("{name} answered SET {n} with {reply:?}")));
                }
            }
        } else {
            thread::sleep(SEND_EVERY);
        }
    }
    Ok(())
}

fn observe(running: &Running<'_>, region: &Region) -> Result<PairDelay, LabError> {
    let (load, target) = (running.load, region.index());
    let lost = || io_error(format!("an observer lost its connection to {}", region::name(target)));
    let mut client = region.client()?;
    let mut micros =
        Histogram::new_with_bounds(1, DELAY_US_MAX, 3).map_err(|error| LabError::Failed(error.to_string()))?;
    let mut next = 0;
    let mut progress = Instant::now();
    while next < load.count {
        let upto = running.sent().min(next + LOOK_AHEAD);
        if upto > next {
            let mut command = vec!["MGET".to_owned()];
            command.extend((next..upto).map(|n| key(&load.prefix, n)));
            let reply = client.call(&command).map_err(lost())?;
            let now = Instant::now();
            let Value::Array(values) = reply else {
                return Err(LabError::Failed(format!("{} answered MGET with {reply:?}", region::name(target))));
            };
            for found in values.iter().take_while(|found| **found != Value::Null) {
                if *found != Value::Bulk(value(&load.prefix, next).into_bytes()) {
                    let key = key(&load.prefix, next);
                    let name = region::name(target);
                    return Err(LabError::Failed(format!("{name} has {found:?} for {key}")));
                }
                let delay = now.saturating_duration_since(running.due(next));
                if delay.as_secs_f64() * 1000.0 < region::one_way_ms(load.source, target) {
                    let (key, name) = (key(&load.prefix, next), region::name(target));
                    let text = format!("{key} was seen in {name} after {delay:?}, before it can have arrived");
                    return Err(LabError::Failed(text));
                }
                micros.saturating_record(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX));
                next += 1;
                progress = now;
            }
        } else {
            progress = Instant::now();
        }
        if running.failed.load(Ordering::Acquire) {
            return Err(LabError::Failed("a writer failed".into()));
        }
        if progress.elapsed() > SEEN_WITHIN {
            let (source, target) = (region::name(load.source), region::name(target));
            let key = key(&load.prefix, next);
            return Err(LabError::Failed(format!("{key}, written in {source}, was not seen in {target}")));
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(PairDelay { source: load.source, target, micros })
}
