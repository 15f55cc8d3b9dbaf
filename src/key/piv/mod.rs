//! Keys in hardware tokens: YubiKeys, by their PIV application.
//!
//! A token is opened once, for this program alone, and asked for its PIN once.
//! Everything that it says is foreign: its answers are bounded, its public key is
//! compared with the enrolled one before it is asked to sign, and what it signed
//! is verified.

pub mod apdu;
pub mod enrolment;
mod manage;
mod reader;
mod token;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use self::apdu::CardError;
use self::reader::Found;
use super::KeyError;
use super::PublicKey;
use super::Secrets;
use super::Signer;
use super::ToSign;
use crate::manifest::Firmware;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::PinPolicy;
use crate::manifest::Slot;
use crate::manifest::TouchPolicy;
use crate::progress::Event;

pub use manage::Secret;
pub use token::Pin;
pub use token::SlotKey;
pub use token::Token;
pub use token::Verified;

/// How long a touch counts for keys with [`TouchPolicy::Cached`]. A token keeps
/// it for 15 seconds; one prompt too many does no harm.
const TOUCH_COUNTS: Duration = Duration::from_secs(12);

/// A token, as people know it: `token 15237801 of alice`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenName {
    /// The serial number that is printed on it.
    pub serial: u32,
    /// Whose it is; that of the online key is nobody's.
    pub holder: Option<Holder>,
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {}", self.serial)?;
        self.holder.as_ref().map_or(Ok(()), |holder| write!(f, " of {holder}"))
    }
}

/// A token that cannot be used. No try of its PIN was spent but where it says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{token} {problem}")]
pub struct TokenError {
    /// Which one.
    pub token: TokenName,
    /// Why.
    pub problem: Problem,
}

/// What is wrong with a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// There is no reader at all.
    #[error("is not plugged in: there is no card reader")]
    NoReader,
    /// It is in none of the readers.
    #[error("is not plugged in; {}", found(.others, .silent))]
    Missing {
        /// Serial numbers of the tokens that are.
        others: Vec<u32>,
        /// Readers whose card cannot be asked, and why.
        silent: Vec<String>,
    },
    /// Another program keeps the only card for itself.
    #[error("is not plugged in, or another program uses it (in {})", .0.join(", "))]
    InUse(Vec<String>),
    /// Two tokens say that they are this one.
    #[error("is plugged in twice: one of the two lies about its serial number")]
    Twice,
    /// It cannot say which keys it has.
    #[error("has firmware {found}; {least} or later can say which key is in a slot", least = token::MIN_FIRMWARE)]
    TooOld {
        /// Its firmware.
        found: Firmware,
    },
    /// The slot is empty.
    #[error("has no key in slot {slot}, where {key} should be")]
    EmptySlot {
        /// The slot.
        slot: Slot,
        /// The key.
        key: KeyName,
    },
    /// The slot holds another key.
    #[error("has another key in slot {slot} than the one that is enrolled as {key}")]
    OtherKey {
        /// The slot.
        slot: Slot,
        /// The key.
        key: KeyName,
    },
    /// What was given is no PIN or PUK; it was not tried.
    #[error("was not given a PIN or PUK: it has 6 to 8 letters, digits or signs")]
    NoPin,
    /// The PIN or PUK is wrong: a try was spent.
    #[error("refuses the {secret}: it is wrong, and {} left", tries(*.left))]
    Wrong {
        /// Which.
        secret: Secret,
        /// How many tries are left.
        left: u8,
    },
    /// One try is left, and nobody said that it may be spent.
    #[error("has one try of its {0} left, which was not spent")]
    LastTry(Secret),
    /// Whoever finds the token knows its PIN, or can set one by its PUK.
    #[error("still has the {0} from the factory, which everybody knows")]
    Factory(Secret),
    /// Whoever finds the token can replace its keys and what vouches for them.
    #[error("still has the management key from the factory, which everybody knows")]
    FactoryManagement,
    /// The PIN or PUK is blocked.
    #[error("has a blocked {0}: it was wrong too often")]
    Blocked(Secret),
    /// Nobody touched it in time.
    #[error("was not touched in time; {0} is not signed")]
    NotTouched(String),
    /// It forgot the PIN, or wants another one.
    #[error("takes no order to sign {0}, although its PIN was given")]
    Refused(String),
    /// It failed while it signed.
    #[error("did not sign {what}: {error}")]
    Signing {
        /// What it should sign.
        what: String,
        /// Why it did not.
        error: CardError,
    },
    /// It failed.
    #[error("fails: {0}")]
    Card(CardError),
}

fn tries(left: u8) -> String {
    match left {
        1 => "1 try is".to_owned(),
        left => format!("{left} tries are"),
    }
}

