//! The repository for apt: packages of releases, and the indices that name them.
//!
//! [`Deb`] reads a package, [`Change`] makes the suites of those that are released.

mod ar;
mod control;
mod deb;
mod index;
mod suite;
mod unpack;
mod version;

use std::path::Path;

use super::RepositoryError;
use crate::home::HomeError;
use crate::manifest::Artifact;
use crate::manifest::Kind;
use crate::manifest::Sha256;
use crate::transport::open_plain;

pub use control::Control;
pub use deb::Deb;
pub use index::IndexError;
pub use suite::ArchiveKey;
pub use suite::Change;
pub use suite::is_published;
pub use suite::valid_until;
pub use version::DebVersion;

/// A package that apt is not given.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// Its file cannot be read.
    #[error("it cannot be read")]
    Io(#[source] std::io::Error),
    /// It is malformed, or would do harm.
    #[error("{0}")]
    Refused(String),
}

impl DebError {
    fn new(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }
}

/// Reads every package among the artifacts of a build, which are in `folder`, and adds
/// the digest of what it says of itself. To be called before anything is signed.
///
/// # Errors
/// One is malformed or would do harm, or holds something else than its name says.
pub fn describe(artifacts: &mut [Artifact], folder: &Path) -> Result<(), RepositoryError> {
    for artifact in artifacts.iter_mut().filter(|artifact| artifact.kind == Kind::Deb) {
        let path = folder.join(artifact.name.as_str());
        let refuse = |source| RepositoryError::Deb { file: artifact.name.clone(), source };
        let opened = open_plain(&path).map_err(|error| HomeError::of_transport(&path, error))?;
        let (file, _) = opened.ok_or(HomeError::Missing(path))?;
        let deb = Deb::check(file).map_err(refuse)?;
        // `<package>_<version>_<architecture>.deb`, where it has that form, is a promise.
        let expected = deb.control.file_name();
        if artifact.name.as_str().split('_').count() == 3 && artifact.name.as_str() != expected {
            return Err(refuse(DebError::new(format!("what it holds is {expected}"))));
        }
        artifact.control = Some(Sha256::of(deb.control.stanza().as_bytes()));
    }
    Ok(())
}
