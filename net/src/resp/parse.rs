//! Client requests: RESP arrays of bulk strings, and inline commands, out of a growing buffer.
//!
//! The parser holds positions, not bytes: arguments are ranges into the caller's buffer (inline arguments, which may need
//! unescaping, live in a small scratch buffer). Progress is kept between calls, so a value that arrives in a thousand
//! pieces is not scanned a thousand times, and the list of ranges is reused, so small commands allocate nothing.

use std::ops::Index;

use crate::limits;
use crate::resp::inline::split_inline;
use crate::resp::parse_integer;

/// What one request may cost. Build it with [`Limits::for_values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Arguments per request.
    pub args_max: u32,
    /// Bytes of one argument.
    pub bulk_bytes_max: u32,
    /// Bytes of one inline request, newline included.
    pub inline_bytes_max: u32,
    /// Bytes of one request as it arrives, all framing included; below 2 GiB.
    pub request_bytes_max: u32,
}

impl Limits {
    /// Limits for a store whose largest value has `value_bytes_max` bytes; `slack_bytes` more are parsed, so that a value
    /// slightly too large earns an answer of the command and not the end of the connection.
    #[must_use]
    pub fn for_values(value_bytes_max: u32, slack_bytes: u32) -> Limits {
        let bulk_bytes_max = value_bytes_max
            .saturating_add(slack_bytes)
            .min(limits::RESP_REQUEST_BYTES_MAX / limits::RESP_REQUEST_BULKS_MAX);
        Limits {
            args_max: limits::RESP_ARGS_MAX,
            bulk_bytes_max,
            inline_bytes_max: limits::RESP_INLINE_BYTES_MAX,
            request_bytes_max: (bulk_bytes_max * limits::RESP_REQUEST_BULKS_MAX).max(limits::RESP_REQUEST_BYTES_MIN),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::for_values(limits::RESP_BULK_BYTES_MAX_DEFAULT, 0)
    }
}

/// Why a connection's bytes are not requests. The text is what Redis says after `-ERR `; after any of these the stream has
/// no known position any more and the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// `*` was followed by something else than a number within bounds.
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    /// `$` was followed by something else than a number within bounds.
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    /// An argument did not start with `$`.
    #[error("Protocol error: expected '$', got '{}'", .0.escape_ascii())]
    ExpectedBulk(u8),
    /// An argument was not followed by CR LF. (Redis skips two bytes unseen; here the two must be what they should be.)
    #[error("Protocol error: expected CRLF after bulk")]
    ExpectedBulkEnd,
    /// No newline within the bound of an inline request.
    #[error("Protocol error: too big inline request")]
    InlineTooBig,
    /// The line after `*` has no end.
    #[error("Protocol error: too big mbulk count string")]
    MultibulkCountTooBig,
    /// The line after `$` has no end.
    #[error("Protocol error: too big bulk count string")]
    BulkCountTooBig,
    /// The whole request is larger than this server holds at once.
    #[error("Protocol error: too big request")]
    RequestTooBig,
    /// An inline request ends inside quotes, or a closing quote is followed by more text.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// A browser was made to speak to this port: close without an answer, as Redis does.
    #[error("Protocol error: possible cross protocol scripting, an HTTP request was sent to this port")]
    HttpDetected,
}

impl ProtocolError {
    /// Whether the connection is closed without a reply (an answer would help a cross-protocol attack).
    #[must_use]
    pub fn closes_silently(self) -> bool {
        self == ProtocolError::HttpDetected
    }
}

/// One argument: start and end in the request or in the scratch buffer. Pairs of u32 halve what `Range<usize>` costs.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
}

/// Where in the request the next unread byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing of this request was read.
    Start,
    /// Looking for the newline of an inline request; `position` bytes hold none.
    Inline,
    /// Arguments are missing; `position` is at the `$` of the next one.
    BulkHeader,
    /// The argument's bytes start at `position`.
    BulkBody { len: u32 },
    /// A request was handed out; the next call starts another one.
    Done,
}

/// Finds the end and the arguments of one request after another.
///
/// `input` of [`Parser::next`] always starts at the first byte of the request in progress. After `Ok(None)` the caller
/// comes back with the same bytes and more; after `Ok(Some(n))` it uses [`Parser::args`] with the same `input`, drops its
/// first `n` bytes and goes on. After an error the parser must not be used again.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    state: State,
    /// Bytes of the request already understood.
    position: usize,
    /// Bytes of the request that the last call was given; only [`Parser::bytes_wanted`] needs it.
    seen: usize,
    /// Arguments still to come.
    missing: u32,
    spans: Vec<Span>,
    /// Unescaped inline arguments, back to back.
    scratch: Vec<u8>,
    /// Whether spans point into `scratch` instead of the input.
    inline: bool,
}

