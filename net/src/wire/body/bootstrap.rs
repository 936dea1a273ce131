//! `Bootstrap` (both ways between follower and source): a follower that lacks what the source may have forgotten takes over everything.
//!
//! Rules:
//! - `Needed` answers a `Follow` whose `held` is below what the source may have forgotten, by `forgotten`. No stream begins.
//! - `Ask` comes from the follower, after its full `Watermarks` and a `Credit`. It asks for everything that the source has, if that holds
//!   everything up to `held`. Where streams or a pass are under way on the connection it is an error.
//! - `Begin` answers it. Then come `Records` with the flags `PASS` and `BOOTSTRAP`, the `Claim`s over all logs of which the source holds more
//!   than the follower told, and `End`. `Unable` answers it where the source holds less, or is itself in the middle of a bootstrap.
//! - What `Begin` and `End` say was so before the first record was sent: the source may have forgotten what died up to `forgotten`, held
//!   everything up to `held`, and, by `End`, of everything that a node wrote up to `upto`. Of nodes that `End` does not name it may lack anything.
//! - What the follower has at or below `forgotten`, and the source held and did not send, is dead.

use bytes::BufMut;

use super::Body;
use crate::ids::{NodeId, Version};
use crate::wire::codec::{Reader, codes, put_count};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::LOGS_MAX;
use crate::wire::opcode::Opcode;

codes! {
    /// What is said of a bootstrap.
    BootstrapStep: u8 {
        /// The source: the follower needs one.
        Needed = 1,
        /// The follower asks for it.
        Ask = 2,
        /// The source: it begins.
        Begin = 3,
        /// The source: everything was sent.
        End = 4,
        /// The source: it cannot give one.
        Unable = 5,
    }
}

/// Up to where everything is held that a node wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldOfNode {
    /// Who wrote it.
    pub node: NodeId,
    /// Inclusive.
    pub upto: Version,
}

/// A step of a bootstrap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Which.
    pub step: BootstrapStep,
    /// What died up to here the source may have forgotten; 0 where it does not matter.
    pub forgotten: Version,
    /// Up to here all members' writes are held by the source, or have to be.
    pub held: Version,
    /// With `End`, what the source held of each node's writes.
    pub nodes: Vec<HeldOfNode>,
}

impl Body for Bootstrap {
    const OPCODE: Opcode = Opcode::Bootstrap;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u8(self.step.code());
        out.put_u64_le(self.forgotten.0);
        out.put_u64_le(self.held.0);
        put_count(out, "nodes", self.nodes.len(), LOGS_MAX)?;
        for entry in &self.nodes {
            out.put_u32_le(entry.node.0);
            out.put_u64_le(entry.upto.0);
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Bootstrap, DecodeError> {
        let step = reader.u8()?;
        let step =
            BootstrapStep::from_code(step).ok_or(DecodeError::Value { field: "bootstrap step", value: step.into() })?;
        let (forgotten, held) = (Version(reader.u64()?), Version(reader.u64()?));
        let count = reader.count("nodes", LOGS_MAX, 12)?;
        let mut nodes = Vec::with_capacity(count);
        for _ in 0..count {
            nodes.push(HeldOfNode { node: NodeId(reader.u32()?), upto: Version(reader.u64()?) });
        }
        Ok(Bootstrap { step, forgotten, held, nodes })
    }
}
