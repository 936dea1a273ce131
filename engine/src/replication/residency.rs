//! Residency: which regions may hold which keys. A policy gives prefixes of keys, each with the regions that may hold what begins with
//! it; of several prefixes the longest counts, and keys of none may be anywhere.
//!
//! All nodes of a mesh have the same policy, or exchange nothing ([`Policy::fingerprint`]). What one region may hold is an [`Allowed`]:
//! sources send nothing else to it, and its node takes nothing else. Whether a key may be somewhere depends on the key alone, so that the keys
//! of a prefix are a world of their own: no record of another one ever takes the place of one of theirs. A node's claims mean
//! everything that it may hold ([decision 19](../../../docs/decisions/0019-keys-stay-in-their-regions.md)).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use net::ids::RegionName;
use net::wire::body::RecordsHead;
use wal::planted::{self, Fault};
use wal::{RecordError, RecordOp, RecordView};
use xxhash_rust::xxh3::xxh3_64;

/// Longest policy, as it is written. What a node notes of it has to fit a page.
pub const POLICY_BYTES_MAX: usize = 2048;

/// Most prefixes: each key is compared with all of them.
/// Each has a bit of its own.
pub const PREFIXES_MAX: usize = 64;

/// Why a policy cannot be read: what is wrong, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A part without regions.
    #[error("{0:?} names no regions; write PREFIX=REGION,…;… such as eu/=ams,fra;us/=nyc")]
    NoRegions(String),
    /// A part without a prefix.
    #[error("a prefix is empty; write the first bytes of the keys that it is about, such as eu/")]
    NoPrefix,
    /// Something that is no region.
    #[error(
        "{0:?} is not a region's name: 1 to 32 of a-z, 0-9 and '-'; write names as in REGION, with commas between them"
    )]
    Region(String),
    /// Two parts about one prefix.
    #[error("{0:?} is there twice; write all its regions behind one of the two")]
    Twice(String),
    /// A character that has a meaning, or none.
    #[error(
        "{0:?} has a byte that must be written as % and two hexadecimal digits (all but printable ASCII, and space % = , ;)"
    )]
    Byte(String),
    /// More than a node compares keys with.
    #[error(
        "there are more than {PREFIXES_MAX} prefixes, or more than {POLICY_BYTES_MAX} bytes; use fewer, shorter prefixes"
    )]
    TooLong,
}

/// Which regions may hold which keys. Without a prefix all may hold all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    prefixes: BTreeMap<Vec<u8>, BTreeSet<RegionName>>,
}

impl Policy {
    /// Reads `PREFIX=REGION,…;…`; nothing is no policy.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub fn parse(text: &str) -> Result<Policy, PolicyError> {
        let mut policy = Policy::default();
        if text.len() > POLICY_BYTES_MAX {
            return Err(PolicyError::TooLong);
        }
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let no_regions = || PolicyError::NoRegions(part.to_owned());
            let (prefix, names) = part.split_once('=').ok_or_else(no_regions)?;
            let bytes = unescaped(prefix.trim()).ok_or_else(|| PolicyError::Byte(prefix.to_owned()))?;
            if bytes.is_empty() {
                return Err(PolicyError::NoPrefix);
            }
            if names.trim().is_empty() {
                return Err(no_regions());
            }
            let region = |name: &str| RegionName::parse(name).map_err(|_| PolicyError::Region(name.to_owned()));
            let regions = names.split(',').map(|name| region(name.trim())).collect::<Result<_, _>>()?;
            if policy.prefixes.insert(bytes, regions).is_some() {
                return Err(PolicyError::Twice(prefix.to_owned()));
            }
        }
        if policy.prefixes.len() > PREFIXES_MAX {
            return Err(PolicyError::TooLong);
        }
        Ok(policy)
    }

    /// Whether all may hold all.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// Equal for equal policies, however they were written, and different for others; 0 without a policy.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        if self.is_none() { 0 } else { xxh3_64(self.to_string().as_bytes()).max(1) }
    }

    /// The longest prefix that a key begins with, and the regions that may hold it.
    fn rule(&self, key: &[u8]) -> Option<(&Vec<u8>, &BTreeSet<RegionName>)> {
        self.prefixes.iter().filter(|(prefix, _)| key.starts_with(prefix)).max_by_key(|(prefix, _)| prefix.len())
    }

    /// What a region may hold.
    #[must_use]
    pub fn of(&self, region: &RegionName) -> Allowed {
        Allowed::new(true, self.prefixes.iter().map(|(prefix, regions)| (prefix.clone(), regions.contains(region))))
    }

    /// What each of these regions may hold.
    #[must_use]
    pub fn of_all<'a>(&self, regions: impl IntoIterator<Item = &'a RegionName>) -> Allowed {
        let named: BTreeSet<&RegionName> = regions.into_iter().collect();
        let all = |regions: &BTreeSet<RegionName>| named.iter().all(|region| regions.contains(*region));
        Allowed::new(true, self.prefixes.iter().map(|(prefix, regions)| (prefix.clone(), all(regions))))
    }

    /// What any region may hold: the keys that the policy says nothing of.
    #[must_use]
    pub fn of_any(&self) -> Allowed {
        Allowed::new(true, self.prefixes.keys().map(|prefix| (prefix.clone(), false)))
    }
}

