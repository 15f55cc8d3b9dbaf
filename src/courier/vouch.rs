//! What signed metadata says of the names that a medium carries. Publications are
//! not signed themselves; without this, whoever has the medium could take names of
//! the future, which mirrors never give back.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::Carried;
use super::CourierError;
use crate::manifest::Entry;
use crate::manifest::Holder;
use crate::manifest::Product;
use crate::manifest::Publication;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::bundle;
use crate::manifest::names::NameError;
use crate::manifest::release;
use crate::progress::Event;
use crate::progress::Progress;
use crate::repository::layout;
use crate::transport::Files;
use crate::tuf;
use crate::tuf::Copies;
use crate::tuf::ProductRole;
use crate::verify::Rejection;
use crate::verify::Trust;
use crate::verify::repository;

/// What nobody has signed the length of is shorter, in bytes: a longer one would only
/// fill mirrors.
const MAX_UNLISTED: u64 = bundle::MAX_BUNDLE;

/// What is known of the repository from signed metadata.
struct Vouched {
    copies: Copies,
    pinned: Vec<u8>,
    listings: BTreeMap<Product, ProductRole>,
}

/// Verifies what a medium carries from the pinned root forward, and that its names
/// are those of what was signed. Gives the newest root.
///
/// # Errors
/// It does not verify, is of another project, or has names that nothing vouches for.
pub fn check(
    carried: &Arc<Carried>,
    pinned: &[u8],
    now: Timestamp,
    progress: &dyn Progress,
) -> Result<Vec<u8>, CourierError> {
    let verify = |error: Rejection| CourierError::Verify(error.into());
    let files: Arc<dyn Files> = Arc::<Carried>::clone(carried);
    let (served, products) = repository::fetch(&files, pinned, None).map_err(CourierError::Verify)?;
    let project = repository::project_of(&served, pinned, &[]).map_err(verify)?;
    if project.serial() != carried.export.serial {
        return Err(carried.refused(format!(
            "its newest timestamp has the number {}, not {}",
            project.serial(),
            carried.export.serial
        )));
    }
    let mut listings = BTreeMap::new();
    for product in products {
        let trust = repository::trust_of(&served, &product, pinned, &[]).map_err(verify)?;
        check_whole(carried, &trust)?;
        listings.insert(product, trust.listing().clone());
    }
    for stale in project.stale(now) {
        progress.event(Event::Warning(&format!("{stale}; users will be told that what they get is STALE")));
    }
    let vouched = Vouched { copies: served.copies, pinned: pinned.to_vec(), listings };
    for (name, entry) in carried.publications.values().flat_map(Publication::names) {
        if let Err(reason) = vouched.vouches(name, entry) {
            return Err(carried.refused(format!("{name} {reason}")));
        }
    }
    let newest = vouched.copies.roots.values().next_back();
    Ok(newest.cloned().unwrap_or(vouched.pinned))
}

fn unlisted(entry: &Entry) -> Result<(), &'static str> {
    if entry.length > MAX_UNLISTED { Err("is longer than such a file may be") } else { Ok(()) }
}

/// Demands that publications have all that was released: what somebody has left out
/// would be named by metadata, and be on no mirror.
fn check_whole(carried: &Carried, trust: &Trust) -> Result<(), CourierError> {
    let product = trust.product();
    let has = |name: Result<RepoPath, NameError>, expected: Option<Sha256>| {
        let name = name.map_err(|error| carried.refused(error.to_string()))?;
        match carried.content_of(&name) {
            Some(found) if expected.is_none_or(|expected| found == expected) => Ok(()),
            _ => Err(carried.refused(format!("no publication has {name} of what was released"))),
        }
    };
    let claimants = trust.policy().claimants();
    let need = trust.policy().products.get(product).map_or(0, |entry| entry.rebuilds as usize) + 1;
    for (version, files) in &trust.listing().releases {
        for artifact in files.values() {
            has(layout::target(product, version, artifact.sha256, &artifact.name), Some(artifact.sha256))?;
            has(layout::release(product, version, artifact.name.as_str()), Some(artifact.sha256))?;
        }
        has(layout::release(product, version, &release::bundle_file(product, version)), None)?;
        has(layout::bundle(product), None)?;
        let claim = |holder: &Holder| layout::release(product, version, &release::claim_file(holder));
        let claims = claimants.iter().filter(|holder| has(claim(holder), None).is_ok()).count();
        if claims < need {
            return Err(
                carried.refused(format!("publications have {claims} of {need} claims about {product} {version}"))
            );
        }
    }
    Ok(())
}

