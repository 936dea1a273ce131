//! `WAIT` and `WAITAOF`: until other nodes durably hold what this connection wrote.

use net::resp::{Args, parse_integer, reply};

use super::NOT_AN_INTEGER;
use super::table::SessionVerb;
use crate::node::{Durability, NodeFacts};
use crate::replication::holders::{Others, Wanted};

/// What one of the two commands asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// What is waited for.
    pub wanted: Wanted,
    /// How long at most; zero: for ever.
    pub timeout_ms: u64,
    /// `WAITAOF`: answers with two numbers.
    pub aof: bool,
}

impl Wait {
    /// Reads the arguments; the name comes first and the arity was checked.
    ///
    /// # Errors
    /// Redis' error texts.
    pub fn parse(verb: SessionVerb, args: Args<'_>, durability: Durability) -> Result<Wait, String> {
        let aof = verb == SessionVerb::WaitAof;
        let integer = |at: usize| args.get(at).and_then(parse_integer);
        let mut own = false;
        if aof {
            own = match integer(1) {
                None => return Err(NOT_AN_INTEGER.into()),
                Some(count @ 0..=1) => count == 1,
                Some(_) => return Err("ERR value is out of range, value must between 0 and 1".into()),
            };
        }
        let count = match integer(if aof { 2 } else { 1 }) {
            Some(count) if count >= 0 || !aof => usize::try_from(count).unwrap_or(0),
            _ if aof => return Err("ERR value is out of range, must be positive".into()),
            _ => return Err(NOT_AN_INTEGER.into()),
        };
        let timeout_ms = match integer(args.len() - 1).map(u64::try_from) {
            None => return Err("ERR timeout is not an integer or out of range".into()),
            Some(Err(_)) => return Err("ERR timeout is negative".into()),
            Some(Ok(timeout_ms)) => timeout_ms,
        };
        // With `DURABILITY=fsync` no reply leaves before what it shows is on the disk.
        let own = own && durability == Durability::Os;
        Ok(Wait { wanted: Wanted { others: Others::Nodes(count), own, classes: 0 }, timeout_ms, aof })
    }

    /// The same, where keys of these prefixes were written: only those count that may hold them.
    #[must_use]
    pub fn among(self, classes: u64) -> Wait {
        Wait { wanted: Wanted { classes, ..self.wanted }, ..self }
    }

    /// Answers with what holds now for a connection that wrote up to `written`.
    pub fn answer(&self, written: wal::Version, node: &NodeFacts, out: &mut Vec<u8>) {
        let count = i64::try_from(node.holders.count(written, self.wanted.classes)).unwrap_or(i64::MAX);
        if self.aof {
            let own = node.durability == Durability::Fsync || node.holders.is_own(written);
            reply::array_header(out, 2);
            reply::integer(out, i64::from(own));
        }
        reply::integer(out, count);
    }
}
