//! What was seen before, per pinned root: one file per product, in the form of
//! a bundle without claims.
//!
//! It keeps a mirror from serving less later. Everything is verified again from
//! the pinned root when it is read, so that a damaged file costs memory, not
//! safety.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use super::Origin;
use super::Source;
use super::Trust;
use crate::manifest::Bundle;
use crate::manifest::Sha256;
use crate::manifest::bundle;
use crate::tuf::Copies;
use crate::tuf::number_of;
use crate::tuf::read_plain;

/// The folder that holds what was seen under one pinned root.
#[derive(Debug, Clone)]
pub struct Memory {
    folder: PathBuf,
}

/// Something could not be remembered or recalled. The verdict is the same, but
/// an older state would not be noticed.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path}: {reason}")]
pub struct MemoryError {
    /// Which file or folder.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

impl Memory {
    /// The memory for `pinned`, below the folder `base`.
    pub fn new(base: &Path, pinned: Sha256) -> Self {
        Self { folder: base.join(pinned.to_string()) }
    }

    fn error(path: &Path, reason: impl Into<String>) -> MemoryError {
        MemoryError { path: path.to_owned(), reason: reason.into() }
    }

    /// All that was seen, with what could not be recalled.
    pub fn recall(&self) -> (Vec<Source>, Vec<MemoryError>) {
        let (mut sources, mut errors) = (Vec::new(), Vec::new());
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (sources, errors),
            Err(error) => return (sources, vec![Self::error(&self.folder, error.to_string())]),
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match recall_one(&path) {
                Ok(copies) => sources.push(Source { origin: Origin::Memory, copies }),
                Err(reason) => errors.push(Self::error(&path, reason)),
            }
        }
        (sources, errors)
    }

    /// Remembers what is trusted, unless as new a state is remembered already.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn remember(&self, trust: &Trust) -> Result<(), MemoryError> {
        let path = self.folder.join(format!("{}.json", trust.product()));
        let bytes = trust.to_remember().and_then(|bundle| bundle.to_vec());
        let bytes = bytes.map_err(|error| Self::error(&path, error.to_string()))?;
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.folder)?;
            // Two runs at once must not replace the newer by the older.
            let lock = File::create(self.folder.join("lock"))?;
            lock.lock()?;
            let old = read_plain(&path, bundle::MAX_BUNDLE).ok().flatten();
            if old.is_some_and(|old| old == bytes) || age_of(&path) > Some(trust.age()) {
                return Ok(());
            }
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(&bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(|error| Self::error(&path, error.to_string()))
    }
}

fn recall_one(path: &Path) -> Result<Copies, String> {
    let bytes = read_plain(path, bundle::MAX_BUNDLE).map_err(|error| error.to_string())?;
    let bundle = Bundle::parse(&bytes.ok_or("it is gone")?).map_err(|error| error.to_string())?;
    let mut copies = Copies {
        timestamp: Some(bundle.timestamp),
        snapshot: Some(bundle.snapshot),
        targets: Some(bundle.targets),
        ..Copies::default()
    };
    copies.roles.insert(bundle.product, bundle.role);
    for root in bundle.roots {
        let number = number_of(&root).ok_or("a root has no version")?;
        copies.roots.insert(number, root);
    }
    Ok(copies)
}

/// Root number, then the number of the timestamp.
fn age_of(path: &Path) -> Option<(u64, u64)> {
    let copies = recall_one(path).ok()?;
    Some((*copies.roots.keys().next_back()?, number_of(&copies.timestamp?)?))
}
