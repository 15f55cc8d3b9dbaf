//! Publications → mirrors.
//!
//! Two phases over all mirrors at once: first content, under names that are never
//! used again, read back; then, only where that held and a quorum is met, the
//! pointers, `timestamp.json` last. A mirror that was down keeps its old, whole state
//! and is caught up. Publishing is a pure function of publications: nothing is decided
//! here.

mod audit;
mod error;
mod facts;
mod folder;
mod pace;
mod prepared;
mod sftp;
mod supply;
mod survey;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use crate::home::Base;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::manifest::Class;
use crate::manifest::Entry;
use crate::manifest::MirrorName;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::publication::TIMESTAMP;
use crate::policy::MirrorEntry;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Progress;
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
pub use sftp::DeployKeys;
pub use sftp::check;
pub use sftp::make_deploy_key_files;
pub use sftp::public_deploy_keys;
pub use supply::Content;
pub use supply::Supply;
pub use supply::find;
pub use supply::load;
pub use supply::lost;
pub use supply::newest;
pub use supply::serials;
pub use survey::Shown;
pub use survey::Survey;
pub use survey::held_by_couriers;
pub use survey::note_receipt;
pub use survey::refuse_old_home;
pub use survey::shown;
pub use survey::survey;

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
    pub fn load(base: &Base, name: &MirrorName) -> Result<Self, HomeError> {
        let state = atomic::read_json(&base.mirror(name), VERSION)?;
        Ok(state.unwrap_or(Self { version: VERSION, serial: 0, at: None, error: None }))
    }

    /// What a receipt says: the newest publication that a mirror holds whole, and why
    /// the last push failed.
    pub fn of_receipt(serial: u64, at: Timestamp, error: Option<String>) -> Self {
        Self { version: VERSION, serial, at: Some(at), error }
    }

    fn save(&self, base: &Base, name: &MirrorName) -> Result<(), HomeError> {
        atomic::write_json(&base.mirror(name), self)
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
    /// Makes ready what a login needs of a person.
    ///
    /// # Errors
    /// There would be no login.
    fn unlock(&self) -> Result<(), PublishError>;

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

/// A mirror as its readers see it, and what this home has noted about it.
struct Served<'h> {
    name: &'h MirrorName,
    entry: &'h MirrorEntry,
    state: MirrorState,
    files: Arc<dyn Files>,
}

/// A mirror that is at work.
struct Target<'h> {
    served: Served<'h>,
    mirror: Box<dyn Mirror + 'h>,
}

/// All mirrors of this machine.
fn all_served(base: &Base) -> Result<Vec<Served<'_>>, HomeError> {
    let look = |(name, entry)| {
        Ok(Served { name, entry, state: MirrorState::load(base, name)?, files: files(base, name, entry) })
    };
    base.terminal.mirrors.iter().map(look).collect()
}

impl Served<'_> {
    /// Only a courier reaches it: what it serves is what his last receipt has.
    fn by_courier(&self) -> bool {
        matches!(self.entry, MirrorEntry::Courier)
    }
}

impl<'h> Target<'h> {
    /// `None` where only a courier reaches the mirror.
    fn new(keys: &'h DeployKeys<'h>, supply: &'h dyn Supply, served: Served<'h>) -> Option<Self> {
        let mirror: Box<dyn Mirror + 'h> = match served.entry {
            MirrorEntry::Folder(path) => Box::new(folder::Mirror::new(keys.base().resolve(path), supply)),
            MirrorEntry::Sftp(entry) => Box::new(sftp::Mirror::new(keys, supply, entry, Arc::clone(&served.files))),
            MirrorEntry::Courier => return None,
        };
        Some(Self { served, mirror })
    }
}

