//! What a client may send, what it must not, and that arrival in pieces changes nothing.
#![allow(clippy::cast_possible_truncation)]

use proptest::collection::vec;
use proptest::prelude::*;

use super::parse::{Limits, Parser, ProtocolError};
use super::reply::{self, Protocol};
use super::{ReplyError, Value, encode_command, parse_integer, parse_reply};

type Command = Vec<Vec<u8>>;

fn small_limits() -> Limits {
    Limits { args_max: 8, bulk_bytes_max: 64, inline_bytes_max: 128, request_bytes_max: 256 }
}

/// Every command in `input`, which arrives in `pieces`; the error, if it ends in one.
fn parse_pieces(limits: Limits, pieces: &[&[u8]]) -> (Vec<Command>, Option<ProtocolError>) {
    let mut parser = Parser::new(limits);
    let mut buffer = Vec::new();
    let mut commands = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match parser.next(&buffer) {
                Err(error) => return (commands, Some(error)),
                Ok(None) => {
                    assert!(parser.args(&buffer).is_empty());
                    assert!(parser.bytes_wanted() > buffer.len(), "the hint must ask for more than is there");
                    break;
                }
                Ok(Some(consumed)) => {
                    let args = parser.args(&buffer);
                    assert_eq!(args.len(), parser.arg_count());
                    commands.push(args.iter().map(<[u8]>::to_vec).collect());
                    buffer.drain(..consumed);
                }
            }
        }
    }
    (commands, None)
}

fn parse_all(input: &[u8]) -> (Vec<Command>, Option<ProtocolError>) {
    parse_pieces(Limits::default(), &[input])
}

fn command(args: &[&str]) -> Command {
    args.iter().map(|arg| arg.as_bytes().to_vec()).collect()
}

fn error_of(input: &[u8]) -> ProtocolError {
    parse_all(input).1.unwrap_or_else(|| panic!("{:?} was accepted", input.escape_ascii().to_string()))
}

#[test]
fn pipelined_arrays_and_inline_commands_mix() {
    let input =
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$12\r\nhello\r\nworld\r\nPING\r\n*0\r\n\r\n*-1\r\nget  k\n*1\r\n$0\r\n\r\n";
    let (commands, error) = parse_all(input);
    assert_eq!(error, None);
    assert_eq!(
        commands,
        [
            command(&["SET", "k", "hello\r\nworld"]),
            command(&["PING"]),
            vec![],
            vec![],
            vec![],
            command(&["get", "k"]),
            command(&[""]),
        ]
    );
}

#[test]
fn any_single_split_gives_the_same_commands() {
    let input = b"*2\r\n$3\r\nGET\r\n$10\r\n0123456789\r\nset a \"x\\n y\"\r\n*1\r\n$4\r\nPING\r\n";
    let whole = parse_all(input);
    assert_eq!(whole.0.len(), 3);
    for split in 0..=input.len() {
        assert_eq!(parse_pieces(Limits::default(), &[&input[..split], &input[split..]]), whole, "split at {split}");
    }
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(parse_pieces(Limits::default(), &bytes), whole);
}

#[test]
fn a_value_in_many_pieces_is_not_scanned_again() {
    let value = vec![b'x'; 4 << 20];
    let mut input = Vec::new();
    encode_command(&[b"SET".as_slice(), b"k", &value], &mut input);
    let mut parser = Parser::new(Limits::default());
    // 4 MiB in steps of 64 bytes: a parser that rescans would read 137 GB here.
    let mut end = 64;
    while end < input.len() {
        assert_eq!(parser.next(&input[..end]), Ok(None));
        assert_eq!(parser.bytes_wanted(), input.len());
        end += 64;
    }
    assert_eq!(parser.next(&input), Ok(Some(input.len())));
    assert_eq!(&parser.args(&input)[2], value.as_slice());
    assert_eq!(parser.args(&input).get(3), None);
}

#[test]
fn inline_quotes_follow_redis() {
    let cases: [(&[u8], &[&[u8]]); 9] = [
        (b"set key value\n", &[b"set", b"key", b"value"]),
        (b"  set\tkey \"\"\r\n", &[b"set", b"key", b""]),
        (b"set k \"a b\\r\\n\\t\\b\\a\\\\\\\"\"\r\n", &[b"set", b"k", b"a b\r\n\t\x08\x07\\\""]),
        (b"set k \"\\x00\\xfFz\"\r\n", &[b"set", b"k", b"\x00\xffz"]),
        (b"set k \"\\xg1\\q\"\r\n", &[b"set", b"k", b"xg1q"]),
        (b"set k 'a\\'b\\n \"c\"'\r\n", &[b"set", b"k", b"a'b\\n \"c\""]),
        (b"set a\"b c\" d\r\n", &[b"set", b"ab c", b"d"]),
        (b"set \\n $9 \r\n", &[b"set", b"\\n", b"$9"]),
        (b"\x16\x03\x01 hello\n", &[b"\x16\x03\x01", b"hello"]),
    ];
    for (input, expected) in cases {
        let (commands, error) = parse_all(input);
        assert_eq!(error, None);
        assert_eq!(commands, [expected.iter().map(|arg| arg.to_vec()).collect::<Command>()]);
    }
    for input in [&b"set k \"abc\r\n"[..], b"set k 'abc\r\n", b"set k \"abc\"d\r\n", b"set 'a''b'\n", b"\"\\\n"] {
        assert_eq!(error_of(input), ProtocolError::UnbalancedQuotes);
    }
}

