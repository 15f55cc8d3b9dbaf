//! One token: a card with the PIV application (NIST SP 800-73-4 part 2), and the
//! commands that Yubico has added to it.

use std::fmt;

use zeroize::Zeroizing;

use super::apdu;
use super::apdu::Card;
use super::apdu::CardError;
use super::apdu::Command;
use crate::key::Algorithm;
use crate::key::PublicKey;
use crate::manifest::Firmware;
use crate::manifest::PinPolicy;
use crate::manifest::Slot;
use crate::manifest::TouchPolicy;

/// The name of the PIV application.
const PIV: &[u8] = &[0xa0, 0x00, 0x00, 0x03, 0x08];
/// Firmware before this cannot say which key is in a slot.
pub const MIN_FIRMWARE: Firmware = Firmware([5, 3, 0]);
/// Longer messages do not fit into one command chain of a token.
const MAX_MESSAGE: usize = 1014;

/// A PIN of a form that tokens take; wiped when dropped.
#[derive(Clone)]
pub struct Pin(Zeroizing<[u8; 8]>);

impl Pin {
    /// Takes 6 to 8 printable ASCII characters; `None` for everything else,
    /// which would spend a try for nothing.
    pub fn new(text: &str) -> Option<Self> {
        if !(6..=8).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let mut padded = Zeroizing::new([0xff; 8]);
        padded[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self(padded))
    }

    /// The PIN as commands carry it, filled up to 8 bytes.
    pub fn padded(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin")
    }
}

/// How a token takes a PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// It is right.
    Right,
    /// It is wrong, and so many tries are left.
    Wrong(u8),
}

/// What a token says of a slot.
#[derive(Debug, Clone)]
pub struct SlotKey {
    /// When the key asks for the PIN.
    pub pin: PinPolicy,
    /// When the key waits for a touch.
    pub touch: TouchPolicy,
    /// The public half; `None` for a kind that we do not sign with.
    pub public: Option<PublicKey>,
}

/// An opened token.
pub struct Token {
    card: Box<dyn Card>,
    serial: u32,
    firmware: Firmware,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("serial", &self.serial).field("firmware", &self.firmware).finish_non_exhaustive()
    }
}

impl Token {
    /// Selects the PIV application, which forgets a PIN that was given before, and
    /// asks who the token is.
    ///
    /// # Errors
    /// It is no token, or is gone.
    pub fn begin(mut card: Box<dyn Card>) -> Result<Self, CardError> {
        apdu::ask(card.as_mut(), Command { ins: 0xa4, p1: 0x04, p2: 0x00, data: PIV })?;
        let version = apdu::ask(card.as_mut(), Command { ins: 0xfd, p1: 0, p2: 0, data: &[] })?;
        let serial = apdu::ask(card.as_mut(), Command { ins: 0xf8, p1: 0, p2: 0, data: &[] })?;
        let firmware = Firmware(version.try_into().map_err(|_| CardError::Garbage("with a version of other length"))?);
        let serial = serial.try_into().map_err(|_| CardError::Garbage("with a serial number of other length"))?;
        Ok(Self { card, serial: u32::from_be_bytes(serial), firmware })
    }

    /// The serial number that is printed on it.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// The version of its firmware, which never changes.
    pub fn firmware(&self) -> Firmware {
        self.firmware
    }

    /// It is reset when it is let go of, and forgets what it was told.
    pub(super) fn forget_at_end(&mut self) {
        self.card.reset_at_end();
    }

    pub(super) fn exchange(&mut self, command: Command<'_>) -> Result<(Vec<u8>, u16), CardError> {
        apdu::exchange(self.card.as_mut(), command)
    }

    pub(super) fn ask(&mut self, ins: u8, p1: u8, p2: u8, data: &[u8]) -> Result<Vec<u8>, CardError> {
        apdu::ask(self.card.as_mut(), Command { ins, p1, p2, data })
    }

