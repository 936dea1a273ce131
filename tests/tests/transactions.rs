//! Transactions from outside: Redis' words, atomic and isolated over several cores under load, independent of the client that
//! asked, finished by a stop, and on one core whole or absent after kill -9.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tests::process::{Choices, Client, Daemon, PATIENCE, Value, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

/// Enough accounts that some lie on every core.
const ACCOUNTS: u64 = 16;

/// What each has in the beginning.
const BALANCE: i64 = 100;

/// How long the load lasts.
const LOAD: Duration = Duration::from_secs(2);

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn bulk(text: impl ToString) -> Value {
    Value::Bulk(text.to_string().into_bytes())
}

fn queued() -> Value {
    Value::Simple("QUEUED".into())
}

fn node(cores: u16) -> Daemon {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("CORES", cores).start();
    daemon
}

/// Sends commands in one go and takes the answers.
fn all(client: &mut Client, commands: &[&[&str]]) -> Vec<Value> {
    commands.iter().for_each(|command| client.queue(command));
    client.flush().unwrap();
    commands.iter().map(|_| client.receive().unwrap()).collect()
}

#[track_caller]
fn is_error(found: &Value, text: &str) {
    assert_eq!(*found, Value::Error(text.into()));
}

// ---- words ---------------------------------------------------------------------------------------------------------

#[test]
fn the_words_are_those_of_redis() {
    let daemon = node(3);
    let mut client = daemon.client();
    is_error(&client.call(&["EXEC"]).unwrap(), "ERR EXEC without MULTI");
    is_error(&client.call(&["DISCARD"]).unwrap(), "ERR DISCARD without MULTI");
    assert_eq!(client.call(&["MULTI"]).unwrap(), ok());
    is_error(&client.call(&["MULTI"]).unwrap(), "ERR MULTI calls can not be nested");
    is_error(&client.call(&["WATCH", "a"]).unwrap(), "ERR WATCH inside MULTI is not allowed");
    assert_eq!(client.call(&["SET", "a", "1"]).unwrap(), queued());
    // Neither of the two errors makes EXEC fail.
    assert_eq!(client.call(&["EXEC"]).unwrap(), Value::Array(vec![ok()]));
    for refused in [&["NOPE"][..], &["GET"], &["SCAN", "0"]] {
        assert_eq!(all(&mut client, &[&["MULTI"], &["SET", "a", "2"]]), [ok(), queued()]);
        assert!(matches!(client.call(refused).unwrap(), Value::Error(_)));
        is_error(&client.call(&["EXEC"]).unwrap(), "EXECABORT Transaction discarded because of previous errors.");
        assert_eq!(client.call(&["GET", "a"]).unwrap(), bulk(1));
    }
    let discarded = all(&mut client, &[&["MULTI"], &["SET", "a", "2"], &["DISCARD"], &["GET", "a"]]);
    assert_eq!(discarded, [ok(), queued(), ok(), bulk(1)]);
    let reset = all(&mut client, &[&["MULTI"], &["SET", "a", "2"], &["RESET"], &["EXEC"], &["GET", "a"]]);
    assert_eq!(reset[2], Value::Simple("RESET".into()));
    is_error(&reset[3], "ERR EXEC without MULTI");
    assert_eq!(reset[4], bulk(1));
    assert_eq!(all(&mut client, &[&["MULTI"], &["EXEC"]])[1], Value::Array(vec![]));
}

