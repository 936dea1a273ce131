//! Commands on one key, run on the core that owns it.

use net::resp::{Args, Protocol, parse_integer, reply};
use wal::planted::{self, Fault};
use wal::{Lsn, Mapping};

use super::set_options::{self, Condition, Expiry, SetOptions};
use super::table::KeyVerb;
use super::{NOT_AN_INTEGER, SYNTAX_ERROR};
use crate::clock::Time;
use crate::frontend::replies::{RUN_BYTES_MIN, ReplyQueue};
use crate::shard::{Shard, WriteError};
use crate::storage::KeyHash;

/// The longest key, in bytes: the record's length field has 16 bits.
pub const KEY_BYTES_MAX: usize = 65_535;

/// What a command on one key runs on.
#[derive(Debug)]
pub struct KeyCommand<'a, M: Mapping> {
    /// The shard that owns the key.
    pub shard: &'a mut Shard<M>,
    /// Now.
    pub time: Time,
    /// How to encode the reply.
    pub protocol: Protocol,
    /// The key's hash.
    pub hash: KeyHash,
}

/// The present value of a key.
struct Present {
    value: Vec<u8>,
    expiry: Option<u64>,
}

impl<M: Mapping> KeyCommand<'_, M> {
    /// Runs the command; `args` starts with its name and was checked for arity.
    ///
    /// # Errors
    /// Transient [`WriteError`]s only: nothing was changed or answered, run it again later.
    pub fn run(&mut self, verb: KeyVerb, args: Args<'_>, out: &mut ReplyQueue) -> Result<(), WriteError> {
        let key = args.get(1).unwrap_or_default();
        if key.len() > KEY_BYTES_MAX {
            out.reply(Lsn(0), |out| reply::error(out, "ERR the key is longer than 65535 bytes"));
            return Ok(());
        }
        match self.dispatch(verb, key, args, out) {
            Err(error) if error.is_transient() => Err(error),
            Err(error) if error.is_disk() && planted::is(Fault::FullDiskAcknowledged) => {
                out.reply(Lsn(0), |out| out.extend_from_slice(b"+OK\r\n"));
                Ok(())
            }
            Err(error) => {
                out.reply(Lsn(0), |out| reply::error(out, &format!("ERR {error}")));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn dispatch(&mut self, verb: KeyVerb, key: &[u8], args: Args<'_>, out: &mut ReplyQueue) -> Result<(), WriteError> {
        match verb {
            KeyVerb::Get => self.get(key, out),
            KeyVerb::Set => return self.set(key, args, out),
            KeyVerb::SetNx => {
                let (present, barrier) = self.shard.read(self.hash, key, self.time, |_| ());
                let end = if present.is_none() { self.put(key, &args[2], None)? } else { barrier };
                integer(out, end, i64::from(present.is_none()));
            }
            KeyVerb::SetEx | KeyVerb::PSetEx => return self.set_ex(verb, key, args, out),
            KeyVerb::GetSet => {
                let options = SetOptions { get: true, ..SetOptions::default() };
                return self.set_with(key, &args[2], options, out);
            }
            KeyVerb::GetDel => {
                let (present, barrier) = self.present(key);
                let end = if present.is_some() { self.shard.delete(self.hash, key, self.time)? } else { barrier };
                self.bulk_or_null(out, end, present.as_ref());
            }
            KeyVerb::StrLen => {
                let (len, barrier) = self.shard.read(self.hash, key, self.time, |record| record.value.len());
                integer(out, barrier, to_i64(len.unwrap_or(0)));
            }
            KeyVerb::Append => {
                let (present, _) = self.present(key);
                let (mut value, expiry) = present.map_or((Vec::new(), None), |present| (present.value, present.expiry));
                value.extend_from_slice(&args[2]);
                let end = self.put(key, &value, expiry)?;
                integer(out, end, to_i64(value.len()));
            }
            KeyVerb::Expire | KeyVerb::PExpire | KeyVerb::ExpireAt | KeyVerb::PExpireAt => {
                return self.expire(verb, key, args, out);
            }
            KeyVerb::Ttl | KeyVerb::PTtl | KeyVerb::ExpireTime | KeyVerb::PExpireTime => self.ttl(verb, key, out),
            KeyVerb::Persist => {
                let (present, barrier) = self.present(key);
                match present {
                    Some(Present { value, expiry: Some(_) }) => {
                        let end = self.put(key, &value, None)?;
                        integer(out, end, 1);
                    }
                    _ => integer(out, barrier, 0),
                }
            }
            KeyVerb::Incr => return self.increment(key, Some(1), out),
            KeyVerb::Decr => return self.increment(key, Some(-1), out),
            KeyVerb::IncrBy => return self.increment(key, parse_integer(&args[2]), out),
            KeyVerb::DecrBy => {
                let by = parse_integer(&args[2]);
                if by == Some(i64::MIN) {
                    error(out, "ERR decrement would overflow");
                    return Ok(());
                }
                return self.increment(key, by.map(|by| -by), out);
            }
            KeyVerb::IncrByFloat => return self.increment_float(key, &args[2], out),
            KeyVerb::Type => {
                let (present, barrier) = self.shard.read(self.hash, key, self.time, |_| ());
                let name = if present.is_some() { "string" } else { "none" };
                out.reply(barrier, |out| reply::simple(out, name));
            }
            KeyVerb::Delete => {
                let (present, barrier) = self.shard.read(self.hash, key, self.time, |_| ());
                let found = present.is_some();
                let end = if found { self.shard.delete(self.hash, key, self.time)? } else { barrier };
                out.sum += i64::from(found);
                integer(out, end, i64::from(found));
            }
            KeyVerb::DelEx if args.len() == 2 => return self.dispatch(KeyVerb::Delete, key, args, out),
            KeyVerb::DelEx if args.len() != 4 => error(out, SYNTAX_ERROR),
            KeyVerb::DelEx => match args[2].to_ascii_uppercase().as_slice() {
                b"IFEQ" => return self.delete_if(key, |value| value == &args[3], out),
                b"IFNE" => return self.delete_if(key, |value| value != &args[3], out),
                _ => error(out, SYNTAX_ERROR),
            },
            KeyVerb::DelIfEq => return self.delete_if(key, |value| value == &args[2], out),
            KeyVerb::Exists => {
                let (present, barrier) = self.shard.read(self.hash, key, self.time, |_| ());
                out.sum += i64::from(present.is_some());
                integer(out, barrier, i64::from(present.is_some()));
            }
        }
        Ok(())
    }

    fn get(&mut self, key: &[u8], out: &mut ReplyQueue) {
        let protocol = self.protocol;
        let mut large = false;
        // The reply is written while the record is in hand: one copy from the segment into the connection's output.
        out.reply_with(
            |out| {
                let (found, barrier) = self.shard.read(self.hash, key, self.time, |record| {
                    large = record.value.len() >= RUN_BYTES_MIN;
                    if !large {
                        reply::bulk(out, record.value);
                    }
                });
                (found.is_none(), barrier)
            },
            |out| reply::null(out, protocol),
        );
        if large && let Some((value, barrier)) = self.shard.large_value(self.hash, key, self.time, RUN_BYTES_MIN) {
            out.reply(barrier, |out| reply::bulk_header(out, value.len()));
            out.run(barrier, value);
            out.reply(barrier, reply::crlf);
        }
    }

    fn set(&mut self, key: &[u8], args: Args<'_>, out: &mut ReplyQueue) -> Result<(), WriteError> {
        let options = if args.len() == 3 {
            SetOptions::default()
        } else {
            match set_options::parse(args.from(3), self.time.unix_ms) {
                Ok(options) => options,
                Err(text) => {
                    error(out, &text);
                    return Ok(());
                }
            }
        };
        self.set_with(key, &args[2], options, out)
    }

    fn set_with(
        &mut self,
        key: &[u8],
        value: &[u8],
        options: SetOptions<'_>,
        out: &mut ReplyQueue,
    ) -> Result<(), WriteError> {
        let plain = options.condition == Condition::Always && !options.get && options.expiry != Expiry::Keep;
        let (present, barrier) = if plain { (None, Lsn(0)) } else { self.present(key) };
        let refused = match options.condition {
            Condition::Always => false,
            Condition::IfAbsent => present.is_some(),
            Condition::IfPresent => present.is_none(),
            Condition::IfEqual(value) => present.as_ref().is_none_or(|present| present.value != value),
            Condition::IfDifferent(value) => present.as_ref().is_some_and(|present| present.value == value),
        };
        let expiry = match options.expiry {
            Expiry::None => None,
            Expiry::Keep => present.as_ref().and_then(|present| present.expiry),
            Expiry::At(at) => Some(at),
        };
        let end = if refused { barrier } else { self.put(key, value, expiry)? };
        let protocol = self.protocol;
        if options.get {
            self.bulk_or_null(out, end, present.as_ref());
        } else if refused {
            out.reply(end, |out| reply::null(out, protocol));
        } else {
            out.reply(end, |out| out.extend_from_slice(b"+OK\r\n"));
        }
        Ok(())
    }

    fn set_ex(&mut self, verb: KeyVerb, key: &[u8], args: Args<'_>, out: &mut ReplyQueue) -> Result<(), WriteError> {
        let seconds = verb == KeyVerb::SetEx;
        let name = if seconds { "setex" } else { "psetex" };
        match set_options::expiry_at(&args[2], seconds, false, self.time.unix_ms, name) {
            Ok(at) => {
                let options = SetOptions { expiry: Expiry::At(at), ..SetOptions::default() };
                self.set_with(key, &args[3], options, out)
            }
            Err(text) => {
                error(out, &text);
                Ok(())
            }
        }
    }

    fn expire(&mut self, verb: KeyVerb, key: &[u8], args: Args<'_>, out: &mut ReplyQueue) -> Result<(), WriteError> {
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

    fn ttl(&mut self, verb: KeyVerb, key: &[u8], out: &mut ReplyQueue) {
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

    fn increment(&mut self, key: &[u8], by: Option<i64>, out: &mut ReplyQueue) -> Result<(), WriteError> {
        let Some(by) = by else {
            error(out, NOT_AN_INTEGER);
            return Ok(());
        };
        let (found, _) =
            self.shard.read(self.hash, key, self.time, |record| (parse_integer(record.value), record.expiry));
        let (present, expiry) = match found {
            None => (0, None),
            Some((Some(present), expiry)) => (present, expiry),
            Some((None, _)) => {
                error(out, NOT_AN_INTEGER);
                return Ok(());
            }
        };
        let Some(sum) = present.checked_add(by) else {
            error(out, "ERR increment or decrement would overflow");
            return Ok(());
        };
        let mut text = Vec::with_capacity(20);
        reply::decimal(&mut text, sum);
        let end = self.put(key, &text, expiry)?;
        integer(out, end, sum);
        Ok(())
    }

    fn increment_float(&mut self, key: &[u8], by: &[u8], out: &mut ReplyQueue) -> Result<(), WriteError> {
        let number = |text: &[u8]| -> Option<f64> {
            let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
            (!value.is_nan()).then_some(value)
        };
        let (present, _) = self.present(key);
        let (old, expiry) = match &present {
            None => (Some(0.0), None),
            Some(present) => (number(&present.value), present.expiry),
        };
        let (Some(old), Some(by)) = (old, number(by)) else {
            error(out, "ERR value is not a valid float");
            return Ok(());
        };
        let sum = old + by;
        if !sum.is_finite() {
            error(out, "ERR increment would produce NaN or Infinity");
            return Ok(());
        }
        let text = format!("{sum}");
        let end = self.put(key, text.as_bytes(), expiry)?;
        out.reply(end, |out| reply::bulk(out, text.as_bytes()));
        Ok(())
    }

    fn delete_if(
        &mut self,
        key: &[u8],
        wanted: impl FnOnce(&[u8]) -> bool,
        out: &mut ReplyQueue,
    ) -> Result<(), WriteError> {
        let (found, barrier) = self.shard.read(self.hash, key, self.time, |record| wanted(record.value));
        let deletes = found == Some(true);
        let end = if deletes { self.shard.delete(self.hash, key, self.time)? } else { barrier };
        integer(out, end, i64::from(deletes));
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: &[u8], expiry: Option<u64>) -> Result<Lsn, WriteError> {
        self.shard.put(self.hash, key, value, expiry, self.time)
    }

    fn present(&self, key: &[u8]) -> (Option<Present>, Lsn) {
        self.shard
            .read(self.hash, key, self.time, |record| Present { value: record.value.to_vec(), expiry: record.expiry })
    }

    fn bulk_or_null(&self, out: &mut ReplyQueue, barrier: Lsn, present: Option<&Present>) {
        out.reply(barrier, |out| match present {
            Some(present) => reply::bulk(out, &present.value),
            None => reply::null(out, self.protocol),
        });
    }
}

fn integer(out: &mut ReplyQueue, barrier: Lsn, value: i64) {
    out.reply(barrier, |out| reply::integer(out, value));
}

fn error(out: &mut ReplyQueue, text: &str) {
    out.reply(Lsn(0), |out| reply::error(out, text));
}

fn to_i64(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
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

/// Parses the arguments of `SCAN` behind the cursor: pattern, count, and whether strings are wanted at all.
///
/// # Errors
/// Redis' error text.
pub fn scan_options(args: Args<'_>) -> Result<(Option<Vec<u8>>, usize, bool), String> {
    let (mut pattern, mut count, mut strings) = (None, 10, true);
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let value = words.next().ok_or(SYNTAX_ERROR)?;
        match word.to_ascii_uppercase().as_slice() {
            b"MATCH" => pattern = Some(value.to_vec()),
            b"COUNT" => {
                let wanted = parse_integer(value).ok_or(NOT_AN_INTEGER)?;
                if wanted < 1 {
                    return Err(SYNTAX_ERROR.into());
                }
                count = usize::try_from(wanted).unwrap_or(usize::MAX).min(100_000);
            }
            b"TYPE" => strings = value.eq_ignore_ascii_case(b"string"),
            _ => return Err(SYNTAX_ERROR.into()),
        }
    }
    Ok((pattern, count, strings))
}

/// Redis' glob: `*`, `?`, `[a-c]`, `[^a]`, backslash. Iterative; linear space, at most quadratic time.
#[must_use]
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if t == text.len() {
            return pattern[p..].iter().all(|&byte| byte == b'*');
        }
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(_) => {
                let (matched, next) = glob_one(&pattern[p..], text[t]);
                if matched {
                    p += next;
                    t += 1;
                    continue;
                }
            }
            None => {}
        }
        match &mut star {
            Some((after, from)) => {
                *from += 1;
                (p, t) = (*after, *from);
            }
            None => return false,
        }
    }
}

/// Matches one byte against the pattern's first element; returns that element's length.
fn glob_one(pattern: &[u8], byte: u8) -> (bool, usize) {
    match pattern {
        [b'?', ..] => (true, 1),
        [b'\\', escaped, ..] => (*escaped == byte, 2),
        [b'[', rest @ ..] => {
            let negated = rest.first() == Some(&b'^');
            let mut at = usize::from(negated);
            let mut found = false;
            while let Some(&low) = rest.get(at).filter(|&&byte| byte != b']') {
                if low == b'\\' && at + 1 < rest.len() {
                    found |= rest[at + 1] == byte;
                    at += 2;
                } else if rest.get(at + 1) == Some(&b'-') && at + 2 < rest.len() && rest[at + 2] != b']' {
                    let (low, high) = (low.min(rest[at + 2]), low.max(rest[at + 2]));
                    found |= (low..=high).contains(&byte);
                    at += 3;
                } else {
                    found |= low == byte;
                    at += 1;
                }
            }
            (found != negated, (at + 2).min(pattern.len()))
        }
        [literal, ..] => (*literal == byte, 1),
        [] => (false, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("user:*", "user:1", true),
            ("user:*", "users", false),
            ("h?llo", "hello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxc", false),
            ("[", "[", false),
            ("", "", true),
            ("", "a", false),
            ("a*", "ab*", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
        let long = vec![b'a'; 10_000];
        assert!(!glob(b"*a*a*a*a*b", &long));
    }
}
