//! A seal that is being made: `publications/<serial>.partial/`.
//!
//! ```text
//! seal.json           what for, and when: fixed before a key is asked
//! snapshot.json       signed
//! timestamp.json      signed
//! content/<sha256>    everything that the publication names
//! publication.json    the publication: complete
//! checked             it was verified; from here on any command may finish it
//! ```

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use super::RepositoryError;
use super::layout;
use crate::home;
use crate::home::Event;
use crate::home::Home;
use crate::home::atomic;
use crate::manifest::Class;
use crate::manifest::Entry;
use crate::manifest::Product;
use crate::manifest::Publication;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::publication;
use crate::manifest::publication::TIMESTAMP;
use crate::manifest::suite::APT;
use crate::transport::Files;
use crate::transport::Folder;
use crate::transport::Opened;
use crate::transport::TransportError;

/// The name and version of the note that says what a seal is for.
const NOTE: &str = "seal.json";
const VERSION: u32 = 1;
/// What a seal is for that takes over what a mirror has.
pub const IMPORT: &str = "import";
/// Marks a publication that was verified.
const CHECKED: &str = "checked";

/// What a seal is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    version: u32,
    purpose: String,
    at: Timestamp,
}

/// The folder of a seal that is being made.
#[derive(Debug, Clone)]
pub struct Pending {
    folder: PathBuf,
    repository: PathBuf,
    record: PathBuf,
    serial: u64,
    note: Note,
}

impl Pending {
    /// Begins the seal of publication `serial`, or finds it begun. `asked` is
    /// when the online key was first asked to sign for this number, if it was.
    ///
    /// # Errors
    /// Another purpose began it, and a key may have signed for it.
    pub fn begin(
        home: &Home,
        serial: u64,
        purpose: &str,
        now: Timestamp,
        asked: Option<Timestamp>,
    ) -> Result<Self, RepositoryError> {
        let folder = home.publications().join(format!("{serial}.partial"));
        let path = folder.join(NOTE);
        let new = |at| Note { version: VERSION, purpose: purpose.to_owned(), at };
        let note = match (atomic::read_json::<Note>(&path, VERSION)?, asked) {
            (Some(note), _) if note.purpose == purpose => note,
            (Some(note), Some(_)) => return Err(RepositoryError::Interrupted { serial, purpose: note.purpose }),
            // The note was lost after a key was asked. The journal knows its date;
            // whether the purpose is the same shows when the key is asked again.
            (None, Some(at)) => new(at),
            (_, None) => {
                if folder.exists() {
                    fs::remove_dir_all(&folder).map_err(|error| RepositoryError::io(&folder, error))?;
                }
                atomic::write_json(&path, &new(now))?;
                new(now)
            }
        };
        Ok(Self::at_folder(home, serial, note))
    }

