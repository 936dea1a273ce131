//! The frame of a checkpoint file: the header page, the headers of blocks and of pieces.

use wal::{CoreId, Incarnation, NodeId, crc32c};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of everything in a checkpoint. Another one is ignored, so it may change with any release.
pub const FORMAT_VERSION: u32 = 1;

/// The first eight bytes of a checkpoint: "GODWITCP".
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"GODWITCP");

/// The header page. The first block begins behind it.
pub const HEADER_BYTES: usize = 4096;

/// Largest block, its header included, in bytes: what a stop or a start holds of the image in memory.
pub const BLOCK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Smallest block: what a small segment size gives.
pub(super) const BLOCK_BYTES_MIN: usize = 512;

/// Tables of an index, as a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableBits(pub u32);

/// Why the bytes are no checkpoint that this program can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(pub &'static str);

/// What the header page says: whose checkpoint it is, and how much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Of which node.
    pub node: NodeId,
    /// The run that stopped.
    pub incarnation: Incarnation,
    /// The core that wrote it.
    pub core: CoreId,
    /// Cores of that run.
    pub cores: u16,
    /// Tables of its index.
    pub table_bits: TableBits,
    /// Blocks behind the page.
    pub blocks: u32,
    /// Length of the file.
    pub file_bytes: u64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U64,
    header_crc: U32,
    format_version: U32,
    file_bytes: U64,
    incarnation: U64,
    node: U32,
    core: U16,
    cores: U16,
    table_bits: U32,
    blocks: U32,
}
const _: () = assert!(size_of::<RawHeader>() == 48);

/// What `header_crc` covers: from here to the end of the page.
const HEADER_CRC_START: usize = std::mem::offset_of!(RawHeader, format_version);

impl FileHeader {
    /// The page.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; HEADER_BYTES];
        let mut raw = RawHeader {
            magic: U64::new(MAGIC),
            header_crc: U32::ZERO,
            format_version: U32::new(FORMAT_VERSION),
            file_bytes: U64::new(self.file_bytes),
            incarnation: U64::new(self.incarnation.0),
            node: U32::new(self.node.0),
            core: U16::new(self.core.0),
            cores: U16::new(self.cores),
            table_bits: U32::new(self.table_bits.0),
            blocks: U32::new(self.blocks),
        };
        page[..size_of::<RawHeader>()].copy_from_slice(raw.as_bytes());
        raw.header_crc = U32::new(crc32c(&page[HEADER_CRC_START..]));
        page[..size_of::<RawHeader>()].copy_from_slice(raw.as_bytes());
        page
    }

    /// Reads the page.
    ///
    /// # Errors
    /// [`Damaged`], also where another version wrote it.
    pub fn parse(page: &[u8]) -> Result<FileHeader, Damaged> {
        let page = page.get(..HEADER_BYTES).ok_or(Damaged("shorter than its header page"))?;
        let (raw, _) = RawHeader::ref_from_prefix(page).map_err(|_| Damaged("shorter than its header page"))?;
        if raw.magic.get() != MAGIC {
            return Err(Damaged("its header page was never written"));
        }
        if raw.header_crc.get() != crc32c(&page[HEADER_CRC_START..]) {
            return Err(Damaged("the checksum of its header page does not match"));
        }
        if raw.format_version.get() != FORMAT_VERSION {
            return Err(Damaged("another version of this program wrote it"));
        }
        Ok(FileHeader {
            node: NodeId(raw.node.get()),
            incarnation: Incarnation(raw.incarnation.get()),
            core: CoreId(raw.core.get()),
            cores: raw.cores.get(),
            table_bits: TableBits(raw.table_bits.get()),
            blocks: raw.blocks.get(),
            file_bytes: raw.file_bytes.get(),
        })
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBlock {
    crc: U32,
    payload_len: U32,
    incarnation: U64,
    node: U32,
    core: U16,
    reserved: U16,
    index: U32,
    reserved_tail: U32,
}
const _: () = assert!(size_of::<RawBlock>() == 32);

/// Bytes of a block before its payload.
pub(super) const BLOCK_HEADER_BYTES: usize = size_of::<RawBlock>();

/// What `crc` covers: from here to the end of the payload.
const BLOCK_CRC_START: usize = std::mem::offset_of!(RawBlock, payload_len);

/// Names a block: of which file, and which of it. Blocks do not pass for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockName {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) core: CoreId,
    pub(super) index: u32,
}

/// Fills in the header of a block, room for which lies before the payload in `block`.
pub(super) fn finish_block(name: BlockName, block: &mut [u8]) {
    let payload_len = u32::try_from(block.len() - BLOCK_HEADER_BYTES).expect("bounded by BLOCK_BYTES_MAX");
    let mut raw = RawBlock {
        crc: U32::ZERO,
        payload_len: U32::new(payload_len),
        incarnation: U64::new(name.incarnation.0),
        node: U32::new(name.node.0),
        core: U16::new(name.core.0),
        reserved: U16::ZERO,
        index: U32::new(name.index),
        reserved_tail: U32::ZERO,
    };
    block[..BLOCK_HEADER_BYTES].copy_from_slice(raw.as_bytes());
    raw.crc = U32::new(crc32c(&block[BLOCK_CRC_START..]));
    block[..BLOCK_HEADER_BYTES].copy_from_slice(raw.as_bytes());
}