#[test]
fn commands_run_in_order_and_an_error_does_not_stop_those_after_it() {
    for cores in [1, 2, 3] {
        let daemon = node(cores);
        let mut client = daemon.client();
        let commands: &[&[&str]] = &[
            &["SET", "before", "x"],
            &["MULTI"],
            &["SET", "a", "1"],
            &["INCR", "a"],
            &["INCR", "before"],
            &["MSET", "b", "5", "c", "6"],
            &["RENAME", "a", "d"],
            &["MGET", "a", "b", "c", "d"],
            &["DEL", "b", "none"],
            &["EXISTS", "b", "c", "d"],
            &["PING"],
            &["ECHO", "hi"],
            &["SELECT", "0"],
            &["UNWATCH"],
            &["DBSIZE"],
            &["MSETNX", "e", "1", "c", "2"],
            &["COPY", "c", "f"],
            &["APPEND", "f", "!"],
            &["RENAME", "none", "f"],
            &["GET", "f"],
            &["EXEC"],
            &["GET", "d"],
        ];
        let answers = all(&mut client, commands);
        let Value::Array(results) = &answers[20] else { panic!("{cores} cores: {answers:?}") };
        assert!(answers[2..20].iter().all(|answer| *answer == queued()));
        let word = Value::Error("ERR value is not an integer or out of range".into());
        let integer = Value::Integer;
        let expected = [
            ok(),
            integer(2),
            word,
            ok(),
            ok(),
            Value::Array(vec![Value::Null, bulk(5), bulk(6), bulk(2)]),
            integer(1),
            integer(2),
            Value::Simple("PONG".into()),
            bulk("hi"),
            ok(),
            ok(),
        ];
        assert_eq!(results[..12], expected, "{cores} cores");
        assert!(matches!(results[12], Value::Integer(_)));
        let rest = [integer(0), integer(1), integer(2), Value::Error("ERR no such key".into()), bulk("6!")];
        assert_eq!(results[13..], rest, "{cores} cores");
        assert_eq!(answers[21], bulk(2), "what comes after EXEC sees what it did");
    }
}

#[test]
fn a_watched_key_that_changed_makes_exec_answer_null() {
    for (cores, hello) in [(1, "2"), (2, "2"), (3, "3")] {
        let daemon = node(cores);
        let (mut client, mut other) = (daemon.client(), daemon.client());
        client.call(&["HELLO", hello]).unwrap();
        let keys: Vec<String> = (0..8).map(|number| format!("w{number}")).collect();
        for (number, key) in keys.iter().enumerate() {
            let try_after = |client: &mut Client, change: &mut dyn FnMut()| {
                assert_eq!(client.call(&["WATCH", key, "quiet"]).unwrap(), ok());
                change();
                assert_eq!(all(client, &[&["MULTI"], &["SET", "result", key]]), [ok(), queued()]);
                client.call(&["EXEC"]).unwrap()
            };
            let done = Value::Array(vec![ok()]);
            assert_eq!(try_after(&mut client, &mut || {}), done);
            let mut set = |value: &str| other.call(&["SET", key, value]).map(|_| ()).unwrap();
            assert_eq!(try_after(&mut client, &mut || set("1")), Value::Null);
            assert_eq!(try_after(&mut client, &mut || set("1")), Value::Null, "the same value is a change");
            assert_eq!(try_after(&mut client, &mut || {}), done, "EXEC watches no longer");
            let mut delete = || other.call(&["DEL", key]).map(|_| ()).unwrap();
            assert_eq!(try_after(&mut client, &mut delete), Value::Null);
            assert_eq!(try_after(&mut client, &mut delete), done, "nothing was there to delete");
            client.call(&["WATCH", key]).unwrap();
            client.call(&["SET", key, &number.to_string()]).unwrap();
            assert_eq!(all(&mut client, &[&["MULTI"], &["EXEC"]])[1], Value::Null, "its own write counts");
            all(&mut client, &[&["WATCH", key], &["SET", key, "x"], &["UNWATCH"]]);
            assert_eq!(all(&mut client, &[&["MULTI"], &["EXEC"]])[1], Value::Array(vec![]));
        }
    }
}

#[test]
fn a_watched_key_that_expires_counts_as_changed_unless_it_had_expired_before() {
    let daemon = node(2);
    let mut client = daemon.client();
    client.call(&["SET", "k", "v", "PX", "60"]).unwrap();
    client.call(&["WATCH", "k"]).unwrap();
    wait_for("the key to expire", || (daemon.client().call(&["GET", "k"]).unwrap() == Value::Null).then_some(()));
    assert_eq!(all(&mut client, &[&["MULTI"], &["PING"], &["EXEC"]])[2], Value::Null);
    client.call(&["WATCH", "k"]).unwrap();
    let again = all(&mut client, &[&["MULTI"], &["PING"], &["EXEC"]]);
    assert_eq!(again[2], Value::Array(vec![Value::Simple("PONG".into())]));
}

