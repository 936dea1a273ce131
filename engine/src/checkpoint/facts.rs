//! The facts of one core: everything in a checkpoint but the index and what expires.

use wal::{ControlRecord, Cookie, CoreId, Incarnation, Lsn, SegmentNumber, Version};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Damaged;
use crate::shard::{HeldKey, SegmentId};
use crate::storage::KeyHash;
use crate::storage::index::{Location, SegmentSlot};
use crate::storage::store::{SegmentCounts, StoreCounts};

/// What a core knew when it stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreFacts {
    /// Exclusive end of its log.
    pub end: Lsn,
    /// Where its clock was.
    pub clock: Version,
    /// The highest version that its log originates.
    pub originated: Version,
    /// Its log originates something that followers must have.
    pub data: bool,
    /// Copies that compaction made stand in its log.
    pub has_copies: bool,
    /// What its store counts over all of it.
    pub store: StoreCounts,
    /// Every segment that its store knows.
    pub segments: Vec<SegmentFacts>,
    /// Records that are held back.
    pub held: Vec<HeldRecord>,
    /// Places to start reading its log.
    pub marks: Vec<(Version, Lsn)>,
    /// What its log says of this run and of others' logs.
    pub controls: Vec<ControlRecord>,
    /// Earlier runs that are offered, oldest first; the first core's only.
    pub old_runs: Vec<OldRunFacts>,
}

/// A segment as one core's store knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Its name.
    pub id: SegmentId,
    /// Of which run.
    pub incarnation: Incarnation,
    /// What its frames carry.
    pub cookie: Cookie,
    /// Position of its first byte.
    pub base: Lsn,
    /// Size of its file in bytes.
    pub file_bytes: u64,
    /// How index entries name it.
    pub slot: SegmentSlot,
    /// What counts in it.
    pub counts: SegmentCounts,
}

/// A record that is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldRecord {
    /// Its name.
    pub key: HeldKey,
    /// Where it lies.
    pub location: Location,
}

/// An earlier run that is offered to followers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OldRunFacts {
    /// Which.
    pub incarnation: Incarnation,
    /// Its first version.
    pub first: Version,
    /// The claim that ends it.
    pub end: Version,
    /// By core of that run.
    pub cores: Vec<OldRunLog>,
}

/// One core's part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OldRunLog {
    /// Copies that compaction made stand in it.
    pub has_copies: bool,
    /// Places to start reading.
    pub marks: Vec<(Version, Lsn)>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFacts {
    end: U64,
    clock: U64,
    originated: U64,
    entries: U64,
    live: U64,
    live_bytes: U64,
    expired_through_unix_ms: U64,
    flags: U32,
    segments: U32,
    held: U32,
    marks: U32,
    controls: U32,
    old_runs: U32,
}
const _: () = assert!(size_of::<RawFacts>() == 80);

/// Of [`CoreFacts`].
const FLAG_DATA: u32 = 1;
/// Of [`CoreFacts`] and [`OldRunLog`].
const FLAG_HAS_COPIES: u32 = 2;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSegment {
    incarnation: U64,
    cookie: U64,
    number: U64,
    base: U64,
    file_bytes: U64,
    live_bytes: U64,
    replaced_upto: U64,
    entries: U32,
    slot: U32,
    core: U16,
    flags: U16,
    reserved: U32,
}
const _: () = assert!(size_of::<RawSegment>() == 72);

/// Of [`SegmentCounts`].
const FLAG_STANDS_FOR_OWN: u16 = 1;
/// Of [`SegmentCounts`].
const FLAG_LOST_TO_OTHERS: u16 = 2;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeld {
    version: U64,
    hash: U64,
    crc: U32,
    slot: U32,
    offset: U32,
    len_max: U32,
}
const _: () = assert!(size_of::<RawHeld>() == 32);

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawMark {
    version: U64,
    lsn: U64,
}
const _: () = assert!(size_of::<RawMark>() == 16);

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawControl {
    key_len: U32,
    value_len: U32,
}
const _: () = assert!(size_of::<RawControl>() == 8);

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawOldRun {
    incarnation: U64,
    first: U64,
    end: U64,
    cores: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<RawOldRun>() == 32);

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawOldRunLog {
    flags: U32,
    marks: U32,
}
const _: () = assert!(size_of::<RawOldRunLog>() == 8);

