//! The handshake, and what every frame means on a link of its role.

use net::ids::{Incarnation, NodeId, RequestId};
use net::reactor::Io;
use net::wire::body::{Hello, Proof, Purpose as LinkPurpose, Refuse, RefuseCode};
use net::wire::limits::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};
use net::wire::message::Message;
use wal::marks::{Mark, reach};

use super::link::{Introduction, Role};
use super::{ControlLoop, LinkKey, REFUSED_MS};
use crate::host::Host;

impl<H: Host> ControlLoop<H> {
    fn own_hello(&self, purpose: LinkPurpose) -> Hello {
        Hello {
            protocol_min: u16::from(PROTOCOL_VERSION_MIN),
            protocol_max: u16::from(PROTOCOL_VERSION),
            node: NodeId(self.facts.node.0),
            incarnation: Incarnation(self.facts.incarnation.0),
            purpose,
            record_format: wal::FORMAT_VERSION,
            value_bytes_max: self.mesh.value_bytes_max,
            residency: self.facts.residency.policy().fingerprint(),
            physical_ms: self.physical.clock_unix_ms(),
            advertised: self.mesh.discovery,
            region: self.region.clone(),
            proof: Proof::default(),
            members: self.members.table(),
        }
    }

    /// What a link is for; whoever accepts a replication link takes it for what the other side opened it for.
    fn purpose_of(&mut self, key: LinkKey) -> Option<LinkPurpose> {
        let link = self.link(key)?;
        Some(match link.role {
            Role::DiscoveryIn | Role::DiscoveryOut { .. } => LinkPurpose::Discovery,
            Role::Following { .. } | Role::Serving { .. } if link.is_bulk => LinkPurpose::Bulk,
            Role::Following { .. } | Role::Serving { .. } => LinkPurpose::Live,
        })
    }

    pub(super) fn say_hello(&mut self, key: LinkKey, answer: bool) {
        let Some(purpose) = self.purpose_of(key) else { return };
        let hello = self.own_hello(purpose);
        let revision = self.members.revision();
        let Some(link) = self.link(key) else { return };
        link.told_members = revision;
        let message = if answer { Message::HelloAck(hello) } else { Message::Hello(hello) };
        link.push(&message, RequestId(0));
    }

    pub(super) fn handle(&mut self, key: LinkKey, request: RequestId, message: Message) {
        let now = self.now();
        let Some(link) = self.link(key) else { return };
        let introduced = link.hello().is_some();
        let dialled = matches!(link.role, Role::DiscoveryOut { .. } | Role::Following { .. });
        match message {
            Message::Hello(hello) if !introduced && !dialled => self.introduced(key, hello, true),
            Message::HelloAck(hello) if !introduced && dialled => self.introduced(key, hello, false),
            Message::Refuse(refuse) => {
                tracing::warn!(remote = %link.remote, reason = refuse.text, "the peer closes the link");
                link.broken = true;
                let lasting = RefuseCode::SameRegion.code()..=RefuseCode::Removed.code();
                let for_the_operator = lasting.contains(&refuse.code);
                if let Some(target) = link.dial_target().filter(|_| for_the_operator) {
                    self.redial_later(target, REFUSED_MS);
                }
            }
            Message::Heartbeat(beat) if introduced => {
                link.beaten(&beat, now);
                self.compare_clocks(key, &beat);
            }
            Message::Stable(told) if introduced => self.hear_stable(key, told),
            Message::Members(table) if introduced => self.hear_members(key, &table.members),
            message if matches!(link.role, Role::DiscoveryIn | Role::DiscoveryOut { .. }) => {
                self.handle_discovery(key, request, message);
            }
            message if introduced && matches!(link.role, Role::Following { .. }) => {
                self.handle_as_follower(key, message)
            }
            message if introduced => self.handle_as_source(key, message),
            message => {
                let text = format!("{} before the handshake; say hello first", message.opcode().name());
                self.refuse(key, &Refuse::new(RefuseCode::Unexpected, &text));
            }
        }
    }

