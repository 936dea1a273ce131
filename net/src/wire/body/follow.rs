//! `Follow` (follower → source): the follower chose this source and asks for streams.
//!
//! Rules:
//! - Sent after the follower's full `Watermarks` on the same connection; answered by `Backlog` on a live
//!   connection, then by `Records` and `Claim`.
//! - Names the source's logs that the follower knows and where to start in each: everything above `from`. A log it does
//!   not name starts at that log's first version.
//! - What is needed only `upto` some version is not read further; some of what lies behind may come along. Asking again
//!   on the same connection can only raise it.
//! - To a follower that holds less than what the source may have forgotten deletions of, by `held`, no stream begins: it is answered
//!   `Bootstrap`.
//! - `credit` is the first window: the source may send payload up to that absolute offset of this connection's stream.

use bytes::BufMut;

use super::Body;
use crate::ids::{LogId, StreamOffset, Version};
use crate::wire::codec::{Reader, put_count, put_log};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::LOGS_MAX;
use crate::wire::opcode::Opcode;

/// Where to start in one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowLog {
    /// Which log.
    pub log: LogId,
    /// Send what is above this.
    pub from: Version,
    /// What is above this comes on another connection; [`FollowLog::ALL`] if nothing does.
    pub upto: Version,
}

impl FollowLog {
    /// As far as the log goes, and on as it is written.
    pub const ALL: Version = Version(u64::MAX);

    /// All of a log above `from`.
    #[must_use]
    pub fn all(log: LogId, from: Version) -> FollowLog {
        FollowLog { log, from, upto: FollowLog::ALL }
    }
}

/// The follower asks for streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Follow {
    /// How far the source may send at first.
    pub credit: StreamOffset,
    /// Up to here the follower holds everything that any member wrote, and has noted that; 0 if it never knew.
    pub held: Version,
    /// The source's logs that the follower knows.
    pub logs: Vec<FollowLog>,
}

impl Body for Follow {
    const OPCODE: Opcode = Opcode::Follow;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u64_le(self.credit.0);
        out.put_u64_le(self.held.0);
        put_count(out, "logs", self.logs.len(), LOGS_MAX)?;
        for entry in &self.logs {
            put_log(out, entry.log);
            out.put_u64_le(entry.from.0);
            out.put_u64_le(entry.upto.0);
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Follow, DecodeError> {
        let (credit, held) = (StreamOffset(reader.u64()?), Version(reader.u64()?));
        let count = reader.count("logs", LOGS_MAX, 28)?;
        let mut logs = Vec::with_capacity(count);
        for _ in 0..count {
            let (log, from) = (reader.log()?, Version(reader.u64()?));
            logs.push(FollowLog { log, from, upto: Version(reader.u64()?) });
        }
        Ok(Follow { credit, held, logs })
    }
}
