//! Attestations: a token's maker vouches that a key was made in the token.
//!
//! The token signs a certificate for the key in a slot with the key in its slot F9,
//! and the maker signs the certificate of that one: slot → F9 → intermediates →
//! root. The roots are configured; none is built in, and the token is asked for
//! nothing but the first two certificates. Everything here is a function of bytes
//! and a clock.
//!
//! Paths are validated after RFC 5280 section 6.1, with two additions. Roots must
//! be within their own dates, as section 6.2 lets a verifier ask. And *one*
//! exception is pinned: the certificate in F9 of tokens with older firmware has no
//! `basicConstraints`; it is taken for an authority that certifies slots and
//! nothing else. No other certificate is.

mod certificate;

use std::fmt;

use jiff::Timestamp;
use x509_cert::der::Decode as _;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::pem;

use self::certificate::Certificate;
use super::PublicKey;
use crate::manifest::Attested;
use crate::manifest::Firmware;
use crate::manifest::PinPolicy;
use crate::manifest::Sha256;
use crate::manifest::Slot;
use crate::manifest::TouchPolicy;
use crate::manifest::attested;
use crate::manifest::names::quoted;

/// Longer certificates are refused, in bytes; a token holds 3,052.
pub const MAX_CERTIFICATE: usize = 8 << 10;
/// Longer files of vendors' certificates are not to be read, in bytes.
pub const MAX_FILE: u64 = 128 << 10;
/// More certificates of vendors are refused.
const MAX_CERTIFICATES: usize = 64;
/// More authorities between a root and a slot are refused. Two intermediates and F9
/// are usual.
const MAX_PATH: u8 = 5;

/// Older firmware gives ECDSA keys away to whoever can measure the token at work
/// (Yubico security advisory YSA-2024-03, EUCLEAK).
pub const SOUND_FIRMWARE: Firmware = Firmware([5, 7, 0]);

/// Extensions of an attestation, as Yubico documents them.
const FIRMWARE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.3");
const SERIAL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.7");
const POLICIES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.8");
const FORM_FACTOR: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.9");
const FIPS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.10");
const CSPN: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.11");
const KNOWN: [ObjectIdentifier; 6] = [FIRMWARE, SERIAL, POLICIES, FORM_FACTOR, FIPS, CSPN];
/// The subject of an attestation, before the slot.
const SUBJECT: &str = "YubiKey PIV Attestation ";

/// A certificate of the chain, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// What the token says of the key.
    Slot,
    /// The certificate of the key that attests.
    F9,
    /// One that was configured: the name of its file, and which one in it.
    Configured(String, usize),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot => f.write_str("the attestation of the slot"),
            Self::F9 => f.write_str("the certificate in slot F9"),
            Self::Configured(file, number) => write!(f, "certificate {number} in {file}"),
        }
    }
}

