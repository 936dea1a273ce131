//! What loop threads say to each other.

use std::sync::Arc;

use bytes::Bytes;
use net::reactor::Mono;
use net::token::Token;
use wal::{ControlRecord, Cookie, Lsn, SegmentNumber, Version};

use crate::checkpoint::OldRunFacts;
use crate::frontend::native::request::Request;
use crate::frontend::resp::script::{FoundBySlot, Piece, PieceReply, Script};
use crate::frontend::resp::transaction::Watched;
use crate::frontend::seen::Seen;
use crate::replication::bootstrap::Absent;
use crate::replication::residency::Allowed;
use crate::replication::survey::{SurveyFound, SurveyTask};
use crate::shard::{Covered, DurableFrame, Removable, SegmentId, WriteError};

/// Messages a mailbox holds; a full one makes senders keep theirs and slow down.
pub const MAILBOX_MESSAGES: usize = 4096;

/// Names a connection of a core; the generation keeps answers to a closed one from reaching its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionKey {
    /// Index in the core's table.
    pub index: u32,
    /// Rises with every connection of the core.
    pub generation: u32,
}

/// Why a transaction does not take place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A watched key changed.
    Changed,
    /// A core cannot write its part.
    Failed(WriteError),
    /// The node stops.
    Stopping,
}

/// Names a transaction: the core that leads it, and a number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// Who leads it.
    pub core: u16,
    /// Rises with every transaction of that core.
    pub number: u64,
}

/// A command on its way to the core that owns its key.
#[derive(Debug)]
pub enum HopCommand {
    /// RESP-encoded.
    Resp(Vec<u8>),
    /// A request of the native protocol, all of whose keys are that core's.
    Native(Box<Request>),
}

