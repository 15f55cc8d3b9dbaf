//! OpenPGP (RFC 9580, version 4 for the sake of stock clients), by sequoia.
//!
//! Prepares bytes, takes signatures back through [`crate::key::Signer`], and
//! never sees a private key.

mod sign;
pub mod stock;

use std::collections::BTreeSet;
use std::time::Duration;
use std::time::SystemTime;

use jiff::Timestamp;
use sequoia::Cert;
use sequoia::Packet;
use sequoia::armor;
use sequoia::cert::CertParser;
use sequoia::crypto::mpi;
use sequoia::packet::Key;
use sequoia::packet::Signature;
use sequoia::packet::key::PublicParts;
use sequoia::packet::key::UnspecifiedRole;
use sequoia::parse::PacketParser;
use sequoia::parse::PacketParserResult;
use sequoia::parse::Parse as _;
use sequoia::policy::HashAlgoSecurity;
use sequoia::policy::Policy as _;
use sequoia::policy::StandardPolicy;
use sequoia::serialize::Marshal as _;
use sequoia::types::Curve;
use sequoia::types::RevocationStatus;
use sequoia_openpgp as sequoia;

use crate::key::KeyError;
use crate::key::PublicKey;

pub use sign::NewKey;
pub use sign::Reason;
pub use sign::extend;
pub use sign::join_signatures;
pub use sign::new_certificate;
pub use sign::revoke;
pub use sign::sign_cleartext;
pub use sign::sign_detached;

/// Something of OpenPGP that cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum OpenPgpError {
    /// The key that should sign failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Everything else.
    #[error("{0}")]
    Other(String),
}

impl From<crate::process::ProcessError> for OpenPgpError {
    fn from(error: crate::process::ProcessError) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<sequoia::anyhow::Error> for OpenPgpError {
    fn from(error: sequoia::anyhow::Error) -> Self {
        // What our signer says comes back through sequoia.
        error.downcast().map_or_else(|error| Self::Other(error.to_string()), Self::Key)
    }
}

impl From<std::io::Error> for OpenPgpError {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.to_string())
    }
}

/// A certificate: public keys with their bindings.
#[derive(Debug, Clone)]
pub struct Certificate(Cert);

impl Certificate {
    /// Reads all certificates of a file, armored or binary.
    ///
    /// # Errors
    /// One of them is malformed, or could not be published: a signature in it names a
    /// key by a fingerprint of an unknown kind, for example.
    pub fn all(bytes: &[u8]) -> Result<Vec<Self>, OpenPgpError> {
        let checked = |cert: sequoia::Result<Cert>| {
            let certificate = Self(cert?);
            certificate.to_binary()?;
            Ok(certificate)
        };
        CertParser::from_bytes(bytes)?.map(checked).collect()
    }

    /// Reads a file with exactly one certificate.
    ///
    /// # Errors
    /// Malformed, none, or several.
    pub fn one(bytes: &[u8]) -> Result<Self, OpenPgpError> {
        let mut all = Self::all(bytes)?;
        match (all.pop(), all.is_empty()) {
            (Some(certificate), true) => Ok(certificate),
            (None, _) => Err(OpenPgpError::Other("it holds no certificate".to_owned())),
            _ => Err(OpenPgpError::Other("it holds several certificates".to_owned())),
        }
    }

