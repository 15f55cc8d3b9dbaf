//! TUF metadata, reading and writing, as the profile in `ARCHITECTURE.md` says.
//!
//! Reading uses the transport-free core of `sigstore_tuf`, which passes the
//! TUF project's conformance suite. On top of it, [`people`] counts holders
//! instead of keys. Writing is small: [`draft`] prepares bytes and takes
//! signatures back; it never sees a key.

#[cfg(feature = "terminal")]
pub mod change;
pub mod client;
pub mod draft;
pub mod key;
pub mod people;
pub mod policy;
pub mod product;
pub mod provider;
#[cfg(feature = "terminal")]
pub mod served;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;

use crate::manifest::json;
use crate::manifest::json::JsonError;

pub use client::Client;
pub use client::Copies;
pub use draft::Draft;
pub use policy::SignedPolicy;
pub use product::ProductRole;

/// Re-exported so that `verify` can take readers without knowing transports.
pub use crate::transport::Files;
pub use crate::transport::TransportError;
pub use crate::transport::read_plain;

/// The version of the TUF specification that our metadata follows.
pub const SPEC_VERSION: &str = "1.0.34";

/// A moment before which nothing ever expired. The core is always asked with
/// it: whether something is expired is judged once, by `verify`, which must be
/// able to say STALE instead of failing.
pub const BEFORE_ALL: Timestamp = Timestamp::UNIX_EPOCH;

/// A metadata file in the compact form of [`crate::manifest::json`], with only
/// what signatures cover and the signatures: whoever served it may have added
/// spaces or members.
///
/// # Errors
/// As [`json::from_slice`], and numbers with a fraction.
pub fn compact(file: &[u8]) -> Result<Vec<u8>, JsonError> {
    let mut value = json::from_slice(file)?;
    let signatures: Vec<Value> = value["signatures"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|signature| json!({ "keyid": signature["keyid"], "sig": signature["sig"] }))
        .collect();
    let signed = value.get_mut("signed").map(Value::take);
    json::to_vec(&json!({ "signatures": signatures, "signed": signed }))
}

/// Checks a foreign metadata file before the core parses it. The core would take
/// the last of two equal keys, any number of values, a signature that is no
/// object, and one in any mix of small letters and capitals.
///
/// # Errors
/// As [`json::from_slice`], and such signatures.
pub fn well_formed(file: &[u8]) -> sigstore_tuf::Result<()> {
    let malformed = |reason: String| sigstore_tuf::Error::Malformed(reason);
    let value = json::from_slice(file).map_err(|error| malformed(error.to_string()))?;
    for signature in value["signatures"].as_array().into_iter().flatten() {
        if signature.is_array() {
            return Err(malformed(JsonError::Array.to_string()));
        }
        if signature["sig"].as_str().is_some_and(|hex| hex.bytes().any(|b| b.is_ascii_uppercase())) {
            return Err(malformed("a signature is not in lower-case hex".to_owned()));
        }
    }
    Ok(())
}

/// The version of a metadata file, as it says without a look at signatures.
pub fn number_of(file: &[u8]) -> Option<u64> {
    json::from_slice(file).ok()?["signed"]["version"].as_u64()
}

/// Installs the pure-Rust cryptography for reading TUF. Call it first; calling
/// it again does nothing.
pub fn install_crypto() {
    // An error only says that it was installed before.
    let _ = sigstore_crypto::install_default_provider(&provider::RustCrypto);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_has_one_form() {
        let file = |signature: &str| format!(r#"{{"signed":{{}},"signatures":[{signature}]}}"#);
        assert!(well_formed(file(r#"{"keyid":"a","sig":"0a"}"#).as_bytes()).is_ok());
        for other in [r#"{"keyid":"a","sig":"0A"}"#, r#"["a","0A"]"#, r#"["a","0a"]"#] {
            assert!(well_formed(file(other).as_bytes()).is_err(), "{other}");
        }
    }

    #[test]
    fn json_that_is_no_metadata_file_has_a_compact_form_too() {
        for text in ["[]", "7", "{}", r#"{"signed":1,"signatures":7}"#, r#"{"signatures":["x",{}]}"#] {
            let once = compact(text.as_bytes()).unwrap();
            assert_eq!(compact(&once).unwrap(), once, "{text}");
        }
    }
}
