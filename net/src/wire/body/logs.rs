//! `Logs` (source → follower): the source's own logs, current and retired.
//!
//! Rules:
//! - The first answer to `Follow`, and again whenever the list changes.
//! - A log covers the versions (first, end]; `end` is 0 while it is open. The intervals of one node never overlap.
//! - A closed log is listed once more with its end, so that followers drop it from their tables.

use bytes::BufMut;

use super::Body;
use crate::ids::{LogId, Version};
use crate::wire::codec::{Reader, codes, put_count, put_log};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::LOGS_MAX;
use crate::wire::opcode::Opcode;

codes! {
    /// The life of a log.
    LogState: u8 {
        /// Being written.
        Open = 1,
        /// Its run is over; members may still miss some of it.
        Retired = 2,
        /// Every member holds all of it.
        Closed = 3,
    }
}

/// One of the source's logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Which log.
    pub log: LogId,
    /// Every version of the log is above or equal to this.
    pub first: Version,
    /// Highest version; 0 while open.
    pub end: Version,
    /// Cores it is spread over.
    pub cores: u16,
    /// Its life.
    pub state: LogState,
}

/// The source's own logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    /// In any order.
    pub logs: Vec<LogEntry>,
}

impl Body for Logs {
    const OPCODE: Opcode = Opcode::Logs;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_count(out, "logs", self.logs.len(), LOGS_MAX)?;
        for entry in &self.logs {
            put_log(out, entry.log);
            out.put_u64_le(entry.first.0);
            out.put_u64_le(entry.end.0);
            out.put_u16_le(entry.cores);
            out.put_u8(entry.state.code());
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Logs, DecodeError> {
        let count = reader.count("logs", LOGS_MAX, 31)?;
        let mut logs = Vec::with_capacity(count);
        for _ in 0..count {
            let log = reader.log()?;
            let (first, end) = (Version(reader.u64()?), Version(reader.u64()?));
            let cores = reader.u16()?;
            let state = reader.u8()?;
            let state =
                LogState::from_code(state).ok_or(DecodeError::Value { field: "log state", value: state.into() })?;
            if (state == LogState::Open) != (end == Version(0)) {
                return Err(DecodeError::Value { field: "log end", value: end.0 });
            }
            logs.push(LogEntry { log, first, end, cores, state });
        }
        Ok(Logs { logs })
    }
}
