//! `SCAN`: the cursor is the core (16 bits) and the position in its index (48 bits).

use net::resp::{Args, reply};
use wal::{Lsn, Mapping};

use super::CoreLoop;
use crate::clock::Time;
use crate::frontend::replies::{Merge, ReplyQueue};
use crate::frontend::resp::scan::{glob, scan_options};
use crate::host::Host;
use crate::shard::{Shard, WriteError};
use crate::storage::index::ScanPosition;

impl<H: Host> CoreLoop<H> {
    /// Runs `SCAN` on the core that its cursor names.
    ///
    /// # Errors
    /// Transient ones; nothing was answered.
    pub(super) fn run_scan(&mut self, index: u32, args: Args<'_>) -> Result<(), WriteError> {
        let cursor = std::str::from_utf8(&args[1]).ok().and_then(|text| text.parse::<u64>().ok());
        let replies = self.clients.replies(index);
        let Some(cursor) = cursor else {
            replies.reply(Lsn(0), |out| reply::error(out, "ERR invalid cursor"));
            return Ok(());
        };
        let owner = u16::try_from(cursor >> 48).unwrap_or(u16::MAX);
        if owner >= self.facts.cores {
            replies.reply(Lsn(0), |out| reply::error(out, "ERR invalid cursor"));
        } else if owner == self.core {
            let cores = (self.core, self.facts.cores);
            scan_from(&mut self.shard, &args[1], args.from(2), cores, self.time, replies)?;
        } else {
            let hop = replies.hop(1, Merge::Concatenate);
            let cores = self.facts.cores.to_string();
            // The scanning core has to know how many there are to name the next one.
            let words: Vec<&[u8]> =
                [b"SCAN", &args[1], cores.as_bytes()].into_iter().chain(args.from(2).iter()).collect();
            self.send_hop(index, owner, (hop, 0), &words);
        }
        Ok(())
    }
}

/// Walks on from `cursor` and answers.
///
/// # Errors
/// Transient ones; nothing was answered.
pub(super) fn scan_from<M: Mapping>(
    shard: &mut Shard<M>,
    cursor: &[u8],
    options: Args<'_>,
    (core, cores): (u16, u16),
    time: Time,
    replies: &mut ReplyQueue,
) -> Result<(), WriteError> {
    let cursor = std::str::from_utf8(cursor).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let (pattern, count, strings) = match scan_options(options) {
        Ok(options) => options,
        Err(text) => {
            replies.reply(Lsn(0), |out| reply::error(out, &text));
            return Ok(());
        }
    };
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let position = ScanPosition(cursor & ((1 << 48) - 1));
    let next = shard.scan(position, count, time, |record| {
        if strings && pattern.as_ref().is_none_or(|pattern| glob(pattern, record.key)) {
            keys.push(record.key.to_vec());
        }
    })?;
    let next = match next {
        Some(position) => (u64::from(core) << 48) | position.0,
        None if core + 1 < cores => u64::from(core + 1) << 48,
        None => 0,
    };
    // Keys of records that are not durable yet are shown once they are.
    replies.reply(shard.log().staged(), |out| {
        reply::array_header(out, 2);
        reply::bulk(out, next.to_string().as_bytes());
        reply::array_header(out, keys.len());
        keys.iter().for_each(|key| reply::bulk(out, key));
    });
    Ok(())
}
