//! Makes the keys of a person in a hardware token: on it, so that they never were
//! anywhere else.
//!
//! Beside the policy appear, for each key, its public half, `<key>.token.json` and
//! `<key>.attestation.pem`. A run that was interrupted goes on: what a slot is for
//! is noted before its key is made, and the public half appears last.

mod deploy;

use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use jiff::Timestamp;

use crate::home;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::KeyError;
use crate::key::PublicKey;
use crate::key::Secrets;
use crate::key::ToSign;
use crate::key::attestation;
use crate::key::attestation::AttestationError;
use crate::key::attestation::Expected;
use crate::key::attestation::Makers;
use crate::key::attestation::SOUND_FIRMWARE;
use crate::key::piv;
use crate::key::piv::Pin;
use crate::key::piv::Problem;
use crate::key::piv::Secret;
use crate::key::piv::Token;
use crate::key::piv::TokenName;
use crate::key::piv::Tokens;
use crate::key::piv::apdu::CardError;
use crate::key::piv::enrolment;
use crate::key::piv::enrolment::Enrolment;
use crate::manifest::Attested;
use crate::manifest::Firmware;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::PinPolicy;
use crate::manifest::Sha256;
use crate::manifest::Slot;
use crate::manifest::TouchPolicy;
use crate::openpgp;
use crate::openpgp::OpenPgpError;
use crate::policy::Place;
use crate::policy::Policy;
use crate::policy::Purpose;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Stage;
use crate::repository::seal;
use crate::sign::Batch;
use crate::sign::SignError;

pub use self::deploy::DeployRequest;
pub use self::deploy::deploy_keys;

/// What the file is called in which users read what is attested of a key.
pub const ATTESTED: &str = "attested.json";
/// The folder with the certificates of token makers, beside the public keys.
pub const MAKERS: &str = "keys/attestation-roots";
/// What the file with the place of a key is called, behind its name.
pub const PLACE: &str = "token.json";
/// What the file with the attestation of a key is called, behind its name.
pub const ATTESTATION: &str = "attestation.pem";

/// Whose keys to make, and where.
pub struct Request<'a> {
    /// The policy; files that it names are made relative to it.
    pub policy: &'a Path,
    /// The person, or nobody for the online key.
    pub holder: Option<&'a Holder>,
    /// The token's serial number.
    pub serial: u32,
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
    /// All public halves exist.
    #[error("{} no key without a public half in the policy", .0.as_ref().map_or("no machine has".to_owned(), |holder| format!("{holder} has")))]
    NothingToMake(Option<Holder>),
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

