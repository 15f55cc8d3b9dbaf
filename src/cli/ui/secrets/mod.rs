//! Passphrases and PINs: from a file descriptor, or from the person at the terminal.
//! Never an argument, never the environment; wiped after use.

mod keyboard;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use zeroize::Zeroizing;

use self::keyboard::Keyboard;
use super::Ui;
use super::counted;
use super::text;
use crate::key::KeyError;
use crate::key::Secrets;
use crate::key::piv::Pin;
use crate::key::piv::Secret;
use crate::key::piv::TokenName;
use crate::manifest::Holder;
use crate::manifest::KeyName;

/// More than this on the file descriptor is no list of passphrases.
const MAX_LENGTH: u64 = 64 << 10;
/// Shorter passphrases are refused when keys are made.
const MIN_PASSPHRASE: usize = 8;
/// Why a script is not asked.
const NO_LINE: &str = "the file descriptor of --pin-fd has no further line for it";
/// How often a person may try to open one key.
const TRIES: u32 = 2;

/// Passphrases that are known in this run.
pub(super) struct Known {
    fd: Option<u32>,
    /// The token whose last try may be spent.
    last_try: Option<u32>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Lines of the file descriptor that were not used yet.
    lines: Option<Vec<(String, Zeroizing<String>)>>,
    /// What a person typed for one key may open that holder's other keys.
    of_holder: BTreeMap<Holder, Zeroizing<String>>,
    /// How often a person was asked for the passphrase of a key.
    tries: BTreeMap<KeyName, u32>,
}

