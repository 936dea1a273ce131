//! lz4 for the payloads of `Records`, batch by batch, where it gains.
//!
//! What cannot be packed is found out rarely: after a batch that did not become smaller, a stretch of the stream goes out as it
//! is, and each further such batch doubles the stretch. A stream of random values so pays for one attempt in
//! 4 MiB.

use bytes::Bytes;
use lz4_flex::block::{
    compress_into, compress_into_with_dict, decompress_into, decompress_into_with_dict, get_maximum_output_size,
};

/// Batches below this go out as they are: there is next to nothing to find in them.
pub const PACK_BYTES_MIN: usize = 256;
/// A packed batch is at least this part smaller, as its divisor; a smaller gain is not worth the receiver's time.
const GAIN_DIVISOR: usize = 10;
/// The same for batches that are packed behind others, where even one record finds something.
const PACK_BEHIND_BYTES_MIN: usize = 64;
/// And for those any gain of so many bytes is worth it.
const GAIN_BEHIND_BYTES_MIN: usize = 8;
/// How much of what lies before a batch it may refer to. Larger ones find little more in records of one kind, and cost more.
pub const WINDOW_BYTES: usize = 4096;
/// Bytes that go out as they are after the first batch that did not become smaller, and at most, after many of them.
const PASS_BYTES: (usize, usize) = (64 * 1024, 4 * 1024 * 1024);
/// The same for batches that are packed behind others: the first ones have little before them.
const PASS_BEHIND_BYTES: (usize, usize) = (1024, 256 * 1024);
/// A batch this many times larger than those that did not become smaller is tried all the same: it may hold what they did not.
const LARGER_TIMES: usize = 4;
/// Room that is kept between batches; a larger one, of a single large record, takes its own.
const KEPT_BYTES_MAX: usize = 512 * 1024;

/// What one stream has shown so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packing {
    /// Bytes that still go out as they are.
    pass_bytes: usize,
    /// How many the last attempt in vain led to.
    stretch_bytes: usize,
    /// The largest batch that was tried in vain since one became smaller.
    in_vain_bytes: usize,
}

impl Packing {
    /// Whether a batch of so many bytes is to be tried, if it has the least that is; counts it as sent.
    fn tries(&mut self, bytes: usize, least: usize) -> bool {
        if bytes < least {
            return false;
        }
        if self.pass_bytes > 0 && bytes / LARGER_TIMES < self.in_vain_bytes {
            self.pass_bytes = self.pass_bytes.saturating_sub(bytes);
            return false;
        }
        true
    }

    fn gained(&mut self) {
        *self = Packing::default();
    }

    fn was_in_vain(&mut self, bytes: usize, (least, most): (usize, usize)) {
        self.stretch_bytes = (2 * self.stretch_bytes).clamp(least, most);
        self.pass_bytes = self.stretch_bytes;
        self.in_vain_bytes = self.in_vain_bytes.max(bytes);
    }
}

/// Packs batches of any number of streams; keeps the room for it.
#[derive(Debug, Default)]
pub struct Packer {
    raw: Vec<u8>,
    packed: Vec<u8>,
}

impl Packer {
    /// The batch as one lz4 block, if its stream is worth the attempt and the block is smaller by a tenth or more.
    pub fn pack(&mut self, stream: &mut Packing, runs: &[Bytes]) -> Option<Bytes> {
        let bytes = runs.iter().map(Bytes::len).sum();
        if !stream.tries(bytes, PACK_BYTES_MIN) {
            return None;
        }
        let Packer { raw, packed } = self;
        // One run is read where it lies.
        let input = match runs {
            [run] => &run[..],
            runs => {
                raw.clear();
                runs.iter().for_each(|run| raw.extend_from_slice(run));
                &raw[..]
            }
        };
        packed.resize(get_maximum_output_size(bytes).max(packed.len()), 0);
        let found = compress_into(input, packed).ok().filter(|len| *len <= bytes - bytes / GAIN_DIVISOR);
        let block = found.map(|len| Bytes::copy_from_slice(&packed[..len]));
        match block {
            Some(_) => stream.gained(),
            None => stream.was_in_vain(bytes, PASS_BYTES),
        }
        for room in [raw, packed] {
            room.truncate(KEPT_BYTES_MAX);
            room.shrink_to(KEPT_BYTES_MAX);
        }
        block
    }