/// A mirror as its readers see it; one that only a courier reaches, as his last
/// receipt has it.
pub fn files(base: &Base, name: &MirrorName, entry: &MirrorEntry) -> Arc<dyn Files> {
    match entry {
        MirrorEntry::Folder(path) => Arc::new(Folder::new(base.resolve(path))),
        MirrorEntry::Sftp(entry) => Arc::new(Url::pinned(&entry.url, &entry.addresses, pace::of_reader())),
        MirrorEntry::Courier => Arc::new(Folder::new(base.receipt(name))),
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

/// Random bytes, which nobody knows before.
fn random<const N: usize>() -> Result<[u8; N], PublishError> {
    let mut random = [0; N];
    getrandom::fill(&mut random)
        .map_err(|error| PublishError::io(Path::new("/dev/urandom"), std::io::Error::other(error)))?;
    Ok(random)
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

/// Pushes everything that mirrors lack, to all at once. One that fails does not
/// keep the others from theirs, unless too few are left. `root` is the newest
/// root: whose timestamps count. PINs are asked for before anything is sent, and
/// only where something is to be sent.
///
/// # Errors
/// Only what concerns the home; failures of mirrors are in their outcomes.
pub fn push(home: &Home, root: &[u8], now: Timestamp, keys: &DeployKeys<'_>) -> Result<Vec<Outcome>, HomeError> {
    push_from(keys, home, Ours::load(home, root)?, false, now)
}

/// The same, of what a medium carries, whose newest timestamp is `timestamp` and has
/// the number `newest`. With `everything`, each file is looked at that mirrors should
/// have.
///
/// # Errors
/// Only what concerns the folder of the courier.
pub fn push_carried(
    supply: &dyn Supply,
    (newest, timestamp): (u64, Vec<u8>),
    everything: bool,
    root: &[u8],
    now: Timestamp,
    keys: &DeployKeys<'_>,
) -> Result<Vec<Outcome>, HomeError> {
    push_from(keys, supply, Ours { newest, timestamp, root }, everything, now)
}

fn push_from(
    keys: &DeployKeys<'_>,
    supply: &dyn Supply,
    ours: Ours<'_>,
    everything: bool,
    now: Timestamp,
) -> Result<Vec<Outcome>, HomeError> {
    let (base, progress) = (keys.base(), keys.progress());
    let targets: Vec<_> =
        all_served(base)?.into_iter().filter_map(|served| Target::new(keys, supply, served)).collect();
    let quorum = base.terminal.publish.quorum(targets.len());
    Push { base, supply, ours, now, progress, quorum, everything }.run(targets)
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
    keys: &DeployKeys<'_>,
) -> Result<Vec<Outcome>, HomeError> {
    let ours = Ours::load(home, root)?;
    let push = Push { base: home, supply: home, ours, now, progress: keys.progress(), quorum: 1, everything: true };
    let meant = all_served(home)?.into_iter().filter(|served| served.name == mirror);
    push.run(meant.filter_map(|served| Target::new(keys, home, served)).collect())
}

/// A push to several mirrors.
struct Push<'p> {
    base: &'p Base,
    supply: &'p dyn Supply,
    ours: Ours<'p>,
    now: Timestamp,
    progress: &'p dyn Progress,
    /// How many mirrors must hold all content before any shows it.
    quorum: usize,
    /// Nothing that mirrors should have is taken for granted.
    everything: bool,
}

/// What a mirror lacks.
struct Lacks {
    work: Work,
    /// Readers see the newest state already.
    is_shown: bool,
}

/// What phase one found.
struct Ready {
    lacks: Lacks,
    /// The names that were new.
    count: usize,
}

impl Push<'_> {
    fn run(&self, targets: Vec<Target<'_>>) -> Result<Vec<Outcome>, HomeError> {
        crate::home::step("publish.begun");
        let lacks = at_once(&targets, |target| self.look(target));
        // One after the other, and before there are bars: whoever gives a PIN is asked.
        let lacks: Vec<Result<Lacks, PublishError>> = targets.iter().zip(lacks).map(unlock).collect();
        let first = at_once(targets.iter().zip(lacks), |(target, lacks): (_, Result<Lacks, PublishError>)| {
            self.phase_one(target, lacks?)
        });
        let passed: Vec<bool> = first.iter().map(Result::is_ok).collect();
        let ready = passed.iter().filter(|passed| **passed).count();
        let second = at_once(targets.iter().zip(first), |(target, first): (_, Result<Ready, PublishError>)| {
            let first = first?;
            if ready < self.quorum && !first.lacks.is_shown {
                return Err(PublishError::NoQuorum { ready, needed: self.quorum, of: targets.len() });
            }
            self.phase_two(target, &first)
        });
        let mut outcomes = Vec::new();
        for ((target, passed), result) in targets.into_iter().zip(passed).zip(second) {
            self.record(&target.served, passed, &result)?;
            outcomes.push(Outcome { mirror: target.served.name.clone(), result });
        }
        Ok(outcomes)
    }

    fn look(&self, target: &Target<'_>) -> Result<Lacks, PublishError> {
        let held = self.ours.held_by(&target.served)?;
        let work = work(self.supply, if self.everything { 0 } else { held }, self.ours.newest)?;
        Ok(Lacks { work, is_shown: held == self.ours.newest })
    }

    fn phase_one(&self, target: &Target<'_>, lacks: Lacks) -> Result<Ready, PublishError> {
        let total = lacks.work.new.content.iter().map(|entry| entry.length).sum();
        let mirror = target.served.name.as_str();
        self.progress.event(Event::Push { mirror, total });
        let advanced = |bytes| self.progress.event(Event::Pushed { mirror, bytes });
        let count = target.mirror.push_content(&lacks.work, &advanced)?;
        Ok(Ready { lacks, count })
    }

    fn phase_two(&self, target: &Target<'_>, first: &Ready) -> Result<usize, PublishError> {
        // Somebody may have published while content was on its way.
        self.ours.held_by(&target.served)?;
        if let Some(junk) = tuf::served::junk_root(target.served.files.as_ref(), self.ours.root)? {
            target.mirror.set_aside(&junk)?;
        }
        Ok(first.count + target.mirror.push_pointers(&first.lacks.work)?)
    }

    fn record(&self, target: &Served<'_>, passed: bool, result: &Result<usize, PublishError>) -> Result<(), HomeError> {
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
        state.save(self.base, target.name)?;
        if let Ok(files) = result {
            crate::home::step("publish.recorded");
            let evidence = Evidence::Published { mirror: target.name.as_str(), serial, files: *files };
            self.progress.event(Event::Done { stage: Stage::Publish, evidence });
        }
        Ok(())
    }
}

/// Has a person give what a login needs, where there is something to send.
fn unlock((target, lacks): (&Target<'_>, Result<Lacks, PublishError>)) -> Result<Lacks, PublishError> {
    let lacks = lacks?;
    let new = &lacks.work.new;
    if !new.content.is_empty() || !new.pointers.is_empty() {
        target.mirror.unlock()?;
    }
    Ok(lacks)
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

    /// The newest publication that a mirror still holds whole; `known` is what was
    /// noted.
    ///
    /// A higher number, or another content under ours, was written by somebody
    /// who has the online key. Junk that it did not sign, such as a thief of a
    /// deploy key leaves, is replaced: nothing of that mirror is taken for
    /// granted then.
    fn held_by(&self, target: &Served<'_>) -> Result<u64, PublishError> {
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
fn work(supply: &dyn Supply, held: u64, newest: u64) -> Result<Work, HomeError> {
    let mut work = Work { known: Holding::default(), new: Holding::default() };
    let mut pointers: BTreeMap<RepoPath, (usize, bool, Entry)> = BTreeMap::new();
    let mut order = 0;
    for serial in supply.serials()?.into_iter().filter(|serial| *serial <= newest) {
        let is_new = serial > held;
        for entry in supply.load(serial)?.entries {
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
