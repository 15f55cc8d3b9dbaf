//! What is public about keys, in files beside the policy: the public half,
//! `<key>.token.json` and `<key>.attestation.pem`.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;

use super::ATTESTATION;
use super::EnrolError;
use super::MAKERS;
use super::PLACE;
use super::usual;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::PublicKey;
use crate::key::attestation;
use crate::key::attestation::Expected;
use crate::key::attestation::Makers;
use crate::key::piv::enrolment;
use crate::key::piv::enrolment::Enrolment;
use crate::manifest::Attested;
use crate::manifest::KeyName;
use crate::manifest::PinPolicy;
use crate::manifest::TouchPolicy;
use crate::openpgp::Certificate;
use crate::openpgp::OpenPgpError;
use crate::policy::Policy;

/// What is public about a key.
#[derive(Debug)]
pub struct PublicFiles {
    /// Its name.
    pub name: KeyName,
    /// The file of its public half, relative to the policy.
    pub file: String,
    /// The public half.
    pub key: PublicKey,
    /// The certificate that it is in, if it is an OpenPGP key.
    pub certificate: Option<Certificate>,
    /// Where the private half is, and the certificates in DER by which its token
    /// vouches for it: that of the slot, and that of F9. `None` for a key that was
    /// not made in a token.
    pub made: Option<(Enrolment, [Vec<u8>; 2])>,
}

/// Reads a file by its name relative to the policy; `None` if there is none.
pub type Read<'a> = &'a dyn Fn(&str) -> Result<Option<Vec<u8>>, HomeError>;

impl PublicFiles {
    /// Reads the files of a key; `None` if it has no public half yet.
    ///
    /// # Errors
    /// A file cannot be read, is malformed, or about another key.
    pub fn read(policy: &Policy, name: &KeyName, file: &str, read: Read<'_>) -> Result<Option<Self>, EnrolError> {
        let Some(bytes) = read(file)? else {
            return Ok(None);
        };
        let damaged = |file: &str, reason: String| HomeError::Damaged { path: file.into(), reason };
        let entry = policy.certificate_of(name);
        let certificate = entry.as_ref().map(|_| Certificate::one(&bytes)).transpose();
        let certificate = certificate.map_err(|error| damaged(file, error.to_string()))?;
        let key = match &certificate {
            Some(certificate) if entry.is_some_and(|entry| entry.primary == *name) => certificate.primary_key(),
            Some(certificate) => certificate.signing_key(),
            None => std::str::from_utf8(&bytes).ok().and_then(|pem| PublicKey::from_pem(pem).ok()),
        };
        let key = key.ok_or_else(|| damaged(file, "it holds no public key of a kind that we use".to_owned()))?;
        let place_file = Policy::file_beside(file, name, PLACE);
        let Some(place) = read(&place_file)? else {
            return Ok(Some(Self { name: name.clone(), file: file.to_owned(), key, certificate, made: None }));
        };
        let place: Enrolment = atomic::parse_json(Path::new(&place_file), &place, enrolment::VERSION)?;
        if place.key != *name {
            return Err(damaged(&place_file, format!("it is not about {name}")).into());
        }
        let attestation_file = Policy::file_beside(file, name, ATTESTATION);
        let pem = read(&attestation_file)?.ok_or_else(|| HomeError::Missing(attestation_file.clone().into()))?;
        let certificates = attestation::documents(&attestation_file, &pem)
            .map_err(|error| EnrolError::Attestation { key: name.clone(), error })?;
        let certificates = <[Vec<u8>; 2]>::try_from(certificates)
            .map_err(|_| damaged(&attestation_file, "it does not hold two certificates".to_owned()))?;
        let made = Some((place, certificates));
        Ok(Some(Self { name: name.clone(), file: file.to_owned(), key, certificate, made }))
    }

