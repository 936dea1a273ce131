//! Commands on strings and keys answer as Redis' own do: random sequences over few keys run on a daemon and on a Redis, in both
//! protocols, and every reply must be the same. What differs knowingly is either not drawn, or compared by what must hold.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use engine::frontend::resp::table::{COMMANDS, Command};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tests::process::redis::Redis;
use tests::process::{Client, Daemon, PATIENCE, Value, is_installed, skip};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

/// How long new cases are drawn; shrinking a failed one may take longer.
const DURATION: Duration = Duration::from_secs(15);

/// What a word of a command is drawn from.
#[derive(Clone, Copy, Debug)]
enum Word {
    Is(&'static str),
    Key,
    Value,
    Integer,
    Float,
    /// A place in a value.
    Offset,
    /// Seconds from now on, so many that rounding does not show.
    Seconds,
    Milliseconds,
    /// An instant in seconds, in the past or far in the future.
    Instant,
    InstantMs,
    SetOptions,
    GetExOptions,
    /// Those of `EXPIRE` that do not compare instants: two that count from now may be equal on one side only.
    Conditions,
    ExpireOptions,
    Pattern,
    /// From none to three more keys.
    Keys,
    /// From none to two more keys with values.
    Pairs,
}

use Word::{
    Conditions, ExpireOptions, Float, GetExOptions, InstantMs, Integer, Is, Key, Keys, Milliseconds, Offset, Pairs,
    Pattern, Seconds, SetOptions,
};

const TEMPLATES: &[&[Word]] = &[
    &[Is("GET"), Key],
    &[Is("SET"), Key, Word::Value],
    &[Is("SET"), Key, Word::Value, SetOptions],
    &[Is("set"), Key, Integer],
    &[Is("SETNX"), Key, Word::Value],
    &[Is("SETEX"), Key, Seconds, Word::Value],
    &[Is("PSETEX"), Key, Milliseconds, Word::Value],
    &[Is("GETSET"), Key, Word::Value],
    &[Is("GETDEL"), Key],
    &[Is("GETEX"), Key, GetExOptions],
    &[Is("MGET"), Key, Keys],
    &[Is("MSET"), Key, Word::Value, Pairs],
    &[Is("STRLEN"), Key],
    &[Is("APPEND"), Key, Word::Value],
    &[Is("GETRANGE"), Key, Offset, Offset],
    &[Is("SUBSTR"), Key, Offset, Offset],
    &[Is("SETRANGE"), Key, Offset, Word::Value],
    &[Is("INCR"), Key],
    &[Is("DECR"), Key],
    &[Is("INCRBY"), Key, Integer],
    &[Is("DECRBY"), Key, Integer],
    &[Is("INCRBYFLOAT"), Key, Float],
    &[Is("DEL"), Key, Keys],
    &[Is("UNLINK"), Key, Keys],
    &[Is("EXISTS"), Key, Keys],
    &[Is("TOUCH"), Key, Keys],
    &[Is("MSETNX"), Key, Word::Value, Pairs],
    &[Is("RENAME"), Key, Key],
    &[Is("RENAMENX"), Key, Key],
    &[Is("COPY"), Key, Key],
    &[Is("COPY"), Key, Key, Is("REPLACE")],
    // Nobody holds anything but the two themselves.
    &[Is("WAIT"), Is("0"), Is("0")],
    &[Is("WAIT"), Is("0"), Integer],
    &[Is("WAIT"), Integer, Is("1")],
    &[Is("EXEC")],
    &[Is("DISCARD")],
    &[Is("TYPE"), Key],
    &[Is("EXPIRE"), Key, Seconds, Conditions],
    &[Is("PEXPIRE"), Key, Milliseconds, Conditions],
    &[Is("EXPIREAT"), Key, Word::Instant, ExpireOptions],
    &[Is("PEXPIREAT"), Key, InstantMs, ExpireOptions],
    &[Is("TTL"), Key],
    &[Is("PTTL"), Key],
    &[Is("EXPIRETIME"), Key],
    &[Is("PEXPIRETIME"), Key],
    &[Is("PERSIST"), Key],
    &[Is("KEYS"), Pattern],
    &[Is("DBSIZE")],
    &[Is("RANDOMKEY")],
    &[Is("FLUSHALL")],
    &[Is("FLUSHDB"), Is("ASYNC")],
    &[Is("OBJECT"), Is("REFCOUNT"), Is("none")],
    &[Is("OBJECT"), Is("ENCODING"), Is("none")],
    &[Is("OBJECT"), Is("nothing"), Key],
    &[Is("MEMORY"), Is("USAGE"), Is("none"), Is("SAMPLES"), Integer],
    &[Is("PING"), Word::Value],
    &[Is("ECHO"), Word::Value],
    &[Is("SELECT"), Integer],
    &[Is("COMMAND"), Is("GETKEYS"), Is("MSET"), Key, Word::Value, Pairs],
    &[Is("CLIENT"), Is("GETNAME")],
    &[Is("SLOWLOG"), Is("GET"), Is("x")],
    &[Is("NOSUCH"), Key, Word::Value],
];

/// Far behind every other one, so that nothing that is drawn expires in between, and equal on both sides.
const FAR_INSTANTS: &[&str] = &["4102444800", "4102444801", "9000000000", "1", "0", "-5", "abc", "9223372036854775807"];
const FAR_INSTANTS_MS: &[&str] =
    &["4102444800000", "4102444801234", "1", "0", "-9223372036854775808", "9223372036854775807", "x"];

fn words(word: Word) -> BoxedStrategy<Vec<String>> {
    let one = |of: &'static [&'static str]| prop::sample::select(of).prop_map(|word| vec![word.to_owned()]).boxed();
    let options = |of: &'static [&'static [&'static str]], most: usize| {
        prop::collection::vec(prop::sample::select(of), 0..=most)
            .prop_map(|chosen| chosen.concat().into_iter().map(str::to_owned).collect())
            .boxed()
    };
    match word {
        Is(word) => Just(vec![word.to_owned()]).boxed(),
        Key => one(&["a", "b", "c", "key:4", ""]),
        Word::Value => prop_oneof![
            4 => one(&["", "v", "10", "-7", "3.25", "abc", "a value", "9223372036854775806", " 1", "00", "1e3", "\r\n\0"]),
            1 => (0_usize..200).prop_map(|len| vec!["x".repeat(len)]),
        ]
        .boxed(),
        Integer => one(&["0", "1", "-1", "12", "9223372036854775807", "-9223372036854775808", "x", "1.5", "+1", "007", ""]),
        Float => prop_oneof![
            2 => one(&["0", "0.1", "-1.1", "1e3", "3.0", "5e-18", "1e20", "inf", "-inf", "nan", "x", " 1", "1 ", ".5", "5.", "1e4932", ""]),
            3 => (any::<i64>(), 0_u32..25).prop_map(|(number, places)| vec![format!("{number}e-{places}")]),
            1 => (any::<u64>(), any::<u64>()).prop_map(|(whole, part)| vec![format!("{whole}.{part}")]),
            1 => ("[0-9]{1,80}", "[0-9]{0,30}").prop_map(|(whole, part)| vec![format!("{whole}.{part}")]),
        ]
        .boxed(),
        Offset => prop_oneof![
            6 => (-12_i64..12).prop_map(|at| vec![at.to_string()]),
            1 => one(&["1000", "-1000", "9223372036854775807", "-9223372036854775808", "x", "536870912"]),
        ]
        .boxed(),
        Seconds => one(&["100", "5000", "1000000", "0", "-1", "x", "9223372036854775807", "1.5"]),
        Milliseconds => one(&["100000", "5000000", "1000000000", "0", "-1", "x", "9223372036854775807"]),
        Word::Instant => one(FAR_INSTANTS),
        InstantMs => one(FAR_INSTANTS_MS),
        SetOptions => options(
            &[
                &["NX"], &["XX"], &["GET"], &["KEEPTTL"], &["EX", "1000"], &["px", "1000000"], &["EXAT", "4102444800"],
                &["PXAT", "4102444800123"], &["EX"], &["EX", "0"], &["EX", "x"], &["nonsense"],
            ],
            3,
        ),
        GetExOptions => options(
            &[
                &["PERSIST"], &["EX", "1000"], &["PX", "1000000"], &["EXAT", "4102444800"], &["PXAT", "4102444800123"],
                &["EXAT", "1"], &["EX", "0"], &["EX", "x"], &["PX"], &["nonsense"],
            ],
            2,
        ),
        Conditions => options(&[&["NX"], &["xx"], &["nonsense"]], 2),
        ExpireOptions => options(&[&["NX"], &["XX"], &["GT"], &["lt"], &["nonsense"]], 2),
        Pattern => one(&["*", "a", "[ab]", "key:?", "k*4", "", "[^a]", "\\a", "x*"]),
        Keys => prop::collection::vec(prop::sample::select(&["a", "b", "c", "key:4"][..]), 0..4)
            .prop_map(|keys| keys.into_iter().map(str::to_owned).collect())
            .boxed(),
        Pairs => prop::collection::vec(prop::sample::select(&["a", "b", "c"][..]), 0..3)
            .prop_map(|keys| keys.into_iter().flat_map(|key| [key.to_owned(), format!("value of {key}")]).collect())
            .boxed(),
    }
}

