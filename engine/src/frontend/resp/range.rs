//! Commands on a part of a value, and `GETEX`.

use net::resp::{Args, parse_integer, reply};
use wal::Mapping;

use super::keys::{KeyCommand, error, integer, to_i64};
use super::set_options::{self, ExpiryChange};
use super::{NOT_AN_INTEGER, STRING_TOO_LONG};
use crate::frontend::replies::ReplyQueue;
use crate::shard::WriteError;

/// The longest string that Redis makes, in bytes (`proto-max-bulk-len`); only its error text is needed here.
const REDIS_STRING_BYTES_MAX: usize = 512 * 1024 * 1024;

impl<M: Mapping> KeyCommand<'_, M> {
    pub(super) fn get_range(&mut self, key: &[u8], args: Args<'_>, out: &mut ReplyQueue) {
        let (Some(start), Some(end)) = (parse_integer(&args[2]), parse_integer(&args[3])) else {
            error(out, NOT_AN_INTEGER);
            return;
        };
        out.reply_with(
            |out| {
                let (found, barrier) = self.shard.read(self.hash, key, self.time, |record| {
                    reply::bulk(out, slice(record.value, start, end));
                });
                (found.is_none(), barrier)
            },
            |out| reply::bulk(out, b""),
        );
    }

    pub(super) fn set_range(&mut self, key: &[u8], args: Args<'_>, out: &mut ReplyQueue) -> Result<(), WriteError> {
        let Some(offset) = parse_integer(&args[2]) else {
            error(out, NOT_AN_INTEGER);
            return Ok(());
        };
        let Ok(offset) = usize::try_from(offset) else {
            error(out, "ERR offset is out of range");
            return Ok(());
        };
        let (present, barrier) = self.present(key);
        let (mut value, expiry) = present.map_or((Vec::new(), None), |present| (present.value, present.expiry));
        let part = &args[3];
        if part.is_empty() {
            integer(out, barrier, to_i64(value.len()));
            return Ok(());
        }
        let end = offset.saturating_add(part.len());
        if end > REDIS_STRING_BYTES_MAX {
            error(out, STRING_TOO_LONG);
            return Ok(());
        }
        // Before the zeros are made: a large offset must not cost memory.
        if end > self.shard.value_bytes_max() {
            return Err(WriteError::TooLarge);
        }
        value.resize(value.len().max(end), 0);
        value[offset..end].copy_from_slice(part);
        let end = self.put(key, &value, expiry)?;
        integer(out, end, to_i64(value.len()));
        Ok(())
    }

    pub(super) fn get_ex(&mut self, key: &[u8], args: Args<'_>, out: &mut ReplyQueue) -> Result<(), WriteError> {
        let change = match set_options::parse_change(args.from(2)) {
            Ok(change) => change,
            Err(text) => {
                error(out, &text);
                return Ok(());
            }
        };
        let (found, barrier) = self.present(key);
        let Some(present) = found else {
            self.bulk_or_null(out, barrier, None);
            return Ok(());
        };
        let end = match change {
            ExpiryChange::None => barrier,
            ExpiryChange::Remove if present.expiry.is_none() => barrier,
            ExpiryChange::Remove => self.put(key, &present.value, None)?,
            ExpiryChange::To(unit, time) => match set_options::in_unit(unit, time, self.time.unix_ms, "getex") {
                // A time in the past deletes, as in Redis.
                Ok(at) if at <= self.time.unix_ms => self.shard.delete(self.hash, key, self.time)?,
                Ok(at) => self.put(key, &present.value, Some(at))?,
                Err(text) => {
                    error(out, &text);
                    return Ok(());
                }
            },
        };
        self.bulk_or_null(out, end, Some(&present));
        Ok(())
    }
}

/// The bytes from `start` to `end`, both included; negative ones count from the end of `value`.
fn slice(value: &[u8], start: i64, end: i64) -> &[u8] {
    let len = to_i64(value.len());
    let from_end = |at: i64| if at < 0 { at.saturating_add(len) } else { at };
    if start < 0 && end < 0 && start > end {
        return &[];
    }
    let (start, end) = (from_end(start).max(0), from_end(end).max(0).min(len - 1));
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) => value.get(start..=end).unwrap_or_default(),
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::slice;

    #[test]
    fn ranges_are_those_of_redis() {
        for (start, end, expected) in [
            (0, 3, "This"),
            (0, -1, "This is"),
            (-2, -1, "is"),
            (5, 3, ""),
            (5, 5000, "is"),
            (-5000, 10_000, "This is"),
            (-1, -5, ""),
            (-100, -50, "T"),
            (7, 7, ""),
            (i64::MIN, i64::MAX, "This is"),
            (i64::MAX, i64::MIN, ""),
        ] {
            assert_eq!(slice(b"This is", start, end), expected.as_bytes(), "{start} {end}");
        }
        assert_eq!(slice(b"", 0, -1), b"");
    }
}
