//! What can go wrong, and what to do then.

use std::io;

use crate::token::TokenError;
use crate::wire::body::{Failed, Refuse};
use crate::wire::{EncodeError, WireError};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody accepted.
    #[error("no node accepts a connection: {0}; is one running there, and is this its STORAGE_PORT?")]
    Connect(io::Error),
    /// No answer came in time.
    #[error("no answer came in time; whether the request takes effect is unknown: connect again and look")]
    TimedOut,
    /// The stream ended or broke.
    #[error("the connection broke ({0}); whether unanswered requests took effect is unknown: connect again and look")]
    Broken(io::Error),
    /// The node closes the connection and says why.
    #[error("the node closed the connection: {}", .0.text)]
    Refused(Refuse),
    /// The node cannot do this request; nothing was written. The connection goes on.
    #[error("the node answers: {}", .0.text)]
    Failed(Failed),
    /// The request does not fit its limits; nothing was sent. The connection goes on.
    #[error(transparent)]
    Unsendable(#[from] EncodeError),
    /// The other side speaks something else, or bytes were damaged.
    #[error("what came is no answer: {0}; is this a node's STORAGE_PORT?")]
    Unreadable(WireError),
    /// An answer, but not to what was asked.
    #[error("{0} came where another answer was due; this is a fault of the node: connect again")]
    Unexpected(&'static str),
    /// A session's token that is none, or has no room for more.
    #[error(transparent)]
    Token(TokenError),
    /// An earlier error ended the connection.
    #[error("an earlier error ended this connection; connect again")]
    Ended,
}

impl ClientError {
    /// Whether the connection is of no more use.
    #[must_use]
    pub fn ends_connection(&self) -> bool {
        !matches!(self, ClientError::Failed(_) | ClientError::Unsendable(_) | ClientError::Token(_))
    }

    /// Whether the request may have taken effect although there is no answer to it.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(
            self,
            ClientError::TimedOut | ClientError::Broken(_) | ClientError::Unreadable(_) | ClientError::Unexpected(_)
        )
    }

    pub(super) fn of_stream(error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::TimedOut,
            _ => ClientError::Broken(error),
        }
    }
}
