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

use super::Files;
use super::Opened;
use super::TransportError;

/// How the names of files begin that are not whole yet.
pub const UNFINISHED: &str = ".new-";

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

/// The top folder of a medium. Only as [`Files`], where it is a copy of a repository,
/// is what is below it entered; no link is followed either way.
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

    /// The same, after making the folder where there is none.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn make(place: &Path) -> Result<Self, TransportError> {
        match std::fs::create_dir(place) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                Err(TransportError::Read { place: place.display().to_string(), source })
            }
            _ => Self::open(place),
        }
    }

    /// The path of a name, for messages.
    pub fn path(&self, name: &str) -> PathBuf {
        self.place.join(name)
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

    /// Writes a file beside, and gives it its name when it is whole. What had that
    /// name is replaced, and nothing is written through a link. No mode is set, since
    /// many media have none.
    ///
    /// # Errors
    /// It cannot be written. Nothing is durable before [`Self::sync`].
    pub fn write(&self, name: &str, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let beside = format!("{UNFINISHED}{name}");
        match rustix::fs::unlinkat(&self.folder, beside.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let mut file = File::from(rustix::fs::openat(&self.folder, beside.as_str(), flags, mode)?);
        let written =
            fill(&mut file).and_then(|()| Ok(rustix::fs::renameat(&self.folder, beside.as_str(), &self.folder, name)?));
        if written.is_err() {
            // A full medium should have its space back.
            let _ = rustix::fs::unlinkat(&self.folder, beside.as_str(), AtFlags::empty());
        }
        written
    }

    /// Takes a name away that is no folder's.
    ///
    /// # Errors
    /// It is still there.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.folder, name, AtFlags::empty())?)
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// The medium cannot take it.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.folder)?)
    }

    /// How many bytes can still be written.
    ///
    /// # Errors
    /// The medium cannot be asked.
    pub fn free_space(&self) -> io::Result<u64> {
        let found = rustix::fs::fstatvfs(&self.folder)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

impl Files for Medium {
    /// What a link leads to is not on the medium: it could be a secret of this machine.
    fn open(&self, path: &str) -> Result<Option<Opened>, TransportError> {
        let place = || self.path(path).display().to_string();
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let look = || -> rustix::io::Result<Option<(File, u64)>> {
            // What it is is known before it is opened.
            let found =
                rustix::fs::openat2(&self.folder, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
            let is_file = |mode| FileType::from_raw_mode(mode) == FileType::RegularFile;
            if !is_file(rustix::fs::fstat(&found)?.st_mode) {
                return Ok(None);
            }
            let file = open_inside(&self.folder, path)?;
            let metadata = rustix::fs::fstat(&file)?;
            let length = u64::try_from(metadata.st_size).unwrap_or(0);
            Ok(is_file(metadata.st_mode).then_some((file, length)))
        };
        match look() {
            Ok(Some((file, length))) => Ok(Some(Opened { content: Box::new(file), length: Some(length) })),
            Ok(None) | Err(Errno::LOOP | Errno::XDEV) => Err(TransportError::NotAFile { place: place() }),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(TransportError::Read { place: place(), source: error.into() }),
        }
    }

    fn place(&self) -> String {
        self.place.display().to_string()
    }
}
