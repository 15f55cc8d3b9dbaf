//! One certificate of an attestation's chain: X.509 v3 (RFC 5280), read strictly.

use jiff::Timestamp;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use rsa::pkcs8::DecodePublicKey as _;
use rsa::sha2::Digest as _;
use rsa::sha2::Sha256;
use rsa::sha2::Sha384;
use rsa::sha2::Sha512;
use rsa::traits::PublicKeyParts as _;
use x509_cert::Version;
use x509_cert::der::Decode as _;
use x509_cert::der::Encode as _;
use x509_cert::der::Reader as _;
use x509_cert::der::SliceReader;
use x509_cert::der::asn1::Any;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::rfc5912;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::ext::pkix::KeyUsage;

use super::AttestationError;
use super::MAX_CERTIFICATE;
use super::Which;
use crate::manifest::names::one_line;

/// RSA keys outside of this are refused, in bits.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=4096;

/// A certificate, and the bytes that its issuer signed.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) which: Which,
    parsed: x509_cert::Certificate,
    signed: Vec<u8>,
}

impl Certificate {
    /// Reads one certificate in DER. `known` are extensions of ours.
    pub(super) fn parse(which: Which, bytes: &[u8], known: &[ObjectIdentifier]) -> Result<Self, AttestationError> {
        if bytes.len() > MAX_CERTIFICATE {
            return Err(AttestationError::TooLong { which, found: bytes.len() });
        }
        let malformed = |reason: x509_cert::der::Error| AttestationError::Malformed {
            which: which.clone(),
            reason: one_line(&reason.to_string()),
        };
        let mut reader = SliceReader::new(bytes).map_err(malformed)?;
        let outer = reader.tlv_bytes().map_err(malformed)?;
        if outer.len() != bytes.len() {
            return Err(AttestationError::Trailing { which, count: bytes.len() - outer.len() });
        }
        let parsed = x509_cert::Certificate::from_der(outer).map_err(malformed)?;
        // The bytes as they came: written again they might be others.
        let signed = SliceReader::new(outer)
            .and_then(|mut reader| {
                reader.sequence(|parts| {
                    let signed = parts.tlv_bytes()?.to_vec();
                    parts.drain(parts.remaining_len())?;
                    Ok::<_, x509_cert::der::Error>(signed)
                })
            })
            .map_err(malformed)?;
        let certificate = Self { which, parsed, signed };
        certificate.check_form(known)?;
        Ok(certificate)
    }

    fn check_form(&self, known: &[ObjectIdentifier]) -> Result<(), AttestationError> {
        let which = || self.which.clone();
        let tbs = self.parsed.tbs_certificate();
        let malformed = |reason: &str| AttestationError::Malformed { which: which(), reason: reason.to_owned() };
        if tbs.version() != Version::V3 {
            return Err(malformed("it is not an X.509 certificate of version 3"));
        }
        if tbs.signature() != self.parsed.signature_algorithm() {
            return Err(malformed("it names two signature algorithms"));
        }
        let extensions = self.extensions();
        for (index, extension) in extensions.iter().enumerate() {
            let id = extension.extn_id;
            if extensions[..index].iter().any(|other| other.extn_id == id) {
                return Err(AttestationError::DuplicateExtension { which: which(), id: id.to_string() });
            }
            let is_known = id == BasicConstraints::OID || id == KeyUsage::OID || known.contains(&id);
            if extension.critical && !is_known {
                return Err(AttestationError::UnknownCritical { which: which(), id: id.to_string() });
            }
        }
        Ok(())
    }

    fn extensions(&self) -> &[Extension] {
        self.parsed.tbs_certificate().extensions().map_or(&[], Vec::as_slice)
    }

    /// The content of an extension.
    pub(super) fn extension(&self, id: ObjectIdentifier) -> Option<&[u8]> {
        self.extensions().iter().find(|extension| extension.extn_id == id).map(|found| found.extn_value.as_bytes())
    }

    pub(super) fn has_same_bytes(&self, other: &Self) -> bool {
        self.parsed == other.parsed && self.signed == other.signed
    }

    pub(super) fn subject(&self) -> String {
        one_line(&self.parsed.tbs_certificate().subject().to_string())
    }

    pub(super) fn issuer(&self) -> String {
        one_line(&self.parsed.tbs_certificate().issuer().to_string())
    }

    /// Whether it names `issuer` as its issuer.
    pub(super) fn names(&self, issuer: &Self) -> bool {
        self.parsed.tbs_certificate().issuer() == issuer.parsed.tbs_certificate().subject()
    }

    /// The one common name that is all of its subject.
    pub(super) fn common_name(&self) -> Option<&str> {
        let mut attributes = self.parsed.tbs_certificate().subject().iter();
        match (attributes.next(), attributes.next()) {
            (Some(only), None) if only.oid == x509_cert::der::oid::db::rfc4519::COMMON_NAME => {
                std::str::from_utf8(only.value.value()).ok()
            }
            _ => None,
        }
    }

    /// Its SubjectPublicKeyInfo in DER.
    pub(super) fn public_key(&self) -> Result<Vec<u8>, AttestationError> {
        let key = self.parsed.tbs_certificate().subject_public_key_info().to_der();
        key.map_err(|error| AttestationError::Malformed { which: self.which.clone(), reason: error.to_string() })
    }

