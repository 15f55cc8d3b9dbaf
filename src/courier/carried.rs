//! What a medium carries, as the courier reads it: nothing is followed or entered,
//! and each bound is checked before the next file is read.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;

use super::CourierError;
use super::EXPORT;
use super::Export;
use super::MAX_EXPORT;
use super::MAX_NAMES;
use super::MAX_RECORDS;
use super::MAX_TOTAL;
use super::RECEIPT;
use crate::home::HomeError;
use crate::manifest::Class;
use crate::manifest::Entry;
use crate::manifest::Publication;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::json;
use crate::manifest::names::printable;
use crate::manifest::publication;
use crate::manifest::publication::TIMESTAMP;
use crate::progress::Event;
use crate::progress::Progress;
use crate::progress::Stage;
use crate::publish::Content;
use crate::publish::PublishError;
use crate::publish::Supply;
use crate::repository::layout;
use crate::transport::Files;
use crate::transport::Found;
use crate::transport::Medium;
use crate::transport::Opened;
use crate::transport::TransportError;
use crate::transport::UNFINISHED;

/// A medium that was opened: what it says is in order, and all that it should carry
/// has a file. What is in these files is checked by [`Self::check_content`].
#[derive(Debug)]
pub struct Carried {
    pub(super) medium: Medium,
    place: String,
    /// What it says of itself.
    pub export: Export,
    /// The digest of that.
    pub digest: Sha256,
    pub(super) publications: BTreeMap<u64, Publication>,
    /// The newest content of each name, and the publication that it came with.
    names: BTreeMap<RepoPath, (u64, Sha256)>,
    /// The length of each content that is there.
    present: BTreeMap<Sha256, u64>,
}

impl Carried {
    /// Opens the folder of a medium.
    ///
    /// # Errors
    /// There is no export, it is not in order, lacks something, or has something else
    /// beside it.
    pub fn open(place: &Path) -> Result<Self, CourierError> {
        let medium = Medium::open(place)?;
        let place = place.display().to_string();
        let refused = |reason: String| CourierError::Refused { place: place.clone(), reason };
        let listed = medium.names(MAX_NAMES)?;
        let Some(bytes) = read(&medium, EXPORT, MAX_EXPORT).map_err(&refused)? else {
            return Err(CourierError::NoExport(place));
        };
        let export = Export::parse(&bytes).map_err(|error| refused(format!("{EXPORT}: {error}")))?;
        let digest = Sha256::of(&bytes);

        let mut publications = BTreeMap::new();
        let mut left = MAX_RECORDS;
        for record in &export.publications {
            let file = record.file();
            let bytes = read(&medium, &file, left).map_err(&refused)?;
            let bytes = bytes.ok_or_else(|| refused(format!("{file} is missing")))?;
            left = left.saturating_sub(bytes.len() as u64);
            if Sha256::of(&bytes) != record.sha256 {
                return Err(refused(format!("{file} is not the one that was exported")));
            }
            let read = publication(&bytes, record.serial).map_err(|reason| refused(format!("{file}: {reason}")))?;
            publications.insert(record.serial, read);
        }

        let (mut names, mut lengths) = (BTreeMap::new(), BTreeMap::new());
        let all =
            publications.iter().flat_map(|(serial, publication)| publication.names().map(move |it| (*serial, it)));
        for (serial, (name, entry)) in all {
            names.insert(name.clone(), (serial, entry.sha256));
            if lengths.insert(entry.sha256, entry.length).is_some_and(|other| other != entry.length) {
                return Err(refused(format!("{} has two lengths", entry.sha256)));
            }
        }
        let records: BTreeSet<String> = export.publications.iter().map(super::Record::file).collect();
        let (mut present, mut total) = (BTreeMap::new(), 0_u64);
        for name in listed {
            let shown = name.to_string_lossy();
            let length = shown.parse().ok().and_then(|sha256: Sha256| Some((sha256, *lengths.get(&sha256)?)));
            if let Some((sha256, length)) = length {
                present.insert(sha256, length);
                total = total.saturating_add(length);
            } else if !(shown == EXPORT || shown == RECEIPT || records.contains(shown.as_ref()))
                && shown.strip_prefix(UNFINISHED) != Some(RECEIPT)
                // Many systems leave folders of their own.
                && !medium.has_folder(&name)
            {
                return Err(refused(format!("{} was not exported", printable(&shown))));
            }
        }
        if total > MAX_TOTAL {
            return Err(refused(format!("it has more than {MAX_TOTAL} bytes")));
        }
        let carried = Self { medium, place, export, digest, publications, names, present };
        let is_missing = |(_, (serial, sha256)): &(&RepoPath, &(u64, Sha256))| {
            *serial > carried.export.after && !carried.present.contains_key(sha256)
        };
        if let Some((name, _)) = carried.names.iter().find(is_missing) {
            return Err(carried.refused(format!("the content of {name} is missing")));
        }
        Ok(carried)
    }

    pub(super) fn refused(&self, reason: String) -> CourierError {
        CourierError::Refused { place: self.place.clone(), reason }
    }

    /// The newest content of a name; `None` if no publication has it.
    pub(super) fn content_of(&self, name: &RepoPath) -> Option<Sha256> {
        self.names.get(name).map(|(_, sha256)| *sha256)
    }