impl Vouched {
    /// Whether a name may be there with this content.
    fn vouches(&self, name: &RepoPath, entry: &Entry) -> Result<(), &'static str> {
        let segments: Vec<&str> = name.as_str().split('/').collect();
        match segments.as_slice() {
            ["targets", rest @ .., file] => match (file.split_once('.'), rest) {
                (Some((hash, _)), _) if hash.parse() != Ok(entry.sha256) => Err("does not bear its own digest"),
                (_, ["policy" | "keys", _]) => unlisted(entry),
                (Some((_, file)), [product, version]) => self.of_release(product, version, file, entry),
                _ => Err("is no target"),
            },
            ["releases", product, version, file] => self.of_release(product, version, file, entry),
            ["metadata", file] => unlisted(entry).and_then(|()| self.of_metadata(file, entry.sha256)),
            ["apt", "pool", ..] if self.is_released(entry) => Ok(()),
            ["apt", "pool", ..] => Err("is no package that was released"),
            ["apt", .., "by-hash", _, hash] if hash.parse() != Ok(entry.sha256) => Err("does not bear its own digest"),
            // Pointers that no verdict rests on, or that bear signatures of their own.
            _ => unlisted(entry),
        }
    }

    /// Whether content is that of a file of a release: one that is listed, or of a
    /// version that was withdrawn, under whose name it is there as well.
    fn is_released(&self, entry: &Entry) -> bool {
        let releases = self.listings.values().flat_map(|listing| listing.releases.values());
        let mut listed = releases.flat_map(BTreeMap::values);
        let withdrawn = |name: &RepoPath| {
            let segments: Vec<&str> = name.as_str().split('/').collect();
            matches!(segments.as_slice(), ["targets", product, version, file] if file
                .split_once('.')
                .is_some_and(|(_, file)| self.of_release(product, version, file, entry).is_ok()))
        };
        listed.any(|artifact| (artifact.sha256, artifact.length) == (entry.sha256, entry.length))
            || entry.names.iter().any(withdrawn)
    }

    /// A file of a release: one that is listed, or that belongs to one that is.
    fn of_release(&self, product: &str, version: &str, file: &str, entry: &Entry) -> Result<(), &'static str> {
        let names = product.parse::<Product>().ok().zip(version.parse::<Version>().ok());
        let (product, version) = names.ok_or("has no product or no version")?;
        let listing = self.listings.get(&product).ok_or("is of a product that has no release")?;
        if listing.withdrawn.iter().any(|withdrawn| withdrawn.version == version) {
            return Ok(());
        }
        let files = listing.releases.get(&version).ok_or("is of a version that nobody has released")?;
        let listed = file.parse().ok().and_then(|name: crate::manifest::FileName| files.get(&name));
        let holder = file.strip_prefix("claim.").and_then(|rest| rest.strip_suffix(".intoto.json"));
        match listed {
            Some(artifact) if (artifact.sha256, artifact.length) == (entry.sha256, entry.length) => Ok(()),
            Some(_) => Err("has another content than its release manifest says"),
            None if file == release::CHECKSUMS_SIGNATURE || file == release::bundle_file(&product, &version) => {
                unlisted(entry)
            }
            None if holder.is_some_and(|holder| holder.parse::<Holder>().is_ok()) => unlisted(entry),
            None => Err("is no file of its release"),
        }
    }

    /// Metadata: what is newest has been verified; nothing claims to be newer.
    fn of_metadata(&self, file: &str, sha256: Sha256) -> Result<(), &'static str> {
        let newer = Err("is newer than what was signed last");
        // The name says which number a file has; layout has checked its form.
        let Some((number, role)) = file.strip_suffix(".json").and_then(|stem| stem.split_once('.')) else {
            return Ok(());
        };
        let number: u64 = number.parse().map_err(|_| "has no number")?;
        if role == "root" {
            let first = tuf::number_of(&self.pinned) == Some(number);
            let known = if first { Some(&self.pinned) } else { self.copies.roots.get(&number) };
            let newest = self.copies.roots.keys().next_back().copied().or(tuf::number_of(&self.pinned));
            return match known {
                Some(root) if Sha256::of(root) == sha256 => Ok(()),
                Some(_) => Err("is another root than the one that is trusted"),
                // Before the pinned one.
                None if Some(number) < newest => Ok(()),
                None => newer,
            };
        }
        let newest = match role {
            "targets" => self.copies.targets.as_ref(),
            "snapshot" => self.copies.snapshot.as_ref(),
            product => product.parse().ok().and_then(|product: Product| self.copies.roles.get(&product)),
        };
        match newest.and_then(|newest| Some((tuf::number_of(newest)?, newest))) {
            Some((current, _)) if number < current => Ok(()),
            Some((current, newest)) if number == current && Sha256::of(newest) == sha256 => Ok(()),
            _ => newer,
        }
    }
}