#[test]
fn values_are_compared_and_set_or_deleted() {
    let daemon = node(2);
    let mut client = daemon.client();
    let mut is = |expected: Value, command: &[&str]| assert_eq!(client.call(command).unwrap(), expected, "{command:?}");
    let (zero, one) = (Value::Integer(0), Value::Integer(1));
    is(Value::Null, &["SET", "k", "v", "IFEQ", "u"]);
    is(ok(), &["SET", "k", "v", "IFNE", "u"]);
    is(Value::Null, &["SET", "k", "w", "IFEQ", "u"]);
    is(ok(), &["SET", "k", "w", "ifeq", "v", "EX", "100"]);
    is(bulk("w"), &["SET", "k", "x", "IFEQ", "v", "GET"]);
    is(bulk("w"), &["SET", "k", "x", "GET", "IFEQ", "w"]);
    is(Value::Null, &["SET", "k", "y", "IFNE", "x"]);
    is(bulk("x"), &["GET", "k"]);
    let syntax = || Value::Error("ERR syntax error".into());
    is(syntax(), &["SET", "k", "y", "IFEQ"]);
    is(syntax(), &["SET", "k", "y", "IFEQ", "x", "NX"]);
    is(syntax(), &["SET", "k", "y", "XX", "IFEQ", "x"]);
    is(syntax(), &["DELEX", "k", "IFEQ"]);
    is(syntax(), &["DELEX", "k", "NOPE", "x"]);
    is(zero.clone(), &["DELIFEQ", "k", "y"]);
    is(zero.clone(), &["DELEX", "k", "IFEQ", "y"]);
    is(zero.clone(), &["DELEX", "k", "IFNE", "x"]);
    is(one.clone(), &["DELEX", "k", "IFEQ", "x"]);
    is(zero.clone(), &["DELEX", "k", "IFNE", "x"]);
    is(ok(), &["SET", "k", "v"]);
    is(one.clone(), &["DELIFEQ", "k", "v"]);
    is(zero, &["DELEX", "k"]);
    is(ok(), &["SET", "k", "v"]);
    is(one, &["DELEX", "k"]);
}

#[test]
fn keys_are_renamed_and_copied_with_their_expiry() {
    for cores in [1, 3] {
        let daemon = node(cores);
        let mut client = daemon.client();
        for number in 0..12 {
            let (source, target) = (format!("s{number}"), format!("t{number}"));
            let mut is = |expected: Value, command: &[&str]| {
                assert_eq!(client.call(command).unwrap(), expected, "{command:?}");
            };
            is(ok(), &["SET", &source, "v", "PXAT", "4102444800123"]);
            is(Value::Integer(1), &["COPY", &source, &target]);
            is(Value::Integer(0), &["COPY", &source, &target]);
            is(Value::Integer(4_102_444_800_123), &["PEXPIRETIME", &target]);
            is(Value::Integer(0), &["RENAMENX", &source, &target]);
            is(ok(), &["SET", &source, "w"]);
            is(Value::Integer(1), &["COPY", &source, &target, "REPLACE"]);
            is(Value::Integer(-1), &["TTL", &target]);
            is(ok(), &["RENAME", &source, &target]);
            is(Value::Null, &["GET", &source]);
            is(bulk("w"), &["GET", &target]);
            is(Value::Integer(1), &["RENAMENX", &target, &source]);
            is(Value::Integer(1), &["MSETNX", &target, "1", "x", "2"]);
            is(Value::Integer(0), &["MSETNX", "y", "1", &source, "2"]);
            is(Value::Integer(1), &["EXISTS", "y", "x"]);
            is(Value::Integer(1), &["DEL", "x"]);
        }
    }
}

#[test]
fn what_one_segment_cannot_hold_is_refused_as_a_whole() {
    for cores in [1, 2] {
        let mut daemon = Daemon::new(DAEMON);
        daemon.set("CORES", cores).set("SEGMENT_BYTES", "1MiB").start();
        let mut client = daemon.client();
        let value = "v".repeat(200_000);
        client.call(&["MULTI"]).unwrap();
        for number in 0..12 {
            assert_eq!(client.call(&["SET", &format!("k{number}"), &value]).unwrap(), queued());
        }
        let Value::Error(text) = client.call(&["EXEC"]).unwrap() else { panic!("it fits?") };
        let begin = "EXECABORT Transaction discarded because: the transaction writes more than one log segment";
        assert!(text.starts_with(begin), "{text}");
        assert_eq!(client.call(&["DBSIZE"]).unwrap(), Value::Integer(0));
        for turn in 0..40 {
            let answers = all(&mut client, &[&["MULTI"], &["SET", "a", &value], &["SET", "b", &value], &["EXEC"]]);
            assert_eq!(answers[3], Value::Array(vec![ok(), ok()]), "turn {turn}");
        }
        assert_eq!(client.call(&["STRLEN", "b"]).unwrap(), Value::Integer(200_000));
    }
}

