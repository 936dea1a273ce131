//! The grammar, case by case, and that no file makes the parser panic.

use proptest::prelude::*;

use crate::config::env_file::{EnvFileProblem, parse};

fn pairs(text: &str) -> Vec<(String, String)> {
    let assignments = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assignments.into_iter().map(|assignment| (assignment.key, assignment.value)).collect()
}

fn value(text: &str) -> String {
    let found = pairs(text);
    assert_eq!(found.len(), 1, "{text:?}");
    found[0].1.clone()
}

fn problem(text: &[u8]) -> (usize, EnvFileProblem) {
    let error = parse(text).expect_err("must be refused");
    (error.line, error.problem)
}

#[test]
fn comments_and_blank_lines_are_skipped() {
    let text = "\n# a=1\n  ; b=2\n\t\nA=1\r\n  B = 2 \n#c \\\nC=3";
    assert_eq!(pairs(text), [("A", "1"), ("B", "2"), ("C", "3")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    let lines: Vec<usize> = parse(text.as_bytes()).expect("valid").iter().map(|assignment| assignment.line).collect();
    assert_eq!(lines, [5, 6, 8]);
}

#[test]
fn values_follow_systemd() {
    let cases = [
        ("A=", ""),
        ("A=b c  ", "b c"),
        ("A=b=c#d;e", "b=c#d;e"),
        ("A=$HOME `id`", "$HOME `id`"),
        ("A=\\\\x", "\\x"),
        ("A=x\\ \n", "x "),
        ("A=one\\\ntwo", "onetwo"),
        ("A=x\\", "x"),
        ("A='b  '  ", "b  "),
        ("A='b\\n'", "b\\n"),
        ("A='b\nc'", "b\nc"),
        ("A=\"b\\\"\\\\\\$\\`c\"", "b\"\\$`c"),
        ("A=\"b\\nc\"", "b\\nc"),
        ("A=\"b\\\nc\"", "bc"),
        ("A=\"b\nc\"", "b\nc"),
        ("A='a'\"b\"c ", "abc"),
        ("A=x\"y\" ", "x\"y\""),
        ("A=\"\"", ""),
        ("_a1=ü", "ü"),
    ];
    for (text, expected) in cases {
        assert_eq!(value(text), expected, "{text:?}");
    }
}

#[test]
fn mistakes_are_named_with_their_line() {
    use EnvFileProblem as P;
    assert_eq!(problem(b"A=1\nexport  B=2"), (2, P::Export("B".into())));
    assert_eq!(problem(b"A=1\n\nREGION sfo\n"), (3, P::NoAssignment("REGION sfo".into())));
    assert_eq!(problem(b"A=1\nB"), (2, P::NoAssignment("B".into())));
    assert_eq!(problem(b"A=1\n=2"), (2, P::MalformedKey(String::new())));
    assert_eq!(problem(b"1A=1"), (1, P::MalformedKey("1A".into())));
    assert_eq!(problem(b"A-B=1"), (1, P::MalformedKey("A-B".into())));
    assert_eq!(problem(b"A=1\nB=\"x\ny\nC=1\n"), (2, P::UnfinishedQuote("B".into())));
    assert_eq!(problem(b"A='"), (1, P::UnfinishedQuote("A".into())));
    assert_eq!(problem(b"A=1\nB='\n\n'\nA=1"), (5, P::Duplicate { key: "A".into(), first: 1 }));
    assert_eq!(problem(b"A=1\nB=\xff"), (2, P::NotUtf8));
    assert_eq!(problem(b"A=1\n\nB=a\0b"), (3, P::Nul));
    assert_eq!(problem("\u{feff}A=1".as_bytes()), (1, P::ByteOrderMark));
    assert_eq!(problem(&vec![b'\n'; (1 << 20) + 1]), (1, P::TooLarge));
    // A key of that name is no shell habit.
    assert_eq!(value("export=1"), "1");
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn no_soup_of_the_grammars_own_characters_makes_it_panic(text in "[ A=\"'\\\\\n\r#;x\\$]{0,60}") {
        if let Err(error) = parse(text.as_bytes()) {
            prop_assert!((1..=text.split('\n').count()).contains(&error.line));
        }
    }

    #[test]
    fn any_quoted_value_reads_back(text in "[^\0]{0,40}") {
        let mut quoted = String::from("A=\"");
        for c in text.chars() {
            if matches!(c, '"' | '\\' | '`' | '$') {
                quoted.push('\\');
            }
            quoted.push(c);
        }
        quoted.push('"');
        prop_assert_eq!(value(&quoted), text);
    }
}
