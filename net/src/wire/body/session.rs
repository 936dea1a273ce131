//! `Session` (client → node) and `SessionToken` (node → client): a session that moves between nodes.
//!
//! Rules:
//! - The token is what a node gave, as it is: opaque to clients. An empty one stands for a session that has seen nothing yet.
//! - From then on what the connection reads and writes is collected, until it ends. Each `Session` is answered with all of it so far, and
//!   with what its tokens named.
//! - The node answers once it has everything that the token names: what follows is shown nothing older, and writes get versions above
//!   all of it. Requests of the same connection wait meanwhile; others do not.
//! - If it has not within the deadline, the answer is `Error` with `NotCovered`, which says what is lacking, and nothing was changed. Requests
//!   that were sent behind it are run all the same.

use bytes::{BufMut, Bytes};

use super::Body;
use crate::wire::codec::{Reader, put_bytes};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::TOKEN_BYTES_MAX;
use crate::wire::opcode::Opcode;

/// Body of `Session`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// How long the node may wait until it has everything, in milliseconds; at most [`SESSION_MS_MAX`](crate::wire::limits::SESSION_MS_MAX).
    pub deadline_ms: u32,
    /// The binary form of a [`Token`](crate::token::Token), or nothing.
    pub token: Bytes,
}

impl Body for Session {
    const OPCODE: Opcode = Opcode::Session;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u32_le(self.deadline_ms);
        put_bytes(out, "token", &self.token, TOKEN_BYTES_MAX)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Session, DecodeError> {
        Ok(Session { deadline_ms: reader.u32()?, token: token(reader)? })
    }
}

/// Body of `SessionToken`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionToken {
    /// The binary form of a [`Token`](crate::token::Token).
    pub token: Bytes,
}

impl Body for SessionToken {
    const OPCODE: Opcode = Opcode::SessionToken;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_bytes(out, "token", &self.token, TOKEN_BYTES_MAX)
    }

    fn read(reader: &mut Reader<'_>) -> Result<SessionToken, DecodeError> {
        Ok(SessionToken { token: token(reader)? })
    }
}

fn token(reader: &mut Reader<'_>) -> Result<Bytes, DecodeError> {
    reader.bytes("token", TOKEN_BYTES_MAX).map(Bytes::copy_from_slice)
}