#[test]
fn what_a_connection_queues_and_watches_is_bounded() {
    let daemon = node(2);
    let mut client = daemon.client();
    let value = "v".repeat(8_000_000);
    client.call(&["MULTI"]).unwrap();
    for number in 0..8 {
        assert_eq!(client.call(&["SET", &format!("k{number}"), &value]).unwrap(), queued());
    }
    is_error(&client.call(&["SET", "k8", &value]).unwrap(), "ERR the transaction is too large");
    is_error(&client.call(&["EXEC"]).unwrap(), "EXECABORT Transaction discarded because of previous errors.");
    let key = |number: u32| format!("{number:065000}");
    let mut watched = 0;
    while client.call(&["WATCH", &key(watched)]).unwrap() == ok() {
        watched += 1;
    }
    is_error(&client.call(&["WATCH", &key(watched)]).unwrap(), "ERR too many watched keys");
    assert!((1_000..1_040).contains(&watched), "{watched}");
    // Given back: by UNWATCH, and by clients that go away.
    assert_eq!(client.call(&["UNWATCH"]).unwrap(), ok());
    assert_eq!(client.call(&["WATCH", &key(0)]).unwrap(), ok());
    for _ in 0..8 {
        let mut client = daemon.client();
        client.call(&["MULTI"]).unwrap();
        for number in 0..8 {
            let answer = wait_for("room for what is queued", || {
                let answer = client.call(&["SET", &format!("k{number}"), &value]).unwrap();
                (answer == queued()).then_some(answer)
            });
            assert_eq!(answer, queued());
        }
    }
}

// ---- atomic and isolated -------------------------------------------------------------------------------------------

fn account(number: u64) -> String {
    format!("account:{number}")
}

fn open_accounts(daemon: &Daemon) {
    let mut words = vec!["MSET".to_owned()];
    words.extend((0..ACCOUNTS).flat_map(|number| [account(number), BALANCE.to_string()]));
    assert_eq!(daemon.client().call(&words).unwrap(), ok());
}

/// The sum of all accounts, read in one transaction.
fn sum(client: &mut Client) -> std::io::Result<i64> {
    client.queue(&["MULTI"]);
    for number in 0..ACCOUNTS / 2 {
        client.queue(&["GET", &account(number)]);
    }
    let rest: Vec<String> = (ACCOUNTS / 2..ACCOUNTS).map(account).collect();
    client.queue(&[vec!["MGET".to_owned()], rest].concat());
    client.queue(&["EXEC"]);
    client.flush()?;
    for _ in 0..ACCOUNTS / 2 + 2 {
        client.receive()?;
    }
    let values = match client.receive()? {
        Value::Array(values) => values,
        Value::Error(text) if text.ends_with("the node is stopping") => return Err(std::io::Error::other(text)),
        other => panic!("EXEC answers an array, not {other:?}"),
    };
    let flat = values.into_iter().flat_map(|value| if let Value::Array(inner) = value { inner } else { vec![value] });
    let number = |value| {
        let Value::Bulk(text) = value else { panic!("an account is missing: {value:?}") };
        String::from_utf8(text).unwrap().parse::<i64>().unwrap()
    };
    Ok(flat.map(number).sum())
}

/// Moves an amount by DECRBY and INCRBY.
fn add_and_take(client: &mut Client, choices: &mut Choices) -> std::io::Result<bool> {
    let (from, to, amount) = (choices.below(ACCOUNTS), choices.below(ACCOUNTS), choices.below(9).to_string());
    client.queue(&["MULTI"]);
    client.queue(&["DECRBY", &account(from), &amount]);
    client.queue(&["INCRBY", &account(to), &amount]);
    client.queue(&["EXEC"]);
    client.flush()?;
    for _ in 0..3 {
        client.receive()?;
    }
    Ok(matches!(client.receive()?, Value::Array(_)))
}

