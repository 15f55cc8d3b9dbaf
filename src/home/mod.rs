//! The terminal's state folder. It can be moved; a home belongs to one terminal.
//!
//! ```text
//! policy.toml  terminal.toml  lock      every command that writes holds the lock
//! keys/                                 public keys, certificates; software keys
//! repository/                           only sealed things
//! cuts/<product>-<version>/             cut.json, stage/, logs: resumable at any point
//! withdrawals/<product>/<version>/      a withdrawal that is not finished
//! publications/<serial>.json            what each seal added; <serial>.partial/ while one is made
//! mirrors/<name>.json                   what each mirror holds; <name>.receipt/ what a courier saw there
//! facts/<mirror>.json                   what each mirror should say about itself
//! inputs/<sha256>                       inputs of builds, by hash
//! inbox/                                what media brought, hostile until it is checked
//! outbox/                               requests, approvals and claims for other terminals
//! approvals/<product>_<version>/        what another terminal has started and this one rebuilds
//! journal.jsonl                         each line holds the hash of the line before
//! journal.head                          the hash of the last line, against an old journal
//! ```

pub mod atomic;
pub mod cut;
pub mod failpoint;
pub mod journal;
pub mod lock;

use std::fs;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::path::PathBuf;

use crate::manifest::Holder;
use crate::manifest::MirrorName;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::policy::ConfigError;
use crate::policy::Policy;
use crate::policy::Terminal;
use crate::transport::TransportError;
use crate::transport::read_plain;

pub use cut::CutState;
pub use failpoint::patience;
pub use failpoint::step;
pub use journal::Event;
pub use journal::Journal;
pub use lock::Lock;

/// How the names of requests end.
pub const REQUEST: &str = ".request.json";
/// How the names of approvals end.
pub const APPROVAL: &str = ".approval.json";
/// How the names of claims end that are no part of an approval.
pub const CLAIM: &str = ".claim.json";

/// The name of a request. A `_` is in no name of a product or version.
pub fn request_file(product: &Product, version: &Version) -> String {
    format!("{product}_{version}{REQUEST}")
}

/// The name of what one holder gives to another one's release; `end` is [`APPROVAL`]
/// or [`CLAIM`].
pub fn answer_file(product: &Product, version: &Version, holder: &Holder, end: &str) -> String {
    format!("{product}_{version}_{holder}{end}")
}

/// What the names of all files and folders of a change of the policy begin with; `number`
/// is that of the `targets` that it makes.
pub fn amendment(number: u64) -> String {
    format!("policy_{number}")
}

/// The name of a request to change the policy.
pub fn amendment_file(number: u64) -> String {
    format!("{}{REQUEST}", amendment(number))
}

/// The name of one holder's consent to a change of the policy.
pub fn consent_file(number: u64, holder: &Holder) -> String {
    format!("{}_{holder}{APPROVAL}", amendment(number))
}

/// How the names of git bundles with the source of a version end.
pub const SOURCE_BUNDLE: &str = ".git.bundle";
/// Longer configuration files are refused.
const MAX_CONFIG: u64 = 1 << 20;

/// The folder of a machine that pushes to mirrors: a terminal's home, or that of a
/// courier, which has `terminal.toml`, deploy keys, and what mirrors hold.
#[derive(Debug, Clone)]
pub struct Base {
    folder: PathBuf,
    /// `terminal.toml`.
    pub terminal: Terminal,
}

/// An open home: its folder and its two configuration files.
#[derive(Debug, Clone)]
pub struct Home {
    base: Base,
    /// `policy.toml`.
    pub policy: Policy,
    /// Digest of `policy.toml`.
    pub policy_digest: Sha256,
}

/// A home can do all that a courier's folder can.
impl Deref for Home {
    type Target = Base;

    fn deref(&self) -> &Base {
        &self.base
    }
}

