//! Sealing: snapshot, timestamp, bundles and suites for apt on top of what is published at that
//! moment. It happens under the home's lock.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;

use super::Pending;
use super::RepositoryError;
use super::State;
use super::apt;
use super::apt::ArchiveKey;
use super::index;
use super::layout;
use crate::home;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::key::Signer;
use crate::key::ToSign;
use crate::manifest::Bundle;
use crate::manifest::Product;
use crate::manifest::Publication;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::dsse;
use crate::manifest::dsse::Envelope;
use crate::manifest::names::NameError;
use crate::manifest::publication::TIMESTAMP;
use crate::manifest::release;
use crate::tuf::Draft;
use crate::tuf::ProductRole;
use crate::tuf::draft::MetaEntry;

/// A signed product role that is to be sealed, with the release that it adds.
pub struct SignedRelease<'a> {
    /// The product.
    pub product: &'a Product,
    /// The version that it adds; a withdrawal adds none.
    pub version: Option<&'a Version>,
    /// The signed role.
    pub role: &'a Draft,
    /// The claims about this version.
    pub claims: &'a [Envelope],
    /// Its files: their place in the home, their names, digest and size.
    pub files: Vec<ReleaseFile>,
}

/// A file of a release.
pub struct ReleaseFile {
    /// Where it is in the home.
    pub path: PathBuf,
    /// Its names in the repository.
    pub names: Vec<RepoPath>,
    /// Digest.
    pub sha256: Sha256,
    /// Size in bytes.
    pub length: u64,
}

/// The keys that sign a seal.
pub struct SealKeys<'a> {
    /// The id in the root of the key of snapshot and timestamp.
    pub keyid: String,
    /// That key.
    pub online: &'a dyn Signer,
    /// The key of suites for apt, where they are made anew.
    pub archive: Option<ArchiveKey<'a>>,
}

/// What a publication adds beside releases.
#[derive(Default, Clone, Copy)]
pub struct Added<'a> {
    /// Top-level files by name.
    pub files: &'a [(RepoPath, Vec<u8>)],
    /// The metadata that holds from then on, where it is not what was there before.
    pub state: Option<&'a State>,
}

/// Makes a publication on top of `state`: a release, new top-level files, or
/// neither, which only renews the dates.
///
/// # Errors
/// A key failed; files cannot be written. What was signed is kept, and
/// the same call goes on from there.
pub fn prepare(
    home: &Home,
    state: &State,
    pending: &Pending,
    release: Option<&SignedRelease<'_>>,
    added: &Added<'_>,
    keys: &SealKeys<'_>,
    journal: &mut Journal,
) -> Result<Publication, RepositoryError> {
    let state = added.state.unwrap_or(state);
    if let Some(publication) = pending.complete_before()? {
        return Ok(publication);
    }
    let mut roles = state.roles.clone();
    let mut names: Vec<(RepoPath, Sha256, u64)> = Vec::new();
    let mut add = |path: Result<RepoPath, NameError>, bytes: &[u8]| -> Result<(), RepositoryError> {
        let path = path.map_err(|error| no_place(&error))?;
        let (sha256, length) = pending.add_bytes(bytes)?;
        names.push((path, sha256, length));
        Ok(())
    };
    for (path, bytes) in added.files {
        add(Ok(path.clone()), bytes)?;
    }
    if let Some(release) = release {
        let file = release.role.to_file()?;
        add(layout::metadata(release.role.number(), release.product.as_str()), &file)?;
        roles.insert(release.product.clone(), (release.role.number(), file));
    }

    let (snapshot, timestamp) = sign_seal(home, pending, state, &roles, keys, journal)?;
    add(layout::metadata(pending.serial(), "snapshot"), &snapshot)?;
    let mut listings = Vec::new();
    for (product, (number, role)) in &roles {
        let bundle = |claims: Vec<Envelope>| {
            let bundle = Bundle {
                product: product.clone(),
                roots: state.roots.clone(),
                targets: state.targets.1.clone(),
                role: role.clone(),
                snapshot: snapshot.clone(),
                timestamp: timestamp.clone(),
                claims,
            };
            bundle.to_vec()
        };
        let metadata = sigstore_tuf::Metadata::<sigstore_tuf::Targets>::from_slice(role);
        let listing = metadata.ok().and_then(|role| ProductRole::of(product, role.signed()).ok());
        let listing = listing.ok_or_else(|| RepositoryError::Damaged {
            file: format!("{number}.{product}.json"),
            reason: "it cannot be read".to_owned(),
        })?;
        let of_release = release.filter(|release| release.product == product);
        let mut claims = published_claims(state, product, &listing)?;
        if let Some((release, version)) = of_release.and_then(|release| Some((release, release.version?))) {
            claims.extend(release.claims.iter().cloned());
            let path = layout::release(product, version, &release::bundle_file(product, version));
            add(path, &bundle(release.claims.to_vec())?)?;
        }
        add(layout::bundle(product), &bundle(claims)?)?;
        listings.push((product.clone(), listing));
    }
    let page = index::render(home.policy.repository.get_ref(), home.policy.site.as_deref(), &listings);
    add("index.html".parse(), &page)?;
    add(TIMESTAMP.parse(), &timestamp)?;
    if let Some(release) = release {
        for file in &release.files {
            pending.add_file(&file.path, file.sha256)?;
            names.extend(file.names.iter().map(|name| (name.clone(), file.sha256, file.length)));
        }
    }
    let files = release.map_or(&[][..], |release| &release.files);
    let product = release.map(|release| release.product);
    let suites = apt::Change { home, listings: &listings, product, files };
    names.extend(suites.seal(pending, keys.archive.as_ref(), journal)?);
    pending.complete(names)
}