/// Moves an amount by reading both accounts and writing what follows, if nobody else did meanwhile.
fn watch_and_set(client: &mut Client, choices: &mut Choices) -> std::io::Result<bool> {
    let from = choices.below(ACCOUNTS);
    let to = (from + 1 + choices.below(ACCOUNTS - 1)) % ACCOUNTS;
    let (from, to, amount) = (account(from), account(to), i64::try_from(choices.below(9)).unwrap());
    client.call(&["WATCH", &from, &to])?;
    let mut read = |key: &str| -> std::io::Result<i64> {
        let Value::Bulk(text) = client.call(&["GET", key])? else { panic!("{key} is missing") };
        Ok(String::from_utf8(text).unwrap().parse().unwrap())
    };
    let (at_from, at_to) = (read(&from)?, read(&to)?);
    client.queue(&["MULTI"]);
    client.queue(&["SET", &from, &(at_from - amount).to_string()]);
    client.queue(&["SET", &to, &(at_to + amount).to_string()]);
    client.queue(&["EXEC"]);
    client.flush()?;
    for _ in 0..3 {
        client.receive()?;
    }
    Ok(matches!(client.receive()?, Value::Array(_)))
}

/// What the clients of a load did.
#[derive(Debug, Default)]
struct Work {
    taken_place: AtomicU64,
    refused: AtomicU64,
    sums: AtomicU64,
}

/// Clients that move amounts, and clients that add up, until `stop` or until the node is gone.
fn load(daemon: &Daemon, seed: u64, stop: &AtomicBool, work: &Work, meanwhile: impl FnOnce()) {
    let addr = daemon.at(daemon.ports().storage);
    thread::scope(|scope| {
        for name in 0..8 {
            scope.spawn(move || {
                let mut choices = Choices::new(seed + name);
                let mut client = Client::connect(addr, PATIENCE).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let moved = match name {
                        0..3 => add_and_take(&mut client, &mut choices),
                        3..6 => watch_and_set(&mut client, &mut choices),
                        _ => {
                            let Ok(found) = sum(&mut client) else { return };
                            assert_eq!(found, i64::try_from(ACCOUNTS).unwrap() * BALANCE, "a sum in the middle");
                            work.sums.fetch_add(1, Ordering::Relaxed);
                            continue;
                        }
                    };
                    match moved {
                        Ok(true) => work.taken_place.fetch_add(1, Ordering::Relaxed),
                        Ok(false) => work.refused.fetch_add(1, Ordering::Relaxed),
                        Err(_) => return,
                    };
                }
            });
        }
        meanwhile();
    });
}

fn until_over(stop: &AtomicBool) {
    let end = Instant::now() + LOAD;
    wait_for("the load", || (Instant::now() >= end).then_some(()));
    stop.store(true, Ordering::Relaxed);
}

#[test]
fn amounts_that_move_between_cores_always_add_up() {
    let seed = Choices::seed();
    eprintln!("GODWIT_SEED={seed}");
    for (cores, durability) in [(1, "fsync"), (2, "fsync"), (3, "os")] {
        let mut daemon = Daemon::new(DAEMON);
        daemon.set("CORES", cores).set("DURABILITY", durability).set("SEGMENT_BYTES", "1MiB").start();
        open_accounts(&daemon);
        let (work, stop) = (Work::default(), AtomicBool::new(false));
        load(&daemon, seed, &stop, &work, || until_over(&stop));
        eprintln!("{cores} cores: {work:?}");
        assert!(work.taken_place.load(Ordering::Relaxed) > 50, "nothing moved: {work:?}");
        assert!(work.sums.load(Ordering::Relaxed) > 20, "nobody added up: {work:?}");
        assert!(work.refused.load(Ordering::Relaxed) > 0, "no watched key ever changed: {work:?}");
        assert_eq!(sum(&mut daemon.client()).unwrap(), i64::try_from(ACCOUNTS).unwrap() * BALANCE);
        assert_eq!(daemon.terminate().code(), Some(0));
        assert!(daemon.logged("ERROR").is_empty(), "{:?}", daemon.logged("ERROR"));
    }
}