/// The length of the block, header included, that begins with these bytes; not verified.
pub(super) fn block_len(header: &[u8]) -> Result<usize, Damaged> {
    let (raw, _) = RawBlock::ref_from_prefix(header).map_err(|_| Damaged("it ends inside a block"))?;
    let len = BLOCK_HEADER_BYTES + raw.payload_len.get() as usize;
    if len > BLOCK_BYTES_MAX { Err(Damaged("a block is longer than any")) } else { Ok(len) }
}

/// The payload of a whole block.
pub(super) fn verify_block(name: BlockName, block: &[u8]) -> Result<&[u8], Damaged> {
    let (raw, payload) = RawBlock::ref_from_prefix(block).map_err(|_| Damaged("it ends inside a block"))?;
    let skips_checksum = wal::planted::is(wal::planted::Fault::CheckpointUnverified);
    if raw.crc.get() != crc32c(&block[BLOCK_CRC_START..]) && !skips_checksum {
        return Err(Damaged("the checksum of a block does not match"));
    }
    let found = BlockName {
        node: NodeId(raw.node.get()),
        incarnation: Incarnation(raw.incarnation.get()),
        core: CoreId(raw.core.get()),
        index: raw.index.get(),
    };
    if found != name || payload.len() != raw.payload_len.get() as usize {
        return Err(Damaged("a block belongs elsewhere"));
    }
    Ok(payload)
}

/// What a piece of the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// Everything but what the others say; the first one.
    Facts,
    /// Records by expiry: pairs of milliseconds since 1970 and a count, rising.
    Expiring,
    /// The next table of the index.
    Table,
    /// The last one; empty.
    End,
}

impl PieceKind {
    fn number(self) -> u32 {
        match self {
            PieceKind::Facts => 1,
            PieceKind::Expiring => 2,
            PieceKind::Table => 3,
            PieceKind::End => 4,
        }
    }

    fn from_number(number: u32) -> Option<PieceKind> {
        [PieceKind::Facts, PieceKind::Expiring, PieceKind::Table, PieceKind::End]
            .into_iter()
            .find(|kind| kind.number() == number)
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPiece {
    kind: U32,
    len: U32,
}

/// Bytes of a piece before its content.
pub(super) const PIECE_HEADER_BYTES: usize = size_of::<RawPiece>();

/// Appends a piece whose content `write` appends.
pub(super) fn put_piece(out: &mut Vec<u8>, kind: PieceKind, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.resize(at + PIECE_HEADER_BYTES, 0);
    write(out);
    let len = out.len() - at - PIECE_HEADER_BYTES;
    let len = u32::try_from(len).expect("the facts of a core fit 4 GiB, and everything else is cut into small pieces");
    let raw = RawPiece { kind: U32::new(kind.number()), len: U32::new(len) };
    out[at..at + PIECE_HEADER_BYTES].copy_from_slice(raw.as_bytes());
}

/// The kind and the length of the piece with this header.
pub(super) fn parse_piece(header: &[u8]) -> Result<(PieceKind, usize), Damaged> {
    let (raw, _) = RawPiece::ref_from_prefix(header).map_err(|_| Damaged("it ends inside a piece"))?;
    let kind = PieceKind::from_number(raw.kind.get()).ok_or(Damaged("it holds a piece of an unknown kind"))?;
    Ok((kind, raw.len.get() as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_page_comes_back_and_no_flipped_bit_passes() {
        let header = FileHeader {
            node: NodeId(7),
            incarnation: Incarnation(9),
            core: CoreId(2),
            cores: 3,
            table_bits: TableBits(14),
            blocks: 11,
            file_bytes: 1 << 40,
        };
        let page = header.encode();
        assert_eq!(FileHeader::parse(&page), Ok(header));
        for at in (0..64).chain([HEADER_BYTES - 1]) {
            let mut damaged = page.clone();
            damaged[at] ^= 4;
            assert!(FileHeader::parse(&damaged).is_err(), "byte {at}");
        }
        assert!(FileHeader::parse(&page[..HEADER_BYTES - 1]).is_err());
        assert!(FileHeader::parse(&[0; HEADER_BYTES]).is_err());
    }

    #[test]
    fn a_block_is_its_own_and_no_flipped_bit_passes() {
        let name = BlockName { node: NodeId(7), incarnation: Incarnation(9), core: CoreId(2), index: 5 };
        let mut block = vec![0; BLOCK_HEADER_BYTES];
        block.extend_from_slice(b"what it holds");
        finish_block(name, &mut block);
        assert_eq!(block_len(&block), Ok(block.len()));
        assert_eq!(verify_block(name, &block), Ok(&b"what it holds"[..]));
        for other in [
            BlockName { node: NodeId(8), ..name },
            BlockName { incarnation: Incarnation(8), ..name },
            BlockName { core: CoreId(3), ..name },
            BlockName { index: 6, ..name },
        ] {
            assert!(verify_block(other, &block).is_err(), "{other:?}");
        }
        for at in 0..block.len() {
            let mut damaged = block.clone();
            damaged[at] ^= 1;
            assert!(verify_block(name, &damaged).is_err(), "byte {at}");
        }
        assert!(verify_block(name, &block[..block.len() - 1]).is_err());
    }
}
