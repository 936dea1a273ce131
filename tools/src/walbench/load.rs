//! Writers inside the log's thread: what a thousand clients of one core are to its log.
//!
//! Each writer has one record outstanding. In a closed loop it appends the next as soon as that one is durable. In an open
//! loop records arrive at a fixed rate whether or not a writer is free; the response time counts from the instant a record
//! was to be sent, the service time from the instant a free writer took it (Tene, "How NOT to measure latency": a closed
//! loop omits exactly the waits that hurt).

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use net::reactor::{Mono, Wait};
use wal::{Lsn, RECORD_HEADER_BYTES};

use super::counters::{Counters, Sources};
use super::driver::{Driver, Stages};
use super::latency::Latency;
use engine::daemon::OsIo;

/// Appends that share one reading of the clock: it costs a quarter of an append.
const APPENDS_PER_READING: u32 = 32;
/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 8;
/// The smallest record that can be asked for.
pub(crate) const RECORD_BYTES_MIN: u32 = 40;
const _: () = assert!(RECORD_BYTES_MIN as usize == RECORD_HEADER_BYTES + KEY_BYTES);
/// Keys that the writers go round, at most; fewer when a segment holds less than two rounds, so that ended segments soon hold
/// nothing that counts.
const KEYS_MAX: u64 = 50_000;
/// Below this distance an arrival is awaited by polling: timers of a halted virtual CPU are late by milliseconds.
const SPIN_BELOW_NS: u64 = 2_000_000;

/// What the writers do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LoadSettings {
    /// Whole records, header included, without padding.
    pub(crate) record_bytes: u32,
    /// A group takes no more than this many bytes; 0: whatever was appended while the commit before it was in flight.
    pub(crate) group_bytes: u64,
    pub(crate) writers: u32,
    /// Records per second in an open loop; a closed loop without.
    pub(crate) rate: Option<f64>,
    pub(crate) segment_bytes: u64,
}

/// Records that were appended together.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    end: Lsn,
    intended: Mono,
    started: Mono,
    count: u32,
}

/// The writers.
#[derive(Debug)]
pub(crate) struct Load {
    settings: LoadSettings,
    value: Vec<u8>,
    keys: u64,
    next_key: u64,
    idle: u32,
    waiting: VecDeque<Waiting>,
    arrivals: Arrivals,
}

/// When records arrive in an open loop: evenly.
#[derive(Clone, Copy, Debug, Default)]
struct Arrivals {
    begin: Mono,
    taken: u64,
    interval_ns: f64,
}

impl Arrivals {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "nanoseconds of a run"
    )]
    fn next(&self) -> Mono {
        Mono(self.begin.0 + (self.taken as f64 * self.interval_ns) as u64)
    }
}

/// What one window of the log gave.
#[derive(Clone, Debug)]
pub(crate) struct LogWindow {
    pub(crate) service: Latency,
    /// Only in an open loop.
    pub(crate) response: Option<Latency>,
    pub(crate) stages: Stages,
    pub(crate) records: u64,
    pub(crate) commits: u64,
    /// Log positions: records with padding, and frame headers.
    pub(crate) logged_bytes: u64,
    /// From the first append to the last acknowledgement.
    pub(crate) seconds: f64,
    pub(crate) counters: Counters,
    /// Arrivals that no writer was free for when the window ended.
    pub(crate) missed: u64,
}

impl Load {
    pub(crate) fn new(settings: LoadSettings) -> Load {
        let value_bytes = settings.record_bytes.saturating_sub(RECORD_BYTES_MIN) as usize;
        let padded = u64::from(settings.record_bytes).next_multiple_of(8);
        Load {
            settings,
            value: vec![b'v'; value_bytes],
            keys: (settings.segment_bytes / (2 * padded)).clamp(1, KEYS_MAX),
            next_key: 0,
            idle: settings.writers,
            waiting: VecDeque::new(),
            arrivals: Arrivals::default(),
        }
    }