/// A home that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// There is no home there.
    #[error("{} is not a home: it has no {missing}", .folder.display())]
    NotAHome {
        /// The folder.
        folder: PathBuf,
        /// The file that is missing.
        missing: &'static str,
    },
    /// There is a home, without one of its configuration files.
    #[error("this home has lost {file}: {}", .folder.display())]
    LostConfig {
        /// The folder.
        folder: PathBuf,
        /// The file that is missing.
        file: &'static str,
    },
    /// A file cannot be read or written.
    #[error("cannot use {}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that must be there is not.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    /// A configuration file has a mistake.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A configuration file is too long or not text.
    #[error("{} is not a text file of at most {MAX_CONFIG} bytes", .0.display())]
    NotText(PathBuf),
    /// Another command holds the lock.
    #[error("another command is at work in this home: {holder}")]
    Locked {
        /// What it wrote about itself.
        holder: String,
    },
    /// A state file was written by a newer version of this program.
    #[error("{} was written by a newer release", .0.display())]
    Newer(PathBuf),
    /// A state file is damaged.
    #[error("{} is damaged: {reason}", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An old journal was put back: keys have signed what it does not say.
    #[error("{} is older than this home: it lacks {lacks}", .path.display())]
    OldJournal {
        /// The journal.
        path: PathBuf,
        /// What the rest of the home knows, and it does not.
        lacks: String,
    },
    /// A folder belongs to another cut.
    #[error("{} is the folder of {owner}; use another version", .path.display())]
    Taken {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: String,
    },
    /// A name is taken by other bytes.
    #[error("{} exists with other content; it was not replaced", .0.display())]
    Conflict(PathBuf),
    /// A key would sign a second payload under one number.
    #[error(
        "key {key} was asked before to sign {what} with the digest {before}; it will not sign {now} under the same name"
    )]
    SecondPayload {
        /// The key.
        key: String,
        /// What it was to sign.
        what: String,
        /// The digest before.
        before: Sha256,
        /// The digest now.
        now: Sha256,
    },
}

impl HomeError {
    /// An I/O error at a path.
    pub fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// Whether a file is not there.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Missing(_) => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Whether the journal or its head is lost, old or damaged.
    pub fn is_of_journal(&self) -> bool {
        match self {
            Self::OldJournal { .. } => true,
            Self::Missing(path) | Self::Damaged { path, .. } => path.file_stem().is_some_and(|stem| stem == "journal"),
            _ => false,
        }
    }

    /// Sorts an error of a bounded reader: failing, or not a file of ours.
    pub fn of_transport(path: &Path, error: TransportError) -> Self {
        match error {
            TransportError::Read { source, .. } => Self::io(path, source),
            other => Self::Damaged { path: path.to_owned(), reason: other.to_string() },
        }
    }
}

impl Base {
    /// Opens a folder with a `terminal.toml`.
    ///
    /// # Errors
    /// The file is missing, unreadable, or has a mistake.
    pub fn open(folder: &Path) -> Result<Self, HomeError> {
        // Programs are started in other folders; paths must not depend on that.
        let folder = &std::path::absolute(folder).map_err(|error| HomeError::io(folder, error))?;
        let (terminal, _) = read_config(folder, "terminal.toml")?;
        let terminal = Terminal::parse(&folder.join("terminal.toml"), terminal)?;
        Ok(Self { folder: folder.to_owned(), terminal })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A path that a configuration file names, relative to the folder.
    pub fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.join(path)
    }

    /// The state of a mirror.
    pub fn mirror(&self, name: &MirrorName) -> PathBuf {
        self.folder.join("mirrors").join(format!("{name}.json"))
    }

    /// What the last receipt of a courier says that a mirror serves, laid out as it is
    /// there.
    pub fn receipt(&self, name: &MirrorName) -> PathBuf {
        self.folder.join("mirrors").join(format!("{name}.receipt"))
    }

    /// Takes the lock, for a command that writes.
    ///
    /// # Errors
    /// Another command holds it, or the file cannot be used.
    pub fn lock(&self, command: &str) -> Result<Lock, HomeError> {
        Lock::take(&self.folder, command)
    }
}

fn read_config(folder: &Path, name: &'static str) -> Result<(String, Sha256), HomeError> {
    let path = folder.join(name);
    match read_text(&path)? {
        Some(text) => {
            let digest = Sha256::of(text.as_bytes());
            Ok((text, digest))
        }
        None if ["journal.jsonl", "repository"].iter().any(|name| folder.join(name).exists()) => {
            Err(HomeError::LostConfig { folder: folder.to_owned(), file: name })
        }
        None => Err(HomeError::NotAHome { folder: folder.to_owned(), missing: name }),
    }
}

impl Home {
    /// Opens the home in `folder`.
    ///
    /// # Errors
    /// A file is missing, unreadable, or has a mistake.
    pub fn open(folder: &Path) -> Result<Self, HomeError> {
        let absolute = std::path::absolute(folder).map_err(|error| HomeError::io(folder, error))?;
        let (policy, policy_digest) = read_config(&absolute, "policy.toml")?;
        let base = Base::open(&absolute)?;
        let policy = Policy::parse(&absolute.join("policy.toml"), policy)?;
        Ok(Self { base, policy, policy_digest })
    }

    /// The terminal's own copy of the repository.
    pub fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    /// The folder of a cut.
    pub fn cut(&self, product: &Product, version: &Version) -> PathBuf {
        self.folder.join("cuts").join(format!("{product}-{version}"))
    }

