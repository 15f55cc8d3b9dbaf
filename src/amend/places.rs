//! Where new keys of an amendment are, and whose they are.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use super::AmendError;
use super::files::key_file;
use crate::home::Home;
use crate::home::atomic;
use crate::init;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::policy::Place;
use crate::policy::Policy;

/// The people who have keys on this terminal.
fn people(home: &Home) -> BTreeSet<Holder> {
    home.terminal.tokens.keys().filter_map(|key| home.policy.owner_of(key)).collect()
}

/// Whether a new key belongs here: it is nobody's, or that of a person whose other keys
/// are here. Somebody new is at home where several people may be.
pub(super) fn is_ours(home: &Home, policy: &Policy, name: &KeyName) -> bool {
    let Some(holder) = policy.owner_of(name) else {
        return true;
    };
    let is_elsewhere = home.policy.public_files().any(|(key, _)| home.policy.owner_of(&key).as_ref() == Some(&holder));
    let rebuilds = policy.products.values().any(|product| *product.rebuilds.get_ref() > 0);
    people(home).contains(&holder) || !is_elsewhere && (policy.insecure_same_terminal || !rebuilds)
}

/// The keys that the policy before had already, with the same public half.
///
/// # Errors
/// A file cannot be read.
pub(super) fn known(home: &Home, policy: &Policy, folder: &Path) -> Result<BTreeSet<KeyName>, AmendError> {
    let before: BTreeMap<KeyName, &str> = home.policy.public_files().collect();
    let mut known = BTreeSet::new();
    for (name, file) in policy.public_files() {
        let Some(old) = before.get(&name) else {
            continue;
        };
        let own = atomic::read_if_there(&home.resolve(old))?;
        if own.is_some() && own == atomic::read_if_there(&folder.join(file))? {
            known.insert(name);
        }
    }
    Ok(known)
}

/// Where new keys are that belong here: in tokens that are plugged in, or in files that
/// were made for them.
///
/// # Errors
/// Tokens or files cannot be read.
pub(super) fn found(home: &Home, policy: &Policy, folder: &Path) -> Result<BTreeMap<KeyName, Place>, AmendError> {
    let known = known(home, policy, folder)?;
    let is_new = |name: &KeyName| {
        !known.contains(name) && !home.terminal.tokens.contains_key(name) && is_ours(home, policy, name)
    };
    let mut places = BTreeMap::new();
    for (name, _) in policy.public_files().filter(|(name, _)| is_new(name)) {
        let file = key_file(&name);
        if home.resolve(&file).exists() {
            places.insert(name, Place::File(file));
        }
    }
    for (name, enrolment) in init::plugged_keys(policy, folder)? {
        if is_new(&name) {
            places.insert(name, Place::Slot { serial: enrolment.serial, slot: enrolment.slot });
        }
    }
    Ok(places)
}

/// A new key that the policy gives to somebody who has keys here, and that is not here.
///
/// # Errors
/// A file cannot be read.
pub(super) fn foreign(home: &Home, policy: &Policy, folder: &Path) -> Result<Option<KeyName>, AmendError> {
    let (known, people) = (known(home, policy, folder)?, people(home));
    let is_foreign = |name: &KeyName| {
        let is_of_them = policy.owner_of(name).is_some_and(|holder| people.contains(&holder));
        is_of_them && !known.contains(name) && !home.terminal.tokens.contains_key(name)
    };
    Ok(policy.public_files().map(|(name, _)| name).find(is_foreign))
}