fn no_place(error: &NameError) -> RepositoryError {
    RepositoryError::Damaged { file: "publication".to_owned(), reason: error.to_string() }
}

/// Snapshot and timestamp, signed by the online key and kept before more is
/// asked of it.
fn sign_seal(
    home: &Home,
    pending: &Pending,
    state: &State,
    roles: &BTreeMap<Product, (u64, Vec<u8>)>,
    keys: &SealKeys<'_>,
    journal: &mut Journal,
) -> Result<(Vec<u8>, Vec<u8>), RepositoryError> {
    let at = pending.at();
    let expires = expiry(at, home.policy.role.online.expires.get_ref().duration());
    // Snapshot and timestamp share their number; what one cut burned, both skip.
    let number = pending.serial();
    let mut meta = BTreeMap::from([("targets.json".to_owned(), MetaEntry::of(state.targets.0, &state.targets.1))]);
    for (product, (number, file)) in roles {
        meta.insert(format!("{product}.json"), MetaEntry::of(*number, file));
    }
    let snapshot = Draft::snapshot(number, expires, &meta);
    let snapshot = sign_online(pending, snapshot, keys, journal)?;
    home::step("seal.snapshot");
    let entry = MetaEntry::of(number, &snapshot);
    let timestamp = Draft::timestamp(pending.serial(), expires, &entry, at);
    let timestamp = sign_online(pending, timestamp, keys, journal)?;
    home::step("seal.timestamp");
    pending.keep_note()?;
    Ok((snapshot, timestamp))
}

fn sign_online(
    pending: &Pending,
    mut draft: Draft,
    keys: &SealKeys<'_>,
    journal: &mut Journal,
) -> Result<Vec<u8>, RepositoryError> {
    let name = format!("{}.json", draft.role());
    if let Some(file) = pending.signed(&name)? {
        return Ok(file);
    }
    let what = format!("{} {}", draft.role(), draft.number());
    journal.ask(pending.at(), keys.online.name(), &what, draft.digest()?)?;
    let signature = keys.online.sign(&what, ToSign::Message(&draft.canonical()?))?;
    draft.add_signature(&keys.keyid, &signature);
    let file = draft.to_file()?;
    pending.keep_signed(&name, &file)?;
    Ok(file)
}

/// The published claims about the releases of a product.
fn published_claims(state: &State, product: &Product, listing: &ProductRole) -> Result<Vec<Envelope>, RepositoryError> {
    let mut claims = Vec::new();
    let claimants = state.claimants()?;
    for version in listing.releases.keys() {
        for holder in &claimants {
            let path =
                layout::release(product, version, &release::claim_file(holder)).map_err(|error| no_place(&error))?;
            let path = state.folder().join(path.as_str());
            let bytes = crate::transport::read_plain(&path, dsse::MAX_ENVELOPE)
                .map_err(|error| HomeError::of_transport(&path, error))?;
            if let Some(bytes) = bytes {
                claims.push(Envelope::parse(&bytes).map_err(|error| RepositoryError::Damaged {
                    file: path.display().to_string(),
                    reason: error.to_string(),
                })?);
            }
        }
    }
    Ok(claims)
}

/// A date so much later, to the second, as TUF writes it.
pub fn expiry(at: Timestamp, period: jiff::SignedDuration) -> Timestamp {
    to_second(at.checked_add(period).unwrap_or(Timestamp::MAX))
}

/// A date to the second: neither TUF nor OpenPGP writes fractions.
pub fn to_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
