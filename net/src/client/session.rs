//! A session that moves between nodes and is shown nothing older than what it saw.

use std::time::Duration;

use bytes::Bytes;

use super::{Client, ClientError};
use crate::token::Token;
use crate::wire::Message;
use crate::wire::body;
use crate::wire::limits::SESSION_MS_MAX;

/// What somebody has read and written, over whatever nodes.
///
/// ```no_run
/// use std::time::Duration;
///
/// use net::client::{Client, Session};
///
/// let mut session = Session::default();
/// let mut ams = Client::connect("ams:10600")?;
/// session.enter(&mut ams, Duration::from_secs(1))?;
/// ams.put("user:1", "ada")?;
/// session.collect(&mut ams)?;
/// // Elsewhere, perhaps in another process: the token travels as text.
/// let mut session = Session::from(session.token().to_string().parse::<net::token::Token>().expect("it was just given"));
/// let mut nyc = Client::connect("nyc:10600")?;
/// session.enter(&mut nyc, Duration::from_secs(1))?;
/// assert!(nyc.get("user:1")?.is_some());
/// # Ok::<(), net::client::ClientError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    token: Token,
}

impl From<Token> for Session {
    fn from(token: Token) -> Session {
        Session { token }
    }
}

impl Session {
    /// What it has seen, as far as it was collected.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Goes on at this node: once it has everything that the session has seen. From then on the connection shows nothing older, writes get
    /// versions above it, and what it reads and writes can be collected.
    ///
    /// # Errors
    /// See [`ClientError`]; a [`ClientError::Failed`] with [`ErrorCode::NotCovered`](super::ErrorCode::NotCovered) if the node does not have it
    /// in time. It says what is lacking; the connection goes on without the session.
    pub fn enter(&mut self, client: &mut Client, within: Duration) -> Result<(), ClientError> {
        let deadline_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX).clamp(1, SESSION_MS_MAX);
        let token = Bytes::from(self.token.to_bytes().map_err(ClientError::Token)?);
        self.exchange(client, &body::Session { deadline_ms, token })
    }

    /// Takes in what a connection that the session entered has read and written.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn collect(&mut self, client: &mut Client) -> Result<(), ClientError> {
        self.exchange(client, &body::Session { deadline_ms: 1, token: Bytes::new() })
    }

    fn exchange(&mut self, client: &mut Client, request: &body::Session) -> Result<(), ClientError> {
        let connection = &mut client.connection;
        let id = connection.send(&Message::Session(request.clone()))?;
        let within = Duration::from_millis(request.deadline_ms.into());
        match connection.receive_within(id, within)? {
            Message::SessionToken(answer) => {
                self.token.merge(&Token::from_bytes(&answer.token).map_err(ClientError::Token)?);
                Ok(())
            }
            other => Err(connection.unexpected(&other)),
        }
    }
}