/// Outcome of reading a length line.
enum Length {
    Value { value: i64, next: usize },
    Unfinished,
    Invalid,
    TooLong,
}

impl Parser {
    /// A parser for a fresh connection.
    #[must_use]
    pub fn new(limits: Limits) -> Parser {
        assert!(limits.request_bytes_max <= limits::RESP_REQUEST_BYTES_MAX, "positions are 32 bits wide");
        Parser {
            limits,
            state: State::Start,
            position: 0,
            seen: 0,
            missing: 0,
            spans: Vec::new(),
            scratch: Vec::new(),
            inline: false,
        }
    }

    /// Reads on. `Some(n)`: the first `n` bytes of `input` are one request; it has no arguments if it was an empty line or
    /// an empty array, which is to be skipped without an answer. `None`: more bytes are needed.
    ///
    /// # Errors
    /// [`ProtocolError`], after which the connection must be closed.
    pub fn next(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        if self.state == State::Done {
            self.reset();
        }
        self.seen = input.len();
        if self.state == State::Start {
            match input.first() {
                None => return Ok(None),
                Some(b'*') => match read_length(input, 1) {
                    Length::Value { value, next } => {
                        self.position = next;
                        // Redis takes any count up to zero for an empty request.
                        let count = u32::try_from(value.max(0)).unwrap_or(u32::MAX);
                        if count > self.limits.args_max {
                            return Err(ProtocolError::InvalidMultibulkLength);
                        }
                        self.missing = count;
                        self.state = State::BulkHeader;
                    }
                    Length::Unfinished => return Ok(None),
                    Length::Invalid => return Err(ProtocolError::InvalidMultibulkLength),
                    Length::TooLong => return Err(ProtocolError::MultibulkCountTooBig),
                },
                Some(_) => self.state = State::Inline,
            }
        }
        if self.state == State::Inline { self.next_inline(input) } else { self.next_bulks(input) }
    }

    /// The arguments of the request that the last [`Parser::next`] found, given the same `input`; the first is the
    /// command's name. Empty at any other time.
    #[must_use]
    pub fn args<'a>(&'a self, input: &'a [u8]) -> Args<'a> {
        let spans = if self.state == State::Done { self.spans.as_slice() } else { &[] };
        Args { base: if self.inline { &self.scratch } else { input }, spans }
    }

    /// Number of arguments of the request that the last [`Parser::next`] found.
    #[must_use]
    pub fn arg_count(&self) -> usize {
        if self.state == State::Done { self.spans.len() } else { 0 }
    }

    /// Bytes, counted from the start of the request in progress, without which [`Parser::next`] cannot get further: a
    /// hint for reserving a buffer once. It is the peer's claim, bounded by the limits; it was not paid for yet.
    #[must_use]
    pub fn bytes_wanted(&self) -> usize {
        match self.state {
            State::BulkBody { len } => self.position + len as usize + 2,
            State::Done => 1,
            State::Start | State::Inline | State::BulkHeader => self.seen + 1,
        }
    }

    fn reset(&mut self) {
        self.state = State::Start;
        self.position = 0;
        self.inline = false;
        self.spans.clear();
        self.spans.shrink_to(limits::RESP_ARGS_KEPT);
        self.scratch.clear();
        self.scratch.shrink_to(limits::RESP_SCRATCH_BYTES_KEPT);
    }

    fn next_bulks(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        while self.missing > 0 {
            let len = match self.state {
                State::BulkBody { len } => len,
                _ => match self.bulk_header(input)? {
                    Some(len) => len,
                    None => return Ok(None),
                },
            };
            let end = self.position + len as usize;
            let Some(&[cr, lf]) = input.get(end..end + 2) else {
                self.state = State::BulkBody { len };
                return Ok(None);
            };
            if (cr, lf) != (b'\r', b'\n') {
                return Err(ProtocolError::ExpectedBulkEnd);
            }
            self.spans.push(Span { start: narrow(self.position), end: narrow(end) });
            self.position = end + 2;
            self.missing -= 1;
            self.state = State::BulkHeader;
        }
        self.state = State::Done;
        Ok(Some(self.position))
    }