#[test]
fn malformed_requests_are_refused_in_the_words_of_redis() {
    let cases: [(&[u8], &str); 20] = [
        (b"*20000000000\r\n", "Protocol error: invalid multibulk length"),
        (b"*99999999999999999999\r\n", "Protocol error: invalid multibulk length"),
        (b"*65537\r\n", "Protocol error: invalid multibulk length"),
        (b"*x\r\n", "Protocol error: invalid multibulk length"),
        (b"*\r\n", "Protocol error: invalid multibulk length"),
        (b"*+1\r\n", "Protocol error: invalid multibulk length"),
        (b"*01\r\n", "Protocol error: invalid multibulk length"),
        (b"*1\rx", "Protocol error: invalid multibulk length"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n", "Protocol error: expected '$', got 'f'"),
        (b"*1\r\n\r\n", "Protocol error: expected '$', got '\\r'"),
        (b"*3\r\n$3\r\nSET\r\n$-10\r\n", "Protocol error: invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$-1\r\n", "Protocol error: invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$2147483648\r\n", "Protocol error: invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$2147483647\r\n", "Protocol error: invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$2000000000\r\n", "Protocol error: invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$8388609\r\n", "Protocol error: invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$blabla\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$4\r\nPINGxx", "Protocol error: expected CRLF after bulk"),
        (b"*11111111111111111111111111111111111", "Protocol error: too big mbulk count string"),
        (b"*1\r\n$11111111111111111111111111111111111", "Protocol error: too big bulk count string"),
    ];
    for (input, expected) in cases {
        assert_eq!(error_of(input).to_string(), expected, "{}", input.escape_ascii());
    }
    assert_eq!(parse_all(b"*-2147483648\r\n"), (vec![vec![]], None));
}

#[test]
fn endless_streams_end_in_an_error() {
    for seed in [&b"\0"[..], b"*\0", b"$\0", b"*", b"$", b"", b"*1\r\n$", b"\x16\x03\x01"] {
        let mut parser = Parser::new(Limits::default());
        let mut buffer = seed.to_vec();
        let error = loop {
            buffer.extend_from_slice(&[b'7'; 1024]);
            match parser.next(&buffer) {
                Ok(None) => assert!(buffer.len() < 70_000, "{:?}", seed.escape_ascii().to_string()),
                Ok(Some(_)) => panic!("a request without an end was accepted"),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().starts_with("Protocol error: "));
    }
}

#[test]
fn bounds_hold_to_the_byte() {
    let limits = small_limits();
    let line = |len: usize| [vec![b'a'; len - 1], b"\n".to_vec()].concat();
    assert_eq!(parse_pieces(limits, &[&line(128)]).0.len(), 1);
    assert_eq!(parse_pieces(limits, &[&line(129)]).1, Some(ProtocolError::InlineTooBig));
    let request = |lens: &[usize]| {
        let mut out = Vec::new();
        encode_command(&lens.iter().map(|len| vec![b'v'; *len]).collect::<Vec<_>>(), &mut out);
        out
    };
    assert_eq!(parse_pieces(limits, &[&request(&[64])]).0.len(), 1);
    assert_eq!(parse_pieces(limits, &[&request(&[65])]).1, Some(ProtocolError::InvalidBulkLength));
    assert_eq!(parse_pieces(limits, &[&request(&[1; 8])]).0.len(), 1);
    assert_eq!(parse_pieces(limits, &[&request(&[1; 9])]).1, Some(ProtocolError::InvalidMultibulkLength));
    // 4 + 3 * (5 + 64 + 2) + 5 + 32 + 2 = 256
    assert_eq!(request(&[64, 64, 64, 32]).len(), 256);
    assert_eq!(parse_pieces(limits, &[&request(&[64, 64, 64, 32])]).0.len(), 1);
    assert_eq!(parse_pieces(limits, &[&request(&[64, 64, 64, 33])]).1, Some(ProtocolError::RequestTooBig));
    let slack = Limits::for_values(100, 28);
    assert_eq!((slack.bulk_bytes_max, slack.request_bytes_max), (128, 4 << 20));
    assert!(Limits::for_values(u32::MAX, u32::MAX).request_bytes_max <= 1 << 30);
}

#[test]
fn http_closes_the_connection_silently() {
    for input in [&b"POST / HTTP/1.1\r\n"[..], b"post\n", b"Host: example.com\r\n", b"GET / HTTP/1.1\r\n"] {
        assert_eq!(error_of(input), ProtocolError::HttpDetected);
        assert!(error_of(input).closes_silently());
    }
    assert_eq!(parse_all(b"GET /index\r\n").0, [command(&["GET", "/index"])]);
    assert_eq!(parse_all(b"SET k HTTP/1.1\r\n").0, [command(&["SET", "k", "HTTP/1.1"])]);
    // A value may well be called POST.
    assert_eq!(parse_all(b"*1\r\n$4\r\nPOST\r\n").0, [command(&["POST"])]);
    assert!(!ProtocolError::InvalidBulkLength.closes_silently());
}

#[test]
fn replies_have_the_exact_bytes_of_each_protocol() {
    use Protocol::{Resp2, Resp3};
    let written = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("ASCII")
    };
    assert_eq!(written(&|out| reply::simple(out, "OK")), "+OK\r\n");
    assert_eq!(written(&|out| reply::error(out, "ERR a\r\nb")), "-ERR a  b\r\n");
    assert_eq!(written(&|out| reply::bulk(out, b"")), "$0\r\n\r\n");
    assert_eq!(written(&|out| reply::null(out, Resp2)), "$-1\r\n");
    assert_eq!(written(&|out| reply::null(out, Resp3)), "_\r\n");
    assert_eq!(written(&|out| reply::null_array(out, Resp2)), "*-1\r\n");
    assert_eq!(written(&|out| reply::map_header(out, Resp2, 7)), "*14\r\n");
    assert_eq!(written(&|out| reply::map_header(out, Resp3, 7)), "%7\r\n");
    assert_eq!(written(&|out| reply::set_header(out, Resp3, 2)), "~2\r\n");
    assert_eq!(written(&|out| reply::push_header(out, Resp3, 2)), ">2\r\n");
    assert_eq!(written(&|out| reply::boolean(out, Resp2, true)), ":1\r\n");
    assert_eq!(written(&|out| reply::boolean(out, Resp3, false)), "#f\r\n");
    assert_eq!(written(&|out| reply::double(out, Resp3, 0.1)), ",0.1\r\n");
    assert_eq!(written(&|out| reply::double(out, Resp2, -3.0)), "$2\r\n-3\r\n");
    assert_eq!(written(&|out| reply::double(out, Resp3, 1e300)), ",1e300\r\n");
    assert_eq!(written(&|out| reply::double(out, Resp3, f64::NEG_INFINITY)), ",-inf\r\n");
    assert_eq!(written(&|out| reply::verbatim(out, Resp3, *b"txt", "hi")), "=6\r\ntxt:hi\r\n");
    assert_eq!(written(&|out| reply::verbatim(out, Resp2, *b"txt", "hi")), "$2\r\nhi\r\n");
}

#[test]
fn hostile_replies_are_refused_without_recursion() {
    let deep = b"*1\r\n".repeat(100_000);
    assert_eq!(parse_reply(&deep), Err(ReplyError::TooDeep));
    let nested = [b"*1\r\n".repeat(32), b":1\r\n".to_vec()].concat();
    assert!(matches!(parse_reply(&nested), Ok(Some((Value::Array(_), _)))));
    assert_eq!(parse_reply(b"HTTP/1.1"), Err(ReplyError::UnknownType(b'H')));
    assert_eq!(parse_reply(b"$2147483648\r\n"), Err(ReplyError::Malformed(b'$')));
    assert_eq!(parse_reply(b"$-2\r\n"), Err(ReplyError::Malformed(b'$')));
    assert_eq!(parse_reply(b"*2147483648\r\n"), Err(ReplyError::Malformed(b'*')));
    assert_eq!(parse_reply(b"%-1\r\n"), Err(ReplyError::Malformed(b'%')));
    assert_eq!(parse_reply(b"$1\r\nabc"), Err(ReplyError::Malformed(b'$')));
    assert_eq!(parse_reply(b"#x\r\n"), Err(ReplyError::Malformed(b'#')));
    assert_eq!(parse_reply(b"*16000000\r\n:1\r\n"), Ok(None));
    assert_eq!(parse_reply(b"*-1\r\n"), Ok(Some((Value::Null, 5))));
    assert_eq!(parse_reply(b"!5\r\nERR x\r\n"), Ok(Some((Value::Error("ERR x".into()), 11))));
    assert_eq!(parse_reply(b"(123\r\n"), Ok(Some((Value::BigNumber("123".into()), 6))));
}

/// Writes `value` with the server's functions, RESP3.
fn write_value(out: &mut Vec<u8>, value: &Value) {
    let p = Protocol::Resp3;
    match value {
        Value::Simple(text) => reply::simple(out, text),
        Value::Error(text) => reply::error(out, text),
        Value::Integer(number) => reply::integer(out, *number),
        Value::Bulk(bytes) => reply::bulk(out, bytes),
        Value::Null => reply::null(out, p),
        Value::Double(number) => reply::double(out, p, *number),
        Value::Boolean(flag) => reply::boolean(out, p, *flag),
        Value::BigNumber(text) => out.extend_from_slice(format!("({text}\r\n").as_bytes()),
        Value::Verbatim { format, text } => reply::verbatim(out, p, *format, std::str::from_utf8(text).expect("text")),
        Value::Array(items) => {
            reply::array_header(out, items.len());
            items.iter().for_each(|item| write_value(out, item));
        }
        Value::Set(items) => {
            reply::set_header(out, p, items.len());
            items.iter().for_each(|item| write_value(out, item));
        }
        Value::Push(items) => {
            reply::push_header(out, p, items.len());
            items.iter().for_each(|item| write_value(out, item));
        }
        Value::Map(pairs) => {
            reply::map_header(out, p, pairs.len());
            for (key, value) in pairs {
                write_value(out, key);
                write_value(out, value);
            }
        }
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        "[ -~]{0,12}".prop_map(Value::Simple),
        "ERR [ -~]{0,12}".prop_map(Value::Error),
        any::<i64>().prop_map(Value::Integer),
        vec(any::<u8>(), 0..40).prop_map(Value::Bulk),
        Just(Value::Null),
        any::<f64>().prop_filter("NaN equals nothing", |number| !number.is_nan()).prop_map(Value::Double),
        any::<bool>().prop_map(Value::Boolean),
        "[ -~]{0,12}".prop_map(|text| Value::Verbatim { format: *b"txt", text: text.into_bytes() }),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::Array),
            vec(inner.clone(), 0..5).prop_map(Value::Set),
            vec(inner.clone(), 0..5).prop_map(Value::Push),
            vec((inner.clone(), inner), 0..4).prop_map(Value::Map),
        ]
    })
}

