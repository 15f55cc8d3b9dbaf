//! The hand that touches a token and pulls it out, and an eye on what it did.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;
use std::time::Instant;

/// Whether the person touches the token when it blinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    Granted,
    /// Nobody touches: the token gives up.
    Withheld,
    /// The person takes this long; the token gives up if it is longer than its
    /// patience.
    After(Duration),
}

/// What a token did, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A PIN was given, and was right or wrong.
    Pin(bool),
    /// The token blinked for a slot, and was touched or not. 9B is the
    /// management key.
    Touch(u8, bool),
    /// A slot signed. The answer may still have got lost.
    Signature(u8),
}

/// How long tokens wait and remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long a token waits for a touch; about 15 s in reality.
    pub touch: Duration,
    /// How long a slot with the policy *cached* remembers one; 15 s in reality.
    pub cached: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { touch: Duration::from_millis(500), cached: Duration::from_secs(15) }
    }
}

/// Shared by the test and the token.
pub struct Hand(Mutex<Inside>);

struct Inside {
    touch: Touch,
    patience: Patience,
    pulled: bool,
    plugged: usize,
    waiting: bool,
    events: Vec<Event>,
}

impl Hand {
    pub fn new() -> Self {
        let patience = Patience::default();
        Self(Mutex::new(Inside {
            touch: Touch::Granted,
            patience,
            pulled: false,
            plugged: 0,
            waiting: false,
            events: Vec::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From now on touches like this, also a token that already waits.
    pub fn set_touch(&self, touch: Touch) {
        self.lock().touch = touch;
    }

    pub fn set_patience(&self, patience: Patience) {
        self.lock().patience = patience;
    }

    pub fn patience(&self) -> Patience {
        self.lock().patience
    }

    /// Plugs the token in; gives this plugging a number.
    pub fn plug(&self) -> usize {
        let mut inside = self.lock();
        inside.pulled = false;
        inside.plugged += 1;
        inside.plugged
    }

    /// Pulls the token, unless it was plugged in again since; whether it did.
    pub fn pull(&self, plugged: usize) -> bool {
        let mut inside = self.lock();
        inside.pulled |= inside.plugged == plugged;
        inside.pulled
    }

    pub fn is_pulled(&self) -> bool {
        self.lock().pulled
    }

    pub fn note(&self, event: Event) {
        self.lock().events.push(event);
    }

    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    pub fn forget_events(&self) {
        self.lock().events.clear();
    }

    /// Waits for the touch that `slot` asks for; whether it came.
    pub fn touches(&self, slot: u8) -> bool {
        let asked = Instant::now();
        let touched = loop {
            let mut inside = self.lock();
            inside.waiting = true;
            let comes = match inside.touch {
                Touch::Granted => true,
                Touch::Withheld => false,
                Touch::After(delay) => asked.elapsed() >= delay,
            };
            let gives_up = asked.elapsed() >= inside.patience.touch;
            if comes || gives_up || inside.pulled {
                break comes && !gives_up && !inside.pulled;
            }
            drop(inside);
            std::thread::sleep(Duration::from_millis(5));
        };
        self.lock().waiting = false;
        self.note(Event::Touch(slot, touched));
        touched
    }

    /// Whether the token blinks.
    pub fn is_waiting(&self) -> bool {
        self.lock().waiting
    }

    /// Waits, unless the token is pulled meanwhile.
    pub fn wait(&self, delay: Duration) {
        let started = Instant::now();
        while started.elapsed() < delay && !self.is_pulled() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The slots that signed.
    pub fn slots_used(&self) -> BTreeSet<u8> {
        let used = |event| if let Event::Signature(slot) = event { Some(slot) } else { None };
        self.events().into_iter().filter_map(used).collect()
    }
}
