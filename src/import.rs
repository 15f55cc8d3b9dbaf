//! Brings a home up to date from a mirror: one that was restored from a backup,
//! or one whose project has published from another terminal.
//!
//! Nothing is taken on the mirror's word. Metadata is followed from the home's
//! own root forward and must not be older than what the home has; every file is
//! compared with it. The result is a publication like any other, so that a
//! killed import is finished or begun again.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use sigstore_tuf::Metadata;
use sigstore_tuf::Targets;

use crate::amend;
use crate::home::Event;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::manifest::Artifact;
use crate::manifest::FileName;
use crate::manifest::Kind;
use crate::manifest::Product;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::bundle;
use crate::manifest::dsse;
use crate::manifest::names::NameError;
use crate::manifest::publication::TIMESTAMP;
use crate::manifest::release;
use crate::openpgp;
use crate::openpgp::Certificate;
use crate::progress;
use crate::progress::Progress;
use crate::progress::Silent;
use crate::progress::Stage;
use crate::repository::Pending;
use crate::repository::RepositoryError;
use crate::repository::State;
use crate::repository::index;
use crate::repository::layout;
use crate::repository::pending;
use crate::transport::Files;
use crate::transport::TransportError;
use crate::tuf;
use crate::tuf::Draft;
use crate::verify;
use crate::verify::Origin;
use crate::verify::Rejection;
use crate::verify::Trust;
use crate::verify::VerifyError;
use crate::verify::repository;
use crate::verify::repository::Extent;
use crate::verify::repository::Whole;

/// A root is far shorter.
const MAX_ROOT: u64 = 512_000;
/// A file of signatures is far shorter.
const MAX_SIGNATURES: u64 = 1 << 20;

/// A mirror that a home cannot be brought up to date from. The home is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// What it serves does not verify, or is older than what the home has.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl From<Rejection> for ImportError {
    fn from(rejection: Rejection) -> Self {
        Self::Verify(rejection.into())
    }
}

impl From<TransportError> for ImportError {
    fn from(error: TransportError) -> Self {
        Self::Verify(error.into())
    }
}

/// What was taken over.
#[derive(Debug)]
pub struct Imported {
    /// The publication before.
    pub before: u64,
    /// The newest publication now.
    pub serial: u64,
}

/// Takes over the newest state that `files` serves. The caller holds the lock.
///
/// # Errors
/// It does not verify, or it is older than the home; a file that is used once
/// has other content in the home.
pub fn from_mirror(
    home: &Home,
    files: &Arc<dyn Files>,
    now: Timestamp,
    progress: &dyn Progress,
) -> Result<Imported, ImportError> {
    Pending::finish_interrupted(home)?;
    let state = match first_root(home, files)? {
        Some(root) => State::first(&home.repository(), root, Vec::new()),
        None => State::load(&home.repository())?,
    };
    let known = verify::Source { origin: Origin::Memory, copies: state.copies() };
    let known = if state.serial() == 0 { Vec::new() } else { vec![known] };
    // From the first root on, which old bundles begin with; what is known says which follow.
    let root = state.first_root()?;
    let whole = repository::check(files, root, &known, Extent::Metadata, now, progress)?;
    // What it serves is no older than what the home knows, so that both are one.
    let serial = whole.project.serial();
    let numbers: BTreeMap<Product, u64> =
        whole.products.iter().map(|checked| (checked.trust.product().clone(), checked.trust.role_number())).collect();
    let event = Event::Import { from: files.place(), serial, numbers };
    if serial == state.serial() {
        // The home that was lost may have signed what was never published. What
        // was begun here keeps its numbers.
        if Pending::find(home)?.is_none() {
            home.journal()?.append(now, event)?;
        }
        return Ok(Imported { before: serial, serial });
    }
    // A seal that was begun before: the world has given its number to another.
    while let Some((begun, _)) = Pending::find(home)? {
        Pending::discard(home, begun)?;
    }
    let pending = Pending::begin(home, serial, pending::IMPORT, now, None)?;
    let copy = Copy { files: files.as_ref(), pending: &pending, now, progress, names: Vec::new() };
    let names = copy.all(home, &state, &whole)?;
    let publication = pending.complete(names)?;
    // What was copied is not what was looked at, if somebody changed it in between.
    let copied: Arc<dyn Files> = Arc::new(pending.preview(&publication));
    let known = verify::Source { origin: Origin::Memory, copies: whole.served.copies };
    repository::check(&copied, root, &[known], Extent::Metadata, now, &Silent)?;
    pending.mark_checked()?;
    home.journal()?.append(now, event)?;
    pending.commit(&publication)?;
    Ok(Imported { before: state.serial(), serial })
}