/// The one way of writing it that counts for the fingerprint.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (prefix, regions)) in self.prefixes.iter().enumerate() {
            let regions: Vec<&str> = regions.iter().map(RegionName::as_str).collect();
            write!(f, "{}{}={}", if at > 0 { ";" } else { "" }, escaped(prefix), regions.join(","))?;
        }
        Ok(())
    }
}

/// The keys that somebody may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The longest first. None says what a shorter one, or `others`, says anyway.
    prefixes: Vec<(Vec<u8>, bool)>,
    /// Keys of no prefix.
    others: bool,
}

impl Allowed {
    /// All keys.
    #[must_use]
    pub fn everything() -> Allowed {
        Allowed { prefixes: Vec::new(), others: true }
    }

    /// No key: who has not said where it is gets none.
    #[must_use]
    pub fn nothing() -> Allowed {
        Allowed { prefixes: Vec::new(), others: false }
    }

    fn new(others: bool, prefixes: impl IntoIterator<Item = (Vec<u8>, bool)>) -> Allowed {
        let mut shortest_first: Vec<(Vec<u8>, bool)> = prefixes.into_iter().collect();
        shortest_first.sort_by(|one, other| (one.0.len(), &one.0).cmp(&(other.0.len(), &other.0)));
        let mut allowed = Allowed { prefixes: Vec::new(), others };
        for (prefix, may) in shortest_first {
            if allowed.may_hold(&prefix) != may {
                allowed.prefixes.insert(0, (prefix, may));
            }
        }
        allowed
    }

    /// What both have.
    #[must_use]
    pub fn and(&self, other: &Allowed) -> Allowed {
        let prefixes = self.prefixes.iter().chain(&other.prefixes).map(|(prefix, _)| prefix.clone());
        let both = |key: &[u8]| self.may_hold(key) && other.may_hold(key);
        let prefixes: BTreeMap<Vec<u8>, bool> = prefixes.map(|prefix| (prefix.clone(), both(&prefix))).collect();
        Allowed::new(self.others && other.others, prefixes)
    }

    /// Whether that is all keys.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.others && self.prefixes.is_empty()
    }

    /// Whether a key is among them.
    #[must_use]
    pub fn may_hold(&self, key: &[u8]) -> bool {
        self.prefixes.iter().find(|(prefix, _)| key.starts_with(prefix)).map_or(self.others, |(_, may)| *may)
    }

    /// The prefix because of which a key is not among them, as it is written in a policy.
    #[must_use]
    pub fn refused_prefix(&self, key: &[u8]) -> String {
        let prefix =
            self.prefixes.iter().find(|(prefix, _)| key.starts_with(prefix)).map(|(prefix, _)| prefix.as_slice());
        escaped(prefix.unwrap_or_default())
    }

    /// Whether a record may be here: what logs say of themselves may be anywhere.
    #[must_use]
    pub fn may_have(&self, record: &RecordView<'_>) -> bool {
        record.op == RecordOp::Control || self.may_hold(record.key)
    }

    /// The shortest prefix of keys that `other` has and this has not.
    #[must_use]
    pub fn lacks_of(&self, other: &Allowed) -> Option<Vec<u8>> {
        // Keys that begin with none of the longer prefixes of either side are alike, and there always are some.
        let prefixes = self.prefixes.iter().chain(&other.prefixes).map(|(prefix, _)| prefix.as_slice());
        let lacking = prefixes.chain([b"".as_slice()]).filter(|key| other.may_hold(key) && !self.may_hold(key));
        lacking.min_by_key(|prefix| prefix.len()).map(<[u8]>::to_vec)
    }

    /// Whether everything that `other` has is among them.
    #[must_use]
    pub fn covers(&self, other: &Allowed) -> bool {
        self.lacks_of(other).is_none()
    }

    /// Reads what `Display` wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Allowed> {
        let (others, rest) = match text.split_at_checked(1)? {
            ("+", rest) => (true, rest),
            ("-", rest) => (false, rest),
            _ => return None,
        };
        let prefix = |text: &str| match text.split_at_checked(1)? {
            ("+", prefix) => Some((unescaped(prefix)?, true)),
            ("-", prefix) => Some((unescaped(prefix)?, false)),
            _ => None,
        };
        let prefixes = rest.split(',').filter(|text| !text.is_empty()).map(prefix).collect::<Option<Vec<_>>>()?;
        Some(Allowed::new(others, prefixes))
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = |may: bool| if may { '+' } else { '-' };
        write!(f, "{}", sign(self.others))?;
        self.prefixes.iter().try_for_each(|(prefix, may)| write!(f, ",{}{}", sign(*may), escaped(prefix)))
    }
}