fn count<T>(items: &[T]) -> U32 {
    U32::new(u32::try_from(items.len()).expect("each of these costs more memory elsewhere than a node has"))
}

fn flag(set: bool, bit: u32) -> u32 {
    if set { bit } else { 0 }
}

impl CoreFacts {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let raw = RawFacts {
            end: U64::new(self.end.0),
            clock: U64::new(self.clock.0),
            originated: U64::new(self.originated.0),
            entries: U64::new(self.store.entries),
            live: U64::new(self.store.live),
            live_bytes: U64::new(self.store.live_bytes),
            expired_through_unix_ms: U64::new(self.store.expired_through_unix_ms),
            flags: U32::new(flag(self.data, FLAG_DATA) | flag(self.has_copies, FLAG_HAS_COPIES)),
            segments: count(&self.segments),
            held: count(&self.held),
            marks: count(&self.marks),
            controls: count(&self.controls),
            old_runs: count(&self.old_runs),
        };
        out.extend_from_slice(raw.as_bytes());
        for segment in &self.segments {
            out.extend_from_slice(segment.raw().as_bytes());
        }
        for held in &self.held {
            out.extend_from_slice(held.raw().as_bytes());
        }
        encode_marks(&self.marks, out);
        for control in &self.controls {
            let (key, value) = control.encode();
            out.extend_from_slice(RawControl { key_len: count(&key), value_len: count(&value) }.as_bytes());
            out.extend_from_slice(&key);
            out.extend_from_slice(&value);
        }
        for run in &self.old_runs {
            run.encode(out);
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<CoreFacts, Damaged> {
        let mut bytes = Cursor(bytes);
        let raw: RawFacts = bytes.read()?;
        let facts = CoreFacts {
            end: Lsn(raw.end.get()),
            clock: Version(raw.clock.get()),
            originated: Version(raw.originated.get()),
            data: raw.flags.get() & FLAG_DATA != 0,
            has_copies: raw.flags.get() & FLAG_HAS_COPIES != 0,
            store: StoreCounts {
                entries: raw.entries.get(),
                live: raw.live.get(),
                live_bytes: raw.live_bytes.get(),
                expired_through_unix_ms: raw.expired_through_unix_ms.get(),
            },
            segments: bytes.list(raw.segments, |raw: RawSegment| SegmentFacts::of(&raw))?,
            held: bytes.list(raw.held, |raw: RawHeld| HeldRecord::of(&raw))?,
            marks: bytes.marks(raw.marks)?,
            controls: (0..raw.controls.get()).map(|_| bytes.control()).collect::<Result<_, _>>()?,
            old_runs: (0..raw.old_runs.get()).map(|_| bytes.old_run()).collect::<Result<_, _>>()?,
        };
        if bytes.0.is_empty() { Ok(facts) } else { Err(Damaged("its facts are longer than they say")) }
    }
}

impl SegmentFacts {
    fn raw(&self) -> RawSegment {
        let counts = &self.counts;
        let stands = if counts.stands_for_own { FLAG_STANDS_FOR_OWN } else { 0 };
        let lost = if counts.lost_to_others { FLAG_LOST_TO_OTHERS } else { 0 };
        RawSegment {
            incarnation: U64::new(self.incarnation.0),
            cookie: U64::new(self.cookie.0),
            number: U64::new(self.id.number.0),
            base: U64::new(self.base.0),
            file_bytes: U64::new(self.file_bytes),
            live_bytes: U64::new(counts.live_bytes),
            replaced_upto: U64::new(counts.replaced_upto.0),
            entries: U32::new(counts.entries),
            slot: U32::new(self.slot.0),
            core: U16::new(self.id.core.0),
            flags: U16::new(stands | lost),
            reserved: U32::ZERO,
        }
    }

