//! What a connection collects between `MULTI` and `EXEC`.

use std::collections::BTreeMap;

use net::resp::{Args, encode_command};

use super::table::{Command, EveryVerb, Kind, SessionVerb, TransactionVerb};
use crate::shard::Presence;

/// Bytes that one connection may queue and watch. What one transaction writes on a core has to fit one segment anyway.
pub const QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a queued command or watched key counts beside its bytes.
const OVERHEAD_BYTES: usize = 64;

/// Redis' text for a command that cannot stand in a transaction.
pub const NOT_ALLOWED: &str = "ERR Command not allowed inside a transaction";

/// A command that waits for `EXEC`.
#[derive(Clone, Debug)]
pub struct Queued {
    /// Which one. Its arity was checked.
    pub command: &'static Command,
    /// With its arguments, RESP-encoded.
    pub encoded: Vec<u8>,
}

impl Queued {
    /// The command that `args` spell.
    #[must_use]
    pub fn new(command: &'static Command, args: Args<'_>) -> Queued {
        let words: Vec<&[u8]> = args.iter().collect();
        let mut encoded = Vec::with_capacity(words.iter().map(|word| word.len() + 16).sum());
        encode_command(&words, &mut encoded);
        Queued { command, encoded }
    }
}

/// A key whose change makes `EXEC` fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The key.
    pub key: Vec<u8>,
    /// What was there when it was watched.
    pub presence: Presence,
}

/// A connection's transaction.
#[derive(Debug, Default)]
pub struct Multi {
    open: bool,
    failed: bool,
    queue: Vec<Queued>,
    watched: BTreeMap<Vec<u8>, Presence>,
    bytes: usize,
}

impl Multi {
    /// Between `MULTI` and `EXEC`.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether a command was refused since `MULTI`: `EXEC` will run none.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// `MULTI`.
    pub fn open(&mut self) {
        self.open = true;
    }

    /// A command was refused.
    pub fn fail(&mut self) {
        self.failed |= self.open;
    }

    /// Whether `command` is queued now instead of run.
    #[must_use]
    pub fn queues(&self, command: &Command) -> bool {
        let at_once = match command.kind {
            Kind::Transaction(verb) => verb != TransactionVerb::Unwatch,
            Kind::Session(verb) => matches!(verb, SessionVerb::Quit | SessionVerb::Reset),
            Kind::Key(_) | Kind::Many(_) | Kind::Crossing(_) | Kind::Everywhere(_) | Kind::Container(_) => false,
        };
        self.open && !at_once
    }

    /// Queues a command.
    pub fn push(&mut self, queued: Queued) {
        self.bytes += queued.encoded.len() + OVERHEAD_BYTES;
        self.queue.push(queued);
    }

    /// The queued commands.
    #[must_use]
    pub fn queue(&self) -> &[Queued] {
        &self.queue
    }

    /// The watched keys.
    #[must_use]
    pub fn watched(&self) -> Vec<Watched> {
        self.watched.iter().map(|(key, presence)| Watched { key: key.clone(), presence: *presence }).collect()
    }

    /// Whether the key is watched already.
    #[must_use]
    pub fn watches(&self, key: &[u8]) -> bool {
        self.watched.contains_key(key)
    }

    /// Watches a key, unless it is watched already: what was seen first counts.
    pub fn watch(&mut self, watched: Watched) {
        if !self.watches(&watched.key) {
            self.bytes += watched.key.len() + OVERHEAD_BYTES;
            self.watched.insert(watched.key, watched.presence);
        }
    }

    /// `UNWATCH`.
    pub fn unwatch(&mut self) {
        let watched = std::mem::take(&mut self.watched);
        self.bytes -= watched.keys().map(|key| key.len() + OVERHEAD_BYTES).sum::<usize>();
    }

    /// Forgets everything: `EXEC`, `DISCARD`, `RESET`.
    pub fn clear(&mut self) {
        *self = Multi::default();
    }
}

/// Whether the command may stand in a transaction. Those that visit all cores are not atomic and `HELLO` would change the protocol in
/// the middle of a reply.
#[must_use]
pub fn is_allowed(command: &Command) -> bool {
    match command.kind {
        Kind::Key(_) | Kind::Many(_) | Kind::Crossing(_) | Kind::Transaction(_) => true,
        Kind::Everywhere(verb) => verb == EveryVerb::DbSize,
        Kind::Container(_) => true,
        Kind::Session(verb) => matches!(
            verb,
            SessionVerb::Ping
                | SessionVerb::Echo
                | SessionVerb::Select
                | SessionVerb::Time
                | SessionVerb::Wait
                | SessionVerb::WaitAof
                | SessionVerb::Help
                | SessionVerb::Role
                | SessionVerb::SlowLog
                | SessionVerb::Info
                | SessionVerb::Config
                | SessionVerb::Command
                | SessionVerb::Client
                | SessionVerb::Cluster
                | SessionVerb::Auth
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::find;
    use super::*;

    #[test]
    fn between_multi_and_exec_only_what_ends_it_is_run_at_once() {
        let mut multi = Multi::default();
        assert!(!multi.queues(find(b"get").unwrap()));
        multi.fail();
        assert!(!multi.has_failed(), "outside of MULTI an error is only an error");
        multi.open();
        for (name, queues) in [
            ("get", true),
            ("mset", true),
            ("rename", true),
            ("ping", true),
            ("unwatch", true),
            ("exec", false),
            ("discard", false),
            ("multi", false),
            ("watch", false),
            ("quit", false),
            ("reset", false),
        ] {
            assert_eq!(multi.queues(find(name.as_bytes()).unwrap()), queues, "{name}");
        }
        assert!(!is_allowed(find(b"scan").unwrap()) && !is_allowed(find(b"hello").unwrap()));
        multi.fail();
        assert!(multi.has_failed());
    }

    #[test]
    fn what_was_seen_first_counts_and_every_byte_is_given_back() {
        let mut multi = Multi::default();
        let seen = Presence { visible: true, ..Presence::default() };
        multi.watch(Watched { key: b"k".to_vec(), presence: seen });
        let bytes = multi.bytes();
        multi.watch(Watched { key: b"k".to_vec(), presence: Presence::default() });
        assert_eq!((multi.bytes(), multi.watched()[0].presence), (bytes, seen));
        multi.unwatch();
        assert_eq!((multi.bytes(), multi.watched().len()), (0, 0));
    }
}
