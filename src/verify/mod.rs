//! Is this what was released?
//!
//! Four steps, each in a file of its own: [`project`] finds the newest root,
//! policy and freshness that the pinned root leads to, [`trust`] the newest role
//! of a product; [`claims`] asks who rebuilt; [`judge`] gives a verdict on one
//! file. [`memory`] remembers what was seen, so that nobody can serve less later.
//! [`repository`] looks at a whole repository, [`suites`] at what it has for apt.
//!
//! Readers and the clock come from the caller. Nothing here prints.

pub mod claims;
mod found;
pub mod inventory;
pub mod judge;
pub mod memory;
pub mod project;
pub mod repository;
pub mod strict;
pub mod suites;
pub mod trust;

use std::fmt;

use crate::manifest::FileName;
use crate::manifest::Holder;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::bundle::BundleError;
use crate::manifest::names::quoted;
use crate::tuf::product::Withdrawn;

pub use judge::Facts;
pub use judge::Judge;
pub use judge::Subject;
pub use judge::Verdict;
pub use project::Project;
pub use trust::Source;
pub use trust::Staleness;
pub use trust::Trust;

/// Where a copy of metadata came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Remembered from an earlier run.
    Memory,
    /// A bundle, by file name.
    Bundle(String),
    /// A repository, by path or URL.
    Repository(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("what was seen before"),
            Self::Bundle(name) => write!(f, "bundle {name}"),
            Self::Repository(place) => write!(f, "repository {place}"),
        }
    }
}

/// Why something is REJECTED. Trying again does not help: the input is not what
/// was released, or cannot be told from something that was not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The pinned root cannot be used.
    #[error("the trusted root is unusable: {0}")]
    Root(#[source] sigstore_tuf::Error),
    /// A file that should be a bundle is not one.
    #[error("{name} is not a usable bundle: {source}")]
    Bundle {
        /// Its file name.
        name: String,
        /// Why.
        source: BundleError,
    },
    /// A bundle from another project, or from before the pinned root.
    #[error("bundle {name} does not contain the root that you trust ({pinned})")]
    OtherRoot {
        /// The bundle's file name.
        name: String,
        /// Short digest of the pinned root.
        pinned: String,
    },
    /// Metadata that breaks a rule of TUF.
    #[error("{origin}: {file}: {source}")]
    Metadata {
        /// Where it was found.
        origin: Origin,
        /// Which metadata file.
        file: String,
        /// What is wrong.
        source: sigstore_tuf::Error,
    },
    /// Metadata that breaks a rule of ours.
    #[error("{origin}: {file}: {reason}")]
    Rule {
        /// Where it was found.
        origin: Origin,
        /// Which metadata file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// Fewer people signed than must.
    #[error("{origin}: {file} is signed by {} of {} people; {} must sign", .have.len(), of, need)]
    TooFewPeople {
        /// Where it was found.
        origin: Origin,
        /// Which metadata file.
        file: String,
        /// Who signed.
        have: Vec<Holder>,
        /// How many may sign.
        of: usize,
        /// How many must sign.
        need: usize,
    },
    /// Signed by keys that the newest known metadata no longer trusts.
    #[error("{origin}: {file} is signed by keys that are no longer trusted: {source}")]
    Revoked {
        /// Where it was found.
        origin: Origin,
        /// Which metadata file.
        file: String,
        /// What is wrong.
        source: sigstore_tuf::Error,
    },
    /// The same role and number with two contents, both validly signed.
    #[error("two different {file} are validly signed, in {first} and in {second}")]
    Equivocation {
        /// Which metadata file.
        file: String,
        /// One place.
        first: Origin,
        /// The other.
        second: Origin,
    },
    /// A snapshot that no longer lists what an older one did.
    #[error("{origin}: {file} no longer lists {dropped}, which was there before")]
    Dropped {
        /// Where it was found.
        origin: Origin,
        /// Which snapshot.
        file: String,
        /// What it lists no more.
        dropped: String,
    },
    /// The newest roots trust nothing that was found.
    #[error("no usable {file} was found")]
    Nothing {
        /// Which metadata file.
        file: String,
    },
    /// A repository that serves older metadata than was seen before.
    #[error("{origin} serves {file} number {offered}, but {seen} was seen before")]
    RolledBack {
        /// Which repository.
        origin: Origin,
        /// Which metadata file.
        file: String,
        /// The number that it serves.
        offered: u64,
        /// The number that was seen.
        seen: u64,
    },
    /// The file's bytes are in no release.
    #[error("{} is not what was released as {product} {version}: its SHA-256 is {found}, not {expected}", quoted(.name))]
    Altered {
        /// The file's name.
        name: String,
        /// The product that lists a file of this name.
        product: Product,
        /// The release that lists it.
        version: Version,
        /// The digest of the file.
        found: Sha256,
        /// The digest that is listed.
        expected: Sha256,
    },
    /// The file is listed under another name.
    #[error("{} was released under the name {listed}, in {product} {version}", quoted(.name))]
    Renamed {
        /// The file's name.
        name: String,
        /// The name that is listed.
        listed: FileName,
        /// The product.
        product: Product,
        /// The release.
        version: Version,
    },
    /// No release lists the file, neither by name nor by content.
    #[error("{} is in no release of {product} (its SHA-256 is {found})", quoted(.name))]
    Unlisted {
        /// The file's name.
        name: String,
        /// The product that was asked.
        product: Product,
        /// The digest of the file.
        found: Sha256,
    },
    /// The release was taken back.
    #[error(
        "{} {how} {product} {}, which was withdrawn on {}: {}{}",
        quoted(.name), .entry.version, .entry.date.strftime("%Y-%m-%d"), .entry.reason,
        .entry.successor.as_ref().map_or_else(String::new, |successor| format!("; use {successor} instead"))
    )]
    Withdrawn {
        /// The file's name.
        name: String,
        /// How it is known to belong to that release.
        how: &'static str,
        /// The product.
        product: Product,
        /// What the newest release manifest says of it.
        entry: Box<Withdrawn>,
    },
    /// A claim that cannot be trusted.
    #[error("the claim of {holder} about {product} {version} {reason}")]
    Claim {
        /// Whose claim, or the key id where the holder is not known.
        holder: String,
        /// The product.
        product: Product,
        /// The release.
        version: Version,
        /// What is wrong.
        reason: String,
    },
    /// Fewer people built the release than must.
    #[error("{product} {version} was built by {} people ({}); {need} must have built it", .have.len(), list(.have))]
    TooFewClaims {
        /// The product.
        product: Product,
        /// The release.
        version: Version,
        /// Whose claims agree.
        have: Vec<Holder>,
        /// How many must.
        need: usize,
    },
    /// A suite for apt does not say what was released. A push replaces its files one
    /// after the other: what is still so a moment later is meant.
    #[error("{place}: {reason}")]
    Suite {
        /// Which file.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of the repository differs from what its metadata says.
    #[error("{place}: {reason}")]
    File {
        /// Which file.
        place: String,
        /// What is wrong.
        reason: String,
    },
}

