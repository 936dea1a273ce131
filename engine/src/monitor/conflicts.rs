//! `/api/conflicts`: the latest writes of other nodes that lost against writes of this node which did not know them.
//!
//! Values are data of clients: the admin port is for operators, and nothing else shows them.

use serde::{Deserialize, Serialize};

use crate::control::status::MemberStatus;
use crate::shard::LostWrite;

/// What `/api/conflicts` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConflictsReply {
    /// The region's name.
    pub region: String,
    /// The node's id, eight hexadecimal digits.
    pub node: String,
    /// How many there were in this run.
    pub counted: u64,
    /// The latest of them, newest first.
    pub conflicts: Vec<Conflict>,
}

/// A write of another node that lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Its key, or the beginning of it.
    pub key: Shown,
    /// Its value, or the beginning of it; `None` of a deletion.
    pub value: Option<Shown>,
    /// Bytes of the whole value.
    pub value_bytes: u64,
    /// Who wrote it, eight hexadecimal digits.
    pub origin: String,
    /// That node's region; empty if it is not known any more.
    pub region: String,
    /// Its version.
    pub version: u64,
    /// The version of this node's write, which everybody sees instead.
    pub winner_version: u64,
    /// Whether that is a deletion.
    pub winner_deletes: bool,
}

/// Bytes of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shown {
    /// They are UTF-8.
    Text(String),
    /// They are not.
    Hex(String),
}

impl Shown {
    fn of(bytes: &[u8]) -> Shown {
        match std::str::from_utf8(bytes) {
            Ok(text) => Shown::Text(text.to_owned()),
            Err(_) => Shown::Hex(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }
}

impl Conflict {
    /// `lost`, with the region from the member table.
    #[must_use]
    pub fn of(lost: &LostWrite, members: &[MemberStatus]) -> Conflict {
        let origin = lost.origin.to_string();
        let member = members.iter().find(|member| member.node == origin);
        Conflict {
            key: Shown::of(&lost.key),
            value: lost.value.as_deref().map(Shown::of),
            value_bytes: lost.value_bytes as u64,
            region: member.map(|member| member.region.clone()).unwrap_or_default(),
            origin,
            version: lost.version.0,
            winner_version: lost.winner.0,
            winner_deletes: lost.winner_deletes,
        }
    }
}

#[cfg(test)]
mod tests {
    use wal::{NodeId, Version};

    use super::*;

    #[test]
    fn a_lost_write_is_shown_with_its_region_and_in_bytes_that_json_can_carry() {
        let lost = LostWrite {
            origin: NodeId(0xab),
            version: Version(5),
            key: b"k".to_vec(),
            value: Some(vec![0xff, 0]),
            value_bytes: 9_000,
            winner: Version(6),
            winner_deletes: true,
        };
        let members =
            [MemberStatus { node: NodeId(0xab).to_string(), region: "nyc".into(), ..MemberStatus::default() }];
        let text = serde_json::to_string(&Conflict::of(&lost, &members)).unwrap();
        for part in [
            r#""key":{"text":"k"}"#,
            r#""value":{"hex":"ff00"}"#,
            r#""value_bytes":9000"#,
            r#""region":"nyc""#,
            r#""origin":"000000ab""#,
            r#""winner_version":6"#,
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert_eq!(serde_json::from_str::<Conflict>(&text).unwrap(), Conflict::of(&lost, &members));
        assert_eq!(Conflict::of(&LostWrite { value: None, ..lost }, &[]).region, "");
    }
}
