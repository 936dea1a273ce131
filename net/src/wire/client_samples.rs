//! The golden samples of what native clients and nodes say; see [`super::samples`].

use bytes::Bytes;

use super::body::{
    ClientHello, ClientHelloAck, Condition, Delete, Get, GetMany, Held, HeldBy, Increment, Incremented, Item, Keys,
    Put, Scan, Session, SessionToken, Value, Wait, Written,
};
use super::message::Message;
use super::samples::{Sample, sample};
use crate::ids::{Incarnation, LogId, NameError, NodeId, RegionName, Version};
use crate::token::Token;

/// One sample of each message, in order of the opcodes.
pub(super) fn samples() -> Result<Vec<Sample>, NameError> {
    let wait = Wait::default();
    let all = Wait { regions: Wait::ALL_REGIONS, deadline_ms: 250 };
    let key = Bytes::from_static(b"user:1");
    let version = Version(0x0200_0000_0000_0801);
    let ack = ClientHelloAck {
        protocol: 1,
        log: LogId { node: NodeId(0x0a00_0001), incarnation: Incarnation(0x1122_3344_5566_7788) },
        cores: 2,
        value_bytes_max: 8 * 1024 * 1024,
        connection: 65,
        region: RegionName::parse("sfo")?,
    };
    let item = Item { version, expiry_ms: 1_767_225_600_000, value: Bytes::from_static(b"ada") };
    let put = Put {
        wait,
        expiry_ms: 1_767_225_600_000,
        condition: Condition::IfVersion(Version(0x0200_0000_0000_0001)),
        key: key.clone(),
        value: Bytes::from_static(b"ada"),
    };
    let delete = Delete { wait, condition: Condition::IfValue(Bytes::from_static(b"ada")), key: key.clone() };
    let holder = |node, region| Ok(HeldBy { node: NodeId(node), region: RegionName::parse(region)? });
    let held =
        Held { reached: false, count: 2, holders: vec![holder(0x0a00_0002, "nyc")?, holder(0x0a00_0003, "ams")?] };
    let number = Bytes::from_static(b"visits");
    let mut seen = Token::default();
    seen.note(NodeId(0x0a00_0001), version);
    let token = Bytes::from(seen.to_bytes().unwrap_or_default());
    let many = GetMany { keys: vec![key.clone(), number.clone()] };
    let keys = Keys { more: false, cursor: 1 << 48, keys: vec![key.clone()] };
    Ok(vec![
        sample(0, Message::ClientHello(ClientHello::new("billing")), CLIENT_HELLO),
        sample(0, Message::ClientHelloAck(ack), CLIENT_HELLO_ACK),
        sample(1, Message::Get(Get { key }), GET),
        sample(2, Message::GetMany(many), GET_MANY),
        sample(3, Message::Put(put), PUT),
        sample(4, Message::Delete(delete), DELETE),
        sample(5, Message::Increment(Increment { wait: all, by: -2, key: number }), INCREMENT),
        sample(6, Message::Scan(Scan { cursor: 0, count: 100, prefix: Bytes::from_static(b"user:") }), SCAN),
        sample(1, Message::Value(Value { item: Some(item.clone()) }), VALUE),
        sample(3, Message::Written(Written::Refused { present: Some(item) }), WRITTEN),
        sample(5, Message::Incremented(Incremented { version, value: 40 }), INCREMENTED),
        sample(6, Message::Keys(keys), KEYS),
        sample(5, Message::Held(held), HELD),
        sample(7, Message::Session(Session { deadline_ms: 250, token: token.clone() }), SESSION),
        sample(7, Message::SessionToken(SessionToken { token }), SESSION_TOKEN),
    ])
}

// Golden frames: the header on the first line, then the body.
const CLIENT_HELLO: &str = "\
    c7010103000000000d00000000000000bfa3f0cd000000000000000039e17cd0\
    01000100070062696c6c696e67";
const CLIENT_HELLO_ACK: &str = "\
    c7010203000000002100000000000000e60214d500000000000000005499768e\
    01000100000a88776655443322110200000080004100000000000000030073666f";
const GET: &str = "\
    c70103030000000008000000010000004b4a03390000000000000000d85ae57e\
    0600757365723a31";
const GET_MANY: &str = "\
    c7010403000000001200000002000000feee8cbc0000000000000000461eedd1\
    02000600757365723a310600766973697473";
const PUT: &str = "\
    c7010503000000002500000003000000d4663eb200000000000000001fd06960\
    000000000000a8da769b0100000301000000000000020600757365723a3103000000616461";
const DELETE: &str = "\
    c701060300000000150000000400000059ef1685000000000000000051fdd322\
    000000000004030000006164610600757365723a31";
const INCREMENT: &str = "\
    c7010703000000001500000005000000201b9a4c00000000000000002ee2ad0d\
    fffa000000feffffffffffffff0600766973697473";
const SCAN: &str = "\
    c7010803000000001100000006000000e742fda00000000000000000467db4e6\
    000000000000000064000500757365723a";
const VALUE: &str = "\
    c7010903000000001800000001000000f00d1ece00000000000000002c4da29d\
    01010800000000000200a8da769b01000003000000616461";
const WRITTEN: &str = "\
    c7010a03000000001800000003000000a428b69600000000000000007cf95bf6\
    04010800000000000200a8da769b01000003000000616461";
const INCREMENTED: &str = "\
    c7010b030000000010000000050000002d5f95200000000000000000e0256e06\
    01080000000000022800000000000000";
const KEYS: &str = "\
    c7010c030000000014000000060000006a01c9f30000000000000000e4e531cb\
    0000000000000000010001000600757365723a31";
const HELD: &str = "\
    c7010d030000000017000000050000003110486f000000000000000018f6aac2\
    00020002000200000a03006e79630300000a0300616d73";
const SESSION: &str = "\
    c7010e030000000018000000070000007251e90c0000000000000000f4aacb30\
    fa000000120001010100000a010800000000000297560790";
const SESSION_TOKEN: &str = "\
    c7010f0300000000140000000700000064df0b2900000000000000005765d6fd\
    120001010100000a010800000000000297560790";