    /// Lets the writers write for `time`, then waits until everything is durable.
    pub(crate) fn window<I: OsIo>(
        &mut self,
        driver: &mut Driver<I>,
        time: Duration,
        sources: &Sources,
        interrupted: &AtomicBool,
    ) -> io::Result<LogWindow> {
        driver.stages = Stages::default();
        let (commits, staged) = (driver.commits, driver.log.staged());
        let mut window = LogWindow {
            service: Latency::default(),
            response: self.settings.rate.map(|_| Latency::default()),
            stages: Stages::default(),
            records: 0,
            commits: 0,
            logged_bytes: 0,
            seconds: 0.0,
            counters: Counters::default(),
            missed: 0,
        };
        let before = sources.read();
        let begin = driver.now();
        let end = Mono(begin.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)));
        if let Some(rate) = self.settings.rate {
            self.arrivals = Arrivals { begin, taken: 0, interval_ns: 1e9 / rate };
        }
        loop {
            let now = driver.now();
            let over = now >= end || interrupted.load(Ordering::Relaxed);
            if over && self.waiting.is_empty() {
                break;
            }
            if !over {
                window.records += self.append(driver, now)?;
            }
            driver.commit()?;
            let wait = self.wait(driver, now, end, over);
            let mut committed = driver.poll(wait)?;
            if committed.is_none() && wait == Wait::Now && !over {
                // Completions of direct writes come from a kernel thread, which may need this very CPU.
                std::thread::yield_now();
            }
            while let Some(seen) = committed.take() {
                // What was appended meanwhile goes to the kernel first, as in a node: its clients come back later.
                driver.start_commit()?;
                if driver.is_committing() {
                    committed = driver.poll(Wait::Now)?;
                }
                self.release(driver, seen, &mut window);
            }
        }
        if self.settings.rate.is_some() {
            while self.arrivals.next() < end {
                self.arrivals.taken += 1;
                window.missed += 1;
            }
        }
        window.seconds = seconds(driver.now().since(begin));
        window.counters = sources.read().since(&before);
        window.commits = driver.commits - commits;
        window.logged_bytes = driver.log.staged().0 - staged.0;
        window.stages = std::mem::take(&mut driver.stages);
        Ok(window)
    }

    /// Appends what idle writers have, within the group's limit. How many records it was.
    fn append<I: OsIo>(&mut self, driver: &mut Driver<I>, mut now: Mono) -> io::Result<u64> {
        let mut appended = 0;
        let mut batch: Option<Waiting> = None;
        while self.idle > 0 {
            let open = driver.open_bytes();
            if self.settings.group_bytes > 0
                && open > 0
                && open + u64::from(self.settings.record_bytes).next_multiple_of(8) > self.settings.group_bytes
            {
                break;
            }
            if batch.is_none_or(|batch| batch.count == APPENDS_PER_READING) {
                self.waiting.extend(batch.take());
                if appended > 0 {
                    now = driver.now();
                }
            }
            let intended = match self.settings.rate {
                Some(_) if self.arrivals.next() > now => break,
                Some(_) => self.arrivals.next(),
                None => now,
            };
            let key = (self.next_key % self.keys).to_le_bytes();
            let Some(end) = driver.append(now, &key, &self.value)? else { break };
            self.next_key += 1;
            self.arrivals.taken += 1;
            self.idle -= 1;
            appended += 1;
            match &mut batch {
                // In an open loop each has its own intended time.
                Some(batch) if self.settings.rate.is_none() => {
                    batch.end = end;
                    batch.count += 1;
                }
                _ => self.waiting.extend(batch.replace(Waiting { end, intended, started: now, count: 1 })),
            }
        }
        self.waiting.extend(batch);
        Ok(appended)
    }

    fn wait<I: OsIo>(&self, driver: &Driver<I>, now: Mono, end: Mono, over: bool) -> Wait {
        if !driver.is_committing() && driver.open_bytes() > 0 {
            return Wait::Now;
        }
        if self.settings.rate.is_some() && !over && self.idle > 0 {
            let next = self.arrivals.next().min(end);
            return if next.since(now) < SPIN_BELOW_NS {
                Wait::Now
            } else {
                Wait::Until(Mono(next.0 - SPIN_BELOW_NS / 2))
            };
        }
        Wait::Until(now.plus_ms(100))
    }

    /// Writers whose record is durable are free again.
    fn release<I: OsIo>(&mut self, driver: &mut Driver<I>, seen: Mono, window: &mut LogWindow) {
        let durable = driver.log.durable();
        let mut released = driver.now();
        let mut unread = 0;
        while let Some(first) = self.waiting.front().copied().filter(|first| first.end <= durable) {
            self.waiting.pop_front();
            unread += first.count;
            if unread >= APPENDS_PER_READING {
                unread = 0;
                released = driver.now();
            }
            window.service.record(released.since(first.started), u64::from(first.count));
            if let Some(response) = &mut window.response {
                response.record(released.since(first.intended), u64::from(first.count));
            }
            self.idle += first.count;
        }
        driver.stages.woken.record(driver.now().since(seen), 1);
    }
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run are far below 2^52")]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use net::reactor::Backend;
    use net::reactor::epoll::EpollIo;

    use super::*;
    use crate::walbench::disk_directory;
    use crate::walbench::driver::LogSettings;
    use crate::walbench::options::CommitPath;
    use crate::walbench::prepare::Preparation;

    const SEGMENT_BYTES: u64 = 1 << 20;

    fn driver(directory: &Path, commit: CommitPath, preparation: Preparation) -> Driver<EpollIo> {
        let settings = LogSettings {
            directory: directory.to_owned(),
            backend: Backend::Epoll,
            commit,
            preparation,
            segment_bytes: SEGMENT_BYTES,
            index: true,
            keep: false,
        };
        Driver::start(&settings).expect("a log")
    }

    fn window(driver: &mut Driver<EpollIo>, settings: LoadSettings, millis: u64) -> LogWindow {
        let (sources, running) = (Sources::of(None), AtomicBool::new(false));
        Load::new(settings).window(driver, Duration::from_millis(millis), &sources, &running).expect("a window")
    }

    const LOAD: LoadSettings =
        LoadSettings { record_bytes: 1000, group_bytes: 0, writers: 100, rate: None, segment_bytes: SEGMENT_BYTES };

    #[test]
    fn ended_segments_are_used_again_or_removed() {
        for commit in [CommitPath::Mmap, CommitPath::Direct] {
            for preparation in [Preparation::Recycled, Preparation::ZerosSmall, Preparation::Allocated] {
                let directory = disk_directory();
                let mut driver = driver(directory.path(), commit, preparation);
                let mut logged = 0;
                while logged < 12 * SEGMENT_BYTES {
                    logged += window(&mut driver, LOAD, 50).logged_bytes;
                }
                driver.stop().expect("stopped");
                let files = std::fs::read_dir(directory.path()).expect("a list").count();
                // The current one, its spares, and what ended and waits until the keys came round.
                assert!((3..=6).contains(&files), "{files} files, {commit:?} {preparation:?}");
            }
        }
    }

    #[test]
    fn every_record_is_timed_once_and_groups_keep_their_limit() {
        let directory = disk_directory();
        let mut driver = driver(directory.path(), CommitPath::Mmap, Preparation::ZerosSmall);
        let limited = LoadSettings { group_bytes: 8192, ..LOAD };
        let found = window(&mut driver, limited, 100);
        assert_eq!(found.service.histogram().len(), found.records);
        assert_eq!(found.stages.synced.histogram().len(), found.commits);
        assert!(found.response.is_none() && found.missed == 0);
        // Eight records of 1,000 bytes and a frame's header fit into 8 KiB.
        assert!(found.records <= 8 * found.commits && found.records > 4 * found.commits, "{found:?}");
        driver.stop().expect("stopped");
    }

    #[test]
    fn an_open_loop_misses_what_no_writer_is_free_for() {
        let directory = disk_directory();
        let mut driver = driver(directory.path(), CommitPath::Mmap, Preparation::ZerosSmall);
        let slow = window(&mut driver, LoadSettings { rate: Some(500.0), ..LOAD }, 200);
        // Arrivals at 0, 2, 4, … ms, and on a busy machine some of them are late for the window.
        assert!(slow.records > 50 && slow.records + slow.missed == 100, "{slow:?}");
        // One writer cannot make a million records a second durable one by one.
        let overload = LoadSettings { rate: Some(1e6), writers: 1, ..LOAD };
        let fast = window(&mut driver, overload, 100);
        assert!(fast.missed > 50_000, "{fast:?}");
        let response = fast.response.expect("an open loop");
        assert!(response.at(0.5) > fast.service.at(0.5), "who waits for a writer waits, too");
        driver.stop().expect("stopped");
    }
}