    /// A small batch as one lz4 block that may refer to the `window` before it, if it becomes smaller.
    pub(crate) fn pack_behind(&mut self, stream: &mut Packing, window: &Window, raw: &[u8]) -> Option<Bytes> {
        if !stream.tries(raw.len(), PACK_BEHIND_BYTES_MIN) {
            return None;
        }
        self.packed.resize(get_maximum_output_size(raw.len()).max(self.packed.len()), 0);
        let found = compress_into_with_dict(raw, &mut self.packed, window.last());
        match found.ok().filter(|len| len + GAIN_BEHIND_BYTES_MIN <= raw.len()) {
            Some(len) => {
                stream.gained();
                Some(Bytes::copy_from_slice(&self.packed[..len]))
            }
            None => {
                stream.was_in_vain(raw.len(), PASS_BEHIND_BYTES);
                None
            }
        }
    }
}

/// What went by last on a connection.
#[derive(Debug, Default)]
pub struct Window(Vec<u8>);

impl Window {
    /// So much went by.
    pub(crate) fn push(&mut self, raw: &[u8]) {
        let Window(bytes) = self;
        if bytes.len() > WINDOW_BYTES {
            bytes.drain(..bytes.len() - WINDOW_BYTES);
        }
        bytes.extend_from_slice(raw);
    }

    /// The last [`WINDOW_BYTES`].
    pub(crate) fn last(&self) -> &[u8] {
        &self.0[self.0.len().saturating_sub(WINDOW_BYTES)..]
    }
}

/// A packed payload is not what its head says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the packed payload is damaged: {0}")]
pub struct UnpackError(pub(crate) String);

/// Undoes [`Packer::pack`]: exactly `raw_bytes` bytes, which the caller has bounded.
pub(crate) fn unpack(block: &[u8], raw_bytes: usize) -> Result<Bytes, UnpackError> {
    let mut raw = vec![0; raw_bytes];
    match decompress_into(block, &mut raw) {
        Ok(len) if len == raw_bytes => Ok(raw.into()),
        Ok(len) => Err(UnpackError(format!("it holds {len} bytes instead of {raw_bytes}"))),
        Err(error) => Err(UnpackError(format!("it is no lz4 block of {raw_bytes} bytes ({error})"))),
    }
}

