//! Which labs run on this machine, so that commands find theirs and the next lab removes what a killed one left.
//!
//! Each lab holds a lock on a file named by its process id, which says where its directory is. A file that nobody locks
//! is of a lab that was killed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::super::{LabError, io_error, region};
use super::namespace::{NAMES, Namespace};
use super::tunnel;

/// The files of all labs, and a lock that is held while they change.
const DIRECTORY: &str = "/run/godwit-lab";

/// Begins the name of every namespace of a lab; process id and region follow.
const PREFIX: &str = "godwit-";

/// The name of a namespace.
pub(super) fn namespace_name(owner: u32, part: &str) -> String {
    format!("{PREFIX}{owner}-{part}")
}

/// This process's claim to be a running lab. Dropping it ends the claim.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl Claim {
    /// Removes what killed labs left, then claims for this process. `directory` is the lab's; a temporary one is
    /// removed with it.
    pub(super) fn take(directory: &Path, temporary: bool) -> Result<Claim, LabError> {
        let _changing = change()?;
        for (path, owner) in files() {
            if let Ok(file) = File::open(&path)
                && file.try_lock().is_ok()
            {
                remove_leftovers(owner, &path);
            }
        }
        let path = Path::new(DIRECTORY).join(std::process::id().to_string());
        let what = || io_error(format!("{} cannot be written", path.display()));
        let mut file = File::create(&path).map_err(what())?;
        file.lock().map_err(what())?;
        let kind = if temporary { "temporary" } else { "kept" };
        write!(file, "{kind}\n{}", directory.display()).map_err(what())?;
        Ok(Claim { path, _file: file })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The directories of the labs that run.
pub(super) fn running() -> Result<Vec<PathBuf>, LabError> {
    if !Path::new(DIRECTORY).exists() {
        return Ok(Vec::new());
    }
    let _changing = change()?;
    let is_held = |path: &PathBuf| File::open(path).is_ok_and(|file| file.try_lock().is_err());
    let held = files().into_iter().map(|(path, _)| path).filter(is_held);
    Ok(held.filter_map(|path| read(&path)).map(|(_, directory)| directory).collect())
}

/// Nobody else claims or sweeps until this is dropped.
fn change() -> Result<File, LabError> {
    let what = || io_error(format!("{DIRECTORY} cannot be used"));
    fs::create_dir_all(DIRECTORY).map_err(what())?;
    let file = File::create(Path::new(DIRECTORY).join("lock")).map_err(what())?;
    file.lock().map_err(what())?;
    Ok(file)
}

/// The file of every lab, with its process id.
fn files() -> Vec<(PathBuf, u32)> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.file_name().to_str()?.parse().ok()?))).collect()
}

/// Whether the lab's directory is temporary, and where it is.
fn read(path: &Path) -> Option<(bool, PathBuf)> {
    let text = fs::read_to_string(path).ok()?;
    let (kind, directory) = text.split_once('\n')?;
    Some((kind == "temporary", directory.into()))
}

/// Removes all of a lab that was killed. What fails stays for the next time, and is in nobody's way meanwhile.
fn remove_leftovers(owner: u32, path: &Path) {
    let prefix = namespace_name(owner, "");
    let mut clean = true;
    for entry in fs::read_dir(NAMES).into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str().filter(|name| name.starts_with(&prefix)) {
            clean &= Namespace::named(name.to_owned()).remove().is_ok();
        }
    }
    for index in 0..region::COUNT {
        let socket = format!("{}.sock", tunnel::interface(owner, region::name(index)));
        let _ = fs::remove_file(Path::new(tunnel::SOCKETS).join(socket));
    }
    if let Some((true, directory)) = read(path) {
        let _ = fs::remove_dir_all(directory);
    }
    if clean {
        let _ = fs::remove_file(path);
    }
}