    /// Writes the note again, should it have been lost.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_note(&self) -> Result<(), RepositoryError> {
        let path = self.folder.join(NOTE);
        if !path.exists() {
            atomic::write_json(&path, &self.note)?;
        }
        Ok(())
    }

    /// What is begun and not recorded: number and purpose.
    ///
    /// # Errors
    /// A note cannot be read.
    pub fn find(home: &Home) -> Result<Option<(u64, String)>, RepositoryError> {
        Ok(Self::all(home)?.into_iter().next().map(|pending| (pending.serial, pending.note.purpose)))
    }

    /// Finishes what was complete and checked when a command was interrupted.
    /// That needs no key. What has lost content since is as if it was not checked:
    /// whoever seals makes it again.
    ///
    /// # Errors
    /// Files cannot be written.
    pub fn finish_interrupted(home: &Home) -> Result<(), RepositoryError> {
        for pending in Self::all(home)? {
            let checked = pending.folder.join(CHECKED);
            if pending.record.exists() {
                pending.clear()?;
            } else if checked.exists() {
                match pending.publication()? {
                    Some(publication) if pending.is_whole(&publication) => {
                        pending.note_in_journal(home, &publication)?;
                        pending.commit(&publication)?;
                    }
                    _ => fs::remove_file(&checked).map_err(|error| RepositoryError::io(&checked, error))?,
                }
            }
        }
        Ok(())
    }

    /// Says in the journal what an interrupted command did not come to say: which
    /// numbers are taken is known from there alone.
    fn note_in_journal(&self, home: &Home, publication: &Publication) -> Result<(), RepositoryError> {
        let mut journal = home.journal()?;
        if journal.publications().any(|serial| serial == self.serial) {
            return Ok(());
        }
        let event = if self.note.purpose == IMPORT {
            let numbers = publication.names().filter_map(|(name, _)| number_of(name)).collect();
            Event::Import { from: "a mirror, interrupted".to_owned(), serial: self.serial, numbers }
        } else {
            let (serial, purpose) = (self.serial, self.note.purpose.clone());
            Event::Seal { serial, purpose, timestamp: publication.timestamp() }
        };
        // The journal never goes back in time.
        let at = journal.last_time().map_or(self.note.at, |last| last.max(self.note.at));
        Ok(journal.append(at, event)?)
    }

    /// Whether all that a publication names is here, or where it goes.
    fn is_whole(&self, publication: &Publication) -> bool {
        publication.names().all(|(name, entry)| self.content(entry.sha256).exists() || self.is_placed(name, entry))
    }

    /// Whether a name in the home's repository has its content.
    fn is_placed(&self, name: &RepoPath, entry: &Entry) -> bool {
        atomic::digest(&self.repository.join(name.as_str())).is_ok_and(|found| found == entry.sha256)
    }

    fn clear(&self) -> Result<(), RepositoryError> {
        fs::remove_dir_all(&self.folder).map_err(|error| RepositoryError::io(&self.folder, error))
    }

    fn all(home: &Home) -> Result<Vec<Self>, RepositoryError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(home.publications()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(serial) = name.strip_suffix(".partial").and_then(|serial| serial.parse().ok()) else {
                continue;
            };
            if let Some(note) = atomic::read_json::<Note>(&entry.path().join(NOTE), VERSION)? {
                found.push(Self::at_folder(home, serial, note));
            }
        }
        Ok(found)
    }

    fn at_folder(home: &Home, serial: u64, note: Note) -> Self {
        Self {
            folder: home.publications().join(format!("{serial}.partial")),
            record: home.publications().join(format!("{serial}.json")),
            repository: home.repository(),
            serial,
            note,
        }
    }

    /// When the seal was begun; its metadata bears this date.
    pub fn at(&self) -> Timestamp {
        self.note.at
    }

    /// The number of the publication.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// A signed metadata file that was made before.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn signed(&self, name: &str) -> Result<Option<Vec<u8>>, RepositoryError> {
        Ok(atomic::read_if_there(&self.folder.join(name))?)
    }

    /// Keeps a signed metadata file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_signed(&self, name: &str, bytes: &[u8]) -> Result<(), RepositoryError> {
        Ok(atomic::write(&self.folder.join(name), bytes)?)
    }

    fn content(&self, sha256: Sha256) -> PathBuf {
        self.folder.join("content").join(sha256.to_string())
    }

    /// Adds bytes to the content.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn add_bytes(&self, bytes: &[u8]) -> Result<(Sha256, u64), RepositoryError> {
        let sha256 = Sha256::of(bytes);
        let path = self.content(sha256);
        if !path.exists() {
            atomic::write(&path, bytes)?;
        }
        Ok((sha256, bytes.len() as u64))
    }

    /// Adds a file of the home to the content, as a further name of it.
    ///
    /// # Errors
    /// It cannot be linked.
    pub fn add_file(&self, path: &Path, sha256: Sha256) -> Result<(), RepositoryError> {
        Ok(atomic::link(path, &self.content(sha256))?)
    }

    /// Adds what a reader gives, which must have this digest and size. Gives
    /// whether it had.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn add_reader(&self, mut content: impl Read, sha256: Sha256, length: u64) -> Result<bool, RepositoryError> {
        let path = self.content(sha256);
        let folder = self.folder.join("content");
        atomic::make_folder(&folder)?;
        let io = |error| RepositoryError::io(&path, error);
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&folder).map_err(io)?;
        let copied = std::io::copy(&mut (&mut content).take(length.saturating_add(1)), file.as_file_mut());
        if copied.map_err(io)? != length || atomic::digest(file.path())? != sha256 {
            return Ok(false);
        }
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).map_err(io)?;
        file.as_file().sync_all().map_err(io)?;
        file.persist(&path).map_err(|error| io(error.error))?;
        Ok(true)
    }

    /// Forgets a seal that was begun: its numbers are taken by others.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn discard(home: &Home, serial: u64) -> Result<(), RepositoryError> {
        let folder = home.publications().join(format!("{serial}.partial"));
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RepositoryError::io(&folder, error)),
            _ => Ok(()),
        }
    }

    /// Completes the publication.
    ///
    /// # Errors
    /// A path has no place, or the file cannot be written.
    pub fn complete(&self, names: Vec<(RepoPath, Sha256, u64)>) -> Result<Publication, RepositoryError> {
        let mut by_content: BTreeMap<(Class, Sha256), Entry> = BTreeMap::new();
        let mut pointers = Vec::new();
        for (path, sha256, length) in names {
            let class = layout::class_of(&path).ok_or_else(|| RepositoryError::NoPlace(path.clone()))?;
            match class {
                Class::WriteOnce => {
                    by_content
                        .entry((class, sha256))
                        .or_insert_with(|| Entry { sha256, length, names: Vec::new(), class })
                        .names
                        .push(path);
                }
                Class::Pointer => pointers.push(Entry { sha256, length, names: vec![path], class }),
            }
        }
        // Readers find a pointer's target before they find the pointer.
        pointers.sort_by_key(|entry| entry.names.first().map(pointer_rank));
        let publication = Publication {
            version: publication::VERSION,
            serial: self.serial,
            sealed: self.note.at,
            purpose: self.note.purpose.clone(),
            entries: by_content.into_values().chain(pointers).collect(),
        };
        atomic::write_json(&self.folder.join("publication.json"), &publication)?;
        Ok(publication)
    }

    fn publication(&self) -> Result<Option<Publication>, RepositoryError> {
        Ok(atomic::read_json(&self.folder.join("publication.json"), publication::VERSION)?)
    }

    /// The publication, if it is complete and all of it is here.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn complete_before(&self) -> Result<Option<Publication>, RepositoryError> {
        Ok(self.publication()?.filter(|publication| self.is_whole(publication)))
    }

    /// Notes that the publication was verified.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn mark_checked(&self) -> Result<(), RepositoryError> {
        atomic::write(&self.folder.join(CHECKED), b"")?;
        home::step("seal.checked");
        Ok(())
    }

    /// Puts a complete publication into the home's repository and records it.
    /// Doing it again does no harm.
    ///
    /// # Errors
    /// A write-once name is taken by other content; files cannot be written.
    pub fn commit(&self, publication: &Publication) -> Result<(), RepositoryError> {
        let mut folders = BTreeSet::new();
        for (name, entry) in publication.names() {
            let target = self.repository.join(name.as_str());
            folders.extend(target.parent().map(Path::to_owned));
            let content = self.content(entry.sha256);
            if !content.exists() && self.is_placed(name, entry) {
                continue;
            }
            match entry.class {
                Class::WriteOnce => atomic::link(&content, &target)?,
                Class::Pointer => {
                    atomic::write(&target, &atomic::read(&content)?)?;
                }
            }
        }
        for folder in folders {
            atomic::sync_folder(&folder).map_err(|error| RepositoryError::io(&folder, error))?;
        }
        home::step("seal.linked");
        atomic::write_json(&self.record, publication)?;
        home::step("seal.recorded");
        self.clear()
    }

    /// The repository as it will be: the publication on top of what is there.
    pub fn preview(&self, publication: &Publication) -> Preview {
        Preview {
            below: Folder::new(&self.repository),
            content: self.folder.join("content"),
            names: publication.names().map(|(name, entry)| (name.to_string(), entry.sha256)).collect(),
        }
    }
}

