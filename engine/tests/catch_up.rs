//! The sending side under pressure: cursors that fall out of memory at awkward places, and cores that must not starve.

use bytes::Bytes;
use engine::clock::Time;
use engine::replication::logs::{OwnLog, OwnLogs, SegmentRef};
use engine::replication::send::{ReadRequest, Sender, Step};
use engine::shard::{Shard, ShardIdentity, ShardSettings, WriteError};
use engine::storage::NodeSecret;
use engine::storage::store::Store;
use net::ids::{StreamOffset, Version as WireVersion};
use net::reactor::Mono;
use net::wire::body::FollowLog;
use wal::{
    CommitPath, Cookie, CoreId, EPOCH_2020_UNIX_MS, Incarnation, Lsn, MemoryMap, NodeId, RecordOp, RecordView, Segment,
    SegmentNumber, Version,
};

const SEGMENT_BYTES: usize = 1024 * 1024;
const SECRET: NodeSecret = NodeSecret(7);

/// One core of the source: its shard, and its segments as files would hold them.
struct Core {
    shard: Shard<MemoryMap>,
    files: Vec<MemoryMap>,
    core: u16,
    ms: u64,
    written: u64,
}

impl Core {
    fn new(core: u16, logs: &mut OwnLogs) -> Core {
        let identity =
            ShardIdentity { node: NodeId(9), incarnation: Incarnation(1), core: CoreId(core), secret: SECRET };
        let map = MemoryMap::new(SEGMENT_BYTES);
        let first = Segment { number: SegmentNumber(1), cookie: Cookie(1), base: Lsn(0), map: map.clone() };
        let settings = ShardSettings {
            segment_bytes: SEGMENT_BYTES as u64,
            value_bytes_max: SEGMENT_BYTES / 4,
            commit_path: CommitPath::Mmap,
            cores: 1,
        };
        let shard = Shard::new(identity, settings, first, Store::new(4, NodeId(9)), Version::ZERO);
        let mut core = Core { shard, files: vec![map], core, ms: 0, written: 0 };
        core.announce(1, logs);
        core
    }

    fn announce(&mut self, number: u64, logs: &mut OwnLogs) {
        let segment = SegmentRef {
            core: CoreId(self.core),
            number: SegmentNumber(number),
            cookie: Cookie(number),
            base: Lsn((number - 1) * SEGMENT_BYTES as u64),
            end: None,
        };
        logs.logs[0].cores[usize::from(self.core)].segments.push(segment);
    }

    fn time(&self) -> Time {
        Time { mono: Mono(1), unix_ms: EPOCH_2020_UNIX_MS + 1_000_000 + self.ms }
    }

    /// Keeps a spare segment, as the driver does.
    fn supply(&mut self, logs: &mut OwnLogs) {
        if self.shard.log().needs_segment() {
            let plan = self.shard.log().next_segment_plan();
            let map = MemoryMap::new(SEGMENT_BYTES);
            self.files.push(map.clone());
            let cookie = Cookie(plan.number.0);
            self.shard.supply(Segment { number: plan.number, cookie, base: plan.base, map });
            self.announce(plan.number.0, logs);
        }
    }

    /// One group of `count` writes; `synced` is called after every sync.
    fn write(&mut self, logs: &mut OwnLogs, count: u8, bytes: usize, mut synced: impl FnMut(&OwnLogs, &Core)) {
        self.ms += 1;
        for key in 0..count {
            self.supply(logs);
            let time = self.time();
            self.shard.put(SECRET.hash(&[key]), &[key], &vec![1; bytes], None, time).expect("room");
            self.written += 1;
        }
        self.shard.seal_group().expect("room for the ceiling");
        while self.shard.next_commit().is_some() {
            let frames = self.shard.sync_done();
            let (durable, complete) = (self.shard.log().durable(), self.shard.complete());
            logs.logs[0].cores[usize::from(self.core)].extend(durable, complete, frames);
            synced(logs, self);
        }
    }

