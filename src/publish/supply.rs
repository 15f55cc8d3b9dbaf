//! Where publications and their content come from: a home, or a medium that a
//! courier carries.

use std::fs::File;
use std::path::PathBuf;

use super::PublishError;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::manifest::Entry;
use crate::manifest::Publication;
use crate::manifest::RepoPath;
use crate::manifest::publication;

/// What can be pushed. Whoever copies content compares its digest with the entry
/// before anything gets a name.
pub trait Supply: Send + Sync {
    /// The numbers of all publications, sorted.
    ///
    /// # Errors
    /// They cannot be listed.
    fn serials(&self) -> Result<Vec<u64>, HomeError>;

    /// The publication with this number.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    fn load(&self, serial: u64) -> Result<Publication, HomeError>;

    /// Opens the content of an entry, which has this name.
    ///
    /// # Errors
    /// It is not here, or cannot be read.
    fn open(&self, name: &RepoPath, entry: &Entry) -> Result<Content, PublishError>;
}

/// A content that is open.
#[derive(Debug)]
pub struct Content {
    /// Its bytes.
    pub file: File,
    /// Where it is, for messages.
    pub path: PathBuf,
}

impl Supply for Home {
    fn serials(&self) -> Result<Vec<u64>, HomeError> {
        serials(self)
    }

    fn load(&self, serial: u64) -> Result<Publication, HomeError> {
        load(self, serial)
    }

    fn open(&self, name: &RepoPath, _: &Entry) -> Result<Content, PublishError> {
        let path = self.repository().join(name.as_str());
        let file = File::open(&path).map_err(|error| PublishError::io(&path, error))?;
        Ok(Content { file, path })
    }
}

/// The newest publication of the home.
///
/// # Errors
/// A publication cannot be read, or one that was sealed is missing: mirrors
/// would get pointers to what they do not have.
pub fn newest(home: &Home) -> Result<u64, HomeError> {
    let serials = serials(home)?;
    for sealed in home.journal()?.publications() {
        // One that a command was interrupted in will be finished.
        let begun = home.publications().join(format!("{sealed}.partial"));
        if serials.binary_search(&sealed).is_err() && !begun.exists() {
            return Err(HomeError::Missing(record(home, sealed)));
        }
    }
    Ok(serials.last().copied().unwrap_or(0))
}

fn record(home: &Home, serial: u64) -> PathBuf {
    home.publications().join(format!("{serial}.json"))
}

/// The first file of the home's repository that a publication names and that is
/// gone.
///
/// # Errors
/// A publication cannot be read.
pub fn lost(home: &Home) -> Result<Option<PathBuf>, HomeError> {
    for serial in serials(home)? {
        let publication = load(home, serial)?;
        let mut paths = publication.names().map(|(name, _)| home.repository().join(name.as_str()));
        if let Some(path) = paths.find(|path| !path.exists()) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The publication with this number.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn load(home: &Home, serial: u64) -> Result<Publication, HomeError> {
    let path = record(home, serial);
    atomic::read_json(&path, publication::VERSION)?.ok_or(HomeError::Missing(path))
}

/// The newest publication for a purpose.
///
/// # Errors
/// A publication cannot be read.
pub fn find(home: &Home, purpose: &str) -> Result<Option<u64>, HomeError> {
    for serial in serials(home)?.into_iter().rev() {
        if load(home, serial)?.purpose == purpose {
            return Ok(Some(serial));
        }
    }
    Ok(None)
}

/// The numbers of all recorded publications, sorted.
///
/// # Errors
/// The folder cannot be read.
pub fn serials(home: &Home) -> Result<Vec<u64>, HomeError> {
    let folder = home.publications();
    let entries = std::fs::read_dir(&folder).map_err(|error| HomeError::io(&folder, error))?;
    let mut serials: Vec<u64> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok()).collect();
    serials.sort_unstable();
    Ok(serials)
}
