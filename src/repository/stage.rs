//! Makes what release managers sign: checksums, provenance, and the next
//! version of the product's role. All payloads are final before anybody is
//! asked for a signature.

use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

use super::RepositoryError;
use super::State;
use super::layout;
use crate::home::atomic;
use crate::manifest::Artifact;
use crate::manifest::FileName;
use crate::manifest::Kind;
use crate::manifest::Product;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::claim::Build;
use crate::manifest::json;
use crate::manifest::release;
use crate::tuf::Draft;
use crate::tuf::product::WITHDRAWN;

/// Clients refuse targets metadata of more than 5,000,000 bytes.
const MAX_ROLE: u64 = 4_000_000;
/// The statement that claims sign, in the folder of signing.
pub const STATEMENT: &str = "claim.statement.json";

/// What is ready to be signed.
#[derive(Debug, Clone)]
pub struct Staged {
    /// The next version of the product's role.
    pub role: Draft,
    /// The statement that claims sign.
    pub statement: Vec<u8>,
    /// `SHA256SUMS`.
    pub checksums: Vec<u8>,
    /// All files that the role lists for this version.
    pub files: Vec<Artifact>,
}

/// What a build says of itself, and all files of its release.
#[derive(Debug, Clone)]
pub struct Described {
    /// The statement that claims sign.
    pub statement: Vec<u8>,
    /// The same, with the head of the journal of whoever started the release.
    pub provenance: Vec<u8>,
    /// `SHA256SUMS`.
    pub checksums: Vec<u8>,
    /// All files that the role lists for this version.
    pub files: Vec<Artifact>,
}

impl Described {
    /// Describes a build. The same build and journal give the same bytes everywhere.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn of(build: &Build<'_>, artifacts: &[Artifact], journal: Sha256) -> Result<Self, RepositoryError> {
        let statement = build.statement(artifacts, None)?;
        let provenance = build.statement(artifacts, Some(journal))?;
        let mut files = artifacts.to_vec();
        files.push(entry(release::PROVENANCE, Kind::Provenance, &provenance)?);
        let checksums = release::checksums(&files).into_bytes();
        files.push(entry(release::CHECKSUMS, Kind::Checksums, &checksums)?);
        Ok(Self { statement, provenance, checksums, files })
    }
}

fn entry(name: &str, kind: Kind, bytes: &[u8]) -> Result<Artifact, RepositoryError> {
    let name: FileName = name.parse().map_err(|error: crate::manifest::names::NameError| RepositoryError::Damaged {
        file: name.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Artifact { name, kind, length: bytes.len() as u64, sha256: Sha256::of(bytes), control: None })
}

/// What is new in a release, for the person who signs it.
#[derive(Debug, Clone)]
pub struct Changes {
    /// The release before, if there is one.
    pub previous: Option<Version>,
    /// How many releases the role goes on to list unchanged.
    pub unchanged: usize,
    /// The files of the new release.
    pub added: Vec<Artifact>,
}

/// Where a release goes.
pub struct Place<'a> {
    /// What is published now.
    pub state: &'a State,
    /// The product.
    pub product: &'a Product,
    /// The version.
    pub version: &'a Version,
}