impl Known {
    pub(super) fn new(fd: Option<u32>, last_try: Option<u32>) -> Self {
        Self { fd, last_try, state: Mutex::new(State::default()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a person was asked for this key before; counts one more.
    fn tried(&self, key: &KeyName) -> u32 {
        let mut state = self.state();
        let tries = state.tries.entry(key.clone()).or_default();
        *tries += 1;
        *tries - 1
    }

    /// The passphrase of a key from the file descriptor, used up by this. `again`
    /// says that the last one was wrong.
    fn take(&self, key: &KeyName, again: bool) -> Result<Option<Zeroizing<String>>, KeyError> {
        match self.line(key.as_str()) {
            Ok(None) if again && self.fd.is_some() => Err(KeyError::WrongPassphrase(key.clone())),
            Ok(None) if self.fd.is_some() => Err(no_passphrase(key, NO_LINE.to_owned())),
            line => line.map_err(|reason| no_passphrase(key, reason)),
        }
    }

    /// The secret of the first line with this name, used up by this.
    fn line(&self, name: &str) -> Result<Option<Zeroizing<String>>, String> {
        let Some(fd) = self.fd else {
            return Ok(None);
        };
        let mut state = self.state();
        if state.lines.is_none() {
            state.lines = Some(read_lines(fd).map_err(|error| format!("cannot read file descriptor {fd}: {error}"))?);
        }
        let lines = state.lines.get_or_insert_default();
        Ok(lines.iter().position(|(known, _)| known == name).map(|index| lines.remove(index).1))
    }
}

fn no_passphrase(key: &KeyName, reason: String) -> KeyError {
    KeyError::NoPassphrase { name: key.clone(), reason }
}

fn read_lines(fd: u32) -> std::io::Result<Vec<(String, Zeroizing<String>)>> {
    let mut text = Zeroizing::new(String::new());
    File::open(format!("/dev/fd/{fd}"))?.take(MAX_LENGTH + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_LENGTH {
        return Err(std::io::Error::other(format!("it gives more than {MAX_LENGTH} bytes")));
    }
    let mut lines = Vec::new();
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.is_empty()) {
        // The line itself is a secret, also where it is malformed.
        let Some((name, secret)) = line.split_once(' ').filter(|(name, _)| name.parse::<KeyName>().is_ok()) else {
            return Err(std::io::Error::other(format!("line {number} is neither SERIAL PIN nor KEYNAME PASSPHRASE")));
        };
        lines.push((name.to_owned(), Zeroizing::new(secret.to_owned())));
    }
    Ok(lines)
}

impl Secrets for Ui {
    fn passphrase(&self, key: &KeyName, holder: Option<&Holder>, again: bool) -> Result<Zeroizing<String>, KeyError> {
        if let Some(secret) = self.secrets.take(key, again)? {
            return Ok(secret);
        }
        if !again && let Some(known) = holder.and_then(|holder| self.secrets.state().of_holder.get(holder).cloned()) {
            return Ok(known);
        }
        // What was wrong may have been typed for another key of this person.
        let tries = self.secrets.tried(key);
        if tries >= TRIES {
            return Err(KeyError::WrongPassphrase(key.clone()));
        }
        let wrong = if tries > 0 { "That does not open it. " } else { "" };
        let secret = self.read_passphrase(key, &format!("{wrong}Passphrase of software key {key}: "))?;
        if let Some(holder) = holder {
            self.secrets.state().of_holder.insert(holder.clone(), secret.clone());
        }
        Ok(secret)
    }

    fn new_passphrase(&self, key: &KeyName, holder: Option<&Holder>) -> Result<Zeroizing<String>, KeyError> {
        if let Some(secret) = self.secrets.take(key, false)? {
            return Ok(secret);
        }
        if let Some(known) = holder.and_then(|holder| self.secrets.state().of_holder.get(holder).cloned()) {
            return Ok(known);
        }
        let whose = holder.map_or_else(|| format!("key {key}"), |holder| format!("the software keys of {holder}"));
        loop {
            let secret = self.read_passphrase(key, &format!("New passphrase for {whose}: "))?;
            if secret.chars().count() < MIN_PASSPHRASE {
                self.say(&format!("A passphrase has at least {MIN_PASSPHRASE} characters."));
                continue;
            }
            if *self.read_passphrase(key, "The same again: ")? != *secret {
                self.say("The two differ.");
                continue;
            }
            if let Some(holder) = holder {
                self.secrets.state().of_holder.insert(holder.clone(), secret.clone());
            }
            return Ok(secret);
        }
    }

    fn pin(&self, token: &TokenName, which: Secret, tries: u8) -> Result<Zeroizing<String>, KeyError> {
        let left = counted(usize::from(tries), "try");
        self.secret_of(token, &format!("{which} of {token} ({left} left): "))
    }

    fn new_pin(&self, token: &TokenName, which: Secret) -> Result<Zeroizing<String>, KeyError> {
        loop {
            let secret = self.secret_of(token, &format!("New {which} of {token}, 6 to 8 characters: "))?;
            let reason = if Pin::new(&secret).is_none() {
                format!("a {which} has 6 to 8 letters, digits or signs")
            } else if *secret == *which.factory() {
                format!("every token leaves its factory with that {which}")
            } else if self.secrets.fd.is_some() || *self.secret_of(token, "The same again: ")? == *secret {
                return Ok(secret);
            } else {
                "the two differ".to_owned()
            };
            if self.secrets.fd.is_some() {
                return Err(KeyError::NoPin { token: token.clone(), reason });
            }
            self.say(&format!("Try again: {reason}."));
        }
    }

    fn last_try(&self, token: &TokenName, which: Secret) -> bool {
        if self.secrets.last_try == Some(token.serial) {
            return true;
        }
        if self.secrets.fd.is_some() || !self.can_ask() {
            return false;
        }
        self.warn(&format!("one try of the {which} of {token} is left; if that is wrong, the {which} is blocked"));
        let typed = self.ask("To spend it, type the serial number of the token (empty line stops): ");
        typed.is_ok_and(|typed| typed.trim() == token.serial.to_string())
    }
}

impl Ui {
    /// A secret of a token: its next line of the file descriptor, or asked for.
    fn secret_of(&self, token: &TokenName, prompt: &str) -> Result<Zeroizing<String>, KeyError> {
        let missing = |reason: String| KeyError::NoPin { token: token.clone(), reason };
        if self.secrets.fd.is_some() {
            let line = self.secrets.line(&token.serial.to_string()).map_err(missing)?;
            return line.ok_or_else(|| missing(NO_LINE.to_owned()));
        }
        self.read_secret(prompt).map_err(missing)
    }

    fn read_passphrase(&self, key: &KeyName, prompt: &str) -> Result<Zeroizing<String>, KeyError> {
        self.read_secret(prompt).map_err(|reason| no_passphrase(key, reason))
    }

    fn read_secret(&self, prompt: &str) -> Result<Zeroizing<String>, String> {
        self.clear_bar();
        if !self.can_ask() {
            return Err("there is no terminal to ask on; pass it with --pin-fd".to_owned());
        }
        let read = || {
            let keyboard = Keyboard::open()?;
            let config = rpassword::ConfigBuilder::new().input_reader(keyboard).build();
            rpassword::prompt_password_with_config(text::clean(prompt), config)
        };
        match read().map(Zeroizing::new) {
            Ok(secret) if secret.is_empty() => Err("you gave none".to_owned()),
            Ok(secret) => Ok(secret),
            Err(error) => Err(error.to_string()),
        }
    }
}
