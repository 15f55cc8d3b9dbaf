//! What the maker of a hardware token vouches for about a key in it. Tokens speak
//! of keys in these words too.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;

use super::Sha256;
use super::json;
use super::json::JsonError;
use super::names::quoted;

/// The version of the file that this program writes and reads.
pub const VERSION: u32 = 1;

/// A slot that holds a key (NIST SP 800-73-4 part 1, table 4b): `9a`, `9c`, `9d`,
/// `9e`, and the retired ones `82` to `95`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slot(u8);

impl Slot {
    /// The slot with this number, if it is one for keys.
    pub fn new(number: u8) -> Option<Self> {
        matches!(number, 0x9a | 0x9c | 0x9d | 0x9e | 0x82..=0x95).then_some(Self(number))
    }

    /// Its number, as commands name it.
    pub fn number(self) -> u8 {
        self.0
    }
}

impl FromStr for Slot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let slot = u8::from_str_radix(text, 16).ok().and_then(Self::new);
        // One slot has one spelling: no "+9c", no "9C".
        slot.filter(|slot| slot.to_string() == text)
            .ok_or_else(|| format!("{} is no slot for keys: use 9a, 9c, 9d, 9e, or 82 to 95", quoted(text)))
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Firmware(pub [u8; 3]);

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl TryFrom<String> for Firmware {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let numbers: Option<Vec<u8>> = text.split('.').map(|number| number.parse().ok()).collect();
        let firmware = numbers.and_then(|numbers| <[u8; 3]>::try_from(numbers).ok()).map(Self);
        // One version has one spelling: no "+5", no "05".
        firmware
            .filter(|firmware| firmware.to_string() == text)
            .ok_or_else(|| format!("{} is no firmware version", quoted(&text)))
    }
}

impl From<Firmware> for String {
    fn from(firmware: Firmware) -> String {
        firmware.to_string()
    }
}

/// A key that a token made and never gives away, as the token's maker vouches by
/// a chain of certificates. Shown as `made in hardware, never exported, touch
/// needed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Attested {
    /// Version of this file format.
    pub version: u32,
    /// SHA-256 of the public key's SubjectPublicKeyInfo in DER.
    pub key: Sha256,
    /// The serial number that is printed on the token.
    pub serial: u32,
    /// Where in the token the key is.
    pub slot: Slot,
    /// The token's firmware.
    pub firmware: Firmware,
    /// When the key asks for the PIN.
    pub pin_policy: PinPolicy,
    /// When the key waits for a touch.
    pub touch_policy: TouchPolicy,
    /// What the token looks like, in words: `USB-C keychain`.
    pub form_factor: String,
    /// The token is sold as certified after FIPS 140.
    pub fips: bool,
    /// The token is sold as certified by the French agency ANSSI (CSPN).
    pub cspn: bool,
    /// The root that vouches, by its name.
    pub root: String,
}

impl Attested {
    /// Writes compact JSON.
    ///
    /// # Errors
    /// None in practice: all members can be written.
    pub fn to_json(&self) -> Result<Vec<u8>, JsonError> {
        json::to_vec(self)
    }

    /// Reads what [`Self::to_json`] writes.
    ///
    /// # Errors
    /// Anything else, and another version.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value = json::from_slice_strict(bytes).map_err(|error| error.to_string())?;
        match value["version"].as_u64() {
            Some(version) if version > u64::from(VERSION) => {
                return Err(format!("it has version {version}, written by a newer release; this one reads {VERSION}"));
            }
            Some(1) => {}
            _ => return Err("it has no version".to_owned()),
        }
        json::typed(value).map_err(|error| error.to_string())
    }
}

impl fmt::Display for Attested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("made in hardware, never exported, ")?;
        f.write_str(match self.touch_policy {
            TouchPolicy::Never => "no touch needed",
            TouchPolicy::Cached => "touch needed",
            TouchPolicy::Always => "touch needed for each signature",
        })
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
        for bad in ["", "9", "9b", "f9", "80", "81", "96", "09c", "+9c", "9C", "9c ", "slot 9c"] {
            assert!(bad.parse::<Slot>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_firmware_version_has_one_spelling() {
        let read = |text: &str| Firmware::try_from(text.to_owned());
        assert_eq!(read("5.7.1"), Ok(Firmware([5, 7, 1])));
        for bad in ["", "5", "5.7", "5.7.1.0", "05.7.1", "+5.7.1", "5.7.256", "5.7.a"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(Firmware([5, 10, 0]) > Firmware([5, 7, 9]), "compared as numbers");
    }

    #[test]
    fn what_is_attested_is_read_as_it_was_written() {
        let attested = Attested {
            version: VERSION,
            key: Sha256::of(b"key"),
            serial: 15_237_801,
            slot: Slot(0x9c),
            firmware: Firmware([5, 7, 1]),
            pin_policy: PinPolicy::Once,
            touch_policy: TouchPolicy::Cached,
            form_factor: "USB-C keychain".to_owned(),
            fips: false,
            cspn: false,
            root: "CN=Maker".to_owned(),
        };
        let bytes = attested.to_json().unwrap();
        assert_eq!(Attested::parse(&bytes), Ok(attested.clone()));
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(r#""pin-policy":"once""#) && text.contains(r#""firmware":"5.7.1""#), "{text}");
        let newer = text.replace(r#""version":1"#, r#""version":2"#);
        assert!(Attested::parse(newer.as_bytes()).unwrap_err().contains("written by a newer release"));
        for (from, to) in [("\"once\"", "\"match\""), ("5.7.1", "5.7"), ("\"9c\"", "\"f9\""), (",\"version\":1", "")] {
            assert!(Attested::parse(text.replace(from, to).as_bytes()).is_err(), "{to}");
        }
        assert_eq!(attested.to_string(), "made in hardware, never exported, touch needed");
        let shown = |touch_policy| Attested { touch_policy, ..attested.clone() }.to_string();
        assert!(shown(TouchPolicy::Never).ends_with("no touch needed"));
        assert!(shown(TouchPolicy::Always).ends_with("touch needed for each signature"));
    }
}
