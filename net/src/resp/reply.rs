//! Replies: functions that append one element to a connection's output.
//!
//! Where RESP2 has no such type, the form that Redis itself falls back to is written: a map is a flat array, a double and
//! a verbatim string are bulk strings, a boolean is 1 or 0, a push is an array.

/// Which protocol a connection chose (`HELLO`); RESP2 until then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The protocol of Redis 1.2 to 5.
    #[default]
    Resp2,
    /// The protocol that `HELLO 3` selects.
    Resp3,
}

/// `+text`. Line breaks in `text` become spaces: they would forge an element.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    line(out, b'+', text);
}

/// `-text`; `text` starts with its code (`ERR …`). Line breaks become spaces.
pub fn error(out: &mut Vec<u8>, text: &str) {
    line(out, b'-', text);
}

/// `:value`.
pub fn integer(out: &mut Vec<u8>, value: i64) {
    out.push(b':');
    decimal(out, value);
    crlf(out);
}

/// A bulk string.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    bulk_header(out, bytes.len());
    out.extend_from_slice(bytes);
    crlf(out);
}

/// The head of a bulk string of `len` bytes whose body the caller sends itself, followed by [`crlf`].
pub fn bulk_header(out: &mut Vec<u8>, len: usize) {
    header(out, b'$', len);
}

/// The end of a line, and of a bulk string's body.
pub fn crlf(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// The absent value (RESP2: the null bulk string).
pub fn null(out: &mut Vec<u8>, protocol: Protocol) {
    out.extend_from_slice(match protocol {
        Protocol::Resp2 => b"$-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// The absent array (RESP2 tells it from the absent bulk string, RESP3 does not).
pub fn null_array(out: &mut Vec<u8>, protocol: Protocol) {
    out.extend_from_slice(match protocol {
        Protocol::Resp2 => b"*-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// The head of an array of `len` elements.
pub fn array_header(out: &mut Vec<u8>, len: usize) {
    header(out, b'*', len);
}

/// The head of a map of `pairs` pairs; keys and values follow alternately.
pub fn map_header(out: &mut Vec<u8>, protocol: Protocol, pairs: usize) {
    match protocol {
        Protocol::Resp2 => header(out, b'*', pairs.saturating_mul(2)),
        Protocol::Resp3 => header(out, b'%', pairs),
    }
}

/// The head of a set of `len` distinct elements.
pub fn set_header(out: &mut Vec<u8>, protocol: Protocol, len: usize) {
    match protocol {
        Protocol::Resp2 => header(out, b'*', len),
        Protocol::Resp3 => header(out, b'~', len),
    }
}

/// The head of an out-of-band message of `len` elements.
pub fn push_header(out: &mut Vec<u8>, protocol: Protocol, len: usize) {
    match protocol {
        Protocol::Resp2 => header(out, b'*', len),
        Protocol::Resp3 => header(out, b'>', len),
    }
}

/// A floating point number in the shortest form that reads back the same.
pub fn double(out: &mut Vec<u8>, protocol: Protocol, value: f64) {
    let size = value.abs();
    let text = if value.is_nan() {
        "nan".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "inf".to_owned() } else { "-inf".to_owned() }
    } else if size == 0.0 || (1e-5..1e17).contains(&size) {
        format!("{value}")
    } else {
        format!("{value:e}")
    };
    match protocol {
        Protocol::Resp2 => bulk(out, text.as_bytes()),
        Protocol::Resp3 => line(out, b',', &text),
    }
}

/// A boolean (RESP2: 1 or 0).
pub fn boolean(out: &mut Vec<u8>, protocol: Protocol, value: bool) {
    out.extend_from_slice(match (protocol, value) {
        (Protocol::Resp2, true) => b":1\r\n",
        (Protocol::Resp2, false) => b":0\r\n",
        (Protocol::Resp3, true) => b"#t\r\n",
        (Protocol::Resp3, false) => b"#f\r\n",
    });
}

/// Text to be shown as it is, such as `INFO` (format `txt`).
pub fn verbatim(out: &mut Vec<u8>, protocol: Protocol, format: [u8; 3], text: &str) {
    match protocol {
        Protocol::Resp2 => bulk(out, text.as_bytes()),
        Protocol::Resp3 => {
            header(out, b'=', text.len().saturating_add(4));
            out.extend_from_slice(&format);
            out.push(b':');
            out.extend_from_slice(text.as_bytes());
            crlf(out);
        }
    }
}

/// Appends `value` in decimal, without a line end.
pub fn decimal(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    unsigned(out, value.unsigned_abs());
}

fn header(out: &mut Vec<u8>, marker: u8, len: usize) {
    out.push(marker);
    unsigned(out, len as u64);
    crlf(out);
}

/// Two digits per division, written from the right into a buffer that holds the longest number (20 digits).
fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    if value < 10 {
        out.push(digit(value));
        return;
    }
    let mut buffer = [0_u8; 20];
    let mut at = buffer.len();
    while value >= 10 {
        let pair = value % 100;
        value /= 100;
        at -= 2;
        buffer[at] = digit(pair / 10);
        buffer[at + 1] = digit(pair % 10);
    }
    if value > 0 {
        at -= 1;
        buffer[at] = digit(value);
    }
    out.extend_from_slice(&buffer[at..]);
}

#[expect(clippy::cast_possible_truncation, reason = "the value is one decimal digit")]
fn digit(value: u64) -> u8 {
    b'0' + value as u8
}

fn line(out: &mut Vec<u8>, marker: u8, text: &str) {
    out.push(marker);
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    for byte in &mut out[start..] {
        if matches!(*byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    crlf(out);
}
