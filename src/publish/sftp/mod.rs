//! A mirror that is a web server, written to over sftp.
//!
//! Two accounts of a stock OpenSSH server, each in a chroot of its own with the
//! requests that it needs (`scripts/mirror`). One adds files: they are uploaded
//! beside, read-only from the first moment, and then linked under their names,
//! which never replaces anything. The other one replaces pointers. What readers
//! see is read back over http.

mod check;
mod config;
mod deploy;
mod session;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream;

pub use self::check::Checked;
pub use self::check::check;
pub use self::check::lacks;
pub use self::deploy::DeployKeys;
pub use self::deploy::make_deploy_key_files;
pub use self::deploy::public_deploy_keys;
use self::session::Early;
use self::session::Found;
use self::session::IN_FLIGHT;
use self::session::Session;
use self::session::StageAgain;
use super::Listed;
use super::PublishError;
use super::Supply;
use super::Work;
use super::facts::MAX_FACTS;
use super::pace;
use super::pace::Pace;
use super::pace::READERS;
use crate::home;
use crate::manifest::Class;
use crate::manifest::Entry;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::publication::TIMESTAMP;
use crate::parallel;
use crate::policy::DeployKey;
use crate::policy::Place;
use crate::policy::SftpEntry;
use crate::transport::Files;

/// How often a file is uploaded again that the mirror's timer took away before
/// it had all its names.
const ATTEMPTS: usize = 3;
/// How long to wait before a pointer is read again that a cache may still hold.
const PAUSES: [u64; 4] = [0, 1, 2, 4];

/// The accounts of a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// Adds files.
    Pool,
    /// Replaces pointers.
    Pointer,
}

impl Account {
    /// The account for names of a class.
    pub fn of(class: Class) -> Self {
        match class {
            Class::WriteOnce => Self::Pool,
            Class::Pointer => Self::Pointer,
        }
    }

    fn key(self, entry: &SftpEntry) -> &DeployKey {
        match self {
            Self::Pool => &entry.pool_key,
            Self::Pointer => &entry.pointer_key,
        }
    }

    /// Whether its deploy key is in a token.
    pub(super) fn is_in_token(self, entry: &SftpEntry) -> bool {
        matches!(self.key(entry).place, Place::Slot { .. })
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pool => "rel-pool",
            Self::Pointer => "rel-meta",
        })
    }
}

/// A mirror behind SSH.
pub(super) struct Mirror<'h> {
    keys: &'h DeployKeys<'h>,
    supply: &'h dyn Supply,
    entry: &'h SftpEntry,
    files: Arc<dyn Files>,
    /// Of its web server.
    pace: Pace,
    /// Where pointers will be written when content is there.
    pointers: Mutex<Option<Early>>,
}

/// What has other content, or none, under some of its names on the mirror.
struct Missing<'w> {
    entry: &'w Entry,
    names: Vec<&'w RepoPath>,
    /// Where this push has put its bytes.
    staged: String,
    /// Why they must be put there again.
    reason: Option<PublishError>,
}

impl<'w> Missing<'w> {
    fn new(entry: &'w Entry, names: Vec<&'w RepoPath>) -> Self {
        Self { entry, names, staged: String::new(), reason: None }
    }

    fn is_timestamp(&self) -> bool {
        self.names.iter().any(|name| name.as_str() == TIMESTAMP)
    }
}

impl<'h> Mirror<'h> {
    pub(super) fn new(
        keys: &'h DeployKeys<'h>,
        supply: &'h dyn Supply,
        entry: &'h SftpEntry,
        files: Arc<dyn Files>,
    ) -> Self {
        let pace = Pace::new(pace::of_reader().rate);
        Self { keys, supply, entry, files, pace, pointers: Mutex::default() }
    }

    fn with<T>(
        &self,
        account: Account,
        work: impl AsyncFnOnce(&Session) -> Result<T, PublishError>,
    ) -> Result<T, PublishError> {
        let early = match account {
            Account::Pool => None,
            Account::Pointer => self.early().take(),
        };
        session::with(self.keys, self.entry, account, early, work)
    }

    fn early(&self) -> MutexGuard<'_, Option<Early>> {
        // What is kept here is whole at any moment.
        self.pointers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What readers get under a name; `None` if there is nothing.
    fn served(&self, name: &RepoPath, length: u64) -> Result<Option<Sha256>, PublishError> {
        let asked = Instant::now();
        let found = super::served(self.files.as_ref(), name.as_str(), length)?;
        if self.pace.keeps(asked.elapsed(), length) {
            return Ok(found);
        }
        Err(PublishError::SlowReader(self.files.place()))
    }

    fn place(&self, name: &RepoPath) -> String {
        format!("{}/{name}", self.files.place())
    }

