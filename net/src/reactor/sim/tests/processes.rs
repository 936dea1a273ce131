//! Processes: how they stop, go on, and die.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::*;

#[test]
fn a_killed_process_says_goodbye_and_keeps_its_page_cache() {
    let mut pair = Pair::new(8);
    let (near, _) = pair.connect(StreamKind::Replication);
    pair.submit(A, Op::Recv { socket: near }, 3);
    let file = prepared(&pair.world.disk(pair.nodes[B]), "/d/file", 4096);
    file.live().lock().unwrap()[0] = 9;
    pair.world.kill(pair.nodes[B]);
    let end = pair.expect(A, 3);
    assert!(!end.more && end.buf.unwrap().is_empty());
    let disk = pair.world.disk(pair.nodes[B]);
    let file = disk.open(Path::new("/d/file")).unwrap();
    assert_eq!(disk.read_durable(&file, 0, 1).unwrap(), b"h");
    disk.sync(&file).unwrap();
    assert_eq!(disk.read_durable(&file, 0, 1).unwrap(), [9]);
}

#[test]
fn a_lock_is_exclusive_and_ends_with_the_node() {
    let pair = Pair::new(13);
    let disk = pair.world.disk(pair.nodes[A]);
    let path = PathBuf::from("/d/lock");
    let first = disk.lock(&path).unwrap();
    assert_eq!(disk.lock(&path).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(first);
    let second = disk.lock(&path).unwrap();
    pair.world.crash(pair.nodes[A]);
    let _third = disk.lock(&path).unwrap();
    // The dead process's guard is dropped late and must not free the new one.
    drop(second);
    assert_eq!(disk.lock(&path).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_paused_node_is_silent_while_its_kernel_goes_on() {
    let mut pair = Pair::new(40);
    let (near, far) = pair.connect(StreamKind::Replication);
    pair.submit(B, Op::Recv { socket: far }, 3);
    let disk = pair.world.disk(pair.nodes[B]);
    let file = prepared(&disk, "/d/log", 4096);
    fill(&file, 7);
    pair.submit(B, Op::Sync { file: file.clone(), range: None }, 4);
    let job = FileJob::Prepare { path: "/d/next".into(), len: 4096, head: Bytes::new() };
    pair.submit(B, Op::File(job), 5);
    pair.world.pause(pair.nodes[B]);
    let stopped = pair.world.now();
    pair.send(A, near, b"hello", 6);
    assert!(pair.expect(A, 6).result.is_ok());
    let turns = pair.world.stats().turns;
    pair.run_ms(60_000);
    assert!(pair.seen[B].is_empty());
    assert!(pair.world.stats().turns < turns + 10, "a paused node costs nothing");
    assert_eq!(disk.read_durable(&file, 0, 4096).unwrap(), vec![7; 4096], "the sync went on");
    assert!(pair.world.job_steps(pair.nodes[B]) <= 1, "the helper thread is stopped, too");
    // Nobody gave the stream up: the kernel acknowledged.
    pair.world.resume(pair.nodes[B]);
    assert_eq!(&*pair.expect(B, 3).buf.unwrap(), b"hello");
    assert!(pair.expect(B, 4).result.is_ok());
    assert!(pair.expect(B, 5).result.is_ok());
    assert!(pair.world.now().since(stopped) >= 60_000 * MS);
}

#[test]
fn timers_of_a_paused_node_fire_late() {
    let mut pair = Pair::new(41);
    pair.run_ms(1);
    let deadline = pair.world.now().plus_ms(100);
    let mut out = Vec::new();
    pair.loops[B].poll(Wait::Until(deadline), &mut out).unwrap();
    pair.world.pause(pair.nodes[B]);
    while let Some(id) = pair.world.step_until(deadline.plus_ms(900)) {
        assert_eq!(id, pair.loops[A].id());
        pair.loops[A].poll(Wait::Until(Mono(u64::MAX)), &mut out).unwrap();
    }
    pair.world.resume(pair.nodes[B]);
    assert_eq!(pair.world.step(), Some(pair.loops[B].id()));
    assert_eq!(pair.world.now(), deadline.plus_ms(900));
}

#[test]
fn one_loop_can_be_held_up() {
    let mut pair = Pair::new(42);
    let second = SimIo::new(&pair.world, pair.nodes[B]);
    let until = pair.world.now().plus_ms(500);
    pair.world.pause_loop(pair.loops[B].id(), until);
    let (first, second) = (pair.loops[B].id(), second.id());
    let mut turns = Vec::new();
    pair.loops[B].waker().wake();
    while let Some(id) = pair.world.step_until(until) {
        turns.push((id, pair.world.now()));
        if id == first {
            break;
        }
        if id == pair.loops[A].id() {
            pair.loops[A].poll(Wait::Until(Mono(u64::MAX)), &mut Vec::new()).unwrap();
        }
        // The second loop never polls, and so has turn after turn: only time is missing.
        if turns.len() > 20 {
            pair.world.pause_loop(second, Mono(u64::MAX));
        }
    }
    assert_eq!(turns.last(), Some(&(first, until)));
    assert!(turns.iter().any(|(id, _)| *id == second));
}

#[test]
fn a_process_dies_right_before_the_effect_that_was_named() {
    for effects in 1..=4 {
        let mut pair = Pair::new(43);
        let (near, far) = pair.connect(StreamKind::Replication);
        pair.submit(B, Op::Recv { socket: far }, 3);
        let file = prepared(&pair.world.disk(pair.nodes[A]), "/d/log", 4096);
        pair.world.arm_crash(pair.nodes[A], effects);
        for tag in 10..13u64 {
            // Stored before the effect: seen. After death: not.
            file.live().lock().unwrap()[tag as usize] = 1;
            pair.send(A, near, &[tag as u8], tag);
            let _ = pair.expect_or_none(A, tag);
        }
        let died = pair.world.take_crashed();
        assert_eq!(died, (effects <= 3).then_some(pair.nodes[A]));
        assert_eq!(pair.world.take_crashed(), None, "once");
        pair.world.kill(pair.nodes[A]);
        pair.run_ms(1_000);
        let got: Vec<u8> = pair.seen[B].iter().flat_map(|done| done.buf.iter().flat_map(|buf| buf.to_vec())).collect();
        assert_eq!(got, (10..13).take(effects as usize - 1).collect::<Vec<u8>>());
        let disk = pair.world.disk(pair.nodes[A]);
        let stored = disk.open(Path::new("/d/log")).unwrap().live().lock().unwrap()[10..13].to_vec();
        assert_eq!(stored, (1..=3).map(|number| u8::from(number <= effects)).collect::<Vec<u8>>());
    }
}

#[test]
fn a_crash_can_strike_between_the_steps_of_a_job() {
    for (effects, names) in [(1, &["log"][..]), (2, &["log", "next"]), (3, &["log", "next"]), (4, &["log", "next"])] {
        let mut pair = Pair::new(44);
        let disk = pair.world.disk(pair.nodes[A]);
        prepared(&disk, "/d/log", 4096);
        let job = FileJob::Prepare { path: "/d/next".into(), len: 4096, head: Bytes::from_static(b"head") };
        pair.submit(A, Op::File(job), 1);
        pair.world.arm_crash(pair.nodes[A], effects);
        pair.run_ms(1_000);
        assert_eq!(pair.world.take_crashed(), (effects <= 3).then_some(pair.nodes[A]));
        assert_eq!(pair.seen[A].len(), usize::from(effects > 3), "a dead process hears nothing");
        pair.world.kill(pair.nodes[A]);
        assert_eq!(disk.list(Path::new("/d")).unwrap(), names);
    }
}

#[test]
fn start_up_dies_at_any_of_its_effects_and_checkers_go_on_looking() {
    let start = |disk: &SimDisk| -> io::Result<()> {
        disk.create_dir_all(Path::new("/d"))?;
        disk.list(Path::new("/d"))?;
        let job = FileJob::Prepare { path: "/d/log".into(), len: 4096, head: Bytes::from_static(b"head") };
        let Outcome::Opened(file) = disk.run(job)? else { panic!("not opened") };
        disk.sync(&file)?;
        disk.read_durable(&file, 0, 1)?;
        disk.lock(Path::new("/d/lock")).map(drop)
    };
    let mut deaths = 0;
    for effects in 1.. {
        let world = World::new(45);
        let node = world.add_node(&[ip(A)]);
        world.arm_crash(node, effects);
        let disk = world.startup_disk(node);
        let Err(error) = start(&disk) else { break };
        deaths += 1;
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Interrupted, "the process was killed here"));
        assert!(disk.list(Path::new("/d")).is_err(), "the dead do not look");
        assert_eq!(world.disk(node).list(Path::new("/d")).is_ok(), effects > 1);
        assert_eq!(world.take_crashed(), Some(node));
        world.kill(node);
        assert!(effects < 3 || disk.list(Path::new("/d")).is_ok(), "the next process lives");
    }
    // One directory, three steps, one sync.
    assert_eq!(deaths, 5);
}

#[test]
fn a_disarmed_crash_does_not_strike() {
    let mut pair = Pair::new(46);
    let file = prepared(&pair.world.disk(pair.nodes[A]), "/d/log", 4096);
    pair.world.arm_crash(pair.nodes[A], 1);
    pair.world.disarm_crash(pair.nodes[A]);
    pair.submit(A, Op::Sync { file, range: None }, 1);
    assert!(pair.expect(A, 1).result.is_ok());
    assert_eq!(pair.world.take_crashed(), None);
}
