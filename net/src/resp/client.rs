//! The client's side, for this project's own tools, tests and the lab: commands out, replies in.

use crate::limits;
use crate::resp::{parse_integer, reply};

/// One reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `+OK`.
    Simple(String),
    /// `-ERR …`, its code included.
    Error(String),
    /// `:1`.
    Integer(i64),
    /// A bulk string.
    Bulk(Vec<u8>),
    /// An absent value or array, of either protocol.
    Null,
    /// An array.
    Array(Vec<Value>),
    /// A RESP3 map, in the order received.
    Map(Vec<(Value, Value)>),
    /// A RESP3 set, in the order received.
    Set(Vec<Value>),
    /// A RESP3 double.
    Double(f64),
    /// A RESP3 boolean.
    Boolean(bool),
    /// A RESP3 big number, as sent.
    BigNumber(String),
    /// A RESP3 verbatim string and its format, such as `txt`.
    Verbatim {
        /// Three bytes.
        format: [u8; 3],
        /// The text.
        text: Vec<u8>,
    },
    /// A RESP3 out-of-band message.
    Push(Vec<Value>),
}

/// Why bytes are not a reply. The connection must be closed: its position is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The first byte names no known type.
    #[error("the reply starts with '{}', which is no RESP type; is this port a Redis-compatible server?", .0.escape_ascii())]
    UnknownType(u8),
    /// A number, length, boolean or double does not parse or is out of bounds.
    #[error("the reply holds a malformed or oversized '{}' element; close the connection", .0.escape_ascii())]
    Malformed(u8),
    /// Deeper than [`limits::RESP_REPLY_DEPTH_MAX`].
    #[error("the reply is nested deeper than {} levels; close the connection", limits::RESP_REPLY_DEPTH_MAX)]
    TooDeep,
}

/// Appends a command as an array of bulk strings.
pub fn encode_command<A: AsRef<[u8]>>(args: &[A], out: &mut Vec<u8>) {
    reply::array_header(out, args.len());
    for arg in args {
        reply::bulk(out, arg.as_ref());
    }
}

/// An aggregate whose elements are still arriving.
struct Open {
    marker: u8,
    missing: usize,
    elements: Vec<Value>,
}

/// One element as read from the input.
enum Element {
    Whole(Value),
    Head { marker: u8, count: usize },
}

/// Reads one reply from the start of `input`: the value and the bytes it took, or `None` if more bytes are needed (the next
/// call starts over, which is fine for tools and not meant for servers).
///
/// # Errors
/// [`ReplyError`].
pub fn parse_reply(input: &[u8]) -> Result<Option<(Value, usize)>, ReplyError> {
    let mut open: Vec<Open> = Vec::new();
    let mut position = 0;
    loop {
        let Some((element, taken)) = element(&input[position..])? else { return Ok(None) };
        position += taken;
        let mut value = match element {
            Element::Whole(value) => value,
            Element::Head { marker, count } => {
                if open.len() == limits::RESP_REPLY_DEPTH_MAX {
                    return Err(ReplyError::TooDeep);
                }
                if count > 0 {
                    // The count is a claim: elements are stored as they arrive, not reserved.
                    open.push(Open { marker, missing: count, elements: Vec::new() });
                    continue;
                }
                aggregate(marker, Vec::new())
            }
        };
        // Each finished value may finish the aggregate around it, and so on outwards.
        loop {
            let Some(mut parent) = open.pop() else { return Ok(Some((value, position))) };
            parent.elements.push(value);
            parent.missing -= 1;
            if parent.missing > 0 {
                open.push(parent);
                break;
            }
            value = aggregate(parent.marker, parent.elements);
        }
    }
}

fn aggregate(marker: u8, elements: Vec<Value>) -> Value {
    match marker {
        b'%' => {
            let mut elements = elements.into_iter();
            let mut pairs = Vec::with_capacity(elements.len() / 2);
            while let (Some(key), Some(value)) = (elements.next(), elements.next()) {
                pairs.push((key, value));
            }
            Value::Map(pairs)
        }
        b'~' => Value::Set(elements),
        b'>' => Value::Push(elements),
        _ => Value::Array(elements),
    }
}

fn element(input: &[u8]) -> Result<Option<(Element, usize)>, ReplyError> {
    let Some(&marker) = input.first() else { return Ok(None) };
    if !b"+-:$*_%~,#(=>!".contains(&marker) {
        return Err(ReplyError::UnknownType(marker));
    }
    let Some(cr) = input.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let line = &input[1..cr];
    let next = cr + 2;
    let malformed = ReplyError::Malformed(marker);
    let text = || String::from_utf8_lossy(line).into_owned();
    let value = match marker {
        b'+' => Value::Simple(text()),
        b'-' => Value::Error(text()),
        b'(' => Value::BigNumber(text()),
        b':' => Value::Integer(parse_integer(line).ok_or(malformed)?),
        b'_' if line.is_empty() => Value::Null,
        b'#' if line == b"t" => Value::Boolean(true),
        b'#' if line == b"f" => Value::Boolean(false),
        b',' => Value::Double(std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()).ok_or(malformed)?),
        b'$' | b'!' | b'=' => return body(input, marker, line, next),
        b'*' | b'%' | b'~' | b'>' => {
            let count = parse_integer(line).ok_or(malformed)?;
            if count == -1 && marker == b'*' {
                return Ok(Some((Element::Whole(Value::Null), next)));
            }
            let count = usize::try_from(count).map_err(|_| malformed)?;
            if count > limits::RESP_REPLY_ELEMENTS_MAX {
                return Err(malformed);
            }
            let count = if marker == b'%' { count * 2 } else { count };
            return Ok(Some((Element::Head { marker, count }, next)));
        }
        _ => return Err(malformed),
    };
    Ok(Some((Element::Whole(value), next)))
}

/// A length and that many bytes: bulk string, bulk error, verbatim string.
fn body(input: &[u8], marker: u8, line: &[u8], start: usize) -> Result<Option<(Element, usize)>, ReplyError> {
    let malformed = ReplyError::Malformed(marker);
    let len = parse_integer(line).ok_or(malformed)?;
    if len == -1 && marker == b'$' {
        return Ok(Some((Element::Whole(Value::Null), start)));
    }
    let len = usize::try_from(len).map_err(|_| malformed)?;
    if len > limits::RESP_REPLY_BULK_BYTES_MAX {
        return Err(malformed);
    }
    let end = start + len;
    let Some(terminator) = input.get(end..end + 2) else { return Ok(None) };
    if terminator != b"\r\n" {
        return Err(malformed);
    }
    let bytes = &input[start..end];
    let value = match (marker, bytes) {
        (b'$', _) => Value::Bulk(bytes.to_vec()),
        (b'!', _) => Value::Error(String::from_utf8_lossy(bytes).into_owned()),
        (_, [a, b, c, b':', text @ ..]) => Value::Verbatim { format: [*a, *b, *c], text: text.to_vec() },
        _ => return Err(malformed),
    };
    Ok(Some((Element::Whole(value), end + 2)))
}
