//! Commands that look at some keys before they write others. The keys may lie on different cores: all of them are held from the
//! look to the write, see [`super::script`].

use net::resp::{Args, parse_integer, reply};

use super::keys::KEY_BYTES_MAX;
use super::table::CrossingVerb;
use super::{NOT_AN_INTEGER, SYNTAX_ERROR};

/// The value of a key that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The value; empty where only its presence was asked for.
    pub value: Vec<u8>,
    /// Milliseconds since 1970 from which on it is absent.
    pub expiry: Option<u64>,
}

/// A key to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The key.
    pub key: Vec<u8>,
    /// Whether its value is wanted, too.
    pub value: bool,
}

/// A write that follows from what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The key has this value.
    Put(Vec<u8>, Found),
    /// The key is gone.
    Delete(Vec<u8>),
}

impl Effect {
    /// What it writes to.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Effect::Put(key, _) | Effect::Delete(key) => key,
        }
    }
}

/// A command of this kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// `MSETNX`.
    MSetNx(Vec<(Vec<u8>, Vec<u8>)>),
    /// `RENAME`, or `RENAMENX` if `nx`.
    Rename {
        /// From here.
        source: Vec<u8>,
        /// To there.
        target: Vec<u8>,
        /// Only if there is nothing.
        nx: bool,
    },
    /// `COPY`.
    Copy {
        /// From here.
        source: Vec<u8>,
        /// To there.
        target: Vec<u8>,
        /// Also if there is something.
        replace: bool,
    },
}

impl Crossing {
    /// Parses the command; `args` starts with its name and was checked for arity.
    ///
    /// # Errors
    /// Redis' error text.
    pub fn parse(verb: CrossingVerb, args: Args<'_>) -> Result<Crossing, String> {
        let keys = if verb == CrossingVerb::MSetNx { args.len() } else { 3 };
        let step = if verb == CrossingVerb::MSetNx { 2 } else { 1 };
        if args.first(keys).iter().skip(1).step_by(step).any(|key| key.len() > KEY_BYTES_MAX) {
            return Err("ERR the key is longer than 65535 bytes".into());
        }
        let (source, target) = (args[1].to_vec(), args[2].to_vec());
        match verb {
            CrossingVerb::MSetNx if args.len().is_multiple_of(2) => Err(super::wrong_arity("msetnx")),
            CrossingVerb::MSetNx => {
                let words: Vec<&[u8]> = args.iter().skip(1).collect();
                Ok(Crossing::MSetNx(words.chunks_exact(2).map(|pair| (pair[0].to_vec(), pair[1].to_vec())).collect()))
            }
            CrossingVerb::Rename => Ok(Crossing::Rename { source, target, nx: false }),
            CrossingVerb::RenameNx => Ok(Crossing::Rename { source, target, nx: true }),
            CrossingVerb::Copy => {
                let replace = copy_options(args.from(3))?;
                if source == target {
                    return Err("ERR source and destination objects are the same".into());
                }
                Ok(Crossing::Copy { source, target, replace })
            }
        }
    }

    /// The keys it looks at, in the order in which [`Crossing::decide`] takes what was found. It writes no others.
    #[must_use]
    pub fn looks(&self) -> Vec<Look> {
        let look = |key: &Vec<u8>, value| Look { key: key.clone(), value };
        match self {
            Crossing::MSetNx(pairs) => pairs.iter().map(|(key, _)| look(key, false)).collect(),
            Crossing::Rename { source, target, .. } | Crossing::Copy { source, target, .. } => {
                vec![look(source, true), look(target, false)]
            }
        }
    }

    /// What it writes, and what it answers if that succeeds.
    #[must_use]
    pub fn decide(self, found: Vec<Option<Found>>) -> (Vec<Effect>, Vec<u8>) {
        if let Crossing::MSetNx(pairs) = self {
            if found.iter().any(Option::is_some) {
                return (Vec::new(), integer(0));
            }
            let put = |(key, value)| Effect::Put(key, Found { value, expiry: None });
            return (pairs.into_iter().map(put).collect(), integer(1));
        }
        let mut found = found.into_iter();
        let (at_source, at_target) = (found.next().flatten(), found.next().flatten());
        match (self, at_source) {
            (Crossing::Rename { .. }, None) => {
                let mut text = Vec::new();
                reply::error(&mut text, "ERR no such key");
                (Vec::new(), text)
            }
            (Crossing::Rename { nx: true, .. }, _) if at_target.is_some() => (Vec::new(), integer(0)),
            (Crossing::Rename { source, target, nx }, Some(value)) => {
                let answer = if nx { integer(1) } else { b"+OK\r\n".to_vec() };
                // Renamed to itself, it stays as it is.
                let effects = if source == target {
                    Vec::new()
                } else {
                    vec![Effect::Put(target, value), Effect::Delete(source)]
                };
                (effects, answer)
            }
            (Crossing::Copy { target, replace, .. }, Some(value)) if replace || at_target.is_none() => {
                (vec![Effect::Put(target, value)], integer(1))
            }
            _ => (Vec::new(), integer(0)),
        }
    }
}

fn integer(value: i64) -> Vec<u8> {
    let mut text = Vec::new();
    reply::integer(&mut text, value);
    text
}

