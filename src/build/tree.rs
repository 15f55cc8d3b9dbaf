//! Folders that builds work in.

use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io;
use std::io::ErrorKind;
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

/// Removes a folder that a build has filled, however deep, with names however
/// long, and with permissions taken away. No process may use it any more.
pub(super) fn clear(folder: &Path) -> Result<(), BuildError> {
    let run = || -> io::Result<()> {
        match set_mode(folder, 0o700) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            done => done?,
        }
        // What is inside a folder is moved up to the top before anything looks
        // into it: so paths stay short, and nothing recurses.
        let mut moved = 0;
        loop {
            let mut entries = fs::read_dir(folder)?.peekable();
            if entries.peek().is_none() {
                return fs::remove_dir(folder);
            }
            for entry in entries {
                let entry = entry?;
                if !entry.file_type()?.is_dir() {
                    fs::remove_file(entry.path())?;
                    continue;
                }
                set_mode(&entry.path(), 0o700)?;
                for inner in fs::read_dir(entry.path())? {
                    let inner = inner?;
                    if inner.file_type()?.is_dir() {
                        move_up(&inner.path(), folder, &mut moved)?;
                    } else {
                        fs::remove_file(inner.path())?;
                    }
                }
                fs::remove_dir(entry.path())?;
            }
        }
    };
    run().map_err(|error| BuildError::io(folder, error))
}

/// Moves a folder to the first of the names 1, 2, 3… that is free at the top.
fn move_up(folder: &Path, top: &Path, moved: &mut u64) -> io::Result<()> {
    // Moving a folder takes the right to write in it.
    set_mode(folder, 0o700)?;
    loop {
        *moved += 1;
        let target = top.join(moved.to_string());
        if target.symlink_metadata().is_err() {
            return fs::rename(folder, target);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_keeps_a_folder_from_being_removed() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("build");
        clear(&folder).unwrap();
        // Too deep for a path, for a stack and for the number of open files.
        fs::create_dir_all(folder.join("deep")).unwrap();
        for _ in 0..3_000 {
            fs::create_dir(folder.join("next")).unwrap();
            fs::rename(folder.join("deep"), folder.join("next/deep")).unwrap();
            fs::rename(folder.join("next"), folder.join("deep")).unwrap();
        }
        let canary = outer.path().join("canary");
        fs::write(&canary, "alive").unwrap();
        // The names that are given at the top, as files, links and folders.
        fs::write(folder.join("1"), "").unwrap();
        std::os::unix::fs::symlink(outer.path(), folder.join("2")).unwrap();
        fs::create_dir_all(folder.join("3/1/2/3")).unwrap();
        fs::write(folder.join("3").join("x".repeat(255)), "").unwrap();
        fs::create_dir_all(folder.join("closed/closed")).unwrap();
        fs::write(folder.join("closed/closed/file"), "").unwrap();
        for path in ["closed/closed", "closed", "3/1", ""] {
            set_mode(&folder.join(path), 0).unwrap();
        }
        clear(&folder).unwrap();
        assert!(folder.symlink_metadata().is_err());
        assert_eq!(fs::read(canary).unwrap(), b"alive");
    }
}