/// Makes the keys of the person whose public halves do not exist. Gives their names.
///
/// # Errors
/// The token is missing, too old, or holds other keys; a secret is wrong.
pub fn generate(request: &Request<'_>, person: &impl Secrets, now: Timestamp) -> Result<Vec<KeyName>, EnrolError> {
    let no_policy = || EnrolError::NoPolicy(request.policy.to_owned());
    let text = home::read_text(request.policy)?.ok_or_else(no_policy)?;
    let policy = Policy::parse(request.policy, text).map_err(HomeError::from)?;
    let folder = request.policy.parent().unwrap_or(Path::new(""));
    if let Some(holder) = request.holder.filter(|holder| !policy.holders.contains_key(*holder)) {
        return Err(EnrolError::NoHolder(holder.clone()));
    }
    let new = new_keys(&policy, folder, request.holder);
    if new.is_empty() {
        return Err(EnrolError::NothingToMake(request.holder.cloned()));
    }
    let name = TokenName { serial: request.serial, holder: request.holder.cloned() };
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
            Purpose::OpenPgp => certificates.push((key, place)),
            _ => atomic::write(&folder.join(&key.public), public.to_pem().as_bytes())?,
        }
    }
    // A person has one OpenPGP key.
    if let (Some((key, place)), Some(holder)) = (certificates.pop(), request.holder) {
        let signer = piv::opened(&key.name, &name, (token, pin), place.slot, person)?;
        let certificate = openpgp::new_certificate(&signer, policy.holders[holder].as_str(), place.created)?;
        atomic::write(&folder.join(&key.public), &certificate.to_armor()?)?;
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
fn new_keys(policy: &Policy, folder: &Path, holder: Option<&Holder>) -> Vec<New> {
    let mut new: Vec<New> = policy
        .public_files()
        .filter(|(name, file)| policy.owner_of(name).as_ref() == holder && !folder.join(file).exists())
        .filter_map(|(name, file)| Some(New { purpose: policy.purpose_of(&name)?, name, public: file.to_owned() }))
        .collect();
    new.sort_by_key(|key| key.purpose);
    new
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
        // A second key of one purpose, as for a further product, goes where there is room.
        let mut chosen = None;
        for number in std::iter::once(number).chain(0x88..=0x94) {
            let slot = Slot::new(number).filter(|slot| !is_planned(*slot));
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
            created: seal::expiry(now, jiff::SignedDuration::ZERO),
        });
    }
    Ok(planned)
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
    let attestation = [token.attest(place.slot).map_err(fails)?, token.attestation_certificate().map_err(fails)?];
    token.put_certificate(place.slot, &attestation[0]).map_err(fails)?;
    let pem = attestation.each_ref().map(|certificate| certificate_pem(certificate)).concat();
    atomic::write(&beside(ATTESTATION), pem.as_bytes())?;
    Ok((public, attestation))
}

/// Reads the certificates of token makers below a folder with a policy.
///
/// # Errors
/// There are none, or one is no certificate of an authority.
pub fn read_makers(folder: &Path) -> Result<Makers, EnrolError> {
    let path = folder.join(MAKERS);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
        let content = crate::transport::read_plain(&entry.path(), attestation::MAX_FILE)
            .map_err(|error| HomeError::of_transport(&entry.path(), error))?;
        files.extend(content.map(|content| (entry.file_name().to_string_lossy().into_owned(), content)));
    }
    files.sort();
    let named = files.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
    Makers::read(named).map_err(EnrolError::Makers)
}

/// What the maker of a token vouches for about a key: at least what its purpose
/// asks for. `certificates` are the attestation of its slot, and that of F9.
///
/// # Errors
/// It vouches for nothing, for another key, or for less.
pub fn check_attestation(
    policy: &Policy,
    makers: &Makers,
    public: &PublicKey,
    place: &Enrolment,
    certificates: &[Vec<u8>; 2],
    now: Timestamp,
) -> Result<Attested, EnrolError> {
    let touch = policy.purpose_of(&place.key).map_or(TouchPolicy::Always, |purpose| usual(purpose).1);
    check_attestation_of(policy.insecure_weak_firmware, makers, (public, touch), place, certificates, now)
}

/// The same for a key that should wait for such a touch.
fn check_attestation_of(
    allow_weak_firmware: bool,
    makers: &Makers,
    (public, touch): (&PublicKey, TouchPolicy),
    place: &Enrolment,
    [slot, issuer]: &[Vec<u8>; 2],
    now: Timestamp,
) -> Result<Attested, EnrolError> {
    let expected = Expected {
        key: public,
        serial: place.serial,
        slot: place.slot,
        pin_policy: PinPolicy::Once,
        touch_policy: touch,
        allow_weak_firmware,
    };
    attestation::verify(slot, issuer, makers, &expected, now)
        .map_err(|error| EnrolError::Attestation { key: place.key.clone(), error })
}

/// A certificate in PEM (RFC 7468).
fn certificate_pem(der: &[u8]) -> String {
    // A document of few kilobytes does not fail to be encoded.
    pkcs8::der::pem::encode_string("CERTIFICATE", pkcs8::LineEnding::LF, der).unwrap_or_default()
}

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
