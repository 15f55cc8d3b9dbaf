//! TUF key objects and their ids.

#[cfg(feature = "terminal")]
use serde_json::Value;
#[cfg(feature = "terminal")]
use serde_json::json;
use sigstore_tuf::Key;

#[cfg(feature = "terminal")]
use crate::key::PublicKey;

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

/// Whether `signature` is one by `key` over `message`.
pub fn verifies(key: &Key, message: &[u8], signature: &[u8]) -> bool {
    key.verify(message, &sigstore_types::SignatureBytes::new(signature.to_vec())).is_ok()
}