/// An attestation that proves nothing, or not what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestationError {
    /// A certificate is longer than any that a token holds.
    #[error("{which} has {found} bytes; at most {MAX_CERTIFICATE} are read")]
    TooLong {
        /// Which certificate.
        which: Which,
        /// Its length.
        found: usize,
    },
    /// Bytes follow a certificate.
    #[error("{which} is followed by {count} further bytes")]
    Trailing {
        /// Which certificate.
        which: Which,
        /// How many.
        count: usize,
    },
    /// Not a certificate, or one that means nothing.
    #[error("{which} cannot be read: {reason}")]
    Malformed {
        /// Which certificate.
        which: Which,
        /// Why.
        reason: String,
    },
    /// An extension comes twice.
    #[error("{which} has the extension {id} twice")]
    DuplicateExtension {
        /// Which certificate.
        which: Which,
        /// The extension.
        id: String,
    },
    /// An extension must be understood, and is not.
    #[error("{which} has the critical extension {id}, which is not known here")]
    UnknownCritical {
        /// Which certificate.
        which: Which,
        /// The extension.
        id: String,
    },
    /// The attestation does not say what it must.
    #[error("the attestation of the slot has no extension {0}")]
    MissingExtension(&'static str),
    /// An extension says something that has no meaning.
    #[error("the attestation of the slot has a malformed extension {id}: {found}")]
    MalformedExtension {
        /// The extension.
        id: &'static str,
        /// Its content in hex.
        found: String,
    },
    /// An algorithm or key that no maker of tokens uses.
    #[error("{which} is signed by an unknown algorithm or key: {found}")]
    Algorithm {
        /// Which certificate.
        which: Which,
        /// What it is.
        found: String,
    },
    /// A file of certificates holds none.
    #[error("{0} holds no certificate")]
    NoCertificate(String),
    /// More certificates than makers have.
    #[error("more than {MAX_CERTIFICATES} certificates of makers are configured")]
    TooMany,
    /// No root is configured at all.
    #[error("no root of a token maker is configured")]
    NoRoot,
    /// Somebody put a certificate of his own into F9.
    #[error(
        "the certificate in slot F9 is signed by its own key, as {0}: it was replaced, and the maker vouches for nothing"
    )]
    SelfSigned(String),
    /// The certificate in F9 is an attestation of another slot. Whoever has the
    /// token can sign anything with that one.
    #[error("the certificate in slot F9 is itself the attestation of a slot, as {0}: it was replaced")]
    NotF9(String),
    /// The attestation was made by another key than that in F9.
    #[error("the attestation of the slot names {found} as its issuer; slot F9 is {wanted}")]
    OtherIssuer {
        /// Whom it names.
        found: String,
        /// Whose certificate is in F9.
        wanted: String,
    },
    /// The chain ends where nobody trusts it.
    #[error("{which} is issued by {issuer}, which is not configured; the configured roots are {}", .roots.join(" and "))]
    ForeignRoot {
        /// The last certificate of the chain.
        which: Which,
        /// Whom it names as its issuer.
        issuer: String,
        /// The roots that are trusted.
        roots: Vec<String>,
    },
    /// A signature does not verify.
    #[error("{which} is not signed by the key of {issuer}, although it says so")]
    Signature {
        /// Which certificate.
        which: Which,
        /// Whose key should have signed it.
        issuer: Which,
    },
    /// A certificate that may not certify others.
    #[error("{which} may not certify other keys: {reason}")]
    NoAuthority {
        /// Which certificate.
        which: Which,
        /// Why not.
        reason: String,
    },
    /// More authorities than one of them allows.
    #[error("{which} allows {allowed} authorities below it; there are {found}")]
    PathLength {
        /// Which certificate.
        which: Which,
        /// How many it allows.
        allowed: u8,
        /// How many there are.
        found: u8,
    },
    /// A certificate is from the future.
    #[error("{which} is valid from {from}; it is {now}")]
    NotYetValid {
        /// Which certificate.
        which: Which,
        /// Its first moment.
        from: String,
        /// The clock.
        now: Timestamp,
    },
    /// A certificate has expired.
    #[error("{which} was valid until {until}; it is {now}")]
    Expired {
        /// Which certificate.
        which: Which,
        /// Its last moment.
        until: String,
        /// The clock.
        now: Timestamp,
    },
    /// Another key than the enrolled one.
    #[error("the attestation is for another public key: SHA-256 {}, not {}", .found.short(), .wanted.short())]
    OtherKey {
        /// SHA-256 of the attested SubjectPublicKeyInfo.
        found: Sha256,
        /// That of the enrolled key.
        wanted: Sha256,
    },
    /// Another token.
    #[error("the attestation was made by token {found}, not {wanted}")]
    OtherSerial {
        /// Its serial number.
        found: u32,
        /// The one that was asked for.
        wanted: u32,
    },
    /// Another slot.
    #[error("the attestation is for slot {found}, not {wanted}")]
    OtherSlot {
        /// The attested slot.
        found: Slot,
        /// The one that was asked for.
        wanted: Slot,
    },
    /// The key asks for the PIN less often.
    #[error("the key asks for the PIN {found}; the policy wants at least {wanted}")]
    WeakPinPolicy {
        /// What is fixed for the key.
        found: PinPolicy,
        /// The least that is accepted.
        wanted: PinPolicy,
    },
    /// The key waits for a touch less often.
    #[error("the touch policy of the key is {found}; the policy wants at least {wanted}")]
    WeakTouchPolicy {
        /// What is fixed for the key.
        found: TouchPolicy,
        /// The least that is accepted.
        wanted: TouchPolicy,
    },
    /// Firmware that is known to give keys away.
    #[error("the token has firmware {found}; before {wanted} keys can be stolen from it (YSA-2024-03, EUCLEAK)")]
    WeakFirmware {
        /// The token's.
        found: Firmware,
        /// The oldest that is accepted.
        wanted: Firmware,
    },
}