/// A command; one of ten has a word too many or too few.
fn command() -> impl Strategy<Value = Vec<String>> {
    let drawn = prop::sample::select(TEMPLATES).prop_flat_map(|template| {
        template.iter().map(|word| words(*word)).collect::<Vec<_>>().prop_map(|words| words.concat())
    });
    (drawn, 0_u32..20).prop_map(|(mut words, dice)| {
        match dice {
            0 if words.len() > 1 => _ = words.pop(),
            1 => words.push("more".into()),
            _ => {}
        }
        words
    })
}

/// Two connections, one per protocol, which take turns.
fn connect(addr: std::net::SocketAddr) -> [Client; 2] {
    ["2", "3"].map(|protocol| {
        let mut client = Client::connect(addr, PATIENCE).unwrap();
        client.call(&["HELLO", protocol]).unwrap();
        client
    })
}

/// Runs the commands at once and gives the replies.
fn replies(client: &mut Client, commands: &[Vec<String>]) -> Vec<Value> {
    assert_eq!(client.call(&["FLUSHALL"]).unwrap(), Value::Simple("OK".into()));
    commands.iter().for_each(|command| client.queue(command));
    client.flush().unwrap();
    commands.iter().map(|_| client.receive().unwrap()).collect()
}

/// Whether both replies say the same of what must be the same.
fn agree(command: &[String], own: &Value, other: &Value) -> bool {
    match (command[0].to_uppercase().as_str(), own, other) {
        ("KEYS", Value::Array(own), Value::Array(other)) => sorted(own) == sorted(other),
        ("RANDOMKEY", Value::Bulk(_), Value::Bulk(_)) => true,
        // The clocks were read one after the other.
        ("PTTL" | "PEXPIRETIME", Value::Integer(own), Value::Integer(other)) => own.abs_diff(*other) < 5000,
        ("TTL" | "EXPIRETIME", Value::Integer(own), Value::Integer(other)) => own.abs_diff(*other) <= 5,
        // What was slow differs; what is refused does not.
        ("SLOWLOG", Value::Array(_), Value::Array(_)) => true,
        _ => own == other,
    }
}

