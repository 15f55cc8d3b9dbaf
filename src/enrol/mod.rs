//! Makes the keys of a person in a hardware token: on it, so that they never were
//! anywhere else.
//!
//! Beside the policy appear, for each key, its public half, `<key>.token.json` and
//! `<key>.attestation.pem`. A run that was interrupted goes on: what a slot is for
//! is noted before its key is made, and the public half appears last.

mod care;
mod certificate;
mod deploy;
mod drill;
mod import;
mod public;
mod software;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::KeyError;
use crate::key::PublicKey;
use crate::key::Secrets;
use crate::key::Signer as _;
use crate::key::attestation::AttestationError;
use crate::key::attestation::SOUND_FIRMWARE;
use crate::key::piv;
use crate::key::piv::Pin;
use crate::key::piv::Problem;
use crate::key::piv::Secret;
use crate::key::piv::Token;
use crate::key::piv::TokenName;
use crate::key::piv::apdu::CardError;
use crate::key::piv::enrolment;
use crate::key::piv::enrolment::Enrolment;
use crate::manifest::Firmware;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::PinPolicy;
use crate::manifest::Slot;
use crate::manifest::TouchPolicy;
use crate::openpgp;
use crate::openpgp::NewKey;
use crate::openpgp::OpenPgpError;
use crate::policy::Policy;
use crate::policy::Purpose;
use crate::policy::SharedToken;
use crate::policy::check_owners;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Stage;
use crate::repository::seal;

pub use care::attest;
pub use care::selftest;
pub use care::unblock;
pub use certificate::extend;
pub use deploy::DeployRequest;
pub use deploy::make_deploy_keys;
pub use drill::Drilled;
pub use drill::drill;
pub use import::ImportPublicError;
pub use import::Taken;
pub use import::import;
pub use public::PublicFiles;
pub use public::attested_until;
pub use public::check_attestation;
pub use public::read_makers;
pub use software::PRIVATE;
pub use software::generate_files;
pub use software::make_files;

use self::public::certificate_pem;

/// What the file is called in which users read what is attested of a key.
pub const ATTESTED: &str = "attested.json";
/// The folder with the certificates of token makers, beside the public keys.
pub const MAKERS: &str = "keys/attestation-roots";
/// What the file with the place of a key is called, behind its name.
pub const PLACE: &str = "token.json";
/// What the file with the attestation of a key is called, behind its name.
pub const ATTESTATION: &str = "attestation.pem";

/// Whose keys to make, and where.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The policy; files that it names are made relative to it.
    pub policy: &'a Path,
    /// Whose keys.
    pub whose: Whose<'a>,
    /// The token's serial number.
    pub serial: u32,
}

/// Whose keys to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose<'a> {
    /// A person's.
    Person(&'a Holder),
    /// The online key, which is nobody's.
    Online,
    /// Those of the archive's certificate, for apt.
    Archive,
}

impl Whose<'_> {
    /// The person, if it is one.
    fn holder(self) -> Option<Holder> {
        match self {
            Self::Person(holder) => Some(holder.clone()),
            Self::Online | Self::Archive => None,
        }
    }
}

impl fmt::Display for Whose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person(holder) => holder.fmt(f),
            Self::Online => f.write_str("no machine"),
            Self::Archive => f.write_str("the archive"),
        }
    }
}

