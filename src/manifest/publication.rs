//! A publication: what one seal adds to the repository.

use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use super::RepoPath;
use super::Sha256;

/// The version of the publication file that this program writes and reads.
pub const VERSION: u32 = 1;

/// The pointer that readers begin with: the last name of every publication.
pub const TIMESTAMP: &str = "metadata/timestamp.json";

/// Whether a name is used once or again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The name never holds other bytes. Mirrors refuse to replace it.
    WriteOnce,
    /// The name is used again, or is under `metadata/`, where TUF signs
    /// everything and a thief's junk must be replaceable.
    Pointer,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteOnce => "write-once",
            Self::Pointer => "pointer",
        })
    }
}

/// One content and all the names under which it is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Digest of the content.
    pub sha256: Sha256,
    /// Size in bytes.
    pub length: u64,
    /// Its names. All are linked in the same push.
    pub names: Vec<RepoPath>,
    /// The class of all its names.
    pub class: Class,
}

/// What one seal adds, in the order in which readers may come to see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publication {
    /// Version of this file format.
    pub version: u32,
    /// Number of the publication: the version of its `timestamp.json`.
    pub serial: u64,
    /// When it was sealed.
    pub sealed: Timestamp,
    /// What it is for: `kestrel 2.4.0`, or `refresh`.
    pub purpose: String,
    /// Write-once content first, then pointers; `timestamp.json` is last.
    pub entries: Vec<Entry>,
}

impl Publication {
    /// All names with their content, in publishing order.
    pub fn names(&self) -> impl Iterator<Item = (&RepoPath, &Entry)> {
        self.entries.iter().flat_map(|entry| entry.names.iter().map(move |name| (name, entry)))
    }

    /// Digest of its `timestamp.json`.
    pub fn timestamp(&self) -> Sha256 {
        self.entries.last().map_or_else(|| Sha256::of(b""), |entry| entry.sha256)
    }
}
