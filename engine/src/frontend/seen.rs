//! What a connection in a session has read, by the nodes that wrote it. Shared with the cores that run its commands: each notes what it
//! reads for them before it answers.

use std::sync::{Arc, Mutex, PoisonError};

use net::token::Token;
use wal::{NodeId, Version};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<Token>>);

impl Seen {
    /// A record was read, visible or not: that there is nothing is due to a tombstone.
    pub fn note(&self, origin: NodeId, version: Version) {
        self.with(|token| token.note(net::ids::NodeId(origin.0), net::ids::Version(version.0)));
    }

    /// The session has seen this elsewhere.
    pub fn merge(&self, elsewhere: &Token) {
        self.with(|token| token.merge(elsewhere));
    }

    /// All of it.
    #[must_use]
    pub fn token(&self) -> Token {
        self.with(|token| token.clone())
    }

    fn with<R>(&self, act: impl FnOnce(&mut Token) -> R) -> R {
        // Highest versions only: it is right whatever panicked elsewhere.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