/// Why keys were not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The policy file is missing.
    #[error("there is no file {}", .0.display())]
    NoPolicy(PathBuf),
    /// The policy does not know the person.
    #[error("the policy has no holder `{0}`")]
    NoHolder(Holder),
    /// The policy wants keys in tokens.
    #[error("the policy does not set `insecure-software-keys = true`, so no key is made as a file")]
    NoSoftwareKeys,
    /// All public halves exist.
    #[error("{0} has no key without a public half in the policy")]
    NothingToMake(String),
    /// The token holds keys of somebody else.
    #[error("{0}; {1} was not changed")]
    Shared(SharedToken, TokenName),
    /// Keys would be easy to steal.
    #[error(
        "{token} has firmware {firmware}, from which keys can be read by an attack on its chip; {SOUND_FIRMWARE} or later has not that fault"
    )]
    WeakFirmware {
        /// The token.
        token: TokenName,
        /// Its firmware.
        firmware: Firmware,
    },
    /// A slot holds a key that we have not made.
    #[error("{token} has a key in slot {slot} already, which no run of this made for {key}; it was not replaced")]
    Taken {
        /// The token.
        token: TokenName,
        /// The slot.
        slot: Slot,
        /// The key that should be there.
        key: KeyName,
    },
    /// A slot that a person has chosen holds another key.
    #[error("{token} has a key in slot {slot} already, and {key} needs a slot of its own; it was not replaced")]
    SlotInUse {
        /// The token.
        token: TokenName,
        /// The slot.
        slot: Slot,
        /// The key that should be there.
        key: KeyName,
    },
    /// The token has not enough slots.
    #[error("{0} has no free slot for so many keys")]
    NoSlot(TokenName),
    /// A blocked PUK cannot help where the PIN is.
    #[error("{0} has a blocked PUK: a PIN that is blocked could never be set anew")]
    BlockedPuk(TokenName),
    /// The management key is unknown.
    #[error("{0} has a management key that is neither the one from the factory nor kept in the token behind the PIN")]
    UnknownManagement(TokenName),
    /// The certificates of token makers cannot be used.
    #[error("{MAKERS} cannot be used: {0}")]
    Makers(AttestationError),
    /// What the token says of a key proves nothing, or not enough.
    #[error("the attestation of {key} does not count: {error}")]
    Attestation {
        /// The key.
        key: KeyName,
        /// Why.
        error: AttestationError,
    },
    /// A certificate holds keys beside those that are attested.
    #[error("{file} does not count: {error}")]
    Certificate {
        /// Its file.
        file: String,
        /// Why.
        error: OpenPgpError,
    },
    /// The token says nothing of how a key came to be.
    #[error(
        "{token} vouches for no key in slot {slot}, where {key} should be: it holds none, or one that was imported"
    )]
    NotMadeThere {
        /// The token.
        token: TokenName,
        /// The slot.
        slot: Slot,
        /// The key.
        key: KeyName,
    },
    /// The token says other things of a key than it did.
    #[error("{token} does not say of {key} what it said when that was made: {what} differs")]
    Changed {
        /// The token.
        token: TokenName,
        /// The key.
        key: KeyName,
        /// What differs.
        what: &'static str,
    },
    /// A key that was to be thrown away is still there.
    #[error("{token} still has {key}, which was to be thrown away: {error}")]
    NotErased {
        /// The token.
        token: TokenName,
        /// The key.
        key: KeyName,
        /// Why.
        error: String,
    },
    /// No key of the policy is in the token.
    #[error("no key of the policy was made in token {0}")]
    NoKeys(u32),
    /// Files of the policy's folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The token.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate cannot be made.
    #[error(transparent)]
    OpenPgp(#[from] OpenPgpError),
}

/// A key that is to be made.
struct New {
    name: KeyName,
    purpose: Purpose,
    /// The file of the public half, relative to the policy.
    public: String,
}

/// Reads the policy at a path. Gives also the folder that its files are in.
///
/// # Errors
/// There is none, or it has a mistake.
pub fn read_policy(path: &Path) -> Result<(Policy, &Path), EnrolError> {
    let text = home::read_text(path)?.ok_or_else(|| EnrolError::NoPolicy(path.to_owned()))?;
    let policy = Policy::parse(path, text).map_err(HomeError::from)?;
    Ok((policy, path.parent().unwrap_or(Path::new(""))))
}

