//! Who a node is: 32 random bits and a secret, in a file that lives and dies with the data directory.

use std::path::Path;

use bytes::Bytes;
use net::reactor::FileJob;
use net::reactor::disk::Disk;
use wal::NodeId;

use super::{StartError, io_error};
use crate::storage::NodeSecret;

/// The file that names the node.
const IDENTITY_FILE: &str = "NODE";
/// A whole page, so that it is written like a segment.
const IDENTITY_BYTES: usize = 4096;

/// Reads the node's identity, or draws one for an empty directory.
pub(super) fn identity<D: Disk>(
    disk: &D,
    directory: &Path,
    names: &[String],
    random: &mut dyn FnMut() -> u64,
) -> Result<(NodeId, NodeSecret), StartError> {
    let path = directory.join(IDENTITY_FILE);
    if names.iter().any(|name| name == IDENTITY_FILE) {
        let file = disk.open(&path).map_err(io_error(&path, "cannot be opened"))?;
        let bytes = disk.read_durable(&file, 0, IDENTITY_BYTES).map_err(io_error(&path, "cannot be read"))?;
        return parse_identity(&bytes).ok_or(StartError::IdentityDamaged(path));
    }
    if names.iter().any(|name| matches!(wal::directory::file_kind(name), wal::directory::FileKind::Segment { .. })) {
        return Err(StartError::IdentityMissing(directory.to_owned()));
    }
    let node = NodeId(u32::try_from(random() >> 32).expect("32 bits").max(1));
    let secret = NodeSecret(random());
    let temporary = directory.join("prepare-node.tmp");
    if names.iter().any(|name| name == "prepare-node.tmp") {
        disk.run(FileJob::Unlink { path: temporary.clone() }).map_err(io_error(&temporary, "cannot be removed"))?;
    }
    let head = Bytes::from(format_identity(node, secret));
    disk.run(FileJob::Prepare { path: temporary.clone(), len: IDENTITY_BYTES as u64, head })
        .map_err(io_error(&temporary, "cannot be written"))?;
    disk.run(FileJob::Rename { from: temporary, to: path.clone() }).map_err(io_error(&path, "cannot be written"))?;
    Ok((node, secret))
}

fn format_identity(node: NodeId, secret: NodeSecret) -> Vec<u8> {
    let body = format!("godwit-node 1 id={:08x} secret={:016x}", node.0, secret.0);
    let crc = net::wire::header::crc32c(body.as_bytes());
    format!("{body} crc={crc:08x}\n").into_bytes()
}

/// Reads what the file `NODE` of a data directory says: a line, and zeros behind it. `None` if it is damaged.
#[must_use]
pub fn parse_identity(bytes: &[u8]) -> Option<(NodeId, NodeSecret)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    if bytes[end + 1..].iter().any(|byte| *byte != 0) {
        return None;
    }
    let line = std::str::from_utf8(&bytes[..end]).ok()?;
    let (body, crc) = line.rsplit_once(" crc=")?;
    if u32::from_str_radix(crc, 16).ok()? != net::wire::header::crc32c(body.as_bytes()) {
        return None;
    }
    let (id, secret) = body.strip_prefix("godwit-node 1 id=")?.split_once(" secret=")?;
    Some((NodeId(u32::from_str_radix(id, 16).ok()?), NodeSecret(u64::from_str_radix(secret, 16).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_file_and_damage_is_noticed() {
        let (node, secret) = (NodeId(0xdead_beef), NodeSecret(0x0123_4567_89ab_cdef));
        let mut page = format_identity(node, secret);
        page.resize(IDENTITY_BYTES, 0);
        assert_eq!(parse_identity(&page), Some((node, secret)));
        for index in 0..70 {
            let mut damaged = page.clone();
            damaged[index] ^= 1;
            assert_eq!(parse_identity(&damaged), None, "byte {index}");
        }
    }
}
