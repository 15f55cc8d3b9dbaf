//! The keys of a token: those that sign, and the one that manages.

use aes::cipher::Block;
use aes::cipher::BlockCipherDecrypt;
use aes::cipher::BlockCipherEncrypt;
use aes::cipher::KeyInit;
use ed25519_dalek::Signer;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use serde::Deserialize;
use serde::Serialize;

use super::apdu::tlv;

/// Fills an array with random bytes.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// What a key can be. RSA and key agreement are not emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    P256 = 0x11,
    P384 = 0x14,
    Ed25519 = 0xe0,
}

impl Algorithm {
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::P256, Self::P384, Self::Ed25519].into_iter().find(|algorithm| *algorithm as u8 == byte)
    }

    /// The DER `AlgorithmIdentifier` of public keys.
    fn identifier(self) -> Vec<u8> {
        let ec = tlv(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01]);
        let parts = match self {
            Self::P256 => [ec, tlv(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07])].concat(),
            Self::P384 => [ec, tlv(0x06, &[0x2b, 0x81, 0x04, 0x00, 0x22])].concat(),
            Self::Ed25519 => tlv(0x06, &[0x2b, 0x65, 0x70]),
        };
        tlv(0x30, &parts)
    }
}

/// When a slot asks for the PIN: the bytes of Yubico's PIV extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PinPolicy {
    Never = 1,
    Once = 2,
    Always = 3,
}

/// When a slot asks for a touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TouchPolicy {
    Never = 1,
    Always = 2,
    Cached = 3,
}

/// What a slot holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Key {
    pub algorithm: Algorithm,
    pub secret: Vec<u8>,
    pub pin: PinPolicy,
    pub touch: TouchPolicy,
    /// Made on the token, not imported.
    pub generated: bool,
}

impl Key {
    /// A new key, made on the token.
    pub fn generate(algorithm: Algorithm, pin: PinPolicy, touch: TouchPolicy) -> Self {
        loop {
            let secret = match algorithm {
                Algorithm::P256 | Algorithm::Ed25519 => random::<32>().to_vec(),
                Algorithm::P384 => random::<48>().to_vec(),
            };
            // A random number is above a curve's order once in 2^32 times.
            if let Some(key) = Self::import(algorithm, &secret, pin, touch) {
                return Self { generated: true, ..key };
            }
        }
    }

    /// A key that was made elsewhere, unless its number does not fit the curve.
    pub fn import(algorithm: Algorithm, secret: &[u8], pin: PinPolicy, touch: TouchPolicy) -> Option<Self> {
        let fits = match algorithm {
            Algorithm::P256 => p256::ecdsa::SigningKey::from_slice(secret).is_ok(),
            Algorithm::P384 => p384::ecdsa::SigningKey::from_slice(secret).is_ok(),
            Algorithm::Ed25519 => secret.len() == 32,
        };
        fits.then(|| Self { algorithm, secret: secret.to_vec(), pin, touch, generated: false })
    }

    fn p256(&self) -> p256::ecdsa::SigningKey {
        p256::ecdsa::SigningKey::from_slice(&self.secret).unwrap()
    }

    fn p384(&self) -> p384::ecdsa::SigningKey {
        p384::ecdsa::SigningKey::from_slice(&self.secret).unwrap()
    }

    fn ed25519(&self) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::try_from(self.secret.as_slice()).unwrap()
    }

    /// The uncompressed point, or the 32 bytes of Ed25519.
    pub fn point(&self) -> Vec<u8> {
        match self.algorithm {
            Algorithm::P256 => self.p256().verifying_key().to_sec1_point(false).as_bytes().to_vec(),
            Algorithm::P384 => self.p384().verifying_key().to_sec1_point(false).as_bytes().to_vec(),
            Algorithm::Ed25519 => self.ed25519().verifying_key().as_bytes().to_vec(),
        }
    }

    /// The DER `SubjectPublicKeyInfo`.
    pub fn spki(&self) -> Vec<u8> {
        let point = tlv(0x03, &[&[0], self.point().as_slice()].concat());
        tlv(0x30, &[self.algorithm.identifier(), point].concat())
    }

    /// Signs a digest with ECDSA, in DER, or a message with Ed25519. A digest
    /// longer than the curve's numbers is refused, as real tokens do.
    pub fn sign(&self, data: &[u8]) -> Option<Vec<u8>> {
        let padded = |size: usize| {
            let zeros = size.checked_sub(data.len())?;
            Some([vec![0; zeros], data.to_vec()].concat())
        };
        match self.algorithm {
            Algorithm::P256 => {
                let signature: p256::ecdsa::Signature = self.p256().sign_prehash(&padded(32)?).ok()?;
                Some(signature.to_der().as_bytes().to_vec())
            }
            Algorithm::P384 => {
                let signature: p384::ecdsa::Signature = self.p384().sign_prehash(&padded(48)?).ok()?;
                Some(signature.to_der().as_bytes().to_vec())
            }
            Algorithm::Ed25519 => Some(self.ed25519().sign(data).to_bytes().to_vec()),
        }
    }
}

/// The key that writes to the token: 3DES or AES.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Management {
    /// 03 3DES, 08 AES-128, 0A AES-192, 0C AES-256.
    pub algorithm: u8,
    pub key: Vec<u8>,
    pub touch: TouchPolicy,
}

impl Management {
    /// The key that every token leaves its factory with.
    pub fn default_of(firmware: [u8; 3]) -> Self {
        let key = (0..24).map(|number| number % 8 + 1).collect();
        let algorithm = if firmware >= [5, 7, 0] { 0x0a } else { 0x03 };
        Self { algorithm, key, touch: TouchPolicy::Never }
    }

    pub fn new(algorithm: u8, key: &[u8]) -> Option<Self> {
        let length = match algorithm {
            0x03 | 0x0a => 24,
            0x08 => 16,
            0x0c => 32,
            _ => return None,
        };
        (key.len() == length).then(|| Self { algorithm, key: key.to_vec(), touch: TouchPolicy::Never })
    }

    /// The bytes of a challenge.
    pub fn block(&self) -> usize {
        if self.algorithm == 0x03 { 8 } else { 16 }
    }

    pub fn encrypt(&self, block: &[u8]) -> Vec<u8> {
        self.cipher(block, true)
    }

    pub fn decrypt(&self, block: &[u8]) -> Vec<u8> {
        self.cipher(block, false)
    }

    fn cipher(&self, block: &[u8], encrypt: bool) -> Vec<u8> {
        match self.algorithm {
            0x03 => cipher::<des::TdesEde3>(&self.key, block, encrypt),
            0x08 => cipher::<aes::Aes128>(&self.key, block, encrypt),
            0x0a => cipher::<aes::Aes192>(&self.key, block, encrypt),
            _ => cipher::<aes::Aes256>(&self.key, block, encrypt),
        }
    }
}

fn cipher<C: KeyInit + BlockCipherEncrypt + BlockCipherDecrypt>(key: &[u8], block: &[u8], encrypt: bool) -> Vec<u8> {
    let cipher = C::new_from_slice(key).unwrap();
    let mut block = Block::<C>::try_from(block).unwrap();
    if encrypt {
        cipher.encrypt_block(&mut block);
    } else {
        cipher.decrypt_block(&mut block);
    }
    block.to_vec()
}