    /// Reads names of write-once content back.
    fn read_back(&self, content: &[Entry]) -> Result<(), PublishError> {
        let names: Vec<(&RepoPath, &Entry)> =
            content.iter().flat_map(|entry| entry.names.iter().map(move |name| (name, entry))).collect();
        parallel::in_threads(READERS, &names, |(name, entry)| match self.served(name, entry.length)? {
            Some(found) if found == entry.sha256 => Ok(()),
            Some(found) => Err(PublishError::Conflict { place: self.place(name), found, expected: entry.sha256 }),
            None => Err(PublishError::NotServed(self.place(name))),
        })
    }

    /// The pointers that readers get with other content.
    fn stale<'w>(&self, pointers: &'w [(RepoPath, Entry)]) -> Result<Vec<Missing<'w>>, PublishError> {
        let looked: Vec<_> = pointers.iter().map(|(name, entry)| (name, entry, AtomicBool::new(false))).collect();
        parallel::in_threads(READERS, &looked, |(name, entry, is_stale)| {
            is_stale.store(self.served(name, entry.length)? != Some(entry.sha256), Ordering::Relaxed);
            Ok::<_, PublishError>(())
        })?;
        let stale = looked.into_iter().filter(|(.., is_stale)| is_stale.load(Ordering::Relaxed));
        Ok(stale.map(|(name, entry, _)| Missing::new(entry, vec![name])).collect())
    }

    /// Reads a pointer back, more than once where a cache may be between.
    fn read_pointer(&self, name: &RepoPath, entry: &Entry) -> Result<(), PublishError> {
        for pause in PAUSES {
            std::thread::sleep(Duration::from_secs(pause));
            if self.served(name, entry.length)? == Some(entry.sha256) {
                return Ok(());
            }
        }
        Err(PublishError::ReadBack(self.place(name)))
    }
}

impl super::Mirror for Mirror<'_> {
    fn unlock(&self) -> Result<(), PublishError> {
        for account in [Account::Pool, Account::Pointer] {
            self.keys.open(account.key(self.entry))?;
        }
        Ok(())
    }

    fn push_content(&self, work: &Work, advanced: &(dyn Fn(u64) + Sync)) -> Result<usize, PublishError> {
        let content = &work.new.content;
        if content.is_empty() {
            return Ok(0);
        }
        // Logins take most of the time of a small push: one goes on beside the other.
        *self.early() = session::begin(self.keys, self.entry, Account::Pointer)?;
        let count = self.with(Account::Pool, async |session| {
            let mut missing = missing(session, content).await?;
            let lengths = missing.iter().map(|missing| missing.entry.length);
            let needed = lengths.fold(0, u64::saturating_add);
            advanced(content.iter().map(|entry| entry.length).sum::<u64>().saturating_sub(needed));
            let count = missing.iter().map(|missing| missing.names.len()).sum();
            if count > 0 {
                session.room(INCOMING, needed).await?;
                make_folders(session, &missing).await?;
                for _ in 0..ATTEMPTS {
                    stage(session, self.supply, &mut missing, advanced).await?;
                    missing = link(session, missing).await?;
                    if missing.is_empty() {
                        break;
                    }
                }
                if let Some(reason) = missing.into_iter().find_map(|missing| missing.reason) {
                    return Err(reason);
                }
            }
            check_modes(session, content).await?;
            Ok(count)
        })?;
        self.read_back(content)?;
        Ok(count)
    }

    fn push_pointers(&self, work: &Work) -> Result<usize, PublishError> {
        let mut stale = self.stale(&work.new.pointers)?;
        if stale.is_empty() {
            return Ok(0);
        }
        self.with(Account::Pointer, async |session| {
            let needed = stale.iter().map(|stale| stale.entry.length).fold(0, u64::saturating_add);
            session.room(INCOMING, needed).await?;
            make_folders(session, &stale).await?;
            stage(session, self.supply, &mut stale, &|_| {}).await?;
            // Readers come in by the timestamp: what it names is there and served
            // before.
            let (last, others): (Vec<_>, Vec<_>) = stale.iter().partition(|stale| stale.is_timestamp());
            for pointers in [others, last] {
                for Missing { names, staged, .. } in &pointers {
                    for name in names {
                        replace(session, staged, &published(name)).await?;
                        home::step(if name.as_str() == TIMESTAMP { "publish.timestamp" } else { "publish.pointer" });
                    }
                }
                parallel::in_threads(READERS, &pointers, |Missing { entry, names, .. }| {
                    names.iter().try_for_each(|name| self.read_pointer(name, entry))
                })?;
            }
            Ok(stale.len())
        })
    }

    fn set_aside(&self, path: &RepoPath) -> Result<(), PublishError> {
        self.with(Account::Pointer, async |session| {
            let folder = staging(session).await?;
            session.replace(&published(path), &format!("{folder}/junk")).await
        })
    }

    fn list(&self, max: usize) -> Result<Vec<Listed>, PublishError> {
        let mut listed = self.with(Account::Pool, async |session| session.list("/pub", max).await)?;
        listed.extend(self.with(Account::Pointer, async |session| session.list("/pub", max).await)?);
        Ok(listed)
    }

    fn facts(&self) -> Result<Option<Vec<u8>>, PublishError> {
        self.with(Account::Pointer, async |session| session.read(FACTS, MAX_FACTS).await)
    }
}