    fn read(&self, request: &ReadRequest) -> Bytes {
        let file = &self.files[usize::try_from(request.segment.number.0 - 1).unwrap()];
        let start = usize::try_from(request.offset).unwrap();
        Bytes::from(file.to_vec()).slice(start..start + request.len as usize)
    }
}

fn logs(cores: u16) -> OwnLogs {
    OwnLogs { logs: vec![OwnLog::new(NodeId(9), Incarnation(1), Version(1), cores)] }
}

fn follow(sender: &mut Sender, logs: &OwnLogs) {
    let wanted = [FollowLog::all(logs.logs[0].id, WireVersion(0))];
    sender.follow(logs, &wanted, StreamOffset(u64::MAX));
}

/// Versions of the records in a batch.
fn versions(runs: &[Bytes]) -> Vec<u64> {
    let mut found = Vec::new();
    for run in runs {
        let mut at = 0;
        while at < run.len() {
            let (record, len) = RecordView::parse(&run[at..]).expect("a whole record");
            if record.op == RecordOp::Put {
                found.push(record.version.0);
            }
            at += len;
        }
    }
    found
}

/// Serves the follower until there is nothing to do.
fn drain(sender: &mut Sender, logs: &OwnLogs, core: &Core, seen: &mut Vec<u64>) {
    loop {
        match sender.step(logs) {
            Step::Records { runs, .. } => seen.extend(versions(&runs)),
            Step::Claim(_) => {}
            Step::Read(request) => sender.read_done(&core.read(&request)).expect("what the log holds"),
            Step::Idle | Step::Sift(_) | Step::Given(_) => return,
        }
    }
}

/// A follower stops exactly at the end of a segment, served from memory, and falls out of memory there: what lies behind the
/// segment's last frame is not the log, and nothing may be missing afterwards.
#[test]
fn a_cursor_that_leaves_memory_at_the_end_of_a_segment_goes_on_in_the_next() {
    let mut logs = logs(1);
    let mut core = Core::new(0, &mut logs);
    let mut sender = Sender::default();
    let mut seen: Vec<u64> = Vec::new();
    let (mut following, mut stopped) = (false, false);
    for _ in 0..130 {
        core.write(&mut logs, 2, 100_000, |logs, core| {
            if !following {
                following = true;
                follow(&mut sender, logs);
            }
            if !stopped {
                drain(&mut sender, logs, core, &mut seen);
            }
            let in_second = core.shard.log().append_position().0 == SegmentNumber(2);
            stopped |= in_second && core.shard.log().durable().0 < SEGMENT_BYTES as u64;
        });
    }
    assert!(stopped, "the rotation synced the first segment by itself");
    drain(&mut sender, &logs, &core, &mut seen);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len() as u64, core.written);
    assert_eq!(sender.claimed(logs.logs[0].id), Some(logs.logs[0].complete()));
}

/// One core is written as fast as the link carries, the other is far behind and idle: it must catch up, and claims must rise.
#[test]
fn a_busy_core_does_not_starve_the_other() {
    let mut logs = logs(2);
    let mut cores = [Core::new(0, &mut logs), Core::new(1, &mut logs)];
    for _ in 0..60 {
        cores.iter_mut().for_each(|core| core.write(&mut logs, 1, 200_000, |_, _| {}));
    }
    let mut sender = Sender::default();
    follow(&mut sender, &logs);
    let (mut batches, mut sent, mut claims) = (0, [0; 2], 0);
    while batches < 400 {
        match sender.step(&logs) {
            Step::Read(request) => {
                let bytes = cores[usize::from(request.segment.core.0)].read(&request);
                sender.read_done(&bytes).expect("the log");
            }
            Step::Records { head, runs } => {
                batches += 1;
                sent[usize::from(head.core.0)] += versions(&runs).len();
                cores[0].write(&mut logs, 1, 200_000, |_, _| {});
            }
            Step::Claim(_) => claims += 1,
            Step::Idle | Step::Sift(_) | Step::Given(_) => break,
        }
    }
    assert_eq!(sent[1], 60, "the idle core's backlog was sent");
    assert!(sent[0] > 100 && claims > 0, "{sent:?}, {claims} claims");
}

