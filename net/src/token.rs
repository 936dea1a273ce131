//! A session's token: of every node the highest version that the session has read or written.
//!
//! It is what a client takes along when it moves to another node: that node shows it nothing older. Nodes and clients pass it on as it
//! is; only nodes know what a version stands for.
//!
//! Binary form: u8 form (1), u8 count, then for each node, ascending, u32 id and u64 version; last the crc32c of all that, as
//! u32. Printed, each byte is two hexadecimal digits.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bytes::{Buf, BufMut};
use thiserror::Error;

use crate::ids::{NodeId, Version};
use crate::wire::header::crc32c;
use crate::wire::limits::{TOKEN_BYTES_MAX, TOKEN_NODES_MAX};

/// The only form so far.
const FORM: u8 = 1;
const HEAD_BYTES: usize = 2;
const ENTRY_BYTES: usize = 12;
const CRC_BYTES: usize = 4;

const _: () = assert!(TOKEN_BYTES_MAX == HEAD_BYTES + TOKEN_NODES_MAX * ENTRY_BYTES + CRC_BYTES);

/// What a session has seen. The empty one has seen nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token {
    seen: BTreeMap<NodeId, Version>,
}

/// Why bytes or a text are no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// They were damaged or cut, or are something else.
    #[error("this is no session token: pass on what a node gave, whole and unchanged")]
    NoToken,
    /// Another version gives it.
    #[error("a node of another version gave this session token; begin a new session")]
    Form,
    /// There is a bound.
    #[error(
        "the session has seen what more than {TOKEN_NODES_MAX} nodes wrote, which is more than a token can hold; begin a new session"
    )]
    TooMany,
}

impl Token {
    /// Something was seen that `node` wrote with this version.
    pub fn note(&mut self, node: NodeId, version: Version) {
        let seen = self.seen.entry(node).or_default();
        *seen = version.max(*seen);
    }

    /// What the other has seen was seen.
    pub fn merge(&mut self, other: &Token) {
        for (node, version) in other.iter() {
            self.note(node, version);
        }
    }

    /// By node, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, Version)> {
        self.seen.iter().map(|(node, version)| (*node, *version))
    }

    /// The highest version of all; zero if nothing was seen.
    #[must_use]
    pub fn highest(&self) -> Version {
        self.seen.values().copied().max().unwrap_or_default()
    }

    /// Whether nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// The binary form.
    ///
    /// # Errors
    /// [`TokenError::TooMany`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, TokenError> {
        if self.seen.len() > TOKEN_NODES_MAX {
            return Err(TokenError::TooMany);
        }
        let mut out = Vec::with_capacity(HEAD_BYTES + self.seen.len() * ENTRY_BYTES + CRC_BYTES);
        out.put_u8(FORM);
        out.put_u8(u8::try_from(self.seen.len()).map_err(|_| TokenError::TooMany)?);
        for (node, version) in &self.seen {
            out.put_u32_le(node.0);
            out.put_u64_le(version.0);
        }
        let crc = crc32c(&out);
        out.put_u32_le(crc);
        Ok(out)
    }

    /// Reads the binary form.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Token, TokenError> {
        let (mut body, mut crc) =
            bytes.split_at_checked(bytes.len().wrapping_sub(CRC_BYTES)).ok_or(TokenError::NoToken)?;
        if crc32c(body) != crc.get_u32_le() || body.len() < HEAD_BYTES {
            return Err(TokenError::NoToken);
        }
        if body.get_u8() != FORM {
            return Err(TokenError::Form);
        }
        let count = usize::from(body.get_u8());
        if count > TOKEN_NODES_MAX || body.len() != count * ENTRY_BYTES {
            return Err(TokenError::NoToken);
        }
        let mut token = Token::default();
        for _ in 0..count {
            let node = NodeId(body.get_u32_le());
            token.note(node, Version(body.get_u64_le()));
        }
        if token.seen.len() == count { Ok(token) } else { Err(TokenError::NoToken) }
    }

    /// The printed form.
    ///
    /// # Errors
    /// [`TokenError::TooMany`].
    pub fn to_text(&self) -> Result<String, TokenError> {
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
        Ok(self.to_bytes()?.into_iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect())
    }

    /// Reads the printed form.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_text(text: &[u8]) -> Result<Token, TokenError> {
        if text.len() > 2 * TOKEN_BYTES_MAX || !text.len().is_multiple_of(2) {
            return Err(TokenError::NoToken);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let byte = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
        let bytes: Option<Vec<u8>> = text.chunks_exact(2).map(byte).collect();
        Token::from_bytes(&bytes.ok_or(TokenError::NoToken)?)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        Token::from_text(text.as_bytes())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.to_text().map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(seen: &[(u32, u64)]) -> Token {
        let mut token = Token::default();
        seen.iter().for_each(|(node, version)| token.note(NodeId(*node), Version(*version)));
        token
    }

    #[test]
    fn the_highest_version_of_each_node_is_kept() {
        let mut seen = token(&[(7, 20), (1, 30), (7, 10)]);
        assert_eq!(seen, token(&[(1, 30), (7, 20)]));
        seen.merge(&token(&[(1, 29), (7, 21), (9, 1)]));
        assert_eq!(seen, token(&[(1, 30), (7, 21), (9, 1)]));
        assert_eq!(seen.highest(), Version(30));
        assert!(Token::default().is_empty() && Token::default().highest() == Version(0));
    }

    #[test]
    fn both_forms_come_back_as_they_were() {
        let full: Vec<(u32, u64)> = (0..64).map(|node| (node, u64::MAX - u64::from(node))).collect();
        for seen in [&[][..], &[(0x0a00_0001, 0x0200_0000_0000_0801)], &full] {
            let token = token(seen);
            assert_eq!(Token::from_bytes(&token.to_bytes().unwrap()), Ok(token.clone()));
            assert_eq!(token.to_string().parse(), Ok(token.clone()));
            assert_eq!(token.to_string().to_uppercase().parse(), Ok(token));
        }
        assert_eq!(token(&[(0x0a00_0001, 0x0801)]).to_string(), "01010100000a010800000000000060263c71");
        let more: Vec<(u32, u64)> = (0..65).map(|node| (node, 1)).collect();
        assert_eq!(token(&more).to_bytes(), Err(TokenError::TooMany));
    }

    #[test]
    fn what_is_damaged_cut_or_something_else_is_no_token() {
        let good = token(&[(1, 2), (3, 4)]).to_bytes().unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(Token::from_bytes(&bad), Err(TokenError::NoToken), "byte {at}");
            assert_eq!(Token::from_bytes(&good[..at]), Err(TokenError::NoToken), "cut at {at}");
        }
        for text in ["", "0", "01", "xyzxyz", "01000000", "é1"] {
            assert_eq!(text.parse::<Token>(), Err(TokenError::NoToken), "{text}");
        }
        let with_crc = |mut body: Vec<u8>| {
            let crc = crc32c(&body);
            body.put_u32_le(crc);
            Token::from_bytes(&body)
        };
        assert_eq!(with_crc(vec![2, 0]), Err(TokenError::Form));
        assert_eq!(with_crc(vec![1, 1]), Err(TokenError::NoToken), "it says that it is longer");
        let twice = [vec![1, 2], [1u8, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0].repeat(2)].concat();
        assert_eq!(with_crc(twice), Err(TokenError::NoToken), "a node stands there twice");
    }
}
