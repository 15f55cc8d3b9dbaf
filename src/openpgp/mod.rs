//! OpenPGP (RFC 9580, version 4 for the sake of stock clients), by sequoia.
//!
//! Prepares bytes, takes signatures back through [`crate::key::Signer`], and
//! never sees a private key.

pub mod stock;

use std::collections::BTreeSet;
use std::io::Write as _;
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
use sequoia::packet::UserID;
use sequoia::packet::key::Key4;
use sequoia::packet::key::PrimaryRole;
use sequoia::packet::key::PublicParts;
use sequoia::packet::key::UnspecifiedRole;
use sequoia::packet::signature::SignatureBuilder;
use sequoia::parse::PacketParser;
use sequoia::parse::PacketParserResult;
use sequoia::parse::Parse as _;
use sequoia::policy::HashAlgoSecurity;
use sequoia::policy::Policy as _;
use sequoia::policy::StandardPolicy;
use sequoia::serialize::Marshal as _;
use sequoia::types::Curve;
use sequoia::types::HashAlgorithm;
use sequoia::types::KeyFlags;
use sequoia::types::PublicKeyAlgorithm;
use sequoia::types::RevocationStatus;
use sequoia::types::SignatureType;
use sequoia_openpgp as sequoia;

use crate::key;
use crate::key::KeyError;
use crate::key::PublicKey;
use crate::key::ToSign;

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
    /// One of them is malformed.
    pub fn all(bytes: &[u8]) -> Result<Vec<Self>, OpenPgpError> {
        CertParser::from_bytes(bytes)?.map(|cert| Ok(Self(cert?))).collect()
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

    /// The certificate in ASCII armor.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn to_armor(&self) -> Result<Vec<u8>, OpenPgpError> {
        armored(armor::Kind::PublicKey, |writer| Ok(self.0.serialize(writer)?))
    }

    /// The primary key, if it is of a kind that we sign with.
    pub fn public_key(&self) -> Option<PublicKey> {
        match self.0.primary_key().key().mpis() {
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

    /// Whether the primary key is this one.
    pub fn is_of(&self, public: &PublicKey) -> bool {
        let created = self.0.primary_key().key().creation_time();
        primary_key(public, created).is_ok_and(|key| key.fingerprint() == self.0.fingerprint())
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

/// Makes a certificate whose only key certifies and signs, for `name`.
///
/// # Errors
/// The signer failed.
pub fn new_certificate(signer: &dyn key::Signer, name: &str, created: Timestamp) -> Result<Certificate, OpenPgpError> {
    let created = system_time(created);
    let primary = primary_key(signer.public(), created)?;
    let cert = Cert::try_from(vec![Packet::from(primary)])?;
    let mut adapter = Adapter::new(signer, "an OpenPGP certificate", created)?;
    let user = UserID::from(name);
    let builder = SignatureBuilder::new(SignatureType::PositiveCertification)
        .set_hash_algo(HashAlgorithm::SHA256)
        .set_signature_creation_time(created)?
        .set_key_flags(KeyFlags::empty().set_certification().set_signing())?
        .set_preferred_hash_algorithms(vec![HashAlgorithm::SHA256, HashAlgorithm::SHA512])?;
    let binding = user.bind(&mut adapter, &cert, builder)?;
    let (cert, _) = cert.insert_packets(vec![Packet::from(user), binding.into()])?;
    Ok(Certificate(cert))
}

/// A detached signature over `data`, dated `at`, in binary form. `what` says to
/// people what is signed.
///
/// # Errors
/// The signer is not the certificate's key, or failed.
pub fn sign_detached(
    certificate: &Certificate,
    signer: &dyn key::Signer,
    what: &str,
    data: &[u8],
    at: Timestamp,
) -> Result<Vec<u8>, OpenPgpError> {
    if !certificate.is_of(signer.public()) {
        return Err(OpenPgpError::Other(format!(
            "key {} is not that of certificate {}",
            signer.name(),
            certificate.fingerprint()
        )));
    }
    let created = certificate.0.primary_key().key().creation_time();
    let mut adapter = Adapter::new(signer, what, created)?;
    let signature = SignatureBuilder::new(SignatureType::Binary)
        .set_hash_algo(HashAlgorithm::SHA256)
        .set_signature_creation_time(system_time(at))?
        .sign_message(&mut adapter, data)?;
    let mut bytes = Vec::new();
    Packet::from(signature).serialize(&mut bytes)?;
    Ok(bytes)
}

/// Joins binary signatures into one armored file.
///
/// # Errors
/// One of them is malformed.
pub fn join_signatures(signatures: &[Vec<u8>]) -> Result<Vec<u8>, OpenPgpError> {
    for signature in signatures {
        parse_signatures(signature)?;
    }
    armored(armor::Kind::Signature, |writer| {
        for signature in signatures {
            writer.write_all(signature)?;
        }
        Ok(())
    })
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

fn primary_key(public: &PublicKey, created: SystemTime) -> Result<Key<PublicParts, PrimaryRole>, OpenPgpError> {
    let key = match public {
        PublicKey::Ed25519(key) => Key4::import_public_ed25519(key.as_bytes(), created)?,
        PublicKey::P256(key) => {
            let point = key.to_sec1_point(false);
            let q = mpi::MPI::new(point.as_bytes());
            Key4::new(created, PublicKeyAlgorithm::ECDSA, mpi::PublicKey::ECDSA { curve: Curve::NistP256, q })?
        }
    };
    Ok(key.into())
}

/// One of our signers, as sequoia wants to call it.
struct Adapter<'a> {
    key: Key<PublicParts, UnspecifiedRole>,
    signer: &'a dyn key::Signer,
    what: &'a str,
}

impl<'a> Adapter<'a> {
    fn new(signer: &'a dyn key::Signer, what: &'a str, created: SystemTime) -> Result<Self, OpenPgpError> {
        Ok(Self { key: primary_key(signer.public(), created)?.into(), signer, what })
    }
}

impl sequoia::crypto::Signer for Adapter<'_> {
    fn public(&self) -> &Key<PublicParts, UnspecifiedRole> {
        &self.key
    }

    fn acceptable_hashes(&self) -> &[HashAlgorithm] {
        &[HashAlgorithm::SHA256]
    }

    fn sign(&mut self, _: HashAlgorithm, digest: &[u8]) -> sequoia::Result<mpi::Signature> {
        let digest: &[u8; 32] = digest.try_into()?;
        let signature = self.signer.sign(self.what, ToSign::Digest(digest))?;
        match self.signer.public() {
            PublicKey::Ed25519(_) => {
                let (r, s) = signature.split_at(32);
                Ok(mpi::Signature::EdDSA { r: mpi::MPI::new(r), s: mpi::MPI::new(s) })
            }
            PublicKey::P256(_) => {
                let signature = p256::ecdsa::Signature::from_der(&signature)?;
                let (r, s) = signature.split_bytes();
                Ok(mpi::Signature::ECDSA { r: mpi::MPI::new(&r), s: mpi::MPI::new(&s) })
            }
        }
    }
}
