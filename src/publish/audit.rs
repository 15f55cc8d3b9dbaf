//! Whether a mirror has what was published, all of it and nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;

use jiff::Timestamp;

use super::Compared;
use super::DeployKeys;
use super::Ours;
use super::PublishError;
use super::Served;
use super::Target;
use super::all_served;
use super::facts;
use super::pace::READERS;
use super::random;
use super::served;
use crate::home::Home;
use crate::manifest::Class;
use crate::manifest::Entry;
use crate::manifest::MirrorName;
use crate::manifest::Sha256;
use crate::manifest::names::printable;
use crate::parallel;
use crate::progress::Event;
use crate::progress::Progress;
use crate::progress::Stage;
use crate::transport::TransportError;
use crate::tuf;

/// So many files more than were published are still listed.
const SURPLUS: usize = 10_000;

/// A file on a mirror, as its own file system has it.
#[derive(Debug)]
pub(super) struct Listed {
    /// Its path below what is served. Foreign text.
    pub path: String,
    /// Its type and permissions.
    pub mode: u32,
}

/// Something that is not as it was published.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Readers get other bytes.
    Changed {
        /// The file.
        path: String,
        /// What they get.
        found: Sha256,
        /// What was published.
        expected: Sha256,
    },
    /// Readers get nothing, or an error.
    Missing {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// Nobody has published it.
    Unexpected {
        /// The file. Foreign text, printable.
        path: String,
    },
    /// It can be changed there, or is no plain file.
    Mode {
        /// The file.
        path: String,
        /// Its type and permissions.
        mode: u32,
    },
    /// The mirror says about itself what it did not say when that was recorded.
    Appeared {
        /// What it says. Foreign text, printable.
        fact: String,
    },
    /// The mirror does not say any more what was recorded.
    Vanished {
        /// What it said.
        fact: String,
    },
    /// The mirror does not say what it is like.
    Silent {
        /// What is wrong.
        reason: String,
    },
    /// This home's record of what it should say is not the one that was accepted.
    Record,
}

impl Finding {
    /// One word for what was found.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Changed { .. } => "changed",
            Self::Missing { .. } => "missing",
            Self::Unexpected { .. } => "unexpected",
            Self::Mode { .. } => "mode",
            Self::Appeared { .. } => "appeared",
            Self::Vanished { .. } => "vanished",
            Self::Silent { .. } => "silent",
            Self::Record => "record",
        }
    }

    /// The file; `None` for what the mirror says about itself.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Changed { path, .. }
            | Self::Missing { path, .. }
            | Self::Unexpected { path }
            | Self::Mode { path, .. } => Some(path),
            Self::Appeared { .. } | Self::Vanished { .. } | Self::Silent { .. } | Self::Record => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { path, found, expected } => {
                write!(f, "{path}: readers get sha256 {found}, not {expected}")
            }
            Self::Missing { path, reason } => write!(f, "{path}: {reason}"),
            Self::Unexpected { path } => write!(f, "{path}: nobody has published it"),
            Self::Mode { path, mode } => write!(f, "{path}: its mode there is {mode:o}"),
            Self::Appeared { fact } | Self::Vanished { fact } => f.write_str(fact),
            Self::Silent { reason } => f.write_str(reason),
            Self::Record => {
                f.write_str("what this home has recorded of the mirror is not what its journal says was accepted")
            }
        }
    }
}

/// What was looked at, and what was found.
#[derive(Debug)]
pub struct Audit {
    /// The publication that the mirror serves.
    pub serial: u64,
    /// How many names it should have; all of them were looked for.
    pub files: usize,
    /// How many of them were read.
    pub read: usize,
    /// What of the mirror itself was compared.
    pub facts: Compared,
    /// What is not as it was published, sorted.
    pub findings: Vec<Finding>,
}