/// To a core.
#[derive(Debug)]
pub enum ToCore {
    /// A command for a key of yours; answer with [`ToCore::Answer`].
    Command {
        /// Who asks.
        from: u16,
        /// For which connection.
        connection: ConnectionKey,
        /// Which gap in its replies, and which part of it.
        hop: (u64, usize),
        /// The protocol to answer in, if it is RESP.
        resp3: bool,
        /// What it reads is noted here.
        seen: Option<Seen>,
        /// The command.
        command: HopCommand,
    },
    /// A command that every core runs on its part; answer as above.
    Everywhere {
        /// Who asks.
        from: u16,
        /// What it reads is noted here.
        seen: Option<Seen>,
        /// For which connection.
        connection: ConnectionKey,
        /// Which gap in its replies, and which part of it.
        hop: (u64, usize),
        /// The protocol to answer in.
        resp3: bool,
        /// The command's whole name, the id of who asks, and the command, RESP-encoded.
        command: Vec<u8>,
    },
    /// The answer to a [`ToCore::Command`]; everything it shows is durable.
    Answer {
        /// For which connection.
        connection: ConnectionKey,
        /// Which gap in its replies, and which part of it.
        hop: (u64, usize),
        /// The reply, encoded as the client speaks; large values in it are pinned in their segment, not copied.
        reply: Vec<Bytes>,
        /// What it counted.
        sum: i64,
        /// The highest version that it wrote; zero if it wrote nothing.
        written: Version,
    },
    /// The answer to a [`CoreEvent::SessionCame`].
    Covered {
        /// Of the question.
        number: u64,
        /// What this node lacks of it; nothing if it has all.
        lacking: Option<String>,
    },
    /// Say once you show everything up to `version` and give only higher ones; answer with [`ToCore::Observed`]. After `until` nobody asks.
    Observe {
        /// Who asks.
        from: u16,
        /// Names the answer.
        number: u64,
        /// See there.
        version: Version,
        /// See there.
        until: Mono,
    },
    /// The answer to a [`ToCore::Observe`].
    Observed {
        /// Of the question.
        number: u64,
    },
    /// Other nodes hold more of what is written here, or this node's own claim has risen: some client waits for that.
    Acknowledged,
    /// Say what is present of these keys of yours; answer with [`ToCore::Watched`].
    Watch {
        /// Who asks.
        from: u16,
        /// For which connection.
        connection: ConnectionKey,
        /// Which gap in its replies, and which part of it.
        hop: (u64, usize),
        /// The keys.
        keys: Vec<Vec<u8>>,
    },
    /// The answer to a [`ToCore::Watch`].
    Watched {
        /// For which connection.
        connection: ConnectionKey,
        /// Which gap in its replies, and which part of it.
        hop: (u64, usize),
        /// The keys and what was there.
        watched: Vec<Watched>,
    },
    /// A transaction all of whose keys are yours; answer with [`ToCore::Answer`].
    Transact {
        /// Who asks.
        from: u16,
        /// What it reads is noted here.
        seen: Option<Seen>,
        /// For which connection.
        connection: ConnectionKey,
        /// Which gap in its replies, and which part of it.
        hop: (u64, usize),
        /// The protocol to answer in.
        resp3: bool,
        /// Keys that must not have changed.
        watched: Vec<Watched>,
        /// What to run.
        script: Box<Script>,
    },
    /// Run no command but those of this transaction, beginning with these; answer with [`ToCore::Held`].
    Hold {
        /// The transaction.
        ticket: Ticket,
        /// The protocol to answer in.
        resp3: bool,
        /// What it reads is noted here.
        seen: Option<Seen>,
        /// Keys of yours that must not have changed.
        watched: Vec<Watched>,
        /// What to run first.
        pieces: Vec<Piece>,
    },
    /// Run this, too, while you are held; answer with [`ToCore::Held`].
    Pieces {
        /// The transaction.
        ticket: Ticket,
        /// What to run.
        pieces: Vec<Piece>,
    },
    /// The answer to a [`ToCore::Hold`] or [`ToCore::Pieces`]: what was asked for can be appended, and nothing was yet.
    Held {
        /// Who answers.
        from: u16,
        /// The transaction.
        ticket: Ticket,
        /// What the looks found.
        outcome: Result<FoundBySlot, Refusal>,
    },
    /// Append what the transaction wrote, or forget it, and go on; answer with [`ToCore::Released`].
    Release {
        /// The transaction.
        ticket: Ticket,
        /// Whether it takes place.
        commit: bool,
    },
    /// The answer to a [`ToCore::Release`]; everything it shows is durable.
    Released {
        /// Who answers.
        from: u16,
        /// The transaction.
        ticket: Ticket,
        /// Its results on this core, or why they are unknown.
        replies: Result<Vec<PieceReply>, WriteError>,
        /// The highest version that it wrote here; zero if it wrote nothing.
        written: Version,
    },
    /// Records of another node's log for keys of yours; answer with [`CoreEvent::Followed`].
    Follow {
        /// Rises by one per message from the control thread.
        sequence: u64,
        /// Whole records, each padded to 8.
        records: Vec<Bytes>,
        /// How far their origins' logs were here before.
        covered: Covered,
    },
    /// Raise your clock to at least this and say so by [`CoreEvent::Durable`].
    Raise(Version),
    /// Append a local control record; answer with [`CoreEvent::Appended`].
    AppendLocal {
        /// Names the answer.
        ticket: u64,
        /// The record.
        record: ControlRecord,
    },
    /// Every member holds everything up to here: what died before may be forgotten.
    Forget(Version),
    /// Everything that another node has comes from now on: it may have forgotten what died up to here.
    BeginBootstrap(Version),
    /// Everything came: drop what did not and is dead by that; answer with [`CoreEvent::Swept`].
    Sweep(Arc<Absent>),
    /// Say which of these records of keys of yours count; answer with [`CoreEvent::Sifted`].
    Sift {
        /// Names the answer.
        ticket: u64,
        /// Whole records, which have been verified.
        records: Bytes,
    },
    /// This node's clock is ahead of the others': take the time for this much lower, in milliseconds, in place of what was said before.
    HoldBack(u64),
    /// Say what you have, for a comparison with other nodes; answer with [`CoreEvent::Surveyed`].
    Survey {
        /// Names the answer.
        ticket: u64,
        /// What is asked.
        task: SurveyTask,
        /// Keys that whoever asks may be shown.
        shown: Arc<Allowed>,
    },
    /// The node was removed from the mesh: take no writes of clients any more.
    RefuseWrites,
    /// Nobody reads this segment, which [`CoreEvent::Removable`] named: it may be used again.
    RemoveSegment(SegmentNumber),
    /// The file of this segment of an earlier run, which [`CoreEvent::OldSegmentEmptied`] named, is gone.
    ForgetOldSegment(SegmentId),
    /// Finish: seal, sync, write a checkpoint, stop.
    Stop {
        /// Earlier runs that are offered, for the checkpoint of the first core.
        old_runs: Vec<OldRunFacts>,
    },
}