    /// The folder of a withdrawal that is not finished.
    pub fn withdrawal(&self, product: &Product, version: &Version) -> PathBuf {
        self.folder.join("withdrawals").join(product.as_str()).join(version.as_str())
    }

    /// The withdrawals of a product that are not finished, with their folders.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn withdrawals(&self, product: &Product) -> Result<Vec<(PathBuf, Version)>, HomeError> {
        let folder = self.folder.join("withdrawals").join(product.as_str());
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(HomeError::io(&folder, error)),
        };
        let version = |entry: fs::DirEntry| Some((entry.path(), entry.file_name().to_str()?.parse().ok()?));
        Ok(entries.flatten().filter_map(version).collect())
    }

    /// The folder of publications.
    pub fn publications(&self) -> PathBuf {
        self.folder.join("publications")
    }

    /// The folder of what mirrors should say about themselves.
    pub fn facts_folder(&self) -> PathBuf {
        self.folder.join("facts")
    }

    /// What a mirror should say about itself.
    pub fn facts(&self, name: &MirrorName) -> PathBuf {
        self.facts_folder().join(format!("{name}.json"))
    }

    /// The folder of inputs of builds.
    pub fn inputs(&self) -> PathBuf {
        self.folder.join("inputs")
    }

    /// An input of builds.
    pub fn input(&self, sha256: Sha256) -> PathBuf {
        self.inputs().join(sha256.to_string())
    }

    /// The folder of what media brought and nobody has checked.
    pub fn inbox(&self) -> PathBuf {
        self.folder.join("inbox")
    }

    /// The folder of what others need by medium: requests and approvals.
    pub fn outbox(&self) -> PathBuf {
        self.folder.join("outbox")
    }

    /// The folder of a change of the policy that is not finished.
    pub fn amendment(&self) -> PathBuf {
        self.folder.join("amendment")
    }

    /// The folder of what this terminal has approved.
    pub fn approvals(&self) -> PathBuf {
        self.folder.join("approvals")
    }

    /// The same home under another policy.
    #[must_use]
    pub fn amended(&self, policy: Policy, policy_digest: Sha256) -> Self {
        Self { base: self.base.clone(), policy, policy_digest }
    }

    /// The folder in which this terminal rebuilds what another one has started.
    pub fn approval(&self, product: &Product, version: &Version) -> PathBuf {
        self.approvals().join(format!("{product}_{version}"))
    }

    /// The git bundle with the source of a version, if a medium brought one.
    pub fn source_bundle(&self, product: &Product, version: &Version) -> Option<PathBuf> {
        let path = self.inbox().join(format!("{product}-{version}{SOURCE_BUNDLE}"));
        path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()).then_some(path)
    }

    /// The journal's file.
    pub fn journal_file(&self) -> PathBuf {
        self.folder.join("journal.jsonl")
    }

    /// Opens the journal.
    ///
    /// # Errors
    /// It cannot be read, its chain is broken, or it is older than the rest of the
    /// home.
    pub fn journal(&self) -> Result<Journal, HomeError> {
        let path = self.journal_file();
        let journal = Journal::open(&path)?;
        // Its head may have been put back with it. The journal comes before cuts.
        // A cut that cannot be read stops whoever needs it.
        for cut in self.cuts().unwrap_or_default() {
            let (product, version) = (&cut.product, &cut.release);
            let abandoned = !cut.abandoned || journal.has_abandoned(product, version);
            let pinned = cut.pin.is_none() || journal.has_pinned(product, version);
            if !abandoned || !pinned {
                return Err(HomeError::OldJournal { path, lacks: format!("what was done for {product} {version}") });
            }
        }
        Ok(journal)
    }

    /// All cuts that have a state, sorted by folder name.
    ///
    /// # Errors
    /// A state cannot be read.
    pub fn cuts(&self) -> Result<Vec<CutState>, HomeError> {
        let folder = self.folder.join("cuts");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(HomeError::io(&folder, error)),
        };
        let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        folders.sort();
        let mut cuts = Vec::new();
        for folder in folders {
            if let Some(state) = CutState::load(&folder)? {
                cuts.push(state);
            }
        }
        Ok(cuts)
    }
}

/// Reads a configuration file; `None` if there is none.
///
/// # Errors
/// It cannot be read, is too long, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<Option<String>, HomeError> {
    let not_text = || HomeError::NotText(path.to_owned());
    let bytes = match read_plain(path, MAX_CONFIG) {
        Ok(bytes) => bytes,
        Err(TransportError::NotAFile { .. } | TransportError::TooLong { .. }) => return Err(not_text()),
        Err(error) => return Err(HomeError::of_transport(path, error)),
    };
    bytes.map(String::from_utf8).transpose().map_err(|_| not_text())
}