/// Bytes that resemble the protocol often enough to get past its first line.
fn protocol_soup() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        Just(b"*2\r\n".to_vec()),
        Just(b"$3\r\nGET\r\n".to_vec()),
        Just(b"$1\r\nk\r\n".to_vec()),
        Just(b"PING \"a".to_vec()),
        Just(b"\"\r\n".to_vec()),
        Just(b"\\x4".to_vec()),
        Just(b"-1\r\n".to_vec()),
        Just(b"%1\r\n".to_vec()),
        any::<u64>().prop_map(|number| format!("${number}\r\n").into_bytes()),
        any::<i32>().prop_map(|number| format!("*{number}\r\n").into_bytes()),
        vec(any::<u8>(), 0..6),
    ];
    vec(token, 0..16).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn encoded_commands_parse_back_however_they_arrive(
        commands in vec(vec(vec(any::<u8>(), 0..200), 1..6), 1..6),
        cut in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut input = Vec::new();
        for args in &commands {
            encode_command(args, &mut input);
        }
        let mut cuts: Vec<usize> = cut.iter().map(|index| index.index(input.len())).collect();
        cuts.extend([0, input.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect();
        prop_assert_eq!(parse_pieces(Limits::default(), &pieces), (commands, None));
    }

    #[test]
    fn hostile_bytes_never_panic_and_splits_never_matter(input in protocol_soup()) {
        let whole = parse_pieces(small_limits(), &[&input]);
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        prop_assert_eq!(parse_pieces(small_limits(), &bytes), whole);
        // Only that it answers at all.
        let _ = parse_reply(&input);
    }

    #[test]
    fn replies_round_trip_and_every_prefix_is_unfinished(value in any_value()) {
        let mut out = Vec::new();
        write_value(&mut out, &value);
        prop_assert_eq!(parse_reply(&out), Ok(Some((value, out.len()))));
        for end in 0..out.len() {
            prop_assert_eq!(parse_reply(&out[..end]), Ok(None));
        }
    }

    #[test]
    fn numbers_are_written_and_read_like_the_standard_library(number in any::<i64>(), shift in 0_u32..64) {
        for number in [number, number >> shift, i64::MIN, i64::MAX, 0, 9, 10, 99, 100, -1] {
            let mut out = Vec::new();
            reply::decimal(&mut out, number);
            prop_assert_eq!(String::from_utf8(out.clone()), Ok(number.to_string()));
            prop_assert_eq!(parse_integer(&out), Some(number));
        }
        for text in ["", "-", "-0", "+1", "01", "1 ", "9223372036854775808", "-9223372036854775809"] {
            prop_assert_eq!(parse_integer(text.as_bytes()), None);
        }
    }
}
