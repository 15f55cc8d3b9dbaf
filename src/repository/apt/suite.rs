//! The suites of the policy: what is in them, and when they are made anew.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;

use super::Deb;
use super::DebError;
use super::DebVersion;
use super::index;
use super::index::Contents;
use super::index::Head;
use super::index::Package;
use super::index::Source;
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
use crate::manifest::Kind;
use crate::manifest::PackageName;
use crate::manifest::Product;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::Suite;
use crate::manifest::Version;
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

/// Is told of a file of the pool: where it is now, its place, digest and size.
type Found<'f> = dyn FnMut(&Path, &RepoPath, (Sha256, u64)) -> Result<(), RepositoryError> + 'f;

/// What a suite has by component, in its places in the pool.
type Packages = BTreeMap<Component, Contents>;

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
            let packages = self.packages(suite, &mut |from, path, (sha256, length)| {
                if self.is_new(path) {
                    pending.add_file(from, sha256)?;
                    names.push((path.clone(), sha256, length));
                }
                Ok(())
            })?;
            if packages.values().all(Contents::is_empty) && !in_release(self.home, suite).exists() {
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
            check_archive(&archive.certificate, at, until)?;
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

    /// The packages of a suite; `found` is told of each of their files.
    fn packages(&self, suite: &Suite, found: &mut Found<'_>) -> Result<Packages, RepositoryError> {
        let mut packages = Packages::new();
        let mut pool = Pool { change: self, known: BTreeMap::new(), places: BTreeMap::new(), found };
        for (name, policy) in &self.home.policy.products {
            let Some(apt) = policy.apt.as_ref().filter(|apt| apt.suite.get_ref() == suite) else {
                continue;
            };
            // A component without packages has an index all the same: users have it in
            // their lists of sources.
            let contents = packages.entry(apt.component.clone()).or_default();
            let listing = self.listings.iter().find(|(product, _)| product == name).map(|(_, listing)| listing);
            for (version, files) in listing.into_iter().flat_map(|listing| &listing.releases) {
                let release = OfRelease { product: name, version, component: &apt.component };
                for artifact in files.values() {
                    match (artifact.kind, artifact.control) {
                        (Kind::Deb, Some(signed)) => {
                            contents.packages.extend(pool.package(&release, artifact, signed)?);
                        }
                        (Kind::Dsc, Some(signed)) => contents.sources.extend(pool.source(&release, artifact, signed)?),
                        _ => {}
                    }
                }
            }
        }
        Ok(packages)
    }

    /// Refuses packages that cannot go into their suite. To be called before anything
    /// is signed.
    ///
    /// # Errors
    /// Other bytes have the same name, version and architecture; users would not take the
    /// signature of the suite until its end.
    pub fn check(&self, now: Timestamp) -> Result<(), RepositoryError> {
        for suite in suites(self.home, self.product) {
            let packages = self.packages(suite, &mut |_, _, _| Ok(()))?;
            let archive = self.home.policy.archive().filter(|_| !packages.values().all(Contents::is_empty));
            if let Some(entry) = archive {
                let certificate = Certificate::one(&atomic::read(&self.home.resolve(entry.file.get_ref()))?)?;
                let until = seal::expiry(now, self.home.policy.role.online.expires.get_ref().duration());
                check_archive(&certificate, now, until)?;
            }
        }
        Ok(())
    }
}

/// A release whose packages go to a component.
struct OfRelease<'a> {
    product: &'a Product,
    version: &'a Version,
    component: &'a Component,
}

/// The pool while a suite is gathered.
struct Pool<'a> {
    change: &'a Change<'a>,
    /// The digest of each package: name, version, architecture.
    known: BTreeMap<(PackageName, DebVersion, Option<Architecture>), Sha256>,
    /// The digest of each file.
    places: BTreeMap<RepoPath, Sha256>,
    found: &'a mut Found<'a>,
}

