//! Files that are whole or not there.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::HomeError;
use crate::manifest::Sha256;
use crate::manifest::json;
use crate::transport::read_plain;

/// Longer files of ours are refused; bundles are the longest.
const MAX_LENGTH: u64 = 64 << 20;

/// Replaces a file: written beside it, synced, renamed over it. After a power
/// cut the old or the new content is there.
///
/// # Errors
/// The folder cannot be written; the old file is as it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    use std::os::unix::fs::PermissionsExt;
    let folder = path.parent().unwrap_or(Path::new("."));
    make_folder(folder)?;
    let run = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        sync_folder(folder)
    };
    run().map_err(|source| HomeError::io(path, source))
}

/// Writes a state file in compact JSON.
///
/// # Errors
/// As [`write()`].
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), HomeError> {
    let mut bytes =
        json::to_vec(value).map_err(|error| HomeError::Damaged { path: path.to_owned(), reason: error.to_string() })?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// Reads a state file, as [`write_json`] writes it; `None` if there is none.
///
/// # Errors
/// It cannot be read, is too long, damaged, or of a newer version.
pub fn read_json<T: DeserializeOwned>(path: &Path, version: u32) -> Result<Option<T>, HomeError> {
    read_if_there(path)?.map(|bytes| parse_json(path, &bytes, version)).transpose()
}

/// Parses the content of the state file at `path`.
///
/// # Errors
/// It is damaged, or of a newer version.
pub fn parse_json<T: DeserializeOwned>(path: &Path, bytes: &[u8], version: u32) -> Result<T, HomeError> {
    let damaged = |reason: String| HomeError::Damaged { path: path.to_owned(), reason };
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let value = json::from_slice_strict(line).map_err(|error| damaged(error.to_string()))?;
    match value["version"].as_u64() {
        Some(found) if found > u64::from(version) => Err(HomeError::Newer(path.to_owned())),
        Some(_) => json::typed(value).map_err(|error| damaged(error.to_string())),
        None => Err(damaged("it has no version".to_owned())),
    }
}

/// Reads a whole file of ours.
///
/// # Errors
/// It cannot be read, is too long, or missing.
pub fn read(path: &Path) -> Result<Vec<u8>, HomeError> {
    read_if_there(path)?.ok_or_else(|| HomeError::Missing(path.to_owned()))
}

/// Reads a whole file of ours; `None` if there is none.
///
/// # Errors
/// It cannot be read, or is too long.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, HomeError> {
    read_plain(path, MAX_LENGTH).map_err(|error| HomeError::of_transport(path, error))
}

/// Makes names in a folder durable.
///
/// # Errors
/// The folder cannot be synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes a folder and those above it; their names are durable.
///
/// # Errors
/// A folder cannot be made.
pub fn make_folder(folder: &Path) -> Result<(), HomeError> {
    fn make(folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(Path::new("/"));
        make(parent)?;
        fs::create_dir(folder)?;
        sync_folder(parent)
    }
    make(folder).map_err(|source| HomeError::io(folder, source))
}

/// Removes a folder with all that is in it, if it is there.
///
/// # Errors
/// It cannot be removed whole.
pub fn remove_folder(folder: &Path) -> Result<(), HomeError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(HomeError::io(folder, error)),
        _ => Ok(()),
    }
}

/// Gives a file one more name. A name that is there already must have the same
/// content; it is never replaced. The new name is not durable before its folder
/// is synced.
///
/// # Errors
/// The name is taken by other content, or cannot be made.
pub fn link(from: &Path, to: &Path) -> Result<(), HomeError> {
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
    }
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if digest(from)? == digest(to)? {
                Ok(())
            } else {
                Err(HomeError::Conflict(to.to_owned()))
            }
        }
        Err(error) => Err(HomeError::io(to, error)),
    }
}

/// How many bytes the file system of a folder has left for users.
///
/// # Errors
/// The folder cannot be asked.
pub fn free_space(folder: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// The digest of a file's content.
///
/// # Errors
/// It cannot be read.
pub fn digest(path: &Path) -> Result<Sha256, HomeError> {
    let run = || Sha256::of_reader(File::open(path)?, &mut |_| {}).map(|(sha256, _)| sha256);
    run().map_err(|source| HomeError::io(path, source))
}
