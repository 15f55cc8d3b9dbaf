//! Source control → pin and source archive.
//!
//! Everything that git delivers is foreign: it is fetched into a fresh bare
//! repository without hooks or configuration, checked by git's fsck, and read
//! from there object by object. There is no checkout.

pub mod archive;
mod git;
pub mod refs;
mod route;
pub mod tag;

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use crate::manifest::FileName;
use crate::manifest::Pin;
use crate::manifest::SourceArchive;
use crate::manifest::claim::GitId;
use crate::manifest::names::quoted;
use crate::openpgp::OpenPgpError;
use crate::policy::Location;
use crate::policy::SourceHost;
use crate::process::ProcessError;
use crate::progress::Progress;

pub use archive::COMPRESSOR;
pub use tag::Maintainers;

use self::git::Git;
use self::route::Route;

/// How long a source may take, and how much it may send.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How long the first answer may take, and how long a server may be silent.
    pub answer: Duration,
    /// How long all may take.
    pub fetch: Duration,
    /// How many bytes of packed objects may come.
    pub pack: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { answer: Duration::from_secs(60), fetch: Duration::from_secs(60 * 60), pack: 4 << 30 }
    }
}

/// What to fetch.
pub struct Request<'a> {
    /// Where the source is.
    pub source: &'a Location,
    /// A git bundle that a medium brought, to be fetched from in its place.
    pub bundle: Option<&'a Path>,
    /// How hosts are reached.
    pub hosts: &'a [SourceHost],
    /// The folder that relative paths start from.
    pub base: &'a Path,
    /// How long it may take.
    pub bounds: Bounds,
    /// The release tag.
    pub tag: &'a str,
    /// The branches that releases are made from; at most one `*`.
    pub branch: &'a str,
    /// Who may sign tags.
    pub maintainers: &'a Maintainers,
    /// How many of them must have signed.
    pub threshold: u32,
    /// What an earlier fetch of the same cut has pinned.
    pub pinned: Option<&'a Pin>,
}

impl Request<'_> {
    /// What is fetched from, for messages.
    fn origin(&self) -> &'static str {
        if self.bundle.is_some() { "the bundle" } else { "the source" }
    }
}

