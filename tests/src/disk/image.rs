//! Files and names of a disk in memory, twice: as they are read now, and as they are after the power went.
//!
//! A file's sync makes its sectors and its length durable, a directory's sync its names; neither does the other's work.
//! When the power goes, each sector that was written since survives or not by itself, and of the changes to a directory
//! a prefix survives, as a journal of names keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path};

use fuser::{Errno, FileAttr, FileType, INodeNo};

use crate::process::Choices;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// How many of eight un-synced sectors live through a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survival(pub u64);

impl Survival {
    /// Only what was synced is there.
    pub const NOTHING: Survival = Survival(0);

    /// A share for this cut: sometimes nothing, sometimes nearly all.
    #[must_use]
    pub fn drawn(choices: &mut Choices) -> Survival {
        Survival([0, 1, 4, 7][usize::try_from(choices.below(4)).expect("below four")])
    }

    fn spares(self, choices: &mut Choices) -> bool {
        choices.below(8) < self.0
    }
}

/// What stands behind a name.
#[derive(Clone, Debug)]
struct Node {
    mode: u16,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    File(FileBytes),
    Directory(Names),
}

#[derive(Clone, Debug, Default)]
struct FileBytes {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that differ, or may.
    unsynced: BTreeSet<usize>,
}

#[derive(Clone, Debug, Default)]
struct Names {
    live: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
    /// Changes since the last sync, oldest first. A rename is one change of two names.
    unsynced: Vec<Vec<(OsString, Option<u64>)>>,
}

impl Names {
    fn change(&mut self, change: Vec<(OsString, Option<u64>)>) {
        apply(&mut self.live, &change);
        self.unsynced.push(change);
    }
}

fn apply(names: &mut BTreeMap<OsString, u64>, change: &[(OsString, Option<u64>)]) {
    for (name, inode) in change {
        match inode {
            Some(inode) => names.insert(name.clone(), *inode),
            None => names.remove(name),
        };
    }
}

/// All of the disk.
#[derive(Clone, Debug)]
pub(super) struct Image {
    nodes: BTreeMap<u64, Node>,
    next: u64,
}

impl Image {
    pub(super) fn new() -> Image {
        let root = Node { mode: 0o755, body: Body::Directory(Names::default()) };
        Image { nodes: BTreeMap::from([(INodeNo::ROOT.0, root)]), next: INodeNo::ROOT.0 + 1 }
    }

    fn node(&self, inode: u64) -> Result<&Node, Errno> {
        self.nodes.get(&inode).ok_or(Errno::ENOENT)
    }

    fn file(&self, inode: u64) -> Result<&FileBytes, Errno> {
        match &self.node(inode)?.body {
            Body::File(file) => Ok(file),
            Body::Directory(_) => Err(Errno::EISDIR),
        }
    }

    fn file_mut(&mut self, inode: u64) -> Result<&mut FileBytes, Errno> {
        match &mut self.nodes.get_mut(&inode).ok_or(Errno::ENOENT)?.body {
            Body::File(file) => Ok(file),
            Body::Directory(_) => Err(Errno::EISDIR),
        }
    }

