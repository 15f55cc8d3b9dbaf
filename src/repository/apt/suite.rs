//! The suites of the policy: what is in them, and when they are made anew.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;

use super::Deb;
use super::DebError;
use super::index;
use super::index::Head;
use super::index::Package;
use crate::home;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::key::Signer;
use crate::manifest;
use crate::manifest::Architecture;
use crate::manifest::Artifact;
use crate::manifest::Class;
use crate::manifest::Component;
use crate::manifest::FileName;
use crate::manifest::Product;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::Suite;
use crate::manifest::suite::APT;
use crate::manifest::suite::IN_RELEASE;
use crate::manifest::suite::RELEASE;
use crate::manifest::suite::RELEASE_SIGNATURE;
use crate::openpgp;
use crate::openpgp::Certificate;
use crate::repository::Pending;
use crate::repository::RepositoryError;
use crate::repository::layout;
use crate::repository::seal;
use crate::repository::seal::ReleaseFile;
use crate::tuf::ProductRole;

/// The key that signs `InRelease`, and the certificate that it is in.
pub struct ArchiveKey<'a> {
    /// The certificate.
    pub certificate: Certificate,
    /// Its subkey that signs.
    pub signer: &'a dyn Signer,
}

/// Packages by component, in their places in the pool.
type Packages = BTreeMap<Component, Vec<Package>>;

/// Whether users have suites, who must be able to tell that nothing is newer: then a
/// seal that renews all dates needs the key of the archive.
pub fn is_published(home: &Home) -> bool {
    suites(home, None).into_iter().any(|suite| in_release(home, suite).exists())
}

/// The suites that the policy has for a product, or for all.
fn suites<'h>(home: &'h Home, product: Option<&Product>) -> Vec<&'h Suite> {
    let of_products = home.policy.products.iter().filter(|(name, _)| product.is_none_or(|product| product == *name));
    let mut suites: Vec<&Suite> =
        of_products.filter_map(|(_, policy)| policy.apt.as_ref()).map(|apt| apt.suite.get_ref()).collect();
    suites.sort();
    suites.dedup();
    suites
}

fn in_release(home: &Home, suite: &Suite) -> PathBuf {
    home.repository().join(format!("{APT}dists/{suite}/{IN_RELEASE}"))
}

/// Until when each published suite is valid.
///
/// # Errors
/// A file of the home cannot be read.
pub fn valid_until(home: &Home) -> Result<Vec<(Suite, Timestamp)>, RepositoryError> {
    let mut all = Vec::new();
    for suite in suites(home, None) {
        let path = in_release(home, suite);
        if let Some(bytes) = atomic::read_if_there(&path)? {
            let until = manifest::suite::valid_until(&bytes);
            let none = || HomeError::Damaged { path, reason: "it does not say until when it is valid".to_owned() };
            all.push((suite.clone(), until.ok_or_else(none)?));
        }
    }
    Ok(all)
}

/// What a seal changes in suites.
pub struct Change<'a> {
    /// The home.
    pub home: &'a Home,
    /// All products with what their roles will list.
    pub listings: &'a [(Product, ProductRole)],
    /// The product whose release or withdrawal is sealed; without one, all dates are
    /// renewed if the key for that is there.
    pub product: Option<&'a Product>,
    /// The files of a new release, which are not in the repository yet.
    pub files: &'a [ReleaseFile],
}

