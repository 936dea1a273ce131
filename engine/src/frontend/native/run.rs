//! What a request does on the shard that owns its keys.

use bytes::Bytes;
use net::ids::RequestId;
use net::resp::{parse_integer, reply};
use net::wire::Message;
use net::wire::body::{
    Condition, Delete, ErrorCode, Failed, Increment, Incremented, ItemRef, Keys, Put, Scan, Shown, Value, Written,
};
use net::wire::limits::CONTROL_BODY_BYTES_MAX;
use wal::{Lsn, Mapping, RecordView};

use super::request::{Request, Verb};
use super::{answer, encode, fail};
use crate::clock::Time;
use crate::frontend::replies::{RUN_BYTES_MIN, ReplyQueue};
use crate::shard::{Shard, WriteError};
use crate::storage::KeyHash;
use crate::storage::index::ScanPosition;

/// What a request runs on.
#[derive(Debug)]
pub struct Runner<'a, M: Mapping> {
    /// The shard that owns its keys, or that the cursor of its `Scan` names.
    pub shard: &'a mut Shard<M>,
    /// Now.
    pub time: Time,
    /// That shard's core.
    pub core: u16,
    /// How many there are.
    pub cores: u16,
}

impl<M: Mapping> Runner<'_, M> {
    /// Runs the request and queues its answer.
    ///
    /// # Errors
    /// Transient [`WriteError`]s only: nothing was changed or answered, run it again later.
    pub fn run(&mut self, request: &Request, out: &mut ReplyQueue) -> Result<(), WriteError> {
        let id = request.id;
        let ran = self.ready(request).and_then(|()| match &request.verb {
            Verb::Get(get) => {
                self.show(id, &get.key, out);
                Ok(())
            }
            Verb::GetMany(many) => {
                for key in &many.keys {
                    match self.shard.ready(self.hash(key)) {
                        Ok(()) => self.show(id, key, out),
                        Err(error) => fail(out, id, code_of(error), &error.to_string()),
                    }
                }
                Ok(())
            }
            Verb::Put(put) => self.put(id, put, out),
            Verb::Delete(delete) => self.delete(id, delete, out),
            Verb::Increment(increment) => self.increment(id, increment, out),
            Verb::Scan(scan) => self.scan(id, scan, out),
            Verb::Session(_) => {
                fail(out, id, ErrorCode::Unsupported, "a session belongs to the core of its connection");
                Ok(())
            }
        });
        match ran {
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => fail(out, id, code_of(error), &error.to_string()),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Whether all records are in memory that the request looks at. Of several keys those that cannot be read are answered apart.
    fn ready(&mut self, request: &Request) -> Result<(), WriteError> {
        let secret = self.shard.identity().secret;
        let ready = self.shard.all_ready(request.keys().iter().map(|key| secret.hash(key)));
        match (ready, &request.verb) {
            (Err(WriteError::Unreadable), Verb::GetMany(_)) => Ok(()),
            _ => ready,
        }
    }

    fn hash(&self, key: &[u8]) -> KeyHash {
        self.shard.identity().secret.hash(key)
    }

    fn show(&self, id: RequestId, key: &[u8], out: &mut ReplyQueue) {
        let nothing = Message::Value(Value { item: None });
        self.show_or(id, key, Shown::Found, &nothing, out);
    }

    /// Answers with what is there, or with `nothing`.
    fn show_or(&self, id: RequestId, key: &[u8], shown: Shown, nothing: &Message, out: &mut ReplyQueue) {
        let hash = self.hash(key);
        let mut large = None;
        // The frame is written while the record is in hand: one copy from the segment into the connection's output.
        out.reply_with(
            |out| {
                let (found, barrier) = self.shard.read(hash, key, self.time, |record| {
                    if record.value.len() < RUN_BYTES_MIN {
                        let encoded = item(record).encode_frame(shown, id, out);
                        encoded.unwrap_or_else(|error| encode(&too_long(&error), id, out));
                    } else {
                        large = Some(ItemRef { value: &[], ..item(record) });
                    }
                });
                (found.is_none(), barrier)
            },
            |out| encode(nothing, id, out),
        );
        if let Some(item) = large
            && let Some((value, barrier)) = self.shard.large_value(hash, key, self.time, RUN_BYTES_MIN)
        {
            let mut encoded = Ok(());
            let item = ItemRef { value: &value, ..item };
            out.reply(barrier, |out| encoded = item.encode_frame_head(shown, id, out));
            match encoded {
                Ok(()) => out.run(barrier, value),
                Err(error) => answer(out, barrier, id, &too_long(&error)),
            }
        }
    }

    fn put(&mut self, id: RequestId, put: &Put, out: &mut ReplyQueue) -> Result<(), WriteError> {
        // Judging a plain write would cost a look at the record for nothing.
        if put.condition != Condition::Always && !self.judge(&put.condition, &put.key).0.holds {
            self.show_refusal(id, &put.key, out);
            return Ok(());
        }
        let expiry = Some(put.expiry_ms).filter(|expiry_ms| *expiry_ms != 0);
        let end = self.shard.put(self.hash(&put.key), &put.key, &put.value, expiry, self.time)?;
        self.show_written(id, end, out);
        Ok(())
    }

    fn delete(&mut self, id: RequestId, delete: &Delete, out: &mut ReplyQueue) -> Result<(), WriteError> {
        let (judged, barrier) = self.judge(&delete.condition, &delete.key);
        if !judged.holds {
            self.show_refusal(id, &delete.key, out);
        } else if judged.present {
            let end = self.shard.delete(self.hash(&delete.key), &delete.key, self.time)?;
            self.show_written(id, end, out);
        } else {
            answer(out, barrier, id, &Message::Written(Written::Nothing));
        }
        Ok(())
    }

    fn increment(&mut self, id: RequestId, increment: &Increment, out: &mut ReplyQueue) -> Result<(), WriteError> {
        let Increment { by, key, .. } = increment;
        let hash = self.hash(key);
        let read = |record: &RecordView<'_>| (parse_integer(record.value), record.expiry);
        let (present, expiry) = match self.shard.read(hash, key, self.time, read).0 {
            None => (0, None),
            Some((Some(present), expiry)) => (present, expiry),
            Some((None, _)) => {
                fail(out, id, ErrorCode::NotANumber, "what is there is not an integer of 64 bits");
                return Ok(());
            }
        };
        let Some(value) = present.checked_add(*by) else {
            fail(out, id, ErrorCode::NotANumber, "the sum would not be an integer of 64 bits");
            return Ok(());
        };
        let mut text = Vec::with_capacity(20);
        reply::decimal(&mut text, value);
        let end = self.shard.put(hash, key, &text, expiry, self.time)?;
        let version = self.newest();
        answer(out, end, id, &Message::Incremented(Incremented { version, value }));
        Ok(())
    }

    /// What stands against a condition. It was just judged, and nothing else runs on the shard meanwhile.
    fn show_refusal(&self, id: RequestId, key: &[u8], out: &mut ReplyQueue) {
        let nothing = Message::Written(Written::Refused { present: None });
        self.show_or(id, key, Shown::InTheWay, &nothing, out);
    }

    fn show_written(&self, id: RequestId, end: Lsn, out: &mut ReplyQueue) {
        answer(out, end, id, &Message::Written(Written::Written { version: self.newest() }));
    }

    /// That of the record which was just written: the clock gives a version to nothing else.
    fn newest(&self) -> net::ids::Version {
        net::ids::Version(self.shard.newest().0)
    }

    fn judge(&self, condition: &Condition, key: &[u8]) -> (Judged, Lsn) {
        let (found, barrier) = self.shard.read(self.hash(key), key, self.time, |record| match condition {
            Condition::Always | Condition::IfPresent => true,
            Condition::IfAbsent => false,
            Condition::IfVersion(version) => record.version.0 == version.0,
            Condition::IfValue(value) => record.value == value,
        });
        let judged = match (found, condition) {
            (Some(holds), _) => Judged { present: true, holds },
            (None, Condition::Always | Condition::IfAbsent) => Judged { present: false, holds: true },
            (None, Condition::IfVersion(version)) => Judged { present: false, holds: version.0 == 0 },
            (None, Condition::IfPresent | Condition::IfValue(_)) => Judged { present: false, holds: false },
        };
        (judged, barrier)
    }

    fn scan(&mut self, id: RequestId, scan: &Scan, out: &mut ReplyQueue) -> Result<(), WriteError> {
        let mut frames = vec![Keys { more: true, cursor: 0, keys: Vec::new() }];
        let mut frame_bytes = 0;
        let position = ScanPosition(scan.cursor & POSITION_MASK);
        let next = self.shard.scan(position, scan.count.into(), self.time, |record| {
            if !record.key.starts_with(&scan.prefix) {
                return;
            }
            if frame_bytes >= CONTROL_BODY_BYTES_MAX {
                frame_bytes = 0;
                frames.push(Keys { more: true, cursor: 0, keys: Vec::new() });
            }
            frame_bytes += 2 + record.key.len();
            if let Some(frame) = frames.last_mut() {
                frame.keys.push(Bytes::copy_from_slice(record.key));
            }
        })?;
        let cursor = match next {
            Some(position) => u64::from(self.core) << POSITION_BITS | position.0,
            None if self.core + 1 < self.cores => u64::from(self.core + 1) << POSITION_BITS,
            None => 0,
        };
        let last = frames.len() - 1;
        // Keys of records that are not durable yet are shown once they are.
        let barrier = self.shard.log().staged();
        for (at, keys) in frames.into_iter().enumerate() {
            answer(out, barrier, id, &Message::Keys(Keys { more: at < last, cursor, ..keys }));
        }
        Ok(())
    }
}

/// A cursor of `Scan` is a core (16 bits) and the position in its index.
const POSITION_BITS: u32 = 48;
const POSITION_MASK: u64 = (1 << POSITION_BITS) - 1;

/// The core that a cursor names.
#[must_use]
pub fn core_of_cursor(cursor: u64) -> u16 {
    u16::try_from(cursor >> POSITION_BITS).unwrap_or(u16::MAX)
}

/// What became of a condition.
#[derive(Clone, Copy, Debug)]
struct Judged {
    present: bool,
    holds: bool,
}

fn item<'a>(record: &RecordView<'a>) -> ItemRef<'a> {
    let version = net::ids::Version(record.version.0);
    ItemRef { version, expiry_ms: record.expiry.unwrap_or(0), value: record.value }
}

fn too_long(error: &net::wire::EncodeError) -> Message {
    Message::Error(Failed::new(ErrorCode::Invalid, &error.to_string()))
}

fn code_of(error: WriteError) -> ErrorCode {
    match error {
        WriteError::TooLarge | WriteError::BatchTooLarge => ErrorCode::Invalid,
        WriteError::DiskFull | WriteError::DiskFailing | WriteError::Removed | WriteError::LogFailed => {
            ErrorCode::CannotWrite
        }
        WriteError::NoSegment | WriteError::Throttled | WriteError::Held | WriteError::NotInMemory => {
            ErrorCode::NotReady
        }
        WriteError::Unreadable => ErrorCode::Unreadable,
    }
}