/// Undoes [`Packer::pack_behind`], given the same window: at most `bytes_max` bytes, which the caller has bounded.
pub(crate) fn unpack_behind(block: &[u8], window: &Window, bytes_max: usize) -> Result<Bytes, UnpackError> {
    let mut raw = vec![0; bytes_max];
    let len = decompress_into_with_dict(block, &mut raw, window.last())
        .map_err(|error| UnpackError(format!("it is no lz4 block of at most {bytes_max} bytes ({error})")))?;
    raw.truncate(len);
    Ok(raw.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that nothing is found in.
    fn random(len: usize, mut state: u64) -> Bytes {
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        (0..len).map(next).collect()
    }

    fn text(len: usize) -> Bytes {
        (0..).flat_map(|number: u32| format!("line {number} of a text;").into_bytes()).take(len).collect()
    }

    #[test]
    fn what_becomes_smaller_comes_back_as_it_was() {
        let mut packer = Packer::default();
        for len in [PACK_BYTES_MIN, 1_000, 65_535, 65_536, 300_000, 2_000_000] {
            let raw = text(len);
            for cut in [0, 1, len / 3, len] {
                let runs = [raw.slice(..cut), raw.slice(cut..)];
                let block = packer.pack(&mut Packing::default(), &runs).expect("text becomes smaller");
                assert!(block.len() <= len - len / 10);
                assert_eq!(unpack(&block, len).unwrap(), raw);
            }
            assert!(packer.raw.capacity() <= KEPT_BYTES_MAX && packer.packed.capacity() <= KEPT_BYTES_MAX);
        }
    }

    /// A value like that of a program.
    fn json(number: usize) -> Vec<u8> {
        let name = ["Ada", "Grace", "Edsger", "Barbara", "Tony"][number % 5];
        format!(r#"user:{number:06}{{"id":{},"name":"{name}","balance":{},"active":true}}"#, number * 7919, number * 31)
            .into_bytes()
    }

    #[test]
    fn a_batch_behind_others_refers_to_what_lies_before_it() {
        let (mut packer, mut stream) = (Packer::default(), Packing::default());
        let (mut here, mut there) = (Window::default(), Window::default());
        let (mut raw_bytes, mut packed_bytes) = (0, 0);
        for number in 0..1_000 {
            let raw = json(number);
            let block = packer.pack_behind(&mut stream, &here, &raw);
            here.push(&raw);
            raw_bytes += raw.len();
            packed_bytes += block.as_ref().map_or(raw.len(), Bytes::len);
            if let Some(block) = block {
                assert_eq!(unpack_behind(&block, &there, raw.len() + 40).unwrap(), raw);
                assert!(unpack_behind(&block, &there, raw.len() - 1).is_err(), "there is no room for it");
                assert!(
                    unpack_behind(&block, &Window::default(), raw.len()).is_err(),
                    "what it refers to is not there"
                );
            }
            there.push(&raw);
            assert_eq!(here.last(), there.last());
            assert!(here.last().len() <= WINDOW_BYTES);
        }
        assert!(packed_bytes * 100 < raw_bytes * 60, "{packed_bytes} of {raw_bytes}");
    }

    #[test]
    fn small_batches_and_a_small_gain_go_out_as_they_are() {
        let mut packer = Packer::default();
        assert_eq!(packer.pack(&mut Packing::default(), &[text(PACK_BYTES_MIN - 1)]), None);
        assert_eq!(packer.pack(&mut Packing::default(), &[]), None);
        // A twelfth of it can be packed.
        let runs = [random(11_000, 1), Bytes::from(vec![0; 1_000])];
        assert_eq!(packer.pack(&mut Packing::default(), &runs), None);
        let runs = [random(8_000, 1), Bytes::from(vec![0; 1_000])];
        assert!(packer.pack(&mut Packing::default(), &runs).is_some());
    }

    #[test]
    fn a_stream_that_cannot_be_packed_is_tried_ever_more_rarely() {
        let mut stream = Packing::default();
        let (batch, mut tried, mut last) = (64 * 1024, Vec::new(), 0);
        for number in 0..4_096 {
            if stream.tries(batch, PACK_BYTES_MIN) {
                stream.was_in_vain(batch, PASS_BYTES);
                tried.push(number - last);
                last = number;
            }
        }
        // One batch passes, then two, and so on; in the end 4 MiB for each attempt.
        assert_eq!(tried[..8], [0, 2, 3, 5, 9, 17, 33, 65]);
        assert!(tried[8..].iter().all(|distance| *distance == 65), "{tried:?}");
    }

    #[test]
    fn a_gain_and_a_much_larger_batch_end_the_pause() {
        let mut stream = Packing::default();
        assert!(stream.tries(1_000, PACK_BYTES_MIN));
        stream.was_in_vain(1_000, PASS_BYTES);
        assert!(!stream.tries(1_000, PACK_BYTES_MIN));
        assert!(!stream.tries(3_999, PACK_BYTES_MIN));
        assert!(stream.tries(4_000, PACK_BYTES_MIN), "it may hold what the small ones did not");
        stream.gained();
        assert!(stream.tries(1_000, PACK_BYTES_MIN));
    }

    #[test]
    fn a_block_of_another_length_and_bytes_that_are_no_block_are_refused() {
        let block = Packer::default().pack(&mut Packing::default(), &[text(4_000)]).unwrap();
        for wrong in [0, 8, 3_992, 4_008, 100_000] {
            assert!(unpack(&block, wrong).is_err(), "{wrong}");
        }
        for cut in 0..block.len() {
            assert!(unpack(&block[..cut], 4_000).is_err(), "{cut}");
        }
        for seed in 0..1_000 {
            // Nothing is promised of what comes out, but that it has the announced length and nobody panics.
            if let Ok(raw) = unpack(&random(200, seed), 4_000) {
                assert_eq!(raw.len(), 4_000);
            }
        }
    }
}
