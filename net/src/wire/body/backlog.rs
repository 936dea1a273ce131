//! `Backlog` (source → follower): how much of the logs that were asked for lies behind what is being written now.
//!
//! Rules:
//! - On a live connection it answers the first `Follow`, and every further one with the same logs. A log that it names is not
//!   streamed there from where it was asked for: the running one begins behind `upto`, with its records and its first claim, and
//!   a retired one is not streamed there at all. What lies at or below `upto` is asked for on a bulk connection.
//! - It names all logs of the source that the follower lacks something of, and the running one, or none: what a retired log has lost
//!   stands in later ones, so that they have to travel on one connection.
//! - On a bulk connection it says from time to time how much is left, and names none.

use bytes::BufMut;

use super::Body;
use crate::ids::{LogId, Version};
use crate::wire::codec::{Reader, put_count, put_log};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::LOGS_MAX;
use crate::wire::opcode::Opcode;

/// A log that lies too far back for a live connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogLog {
    /// Which log.
    pub log: LogId,
    /// What lies at or below this is asked for on a bulk connection.
    pub upto: Version,
}

/// How much lies behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes of the source's log that are left to be read for it; more than what is sent of them.
    pub left: u64,
    /// What a live connection does not stream.
    pub logs: Vec<BacklogLog>,
}

impl Body for Backlog {
    const OPCODE: Opcode = Opcode::Backlog;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u64_le(self.left);
        put_count(out, "logs", self.logs.len(), LOGS_MAX)?;
        for entry in &self.logs {
            put_log(out, entry.log);
            out.put_u64_le(entry.upto.0);
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Backlog, DecodeError> {
        let left = reader.u64()?;
        let count = reader.count("logs", LOGS_MAX, 20)?;
        let mut logs = Vec::with_capacity(count);
        for _ in 0..count {
            logs.push(BacklogLog { log: reader.log()?, upto: Version(reader.u64()?) });
        }
        Ok(Backlog { left, logs })
    }
}