/// What follows `COPY source target`: whether it says `REPLACE`.
fn copy_options(args: Args<'_>) -> Result<bool, String> {
    let mut replace = false;
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if word.eq_ignore_ascii_case(b"REPLACE") {
            replace = true;
        } else if word.eq_ignore_ascii_case(b"DB") {
            match parse_integer(words.next().ok_or(SYNTAX_ERROR)?) {
                Some(0) => {}
                Some(_) => return Err("ERR DB index is out of range".into()),
                None => return Err(NOT_AN_INTEGER.into()),
            }
        } else {
            return Err(SYNTAX_ERROR.into());
        }
    }
    Ok(replace)
}

#[cfg(test)]
mod tests {
    use net::resp::{Limits, Parser, encode_command};

    use super::*;

    fn parse(verb: CrossingVerb, words: &[&str]) -> Result<Crossing, String> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut encoded = Vec::new();
        encode_command(&words, &mut encoded);
        let mut parser = Parser::new(Limits::default());
        assert!(parser.next(&encoded).unwrap().is_some());
        Crossing::parse(verb, parser.args(&encoded))
    }

    fn found(value: &str, expiry: Option<u64>) -> Option<Found> {
        Some(Found { value: value.into(), expiry })
    }

    fn decided(crossing: Crossing, found: Vec<Option<Found>>) -> (Vec<Effect>, String) {
        let (effects, answer) = crossing.decide(found);
        (effects, String::from_utf8(answer).unwrap())
    }

    #[test]
    fn a_rename_takes_value_and_expiry_along() {
        let rename = parse(CrossingVerb::Rename, &["RENAME", "a", "b"]).unwrap();
        let moved = vec![
            Effect::Put(b"b".to_vec(), Found { value: b"v".to_vec(), expiry: Some(7) }),
            Effect::Delete(b"a".to_vec()),
        ];
        assert_eq!(
            decided(rename.clone(), vec![found("v", Some(7)), found("", None)]),
            (moved.clone(), "+OK\r\n".into())
        );
        assert_eq!(decided(rename, vec![None, None]), (vec![], "-ERR no such key\r\n".into()));
        let nx = parse(CrossingVerb::RenameNx, &["RENAMENX", "a", "b"]).unwrap();
        assert_eq!(decided(nx.clone(), vec![found("v", Some(7)), found("", None)]), (vec![], ":0\r\n".into()));
        assert_eq!(decided(nx, vec![found("v", Some(7)), None]), (moved, ":1\r\n".into()));
    }

    #[test]
    fn a_key_renamed_to_itself_stays_as_it_is() {
        let same = parse(CrossingVerb::Rename, &["RENAME", "a", "a"]).unwrap();
        assert_eq!(decided(same.clone(), vec![found("v", None), found("", None)]), (vec![], "+OK\r\n".into()));
        assert_eq!(decided(same, vec![None, None]), (vec![], "-ERR no such key\r\n".into()));
        let nx = parse(CrossingVerb::RenameNx, &["RENAMENX", "a", "a"]).unwrap();
        assert_eq!(decided(nx, vec![found("v", None), found("", None)]), (vec![], ":0\r\n".into()));
    }

    #[test]
    fn a_copy_replaces_only_if_it_is_told_to() {
        let put = vec![Effect::Put(b"b".to_vec(), Found { value: b"v".to_vec(), expiry: None })];
        for (words, there, expected) in [
            (&["COPY", "a", "b"][..], None, (put.clone(), ":1\r\n")),
            (&["COPY", "a", "b"], found("", None), (vec![], ":0\r\n")),
            (&["COPY", "a", "b", "replace", "DB", "0"], found("", None), (put.clone(), ":1\r\n")),
        ] {
            let copy = parse(CrossingVerb::Copy, words).unwrap();
            assert_eq!(decided(copy, vec![found("v", None), there]), (expected.0, expected.1.to_owned()));
        }
        let copy = parse(CrossingVerb::Copy, &["COPY", "a", "b"]).unwrap();
        assert_eq!(decided(copy, vec![None, None]), (vec![], ":0\r\n".into()));
        for (words, error) in [
            (&["COPY", "a", "a"][..], "ERR source and destination objects are the same"),
            (&["COPY", "a", "b", "DB", "1"], "ERR DB index is out of range"),
            (&["COPY", "a", "b", "DB", "x"], NOT_AN_INTEGER),
            (&["COPY", "a", "b", "DB"], SYNTAX_ERROR),
            (&["COPY", "a", "b", "PLEASE"], SYNTAX_ERROR),
        ] {
            assert_eq!(parse(CrossingVerb::Copy, words), Err(error.to_owned()));
        }
    }

    #[test]
    fn msetnx_writes_all_keys_or_none() {
        let set = parse(CrossingVerb::MSetNx, &["MSETNX", "a", "1", "b", "2"]).unwrap();
        let (effects, answer) = decided(set.clone(), vec![None, None]);
        assert_eq!((effects.len(), answer.as_str()), (2, ":1\r\n"));
        assert_eq!(decided(set, vec![None, found("", None)]), (vec![], ":0\r\n".into()));
        let odd = parse(CrossingVerb::MSetNx, &["MSETNX", "a", "1", "b"]);
        assert_eq!(odd, Err("ERR wrong number of arguments for 'msetnx' command".into()));
    }
}
