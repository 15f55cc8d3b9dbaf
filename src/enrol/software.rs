//! Keys in files, for demonstrations and tests.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;

use super::EnrolError;
use super::New;
use super::Whose;
use super::new_keys;
use super::read_policy;
use crate::home;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::Algorithm;
use crate::key::Secrets;
use crate::key::Signer as _;
use crate::key::SoftwareKey;
use crate::manifest::KeyName;
use crate::openpgp;
use crate::openpgp::NewKey;
use crate::policy::Policy;
use crate::policy::Purpose;
use crate::repository::seal;

/// How the name of a file with a private half ends, behind that of its key.
pub const PRIVATE: &str = "key";

/// Makes keys as files: P-256 for TUF, Ed25519 for claims and OpenPGP. `place` says where
/// a private half goes; the public half comes last, below `folder`.
///
/// # Errors
/// A file cannot be written; nobody gives a passphrase.
pub fn make_files(
    policy: &Policy,
    folder: &Path,
    new: &BTreeSet<KeyName>,
    place: &dyn Fn(&KeyName) -> PathBuf,
    secrets: &dyn Secrets,
    now: Timestamp,
) -> Result<BTreeMap<KeyName, SoftwareKey>, EnrolError> {
    let mut keys = BTreeMap::new();
    for name in new {
        let algorithm = match policy.purpose_of(name) {
            Some(Purpose::Claim | Purpose::OpenPgp | Purpose::Certify | Purpose::Archive) => Algorithm::Ed25519,
            _ => Algorithm::P256,
        };
        let key = SoftwareKey::generate(name.clone(), algorithm)?;
        let path = place(name);
        // One without a public half, by a run that was interrupted or given up, is nobody's.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(HomeError::io(&path, error).into()),
            _ => {}
        }
        if let Some(parent) = path.parent() {
            atomic::make_folder(parent)?;
        }
        key.save(&path, &secrets.new_passphrase(name, policy.owner_of(name).as_ref())?)?;
        home::step("software.saved");
        if let Some(entry) = policy.keys.get(name) {
            atomic::write(&folder.join(entry.public.get_ref()), key.public().to_pem().as_bytes())?;
        }
        keys.insert(name.clone(), key);
    }
    let created = seal::to_second(now);
    let expires = seal::expiry(created, policy.openpgp.expires.duration());
    for entry in policy.certificates() {
        let key = |name| keys.get(name).map(|signer| NewKey { signer, created });
        if let (Some(primary), Some(signing)) = (key(&entry.primary), key(&entry.signing)) {
            let certificate = openpgp::new_certificate(primary, signing, &policy.name_in(&entry), expires)?;
            atomic::write(&folder.join(entry.file.get_ref()), &certificate.to_armor()?)?;
        }
    }
    Ok(keys)
}

/// Makes the keys of somebody whose public halves do not exist, as files: in the home of
/// that project, or beside the public halves. Gives their names, with the files.
///
/// # Errors
/// The policy does not allow that, or has no such person; as [`make_files`].
pub fn generate_files(
    path: &Path,
    whose: Whose<'_>,
    home: Option<&Home>,
    person: &dyn Secrets,
    now: Timestamp,
) -> Result<BTreeMap<KeyName, PathBuf>, EnrolError> {
    let (policy, folder) = read_policy(path)?;
    if !policy.insecure_software_keys {
        return Err(EnrolError::NoSoftwareKeys);
    }
    if let Some(holder) = whose.holder().filter(|holder| !policy.holders.contains_key(holder)) {
        return Err(EnrolError::NoHolder(holder));
    }
    let home = home.filter(|home| home.policy.repository.get_ref() == policy.repository.get_ref());
    let mut places = BTreeMap::new();
    for New { name, public, .. } in new_keys(&policy, folder, whose) {
        let place = match home {
            Some(home) => home.resolve(format!("keys/{name}.{PRIVATE}")),
            None => folder.join(Policy::file_beside(&public, &name, PRIVATE)),
        };
        places.insert(name, place);
    }
    if places.is_empty() {
        return Err(EnrolError::NothingToMake(whose.to_string()));
    }
    let place = |name: &KeyName| places.get(name).cloned().unwrap_or_default();
    make_files(&policy, folder, &places.keys().cloned().collect(), &place, person, now)?;
    Ok(places)
}