fn sorted(values: &[Value]) -> Vec<String> {
    let mut values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    values.sort();
    values
}

#[test]
fn random_commands_are_answered_as_by_redis() {
    if !is_installed("redis-server") {
        skip("redis-server");
        return;
    }
    let redis = Redis::start();
    let mut daemon = Daemon::new(DAEMON);
    // Replies need not wait for a disk here: more cases in the same time.
    daemon.set("CORES", 2).set("DURABILITY", "os").start();
    let mut own = connect(daemon.at(daemon.ports().storage));
    let mut other = connect(redis.addr());
    let deadline = Instant::now() + DURATION;
    let cases = (prop::collection::vec(command(), 1..60), 0_usize..2);
    let config = Config { cases: 100, failure_persistence: None, max_shrink_time: 30_000, ..Config::default() };
    let clients = RefCell::new((&mut own, &mut other));
    let compared = Cell::new(0);
    while Instant::now() < deadline {
        let result = TestRunner::new(config.clone()).run(&cases, |(commands, protocol)| {
            let (own, other) = &mut *clients.borrow_mut();
            let (own, other) = (replies(&mut own[protocol], &commands), replies(&mut other[protocol], &commands));
            for ((command, own), other) in commands.iter().zip(&own).zip(&other) {
                compared.set(compared.get() + 1);
                if !agree(command, own, other) {
                    return Err(TestCaseError::fail(format!("{command:?}: {own:?}, but Redis says {other:?}")));
                }
            }
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{error}"));
    }
    eprintln!("{} replies were the same", compared.get());
    assert!(compared.get() > 1000);
}

// ---- what COMMAND says ---------------------------------------------------------------------------------------------

/// Commands that Redis 7.0 has and of which COMMAND INFO says something else here, with the reason.
const DESCRIBED_DIFFERENTLY: &[(&str, &str)] = &[];

#[test]
fn command_info_says_what_redis_says() {
    if !is_installed("redis-server") {
        skip("redis-server");
        return;
    }
    let redis = Redis::start();
    let mut daemon = Daemon::new(DAEMON);
    daemon.start();
    let [mut own, _] = connect(daemon.at(daemon.ports().storage));
    let [mut other, _] = connect(redis.addr());
    let with_subcommands = |command: &'static Command| std::iter::once(command).chain(command.subcommands());
    for name in COMMANDS.iter().flat_map(with_subcommands).map(|command| command.name) {
        let described = |client: &mut Client| match client.call(&["COMMAND", "INFO", name]).unwrap() {
            Value::Array(mut commands) => commands.pop(),
            other => panic!("{other:?}"),
        };
        let (Some(Value::Array(own)), Some(Value::Array(other))) = (described(&mut own), described(&mut other)) else {
            // Taken from a later Redis.
            continue;
        };
        let set = |value: &Value| match value {
            Value::Array(values) => values.iter().map(|value| format!("{value:?}")).collect::<BTreeSet<_>>(),
            other => panic!("{other:?}"),
        };
        let same = own[..2] == other[..2]
            && own[3..6] == other[3..6]
            && [2, 6].iter().all(|at| set(&own[*at]) == set(&other[*at]));
        let known = DESCRIBED_DIFFERENTLY.iter().any(|(known, _)| *known == name);
        assert_eq!(same, !known, "{name}: {own:?}, but Redis says {other:?}");
    }
}
