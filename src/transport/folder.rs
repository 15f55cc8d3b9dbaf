//! A folder as a tree of static files.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use super::Files;
use super::Opened;
use super::TransportError;

/// A folder on this machine.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The tree below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

/// Opens a plain file and gives its length; `None` if there is none.
///
/// # Errors
/// Anything but a readable plain file. A pipe or device is refused before it is
/// opened, since opening could block; one that comes in between does not block.
pub fn open_plain(path: &Path) -> Result<Option<(File, u64)>, TransportError> {
    let read = |source| TransportError::Read { place: path.display().to_string(), source };
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(read(error)),
    };
    if !metadata.is_file() {
        return Err(TransportError::NotAFile { place: path.display().to_string() });
    }
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.read(true).open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(TransportError::NotAFile { place: path.display().to_string() });
    }
    Ok(Some((file, metadata.len())))
}

/// Reads a plain file that must not be longer than `max` bytes; `None` if there
/// is none.
///
/// # Errors
/// As [`open_plain`], and a file that is too long.
pub fn read_plain(path: &Path, max: u64) -> Result<Option<Vec<u8>>, TransportError> {
    let place = || path.display().to_string();
    let Some((file, length)) = open_plain(path)? else {
        return Ok(None);
    };
    super::read_bounded(file, Some(length), max, place).map(Some)
}

impl Folder {
    /// Every file below the folder, links and other things that are no folders
    /// included, by relative paths with `/`, sorted.
    ///
    /// # Errors
    /// A folder cannot be read; there are more than `max` files.
    pub fn list(&self, max: usize) -> Result<Vec<String>, TransportError> {
        let mut found = Vec::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(below) = pending.pop() {
            let folder = self.root.join(&below);
            let read = |source| TransportError::Read { place: folder.display().to_string(), source };
            for entry in folder.read_dir().map_err(read)? {
                let entry = entry.map_err(read)?;
                let path = below.join(entry.file_name());
                if entry.file_type().map_err(read)?.is_dir() {
                    pending.push(path);
                } else if found.len() < max {
                    let segments: Vec<_> = path.iter().map(|segment| segment.to_string_lossy()).collect();
                    found.push(segments.join("/"));
                } else {
                    return Err(TransportError::TooMany { place: self.place(), max });
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

impl Files for Folder {
    fn open(&self, path: &str) -> Result<Option<Opened>, TransportError> {
        Ok(open_plain(&self.root.join(path))?
            .map(|(file, length)| Opened { content: Box::new(file), length: Some(length) }))
    }

    fn place(&self) -> String {
        self.root.display().to_string()
    }
}
