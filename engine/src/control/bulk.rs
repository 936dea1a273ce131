//! Bulk connections: what a follower lacks of its source's logs, and passes, travel beside the live stream, not before it.
//!
//! The source decides when logs are asked for on a live connection ([`crate::replication::send::Sender::follow_live`]); the follower
//! opens a second connection for what it is told to ask for there, or for a pass, and closes it when it has what it wanted.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use net::ids::{NodeId, RequestId, Version};
use net::wire::body::{Backlog, BacklogLog, Follow, Watermarks as WatermarksBody};
use net::wire::message::Message;
use wal::marks::{Mark, reach};

use super::link::Role;
use super::{ControlLoop, DialTarget, LinkKey};
use crate::host::Host;
use crate::replication::catch_up::{CatchUp, Progress};

/// A follower that has more than this to be read for it gets that on a bulk connection. Less is sent in the time in which another
/// connection would be opened.
pub const BULK_BYTES_MIN: u64 = 1024 * 1024;

/// How often a source says how much is left.
const BACKLOG_MS: u64 = 500;

/// What this node catches up with, by the source's address.
pub(super) type CatchUps = BTreeMap<SocketAddr, CatchUp>;

impl<H: Host> ControlLoop<H> {
    /// The source says what it does not stream on its live connection, or how much is left on its bulk one.
    pub(super) fn hear_backlog(&mut self, key: LinkKey, backlog: &Backlog) {
        let now = self.now();
        let Some(link) = self.link(key) else { return };
        let (is_bulk, node) = (link.is_bulk, link.hello().map(|hello| hello.node));
        let (Role::Following { target, receiver }, Some(node)) = (&mut link.role, node) else { return };
        let target = *target;
        if is_bulk {
            if let Some(catch_up) = self.catch_ups.get_mut(&target) {
                catch_up.told(backlog.left, now);
            }
            return;
        }
        // A source says nothing of what others write.
        let lacking: Vec<BacklogLog> = backlog.logs.iter().filter(|entry| entry.log.node == node).copied().collect();
        receiver.begin_late(lacking.iter().map(|entry| (entry.log, entry.upto)));
        let held = |log| self.watermarks.version(log);
        if lacking.iter().all(|entry| held(entry.log) >= entry.upto) {
            // Everything else comes on the live connection, what an earlier one left out, too.
            self.end_catch_up(target);
            return;
        }
        let catch_up = self.catch_ups.entry(target).or_insert_with(|| {
            tracing::info!(%node, %target, bytes = backlog.left, "catching up with a source, on a connection of its own");
            CatchUp::new(node, now)
        });
        catch_up.lacks(&lacking, backlog.left);
        if let Some(key) = self.bulk_link(target) {
            self.ask_for_backlog(key);
        }
    }

    /// The bulk connection to a source, once that has said which logs it has.
    pub(super) fn bulk_link(&self, of: SocketAddr) -> Option<LinkKey> {
        let is_it =
            |role: &Role| matches!(role, Role::Following { target, receiver } if *target == of && receiver.is_open());
        let mut links = self.links.iter();
        let (index, link) = links.find(|(_, link)| link.is_bulk && link.is_up() && is_it(&link.role))?;
        Some(LinkKey { index, generation: link.generation })
    }

    /// Asks on a bulk connection for what the live one leaves out, if anything.
    pub(super) fn ask_for_backlog(&mut self, key: LinkKey) {
        let (vector, held) = (self.held_vector(), self.notes.held());
        let Some(link) = self.links.get_mut(key.index) else { return };
        let Role::Following { target, receiver } = &mut link.role else { return };
        let Some(catch_up) = self.catch_ups.get(target) else { return };
        let logs = catch_up.wanted(|log| self.watermarks.version(log));
        // What the source lists on this connection was opened when it did.
        let Ok(credit) = receiver.open(&self.core_state, []) else { return };
        link.push(&Message::Watermarks(WatermarksBody { full: true, entries: vector }), RequestId(0));
        link.push(&Message::Follow(Follow { credit, held, logs }), RequestId(0));
        // The source forgets what it was asked of other nodes' logs.
        self.relays.forget(key);
    }

    /// Whether a bulk connection to a source is wanted.
    pub(super) fn wants_bulk(&self, target: SocketAddr) -> bool {
        self.catch_ups.contains_key(&target) || self.relays.want(target)
    }

    /// Ends catch-ups that have everything, and closes bulk connections that nobody wants any more.
    pub(super) fn keep_bulk_links(&mut self) {
        let held = |log| self.watermarks.version(log);
        let over = self.catch_ups.iter().filter(|(_, catch_up)| catch_up.is_over(held));
        let over: Vec<SocketAddr> = over.map(|(target, _)| *target).collect();
        for target in over {
            reach(Mark::CaughtUpInBulk);
            self.end_catch_up(target);
        }
        // While a live connection waits for it, it goes on, also where discovery does not list the source any more.
        let followed = self.links.iter().filter_map(|(_, link)| link.dial_target()?.address());
        let followed: Vec<SocketAddr> = followed.collect();
        self.catch_ups.retain(|target, _| self.sources.contains(target) || followed.contains(target));
        for index in 0..self.links.capacity() {
            let Some(link) = self.links.get(index) else { continue };
            let Role::Following { target, .. } = link.role else { continue };
            if link.is_bulk && link.is_up() && !self.wants_bulk(target) {
                self.close_bulk(target);
            }
        }
    }

    fn end_catch_up(&mut self, target: SocketAddr) {
        let now = self.now();
        let Some(catch_up) = self.catch_ups.remove(&target) else { return };
        let Progress { bytes, records, seconds, .. } = catch_up.progress(now, |_| Version(0));
        tracing::info!(node = %catch_up.node, %target, bytes, records, seconds, "caught up with a source");
        // Its streams would hold segments at the source; a pass that is wanted is asked for on another connection.
        self.close_bulk(target);
    }

    fn close_bulk(&mut self, of: SocketAddr) {
        for (_, link) in &mut self.links {
            if link.is_bulk && matches!(link.role, Role::Following { target, .. } if target == of) {
                link.closing = true;
            }
        }
        self.dials.retain(|target, redial| *target != DialTarget::Bulk(of) || redial.busy);
    }

    /// Tells followers how much is left on their bulk connections.
    pub(super) fn tell_backlogs(&mut self) {
        let now = self.now();
        for (_, link) in &mut self.links {
            if !link.is_bulk || now < link.backlog_at || !link.is_up() {
                continue;
            }
            let Role::Serving { sender } = &link.role else { continue };
            let Some(left) = sender.left(&self.logs).filter(|left| link.told_left != Some(*left)) else { continue };
            link.backlog_at = now.plus_ms(BACKLOG_MS);
            link.told_left = Some(left);
            link.push(&Message::Backlog(Backlog { left, logs: Vec::new() }), RequestId(0));
        }
    }

    /// How far this node has caught up with another one, if it does.
    pub(super) fn catch_up_of(&self, node: NodeId) -> Option<Progress> {
        let catch_up = self.catch_ups.values().find(|catch_up| catch_up.node == node)?;
        Some(catch_up.progress(self.now(), |log| self.watermarks.version(log)))
    }
}
