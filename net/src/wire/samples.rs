//! One golden sample of every message, byte for byte, for the generic test, the document and other implementations.
//!
//! A changed golden line is a changed protocol: it needs a new version, or a body that was never released.

use bytes::Bytes;

use super::body::answer::ErrorCode;
use super::body::federated_register::SnapshotPart;
use super::body::{
    Backlog, BacklogLog, Bootstrap, BootstrapStep, Claim, Compression, Credit, Deregister, Done, EntryState, Failed,
    FederatedAck, FederatedEntry, FederatedRegister, Follow, FollowLog, Heartbeat, HeldOfNode, Hello, InstanceKey,
    List, ListEntry, ListLocal, ListReply, LogEntry, LogState, Logs, Member, MemberState, Members, More, Proof,
    Purpose, Records, RecordsHead, Refuse, RefuseCode, Refused, RefusedCode, Register, RemoveMember, Stable, Watermark,
    Watermarks,
};
use super::message::Message;
use crate::ids::{
    Class, CoreIndex, Epoch, Incarnation, InstanceId, LogId, NameError, NodeId, RegionName, RequestId, Sequence,
    ServiceName, StreamOffset, Version,
};

/// A message and its frame.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The message.
    pub message: Message,
    /// The request id it is framed with.
    pub request_id: RequestId,
    /// Its frame in hexadecimal.
    pub frame_hex: &'static str,
}

pub(super) fn sample(request_id: u32, message: Message, frame_hex: &'static str) -> Sample {
    Sample { message, request_id: RequestId(request_id), frame_hex }
}

/// One sample of each message, in order of the opcodes.
///
/// # Errors
/// When a name in here is no name.
pub fn samples() -> Result<Vec<Sample>, NameError> {
    let mut all = handshake()?;
    all.extend(discovery()?);
    all.extend(super::survey_samples::samples()?);
    all.extend(replication());
    all.extend(super::client_samples::samples()?);
    Ok(all)
}

/// Two records of a payload that was packed: another writer of lz4 may make another block of it, every reader makes the same of
/// this one.
#[must_use]
pub fn packed_records() -> (Sample, Bytes) {
    let raw: Bytes = [RECORD_LIKE; 2].concat().into();
    let block = [&[0xff, 25], RECORD_LIKE, &[40, 0, 16, 0x50], &RECORD_LIKE[35..]].concat();
    let head = RecordsHead { count: 2, raw_bytes: 80, compression: Compression::Lz4, ..records_head() };
    (sample(0, Message::Records(Records { head, payload: block.into() }), PACKED_RECORDS), raw)
}

fn hello(node: u32, region: &str, purpose: Purpose, last_octet: u8) -> Result<Hello, NameError> {
    Ok(Hello {
        protocol_min: 1,
        protocol_max: 1,
        node: NodeId(node),
        incarnation: Incarnation(0x1122_3344_5566_7788),
        purpose,
        record_format: 1,
        value_bytes_max: 8 * 1024 * 1024,
        residency: 0,
        physical_ms: 1_767_225_600_000,
        advertised: ([10, 0, 0, last_octet], 10200).into(),
        region: RegionName::parse(region)?,
        proof: Proof::default(),
        members: members()?,
    })
}

fn members() -> Result<Vec<Member>, NameError> {
    let row = |node: u32, state, at: u64, region: &str| -> Result<Member, NameError> {
        Ok(Member { node: NodeId(node), state, at: Version(at), region: RegionName::parse(region)? })
    };
    Ok(vec![
        row(0x0a00_0001, MemberState::Joined, 0x0100_0000, "sfo")?,
        row(0x0a00_0009, MemberState::Removed, 0x0200_0000, "ams")?,
    ])
}

fn bootstrap() -> Bootstrap {
    let nodes = vec![HeldOfNode { node: NodeId(0x0a00_0001), upto: Version(0x0300_0000) }];
    Bootstrap { step: BootstrapStep::End, forgotten: Version(0x0100_0000), held: Version(0x0200_0000), nodes }
}

