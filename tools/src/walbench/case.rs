//! One case: the log and the floor in alternating windows, on files prepared alike, in one directory, by one thread.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use net::reactor::Backend;

use super::counters::{Counters, Sources};
use super::driver::{Driver, LogSettings, Stages};
use super::floor::{Floor, FloorKind, FloorWindow};
use super::latency::Latency;
use super::load::{Load, LoadSettings, LogWindow};
use super::options::CommitPath;
use super::prepare::Preparation;
use super::results::{CaseResult, Ratios, StageSummaries, Window, WindowKind};
use super::statistics;
use engine::daemon::OsIo;

/// Windows of each kind, at least: fewer give no interval worth the name.
const ROUNDS_MIN: u32 = 3;
/// The window that tells how large groups are, and warms everything up.
const FIRST_WINDOW: Duration = Duration::from_millis(100);
/// Seed of every interval, so that a report can be derived again from its windows.
const SEED: u64 = 1;

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct CaseSettings {
    pub(crate) name: String,
    pub(crate) commit: CommitPath,
    pub(crate) preparation: Preparation,
    pub(crate) load: LoadSettings,
    pub(crate) index: bool,
    pub(crate) time: Duration,
    pub(crate) window: Duration,
}

/// Where to measure.
pub(crate) struct Place<'a> {
    /// Of the run, removed with it.
    pub(crate) directory: &'a Path,
    pub(crate) backend: Backend,
    pub(crate) sources: &'a Sources,
    pub(crate) interrupted: &'a AtomicBool,
    /// When the run began: the interval log counts from there.
    pub(crate) started: Instant,
    /// Told after each window.
    pub(crate) tick: &'a dyn Fn(),
}

/// The result, and what it was computed from.
#[derive(Debug)]
pub(crate) struct CaseRun {
    pub(crate) result: CaseResult,
    /// By name: `service`, `response`, `floor-sync`, `floor-direct`, `staged`, …
    pub(crate) histograms: Vec<(&'static str, Latency)>,
    /// The log's windows, for the interval log: start and length in seconds since the run began.
    pub(crate) intervals: Vec<(f64, f64, Latency)>,
}

/// How many windows a case has: for the progress bar.
pub(crate) fn rounds(time: Duration, window: Duration) -> u32 {
    let kinds = 3;
    let wanted = time.as_millis() / (window.as_millis().max(1) * kinds);
    u32::try_from(wanted).unwrap_or(u32::MAX).max(ROUNDS_MIN)
}

impl CaseSettings {
    fn log(&self, place: &Place<'_>, directory: &Path) -> LogSettings {
        LogSettings {
            directory: directory.to_owned(),
            backend: place.backend,
            commit: self.commit,
            preparation: self.preparation,
            segment_bytes: self.load.segment_bytes,
            index: self.index,
            keep: false,
        }
    }

