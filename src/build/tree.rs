//! Folders that builds work in.

use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

use super::BuildError;

/// Unpacks a source archive of ours, without its outer folder. Names and links
/// were checked when it was written.
pub(super) fn unpack(tar: &Path, folder: &Path) -> Result<(), BuildError> {
    let run = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        set_mode(folder, 0o755)?;
        let mut archive = tar::Archive::new(io::BufReader::new(File::open(tar)?));
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path_bytes().into_owned();
            let Some(slash) = path.iter().position(|b| *b == b'/') else {
                continue;
            };
            let inner = &path[slash + 1..];
            if inner.is_empty() {
                continue;
            }
            let target = folder.join(OsStr::from_bytes(inner.strip_suffix(b"/").unwrap_or(inner)));
            match entry.header().entry_type() {
                tar::EntryType::Directory => {
                    fs::create_dir(&target)?;
                    set_mode(&target, 0o755)?;
                }
                tar::EntryType::Symlink => {
                    let link = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
                    std::os::unix::fs::symlink(OsStr::from_bytes(&link), &target)?;
                }
                tar::EntryType::Regular => {
                    let mode = entry.header().mode()?;
                    let mtime = entry.header().mtime()?;
                    let mut file = File::create_new(&target)?;
                    io::copy(&mut entry, &mut file)?;
                    file.set_permissions(fs::Permissions::from_mode(mode & 0o755))?;
                    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(mtime))?;
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        Ok(())
    };
    run().map_err(|error| BuildError::io(folder, error))
}

/// Sets the permission bits of a file, whatever the umask is.
pub(super) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Gives every file and folder below `folder` the same time.
pub(super) fn set_times(folder: &Path, epoch: i64) -> Result<(), BuildError> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(epoch).unwrap_or(0));
    walk(folder, &mut |path, metadata| {
        if metadata.is_symlink() { Ok(()) } else { File::open(path)?.set_modified(time) }
    })
}

/// Gives everything below `folder`, and the folder itself, to a user.
pub(super) fn give_to(folder: &Path, id: u32) -> Result<(), BuildError> {
    walk(folder, &mut |path, _| std::os::unix::fs::lchown(path, Some(id), Some(id)))
}

/// Removes a folder, also one whose permissions a build has taken away.
pub(super) fn clear(folder: &Path) -> Result<(), BuildError> {
    if !folder.exists() {
        return Ok(());
    }
    // Opening up must come before looking into a folder.
    let open_up = |path: &Path| -> io::Result<()> {
        let mut pending = vec![path.to_owned()];
        while let Some(path) = pending.pop() {
            set_mode(&path, 0o700)?;
            for entry in fs::read_dir(&path)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    pending.push(entry.path());
                }
            }
        }
        Ok(())
    };
    open_up(folder).and_then(|()| fs::remove_dir_all(folder)).map_err(|error| BuildError::io(folder, error))
}

type Visit<'a> = dyn FnMut(&Path, &fs::Metadata) -> io::Result<()> + 'a;

/// Visits everything below `folder`, contents before the folder itself.
fn walk(folder: &Path, visit: &mut Visit<'_>) -> Result<(), BuildError> {
    fn inner(path: &PathBuf, visit: &mut Visit<'_>) -> io::Result<()> {
        let metadata = path.symlink_metadata()?;
        if metadata.is_dir() {
            for entry in fs::read_dir(path)? {
                inner(&entry?.path(), visit)?;
            }
        }
        visit(path, &metadata)
    }
    inner(&folder.to_owned(), visit).map_err(|error| BuildError::io(folder, error))
}
