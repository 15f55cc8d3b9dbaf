//! Publications → mirrors.
//!
//! Two phases over all mirrors: first content, under names that are never used
//! again, read back; then, only where that held, the pointers, `timestamp.json`
//! last. A mirror that was down keeps its old, whole state and is caught up.
//! Publishing is a pure function of publications: nothing is decided here.

mod folder;

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::manifest::Class;
use crate::manifest::Entry;
use crate::manifest::MirrorName;
use crate::manifest::Publication;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::publication;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Progress;
use crate::progress::Stage;
use crate::tuf;

/// The pointer that readers begin with.
const TIMESTAMP: &str = "metadata/timestamp.json";
/// The version of a mirror's state file.
const VERSION: u32 = 1;

/// What a mirror holds, as far as this terminal knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorState {
    version: u32,
    /// The newest publication that it holds whole.
    pub serial: u64,
    /// When that was found out.
    pub at: Option<Timestamp>,
    /// Why the last push failed.
    pub error: Option<String>,
}

impl MirrorState {
    /// Loads the state of a mirror; a mirror without one holds nothing.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn load(home: &Home, name: &MirrorName) -> Result<Self, HomeError> {
        let state = atomic::read_json(&home.mirror(name), VERSION)?;
        Ok(state.unwrap_or(Self { version: VERSION, serial: 0, at: None, error: None }))
    }

    fn save(&self, home: &Home, name: &MirrorName) -> Result<(), HomeError> {
        atomic::write_json(&home.mirror(name), self)
    }
}

/// A mirror that could not be brought up to date. It keeps what it has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A file of the home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A file of the mirror cannot be read or written. Trying again may help.
    #[error("cannot use {}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A name that is never used again holds other bytes. Somebody else wrote
    /// there; the mirror's operator must look at it.
    #[error("{} holds other bytes than this release (sha256 {found}, not {expected}); it was not replaced", .path.display())]
    Conflict {
        /// The file on the mirror.
        path: PathBuf,
        /// What it holds.
        found: Sha256,
        /// What it should hold.
        expected: Sha256,
    },
    /// What the mirror serves now cannot be read. Trying again may help.
    #[error(transparent)]
    Unreadable(#[from] crate::transport::TransportError),
    /// A file does not read back as it was written.
    #[error("{} does not read back as it was written", .0.display())]
    ReadBack(PathBuf),
    /// The mirror is ahead of this home.
    #[error("it serves publication {theirs}, this home has {ours}: another terminal published, or this home is old")]
    Ahead {
        /// What the mirror serves.
        theirs: u64,
        /// What this home has.
        ours: u64,
    },
    /// The mirror has the same number with another content.
    #[error("it serves another publication {0}: another terminal, or a copy of this home, signed it")]
    Forked(u64),
}

/// A home that must not sign, since the world has gone on without it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OldHome {
    /// A mirror knows more.
    #[error("this home is older than the world; nothing was built or signed: mirror `{mirror}`: {reason}")]
    Behind {
        /// The mirror.
        mirror: MirrorName,
        /// What it serves.
        reason: Box<PublishError>,
    },
    /// No mirror can say whether it knows more, and some should.
    #[error("no mirror says whether this home is the newest; nothing was built or signed: mirror `{mirror}`: {reason}")]
    Unknown {
        /// The mirror.
        mirror: MirrorName,
        /// Why it does not.
        reason: String,
    },
    /// A file of the home.
    #[error(transparent)]
    Home(#[from] HomeError),
}