    fn of(raw: &RawSegment) -> SegmentFacts {
        SegmentFacts {
            id: SegmentId { core: CoreId(raw.core.get()), number: SegmentNumber(raw.number.get()) },
            incarnation: Incarnation(raw.incarnation.get()),
            cookie: Cookie(raw.cookie.get()),
            base: Lsn(raw.base.get()),
            file_bytes: raw.file_bytes.get(),
            slot: SegmentSlot(raw.slot.get()),
            counts: SegmentCounts {
                entries: raw.entries.get(),
                live_bytes: raw.live_bytes.get(),
                stands_for_own: raw.flags.get() & FLAG_STANDS_FOR_OWN != 0,
                lost_to_others: raw.flags.get() & FLAG_LOST_TO_OTHERS != 0,
                replaced_upto: Version(raw.replaced_upto.get()),
            },
        }
    }
}

impl HeldRecord {
    fn raw(&self) -> RawHeld {
        RawHeld {
            version: U64::new(self.key.version().0),
            hash: U64::new(self.key.hash().0),
            crc: U32::new(self.key.crc()),
            slot: U32::new(self.location.segment.0),
            offset: U32::new(self.location.offset),
            len_max: U32::new(self.location.len_max),
        }
    }

    fn of(raw: &RawHeld) -> HeldRecord {
        HeldRecord {
            key: HeldKey::new(Version(raw.version.get()), KeyHash(raw.hash.get()), raw.crc.get()),
            location: Location {
                segment: SegmentSlot(raw.slot.get()),
                offset: raw.offset.get(),
                len_max: raw.len_max.get(),
            },
        }
    }
}

impl OldRunFacts {
    fn encode(&self, out: &mut Vec<u8>) {
        let raw = RawOldRun {
            incarnation: U64::new(self.incarnation.0),
            first: U64::new(self.first.0),
            end: U64::new(self.end.0),
            cores: count(&self.cores),
            reserved: U32::ZERO,
        };
        out.extend_from_slice(raw.as_bytes());
        for core in &self.cores {
            let flags = U32::new(flag(core.has_copies, FLAG_HAS_COPIES));
            out.extend_from_slice(RawOldRunLog { flags, marks: count(&core.marks) }.as_bytes());
            encode_marks(&core.marks, out);
        }
    }
}

fn encode_marks(marks: &[(Version, Lsn)], out: &mut Vec<u8>) {
    for (version, lsn) in marks {
        out.extend_from_slice(RawMark { version: U64::new(version.0), lsn: U64::new(lsn.0) }.as_bytes());
    }
}

/// What is left to decode.
struct Cursor<'a>(&'a [u8]);

const CUT: Damaged = Damaged("its facts end early");

impl<'a> Cursor<'a> {
    fn read<T: FromBytes>(&mut self) -> Result<T, Damaged> {
        let (value, rest) = T::read_from_prefix(self.0).map_err(|_| CUT)?;
        self.0 = rest;
        Ok(value)
    }

    fn bytes(&mut self, len: U32) -> Result<&'a [u8], Damaged> {
        let (bytes, rest) = self.0.split_at_checked(len.get() as usize).ok_or(CUT)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Looks whether so many can follow before it makes room for them.
    fn list<T: FromBytes, R>(&mut self, count: U32, read: impl Fn(T) -> R) -> Result<Vec<R>, Damaged> {
        let count = count.get() as usize;
        if count > self.0.len() / size_of::<T>() {
            return Err(CUT);
        }
        (0..count).map(|_| self.read().map(&read)).collect()
    }

