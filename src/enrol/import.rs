//! Takes a colleague's public files from a medium. Nothing on it is trusted: what is
//! kept beside the policy was understood, checked, and written anew.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;

use super::ATTESTATION;
use super::EnrolError;
use super::PLACE;
use super::public::PublicFiles;
use super::public::certificate_pem;
use super::public::read_makers;
use super::read_policy;
use crate::home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::attestation::MAX_FILE;
use crate::manifest::Attested;
use crate::manifest::FileName;
use crate::manifest::KeyName;
use crate::manifest::json;
use crate::manifest::names::quoted;
use crate::openpgp::Certificate;
use crate::openpgp::OpenPgpError;
use crate::policy::Policy;
use crate::transport;
use crate::transport::Found;
use crate::transport::Medium;

/// A key whose public files were taken.
#[derive(Debug)]
pub struct Taken {
    /// The key.
    pub name: KeyName,
    /// What the maker of its token vouches for; `None` for a software key.
    pub attested: Option<Attested>,
    /// Whether anything of it was not there before.
    pub is_new: bool,
}

/// Why public files were refused. Nothing was kept, unless writing failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportPublicError {
    /// A file that is none of those that the policy has.
    #[error("the policy has no public file of the name {}", quoted(.0))]
    Unknown(String),
    /// A name that comes twice.
    #[error("{0} is named twice")]
    Twice(String),
    /// Something else than a plain file.
    #[error("{} is refused: {reason}", quoted(.file))]
    NotPlain {
        /// Which.
        file: String,
        /// What it is.
        reason: &'static str,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] transport::TransportError),
    /// A file is malformed, or what a maker vouches for does not count.
    #[error(transparent)]
    Refused(EnrolError),
    /// The policy, or the certificates of makers.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// A key that comes without all of its files.
    #[error("{key} cannot be taken without {file}")]
    Incomplete {
        /// The key.
        key: KeyName,
        /// The file that is missing.
        file: String,
    },
    /// A certificate with more in it than a person's keys.
    #[error("{file} is refused: {error}")]
    Certificate {
        /// Which.
        file: String,
        /// Why.
        error: OpenPgpError,
    },
    /// One key under two names.
    #[error("{0} and {1} are the same key")]
    SameKey(KeyName, KeyName),
    /// One token for two people.
    #[error("{0} and {1} are in one token, {2}, and belong to two people")]
    SameToken(KeyName, KeyName, u32),
    /// What is there already is never replaced.
    #[error("{0} is there already, with other content")]
    Other(String),
    /// Files beside the policy.
    #[error(transparent)]
    Home(#[from] HomeError),
}

/// Checks the public files of keys and keeps them beside the policy. All of them, or
/// none.
///
/// # Errors
/// One of them is refused.
pub fn import(policy: &Path, files: &[PathBuf], now: Timestamp) -> Result<Vec<Taken>, ImportPublicError> {
    let (policy, folder) = read_policy(policy)?;
    let offered = read_offered(&policy, files)?;
    let read = |path: &str| match offered.get(path) {
        Some(bytes) => Ok(Some(bytes.clone())),
        None => atomic::read_if_there(&folder.join(path)),
    };
    let mut all = Vec::new();
    for (name, file) in policy.public_files() {
        let paths = [file.to_owned(), beside(file, &name, PLACE), beside(file, &name, ATTESTATION)];
        let is_offered = paths.iter().any(|path| offered.contains_key(path));
        let found = PublicFiles::read(&policy, &name, file, &read).map_err(|error| match error {
            EnrolError::Home(HomeError::Missing(path)) => {
                ImportPublicError::Incomplete { key: name.clone(), file: path.display().to_string() }
            }
            error if is_offered => ImportPublicError::Refused(error),
            error => error.into(),
        })?;
        match found {
            Some(found) => all.push((found, is_offered)),
            None if is_offered => return Err(ImportPublicError::Incomplete { key: name, file: file.to_owned() }),
            None => {}
        }
    }
    let makers = read_makers(folder);
    let (mut taken, mut kept) = (Vec::new(), Vec::new());
    for (found, _) in all.iter().filter(|(_, is_offered)| *is_offered) {
        refuse_doubles(&policy, found, all.iter().map(|(other, _)| other))?;
        let attested = match (&found.made, &makers) {
            (None, _) if policy.insecure_software_keys => None,
            (None, _) => {
                let file = beside(&found.file, &found.name, PLACE);
                return Err(ImportPublicError::Incomplete { key: found.name.clone(), file });
            }
            (Some(_), Ok(makers)) => found.check(&policy, makers, now).map_err(ImportPublicError::Refused)?,
            // Without them nothing can be told.
            (Some(_), Err(_)) => return Err(read_makers(folder).err().map_or_else(no_makers, Into::into)),
        };
        let mut is_new = false;
        for (path, bytes) in written(&policy, found, now)? {
            match atomic::read_if_there(&folder.join(&path))? {
                Some(there) if there == bytes => {}
                Some(there) if is_extended(found, &path, &there) => {
                    is_new = true;
                    kept.push((path, bytes));
                }
                Some(_) => return Err(ImportPublicError::Other(path)),
                None => {
                    is_new = true;
                    kept.push((path, bytes));
                }
            }
        }
        taken.push(Taken { name: found.name.clone(), attested, is_new });
    }
    for (path, bytes) in kept {
        atomic::write(&folder.join(path), &bytes)?;
        home::step("public.kept");
    }
    Ok(taken)
}

fn no_makers() -> ImportPublicError {
    EnrolError::Makers(crate::key::attestation::AttestationError::NoRoot).into()
}

fn beside(public: &str, key: &KeyName, what: &str) -> String {
    Policy::file_beside(public, key, what)
}

/// What is on the medium, by the path beside the policy that it is for. Names choose
/// among those of the policy, and nothing else.
fn read_offered(policy: &Policy, files: &[PathBuf]) -> Result<BTreeMap<String, Vec<u8>>, ImportPublicError> {
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, file) in policy.public_files() {
        for path in [file.to_owned(), beside(file, &name, PLACE), beside(file, &name, ATTESTATION)] {
            let last = path.rsplit('/').next().unwrap_or_default().to_owned();
            known.entry(last).or_default().insert(path);
        }
    }
    let mut offered = BTreeMap::new();
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let unknown = || ImportPublicError::Unknown(name.clone());
        let file: FileName = name.parse().map_err(|_| unknown())?;
        // Two files of one name would have to be told apart by their folders.
        let mut places = known.get(file.as_str()).into_iter().flatten();
        let (Some(place), None) = (places.next(), places.next()) else {
            return Err(unknown());
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let shown = path.display().to_string();
        let failed = |source| transport::TransportError::Read { place: shown.clone(), source };
        let bytes = match Medium::open(parent)?.find(file.as_str()).map_err(failed)? {
            Found::File(content, length) => transport::read_bounded(content, Some(length), MAX_FILE, || shown.clone())?,
            Found::Folder => return Err(ImportPublicError::NotPlain { file: name, reason: "it is a folder" }),
            Found::Other(reason) => return Err(ImportPublicError::NotPlain { file: name, reason }),
        };
        if offered.insert(place.clone(), bytes).is_some() {
            return Err(ImportPublicError::Twice(name));
        }
    }
    Ok(offered)
}