/// To the control thread, from one core.
#[derive(Debug)]
pub struct ToControl {
    /// Which core.
    pub core: u16,
    /// What it says.
    pub event: CoreEvent,
}

/// What a core tells the control thread.
#[derive(Debug)]
pub enum CoreEvent {
    /// The log is durable up to `durable`; every version ≤ `complete` that this core originated is, and it never
    /// originates one again.
    Durable {
        /// Exclusive end.
        durable: Lsn,
        /// See [`crate::shard::Shard`].
        complete: Version,
        /// Originated frames that became durable, in order.
        frames: Vec<DurableFrame>,
    },
    /// The batch was appended or was here already; a claim over it waits until the log is durable up to `staged`.
    Followed {
        /// Of the [`ToCore::Follow`].
        sequence: u64,
        /// The staged end at that moment.
        staged: Lsn,
    },
    /// A client comes with the token of its session; answer with [`ToCore::Covered`] once this node has all of it, or at `until`.
    SessionCame {
        /// Names the answer.
        number: u64,
        /// What the session has seen.
        token: Token,
        /// See there.
        until: Mono,
    },
    /// A client waits until this node's own claim reaches this.
    WaitsFor(Version),
    /// The local record ends at `end`.
    Appended {
        /// Of the [`ToCore::AppendLocal`].
        ticket: u64,
        /// Its exclusive end.
        end: Lsn,
    },
    /// What a core has; all of it is durable.
    Surveyed {
        /// Of the [`ToCore::Survey`].
        ticket: u64,
        /// What was found.
        found: SurveyFound,
    },
    /// Of the records that the core was asked of these count, as far as its log goes that ends at `staged`.
    Sifted {
        /// Of the [`ToCore::Sift`].
        ticket: u64,
        /// Whole records.
        records: Bytes,
        /// The staged end at that moment.
        staged: Lsn,
    },
    /// What did not come in a bootstrap was dropped; a claim that this is so waits until the log is durable up to `staged`.
    Swept {
        /// How many records that were.
        dropped: u64,
        /// The staged end at that moment.
        staged: Lsn,
    },
    /// A new segment of this core's log exists; its first byte is at `base`.
    Segment {
        /// Its number.
        number: SegmentNumber,
        /// What its frames carry.
        cookie: Cookie,
        /// Its base.
        base: Lsn,
    },
    /// Nothing in this segment counts any more; answer with [`ToCore::RemoveSegment`] once nobody reads it.
    Removable(Removable),
    /// Nothing in this segment of an earlier run counts here any more, durably. Once all cores say so it can go.
    OldSegmentEmptied {
        /// Which segment.
        segment: SegmentId,
        /// Where in the core's log the copies of its records end, at the latest.
        upto: Lsn,
        /// What superseded its records has versions up to here.
        replaced_upto: Version,
    },
    /// The core remembers what was deleted or has expired, all of it below `upto`: zero if it remembers nothing.
    Dead {
        /// See there.
        upto: Version,
    },
    /// The log failed; nothing is acknowledged any more.
    Failed(String),
    /// The core has stopped cleanly.
    Stopped,
}
