//! One connection of the control thread: frames in, frames out, heartbeats, and the lab's delay line.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;
use net::ids::RequestId;
use net::reactor::{Mono, Socket, Tag};
use net::wire::EncodeError;
use net::wire::body::{Claim, Compression, Heartbeat, Hello, RecordsHead, Stable, more};
use net::wire::frame::FrameReader;
use net::wire::header::HEADER_BYTES;
use net::wire::message::Message;
use net::wire::packing::{Packer, Packing};
use wal::marks::{Mark, reach};

use super::DialTarget;
use crate::replication::brevity::Brevity;
use crate::replication::pace::Pace;
use crate::replication::receive::Receiver;
use crate::replication::residency::Allowed;
use crate::replication::send::{ReadRequest, Sender};

/// Room for a claim, a heartbeat or some watermarks.
const MESSAGE_BYTES_USUAL: usize = 128;

/// A peer is heard at least this often.
pub(crate) const HEARTBEAT_MS: u64 = 500;

/// A peer that is not heard for this long is gone. Covers six lost heartbeats; TCP alone would take minutes.
pub(crate) const SILENCE_MS_MAX: u64 = 3_000;

/// A stranger has this long to introduce itself.
pub(crate) const HANDSHAKE_MS_MAX: u64 = 3_000;

/// A delay line that holds this much stops receiving until it has drained.
pub(crate) const DELAY_LINE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes queued on a link before nothing but answers is added.
pub(crate) const OUT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a link is for, and the state that goes with it.
#[derive(Debug)]
pub(crate) enum Role {
    /// Accepted on the discovery port: a local client, or a peer once it said hello.
    DiscoveryIn,
    /// Dialled to a peer's discovery port.
    DiscoveryOut { peer: usize },
    /// Dialled to a source: records come in.
    Following { target: SocketAddr, receiver: Box<Receiver> },
    /// Accepted on the replication port: records go out.
    Serving { sender: Box<Sender> },
}

/// Bytes that one link carried, by what they were for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) records: u64,
    /// What the records took before they were packed, without the heads of their messages.
    pub(crate) raw_records: u64,
    pub(crate) claims: u64,
    /// Of the records, what came over bulk connections.
    pub(crate) bulk: u64,
    pub(crate) heartbeats: u64,
    pub(crate) other: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, other: Traffic) {
        self.records += other.records;
        self.raw_records += other.raw_records;
        self.claims += other.claims;
        self.bulk += other.bulk;
        self.heartbeats += other.heartbeats;
        self.other += other.other;
    }
}

/// Where the handshake stands.
#[derive(Debug)]
pub(crate) enum Introduction {
    /// Waiting for the peer's `Hello` (accepted) or `HelloAck` (dialled) since then.
    Pending(Mono),
    /// The peer and what it said.
    Done(Box<Hello>),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) socket: Socket,
    pub(crate) generation: u32,
    pub(crate) remote: SocketAddr,
    pub(crate) role: Role,
    /// It carries what lies behind and passes, beside the live stream.
    pub(crate) is_bulk: bool,
    pub(crate) introduction: Introduction,
    pub(crate) reader: FrameReader,
    pub(crate) out: Vec<Bytes>,
    pub(crate) out_bytes: usize,
    pub(crate) sending: bool,
    pub(crate) receive: Option<Tag>,
    /// Closing once what is queued was sent.
    pub(crate) closing: bool,
    /// Closing at once.
    pub(crate) broken: bool,
    pub(crate) opened_at: Mono,
    /// It has been up for long enough to say that its peer can be reached.
    pub(crate) is_good: bool,
    pub(crate) heard_at: Mono,
    pub(crate) beat_at: Mono,
    /// The peer's last heartbeat: its clock, and when it came.
    pub(crate) echo: Option<(u64, Mono)>,
    pub(crate) rtt_ns: Option<u64>,
    /// What the peer may hold.
    pub(crate) allowed: Allowed,
    /// The revision of the member table that the peer was told.
    pub(crate) told_members: u64,
    /// What the peer was told last of what this node holds.
    pub(crate) told_stable: Option<Stable>,
    pub(crate) sent: Traffic,
    pub(crate) received: Traffic,
    /// The lab's one-way delay for what this peer sends, in ns.
    pub(crate) delay_ns: u64,
    /// Whether packing gains on what is sent here.
    pub(crate) packing: Packing,
    /// What makes small batches short.
    pub(crate) brevity: Brevity,
    /// A small batch went out just before: what comes behind it waits until then, and goes together.
    pub(crate) serves_at: Option<Mono>,
    /// The bulk read that its sender waits for.
    pub(crate) reading: Option<ReadRequest>,
    /// That read's time has not come: it begins then.
    pub(crate) reads_at: Option<Mono>,
    pub(crate) pace: Pace,
    /// When the follower is to be told again how much is left, and what it was told last.
    pub(crate) backlog_at: Mono,
    pub(crate) told_left: Option<u64>,
    line: VecDeque<(Mono, Bytes)>,
    line_bytes: usize,
}

