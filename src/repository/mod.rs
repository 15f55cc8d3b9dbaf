//! The repository: the static tree that terminal and mirrors share.
//!
//! [`layout`] says what every path is. [`stage`] makes what release managers
//! sign. [`seal`] puts a signed release on top of what is published at that
//! moment, as a [`crate::manifest::Publication`].

pub mod apt;
pub mod index;
pub mod layout;
pub mod pending;
pub mod seal;
pub mod stage;
pub mod state;

use crate::home::HomeError;
use crate::key::KeyError;
use crate::manifest::FileName;
use crate::manifest::Product;
use crate::manifest::RepoPath;
use crate::manifest::Suite;
use crate::manifest::Version;
use crate::manifest::json::JsonError;
use crate::openpgp::OpenPgpError;
use crate::tuf::draft::DraftError;

pub use pending::Pending;
pub use state::State;

/// A repository that cannot take a release.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// A state file of the home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A file cannot be read or written.
    #[error("cannot use {}", .path.display())]
    Io {
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Metadata of the home's repository cannot be read.
    #[error("the home's repository is damaged: {file}: {reason}")]
    Damaged {
        /// Which file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// Metadata cannot be made.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// JSON cannot be made.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A path has no place in the layout. Nothing was signed.
    #[error("{0} has no place in the repository's layout")]
    NoPlace(RepoPath),
    /// An artifact is no package that users of apt could be given.
    #[error("{file} is no package that users could be given; nothing was signed")]
    Deb {
        /// The artifact.
        file: FileName,
        /// What is wrong.
        source: apt::DebError,
    },
    /// The indices of a suite cannot be made.
    #[error(transparent)]
    Index(#[from] apt::IndexError),
    /// A suite cannot be signed.
    #[error("cannot sign the suite for apt")]
    OpenPgp(#[source] OpenPgpError),
    /// Users would not take the signature of a suite as long as the suite is valid.
    #[error(
        "certificate {fingerprint} of the archive is not good until {}, as the suite would be: apt would refuse it",
        .until.strftime("%Y-%m-%d")
    )]
    ArchiveExpires {
        /// Which certificate.
        fingerprint: String,
        /// Until when it would have to be good.
        until: jiff::Timestamp,
    },
    /// A suite would not be signed.
    #[error("suite {0} for apt must be signed, and the key of the archive was not opened")]
    NoArchiveKey(Suite),
    /// The version was released before.
    #[error("{product} {version} was released before; a version is released once")]
    Released {
        /// The product.
        product: Product,
        /// The version.
        version: Version,
    },
    /// The version was withdrawn before.
    #[error("{product} {version} was withdrawn; use another version")]
    Withdrawn {
        /// The product.
        product: Product,
        /// The version.
        version: Version,
    },
    /// The product's role has grown too large for clients.
    #[error("the release manifest of {product} has {length} bytes; clients refuse more than {max}")]
    TooLarge {
        /// The product.
        product: Product,
        /// Its size in bytes.
        length: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// Another command stopped while it sealed; its numbers are taken.
    #[error("sealing of publication {serial} for {purpose} was interrupted")]
    Interrupted {
        /// The publication.
        serial: u64,
        /// What it is for.
        purpose: String,
    },
}

impl From<OpenPgpError> for RepositoryError {
    fn from(error: OpenPgpError) -> Self {
        match error {
            OpenPgpError::Key(error) => Self::Key(error),
            error @ OpenPgpError::Other(_) => Self::OpenPgp(error),
        }
    }
}

impl RepositoryError {
    /// Whether something foreign is not as it must be.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Deb { source: apt::DebError::Refused(_), .. })
    }

    pub(crate) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}