    /// How many tries of the PIN are left; 0 where it is blocked. Only before it
    /// was given: spends none.
    ///
    /// # Errors
    /// The token is gone, or gives no number.
    pub fn tries(&mut self) -> Result<u8, CardError> {
        self.verify_with(&[]).and_then(|verified| match verified {
            Verified::Wrong(tries) => Ok(tries),
            Verified::Right => Err(CardError::Garbage("as if the PIN had been given")),
        })
    }

    /// Gives the PIN. Whatever happens, the token is reset when it is let go of.
    ///
    /// # Errors
    /// The token is gone.
    pub fn verify(&mut self, pin: &Pin) -> Result<Verified, CardError> {
        self.forget_at_end();
        self.verify_with(pin.padded())
    }

    fn verify_with(&mut self, data: &[u8]) -> Result<Verified, CardError> {
        match self.exchange(Command { ins: 0x20, p1: 0x00, p2: 0x80, data })? {
            (_, apdu::OK) => Ok(Verified::Right),
            (_, apdu::BLOCKED) => Ok(Verified::Wrong(0)),
            (_, status) => apdu::tries(status).map(Verified::Wrong).ok_or(CardError::Status(status)),
        }
    }

    /// What is in a slot; `None` if nothing is.
    ///
    /// # Errors
    /// The token is gone, or says nothing that can be read.
    pub fn slot(&mut self, slot: Slot) -> Result<Option<SlotKey>, CardError> {
        let command = Command { ins: 0xf7, p1: 0x00, p2: slot.number(), data: &[] };
        match self.exchange(command)? {
            (answer, apdu::OK) => {
                read_slot(&answer).map(Some).ok_or(CardError::Garbage("with metadata that cannot be read"))
            }
            (_, apdu::NO_KEY) => Ok(None),
            (_, status) => Err(CardError::Status(status)),
        }
    }

    /// Signs a digest of 32 bytes by P-256, or a message by Ed25519. Gives the
    /// signature as the token makes it: DER, or 64 bytes.
    ///
    /// # Errors
    /// The PIN or a touch is missing ([`apdu::SECURITY_STATUS`]); the token is gone.
    pub fn sign(&mut self, slot: Slot, algorithm: Algorithm, input: &[u8]) -> Result<Vec<u8>, CardError> {
        if input.len() > MAX_MESSAGE {
            return Err(CardError::TooLong { length: input.len(), most: MAX_MESSAGE });
        }
        let request = [apdu::make_field(0x82, &[]), apdu::make_field(0x81, input)].concat();
        let request = apdu::make_field(0x7c, &request);
        let answer = self.ask(0x87, algorithm_number(algorithm), slot.number(), &request)?;
        let signature = apdu::field(&answer, 0x7c).and_then(|inner| apdu::field(inner, 0x82));
        signature.map(<[u8]>::to_vec).ok_or(CardError::Garbage("with something else than a signature"))
    }
}

/// How tokens name an algorithm.
pub(super) fn algorithm_number(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::P256 => 0x11,
        Algorithm::Ed25519 => 0xe0,
    }
}

fn read_slot(answer: &[u8]) -> Option<SlotKey> {
    let &[pin, touch] = apdu::field(answer, 0x02)? else {
        return None;
    };
    Some(SlotKey {
        pin: PinPolicy::from_number(pin)?,
        touch: TouchPolicy::from_number(touch)?,
        public: read_public(apdu::field(answer, 0x01)?, apdu::field(answer, 0x04)?),
    })
}

/// Reads a public key of a kind that we sign with.
pub(super) fn read_public(algorithm: &[u8], fields: &[u8]) -> Option<PublicKey> {
    let point = apdu::field(fields, 0x86)?;
    match algorithm {
        [0x11] => p256::ecdsa::VerifyingKey::from_sec1_bytes(point).ok().map(|key| PublicKey::P256(Box::new(key))),
        [0xe0] => {
            let key = ed25519_dalek::VerifyingKey::from_bytes(point.try_into().ok()?).ok()?;
            Some(PublicKey::Ed25519(Box::new(key)))
        }
        _ => None,
    }
}
