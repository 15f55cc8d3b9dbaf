//! Makes the two deploy keys of a mirror in a token.

use jiff::Timestamp;

use super::EnrolError;
use super::PLACE;
use super::find_sound;
use super::make;
use super::public::check_attestation_of;
use super::public::read_makers;
use super::secure;
use super::tell;
use crate::home::Base;
use crate::home::atomic;
use crate::key::Secrets;
use crate::key::piv::Problem;
use crate::key::piv::Token;
use crate::key::piv::TokenName;
use crate::key::piv::enrolment;
use crate::key::piv::enrolment::Enrolment;
use crate::manifest::KeyName;
use crate::manifest::PinPolicy;
use crate::manifest::Slot;
use crate::manifest::TouchPolicy;
use crate::policy::DeployKey;
use crate::policy::Place;
use crate::policy::Policy;
use crate::policy::check_owners;
use crate::progress::Event;
use crate::progress::Stage;
use crate::repository::seal;

/// Slots for deploy keys, the usual ones first. Keys of the policy begin at the other end
/// of the numbers (`super::plan`), and come to these last.
const SLOTS: [u8; 9] = [0x9a, 0x95, 0x94, 0x93, 0x92, 0x91, 0x90, 0x8f, 0x8e];

/// Which deploy keys to make, and where.
pub struct DeployRequest<'a> {
    /// The folder, whose `keys/` gets what is public about them.
    pub base: &'a Base,
    /// The policy; a courier has none.
    pub policy: Option<&'a Policy>,
    /// The token's serial number.
    pub serial: u32,
    /// Their names, and the slots that were asked for.
    pub keys: [(KeyName, Option<Slot>); 2],
}

/// Makes keys without touch: a push logs in where nobody looks. The same call after
/// an interruption goes on. Gives their slots.
///
/// # Errors
/// The token is missing, too old, or has no room; a secret is wrong; nobody vouches
/// for the token.
pub fn make_deploy_keys(
    request: &DeployRequest<'_>,
    person: &dyn Secrets,
    now: Timestamp,
) -> Result<[Slot; 2], EnrolError> {
    let DeployRequest { base, policy, serial, keys } = request;
    let allow_weak = policy.is_some_and(|policy| policy.insecure_weak_firmware);
    let name =
        TokenName { serial: *serial, holder: policy.and_then(|policy| base.terminal.holder_of(policy, *serial)) };
    if let Some(policy) = policy {
        let new = keys.iter().map(|(key, _)| (key, *serial));
        let shared = check_owners(policy, base.terminal.keys_in_tokens().chain(new));
        shared.map_err(|shared| EnrolError::Shared(shared, name.clone()))?;
    }
    person.event(Event::Begin { stage: Stage::Enrol, what: &name.to_string() });
    let mut token = find_sound(&name, allow_weak)?;
    let makers = read_makers(base.folder())?;
    let mut planned: Vec<Enrolment> = Vec::new();
    for (key, wish) in keys {
        let slot = choose(base, &name, &mut token, (key, *wish), &planned)?;
        planned.push(Enrolment {
            version: enrolment::VERSION,
            key: key.clone(),
            serial: *serial,
            slot,
            pin: PinPolicy::Once,
            touch: TouchPolicy::Never,
            created: seal::to_second(now),
        });
    }
    secure(&mut token, &name, person)?;
    for place in &planned {
        let file = DeployKey::public(&place.key);
        let (public, attestation) = make(&mut token, &name, base.folder(), &file, place)?;
        let key = (&public, TouchPolicy::Never);
        check_attestation_of(allow_weak, &makers, key, place, &attestation, now)?;
        atomic::write(&base.folder().join(file), public.to_pem().as_bytes())?;
        tell(place, person);
    }
    let slots = planned.iter().map(|place| place.slot).collect::<Vec<_>>();
    slots.try_into().map_err(|_| EnrolError::NoSlot(name))
}

/// The slot that an earlier run noted for a key, the one that was asked for, or the
/// next that is free.
fn choose(
    base: &Base,
    name: &TokenName,
    token: &mut Token,
    (key, wish): (&KeyName, Option<Slot>),
    planned: &[Enrolment],
) -> Result<Slot, EnrolError> {
    let path = base.folder().join(Policy::file_beside(&DeployKey::public(key), key, PLACE));
    let noted = atomic::read_json::<Enrolment>(&path, enrolment::VERSION)?;
    let noted = noted.filter(|noted| noted.serial == name.serial).map(|noted| noted.slot);
    let in_use = |slot: Slot| {
        let place = Place::Slot { serial: name.serial, slot };
        let mut tokens = base.terminal.tokens.values().map(toml::Spanned::get_ref);
        let mut deploy = base.terminal.deploy_keys().map(|key| &key.place);
        planned.iter().any(|other| other.slot == slot)
            || tokens.any(|other| *other == place)
            || deploy.any(|other| *other == place)
    };
    if let Some(noted) = noted.filter(|noted| !in_use(*noted) && wish.is_none_or(|wish| wish == *noted)) {
        return Ok(noted);
    }
    let candidates = match wish {
        Some(wish) => vec![wish],
        None => SLOTS.into_iter().filter_map(Slot::new).collect(),
    };
    for slot in candidates {
        let fails = |error| name.error(Problem::Card(error));
        if !in_use(slot) && token.slot(slot).map_err(fails)?.is_none() {
            return Ok(slot);
        }
    }
    Err(match wish {
        Some(slot) => EnrolError::SlotInUse { token: name.clone(), slot, key: key.clone() },
        None => EnrolError::NoSlot(name.clone()),
    })
}
