//! Publications → mirrors.
//!
//! Two phases over all mirrors at once: first content, under names that are never
//! used again, read back; then, only where that held and a quorum is met, the
//! pointers, `timestamp.json` last. A mirror that was down keeps its old, whole state and is caught up.
//! Publishing is a pure function of publications: nothing is decided here.

mod audit;
mod error;
mod facts;
mod folder;
mod pace;
mod prepared;
mod sftp;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

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
use crate::policy::MirrorEntry;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Progress;
use crate::progress::Silent;
use crate::progress::Stage;
use crate::transport::Files;
use crate::transport::Folder;
use crate::transport::TransportError;
use crate::transport::Url;
use crate::tuf;

use audit::Listed;

pub use audit::Audit;
pub use audit::Finding;
pub use audit::audit;
pub use error::OldHome;
pub use error::PublishError;
pub use facts::Accepted;
pub use facts::Compared;
pub use facts::accept;
pub use prepared::Unprepared;
pub use prepared::refuse_unprepared;
pub use sftp::Account;
pub use sftp::Checked;
pub use sftp::check;
pub use sftp::deploy_keys;
pub use sftp::make_deploy_keys;

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

/// How a push to one mirror ended.
#[derive(Debug)]
pub struct Outcome {
    /// The mirror.
    pub mirror: MirrorName,
    /// The number of files that were new to it, or why it failed.
    pub result: Result<usize, PublishError>,
}

/// A place that publications go to, of whatever kind.
trait Mirror: Send + Sync {
    /// Phase one: content, under names that are never used again, read back.
    /// `advanced` is told of every piece that has arrived, in bytes. Gives the
    /// number of names that are new.
    ///
    /// # Errors
    /// Readers see what they saw before.
    fn push_content(&self, work: &Work, advanced: &(dyn Fn(u64) + Sync)) -> Result<usize, PublishError>;

    /// Phase two: the pointers that differ, in order, each read back. Gives
    /// their number.
    ///
    /// # Errors
    /// Readers see the old state or the new one.
    fn push_pointers(&self, work: &Work) -> Result<usize, PublishError>;

    /// Takes a pointer away that nobody has signed.
    ///
    /// # Errors
    /// It is still there.
    fn set_aside(&self, path: &RepoPath) -> Result<(), PublishError>;

    /// All that is there and is no folder, below what readers see; what is being
    /// pushed is left out.
    ///
    /// # Errors
    /// It cannot be listed, or is more than `max`.
    fn list(&self, max: usize) -> Result<Vec<Listed>, PublishError>;

    /// What the mirror says about itself; `None` if nothing.
    ///
    /// # Errors
    /// It cannot be asked.
    fn facts(&self) -> Result<Option<Vec<u8>>, PublishError>;
}

/// What a mirror should hold.
struct Work {
    /// What it has had before, to look after where that is cheap.
    known: Holding,
    /// What may be new to it.
    new: Holding,
}

/// Content, and pointers in publishing order.
#[derive(Default)]
struct Holding {
    content: Vec<Entry>,
    pointers: Vec<(RepoPath, Entry)>,
}

/// A mirror that is at work.
struct Target<'h> {
    name: &'h MirrorName,
    state: MirrorState,
    mirror: Box<dyn Mirror + 'h>,
    files: Arc<dyn Files>,
}

/// All mirrors of the home.
fn targets<'h>(home: &'h Home, progress: &'h dyn Progress) -> Result<Vec<Target<'h>>, HomeError> {
    let open = |(name, entry): (&'h MirrorName, &'h MirrorEntry)| {
        let files = files(home, entry);
        let mirror: Box<dyn Mirror + 'h> = match entry {
            MirrorEntry::Folder(path) => Box::new(folder::Mirror::new(home.resolve(path), home.repository())),
            MirrorEntry::Sftp(entry) => Box::new(sftp::Mirror::new(home, entry, Arc::clone(&files), progress)),
        };
        Ok(Target { name, state: MirrorState::load(home, name)?, mirror, files })
    };
    home.terminal.mirrors.iter().map(open).collect()
}

/// A mirror as its readers see it.
pub fn files(home: &Home, entry: &MirrorEntry) -> Arc<dyn Files> {
    match entry {
        MirrorEntry::Folder(path) => Arc::new(Folder::new(home.resolve(path))),
        MirrorEntry::Sftp(entry) => Arc::new(Url::pinned(&entry.url, &entry.addresses, pace::of_reader())),
    }
}