/// What `scripts/mirror` has a mirror say about itself; only the pointer account
/// can read it.
const FACTS: &str = "/facts";

/// Where files are before they have names.
const INCOMING: &str = "/incoming/";

/// A published file, as its account sees it.
fn published(name: &RepoPath) -> String {
    format!("/pub/{name}")
}

/// A new folder under a name that nobody can know before.
async fn staging(session: &Session) -> Result<String, PublishError> {
    let folder = format!("{INCOMING}{}", hex::encode(super::random::<16>()?));
    session.make_folder(&folder).await?;
    Ok(folder)
}

/// Moves a staged pointer to its name. A thief may have made a folder there, over which
/// nothing is moved, and which nobody may remove.
async fn replace(session: &Session, staged: &str, to: &str) -> Result<(), PublishError> {
    let Err(error) = session.replace(staged, to).await else {
        return Ok(());
    };
    if !session.look(to).await?.is_some_and(Found::is_folder) {
        return Err(error);
    }
    // Beside, since a folder that cannot be written to cannot get another parent.
    session.replace(to, &format!("{to}.{}", hex::encode(super::random::<16>()?))).await?;
    session.replace(staged, to).await
}

/// The content of which some names are not there.
async fn missing<'w>(session: &Session, content: &'w [Entry]) -> Result<Vec<Missing<'w>>, PublishError> {
    let look = async |entry: &'w Entry| {
        let mut names = Vec::new();
        for name in &entry.names {
            if session.look(&published(name)).await?.is_none() {
                names.push(name);
            }
        }
        Ok::<_, PublishError>(Missing::new(entry, names))
    };
    let all: Vec<Missing<'w>> = stream::iter(content).map(look).buffered(IN_FLIGHT).try_collect().await?;
    Ok(all.into_iter().filter(|missing| !missing.names.is_empty()).collect())
}

/// Makes the folders of all names, those above first.
async fn make_folders(session: &Session, missing: &[Missing<'_>]) -> Result<(), PublishError> {
    let names = missing.iter().flat_map(|missing| &missing.names);
    let folders: BTreeSet<String> = names
        .flat_map(|name| {
            let name = name.as_str();
            name.match_indices('/').map(|(end, _)| format!("/pub/{}", &name[..end]))
        })
        .collect();
    for folder in &folders {
        session.make_folder(folder).await?;
    }
    Ok(())
}

/// Uploads content into a new folder.
async fn stage(
    session: &Session,
    supply: &dyn Supply,
    missing: &mut [Missing<'_>],
    advanced: &(dyn Fn(u64) + Sync),
) -> Result<(), PublishError> {
    let folder = staging(session).await?;
    for (number, missing) in missing.iter_mut().enumerate() {
        missing.staged = format!("{folder}/{number}");
    }
    let upload = async |Missing { entry, names, staged, .. }: &Missing<'_>| match names.first() {
        Some(name) => session.upload(supply.open(name, entry)?, entry, staged, advanced).await,
        None => Ok(()),
    };
    // Small files side by side, large ones one after the other: either way no more
    // than so many pieces are on their way.
    let (small, large): (Vec<_>, Vec<_>) = missing.iter().partition(|missing| missing.entry.length <= session.chunk());
    stream::iter(small).map(upload).buffer_unordered(IN_FLIGHT).try_for_each(done).await?;
    stream::iter(large).map(upload).buffered(1).try_for_each(done).await
}

/// Gives staged content its names; what is left must be staged again.
async fn link<'w>(session: &Session, missing: Vec<Missing<'w>>) -> Result<Vec<Missing<'w>>, PublishError> {
    let link = async |mut missing: Missing<'w>| {
        while let Some(name) = missing.names.first() {
            if let Err(StageAgain(reason)) = session.link(&missing.staged, &published(name)).await? {
                missing.reason = Some(reason);
                break;
            }
            home::step("publish.file");
            missing.names.remove(0);
        }
        Ok::<_, PublishError>(missing)
    };
    let left: Vec<Missing<'w>> = stream::iter(missing).map(link).buffer_unordered(IN_FLIGHT).try_collect().await?;
    Ok(left.into_iter().filter(|missing| !missing.names.is_empty()).collect())
}

async fn done((): ()) -> Result<(), PublishError> {
    Ok(())
}

/// Demands that nobody can change what is published.
async fn check_modes(session: &Session, content: &[Entry]) -> Result<(), PublishError> {
    let check = async |name: &RepoPath| {
        let path = published(name);
        match session.look(&path).await? {
            Some(found) if found.is_write_once() => Ok(()),
            Some(found) => Err(PublishError::Mode { path, mode: found.mode }),
            None => Err(PublishError::NotServed(path)),
        }
    };
    let names = content.iter().flat_map(|entry| &entry.names);
    stream::iter(names).map(check).buffer_unordered(IN_FLIGHT).try_for_each(done).await
}
