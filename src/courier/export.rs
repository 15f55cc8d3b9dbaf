//! Writes publications to a medium, for a courier.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::path::Path;

use super::CourierError;
use super::EXPORT;
use super::Export;
use super::MAX_EXPORT;
use super::MAX_NAMES;
use super::MAX_PUBLICATIONS;
use super::MAX_RECORDS;
use super::MAX_TOTAL;
use super::PUBLICATION;
use super::RECEIPT;
use super::Record;
use super::VERSION;
use crate::home;
use crate::home::Home;
use crate::home::HomeError;
use crate::manifest::Publication;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::json;
use crate::manifest::names::printable;
use crate::manifest::publication::TIMESTAMP;
use crate::progress::Event;
use crate::progress::Progress;
use crate::progress::Stage;
use crate::publish;
use crate::repository::RepositoryError;
use crate::repository::State;
use crate::repository::layout;
use crate::transport::Found;
use crate::transport::Medium;
use crate::transport::TransportError;
use crate::transport::UNFINISHED;

/// What a file system takes for names and rounding, in bytes for each file.
const PER_FILE: u64 = 4096;

/// What was written.
#[derive(Debug)]
pub struct Exported {
    /// The newest publication.
    pub serial: u64,
    /// The publication that all mirrors of couriers hold, as receipts say.
    pub after: u64,
    /// How many contents are carried.
    pub files: usize,
    /// Their length together, in bytes.
    pub bytes: u64,
    /// The digest of all of it, which the courier is shown as well.
    pub digest: Sha256,
}

/// Writes what the mirrors lack that only a courier reaches, or everything. The
/// caller holds the lock. Done again after it was interrupted, it goes on.
///
/// # Errors
/// The medium is too small or has something else in it: it is as it was. Files cannot
/// be read or written: without [`EXPORT`], which is written last, no courier takes it.
pub fn export(
    home: &Home,
    state: &State,
    place: &Path,
    everything: bool,
    progress: &dyn Progress,
) -> Result<Exported, CourierError> {
    let held = publish::held_by_couriers(home, state.newest_root()?)?;
    let after = if everything { 0 } else { held };
    let serial = publish::newest(home)?;
    let mut records = BTreeMap::new();
    // What a pointer showed before is nowhere any more.
    let mut newest: BTreeMap<RepoPath, (u64, Sha256, u64)> = BTreeMap::new();
    for number in publish::serials(home)?.into_iter().filter(|number| *number <= serial) {
        let publication = publish::load(home, number)?;
        for (name, entry) in publication.names() {
            newest.insert(name.clone(), (number, entry.sha256, entry.length));
        }
        records.insert(number, in_file(&publication)?);
    }
    let needed = current(state)?;
    let content: Contents = newest
        .into_iter()
        .filter(|(name, (number, ..))| *number > after || needed.contains(name))
        .map(|(name, (_, sha256, length))| (sha256, (name, length)))
        .collect();
    let publications: Vec<Record> =
        records.iter().map(|(serial, bytes)| Record { serial: *serial, sha256: Sha256::of(bytes) }).collect();
    let export = Export { version: VERSION, serial, after, publications };
    let export = export.to_vec().map_err(RepositoryError::Json)?;
    check_bounds(&records, &content, &export)?;
    let writer = Writer { home, medium: make(place)?, place, progress };
    writer.clear(&records, &content)?;
    writer.write_all(&records, &content, &export)?;
    let bytes = content.values().map(|(_, length)| length).sum();
    Ok(Exported { serial, after, files: content.len(), bytes, digest: Sha256::of(&export) })
}

/// Opens the folder of the medium, which is made. That above it is not: where nothing is
/// mounted, this machine's own disk would be written to.
fn make(place: &Path) -> Result<Medium, CourierError> {
    Medium::make(place).map_err(|error| match error {
        TransportError::Read { source, .. } => CourierError::Write { path: place.to_owned(), source },
        other => other.into(),
    })
}

/// The metadata that is needed to verify the newest state.
fn current(state: &State) -> Result<BTreeSet<RepoPath>, CourierError> {
    let mut names = vec![TIMESTAMP.parse()];
    names.extend((1..=state.roots.len() as u64).map(|number| layout::metadata(number, "root")));
    names.push(layout::metadata(state.targets.0, "targets"));
    names.push(layout::metadata(state.snapshot.0, "snapshot"));
    names.extend(state.roles.iter().map(|(product, (number, _))| layout::metadata(*number, product.as_str())));
    let damaged = |error: crate::manifest::names::NameError| RepositoryError::Damaged {
        file: "metadata".to_owned(),
        reason: error.to_string(),
    };
    names.into_iter().map(|name| name.map_err(|error| damaged(error).into())).collect()
}

/// A publication as its file has it.
fn in_file(publication: &Publication) -> Result<Vec<u8>, CourierError> {
    let mut bytes = json::to_vec(publication).map_err(RepositoryError::Json)?;
    bytes.push(b'\n');
    Ok(bytes)
}

type Records = BTreeMap<u64, Vec<u8>>;
type Contents = BTreeMap<Sha256, (RepoPath, u64)>;

