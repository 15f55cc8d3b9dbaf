//! The repository for apt: packages of releases, and the indices that name them.
//!
//! [`Deb`] reads a package, [`Dsc`] a source package; [`Change`] makes the suites of
//! those that are released.

mod ar;
mod control;
mod deb;
mod dsc;
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
use crate::transport::read_plain;

pub use control::Control;
pub use deb::Deb;
pub use dsc::Dsc;
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

/// Reads every package, binary and source, among the artifacts of a build, which are in `folder`, and adds
/// the digest of what it says of itself. To be called before anything is signed.
///
/// # Errors
/// One is malformed or would do harm, or holds something else than its name says.
pub fn describe(artifacts: &mut [Artifact], folder: &Path) -> Result<(), RepositoryError> {
    let all = artifacts.to_vec();
    for artifact in artifacts.iter_mut().filter(|artifact| matches!(artifact.kind, Kind::Deb | Kind::Dsc)) {
        let path = folder.join(artifact.name.as_str());
        let refuse = |source| RepositoryError::Deb { file: artifact.name.clone(), source };
        let stanza = if artifact.kind == Kind::Deb {
            let opened = open_plain(&path).map_err(|error| HomeError::of_transport(&path, error))?;
            let (file, _) = opened.ok_or(HomeError::Missing(path))?;
            let deb = Deb::check(file).map_err(refuse)?;
            // `<package>_<version>_<architecture>.deb`, where it has that form, is a promise.
            let expected = deb.control.file_name();
            if artifact.name.as_str().split('_').count() == 3 && artifact.name.as_str() != expected {
                return Err(refuse(DebError::new(format!("what it holds is {expected}"))));
            }
            deb.control.stanza()
        } else {
            let dsc = read_dsc(&path)?.map_err(refuse)?;
            if artifact.name.as_str() != dsc.file_name() {
                return Err(refuse(DebError::new(format!("what it says is {}", dsc.file_name()))));
            }
            for file in &dsc.files {
                let is_it = |other: &Artifact| {
                    (&other.name, other.length, other.sha256) == (&file.name, file.length, file.sha256)
                };
                if !all.iter().any(is_it) {
                    let reason = format!("it lists {}, which is no artifact, or another one", file.name);
                    return Err(refuse(DebError::new(reason)));
                }
            }
            dsc.stanza()
        };
        artifact.control = Some(Sha256::of(stanza.as_bytes()));
    }
    Ok(())
}

/// Reads a `.dsc`.
fn read_dsc(path: &Path) -> Result<Result<Dsc, DebError>, RepositoryError> {
    let bytes = read_plain(path, dsc::MAX_LENGTH).map_err(|error| HomeError::of_transport(path, error))?;
    Ok(Dsc::parse(&bytes.ok_or_else(|| HomeError::Missing(path.to_owned()))?))
}
