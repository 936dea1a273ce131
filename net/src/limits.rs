//! Limits of this crate's text front end: what one connection may make the process hold or do.
//!
//! These are per process; nothing here has to agree across the mesh. The wire protocol keeps its own beside its header.

/// Arguments of one request. Redis allows 1,048,576; every argument costs 8 bytes of bookkeeping here, so 65,536 bounds it
/// at 512 KiB per connection while the largest `MSET` seen in client libraries' batching (10,000 pairs) still fits thrice.
pub const RESP_ARGS_MAX: u32 = 65_536;

/// Bytes of one inline request, its newline included (Redis: `PROTO_INLINE_MAX_SIZE`).
pub const RESP_INLINE_BYTES_MAX: u32 = 64 * 1024;

/// Bytes of a length line (`*3`, `$100`) without its marker. A valid one has at most 20; the rest lets a wrong one be named
/// as wrong, and not merely as long, without scanning 64 KiB for its end as Redis does.
pub const RESP_LENGTH_LINE_BYTES_MAX: usize = 32;

/// Default bound of one argument: the largest value the store accepts.
pub const RESP_BULK_BYTES_MAX_DEFAULT: u32 = 8 * 1024 * 1024;

/// A request may hold several values (`MSET`); all of it must be in memory before it is executed, hence a bound in
/// multiples of the largest argument.
pub const RESP_REQUEST_BULKS_MAX: u32 = 4;

/// No bound on a whole request lies below this, so that small value limits do not forbid many small arguments.
pub const RESP_REQUEST_BYTES_MIN: u32 = 4 * 1024 * 1024;

/// No bound on a whole request lies above this: positions inside a request are 32 bits wide.
pub const RESP_REQUEST_BYTES_MAX: u32 = 1024 * 1024 * 1024;

/// Argument slots a parser keeps between requests; what an unusual request needed beyond this is given back.
pub const RESP_ARGS_KEPT: usize = 1_024;

/// Bytes of unescaped inline arguments a parser keeps between requests.
pub const RESP_SCRATCH_BYTES_KEPT: usize = 4 * 1024;

/// Nesting of a reply that the client-side parser accepts; commands of today nest at most five deep (`COMMAND DOCS`).
pub const RESP_REPLY_DEPTH_MAX: usize = 32;

/// Bytes of one bulk string in a reply (Redis: `proto-max-bulk-len`).
pub const RESP_REPLY_BULK_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Elements of one aggregate in a reply.
pub const RESP_REPLY_ELEMENTS_MAX: usize = 16 * 1024 * 1024;

const _: () = assert!(RESP_REQUEST_BYTES_MIN <= RESP_REQUEST_BYTES_MAX);
const _: () = assert!(RESP_INLINE_BYTES_MAX <= RESP_REQUEST_BYTES_MIN);
const _: () = assert!(RESP_REQUEST_BYTES_MAX <= u32::MAX / 2);
const _: () = assert!(RESP_BULK_BYTES_MAX_DEFAULT <= RESP_REQUEST_BYTES_MAX / RESP_REQUEST_BULKS_MAX);
// 19 digits and a sign is the longest valid number.
const _: () = assert!(RESP_LENGTH_LINE_BYTES_MAX > 20);