impl Change<'_> {
    /// Adds packages, indices and signatures to a publication. Gives their names.
    ///
    /// # Errors
    /// A package cannot go into its suite; the archive key failed. What was signed is
    /// kept, and the same call goes on from there.
    pub fn seal(
        &self,
        pending: &Pending,
        archive: Option<&ArchiveKey<'_>>,
        journal: &mut Journal,
    ) -> Result<Vec<(RepoPath, Sha256, u64)>, RepositoryError> {
        let mut names = Vec::new();
        for suite in suites(self.home, self.product) {
            let packages = self.packages(suite, &mut |from, package| {
                if self.is_new(&package.path) {
                    pending.add_file(from, package.sha256)?;
                    names.push((package.path.clone(), package.sha256, package.length));
                }
                Ok(())
            })?;
            if packages.values().all(Vec::is_empty) && !in_release(self.home, suite).exists() {
                continue;
            }
            let archive = match (archive, self.product) {
                (Some(archive), _) => archive,
                (None, None) => continue,
                (None, Some(_)) => return Err(RepositoryError::NoArchiveKey(suite.clone())),
            };
            let origin = manifest::suite::origin(self.home.policy.repository.get_ref());
            let (origin, signed_by) = (origin.map_err(index::IndexError::from)?, archive.certificate.fingerprint());
            let head = Head { suite, origin, signed_by };
            let at = seal::to_second(pending.at());
            let until = seal::expiry(at, self.home.policy.role.online.expires.get_ref().duration());
            let made = index::indices(head, &packages, self.published(suite), (at, until))?;
            let is_needed = |path: &RepoPath| layout::class_of(path) != Some(Class::WriteOnce) || self.is_new(path);
            for (path, bytes) in made.files.into_iter().filter(|(path, _)| is_needed(path)) {
                let (sha256, length) = pending.add_bytes(&bytes)?;
                names.push((path, sha256, length));
            }
            for (file, bytes) in sign(suite, &made.release, pending, archive, journal)? {
                let (sha256, length) = pending.add_bytes(&bytes)?;
                names.push((manifest::suite::file(suite, file).map_err(index::IndexError::from)?, sha256, length));
            }
        }
        Ok(names)
    }

    /// The architectures that the suite has had: users of one whose last package was
    /// withdrawn must hear of that.
    fn published(&self, suite: &Suite) -> BTreeSet<Architecture> {
        let folder = self.home.repository().join(format!("{APT}dists/{suite}"));
        let below = |folder: PathBuf| folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        let of_components = below(folder).flat_map(below);
        let name = |path: PathBuf| path.file_name()?.to_str()?.strip_prefix("binary-")?.parse().ok();
        of_components.filter_map(name).collect()
    }

    /// Whether a name is not in the home's repository yet.
    fn is_new(&self, path: &RepoPath) -> bool {
        !self.home.repository().join(path.as_str()).exists()
    }

    /// The packages of a suite; `found` is told of each and where its file is now.
    fn packages(
        &self,
        suite: &Suite,
        found: &mut dyn FnMut(&Path, &Package) -> Result<(), RepositoryError>,
    ) -> Result<Packages, RepositoryError> {
        let mut packages = Packages::new();
        let mut known = BTreeMap::new();
        for (name, policy) in &self.home.policy.products {
            let Some(apt) = policy.apt.as_ref().filter(|apt| apt.suite.get_ref() == suite) else {
                continue;
            };
            // A component without packages has an index all the same: users have it in
            // their lists of sources.
            let of_component = packages.entry(apt.component.clone()).or_default();
            let listing = self.listings.iter().find(|(product, _)| product == name).map(|(_, listing)| listing);
            let releases = listing.into_iter().flat_map(|listing| &listing.releases);
            let debs = releases.flat_map(|(version, files)| {
                files.values().filter_map(move |file| Some((version, file, file.control?)))
            });
            for (version, artifact, signed) in debs {
                let published =
                    layout::release(name, version, artifact.name.as_str()).map_err(index::IndexError::from)?;
                let new = self.files.iter().find(|file| file.names.contains(&published));
                let from =
                    new.map_or_else(|| self.home.repository().join(published.as_str()), |file| file.path.clone());
                let package = package(artifact, &from, &apt.component)?;
                let control = &package.control;
                if Sha256::of(control.stanza().as_bytes()) != signed {
                    let reason = "it does not say of itself what was signed: another version of this program wrote it";
                    return Err(RepositoryError::Deb { file: artifact.name.clone(), source: DebError::new(reason) });
                }
                let key = (control.package.clone(), control.version.clone(), control.architecture.clone());
                match known.insert(key, package.sha256) {
                    None => {}
                    // Several releases may hold the same one.
                    Some(other) if other == package.sha256 => continue,
                    Some(other) => return Err(taken(artifact, &package, other)),
                }
                if new.is_some() {
                    self.check_free(artifact, &package)?;
                }
                found(&from, &package)?;
                of_component.push(package);
            }
        }
        Ok(packages)
    }

    /// A place in the pool never holds other bytes, also where what it held is
    /// withdrawn.
    fn check_free(&self, artifact: &Artifact, package: &Package) -> Result<(), RepositoryError> {
        let path = self.home.repository().join(package.path.as_str());
        if path.exists() {
            let other = atomic::digest(&path)?;
            if other != package.sha256 {
                return Err(taken(artifact, package, other));
            }
        }
        Ok(())
    }

    /// Refuses packages that cannot go into their suite. To be called before anything
    /// is signed.
    ///
    /// # Errors
    /// Other bytes have the same name, version and architecture.
    pub fn check(&self) -> Result<(), RepositoryError> {
        for suite in suites(self.home, self.product) {
            self.packages(suite, &mut |_, _| Ok(()))?;
        }
        Ok(())
    }
}

