//! A reader of lz4 blocks from the format's description: the checkers' own, beside the one of the product.

/// More than any batch has.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the block holds, which is `wanted` bytes.
///
/// # Errors
/// When it is no such block.
pub fn unpacked(block: &[u8], wanted: usize) -> Result<Vec<u8>, String> {
    let out = unpacked_behind(block, &[])?;
    let found = out.len();
    if found == wanted { Ok(out) } else { Err(format!("an lz4 block of {found} bytes, not {wanted}")) }
}

/// What the block holds, which may refer to what lies before it.
///
/// # Errors
/// When it is no such block.
pub fn unpacked_behind(block: &[u8], before: &[u8]) -> Result<Vec<u8>, String> {
    let mut input = block.iter().copied();
    let mut out = before.to_vec();
    let ended = || "an lz4 block ends in the middle".to_string();
    loop {
        let token = input.next().ok_or_else(ended)?;
        let literals = length(token >> 4, &mut input).ok_or_else(ended)?;
        for _ in 0..literals {
            out.push(input.next().ok_or_else(ended)?);
        }
        if input.len() == 0 {
            return Ok(out.split_off(before.len()));
        }
        let distance =
            usize::from(input.next().ok_or_else(ended)?) + 256 * usize::from(input.next().ok_or_else(ended)?);
        let copied = 4 + length(token & 15, &mut input).ok_or_else(ended)?;
        if distance == 0 || distance > out.len() || out.len() + copied > BYTES_MAX {
            return Err(format!("an lz4 block copies {copied} bytes from {distance} before {}", out.len()));
        }
        for _ in 0..copied {
            out.push(out[out.len() - distance]);
        }
    }
}

/// A length of four bits, or longer.
fn length(nibble: u8, input: &mut impl Iterator<Item = u8>) -> Option<usize> {
    let mut sum = usize::from(nibble);
    let mut last = if nibble == 15 { 255 } else { 0 };
    while last == 255 {
        last = input.next()?;
        sum += usize::from(last);
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use net::wire::message::Message;
    use net::wire::packing::{Packer, Packing};
    use net::wire::samples::packed_records;

    use super::*;

    #[test]
    fn it_reads_what_the_product_packs() {
        for len in [256, 5_000, 70_000, 300_000] {
            let raw: Bytes = (0..).flat_map(|n: u32| format!("line {n} of a text;").into_bytes()).take(len).collect();
            let block = Packer::default()
                .pack(&mut Packing::default(), std::slice::from_ref(&raw))
                .expect("it becomes smaller");
            assert_eq!(unpacked(&block, len), Ok(raw.to_vec()));
            assert!(unpacked(&block, len - 1).is_err());
            assert!(unpacked(&block[..block.len() - 1], len).is_err());
        }
    }

    #[test]
    fn it_reads_the_documented_sample() {
        let (sample, raw) = packed_records();
        let Message::Records(records) = sample.message else { panic!("a sample of Records") };
        assert_eq!(unpacked(&records.payload, raw.len()), Ok(raw.to_vec()));
    }
}
