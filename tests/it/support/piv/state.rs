//! What a token remembers while it is not plugged in.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use super::key::Key;
use super::key::Management;
use super::vendor::Vendor;
use super::vendor::wrap;

/// The slot of the attestation key.
pub const F9: u8 = 0xf9;

/// How a token leaves the factory.
#[derive(Clone)]
pub struct TokenSpec {
    pub serial: u32,
    pub firmware: [u8; 3],
    /// 1 USB-A keychain, 2 USB-A nano, 3 USB-C keychain, 4 USB-C nano, …
    pub form_factor: u8,
    pub vendor: Arc<Vendor>,
    /// Whether the certificate of F9 says CA:TRUE; old genuine ones do not.
    pub says_ca: bool,
}

impl Default for TokenSpec {
    fn default() -> Self {
        Self { serial: 20_000_001, firmware: [5, 7, 1], form_factor: 1, vendor: Vendor::usual(), says_ca: true }
    }
}

/// A PIN or PUK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    pub value: String,
    /// Tries left; none: blocked.
    pub left: u8,
    pub tries: u8,
}

impl Secret {
    pub fn new(value: &str, tries: u8) -> Self {
        Self { value: value.to_owned(), left: tries, tries }
    }

    /// The value as it is sent: filled up with FF.
    pub fn padded(&self) -> [u8; 8] {
        let mut padded = [0xff; 8];
        padded[..self.value.len()].copy_from_slice(self.value.as_bytes());
        padded
    }

    /// The value of eight bytes as they are sent, unless it is too short.
    pub fn unpad(bytes: &[u8]) -> Option<String> {
        let end = bytes.iter().position(|byte| *byte == 0xff).unwrap_or(bytes.len());
        let fits = bytes.len() == 8 && end >= 6 && bytes[end..].iter().all(|byte| *byte == 0xff);
        String::from_utf8(bytes[..end].to_vec()).ok().filter(|_| fits)
    }
}

pub const DEFAULT_PIN: &str = "123456";
pub const DEFAULT_PUK: &str = "12345678";

/// Everything that outlives a power cut. A test may change it at will, for what
/// a real token cannot be asked to do in good time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    pub serial: u32,
    pub firmware: [u8; 3],
    pub form_factor: u8,
    pub pin: Secret,
    pub puk: Secret,
    pub management: Management,
    /// By slot: 9A 9C 9D 9E 82..95 F9.
    pub keys: BTreeMap<u8, Key>,
    /// By object, `5FC105` for the certificate of 9A: what stands in tag 53.
    pub objects: BTreeMap<u32, Vec<u8>>,
}

impl State {
    pub fn new(spec: &TokenSpec) -> Self {
        let (key, certificate) = spec.vendor.equip(spec.firmware, spec.says_ca);
        let mut state = Self {
            serial: spec.serial,
            firmware: spec.firmware,
            form_factor: spec.form_factor,
            pin: Secret::new(DEFAULT_PIN, 3),
            puk: Secret::new(DEFAULT_PUK, 3),
            management: Management::default_of(spec.firmware),
            keys: BTreeMap::new(),
            objects: BTreeMap::new(),
        };
        state.put_f9(key, &certificate);
        state
    }

    /// Replaces the attestation key, as whoever holds the management key can.
    pub fn replace_f9(&mut self, vendor: &Vendor) {
        let (key, certificate) = vendor.equip(self.firmware, true);
        self.put_f9(key, &certificate);
    }

    fn put_f9(&mut self, key: Key, certificate: &[u8]) {
        self.keys.insert(F9, key);
        self.objects.insert(object_of(F9).unwrap(), wrap(certificate));
    }

    /// Forgets all but who made the token.
    pub fn reset(&mut self) {
        self.keys.retain(|slot, _| *slot == F9);
        self.objects.retain(|object, _| Some(*object) == object_of(F9));
        self.pin = Secret::new(DEFAULT_PIN, 3);
        self.puk = Secret::new(DEFAULT_PUK, 3);
        self.management = Management::default_of(self.firmware);
    }
}

/// The object that holds a slot's certificate; nothing for what is no slot.
pub fn object_of(slot: u8) -> Option<u32> {
    Some(match slot {
        0x9a => 0x5f_c105,
        0x9c => 0x5f_c10a,
        0x9d => 0x5f_c10b,
        0x9e => 0x5f_c101,
        0x82..=0x95 => 0x5f_c10d + u32::from(slot - 0x82),
        F9 => 0x5f_ff01,
        _ => return None,
    })
}