/// The certificates of token makers that a terminal trusts, and those in between.
#[derive(Debug)]
pub struct Makers {
    /// Each with whether it is a root, and how many authorities it allows below.
    certificates: Vec<(Certificate, bool, u8)>,
}

impl Makers {
    /// Reads files of certificates: names for messages, and contents. A file holds
    /// one certificate in DER, or any number in PEM with any text around them (RFC
    /// 7468). A certificate that its own key signed is a root, every other one an
    /// intermediate, which is trusted only as far as a root vouches for it.
    ///
    /// # Errors
    /// A file without a certificate, one that cannot be read or is no authority, a
    /// self-issued one that its own key did not sign, or no root at all.
    pub fn read<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, AttestationError> {
        let mut makers = Self { certificates: Vec::new() };
        for (file, content) in files {
            let documents = documents(file, content)?;
            if documents.is_empty() {
                return Err(AttestationError::NoCertificate(file.to_owned()));
            }
            for (index, document) in documents.iter().enumerate() {
                makers.add(Which::Configured(file.to_owned(), index + 1), document)?;
            }
        }
        if makers.roots().next().is_none() {
            return Err(AttestationError::NoRoot);
        }
        Ok(makers)
    }

    fn add(&mut self, which: Which, document: &[u8]) -> Result<(), AttestationError> {
        if self.certificates.len() == MAX_CERTIFICATES {
            return Err(AttestationError::TooMany);
        }
        let certificate = Certificate::parse(which, document, &[])?;
        let allowed = certificate.path_length(None)?;
        let is_root = certificate.names(&certificate);
        if is_root {
            certificate.check_signature(&certificate)?;
        }
        if !self.certificates.iter().any(|(other, ..)| other.has_same_bytes(&certificate)) {
            self.certificates.push((certificate, is_root, allowed));
        }
        Ok(())
    }

    fn roots(&self) -> impl Iterator<Item = &Certificate> {
        self.certificates.iter().filter(|(_, is_root, _)| *is_root).map(|(certificate, ..)| certificate)
    }

    /// The root to which an authority leads, `below` of which stand under its
    /// issuer, itself included; and when the first certificate on the way there ends,
    /// in seconds since 1970.
    fn root_of(&self, child: &Certificate, below: u8, now: Timestamp) -> Result<(&Certificate, u64), AttestationError> {
        let mut refused = None;
        // Makers reissue a root under the same name with the same key, so that the
        // first candidate that refuses is not the last word.
        for (issuer, is_root, allowed) in self.certificates.iter().filter(|(issuer, ..)| child.names(issuer)) {
            let lead = || {
                child.check_signature(issuer)?;
                issuer.check_time(now)?;
                let allowed = if *is_root { *allowed } else { (*allowed).min(MAX_PATH - 1) };
                if below > allowed {
                    return Err(AttestationError::PathLength { which: issuer.which.clone(), allowed, found: below });
                }
                let (root, end) = if *is_root { (issuer, u64::MAX) } else { self.root_of(issuer, below + 1, now)? };
                Ok((root, end.min(issuer.end())))
            };
            match lead() {
                Ok(found) => return Ok(found),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| AttestationError::ForeignRoot {
            which: child.which.clone(),
            issuer: child.issuer(),
            roots: self.roots().map(Certificate::subject).collect(),
        }))
    }
}

