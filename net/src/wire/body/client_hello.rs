//! `ClientHello` (client → node) and `ClientHelloAck` (node → client): what is spoken, and with whom.
//!
//! Rules:
//! - The first frame in each direction on a client's connection; nothing else is answered before. The first byte of the
//!   connection, the magic, is what tells it from RESP on the same port; it stays native for its life.
//! - The newest common protocol is spoken. Without one the node answers `Refuse` and closes.
//! - The client's name is for people (`CLIENT LIST`): visible ASCII without blanks, or empty.

use bytes::BufMut;

use super::{Body, Refuse, RefuseCode};
use crate::ids::{LogId, RegionName};
use crate::wire::codec::{Reader, put_bytes, put_log, put_region};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::{CLIENT_NAME_BYTES_MAX, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};
use crate::wire::opcode::Opcode;

/// What a client says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// Oldest protocol spoken.
    pub protocol_min: u16,
    /// Newest protocol spoken.
    pub protocol_max: u16,
    /// For people; may be empty.
    pub name: String,
}

impl ClientHello {
    /// That of a client which speaks what this source speaks.
    #[must_use]
    pub fn new(name: &str) -> ClientHello {
        let (protocol_min, protocol_max) = (PROTOCOL_VERSION_MIN.into(), PROTOCOL_VERSION.into());
        ClientHello { protocol_min, protocol_max, name: name.to_owned() }
    }

    /// The newest protocol that the client and this source speak.
    ///
    /// # Errors
    /// The refusal to send before closing.
    pub fn agree(&self) -> Result<u16, Refuse> {
        let (ours_min, ours_max) = (u16::from(PROTOCOL_VERSION_MIN), u16::from(PROTOCOL_VERSION));
        let protocol = ours_max.min(self.protocol_max);
        if protocol < ours_min.max(self.protocol_min) {
            let text = format!(
                "the client speaks protocols {} to {}, this node {ours_min} to {ours_max}: upgrade the older side",
                self.protocol_min, self.protocol_max
            );
            return Err(Refuse::new(RefuseCode::Protocol, &text));
        }
        Ok(protocol)
    }
}

impl Body for ClientHello {
    const OPCODE: Opcode = Opcode::ClientHello;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u16_le(self.protocol_min);
        out.put_u16_le(self.protocol_max);
        if !is_name(&self.name) {
            return Err(EncodeError::Value { field: "client name", value: 0 });
        }
        put_bytes(out, "client name", self.name.as_bytes(), CLIENT_NAME_BYTES_MAX)
    }

    fn read(reader: &mut Reader<'_>) -> Result<ClientHello, DecodeError> {
        let protocol_min = reader.u16()?;
        let protocol_max = reader.u16()?;
        let name = reader.text("client name", CLIENT_NAME_BYTES_MAX)?.to_owned();
        if !is_name(&name) {
            return Err(DecodeError::Value { field: "client name", value: 0 });
        }
        Ok(ClientHello { protocol_min, protocol_max, name })
    }
}

fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What the node answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHelloAck {
    /// What is spoken from here on.
    pub protocol: u16,
    /// The node and its current run.
    pub log: LogId,
    /// Its core threads. Keys are spread over them; clients need not know how.
    pub cores: u16,
    /// Largest value in bytes that it accepts.
    pub value_bytes_max: u32,
    /// This connection, as `CLIENT LIST` names it.
    pub connection: u64,
    /// Its region.
    pub region: RegionName,
}

impl Body for ClientHelloAck {
    const OPCODE: Opcode = Opcode::ClientHelloAck;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u16_le(self.protocol);
        put_log(out, self.log);
        out.put_u16_le(self.cores);
        out.put_u32_le(self.value_bytes_max);
        out.put_u64_le(self.connection);
        put_region(out, &self.region)
    }

    fn read(reader: &mut Reader<'_>) -> Result<ClientHelloAck, DecodeError> {
        let protocol = reader.u16()?;
        let log = reader.log()?;
        let cores = reader.u16()?;
        let value_bytes_max = reader.u32()?;
        let connection = reader.u64()?;
        Ok(ClientHelloAck { protocol, log, cores, value_bytes_max, connection, region: reader.region()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_protocol_is_spoken_or_none() {
        let ours = u16::from(PROTOCOL_VERSION);
        let agreed = |protocol_min, protocol_max| {
            let hello = ClientHello { protocol_min, protocol_max, name: String::new() };
            hello.agree().map_err(|refuse| refuse.reason().unwrap())
        };
        assert_eq!(agreed(ours, ours), Ok(ours));
        assert_eq!(agreed(0, 999), Ok(ours));
        assert_eq!(agreed(ours + 1, 999), Err(RefuseCode::Protocol));
        assert_eq!(agreed(0, 0), Err(RefuseCode::Protocol));
        assert_eq!(agreed(9, 1), Err(RefuseCode::Protocol), "an empty range");
    }

    #[test]
    fn a_name_is_one_word() {
        for bad in ["a b", "a\n", "é"] {
            assert!(ClientHello::new(bad).encode(&mut Vec::new()).is_err(), "{bad:?}");
        }
        assert!(ClientHello::new("").encode(&mut Vec::new()).is_ok());
    }
}
