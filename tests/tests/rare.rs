//! Branches that random worlds reach too rarely to count on, each in a scenario of its own: that it is reached, and that what
//! happens then is what an operator or a client would expect. `tests::sim::reach` lists them by these names.
//!
//! Built with `--cfg planted` (see `planted.rs`) they also have to fail with the faults that they are there to notice.

use bytes::Bytes;
use engine::replication::receive::{Cores, Receiver, StreamError};
use engine::replication::watermarks::Watermarks;
use engine::storage::NodeSecret;
use net::ids::{Class, CoreIndex, Incarnation, LogId, NodeId, StreamOffset, Version};
use net::wire::body::{Claim, Compression, Records, RecordsHead};
use tests::sim::mesh::{Mesh, REGIONS};
use tests::sim::plan::NodePlan;
use tests::sim::workload::{Command, Mix, Outcome};
use wal::marks::{self, Mark, MarkSet};

const SFO: usize = 0;
const NYC: usize = 1;
const AMS: usize = 2;

/// The marks that this test reached so far: a test has a thread of its own.
#[derive(Debug, Default)]
struct Marks(MarkSet);

impl Marks {
    fn reached(&mut self, mark: Mark) -> bool {
        self.0 = self.0.union(marks::take());
        self.0.contains(mark)
    }

    fn assert(&mut self, mark: Mark) {
        assert!(self.reached(mark), "{mark} is not among {:?}", self.0);
    }

    /// Runs until a mark is reached, for at most so many virtual milliseconds.
    fn run_to(&mut self, mesh: &mut Mesh, mark: Mark, ms: u64) {
        for _ in 0..ms {
            if self.reached(mark) {
                return;
            }
            mesh.run_ms(1);
            mesh.sound();
        }
        self.assert(mark);
    }
}

fn keys(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{name}:{index}")).collect()
}

fn all_stored(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| *outcome == Outcome::Stored)
}

/// Length of what is read, `None` if it is not there.
fn length(outcome: &Outcome) -> Option<usize> {
    match outcome {
        Outcome::Read(value) => value.as_ref().map(|value| value.len()),
        other => panic!("{other:?} is no read"),
    }
}

/// Overwrites four keys until about `bytes` bytes went into the log.
fn overwrite(mesh: &mut Mesh, region: &str, bytes: usize) {
    for _ in 0..bytes.div_ceil(60 * 12_000) {
        assert!(all_stored(&mesh.region(region).set_many((0..60).map(|at| format!("hot:{}", at % 4)), 12_000)));
    }
}

#[test]
fn a_second_node_of_a_region_is_refused_and_harms_nothing() {
    let mut marks = Marks::default();
    let nodes: Vec<NodePlan> = [SFO, NYC, AMS, AMS].map(|region| NodePlan::new(region, 2)).into();
    let second = 3;
    let mut mesh = Mesh::of_nodes(41, &nodes);
    for node in [SFO, NYC, AMS] {
        mesh.place(node).start();
    }
    assert!(all_stored(&mesh.region("sfo").set_many(keys("before", 20), 200)));
    mesh.run_ms(5_000);
    assert!(!marks.reached(Mark::SecondNodeRefused));

    mesh.place(second).start();
    mesh.run_ms(10_000);
    mesh.sound();
    marks.assert(Mark::SecondNodeRefused);
    // Whoever looks at either of them is told what to do.
    for node in [SFO, NYC, AMS] {
        let status = mesh.status(node);
        assert!(status.last_refusal.contains("one node per region for now"), "{:?}", status.last_refusal);
        assert!(status.peers.iter().filter(|peer| peer.following).count() == 2, "{:?}", status.peers);
    }
    // It serves its own clients, alone.
    assert!(all_stored(&mesh.place(second).set_many(keys("second", 20), 200)));
    assert!(length(&mesh.place(second).get("second:7")).is_some());
    assert_eq!(length(&mesh.place(second).get("before:7")), None);
    // The others go on as before, and have nothing of it.
    assert!(all_stored(&mesh.region("nyc").set_many(keys("after", 20), 200)));
    mesh.run_ms(1_000);
    for region in REGIONS {
        assert!(length(&mesh.region(region).get("after:7")).is_some(), "in {region}");
        assert_eq!(length(&mesh.region(region).get("second:7")), None, "in {region}");
    }

    // The operator stops the first one: the second takes its place, and everything it missed comes.
    mesh.place(AMS).kill();
    mesh.run_ms(40_000);
    mesh.sound();
    for key in ["before:7", "after:7"] {
        assert!(length(&mesh.place(second).get(key)).is_some(), "{key}");
    }
    assert!(length(&mesh.region("sfo").get("second:7")).is_some());
    mesh.sound();
}