    fn marks(&mut self, count: U32) -> Result<Vec<(Version, Lsn)>, Damaged> {
        self.list(count, |raw: RawMark| (Version(raw.version.get()), Lsn(raw.lsn.get())))
    }

    fn control(&mut self) -> Result<ControlRecord, Damaged> {
        let raw: RawControl = self.read()?;
        let (key, value) = (self.bytes(raw.key_len)?, self.bytes(raw.value_len)?);
        ControlRecord::decode(key, value).map_err(|_| Damaged("it holds a control record that is none"))
    }

    fn old_run(&mut self) -> Result<OldRunFacts, Damaged> {
        let raw: RawOldRun = self.read()?;
        let cores = (0..raw.cores.get()).map(|_| {
            let raw: RawOldRunLog = self.read()?;
            let has_copies = raw.flags.get() & FLAG_HAS_COPIES != 0;
            Ok(OldRunLog { has_copies, marks: self.marks(raw.marks)? })
        });
        Ok(OldRunFacts {
            incarnation: Incarnation(raw.incarnation.get()),
            first: Version(raw.first.get()),
            end: Version(raw.end.get()),
            cores: cores.collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use wal::NodeId;

    use super::*;

    fn facts() -> CoreFacts {
        let counts = SegmentCounts {
            entries: 3,
            live_bytes: 99,
            stands_for_own: true,
            lost_to_others: false,
            replaced_upto: Version(8),
        };
        let segment = SegmentFacts {
            id: SegmentId { core: CoreId(1), number: SegmentNumber(7) },
            incarnation: Incarnation(5),
            cookie: Cookie(6),
            base: Lsn(8192),
            file_bytes: 8192,
            slot: SegmentSlot(4),
            counts,
        };
        let location = Location { segment: SegmentSlot(4), offset: 4160, len_max: 64 };
        let key = HeldKey::new(Version(70), KeyHash(71), 72);
        let lost = SegmentFacts { counts: SegmentCounts { lost_to_others: true, ..counts }, ..segment };
        let logs = vec![OldRunLog::default(), OldRunLog { has_copies: true, marks: vec![(Version(1), Lsn(2)); 2] }];
        CoreFacts {
            end: Lsn(1),
            clock: Version(2),
            originated: Version(3),
            data: true,
            has_copies: true,
            store: StoreCounts { entries: 4, live: 5, live_bytes: 6, expired_through_unix_ms: 7 },
            segments: vec![segment, lost],
            held: vec![HeldRecord { key, location }],
            marks: vec![(Version(1), Lsn(4096)), (Version(9), Lsn(8192))],
            controls: vec![
                ControlRecord::ClockCeiling { version: Version(77) },
                ControlRecord::Open { node: NodeId(1), incarnation: Incarnation(5), first: Version(3), cores: 2 },
            ],
            old_runs: vec![OldRunFacts {
                incarnation: Incarnation(4),
                first: Version(1),
                end: Version(2),
                cores: logs,
            }],
        }
    }

    #[test]
    fn facts_come_back_and_cut_or_longer_ones_are_refused() {
        let mut bytes = Vec::new();
        facts().encode(&mut bytes);
        assert_eq!(CoreFacts::decode(&bytes), Ok(facts()));
        for len in 0..bytes.len() {
            assert!(CoreFacts::decode(&bytes[..len]).is_err(), "{len}");
        }
        bytes.push(0);
        assert!(CoreFacts::decode(&bytes).is_err());
    }

    #[test]
    fn a_count_that_cannot_be_makes_no_room() {
        let mut bytes = Vec::new();
        facts().encode(&mut bytes);
        let counts = std::mem::offset_of!(RawFacts, segments)..size_of::<RawFacts>();
        for at in counts.step_by(4) {
            let mut damaged = bytes.clone();
            damaged[at..at + 4].fill(0xff);
            assert!(CoreFacts::decode(&damaged).is_err(), "{at}");
        }
    }
}