impl PublishError {
    fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// How a push to one mirror ended.
#[derive(Debug)]
pub struct Outcome {
    /// The mirror.
    pub mirror: MirrorName,
    /// The number of files that were new to it, or why it failed.
    pub result: Result<usize, PublishError>,
}

/// What a mirror should hold: content, then pointers.
struct Work {
    /// Content that should be there already.
    known: Vec<Entry>,
    /// Content that may be new.
    content: Vec<Entry>,
    /// Every pointer with its newest content, in publishing order.
    pointers: Vec<(RepoPath, Entry)>,
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

/// Pushes everything that mirrors lack. One that fails does not keep the others
/// from theirs. `root` is the newest root: whose timestamps count.
///
/// # Errors
/// Only what concerns the home; failures of mirrors are in their outcomes.
pub fn push(home: &Home, root: &[u8], now: Timestamp, progress: &dyn Progress) -> Result<Vec<Outcome>, HomeError> {
    let newest = newest(home)?;
    let ours = atomic::read(&home.repository().join(TIMESTAMP))?;
    let mut phase_two = Vec::new();
    let mut outcomes = Vec::new();
    crate::home::step("publish.begun");
    for (name, entry) in &home.terminal.mirrors {
        let mirror = folder::Mirror::new(home.resolve(&entry.path), home.repository());
        let state = MirrorState::load(home, name)?;
        progress.event(Event::Begin { stage: Stage::Publish, what: name.as_str() });
        let first = held(&mirror, &ours, newest, state.serial, root)
            .and_then(|held| Ok(work(home, held, newest)?))
            .and_then(|work| mirror.push_content(&work.known, &work.content, progress).map(|count| (work, count)));
        match first {
            Ok((work, count)) => phase_two.push((name, state, mirror, work, count)),
            Err(error) => outcomes.push(failed(home, name, state, error)?),
        }
    }
    for (name, mut state, mirror, work, count) in phase_two {
        match mirror.push_pointers(&work.pointers) {
            Ok(pointers) => {
                state = MirrorState { version: VERSION, serial: newest, at: Some(now), error: None };
                state.save(home, name)?;
                crate::home::step("publish.recorded");
                let files = count + pointers;
                let evidence = Evidence::Published { mirror: name.as_str(), serial: newest, files };
                progress.event(Event::Done { stage: Stage::Publish, evidence });
                outcomes.push(Outcome { mirror: name.clone(), result: Ok(files) });
            }
            Err(error) => {
                state.serial = state.serial.min(newest.saturating_sub(1));
                outcomes.push(failed(home, name, state, error)?);
            }
        }
    }
    Ok(outcomes)
}

/// What a mirror holds now, as it serves it.
#[derive(Debug)]
pub struct Survey {
    /// The mirror.
    pub mirror: MirrorName,
    /// The newest publication that it holds whole, or why that is not known or
    /// must not be.
    pub held: Result<u64, PublishError>,
    /// What this home has noted about it.
    pub noted: MirrorState,
}

/// Looks at all mirrors. `root` is the newest root of the home.
///
/// # Errors
/// Only what concerns the home.
pub fn survey(home: &Home, root: &[u8]) -> Result<Vec<Survey>, HomeError> {
    let newest = newest(home)?;
    let ours = atomic::read(&home.repository().join(TIMESTAMP))?;
    let mut all = Vec::new();
    for (name, entry) in &home.terminal.mirrors {
        let mirror = folder::Mirror::new(home.resolve(&entry.path), home.repository());
        let noted = MirrorState::load(home, name)?;
        let held = held(&mirror, &ours, newest, noted.serial, root);
        all.push(Survey { mirror: name.clone(), held, noted });
    }
    Ok(all)
}

/// Refuses to go on where a mirror knows more than this home: it was restored
/// from a backup, or another terminal has published. To be called before
/// anything is signed. Where one mirror answers, whether others that cannot be
/// read know more stays open, with a warning. One that held a publication and
/// now holds none says nothing: its disk may not be mounted.
///
/// # Errors
/// A mirror knows more, or none of those that hold something says what; files of
/// the home cannot be read.
pub fn refuse_old_home(home: &Home, root: &[u8], progress: &dyn Progress) -> Result<(), OldHome> {
    let (mut answered, mut silent) = (false, Vec::new());
    for Survey { mirror, held, noted } in survey(home, root)? {
        match held {
            Ok(0) if noted.serial > 0 => silent.push((mirror, "what it held is not there".to_owned())),
            // A new mirror knows nothing.
            Ok(0) => {}
            Ok(_) => answered = true,
            Err(PublishError::Unreadable(error)) => {
                let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
                silent.push((mirror, format!("{error}{cause}")));
            }
            Err(reason) => return Err(OldHome::Behind { mirror, reason: Box::new(reason) }),
        }
    }
    for (mirror, reason) in silent {
        if !answered {
            return Err(OldHome::Unknown { mirror, reason });
        }
        progress.event(Event::Warning(&format!("mirror `{mirror}`: {reason}; it may know more than this home")));
    }
    Ok(())
}

/// The newest publication that a mirror still holds whole, where `known` is what
/// this home has noted.
///
/// A higher number, or another content under ours, was written by somebody who
/// has the online key. Junk that it did not sign, such as a thief of a deploy
/// key leaves, is replaced: nothing of that mirror is taken for granted then.
fn held(mirror: &folder::Mirror, ours: &[u8], newest: u64, known: u64, root: &[u8]) -> Result<u64, PublishError> {
    match tuf::served::newest(&mirror.files(), root)? {
        None => Ok(0),
        Some(theirs) if theirs.timestamp == ours => Ok(known),
        Some(theirs) if theirs.serial > newest => Err(PublishError::Ahead { theirs: theirs.serial, ours: newest }),
        Some(theirs) if theirs.serial == newest => Err(PublishError::Forked(newest)),
        Some(theirs) => Ok(theirs.serial.min(known)),
    }
}

fn failed(home: &Home, name: &MirrorName, mut state: MirrorState, error: PublishError) -> Result<Outcome, HomeError> {
    state.error = Some(error.to_string());
    state.save(home, name)?;
    Ok(Outcome { mirror: name.clone(), result: Err(error) })
}

/// Joins all publications: their content, which is new after `held`, and for
/// each pointer its newest content.
fn work(home: &Home, held: u64, newest: u64) -> Result<Work, HomeError> {
    let (mut known, mut content) = (Vec::new(), Vec::new());
    let mut pointers: BTreeMap<RepoPath, (usize, Entry)> = BTreeMap::new();
    let mut order = 0;
    for serial in serials(home)?.into_iter().filter(|serial| *serial <= newest) {
        for entry in load(home, serial)?.entries {
            match entry.class {
                Class::WriteOnce if serial > held => content.push(entry),
                Class::WriteOnce => known.push(entry),
                Class::Pointer => {
                    for name in &entry.names {
                        order += 1;
                        pointers.insert(name.clone(), (order, entry.clone()));
                    }
                }
            }
        }
    }
    let mut pointers: Vec<(RepoPath, (usize, Entry))> = pointers.into_iter().collect();
    pointers.sort_by_key(|(_, (order, _))| *order);
    Ok(Work { known, content, pointers: pointers.into_iter().map(|(name, (_, entry))| (name, entry)).collect() })
}