impl Link {
    pub(crate) fn new(
        socket: Socket,
        generation: u32,
        remote: SocketAddr,
        role: Role,
        delay_ns: u64,
        now: Mono,
    ) -> Link {
        Link {
            socket,
            generation,
            remote,
            role,
            is_bulk: false,
            introduction: Introduction::Pending(now),
            reader: FrameReader::new(),
            out: Vec::new(),
            out_bytes: 0,
            sending: false,
            receive: None,
            closing: false,
            broken: false,
            opened_at: now,
            is_good: false,
            heard_at: now,
            beat_at: now,
            echo: None,
            rtt_ns: None,
            allowed: Allowed::nothing(),
            told_members: 0,
            told_stable: None,
            sent: Traffic::default(),
            received: Traffic::default(),
            delay_ns,
            packing: Packing::default(),
            brevity: Brevity::default(),
            serves_at: None,
            reading: None,
            reads_at: None,
            pace: Pace::default(),
            backlog_at: Mono(0),
            told_left: None,
            line: VecDeque::new(),
            line_bytes: 0,
        }
    }

    /// The peer, once it has introduced itself.
    pub(crate) fn hello(&self) -> Option<&Hello> {
        match &self.introduction {
            Introduction::Pending(_) => None,
            Introduction::Done(hello) => Some(hello),
        }
    }

    /// What has to be dialled again when this link is gone.
    pub(crate) fn dial_target(&self) -> Option<DialTarget> {
        match &self.role {
            Role::DiscoveryOut { peer } => Some(DialTarget::Discovery(*peer)),
            Role::Following { target, .. } if self.is_bulk => Some(DialTarget::Bulk(*target)),
            Role::Following { target, .. } => Some(DialTarget::Source(*target)),
            Role::DiscoveryIn | Role::Serving { .. } => None,
        }
    }

    /// Whether the link is up and not on its way down.
    pub(crate) fn is_up(&self) -> bool {
        self.hello().is_some() && !self.closing && !self.broken
    }

    /// Queues a message.
    pub(crate) fn push(&mut self, message: &Message, request: RequestId) {
        let mut bytes = Vec::with_capacity(MESSAGE_BYTES_USUAL);
        if let Err(error) = message.encode(request, &mut bytes) {
            tracing::error!(%error, opcode = message.opcode().name(), "a message could not be encoded; its link is reset");
            self.broken = true;
            return;
        }
        let len = bytes.len() as u64;
        match message {
            Message::Heartbeat(_) => self.sent.heartbeats += len,
            Message::Claim(_) => self.sent.claims += len,
            _ => self.sent.other += len,
        }
        self.out_bytes += bytes.len();
        self.out.push(bytes.into());
    }