/// Source that is not what may be released, or that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A program failed. The network or the repository may be at fault; trying
    /// again may help.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The source could not be reached. Trying again may help.
    #[error("cannot fetch from {place}: {complaint}")]
    Unreachable {
        /// Where, with the addresses that were used.
        place: String,
        /// What git says, on one line.
        complaint: String,
    },
    /// What came is no sound git data, or too much of it.
    #[error("what came from {place} is refused: {complaint}")]
    Unsound {
        /// From where.
        place: String,
        /// What git says, on one line.
        complaint: String,
    },
    /// `terminal.toml` does not say how to know a host, or how to log in.
    #[error("terminal.toml has no `{what}` for the host {host}")]
    Unpinned {
        /// The host.
        host: String,
        /// What is missing.
        what: &'static str,
    },
    /// The key that logs in at a host cannot be used.
    #[error("{} {fault}", .path.display())]
    LoginKey {
        /// Its file.
        path: PathBuf,
        /// Why.
        fault: KeyFault,
    },
    /// git reads no repository of another user, since its configuration could
    /// run programs.
    #[error("the source {0} belongs to another user, and git does not read it")]
    OtherOwner(String),
    /// A file of this terminal cannot be used.
    #[error("cannot use {}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file with maintainers' keys is malformed.
    #[error("{} lists no usable keys: {reason}", .path.display())]
    Keys {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The repository has no such tag.
    #[error("{origin} has no tag {}", quoted(.tag))]
    NoTag {
        /// What was fetched from, as people know it.
        origin: &'static str,
        /// The tag.
        tag: String,
    },
    /// A lightweight tag, or a tag of something else than a commit.
    #[error("tag {} is not an annotated tag of a commit: it is a {kind}", quoted(.tag))]
    NotAnnotated {
        /// The tag.
        tag: String,
        /// What it is.
        kind: String,
    },
    /// A tag object that git would not make.
    #[error("tag {} is malformed: {reason}", quoted(.tag))]
    MalformedTag {
        /// The tag.
        tag: String,
        /// What is wrong.
        reason: String,
    },
    /// The object says that it is another tag: an old tag under a new name.
    #[error("tag {} is really tag {}, delivered under another name", quoted(.wanted), quoted(.inner))]
    Renamed {
        /// The name under which it came.
        wanted: String,
        /// The name in the signed object.
        inner: String,
    },
    /// Nobody signed the tag.
    #[error("tag {} is not signed", quoted(.0))]
    Unsigned(String),
    /// Nobody who may sign did.
    #[error("tag {} is not signed by an enrolled maintainer: {reason}", quoted(.tag))]
    UnknownSigner {
        /// The tag.
        tag: String,
        /// What was found instead.
        reason: String,
    },
    /// Too few maintainers signed.
    #[error("{} of {need} maintainers signed tag {}: {}", .have.len(), quoted(.tag), .have.join(", "))]
    TooFewSigners {
        /// The tag.
        tag: String,
        /// Who signed.
        have: Vec<String>,
        /// How many must.
        need: u32,
    },
    /// A sign-off is for another commit.
    #[error("sign-off {} is on commit {}, not on {}", quoted(.tag), .found.short(), .wanted.short())]
    SignoffElsewhere {
        /// The sign-off tag.
        tag: String,
        /// Its commit.
        found: GitId,
        /// The commit of the release tag.
        wanted: GitId,
    },
    /// The commit is not the head of a release branch.
    #[error("commit {} of tag {} is not the head of a branch {}", .commit.short(), quoted(.tag), quoted(.branch))]
    NotAHead {
        /// The tag.
        tag: String,
        /// Its commit.
        commit: GitId,
        /// The branches that releases are made from.
        branch: String,
    },
    /// The source serves something else than at the first fetch of this cut.
    #[error(
        "{}; this cut has pinned {pinned}",
        .found.as_ref().map_or_else(
            || format!("{origin} has no {what} any more"),
            |found| format!("{origin} now serves {what} {found}")
        )
    )]
    Moved {
        /// What was fetched from, as people know it.
        origin: &'static str,
        /// What.
        what: String,
        /// What it was.
        pinned: String,
        /// What it is, if it is there.
        found: Option<String>,
    },
    /// A file that a source archive must not hold.
    #[error("commit {} holds {}: {reason}", .commit.short(), quoted(.path))]
    Tree {
        /// The commit.
        commit: GitId,
        /// The file.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The commit has no such file.
    #[error("commit {} has no {file}", .commit.short())]
    NoFile {
        /// The commit.
        commit: GitId,
        /// The file.
        file: &'static str,
    },
    /// git printed what it never prints.
    #[error("git gave an unexpected answer to `{0}`")]
    Answer(&'static str),
    /// A signature cannot be read.
    #[error(transparent)]
    OpenPgp(#[from] OpenPgpError),
}

impl SourceError {
    /// Whether trying again may help: nothing was found wrong with the source.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Process(_)
                | Self::Unreachable { .. }
                | Self::Unpinned { .. }
                | Self::LoginKey { .. }
                | Self::OtherOwner(_)
                | Self::Io { .. }
                | Self::Keys { .. }
        )
    }
}

/// Why a key cannot log in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFault {
    /// Others can read it, and ssh uses none such.
    #[error("has mode {0:04o}: others may read it, and ssh does not use it")]
    Mode(u32),
    /// Nobody is asked for passphrases of such keys.
    #[error("has a passphrase, which nobody is asked for")]
    Passphrase,
    /// It is something else.
    #[error("is no private key: {0}")]
    NoKey(String),
}

/// A fetched and checked source.
pub struct Source<'a> {
    git: Git<'a>,
    /// The pin.
    pub pin: Pin,
}