    /// Judges a peer's hello and, if it is acceptable, completes the handshake.
    fn introduced(&mut self, key: LinkKey, mut theirs: Hello, answer: bool) {
        if let Some(link) = self.link(key).filter(|link| matches!(link.role, Role::Serving { .. })) {
            link.is_bulk = theirs.purpose == LinkPurpose::Bulk;
        }
        // Merged before any data, and before the answer, which says what is known then.
        if let Err(refuse) = self.judge(key, &theirs).and_then(|()| self.meet(key, &theirs)) {
            if answer {
                // So that the peer's operator sees who refused.
                self.say_hello(key, true);
            }
            self.refuse(key, &refuse);
            if refuse.reason() == Some(RefuseCode::Removed)
                && let Some(target) = self.link(key).and_then(|link| link.dial_target())
            {
                self.redial_later(target, REFUSED_MS);
            }
            return;
        }
        if answer {
            self.say_hello(key, true);
        }
        // It was merged, and may be long.
        theirs.members = Vec::new();
        let (region, node) = (theirs.region.clone(), theirs.node);
        if let Some(socket) = self.link(key).filter(|link| link.is_bulk).map(|link| link.socket) {
            self.io.give_way(socket);
        }
        let allowed = self.facts.residency.policy().of(&region);
        let Some(link) = self.link(key) else { return };
        link.allowed = allowed;
        tracing::info!(%region, %node, remote = %link.remote, purpose = ?theirs.purpose, "link up");
        link.introduction = Introduction::Done(Box::new(theirs));
        link.reader.admit_records();
        match link.role {
            Role::DiscoveryIn | Role::DiscoveryOut { .. } => self.discovery_link_up(key),
            Role::Following { .. } => {}
            Role::Serving { .. } => self.offer_logs(key),
        }
    }

    fn judge(&mut self, key: LinkKey, theirs: &Hello) -> Result<(), Refuse> {
        let purpose = self.purpose_of(key).unwrap_or(LinkPurpose::Live);
        let ours = self.own_hello(purpose);
        if theirs.node == ours.node {
            reach(Mark::SelfRefused);
        }
        Hello::agree(&ours, theirs)?;
        if theirs.purpose != purpose {
            let text = format!("this port serves {purpose:?} links; check DISCOVERY_PORT and REPLICATION_PORT");
            return Err(Refuse::new(RefuseCode::Unexpected, &text));
        }
        if self.mesh.peers.is_empty() {
            // Such a node keeps no frames for followers; a stream from it would claim what it did not send.
            let text = "this node runs without DISCOVERY_PEERS; set them there, to the addresses of all other regions";
            return Err(Refuse::new(RefuseCode::UnknownRegion, text));
        }
        if theirs.region == self.region {
            reach(Mark::SecondNodeRefused);
            let text = format!(
                "region {} has this node ({}) already; one node per region for now: give the other one its own REGION",
                self.region, ours.node
            );
            return Err(Refuse::new(RefuseCode::SameRegion, &text));
        }
        for (index, link) in &self.links {
            let Some(other) = link.hello() else { continue };
            if index == key.index || !link.is_up() {
                continue;
            }
            if other.region == theirs.region && other.node != theirs.node {
                reach(Mark::SecondNodeRefused);
                let text = format!(
                    "region {} is already node {} at {}; one node per region for now: stop one of them or rename its REGION",
                    theirs.region, other.node, other.advertised
                );
                return Err(Refuse::new(RefuseCode::SameRegion, &text));
            }
            if other.node == theirs.node && (other.region != theirs.region || other.advertised != theirs.advertised) {
                let text = format!(
                    "node id {} is held by region {} at {} as well; give the copied one an empty data directory",
                    theirs.node, other.region, other.advertised
                );
                return Err(Refuse::new(RefuseCode::NodeTwice, &text));
            }
        }
        Ok(())
    }
}
