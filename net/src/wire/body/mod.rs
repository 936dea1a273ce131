//! One file per body, its rules on top.

use bytes::Bytes;

use super::codec::Reader;
use super::error::{DecodeError, EncodeError};
use super::opcode::Opcode;

pub mod answer;
pub mod backlog;
pub mod bootstrap;
pub mod claim;
pub mod client_hello;
pub mod credit;
pub mod delete;
pub mod deregister;
pub mod federated_ack;
pub mod federated_register;
pub mod fetch;
pub mod follow;
pub mod get;
pub mod heartbeat;
pub mod held;
pub mod hello;
pub mod increment;
pub mod inspect;
pub mod list;
pub mod list_reply;
pub mod logs;
pub mod members;
pub mod more;
pub mod put;
pub mod records;
pub mod refuse;
pub mod register;
pub mod scan;
pub mod session;
pub mod stable;
pub mod survey;
pub mod value;
pub mod watermarks;
pub mod written;

pub use answer::{Done, ErrorCode, Failed};
pub use backlog::{Backlog, BacklogLog};
pub use bootstrap::{Bootstrap, BootstrapStep, HeldOfNode};
pub use claim::Claim;
pub use client_hello::{ClientHello, ClientHelloAck};
pub use credit::Credit;
pub use delete::Delete;
pub use deregister::{Deregister, InstanceKey};
pub use federated_ack::{FederatedAck, Refused, RefusedCode};
pub use federated_register::{FederatedEntry, FederatedRegister};
pub use fetch::{Compare, Fetch, Repair, Repaired};
pub use follow::{Follow, FollowLog};
pub use get::{Get, GetMany};
pub use heartbeat::Heartbeat;
pub use held::{Held, HeldBy};
pub use hello::{Hello, Proof, Purpose};
pub use increment::{Increment, Incremented};
pub use inspect::{Entries, Entry, Inspect, Lookup};
pub use list::{List, ListLocal};
pub use list_reply::{EntryState, ListEntry, ListReply};
pub use logs::{LogEntry, LogState, Logs};
pub use members::{Member, MemberState, Members, RemoveMember};
pub use more::More;
pub use put::{Condition, ConditionKind, Put, Wait};
pub use records::{Compression, Records, RecordsHead};
pub use refuse::{Refuse, RefuseCode};
pub use register::Register;
pub use scan::{Keys, Scan};
pub use session::{Session, SessionToken};
pub use stable::Stable;
pub use survey::{Coverage, Covered, Sums, Survey};
pub use value::{Item, ItemRef, Shown, Value};
pub use watermarks::{Watermark, Watermarks};
pub use written::{Outcome, Written};

/// What a frame carries.
pub trait Body: Sized {
    /// The opcode it travels under. `Hello` also travels as `HelloAck`.
    const OPCODE: Opcode;

    /// Appends the body. On an error the caller truncates what was appended ([`super::encode_body`] does).
    ///
    /// # Errors
    /// When a field is longer than the peer accepts.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// Reads the fields in order.
    ///
    /// # Errors
    /// When the bytes are no such body.
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// Reads a whole body: the last field must end it.
    ///
    /// # Errors
    /// When the bytes are no such body.
    fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let decoded = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(decoded)
    }
}