fn found(others: &[u32], silent: &[String]) -> String {
    let mut found: Vec<String> = others.iter().map(|serial| format!("token {serial}")).collect();
    found.extend(silent.iter().cloned());
    if found.is_empty() { "the readers are empty".to_owned() } else { format!("there is {}", found.join(", ")) }
}

/// A key that a token should hold.
pub struct Wanted<'a> {
    /// Its name.
    pub name: &'a KeyName,
    /// Which token.
    pub token: TokenName,
    /// Which slot.
    pub slot: Slot,
    /// Whether a public key is the one that is enrolled under this name.
    pub is_enrolled: Box<dyn Fn(&PublicKey) -> bool + 'a>,
}

/// A token with its PIN, which whoever signs holds.
struct Opened {
    token: Token,
    pin: Option<Pin>,
}

/// A key in a slot of an opened token.
pub struct PivKey<'a> {
    name: KeyName,
    public: PublicKey,
    token: TokenName,
    slot: Slot,
    pin: PinPolicy,
    touch: TouchPolicy,
    touched: Mutex<Option<Instant>>,
    /// How many keys of the batch still wait for their first touch.
    waiting: Arc<AtomicUsize>,
    opened: Arc<Mutex<Opened>>,
    person: &'a dyn Secrets,
}

/// Tokens that are open, each once, for this program alone and with its PIN, until
/// this is dropped or they are let go of.
pub struct Tokens<'a> {
    person: &'a dyn Secrets,
    held: Mutex<BTreeMap<u32, Held>>,
}

/// An opened token, and the reader that it is in.
struct Held {
    reader: CString,
    opened: Arc<Mutex<Opened>>,
}

impl<'a> Tokens<'a> {
    /// No token is open yet. `person` is asked for PINs.
    pub fn new(person: &'a dyn Secrets) -> Self {
        Self { person, held: Mutex::default() }
    }

    /// The person who is asked for secrets.
    pub fn person(&self) -> &'a dyn Secrets {
        self.person
    }

    /// Opens the tokens of all these keys, unless they are: finds all of them,
    /// compares their public keys with the enrolled ones, and only then asks for the
    /// PIN of each, once.
    ///
    /// # Errors
    /// A token is missing, holds other keys, or refuses its PIN; nobody gives one.
    pub fn open(&self, wanted: &[Wanted<'_>]) -> Result<Vec<PivKey<'a>>, KeyError> {
        let mut names: BTreeMap<u32, &TokenName> = BTreeMap::new();
        for key in wanted {
            // The holder's name helps to find it; that of a machine's key does not.
            let name = names.entry(key.token.serial).or_insert(&key.token);
            if name.holder.is_none() {
                *name = &key.token;
            }
        }
        let mut held = lock(&self.held);
        find_missing(&mut held, &names)?;
        let mut slots = Vec::new();
        for key in wanted {
            let name = names[&key.token.serial];
            let mut opened = lock(&held[&key.token.serial].opened);
            let (slot, public) = check(&mut opened.token, key).map_err(|problem| name.error(problem))?;
            slots.push(Checked { name: key.name.clone(), token: (*name).clone(), slot: key.slot, key: slot, public });
        }
        for slot in slots.iter().filter(|slot| slot.key.pin != PinPolicy::Never) {
            let Opened { token, pin } = &mut *lock(&held[&slot.token.serial].opened);
            if pin.is_none() {
                refuse_factory(token).map_err(|problem| slot.token.error(problem))?;
                *pin = Some(unlock(token, &slot.token, self.person)?);
            }
        }
        let opened = held.iter().map(|(serial, held)| (*serial, Arc::clone(&held.opened))).collect();
        Ok(assemble(slots, &opened, self.person))
    }

    /// Lets go of all tokens but these, as soon as no key of theirs is used: they
    /// forget the PIN.
    pub fn keep(&self, is_needed: impl Fn(u32) -> bool) {
        lock(&self.held).retain(|serial, _| is_needed(*serial));
    }
}

/// Finds those of the tokens that are not held yet. All or none are kept.
fn find_missing(held: &mut BTreeMap<u32, Held>, names: &BTreeMap<u32, &TokenName>) -> Result<(), KeyError> {
    let wanted: Vec<u32> = names.keys().filter(|serial| !held.contains_key(serial)).copied().collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let readers: Vec<&CString> = held.values().map(|held| &held.reader).collect();
    let is_wanted = |serial| wanted.contains(&serial);
    let mut found = reader::open(&readers, is_wanted).map_err(KeyError::NoTokenService)?;
    found.readers += readers.len();
    found.others.extend(held.keys());
    let mut new = BTreeMap::new();
    for (reader, token) in std::mem::take(&mut found.tokens) {
        let serial = token.serial();
        let opened = Arc::new(Mutex::new(Opened { token, pin: None }));
        if new.insert(serial, Held { reader, opened }).is_some() {
            return Err(names[&serial].error(Problem::Twice));
        }
    }
    if let Some(serial) = wanted.iter().find(|serial| !new.contains_key(serial)) {
        return Err(names[serial].error(missing(&found)));
    }
    held.append(&mut new);
    Ok(())
}

/// A slot that holds the key which should be there.
struct Checked {
    name: KeyName,
    token: TokenName,
    slot: Slot,
    key: SlotKey,
    public: PublicKey,
}

fn assemble<'a>(
    slots: Vec<Checked>,
    opened: &BTreeMap<u32, Arc<Mutex<Opened>>>,
    person: &'a dyn Secrets,
) -> Vec<PivKey<'a>> {
    let waiting = slots.iter().filter(|slot| slot.key.touch != TouchPolicy::Never).count();
    let waiting = Arc::new(AtomicUsize::new(waiting));
    let key = |slot: Checked| PivKey {
        opened: Arc::clone(&opened[&slot.token.serial]),
        name: slot.name,
        public: slot.public,
        token: slot.token,
        slot: slot.slot,
        pin: slot.key.pin,
        touch: slot.key.touch,
        touched: Mutex::new(None),
        waiting: Arc::clone(&waiting),
        person,
    };
    slots.into_iter().map(key).collect()
}