/// Whether a certificate is the one that is there, with a later end.
fn is_extended(found: &PublicFiles, path: &str, there: &[u8]) -> bool {
    let (Some(new), Ok(old)) = (&found.certificate, Certificate::one(there)) else {
        return false;
    };
    path == found.file
        && (new.fingerprint(), new.signing_key()) == (old.fingerprint(), old.signing_key())
        && old.expires().is_some_and(|old| new.expires().is_none_or(|new| new > old))
}

/// A key counts once, and a token for one person.
fn refuse_doubles<'a>(
    policy: &Policy,
    found: &PublicFiles,
    all: impl Iterator<Item = &'a PublicFiles>,
) -> Result<(), ImportPublicError> {
    let serial = |files: &PublicFiles| files.made.as_ref().map(|(place, _)| place.serial);
    for other in all.filter(|other| other.name != found.name) {
        if other.key == found.key {
            return Err(ImportPublicError::SameKey(found.name.clone(), other.name.clone()));
        }
        let same = serial(found).filter(|_| serial(found) == serial(other));
        if let Some(serial) = same.filter(|_| policy.owner_of(&found.name) != policy.owner_of(&other.name)) {
            return Err(ImportPublicError::SameToken(found.name.clone(), other.name.clone(), serial));
        }
    }
    Ok(())
}

/// The files of a key as we write them, in the order in which they appear: the public
/// half last.
fn written(policy: &Policy, found: &PublicFiles, now: Timestamp) -> Result<Vec<(String, Vec<u8>)>, ImportPublicError> {
    let mut files = Vec::new();
    if let Some((place, certificates)) = &found.made {
        let path = beside(&found.file, &found.name, PLACE);
        let malformed =
            |error: json::JsonError| HomeError::Damaged { path: path.clone().into(), reason: error.to_string() };
        let mut bytes = json::to_vec(place).map_err(malformed)?;
        bytes.push(b'\n');
        files.push((path, bytes));
        let pem = certificates.each_ref().map(|certificate| certificate_pem(certificate)).concat();
        files.push((beside(&found.file, &found.name, ATTESTATION), pem.into_bytes()));
    }
    let public = match &found.certificate {
        None => found.key.to_pem().into_bytes(),
        Some(certificate) => {
            let refused = |error| ImportPublicError::Certificate { file: found.file.clone(), error };
            let name = policy.certificate_of(&found.name).map(|entry| policy.name_in(&entry)).unwrap_or_default();
            certificate.check_plain(&name, now).map_err(refused)?;
            certificate.to_armor().map_err(refused)?
        }
    };
    files.push((found.file.clone(), public));
    Ok(files)
}
