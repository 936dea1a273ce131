//! The binary protocol between nodes and from native clients: a fixed header, explicit opcodes, one file per body.
//!
//! `docs/WIRE_PROTOCOL.md` describes every byte; `net/tests/wire_document.rs` ties it to this source. Decoding never
//! panics and never trusts a length: the header has its own checksum, checked before the body length is believed.

pub mod body;
mod client_samples;
pub mod codec;
pub mod continuation;
pub mod error;
pub mod frame;
pub mod header;
pub mod limits;
pub mod message;
pub mod opcode;
pub mod packing;
pub mod samples;
mod survey_samples;

pub use body::Body;
pub use error::{DecodeError, EncodeError, Foreign, WireError};
pub use frame::{Frame, FrameReader, encode_body, encode_frame};
pub use header::Header;
pub use message::Message;
pub use opcode::Opcode;