    /// The fingerprint in upper-case hex.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint().to_hex()
    }

    /// Whose it is: the first valid e-mail address, else the fingerprint.
    pub fn identity(&self) -> String {
        let mail = self.0.userids().find_map(|user| user.userid().email().ok().flatten().map(str::to_lowercase));
        mail.unwrap_or_else(|| self.fingerprint())
    }

    /// Demands that there is nothing in it but a person's name and keys, all of them
    /// good at `now`. What comes from outside could carry anything besides.
    ///
    /// # Errors
    /// There is something else, or the keys are not bound to the name.
    pub fn check_plain(&self, name: &str, now: Timestamp) -> Result<(), OpenPgpError> {
        let refuse = |reason: &str| Err(OpenPgpError::Other(reason.to_owned()));
        let cert = &self.0;
        let names: Vec<_> = cert.userids().map(|user| user.userid().value().to_vec()).collect();
        if names != [name.as_bytes()] {
            return refuse("it is not for the holder's name, as the policy has that, and for no other");
        }
        self.check_keys()?;
        if cert.user_attributes().count() + cert.unknowns().count() + cert.bad_signatures().count() > 0 {
            return refuse("it holds other things than a name, keys and their signatures");
        }
        let foreign = |user: &sequoia::cert::amalgamation::UserIDAmalgamation<'_>| {
            user.certifications().count() + user.other_revocations().count() > 0
        };
        if cert.userids().any(|user| foreign(&user)) {
            return refuse("others have signed it");
        }
        let policy = StandardPolicy::new();
        let valid = cert.with_policy(&policy, system_time(now))?;
        if valid.alive().is_err() || !matches!(valid.revocation_status(), RevocationStatus::NotAsFarAsWeKnow) {
            return refuse("it has expired or is revoked");
        }
        let all = cert.keys().count();
        if valid.userids().count() != 1 || valid.keys().supported().alive().revoked(false).count() != all {
            return refuse("not all of it is bound together by valid signatures");
        }
        Ok(())
    }

    /// Demands that it has one key that certifies and one that signs. A further key could
    /// sign for the holder as well, and nobody would ask where that one was made.
    ///
    /// # Errors
    /// There are more, or fewer.
    pub fn check_keys(&self) -> Result<(), OpenPgpError> {
        match self.0.keys().count() {
            2 => Ok(()),
            found => Err(OpenPgpError::Other(format!(
                "it holds {found} keys, not two: one that certifies, and one that signs"
            ))),
        }
    }

    /// Until when it is good, as its newest signature says; `None` if for ever.
    pub fn expires(&self) -> Option<Timestamp> {
        let policy = StandardPolicy::new();
        // As it is now, whenever that is: the newest signature of its key counts.
        let newest = self.0.userids().flat_map(|user| user.self_signatures().collect::<Vec<_>>());
        let newest =
            newest.filter(|signature| policy.signature(signature, HashAlgoSecurity::SecondPreImageResistance).is_ok());
        let newest = newest.max_by_key(|signature| signature.signature_creation_time())?;
        let period = newest.key_validity_period()?;
        Some(timestamp(self.0.primary_key().key().creation_time() + period))
    }

    /// When its primary key was made.
    pub fn created(&self) -> Timestamp {
        timestamp(self.0.primary_key().key().creation_time())
    }

    /// The certificate in binary form.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn to_binary(&self) -> Result<Vec<u8>, OpenPgpError> {
        let mut bytes = Vec::new();
        self.0.serialize(&mut bytes)?;
        Ok(bytes)
    }

    /// The files by which users get it: their names in the repository, and content.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn published(&self) -> Result<[(String, Vec<u8>); 2], OpenPgpError> {
        let name = |kind: &str| format!("keys/{}.{kind}", self.fingerprint());
        Ok([(name("asc"), self.to_armor()?), (name("gpg"), self.to_binary()?)])
    }

    /// The certificate in ASCII armor.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn to_armor(&self) -> Result<Vec<u8>, OpenPgpError> {
        armored(armor::Kind::PublicKey, |writer| Ok(self.0.serialize(writer)?))
    }

    /// The primary key, which certifies, if it is of a kind that we sign with.
    pub fn primary_key(&self) -> Option<PublicKey> {
        public_key(self.0.primary_key().key().mpis())
    }

    /// The key that signs, if it is of a kind that we sign with.
    pub fn signing_key(&self) -> Option<PublicKey> {
        public_key(self.signing().mpis())
    }

    /// The key that signs: the subkey that is for that, or a primary key without one.
    fn signing(&self) -> &Key<PublicParts, UnspecifiedRole> {
        let signs = |signature: &Signature| signature.key_flags().is_some_and(|flags| flags.for_signing());
        let mut subkeys = self.0.keys().subkeys();
        let subkey = subkeys.find(|subkey| subkey.bundle().self_signatures().next().is_some_and(signs));
        subkey.map_or_else(
            || self.0.primary_key().key().role_as_unspecified(),
            |subkey| subkey.key().role_as_unspecified(),
        )
    }

    /// Whether a key of this certificate, good at `now`, made the signature.
    ///
    /// The signature's own date proves nothing, since whoever has an old key
    /// writes it: the key must be good now. A key in `revoked` never is.
    fn made(&self, signature: &Signature, data: &[u8], now: SystemTime, revoked: &BTreeSet<String>) -> bool {
        let policy = StandardPolicy::new();
        if revoked.contains(&self.fingerprint())
            || policy.signature(signature, HashAlgoSecurity::CollisionResistance).is_err()
        {
            return false;
        }
        // A subkey does not know that its whole certificate is revoked or expired.
        let Ok(valid) = self.0.with_policy(&policy, now) else {
            return false;
        };
        if valid.alive().is_err() || !matches!(valid.revocation_status(), RevocationStatus::NotAsFarAsWeKnow) {
            return false;
        }
        valid.keys().supported().alive().revoked(false).for_signing().any(|key| {
            let key = key.key();
            !revoked.contains(&key.fingerprint().to_hex()) && signature.verify_message(key, data).is_ok()
        })
    }
}

