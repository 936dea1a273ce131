//! What the simulated network, disk and clock promise beyond the conformance suite.
#![allow(clippy::cast_possible_truncation)]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::*;

/// Two nodes with one loop each; completions that were not asked for yet wait in `seen`.
struct Pair {
    world: World,
    nodes: [NodeIndex; 2],
    loops: Vec<SimIo>,
    seen: Vec<Vec<Done>>,
}

const A: usize = 0;
const B: usize = 1;
const MS: u64 = 1_000_000;

fn ip(side: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, side as u8 + 1])
}

fn port_of(side: usize) -> SocketAddr {
    SocketAddr::new(ip(side), 4000)
}

impl Pair {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let nodes = [world.add_node(&[ip(A)]), world.add_node(&[ip(B)])];
        let loops = nodes.iter().map(|node| SimIo::new(&world, *node)).collect();
        Pair { world, nodes, loops, seen: vec![Vec::new(), Vec::new()] }
    }

    /// One tick of whichever loop is next; `false` at `limit`.
    fn tick(&mut self, limit: Mono) -> bool {
        let Some(id) = self.world.step_until(limit) else { return false };
        let side = self.loops.iter().position(|io| io.id() == id).unwrap();
        self.loops[side].poll(Wait::Until(Mono(u64::MAX)), &mut self.seen[side]).unwrap();
        true
    }

    fn run_ms(&mut self, ms: u64) {
        let limit = self.world.now().plus_ms(ms);
        while self.tick(limit) {}
    }

    fn submit(&mut self, side: usize, op: Operation, tag: u64) {
        self.loops[side].submit(op, Tag(tag)).unwrap();
    }

    /// Runs until this completion arrives, at most an hour.
    fn expect(&mut self, side: usize, tag: u64) -> Done {
        let limit = self.world.now().plus_ms(3_600_000);
        loop {
            if let Some(index) = self.seen[side].iter().position(|completion| completion.tag == Tag(tag)) {
                return self.seen[side].remove(index);
            }
            assert!(self.tick(limit), "no completion {tag} at {side}");
        }
    }

    fn connect(&mut self, kind: StreamKind) -> (Socket, Socket) {
        let listener = self.loops[B].listen(port_of(B), kind, false).unwrap();
        self.submit(B, Op::Accept { listener }, 1);
        self.submit(A, Op::Connect { local: None, to: port_of(B), kind }, 2);
        let Ok(Outcome::Connected(near)) = self.expect(A, 2).result else { panic!("not connected") };
        let Ok(Outcome::Accepted(far, _)) = self.expect(B, 1).result else { panic!("not accepted") };
        (near, far)
    }

    fn send(&mut self, side: usize, socket: Socket, bytes: &[u8], tag: u64) {
        self.submit(side, Op::Send { socket, runs: vec![Bytes::copy_from_slice(bytes)] }, tag);
    }
}