/// Makes the keys of the person whose public halves do not exist. Gives their names.
///
/// # Errors
/// The token is missing, too old, or holds other keys; a secret is wrong.
pub fn generate(request: &Request<'_>, person: &impl Secrets, now: Timestamp) -> Result<Vec<KeyName>, EnrolError> {
    let (policy, folder) = read_policy(request.policy)?;
    let holder = request.whose.holder();
    if let Some(holder) = holder.as_ref().filter(|holder| !policy.holders.contains_key(*holder)) {
        return Err(EnrolError::NoHolder(holder.clone()));
    }
    let new = new_keys(&policy, folder, request.whose);
    if new.is_empty() {
        return Err(EnrolError::NothingToMake(request.whose.to_string()));
    }
    let name = TokenName { serial: request.serial, holder };
    refuse_shared(&policy, folder, &new, &name)?;
    person.event(Event::Begin { stage: Stage::Enrol, what: &name.to_string() });
    let mut token = find_sound(&name, policy.insecure_weak_firmware)?;
    let makers = read_makers(folder)?;
    let planned = plan(&new, &name, folder, &mut token, now)?;
    let pin = secure(&mut token, &name, person)?;
    let mut certificates = Vec::new();
    for (key, place) in new.iter().zip(planned) {
        let (public, attestation) = make(&mut token, &name, folder, &key.public, &place)?;
        check_attestation(&policy, &makers, &public, &place, &attestation, now)?;
        tell(&place, person);
        match key.purpose {
            Purpose::OpenPgp | Purpose::Certify | Purpose::Archive => certificates.push((key, public, place)),
            _ => atomic::write(&folder.join(&key.public), public.to_pem().as_bytes())?,
        }
    }
    // What goes into a certificate is what was attested, whatever the token says now.
    let slots: Vec<(&KeyName, Slot, &PublicKey)> =
        certificates.iter().map(|(key, public, place)| (&key.name, place.slot, public)).collect();
    let signers = piv::opened(&name, (token, pin), &slots, person)?;
    for entry in policy.certificates() {
        let made = |name: &KeyName| {
            let (_, _, place) = certificates.iter().find(|(key, ..)| key.name == *name)?;
            let signer = signers.iter().find(|signer| signer.name() == name)?;
            Some(NewKey { signer, created: place.created })
        };
        if let (Some(primary), Some(signing)) = (made(&entry.primary), made(&entry.signing)) {
            let expires = seal::expiry(now, policy.openpgp.expires.duration());
            let certificate = openpgp::new_certificate(primary, signing, &policy.name_in(&entry), expires)?;
            atomic::write(&folder.join(entry.file.get_ref()), &certificate.to_armor()?)?;
        }
    }
    Ok(new.into_iter().map(|key| key.name).collect())
}

/// Finds a token whose keys cannot be read out of its chip.
fn find_sound(name: &TokenName, allow_weak: bool) -> Result<Token, EnrolError> {
    let token = piv::find(name)?;
    let firmware = token.firmware();
    if firmware < SOUND_FIRMWARE && !allow_weak {
        return Err(EnrolError::WeakFirmware { token: name.clone(), firmware });
    }
    Ok(token)
}

/// Says that a key was made, and checked.
fn tell(place: &Enrolment, person: &dyn Secrets) {
    home::step("enrol.attested");
    let (slot, touch) = (place.slot.to_string(), place.touch.to_string());
    let evidence = Evidence::Generated { key: place.key.as_str(), slot: &slot, touch: &touch };
    person.event(Event::Done { stage: Stage::Enrol, evidence });
}

/// The keys of a person whose public halves do not exist, in the order of their use.
fn new_keys(policy: &Policy, folder: &Path, whose: Whose<'_>) -> Vec<New> {
    let is_meant = |name: &KeyName| match whose {
        Whose::Person(holder) => policy.owner_of(name).as_ref() == Some(holder),
        Whose::Online => policy.purpose_of(name) == Some(Purpose::Online),
        Whose::Archive => policy.purpose_of(name) == Some(Purpose::Archive),
    };
    let mut new: Vec<New> = policy
        .public_files()
        .filter(|(name, file)| is_meant(name) && !folder.join(file).exists())
        .filter_map(|(name, file)| Some(New { purpose: policy.purpose_of(&name)?, name, public: file.to_owned() }))
        .collect();
    new.sort_by_key(|key| key.purpose);
    new
}

