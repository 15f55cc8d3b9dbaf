//! What people send each other by medium: *requests* to approve a release, or to change
//! the policy or its keys, and *approvals*. Each is a DSSE envelope in compact form with a payload type of its
//! own, signed by the claim key of whoever sends it, so that no byte of it can be
//! altered and nothing else can be passed off as one.
//!
//! What a message says is checked by the commands that use it (`cut/`).

mod amendment;
mod approval;
mod request;

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::key::PublicKey;
use crate::key::ToSign;
use crate::manifest::Holder;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::dsse::Envelope;
use crate::manifest::dsse::EnvelopeError;
use crate::manifest::json;
use crate::manifest::json::JsonError;
use crate::manifest::names::quoted;

pub use amendment::Amendment;
pub use amendment::Consent;
pub use amendment::Renewed;
pub use approval::Approval;
pub use request::Request;

/// Claim keys by key id, with their holders.
pub type ClaimKeys = BTreeMap<String, (Holder, PublicKey)>;

/// Longer files are no messages, in bytes.
pub const MAX_MESSAGE: u64 = 16 << 20;
/// The version of messages that this program writes and reads.
pub const VERSION: u32 = 1;

/// A kind of message.
pub trait Message: Serialize + DeserializeOwned {
    /// What it is, in a word.
    const NAME: &str;
    /// The payload type.
    const TYPE: &str;

    /// Who sends it.
    fn sender(&self) -> &Holder;

    /// The name of its file, which follows from what it says.
    fn file(&self) -> String;

    /// The product that it is about, if it is about one.
    fn product(&self) -> Option<&Product> {
        None
    }
}

/// A message, and the envelope that it came in.
#[derive(Debug, Clone)]
pub struct Sent<M> {
    /// What it says. Nobody has checked that yet.
    pub message: M,
    /// The digest of the file.
    pub sha256: Sha256,
    envelope: Envelope,
}

/// A file that is no message of ours.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Too long.
    #[error("it is longer than {MAX_MESSAGE} bytes")]
    TooLong,
    /// No envelope, or one of something else.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Not as this program writes it.
    #[error("it is malformed: {0}")]
    Json(#[from] JsonError),
    /// It was written by a newer version of this program.
    #[error("it was written by a newer release (format {0})")]
    Newer(u64),
    /// Not one signature.
    #[error("it has {0} signatures, and one is asked for")]
    Signatures(usize),
    /// Signed by a stranger.
    #[error("it is signed by key {}, which is no claim key of this policy", quoted(.0))]
    Stranger(String),
    /// Signed by somebody else than it says.
    #[error("it says that it is from {says}, and is signed by the claim key of {found}")]
    OtherSender {
        /// Who it says sent it.
        says: Holder,
        /// Whose key signed it.
        found: Holder,
    },
    /// Altered since.
    #[error("it is not as {0} signed it")]
    Altered(Holder),
}

impl<M: Message> Sent<M> {
    /// Puts a message into an envelope without a signature, and gives the bytes to
    /// sign.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn new(message: M) -> Result<(Self, Vec<u8>), MessageError> {
        let envelope = Envelope::of(M::TYPE, &json::to_vec(&message)?);
        let signed = envelope.signed_bytes_of(M::TYPE, MAX_MESSAGE)?;
        Ok((Self { message, sha256: Sha256::of(b""), envelope }, signed))
    }

    /// Adds the sender's signature, and gives the file.
    ///
    /// # Errors
    /// It has grown too large to be read.
    pub fn seal(mut self, keyid: &str, signature: &[u8]) -> Result<Vec<u8>, MessageError> {
        self.envelope.add_signature(keyid, signature);
        let file = self.envelope.to_vec()?;
        if file.len() as u64 > MAX_MESSAGE { Err(MessageError::TooLong) } else { Ok(file) }
    }

    /// Parses a file, which must be as [`Self::seal`] writes it. Checks no signature.
    ///
    /// # Errors
    /// Anything else; a newer version.
    pub fn parse(file: &[u8]) -> Result<Self, MessageError> {
        if file.len() as u64 > MAX_MESSAGE {
            return Err(MessageError::TooLong);
        }
        let envelope = Envelope::parse(file)?;
        let bytes = envelope.opened(M::TYPE, MAX_MESSAGE)?;
        let payload = json::from_slice_strict(&bytes)?;
        match payload["version"].as_u64() {
            Some(version) if version > u64::from(VERSION) => return Err(MessageError::Newer(version)),
            _ => {}
        }
        let message: M = json::typed(payload)?;
        // Dates, and what is nested, have more than one spelling.
        if json::to_vec(&message)? != bytes {
            return Err(JsonError::NotCompact.into());
        }
        Ok(Self { message, sha256: Sha256::of(file), envelope })
    }

    /// Who signed it: the sender that it names.
    ///
    /// # Errors
    /// Somebody else, or nobody.
    pub fn signed_by(&self, claim_keys: &ClaimKeys) -> Result<Holder, MessageError> {
        let signatures = self.envelope.signatures()?;
        let [(keyid, signature)] = signatures.as_slice() else {
            return Err(MessageError::Signatures(signatures.len()));
        };
        let (holder, key) = claim_keys.get(*keyid).ok_or_else(|| MessageError::Stranger((*keyid).to_owned()))?;
        if !key.verifies(ToSign::Message(&self.envelope.signed_bytes_of(M::TYPE, MAX_MESSAGE)?), signature) {
            return Err(MessageError::Altered(holder.clone()));
        }
        if holder != self.message.sender() {
            let (says, found) = (self.message.sender().clone(), holder.clone());
            return Err(MessageError::OtherSender { says, found });
        }
        Ok(holder.clone())
    }
}

/// What a file that begins as an envelope holds.
#[derive(Debug)]
pub enum Incoming {
    /// A request.
    Request(Box<Sent<Request>>),
    /// An approval.
    Approval(Box<Sent<Approval>>),
    /// A request to change the policy or its keys.
    Amendment(Box<Sent<Amendment>>),
    /// A consent to that.
    Consent(Box<Sent<Consent>>),
    /// A claim, with the product and version that it is about.
    Claim(Box<Envelope>),
}

impl Incoming {
    /// Tells what a file is. Checks no signature.
    ///
    /// # Errors
    /// It is none of them.
    pub fn parse(file: &[u8]) -> Result<Self, MessageError> {
        if file.len() as u64 > MAX_MESSAGE {
            return Err(MessageError::TooLong);
        }
        let envelope = Envelope::parse(file)?;
        Ok(match envelope.payload_type() {
            Request::TYPE => Self::Request(Box::new(Sent::parse(file)?)),
            Approval::TYPE => Self::Approval(Box::new(Sent::parse(file)?)),
            Amendment::TYPE => Self::Amendment(Box::new(Sent::parse(file)?)),
            Consent::TYPE => Self::Consent(Box::new(Sent::parse(file)?)),
            _ => {
                envelope.payload()?;
                Self::Claim(Box::new(envelope))
            }
        })
    }
}
