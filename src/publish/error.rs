//! What goes wrong with mirrors.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use super::Account;
use super::pace;
use crate::home::HomeError;
use crate::key::KeyError;
use crate::key::agent::AgentError;
use crate::key::agent::Refusal;
use crate::manifest::KeyName;
use crate::manifest::MirrorName;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::policy::DeployKey;
use crate::process::ProcessError;
use crate::transport::TransportError;

/// A mirror that could not be brought up to date. It keeps what it has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A file of the home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A file of the mirror, or a deploy key, cannot be read or written. Trying
    /// again may help.
    #[error("cannot use {}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A name that is never used again holds other bytes. Somebody else wrote
    /// there; the mirror's operator must look at it.
    #[error("{place} holds other bytes than this release (sha256 {found}, not {expected}); it was not replaced")]
    Conflict {
        /// The file on the mirror.
        place: String,
        /// What it holds.
        found: Sha256,
        /// What it should hold.
        expected: Sha256,
    },
    /// What the mirror serves now cannot be read. Trying again may help.
    #[error(transparent)]
    Unreadable(#[from] TransportError),
    /// A file does not read back as it was written.
    #[error("{0} does not read back as it was written")]
    ReadBack(String),
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
    /// Too few mirrors could take the new files, so none shows them.
    #[error(
        "its new files are there, but only {ready} of {of} mirrors could take them and {needed} must; none shows them"
    )]
    NoQuorum {
        /// How many could.
        ready: usize,
        /// How many must.
        needed: usize,
        /// How many there are.
        of: usize,
    },
    /// ssh or ssh-keygen cannot be run.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A token with deploy keys cannot be used. Several mirrors may hear it.
    #[error("{0}; nothing was sent to it")]
    Key(Arc<KeyError>),
    /// A deploy key was never made in its token, or its public half was lost.
    #[error("deploy key {0} has no public half in the home ({file})", file = DeployKey::public(.0))]
    NoKey(KeyName),
    /// The agent that lets ssh use a key in a token cannot be started.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The agent that lets ssh use a key in a token did not sign the login.
    #[error("no login as {account} at {address}: {}", not_signed(.refusal))]
    NotSigned {
        /// Where.
        address: String,
        /// Who.
        account: Account,
        /// Why.
        refusal: Refusal,
    },
    /// One key is used in two places, so that one theft opens both.
    #[error("{first} and {second} hold the same key; each account of each mirror has its own")]
    SharedKey {
        /// One place.
        first: String,
        /// The other place.
        second: String,
    },
    /// The server there has another host key. Nothing was sent to it.
    #[error("the SSH server at {0} does not have the host key that terminal.toml pins; nothing was sent to it")]
    OtherHost(String),
    /// The server does not take the deploy key.
    #[error("the SSH server at {address} does not let {account} in: {complaint}")]
    Denied {
        /// Where.
        address: String,
        /// Who.
        account: Account,
        /// What ssh said.
        complaint: String,
    },
    /// The connection was not made, or has ended. Trying again may help.
    #[error("the SSH connection to {address} ended{}", reason(.complaint))]
    Ended {
        /// Where.
        address: String,
        /// What ssh said.
        complaint: String,
    },
    /// The server gives no answer, or too few. Trying again may help.
    #[error("the SSH server at {0} answers too slowly: {limits}", limits = pace::limits())]
    Silent(String),
    /// The web server is too slow to read back what was pushed. Trying again may
    /// help.
    #[error("{0} is served too slowly: {limits}", limits = pace::limits())]
    SlowReader(String),
    /// The server answers what the protocol does not allow.
    #[error("the SSH server at {address} does not speak sftp as it should: {reason}")]
    Protocol {
        /// Where.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// The server refuses a request.
    #[error("the mirror refuses to {what} {path}: {reason}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Of which path there.
        path: String,
        /// What the server says.
        reason: String,
    },
    /// There is no space.
    #[error("the mirror is full: it has {free} bytes left for {path}, and {needed} are needed")]
    Full {
        /// Below which path there.
        path: String,
        /// How much is left, in bytes.
        free: u64,
        /// How much is needed, in bytes.
        needed: u64,
    },
    /// A published file that somebody could write to, or that is no file.
    #[error("{path} is not a read-only file on the mirror (mode {mode:o}, not 444); somebody can change it there")]
    Mode {
        /// Which path there.
        path: String,
        /// Its type and permissions.
        mode: u32,
    },
    /// The mirror has lost, or never had, what this medium does not carry.
    #[error("the mirror lacks {0}, which this medium does not carry; have it exported with --all")]
    NotCarried(RepoPath),
    /// What a mirror says about itself cannot be recorded.
    #[error("nothing was recorded of this mirror: {0}")]
    NoFacts(String),
    /// What was written is not what the web server gives.
    #[error("{0} was written, but is not served")]
    NotServed(String),
}

fn not_signed(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Key(reason) => reason.clone(),
        refusal => format!("the private ssh-agent did not sign it: {refusal}"),
    }
}

fn reason(complaint: &str) -> String {
    if complaint.is_empty() { String::new() } else { format!(": {complaint}") }
}

impl PublishError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
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
        /// A receipt says so, of a mirror that only a courier reaches.
        by_courier: bool,
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
