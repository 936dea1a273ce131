//! Commands on numbers: `INCR` and its family, `INCRBYFLOAT`.

use net::resp::{parse_integer, reply};
use wal::Mapping;

use super::NOT_AN_INTEGER;
use super::extended::Number;
use super::keys::{KeyCommand, error, integer};
use crate::frontend::replies::ReplyQueue;
use crate::shard::WriteError;

impl<M: Mapping> KeyCommand<'_, M> {
    pub(super) fn increment(&mut self, key: &[u8], by: Option<i64>, out: &mut ReplyQueue) -> Result<(), WriteError> {
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

    pub(super) fn increment_float(&mut self, key: &[u8], by: &[u8], out: &mut ReplyQueue) -> Result<(), WriteError> {
        let (present, _) = self.present(key);
        let (old, expiry) = match &present {
            None => (Number::parse(b"0"), None),
            Some(present) => (Number::parse(&present.value), present.expiry),
        };
        let (Some(old), Some(by)) = (old, Number::parse(by)) else {
            error(out, "ERR value is not a valid float");
            return Ok(());
        };
        let Number::Finite(sum) = old.plus(by) else {
            error(out, "ERR increment would produce NaN or Infinity");
            return Ok(());
        };
        let text = sum.to_string();
        let end = self.put(key, text.as_bytes(), expiry)?;
        out.reply(end, |out| reply::bulk(out, text.as_bytes()));
        Ok(())
    }
}