fn handshake() -> Result<Vec<Sample>, NameError> {
    let hello_sfo = hello(0x0a00_0001, "sfo", Purpose::Control, 1)?;
    let hello_nyc = hello(0x0a00_0002, "nyc", Purpose::Control, 2)?;
    let beat = Heartbeat {
        sent_at_ns: 5_000_000_000,
        echo_ns: 4_900_000_000,
        held_ns: 1_000_000,
        physical_ms: 1_767_225_600_001,
    };
    let stable = Stable { view: 0x1234_5678_9abc_def0, stable: Version(0x0100_0000), wanted: Version(0x0200_0000) };
    let lacking = BacklogLog { log: LOG, upto: Version(0x0200_0000) };
    let backlog = Backlog { left: 0x0030_0000, logs: vec![lacking] };
    Ok(vec![
        sample(0, Message::Hello(hello_sfo), HELLO),
        sample(0, Message::HelloAck(hello_nyc), HELLO_ACK),
        sample(0, Message::Refuse(Refuse::new(RefuseCode::SameRegion, "both ends are in sfo")), REFUSE),
        sample(0, Message::Heartbeat(beat), HEARTBEAT),
        sample(7, Message::Ok(Done), OK),
        sample(8, Message::Error(Failed::new(ErrorCode::StaleEpoch, "epoch 5 is registered")), ERROR),
        sample(0, Message::Members(Members { members: members()? }), MEMBERS),
        sample(0, Message::Stable(stable), STABLE),
        sample(0, Message::Bootstrap(bootstrap()), BOOTSTRAP),
        sample(0, Message::Backlog(backlog), BACKLOG),
    ])
}

fn key(instance: u64, epoch: u64) -> Result<InstanceKey, NameError> {
    let service = ServiceName::parse("caching")?;
    Ok(InstanceKey { service, instance: InstanceId(instance), epoch: Epoch(epoch) })
}

fn discovery() -> Result<Vec<Sample>, NameError> {
    let register = Register {
        key: key(3, 5)?,
        address: ([127, 0, 0, 1], 10700).into(),
        ttl_ms: 15_000,
        metadata: b"v=1".to_vec(),
    };
    let entry = ListEntry {
        key: key(3, 5)?,
        region: RegionName::parse("nyc")?,
        address: (std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2), 10700).into(),
        state: EntryState::Suspect,
        ttl_ms_left: 4_000,
        age_ms: 11_000,
        metadata: b"v=1".to_vec(),
    };
    let federated = FederatedRegister {
        node: NodeId(0x0a00_0001),
        incarnation: Incarnation(0x1122_3344_5566_7788),
        sequence: Sequence(1),
        snapshot: Some(SnapshotPart { first: true, last: true }),
        region: RegionName::parse("sfo")?,
        entries: vec![FederatedEntry {
            key: key(3, 5)?,
            address: ([10, 0, 0, 1], 10700).into(),
            ttl_ms_left: 12_000,
            metadata: b"v=1".to_vec(),
        }],
        deregistered: vec![key(4, 1)?],
    };
    let refused = Refused::new(key(3, 5)?, RefusedCode::Loopback, "127.0.0.1 is this host");
    let ack = FederatedAck { sequence: Sequence(1), want_full: false, refused_count: 1, refused: vec![refused] };
    let service = Some(ServiceName::parse("caching")?);
    Ok(vec![
        sample(1, Message::Register(register), REGISTER),
        sample(2, Message::Deregister(Deregister { key: key(3, 5)? }), DEREGISTER),
        sample(3, Message::List(List { service, with_gone: false }), LIST),
        sample(4, Message::ListLocal(ListLocal { service: None, with_gone: true }), LIST_LOCAL),
        sample(3, Message::ListReply(ListReply { more: false, learning: true, entries: vec![entry] }), LIST_REPLY),
        sample(0, Message::FederatedRegister(federated), FEDERATED_REGISTER),
        sample(0, Message::FederatedAck(ack), FEDERATED_ACK),
        sample(5, Message::RemoveMember(RemoveMember { node: NodeId(0x0a00_0009) }), REMOVE_MEMBER),
    ])
}