/// Refuses a token in which somebody else has made keys.
fn refuse_shared(policy: &Policy, folder: &Path, new: &[New], token: &TokenName) -> Result<(), EnrolError> {
    let mut places: Vec<(KeyName, u32)> = new.iter().map(|key| (key.name.clone(), token.serial)).collect();
    for (name, public) in policy.public_files() {
        let path = folder.join(Policy::file_beside(public, &name, PLACE));
        let noted = atomic::read_json::<Enrolment>(&path, enrolment::VERSION)?;
        places.extend(noted.filter(|noted| noted.serial == token.serial).map(|noted| (name, noted.serial)));
    }
    let shared = check_owners(policy, places.iter().map(|(name, serial)| (name, *serial)));
    shared.map_err(|shared| EnrolError::Shared(shared, token.clone()))
}

/// The usual slot of a purpose, and when a key of it waits for a touch.
fn usual(purpose: Purpose) -> (u8, TouchPolicy) {
    match purpose {
        Purpose::Release => (0x9c, TouchPolicy::Cached),
        Purpose::Claim => (0x82, TouchPolicy::Cached),
        Purpose::OpenPgp => (0x83, TouchPolicy::Cached),
        Purpose::Targets => (0x84, TouchPolicy::Always),
        Purpose::Root => (0x85, TouchPolicy::Always),
        Purpose::Online => (0x86, TouchPolicy::Cached),
        Purpose::Certify => (0x87, TouchPolicy::Cached),
        Purpose::Archive => (0x83, TouchPolicy::Always),
    }
}

/// Finds a slot for each key: the one that an earlier run noted for it, the usual
/// one, or a free one.
fn plan(
    new: &[New],
    name: &TokenName,
    folder: &Path,
    token: &mut Token,
    now: Timestamp,
) -> Result<Vec<Enrolment>, EnrolError> {
    let fails = |error: CardError| name.error(Problem::Card(error));
    let own = noted_slots(new, folder, name.serial);
    let mut planned: Vec<Enrolment> = Vec::new();
    for key in new {
        let (number, touch) = usual(key.purpose);
        let is_planned = |slot: Slot| planned.iter().any(|place: &Enrolment| place.slot == slot);
        let path = folder.join(Policy::file_beside(&key.public, &key.name, PLACE));
        let noted = atomic::read_json::<Enrolment>(&path, enrolment::VERSION)?;
        if let Some(noted) = noted.filter(|noted| noted.serial == name.serial && !is_planned(noted.slot)) {
            planned.push(noted);
            continue;
        }
        // A second key of one purpose, as for a further product or in place of an old one,
        // goes where there is room.
        let mut chosen = None;
        for number in std::iter::once(number).chain(0x88..=0x94) {
            let slot = Slot::new(number).filter(|slot| !is_planned(*slot) && !own.contains(slot));
            let Some(slot) = slot else {
                continue;
            };
            if token.slot(slot).map_err(fails)?.is_some() {
                return Err(EnrolError::Taken { token: name.clone(), slot, key: key.name.clone() });
            }
            chosen = Some(slot);
            break;
        }
        planned.push(Enrolment {
            version: enrolment::VERSION,
            key: key.name.clone(),
            serial: name.serial,
            slot: chosen.ok_or_else(|| EnrolError::NoSlot(name.clone()))?,
            // 9C would ask for it before each signature.
            pin: PinPolicy::Once,
            touch,
            created: seal::to_second(now),
        });
    }
    Ok(planned)
}

/// The slots of a token in which keys were made before, those that have left the policy
/// among them.
fn noted_slots(new: &[New], folder: &Path, serial: u32) -> BTreeSet<Slot> {
    let folders: BTreeSet<PathBuf> =
        new.iter().filter_map(|key| folder.join(&key.public).parent().map(Path::to_owned)).collect();
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let noted = entries
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(&format!(".{PLACE}")))
        .filter_map(|entry| atomic::read_json::<Enrolment>(&entry.path(), enrolment::VERSION).ok()?);
    noted.filter(|noted| noted.serial == serial).map(|noted| noted.slot).collect()
}