/// The certificates in a file, in DER: one in DER, or any number in PEM.
///
/// # Errors
/// Neither, or too many.
pub fn documents(file: &str, content: &[u8]) -> Result<Vec<Vec<u8>>, AttestationError> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    /// An ASN.1 SEQUENCE.
    const DER: u8 = 0x30;
    if content.first() == Some(&DER) {
        return Ok(vec![content.to_vec()]);
    }
    let mut rest = std::str::from_utf8(content).map_err(|_| AttestationError::NoCertificate(file.to_owned()))?;
    let mut documents = Vec::new();
    while let Some(start) = rest.find(BEGIN) {
        let malformed = |reason: String| AttestationError::Malformed {
            which: Which::Configured(file.to_owned(), documents.len() + 1),
            reason,
        };
        let length = rest[start..].find(END).ok_or_else(|| malformed("its PEM has no end".to_owned()))? + END.len();
        let (text, after) = rest[start..].split_at(length);
        let (_, document) = pem::decode_vec(text.as_bytes()).map_err(|error| malformed(error.to_string()))?;
        documents.push(document);
        rest = after;
        if documents.len() > MAX_CERTIFICATES {
            return Err(AttestationError::TooMany);
        }
    }
    Ok(documents)
}

/// What a key must be attested to be.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The enrolled public key.
    pub key: &'a PublicKey,
    /// The token's serial number.
    pub serial: u32,
    /// The slot.
    pub slot: Slot,
    /// The least that is accepted.
    pub pin_policy: PinPolicy,
    /// The least that is accepted.
    pub touch_policy: TouchPolicy,
    /// Whether firmware before [`SOUND_FIRMWARE`] is accepted.
    pub allow_weak_firmware: bool,
}

/// Verifies what a token says of a key: the certificate that it made for the slot,
/// and the one in its slot F9, both in DER.
///
/// # Errors
/// The chain does not lead to a root of `makers`, or vouches for something else
/// than what is expected.
pub fn verify(
    slot: &[u8],
    f9: &[u8],
    makers: &Makers,
    expected: &Expected<'_>,
    now: Timestamp,
) -> Result<Attested, AttestationError> {
    let (slot, root, _) = chain(slot, f9, makers, now)?;
    let attested = content(&slot, root)?;
    check(&attested, expected)?;
    Ok(attested)
}

/// The last moment at which what a token says of a key can be verified: one of the
/// certificates that lead to the root ends then. `at` is a moment at which it can.
///
/// # Errors
/// The chain does not lead to a root of `makers` at that moment.
pub fn valid_until(slot: &[u8], f9: &[u8], makers: &Makers, at: Timestamp) -> Result<Timestamp, AttestationError> {
    let (_, _, end) = chain(slot, f9, makers, at)?;
    // "No well-defined end" is later than the last one.
    let end = i64::try_from(end).ok().and_then(|end| Timestamp::from_second(end).ok());
    Ok(end.unwrap_or(Timestamp::MAX))
}

/// The attestation of a slot, the root that it leads to, and when the first certificate on
/// the way ends, in seconds since 1970.
fn chain<'m>(
    slot: &[u8],
    f9: &[u8],
    makers: &'m Makers,
    now: Timestamp,
) -> Result<(Certificate, &'m Certificate, u64), AttestationError> {
    let slot = Certificate::parse(Which::Slot, slot, &KNOWN)?;
    let f9 = Certificate::parse(Which::F9, f9, &KNOWN)?;
    if f9.extension(POLICIES).is_some() {
        return Err(AttestationError::NotF9(f9.subject()));
    }
    if f9.names(&f9) {
        return Err(AttestationError::SelfSigned(f9.subject()));
    }
    // The pinned exception.
    f9.path_length(Some(0))?;
    let (root, end) = makers.root_of(&f9, 1, now)?;
    f9.check_time(now)?;
    if !slot.names(&f9) {
        return Err(AttestationError::OtherIssuer { found: slot.issuer(), wanted: f9.subject() });
    }
    slot.check_signature(&f9)?;
    slot.check_time(now)?;
    let end = end.min(f9.end()).min(slot.end());
    Ok((slot, root, end))
}

