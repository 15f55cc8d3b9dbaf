//! DSSE envelopes around in-toto statements.
//!
//! Source: the DSSE protocol and envelope documents v1.0.2, in-toto attestation
//! v1. A signature covers the pre-authentication encoding of payload type and
//! payload, so that a file signed for another purpose can never be passed off
//! as a claim.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use super::json;
use super::json::JsonError;

/// The payload type of in-toto statements.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";

/// Claims are lists of digests: one with ten thousand artifacts stays below.
pub const MAX_ENVELOPE: u64 = 4 << 20;

/// An envelope: a payload, its type, and signatures over both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

/// One signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvelopeSignature {
    /// The id of the signing key, as the `targets` role lists it.
    pub keyid: String,
    /// The signature, base64.
    pub sig: String,
}

/// An envelope that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Not an envelope in compact form.
    #[error("not a DSSE envelope: {0}")]
    Json(#[from] JsonError),
    /// Another payload type.
    #[error("payload type is {}, not {expected}", super::names::quoted(.found))]
    PayloadType {
        /// What it says.
        found: String,
        /// What was asked for.
        expected: &'static str,
    },
    /// Payload or signature is not base64.
    #[error("{0} is not base64")]
    Base64(&'static str),
    /// A payload that is far above need.
    #[error("the payload is longer than {0} bytes")]
    TooLong(u64),
    /// One key signs once; checking the same signature again costs time.
    #[error("it has two signatures by key {}", super::names::quoted(.0))]
    Doubled(String),
}

impl Envelope {
    /// Parses a file with an envelope, as [`Self::to_vec`] writes it.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        Self::from_value(json::from_slice_strict(bytes)?)
    }

    /// An envelope that is a member of a file.
    ///
    /// # Errors
    /// Anything that is not written as [`Self::to_vec`] writes it.
    pub fn from_value(value: Value) -> Result<Self, EnvelopeError> {
        if value["signatures"].as_array().into_iter().flatten().any(Value::is_array) {
            return Err(JsonError::Array.into());
        }
        Ok(json::typed(value)?)
    }

    /// The envelope in compact form.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn to_vec(&self) -> Result<Vec<u8>, JsonError> {
        json::to_vec(self)
    }

    /// An envelope around an in-toto statement, without signatures.
    pub fn new(statement: &[u8]) -> Self {
        Self::of(IN_TOTO, statement)
    }

    /// An envelope around a payload of another type, without signatures.
    pub fn of(payload_type: &str, payload: &[u8]) -> Self {
        Self { payload: STANDARD.encode(payload), payload_type: payload_type.to_owned(), signatures: Vec::new() }
    }

    /// The payload type.
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// Adds the signature that key `keyid` made over [`Self::signed_bytes`].
    pub fn add_signature(&mut self, keyid: &str, signature: &[u8]) {
        self.signatures.push(EnvelopeSignature { keyid: keyid.to_owned(), sig: STANDARD.encode(signature) });
    }

    /// The payload.
    ///
    /// # Errors
    /// Another payload type, or a payload that is too long or not base64.
    pub fn payload(&self) -> Result<Vec<u8>, EnvelopeError> {
        self.opened(IN_TOTO, MAX_ENVELOPE)
    }

    /// The payload, where it has this type, and is at most `max` bytes in base64.
    ///
    /// # Errors
    /// As [`Self::payload`].
    pub fn opened(&self, payload_type: &'static str, max: u64) -> Result<Vec<u8>, EnvelopeError> {
        if self.payload_type != payload_type {
            return Err(EnvelopeError::PayloadType { found: self.payload_type.clone(), expected: payload_type });
        }
        if self.payload.len() as u64 > max {
            return Err(EnvelopeError::TooLong(max));
        }
        STANDARD.decode(&self.payload).map_err(|_| EnvelopeError::Base64("the payload"))
    }

    /// The bytes that signatures cover: DSSE's pre-authentication encoding.
    ///
    /// # Errors
    /// As [`Self::payload`].
    pub fn signed_bytes(&self) -> Result<Vec<u8>, EnvelopeError> {
        self.signed_bytes_of(IN_TOTO, MAX_ENVELOPE)
    }

    /// The same for a payload of another type.
    ///
    /// # Errors
    /// As [`Self::opened`].
    pub fn signed_bytes_of(&self, payload_type: &'static str, max: u64) -> Result<Vec<u8>, EnvelopeError> {
        let payload = self.opened(payload_type, max)?;
        let mut bytes =
            format!("DSSEv1 {} {} {} ", self.payload_type.len(), self.payload_type, payload.len()).into_bytes();
        bytes.extend(payload);
        Ok(bytes)
    }

    /// Key ids and signatures.
    ///
    /// # Errors
    /// A signature that is not base64, or two by one key.
    pub fn signatures(&self) -> Result<Vec<(&str, Vec<u8>)>, EnvelopeError> {
        let mut keys = BTreeSet::new();
        self.signatures
            .iter()
            .map(|signature| {
                if !keys.insert(&signature.keyid) {
                    return Err(EnvelopeError::Doubled(signature.keyid.clone()));
                }
                let bytes = STANDARD.decode(&signature.sig).map_err(|_| EnvelopeError::Base64("a signature"))?;
                Ok((signature.keyid.as_str(), bytes))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_has_one_form() {
        let plain = r#"{"payload":"","payloadType":"","signatures":[{"keyid":"a","sig":"b"}]}"#;
        assert_eq!(Envelope::parse(plain.as_bytes()).unwrap().to_vec().unwrap(), plain.as_bytes());
        for other in [
            r#"["","",[]]"#,
            r#"["","",[{"keyid":"a","sig":"b"}]]"#,
            r#"{"payload":"","payloadType":"","signatures":[["a","b"]]}"#,
        ] {
            let refused = Envelope::parse(other.as_bytes());
            assert!(matches!(refused, Err(EnvelopeError::Json(JsonError::Array))), "{other}");
        }
    }

    #[test]
    fn signs_type_and_payload_together() {
        // The example of the DSSE protocol document, with its payload type.
        let mut envelope = Envelope::new(b"hello world");
        envelope.payload_type = "http://example.com/HelloWorld".to_owned();
        assert!(matches!(envelope.signed_bytes(), Err(EnvelopeError::PayloadType { .. })));
        let envelope = Envelope::new(b"hello world");
        assert_eq!(envelope.signed_bytes().unwrap(), b"DSSEv1 28 application/vnd.in-toto+json 11 hello world");
    }
}
