//! The folder of an amendment, and what a home takes over from one.
//!
//! ```text
//! policy.toml keys/    the policy as it will be, with all its public files
//! begun.json           what was asked for, and when
//! request.json         the request as it was sent
//! signing/<role>.json  metadata with its signatures so far
//! ```

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;
use toml_edit::DocumentMut;
use toml_edit::InlineTable;
use toml_edit::Item;
use toml_edit::Value;

use super::AmendError;
use super::rules::PUBLIC;
use super::rules::policy_path;
use crate::enrol::ATTESTATION;
use crate::enrol::ATTESTED;
use crate::enrol::MAKERS;
use crate::enrol::PLACE;
use crate::home;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Line;
use crate::manifest::Sha256;
use crate::manifest::json;
use crate::policy::ARCHIVE;
use crate::policy::Place;
use crate::policy::Policy;
use crate::repository::RepositoryError;
use crate::repository::State;

/// The file that says what was begun.
const BEGUN: &str = "begun.json";
/// Its version.
const VERSION: u32 = 1;
/// The request as it was sent.
pub(super) const REQUEST: &str = "request.json";

/// What was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begun {
    version: u32,
    /// The words of the command.
    pub change: Line,
    /// The number of the `targets` that it makes.
    pub number: u64,
    /// When; the metadata bears this date.
    pub at: Timestamp,
}

impl Begun {
    pub(super) fn new(change: Line, number: u64, at: Timestamp) -> Self {
        Self { version: VERSION, change, number, at }
    }

    /// What is begun and not finished in a home.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn load(home: &Home) -> Result<Option<Self>, HomeError> {
        atomic::read_json(&home.amendment().join(BEGUN), VERSION)
    }

    pub(super) fn save(&self, folder: &Path) -> Result<(), HomeError> {
        atomic::write_json(&folder.join(BEGUN), self)
    }
}

/// What travels of a key beside its public half. What is attested of it, everybody
/// finds out from that.
const TRAVELS: [&str; 2] = [PLACE, ATTESTATION];

/// The public files of a policy that say something of keys, those of maintainers among
/// them, and whether they must exist.
fn public_files(policy: &Policy, beside: &[&str]) -> BTreeMap<String, bool> {
    let mut files = BTreeMap::new();
    for (name, file) in policy.public_files() {
        files.insert(file.to_owned(), true);
        for what in beside {
            files.entry(Policy::file_beside(file, &name, what)).or_insert(false);
        }
    }
    files.extend(policy.tag_files().map(|file| (file.to_owned(), true)));
    files
}

/// The files of a policy that say who may sign tags, as they lie beside it.
///
/// # Errors
/// The policy has a mistake; a file cannot be read.
pub(super) fn tag_files(text: &str, beside: &Path) -> Result<BTreeMap<String, String>, AmendError> {
    let policy = Policy::parse(&policy_path(beside), text.to_owned()).map_err(HomeError::from)?;
    let mut files = BTreeMap::new();
    for name in policy.tag_files() {
        if let Some(text) = home::read_text(&beside.join(name))? {
            files.insert(name.to_owned(), text);
        }
    }
    Ok(files)
}

/// Lays out the folder of an amendment: the new policy, the public files that the home
/// has, and those that came with a request.
///
/// # Errors
/// A file has a name that no key of the policy has, or replaces another one.
pub(super) fn lay_out(
    home: &Home,
    folder: &Path,
    text: &str,
    brought: &BTreeMap<String, String>,
) -> Result<(), AmendError> {
    let path = policy_path(folder);
    let policy = Policy::parse(&path, text.to_owned()).map_err(HomeError::from)?;
    let known = public_files(&policy, &TRAVELS);
    let mut kept = public_files(&policy, &[PLACE, ATTESTATION, ATTESTED]);
    // Where keys that leave are, so that new ones are made beside them.
    let places = home.policy.public_files().map(|(name, file)| (Policy::file_beside(file, &name, PLACE), false));
    kept.extend(places);
    let makers = fs::read_dir(home.resolve(MAKERS)).into_iter().flatten().flatten();
    let makers = makers.map(|entry| format!("{MAKERS}/{}", entry.file_name().to_string_lossy()));
    for name in kept.into_keys().chain(makers) {
        if let Some(bytes) = atomic::read_if_there(&home.resolve(&name))? {
            atomic::write(&folder.join(&name), &bytes)?;
        }
    }
    for (name, content) in brought {
        let other = |reason: &str| AmendError::File { name: name.clone(), reason: reason.to_owned() };
        if !known.contains_key(name) {
            return Err(other("no key of the new policy has such a file"));
        }
        if !name.starts_with("keys/") {
            return Err(other("files of new keys are in `keys`"));
        }
        // Who may sign tags is up to the policy; the key of a name is one for ever.
        let is_of_tags = policy.tag_files().any(|file| file == name);
        match atomic::read_if_there(&home.resolve(name))?.filter(|_| !is_of_tags) {
            Some(own) if own != content.as_bytes() => return Err(other("it would replace another one")),
            _ => atomic::write(&folder.join(name), content.as_bytes())?,
        }
    }
    atomic::write(&path, text.as_bytes())?;
    Ok(())
}