#[test]
fn one_seed_gives_one_trace() {
    let run = |seed| {
        let mut pair = Pair::new(seed);
        pair.world.set_loss(ip(A), ip(B), 50_000);
        let (near, far) = pair.connect(StreamKind::Mesh);
        pair.submit(B, Op::Recv { socket: far }, 3);
        for tag in 10..40 {
            pair.send(A, near, &vec![7; 50_000], tag);
            assert!(pair.expect(A, tag).result.is_ok());
        }
        pair.run_ms(60_000);
        assert_eq!(pair.world.bytes_between(ip(A), ip(B)), 30 * 50_000);
        assert_eq!(pair.world.bytes_between(ip(B), ip(A)), 0);
        pair.world.trace_hash()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn connecting_takes_a_round_trip() {
    let mut pair = Pair::new(3);
    pair.world.set_delay(ip(A), ip(B), 37 * MS);
    pair.world.set_delay(ip(B), ip(A), 40 * MS);
    let before = pair.world.now();
    pair.connect(StreamKind::Mesh);
    let took = pair.world.now().since(before);
    assert!((77 * MS..90 * MS).contains(&took), "{took}");
}

#[test]
fn bytes_wait_behind_a_cut_and_arrive_late_and_in_order() {
    let mut pair = Pair::new(4);
    let (near, far) = pair.connect(StreamKind::Client);
    pair.submit(B, Op::Recv { socket: far }, 3);
    pair.world.cut(ip(A), ip(B));
    pair.send(A, near, b"first", 4);
    assert!(pair.expect(A, 4).result.is_ok(), "the kernel takes them");
    pair.send(A, near, b"second", 5);
    // The other way is open.
    pair.submit(A, Op::Recv { socket: near }, 6);
    pair.send(B, far, b"back", 7);
    assert_eq!(&*pair.expect(A, 6).buf.unwrap(), b"back");
    pair.run_ms(20_000);
    assert!(pair.seen[B].iter().all(|completion| completion.tag != Tag(3)));
    let healed = pair.world.now();
    pair.world.heal(ip(A), ip(B));
    let mut got = Vec::new();
    while got.len() < 11 {
        got.extend_from_slice(&pair.expect(B, 3).buf.unwrap());
    }
    assert_eq!(got, b"firstsecond");
    assert!(pair.world.now().since(healed) >= 50 * MS);
}

#[test]
fn a_connect_across_a_cut_times_out() {
    let mut pair = Pair::new(5);
    let listener = pair.loops[B].listen(port_of(B), StreamKind::Mesh, false).unwrap();
    pair.submit(B, Op::Accept { listener }, 1);
    pair.world.cut(ip(B), ip(A));
    pair.submit(A, Op::Connect { local: None, to: port_of(B), kind: StreamKind::Mesh }, 2);
    assert_eq!(pair.expect(A, 2).result.unwrap_err().kind(), ErrorKind::TimedOut);
    // Nobody is there at all.
    pair.submit(A, Op::Connect { local: None, to: "10.9.9.9:1".parse().unwrap(), kind: StreamKind::Mesh }, 3);
    assert_eq!(pair.expect(A, 3).result.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn a_mesh_stream_to_a_dead_peer_times_out() {
    let mut pair = Pair::new(6);
    let (near, _) = pair.connect(StreamKind::Mesh);
    pair.submit(A, Op::Recv { socket: near }, 3);
    pair.world.crash(pair.nodes[B]);
    pair.run_ms(60_000);
    assert!(pair.seen[A].is_empty(), "an idle stream notices nothing");
    let before = pair.world.now();
    pair.send(A, near, b"swallowed", 4);
    assert!(pair.expect(A, 4).result.is_ok());
    assert_eq!(pair.expect(A, 3).result.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(pair.world.now().since(before) >= 10_000 * MS);
}

#[test]
fn a_restarted_peer_answers_with_a_reset() {
    let mut pair = Pair::new(7);
    let (near, _) = pair.connect(StreamKind::Client);
    pair.submit(A, Op::Recv { socket: near }, 3);
    pair.world.crash(pair.nodes[B]);
    pair.send(A, near, b"swallowed", 4);
    pair.run_ms(30_000);
    assert!(pair.seen[A].iter().all(|completion| completion.tag != Tag(3)));
    pair.loops[B] = SimIo::new(&pair.world, pair.nodes[B]);
    assert_eq!(pair.expect(A, 3).result.unwrap_err().kind(), ErrorKind::ConnectionReset);
    // And nobody listens yet.
    pair.submit(A, Op::Connect { local: None, to: port_of(B), kind: StreamKind::Client }, 5);
    assert_eq!(pair.expect(A, 5).result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_killed_process_says_goodbye_and_keeps_its_page_cache() {
    let mut pair = Pair::new(8);
    let (near, _) = pair.connect(StreamKind::Mesh);
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
fn a_random_reset_ends_both_ends() {
    let mut pair = Pair::new(9);
    assert!(!pair.world.reset_random_stream());
    let (near, far) = pair.connect(StreamKind::Mesh);
    pair.submit(A, Op::Recv { socket: near }, 3);
    pair.submit(B, Op::Recv { socket: far }, 4);
    assert!(pair.world.reset_random_stream());
    assert_eq!(pair.expect(A, 3).result.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(pair.expect(B, 4).result.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn the_wall_clock_can_be_set_off() {
    let pair = Pair::new(10);
    let [a, b] = [&pair.loops[A], &pair.loops[B]];
    assert_eq!(a.wall_unix_ms(), b.wall_unix_ms());
    pair.world.set_wall_offset(pair.nodes[B], -3_600_000);
    assert_eq!(a.wall_unix_ms(), b.wall_unix_ms() + 3_600_000);
}

fn prepared(disk: &SimDisk, path: &str, len: u64) -> SimFile {
    let job = FileJob::Prepare { path: path.into(), len, head: Bytes::from_static(b"head") };
    match disk.run(job) {
        Ok(Outcome::Opened(file)) => file,
        other => panic!("not prepared: {other:?}"),
    }
}

/// Writes `byte` over the whole file, as a mapping does.
fn fill(file: &SimFile, byte: u8) {
    file.live().lock().unwrap().fill(byte);
}

#[test]
fn a_crash_keeps_what_was_synced_and_any_subset_of_sectors_of_the_rest() {
    let mut kept = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut pair = Pair::new(seed);
        let disk = pair.world.disk(pair.nodes[A]);
        let file = prepared(&disk, "/d/tmp", 4096);
        disk.run(FileJob::Rename { from: "/d/tmp".into(), to: "/d/log".into() }).unwrap();
        fill(&file, 1);
        pair.submit(A, Op::Sync { file: file.clone(), range: None }, 1);
        // Stored after the submission: not part of it.
        fill(&file, 2);
        assert!(pair.expect(A, 1).result.is_ok());
        assert_eq!(disk.read_durable(&file, 0, 4096).unwrap(), vec![1; 4096]);
        pair.world.crash(pair.nodes[A]);
        let file = disk.open(Path::new("/d/log")).unwrap();
        let after = disk.read_durable(&file, 0, 4096).unwrap();
        assert_eq!(*file.live().lock().unwrap(), after);
        for sector in after.chunks(512) {
            assert!(sector == [1; 512] || sector == [2; 512], "a sector is old or new");
        }
        kept.insert(after);
    }
    assert!(kept.len() > 30, "any subset, not all or nothing");
}

#[test]
fn directory_entries_survive_a_crash_only_after_a_directory_sync() {
    let (mut lost, mut survived) = (0, 0);
    for seed in 0..40 {
        let pair = Pair::new(seed);
        let disk = pair.world.disk(pair.nodes[A]);
        disk.create_dir_all(Path::new("/d")).unwrap();
        prepared(&disk, "/d/tmp", 4096);
        disk.run(FileJob::Rename { from: "/d/tmp".into(), to: "/d/kept".into() }).unwrap();
        prepared(&disk, "/d/other", 4096);
        pair.world.crash(pair.nodes[A]);
        match disk.list(Path::new("/d")).unwrap().as_slice() {
            [kept] if kept == "kept" => lost += 1,
            [kept, other] if kept == "kept" && other == "other" => survived += 1,
            names => panic!("{names:?}"),
        }
    }
    assert!(lost > 5 && survived > 5, "{lost} {survived}");
}

#[test]
fn a_crash_can_fall_between_a_rename_and_its_directory_sync() {
    let mut states = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let mut pair = Pair::new(seed);
        let disk = pair.world.disk(pair.nodes[A]);
        prepared(&disk, "/d/one", 4096);
        prepared(&disk, "/d/zero", 4096);
        disk.run(FileJob::Rename { from: "/d/zero".into(), to: "/d/two".into() }).unwrap();
        pair.submit(A, Op::File(FileJob::Rename { from: "/d/one".into(), to: "/d/three".into() }), 1);
        let limit = Mono(pair.world.now().0 + pair.world.random_below(2 * MS));
        while pair.tick(limit) {}
        let done = pair.seen[A].iter().any(|completion| completion.tag == Tag(1));
        pair.world.crash(pair.nodes[A]);
        let names = disk.list(Path::new("/d")).unwrap();
        assert!(!done || names == ["three", "two"], "a completed rename is durable");
        states.insert((done, names));
    }
    assert!(states.len() >= 3, "{states:?}");
}

#[test]
fn after_a_failed_sync_the_next_succeeds_and_the_disk_holds_old_bytes() {
    let mut pair = Pair::new(11);
    let disk = pair.world.disk(pair.nodes[A]);
    let file = prepared(&disk, "/d/log", 4096);
    fill(&file, 5);
    pair.world.fail_next_sync(pair.nodes[A]);
    pair.submit(A, Op::Sync { file: file.clone(), range: None }, 1);
    assert_eq!(pair.expect(A, 1).result.unwrap_err().raw_os_error(), Some(libc::EIO));
    pair.submit(A, Op::Sync { file: file.clone(), range: None }, 2);
    assert!(pair.expect(A, 2).result.is_ok());
    assert_ne!(disk.read_durable(&file, 0, 512).unwrap(), vec![5; 512]);
    // A sector that changes again is written again.
    file.live().lock().unwrap()[0] = 6;
    disk.sync(&file).unwrap();
    assert_eq!(disk.read_durable(&file, 0, 2).unwrap(), [6, 5]);
    assert_ne!(disk.read_durable(&file, 512, 512).unwrap(), vec![5; 512]);
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing_behind() {
    let mut pair = Pair::new(12);
    let disk = pair.world.disk(pair.nodes[A]);
    let file = prepared(&disk, "/d/log", 4096);
    pair.world.set_disk_full(pair.nodes[A], true);
    let job = FileJob::Prepare { path: "/d/next".into(), len: 4096, head: Bytes::new() };
    pair.submit(A, Op::File(job), 1);
    assert_eq!(pair.expect(A, 1).result.unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(disk.list(Path::new("/d")).unwrap(), ["log"]);
    let grow = Op::Write { file: file.clone(), offset: 4000, bytes: Bytes::from(vec![1; 200]), dsync: true };
    pair.submit(A, grow, 2);
    assert_eq!(pair.expect(A, 2).result.unwrap_err().kind(), ErrorKind::StorageFull);
    let inside = Op::Write { file: file.clone(), offset: 0, bytes: Bytes::from(vec![1; 200]), dsync: true };
    pair.submit(A, inside, 3);
    assert!(pair.expect(A, 3).result.is_ok());
    assert_eq!(disk.read_durable(&file, 0, 200).unwrap(), vec![1; 200]);
    pair.world.set_disk_full(pair.nodes[A], false);
    prepared(&disk, "/d/next", 4096);
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
fn rot_shows_in_both_reads() {
    let pair = Pair::new(14);
    let disk = pair.world.disk(pair.nodes[A]);
    let file = prepared(&disk, "/d/log", 4096);
    pair.world.rot(pair.nodes[A], Path::new("/d/log"), 0, 1).unwrap();
    assert_eq!(disk.read_durable(&file, 0, 4).unwrap(), b"iead");
    assert_eq!(&file.live().lock().unwrap()[..4], b"iead");
    assert!(pair.world.rot(pair.nodes[A], Path::new("/d/log"), 4096, 1).is_err());
}
