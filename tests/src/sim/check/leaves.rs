//! D8: nothing past the durable position leaves a node. Every record on a mesh stream lies on its sender's device at that moment,
//! or lay there earlier in this run; every claim and every watermark is one that the sender holds, so that C8 judged it.
//!
//! What a node sends is read from the simulated network right after the turn in which it sent it; what its device holds was read
//! after the turn of the core that called it durable.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use net::ids::LogId;
use net::reactor::sim::Sent;
use wal::Version;

use super::Violation;
use super::positions::Positions;
use super::residency::Kept;
use super::stream::{Carried, Decoder};
use super::view::View;

/// Checker D8.
pub const D8: &str = "D8 only what is durable leaves";

/// Who sends.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it holds and claims.
    pub view: &'a View,
    /// Logs of which nobody can judge what is said.
    pub excused: &'a BTreeSet<LogId>,
    /// What stays where, and to which place it sends.
    pub kept: Option<(&'a Kept, usize)>,
    /// It died in the turn in which it sent this: its claims were not looked at after that.
    pub is_dying: bool,
}

/// One connection: both directions, and where its source stands.
#[derive(Debug, Default)]
struct Conn {
    ends: [Decoder; 2],
    positions: Positions,
}

/// All mesh streams that ever carried something.
#[derive(Debug, Default)]
pub struct Leaves {
    homes: Vec<IpAddr>,
    conns: BTreeMap<u64, Conn>,
    /// Records that were held to their sender's device.
    pub records: u64,
    /// Claims and watermarks that were held to what their sender holds.
    pub claims: u64,
}

impl Leaves {
    /// Nodes live at these addresses.
    #[must_use]
    pub fn new(homes: Vec<IpAddr>) -> Leaves {
        Leaves { homes, ..Leaves::default() }
    }

    /// Which node sends from this address.
    #[must_use]
    pub fn home(&self, ip: IpAddr) -> Option<usize> {
        self.homes.iter().position(|home| *home == ip)
    }

    /// `sender` sent this.
    ///
    /// # Errors
    /// [`D8`], [`super::residency::R1`], [`super::positions::C5`], [`super::positions::CREDIT`], [`super::stream::WIRE`].
    pub fn sent(&mut self, sent: &Sent, sender: &Sender<'_>) -> Result<(), Violation> {
        let Conn { ends, positions } = self.conns.entry(sent.conn).or_default();
        let (records, claims) = (&mut self.records, &mut self.claims);
        ends[sent.side & 1].feed(&sent.bytes, |carried| {
            match &carried {
                Carried::Record { version, crc } => {
                    *records += 1;
                    sender.sends(*version, *crc)?;
                }
                Carried::Claim(claim) => {
                    *claims += 1;
                    sender.says(claim.log, Version(claim.to.0))?;
                }
                Carried::Watermarks(told) => {
                    for entry in &told.entries {
                        *claims += 1;
                        sender.says(entry.log, Version(entry.version.0))?;
                    }
                }
                Carried::Records { .. }
                | Carried::Follow(_)
                | Carried::Backlog(_)
                | Carried::Logs(_)
                | Carried::Bootstrap(_)
                | Carried::Credit(_) => {}
            }
            positions.carried(sender.name, &carried)
        })
    }
}

impl Sender<'_> {
    fn sends(&self, version: Version, crc: u32) -> Result<(), Violation> {
        if let Some((kept, to)) = self.kept {
            kept.sent(self.name, to, version, crc)?;
        }
        if self.view.lay_here(version, crc) {
            return Ok(());
        }
        let text = format!("{} sends the record {version:?}, crc {crc:08x}, which its device does not hold", self.name);
        Err(Violation::new(D8, text))
    }

    fn says(&self, log: LogId, version: Version) -> Result<(), Violation> {
        let held = self.view.claims.get(&log).copied().unwrap_or(Version::ZERO);
        if version <= held || self.is_dying || self.excused.contains(&log) {
            return Ok(());
        }
        let text = format!("{} says that it holds {log} up to {version:?}, but holds it up to {held:?}", self.name);
        Err(Violation::new(D8, text))
    }
}

#[cfg(test)]
#[path = "leaves_tests.rs"]
mod tests;