    fn names(&self, inode: u64) -> Result<&Names, Errno> {
        match &self.node(inode)?.body {
            Body::Directory(names) => Ok(names),
            Body::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn names_mut(&mut self, inode: u64) -> Result<&mut Names, Errno> {
        match &mut self.nodes.get_mut(&inode).ok_or(Errno::ENOENT)?.body {
            Body::Directory(names) => Ok(names),
            Body::File(_) => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn lookup(&self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        self.names(parent)?.live.get(name).copied().ok_or(Errno::ENOENT)
    }

    /// The inode at a path below the root.
    pub(super) fn find(&self, path: &Path) -> Result<u64, Errno> {
        path.components().try_fold(INodeNo::ROOT.0, |inode, part| match part {
            Component::Normal(name) => self.lookup(inode, name),
            _ => Ok(inode),
        })
    }

    pub(super) fn attributes(&self, inode: u64) -> Result<FileAttr, Errno> {
        let node = self.node(inode)?;
        let (kind, size) = match &node.body {
            Body::File(file) => (FileType::RegularFile, file.live.len() as u64),
            Body::Directory(_) => (FileType::Directory, 0),
        };
        // Nobody here looks at times.
        let then = std::time::UNIX_EPOCH;
        let (ino, blocks) = (INodeNo(inode), size.div_ceil(SECTOR_BYTES as u64));
        Ok(FileAttr {
            ino,
            size,
            blocks,
            atime: then,
            mtime: then,
            ctime: then,
            crtime: then,
            kind,
            perm: node.mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// Name, inode and kind of every entry.
    pub(super) fn list(&self, inode: u64) -> Result<Vec<(OsString, u64, FileType)>, Errno> {
        let names = &self.names(inode)?.live;
        names.iter().map(|(name, inode)| Ok((name.clone(), *inode, self.attributes(*inode)?.kind))).collect()
    }

    pub(super) fn add_file(&mut self, parent: u64, name: &OsStr, mode: u16) -> Result<u64, Errno> {
        self.add(parent, name, Node { mode, body: Body::File(FileBytes::default()) })
    }

    pub(super) fn add_directory(&mut self, parent: u64, name: &OsStr, mode: u16) -> Result<u64, Errno> {
        self.add(parent, name, Node { mode, body: Body::Directory(Names::default()) })
    }

    fn add(&mut self, parent: u64, name: &OsStr, node: Node) -> Result<u64, Errno> {
        let inode = self.next;
        let names = self.names_mut(parent)?;
        if names.live.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        names.change(vec![(name.to_owned(), Some(inode))]);
        self.next += 1;
        self.nodes.insert(inode, node);
        Ok(inode)
    }

    /// Takes a name away. The file stays readable for those who have it open.
    pub(super) fn remove(&mut self, parent: u64, name: &OsStr, kind: FileType) -> Result<(), Errno> {
        let inode = self.lookup(parent, name)?;
        match &self.node(inode)?.body {
            Body::File(_) if kind == FileType::Directory => return Err(Errno::ENOTDIR),
            Body::Directory(_) if kind != FileType::Directory => return Err(Errno::EISDIR),
            Body::Directory(names) if !names.live.is_empty() => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        self.names_mut(parent)?.change(vec![(name.to_owned(), None)]);
        Ok(())
    }

    pub(super) fn rename(&mut self, directory: u64, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
        let inode = self.lookup(directory, from)?;
        self.names_mut(directory)?.change(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
        Ok(())
    }

    pub(super) fn set_mode(&mut self, inode: u64, mode: u16) -> Result<(), Errno> {
        self.nodes.get_mut(&inode).ok_or(Errno::ENOENT)?.mode = mode;
        Ok(())
    }

    pub(super) fn len(&self, inode: u64) -> Result<usize, Errno> {
        Ok(self.file(inode)?.live.len())
    }

    pub(super) fn read(&self, inode: u64, offset: usize, len: usize) -> Result<&[u8], Errno> {
        let live = &self.file(inode)?.live;
        let start = offset.min(live.len());
        Ok(&live[start..start.saturating_add(len).min(live.len())])
    }

    pub(super) fn write(&mut self, inode: u64, offset: usize, bytes: &[u8]) -> Result<(), Errno> {
        let file = self.file_mut(inode)?;
        let end = offset + bytes.len();
        if end > file.live.len() {
            file.live.resize(end, 0);
        }
        file.live[offset..end].copy_from_slice(bytes);
        file.unsynced.extend(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
        Ok(())
    }

    pub(super) fn resize(&mut self, inode: u64, len: usize) -> Result<(), Errno> {
        let file = self.file_mut(inode)?;
        let changed = len.min(file.live.len()) / SECTOR_BYTES..len.max(file.live.len()).div_ceil(SECTOR_BYTES);
        file.live.resize(len, 0);
        file.unsynced.extend(changed);
        Ok(())
    }

    pub(super) fn sync(&mut self, inode: u64) -> Result<(), Errno> {
        let file = self.file_mut(inode)?;
        file.durable.resize(file.live.len(), 0);
        for sector in std::mem::take(&mut file.unsynced) {
            copy_sector(&file.live, &mut file.durable, sector);
        }
        Ok(())
    }

    /// Un-synced bytes of a file are gone, and its length stays: what the disk holds after a failed write-back.
    pub(super) fn lose_unsynced(&mut self, inode: u64) -> Result<(), Errno> {
        let file = self.file_mut(inode)?;
        file.durable.resize(file.live.len(), 0);
        for sector in std::mem::take(&mut file.unsynced) {
            copy_sector(&file.durable, &mut file.live, sector);
        }
        Ok(())
    }

    pub(super) fn sync_directory(&mut self, inode: u64) -> Result<(), Errno> {
        let names = self.names_mut(inode)?;
        names.durable = names.live.clone();
        names.unsynced.clear();
        Ok(())
    }

    /// The power goes and comes back.
    pub(super) fn power_cut(&mut self, survival: Survival, choices: &mut Choices) {
        for node in self.nodes.values_mut() {
            match &mut node.body {
                Body::File(file) => cut_file(file, survival, choices),
                Body::Directory(names) => {
                    let kept = names.unsynced.iter().take_while(|_| survival.spares(choices)).count();
                    for change in std::mem::take(&mut names.unsynced).iter().take(kept) {
                        apply(&mut names.durable, change);
                    }
                    names.live = names.durable.clone();
                }
            }
        }
        let mut reachable = BTreeSet::from([INodeNo::ROOT.0]);
        let mut ahead = vec![INodeNo::ROOT.0];
        while let Some(inode) = ahead.pop() {
            let children = self.names(inode).map(|names| names.live.values().copied().collect::<Vec<_>>());
            ahead.extend(children.unwrap_or_default().into_iter().filter(|child| reachable.insert(*child)));
        }
        self.nodes.retain(|inode, _| reachable.contains(inode));
    }
}

fn cut_file(file: &mut FileBytes, survival: Survival, choices: &mut Choices) {
    let unsynced = std::mem::take(&mut file.unsynced);
    if file.live.len() != file.durable.len() && survival.spares(choices) {
        file.durable.resize(file.live.len(), 0);
    }
    for sector in unsynced {
        if survival.spares(choices) {
            copy_sector(&file.live, &mut file.durable, sector);
        }
    }
    file.live = file.durable.clone();
}

/// Copies what both have of a sector.
fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let start = sector * SECTOR_BYTES;
    let end = (start + SECTOR_BYTES).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: u64 = INodeNo::ROOT.0;

    /// A file with two synced sectors of ones, and its name.
    fn with_file() -> (Image, u64) {
        let mut image = Image::new();
        let file = image.add_file(ROOT, OsStr::new("file"), 0o600).unwrap();
        image.write(file, 0, &[1; 2 * SECTOR_BYTES]).unwrap();
        image.sync(file).unwrap();
        image.sync_directory(ROOT).unwrap();
        (image, file)
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_any_of_the_rest() {
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let (mut image, file) = with_file();
            image.write(file, SECTOR_BYTES - 1, &[2; SECTOR_BYTES + 2]).unwrap();
            image.power_cut(Survival(4), &mut Choices::new(seed));
            let bytes = image.read(file, 0, 4096).unwrap();
            assert!(bytes[..SECTOR_BYTES - 1].iter().all(|byte| *byte == 1), "nobody wrote there");
            seen.insert((bytes.len(), bytes[SECTOR_BYTES - 1], bytes[SECTOR_BYTES]));
        }
        let all =
            [1024, 1025].into_iter().flat_map(|len| [1, 2].map(|first| [1, 2].map(|second| (len, first, second))));
        assert_eq!(seen, all.flatten().collect(), "every sector and the length by themselves");
    }

    #[test]
    fn a_file_without_its_synced_name_is_gone_and_a_name_without_its_synced_file_is_empty() {
        let mut image = Image::new();
        let (synced, named) = (OsStr::new("synced"), OsStr::new("named"));
        let file = image.add_file(ROOT, named, 0o600).unwrap();
        image.write(file, 0, b"bytes").unwrap();
        image.sync_directory(ROOT).unwrap();
        let file = image.add_file(ROOT, synced, 0o600).unwrap();
        image.write(file, 0, b"bytes").unwrap();
        image.sync(file).unwrap();
        image.power_cut(Survival::NOTHING, &mut Choices::new(1));
        assert_eq!(image.lookup(ROOT, synced), Err(Errno::ENOENT));
        assert_eq!(image.attributes(image.lookup(ROOT, named).unwrap()).unwrap().size, 0);
    }

    #[test]
    fn a_rename_survives_whole_or_not_at_all_and_in_its_order() {
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let (mut image, _) = with_file();
            image.rename(ROOT, OsStr::new("file"), OsStr::new("first")).unwrap();
            image.rename(ROOT, OsStr::new("first"), OsStr::new("second")).unwrap();
            image.power_cut(Survival(4), &mut Choices::new(seed));
            let names: Vec<_> = image.list(ROOT).unwrap().into_iter().map(|(name, ..)| name).collect();
            assert_eq!(names.len(), 1);
            seen.insert(names[0].clone());
        }
        assert_eq!(seen, ["file", "first", "second"].map(OsString::from).into());
    }

    #[test]
    fn what_a_failed_sync_lost_does_not_come_back_with_the_next_one() {
        let (mut image, file) = with_file();
        image.write(file, 0, &[2; 10]).unwrap();
        image.lose_unsynced(file).unwrap();
        image.sync(file).unwrap();
        assert!(image.read(file, 0, 4096).unwrap().iter().all(|byte| *byte == 1));
    }
}
