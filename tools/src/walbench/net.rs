//! `walbench net`: load on a running node, over its client port.

mod connection;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use net::reactor::epoll::EpollIo;
use net::reactor::helper::Helper;
use net::reactor::uring::UringIo;
use net::reactor::{Backend, Completion, Mono, Op, OsFile, Outcome, StreamKind, Tag, Wait};

use self::connection::{Answer, Connection};
use super::case::{per_second, summarized, to_f64};
use super::latency::Latency;
use super::options::NetOptions;
use super::results::{NetResult, Window, WindowKind};
use super::statistics::SplitMix;
use super::{BenchError, io_error, suite};
use engine::daemon::OsIo;

/// The longest that connecting, and the last replies, may take.
const PATIENCE_MS: u64 = 5_000;
/// Commands outstanding per connection while keys are set before the measurement.
const FILL_PIPELINE: u32 = 64;
/// Below this distance an arrival is awaited by polling: timers of a halted virtual CPU are late by milliseconds.
const SPIN_BELOW_NS: u64 = 2_000_000;

/// The result, and what it was computed from.
#[derive(Debug)]
pub(crate) struct NetRun {
    pub(crate) result: NetResult,
    pub(crate) histograms: Vec<(&'static str, Latency)>,
    pub(crate) intervals: Vec<(f64, f64, Latency)>,
}

/// Runs the load.
pub(crate) fn run(options: &NetOptions, interrupted: &AtomicBool) -> Result<NetRun, BenchError> {
    let (backend, _) = suite::backend(options.io_backend)?;
    match backend {
        Backend::Uring => run_on::<UringIo>(options, backend, interrupted),
        Backend::Epoll => run_on::<EpollIo>(options, backend, interrupted),
    }
}

fn run_on<I: OsIo>(options: &NetOptions, backend: Backend, interrupted: &AtomicBool) -> Result<NetRun, BenchError> {
    let started = io_error("the reactor cannot be started");
    let made = Helper::spawn(backend, || Box::pin(std::future::pending()))
        .and_then(|helper| I::create(&helper.handle()).map(|io| (io, helper)));
    let (io, _helper) = made.map_err(started)?;
    let mut client = Client::connect(io, options)?;
    if options.fill {
        client.fill(options, interrupted)?;
    }
    let gathered = client.measure(options, interrupted)?;
    Ok(gathered.finish(options, suite::backend_name(backend)))
}

/// All connections, driven by one thread.
struct Client<I: OsIo> {
    io: I,
    connections: Vec<Connection>,
    completions: Vec<Completion<OsFile>>,
    random: SplitMix,
    /// Where the search for a connection with room goes on.
    turn: usize,
}

/// Tags: the connection's number, and whether it is about sending.
fn receive_tag(index: usize) -> Tag {
    Tag(2 * index as u64)
}

fn send_tag(index: usize) -> Tag {
    Tag(2 * index as u64 + 1)
}

fn index_of(tag: Tag) -> usize {
    usize::try_from(tag.0 / 2).unwrap_or(usize::MAX)
}

impl<I: OsIo> Client<I> {
    fn connect(mut io: I, options: &NetOptions) -> Result<Client<I>, BenchError> {
        let count = options.connections as usize;
        let nobody = |error: io::Error| {
            let what = format!("{}: {error}; start a node there, or name one with --addr", options.addr);
            BenchError::Failed(what)
        };
        for index in 0..count {
            let op = Op::Connect { local: None, to: options.addr, kind: StreamKind::Client };
            io.submit(op, receive_tag(index)).map_err(|_| nobody(io::Error::other("too many connections")))?;
        }
        let deadline = io.now().plus_ms(PATIENCE_MS);
        let (mut completions, mut sockets) = (Vec::new(), vec![None; count]);
        while sockets.contains(&None) {
            if io.now() > deadline {
                return Err(nobody(io::Error::from(io::ErrorKind::TimedOut)));
            }
            io.poll(Wait::Until(deadline), &mut completions).map_err(nobody)?;
            for completion in completions.drain(..) {
                if let Outcome::Connected(socket) = completion.result.map_err(nobody)? {
                    sockets[index_of(completion.tag)] = Some(socket);
                }
            }
        }
        let connections = sockets.into_iter().flatten().map(|socket| Connection::new(socket, options)).collect();
        let mut client = Client { io, connections, completions, random: SplitMix(options.seed), turn: 0 };
        for index in 0..count {
            client.submit(Op::Recv { socket: client.connections[index].socket }, receive_tag(index))?;
        }
        Ok(client)
    }

    fn submit(&mut self, op: Op<OsFile>, tag: Tag) -> Result<(), BenchError> {
        self.io.submit(op, tag).map_err(|_| BenchError::Failed("the reactor takes no more operations".to_owned()))
    }