    /// The floor that the log's path is held against.
    fn own_floor(&self) -> FloorKind {
        match self.commit {
            CommitPath::Mmap => FloorKind::Sync,
            CommitPath::Direct => FloorKind::Direct,
        }
    }
}

/// Runs one case.
pub(crate) fn run<I: OsIo>(settings: &CaseSettings, place: &Place<'_>) -> io::Result<CaseRun> {
    let directory = place.directory.join("case");
    fs::create_dir(&directory)?;
    let outcome = run_in::<I>(settings, place, &directory);
    let removed = fs::remove_dir_all(&directory);
    let run = outcome?;
    removed?;
    Ok(run)
}

fn run_in<I: OsIo>(settings: &CaseSettings, place: &Place<'_>, directory: &Path) -> io::Result<CaseRun> {
    let mut driver = Driver::<I>::start(&settings.log(place, directory))?;
    let mut load = Load::new(settings.load);
    let first = load.window(&mut driver, FIRST_WINDOW, place.sources, place.interrupted)?;
    let floor_bytes = first.logged_bytes.checked_div(first.commits).unwrap_or(1).max(1);
    let mut floor = Floor::new(directory, "floor", settings.preparation, settings.load.segment_bytes)?;
    let mut gathered = Gathered::new(floor.has_direct());
    for round in 0..rounds(settings.time, settings.window) {
        // There and back, so that a drift of the device meets all kinds alike.
        let mut order = [WindowKind::Sync, WindowKind::Direct, WindowKind::Log];
        if round % 2 == 1 {
            order.reverse();
        }
        for kind in order {
            if place.interrupted.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            driver.settle()?;
            let bytes = usize::try_from(floor_bytes).map_err(io::Error::other)?;
            match kind {
                WindowKind::Log | WindowKind::Net => {
                    let at = place.started.elapsed().as_secs_f64();
                    let window = load.window(&mut driver, settings.window, place.sources, place.interrupted)?;
                    gathered.log(round, at, window);
                }
                WindowKind::Sync => {
                    let window = floor.window(FloorKind::Sync, bytes, settings.window, place.interrupted)?;
                    gathered.floor(round, FloorKind::Sync, &window);
                }
                WindowKind::Direct if floor.has_direct() => {
                    let window = floor.window(FloorKind::Direct, bytes, settings.window, place.interrupted)?;
                    gathered.floor(round, FloorKind::Direct, &window);
                }
                WindowKind::Direct => {}
            }
            (place.tick)();
        }
    }
    driver.stop()?;
    Ok(gathered.finish(settings, floor_bytes))
}

/// The highest rate that the log sustains in an open loop: every record of a window was taken, and the median response stayed
/// below three times that of a tenth of the load.
pub(crate) fn knee<I: OsIo>(settings: &CaseSettings, place: &Place<'_>) -> io::Result<Option<f64>> {
    const STEPS: [f64; 7] = [0.1, 0.4, 0.55, 0.7, 0.85, 1.0, 1.15];
    const BENT: u64 = 3;
    let directory = place.directory.join("knee");
    fs::create_dir(&directory)?;
    let search = || -> io::Result<Option<f64>> {
        let mut driver = Driver::<I>::start(&settings.log(place, &directory))?;
        let closed = LoadSettings { rate: None, ..settings.load };
        let mut load = Load::new(closed);
        load.window(&mut driver, FIRST_WINDOW, place.sources, place.interrupted)?;
        let window = load.window(&mut driver, settings.window, place.sources, place.interrupted)?;
        let capacity = per_second(window.records, window.seconds);
        let (mut knee, mut straight) = (None, None);
        for step in STEPS {
            if place.interrupted.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let rate = (capacity * step).max(1.0);
            driver.settle()?;
            let mut load = Load::new(LoadSettings { rate: Some(rate), ..settings.load });
            let window = load.window(&mut driver, settings.window, place.sources, place.interrupted)?;
            (place.tick)();
            let Some(response) = &window.response else { break };
            let p50 = response.at(0.5);
            let base = *straight.get_or_insert(p50);
            if window.missed * 100 <= window.records && p50 <= BENT * base {
                knee = Some(rate);
            }
        }
        driver.stop()?;
        Ok(knee)
    };
    let knee = search();
    fs::remove_dir_all(&directory)?;
    knee
}

/// Windows added up.
struct Gathered {
    service: Latency,
    response: Option<Latency>,
    stages: Stages,
    sync: Latency,
    direct: Option<Latency>,
    records: u64,
    commits: u64,
    logged_bytes: u64,
    seconds: f64,
    missed: u64,
    counters: Counters,
    windows: Vec<Window>,
    intervals: Vec<(f64, f64, Latency)>,
}

impl Gathered {
    fn new(direct: bool) -> Gathered {
        Gathered {
            service: Latency::default(),
            response: None,
            stages: Stages::default(),
            sync: Latency::default(),
            direct: direct.then(Latency::default),
            records: 0,
            commits: 0,
            logged_bytes: 0,
            seconds: 0.0,
            missed: 0,
            counters: Counters::zero(),
            windows: Vec::new(),
            intervals: Vec::new(),
        }
    }

    fn log(&mut self, round: u32, at: f64, window: LogWindow) {
        self.service.add(&window.service);
        if let Some(response) = &window.response {
            self.response.get_or_insert_default().add(response);
        }
        self.stages.add(&window.stages);
        self.records += window.records;
        self.commits += window.commits;
        self.logged_bytes += window.logged_bytes;
        self.seconds += window.seconds;
        self.missed += window.missed;
        self.counters.add(&window.counters);
        let shown = window.response.unwrap_or(window.service);
        self.windows.push(summarized(
            WindowKind::Log,
            round,
            window.seconds,
            &shown,
            window.records,
            window.logged_bytes,
        ));
        self.intervals.push((at, window.seconds, shown));
    }

    fn floor(&mut self, round: u32, kind: FloorKind, window: &FloorWindow) {
        match kind {
            FloorKind::Sync => self.sync.add(&window.latency),
            FloorKind::Direct => self.direct.get_or_insert_default().add(&window.latency),
        }
        let count = window.latency.histogram().len();
        self.windows.push(summarized(kind.into(), round, window.seconds, &window.latency, count, window.bytes));
    }

