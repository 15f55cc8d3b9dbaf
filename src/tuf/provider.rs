//! Signature checks for the TUF core, by RustCrypto: no C in the verifier.

use ml_dsa::MlDsa44;
use ml_dsa::MlDsa65;
use ml_dsa::MlDsa87;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use rsa::pkcs1::DecodeRsaPublicKey;
use sha2::Digest;
use sigstore_crypto::CryptoProvider;
use sigstore_crypto::Error;
use sigstore_crypto::HashContext;
use sigstore_crypto::Result;
use sigstore_crypto::SigningScheme;
use sigstore_types::HashAlgorithm;

/// The provider: verification only.
#[derive(Debug)]
pub struct RustCrypto;

struct Context<D>(D);

impl<D: Digest + Send> HashContext for Context<D> {
    fn update(&mut self, data: &[u8]) {
        Digest::update(&mut self.0, data);
    }

    fn finalize(self: Box<Self>) -> Vec<u8> {
        self.0.finalize().to_vec()
    }
}

fn bad(what: impl std::fmt::Display) -> Error {
    Error::Verification(what.to_string())
}

fn ml_dsa<P: ml_dsa::MlDsaParams>(key: &[u8], data: &[u8], signature: &[u8]) -> Result<()> {
    let key = ml_dsa::EncodedVerifyingKey::<P>::try_from(key).map_err(bad)?;
    let signature = ml_dsa::EncodedSignature::<P>::try_from(signature).map_err(bad)?;
    let signature = ml_dsa::Signature::<P>::decode(&signature).ok_or_else(|| bad("malformed ML-DSA signature"))?;
    if ml_dsa::VerifyingKey::<P>::decode(&key).verify_with_context(data, &[], &signature) {
        Ok(())
    } else {
        Err(bad("ML-DSA signature does not verify"))
    }
}

fn rsa_pss<D>(key: &[u8], digest: &[u8], signature: &[u8]) -> Result<()>
where
    D: Digest + sha2::digest::FixedOutputReset,
{
    let key = rsa::RsaPublicKey::from_pkcs1_der(key).map_err(bad)?;
    let signature = rsa::pss::Signature::try_from(signature).map_err(bad)?;
    rsa::pss::VerifyingKey::<D>::new(key).verify_prehash(digest, &signature).map_err(bad)
}

impl CryptoProvider for RustCrypto {
    fn hash(&self, algorithm: HashAlgorithm) -> Result<Box<dyn HashContext>> {
        match algorithm {
            HashAlgorithm::Sha2256 => Ok(Box::new(Context(sha2::Sha256::new()))),
            HashAlgorithm::Sha2384 => Ok(Box::new(Context(sha2::Sha384::new()))),
            HashAlgorithm::Sha2512 => Ok(Box::new(Context(sha2::Sha512::new()))),
            other => Err(Error::UnsupportedAlgorithm(format!("{other:?}"))),
        }
    }

    fn verify_raw(&self, scheme: SigningScheme, key: &[u8], data: &[u8], signature: &[u8]) -> Result<()> {
        match scheme {
            SigningScheme::Ed25519 => {
                let key: &[u8; 32] = key.try_into().map_err(bad)?;
                let key = ed25519_dalek::VerifyingKey::from_bytes(key).map_err(bad)?;
                let signature = ed25519_dalek::Signature::from_slice(signature).map_err(bad)?;
                key.verify_strict(data, &signature).map_err(bad)
            }
            SigningScheme::MlDsa44 => ml_dsa::<MlDsa44>(key, data, signature),
            SigningScheme::MlDsa65 => ml_dsa::<MlDsa65>(key, data, signature),
            SigningScheme::MlDsa87 => ml_dsa::<MlDsa87>(key, data, signature),
            _ => {
                let algorithm =
                    scheme.hash_algorithm().ok_or_else(|| Error::UnsupportedAlgorithm(scheme.name().to_owned()))?;
                let mut context = self.hash(algorithm)?;
                context.update(data);
                self.verify_prehashed(scheme, key, &context.finalize(), signature)
            }
        }
    }

    fn verify_prehashed(&self, scheme: SigningScheme, key: &[u8], digest: &[u8], signature: &[u8]) -> Result<()> {
        match scheme {
            SigningScheme::EcdsaP256Sha256 => {
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key).map_err(bad)?;
                let signature = p256::ecdsa::Signature::from_der(signature).map_err(bad)?;
                key.verify_prehash(digest, &signature).map_err(bad)
            }
            SigningScheme::EcdsaP384Sha384 => {
                let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(key).map_err(bad)?;
                let signature = p384::ecdsa::Signature::from_der(signature).map_err(bad)?;
                key.verify_prehash(digest, &signature).map_err(bad)
            }
            SigningScheme::RsaPssSha256 => rsa_pss::<rsa::sha2::Sha256>(key, digest, signature),
            SigningScheme::RsaPssSha384 => rsa_pss::<rsa::sha2::Sha384>(key, digest, signature),
            SigningScheme::RsaPssSha512 => rsa_pss::<rsa::sha2::Sha512>(key, digest, signature),
            other => Err(Error::UnsupportedAlgorithm(other.name().to_owned())),
        }
    }
}
