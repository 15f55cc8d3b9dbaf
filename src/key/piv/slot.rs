//! Slots of a token, and what is fixed for a key in one.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;

/// A slot that holds a key (NIST SP 800-73-4 part 1, table 4b): `9a`, `9c`, `9d`,
/// `9e`, and the retired ones `82` to `95`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slot(u8);

impl Slot {
    /// Its number, as commands name it.
    pub fn number(self) -> u8 {
        self.0
    }
}

impl FromStr for Slot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = u8::from_str_radix(text, 16).ok().filter(|_| text.len() == 2);
        let number = number.filter(|number| matches!(number, 0x9a | 0x9c | 0x9d | 0x9e | 0x82..=0x95));
        number.map(Self).ok_or_else(|| {
            format!("{} is no slot for keys: use 9a, 9c, 9d, 9e, or 82 to 95", crate::manifest::names::quoted(text))
        })
    }
}

impl TryFrom<String> for Slot {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Slot> for String {
    fn from(slot: Slot) -> String {
        slot.to_string()
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

/// When a key asks for the PIN. Fixed when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PinPolicy {
    /// Never.
    Never = 1,
    /// Once after the token was plugged in.
    Once = 2,
    /// Before each signature.
    Always = 3,
}

/// When a key waits for a touch. Fixed when it is made. In the order of what it
/// asks of a thief at the other end of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TouchPolicy {
    /// Never.
    Never,
    /// Unless one was within the last 15 seconds.
    Cached,
    /// For each signature.
    Always,
}

impl PinPolicy {
    /// Reads the number that tokens use.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Never, Self::Once, Self::Always].into_iter().find(|policy| policy.number() == number)
    }

    /// The number that tokens use.
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl TouchPolicy {
    /// Reads the number that tokens use.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Never, Self::Cached, Self::Always].into_iter().find(|policy| policy.number() == number)
    }

    /// The number that tokens use.
    pub fn number(self) -> u8 {
        match self {
            Self::Never => 1,
            Self::Always => 2,
            Self::Cached => 3,
        }
    }
}

impl fmt::Display for PinPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never",
            Self::Once => "once",
            Self::Always => "always",
        })
    }
}

impl fmt::Display for TouchPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never",
            Self::Cached => "cached",
            Self::Always => "always",
        })
    }
}

/// The version of a token's firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Firmware(pub [u8; 3]);

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_slots_for_keys_are_slots() {
        for good in ["9a", "9c", "9d", "9e", "82", "8f", "95"] {
            assert_eq!(good.parse::<Slot>().map(|slot| slot.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "9", "9b", "f9", "80", "81", "96", "09c", "+9c", "9C ", "slot 9c"] {
            assert!(bad.parse::<Slot>().is_err(), "{bad}");
        }
    }
}