/// Reads a package whose digest is signed, or will be.
fn package(artifact: &Artifact, from: &Path, component: &Component) -> Result<Package, RepositoryError> {
    let file = File::open(from).map_err(|error| HomeError::io(from, error))?;
    let refuse = |source| RepositoryError::Deb { file: artifact.name.clone(), source };
    let control = Deb::read(file).map_err(refuse)?.control;
    let name = control.file_name();
    let path = layout::apt_package(component, &control.source, &name).map_err(index::IndexError::from)?;
    Ok(Package { control, path, length: artifact.length, sha256: artifact.sha256 })
}

fn taken(artifact: &Artifact, package: &Package, other: Sha256) -> RepositoryError {
    let file: FileName = artifact.name.clone();
    let name = package.control.file_name();
    let reason = format!("{name} was released before with other bytes (sha256 {other}); give it another version");
    RepositoryError::Deb { file, source: DebError::new(reason) }
}

/// `Release` and the two files with its signatures: those that were kept, or made now.
fn sign(
    suite: &Suite,
    release: &str,
    pending: &Pending,
    archive: &ArchiveKey<'_>,
    journal: &mut Journal,
) -> Result<Vec<(&'static str, Vec<u8>)>, RepositoryError> {
    let digest = Sha256::of(release.as_bytes());
    let mut files = vec![(RELEASE, release.as_bytes().to_vec())];
    for file in [RELEASE_SIGNATURE, IN_RELEASE] {
        let kept = format!("{suite}.{file}");
        let what = format!("{file} {suite} {}", pending.serial());
        if let Some(bytes) = pending.signed(&kept)? {
            files.push((file, bytes));
            continue;
        }
        journal.ask(pending.at(), archive.signer.name(), &what, digest)?;
        home::step("apt.asked");
        let shown = format!("{file} of {suite}");
        let (certificate, at) = (&archive.certificate, pending.at());
        let bytes = if file == IN_RELEASE {
            // The break before the signature is none of the text, and verifiers give it back.
            openpgp::sign_cleartext(certificate, archive.signer, &shown, release.trim_end_matches('\n'), at)?
        } else {
            let signature = openpgp::sign_detached(certificate, archive.signer, &shown, release.as_bytes(), at)?;
            let signers = openpgp::signers_of(
                release.as_bytes(),
                &signature,
                std::slice::from_ref(certificate),
                at,
                &BTreeSet::new(),
            )?;
            if signers.is_empty() {
                return Err(RepositoryError::ArchiveExpired(certificate.fingerprint()));
            }
            openpgp::join_signatures(&[signature])?
        };
        pending.keep_signed(&kept, &bytes)?;
        home::step("apt.signed");
        files.push((file, bytes));
    }
    Ok(files)
}
