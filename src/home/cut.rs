//! The state of a cut, so that the same command resumes it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use super::HomeError;
use super::atomic;
use crate::manifest::Artifact;
use crate::manifest::Holder;
use crate::manifest::Pin;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::SourceArchive;
use crate::manifest::Version;

/// The version of `cut.json` that this program writes and reads.
pub const VERSION: u32 = 1;
/// The name of the state file in the folder of a cut.
const FILE: &str = "cut.json";
/// The fetched source, in the folder of a cut.
pub const REPOSITORY: &str = "source.git";
/// The source archive that is built, in the folder of a cut.
pub const ARCHIVE: &str = "source.tar";

/// A cut: what is fixed so far. Each member is set once, and by then its files
/// are on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutState {
    version: u32,
    /// What is released.
    pub product: Product,
    /// Which version.
    pub release: Version,
    /// When the cut was started.
    pub started: Timestamp,
    /// What is built.
    pub pin: Option<Pin>,
    /// The source archive.
    pub archive: Option<SourceArchive>,
    /// What came out of the build.
    pub build: Option<BuildState>,
    /// The release manifest that is to be signed.
    pub staged: Option<StagedState>,
    /// Digest of the request for approval: that this terminal has made, or that it
    /// answers.
    #[serde(default)]
    pub requested: Option<Sha256>,
    /// The publication that holds the release.
    pub sealed: Option<u64>,
    /// Given up.
    pub abandoned: bool,
}

/// What came out of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildState {
    /// Digest of the recipe.
    pub recipe: Sha256,
    /// Digest of the environment.
    pub environment: Sha256,
    /// Inputs by path.
    pub inputs: BTreeMap<String, Sha256>,
    /// The artifacts, with the source archive.
    pub artifacts: Vec<Artifact>,
}

/// A release manifest that is to be signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagedState {
    /// The number of the product's role.
    pub number: u64,
    /// Digest of what the release managers sign.
    pub digest: Sha256,
    /// When it was made; also the creation time of the OpenPGP signatures.
    pub at: Timestamp,
    /// Who started the cut.
    pub starter: Holder,
}

impl CutState {
    /// A cut that has just begun.
    pub fn new(product: Product, release: Version, started: Timestamp) -> Self {
        Self {
            version: VERSION,
            product,
            release,
            started,
            pin: None,
            archive: None,
            build: None,
            staged: None,
            requested: None,
            sealed: None,
            abandoned: false,
        }
    }

    /// Where the state is, in the folder of a cut.
    pub fn file(folder: &Path) -> PathBuf {
        folder.join(FILE)
    }

    /// Loads the state from the folder of a cut; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or was written by a newer release.
    pub fn load(folder: &Path) -> Result<Option<Self>, HomeError> {
        atomic::read_json(&Self::file(folder), VERSION)
    }

    /// Loads the state of one cut. Two products can share the name of a folder:
    /// `a` in version `1-2`, `a-1` in version `2`.
    ///
    /// # Errors
    /// As [`Self::load`]; also if the folder is that of another cut.
    pub fn load_of(folder: &Path, product: &Product, release: &Version) -> Result<Option<Self>, HomeError> {
        let state = Self::load(folder)?;
        if let Some(other) = state.as_ref().filter(|state| state.product != *product || state.release != *release) {
            let owner = format!("{} {}", other.product, other.release);
            return Err(HomeError::Taken { path: folder.to_owned(), owner });
        }
        Ok(state)
    }

    /// Saves the state.
    ///
    /// # Errors
    /// It cannot be written; the old state is as it was.
    pub fn save(&self, folder: &Path) -> Result<(), HomeError> {
        atomic::write_json(&Self::file(folder), self)
    }

    /// Removes what only a cut that is going on needs: the source. What cannot be
    /// removed only takes space.
    pub fn drop_source(folder: &Path) {
        let _ = fs::remove_dir_all(folder.join(REPOSITORY));
        let _ = fs::remove_file(folder.join(ARCHIVE));
    }

    /// Whether the cut is neither finished nor given up.
    pub fn is_open(&self) -> bool {
        self.sealed.is_none() && !self.abandoned
    }
}
