//! Commands on a key's expiry: `EXPIRE` and its family, `TTL` and its family.

use net::resp::{Args, parse_integer};
use wal::Mapping;

use super::NOT_AN_INTEGER;
use super::keys::{KeyCommand, error, integer};
use super::set_options;
use super::table::KeyVerb;
use crate::frontend::replies::ReplyQueue;
use crate::shard::WriteError;

impl<M: Mapping> KeyCommand<'_, M> {
    pub(super) fn expire(
        &mut self,
        verb: KeyVerb,
        key: &[u8],
        args: Args<'_>,
        out: &mut ReplyQueue,
    ) -> Result<(), WriteError> {
        let seconds = matches!(verb, KeyVerb::Expire | KeyVerb::ExpireAt);
        let absolute = matches!(verb, KeyVerb::ExpireAt | KeyVerb::PExpireAt);
        // The options are judged before the time, as in Redis.
        let condition = match ExpireCondition::parse(args.from(3)) {
            Ok(condition) => condition,
            Err(text) => {
                error(out, &text);
                return Ok(());
            }
        };
        let Some(time) = parse_integer(&args[2]) else {
            error(out, NOT_AN_INTEGER);
            return Ok(());
        };
        let name = String::from_utf8_lossy(&args[0]).to_ascii_lowercase();
        let Some(at) = set_options::to_unix_ms(time, seconds, absolute, self.time.unix_ms) else {
            error(out, &format!("ERR invalid expire time in '{name}' command"));
            return Ok(());
        };
        let (present, barrier) = self.present(key);
        let Some(present) = present.filter(|present| condition.holds(present.expiry, at)) else {
            integer(out, barrier, 0);
            return Ok(());
        };
        // A time in the past deletes, as in Redis.
        let end = match u64::try_from(at) {
            Ok(at) if at > self.time.unix_ms => self.put(key, &present.value, Some(at))?,
            _ => self.shard.delete(self.hash, key, self.time)?,
        };
        integer(out, end, 1);
        Ok(())
    }

    pub(super) fn ttl(&mut self, verb: KeyVerb, key: &[u8], out: &mut ReplyQueue) {
        let (expiry, barrier) = self.shard.read(self.hash, key, self.time, |record| record.expiry);
        let value = match expiry {
            None => -2,
            Some(None) => -1,
            Some(Some(at)) => {
                let left = at.saturating_sub(self.time.unix_ms);
                let shown = match verb {
                    KeyVerb::Ttl => (left + 500) / 1000,
                    KeyVerb::PTtl => left,
                    KeyVerb::ExpireTime => at.saturating_add(500) / 1000,
                    _ => at,
                };
                i64::try_from(shown).unwrap_or(i64::MAX)
            }
        };
        integer(out, barrier, value);
    }
}

/// The options of `EXPIRE`: `NX`, `XX`, `GT`, `LT`.
#[derive(Clone, Copy, Debug, Default)]
struct ExpireCondition {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl ExpireCondition {
    fn parse(args: Args<'_>) -> Result<ExpireCondition, String> {
        let mut condition = ExpireCondition::default();
        for word in args.iter() {
            let flag = match word.to_ascii_uppercase().as_slice() {
                b"NX" => &mut condition.nx,
                b"XX" => &mut condition.xx,
                b"GT" => &mut condition.gt,
                b"LT" => &mut condition.lt,
                _ => return Err(format!("ERR Unsupported option {}", String::from_utf8_lossy(word))),
            };
            *flag = true;
        }
        if condition.nx && (condition.xx || condition.gt || condition.lt) {
            return Err("ERR NX and XX, GT or LT options at the same time are not compatible".into());
        }
        if condition.gt && condition.lt {
            return Err("ERR GT and LT options at the same time are not compatible".into());
        }
        Ok(condition)
    }

    /// No expiry counts as infinitely late.
    fn holds(self, present: Option<u64>, at: i64) -> bool {
        let later = present.is_some_and(|present| i128::from(at) > i128::from(present));
        let earlier = present.is_none_or(|present| i128::from(at) < i128::from(present));
        (!self.nx || present.is_none())
            && (!self.xx || present.is_some())
            && (!self.gt || later)
            && (!self.lt || earlier)
    }
}