/// What a courier would refuse is not written.
fn check_bounds(records: &Records, content: &Contents, export: &[u8]) -> Result<(), CourierError> {
    let too_much = |what| Err(CourierError::TooMuch(what));
    let total = |lengths: &mut dyn Iterator<Item = u64>| lengths.fold(0, u64::saturating_add);
    if records.len() > MAX_PUBLICATIONS || export.len() as u64 > MAX_EXPORT {
        return too_much("there are too many publications");
    }
    if total(&mut records.values().map(|bytes| bytes.len() as u64)) > MAX_RECORDS {
        return too_much("the publications have too many names");
    }
    if content.len() + records.len() + 16 > MAX_NAMES {
        return too_much("there are too many files");
    }
    if total(&mut content.values().map(|(_, length)| *length)) > MAX_TOTAL {
        return too_much("the files are too large together");
    }
    Ok(())
}

struct Writer<'a> {
    home: &'a Home,
    medium: Medium,
    place: &'a Path,
    progress: &'a dyn Progress,
}

impl Writer<'_> {
    /// Demands that nothing else is there and that all will fit; then takes away
    /// what was exported before and is not carried now.
    fn clear(&self, records: &Records, content: &Contents) -> Result<(), CourierError> {
        let place = || self.place.display().to_string();
        let mut needed = records.values().map(|bytes| bytes.len() as u64 + PER_FILE).sum::<u64>() + MAX_EXPORT;
        let mut missing: BTreeMap<String, u64> =
            content.iter().map(|(sha256, (_, length))| (sha256.to_string(), *length)).collect();
        let mut old = Vec::new();
        for name in self.medium.names(MAX_NAMES)? {
            let shown = name.to_string_lossy();
            let number = shown.strip_suffix(PUBLICATION).and_then(|number| number.parse::<u64>().ok());
            let is_ours = shown == EXPORT
                || shown == RECEIPT
                || number.is_some()
                || shown.parse::<Sha256>().is_ok()
                || shown.starts_with(UNFINISHED);
            if self.medium.has_folder(&name) && !is_ours {
                continue;
            }
            if !is_ours {
                return Err(CourierError::Taken { place: place(), name: printable(&shown) });
            }
            if missing.remove(shown.as_ref()).is_none() && !number.is_some_and(|number| records.contains_key(&number)) {
                old.push(name);
            }
        }
        needed = missing.values().fold(needed, |sum, length| sum.saturating_add(*length).saturating_add(PER_FILE));
        let free = self.medium.free_space().map_err(|source| self.failed("", source))?;
        if free < needed {
            return Err(CourierError::NoSpace { place: place(), free, needed });
        }
        // Without this one no courier takes the rest.
        old.sort_by_key(|name| name.as_os_str() != EXPORT);
        for name in old {
            let shown = name.to_string_lossy();
            self.medium.remove(&name).map_err(|source| self.failed(&shown, source))?;
        }
        Ok(())
    }

    fn write_all(&self, records: &Records, content: &Contents, export: &[u8]) -> Result<(), CourierError> {
        home::step("export.begun");
        self.progress.event(Event::Begin { stage: Stage::Export, what: &self.place.display().to_string() });
        self.progress.event(Event::Length(content.values().map(|(_, length)| length).sum()));
        for (sha256, (name, length)) in content {
            if self.has(*sha256, *length) {
                self.progress.event(Event::Advance(*length));
            } else {
                self.copy(*sha256, name, *length)?;
            }
            home::step("export.content");
        }
        for (serial, bytes) in records {
            self.write(&format!("{serial}{PUBLICATION}"), bytes)?;
        }
        self.medium.sync().map_err(|source| self.failed("", source))?;
        self.write(EXPORT, export)?;
        self.medium.sync().map_err(|source| self.failed(EXPORT, source))?;
        home::step("export.done");
        Ok(())
    }

    /// Whether a content is there already, whole.
    fn has(&self, sha256: Sha256, length: u64) -> bool {
        let Ok(Found::File(file, found)) = self.medium.find(&sha256.to_string()) else {
            return false;
        };
        found == length
            && Sha256::of_reader(file.take(length.saturating_add(1)), &mut |_| {})
                .is_ok_and(|(digest, _)| digest == sha256)
    }

    fn copy(&self, sha256: Sha256, name: &RepoPath, length: u64) -> Result<(), CourierError> {
        let from = self.home.repository().join(name.as_str());
        let mut source = File::open(&from).map_err(|error| HomeError::io(&from, error))?;
        let mut problem = None;
        let written = self.medium.write(&sha256.to_string(), |file| {
            let tee = Tee { from: (&mut source).take(length.saturating_add(1)), to: file };
            let copied = Sha256::of_reader(tee, &mut |count| self.progress.event(Event::Advance(count)))?;
            if copied != (sha256, length) {
                problem = Some("it is not what was published");
                return Err(io::ErrorKind::InvalidData.into());
            }
            Ok(())
        });
        match (written, problem) {
            (_, Some(reason)) => Err(HomeError::Damaged { path: from, reason: reason.to_owned() }.into()),
            (Err(source), None) => Err(self.failed(&sha256.to_string(), source)),
            (Ok(()), None) => Ok(()),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CourierError> {
        self.medium.write(name, |file| file.write_all(bytes)).map_err(|source| self.failed(name, source))
    }

    fn failed(&self, name: &str, source: io::Error) -> CourierError {
        CourierError::Write { path: self.medium.path(name), source }
    }
}

/// Writes what is read.
struct Tee<'a, R> {
    from: R,
    to: &'a mut File,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.to.write_all(&buffer[..count])?;
        Ok(count)
    }
}