#[test]
fn a_copy_of_a_node_is_refused_by_itself_and_by_the_others() {
    let mut marks = Marks::default();
    // The data directory of sfo was copied to nyc.
    let mut mesh = Mesh::with_node_ids(42, [5, 5, 7]);
    mesh.run_ms(10_000);
    marks.assert(Mark::SelfRefused);
    let refusals: Vec<String> = (0..3).map(|node| mesh.status(node).last_refusal).collect();
    assert!(refusals.iter().any(|text| text.contains("give the copied one an empty data directory")), "{refusals:?}");
    for region in ["sfo", "nyc"] {
        assert_eq!(mesh.region(region).set("k", 100), Outcome::Stored, "{region} serves its clients");
    }
    // The operator does what it says.
    mesh.region("nyc").kill();
    mesh.region("nyc").replace_disk();
    mesh.region("nyc").start();
    mesh.run_ms(20_000);
    assert_eq!(mesh.region("sfo").set("after", 100), Outcome::Stored);
    mesh.converged();
    assert!(length(&mesh.region("nyc").get("after")).is_some());
}

#[test]
fn a_node_that_is_nobodys_peer_is_told_so() {
    let mut marks = Marks::default();
    let mut mesh = Mesh::down(43, [2, 2, 2]);
    mesh.set_peers(SFO, &[NYC]);
    mesh.start_all();
    mesh.run_ms(5_000);
    marks.assert(Mark::UnknownPeerRefused);
    let refusal = mesh.status(SFO).last_refusal;
    assert!(refusal.contains("DISCOVERY_PEERS; add its advertised address there"), "{refusal}");
    assert_eq!(mesh.region("sfo").set("k", 100), Outcome::Stored);
    mesh.run_ms(1_000);
    assert!(length(&mesh.region("nyc").get("k")).is_some());
    assert!(length(&mesh.region("ams").get("k")).is_some(), "nyc relays what it holds");

    mesh.region("sfo").kill();
    mesh.set_peers(SFO, &[NYC, AMS]);
    mesh.region("sfo").start();
    mesh.converged();
    assert!(length(&mesh.region("ams").get("k")).is_some());
}

#[test]
fn a_write_from_the_far_future_is_held_back_and_then_shown() {
    let mut marks = Marks::default();
    let mut mesh = Mesh::down(44, [2, 2, 2]);
    mesh.set_clock(SFO, 4_000);
    mesh.start_all();
    mesh.run_ms(1_000);
    assert_eq!(mesh.region("nyc").set("k", 100), Outcome::Stored);
    mesh.run_ms(500);
    assert_eq!(mesh.region("sfo").set("k", 1_000), Outcome::Stored);
    marks.run_to(&mut mesh, Mark::FarFutureHeld, 500);
    mesh.run_ms(200);
    let short = |mesh: &mut Mesh, region| length(&mesh.region(region).get("k")).expect("k") < 1_000;
    assert!(!short(&mut mesh, "sfo"), "who wrote it reads it");
    assert!(short(&mut mesh, "nyc") && short(&mut mesh, "ams"), "the others read what was there before");
    // A restart keeps it back, too.
    mesh.region("ams").lose_power();
    mesh.region("ams").start();
    assert!(short(&mut mesh, "ams"));
    // It is a newer write than this one, whatever the clock on the wall says.
    assert_eq!(mesh.region("nyc").set("k", 50), Outcome::Stored);
    assert!(short(&mut mesh, "nyc") && !marks.reached(Mark::FarFutureReleased));
    mesh.run_ms(4_000);
    marks.assert(Mark::FarFutureReleased);
    for region in REGIONS {
        assert!(!short(&mut mesh, region), "{region} shows it now");
    }
    mesh.converged();
}

