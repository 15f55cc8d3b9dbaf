//! A removable medium: a folder that somebody hostile has filled, and may go on
//! changing while it is read.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::io::Errno;

use super::TransportError;

/// Opens a file below a folder, through no link, on no other file system, and
/// without waiting for a pipe.
///
/// # Errors
/// Those of openat2(2): `LOOP` or `XDEV` where a link leads to it.
pub fn open_inside(folder: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(folder, path, flags, Mode::empty(), resolve)?.into())
}

/// Opens a folder, to open files below it.
///
/// # Errors
/// There is no such folder.
pub fn open_folder(folder: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The top folder of a medium; what is below it is never entered.
#[derive(Debug)]
pub struct Medium {
    folder: OwnedFd,
    place: PathBuf,
}

/// What a name of a medium stands for.
#[derive(Debug)]
pub enum Found {
    /// A plain file, and its length when it was opened.
    File(File, u64),
    /// A folder.
    Folder,
    /// Something that is not opened: a link, a pipe, a socket, a device.
    Other(&'static str),
}

impl Medium {
    /// Opens the folder once; all that is read is read through it.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn open(place: &Path) -> Result<Self, TransportError> {
        let name = || place.display().to_string();
        let folder = open_folder(place).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => TransportError::NoFolder(name()),
            error => TransportError::Read { place: name(), source: error.into() },
        })?;
        Ok(Self { folder, place: place.to_owned() })
    }

    /// The names in the folder, sorted.
    ///
    /// # Errors
    /// It cannot be read, or there are more than `max`.
    pub fn names(&self, max: usize) -> Result<Vec<OsString>, TransportError> {
        let place = || self.place.display().to_string();
        let read = |error: Errno| TransportError::Read { place: place(), source: error.into() };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.folder).map_err(read)? {
            let name = entry.map_err(read)?.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            if names.len() == max {
                return Err(TransportError::TooMany { place: place(), max });
            }
            names.push(OsString::from_vec(name));
        }
        names.sort();
        Ok(names)
    }

    /// Whether a name, which may be none that we use, is that of a folder. Nothing is
    /// opened.
    pub fn has_folder(&self, name: &OsStr) -> bool {
        rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
    }

    /// Opens what has a name. What it is is asked before, since opening a device
    /// can do something, and after, since it may have been replaced.
    ///
    /// # Errors
    /// It is gone, or cannot be read.
    pub fn find(&self, name: &str) -> io::Result<Found> {
        let before = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(before.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Ok(Found::Folder),
            FileType::Symlink => return Ok(Found::Other("it is a link")),
            _ => return Ok(Found::Other("it is not a plain file")),
        }
        let file = match open_inside(&self.folder, name) {
            Err(Errno::LOOP | Errno::XDEV) => return Ok(Found::Other("it is a link, or on another file system")),
            opened => opened?,
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(Found::Other("it is not a plain file"));
        }
        let length = metadata.len();
        Ok(Found::File(file, length))
    }
}