/// Who among `certificates` made a detached signature over `data`.
///
/// # Errors
/// Malformed signatures.
pub fn signers_of<'a>(
    data: &[u8],
    signatures: &[u8],
    certificates: &'a [Certificate],
    now: Timestamp,
    revoked: &BTreeSet<String>,
) -> Result<Vec<&'a Certificate>, OpenPgpError> {
    let now = system_time(now);
    let mut signers = Vec::new();
    for signature in parse_signatures(signatures)? {
        signers.extend(certificates.iter().find(|certificate| certificate.made(&signature, data, now, revoked)));
    }
    Ok(signers)
}

fn parse_signatures(bytes: &[u8]) -> Result<Vec<Signature>, OpenPgpError> {
    let mut signatures = Vec::new();
    let mut result = PacketParser::from_bytes(bytes)?;
    while let PacketParserResult::Some(parser) = result {
        let (packet, next) = parser.next()?;
        match packet {
            Packet::Signature(signature) => signatures.push(signature),
            other => return Err(OpenPgpError::Other(format!("a {} packet where signatures should be", other.tag()))),
        }
        result = next;
    }
    Ok(signatures)
}

/// A key of a certificate, as our signers have it.
fn public_key(key: &mpi::PublicKey) -> Option<PublicKey> {
    match key {
        mpi::PublicKey::EdDSA { curve: Curve::Ed25519, q } => {
            // The point in its own form, after the byte 0x40.
            let point: &[u8; 32] = q.value().strip_prefix(&[0x40])?.try_into().ok()?;
            Some(PublicKey::Ed25519(Box::new(ed25519_dalek::VerifyingKey::from_bytes(point).ok()?)))
        }
        mpi::PublicKey::ECDSA { curve: Curve::NistP256, q } => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(q.value()).ok()?;
            Some(PublicKey::P256(Box::new(key)))
        }
        _ => None,
    }
}

fn armored(
    kind: armor::Kind,
    write: impl FnOnce(&mut armor::Writer<Vec<u8>>) -> Result<(), OpenPgpError>,
) -> Result<Vec<u8>, OpenPgpError> {
    let mut writer = armor::Writer::new(Vec::new(), kind)?;
    write(&mut writer)?;
    Ok(writer.finalize()?)
}

fn system_time(at: Timestamp) -> SystemTime {
    let seconds = u64::try_from(at.as_second()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH)
}
