//! What `SCAN` and `KEYS` select: options and patterns.

use net::resp::{Args, parse_integer};

use super::{NOT_AN_INTEGER, SYNTAX_ERROR};

/// Parses the arguments of `SCAN` behind the cursor: pattern, count, and whether strings are wanted at all.
///
/// # Errors
/// Redis' error text.
pub fn scan_options(args: Args<'_>) -> Result<(Option<Vec<u8>>, usize, bool), String> {
    let (mut pattern, mut count, mut strings) = (None, 10, true);
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let value = words.next().ok_or(SYNTAX_ERROR)?;
        match word.to_ascii_uppercase().as_slice() {
            b"MATCH" => pattern = Some(value.to_vec()),
            b"COUNT" => {
                let wanted = parse_integer(value).ok_or(NOT_AN_INTEGER)?;
                if wanted < 1 {
                    return Err(SYNTAX_ERROR.into());
                }
                count = usize::try_from(wanted).unwrap_or(usize::MAX).min(100_000);
            }
            b"TYPE" => strings = value.eq_ignore_ascii_case(b"string"),
            _ => return Err(SYNTAX_ERROR.into()),
        }
    }
    Ok((pattern, count, strings))
}

/// Redis' glob: `*`, `?`, `[a-c]`, `[^a]`, backslash. Iterative; linear space, at most quadratic time.
#[must_use]
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if t == text.len() {
            return pattern[p..].iter().all(|&byte| byte == b'*');
        }
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(_) => {
                let (matched, next) = glob_one(&pattern[p..], text[t]);
                if matched {
                    p += next;
                    t += 1;
                    continue;
                }
            }
            None => {}
        }
        match &mut star {
            Some((after, from)) => {
                *from += 1;
                (p, t) = (*after, *from);
            }
            None => return false,
        }
    }
}

/// Matches one byte against the pattern's first element; returns that element's length.
fn glob_one(pattern: &[u8], byte: u8) -> (bool, usize) {
    match pattern {
        [b'?', ..] => (true, 1),
        [b'\\', escaped, ..] => (*escaped == byte, 2),
        [b'[', rest @ ..] => {
            let negated = rest.first() == Some(&b'^');
            let mut at = usize::from(negated);
            let mut found = false;
            while let Some(&low) = rest.get(at).filter(|&&byte| byte != b']') {
                if low == b'\\' && at + 1 < rest.len() {
                    found |= rest[at + 1] == byte;
                    at += 2;
                } else if rest.get(at + 1) == Some(&b'-') && at + 2 < rest.len() && rest[at + 2] != b']' {
                    let (low, high) = (low.min(rest[at + 2]), low.max(rest[at + 2]));
                    found |= (low..=high).contains(&byte);
                    at += 3;
                } else {
                    found |= low == byte;
                    at += 1;
                }
            }
            (found != negated, (at + 2).min(pattern.len()))
        }
        [literal, ..] => (*literal == byte, 1),
        [] => (false, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("user:*", "user:1", true),
            ("user:*", "users", false),
            ("h?llo", "hello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxc", false),
            ("[", "[", false),
            ("", "", true),
            ("", "a", false),
            ("a*", "ab*", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
        let long = vec![b'a'; 10_000];
        assert!(!glob(b"*a*a*a*a*b", &long));
    }
}
