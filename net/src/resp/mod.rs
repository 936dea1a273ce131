//! RESP2 and RESP3, the protocol of Redis clients: requests in ([`parse`]), replies out ([`reply`]), and the client's side
//! of both ([`client`]) for this project's own tools and tests.
//!
//! All but [`blocking`] is pure: bytes in, bytes out. Nothing recurses and no length field is believed before its bytes arrived.

pub mod blocking;
pub mod client;
mod inline;
pub mod parse;
pub mod reply;

#[cfg(test)]
mod tests;

pub use blocking::BlockingClient;
pub use client::{ReplyError, Value, encode_command, parse_reply};
pub use parse::{Args, Limits, Parser, ProtocolError};
pub use reply::Protocol;

/// Parses a decimal number as Redis does: an optional `-`, no `+`, no leading zeros, no `-0`, must fit 64 bits.
#[must_use]
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    // Accumulating below zero reaches i64::MIN without overflow.
    let mut value: i64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
    }
    if negative { Some(value) } else { value.checked_neg() }
}
