//! Passphrases: from a file descriptor, or from the person at the terminal.
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
use super::text;
use crate::key::KeyError;
use crate::key::Secrets;
use crate::manifest::Holder;
use crate::manifest::KeyName;

/// More than this on the file descriptor is no list of passphrases.
const MAX_LENGTH: u64 = 64 << 10;
/// Shorter passphrases are refused when keys are made.
const MIN_PASSPHRASE: usize = 8;
/// How often a person may try to open one key.
const TRIES: u32 = 2;

/// Passphrases that are known in this run.
pub(super) struct Known {
    fd: Option<u32>,
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
    pub(super) fn new(fd: Option<u32>) -> Self {
        Self { fd, state: Mutex::new(State::default()) }
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
        let Some(fd) = self.fd else {
            return Ok(None);
        };
        let missing = |reason: String| KeyError::NoPassphrase { name: key.clone(), reason };
        let mut state = self.state();
        if state.lines.is_none() {
            state.lines =
                Some(read_lines(fd).map_err(|error| missing(format!("cannot read file descriptor {fd}: {error}")))?);
        }
        let lines = state.lines.get_or_insert_default();
        match lines.iter().position(|(name, _)| name == key.as_str()) {
            Some(index) => Ok(Some(lines.remove(index).1)),
            None if again => Err(KeyError::WrongPassphrase(key.clone())),
            None => Err(missing(format!("file descriptor {fd} has no further line for it"))),
        }
    }
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
            return Err(std::io::Error::other(format!("line {number} is not KEYNAME PASSPHRASE")));
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
        let secret = self.read_secret(key, &format!("{wrong}Passphrase of software key {key}: "))?;
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
            let secret = self.read_secret(key, &format!("New passphrase for {whose}: "))?;
            if secret.chars().count() < MIN_PASSPHRASE {
                self.say(&format!("A passphrase has at least {MIN_PASSPHRASE} characters."));
                continue;
            }
            if *self.read_secret(key, "The same again: ")? != *secret {
                self.say("The two differ.");
                continue;
            }
            if let Some(holder) = holder {
                self.secrets.state().of_holder.insert(holder.clone(), secret.clone());
            }
            return Ok(secret);
        }
    }
}

impl Ui {
    fn read_secret(&self, key: &KeyName, prompt: &str) -> Result<Zeroizing<String>, KeyError> {
        let missing = |reason: String| KeyError::NoPassphrase { name: key.clone(), reason };
        self.clear_bar();
        if !self.can_ask() {
            return Err(missing("there is no terminal to ask on; pass it with --pin-fd".to_owned()));
        }
        let read = || {
            let keyboard = Keyboard::open()?;
            let config = rpassword::ConfigBuilder::new().input_reader(keyboard).build();
            rpassword::prompt_password_with_config(text::clean(prompt), config)
        };
        let secret = read().map_err(|error| missing(error.to_string()))?;
        if secret.is_empty() { Err(missing("you gave none".to_owned())) } else { Ok(Zeroizing::new(secret)) }
    }
}