/// Sees to it that PIN, PUK and management key are not those from the factory,
/// and gives the PIN and the management key.
fn secure(token: &mut Token, name: &TokenName, person: &dyn Secrets) -> Result<Pin, EnrolError> {
    let fails = |error: CardError| name.error(Problem::Card(error));
    let pin = if token.secret(Secret::Pin).map_err(fails)?.is_default {
        let pin = replace_factory(token, name, Secret::Pin, person)?;
        name.is_right(Secret::Pin, token.verify(&pin).map_err(fails)?)?;
        pin
    } else {
        piv::unlock(token, name, person)?
    };
    let puk = token.secret(Secret::Puk).map_err(fails)?;
    if puk.tries == 0 {
        return Err(EnrolError::BlockedPuk(name.clone()));
    }
    if puk.is_default {
        replace_factory(token, name, Secret::Puk, person)?;
    }
    token.manage().map_err(|error| match error {
        CardError::Status(_) => EnrolError::UnknownManagement(name.clone()),
        error => fails(error).into(),
    })?;
    let evidence = Evidence::Secured { token: &name.to_string(), firmware: &token.firmware().to_string() };
    person.event(Event::Done { stage: Stage::Enrol, evidence });
    Ok(pin)
}

/// Changes a PIN or PUK that is as it left the factory.
fn replace_factory(
    token: &mut Token,
    name: &TokenName,
    secret: Secret,
    person: &dyn Secrets,
) -> Result<Pin, EnrolError> {
    let no_pin = || name.error(Problem::NoPin);
    let old = Pin::new(secret.factory()).ok_or_else(no_pin)?;
    let new = Pin::new(&person.new_pin(name, secret)?).ok_or_else(no_pin)?;
    let changed = token.change(secret, &old, &new).map_err(|error| name.error(Problem::Card(error)))?;
    name.is_right(secret, changed)?;
    Ok(new)
}

/// What the token says now of the key in a place.
fn attestation_of(token: &mut Token, name: &TokenName, place: &Enrolment) -> Result<[Vec<u8>; 2], EnrolError> {
    let fails = |error: CardError| name.error(Problem::Card(error));
    let slot = token.attest(place.slot).map_err(|error| match error {
        CardError::Status(_) => {
            EnrolError::NotMadeThere { token: name.clone(), slot: place.slot, key: place.key.clone() }
        }
        error => fails(error).into(),
    })?;
    Ok([slot, token.attestation_certificate().map_err(fails)?])
}

/// Makes one key, unless an earlier run has, and writes down what is public but its
/// public half, whose file is `public`.
fn make(
    token: &mut Token,
    name: &TokenName,
    folder: &Path,
    public: &str,
    place: &Enrolment,
) -> Result<(PublicKey, [Vec<u8>; 2]), EnrolError> {
    let fails = |error: CardError| name.error(Problem::Card(error));
    let beside = |what: &str| folder.join(Policy::file_beside(public, &place.key, what));
    // Noted before: what is in the slot afterwards is this key.
    atomic::write_json(&beside(PLACE), place)?;
    home::step("enrol.noted");
    let found = token.slot(place.slot).map_err(fails)?;
    let public = match found.map(|slot| slot.public) {
        None => token.generate(place.slot, place.pin, place.touch).map_err(fails)?,
        Some(Some(public)) => public,
        Some(None) => return Err(EnrolError::Taken { token: name.clone(), slot: place.slot, key: place.key.clone() }),
    };
    home::step("enrol.generated");
    // A key that was imported since the note has no attestation.
    let attestation = attestation_of(token, name, place)?;
    token.put_certificate(place.slot, &attestation[0]).map_err(fails)?;
    let pem = attestation.each_ref().map(|certificate| certificate_pem(certificate)).concat();
    atomic::write(&beside(ATTESTATION), pem.as_bytes())?;
    Ok((public, attestation))
}