    /// Checks that it is valid now (RFC 5280 section 4.1.2.5: both ends count).
    pub(super) fn check_time(&self, now: Timestamp) -> Result<(), AttestationError> {
        let validity = self.parsed.tbs_certificate().validity();
        // Not as a `Timestamp`: "no well-defined end", 9999-12-31T23:59:59Z, is
        // later than the last one.
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        if seconds < validity.not_before.to_unix_duration().as_secs() {
            return Err(AttestationError::NotYetValid {
                which: self.which.clone(),
                from: validity.not_before.to_string(),
                now,
            });
        }
        if seconds > self.end() {
            return Err(AttestationError::Expired {
                which: self.which.clone(),
                until: validity.not_after.to_string(),
                now,
            });
        }
        Ok(())
    }

    /// Its last moment, in seconds since 1970.
    pub(super) fn end(&self) -> u64 {
        self.parsed.tbs_certificate().validity().not_after.to_unix_duration().as_secs()
    }

    /// How many further authorities may stand between it and what is certified, if
    /// it is an authority (RFC 5280 sections 4.2.1.3 and 4.2.1.9). `assumed` where
    /// it does not say whether it is one.
    pub(super) fn path_length(&self, assumed: Option<u8>) -> Result<u8, AttestationError> {
        let refused =
            |reason: &str| AttestationError::NoAuthority { which: self.which.clone(), reason: reason.to_owned() };
        let unreadable = |_| refused("its basicConstraints or keyUsage cannot be read");
        let usage = self.extension(KeyUsage::OID).map(KeyUsage::from_der).transpose().map_err(unreadable)?;
        if usage.is_some_and(|usage| !usage.key_cert_sign()) {
            return Err(refused("its keyUsage has no keyCertSign"));
        }
        let constraints = self.extension(BasicConstraints::OID).map(BasicConstraints::from_der);
        match constraints.transpose().map_err(unreadable)? {
            Some(constraints) if constraints.ca => Ok(constraints.path_len_constraint.unwrap_or(u8::MAX)),
            Some(_) => Err(refused("its basicConstraints say CA:FALSE")),
            None => assumed.ok_or_else(|| refused("it has no basicConstraints")),
        }
    }

    /// Checks that the key of `issuer` signed it.
    pub(super) fn check_signature(&self, issuer: &Self) -> Result<(), AttestationError> {
        let algorithm = self.parsed.signature_algorithm();
        let unknown = |what: String| AttestationError::Algorithm { which: self.which.clone(), found: what };
        let parameters = algorithm.parameters.as_ref();
        // RFC 5758 section 3.2: none; RFC 4055 section 5: NULL.
        let (is_rsa, right) = match algorithm.oid {
            rfc5912::ECDSA_WITH_SHA_256 | rfc5912::ECDSA_WITH_SHA_384 => (false, parameters.is_none()),
            rfc5912::SHA_256_WITH_RSA_ENCRYPTION
            | rfc5912::SHA_384_WITH_RSA_ENCRYPTION
            | rfc5912::SHA_512_WITH_RSA_ENCRYPTION => (true, parameters.is_some_and(Any::is_null)),
            other => return Err(unknown(format!("signature algorithm {other}"))),
        };
        if !right {
            return Err(unknown(format!("unusual parameters of signature algorithm {}", algorithm.oid)));
        }
        let digest = match algorithm.oid {
            rfc5912::ECDSA_WITH_SHA_256 | rfc5912::SHA_256_WITH_RSA_ENCRYPTION => Sha256::digest(&self.signed).to_vec(),
            rfc5912::SHA_512_WITH_RSA_ENCRYPTION => Sha512::digest(&self.signed).to_vec(),
            _ => Sha384::digest(&self.signed).to_vec(),
        };
        let key = issuer.public_key()?;
        // A signature is whole bytes; with bits left over it is none.
        let signature = self.parsed.signature().as_bytes().unwrap_or_default();
        let verifies = if is_rsa {
            let key = rsa::RsaPublicKey::from_public_key_der(&key)
                .ok()
                .filter(|key| RSA_BITS.contains(&key.n().bits_vartime()))
                .ok_or_else(|| unknown(format!("key of {}, which is not RSA of 2048 to 4096 bits", issuer.which)))?;
            let scheme = match algorithm.oid {
                rfc5912::SHA_256_WITH_RSA_ENCRYPTION => rsa::Pkcs1v15Sign::new::<Sha256>(),
                rfc5912::SHA_384_WITH_RSA_ENCRYPTION => rsa::Pkcs1v15Sign::new::<Sha384>(),
                _ => rsa::Pkcs1v15Sign::new::<Sha512>(),
            };
            key.verify(scheme, &digest, signature).is_ok()
        } else if let Ok(key) = p256::ecdsa::VerifyingKey::from_public_key_der(&key) {
            p256::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify_prehash(&digest, &signature).is_ok())
        } else if let Ok(key) = p384::ecdsa::VerifyingKey::from_public_key_der(&key) {
            p384::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify_prehash(&digest, &signature).is_ok())
        } else {
            return Err(unknown(format!("key of {}, which is neither P-256 nor P-384", issuer.which)));
        };
        if verifies {
            Ok(())
        } else {
            Err(AttestationError::Signature { which: self.which.clone(), issuer: issuer.which.clone() })
        }
    }
}
