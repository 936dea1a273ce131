//! What a key's value is made of: `OBJECT` and `MEMORY USAGE`.

use net::resp::{Args, parse_integer, reply};
use wal::{Mapping, RecordView};

use super::keys::{KeyCommand, error, to_i64};
use super::table::KeyVerb;
use super::{NOT_AN_INTEGER, SYNTAX_ERROR};
use crate::frontend::replies::ReplyQueue;
use crate::storage::index::SLOT_BYTES;

/// The longest string that Redis keeps in one piece with its object, in bytes (`OBJ_ENCODING_EMBSTR_SIZE_LIMIT`).
const EMBEDDED_BYTES_MAX: usize = 44;

/// Redis' text for `OBJECT FREQ` without an LFU policy.
const NO_FREQUENCY: &str = "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that \
                            when switching between policies at runtime LRU and LFU data will take some time to adjust.";

impl<M: Mapping> KeyCommand<'_, M> {
    pub(super) fn object(&mut self, verb: KeyVerb, key: &[u8], out: &mut ReplyQueue) {
        let protocol = self.protocol;
        let now_unix_ms = self.time.unix_ms;
        let (found, barrier) = self.shard.read(self.hash, key, self.time, |record| match verb {
            KeyVerb::Encoding => Answer::Text(encoding(record.value)),
            KeyVerb::IdleTime => {
                Answer::Number(i64::try_from(now_unix_ms.saturating_sub(record.version.unix_ms()) / 1000).unwrap_or(0))
            }
            KeyVerb::Freq => Answer::Error(NO_FREQUENCY),
            _ => Answer::Number(1),
        });
        out.reply(barrier, |out| match found {
            None => reply::null(out, protocol),
            Some(Answer::Text(text)) => reply::bulk(out, text.as_bytes()),
            Some(Answer::Number(number)) => reply::integer(out, number),
            Some(Answer::Error(text)) => reply::error(out, text),
        });
    }

    pub(super) fn memory_usage(&mut self, key: &[u8], args: Args<'_>, out: &mut ReplyQueue) {
        // There is one value per key, nothing to take samples of; the words are still checked.
        let mut words = args.from(2).iter();
        while let Some(word) = words.next() {
            let Some(samples) = words.next().filter(|_| word.eq_ignore_ascii_case(b"SAMPLES")) else {
                error(out, SYNTAX_ERROR);
                return;
            };
            match parse_integer(samples) {
                None => return error(out, NOT_AN_INTEGER),
                Some(..0) => return error(out, SYNTAX_ERROR),
                Some(_) => {}
            }
        }
        let protocol = self.protocol;
        let (found, barrier) = self.shard.read(self.hash, key, self.time, bytes_of);
        out.reply(barrier, |out| match found {
            None => reply::null(out, protocol),
            Some(bytes) => reply::integer(out, to_i64(bytes)),
        });
    }
}

enum Answer {
    Text(&'static str),
    Number(i64),
    Error(&'static str),
}

/// The record in the log and the entry that names it.
fn bytes_of(record: &RecordView<'_>) -> usize {
    record.bytes.len().next_multiple_of(8) + SLOT_BYTES
}

/// What Redis would choose for a value that is set as a whole.
fn encoding(value: &[u8]) -> &'static str {
    if parse_integer(value).is_some() {
        "int"
    } else if value.len() <= EMBEDDED_BYTES_MAX {
        "embstr"
    } else {
        "raw"
    }
}
