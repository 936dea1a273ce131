//! What may be chosen.

use std::time::Duration;

use crate::wire::body::Condition;

/// How to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Bounds connecting, and each wait for the node to take or send bytes. Not zero.
    pub timeout: Duration,
    /// Names this client in `CLIENT LIST`: up to 64 visible characters of ASCII, or none.
    pub name: String,
}

impl Default for ConnectOptions {
    /// Five seconds, no name.
    fn default() -> ConnectOptions {
        ConnectOptions { timeout: Duration::from_secs(5), name: String::new() }
    }
}

/// How to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    pub(super) expiry_ms: u64,
    pub(super) condition: Condition,
}

impl PutOptions {
    /// The key goes away at this moment, in ms since 1970; 0 = never.
    #[must_use]
    pub fn expires_at_unix_ms(mut self, expiry_ms: u64) -> PutOptions {
        self.expiry_ms = expiry_ms;
        self
    }

    /// Nothing is written unless this holds.
    #[must_use]
    pub fn only_if(mut self, condition: Condition) -> PutOptions {
        self.condition = condition;
        self
    }
}
