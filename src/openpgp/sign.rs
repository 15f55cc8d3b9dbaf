//! Making certificates and signatures, through [`crate::key::Signer`].

use std::io::Write as _;
use std::time::Duration;
use std::time::SystemTime;

use jiff::Timestamp;
use sequoia::Cert;
use sequoia::Packet;
use sequoia::armor;
use sequoia::cert::CertRevocationBuilder;
use sequoia::crypto::mpi;
use sequoia::packet::Key;
use sequoia::packet::Signature;
use sequoia::packet::UserID;
use sequoia::packet::key::Key4;
use sequoia::packet::key::PublicParts;
use sequoia::packet::key::SubordinateRole;
use sequoia::packet::key::UnspecifiedRole;
use sequoia::packet::signature::SignatureBuilder;
use sequoia::serialize::Marshal as _;
use sequoia::serialize::stream;
use sequoia::types::Curve;
use sequoia::types::HashAlgorithm;
use sequoia::types::KeyFlags;
use sequoia::types::PublicKeyAlgorithm;
use sequoia::types::ReasonForRevocation;
use sequoia::types::SignatureType;
use sequoia_openpgp as sequoia;

use super::Certificate;
use super::OpenPgpError;
use super::armored;
use super::parse_signatures;
use super::system_time;
use crate::key;
use crate::key::PublicKey;
use crate::key::ToSign;

/// What people see that the keys of a certificate sign.
const A_CERTIFICATE: &str = "an OpenPGP certificate";

/// A key that goes into a certificate.
#[derive(Clone, Copy)]
pub struct NewKey<'a> {
    /// It.
    pub signer: &'a dyn key::Signer,
    /// When it was made; its fingerprint depends on that.
    pub created: Timestamp,
}

/// Makes a certificate for `name`: the primary key certifies, and its subkey signs,
/// until `expires`.
///
/// # Errors
/// A signer failed.
pub fn new_certificate(
    primary: NewKey<'_>,
    signing: NewKey<'_>,
    name: &str,
    expires: Timestamp,
) -> Result<Certificate, OpenPgpError> {
    let at = primary.created.max(signing.created);
    let mut certifier = Adapter::new(primary.signer, A_CERTIFICATE, primary.created)?;
    let mut signer = Adapter::new(signing.signer, A_CERTIFICATE, signing.created)?;
    let (key, subkey) = (certifier.key.clone().role_into_primary(), signer.key.clone().role_into_subordinate());
    // The subkey says that it belongs to the primary key, so that nobody else can adopt it.
    let belongs = SignatureBuilder::new(SignatureType::PrimaryKeyBinding)
        .set_hash_algo(HashAlgorithm::SHA256)
        .set_signature_creation_time(system_time(at))?
        .sign_primary_key_binding(&mut signer, &key, &subkey)?;
    let cert = Cert::try_from(vec![Packet::from(key)])?;
    let user = UserID::from(name);
    let signatures = bind(&mut certifier, &cert, (&user, &subkey), belongs, at, expires)?;
    let (cert, _) = cert.insert_packets(vec![Packet::from(user), signatures.0.into()])?;
    let (cert, _) = cert.insert_packets(vec![Packet::from(subkey), signatures.1.into()])?;
    Ok(Certificate(cert))
}

/// The same certificate with a later end. What was signed before stays good, since
/// its older signatures stay in it.
///
/// # Errors
/// It is none of ours, or the signer is not its primary key, or failed.
pub fn extend(
    certificate: &Certificate,
    primary: &dyn key::Signer,
    at: Timestamp,
    expires: Timestamp,
) -> Result<Certificate, OpenPgpError> {
    let other = |what: &str| OpenPgpError::Other(format!("certificate {} {what}", certificate.fingerprint()));
    if certificate.primary_key().as_ref() != Some(primary.public()) {
        return Err(other(&format!("does not have {} as its primary key", primary.name())));
    }
    let cert = certificate.0.clone();
    let created = cert.primary_key().key().creation_time();
    let (Some(user), Some(subkey)) = (cert.userids().next(), cert.keys().subkeys().next()) else {
        return Err(other("has no name or no subkey"));
    };
    let bound = subkey.bundle().self_signatures().next();
    let belongs = bound.and_then(|binding| binding.embedded_signatures().next().cloned());
    let belongs = belongs.ok_or_else(|| other("has a subkey that does not say that it belongs to it"))?;
    let mut certifier = Adapter { key: adapted(primary.public(), created)?, signer: primary, what: A_CERTIFICATE };
    let signatures = bind(&mut certifier, &cert, (user.userid(), subkey.key()), belongs, at, expires)?;
    let (cert, _) = cert.clone().insert_packets(vec![Packet::from(signatures.0), signatures.1.into()])?;
    Ok(Certificate(cert))
}

/// Why a certificate does not count any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Another one is in its place; what it signed before stays good.
    Superseded,
    /// Its holder has gone; what it signed before stays good.
    Retired,
    /// Somebody else may have its keys; nothing that it signed is good.
    Compromised,
}