/// What an attestation says.
fn content(slot: &Certificate, root: &Certificate) -> Result<Attested, AttestationError> {
    let form = slot.extension(FORM_FACTOR).map(|form| match form {
        [form] => Ok(*form),
        other => Err(malformed("1.3.6.1.4.1.41482.3.9 (form factor)", other)),
    });
    Ok(Attested {
        version: attested::VERSION,
        key: Sha256::of(&slot.public_key()?),
        serial: required(slot, SERIAL, "1.3.6.1.4.1.41482.3.7 (serial number)", |der| u32::from_der(der).ok())?,
        slot: slot.common_name().and_then(|name| name.strip_prefix(SUBJECT)?.parse().ok()).ok_or_else(|| {
            AttestationError::Malformed {
                which: Which::Slot,
                reason: format!("its subject {} names no slot", quoted(&slot.subject())),
            }
        })?,
        firmware: required(slot, FIRMWARE, "1.3.6.1.4.1.41482.3.3 (firmware)", |bytes| {
            bytes.try_into().ok().map(Firmware)
        })?,
        pin_policy: policies(slot)?.0,
        touch_policy: policies(slot)?.1,
        form_factor: form_factor(form.transpose()?),
        fips: slot.extension(FIPS).is_some(),
        cspn: slot.extension(CSPN).is_some(),
        root: root.subject(),
    })
}

fn policies(slot: &Certificate) -> Result<(PinPolicy, TouchPolicy), AttestationError> {
    required(slot, POLICIES, "1.3.6.1.4.1.41482.3.8 (PIN and touch policy)", |bytes| match bytes {
        [pin, touch] => Some((PinPolicy::from_number(*pin)?, TouchPolicy::from_number(*touch)?)),
        _ => None,
    })
}

fn required<T>(
    slot: &Certificate,
    id: ObjectIdentifier,
    shown: &'static str,
    read: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, AttestationError> {
    let bytes = slot.extension(id).ok_or(AttestationError::MissingExtension(shown))?;
    read(bytes).ok_or_else(|| malformed(shown, bytes))
}

fn malformed(id: &'static str, bytes: &[u8]) -> AttestationError {
    let shown = &bytes[..bytes.len().min(16)];
    AttestationError::MalformedExtension { id, found: hex::encode(shown) }
}

/// A form factor in words. The upper four bits say what else the token is.
fn form_factor(code: Option<u8>) -> String {
    match code.map(|code| code & 0x0f) {
        Some(1) => "USB-A keychain",
        Some(2) => "USB-A nano",
        Some(3) => "USB-C keychain",
        Some(4) => "USB-C nano",
        Some(5) => "USB-C and Lightning",
        Some(6) => "USB-A keychain with fingerprint reader",
        Some(7) => "USB-C keychain with fingerprint reader",
        _ => "unknown",
    }
    .to_owned()
}

fn check(attested: &Attested, expected: &Expected<'_>) -> Result<(), AttestationError> {
    let wanted = Sha256::of(&expected.key.to_der());
    if attested.key != wanted {
        return Err(AttestationError::OtherKey { found: attested.key, wanted });
    }
    if attested.serial != expected.serial {
        return Err(AttestationError::OtherSerial { found: attested.serial, wanted: expected.serial });
    }
    if attested.slot != expected.slot {
        return Err(AttestationError::OtherSlot { found: attested.slot, wanted: expected.slot });
    }
    if attested.pin_policy < expected.pin_policy {
        return Err(AttestationError::WeakPinPolicy { found: attested.pin_policy, wanted: expected.pin_policy });
    }
    if attested.touch_policy < expected.touch_policy {
        return Err(AttestationError::WeakTouchPolicy { found: attested.touch_policy, wanted: expected.touch_policy });
    }
    if attested.firmware < SOUND_FIRMWARE && !expected.allow_weak_firmware {
        return Err(AttestationError::WeakFirmware { found: attested.firmware, wanted: SOUND_FIRMWARE });
    }
    Ok(())
}