#[test]
fn writes_wait_while_the_clock_is_ahead() {
    let mut marks = Marks::default();
    let mut mesh = Mesh::down(45, [1, 1, 1]);
    // Near enough to be believed at once.
    mesh.set_clock(SFO, 450);
    mesh.start_all();
    mesh.run_ms(2_000);
    assert_eq!(mesh.region("sfo").set("ahead", 100), Outcome::Stored);
    mesh.run_ms(60);
    assert!(length(&mesh.region("nyc").get("ahead")).is_some());
    // More writes than one millisecond of the logic counter has versions for.
    let many: Vec<_> = keys("k", 3_000).into_iter().map(|key| key.into()).collect();
    mesh.region("nyc").post([Command::MSet { keys: many, filler: 10 }]);
    let before = mesh.checks().ledger.acknowledged_count;
    marks.run_to(&mut mesh, Mark::ClockThrottled, 100);
    marks.assert(Mark::LogicCarried);
    mesh.run_ms(50);
    assert_eq!(mesh.checks().ledger.acknowledged_count, before, "the command waits");
    mesh.run_ms(500);
    assert_eq!(mesh.checks().ledger.acknowledged_count, before + 3_000, "time releases it");
    assert!(length(&mesh.region("nyc").get("k:2999")).is_some());
    mesh.converged();
}

#[test]
fn equal_versions_are_decided_by_bytes_whichever_comes_first() {
    let mut marks = Marks::default();
    // Both nodes have tag 1: their clocks can give the very same version for the same key.
    let mut mesh = Mesh::with_node_ids(3, [0x0000_0001, 0x0000_0800, 0x0000_0bad]);
    mesh.run_ms(2_000);
    for key in keys("tied", 200) {
        for region in ["sfo", "nyc"] {
            mesh.region(region).post([Command::Set { key: key.clone().into(), filler: 20, px: None }]);
        }
        mesh.run_ms(7);
    }
    mesh.converged();
    marks.assert(Mark::TieWonByArrival);
    marks.assert(Mark::TieWonByPresent);
}

#[test]
fn a_follower_without_room_neither_fills_its_memory_nor_its_sources_disk() {
    let mut marks = Marks::default();
    let mut mesh = Mesh::with_cores(46, [1, 1, 1]);
    overwrite(&mut mesh, "sfo", 1);
    mesh.converged();
    mesh.region("ams").set_disk_full(true);
    // More than the window of 16 MB: what was sent waits in the memory of ams.
    overwrite(&mut mesh, "sfo", 20_000_000);
    mesh.run_ms(500);
    marks.assert(Mark::CreditExhausted);
    // First the source waits for its follower, then it goes on without it.
    marks.assert(Mark::SegmentWaitsForFollower);
    marks.assert(Mark::FollowerSkipsSegment);
    let sent = mesh.region("sfo").sent_records_bytes("ams");
    assert!((16_000_000..18_000_000).contains(&sent), "{sent} bytes were sent");
    let segments = mesh.segment_names(SFO).len();
    assert!(segments < 20, "{segments} segments of 64 KiB are kept");
    assert!(length(&mesh.region("nyc").get("hot:3")).is_some_and(|length| length > 12_000), "nyc has everything");
    assert!(length(&mesh.region("ams").get("hot:3")).is_some(), "ams goes on reading");

    mesh.region("ams").set_disk_full(false);
    mesh.converged();
    for region in REGIONS {
        assert!(length(&mesh.region(region).get("hot:3")).is_some_and(|length| length > 12_000), "{region}");
    }
}

