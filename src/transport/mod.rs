//! Bounded readers: a folder, a URL, a removable medium. What they read is foreign; whoever asks
//! says how much of it may be read.

mod folder;
#[cfg(feature = "terminal")]
mod medium;
mod url;

use std::io;
use std::io::Read;

pub use folder::Folder;
pub use folder::open_plain;
pub use folder::read_plain;
#[cfg(feature = "terminal")]
pub use medium::Found;
#[cfg(feature = "terminal")]
pub use medium::Medium;
#[cfg(feature = "terminal")]
pub use medium::UNFINISHED;
#[cfg(feature = "terminal")]
pub use medium::open_folder;
#[cfg(feature = "terminal")]
pub use medium::open_inside;
pub use url::Patience;
pub use url::Url;

/// A tree of static files: a folder or a web server.
///
/// Paths come from this program (role names, digests, checked names), never
/// from what was read.
pub trait Files: Send + Sync {
    /// Opens a file. `None`: there is none.
    ///
    /// # Errors
    /// The file exists but cannot be read, is not a plain file, or the server
    /// cannot be reached. Trying again may help.
    fn open(&self, path: &str) -> Result<Option<Opened>, TransportError>;

    /// Where this is, for messages: a path or a URL.
    fn place(&self) -> String;

    /// Reads a file that must not be longer than `max` bytes. `None`: there is
    /// none.
    ///
    /// # Errors
    /// As [`Self::open`], and [`TransportError::TooLong`].
    fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>, TransportError> {
        let Some(opened) = self.open(path)? else {
            return Ok(None);
        };
        let place = || format!("{}/{path}", self.place());
        read_bounded(opened.content, opened.length, max, place).map(Some)
    }
}

/// Reads all of `content`, whatever length it claims to have.
///
/// # Errors
/// It has more than `max` bytes, or cannot be read.
pub fn read_bounded(
    content: impl Read,
    length: Option<u64>,
    max: u64,
    place: impl Fn() -> String,
) -> Result<Vec<u8>, TransportError> {
    if length.is_some_and(|length| length > max) {
        return Err(TransportError::TooLong { place: place(), max });
    }
    let mut bytes = Vec::new();
    content
        .take(max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|source| TransportError::Read { place: place(), source })?;
    if bytes.len() as u64 > max {
        return Err(TransportError::TooLong { place: place(), max });
    }
    Ok(bytes)
}

/// An open file. The length is what its holder claims.
pub struct Opened {
    /// Its bytes, not bounded yet.
    pub content: Box<dyn Read + Send>,
    /// Its length in bytes, where known beforehand.
    pub length: Option<u64>,
}

/// A file or server that could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The operating system or the connection failed.
    #[error("cannot read {place}")]
    Read {
        /// Which file or URL.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// Not a plain file: a folder, a device, a pipe.
    #[error("{place} is not a plain file")]
    NotAFile {
        /// Which one.
        place: String,
    },
    /// Longer than its purpose allows.
    #[error("{place} is longer than {max} bytes")]
    TooLong {
        /// Which file or URL.
        place: String,
        /// The limit in bytes.
        max: u64,
    },
    /// A folder with more files than a repository has.
    #[error("{place} has more than {max} files")]
    TooMany {
        /// Which folder.
        place: String,
        /// The limit.
        max: usize,
    },
    /// There is no such folder.
    #[error("there is no folder {0}")]
    NoFolder(String),
    /// The server answered with an error.
    #[error("{place} answered with status {status}")]
    Status {
        /// Which URL.
        place: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server could not be reached, or the URL is malformed.
    #[error("cannot fetch {place}: {reason}")]
    Fetch {
        /// Which URL.
        place: String,
        /// Why.
        reason: String,
    },
}
