//! Commands on one key, run on the core that owns it.

use net::resp::{Args, Protocol, parse_integer, reply};
use wal::planted::{self, Fault};
use wal::{Lsn, Mapping};

use super::SYNTAX_ERROR;
use super::set_options::{self, Condition, Expiry, SetOptions};
use super::table::KeyVerb;
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
pub(super) struct Present {
    pub(super) value: Vec<u8>,
    pub(super) expiry: Option<u64>,
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
        match self.shard.ready(self.hash).and_then(|()| self.dispatch(verb, key, args, out)) {
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
            KeyVerb::GetEx => return self.get_ex(key, args, out),
            KeyVerb::GetRange => self.get_range(key, args, out),
            KeyVerb::SetRange => return self.set_range(key, args, out),
            KeyVerb::Encoding | KeyVerb::IdleTime | KeyVerb::RefCount | KeyVerb::Freq => self.object(verb, key, out),
            KeyVerb::MemoryUsage => self.memory_usage(key, args, out),
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

    pub(super) fn put(&mut self, key: &[u8], value: &[u8], expiry: Option<u64>) -> Result<Lsn, WriteError> {
        self.shard.put(self.hash, key, value, expiry, self.time)
    }

    pub(super) fn present(&self, key: &[u8]) -> (Option<Present>, Lsn) {
        self.shard
            .read(self.hash, key, self.time, |record| Present { value: record.value.to_vec(), expiry: record.expiry })
    }

    pub(super) fn bulk_or_null(&self, out: &mut ReplyQueue, barrier: Lsn, present: Option<&Present>) {
        out.reply(barrier, |out| match present {
            Some(present) => reply::bulk(out, &present.value),
            None => reply::null(out, self.protocol),
        });
    }
}

pub(super) fn integer(out: &mut ReplyQueue, barrier: Lsn, value: i64) {
    out.reply(barrier, |out| reply::integer(out, value));
}

pub(super) fn error(out: &mut ReplyQueue, text: &str) {
    out.reply(Lsn(0), |out| reply::error(out, text));
}

pub(super) fn to_i64(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}
