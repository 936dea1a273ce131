//! `SLOWLOG`: the commands that took long, over all cores.
//!
//! Cores share one list. Its lock is taken when a command was slow, or when somebody asks; the threshold is an atomic.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use net::resp::{Args, parse_integer, reply};

/// `slowlog-log-slower-than` of a Redis that was told nothing, in microseconds.
const THRESHOLD_US_DEFAULT: i64 = 10_000;
/// `slowlog-max-len` of a Redis that was told nothing.
const LEN_MAX_DEFAULT: usize = 128;
/// Entries that are kept whatever `slowlog-max-len` says: with their arguments, at most 5 KiB each.
const LEN_BOUND: usize = 16 * 1024;
/// Arguments of an entry (`SLOWLOG_ENTRY_MAX_ARGC`).
const ARGUMENTS_MAX: usize = 32;
/// Bytes of an argument (`SLOWLOG_ENTRY_MAX_STRING`).
const ARGUMENT_BYTES_MAX: usize = 128;

/// One slow command.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    id: u64,
    unix_s: u64,
    duration_us: u64,
    arguments: Vec<Vec<u8>>,
    client: String,
    client_name: Vec<u8>,
}

#[derive(Debug, Default)]
struct Entries {
    next_id: u64,
    /// Newest first.
    list: VecDeque<Entry>,
}

/// The slow log of a node.
#[derive(Debug)]
pub struct SlowLog {
    threshold_us: AtomicI64,
    len_max: AtomicUsize,
    entries: Mutex<Entries>,
}

impl Default for SlowLog {
    fn default() -> Self {
        SlowLog {
            threshold_us: AtomicI64::new(THRESHOLD_US_DEFAULT),
            len_max: AtomicUsize::new(LEN_MAX_DEFAULT),
            entries: Mutex::default(),
        }
    }
}

impl SlowLog {
    /// From how many microseconds on a command is slow; −1: none is.
    #[must_use]
    pub fn threshold_us(&self) -> i64 {
        self.threshold_us.load(Ordering::Relaxed)
    }

    /// Sets [`SlowLog::threshold_us`].
    pub fn set_threshold_us(&self, us: i64) {
        self.threshold_us.store(us, Ordering::Relaxed);
    }

    /// How many entries are kept.
    #[must_use]
    pub fn len_max(&self) -> usize {
        self.len_max.load(Ordering::Relaxed)
    }

    /// Sets [`SlowLog::len_max`]; it holds from the next entry on, as in Redis.
    pub fn set_len_max(&self, len: usize) {
        self.len_max.store(len, Ordering::Relaxed);
    }

    /// Whether a command that took so long belongs into the log.
    #[must_use]
    pub fn is_slow(&self, duration_ns: u64) -> bool {
        u64::try_from(self.threshold_us()).is_ok_and(|threshold| duration_ns / 1000 >= threshold)
    }

    /// Adds a command of the client at `client` (its address).
    pub fn add(&self, args: Args<'_>, duration_ns: u64, unix_ms: u64, client: String, client_name: Vec<u8>) {
        let arguments = shortened(args);
        let mut entries = self.lock();
        let entry = Entry {
            id: entries.next_id,
            unix_s: unix_ms / 1000,
            duration_us: duration_ns / 1000,
            arguments,
            client,
            client_name,
        };
        entries.next_id += 1;
        entries.list.push_front(entry);
        entries.list.truncate(self.len_max().min(LEN_BOUND));
    }

    /// A thread that panicked while it held the lock left a list that is whole.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers `SLOWLOG`; `args` starts with its name and was checked for arity.
    ///
    /// # Errors
    /// Redis' error text.
    pub(super) fn answer(&self, args: Args<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        match args[1].to_ascii_uppercase().as_slice() {
            b"LEN" => reply::integer(out, i64::try_from(self.lock().list.len()).unwrap_or(i64::MAX)),
            b"RESET" => {
                self.lock().list.clear();
                reply::simple(out, "OK");
            }
            _ if args.len() > 3 => {
                let name = String::from_utf8_lossy(&args[1]);
                return Err(format!(
                    "ERR unknown subcommand or wrong number of arguments for '{name}'. Try SLOWLOG HELP."
                ));
            }
            _ => self.get(args.get(2), out)?,
        }
        Ok(())
    }

    fn get(&self, count: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), String> {
        let wanted = match count.map(parse_integer) {
            None => 10,
            Some(Some(-1)) => usize::MAX,
            Some(count) => count
                .and_then(|count| usize::try_from(count).ok())
                .ok_or("ERR count should be greater than or equal to -1")?,
        };
        let entries = self.lock();
        reply::array_header(out, entries.list.len().min(wanted));
        for entry in entries.list.iter().take(wanted) {
            reply::array_header(out, 6);
            for number in [entry.id, entry.unix_s, entry.duration_us] {
                reply::integer(out, i64::try_from(number).unwrap_or(i64::MAX));
            }
            reply::array_header(out, entry.arguments.len());
            entry.arguments.iter().for_each(|argument| reply::bulk(out, argument));
            reply::bulk(out, entry.client.as_bytes());
            reply::bulk(out, &entry.client_name);
        }
        Ok(())
    }
}

/// The arguments as Redis keeps them: the first ones, each cut, with what is left out in words.
fn shortened(args: Args<'_>) -> Vec<Vec<u8>> {
    let shown = if args.len() > ARGUMENTS_MAX { ARGUMENTS_MAX - 1 } else { args.len() };
    let mut arguments: Vec<Vec<u8>> = args
        .first(shown)
        .iter()
        .map(|argument| {
            let Some(kept) = argument.get(..ARGUMENT_BYTES_MAX).filter(|kept| kept.len() < argument.len()) else {
                return argument.to_vec();
            };
            let mut text = kept.to_vec();
            text.extend_from_slice(format!("... ({} more bytes)", argument.len() - kept.len()).as_bytes());
            text
        })
        .collect();
    if shown < args.len() {
        arguments.push(format!("... ({} more arguments)", args.len() - shown).into_bytes());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use net::resp::{Limits, Parser, encode_command};

    use super::*;

    fn log(log: &SlowLog, words: &[String]) {
        let mut request = Vec::new();
        encode_command(words, &mut request);
        let mut parser = Parser::new(Limits::default());
        assert!(parser.next(&request).unwrap().is_some());
        log.add(parser.args(&request), 20_000_000, 5_000, "127.0.0.1:1".into(), Vec::new());
    }

    #[test]
    fn entries_are_cut_and_the_oldest_go_first() {
        let slow = SlowLog::default();
        assert!(slow.is_slow(10_000_000) && !slow.is_slow(9_999_999));
        slow.set_threshold_us(-1);
        assert!(!slow.is_slow(u64::MAX));
        slow.set_len_max(2);
        let words = |count: usize| -> Vec<String> { (0..count).map(|word| word.to_string()).collect() };
        log(&slow, &words(1));
        log(&slow, &words(33));
        log(&slow, &["x".repeat(130)]);
        let entries = slow.lock();
        assert_eq!(entries.list.iter().map(|entry| entry.id).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(entries.list[0].arguments, [format!("{}... (2 more bytes)", "x".repeat(128)).into_bytes()]);
        assert_eq!(entries.list[1].arguments.len(), 32);
        assert_eq!(entries.list[1].arguments[31], b"... (2 more arguments)");
    }
}