    /// Reads the files of a key below a folder.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn load(policy: &Policy, name: &KeyName, file: &str, folder: &Path) -> Result<Option<Self>, EnrolError> {
        Self::read(policy, name, file, &|path| atomic::read_if_there(&folder.join(path)))
    }

    /// What the maker of its token vouches for, at least what the policy asks for;
    /// `None` for a key that was not made in a token.
    ///
    /// # Errors
    /// As [`check_attestation`]; the certificate that it is in has other keys, of which
    /// nobody would know where they were made.
    pub fn check(&self, policy: &Policy, makers: &Makers, now: Timestamp) -> Result<Option<Attested>, EnrolError> {
        let Some((place, certificates)) = &self.made else {
            return Ok(None);
        };
        if let Some(certificate) = &self.certificate {
            let refused = |error: OpenPgpError| EnrolError::Certificate { file: self.file.clone(), error };
            certificate.check_keys().map_err(refused)?;
        }
        check_attestation(policy, makers, &self.key, place, certificates, now).map(Some)
    }
}

/// The last moment at which anybody can check where the keys of each token were made, with
/// the names of those keys. What cannot be checked at all is left out.
pub fn attested_until(policy: &Policy, folder: &Path, now: Timestamp) -> BTreeMap<u32, (Timestamp, Vec<KeyName>)> {
    let mut tokens: BTreeMap<u32, (Timestamp, Vec<KeyName>)> = BTreeMap::new();
    let Ok(makers) = read_makers(folder) else {
        return tokens;
    };
    for (name, file) in policy.public_files() {
        let files = PublicFiles::load(policy, &name, file, folder);
        let Ok(Some(PublicFiles { made: Some((place, [slot, f9])), .. })) = files else {
            continue;
        };
        // What has ended could be checked when the key was made.
        let until = |at| attestation::valid_until(&slot, &f9, &makers, at);
        if let Ok(until) = until(now).or_else(|_| until(place.created)) {
            let (first, keys) = tokens.entry(place.serial).or_insert((until, Vec::new()));
            *first = until.min(*first);
            keys.push(name);
        }
    }
    tokens
}

/// Reads the certificates of token makers below a folder with a policy.
///
/// # Errors
/// There are none, or one is no certificate of an authority.
pub fn read_makers(folder: &Path) -> Result<Makers, EnrolError> {
    let path = folder.join(MAKERS);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
        let content = crate::transport::read_plain(&entry.path(), attestation::MAX_FILE)
            .map_err(|error| HomeError::of_transport(&entry.path(), error))?;
        files.extend(content.map(|content| (entry.file_name().to_string_lossy().into_owned(), content)));
    }
    files.sort();
    let named = files.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
    Makers::read(named).map_err(EnrolError::Makers)
}

/// What the maker of a token vouches for about a key: at least what its purpose
/// asks for. `certificates` are the attestation of its slot, and that of F9.
///
/// # Errors
/// It vouches for nothing, for another key, or for less.
pub fn check_attestation(
    policy: &Policy,
    makers: &Makers,
    public: &PublicKey,
    place: &Enrolment,
    certificates: &[Vec<u8>; 2],
    now: Timestamp,
) -> Result<Attested, EnrolError> {
    let touch = policy.purpose_of(&place.key).map_or(TouchPolicy::Always, |purpose| usual(purpose).1);
    check_attestation_of(policy.insecure_weak_firmware, makers, (public, touch), place, certificates, now)
}

/// The same for a key that should wait for such a touch.
pub(super) fn check_attestation_of(
    allow_weak_firmware: bool,
    makers: &Makers,
    (public, touch): (&PublicKey, TouchPolicy),
    place: &Enrolment,
    [slot, issuer]: &[Vec<u8>; 2],
    now: Timestamp,
) -> Result<Attested, EnrolError> {
    let expected = Expected {
        key: public,
        serial: place.serial,
        slot: place.slot,
        pin_policy: PinPolicy::Once,
        touch_policy: touch,
        allow_weak_firmware,
    };
    attestation::verify(slot, issuer, makers, &expected, now)
        .map_err(|error| EnrolError::Attestation { key: place.key.clone(), error })
}

/// A certificate in PEM (RFC 7468).
pub(super) fn certificate_pem(der: &[u8]) -> String {
    // A document of few kilobytes does not fail to be encoded.
    pkcs8::der::pem::encode_string("CERTIFICATE", pkcs8::LineEnding::LF, der).unwrap_or_default()
}