#[test]
fn a_client_that_goes_away_in_the_middle_leaves_nothing_half_done() {
    let seed = Choices::seed();
    eprintln!("GODWIT_SEED={seed}");
    let daemon = node(3);
    open_accounts(&daemon);
    let (work, stop) = (Work::default(), AtomicBool::new(false));
    load(&daemon, seed, &stop, &work, || {
        let mut choices = Choices::new(seed ^ 1);
        let end = Instant::now() + LOAD;
        let mut patient = daemon.client();
        while Instant::now() < end {
            let mut client = daemon.client();
            client.queue(&["WATCH", &account(choices.below(ACCOUNTS)), &account(choices.below(ACCOUNTS))]);
            client.queue(&["MULTI"]);
            client.queue(&["DECRBY", &account(choices.below(ACCOUNTS)), "5"]);
            client.queue(&["RENAME", "none", &account(choices.below(ACCOUNTS))]);
            client.queue(&["INCRBY", &account(choices.below(ACCOUNTS)), "5"]);
            client.queue(&["EXEC"]);
            client.flush().unwrap();
            // Nobody reads an answer. The next one comes when a transaction that began later is over.
            drop(client);
            sum(&mut patient).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(work.taken_place.load(Ordering::Relaxed) > 50, "{work:?}");
    assert_eq!(sum(&mut daemon.client()).unwrap(), i64::try_from(ACCOUNTS).unwrap() * BALANCE);
}

#[test]
fn a_stop_finishes_the_transactions_that_have_begun_to_write() {
    let seed = Choices::seed();
    eprintln!("GODWIT_SEED={seed}");
    for round in 0..4 {
        let mut daemon = node(3);
        open_accounts(&daemon);
        let (work, stop) = (Work::default(), AtomicBool::new(false));
        let pid = daemon.pid().to_string();
        load(&daemon, seed + round, &stop, &work, || {
            wait_for("some work", || (work.taken_place.load(Ordering::Relaxed) > 30).then_some(()));
            let mut kill = std::process::Command::new("kill");
            assert!(kill.args(["-TERM", &pid]).status().unwrap().success());
        });
        assert_eq!(daemon.wait_for_end().code(), Some(0));
        daemon.start();
        assert_eq!(sum(&mut daemon.client()).unwrap(), i64::try_from(ACCOUNTS).unwrap() * BALANCE, "round {round}");
    }
}

#[test]
fn on_one_core_a_transaction_is_whole_or_absent_after_a_kill() {
    let seed = Choices::seed();
    eprintln!("GODWIT_SEED={seed}");
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("CORES", 1).set("SEGMENT_BYTES", "1MiB").start();
    open_accounts(&daemon);
    for round in 0..6 {
        let (work, stop) = (Work::default(), AtomicBool::new(false));
        let pid = daemon.pid().to_string();
        load(&daemon, seed + round, &stop, &work, || {
            wait_for("some work", || (work.taken_place.load(Ordering::Relaxed) > 30 * round).then_some(()));
            let mut kill = std::process::Command::new("kill");
            assert!(kill.args(["-KILL", &pid]).status().unwrap().success());
        });
        daemon.kill9();
        daemon.start();
        assert_eq!(sum(&mut daemon.client()).unwrap(), i64::try_from(ACCOUNTS).unwrap() * BALANCE, "round {round}");
    }
}

#[test]
fn of_two_that_want_the_same_keys_one_gets_all() {
    let daemon = node(3);
    let addr = daemon.at(daemon.ports().storage);
    let keys: Vec<String> = (0..6).map(|number| format!("lock:{number}")).collect();
    let wins: BTreeMap<usize, u64> = thread::scope(|scope| {
        let claim = |name: usize| {
            let keys = &keys;
            move || {
                let mut client = Client::connect(addr, PATIENCE).unwrap();
                let owner = name.to_string();
                let mut wins = 0;
                for _ in 0..200 {
                    // Each begins with another key.
                    let pairs = (0..6).flat_map(|at| [keys[(at + name) % 6].as_str(), &owner]);
                    let words: Vec<&str> = std::iter::once("MSETNX").chain(pairs).collect();
                    if client.call(&words).unwrap() == Value::Integer(1) {
                        let read: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
                        let all = Value::Array(vec![bulk(name); 6]);
                        assert_eq!(client.call(&read).unwrap(), all, "somebody else wrote some of them");
                        let delete: Vec<&str> = std::iter::once("DEL").chain(keys.iter().map(String::as_str)).collect();
                        client.queue(&["MULTI"]);
                        client.queue(&delete);
                        client.queue(&["EXEC"]);
                        client.flush().unwrap();
                        client.receive().unwrap();
                        client.receive().unwrap();
                        assert_eq!(client.receive().unwrap(), Value::Array(vec![Value::Integer(6)]));
                        wins += 1;
                    }
                }
                (name, wins)
            }
        };
        let claims: Vec<_> = (0..4).map(|name| scope.spawn(claim(name))).collect();
        claims.into_iter().map(|claim| claim.join().unwrap()).collect()
    });
    assert!(wins.values().sum::<u64>() > 0, "{wins:?}");
}
