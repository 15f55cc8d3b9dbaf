//! What is public about a key in a token, beside its public half:
//! `<key>.token.json`. It says where the private half is; what proves how it came
//! to be is the attestation, `<key>.attestation.pem`.

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use crate::manifest::KeyName;
use crate::manifest::PinPolicy;
use crate::manifest::Slot;
use crate::manifest::TouchPolicy;

/// The version of the file.
pub const VERSION: u32 = 1;

/// A key that was made in a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// The version of the file.
    pub version: u32,
    /// The key.
    pub key: KeyName,
    /// The token's serial number.
    pub serial: u32,
    /// The slot.
    pub slot: Slot,
    /// When it asks for the PIN.
    pub pin: PinPolicy,
    /// When it waits for a touch.
    pub touch: TouchPolicy,
    /// When it was made. A slot does not know; OpenPGP fingerprints depend on it.
    pub created: Timestamp,
}