#[test]
fn damage_to_what_was_durable_is_refused_until_it_is_repaired() {
    let mut marks = Marks::default();
    // In a segment that is complete, and in one whose later frames say how far it was durable.
    for (count, bytes, offset) in [(40, 8_000, 40_000), (20, 500, 5_000)] {
        let mut mesh = Mesh::with_cores(47, [1, 1, 1]);
        for key in keys("k", count) {
            assert_eq!(mesh.region("sfo").set(&key, bytes), Outcome::Stored);
        }
        mesh.converged();
        mesh.region("sfo").kill();
        let names = mesh.segment_names(SFO);
        let oldest = names.first().expect("segments").clone();
        mesh.rot(SFO, &oldest, offset, 0x10);
        let refusal = mesh.refusal_to_start(SFO).expect("damage");
        marks.assert(Mark::DamageRefused);
        marks = Marks::default();
        for words in [oldest.as_str(), "were durable and are damaged", "nothing was cut"] {
            assert!(refusal.contains(words), "{refusal:?} does not say {words:?}");
        }
        assert_eq!(mesh.segment_names(SFO), names, "nothing was deleted");

        // Whoever repairs it has lost nothing.
        mesh.rot(SFO, &oldest, offset, 0x10);
        mesh.region("sfo").start();
        for key in keys("k", count) {
            assert!(length(&mesh.region("sfo").get(&key)).is_some(), "{key}");
        }
        mesh.converged();
    }
}

#[test]
fn a_missing_segment_is_refused_until_it_is_back() {
    let mut marks = Marks::default();
    let mut mesh = Mesh::with_cores(48, [1, 1, 1]);
    assert!(all_stored(&mesh.region("sfo").set_many(keys("k", 40), 8_000)));
    mesh.converged();
    mesh.region("sfo").lose_power();
    let names = mesh.segment_names(SFO);
    assert!(names.len() > 3, "{names:?}");
    mesh.rename(SFO, &names[1], "aside");
    let refusal = mesh.refusal_to_start(SFO).expect("a gap");
    marks.assert(Mark::MissingSegmentRefused);
    assert!(refusal.contains("missing") && refusal.contains(&names[0]), "{refusal}");
    mesh.rename(SFO, "aside", &names[1]);
    mesh.region("sfo").start();
    for key in keys("k", 40) {
        assert!(length(&mesh.region("sfo").get(&key)).is_some(), "{key}");
    }
    mesh.converged();
}

#[test]
fn a_damaged_seal_costs_nothing() {
    let mut marks = Marks::default();
    let mut mesh = Mesh::with_cores(49, [1, 1, 1]);
    assert!(all_stored(&mesh.region("sfo").set_many(keys("k", 40), 8_000)));
    mesh.converged();
    mesh.region("sfo").kill();
    let oldest = mesh.segment_names(SFO).remove(0);
    let seal = usize::try_from(wal::SEAL_OFFSET).expect("64 bits");
    mesh.rot(SFO, &oldest, seal + 20, 0x01);
    mesh.region("sfo").start();
    marks.assert(Mark::DamagedSealIgnored);
    let report = mesh.start_report(SFO);
    assert!(report.iter().any(|line| line.contains(&oldest) && line.contains("seal block is damaged")), "{report:?}");
    for key in keys("k", 40) {
        assert!(length(&mesh.region("sfo").get(&key)).is_some(), "{key}");
    }
    mesh.converged();
}

#[test]
fn a_disk_that_was_rolled_back_is_noticed_by_its_followers() {
    let mut marks = Marks::default();
    let mut mesh = Mesh::with_cores(50, [1, 1, 1]);
    assert!(all_stored(&mesh.region("sfo").set_many(keys("early", 20), 500)));
    mesh.run_ms(1_000);
    let image = mesh.copy_disk(SFO);
    assert!(all_stored(&mesh.region("sfo").set_many(keys("late", 20), 500)));
    mesh.run_ms(1_000);
    assert!(!marks.reached(Mark::FollowerHoldsMore));
    mesh.region("sfo").lose_power();
    mesh.restore_disk(SFO, &image);
    mesh.region("sfo").start();
    mesh.run_ms(5_000);
    marks.assert(Mark::FollowerHoldsMore);
    // What only others have now stays with them; what is written from now on reaches everybody.
    assert!(length(&mesh.region("nyc").get("late:3")).is_some());
    assert_eq!(mesh.region("sfo").set("new", 100), Outcome::Stored);
    mesh.converged();
    assert!(length(&mesh.region("ams").get("new")).is_some());
}