    /// Reads `$<length>\r\n` and moves behind it; `None` if it is not all there.
    fn bulk_header(&mut self, input: &[u8]) -> Result<Option<u32>, ProtocolError> {
        match input.get(self.position) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(&other) => return Err(ProtocolError::ExpectedBulk(other)),
        }
        let (value, next) = match read_length(input, self.position + 1) {
            Length::Value { value, next } => (value, next),
            Length::Unfinished => return Ok(None),
            Length::Invalid => return Err(ProtocolError::InvalidBulkLength),
            Length::TooLong => return Err(ProtocolError::BulkCountTooBig),
        };
        let len = match u32::try_from(value) {
            Ok(len) if len <= self.limits.bulk_bytes_max => len,
            _ => return Err(ProtocolError::InvalidBulkLength),
        };
        // Checked before a byte of it is waited for: nobody can make this side buffer more than the bound.
        if next + len as usize + 2 > self.limits.request_bytes_max as usize {
            return Err(ProtocolError::RequestTooBig);
        }
        self.position = next;
        Ok(Some(len))
    }

    fn next_inline(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let max = self.limits.inline_bytes_max as usize;
        let window = input.get(self.position..input.len().min(max)).unwrap_or_default();
        let Some(found) = window.iter().position(|&byte| byte == b'\n') else {
            if input.len() >= max {
                return Err(ProtocolError::InlineTooBig);
            }
            self.position = input.len();
            return Ok(None);
        };
        let newline = self.position + found;
        let line = &input[..newline];
        let spans = &mut self.spans;
        split_inline(line, &mut self.scratch, |start, end| {
            spans.push(Span { start: narrow(start), end: narrow(end) });
        })?;
        self.inline = true;
        self.state = State::Done;
        self.position = newline + 1;
        if looks_like_http(&self.args(input)) {
            return Err(ProtocolError::HttpDetected);
        }
        Ok(Some(self.position))
    }
}

/// Positions are bounded by `request_bytes_max`, which `Parser::new` holds below 2 GiB.
fn narrow(position: usize) -> u32 {
    u32::try_from(position).expect("positions inside a request are bounded by its limits")
}

/// Reads a number and its CR LF from `start` on.
fn read_length(input: &[u8], start: usize) -> Length {
    let rest = input.get(start..).unwrap_or_default();
    // Nearly every length of a real client has one, two or three digits.
    let digit = |byte: u8| i64::from(byte - b'0');
    match *rest {
        [a @ b'1'..=b'9', b'\r', b'\n', ..] => return Length::Value { value: digit(a), next: start + 3 },
        [a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => {
            return Length::Value { value: digit(a) * 10 + digit(b), next: start + 4 };
        }
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', ..] => {
            return Length::Value { value: digit(a) * 100 + digit(b) * 10 + digit(c), next: start + 5 };
        }
        _ => {}
    }
    let window = &rest[..rest.len().min(limits::RESP_LENGTH_LINE_BYTES_MAX)];
    match window.iter().position(|byte| !(byte.is_ascii_digit() || *byte == b'-')) {
        Some(cr) if window[cr] == b'\r' => match (parse_integer(&window[..cr]), rest.get(cr + 1)) {
            (None, _) => Length::Invalid,
            (Some(_), None) => Length::Unfinished,
            (Some(value), Some(b'\n')) => Length::Value { value, next: start + cr + 2 },
            (Some(_), Some(_)) => Length::Invalid,
        },
        Some(_) => Length::Invalid,
        None if rest.len() >= limits::RESP_LENGTH_LINE_BYTES_MAX => Length::TooLong,
        None => Length::Unfinished,
    }
}

/// `POST` and `Host:` as in Redis; a request line with a path and a protocol version besides, so that the first line of
/// the other verbs is not executed either.
fn looks_like_http(args: &Args<'_>) -> bool {
    const VERBS: [&[u8]; 8] = [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"];
    let Some(first) = args.get(0) else { return false };
    if first.eq_ignore_ascii_case(b"POST") || first.eq_ignore_ascii_case(b"Host:") {
        return true;
    }
    args.len() == 3 && args[2].starts_with(b"HTTP/") && VERBS.contains(&first)
}

/// The arguments of one request.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    base: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// Number of arguments, the command's name included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether the request is to be skipped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The argument at `index`; 0 is the command's name.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|span| self.slice(*span))
    }

    /// All arguments in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let args = *self;
        self.spans.iter().map(move |span| args.slice(*span))
    }

    /// The arguments from `index` on; none if there are fewer.
    #[must_use]
    pub fn from(&self, index: usize) -> Args<'a> {
        Args { base: self.base, spans: self.spans.get(index..).unwrap_or_default() }
    }

    /// The first `count` arguments; all if there are fewer.
    #[must_use]
    pub fn first(&self, count: usize) -> Args<'a> {
        Args { base: self.base, spans: self.spans.get(..count).unwrap_or(self.spans) }
    }

    fn slice(&self, span: Span) -> &'a [u8] {
        // Out of range only if the caller passed another input than it parsed: an empty argument, not a panic.
        self.base.get(span.start as usize..span.end as usize).unwrap_or_default()
    }
}

impl Index<usize> for Args<'_> {
    type Output = [u8];

    /// Panics if there is no such argument, as slices do; [`Args::get`] does not.
    fn index(&self, index: usize) -> &[u8] {
        self.slice(self.spans[index])
    }
}