/// The clock's ceiling needs room, too. A write that found room is never held up by a ceiling that did not.
#[test]
fn a_group_is_sealed_when_the_ceiling_finds_no_room() {
    let mut logs = logs(1);
    let mut core = Core::new(0, &mut logs);
    // No spare is supplied: the segment fills up.
    let full = loop {
        core.ms += 200;
        let time = core.time();
        match core.shard.put(SECRET.hash(b"k"), b"k", &[1; 10_000], None, time) {
            Ok(end) => {
                core.shard.seal_group().expect("what was taken can be sealed");
                while core.shard.next_commit().is_some() {
                    core.shard.sync_done();
                }
                assert!(core.shard.log().durable() >= end, "what was taken becomes durable");
            }
            Err(error) => break error,
        }
    };
    assert_eq!(full, WriteError::NoSegment);
    let claimed = core.shard.complete();
    // A raise far above the ceiling finds no room: the promise stays, nothing else is stuck.
    core.shard.raise(Version::new(claimed.ms() + 10_000, 0, 0));
    let mut small = 0;
    while core.shard.append_local(&wal::ControlRecord::ClockCeiling { version: Version(1) }).is_ok() {
        small += 1;
    }
    let staged = core.shard.log().staged();
    assert!(core.shard.seal_group().is_err(), "no room for the ceiling");
    while core.shard.next_commit().is_some() {
        core.shard.sync_done();
    }
    assert!(core.shard.log().durable() >= staged, "{small} small records were sealed all the same");
    assert!(core.shard.complete() < Version::new(claimed.ms() + 10_000, 0, 0), "no promise above the durable ceiling");
}

/// What a follower got, each version with the core that gave it, and the claims over it.
#[derive(Default)]
struct Got {
    versions: Vec<(u16, u64)>,
    claims: Vec<(u64, u64)>,
}

fn serve(sender: &mut Sender, logs: &OwnLogs, cores: &[Core], got: &mut Got) {
    loop {
        match sender.step(logs) {
            Step::Records { head, runs } => {
                got.versions.extend(versions(&runs).into_iter().map(|version| (head.core.0, version)));
            }
            Step::Claim(claim) => got.claims.push((claim.from.0, claim.to.0)),
            Step::Read(request) => {
                let bytes = cores[usize::from(request.segment.core.0)].read(&request);
                sender.read_done(&bytes).expect("what the log holds");
            }
            Step::Idle | Step::Sift(_) | Step::Given(_) => return,
        }
    }
}

#[test]
fn who_lacks_little_gets_all_of_it_on_the_live_connection_and_who_lacks_much_is_told_so() {
    let mut logs = logs(1);
    let mut core = Core::new(0, &mut logs);
    core.write(&mut logs, 10, 10_000, |_, _| {});
    let held = WireVersion(logs.logs[0].complete().0);
    core.write(&mut logs, 5, 10_000, |_, _| {});
    let log = logs.logs[0].id;
    let judge = |from: WireVersion, bytes_max: u64| {
        let mut sender = Sender::default();
        let backlog = sender.follow_live(&logs, &[FollowLog::all(log, from)], StreamOffset(u64::MAX), bytes_max);
        let backlog = backlog.expect("it asked for a log of this node");
        // Asked again it says the same, whatever the follower has got meanwhile.
        let newest = [FollowLog::all(log, WireVersion(logs.logs[0].complete().0))];
        let again = sender.follow_live(&logs, &newest, StreamOffset(u64::MAX), bytes_max).unwrap();
        assert_eq!(again.logs, backlog.logs);
        backlog
    };
    assert_eq!(judge(held, 60_000).logs, [], "what is in memory is counted exactly");
    let lacking = judge(held, 49_000);
    assert_eq!((lacking.logs.len(), lacking.logs[0].log), (1, log));
    assert_eq!(lacking.logs[0].upto.0, logs.logs[0].complete().0);
    assert!((50_000..60_000).contains(&lacking.left), "{}", lacking.left);
    assert_eq!(judge(WireVersion(0), 149_000).logs.len(), 1);
    assert_eq!(judge(WireVersion(logs.logs[0].complete().0), 0).logs, [], "who has everything lacks nothing");
    let pass = [FollowLog::all(net::ids::LogId { node: net::ids::NodeId(8), ..log }, WireVersion(0))];
    assert_eq!(
        Sender::default().follow_live(&logs, &pass, StreamOffset(0), 0),
        None,
        "a wish for a pass is not judged"
    );
}

