//! Every bound of the wire, with its unit in the name and its reason beside it.
//!
//! The first group must agree across the mesh (both ends refuse what lies beyond); it changes only with the protocol
//! version. The second is this process's own.

use super::header::HEADER_BYTES;

// --- must agree across the mesh -------------------------------------------------------------------------------------

/// The protocol this source speaks.
pub const PROTOCOL_VERSION: u8 = 1;
/// The oldest protocol this source still speaks.
pub const PROTOCOL_VERSION_MIN: u8 = 1;

/// Body of every opcode but `Records`: small enough that a stranger cannot make a node hold much, large enough for a
/// vector of [`WATERMARKS_MAX`] entries.
pub const CONTROL_BODY_BYTES_MAX: usize = 64 * 1024;
/// A batch closes at this many payload bytes; the record that crosses the line still goes along.
pub const RECORDS_BATCH_BYTES: usize = 1024 * 1024;
/// Largest record: an 8 MiB value, its key and its header.
pub const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024 + 64 * 1024;
/// Payload of one `Records` body.
pub const RECORDS_PAYLOAD_BYTES_MAX: usize = RECORDS_BATCH_BYTES + RECORD_BYTES_MAX;
/// Payload of one `More` body, before packing.
pub const MORE_RAW_BYTES_MAX: usize = 16 * 1024;
/// Records are padded to this, on disk and here.
pub const RECORD_ALIGN_BYTES: usize = 8;

/// Members of one mesh, removed ones included (removed is final for an id, so they stay listed).
pub const MEMBERS_MAX: usize = 1024;
/// Entries of one vector: open and retired logs of every member.
pub const WATERMARKS_MAX: usize = 2048;
/// Logs named by one `Follow` or `Logs`.
pub const LOGS_MAX: usize = 2048;
/// Nodes that one `Held` names; the rest is counted.
pub const HOLDERS_MAX: usize = 64;
/// Nodes that a session's token names.
pub const TOKEN_NODES_MAX: usize = 64;
/// The longest token: 12 bytes for each of them, form, count and checksum.
pub const TOKEN_BYTES_MAX: usize = TOKEN_NODES_MAX * 12 + 6;
/// How long a session may wait at most until a node has what its token names, in milliseconds.
pub const SESSION_MS_MAX: u32 = 600_000;
/// Into how many sums a `Survey` divides the keys: all values of the upper 16 bits of their hashes.
pub const LEAVES: usize = 1 << 16;
/// Leaves of which a `Compare` makes one sum, and how many sums there are then: 8 KiB.
pub const LEAVES_PER_PART: usize = 64;
/// See there.
pub const PARTS: usize = LEAVES / LEAVES_PER_PART;
/// Sums in one `Sums`.
pub const SUMS_MAX: usize = 4096;
/// Leaves that one `Inspect` names.
pub const INSPECT_LEAVES_MAX: usize = 16 * 1024;
/// Regions that take part in a comparison.
pub const REGIONS_MAX: usize = 256;
/// Registrations in one body; a longer list spans several frames.
pub const ENTRIES_MAX: usize = 1024;
/// Refused registrations that one acknowledgement names; the rest is counted.
pub const REFUSED_MAX: usize = 128;

/// Longest key: the record's length field has 16 bits.
pub const KEY_BYTES_MAX: usize = 65_535;
/// Largest value that any node accepts; its own limit is in its `ClientHelloAck`.
pub const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Keys of one `GetMany`, and those that one `Scan` may ask for.
pub const KEYS_MAX: usize = 1024;
/// Name of a client.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;
/// What the fields beside a key and a value may take.
const SMALL_FIELDS_BYTES: usize = 1024;
/// Body of a request that names one key and holds no value.
pub const KEYED_BODY_BYTES_MAX: usize = KEY_BYTES_MAX + SMALL_FIELDS_BYTES;
/// Body that names many keys. A frame of `Keys` closes once it holds [`CONTROL_BODY_BYTES_MAX`].
pub const KEYS_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Body of an answer that holds a value.
pub const VALUE_BODY_BYTES_MAX: usize = VALUE_BYTES_MAX + SMALL_FIELDS_BYTES;
/// Body of a write: a key, a value, and the value that it expects.
pub const WRITE_BODY_BYTES_MAX: usize = 2 * VALUE_BYTES_MAX + KEYED_BODY_BYTES_MAX;

/// Text of a refusal or an error: one line for an operator.
pub const TEXT_BYTES_MAX: usize = 256;
/// What a service may say about an instance.
pub const METADATA_BYTES_MAX: usize = 256;
/// Proof of the mesh key.
pub const PROOF_BYTES_MAX: usize = 64;

// --- this process ---------------------------------------------------------------------------------------------------

/// Bytes a reader may hold beyond the frame under construction: what one receive may deliver at once.
pub const FEED_BYTES_MAX: usize = 1024 * 1024;

const _: () = assert!(RECORDS_PAYLOAD_BYTES_MAX.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(MORE_RAW_BYTES_MAX / RECORD_ALIGN_BYTES <= 0xffff && MORE_RAW_BYTES_MAX < CONTROL_BODY_BYTES_MAX);
const _: () = assert!(WATERMARKS_MAX * 30 + 4 <= CONTROL_BODY_BYTES_MAX);
const _: () = assert!(LOGS_MAX * 31 + 2 <= CONTROL_BODY_BYTES_MAX && LOGS_MAX * 28 + 18 <= CONTROL_BODY_BYTES_MAX);
const _: () = assert!(WATERMARKS_MAX * 28 + 48 <= CONTROL_BODY_BYTES_MAX);
const _: () = assert!(SUMS_MAX * 8 + 14 <= CONTROL_BODY_BYTES_MAX && LEAVES.is_multiple_of(SUMS_MAX));
const _: () = assert!(PARTS * LEAVES_PER_PART == LEAVES && PARTS <= SUMS_MAX);
const _: () = assert!(INSPECT_LEAVES_MAX * 2 + 12 + REGIONS_MAX * 34 <= CONTROL_BODY_BYTES_MAX);
const _: () = assert!(MEMBERS_MAX * 47 + 1024 <= CONTROL_BODY_BYTES_MAX);
const _: () = assert!(REFUSED_MAX * (2 + 64 + 8 + 8 + 2 + 2 + TEXT_BYTES_MAX) + 15 <= CONTROL_BODY_BYTES_MAX);
const _: () = assert!(KEYS_MAX * 4 <= KEYS_BODY_BYTES_MAX);
const _: () = assert!(CONTROL_BODY_BYTES_MAX + KEY_BYTES_MAX + SMALL_FIELDS_BYTES <= KEYS_BODY_BYTES_MAX);
const _: () = assert!(HEADER_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