    fn finish(self, settings: &CaseSettings, floor_bytes: u64) -> CaseRun {
        let per_logged = |bytes: Option<u64>| bytes.map(|bytes| ratio(bytes, self.logged_bytes));
        let result = CaseResult {
            name: settings.name.clone(),
            commit: settings.commit,
            preparation: settings.preparation,
            record_bytes: settings.load.record_bytes,
            group_bytes: settings.load.group_bytes,
            writers: settings.load.writers,
            rate_per_s: settings.load.rate,
            floor_bytes,
            service: self.service.summary(),
            response: self.response.as_ref().map(Latency::summary),
            stages: StageSummaries {
                staged: self.stages.staged.summary(),
                written: self.stages.written.summary(),
                synced: self.stages.synced.summary(),
                woken: self.stages.woken.summary(),
            },
            floor_sync: self.sync.summary(),
            floor_direct: self.direct.as_ref().map(Latency::summary),
            ratios: ratios(&self.windows, settings.own_floor().into()),
            records: self.records,
            commits: self.commits,
            logged_bytes: self.logged_bytes,
            seconds: self.seconds,
            records_per_s: per_second(self.records, self.seconds),
            records_per_commit: ratio(self.records, self.commits),
            logged_bytes_per_s: per_second(self.logged_bytes, self.seconds),
            device_bytes_per_logged_byte: per_logged(self.counters.device_bytes),
            process_bytes_per_logged_byte: per_logged(self.counters.process_bytes),
            thread_cpu_ns_per_record: ratio(self.counters.thread_cpu_ns, self.records),
            process_cpu_ns_per_record: ratio(self.counters.process_cpu_ns, self.records),
            minor_faults_per_record: self.counters.minor_faults.map(|faults| ratio(faults, self.records)),
            missed: self.missed,
            counters: self.counters,
            windows: self.windows,
        };
        let mut histograms = vec![("service", self.service)];
        histograms.extend(self.response.map(|response| ("response", response)));
        histograms.push(("floor-sync", self.sync));
        histograms.extend(self.direct.map(|direct| ("floor-direct", direct)));
        let Stages { staged, written, synced, woken } = self.stages;
        histograms.extend([("staged", staged), ("written", written), ("synced", synced), ("woken", woken)]);
        CaseRun { result, histograms, intervals: self.intervals }
    }
}

pub(crate) fn summarized(
    kind: WindowKind,
    round: u32,
    seconds: f64,
    latency: &Latency,
    count: u64,
    bytes: u64,
) -> Window {
    let summary = latency.summary();
    Window {
        kind,
        round,
        seconds,
        count,
        bytes,
        p50_ns: summary.p50_ns,
        p99_ns: summary.p99_ns,
        max_ns: summary.max_ns,
    }
}

/// Log ÷ floor, round by round: what a neighbour does to both of a pair cancels out.
pub(crate) fn ratios(windows: &[Window], floor: WindowKind) -> Ratios {
    let pairs: Vec<(Window, Window)> = windows
        .iter()
        .filter(|window| window.kind == WindowKind::Log)
        .filter_map(|log| {
            let floor = windows.iter().find(|window| window.kind == floor && window.round == log.round)?;
            (log.count > 0 && floor.count > 0).then_some((*log, *floor))
        })
        .collect();
    let estimate = |value: &dyn Fn(&Window) -> f64| {
        let values: Vec<f64> = pairs.iter().map(|(log, floor)| value(log) / value(floor)).collect();
        statistics::estimate(&values, SEED)
    };
    Ratios {
        p50: estimate(&|window| to_f64(window.p50_ns)),
        p99: estimate(&|window| to_f64(window.p99_ns)),
        throughput: estimate(&|window| per_second(window.bytes, window.seconds)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds of a run are far below 2^52")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}

/// Zero of nothing.
pub(crate) fn ratio(count: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { to_f64(count) / to_f64(of) }
}

pub(crate) fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { to_f64(count) / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kind: WindowKind, round: u32, p50_ns: u64, bytes: u64) -> Window {
        Window { kind, round, seconds: 1.0, count: 10, bytes, p50_ns, p99_ns: 2 * p50_ns, max_ns: 0 }
    }

    #[test]
    fn a_ratio_is_taken_inside_its_round() {
        // The device is three times slower in the second round; the log is 10 % slower than it in both.
        let windows = [
            window(WindowKind::Sync, 0, 100, 1000),
            window(WindowKind::Log, 0, 110, 900),
            window(WindowKind::Log, 1, 330, 300),
            window(WindowKind::Sync, 1, 300, 333),
            window(WindowKind::Log, 2, 500, 1),
        ];
        let found = ratios(&windows, WindowKind::Sync);
        let p50 = found.p50.expect("two pairs");
        assert!((p50.median - 1.1).abs() < 1e-9 && (p50.high - p50.low).abs() < 1e-9, "{p50:?}");
        assert!((found.throughput.expect("two pairs").median - 0.9).abs() < 0.01);
        assert_eq!(ratios(&windows, WindowKind::Direct), Ratios::default());
    }

    #[test]
    fn short_cases_still_have_enough_windows() {
        assert_eq!(rounds(Duration::from_millis(1), Duration::from_millis(200)), ROUNDS_MIN);
        assert_eq!(rounds(Duration::from_secs(6), Duration::from_millis(200)), 10);
    }
}