const LOG: LogId = LogId { node: NodeId(0x0a00_0001), incarnation: Incarnation(0x1122_3344_5566_7788) };
/// Opaque to this crate; the bytes only have the right size.
const RECORD_LIKE: &[u8] = b"forty bytes that stand for one record..\0";

fn records_head() -> RecordsHead {
    RecordsHead {
        log: LOG,
        core: CoreIndex(1),
        flags: 0,
        stream_offset: StreamOffset(4096),
        count: 1,
        raw_bytes: 40,
        compression: Compression::None,
    }
}

/// What stands for a record in its brief form.
const BRIEF_LIKE: &[u8] = b"bytes that stand for one brief record";

fn more() -> More {
    let payload = Bytes::from_static(BRIEF_LIKE);
    More { claim_by: 0x0040_0001, raw_bytes: 64, core: CoreIndex(1), packed: false, payload }
}

/// One more record behind one that was like it, packed, and the brief form of both.
#[must_use]
pub fn packed_more() -> (Sample, Bytes) {
    let block = [&[0x0f, 37, 0, 13, 0x50], &BRIEF_LIKE[32..]].concat();
    let more = More { claim_by: 0, packed: true, payload: block.into(), ..more() };
    (sample(0, Message::More(more), PACKED_MORE), Bytes::from_static(BRIEF_LIKE))
}

fn replication() -> Vec<Sample> {
    let log = LOG;
    let (from, to) = (Version(0x0100_0000), Version(0x0200_0000));
    let mark = Watermark { log, version: to, persisted: from, class: Class(0) };
    let open = LogEntry { log, first: from, end: Version(0), cores: 2, state: LogState::Open };
    let head = records_head();
    let payload = Bytes::from_static(RECORD_LIKE);
    let follow = Follow {
        credit: StreamOffset(4 * 1024 * 1024),
        held: Version(0x0080_0000),
        logs: vec![FollowLog { log, from, upto: to }],
    };
    vec![
        sample(0, Message::Watermarks(Watermarks { full: true, entries: vec![mark] }), WATERMARKS),
        sample(9, Message::Follow(follow), FOLLOW),
        sample(9, Message::Logs(Logs { logs: vec![open] }), LOGS),
        sample(0, Message::Records(Records { head, payload }), RECORDS),
        sample(0, Message::Claim(Claim { log, from, to, flags: 0, class: Class(0) }), CLAIM),
        sample(0, Message::Credit(Credit { upto: StreamOffset(8 * 1024 * 1024) }), CREDIT),
        sample(0, Message::More(more()), MORE),
    ]
}

// Golden frames, in order of the opcodes: the header on the first line, then the body.
const HELLO: &str = "\
    c7010100000000005c000000000000005442fdc30000000000000000cbe38fdd\
    010001000100000a88776655443322110100010000008000000000000000000000a8da769b010000040a000001d82703\
    0073666f000002000100000a010000000100000000030073666f0900000a0200000002000000000300616d73";
const HELLO_ACK: &str = "\
    c7010200000000005c0000000000000032ce36d900000000000000001f62e53e\
    010001000200000a88776655443322110100010000008000000000000000000000a8da769b010000040a000002d82703\
    006e7963000002000100000a010000000100000000030073666f0900000a0200000002000000000300616d73";
const REFUSE: &str = "\
    c70103000000000018000000000000003ca4a5880000000000000000ccdc34ba\
    02001400626f746820656e64732061726520696e2073666f";
const HEARTBEAT: &str = "\
    c7010400000000002000000000000000ee17d564000000000000000082471f75\
    00f2052a01000000001110240100000040420f000000000001a8da769b010000";
const OK: &str = "c701050000000000000000000700000000000000000000000000000085cad3bf";
const ERROR: &str = "\
    c70106000000000019000000080000009dbc9eab00000000000000001cda02da\
    0600150065706f636820352069732072656769737465726564";
const MEMBERS: &str = "\
    c7010700000000002600000000000000fb0fd6b40000000000000000fc2be2f6\
    02000100000a010000000100000000030073666f0900000a0200000002000000000300616d73";