fn list(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "nobody".to_owned();
    }
    holders.iter().map(Holder::as_str).collect::<Vec<_>>().join(", ")
}

/// Why there is no verdict, or a bad one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// REJECTED.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// A file or server could not be read; trying again may help.
    #[error(transparent)]
    Transport(#[from] crate::tuf::TransportError),
}

impl VerifyError {
    /// Sorts an error of the TUF client: a server that cannot be reached is no
    /// verdict on what it serves.
    pub(crate) fn of_client(origin: &Origin, file: &str, error: sigstore_tuf::Error) -> Self {
        match transport_cause(&error, file_at(origin, file)) {
            Some(cause) => Self::Transport(cause),
            None => {
                Self::Rejected(Rejection::Metadata { origin: origin.clone(), file: file.to_owned(), source: error })
            }
        }
    }
}

/// The core of TUF gives its causes by reference only.
fn copy_of(error: &std::io::Error) -> std::io::Error {
    error
        .raw_os_error()
        .map_or_else(|| std::io::Error::new(error.kind(), error.to_string()), std::io::Error::from_raw_os_error)
}

fn file_at(origin: &Origin, file: &str) -> String {
    match origin {
        Origin::Repository(place) => format!("{place} ({file})"),
        other => format!("{other} ({file})"),
    }
}

/// The reason of an error that lies in reaching or reading a file, not in what
/// it holds. A file that is too long is a verdict, a failed read is not.
fn transport_cause(error: &sigstore_tuf::Error, place: String) -> Option<crate::tuf::TransportError> {
    use crate::tuf::TransportError;
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(transport) = inner.downcast_ref::<TransportError>() {
            let reason = match transport {
                TransportError::TooLong { .. } | TransportError::NotAFile { .. } => return None,
                TransportError::Read { source, .. } => {
                    return Some(TransportError::Read { place, source: copy_of(source) });
                }
                TransportError::Fetch { reason, .. } => reason.clone(),
                TransportError::Status { status, .. } => format!("it answered with status {status}"),
                _ => transport.to_string(),
            };
            return Some(TransportError::Fetch { place, reason });
        }
        cause = inner.source();
    }
    None
}
