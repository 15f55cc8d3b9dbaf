//! Cryptography that remembers which signatures verify.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use release::manifest::Sha256;
use release::tuf::provider::RustCrypto;
use sigstore_crypto::CryptoProvider;
use sigstore_crypto::Error;
use sigstore_crypto::HashContext;
use sigstore_crypto::Result;
use sigstore_crypto::SigningScheme;
use sigstore_types::HashAlgorithm;

/// Remembers which signatures verify: nearly all that changes leave are the
/// same, and checking them takes a hundred times as long as all the rest.
#[derive(Debug)]
struct Remembering;

static REMEMBERED: LazyLock<Mutex<HashMap<Sha256, bool>>> = LazyLock::new(Mutex::default);
static STOLEN: AtomicBool = AtomicBool::new(false);

/// Makes it the cryptography of the TUF core.
pub fn install() {
    let _ = sigstore_crypto::install_default_provider(&Remembering);
}

/// From here on every signature verifies, as if the attacker had all keys: what
/// comes after the signatures is reached, and must still not panic. Or again
/// only those that do.
pub fn steal_all_keys(stolen: bool) {
    STOLEN.store(stolen, Ordering::Relaxed);
}

fn remembered(parts: &[&[u8]], check: impl FnOnce() -> Result<()>) -> Result<()> {
    if STOLEN.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut name = Vec::new();
    for part in parts {
        name.extend((part.len() as u64).to_be_bytes());
        name.extend(*part);
    }
    let mut known = REMEMBERED.lock().unwrap();
    if known.len() > 100_000 {
        known.clear();
    }
    match *known.entry(Sha256::of(&name)).or_insert_with(|| check().is_ok()) {
        true => Ok(()),
        false => Err(Error::Verification("it does not verify".to_owned())),
    }
}

impl CryptoProvider for Remembering {
    fn hash(&self, algorithm: HashAlgorithm) -> Result<Box<dyn HashContext>> {
        RustCrypto.hash(algorithm)
    }

    fn verify_raw(&self, scheme: SigningScheme, key: &[u8], data: &[u8], signature: &[u8]) -> Result<()> {
        let parts = [b"raw", scheme.name().as_bytes(), key, data, signature];
        remembered(&parts, || RustCrypto.verify_raw(scheme, key, data, signature))
    }

    fn verify_prehashed(&self, scheme: SigningScheme, key: &[u8], digest: &[u8], signature: &[u8]) -> Result<()> {
        let parts = [b"digest", scheme.name().as_bytes(), key, digest, signature];
        remembered(&parts, || RustCrypto.verify_prehashed(scheme, key, digest, signature))
    }
}
