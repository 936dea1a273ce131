//! `Refuse`: why this link closes, sent once, just before closing, by either side, at any time.
//!
//! Rules:
//! - Not answered. The receiver shows the text to its operator and retries with backoff.
//! - A code the receiver does not know is still shown by its text.

use bytes::BufMut;

use super::Body;
use crate::ids::NodeId;
use crate::wire::codec::{Reader, clipped, codes, put_bytes};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::TEXT_BYTES_MAX;
use crate::wire::opcode::Opcode;

codes! {
    /// Reasons to close a link.
    RefuseCode: u16 {
        /// No protocol version in common, or a frame that does not parse.
        Protocol = 1,
        /// A link between regions leads into the own one.
        SameRegion = 2,
        /// Two live nodes hold one node id.
        NodeTwice = 3,
        /// The node dialled itself.
        Myself = 4,
        /// The region is not one of the configured mesh.
        UnknownRegion = 5,
        /// The record or segment formats differ.
        RecordFormat = 6,
        /// Limits that must agree across the mesh differ.
        MeshLimits = 7,
        /// The residency policies differ.
        Residency = 8,
        /// The proof of the mesh key is missing or wrong.
        Proof = 9,
        /// The node was removed from the mesh.
        Removed = 10,
        /// This node stops or is not ready; try again later.
        NotReady = 11,
        /// A newer connection of the same peer and purpose replaces this one.
        Replaced = 12,
        /// An accepted frame has no meaning at this point.
        Unexpected = 13,
    }
}

/// Why this link closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// A [`RefuseCode`], perhaps one of a newer version.
    pub code: u16,
    /// One line for the operator.
    pub text: String,
}

impl Refuse {
    /// A refusal; a text beyond the limit is clipped.
    #[must_use]
    pub fn new(code: RefuseCode, text: &str) -> Refuse {
        Refuse { code: code.code(), text: clipped(text, TEXT_BYTES_MAX) }
    }

    /// The refusal of a node that was removed.
    #[must_use]
    pub fn removed(node: NodeId) -> Refuse {
        let text = format!(
            "node {node} was removed from the mesh for good; to join again as a new node, stop it and empty its DATA_DIR"
        );
        Refuse::new(RefuseCode::Removed, &text)
    }

    /// The code, if this version knows it.
    #[must_use]
    pub fn reason(&self) -> Option<RefuseCode> {
        RefuseCode::from_code(self.code)
    }
}

impl Body for Refuse {
    const OPCODE: Opcode = Opcode::Refuse;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u16_le(self.code);
        put_bytes(out, "text", self.text.as_bytes(), TEXT_BYTES_MAX)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Refuse, DecodeError> {
        let code = reader.u16()?;
        let text = reader.text("text", TEXT_BYTES_MAX)?.to_owned();
        Ok(Refuse { code, text })
    }
}