/// The files of keys that the home does not have.
///
/// # Errors
/// A file cannot be read, or is no text.
pub(super) fn new_files(home: &Home, folder: &Path, policy: &Policy) -> Result<BTreeMap<String, String>, AmendError> {
    let mut files = BTreeMap::new();
    for (name, needed) in public_files(policy, &TRAVELS) {
        let path = folder.join(&name);
        let Some(bytes) = atomic::read_if_there(&path)? else {
            if needed {
                return Err(HomeError::Missing(path).into());
            }
            continue;
        };
        if atomic::read_if_there(&home.resolve(&name))?.as_ref() != Some(&bytes) {
            let text = String::from_utf8(bytes).map_err(|_| HomeError::NotText(path))?;
            files.insert(name, text);
        }
    }
    Ok(files)
}

/// The public files of all keys, as they travel.
///
/// # Errors
/// One is missing, or is no text.
pub(super) fn all_files(home: &Home) -> Result<BTreeMap<String, String>, HomeError> {
    let mut files = BTreeMap::new();
    for (name, needed) in public_files(&home.policy, &TRAVELS) {
        let path = home.resolve(&name);
        match home::read_text(&path)? {
            Some(text) => drop(files.insert(name, text)),
            None if needed => return Err(HomeError::Missing(path)),
            None => {}
        }
    }
    Ok(files)
}

/// Says in `terminal.toml` where keys are, and forgets others.
///
/// # Errors
/// The file is not written as expected.
pub(super) fn set_places(
    folder: &Path,
    add: &BTreeMap<KeyName, Place>,
    remove: &BTreeSet<KeyName>,
) -> Result<(), AmendError> {
    let path = folder.join("terminal.toml");
    let before = home::read_text(&path)?.ok_or_else(|| HomeError::Missing(path.clone()))?;
    let damaged = |reason: &str| HomeError::Damaged { path: path.clone(), reason: reason.to_owned() };
    let mut document: DocumentMut = before.parse().map_err(|error: toml_edit::TomlError| damaged(error.message()))?;
    let tokens = document.entry("token").or_insert(toml_edit::table());
    let tokens = tokens.as_table_like_mut().ok_or_else(|| damaged("`token` is no table"))?;
    for (name, place) in add {
        let mut entry = InlineTable::new();
        match place {
            Place::Slot { serial, slot } => {
                entry.insert("serial", Value::from(i64::from(*serial)));
                entry.insert("slot", Value::from(slot.to_string()));
            }
            Place::File(file) => {
                entry.insert("file", Value::from(file.display().to_string()));
            }
        }
        tokens.insert(name.as_str(), Item::Value(Value::InlineTable(entry)));
    }
    for name in remove {
        tokens.remove(name.as_str());
    }
    let after = document.to_string();
    if after != before {
        atomic::write(&path, after.as_bytes())?;
    }
    Ok(())
}

/// A file that the newest top-level role lists.
struct Listed {
    folder: String,
    number: u64,
    name: String,
    sha256: Sha256,
}

fn listed(state: &State) -> Result<Vec<Listed>, AmendError> {
    let value = json::from_slice_strict(&state.targets.1).map_err(RepositoryError::from)?;
    let entries = value["signed"]["targets"].as_object().into_iter().flatten();
    let entry = |(path, entry): (&String, &serde_json::Value)| {
        let segments: Vec<&str> = path.split('/').collect();
        let [folder, number, name] = segments.as_slice() else { return None };
        let sha256 = entry["hashes"]["sha256"].as_str()?.parse().ok()?;
        Some(Listed { folder: (*folder).to_owned(), number: number.parse().ok()?, name: (*name).to_owned(), sha256 })
    };
    Ok(entries.filter_map(entry).collect())
}