    /// Queues a batch and the claim behind it, in as few bytes as there is a form for; with a `packer`, packed where that gains.
    /// Whether it was a small one.
    pub(crate) fn push_batch(
        &mut self,
        mut head: RecordsHead,
        mut runs: Vec<Bytes>,
        mut claim: Option<Claim>,
        mut packer: Option<&mut Packer>,
    ) -> Result<bool, EncodeError> {
        self.sent.raw_records += u64::from(head.raw_bytes);
        let more = self.brevity.shorten(&head, &runs, &mut claim, packer.as_deref_mut());
        let is_small = more.is_some();
        if let Some(more) = more {
            reach(Mark::BatchShortened);
            let mut bytes = Vec::with_capacity(HEADER_BYTES + more::HEAD_BYTES + more.payload.len());
            Message::More(more).encode(RequestId(0), &mut bytes)?;
            self.push_records([bytes.into()]);
        } else {
            self.brevity.records(&head);
            if let Some(block) = packer.and_then(|packer| packer.pack(&mut self.packing, &runs)) {
                reach(Mark::BatchPacked);
                head.compression = Compression::Lz4;
                runs = vec![block];
            }
            let bytes = runs.iter().map(Bytes::len).sum();
            let head = head.encode_frame_head(RequestId(0), bytes)?;
            self.push_records(std::iter::once(head.into()).chain(runs));
        }
        if let Some(claim) = claim {
            self.push_claim(claim);
        }
        Ok(is_small)
    }

    /// Queues the parts of a frame of records.
    pub(crate) fn push_records(&mut self, runs: impl IntoIterator<Item = Bytes>) {
        for run in runs {
            self.sent.records += run.len() as u64;
            self.sent.bulk += if self.is_bulk { run.len() as u64 } else { 0 };
            self.out_bytes += run.len();
            self.out.push(run);
        }
    }

    /// Counts a frame of records that came.
    pub(crate) fn received_records(&mut self, bytes: usize) {
        self.received.records += bytes as u64;
        self.received.bulk += if self.is_bulk { bytes as u64 } else { 0 };
    }

    /// Queues a claim.
    pub(crate) fn push_claim(&mut self, claim: Claim) {
        self.brevity.claim(&claim);
        self.push(&Message::Claim(claim), RequestId(0));
    }

    /// Queues a heartbeat if it is time.
    pub(crate) fn beat(&mut self, now: Mono, physical_ms: u64) {
        if now < self.beat_at.plus_ms(HEARTBEAT_MS) {
            return;
        }
        self.beat_at = now;
        let (echo_ns, held_ns) = self.echo.map_or((0, 0), |(clock, at)| (clock, now.since(at)));
        // Our clock starts at zero in the simulator; zero means "none yet" on the wire.
        let beat = Heartbeat { sent_at_ns: now.0.max(1), echo_ns, held_ns, physical_ms };
        self.push(&Message::Heartbeat(beat), RequestId(0));
    }

    /// The peer's heartbeat came.
    pub(crate) fn beaten(&mut self, beat: &Heartbeat, now: Mono) {
        self.echo = Some((beat.sent_at_ns, now));
        if let Some(rtt) = beat.rtt_ns(now.0) {
            // RFC 6298's smoothing.
            self.rtt_ns = Some(self.rtt_ns.map_or(rtt, |smoothed| smoothed - smoothed / 8 + rtt / 8));
        }
    }

    /// Takes received bytes: into the reader, or into the delay line until their time has come.
    pub(crate) fn arrived(&mut self, bytes: &[u8], now: Mono) {
        if self.delay_ns == 0 {
            self.heard_at = now;
            self.reader.feed(bytes);
            return;
        }
        self.line_bytes += bytes.len();
        self.line.push_back((Mono(now.0 + self.delay_ns), Bytes::copy_from_slice(bytes)));
    }

    /// Moves one stretch of bytes whose time has come into the reader.
    pub(crate) fn release_one(&mut self, now: Mono) -> bool {
        if self.line.front().is_none_or(|(due, _)| *due > now) {
            return false;
        }
        let Some((due, bytes)) = self.line.pop_front() else { return false };
        self.line_bytes -= bytes.len();
        self.heard_at = self.heard_at.max(due);
        self.reader.feed(&bytes);
        true
    }

    /// When the delay line releases its next bytes.
    pub(crate) fn next_release(&self) -> Option<Mono> {
        self.line.front().map(|(due, _)| *due)
    }

    /// Whether receiving has to pause.
    pub(crate) fn is_full(&self) -> bool {
        self.line_bytes > DELAY_LINE_BYTES_MAX || self.owes_too_much()
    }

    /// Whether the peer does not read what it asked for: no further request of it is taken.
    pub(crate) fn owes_too_much(&self) -> bool {
        self.out_bytes > OUT_BYTES_MAX
    }
}
