//! Which files of a repository's folder nobody has signed for.
//!
//! A person who verifies a folder takes what lies in it for verified. A file
//! that no metadata speaks of must therefore not lie there unnoticed.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::Read as _;

use super::repository::Whole;
use crate::manifest::Architecture;
use crate::manifest::Component;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::bundle;
use crate::manifest::release;
use crate::manifest::suite::MAX_INDEX;
use crate::tuf::Files;

/// Longer policies and certificates are not ours.
const MAX_TOP_LEVEL: u64 = 16 << 20;

/// Where packages for apt are. Those that a suite names were looked at with it; what
/// others are, their content says.
const POOL: &str = "apt/pool/";

/// Files that no metadata speaks of.
#[derive(Debug, Default)]
pub struct Unaccounted {
    /// Those with no right to be there.
    pub foreign: Vec<String>,
    /// Folders of versions that are not released: what a push brings before it
    /// is announced, or junk.
    pub unreleased: BTreeSet<String>,
}

/// Those of `paths` (relative, with `/`) that no metadata of `whole` speaks of.
pub fn unaccounted(files: &dyn Files, whole: &Whole, paths: impl IntoIterator<Item = String>) -> Unaccounted {
    let mut found = Unaccounted::default();
    let (pool, others): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.starts_with(POOL));
    // Under `targets/`, every content of a version is named by its digest.
    let mut twins: BTreeMap<Sha256, Twin> = BTreeMap::new();
    for path in others {
        let is_accounted = is_accounted(files, whole, &path);
        let unreleased = if is_accounted { None } else { unreleased(whole, &path) };
        if is_accounted || unreleased.is_some() {
            if let Some(digest) = digest_of_target(&path)
                && (is_accounted || !twins.contains_key(&digest))
            {
                twins.insert(digest, Twin { path, folder: unreleased.clone() });
            }
            found.unreleased.extend(unreleased);
        } else {
            found.foreign.push(path);
        }
    }
    let looked_at: BTreeSet<&String> = whole.suites.iter().flat_map(|suite| &suite.files).collect();
    let left: Vec<String> = pool.into_iter().filter(|path| !looked_at.contains(path)).collect();
    let length = |path: &str| files.open(path).ok().flatten().and_then(|opened| opened.length);
    let lengths: BTreeSet<u64> =
        if left.is_empty() { BTreeSet::new() } else { twins.values().filter_map(|twin| length(&twin.path)).collect() };
    for path in left {
        // What is as long as none of them is not read.
        let is_as_long = is_in_pool(&path) && length(&path).is_some_and(|length| lengths.contains(&length));
        let digest = if is_as_long { digest(files, &path) } else { None };
        match digest.and_then(|digest| twins.get(&digest)) {
            None => found.foreign.push(path),
            Some(twin) => found.unreleased.extend(twin.folder.clone()),
        }
    }
    found
}

/// A file below `targets/`, and the folder of its version if that is not released.
struct Twin {
    path: String,
    folder: Option<String>,
}

/// The digest that a file of a version bears in its name.
fn digest_of_target(path: &str) -> Option<Sha256> {
    let segments: Vec<&str> = path.split('/').collect();
    let ["targets", _, _, file] = segments.as_slice() else {
        return None;
    };
    file.split_once('.')?.0.parse().ok()
}

/// `apt/pool/<component>/<prefix>/<source>/<file>`.
fn is_in_pool(path: &str) -> bool {
    path.parse::<RepoPath>().is_ok() && path.split('/').count() == 6
}

fn digest(files: &dyn Files, path: &str) -> Option<Sha256> {
    let opened = files.open(path).ok()??;
    let (sha256, _) = Sha256::of_reader(opened.content.take(opened.length?), &mut |_| {}).ok()?;
    Some(sha256)
}

/// The folder of a version that no release has, if the path is in one.
fn unreleased(whole: &Whole, path: &str) -> Option<String> {
    path.parse::<RepoPath>().ok()?;
    let segments: Vec<&str> = path.split('/').collect();
    let ["targets" | "releases", product, version, _] = segments.as_slice() else {
        return None;
    };
    let version: Version = version.parse().ok()?;
    let of_product = whole.products.iter().find(|checked| checked.trust.product().as_str() == *product);
    let is_released = of_product.is_some_and(|checked| checked.trust.listing().releases.contains_key(&version));
    (is_product(whole, product) && !is_released).then(|| format!("releases/{product}/{version}"))
}