/// The keys in slots of a token that is open, and whose PIN was given.
///
/// # Errors
/// A slot is empty, or holds another key.
pub fn opened<'a>(
    token_name: &TokenName,
    (mut token, pin): (Token, Pin),
    slots: &[(&KeyName, Slot, &PublicKey)],
    person: &'a dyn Secrets,
) -> Result<Vec<PivKey<'a>>, KeyError> {
    let mut checked = Vec::new();
    for &(name, slot, made) in slots {
        let is_enrolled = Box::new(move |public: &PublicKey| public == made);
        let wanted = Wanted { name, token: token_name.clone(), slot, is_enrolled };
        let (key, public) = check(&mut token, &wanted).map_err(|problem| token_name.error(problem))?;
        checked.push(Checked { name: name.clone(), token: token_name.clone(), slot, key, public });
    }
    let opened = Arc::new(Mutex::new(Opened { token, pin: Some(pin) }));
    Ok(assemble(checked, &BTreeMap::from([(token_name.serial, opened)]), person))
}

/// Opens one token.
///
/// # Errors
/// It is missing, or plugged in twice.
pub fn find(name: &TokenName) -> Result<Token, KeyError> {
    let mut found = reader::open(&[], |serial| serial == name.serial).map_err(KeyError::NoTokenService)?;
    match (found.tokens.pop(), found.tokens.is_empty()) {
        (Some((_, token)), true) => Ok(token),
        (Some(_), false) => Err(name.error(Problem::Twice)),
        (None, _) => Err(name.error(missing(&found))),
    }
}

/// Opens all tokens that there are.
///
/// # Errors
/// The smart card service does not answer.
pub fn all() -> Result<Vec<Token>, KeyError> {
    let found = reader::open(&[], |_| true).map_err(KeyError::NoTokenService)?;
    Ok(found.tokens.into_iter().map(|(_, token)| token).collect())
}

impl TokenName {
    /// Asks for the PIN or PUK, of which so many tries are left.
    ///
    /// # Errors
    /// It is blocked, its last try would be spent, or nobody gives one.
    pub fn ask_for(&self, secret: Secret, left: u8, person: &dyn Secrets) -> Result<Pin, KeyError> {
        match left {
            0 => return Err(self.error(Problem::Blocked(secret))),
            1 if !person.last_try(self, secret) => return Err(self.error(Problem::LastTry(secret))),
            _ => {}
        }
        Pin::new(&person.pin(self, secret, left)?).ok_or_else(|| self.error(Problem::NoPin))
    }

    /// What a token said of a PIN or PUK.
    ///
    /// # Errors
    /// It was wrong.
    pub fn is_right(&self, secret: Secret, verified: Verified) -> Result<(), KeyError> {
        match verified {
            Verified::Right => Ok(()),
            Verified::Wrong(0) => Err(self.error(Problem::Blocked(secret))),
            Verified::Wrong(left) => Err(self.error(Problem::Wrong { secret, left })),
        }
    }

    /// An error of this token.
    pub fn error(&self, problem: Problem) -> KeyError {
        KeyError::Token(Box::new(TokenError { token: self.clone(), problem }))
    }
}

