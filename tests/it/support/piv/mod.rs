//! Emulated PIV tokens, served through a real pcscd.
//!
//! ```text
//! Pcscd ── Reader ◀─ plug ─ Token ── Card (state machine)
//!   real pcscd and vpcd       │         └─ State: what outlives a power cut
//!   in a sandbox              ├─ Hand: touches, pulls, sees what happened
//!                             └─ Fault: what goes wrong at the n-th command
//! ```
//!
//! A [`Token`] behaves as a `YubiKey` of the firmware that its [`TokenSpec`]
//! names; what is not emulated is RSA, key agreement and PINs by fingerprint. A
//! [`host::Host`] talks to it past pcscd, to prepare it; [`Token::change`] does
//! what no real token allows.
//!
//! Programs find it with the variable that [`Pcscd::variable`] gives:
//!
//! ```ignore
//! let pcscd = Pcscd::start();
//! let token = Token::new(&TokenSpec::default());
//! pcscd.reader(0).plug(&token);
//! token.fail(Token::SIGN, 2, Fault::PulledDuring);
//! run(program("pkcs15-tool").arg("-D").envs([pcscd.variable()]));
//! assert_eq!(token.signatures(), 1);
//! ```

pub mod apdu;
pub mod card;
pub mod hand;
pub mod host;
pub mod key;
pub mod reader;
pub mod state;
pub mod vendor;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use apdu::Apdu;
use card::Card;
use hand::Event;
use hand::Hand;
use hand::Patience;
use hand::Touch;
use state::State;
use state::TokenSpec;

/// What goes wrong at a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Pulled before the token does anything.
    PulledBefore,
    /// Pulled when the token has done its work, and before the answer.
    PulledDuring,
    /// Pulled after the answer.
    PulledAfter,
    /// pcscd dies before the answer.
    ReaderGone,
    /// The answer comes late.
    Slow(Duration),
    /// The answer is of the right length, and random.
    Garbage,
    /// Half of the answer is missing.
    Truncated,
    /// One bit of the answer's last byte is another: a wrong signature in the
    /// right form.
    Flipped,
    /// The answer is this, with its status, whatever was asked.
    Says(Vec<u8>),
}

/// What the reader gets.
enum Outcome {
    Answer(Vec<u8>),
    /// The answer, and then the token is gone.
    Last(Vec<u8>),
    Gone,
    NoReader,
}

struct Planned {
    instruction: u8,
    /// How many such commands are left until it happens, that one included.
    left: usize,
    fault: Fault,
}

struct Inside {
    card: Mutex<Card>,
    hand: Arc<Hand>,
    faults: Mutex<Vec<Planned>>,
}

/// A token. Clones are the same token; it keeps its state when it is unplugged.
#[derive(Clone)]
pub struct Token(Arc<Inside>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Token {
    pub const VERIFY: u8 = 0x20;
    /// GENERAL AUTHENTICATE with a slot; showing the management key is not it.
    pub const SIGN: u8 = 0x87;
    pub const ATTEST: u8 = 0xf9;

    /// A token fresh from the factory.
    pub fn new(spec: &TokenSpec) -> Self {
        Self::with(State::new(spec))
    }

    /// A token in a certain state: a copy of another.
    pub fn with(state: State) -> Self {
        let hand = Arc::new(Hand::new());
        let card = Mutex::new(Card::new(state, Arc::clone(&hand)));
        Self(Arc::new(Inside { card, hand, faults: Mutex::new(Vec::new()) }))
    }

    /// A token as [`Token::save`] left it.
    pub fn load(file: &Path) -> Self {
        Self::with(serde_json::from_slice(&fs::read(file).unwrap()).unwrap())
    }

    /// Writes the token's state, with its private keys, to a file.
    pub fn save(&self, file: &Path) {
        fs::write(file, serde_json::to_vec(&self.state()).unwrap()).unwrap();
    }

    /// A copy of what the token remembers.
    pub fn state(&self) -> State {
        lock(&self.0.card).state.clone()
    }

    /// Changes what the token remembers, past all its checks.
    pub fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.0.card).state);
    }

    /// Sends a command past the reader.
    pub fn transmit(&self, command: &[u8]) -> Vec<u8> {
        lock(&self.0.card).transmit(command)
    }

    /// Cuts the power.
    pub fn power_off(&self) {
        lock(&self.0.card).reset();
    }

    pub fn set_touch(&self, touch: Touch) {
        self.0.hand.set_touch(touch);
    }

    pub fn set_patience(&self, patience: Patience) {
        self.0.hand.set_patience(patience);
    }

    /// Whether the token blinks, and waits to be touched.
    pub fn is_waiting(&self) -> bool {
        self.0.hand.is_waiting()
    }

    /// Plans a fault at the `nth` command from now, from 1, with an instruction.
    pub fn fail(&self, instruction: u8, nth: usize, fault: Fault) {
        lock(&self.0.faults).push(Planned { instruction, left: nth, fault });
    }

    /// What happened, in order.
    pub fn events(&self) -> Vec<Event> {
        self.0.hand.events()
    }

    /// Begins to count anew.
    pub fn forget_events(&self) {
        self.0.hand.forget_events();
    }

    fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events().iter().filter(|event| wanted(event)).count()
    }

    /// How often a PIN was given.
    pub fn pins(&self) -> usize {
        self.count(|event| matches!(event, Event::Pin(_)))
    }

    /// How often the token blinked for a touch.
    pub fn touches(&self) -> usize {
        self.count(|event| matches!(event, Event::Touch(..)))
    }

    pub fn signatures(&self) -> usize {
        self.count(|event| matches!(event, Event::Signature(_)))
    }

    /// How many slots signed.
    pub fn slots_used(&self) -> usize {
        self.0.hand.slots_used().len()
    }

    /// The fault that was planned for this command.
    fn due(&self, command: &[u8]) -> Option<Fault> {
        let command = Apdu::parse(command)?;
        let is_management = command.instruction == Self::SIGN && command.p2 == 0x9b;
        if command.is_chained() || is_management {
            return None;
        }
        let mut faults = lock(&self.0.faults);
        for planned in faults.iter_mut().filter(|planned| planned.instruction == command.instruction) {
            planned.left -= 1;
        }
        let due = faults.iter().position(|planned| planned.left == 0)?;
        Some(faults.remove(due).fault)
    }

    /// Answers a command that came through a reader.
    fn serve(&self, command: &[u8]) -> Outcome {
        let fault = self.due(command);
        if fault == Some(Fault::PulledBefore) {
            return Outcome::Gone;
        }
        let mut answer = self.transmit(command);
        let data = answer.len() - 2;
        match fault {
            Some(Fault::PulledDuring) => return Outcome::Gone,
            Some(Fault::PulledAfter) => return Outcome::Last(answer),
            Some(Fault::ReaderGone) => return Outcome::NoReader,
            Some(Fault::Slow(delay)) => self.0.hand.wait(delay),
            Some(Fault::Garbage) => getrandom::fill(&mut answer[..data]).unwrap(),
            Some(Fault::Truncated) => drop(answer.drain(data / 2..data)),
            Some(Fault::Flipped) => answer[..data].last_mut().into_iter().for_each(|byte| *byte ^= 1),
            Some(Fault::Says(says)) => answer = says,
            Some(Fault::PulledBefore) | None => {}
        }
        if self.0.hand.is_pulled() { Outcome::Gone } else { Outcome::Answer(answer) }
    }
}