    /// Compares every content that is there with its digest.
    ///
    /// # Errors
    /// One is not what its name says.
    pub fn check_content(&self, progress: &dyn Progress) -> Result<(), CourierError> {
        progress.event(Event::Begin { stage: Stage::Verify, what: &self.place });
        progress.event(Event::Length(self.present.values().fold(0, |sum, length| sum.saturating_add(*length))));
        for (sha256, length) in &self.present {
            let wrong = |reason: String| self.refused(format!("{sha256}: {reason}"));
            let (file, found) = self.find(*sha256).map_err(|error| wrong(error.to_string()))?;
            if found != *length {
                return Err(wrong(format!("it has {found} bytes, not {length}")));
            }
            let content = file.take(length.saturating_add(1));
            match Sha256::of_reader(content, &mut |count| progress.event(Event::Advance(count))) {
                Ok((digest, read)) if (digest, read) == (*sha256, *length) => {}
                Ok(_) => return Err(wrong("it has another content".to_owned())),
                Err(error) => return Err(wrong(format!("it cannot be read: {error}"))),
            }
        }
        Ok(())
    }

    fn find(&self, sha256: Sha256) -> io::Result<(File, u64)> {
        match self.medium.find(&sha256.to_string())? {
            Found::File(file, length) => Ok((file, length)),
            Found::Folder => Err(io::Error::other("it is a folder")),
            Found::Other(reason) => Err(io::Error::other(reason)),
        }
    }

    /// Its newest `timestamp.json`.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn timestamp(&self) -> Result<Vec<u8>, CourierError> {
        let bytes = self.read(TIMESTAMP, crate::tuf::client::limits().timestamp_max_length)?;
        bytes.ok_or_else(|| self.refused(format!("the content of {TIMESTAMP} is missing")))
    }
}

/// A small file of a medium; `None` if there is none.
pub(super) fn read(medium: &Medium, name: &str, max: u64) -> Result<Option<Vec<u8>>, String> {
    let (file, length) = match medium.find(name) {
        Ok(Found::File(file, length)) => (file, length),
        Ok(Found::Folder) => return Err(format!("{name} is a folder")),
        Ok(Found::Other(reason)) => return Err(format!("{name}: {reason}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{name} cannot be read: {error}")),
    };
    let mut bytes = Vec::new();
    if length <= max {
        file.take(max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| format!("{name} cannot be read: {error}"))?;
    }
    if length > max || bytes.len() as u64 > max {
        return Err(format!("{name} is longer than {max} bytes"));
    }
    Ok(Some(bytes))
}

/// Reads a publication, whose names must be where and in the order in which a
/// terminal puts them: a wrong class would let a published file be replaced.
///
/// # Errors
/// Why it is none, in words.
pub fn publication(bytes: &[u8], serial: u64) -> Result<Publication, String> {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let value = json::from_slice_strict(line).map_err(|error| error.to_string())?;
    match value["version"].as_u64() {
        Some(version) if version == u64::from(publication::VERSION) => {}
        Some(_) => return Err("it was written by a newer release".to_owned()),
        None => return Err("it has no version".to_owned()),
    }
    let publication: Publication = json::typed(value).map_err(|error| error.to_string())?;
    if publication.serial != serial {
        return Err(format!("it is publication {}", publication.serial));
    }
    if !publication.entries.is_sorted_by_key(|entry| entry.class) {
        return Err("a pointer comes before content".to_owned());
    }
    let mut seen = BTreeSet::new();
    for entry in &publication.entries {
        if entry.names.is_empty() || (entry.class == Class::Pointer && entry.names.len() > 1) {
            return Err(format!("{} has no name, or too many", entry.sha256));
        }
        for name in &entry.names {
            if layout::class_of(name) != Some(entry.class) {
                return Err(format!("{name} has no place as {}", entry.class));
            }
            if !seen.insert(name) {
                return Err(format!("{name} comes twice"));
            }
        }
    }
    match publication.entries.last().and_then(|entry| entry.names.first()) {
        Some(name) if name.as_str() == TIMESTAMP => Ok(publication),
        _ => Err(format!("{TIMESTAMP} is not the last")),
    }
}

impl Files for Carried {
    fn open(&self, path: &str) -> Result<Option<Opened>, TransportError> {
        let found = path.parse::<RepoPath>().ok().and_then(|path| self.names.get(&path).copied());
        let Some((_, sha256)) = found.filter(|(_, sha256)| self.present.contains_key(sha256)) else {
            return Ok(None);
        };
        let place = || format!("{}/{path}", self.place);
        let found = self.find(sha256).map_err(|source| TransportError::Read { place: place(), source })?;
        Ok(Some(Opened { content: Box::new(found.0), length: Some(found.1) }))
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}

impl Supply for Carried {
    fn serials(&self) -> Result<Vec<u64>, HomeError> {
        Ok(self.publications.keys().copied().collect())
    }

    fn load(&self, serial: u64) -> Result<Publication, HomeError> {
        let missing = || HomeError::Missing(self.medium.path(&format!("{serial}{}", super::PUBLICATION)));
        self.publications.get(&serial).cloned().ok_or_else(missing)
    }

    fn open(&self, name: &RepoPath, entry: &Entry) -> Result<Content, PublishError> {
        if !self.present.contains_key(&entry.sha256) {
            return Err(PublishError::NotCarried(name.clone()));
        }
        let path = self.medium.path(&entry.sha256.to_string());
        match self.find(entry.sha256) {
            Ok((file, _)) => Ok(Content { file, path }),
            Err(source) => Err(PublishError::Io { path, source }),
        }
    }
}