    /// Sets every key once.
    fn fill(&mut self, options: &NetOptions, interrupted: &AtomicBool) -> Result<(), BenchError> {
        let options = NetOptions { pipeline: FILL_PIPELINE, rate: None, ..options.clone() };
        let mut filled = Gathered::new(&options, self.io.now());
        let mut next = 0;
        let keys = options.keys as usize;
        while next < keys || !self.connections.iter().all(Connection::is_idle) {
            let now = self.io.now();
            for index in 0..self.connections.len() {
                let connection = &mut self.connections[index];
                while next < keys && connection.has_room(&options) {
                    connection.queue(false, next, now, now);
                    next += 1;
                }
                self.flush(index)?;
            }
            if interrupted.load(Ordering::Relaxed) {
                return Err(BenchError::Interrupted);
            }
            let answered = filled.service.histogram().len();
            self.receive(Wait::Until(now.plus_ms(PATIENCE_MS)), &options, &mut filled)?;
            if filled.service.histogram().len() == answered && self.io.now() >= now.plus_ms(PATIENCE_MS) {
                return Err(BenchError::Failed(format!("{} stopped answering", options.addr)));
            }
        }
        match filled.first_error {
            Some(error) => Err(BenchError::Failed(format!("{}: a key cannot be set: {error}", options.addr))),
            None => Ok(()),
        }
    }

    fn measure(&mut self, options: &NetOptions, interrupted: &AtomicBool) -> Result<Gathered, BenchError> {
        let begin = self.io.now();
        let end = begin.0.saturating_add(nanos(Duration::from_secs_f64(options.seconds)));
        let window_ns = options.window * 1_000_000;
        let bar = super::report::bar("net", saturating(options.seconds * 1e3));
        let mut gathered = Gathered::new(options, begin);
        let interval_ns = options.rate.map(|rate| 1e9 / rate);
        let mut arrived = 0u64;
        loop {
            let now = self.io.now();
            let over = now.0 >= end || interrupted.load(Ordering::Relaxed);
            if over && self.connections.iter().all(Connection::is_idle) {
                break;
            }
            if now.0 > end.saturating_add(PATIENCE_MS * 1_000_000) {
                return Err(BenchError::Failed(format!("{} stopped answering", options.addr)));
            }
            let mut next = None;
            if !over {
                next = self.send(options, now, begin, interval_ns, &mut arrived)?;
            }
            let wait = match next {
                Some(next) if next.since(now) < SPIN_BELOW_NS => Wait::Now,
                Some(next) => Wait::Until(Mono(next.0 - SPIN_BELOW_NS / 2)),
                None => Wait::Until(now.plus_ms(100)),
            };
            self.receive(wait, options, &mut gathered)?;
            let now = self.io.now();
            if now.since(gathered.window_begin) >= window_ns {
                gathered.close_window(now);
                bar.set_position(now.since(begin) / 1_000_000);
            }
        }
        let now = self.io.now();
        gathered.close_window(now);
        gathered.seconds = to_f64(now.since(begin)) / 1e9;
        if let Some(interval_ns) = interval_ns {
            let due = to_f64(end.min(now.0) - begin.0) / interval_ns;
            gathered.missed = saturating(due).saturating_sub(arrived);
        }
        bar.finish_and_clear();
        if interrupted.load(Ordering::Relaxed) {
            return Err(BenchError::Interrupted);
        }
        Ok(gathered)
    }

    /// Sends what is due and has room; when the next command is due, if nothing but time is missing.
    fn send(
        &mut self,
        options: &NetOptions,
        now: Mono,
        begin: Mono,
        interval_ns: Option<f64>,
        arrived: &mut u64,
    ) -> Result<Option<Mono>, BenchError> {
        let mut next = None;
        let count = self.connections.len();
        // Round and round, so that all connections get their share; until nobody has room.
        let mut full = 0;
        while full < count {
            let intended = match interval_ns {
                None => now,
                Some(interval_ns) => {
                    let due = Mono(begin.0 + saturating(to_f64(*arrived) * interval_ns));
                    if due > now {
                        next = Some(due);
                        break;
                    }
                    due
                }
            };
            let connection = &mut self.connections[self.turn % count];
            self.turn += 1;
            if connection.has_room(options) {
                full = 0;
                *arrived += 1;
                let get = self.random.below(100) < options.get as usize;
                let key = self.random.below(options.keys as usize);
                connection.queue(get, key, intended, now);
            } else {
                full += 1;
            }
        }
        for index in 0..count {
            self.flush(index)?;
        }
        Ok(next)
    }

    fn flush(&mut self, index: usize) -> Result<(), BenchError> {
        let connection = &mut self.connections[index];
        match connection.take_output() {
            Some(bytes) => {
                let op = Op::Send { socket: connection.socket, runs: vec![bytes] };
                self.submit(op, send_tag(index))
            }
            None => Ok(()),
        }
    }

