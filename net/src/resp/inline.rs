//! Splitting one inline request into arguments, quotes honoured: the grammar of Redis' `sdssplitargs`.

use crate::resp::parse::ProtocolError;

/// Splits `line` (no newline at its end; a CR there counts as white space). The unescaped arguments are appended to `out`
/// and each is announced as (start, end) in it.
///
/// # Errors
/// [`ProtocolError::UnbalancedQuotes`].
pub(super) fn split_inline(
    line: &[u8],
    out: &mut Vec<u8>,
    mut argument: impl FnMut(usize, usize),
) -> Result<(), ProtocolError> {
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(|byte| is_space(*byte)) {
            at += 1;
        }
        if at == line.len() {
            return Ok(());
        }
        let start = out.len();
        // A quote may open in the middle of an argument (`a"b c"` is `ab c`) but a closing one must end it.
        while let Some(&byte) = line.get(at) {
            match byte {
                b'"' | b'\'' => {
                    at = quoted(line, at, out)?;
                    if line.get(at).is_some_and(|next| !is_space(*next)) {
                        return Err(ProtocolError::UnbalancedQuotes);
                    }
                    break;
                }
                _ if is_space(byte) => break,
                _ => {
                    out.push(byte);
                    at += 1;
                }
            }
        }
        argument(start, out.len());
    }
}

/// Unescapes the string whose opening quote is at `open`; returns the position behind the closing one.
fn quoted(line: &[u8], open: usize, out: &mut Vec<u8>) -> Result<usize, ProtocolError> {
    let quote = line[open];
    let mut at = open + 1;
    loop {
        match &line[at..] {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'\\', b'x', high, low, ..] if quote == b'"' => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    at += 4;
                }
                _ => {
                    out.push(b'x');
                    at += 2;
                }
            },
            [b'\\', escaped, ..] if quote == b'"' => {
                out.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                at += 2;
            }
            [b'\\', b'\'', ..] if quote == b'\'' => {
                out.push(b'\'');
                at += 2;
            }
            [byte, ..] if *byte == quote => return Ok(at + 1),
            [byte, ..] => {
                out.push(*byte);
                at += 1;
            }
        }
    }
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
