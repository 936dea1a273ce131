//! `dump --follow`, driven by what it prints: every line is waited for before the next thing happens.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use wal::{Incarnation, SegmentNumber};

use crate::support::{NODE, RUN, TestLog, command, data_dir};

struct Follower {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Follower {
    fn start(dir: &std::path::Path, args: &[&str]) -> Follower {
        let mut child = command()
            .args(["dump", "--follow", "--poll-ms", "5"])
            .arg(dir)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the tool runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Follower { child, lines }
    }

    /// The next key that is printed.
    fn key(&mut self) -> String {
        let line = self.lines.next().expect("it goes on").expect("text");
        let (_, rest) = line.split_once(' ').expect("an op and the rest");
        rest.split_once('=').expect("a put").0.to_owned()
    }

    /// Nobody reads any more: it ends by itself, and that is no error.
    fn close(self) {
        let Follower { mut child, lines } = self;
        drop(lines);
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    }
}

#[test]
fn whole_frames_are_shown_as_they_come_across_segments_and_restarts() {
    let dir = data_dir(NODE);
    let mut test = TestLog::new(dir.path(), NODE, RUN);
    test.put("before", "1");
    test.commit();
    test.write();
    let mut follower = Follower::start(dir.path(), &[]);
    assert_eq!(follower.key(), "before");

    let value = "x".repeat(700);
    let mut written = 0;
    while test.log.append_position().0 < SegmentNumber(4) {
        let key = format!("key{written}");
        // Staged, and not in a frame yet: not to be seen.
        test.put(&key, &value);
        test.write();
        test.commit();
        test.write();
        assert_eq!(follower.key(), key);
        written += 1;
    }
    assert!(written > 10, "several frames a segment");

    // Several segments at once.
    for index in 0..30 {
        test.put(&format!("burst{index}"), &value);
        test.commit();
    }
    test.write();
    for index in 0..30 {
        assert_eq!(follower.key(), format!("burst{index}"));
    }

    // A new run begins a new segment.
    let next = test.log.append_position().0.0 + 1;
    let mut restarted = TestLog::from(dir.path(), NODE, Incarnation(5), next, &[0; 4096]);
    restarted.put("restarted", "1");
    restarted.commit();
    restarted.write();
    assert_eq!(follower.key(), "restarted");
    follower.close();
}

#[test]
fn with_durable_a_record_is_shown_once_something_declares_it() {
    let dir = data_dir(NODE);
    let mut test = TestLog::new(dir.path(), NODE, RUN);
    test.put("first", "1");
    test.commit();
    test.write();
    let mut follower = Follower::start(dir.path(), &["--durable"]);
    // The frame of the second record declares the first one durable, and is not declared so itself.
    test.put("second", "2");
    test.commit();
    test.write();
    assert_eq!(follower.key(), "first");
    test.idle();
    test.write();
    assert_eq!(follower.key(), "second");
    follower.close();
}

#[test]
fn a_frame_that_is_larger_than_a_look_is_shown_whole() {
    let dir = data_dir(NODE);
    let mut test = TestLog::new(dir.path(), NODE, RUN);
    let mut follower = {
        test.write();
        Follower::start(dir.path(), &["--prefix", "k"])
    };
    for index in 0..20 {
        test.put(&format!("k{index}"), &"v".repeat(100));
    }
    test.commit();
    test.write();
    for index in 0..20 {
        assert_eq!(follower.key(), format!("k{index}"));
    }
    follower.close();
}
