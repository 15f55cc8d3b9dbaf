//! TUF key objects and their ids.

#[cfg(feature = "terminal")]
use serde_json::Value;
#[cfg(feature = "terminal")]
use serde_json::json;
use sigstore_tuf::Key;
use sigstore_types::DerPublicKey;

#[cfg(feature = "terminal")]
use crate::key::PublicKey;
use crate::manifest::Sha256;

/// The TUF key object of a public key: `ecdsa`/`ecdsa-sha2-nistp256` with a
/// PEM SubjectPublicKeyInfo, or `ed25519` with 32 bytes in hex.
#[cfg(feature = "terminal")]
pub fn object(public: &PublicKey) -> Value {
    match public {
        PublicKey::P256(_) => json!({
            "keytype": "ecdsa",
            "scheme": "ecdsa-sha2-nistp256",
            "keyval": { "public": public.to_pem() },
        }),
        PublicKey::Ed25519(key) => json!({
            "keytype": "ed25519",
            "scheme": "ed25519",
            "keyval": { "public": hex::encode(key.as_bytes()) },
        }),
    }
}

/// The typed key of a public key, with its id: the SHA-256 of the canonical key
/// object. The id is made once, at enrolment; readers take it as declared.
///
/// # Errors
/// None that input can cause.
#[cfg(feature = "terminal")]
pub fn identified(public: &PublicKey) -> Result<(String, Key), sigstore_tuf::Error> {
    let key: Key = serde_json::from_value(object(public))?;
    Ok((key.key_id()?, key))
}

/// The SHA-256 of a key's SubjectPublicKeyInfo in DER, as attestations name it.
/// `None` if the key cannot be read.
pub fn fingerprint(key: &Key) -> Option<Sha256> {
    /// What stands before the 32 bytes (RFC 8410).
    const ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let public = &key.keyval.public;
    match key.keytype.as_str() {
        "ed25519" => Some(Sha256::of(&[ED25519.as_slice(), &hex::decode(public).ok()?].concat())),
        _ => Some(Sha256::of(DerPublicKey::from_pem(public).ok()?.as_bytes())),
    }
}

/// Whether `signature` is one by `key` over `message`.
pub fn verifies(key: &Key, message: &[u8], signature: &[u8]) -> bool {
    key.verify(message, &sigstore_types::SignatureBytes::new(signature.to_vec())).is_ok()
}
