//! Keys that sign, behind one small trait. This folder is the only place that
//! touches private keys.

pub mod agent;
pub mod attestation;
pub mod piv;
pub mod software;
pub mod ssh;

use std::fmt;
use std::path::PathBuf;

use ed25519_dalek::pkcs8::DecodePublicKey as _;
use ed25519_dalek::pkcs8::EncodePublicKey as _;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use p256::pkcs8::LineEnding;
use sha2::Digest as _;
use zeroize::Zeroizing;

use self::piv::Secret;
use self::piv::TokenError;
use self::piv::TokenName;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::progress::Progress;

pub use software::SoftwareKey;

/// A public key of a kind that we sign with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// ECDSA on NIST P-256 with SHA-256.
    P256(Box<p256::ecdsa::VerifyingKey>),
    /// Ed25519 (RFC 8032).
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
}

/// The kind of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on NIST P-256: what every hardware token makes.
    P256,
    /// Ed25519.
    Ed25519,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "P-256",
            Self::Ed25519 => "Ed25519",
        })
    }
}

/// What a key is asked to sign.
#[derive(Debug, Clone, Copy)]
pub enum ToSign<'a> {
    /// A message: ECDSA signs its SHA-256, Ed25519 the message itself.
    Message(&'a [u8]),
    /// A SHA-256 digest that another format has made: ECDSA signs it as it is,
    /// Ed25519 takes it as its message (RFC 9580 section 5.2.3.3).
    Digest(&'a [u8; 32]),
}

impl ToSign<'_> {
    /// The digest that ECDSA signs.
    fn prehash(&self) -> [u8; 32] {
        match self {
            Self::Message(message) => sha2::Sha256::digest(message).into(),
            Self::Digest(digest) => **digest,
        }
    }

    /// The message that Ed25519 signs.
    fn message(&self) -> &[u8] {
        match self {
            Self::Message(message) => message,
            Self::Digest(digest) => digest.as_slice(),
        }
    }
}

/// A key that can sign: a hardware token's slot or a software key.
pub trait Signer: Send + Sync {
    /// The name of the key in the policy.
    fn name(&self) -> &KeyName;

    /// The public half.
    fn public(&self) -> &PublicKey;

    /// Signs. ECDSA signatures are DER (SEC 1), Ed25519 ones 64 bytes. `what` says
    /// to people what is signed; it is no input.
    ///
    /// # Errors
    /// The device failed or refused. Nothing was signed.
    fn sign(&self, what: &str, input: ToSign<'_>) -> Result<Vec<u8>, KeyError>;
}

/// The people who hold keys: they give passphrases and PINs, and are told when to
/// touch a token.
pub trait Secrets: Progress {
    /// The passphrase of a software key. `again` says that the last one was
    /// wrong.
    ///
    /// # Errors
    /// There is nobody to ask, or the person stopped.
    fn passphrase(&self, key: &KeyName, holder: Option<&Holder>, again: bool) -> Result<Zeroizing<String>, KeyError>;

    /// A new passphrase for keys that are being made.
    ///
    /// # Errors
    /// As [`Self::passphrase`].
    fn new_passphrase(&self, key: &KeyName, holder: Option<&Holder>) -> Result<Zeroizing<String>, KeyError>;

    /// The PIN or PUK of a token, of which so many tries are left.
    ///
    /// # Errors
    /// As [`Self::passphrase`].
    fn pin(&self, token: &TokenName, which: Secret, tries: u8) -> Result<Zeroizing<String>, KeyError>;

    /// A new PIN or PUK for a token.
    ///
    /// # Errors
    /// As [`Self::passphrase`].
    fn new_pin(&self, token: &TokenName, which: Secret) -> Result<Zeroizing<String>, KeyError>;

    /// Whether the last try of a token's PIN or PUK may be spent.
    fn last_try(&self, token: &TokenName, which: Secret) -> bool;
}

/// A key that could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A file of a key cannot be read or written.
    #[error("cannot use key file {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file does not hold a key of a kind that we use.
    #[error("{path} holds no key that can be used: {reason}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The passphrase does not open the key.
    #[error("wrong passphrase for key {0}")]
    WrongPassphrase(KeyName),
    /// The private key is not the one whose public half is enrolled.
    #[error("{path} is not the private half of key {name} as the policy lists it")]
    OtherKey {
        /// The key.
        name: KeyName,
        /// Its file.
        path: PathBuf,
    },
    /// Nobody could be asked for a passphrase.
    #[error("no passphrase for key {name}: {reason}")]
    NoPassphrase {
        /// The key.
        name: KeyName,
        /// Why.
        reason: String,
    },
    /// Nobody could be asked for a PIN.
    #[error("no PIN for {token}: {reason}")]
    NoPin {
        /// The token.
        token: TokenName,
        /// Why.
        reason: String,
    },
    /// A token cannot be used.
    #[error(transparent)]
    Token(Box<TokenError>),
    /// The smart card service cannot be asked.
    #[error("the smart card service does not answer: {0}")]
    NoTokenService(pcsc::Error),
    /// The operating system gave no random numbers.
    #[error("no random numbers: {0}")]
    Random(String),
    /// A key made a signature that does not verify.
    #[error("key {0} made a signature that does not verify; nothing was signed")]
    BadSignature(KeyName),
}

impl PublicKey {
    /// Reads a PEM SubjectPublicKeyInfo (RFC 7468, RFC 5480, RFC 8410).
    ///
    /// # Errors
    /// Another format or another kind of key.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        if let Ok(key) = p256::ecdsa::VerifyingKey::from_public_key_pem(pem) {
            return Ok(Self::P256(Box::new(key)));
        }
        match ed25519_dalek::VerifyingKey::from_public_key_pem(pem) {
            Ok(key) => Ok(Self::Ed25519(Box::new(key))),
            Err(_) => Err("it is neither a P-256 nor an Ed25519 public key in PEM".to_owned()),
        }
    }

    /// Writes PEM with a final line break, as securesystemslib does: the break
    /// counts for the key id.
    pub fn to_pem(&self) -> String {
        let pem = match self {
            Self::P256(key) => key.to_public_key_pem(LineEnding::LF),
            Self::Ed25519(key) => key.to_public_key_pem(LineEnding::LF),
        };
        // Encoding a valid key of fixed size does not fail.
        pem.unwrap_or_default()
    }

    /// Writes a SubjectPublicKeyInfo in DER.
    pub fn to_der(&self) -> Vec<u8> {
        let der = match self {
            Self::P256(key) => key.to_public_key_der(),
            Self::Ed25519(key) => key.to_public_key_der(),
        };
        // Encoding a valid key of fixed size does not fail.
        der.map(|der| der.as_bytes().to_vec()).unwrap_or_default()
    }

    /// The kind of key.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::P256(_) => Algorithm::P256,
            Self::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// Whether `signature` is one by this key over `input`.
    pub fn verifies(&self, input: ToSign<'_>, signature: &[u8]) -> bool {
        match self {
            Self::P256(key) => p256::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify_prehash(&input.prehash(), &signature).is_ok()),
            Self::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(input.message(), &signature).is_ok()),
        }
    }
}
