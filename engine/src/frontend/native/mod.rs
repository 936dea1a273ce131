//! Godwit's own protocol on the storage port (docs/WIRE_PROTOCOL.md).
//!
//! - [`request`]: what a client may ask for, and which keys that is about.
//! - [`run`]: what a request does on the shard that owns its key. This is the only place where one is run.

pub mod request;
pub mod run;

use net::ids::RequestId;
use net::wire::Message;
use net::wire::body::{ErrorCode, Failed, Refuse};
use wal::Lsn;

use super::replies::ReplyQueue;

/// Queues an answer that may be shown once `barrier` is durable.
pub fn answer(replies: &mut ReplyQueue, barrier: Lsn, id: RequestId, message: &Message) {
    replies.reply(barrier, |out| encode(message, id, out));
}

/// Queues the answer to a request that failed; its connection goes on.
pub fn fail(replies: &mut ReplyQueue, id: RequestId, code: ErrorCode, text: &str) {
    answer(replies, Lsn(0), id, &Message::Error(Failed::new(code, text)));
}

/// Queues the last thing that a connection hears.
pub fn refuse(replies: &mut ReplyQueue, refuse: Refuse) {
    answer(replies, Lsn(0), RequestId(0), &Message::Refuse(refuse));
}

/// Appends a frame.
pub fn encode(message: &Message, id: RequestId, out: &mut Vec<u8>) {
    if let Err(error) = message.encode(id, out) {
        // No answer would leave its client waiting for ever; a text is clipped, so that this one can be sent.
        let failed = Message::Error(Failed::new(ErrorCode::Invalid, &error.to_string()));
        failed.encode(id, out).expect("an error of a clipped text is encodable");
    }
}
