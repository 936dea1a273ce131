use super::super::linear::{Call, Verdict, check};
use super::*;

fn call(begin: u64, until: u64, input: Input, output: Output) -> Call<StringKey> {
    Call { input, output: Some(output), begin, until }
}

fn open(begin: u64, until: u64, input: Input) -> Call<StringKey> {
    Call { input, output: None, begin, until }
}

fn text(value: &str) -> Held {
    Held::of(value.as_bytes())
}

fn set(begin: u64, until: u64, value: &str) -> Call<StringKey> {
    call(begin, until, Input::Set(text(value)), Output::Done)
}

fn get(begin: u64, until: u64, value: &str) -> Call<StringKey> {
    call(begin, until, Input::Get, Output::Value(text(value)))
}

fn get_nothing(begin: u64, until: u64) -> Call<StringKey> {
    call(begin, until, Input::Get, Output::Value(Held::Absent))
}

fn incr(begin: u64, until: u64, sum: i64) -> Call<StringKey> {
    call(begin, until, Input::IncrBy(1), Output::Number(sum))
}

fn holds(calls: &[Call<StringKey>]) -> bool {
    match check(calls, 1_000_000) {
        Verdict::Linearizable => true,
        Verdict::Violated { .. } => false,
        Verdict::Undecided => panic!("undecided"),
    }
}

const OPEN: u64 = u64::MAX;

#[test]
fn reads_follow_writes() {
    assert!(holds(&[get_nothing(1, 2), set(3, 4, "a"), get(5, 6, "a")]));
    assert!(!holds(&[set(1, 2, "a"), get_nothing(3, 4)]));
    assert!(!holds(&[get(1, 2, "a"), set(3, 4, "a")]), "a read of the future");
}

#[test]
fn a_stale_read_is_found() {
    assert_eq!(
        check(&[set(1, 2, "a"), set(3, 4, "b"), get(5, 6, "a"), get(7, 8, "b")], 1_000),
        Verdict::Violated { call: 2 }
    );
    // Under way at the same time it may read either; once it was read, it stays.
    assert!(holds(&[set(1, 2, "a"), set(3, 10, "b"), get(4, 5, "a"), get(6, 7, "b"), get(8, 9, "b")]));
    assert!(!holds(&[set(1, 2, "a"), set(3, 10, "b"), get(4, 5, "b"), get(6, 7, "a")]));
}

#[test]
fn a_lost_update_is_found() {
    assert!(holds(&[incr(1, 4, 2), incr(2, 3, 1), get(5, 6, "2")]));
    assert!(!holds(&[incr(1, 4, 1), incr(2, 3, 1)]));
    assert!(!holds(&[incr(1, 2, 1), incr(3, 4, 2), get(5, 6, "1")]));
}

#[test]
fn an_unknown_write_happens_once_or_never() {
    let unknown = || open(3, OPEN, Input::IncrBy(1));
    assert!(holds(&[incr(1, 2, 1), unknown(), get(5, 6, "1"), get(7, 8, "1")]), "never");
    assert!(holds(&[incr(1, 2, 1), unknown(), get(5, 6, "1"), get(7, 8, "2")]), "late");
    assert!(!holds(&[incr(1, 2, 1), unknown(), get(5, 6, "2"), get(7, 8, "3")]), "twice");
    assert!(!holds(&[incr(1, 2, 1), unknown(), get(5, 6, "2"), get(7, 8, "1")]), "undone");
}

#[test]
fn an_unknown_set_does_not_come_back() {
    let unknown = || open(3, OPEN, Input::Set(text("b")));
    assert!(holds(&[set(1, 2, "a"), unknown(), get(4, 5, "a"), set(6, 7, "c"), get(8, 9, "b"), get(10, 11, "b")]));
    assert!(!holds(&[set(1, 2, "a"), unknown(), get(4, 5, "b"), set(6, 7, "c"), get(8, 9, "b")]));
}

#[test]
fn a_window_that_closed_stays_closed() {
    // The process that it was sent to died at 5.
    let unknown = || open(3, 5, Input::Set(text("b")));
    assert!(holds(&[set(1, 2, "a"), unknown(), get(6, 7, "b")]), "found after recovery");
    assert!(holds(&[set(1, 2, "a"), unknown(), get(6, 7, "a")]));
    assert!(!holds(&[set(1, 2, "a"), unknown(), get(6, 7, "a"), get(8, 9, "b")]), "it cannot turn up later");
    assert!(!holds(&[set(1, 2, "a"), unknown(), set(6, 7, "c"), get(8, 9, "b")]));
}