/// The same certificate, revoked by its primary key (RFC 9580 section 5.2.1.11).
///
/// # Errors
/// The signer is not its primary key, or failed.
pub fn revoke(
    certificate: &Certificate,
    primary: &dyn key::Signer,
    at: Timestamp,
    reason: Reason,
) -> Result<Certificate, OpenPgpError> {
    if certificate.primary_key().as_ref() != Some(primary.public()) {
        let (fingerprint, name) = (certificate.fingerprint(), primary.name());
        return Err(OpenPgpError::Other(format!("certificate {fingerprint} does not have {name} as its primary key")));
    }
    let cert = certificate.0.clone();
    let created = cert.primary_key().key().creation_time();
    let mut certifier = Adapter { key: adapted(primary.public(), created)?, signer: primary, what: A_CERTIFICATE };
    let reason = match reason {
        Reason::Superseded => ReasonForRevocation::KeySuperseded,
        Reason::Retired => ReasonForRevocation::KeyRetired,
        Reason::Compromised => ReasonForRevocation::KeyCompromised,
    };
    let revocation = CertRevocationBuilder::new()
        .set_signature_creation_time(system_time(at))?
        .set_reason_for_revocation(reason, b"")?
        .build(&mut certifier, &cert, HashAlgorithm::SHA256)?;
    let (cert, _) = cert.insert_packets(vec![Packet::from(revocation)])?;
    Ok(Certificate(cert))
}

/// The signatures of a primary key over its name and its subkey.
fn bind(
    certifier: &mut Adapter<'_>,
    cert: &Cert,
    (user, subkey): (&UserID, &Key<PublicParts, SubordinateRole>),
    belongs: Signature,
    at: Timestamp,
    expires: Timestamp,
) -> Result<(Signature, Signature), OpenPgpError> {
    let until = |created: SystemTime| system_time(expires).duration_since(created).unwrap_or(Duration::ZERO);
    let builder = |of_type, flags: KeyFlags, created| -> Result<SignatureBuilder, OpenPgpError> {
        Ok(SignatureBuilder::new(of_type)
            .set_hash_algo(HashAlgorithm::SHA256)
            .set_signature_creation_time(system_time(at))?
            .set_key_flags(flags)?
            .set_key_validity_period(until(created))?)
    };
    let created = certifier.key.creation_time();
    let certified = builder(SignatureType::PositiveCertification, KeyFlags::empty().set_certification(), created)?
        .set_preferred_hash_algorithms(vec![HashAlgorithm::SHA256, HashAlgorithm::SHA512])?;
    let certified = user.bind(certifier, cert, certified)?;
    let bound = builder(SignatureType::SubkeyBinding, KeyFlags::empty().set_signing(), subkey.creation_time())?
        .set_embedded_signature(belongs)?;
    let bound = subkey.bind(certifier, cert, bound)?;
    Ok((certified, bound))
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
    let mut adapter = Adapter::of(certificate, signer, what)?;
    let signature = SignatureBuilder::new(SignatureType::Binary)
        .set_hash_algo(HashAlgorithm::SHA256)
        .set_signature_creation_time(system_time(at))?
        .sign_message(&mut adapter, data)?;
    let mut bytes = Vec::new();
    Packet::from(signature).serialize(&mut bytes)?;
    Ok(bytes)
}

/// `text` with a signature over it in one file (RFC 9580 section 7), dated `at`, as
/// apt reads `InRelease`.
///
/// # Errors
/// The signer is not the certificate's key, or failed.
pub fn sign_cleartext(
    certificate: &Certificate,
    signer: &dyn key::Signer,
    what: &str,
    text: &str,
    at: Timestamp,
) -> Result<Vec<u8>, OpenPgpError> {
    let adapter = Adapter::of(certificate, signer, what)?;
    let mut bytes = Vec::new();
    let message = stream::Message::new(&mut bytes);
    let mut message = stream::Signer::new(message, adapter)?
        .hash_algo(HashAlgorithm::SHA256)?
        .creation_time(system_time(at))
        .cleartext()
        .build()?;
    message.write_all(text.as_bytes())?;
    message.finalize()?;
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

/// A public key as OpenPGP has it.
fn adapted(public: &PublicKey, created: SystemTime) -> Result<Key<PublicParts, UnspecifiedRole>, OpenPgpError> {
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
    fn new(signer: &'a dyn key::Signer, what: &'a str, created: Timestamp) -> Result<Self, OpenPgpError> {
        Ok(Self { key: adapted(signer.public(), system_time(created))?, signer, what })
    }

    /// The key of a certificate that signs.
    fn of(certificate: &Certificate, signer: &'a dyn key::Signer, what: &'a str) -> Result<Self, OpenPgpError> {
        if certificate.signing_key().as_ref() != Some(signer.public()) {
            let fingerprint = certificate.fingerprint();
            let reason = format!("key {} is not that of certificate {fingerprint} which signs", signer.name());
            return Err(OpenPgpError::Other(reason));
        }
        let key = certificate.signing().clone();
        Ok(Self { key, signer, what })
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