/// The product and the number of a product's role, if this is where one is.
fn number_of(path: &RepoPath) -> Option<(Product, u64)> {
    let (number, role) = path.as_str().strip_prefix("metadata/")?.strip_suffix(".json")?.split_once('.')?;
    Some((role.parse().ok()?, number.parse().ok()?))
}

/// Sorts pointers: numbered metadata, then what shows it, and what apt reads first after
/// the indices that it names; a new root as late as it may be, since it takes trust from
/// what is shown; `timestamp.json` last.
fn pointer_rank(path: &RepoPath) -> (u8, String) {
    let rank = match path.as_str() {
        TIMESTAMP => 6,
        other if other.ends_with(".root.json") => 5,
        other if other.ends_with("/InRelease") => 4,
        other if other.starts_with(APT) && other.contains("/Release") => 3,
        "index.html" => 2,
        other if other.starts_with("metadata/") => 0,
        _ => 1,
    };
    (rank, path.to_string())
}

/// A repository with a publication on top that is not recorded yet.
#[derive(Debug)]
pub struct Preview {
    below: Folder,
    content: PathBuf,
    names: BTreeMap<String, Sha256>,
}

impl Files for Preview {
    fn open(&self, path: &str) -> Result<Option<Opened>, TransportError> {
        match self.names.get(path) {
            Some(sha256) => Folder::new(&self.content).open(&sha256.to_string()),
            None => self.below.open(path),
        }
    }

    fn place(&self) -> String {
        self.below.place()
    }
}