/// The first root, where this home has signed it and not seen it since.
fn first_root(home: &Home, files: &Arc<dyn Files>) -> Result<Option<Vec<u8>>, ImportError> {
    const FIRST: &str = "metadata/1.root.json";
    let Some(agreed) = amend::agreed_root(home)?.filter(|_| !home.repository().join(FIRST).exists()) else {
        return Ok(None);
    };
    let served = files.read(FIRST, MAX_ROOT)?.unwrap_or_default();
    let is_same = Draft::parse("root", &served).and_then(|root| root.digest()).is_ok_and(|digest| digest == agreed);
    if !is_same {
        let reason = "it is not the first root that this terminal has signed".to_owned();
        return Err(Rejection::File { place: format!("{}/{FIRST}", files.place()), reason }.into());
    }
    Ok(Some(served))
}

/// Copies what a verified repository names into a publication.
struct Copy<'a> {
    files: &'a dyn Files,
    pending: &'a Pending,
    now: Timestamp,
    progress: &'a dyn Progress,
    names: Vec<(RepoPath, Sha256, u64)>,
}

impl Copy<'_> {
    fn all(mut self, home: &Home, state: &State, whole: &Whole) -> Result<Vec<(RepoPath, Sha256, u64)>, ImportError> {
        let copies = &whole.served.copies;
        for (number, root) in &copies.roots {
            self.add(layout::metadata(*number, "root"), root)?;
        }
        let targets = copies.targets.as_deref().unwrap_or_default();
        self.add_numbered("targets", targets)?;
        self.add_numbered("snapshot", copies.snapshot.as_deref().unwrap_or_default())?;
        self.top_level(targets)?;
        let mut listings = Vec::new();
        for checked in &whole.products {
            let product = checked.trust.product();
            self.add_numbered(product.as_str(), copies.roles.get(product).map(Vec::as_slice).unwrap_or_default())?;
            let listed = checked.trust.listing();
            let total = listed.releases.values().flat_map(BTreeMap::values).map(|artifact| artifact.length).sum();
            self.progress.event(progress::Event::Begin { stage: Stage::Download, what: product.as_str() });
            self.progress.event(progress::Event::Length(total));
            for (version, artifacts) in &listed.releases {
                self.release(home, state, &checked.trust, version, artifacts)?;
            }
            let path = layout::bundle(product).map_err(no_place)?;
            self.small(path.as_str(), bundle::MAX_BUNDLE, true)?;
            listings.push((product.clone(), listed.clone()));
        }
        let page = index::render(home.policy.repository.get_ref(), home.policy.site.as_deref(), &listings);
        self.add("index.html".parse(), &page)?;
        self.add(TIMESTAMP.parse(), copies.timestamp.as_deref().unwrap_or_default())?;
        Ok(self.names)
    }

    /// The targets of the top-level role: policy and certificates.
    fn top_level(&mut self, targets: &[u8]) -> Result<(), ImportError> {
        let damaged = |reason: String| RepositoryError::Damaged { file: "targets.json".to_owned(), reason };
        let metadata = Metadata::<Targets>::from_slice(targets).map_err(|error| damaged(error.to_string()))?;
        for (name, target) in &metadata.signed().targets {
            let sha256 = target.hashes.get("sha256").and_then(|hex| hex.parse().ok());
            let (Some((folder, file)), Some(sha256)) = (name.rsplit_once('/'), sha256) else {
                return Err(damaged("it lists a target of a kind that this version does not know".to_owned()).into());
            };
            let path = format!("targets/{folder}/{sha256}.{file}").parse();
            self.fetch(&[path.map_err(no_place)?], sha256, target.length)?;
        }
        Ok(())
    }

    /// One release: artifacts, claims, signatures and bundle.
    fn release(
        &mut self,
        home: &Home,
        state: &State,
        trust: &Trust,
        version: &Version,
        artifacts: &BTreeMap<FileName, Artifact>,
    ) -> Result<(), ImportError> {
        let product = trust.product();
        let public = |file: &str| layout::release(product, version, file).map_err(no_place);
        // What the home has under these names it does not need again.
        if state.releases(product)?.releases.contains_key(version) {
            return Ok(());
        }
        for artifact in artifacts.values() {
            let target = layout::target(product, version, artifact.sha256, &artifact.name).map_err(no_place)?;
            self.fetch(&[target, public(artifact.name.as_str())?], artifact.sha256, artifact.length)?;
        }
        // Nothing is known of claims by people who have no claim key.
        for holder in trust.policy().claimants() {
            self.small(public(&release::claim_file(holder))?.as_str(), dsse::MAX_ENVELOPE, false)?;
        }
        self.signatures(home, &public(release::CHECKSUMS_SIGNATURE)?, artifacts)?;
        self.small(public(&release::bundle_file(product, version))?.as_str(), bundle::MAX_BUNDLE, true)
    }

    /// `SHA256SUMS.asc`, which metadata does not list. Whatever a mirror has under that
    /// name would be published by this home, so that an enrolled person must have signed it.
    fn signatures(
        &mut self,
        home: &Home,
        path: &RepoPath,
        artifacts: &BTreeMap<FileName, Artifact>,
    ) -> Result<(), ImportError> {
        let Some(bytes) = self.files.read(path.as_str(), MAX_SIGNATURES)? else {
            return Ok(());
        };
        let listed = artifacts.values().filter(|file| file.kind != Kind::Checksums).cloned().collect::<Vec<_>>();
        let checksums = release::checksums(&listed);
        let mut certificates = Vec::new();
        for entry in home.policy.certificates().filter(|entry| entry.holder.is_some()) {
            certificates.extend(Certificate::one(&atomic::read(&home.resolve(entry.file.get_ref()))?));
        }
        let signers = openpgp::signers_of(checksums.as_bytes(), &bytes, &certificates, self.now, &BTreeSet::new());
        if signers.is_ok_and(|signers| !signers.is_empty()) {
            return self.add(Ok(path.clone()), &bytes);
        }
        let warning = format!("{}/{path} is not signed by anybody whose certificate is good now", self.files.place());
        self.progress.event(progress::Event::Warning(&format!("{warning}; it was left out")));
        Ok(())
    }

    fn add_numbered(&mut self, role: &str, file: &[u8]) -> Result<(), ImportError> {
        let number = tuf::number_of(file).unwrap_or_default();
        self.add(layout::metadata(number, role), file)
    }

    fn add(&mut self, path: Result<RepoPath, NameError>, bytes: &[u8]) -> Result<(), ImportError> {
        let (sha256, length) = self.pending.add_bytes(bytes)?;
        self.names.push((path.map_err(no_place)?, sha256, length));
        Ok(())
    }

    /// A file that was checked as far as it can be, and that nobody signs as a
    /// whole.
    fn small(&mut self, path: &str, max: u64, needed: bool) -> Result<(), ImportError> {
        match self.files.read(path, max)? {
            Some(bytes) => self.add(path.parse(), &bytes),
            None if needed => Err(self.wrong(path, "is missing")),
            None => Ok(()),
        }
    }

    /// A file whose digest is signed.
    fn fetch(&mut self, names: &[RepoPath], sha256: Sha256, length: u64) -> Result<(), ImportError> {
        let Some(first) = names.first() else {
            return Ok(());
        };
        let Some(opened) = self.files.open(first.as_str())? else {
            return Err(self.wrong(first.as_str(), "is missing"));
        };
        if !self.pending.add_reader(opened.content, sha256, length)? {
            return Err(self.wrong(first.as_str(), "differs from the release manifest"));
        }
        self.progress.event(progress::Event::Advance(length));
        self.names.extend(names.iter().map(|name| (name.clone(), sha256, length)));
        Ok(())
    }

    fn wrong(&self, path: &str, reason: &str) -> ImportError {
        let place = format!("{}/{path}", self.files.place());
        Rejection::File { place, reason: reason.to_owned() }.into()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn no_place(error: NameError) -> RepositoryError {
    RepositoryError::Damaged { file: "publication".to_owned(), reason: error.to_string() }
}
