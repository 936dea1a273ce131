//! What happens to files behind a program's back.

use wal::limits::FRAME_ALIGN_BYTES;
use wal::{CoreId, FRAME_MAGIC, SEGMENT_HEADER_BYTES, SegmentNumber, segment_file_name, temporary_file_name};

use super::heal::{forge_frame, forge_header, forge_seal};
use super::input::Input;
use super::logs::Files;

/// What was done to the files, as far as it matters to what may be expected of them.
#[derive(Debug, Default)]
pub(super) struct Edited {
    /// Anything at all.
    pub(super) anything: bool,
    /// Something a checksum need not notice: bytes that were chosen, or more flipped bits than CRC-32C is sure to find.
    pub(super) forged: bool,
    flipped_bits: usize,
}

/// Fewer flipped bits than this under one checksum are always found (CRC-32C at these lengths has a Hamming distance of 4).
const HAMMING_DISTANCE: usize = 4;

/// Edits the files until the input has no more to say.
pub(super) fn edit(files: &mut Files, input: &mut Input<'_>) -> Edited {
    let mut edited = Edited::default();
    for _ in 0..16 {
        if input.is_empty() || files.is_empty() {
            break;
        }
        edited.anything = true;
        edit_once(files, input, &mut edited);
    }
    edited
}

fn edit_once(files: &mut Files, input: &mut Input<'_>, edited: &mut Edited) {
    let name = files.keys().nth(input.below(files.len())).expect("there are files").clone();
    let number = SegmentNumber(1 + input.below(12) as u64);
    let other_name = segment_file_name(CoreId(u16::from(input.byte() % 2)), number);
    let action = input.below(13);
    let file = files.get_mut(&name).expect("its name was just read");
    if file.is_empty() {
        files.remove(&name);
        return;
    }
    match action {
        0 => {
            let at = input.below(file.len());
            file[at] ^= 1 << input.below(8);
            edited.flipped_bits += 1;
            edited.forged |= edited.flipped_bits >= HAMMING_DISTANCE;
        }
        1 => {
            let (start, len) = block(file.len(), input);
            file[start..start + len].fill(0);
        }
        2 => {
            let (start, len) = block(file.len(), input);
            let copied = file[start..start + len].to_vec();
            let chosen = input.below(files.len());
            let target = files.values_mut().nth(chosen).expect("there are files");
            let at = input.below(target.len().div_ceil(len).max(1)) * len;
            let len = len.min(target.len().saturating_sub(at));
            target[at..at + len].copy_from_slice(&copied[..len]);
        }
        3 => {
            let noise = input.bytes(16);
            let start = input.below(file.len());
            let len = noise.len().min(file.len() - start);
            file[start..start + len].copy_from_slice(&noise[..len]);
            edited.forged = true;
        }
        4 => {
            files.remove(&name);
        }
        5 => {
            let len = input.below(file.len() + 4096);
            file.resize(len, 0);
        }
        6 => {
            let contents = files.remove(&name).expect("it is there");
            files.insert(other_name, contents);
        }
        7 => {
            let contents = file.clone();
            files.insert(other_name, contents);
        }
        8 => {
            if let Some(at) = frame_at(file, input) {
                forge_frame(file, at, input.below(256), input.byte());
                edited.forged = true;
            }
        }
        9 => {
            forge_seal(file, input.below(256), input.byte());
            edited.forged = true;
        }
        10 => {
            forge_header(file, input.below(256), input.byte());
            edited.forged = true;
        }
        11 => {
            files.insert(temporary_file_name(CoreId(0), number), input.bytes(16).to_vec());
        }
        _ => {
            // The seal was never written.
            let end = SEGMENT_HEADER_BYTES.min(file.len());
            file[512.min(end)..end].fill(0);
        }
    }
}

/// A block as disks misplace or lose it: its start and length.
fn block(len: usize, input: &mut Input<'_>) -> (usize, usize) {
    let size = [64, 512, 4096][input.below(3)];
    let start = input.below(len.div_ceil(size)) * size;
    (start, size.min(len - start))
}

/// Where some frame of the file begins.
fn frame_at(file: &[u8], input: &mut Input<'_>) -> Option<usize> {
    let is_frame = |at: &usize| file.get(*at..*at + 4) == Some(&FRAME_MAGIC.to_le_bytes());
    let frames: Vec<usize> = (0..file.len()).step_by(FRAME_ALIGN_BYTES).filter(is_frame).collect();
    let chosen = input.below(frames.len().max(1));
    frames.get(chosen).copied()
}