#[test]
fn one_command_that_fills_a_mailbox_is_answered() {
    let mut marks = Marks::default();
    let mut mesh = Mesh::with_cores(51, [2, 1, 1]);
    mesh.run_ms(500);
    let many: Vec<String> = keys("k", 12_000);
    let keys = || many.iter().map(|key| key.as_str().into()).collect();
    mesh.region("sfo").post([Command::MSet { keys: keys(), filler: 10 }, Command::MGet { keys: keys() }]);
    marks.run_to(&mut mesh, Mark::MailboxFull, 500);
    mesh.converged();
    for region in REGIONS {
        assert!(length(&mesh.region(region).get("k:11999")).is_some(), "in {region}");
    }
    assert_eq!(mesh.checks().ledger.unknown_count, 0);
}

#[test]
fn commands_wait_while_replies_are_large_and_all_are_answered() {
    let mut marks = Marks::default();
    let mut mesh = Mesh::with_cores(52, [1, 1, 1]);
    let many = keys("k", 150);
    assert!(all_stored(&mesh.region("sfo").set_many(many.clone(), 12_000)));
    let get = Command::MGet { keys: many.iter().map(|key| key.as_str().into()).collect() };
    mesh.region("sfo").post(vec![get; 40]);
    marks.run_to(&mut mesh, Mark::RepliesWaited, 1_000);
    mesh.converged();
    assert_eq!(mesh.checks().ledger.unknown_count, 0);
    assert!(mesh.checks().ledger.read_count >= 40);
}

#[test]
fn receives_go_on_after_the_buffers_ran_out() {
    let mut marks = Marks::default();
    let mix = Mix {
        hot_keys: 4,
        cold_keys: 4,
        own_keys: 1,
        own_percent: 0,
        hot_percent: 50,
        read_percent: 0,
        delete_percent: 0,
        modify_percent: 0,
        expiry_percent: 0,
        many_percent: 0,
        large_percent: 100,
        burst: 1_000,
        think_us_max: 1,
        teams: 1,
        team_percent: 0,
        shuns_cold: false,
        native: false,
    };
    // Up to eight buffers a connection and turn: these connections want more than the 256 that a loop has. A turn also ends after
    // 256 completions, so that it depends on the world whether one connection finds no buffer right before that.
    for seed in 53..73 {
        let mut mesh = Mesh::with_cores(seed, [1, 1, 1]);
        for _ in 0..90 {
            mesh.add_mix(AMS, mix, 8);
        }
        mesh.stall(AMS, 300);
        mesh.run_ms(400);
        mesh.quiet();
        if !marks.reached(Mark::ReceiveRearmed) {
            continue;
        }
        mesh.converged();
        let ledger = &mesh.checks().ledger;
        assert_eq!(ledger.unknown_count, 0);
        assert!(ledger.acknowledged_count > 700, "{} acknowledged", ledger.acknowledged_count);
        return;
    }
    panic!("no receive ran out of buffers");
}

#[test]
fn a_region_that_stays_away_is_gone_from_the_lists() {
    let mut marks = Marks::default();
    let mut mesh = Mesh::new(54);
    mesh.links_are_whole();
    mesh.run_ms(10_000);
    let listed = |mesh: &Mesh| mesh.status(SFO).services.iter().filter(|service| service.region == "nyc").count();
    assert_eq!(listed(&mesh), 3);
    mesh.region("nyc").kill();
    mesh.run_ms(40_000);
    marks.assert(Mark::InstanceSuspect);
    marks.assert(Mark::InstanceGone);
    let services = mesh.status(SFO).services;
    assert!(services.iter().all(|service| service.region != "nyc" || service.state == "gone"), "{services:?}");
    mesh.region("nyc").start();
    mesh.run_ms(20_000);
    assert_eq!(listed(&mesh), 3);
    mesh.sound();
}