/// The policy, as one node has to keep it.
#[derive(Clone, Debug)]
pub struct Residency {
    policy: Policy,
    here: Allowed,
    classes_here: u64,
}

impl Default for Residency {
    fn default() -> Self {
        Residency { policy: Policy::default(), here: Allowed::everything(), classes_here: 0 }
    }
}

impl Residency {
    /// Of a node of this region.
    #[must_use]
    pub fn new(policy: Policy, region: &RegionName) -> Residency {
        let mut residency = Residency { here: policy.of(region), policy, classes_here: 0 };
        residency.classes_here = residency.classes_of(region);
        residency
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What this node may hold.
    #[must_use]
    pub fn here(&self) -> &Allowed {
        &self.here
    }

    /// Why this node does nothing with a key, for whoever asked; `None` if it may hold it.
    #[must_use]
    pub fn refusal(&self, key: &[u8]) -> Option<String> {
        if self.here.may_hold(key) {
            return None;
        }
        let (prefix, regions) = self.policy.rule(key)?;
        let regions: Vec<&str> = regions.iter().map(RegionName::as_str).collect();
        Some(format!("keys under \"{}\" are kept in {} only; ask a node there", escaped(prefix), regions.join(", ")))
    }

    /// The bit of the prefix that counts for a key; none where that may be anywhere.
    #[must_use]
    pub fn class(&self, key: &[u8]) -> u64 {
        let Some((rule, _)) = self.policy.rule(key) else { return 0 };
        self.policy.prefixes.keys().position(|prefix| prefix == rule).map_or(0, |at| 1 << at)
    }

    /// The bits of all prefixes whose keys this node may hold.
    #[must_use]
    pub fn classes_here(&self) -> u64 {
        self.classes_here
    }

    /// The bits of all prefixes whose keys a region may hold.
    #[must_use]
    pub fn classes_of(&self, region: &RegionName) -> u64 {
        let held = (0..).zip(self.policy.prefixes.values()).filter(|(_, regions)| regions.contains(region));
        held.fold(0, |classes, (at, _)| classes | 1 << at)
    }
}

/// Leaves out of a batch what the follower may not hold: `runs` are whole records, as many as `head` says. Gives how many bytes are left out.
///
/// # Errors
/// When that are no records.
pub fn withhold(allowed: &Allowed, head: &mut RecordsHead, runs: &mut Vec<Bytes>) -> Result<u32, RecordError> {
    if allowed.is_everything() || planted::is(Fault::ResidencyIgnored) {
        return Ok(0);
    }
    let mut kept: Vec<Bytes> = Vec::with_capacity(runs.len());
    let (mut left_out, mut count) = (0usize, 0);
    for run in runs.iter() {
        let (mut start, mut at) = (0, 0);
        while at < run.len() {
            let (record, len) = RecordView::parse_trusted_prefix(&run[at..])?;
            if allowed.may_have(&record) {
                count += 1;
            } else {
                kept.extend((start < at).then(|| run.slice(start..at)));
                start = at + len;
                left_out += len;
            }
            at += len;
        }
        kept.extend((start < at).then(|| run.slice(start..at)));
    }
    let left_out = u32::try_from(left_out).unwrap_or(u32::MAX);
    if left_out > 0 {
        *runs = kept;
        head.count = count;
        head.raw_bytes = head.raw_bytes.saturating_sub(left_out);
    }
    Ok(left_out)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'%' | b'=' | b',' | b';')
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if is_plain(*byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte == b'%' {
            let (digits, behind) = rest.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|d| d.is_ascii_hexdigit()))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = behind;
        } else if is_plain(*byte) {
            bytes.push(*byte);
        } else {
            return None;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use net::ids::{CoreIndex, Incarnation, LogId, NodeId, StreamOffset};
    use net::wire::body::Compression;
    use proptest::prelude::*;
    use wal::{RecordDraft, Version};

    use super::*;

    fn region(name: &str) -> RegionName {
        RegionName::parse(name).unwrap()
    }

    fn policy(text: &str) -> Policy {
        Policy::parse(text).unwrap()
    }

    #[test]
    fn the_longest_prefix_counts_and_other_keys_may_be_anywhere() {
        let policy = policy("eu/=ams,fra;eu/de/=fra;us/=nyc");
        let holders = |key: &str| -> Vec<&str> {
            ["ams", "fra", "nyc", "sfo"]
                .into_iter()
                .filter(|name| policy.of(&region(name)).may_hold(key.as_bytes()))
                .collect()
        };
        assert_eq!(holders("eu/x"), ["ams", "fra"]);
        assert_eq!(holders("eu/"), ["ams", "fra"]);
        assert_eq!(holders("eu/de/x"), ["fra"]);
        assert_eq!(holders("us/x"), ["nyc"]);
        assert_eq!(holders("eu"), ["ams", "fra", "nyc", "sfo"], "it does not begin with the prefix");
        assert_eq!(holders(""), ["ams", "fra", "nyc", "sfo"]);
        assert!(Policy::default().of(&region("ams")).is_everything());
        assert!(!policy.of(&region("fra")).is_everything());
        assert!(!policy.of_any().may_hold(b"eu/x") && policy.of_any().may_hold(b"x"));
        let both = policy.of_all([&region("ams"), &region("fra")]);
        assert!(both.may_hold(b"eu/x") && !both.may_hold(b"eu/de/x") && !both.may_hold(b"us/x"));
    }

    #[test]
    fn a_policy_is_the_same_however_it_is_written() {
        let one = policy(" us/=nyc ; eu/ = fra, ams;");
        let other = policy("eu/=ams,fra,ams;us/=nyc");
        assert_eq!((&one, one.fingerprint()), (&other, other.fingerprint()));
        assert_eq!(one.to_string(), "eu/=ams,fra;us/=nyc");
        assert_ne!(one.fingerprint(), policy("eu/=ams;us/=nyc").fingerprint());
        assert_ne!(one.fingerprint(), 0);
        assert_eq!((policy("").fingerprint(), policy(" ; ").is_none()), (0, true));
        assert_eq!(policy("a%3B%00=ams").to_string(), "a%3B%00=ams");
        assert!(!policy("a%3B=ams").of(&region("nyc")).may_hold(b"a;b"));
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_said() {
        let error = |text: &str| Policy::parse(text).unwrap_err().to_string();
        assert!(error("eu/").contains("such as eu/=ams,fra"), "{}", error("eu/"));
        assert!(error("eu/=").contains("names no regions"));
        assert!(error("=ams").contains("empty"));
        assert!(error("eu/=Ams").contains("\"Ams\" is not a region's name"));
        assert!(error("eu/=ams,,fra").contains("\"\" is not a region's name"));
        assert!(error("eu/=ams;eu/=fra").contains("twice"));
        for text in ["e u=ams", "é=ams", "a%2=ams", "a%zz=ams", "a%+1=ams"] {
            assert!(error(text).contains("hexadecimal"), "{text}");
        }
        let many: Vec<String> = (0..=PREFIXES_MAX).map(|n| format!("k{n}/=ams")).collect();
        assert!(error(&many.join(";")).contains("more than"));
        assert!(error(&format!("{}=ams", "a".repeat(POLICY_BYTES_MAX))).contains("more than"));
    }

    #[test]
    fn who_covers_whom_is_known() {
        let policy = policy("eu/=ams,fra;eu/de/=fra;us/=nyc");
        let of = |name: &str| policy.of(&region(name));
        assert!(of("fra").covers(&of("ams")) && !of("ams").covers(&of("fra")));
        assert_eq!(of("ams").lacks_of(&of("fra")), Some(b"eu/de/".to_vec()));
        assert!(of("ams").covers(&of("sfo")) && of("nyc").covers(&of("sfo")), "sfo may hold what all may");
        assert!(!of("sfo").covers(&of("nyc")) && !of("nyc").covers(&of("ams")) && !of("ams").covers(&of("nyc")));
        assert!(Allowed::everything().covers(&of("fra")) && !of("fra").covers(&Allowed::everything()));
        assert!(of("sfo").covers(&Allowed::nothing()) && !Allowed::nothing().covers(&of("sfo")));
        assert_eq!(Allowed::nothing().lacks_of(&Allowed::everything()), Some(Vec::new()));
    }

    #[test]
    fn a_client_is_told_where_to_go() {
        let residency = Residency::new(policy("eu/=ams,fra;us/=nyc"), &region("nyc"));
        let text = "keys under \"eu/\" are kept in ams, fra only; ask a node there";
        assert_eq!(residency.refusal(b"eu/1").as_deref(), Some(text));
        assert_eq!(residency.refusal(b"us/1"), None);
        let (eu, us) = (residency.class(b"eu/1"), residency.class(b"us/1"));
        assert_eq!((eu, us, residency.class(b"x")), (1, 2, 0));
        let classes = ["ams", "nyc", "sfo"].map(|name| residency.classes_of(&region(name)));
        assert_eq!(classes, [eu, us, 0]);
    }

    fn record(key: &[u8], op: RecordOp) -> Vec<u8> {
        let draft = RecordDraft { version: Version(7), origin: wal::NodeId(1), op, expiry: None, key, value: b"value" };
        let mut bytes = vec![0; draft.padded_len()];
        draft.encode_into(&mut bytes);
        bytes
    }

    #[test]
    fn what_a_follower_may_not_hold_is_left_out_of_a_batch_and_nothing_else_is_copied() {
        let allowed = policy("eu/=ams").of(&region("nyc"));
        let keys: [&[u8]; 5] = [b"a", b"eu/1", b"eu/2", b"b", b"eu/3"];
        let mut run: Vec<u8> = keys.iter().flat_map(|key| record(key, RecordOp::Put)).collect();
        run.extend(record(&[1], RecordOp::Control));
        let runs = vec![Bytes::from(record(b"eu/0", RecordOp::Delete)), Bytes::from(run)];
        let bytes: usize = runs.iter().map(Bytes::len).sum();
        let head = RecordsHead {
            log: LogId { node: NodeId(1), incarnation: Incarnation(1) },
            core: CoreIndex(0),
            flags: 0,
            stream_offset: StreamOffset(0),
            count: 7,
            raw_bytes: u32::try_from(bytes).unwrap(),
            compression: Compression::None,
        };
        let (mut filtered, mut left) = (head, runs.clone());
        let left_out = withhold(&allowed, &mut filtered, &mut left).unwrap();
        let expected = [record(b"a", RecordOp::Put), record(b"b", RecordOp::Put), record(&[1], RecordOp::Control)];
        assert_eq!(left.concat(), expected.concat());
        assert_eq!(left.len(), 3);
        assert_eq!((filtered.count, filtered.raw_bytes), (3, head.raw_bytes - left_out));
        assert_eq!(left.concat().len(), filtered.raw_bytes as usize);
        let mut all = runs.clone();
        let mut unfiltered = head;
        assert_eq!(withhold(&Allowed::everything(), &mut unfiltered, &mut all), Ok(0));
        assert_eq!((all, unfiltered.count), (runs, 7));
    }

    fn allowed() -> impl Strategy<Value = Allowed> {
        let prefix = proptest::collection::vec(proptest::sample::select(b"ab,%".to_vec()), 1..4);
        (any::<bool>(), proptest::collection::btree_map(prefix, any::<bool>(), 0..6))
            .prop_map(|(others, prefixes)| Allowed::new(others, prefixes))
    }

    proptest! {
        #[test]
        fn covering_is_what_it_says_for_every_key(one in allowed(), other in allowed()) {
            let mut keys = vec![Vec::new()];
            for _ in 0..4 {
                let longer = keys.iter().flat_map(|key: &Vec<u8>| b"ab,%c".map(|byte| [key.as_slice(), &[byte]].concat()));
                keys.extend(longer.collect::<Vec<_>>());
            }
            let covers = keys.iter().all(|key| one.may_hold(key) || !other.may_hold(key));
            prop_assert_eq!(one.covers(&other), covers);
            let and = one.and(&other);
            prop_assert!(keys.iter().all(|key| and.may_hold(key) == (one.may_hold(key) && other.may_hold(key))));
            let lacks = one.lacks_of(&other);
            prop_assert!(lacks.is_none_or(|prefix| other.may_hold(&prefix) && !one.may_hold(&prefix)));
        }

        #[test]
        fn what_is_written_down_is_read_back(allowed in allowed()) {
            prop_assert_eq!(Allowed::parse(&allowed.to_string()), Some(allowed));
        }
    }
}