impl Listed {
    fn read(&self, state: &State) -> Result<Vec<u8>, AmendError> {
        let Self { folder, number, name, sha256 } = self;
        let path = state.folder().join(format!("targets/{folder}/{number}/{sha256}.{name}"));
        let bytes = atomic::read(&path)?;
        if Sha256::of(&bytes) != *sha256 {
            let reason = "it is not what the top-level role lists".to_owned();
            return Err(HomeError::Damaged { path, reason }.into());
        }
        Ok(bytes)
    }
}

/// Makes the newest signed policy that of the home, with its public files. Gives whether
/// it was another one. May be killed and called again: `policy.toml` comes last.
///
/// # Errors
/// A file of the repository is missing or damaged.
pub fn adopt(home: &Home, state: &State) -> Result<bool, AmendError> {
    let listed = listed(state)?;
    let policies = listed.iter().filter(|file| file.folder == "policy" && file.name == "policy.toml");
    let Some(newest) = policies.max_by_key(|file| file.number) else {
        return Ok(false);
    };
    if newest.sha256 == home.policy_digest {
        return Ok(false);
    }
    let text = newest.read(state)?;
    let path = policy_path(home.folder());
    let text = String::from_utf8(text).map_err(|_| HomeError::NotText(path.clone()))?;
    let policy = Policy::parse(&path, text.clone()).map_err(HomeError::from)?;
    let take = |target: &str, file: &str| -> Result<(), AmendError> {
        let Some(found) = listed.iter().find(|listed| listed.folder == "keys" && listed.name == target) else {
            return Ok(());
        };
        let (bytes, path) = (found.read(state)?, home.resolve(file));
        if atomic::read_if_there(&path)?.as_ref() == Some(&bytes) {
            return Ok(());
        }
        if !file.starts_with("keys/") {
            let (name, reason) = (file.to_owned(), "files of new keys are in `keys`".to_owned());
            return Err(AmendError::File { name, reason });
        }
        Ok(atomic::write(&path, &bytes)?)
    };
    for (name, entry) in &policy.keys {
        take(&format!("{name}.{PUBLIC}"), entry.public.get_ref())?;
    }
    for (name, file) in policy.public_files() {
        take(&format!("{name}.{ATTESTED}"), &Policy::file_beside(file, &name, ATTESTED))?;
    }
    for entry in policy.certificates() {
        take(&format!("{}.asc", entry.holder.map_or(ARCHIVE, Holder::as_str)), entry.file.get_ref())?;
    }
    for file in policy.tag_files() {
        take(last_segment(file), file)?;
    }
    // Of a change that was asked for or answered here, it has more than what is signed.
    for folder in [home.amendment(), home.approvals().join(home::amendment(newest.number))] {
        if [BEGUN, REQUEST].iter().any(|name| folder.join(name).exists()) {
            keep_places(home, &policy, &folder)?;
        }
    }
    home::step("amend.taken");
    atomic::write(&path, text.as_bytes())?;
    home::step("amend.adopted");
    Ok(true)
}

/// Keeps where new keys are, and by what their makers vouch for them.
fn keep_places(home: &Home, policy: &Policy, folder: &Path) -> Result<(), HomeError> {
    for (name, file) in policy.public_files() {
        let own = atomic::read_if_there(&home.resolve(file))?;
        if own.is_none() || own != atomic::read_if_there(&folder.join(file))? {
            continue;
        }
        for path in TRAVELS.map(|what| Policy::file_beside(file, &name, what)) {
            match atomic::read_if_there(&folder.join(&path))? {
                Some(bytes) if !home.resolve(&path).exists() => atomic::write(&home.resolve(&path), &bytes)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// Forgets where keys are that the policy of a home does not have. Gives the files of those
/// that are files.
///
/// # Errors
/// `terminal.toml` is not written as expected.
pub fn forget(folder: &Path) -> Result<Vec<PathBuf>, AmendError> {
    let home = Home::open(folder)?;
    let (mut gone, mut retired) = (BTreeSet::new(), Vec::new());
    for (name, place) in &home.terminal.tokens {
        if !home.policy.keys.contains_key(name) && home.policy.certificate_of(name).is_none() {
            gone.insert(name.clone());
            if let Place::File(path) = place.get_ref() {
                retired.push(home.resolve(path));
            }
        }
    }
    set_places(home.folder(), &BTreeMap::new(), &gone)?;
    Ok(retired)
}

/// The name of a file without its folders.
pub(super) fn last_segment(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

/// Where the private half of a software key is, in the home.
pub(super) fn key_file(name: &KeyName) -> PathBuf {
    PathBuf::from(format!("keys/{name}.key"))
}
