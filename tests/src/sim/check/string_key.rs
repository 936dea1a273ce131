//! One string key as Redis documents it, for [`super::linear`]: independent of the engine. Expiries are set so far away that
//! they never pass; what is checked is whether there is one.

use super::linear::Model;

/// A text: its length and a polynomial of its bytes, so that appending needs no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Print {
    len: u32,
    sum: u64,
}

const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

impl Print {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Print {
        // Four bytes at a time would be Horner's rule as well; values are mostly small.
        let sum = bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(BASE).wrapping_add(u64::from(*byte) + 1));
        Print { len: u32::try_from(bytes.len()).unwrap_or(u32::MAX), sum }
    }

    /// Of these bytes with `more` behind them.
    #[must_use]
    pub fn then(self, more: Print) -> Print {
        let sum = self.sum.wrapping_mul(BASE.wrapping_pow(more.len)).wrapping_add(more.sum);
        Print { len: self.len + more.len, sum }
    }
}

/// What the key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Held {
    /// Nothing.
    Absent,
    /// The decimal text of a number.
    Number(i64),
    /// Any other text.
    Text(Print),
}

impl Held {
    /// This value.
    #[must_use]
    pub fn of(value: &[u8]) -> Held {
        match number_of(value) {
            Some(number) => Held::Number(number),
            None => Held::Text(Print::of(value)),
        }
    }

    fn print(self) -> Print {
        match self {
            Held::Absent => Print::of(b""),
            Held::Number(number) => Print::of(number.to_string().as_bytes()),
            Held::Text(print) => print,
        }
    }
}

/// The number that `value` is the decimal text of, in the one form in which Redis writes it.
#[must_use]
pub fn number_of(value: &[u8]) -> Option<i64> {
    let (first, digits) = value.split_first()?;
    let (first, digits) = if *first == b'-' { digits.split_first()? } else { (first, digits) };
    let plain = first.is_ascii_digit() && digits.iter().all(u8::is_ascii_digit) && value.len() <= 20;
    let leading_zero = *first == b'0' && value.len() > 1;
    (plain && !leading_zero).then(|| std::str::from_utf8(value).ok()?.parse().ok())?
}

/// A key's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    held: Held,
    expires: bool,
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// SET without options, or the key's part of MSET.
    Set(Held),
    /// GET, or the key's part of MGET.
    Get,
    /// DEL.
    Del,
    /// SETNX.
    SetNx(Held),
    /// GETSET.
    GetSet(Held),
    /// GETDEL.
    GetDel,
    /// APPEND.
    Append(Print),
    /// INCR, INCRBY.
    IncrBy(i64),
    /// EXPIRE, to a time that does not come.
    Expire,
    /// PERSIST.
    Persist,
    /// PTTL.
    PTtl,
    /// EXISTS.
    Exists,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// OK.
    Done,
    /// A value or null.
    Value(Held),
    /// 1 or 0.
    Flag(bool),
    /// A number.
    Number(i64),
    /// The error of INCR on a text.
    NotANumber,
}

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct StringKey;

impl Model for StringKey {
    type State = Key;
    type Input = Input;
    type Output = Output;

    fn initial() -> Key {
        Key { held: Held::Absent, expires: false }
    }

    fn step(state: &Key, input: &Input, output: Option<&Output>) -> Option<Key> {
        let (next, expected) = run(*state, *input);
        let fits = match (output, expected) {
            (None, _) => true,
            // What remains of a time that is far away.
            (Some(Output::Number(left)), None) => *left > 0,
            (Some(output), expected) => Some(*output) == expected,
        };
        fits.then_some(next)
    }
}

/// The next state and the answer; `None` stands for any positive number.
fn run(state: Key, input: Input) -> (Key, Option<Output>) {
    let there = state.held != Held::Absent;
    let plain = |held| Key { held, expires: false };
    let (next, output) = match input {
        Input::Set(value) => (plain(value), Output::Done),
        Input::Get => (state, Output::Value(state.held)),
        Input::Del => (plain(Held::Absent), Output::Flag(there)),
        Input::SetNx(value) => (if there { state } else { plain(value) }, Output::Flag(!there)),
        Input::GetSet(value) => (plain(value), Output::Value(state.held)),
        Input::GetDel => (plain(Held::Absent), Output::Value(state.held)),
        Input::Append(more) => {
            let print = state.held.print().then(more);
            (Key { held: Held::Text(print), ..state }, Output::Number(i64::from(print.len)))
        }
        Input::IncrBy(by) => {
            let number = match state.held {
                Held::Absent => 0,
                Held::Number(number) => number,
                Held::Text(_) => return (state, Some(Output::NotANumber)),
            };
            let sum = number.wrapping_add(by);
            (Key { held: Held::Number(sum), ..state }, Output::Number(sum))
        }
        Input::Expire => (Key { expires: there, ..state }, Output::Flag(there)),
        Input::Persist => (Key { expires: false, ..state }, Output::Flag(state.expires)),
        Input::PTtl if state.expires => return (state, None),
        Input::PTtl => (state, Output::Number(if there { -1 } else { -2 })),
        Input::Exists => (state, Output::Flag(there)),
    };
    (next, Some(output))
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