impl Place<'_> {
    /// Refuses a version that was released or withdrawn before.
    ///
    /// # Errors
    /// It was.
    pub fn check_free(&self) -> Result<(), RepositoryError> {
        let (product, version) = (self.product.clone(), self.version.clone());
        let listing = self.state.releases(self.product)?;
        if listing.releases.contains_key(self.version) {
            return Err(RepositoryError::Released { product, version });
        }
        if listing.withdrawn.iter().any(|withdrawn| withdrawn.version == *self.version) {
            return Err(RepositoryError::Withdrawn { product, version });
        }
        Ok(())
    }

    /// Stages a release: writes what is published to the folder `stage`, and what
    /// is signed to the folder `signing`, where no artifact's name can meet it.
    ///
    /// # Errors
    /// The version is taken, a path has no place, or the role grew too large.
    pub fn stage(
        &self,
        build: &Build<'_>,
        artifacts: &[Artifact],
        number: u64,
        expires: Timestamp,
        journal: Sha256,
        (stage, signing): (&Path, &Path),
    ) -> Result<Staged, RepositoryError> {
        self.check_free()?;
        let Described { statement, provenance, checksums, files } = Described::of(build, artifacts, journal)?;
        for file in &files {
            for path in self.names(file)? {
                layout::class_of(&path).ok_or(RepositoryError::NoPlace(path))?;
            }
        }
        let role = self.role(&files, number, expires)?;
        atomic::write(&stage.join(release::PROVENANCE), &provenance)?;
        atomic::write(&stage.join(release::CHECKSUMS), &checksums)?;
        atomic::write(&signing.join(STATEMENT), &statement)?;
        atomic::write(&self.role_file(signing), &role.to_file()?)?;
        Ok(Staged { role, statement, checksums, files })
    }

    /// Reads back what was staged, with the signatures so far.
    ///
    /// # Errors
    /// The stage is damaged.
    pub fn restore(&self, (stage, signing): (&Path, &Path)) -> Result<Staged, RepositoryError> {
        let role = Draft::parse(self.product.as_str(), &atomic::read(&self.role_file(signing))?)?;
        let statement = atomic::read(&signing.join(STATEMENT))?;
        let checksums = atomic::read(&stage.join(release::CHECKSUMS))?;
        let file = role.to_file()?;
        let damaged = |reason: String| RepositoryError::Damaged { file: format!("{}.json", self.product), reason };
        let metadata = sigstore_tuf::Metadata::<sigstore_tuf::Targets>::from_slice(&file)
            .map_err(|error| damaged(error.to_string()))?;
        let listing =
            crate::tuf::ProductRole::of(self.product, metadata.signed()).map_err(|error| damaged(error.to_string()))?;
        let files = listing.releases.get(self.version).map(|files| files.values().cloned().collect());
        let files = files.ok_or_else(|| damaged(format!("it does not list {}", self.version)))?;
        Ok(Staged { role, statement, checksums, files })
    }

    /// Where the role with its signatures so far is kept.
    pub fn role_file(&self, signing: &Path) -> std::path::PathBuf {
        signing.join(format!("{}.json", self.product))
    }

    /// What a person should look at before signing.
    ///
    /// # Errors
    /// The role before cannot be read.
    pub fn changes(&self, staged: &Staged) -> Result<Changes, RepositoryError> {
        let listing = self.state.releases(self.product)?;
        Ok(Changes {
            previous: listing.newest().cloned(),
            unchanged: listing.releases.len(),
            added: staged.files.clone(),
        })
    }

    /// The names under which a file of the release is published.
    ///
    /// # Errors
    /// A name is too long.
    pub fn names(&self, file: &Artifact) -> Result<[RepoPath; 2], RepositoryError> {
        let long = |error: crate::manifest::names::NameError| RepositoryError::Damaged {
            file: file.name.to_string(),
            reason: error.to_string(),
        };
        Ok([
            layout::target(self.product, self.version, file.sha256, &file.name).map_err(long)?,
            layout::release(self.product, self.version, file.name.as_str()).map_err(long)?,
        ])
    }

    /// The role that lists everything as before, and the new release.
    fn role(&self, files: &[Artifact], number: u64, expires: Timestamp) -> Result<Draft, RepositoryError> {
        let mut listing = self.state.releases(self.product)?;
        let entries = files.iter().map(|file| (file.name.clone(), file.clone())).collect();
        listing.releases.insert(self.version.clone(), entries);
        let mut targets = listing.to_targets(self.product);
        let withdrawn = match self.state.roles.get(self.product) {
            None => Value::Array(Vec::new()),
            Some((_, before)) => {
                let before = json::from_slice_strict(before)?;
                // Old entries go on byte for byte, whatever a later version adds to them.
                if let (Some(new), Some(old)) = (targets.as_object_mut(), before["signed"]["targets"].as_object()) {
                    new.extend(old.clone());
                }
                before["signed"][WITHDRAWN].clone()
            }
        };
        let role = Draft::product(self.product.as_str(), number, expires, &targets, &withdrawn);
        let length = role.to_file()?.len() as u64;
        if length > MAX_ROLE {
            return Err(RepositoryError::TooLarge { product: self.product.clone(), length, max: MAX_ROLE });
        }
        Ok(role)
    }
}