/// What is written while a follower catches up goes to it at once, what it lacks beside that, and nothing of it twice.
#[test]
fn what_lies_behind_and_what_is_written_travel_apart_and_meet() {
    let mut logs = logs(2);
    let mut cores = [Core::new(0, &mut logs), Core::new(1, &mut logs)];
    // More than is kept in memory: most of it has to be read.
    for _ in 0..60 {
        cores.iter_mut().for_each(|core| core.write(&mut logs, 2, 100_000, |_, _| {}));
    }
    let log = logs.logs[0].id;
    let (mut live, mut bulk) = (Sender::default(), Sender::default());
    let wanted = [FollowLog::all(log, WireVersion(0))];
    let backlog = live.follow_live(&logs, &wanted, StreamOffset(u64::MAX), 1_000_000).unwrap();
    let upto = backlog.logs[0].upto;
    assert!(backlog.left > 20_000_000, "{}", backlog.left);
    let before: u64 = cores.iter().map(|core| core.written).sum();
    cores.iter_mut().for_each(|core| core.write(&mut logs, 10, 100_000, |_, _| {}));
    let mut now = Got::default();
    serve(&mut live, &logs, &cores, &mut now);
    assert_eq!(now.versions.len(), 20);
    assert!(now.versions.iter().all(|(_, version)| *version > upto.0));
    assert_eq!(now.claims.first().map(|(from, _)| *from), Some(upto.0), "its claims begin where the log begins there");
    let mut behind = Got::default();
    bulk.follow(&logs, &[FollowLog { log, from: WireVersion(0), upto }], StreamOffset(u64::MAX));
    let left = bulk.left(&logs).unwrap();
    assert!(left > 20_000_000, "{left}");
    serve(&mut bulk, &logs, &cores, &mut behind);
    assert_eq!(behind.claims.first().map(|(from, _)| *from), Some(0));
    assert!(behind.claims.last().unwrap().1 >= upto.0, "{:?} up to {upto:?}", behind.claims.last());
    let mut upto_there: Vec<_> = behind.versions.iter().copied().filter(|(_, version)| *version <= upto.0).collect();
    upto_there.sort_unstable();
    upto_there.dedup();
    assert_eq!(upto_there.len() as u64, before);
    let again = behind.versions.len() - upto_there.len();
    assert!(again * 100_000 <= 2 * 1024 * 1024, "{again} of those behind it: what was read with the last ones");
    assert_eq!(bulk.left(&logs), Some(0));
    // What is written from now on is not sent there.
    cores.iter_mut().for_each(|core| core.write(&mut logs, 10, 100_000, |_, _| {}));
    serve(&mut bulk, &logs, &cores, &mut Got::default());
    let sent = bulk.sent();
    cores.iter_mut().for_each(|core| core.write(&mut logs, 10, 100_000, |_, _| {}));
    serve(&mut bulk, &logs, &cores, &mut Got::default());
    assert_eq!(bulk.sent(), sent);
    // A live connection that broke begins later: the rest comes where the stream stood.
    let upto = WireVersion(logs.logs[0].complete().0);
    bulk.follow(&logs, &[FollowLog { log, from: WireVersion(0), upto }], StreamOffset(u64::MAX));
    serve(&mut bulk, &logs, &cores, &mut behind);
    assert_eq!(bulk.claimed(log).map(|claimed| claimed.0 >= upto.0), Some(true));
    assert!(bulk.sent() - sent <= 6_100_000, "nothing goes twice: {}", bulk.sent() - sent);
}