/// Why a token that is wanted was not found.
fn missing(found: &Found) -> Problem {
    if found.readers == 0 {
        return Problem::NoReader;
    }
    if found.others.is_empty() && found.strange.is_empty() && !found.in_use.is_empty() {
        return Problem::InUse(found.in_use.clone());
    }
    let in_use = found.in_use.iter().map(|reader| format!("a card that another program uses (in {reader})"));
    let strange =
        found.strange.iter().map(|(reader, error)| format!("something in {reader} that is no token: {error}"));
    Problem::Missing { others: found.others.clone(), silent: in_use.chain(strange).collect() }
}

/// The slot of a key, if it holds that key.
fn check(token: &mut Token, key: &Wanted<'_>) -> Result<(SlotKey, PublicKey), Problem> {
    if token.firmware() < token::MIN_FIRMWARE {
        return Err(Problem::TooOld { found: token.firmware() });
    }
    let slot = token.slot(key.slot).map_err(Problem::Card)?;
    let slot = slot.ok_or_else(|| Problem::EmptySlot { slot: key.slot, key: key.name.clone() })?;
    match slot.public.clone().filter(|public| (key.is_enrolled)(public)) {
        Some(public) => Ok((slot, public)),
        None => Err(Problem::OtherKey { slot: key.slot, key: key.name.clone() }),
    }
}

/// Refuses a token with a secret that everybody knows: it was not made fit for keys, or
/// somebody has set that back. Spends no try.
fn refuse_factory(token: &mut Token) -> Result<(), Problem> {
    for secret in [Secret::Pin, Secret::Puk] {
        if token.secret(secret).map_err(Problem::Card)?.is_default {
            return Err(Problem::Factory(secret));
        }
    }
    match token.management().map_err(Problem::Card)? {
        (_, true) => Err(Problem::FactoryManagement),
        (_, false) => Ok(()),
    }
}

/// Asks for the PIN of a token and gives it, once.
///
/// # Errors
/// Nobody gives one, it is wrong or blocked, or its last try would be spent.
pub fn unlock(token: &mut Token, name: &TokenName, person: &dyn Secrets) -> Result<Pin, KeyError> {
    let fails = |error| name.error(Problem::Card(error));
    let left = token.tries().map_err(fails)?;
    let pin = name.ask_for(Secret::Pin, left, person)?;
    name.is_right(Secret::Pin, token.verify(&pin).map_err(fails)?)?;
    Ok(pin)
}

impl PivKey<'_> {
    /// Tells the person to touch the token, where it will wait for that.
    fn prompt(&self, what: &str) {
        let mut touched = lock(&self.touched);
        let counts = |at: &Instant| self.touch == TouchPolicy::Cached && at.elapsed() < TOUCH_COUNTS;
        if self.touch == TouchPolicy::Never || touched.as_ref().is_some_and(counts) {
            return;
        }
        if touched.is_none() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        *touched = Some(Instant::now());
        let (token, left) = (self.token.to_string(), self.waiting.load(Ordering::Relaxed));
        self.person.event(Event::Touch { token: &token, what, left });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Signer for PivKey<'_> {
    fn name(&self) -> &KeyName {
        &self.name
    }

    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, what: &str, input: ToSign<'_>) -> Result<Vec<u8>, KeyError> {
        let fails = |error| self.token.error(Problem::Signing { what: what.to_owned(), error });
        let digest = input.prehash();
        let bytes = match &self.public {
            PublicKey::P256(_) => digest.as_slice(),
            PublicKey::Ed25519(_) => input.message(),
        };
        let mut opened = lock(&self.opened);
        let Opened { token, pin } = &mut *opened;
        if let (PinPolicy::Always, Some(pin)) = (self.pin, pin) {
            // It counts for the one operation that follows.
            self.token.is_right(Secret::Pin, token.verify(pin).map_err(fails)?)?;
        }
        self.prompt(what);
        let signature =
            token.sign(self.slot, self.public.algorithm(), bytes).map_err(|error| match (error, self.touch) {
                // Nobody else can have made it forget the PIN.
                (CardError::Status(apdu::SECURITY_STATUS), TouchPolicy::Never) => {
                    self.token.error(Problem::Refused(what.to_owned()))
                }
                (CardError::Status(apdu::SECURITY_STATUS), _) => self.token.error(Problem::NotTouched(what.to_owned())),
                (error, _) => fails(error),
            })?;
        if self.public.verifies(input, &signature) {
            Ok(signature)
        } else {
            Err(KeyError::BadSignature(self.name.clone()))
        }
    }
}