impl Pool<'_> {
    /// Takes a package, whose digest is signed or will be, as what it says of itself.
    /// Several releases may hold the same one.
    fn package(
        &mut self,
        release: &OfRelease<'_>,
        artifact: &Artifact,
        signed: Sha256,
    ) -> Result<Option<Package>, RepositoryError> {
        let (from, _) = self.file(release, &artifact.name)?;
        let file = File::open(&from).map_err(|error| HomeError::io(&from, error))?;
        let control = Deb::read(file).map_err(|source| refused(artifact, source))?.control;
        check_signed(artifact, &control.stanza(), signed)?;
        let name = control.file_name();
        let key = (control.package.clone(), control.version.clone(), Some(control.architecture.clone()));
        if !self.is_first(artifact, key, &name)? {
            return Ok(None);
        }
        let content = (artifact.sha256, artifact.length);
        let path = self.place(release, artifact, (&control.source, &name), (&artifact.name, content))?;
        Ok(Some(Package { control, path, length: artifact.length, sha256: artifact.sha256 }))
    }

    /// The same for a source package with its files.
    fn source(
        &mut self,
        release: &OfRelease<'_>,
        artifact: &Artifact,
        signed: Sha256,
    ) -> Result<Option<Source>, RepositoryError> {
        let (from, _) = self.file(release, &artifact.name)?;
        let dsc = super::read_dsc(&from)?.map_err(|source| refused(artifact, source))?;
        check_signed(artifact, &dsc.stanza(), signed)?;
        let name = dsc.file_name();
        if !self.is_first(artifact, (dsc.source.clone(), dsc.version.clone(), None), &name)? {
            return Ok(None);
        }
        for file in &dsc.files {
            let content = (file.sha256, file.length);
            self.place(release, artifact, (&dsc.source, file.name.as_str()), (&file.name, content))?;
        }
        let content = (artifact.sha256, artifact.length);
        let path = self.place(release, artifact, (&dsc.source, &name), (&artifact.name, content))?;
        Ok(Some(Source { dsc, path, length: artifact.length, sha256: artifact.sha256 }))
    }

    /// Where a file of a release is now, and whether it is that of the new one.
    fn file(&self, release: &OfRelease<'_>, name: &FileName) -> Result<(PathBuf, bool), RepositoryError> {
        let published = layout::release(release.product, release.version, name.as_str());
        let published = published.map_err(index::IndexError::from)?;
        let new = self.change.files.iter().find(|file| file.names.contains(&published));
        let old = || self.change.home.repository().join(published.as_str());
        Ok((new.map_or_else(old, |file| file.path.clone()), new.is_some()))
    }

    /// Whether a package was not there before; other bytes under its name, version and
    /// architecture are refused.
    fn is_first(
        &mut self,
        artifact: &Artifact,
        key: (PackageName, DebVersion, Option<Architecture>),
        name: &str,
    ) -> Result<bool, RepositoryError> {
        match self.known.insert(key, artifact.sha256) {
            None => Ok(true),
            Some(other) if other == artifact.sha256 => Ok(false),
            Some(other) => Err(taken(artifact, name, other)),
        }
    }

    /// Gives a file its place in the pool, which never holds other bytes, also where
    /// what it held is withdrawn.
    fn place(
        &mut self,
        release: &OfRelease<'_>,
        artifact: &Artifact,
        (source, name): (&PackageName, &str),
        (file, (sha256, length)): (&FileName, (Sha256, u64)),
    ) -> Result<RepoPath, RepositoryError> {
        let path = layout::apt_package(release.component, source, name).map_err(index::IndexError::from)?;
        let (from, is_new) = self.file(release, file)?;
        let before = self.change.home.repository().join(path.as_str());
        if is_new && before.exists() {
            let other = atomic::digest(&before)?;
            if other != sha256 {
                return Err(taken(artifact, name, other));
            }
        }
        match self.places.insert(path.clone(), sha256) {
            None => (self.found)(&from, &path, (sha256, length))?,
            // Versions of a source package share what upstream has released.
            Some(other) if other == sha256 => {}
            Some(other) => return Err(taken(artifact, name, other)),
        }
        Ok(path)
    }
}

/// What is in an index is what people have signed, whatever this program makes of the
/// package now.
fn check_signed(artifact: &Artifact, stanza: &str, signed: Sha256) -> Result<(), RepositoryError> {
    if Sha256::of(stanza.as_bytes()) == signed {
        return Ok(());
    }
    let reason = "it does not say of itself what was signed: another version of this program wrote it";
    Err(refused(artifact, DebError::new(reason)))
}

fn refused(artifact: &Artifact, source: DebError) -> RepositoryError {
    RepositoryError::Deb { file: artifact.name.clone(), source }
}

fn taken(artifact: &Artifact, name: &str, other: Sha256) -> RepositoryError {
    let reason = format!("{name} was released before with other bytes (sha256 {other}); give it another version");
    refused(artifact, DebError::new(reason))
}

/// Refuses a certificate that is not good as long as the suite would be valid.
fn check_archive(certificate: &Certificate, at: Timestamp, until: Timestamp) -> Result<(), RepositoryError> {
    if certificate.signs_at(at) && certificate.signs_at(until) {
        return Ok(());
    }
    Err(RepositoryError::ArchiveExpires { fingerprint: certificate.fingerprint(), until })
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
                let fingerprint = certificate.fingerprint();
                return Err(RepositoryError::ArchiveExpires { fingerprint, until: at });
            }
            openpgp::join_signatures(&[signature])?
        };
        pending.keep_signed(&kept, &bytes)?;
        home::step("apt.signed");
        files.push((file, bytes));
    }
    Ok(files)
}