/// Fetches the tag and the branches into a fresh repository at `folder`, and
/// checks them.
///
/// # Errors
/// Anything that is not a release by enrolled maintainers from a release branch.
pub fn fetch<'a>(
    request: &Request<'_>,
    folder: &'a Path,
    now: Timestamp,
    progress: &'a dyn Progress,
) -> Result<Source<'a>, SourceError> {
    let git = Git::init(folder, request.bounds, progress)?;
    git.fetch(&Route::all(request, folder, progress)?, request)?;

    let tags = tag::check(&git, request, now)?;
    let commit = tags.commit.clone();
    let heads = git.refs(refs::HEADS)?;
    let (branch, head) = match request.pinned {
        None => {
            let at_commit = heads.into_iter().find(|(_, head)| *head == commit);
            at_commit.ok_or_else(|| SourceError::NotAHead {
                tag: request.tag.to_owned(),
                commit: commit.clone(),
                branch: request.branch.to_owned(),
            })?
        }
        Some(pin) => {
            same(&git, request.origin(), pin, &tags, &heads)?;
            (pin.branch.clone(), pin.head.clone())
        }
    };
    let commit_time = git.commit_time(&commit)?;
    let pin = Pin { tags: tags.tags, commit, commit_time, branch, head };
    Ok(Source { git, pin })
}

/// A later fetch of the same cut: the same objects, and the commit still on the
/// branch. The branch itself may have moved on.
fn same(
    git: &Git<'_>,
    origin: &'static str,
    pin: &Pin,
    tags: &tag::Checked,
    heads: &[(String, GitId)],
) -> Result<(), SourceError> {
    let moved = |what: &str, pinned: &GitId, found: Option<&GitId>| SourceError::Moved {
        origin,
        what: what.to_owned(),
        pinned: pinned.to_string(),
        found: found.map(GitId::to_string),
    };
    if tags.commit != pin.commit {
        return Err(moved("commit", &pin.commit, Some(&tags.commit)));
    }
    for tag in &pin.tags {
        match tags.tags.iter().find(|found| found.name == tag.name) {
            Some(found) if found.object == tag.object => {}
            Some(found) => return Err(moved(&format!("tag {}", tag.name), &tag.object, Some(&found.object))),
            None => return Err(moved(&format!("tag {}", tag.name), &tag.object, None)),
        }
    }
    let head = heads.iter().find(|(name, _)| *name == pin.branch).map(|(_, head)| head);
    match head {
        Some(head) if git.is_ancestor(&pin.commit, head)? => Ok(()),
        Some(head) => Err(moved(&format!("branch {}", pin.branch), &pin.commit, Some(head))),
        None => Err(moved(&format!("branch {}", pin.branch), &pin.commit, None)),
    }
}

/// Writes a git bundle with the tags and the branch of a pin, from the repository that it
/// was fetched into, for a terminal that cannot fetch.
///
/// # Errors
/// git failed; the file cannot be written.
pub fn bundle(repository: &Path, pin: &Pin, to: &Path, progress: &dyn Progress) -> Result<(), SourceError> {
    Git::at(repository, progress).bundle(pin, to)
}

/// What has changed in a source since an earlier commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Since {
    /// The subjects of the newest commits, with their short ids.
    pub commits: Vec<String>,
    /// How many commits there are.
    pub commit_count: usize,
    /// Files with what happened to them: `A`, `M`, `D`.
    pub files: Vec<String>,
    /// How many files changed.
    pub file_count: usize,
}

impl Source<'_> {
    /// What has changed since a commit; `None` where the pinned one does not follow it.
    ///
    /// # Errors
    /// git failed.
    pub fn since(&self, commit: &GitId) -> Result<Option<Since>, SourceError> {
        self.git.since(commit, &self.pin.commit)
    }

    /// Reads a file of the pinned commit.
    ///
    /// # Errors
    /// There is none, it is not a plain file, or it is longer than `max` bytes.
    pub fn file(&self, name: &'static str, max: u64) -> Result<Vec<u8>, SourceError> {
        self.git.file(&self.pin.commit, name, max)
    }

    /// Writes the source archive: the uncompressed tar to `tar`, and with `gz`
    /// the compressed one beside it. All files stand below the folder `prefix`.
    /// Gives the archive and the number of its files.
    ///
    /// # Errors
    /// The commit holds what an archive must not hold; files cannot be written.
    pub fn archive(
        &self,
        prefix: &str,
        tar: &Path,
        gz: Option<(&FileName, &Path)>,
    ) -> Result<(SourceArchive, usize), SourceError> {
        archive::write(&self.git, &self.pin, prefix, tar, gz)
    }
}