/// The digest of what readers get under a name, where `length` bytes are
/// expected; `None` if there is nothing.
fn served(files: &dyn Files, name: &str, length: u64) -> Result<Option<Sha256>, TransportError> {
    let Some(opened) = files.open(name)? else {
        return Ok(None);
    };
    // One byte more shows that it is longer.
    let content = opened.content.take(length.saturating_add(1));
    let place = || format!("{}/{name}", files.place());
    let digest = Sha256::of_reader(content, &mut |_| {});
    digest.map(|(found, _)| Some(found)).map_err(|source| TransportError::Read { place: place(), source })
}

/// Does a job for all mirrors at once.
fn at_once<I: Send, T: Send>(inputs: impl IntoIterator<Item = I>, job: impl Fn(I) -> T + Sync) -> Vec<T> {
    let job = &job;
    std::thread::scope(|scope| {
        let threads: Vec<_> = inputs.into_iter().map(|input| scope.spawn(move || job(input))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
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

/// Pushes everything that mirrors lack, to all at once. One that fails does not
/// keep the others from theirs, unless too few are left. `root` is the newest
/// root: whose timestamps count.
///
/// # Errors
/// Only what concerns the home; failures of mirrors are in their outcomes.
pub fn push(home: &Home, root: &[u8], now: Timestamp, progress: &dyn Progress) -> Result<Vec<Outcome>, HomeError> {
    let quorum = home.terminal.publish.quorum(home.terminal.mirrors.len());
    let push = Push { home, ours: Ours::load(home, root)?, now, progress, quorum, everything: false };
    push.run(targets(home, progress)?)
}

/// Brings one mirror up to date, whatever the others hold, and looks at every
/// file that it should have.
///
/// # Errors
/// As [`push`].
pub fn catch_up(
    home: &Home,
    mirror: &MirrorName,
    root: &[u8],
    now: Timestamp,
    progress: &dyn Progress,
) -> Result<Vec<Outcome>, HomeError> {
    let push = Push { home, ours: Ours::load(home, root)?, now, progress, quorum: 1, everything: true };
    push.run(targets(home, progress)?.into_iter().filter(|target| target.name == mirror).collect())
}

/// A push to several mirrors.
struct Push<'p> {
    home: &'p Home,
    ours: Ours<'p>,
    now: Timestamp,
    progress: &'p dyn Progress,
    /// How many mirrors must hold all content before any shows it.
    quorum: usize,
    /// Nothing that mirrors should have is taken for granted.
    everything: bool,
}

/// What phase one found.
struct Ready {
    work: Work,
    /// The names that were new.
    count: usize,
    /// Readers see the newest state already.
    is_shown: bool,
}

impl Push<'_> {
    fn run(&self, targets: Vec<Target<'_>>) -> Result<Vec<Outcome>, HomeError> {
        crate::home::step("publish.begun");
        let first = at_once(&targets, |target| self.phase_one(target));
        let passed: Vec<bool> = first.iter().map(Result::is_ok).collect();
        let ready = passed.iter().filter(|passed| **passed).count();
        let second = at_once(targets.iter().zip(first), |(target, first): (_, Result<Ready, PublishError>)| {
            let first = first?;
            if ready < self.quorum && !first.is_shown {
                return Err(PublishError::NoQuorum { ready, needed: self.quorum, of: targets.len() });
            }
            self.phase_two(target, &first)
        });
        let mut outcomes = Vec::new();
        for ((target, passed), result) in targets.into_iter().zip(passed).zip(second) {
            self.record(&target, passed, &result)?;
            outcomes.push(Outcome { mirror: target.name.clone(), result });
        }
        Ok(outcomes)
    }

    fn phase_one(&self, target: &Target<'_>) -> Result<Ready, PublishError> {
        let held = self.ours.held_by(target)?;
        let work = work(self.home, if self.everything { 0 } else { held }, self.ours.newest)?;
        let total = work.new.content.iter().map(|entry| entry.length).sum();
        let mirror = target.name.as_str();
        self.progress.event(Event::Push { mirror, total });
        let advanced = |bytes| self.progress.event(Event::Pushed { mirror, bytes });
        let count = target.mirror.push_content(&work, &advanced)?;
        Ok(Ready { work, count, is_shown: held == self.ours.newest })
    }

    fn phase_two(&self, target: &Target<'_>, first: &Ready) -> Result<usize, PublishError> {
        // Somebody may have published while content was on its way.
        self.ours.held_by(target)?;
        if let Some(junk) = tuf::served::junk_root(target.files.as_ref(), self.ours.root)? {
            target.mirror.set_aside(&junk)?;
        }
        Ok(first.count + target.mirror.push_pointers(&first.work)?)
    }

    fn record(&self, target: &Target<'_>, passed: bool, result: &Result<usize, PublishError>) -> Result<(), HomeError> {
        let serial = self.ours.newest;
        let state = match result {
            Ok(_) => MirrorState { version: VERSION, serial, at: Some(self.now), error: None },
            Err(error) => {
                let mut state = target.state.clone();
                // After phase one some pointers may be there, and some not.
                if passed {
                    state.serial = state.serial.min(serial.saturating_sub(1));
                }
                state.error = Some(error.to_string());
                state
            }
        };
        state.save(self.home, target.name)?;
        if let Ok(files) = result {
            crate::home::step("publish.recorded");
            let evidence = Evidence::Published { mirror: target.name.as_str(), serial, files: *files };
            self.progress.event(Event::Done { stage: Stage::Publish, evidence });
        }
        Ok(())
    }
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
    let ours = Ours::load(home, root)?;
    let targets = targets(home, &Silent)?;
    let held = at_once(&targets, |target| ours.held_by(target));
    let surveys = targets.into_iter().zip(held);
    Ok(surveys.map(|(target, held)| Survey { mirror: target.name.clone(), held, noted: target.state }).collect())
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

/// What this home has, to compare mirrors with.
struct Ours<'r> {
    newest: u64,
    timestamp: Vec<u8>,
    root: &'r [u8],
}

impl<'r> Ours<'r> {
    fn load(home: &Home, root: &'r [u8]) -> Result<Self, HomeError> {
        let timestamp = atomic::read(&home.repository().join(TIMESTAMP))?;
        Ok(Self { newest: newest(home)?, timestamp, root })
    }

    /// The newest publication that a mirror still holds whole.
    ///
    /// A higher number, or another content under ours, was written by somebody
    /// who has the online key. Junk that it did not sign, such as a thief of a
    /// deploy key leaves, is replaced: nothing of that mirror is taken for
    /// granted then.
    fn held_by(&self, target: &Target<'_>) -> Result<u64, PublishError> {
        let known = target.state.serial;
        match tuf::served::newest(target.files.as_ref(), self.root)? {
            None => Ok(0),
            Some(theirs) if theirs.timestamp == self.timestamp => Ok(known),
            Some(theirs) if theirs.serial > self.newest => {
                Err(PublishError::Ahead { theirs: theirs.serial, ours: self.newest })
            }
            Some(theirs) if theirs.serial == self.newest => Err(PublishError::Forked(self.newest)),
            Some(theirs) => Ok(theirs.serial.min(known)),
        }
    }
}

/// Joins all publications: their content and, for each pointer, its newest
/// content; both apart by whether they came after `held`.
fn work(home: &Home, held: u64, newest: u64) -> Result<Work, HomeError> {
    let mut work = Work { known: Holding::default(), new: Holding::default() };
    let mut pointers: BTreeMap<RepoPath, (usize, bool, Entry)> = BTreeMap::new();
    let mut order = 0;
    for serial in serials(home)?.into_iter().filter(|serial| *serial <= newest) {
        let is_new = serial > held;
        for entry in load(home, serial)?.entries {
            if entry.class == Class::WriteOnce {
                let holding = if is_new { &mut work.new } else { &mut work.known };
                holding.content.push(entry);
                continue;
            }
            for name in &entry.names {
                order += 1;
                pointers.insert(name.clone(), (order, is_new, entry.clone()));
            }
        }
    }
    let mut pointers: Vec<(RepoPath, (usize, bool, Entry))> = pointers.into_iter().collect();
    pointers.sort_by_key(|(_, (order, ..))| *order);
    for (name, (_, is_new, entry)) in pointers {
        let holding = if is_new { &mut work.new } else { &mut work.known };
        holding.pointers.push((name, entry));
    }
    Ok(work)
}
