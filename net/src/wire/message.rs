//! All bodies as one type, for dispatch.

use super::body::{self, Body};
use super::error::{DecodeError, EncodeError, WireError};
use super::frame::{Frame, encode_frame};
use super::opcode::Opcode;
use crate::ids::RequestId;

macro_rules! messages {
    ($($variant:ident($body:ty),)+) => {
        /// A decoded body; the variants are named like their opcodes.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the opcodes of the same names are documented")]
        pub enum Message { $($variant($body),)+ }

        impl Message {
            /// The opcode this travels under.
            #[must_use]
            pub fn opcode(&self) -> Opcode {
                match self { $(Message::$variant(_) => Opcode::$variant,)+ }
            }

            /// Appends the body alone.
            ///
            /// # Errors
            /// When a field is longer than the peer accepts.
            pub fn encode_body(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                match self { $(Message::$variant(body) => body.encode(out),)+ }
            }

            fn decode_as(opcode: Opcode, body: &bytes::Bytes) -> Result<Message, DecodeError> {
                Ok(match opcode { $(Opcode::$variant => Message::$variant(<$body>::decode(body)?),)+ })
            }
        }
    };
}

messages! {
    Hello(body::Hello),
    HelloAck(body::Hello),
    Refuse(body::Refuse),
    Heartbeat(body::Heartbeat),
    Ok(body::Done),
    Error(body::Failed),
    Members(body::Members),
    Stable(body::Stable),
    Bootstrap(body::Bootstrap),
    Backlog(body::Backlog),
    Register(body::Register),
    Deregister(body::Deregister),
    List(body::List),
    ListLocal(body::ListLocal),
    ListReply(body::ListReply),
    FederatedRegister(body::FederatedRegister),
    FederatedAck(body::FederatedAck),
    RemoveMember(body::RemoveMember),
    Survey(body::Survey),
    Inspect(body::Inspect),
    Lookup(body::Lookup),
    Coverage(body::Coverage),
    Sums(body::Sums),
    Entries(body::Entries),
    Fetch(body::Fetch),
    Compare(body::Compare),
    Repair(body::Repair),
    Repaired(body::Repaired),
    Watermarks(body::Watermarks),
    Follow(body::Follow),
    Logs(body::Logs),
    Records(body::Records),
    Claim(body::Claim),
    Credit(body::Credit),
    More(body::More),
    ClientHello(body::ClientHello),
    ClientHelloAck(body::ClientHelloAck),
    Get(body::Get),
    GetMany(body::GetMany),
    Put(body::Put),
    Delete(body::Delete),
    Increment(body::Increment),
    Scan(body::Scan),
    Value(body::Value),
    Written(body::Written),
    Incremented(body::Incremented),
    Keys(body::Keys),
    Held(body::Held),
    Session(body::Session),
    SessionToken(body::SessionToken),
}

impl Message {
    /// Decodes a frame's body by its opcode.
    ///
    /// # Errors
    /// `WireError::Body`, naming the opcode.
    pub fn decode(frame: &Frame) -> Result<Message, WireError> {
        let opcode = frame.header.opcode;
        Message::decode_as(opcode, &frame.body).map_err(|error| WireError::Body { opcode: opcode.name(), error })
    }

    /// Appends this as one frame. On an error `out` is as before.
    ///
    /// # Errors
    /// When a field is longer than the peer accepts.
    pub fn encode(&self, request_id: RequestId, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encode_frame(self.opcode(), request_id, out, |out| self.encode_body(out))
    }
}
