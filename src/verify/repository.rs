//! Verifies a whole repository: all metadata, and every byte of every release
//! under each of its names.

use std::io::Read;
use std::sync::Arc;

use jiff::Timestamp;

use super::Origin;
use super::Project;
use super::Rejection;
use super::Source;
use super::Trust;
use super::VerifyError;
use super::claims;
use super::claims::Built;
use super::judge;
use super::judge::Verdict;
use super::strict;
use super::suites;
use super::suites::CheckedSuite;
use crate::manifest::Artifact;
use crate::manifest::Bundle;
use crate::manifest::Entry;
use crate::manifest::Product;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::bundle;
use crate::manifest::dsse;
use crate::manifest::dsse::Envelope;
use crate::manifest::names::quoted;
use crate::manifest::release;
use crate::parallel::in_parallel;
use crate::progress::Event;
use crate::progress::Progress;
use crate::progress::Silent;
use crate::progress::Stage;
use crate::tuf;
use crate::tuf::Client;
use crate::tuf::Files;
use crate::tuf::TransportError;

/// What a repository holds of one product.
#[derive(Debug)]
pub struct Checked {
    /// What is trusted about the product.
    pub trust: Trust,
    /// The verdict on each file of each release.
    pub files: Vec<Verdict>,
}

/// A repository that was verified.
#[derive(Debug)]
pub struct Whole {
    /// The metadata that it serves.
    pub served: Source,
    /// What is trusted about the project.
    pub project: Project,
    /// What it holds of each product that has had a release.
    pub products: Vec<Checked>,
    /// What it has for apt.
    pub suites: Vec<CheckedSuite>,
}

/// Reads a repository's metadata from the pinned root forward.
///
/// # Errors
/// Metadata that breaks the TUF workflow, or files that cannot be read.
pub fn fetch(
    files: &Arc<dyn Files>,
    pinned_root: &[u8],
    product: Option<&Product>,
) -> Result<(Source, Vec<Product>), VerifyError> {
    let origin = Origin::Repository(files.place());
    let mut client = Client::new(Arc::clone(files), pinned_root).map_err(Rejection::Root)?;
    let failed = |client: &Client, error| VerifyError::of_client(&origin, &client.last_file(), error);
    client.refresh().map_err(|error| failed(&client, error))?;
    let wanted = match product {
        Some(product) => vec![product.clone()],
        None => client.delegated(),
    };
    let mut loaded = Vec::new();
    for product in wanted {
        if client.has_role(&product) {
            client.load(&product).map_err(|error| failed(&client, error))?;
            loaded.push(product);
        }
    }
    let copies = client.copies().map_err(|error| failed(&client, error))?;
    Ok((Source { origin, copies }, loaded))
}

/// What the repository and everything else known lead to.
///
/// # Errors
/// As [`Project::establish`]; also a repository that serves less than was seen.
pub fn project_of(served: &Source, pinned_root: &[u8], others: &[Source]) -> Result<Project, Rejection> {
    let alone = Project::establish(pinned_root, std::slice::from_ref(served))?;
    let project = Project::establish(pinned_root, &joined(served, others))?;
    project.refuse_rollback(&alone)?;
    Ok(project)
}

/// The same for one product.
///
/// # Errors
/// As [`project_of`], and [`Trust::establish`].
pub fn trust_of(served: &Source, product: &Product, pinned_root: &[u8], others: &[Source]) -> Result<Trust, Rejection> {
    let alone = Trust::establish(pinned_root, product, std::slice::from_ref(served))?;
    let trust = Trust::establish(pinned_root, product, &joined(served, others))?;
    trust.refuse_rollback(&alone)?;
    Ok(trust)
}

fn joined(served: &Source, others: &[Source]) -> Vec<Source> {
    let mut sources = others.to_vec();
    sources.push(served.clone());
    sources
}

/// The claims about a release that a repository serves.
///
/// # Errors
/// Files that cannot be read, or that are not claims.
pub fn claims_of(files: &dyn Files, trust: &Trust, version: &Version) -> Result<Vec<Envelope>, VerifyError> {
    let mut envelopes = Vec::new();
    let mut asked = std::collections::BTreeSet::new();
    for claim_key in trust.policy().claims.values() {
        if !asked.insert(&claim_key.holder) {
            continue;
        }
        let path = format!("releases/{}/{version}/{}", trust.product(), release::claim_file(&claim_key.holder));
        if let Some(bytes) = files.read(&path, dsse::MAX_ENVELOPE)? {
            let place = format!("{}/{path}", files.place());
            let envelope = Envelope::parse(&bytes);
            envelopes.push(envelope.map_err(|error| Rejection::File { place, reason: error.to_string() })?);
        }
    }
    Ok(envelopes)
}

/// How much of a repository is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Every byte of every release, under each of its names.
    Everything,
    /// Metadata, checksums, claims and bundles.
    Metadata,
}