#[test]
fn every_command_follows_the_documentation() {
    let number = Output::Number;
    let flag = Output::Flag;
    let story = [
        (Input::Append(Print::of(b"ab")), number(2)),
        (Input::IncrBy(3), Output::NotANumber),
        (Input::GetSet(text("7")), Output::Value(text("ab"))),
        (Input::IncrBy(-9), number(-2)),
        (Input::PTtl, number(-1)),
        (Input::Expire, flag(true)),
        (Input::PTtl, number(5_000)),
        (Input::IncrBy(1), number(-1)),
        (Input::Append(Print::of(b"x")), number(3)),
        (Input::Persist, flag(true)),
        (Input::Persist, flag(false)),
        (Input::Get, Output::Value(text("-1x"))),
        (Input::Expire, flag(true)),
        (Input::Set(text("b")), Output::Done),
        (Input::PTtl, number(-1)),
        (Input::SetNx(text("c")), flag(false)),
        (Input::Exists, flag(true)),
        (Input::GetDel, Output::Value(text("b"))),
        (Input::Exists, flag(false)),
        (Input::Expire, flag(false)),
        (Input::PTtl, number(-2)),
        (Input::Del, flag(false)),
        (Input::SetNx(text("c")), flag(true)),
        (Input::Del, flag(true)),
    ];
    let calls: Vec<Call<StringKey>> =
        (0..).zip(&story).map(|(at, (input, output))| call(2 * at + 1, 2 * at + 2, *input, *output)).collect();
    assert_eq!(check(&calls, 1_000), Verdict::Linearizable);
    // With any one answer left as it is and any other in its place, the story does not hold.
    for (at, (_, output)) in story.iter().enumerate() {
        let mut wrong = calls.clone();
        wrong[at].output = Some(match *output {
            Output::Done => Output::NotANumber,
            Output::Value(_) => Output::Value(text("wrong")),
            Output::Flag(flag) => Output::Flag(!flag),
            Output::Number(_) => Output::Number(-7),
            Output::NotANumber => Output::Number(3),
        });
        assert_eq!(check(&wrong, 1_000), Verdict::Violated { call: at });
    }
}

#[test]
fn numbers_have_one_form() {
    for (value, number) in [("0", Some(0)), ("-7", Some(-7)), ("12", Some(12)), ("9223372036854775807", Some(i64::MAX))]
    {
        assert_eq!(number_of(value.as_bytes()), number);
    }
    for value in ["", "-", "-0", "007", "+1", "1x", "9223372036854775808", "99999999999999999999"] {
        assert_eq!(number_of(value.as_bytes()), None, "{value}");
    }
}

#[test]
fn prints_append() {
    assert_eq!(Print::of(b"abc").then(Print::of(b"defg")), Print::of(b"abcdefg"));
    assert_ne!(Print::of(b"ab"), Print::of(b"ba"));
}

/// Calls as an atomic object answers them, up to `width` under way at any time; every `unknown`th answer is lost.
fn random_history(seed: u64, count: u64, width: u64, unknown: u64) -> Vec<Call<StringKey>> {
    let mut random = seed;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let mut state = StringKey::initial();
    let mut calls = Vec::new();
    for at in 0..count {
        let input = match below(8) {
            0 | 1 => Input::Set(text(&format!("v{at}"))),
            2 => Input::Del,
            3 => Input::Append(Print::of(b"+")),
            4 => Input::IncrBy(1),
            5 => Input::GetSet(text(&at.to_string())),
            _ => Input::Get,
        };
        let (next, output) = run(state, input);
        // The effect is at 100·at; the window around it overlaps with those of its neighbours.
        let (before, after) = (1 + below(50 * width), 1 + below(50 * width));
        let (begin, until) = ((100_000 + 100 * at - before) * 1000 + at, (100_000 + 100 * at + after) * 1000 + at);
        if below(unknown) == 0 {
            if below(2) == 0 {
                state = next;
            }
            // The process that it was sent to ends some fifty calls later.
            calls.push(open(begin, begin + 5_000 * 1_000, input));
        } else {
            state = next;
            calls.push(Call { input, output, begin, until });
        }
    }
    calls
}

#[test]
fn long_histories_are_decided() {
    for seed in 0..30 {
        let mut calls = random_history(seed, 400, 10, 40);
        assert_eq!(check(&calls, 1_000_000), Verdict::Linearizable, "seed {seed}");
        let read = (200..400).find(|at| matches!(calls[*at].output, Some(Output::Value(_))));
        calls[read.expect("there are reads")].output = Some(Output::Value(text("nobody wrote this")));
        assert!(!matches!(check(&calls, 1_000_000), Verdict::Linearizable), "seed {seed}");
    }
}
