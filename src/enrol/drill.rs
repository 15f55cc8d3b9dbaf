//! The ceremony on keys that are thrown away, for people to learn it.

use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;

use super::EnrolError;
use super::MAKERS;
use super::PLACE;
use super::Request;
use super::generate;
use super::read_policy;
use crate::home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::Secrets;
use crate::key::piv;
use crate::key::piv::Problem;
use crate::key::piv::TokenName;
use crate::key::piv::enrolment;
use crate::key::piv::enrolment::Enrolment;
use crate::manifest::KeyName;
use crate::policy::Policy;

/// What a drill has done.
#[derive(Debug)]
pub struct Drilled {
    /// The keys that were made and erased again.
    pub keys: Vec<KeyName>,
    /// How long the making took, in milliseconds.
    pub milliseconds: u64,
}

/// Makes the keys of a person as [`generate`] does, beside a copy of the policy that
/// is thrown away, and erases them from the token. Only keys that the drill itself has
/// made are erased; the new PIN and PUK stay.
///
/// # Errors
/// As [`generate`]; a key could not be erased.
pub fn drill(request: &Request<'_>, person: &impl Secrets, now: Timestamp) -> Result<Drilled, EnrolError> {
    let (_, folder) = read_policy(request.policy)?;
    let scratch = tempfile::tempdir().map_err(|error| HomeError::io(&std::env::temp_dir(), error))?;
    let copy = scratch.path().join("policy.toml");
    atomic::write(&copy, &atomic::read(request.policy)?)?;
    for entry in std::fs::read_dir(folder.join(MAKERS)).into_iter().flatten().flatten() {
        atomic::write(&scratch.path().join(MAKERS).join(entry.file_name()), &atomic::read(&entry.path())?)?;
    }
    let started = Instant::now();
    let made = generate(&Request { policy: &copy, ..*request }, person, now);
    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    home::step("drill.made");
    // Also what a ceremony that failed has made.
    let erased = erase(request, scratch.path(), person);
    made?;
    Ok(Drilled { keys: erased?, milliseconds })
}

/// Erases the keys that stand in the notes below a folder.
fn erase(request: &Request<'_>, folder: &Path, person: &dyn Secrets) -> Result<Vec<KeyName>, EnrolError> {
    let (policy, _) = read_policy(request.policy)?;
    let mut made = Vec::new();
    for (name, public) in policy.public_files() {
        let note = folder.join(Policy::file_beside(public, &name, PLACE));
        made.extend(atomic::read_json::<Enrolment>(&note, enrolment::VERSION)?);
    }
    if made.is_empty() {
        return Ok(Vec::new());
    }
    let name = TokenName { serial: request.serial, holder: request.whose.holder() };
    let fails = |error| name.error(Problem::Card(error));
    let mut token = piv::find(&name)?;
    let pin = piv::unlock(&mut token, &name, person);
    let unlocked = pin.and_then(|_| token.manage().map_err(fails));
    let mut erased = Vec::new();
    for place in made {
        let left = |error| EnrolError::NotErased { token: name.clone(), key: place.key.clone(), error };
        // What was noted need not have been made.
        if token.slot(place.slot).map_err(fails)?.is_some() {
            unlocked.as_ref().map_err(|error| left(error.to_string()))?;
            token.erase(place.slot).map_err(|error| left(error.to_string()))?;
        }
        erased.push(place.key);
    }
    Ok(erased)
}