#[test]
fn a_reset_stream_unlists_nobody() {
    // Two nodes have two discovery links to each other, and each may use another one. Where one of the two is reset, only one side
    // begins to number its registrations anew.
    for seed in 60..80 {
        let mut mesh = Mesh::new(seed);
        mesh.run_ms(40_000);
        mesh.links_are_whole();
        assert!(mesh.reset_stream());
        mesh.run_ms(30_000);
        mesh.sound();
    }
}

/// One region alone with one core, whose node has just started.
fn alone(seed: u64) -> Mesh {
    let mut mesh = Mesh::down(seed, [1, 1, 1]);
    mesh.region("sfo").start();
    mesh.run_ms(300);
    mesh
}

#[test]
fn bytes_of_an_earlier_use_of_a_file_are_not_the_log() {
    let mut marks = Marks::default();
    let mut mesh = alone(56);
    let mut acknowledged = 0;
    for round in 0..60 {
        // One frame for each write, all of one size: where a log ends, an earlier one's frame often began.
        for at in 0..70 + round % 11 {
            assert_eq!(mesh.region("sfo").set(&format!("hot:{}", at % 4), 6_000), Outcome::Stored);
            acknowledged += 1;
        }
        mesh.region("sfo").kill();
        mesh.region("sfo").start();
        mesh.sound();
        for key in keys("hot", 4) {
            assert!(length(&mesh.region("sfo").get(&key)).is_some());
        }
        if marks.reached(Mark::RecycledBytesIgnored) {
            return;
        }
    }
    panic!("after {acknowledged} writes no log ended before an earlier frame");
}

const LOG: LogId = LogId { node: NodeId(5), incarnation: Incarnation(1) };

/// One record of [`LOG`] in a batch at this offset of its stream.
fn batch(offset: u64) -> Records {
    let version = wal::Version::new(1_000, 0, 5);
    let origin = wal::NodeId(LOG.node.0);
    let draft =
        wal::RecordDraft { version, origin, op: wal::RecordOp::Put, expiry: None, key: b"key", value: b"a value" };
    let mut payload = vec![0; draft.padded_len()];
    draft.encode_into(&mut payload);
    let head = RecordsHead {
        log: LOG,
        core: CoreIndex(0),
        flags: 0,
        stream_offset: StreamOffset(offset),
        count: 1,
        raw_bytes: u32::try_from(payload.len()).expect("small"),
        compression: Compression::None,
    };
    Records { head, payload: Bytes::from(payload) }
}

fn follower() -> (Receiver, Cores) {
    let cores = Cores::new(1, NodeSecret(7), 1_024);
    let mut receiver = Receiver::default();
    receiver.open(&cores, [(LOG, None)]).expect("one log");
    (receiver, cores)
}

#[test]
fn a_batch_with_any_flipped_bit_is_refused_whole() {
    // Simulated streams deliver what was sent or nothing: here the bits flip on the way.
    let mut marks = Marks::default();
    let (mut receiver, mut cores) = follower();
    let sound = batch(0);
    let bits = 8 * sound.payload.len();
    let mut refused = 0;
    for bit in 0..bits {
        let mut payload = sound.payload.to_vec();
        payload[bit / 8] ^= 1 << (bit % 8);
        let damaged = Records { payload: Bytes::from(payload), ..sound.clone() };
        match receiver.records(&damaged, &mut cores, |_| false) {
            Err(StreamError::Damaged { log: LOG, index: 0, .. }) => refused += 1,
            other => panic!("bit {bit}: {other:?}"),
        }
    }
    assert_eq!(refused, bits);
    marks.assert(Mark::BatchDamaged);
    // Nothing of them was taken: the sound one is still the first.
    assert_eq!(receiver.records(&sound, &mut cores, |_| false).expect("a sound batch").len(), 1);
}