    fn receive(&mut self, wait: Wait, options: &NetOptions, gathered: &mut Gathered) -> Result<(), BenchError> {
        let lost = |what: String| BenchError::Failed(format!("{}: {what}", options.addr));
        let mut completions = std::mem::take(&mut self.completions);
        self.io.poll(wait, &mut completions).map_err(|error| lost(error.to_string()))?;
        if completions.is_empty() && wait == Wait::Now {
            // The node may be waiting for this very CPU.
            std::thread::yield_now();
        }
        let now = self.io.now();
        for completion in completions.drain(..) {
            let index = index_of(completion.tag);
            if completion.tag == send_tag(index) {
                completion.result.map_err(|error| lost(format!("a command cannot be sent: {error}")))?;
                self.connections[index].sent();
                self.flush(index)?;
                continue;
            }
            let again = !completion.more;
            let repeat = completion.is_to_be_repeated();
            match (completion.result, completion.buf) {
                (Ok(_), Some(bytes)) if !bytes.is_empty() => {
                    let connection = &mut self.connections[index];
                    connection.received(&bytes, |answer| gathered.count(&answer, now)).map_err(lost)?;
                }
                (Err(error), _) if !repeat => return Err(lost(format!("a connection failed: {error}"))),
                (Ok(_), _) => return Err(lost("the node closed a connection; see its log".to_owned())),
                _ => {}
            }
            if again {
                let socket = self.connections[index].socket;
                self.submit(Op::Recv { socket }, receive_tag(index))?;
            }
        }
        self.completions = completions;
        Ok(())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from float to integer saturates")]
fn saturating(value: f64) -> u64 {
    value as u64
}

/// What was counted.
struct Gathered {
    service: Latency,
    response: Option<Latency>,
    get: Latency,
    set: Latency,
    errors: u64,
    first_error: Option<String>,
    misses: u64,
    missed: u64,
    seconds: f64,
    begin: Mono,
    window_begin: Mono,
    window: Latency,
    windows: Vec<Window>,
    intervals: Vec<(f64, f64, Latency)>,
}

impl Gathered {
    fn new(options: &NetOptions, begin: Mono) -> Gathered {
        Gathered {
            service: Latency::default(),
            response: options.rate.map(|_| Latency::default()),
            get: Latency::default(),
            set: Latency::default(),
            errors: 0,
            first_error: None,
            misses: 0,
            missed: 0,
            seconds: 0.0,
            begin,
            window_begin: begin,
            window: Latency::default(),
            windows: Vec::new(),
            intervals: Vec::new(),
        }
    }

    fn count(&mut self, answer: &Answer, now: Mono) {
        let service = now.since(answer.started);
        let response = now.since(answer.intended);
        self.service.record(service, 1);
        if let Some(latency) = &mut self.response {
            latency.record(response, 1);
        }
        // In a closed loop both are the same.
        self.window.record(response, 1);
        if answer.get { &mut self.get } else { &mut self.set }.record(response, 1);
        self.misses += u64::from(answer.missing);
        if let Some(error) = &answer.error {
            self.errors += 1;
            self.first_error.get_or_insert_with(|| error.clone());
        }
    }

    fn close_window(&mut self, now: Mono) {
        let window = std::mem::take(&mut self.window);
        let seconds = to_f64(now.since(self.window_begin)) / 1e9;
        let round = u32::try_from(self.windows.len()).unwrap_or(u32::MAX);
        let count = window.histogram().len();
        if count > 0 {
            self.windows.push(summarized(WindowKind::Net, round, seconds, &window, count, 0));
            self.intervals.push((to_f64(self.window_begin.since(self.begin)) / 1e9, seconds, window));
        }
        self.window_begin = now;
    }

    fn finish(self, options: &NetOptions, io_backend: &str) -> NetRun {
        let commands = self.service.histogram().len();
        let result = NetResult {
            addr: options.addr.to_string(),
            protocol: options.protocol,
            io_backend: io_backend.to_owned(),
            connections: options.connections,
            pipeline: options.pipeline,
            get_percent: options.get,
            keys: options.keys,
            value_bytes: options.value,
            rate_per_s: options.rate,
            service: self.service.summary(),
            response: self.response.as_ref().map(Latency::summary),
            get: self.get.summary(),
            set: self.set.summary(),
            commands,
            seconds: self.seconds,
            commands_per_s: per_second(commands, self.seconds),
            errors: self.errors,
            first_error: self.first_error,
            misses: self.misses,
            missed: self.missed,
            windows: self.windows,
        };
        let mut histograms = vec![("service", self.service)];
        histograms.extend(self.response.map(|response| ("response", response)));
        histograms.extend([("get", self.get), ("set", self.set)]);
        NetRun { result, histograms, intervals: self.intervals }
    }
}