/// Verifies what is below `files`.
///
/// # Errors
/// The first thing that is not as signed metadata says, or that cannot be read.
pub fn check(
    files: &Arc<dyn Files>,
    pinned_root: &[u8],
    seen: &[Source],
    extent: Extent,
    now: Timestamp,
    progress: &dyn Progress,
) -> Result<Whole, VerifyError> {
    let (served, products) = fetch(files, pinned_root, None)?;
    let project = project_of(&served, pinned_root, seen)?;
    if extent == Extent::Everything {
        check_top_level(files.as_ref(), &project, progress)?;
    }
    let mut checked = Vec::new();
    for product in products {
        let trust = trust_of(&served, &product, pinned_root, seen)?;
        let what = format!("{product} at {}", files.place());
        progress.event(Event::Begin { stage: Stage::Verify, what: &what });
        let total: u64 = trust.listing().releases.values().flat_map(|files| files.values()).map(|f| f.length).sum();
        progress.event(Event::Length(total.saturating_mul(2)));
        let mut verdicts = Vec::new();
        for version in trust.listing().releases.keys() {
            let built = release(files.as_ref(), &trust, version, pinned_root, extent, progress)?;
            for artifact in trust.listing().releases[version].values() {
                verdicts.push(judge::verdict(&trust, version, artifact, built.clone(), now));
            }
        }
        if !trust.listing().releases.is_empty() {
            let path = bundle::current_path(&product);
            let bundle = check_bundle(files.as_ref(), &path, pinned_root)?;
            // A push brings it before the timestamp, so that it is never older.
            let offered = bundle.copies.timestamp.as_deref().and_then(tuf::number_of).unwrap_or_default();
            if offered < project.serial() {
                let origin = Origin::Repository(files.place());
                return Err(Rejection::RolledBack { origin, file: path, offered, seen: project.serial() }.into());
            }
        }
        checked.push(Checked { trust, files: verdicts });
    }
    let suites = suites::check(files.as_ref(), &project, &checked, extent, progress)?;
    Ok(Whole { served, project, products: checked, suites })
}

/// Verifies the files of the top-level role: policy and certificates.
fn check_top_level(files: &dyn Files, project: &Project, progress: &dyn Progress) -> Result<(), VerifyError> {
    for (path, sha256, length) in project.files() {
        let place = format!("{}/metadata/N.targets.json", files.place());
        let (Some((folder, file)), Some(sha256)) = (path.rsplit_once('/'), sha256) else {
            return Err(Rejection::File { place, reason: format!("lists {} without a SHA-256", quoted(path)) }.into());
        };
        let path: Result<RepoPath, _> = format!("targets/{folder}/{sha256}.{file}").parse();
        let path = path.map_err(|error| Rejection::File { place, reason: format!("lists {error}") })?;
        check_file(files, path.as_str(), sha256, length, progress)?;
    }
    Ok(())
}

/// Verifies one release: its files under both names, claims, checksums, bundle.
fn release(
    files: &dyn Files,
    trust: &Trust,
    version: &Version,
    pinned_root: &[u8],
    extent: Extent,
    progress: &dyn Progress,
) -> Result<Built, VerifyError> {
    let product = trust.product();
    let artifacts: Vec<&Artifact> = trust.listing().releases[version].values().collect();
    let mut work = Vec::new();
    for artifact in &artifacts {
        work.push((format!("targets/{product}/{version}/{}.{}", artifact.sha256, artifact.name), *artifact));
        work.push((format!("releases/{product}/{version}/{}", artifact.name), *artifact));
    }
    if extent == Extent::Everything {
        in_parallel(&work, |(path, artifact)| check_file(files, path, artifact.sha256, artifact.length, progress))?;
    }

    let checksums = format!("releases/{product}/{version}/{}", release::CHECKSUMS);
    let listed: Vec<Artifact> = artifacts
        .iter()
        .filter(|file| file.kind != crate::manifest::Kind::Checksums)
        .map(|file| (*file).clone())
        .collect();
    let expected = release::checksums(&listed);
    let place = format!("{}/{checksums}", files.place());
    match files.read(&checksums, expected.len() as u64)? {
        Some(found) if found == expected.as_bytes() => {}
        Some(_) => {
            return Err(Rejection::File { place, reason: "differs from the release manifest".to_owned() }.into());
        }
        None => return Err(Rejection::File { place, reason: "is missing".to_owned() }.into()),
    }
    check_bundle(
        files,
        &format!("releases/{product}/{version}/{}", release::bundle_file(product, version)),
        pinned_root,
    )?;
    let envelopes = claims_of(files, trust, version)?;
    Ok(claims::check(trust, version, &envelopes)?)
}

fn check_bundle(files: &dyn Files, path: &str, pinned_root: &[u8]) -> Result<Source, VerifyError> {
    let place = format!("{}/{path}", files.place());
    let Some(bytes) = files.read(path, bundle::MAX_BUNDLE)? else {
        return Err(Rejection::File { place, reason: "is missing".to_owned() }.into());
    };
    let bundle = Bundle::parse(&bytes).map_err(|source| Rejection::Bundle { name: path.to_owned(), source })?;
    Ok(strict::check(path, &bundle, pinned_root)?)
}

/// Compares a file of a publication with its entry.
///
/// # Errors
/// It differs, is missing, or cannot be read.
pub fn check_entry(files: &dyn Files, name: &RepoPath, entry: &Entry) -> Result<(), VerifyError> {
    check_file(files, name.as_str(), entry.sha256, entry.length, &Silent)
}

/// Compares a file with what is listed, reading no more than is listed.
pub(super) fn check_file(
    files: &dyn Files,
    path: &str,
    sha256: Sha256,
    length: u64,
    progress: &dyn Progress,
) -> Result<(), VerifyError> {
    let place = format!("{}/{path}", files.place());
    progress.event(Event::Request(&place));
    let Some(opened) = files.open(path)? else {
        return Err(Rejection::File { place, reason: "is missing".to_owned() }.into());
    };
    let bounded = opened.content.take(length.saturating_add(1));
    let (found, found_length) = Sha256::of_reader(bounded, &mut |count| progress.event(Event::Advance(count)))
        .map_err(|source| TransportError::Read { place: place.clone(), source })?;
    let reason = if found_length > length {
        format!("is longer than the {length} bytes that are listed")
    } else if found_length < length {
        format!("has {found_length} bytes, {length} are listed")
    } else if found != sha256 {
        format!("has SHA-256 {found}, {sha256} is listed")
    } else {
        return Ok(());
    };
    Err(Rejection::File { place, reason }.into())
}