#[test]
fn a_batch_or_a_claim_that_does_not_connect_ends_the_stream() {
    let mut marks = Marks::default();
    let (mut receiver, mut cores) = follower();
    let ahead = receiver.records(&batch(64), &mut cores, |_| false);
    assert!(matches!(ahead, Err(StreamError::Offset { found: 64, expected: 0 })), "{ahead:?}");
    marks.assert(Mark::StreamBroken);

    let mut marks = Marks::default();
    let (mut receiver, cores) = follower();
    let claim = Claim { log: LOG, from: Version(7), to: Version(9), flags: 0, class: Class(0) };
    receiver.claim(claim, &cores).expect("it is judged when its turn comes");
    let mut watermarks = Watermarks::default();
    let gap = receiver.advance(&cores, &mut watermarks);
    assert!(matches!(gap, Err(StreamError::Gap { log: LOG, from: 7, held: 0 })), "{gap:?}");
    marks.assert(Mark::StreamBroken);
    assert_eq!(watermarks.version(LOG), Version(0), "nothing is claimed");
}

/// What others wrote under a prefix before a region may hold it comes when it may; what it has already does not come into the way.
#[test]
fn a_region_that_is_let_in_gets_what_was_written_before() {
    let mut mesh = Mesh::down(21, [2, 1, 2]);
    mesh.set_residency("kept:=sfo,nyc");
    mesh.start_all();
    mesh.run_ms(3_000);
    let names = |name: &str| (0..60).map(|number| format!("{name}:{number}")).collect::<Vec<_>>();
    for region in ["sfo", "nyc"] {
        mesh.region(region).set_many(names("kept"), 1_500);
        mesh.region(region).set_many(names("free"), 1_500);
        mesh.run_ms(1_000);
    }
    assert_eq!(mesh.region("nyc").del("kept:7"), Outcome::Deleted(true));
    mesh.run_ms(3_000);
    mesh.converged();
    assert_eq!(mesh.region("ams").entries(), 60);
    mesh.set_residency("kept:=sfo,nyc,ams");
    let _ = marks::take();
    // It dies once more before it has much of what it lacks.
    for times in 1..=2 {
        for region in ["sfo", "nyc", "ams"] {
            if times == 1 || region == "ams" {
                mesh.region(region).lose_power();
                mesh.region(region).start();
            }
        }
        mesh.run_ms(times * 1_200);
    }
    mesh.converged();
    assert!(marks::take().contains(Mark::ResidencyWidened));
    assert_eq!(mesh.region("ams").entries(), 120);
    assert_eq!(mesh.region("ams").get("kept:7"), Outcome::Read(None));
    assert!(matches!(mesh.region("ams").get("kept:8"), Outcome::Read(Some(_))));
    mesh.sound();
}

#[cfg(planted)]
#[test]
fn each_scenario_fails_with_the_fault_it_is_there_for() {
    use wal::planted::{Fault, set};

    let table: [(Fault, fn()); 7] = [
        (Fault::CutAtFirstBadFrame, damage_to_what_was_durable_is_refused_until_it_is_repaired),
        (Fault::CutAtFirstBadFrame, a_missing_segment_is_refused_until_it_is_back),
        (Fault::FarFutureBelieved, a_write_from_the_far_future_is_held_back_and_then_shown),
        (Fault::EntriesNeverExpire, a_region_that_stays_away_is_gone_from_the_lists),
        (Fault::LaterArrivalWinsTie, equal_versions_are_decided_by_bytes_whichever_comes_first),
        (Fault::WideningKeepsClaims, a_region_that_is_let_in_gets_what_was_written_before),
        (Fault::EqualVersionIsSame, equal_versions_are_decided_by_bytes_whichever_comes_first),
    ];
    for (number, (fault, scenario)) in table.into_iter().enumerate() {
        let _ = marks::take();
        set(Some(fault));
        let failed = std::panic::catch_unwind(scenario).is_err();
        set(None);
        assert!(failed, "{fault} is not noticed by scenario {number} of the table");
        let _ = marks::take();
        scenario();
    }
}
