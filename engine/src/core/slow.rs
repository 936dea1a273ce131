//! What the slow log gets to see, at a cost that ordinary commands do not feel.
//!
//! The clock is read once per turn of a connection, and besides after each command that is not known to be quick. A turn of
//! quick commands is judged by their mean, under the name of the last one. Below a threshold of [`EACH_BELOW_US`] the operator
//! wants to know exactly: then it is read after every command.

use net::reactor::{Io, Mono};
use net::resp::{Args, Parser};

use super::{CoreLoop, clients};
use crate::frontend::native::request::{Request, Verb};
use crate::frontend::resp::table::{Command, Kind};
use crate::host::Host;

/// A threshold below this many microseconds makes every command timed on its own.
const EACH_BELOW_US: i64 = 1000;

/// Times the commands of one turn of a connection.
#[derive(Debug)]
pub(super) struct Stopwatch {
    /// When the clock was read last.
    read: Mono,
    /// Commands that ran since.
    since: u64,
    each: bool,
    off: bool,
}

impl<H: Host> CoreLoop<H> {
    /// Begins a turn.
    pub(super) fn stopwatch(&self) -> Stopwatch {
        let threshold_us = self.facts.slow_log.threshold_us();
        let (each, off) = ((0..EACH_BELOW_US).contains(&threshold_us), threshold_us < 0);
        Stopwatch { read: self.clients.clock, since: 0, each, off }
    }

    /// A command of the connection `index` ran.
    pub(super) fn ran(&self, watch: &mut Stopwatch, index: u32, args: Args<'_>) {
        watch.since += 1;
        if watch.off || !watch.each && self.clients.last_command(index).is_none_or(is_quick) {
            return;
        }
        let now = self.io.now();
        // What every core runs is logged by every core.
        if !self.clients.is_waiting(index) {
            self.note(index, args, now.since(watch.read));
        }
        (watch.read, watch.since) = (now, 0);
    }

    /// As [`CoreLoop::ran`], of the native protocol, whose requests are all quick but for a `Scan`.
    pub(super) fn ran_request(&self, watch: &mut Stopwatch, index: u32, request: &Request) {
        watch.since += 1;
        if watch.off || !watch.each && !matches!(request.verb, Verb::Scan(_)) {
            return;
        }
        let now = self.io.now();
        let duration_ns = now.since(watch.read);
        if self.facts.slow_log.is_slow(duration_ns) {
            self.note_request(index, &request.as_resp(), duration_ns);
        }
        (watch.read, watch.since) = (now, 0);
    }

    /// As [`CoreLoop::turn_ended`], of the native protocol.
    pub(super) fn native_turn_ended(&mut self, watch: &Stopwatch, index: u32, last: &Request) {
        if let Some(mean_ns) = self.mean_if_slow(watch) {
            self.note_request(index, &last.as_resp(), mean_ns);
        }
    }

    /// Ends a turn whose last request, `last`, is still at hand.
    pub(super) fn turn_ended(&mut self, watch: &Stopwatch, index: u32, last: &[u8]) {
        if let Some(mean_ns) = self.mean_if_slow(watch) {
            self.note_request(index, last, mean_ns);
        }
    }

    /// What the commands since the clock was read took on the average, if that is slow.
    fn mean_if_slow(&mut self, watch: &Stopwatch) -> Option<u64> {
        if watch.off || watch.since == 0 {
            return None;
        }
        self.clients.clock = self.io.now();
        let mean_ns = self.clients.clock.since(watch.read) / watch.since;
        self.facts.slow_log.is_slow(mean_ns).then_some(mean_ns)
    }

    fn note_request(&self, index: u32, request: &[u8], duration_ns: u64) {
        let mut parser = Parser::new(clients::limits_for(self.shard.value_bytes_max()));
        if let Ok(Some(_)) = parser.next(request) {
            self.note(index, parser.args(request), duration_ns);
        }
    }

    fn note(&self, index: u32, args: Args<'_>, duration_ns: u64) {
        let secret =
            [&b"AUTH"[..], b"HELLO"].iter().any(|name| args.get(0).is_some_and(|a| a.eq_ignore_ascii_case(name)));
        if secret || !self.facts.slow_log.is_slow(duration_ns) {
            return;
        }
        let session = self.clients.session(index);
        let addr = session.addr.map_or_else(String::new, |addr| addr.to_string());
        self.facts.slow_log.add(args, duration_ns, self.time.unix_ms, addr, session.name.clone());
    }
}

/// Commands on one key are quick whatever Redis' flags say of them.
fn is_quick(command: &Command) -> bool {
    matches!(command.kind, Kind::Key(_)) || command.flags.contains(&"fast")
}
