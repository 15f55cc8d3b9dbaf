//! Software keys: PKCS#8 files under a passphrase (PBES2 with scrypt and
//! AES-256, RFC 8018, RFC 7914). For demonstrations and tests; whoever copies
//! the file and learns the passphrase has the key.

use std::fs;
use std::io::Write;
use std::path::Path;

use ed25519_dalek::Signer as _;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use p256::ecdsa::signature::hazmat::PrehashSigner as _;
use p256::pkcs8::LineEnding;
use zeroize::Zeroizing;

use super::Algorithm;
use super::KeyError;
use super::PublicKey;
use super::Signer;
use super::ToSign;
use crate::manifest::KeyName;

/// Longer key files are refused.
const MAX_FILE: u64 = 16 << 10;

/// A private key in memory, wiped when dropped.
pub struct SoftwareKey {
    name: KeyName,
    public: PublicKey,
    secret: Secret,
}

enum Secret {
    P256(Box<p256::ecdsa::SigningKey>),
    Ed25519(Box<ed25519_dalek::SigningKey>),
}

impl SoftwareKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// The operating system gave no random numbers.
    pub fn generate(name: KeyName, algorithm: Algorithm) -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0_u8; 32]);
        let mut fill = || getrandom::fill(seed.as_mut_slice()).map_err(|error| KeyError::Random(error.to_string()));
        fill()?;
        let secret = match algorithm {
            Algorithm::Ed25519 => Secret::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(&seed))),
            // Almost every 32 bytes are a valid scalar; one in 2^32 is not.
            Algorithm::P256 => match p256::ecdsa::SigningKey::from_slice(seed.as_slice()) {
                Ok(key) => Secret::P256(Box::new(key)),
                Err(error) => return Err(KeyError::Random(error.to_string())),
            },
        };
        Ok(Self { name, public: secret.public(), secret })
    }

    /// Opens an encrypted key file.
    ///
    /// # Errors
    /// The file cannot be read, is not an encrypted key, or the passphrase is
    /// wrong.
    pub fn open(name: &KeyName, path: &Path, passphrase: &str) -> Result<Self, KeyError> {
        let malformed = |reason: &str| KeyError::Malformed { path: path.to_owned(), reason: reason.to_owned() };
        let bytes = crate::transport::read_plain(path, MAX_FILE)
            .map_err(|error| malformed(&error.to_string()))?
            .ok_or_else(|| KeyError::File { path: path.to_owned(), source: rustix::io::Errno::NOENT.into() })?;
        let pem = Zeroizing::new(String::from_utf8(bytes).map_err(|_| malformed("it is not text"))?);
        if !pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
            return Err(malformed("it is not an encrypted PKCS#8 key"));
        }
        let (_, document) = pkcs8::SecretDocument::from_pem(&pem).map_err(|error| malformed(&error.to_string()))?;
        let encrypted = pkcs8::EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
            .map_err(|error| malformed(&error.to_string()))?;
        let der = encrypted.decrypt(passphrase).map_err(|_| KeyError::WrongPassphrase(name.clone()))?;
        let secret = if let Ok(key) = p256::ecdsa::SigningKey::from_pkcs8_der(der.as_bytes()) {
            Secret::P256(Box::new(key))
        } else if let Ok(key) = ed25519_dalek::SigningKey::from_pkcs8_der(der.as_bytes()) {
            Secret::Ed25519(Box::new(key))
        } else {
            // A wrong passphrase can, rarely, give padding that looks right.
            return Err(KeyError::WrongPassphrase(name.clone()));
        };
        Ok(Self { name: name.clone(), public: secret.public(), secret })
    }

    /// Writes the key to a new file that only its owner may read.
    ///
    /// # Errors
    /// The file exists already or cannot be written.
    pub fn save(&self, path: &Path, passphrase: &str) -> Result<(), KeyError> {
        use std::os::unix::fs::OpenOptionsExt;
        let encrypted = match &self.secret {
            Secret::P256(key) => key.to_pkcs8_encrypted_pem(passphrase, LineEnding::LF),
            Secret::Ed25519(key) => key.to_pkcs8_encrypted_pem(passphrase, LineEnding::LF),
        };
        let pem =
            encrypted.map_err(|error| KeyError::Malformed { path: path.to_owned(), reason: error.to_string() })?;
        let write = || {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(pem.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| KeyError::File { path: path.to_owned(), source })
    }
}

impl Secret {
    fn public(&self) -> PublicKey {
        match self {
            Self::P256(key) => PublicKey::P256(Box::new(*key.verifying_key())),
            Self::Ed25519(key) => PublicKey::Ed25519(Box::new(key.verifying_key())),
        }
    }
}

impl Signer for SoftwareKey {
    fn name(&self) -> &KeyName {
        &self.name
    }

    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, _: &str, input: ToSign<'_>) -> Result<Vec<u8>, KeyError> {
        let bad = || KeyError::BadSignature(self.name.clone());
        let signature = match &self.secret {
            Secret::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign_prehash(&input.prehash()).map_err(|_| bad())?;
                signature.to_der().as_bytes().to_vec()
            }
            Secret::Ed25519(key) => key.sign(input.message()).to_bytes().to_vec(),
        };
        // A fault while signing can give the key away; look before it leaves.
        if self.public.verifies(input, &signature) { Ok(signature) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_opens_with_its_passphrase_only() {
        let folder = tempfile::tempdir().unwrap();
        for algorithm in [Algorithm::P256, Algorithm::Ed25519] {
            let name: KeyName = format!("test-{}", algorithm.to_string().to_lowercase()).parse().unwrap();
            let path = folder.path().join(name.as_str());
            let key = SoftwareKey::generate(name.clone(), algorithm).unwrap();
            key.save(&path, "correct horse").unwrap();
            assert!(key.save(&path, "other").is_err(), "an existing key is never overwritten");
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
            let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600);
            let opened = SoftwareKey::open(&name, &path, "correct horse").unwrap();
            assert_eq!(opened.public(), key.public());
            let signature = opened.sign("m", ToSign::Message(b"m")).unwrap();
            assert!(key.public().verifies(ToSign::Message(b"m"), &signature));
            assert!(!key.public().verifies(ToSign::Message(b"n"), &signature));
            let wrong = SoftwareKey::open(&name, &path, "wrong");
            assert!(matches!(wrong, Err(KeyError::WrongPassphrase(_))));
            assert_eq!(PublicKey::from_pem(&key.public().to_pem()).as_ref(), Ok(key.public()));
        }
    }
}
