//! Looking after tokens: a new PIN, a test, and whether they still say what they
//! said when their keys were made.

use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;

use super::EnrolError;
use super::attestation_of;
use super::public::PublicFiles;
use super::public::check_attestation;
use super::public::read_makers;
use super::read_policy;
use crate::home::Home;
use crate::key::KeyError;
use crate::key::Secrets;
use crate::key::ToSign;
use crate::key::piv;
use crate::key::piv::Pin;
use crate::key::piv::Problem;
use crate::key::piv::Secret;
use crate::key::piv::TokenName;
use crate::key::piv::Tokens;
use crate::key::piv::apdu::CardError;
use crate::manifest::Attested;
use crate::manifest::KeyName;
use crate::manifest::Sha256;
use crate::policy::Place;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Stage;
use crate::sign::Batch;
use crate::sign::SignError;

/// Sets a new PIN by the PUK.
///
/// # Errors
/// The token is missing; the PUK is wrong or blocked, or nobody gives it.
pub fn unblock(serial: u32, person: &dyn Secrets) -> Result<(), EnrolError> {
    let name = TokenName { serial, holder: None };
    let fails = |error: CardError| name.error(Problem::Card(error));
    let mut token = piv::find(&name)?;
    let left = token.secret(Secret::Puk).map_err(fails)?.tries;
    let puk = name.ask_for(Secret::Puk, left, person)?;
    let new = Pin::new(&person.new_pin(&name, Secret::Pin)?).ok_or_else(|| name.error(Problem::NoPin))?;
    Ok(name.is_right(Secret::Puk, token.unblock(&puk, &new).map_err(fails)?)?)
}

/// Signs a test by each key in a token, or in all. Gives how long each took, in
/// milliseconds. What is signed is good for nothing else.
///
/// # Errors
/// The first key that fails.
pub fn selftest(
    home: &Home,
    serial: Option<u32>,
    person: &dyn Secrets,
    now: &dyn Fn() -> Timestamp,
) -> Result<Vec<(KeyName, u64)>, SignError> {
    let is_meant = |place: &Place| match place {
        Place::Slot { serial: found, .. } => serial.is_none_or(|serial| serial == *found),
        Place::File(_) => false,
    };
    let tokens = home.terminal.tokens.iter();
    let names: Vec<&KeyName> = tokens.filter(|(_, place)| is_meant(place.get_ref())).map(|(name, _)| name).collect();
    let mut journal = home.journal()?;
    let batch = Batch::open_keys(home, names.iter().copied(), &Tokens::new(person))?;
    let mut took = Vec::new();
    for name in names {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| KeyError::Random(error.to_string()))?;
        // No format of ours begins like this, so that it can be mistaken for none.
        let message = [b"release key selftest ".as_slice(), &random].concat();
        let digest = Sha256::of(&message);
        journal.ask(now(), name, &format!("selftest {digest}"), digest)?;
        let started = Instant::now();
        batch.signer(name)?.sign("a test", ToSign::Message(&message))?;
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let evidence = Evidence::Tested { key: name.as_str(), milliseconds };
        person.event(Event::Done { stage: Stage::Sign, evidence });
        took.push((name.clone(), milliseconds));
    }
    Ok(took)
}

/// Has a token say anew how each of its keys came to be, and compares that with the
/// policy and with what it said when they were made. Needs no PIN.
///
/// # Errors
/// The token is missing, vouches for no such key, or says something else.
pub fn attest(policy: &Path, serial: u32, now: Timestamp) -> Result<Vec<(KeyName, Attested)>, EnrolError> {
    let (policy, folder) = read_policy(policy)?;
    let mut keys = Vec::new();
    for (name, file) in policy.public_files() {
        let files = PublicFiles::load(&policy, &name, file, folder)?;
        keys.extend(files.filter(|files| files.made.as_ref().is_some_and(|(place, _)| place.serial == serial)));
    }
    let Some(first) = keys.first() else {
        return Err(EnrolError::NoKeys(serial));
    };
    let makers = read_makers(folder)?;
    let token_name = TokenName { serial, holder: policy.owner_of(&first.name) };
    let mut token = piv::find(&token_name)?;
    let mut found = Vec::new();
    for files in &keys {
        let Some((place, stored)) = &files.made else {
            continue;
        };
        let said = attestation_of(&mut token, &token_name, place)?;
        let attested = check_attestation(&policy, &makers, &files.key, place, &said, now)?;
        let before = check_attestation(&policy, &makers, &files.key, place, stored, now)?;
        let changed = |what| EnrolError::Changed { token: token_name.clone(), key: files.name.clone(), what };
        if said[1] != stored[1] {
            return Err(changed("the certificate in slot F9"));
        }
        if attested != before {
            return Err(changed("what is attested"));
        }
        found.push((files.name.clone(), attested));
    }
    Ok(found)
}