const STABLE: &str = "\
    c70108000000000018000000000000005b726a9b00000000000000007a4c98c6\
    f0debc9a7856341200000001000000000000000200000000";
const BOOTSTRAP: &str = "\
    c7010900000000001f0000000000000065eca1a80000000000000000d64b4dd9\
    040000000100000000000000020000000001000100000a0000000300000000";
const BACKLOG: &str = "\
    c7010a00000000001e000000000000009803ea9800000000000000004c7de8b1\
    000030000000000001000100000a88776655443322110000000200000000";
const REGISTER: &str = "\
    c70101010000000029000000010000006b5272580000000000000000dd91f8d3\
    070063616368696e6703000000000000000500000000000000047f000001cc29983a00000300763d31";
const DEREGISTER: &str = "\
    c7010201000000001900000002000000edebb9170000000000000000f8fd2b9b\
    070063616368696e6703000000000000000500000000000000";
const LIST: &str = "\
    c7010301000000000b00000003000000f67fef620000000000000000828fb61c\
    0000070063616368696e67";
const LIST_LOCAL: &str = "\
    c70104010000000004000000040000007fe1229500000000000000005919a2e9\
    01000000";
const LIST_REPLY: &str = "\
    c7010501000000004300000003000000d26833040000000000000000dd389d44\
    02000100070063616368696e670300000000000000050000000000000003006e796306fd000000000000000000000000\
    000002cc2902a00f0000f82a00000300763d31";
const FEDERATED_REGISTER: &str = "\
    c70106010000000061000000000000002ad51efe0000000000000000bd1b79d2\
    0100000a887766554433221101000000000000000700030073666f0100070063616368696e6703000000000000000500\
    000000000000040a000001cc29e02e00000300763d310100070063616368696e67040000000000000001000000000000\
    00";
const FEDERATED_ACK: &str = "\
    c7010701000000004300000000000000ab026429000000000000000075731c00\
    01000000000000000000010000000100070063616368696e670300000000000000050000000000000002001600313237\
    2e302e302e31206973207468697320686f7374";
const REMOVE_MEMBER: &str = "\
    c7010801000000000400000005000000a1aa8408000000000000000026b8b0ae\
    0900000a";
const WATERMARKS: &str = "\
    c701010200000000220000000000000011a616780000000000000000f2296dd8\
    010001000100000a8877665544332211000000020000000000000001000000000000";
const FOLLOW: &str = "\
    c7010202000000002e00000009000000336696c9000000000000000088039dc4\
    0000400000000000000080000000000001000100000a887766554433221100000001000000000000000200000000";
const LOGS: &str = "\
    c7010302000000002100000009000000517b13d90000000000000000fc19f331\
    01000100000a887766554433221100000001000000000000000000000000020001";
const RECORDS: &str = "\
    c7010402000000005000000000000000f1547b7100000000000000006ee3f249\
    0100000a887766554433221101000000001000000000000001000000280000000000000000000000666f727479206279\
    7465732074686174207374616e6420666f72206f6e65207265636f72642e2e00";
const PACKED_RECORDS: &str = "\
    c7010402000000005b000000000000002d9600ea00000000000000009713122d\
    0100000a887766554433221101000000001000000000000002000000500000000100000000000000ff19666f72747920\
    62797465732074686174207374616e6420666f72206f6e65207265636f72642e2e002800105072642e2e00";
const CLAIM: &str = "\
    c7010502000000002000000000000000a17ce19d000000000000000069e823b4\
    0100000a88776655443322110000000100000000000000020000000000000000";
const MORE: &str = "\
    c7010702000000002d000000000000006c95c7910000000000000000038277b1\
    010040000800010062797465732074686174207374616e6420666f72206f6e65206272696566207265636f7264";
const PACKED_MORE: &str = "\
    c70107020000000012000000000000000f8c8aca0000000000000000602911f1\
    00000000080001010f25000d5065636f7264";
const CREDIT: &str = "\
    c70106020000000008000000000000005c05209000000000000000009b60e7c5\
    0000800000000000";
