//! Keys that people have made in tokens before the home is made.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;

use super::InitError;
use crate::enrol;
use crate::enrol::ATTESTED;
use crate::enrol::PLACE;
use crate::enrol::PublicFiles;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::piv;
use crate::key::piv::Token;
use crate::key::piv::enrolment;
use crate::key::piv::enrolment::Enrolment;
use crate::manifest::Attested;
use crate::manifest::KeyName;
use crate::policy::Policy;
use crate::policy::check_owners;
use crate::tuf::draft::DraftError;

/// What stands beside the public half of a key about its place in a token.
fn read_place(folder: &Path, public: &str, name: &KeyName) -> Result<Option<Enrolment>, InitError> {
    let path = folder.join(Policy::file_beside(public, name, PLACE));
    match atomic::read_json::<Enrolment>(&path, enrolment::VERSION)? {
        Some(enrolment) if enrolment.key != *name => {
            Err(HomeError::Damaged { path, reason: format!("it is not about {name}") }.into())
        }
        enrolment => Ok(enrolment),
    }
}

/// Checks what the makers of tokens vouch for about each key but `others`, and writes it
/// down for users. Without software keys, that is every key. No token counts for two
/// people: of `others`, what is written down already says where they are.
pub(crate) fn check_attestations(
    policy: &Policy,
    folder: &Path,
    others: &BTreeSet<KeyName>,
    now: Timestamp,
) -> Result<(), InitError> {
    let mut makers = None;
    let mut serials = Vec::new();
    for (name, public) in policy.public_files() {
        let path = folder.join(Policy::file_beside(public, &name, ATTESTED));
        if others.contains(&name) {
            if let Some(bytes) = atomic::read_if_there(&path)? {
                let attested = Attested::parse(&bytes).map_err(|reason| HomeError::Damaged { path, reason })?;
                serials.push((name, attested.serial));
            }
            continue;
        }
        let Some(files) = PublicFiles::load(policy, &name, public, folder)? else {
            continue;
        };
        if files.made.is_none() {
            if policy.insecure_software_keys {
                continue;
            }
            return Err(InitError::NoAttestation(name));
        }
        let makers = match &makers {
            Some(makers) => makers,
            None => makers.insert(enrol::read_makers(folder)?),
        };
        if let Some(attested) = files.check(policy, makers, now)? {
            let bytes = attested.to_json().map_err(DraftError::from)?;
            atomic::write(&path, &bytes)?;
            serials.push((name, attested.serial));
        }
    }
    check_owners(policy, serials.iter().map(|(name, serial)| (name, *serial))).map_err(InitError::SharedToken)
}

/// The keys in tokens that are plugged in, with their enrolments.
pub(crate) fn plugged_keys(policy: &Policy, folder: &Path) -> Result<BTreeMap<KeyName, Enrolment>, InitError> {
    let mut enrolled = BTreeMap::new();
    for (name, public) in policy.public_files() {
        if let Some(enrolment) = read_place(folder, public, &name)? {
            enrolled.insert(name, enrolment);
        }
    }
    if !enrolled.is_empty() {
        let plugged: BTreeSet<u32> = piv::all()?.iter().map(Token::serial).collect();
        enrolled.retain(|_, enrolment| plugged.contains(&enrolment.serial));
    }
    Ok(enrolled)
}
