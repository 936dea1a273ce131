//! The tool as a process among others: exit codes, pipes, help, and that it changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::SystemTime;

use crate::support::{NODE, PEER, PEER_RUN, TestLog, command, data_dir, hold, inspect, ran, segments};

/// Names, contents and times of all files.
fn state(dir: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry"));
    let of = |entry: fs::DirEntry| {
        let modified = entry.metadata().and_then(|metadata| metadata.modified()).expect("a time");
        (entry.file_name().into_string().expect("UTF-8"), (fs::read(entry.path()).expect("a file"), modified))
    };
    entries.map(of).collect()
}

#[test]
fn no_command_changes_anything_or_takes_the_lock() {
    let (dir, peer) = (data_dir(NODE), data_dir(PEER));
    segments(dir.path());
    TestLog::new(peer.path(), PEER, PEER_RUN).write();
    let (before, peer_before) = (state(dir.path()), state(peer.path()));
    let peer_path = peer.path().to_str().expect("UTF-8");
    for (name, args) in [
        ("ls", &[][..]),
        ("dump", &[]),
        ("verify", &["--measure"]),
        ("stats", &[]),
        ("history", &["key"]),
        ("diff", &[peer_path]),
        ("retention", &["--peer", peer_path]),
        ("repair", &["--dry-run"]),
    ] {
        let ran = inspect(name, dir.path(), args);
        assert_eq!(ran.code, 0, "{name}: {ran:?}");
    }
    assert!(state(dir.path()) == before && state(peer.path()) == peer_before);
    assert!(!dir.path().join("LOCK").exists());
    let _held = hold(dir.path());
    assert_eq!(inspect("verify", dir.path(), &[]).code, 0, "a held lock keeps nobody from looking");
}

#[test]
fn a_pipe_that_is_closed_early_ends_it_silently() {
    let dir = data_dir(NODE);
    let mut test = TestLog::new(dir.path(), NODE, crate::support::RUN);
    for index in 0..4000 {
        test.put(
            &format!("key {index}"),
            "a value that fills the pipe's buffer, and the one in front of it, in no time",
        );
        test.commit();
    }
    test.write();
    let mut child = command()
        .arg("dump")
        .arg(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool runs");
    let mut first = [0; 4];
    child.stdout.take().expect("a pipe").read_exact(&mut first).expect("a line");
    assert_eq!(&first, b"VPUT");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
}

#[test]
fn wrong_use_is_exit_code_1_with_a_line_that_says_what_to_do() {
    let empty = tempfile::tempdir().expect("a directory");
    let here = empty.path();
    let missing = here.join("missing");
    fs::write(here.join("file"), "x").expect("written");
    for (ran, expected) in [
        (ran(&mut command()), "Usage"),
        (ran(command().arg("bogus")), "unrecognized subcommand"),
        (inspect("verify", &missing, &[]), "cannot be read"),
        (inspect("verify", here, &[]), "give the DATA_DIR of a node"),
        (inspect("verify", &here.join("file"), &[]), "is a file; give the data directory"),
        (inspect("repair", here, &[]), "--dry-run"),
        (inspect("dump", here, &["--key", "%zz"]), "two hexadecimal digits"),
        (inspect("dump", here, &["--since", "yesterday"]), "no UTC time"),
        (inspect("dump", here, &["--origin", "node"]), "8 hexadecimal digits"),
        (ran(command().args(["man", "bogus"])), "no command 'bogus'"),
    ] {
        assert_eq!((ran.code, &ran.stdout[..]), (1, ""), "{ran:?}");
        assert!(ran.stderr.contains(expected), "{expected}: {ran:?}");
    }
    assert_eq!(fs::read_dir(here).expect("a directory").count(), 1, "nothing was created");
}

#[test]
fn help_manual_and_completions_are_answers() {
    for (args, expected) in [
        (&["--help"][..], "Exit codes:"),
        (&["verify", "--help"], "misplaced"),
        (&["dump", "--help"], "VPUT key=value@version"),
        (&["--version"], "walinspect "),
        (&["man"], ".TH walinspect"),
        (&["man", "dump"], "percent"),
        (&["completions", "bash"], "_walinspect"),
        (&["completions", "zsh"], "#compdef walinspect"),
        (&["completions", "fish"], "complete -c walinspect"),
    ] {
        let ran = ran(command().args(args));
        assert_eq!((ran.code, &ran.stderr[..]), (0, ""), "{args:?}: {ran:?}");
        assert!(ran.stdout.contains(expected), "{args:?}: {ran:?}");
    }
}