fn is_accounted(files: &dyn Files, whole: &Whole, path: &str) -> bool {
    // What a push in progress leaves has no name yet, and no reader asks for it.
    if path.starts_with(".incoming/") {
        return true;
    }
    if path.parse::<RepoPath>().is_err() {
        return false;
    }
    let segments: Vec<&str> = path.split('/').collect();
    match segments.as_slice() {
        ["index.html"] | ["metadata", "timestamp.json"] => true,
        ["metadata", file] => is_role(whole, file),
        ["keys", file] => is_certificate(file),
        ["bundles", file] => file.strip_suffix(bundle::SUFFIX).is_some_and(|product| is_product(whole, product)),
        // An older policy is signed by an older role; its name tells its content.
        ["targets", "policy" | "keys", _, file] => {
            let content = files.read(path, MAX_TOP_LEVEL).ok().flatten();
            content.is_some_and(|bytes| {
                file.split_once('.').is_some_and(|(hash, _)| hash.parse() == Ok(Sha256::of(&bytes)))
            })
        }
        ["targets", product, version, file] => {
            let hashed = file.split_once('.').and_then(|(hash, name)| Some((hash.parse::<Sha256>().ok()?, name)));
            hashed.is_some_and(|(sha256, name)| is_listed(whole, product, version, name, Some(sha256)))
        }
        ["releases", product, version, file] => is_listed(whole, product, version, file, None),
        ["apt", "dists", ..] if whole.suites.iter().any(|checked| checked.files.contains(path)) => true,
        // Indices of before, for whoever began then; the name tells the content.
        ["apt", "dists", suite, component, folder, "by-hash", "SHA256", hash] => {
            let mut suites = whole.project.policy().products.values().filter_map(|entry| entry.apt.as_ref());
            let is_ours = suites.any(|apt| apt.suite.as_str() == *suite)
                && component.parse::<Component>().is_ok()
                && (*folder == "source"
                    || folder.strip_prefix("binary-").is_some_and(|name| name.parse::<Architecture>().is_ok()));
            let content = if is_ours { files.read(path, MAX_INDEX).ok().flatten() } else { None };
            content.is_some_and(|bytes| hash.parse() == Ok(Sha256::of(&bytes)))
        }
        _ => false,
    }
}

/// `N.<role>.json`: old numbers stay, and whoever reads them checks signatures.
fn is_role(whole: &Whole, file: &str) -> bool {
    let role = file.strip_suffix(".json").and_then(|stem| stem.split_once('.'));
    role.is_some_and(|(number, role)| {
        number.bytes().all(|b| b.is_ascii_digit())
            && (matches!(role, "root" | "targets" | "snapshot") || is_product(whole, role))
    })
}

fn is_certificate(file: &str) -> bool {
    file.split_once('.').is_some_and(|(fingerprint, kind)| {
        matches!(kind, "asc" | "gpg") && fingerprint.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

fn is_product(whole: &Whole, name: &str) -> bool {
    whole.project.policy().products.keys().any(|product| product.as_str() == name)
}

fn is_listed(whole: &Whole, product: &str, version: &str, file: &str, sha256: Option<Sha256>) -> bool {
    let Some(checked) = whole.products.iter().find(|checked| checked.trust.product().as_str() == product) else {
        return false;
    };
    let Ok(version) = version.parse::<Version>() else {
        return false;
    };
    let listing = checked.trust.listing();
    if listing.withdrawn.iter().any(|withdrawn| withdrawn.version == version) {
        return true;
    }
    let Some(files) = listing.releases.get(&version) else {
        return false;
    };
    if let Some(listed) = files.values().find(|listed| listed.name.as_str() == file) {
        return sha256.is_none_or(|sha256| listed.sha256 == sha256);
    }
    // Claims and the bundle were checked with the release.
    let holders = checked.trust.policy().claims.values().map(|key| &key.holder);
    sha256.is_none()
        && (file == release::CHECKSUMS_SIGNATURE
            || file == release::bundle_file(checked.trust.product(), &version)
            || holders.into_iter().any(|holder| file == release::claim_file(holder)))
}