/// Compares all that a mirror serves, all that it has on its disk, and what it says
/// about itself, with what was published up to the publication that it serves and
/// with what was recorded of it. With `sample`, only so many files are read, chosen
/// at random. A mirror whose root is not honest can lie about its disk and itself,
/// and give others other bytes than us.
///
/// # Errors
/// The mirror cannot be read, or is ahead of this home.
pub fn audit(
    home: &Home,
    mirror: &MirrorName,
    root: &[u8],
    sample: Option<usize>,
    now: Timestamp,
    keys: &DeployKeys<'_>,
) -> Result<Option<Audit>, PublishError> {
    let ours = Ours::load(home, root)?;
    let all = all_served(home)?;
    let Some(served) = all.into_iter().find(|served| served.name == mirror) else {
        return Ok(None);
    };
    ours.held_by(&served)?;
    let Some(target) = Target::new(keys, home, served) else {
        return Ok(None);
    };
    // Whoever must look for a token has waited for nothing yet.
    target.mirror.unlock()?;
    let theirs = tuf::served::newest(target.served.files.as_ref(), root)?;
    let serial = theirs.map_or(ours.newest, |theirs| theirs.serial);
    let work = super::work(home, 0, serial)?;
    let mut expected: BTreeMap<&str, &Entry> = BTreeMap::new();
    for entry in &work.new.content {
        expected.extend(entry.names.iter().map(|name| (name.as_str(), entry)));
    }
    expected.extend(work.new.pointers.iter().map(|(name, entry)| (name.as_str(), entry)));
    let mut to_read: Vec<(&str, &Entry)> = expected.iter().map(|(name, entry)| (*name, *entry)).collect();
    if let Some(count) = sample {
        choose(&mut to_read, count)?;
    }
    let mut findings = as_served(&target.served, &to_read, keys.progress())?;
    let mut missing = expected.clone();
    // What a thief has put there must not hide what else was found.
    let unlisted = |error| Finding::Silent { reason: format!("not all of its disk was looked at: {error}") };
    let listed = match target.mirror.list(expected.len() * 2 + SURPLUS) {
        Err(error @ (PublishError::Protocol { .. } | PublishError::Refused { .. })) => {
            missing.clear();
            findings.push(unlisted(error));
            Vec::new()
        }
        listed => listed?,
    };
    for Listed { path, mode } in listed {
        missing.remove(path.as_str());
        match expected.get(path.as_str()) {
            None => findings.push(Finding::Unexpected { path: printable(&path) }),
            Some(entry) if !is_safe(entry.class, mode) => findings.push(Finding::Mode { path, mode }),
            Some(_) => {}
        }
    }
    // Those that were read are missed already.
    for path in missing.into_keys().filter(|path| to_read.iter().all(|(read, _)| read != path)) {
        findings.push(Finding::Missing { path: path.to_owned(), reason: "it is not on its disk".to_owned() });
    }
    let (facts, about_itself) = match target.mirror.facts() {
        Err(error @ (PublishError::Protocol { .. } | PublishError::Refused { .. })) => {
            (Compared::All, vec![Finding::Silent { reason: format!("what it says of itself cannot be read: {error}") }])
        }
        said => facts::compare(home, mirror, said?.as_deref(), now)?,
    };
    findings.extend(about_itself);
    findings.sort();
    Ok(Some(Audit { serial, files: expected.len(), read: to_read.len(), facts, findings }))
}

/// Leaves so many, chosen at random: whoever changes a file cannot know which.
fn choose<T>(all: &mut Vec<T>, count: usize) -> Result<(), PublishError> {
    let count = count.min(all.len());
    for place in 0..count {
        let left = (all.len() - place) as u64;
        // So few of so many numbers are more likely than others that it is no matter.
        let chosen = place + usize::try_from(u64::from_le_bytes(random()?) % left).unwrap_or(0);
        all.swap(place, chosen);
    }
    all.truncate(count);
    Ok(())
}

/// Whether nobody but its owner can change a pointer, and nobody at all a file
/// that is published for ever.
fn is_safe(class: Class, mode: u32) -> bool {
    match class {
        Class::WriteOnce => mode == 0o100_444,
        Class::Pointer => mode & !0o644 == 0o100_000,
    }
}

/// What readers get.
fn as_served(
    target: &Served<'_>,
    files: &[(&str, &Entry)],
    progress: &dyn Progress,
) -> Result<Vec<Finding>, PublishError> {
    progress.event(Event::Begin { stage: Stage::Verify, what: target.name.as_str() });
    progress.event(Event::Length(files.iter().map(|(_, entry)| entry.length).sum()));
    let findings = Mutex::new(Vec::new());
    parallel::in_threads(READERS, files, |(name, entry)| {
        let path = (*name).to_owned();
        let finding = match served(target.files.as_ref(), name, entry.length) {
            Ok(Some(found)) if found == entry.sha256 => None,
            Ok(Some(found)) => Some(Finding::Changed { path, found, expected: entry.sha256 }),
            Ok(None) => Some(Finding::Missing { path, reason: "readers get nothing".to_owned() }),
            Err(TransportError::Status { status, .. }) => {
                Some(Finding::Missing { path, reason: format!("readers get status {status}") })
            }
            Err(TransportError::NotAFile { .. }) => {
                Some(Finding::Missing { path, reason: "it is not a plain file".to_owned() })
            }
            Err(error) => return Err(PublishError::from(error)),
        };
        progress.event(Event::Advance(entry.length));
        findings.lock().unwrap_or_else(PoisonError::into_inner).extend(finding);
        Ok(())
    })?;
    Ok(findings.into_inner().unwrap_or_else(PoisonError::into_inner))
}
