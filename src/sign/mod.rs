//! Agreed builds and staged payloads → signatures.
//!
//! Three values guard the order, and only this folder can make them: an
//! [`Agreement`], which takes claims of enough people; a [`Warrant`], which takes
//! an agreement and a release manifest that adds what was agreed on, or a manifest
//! that adds nothing; and a [`ThresholdMet`], which takes a warrant and enough
//! release managers. A release manifest is signed only through the second,
//! `SHA256SUMS` only through the third.

mod agreement;
mod batch;
mod plan;
mod warrant;

use crate::home::HomeError;
use crate::key::KeyError;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Product;
use crate::openpgp::OpenPgpError;
use crate::policy::SharedToken;
use crate::tuf::draft::DraftError;

pub use agreement::Agreement;
pub use agreement::claimants;
pub use batch::Batch;
pub use batch::Session;
pub use batch::SignedRole;
pub use batch::ThresholdMet;
pub use batch::checksums_signature;
pub use batch::keyid;
pub use plan::Plan;
pub use plan::claim_keys;
pub use plan::load_public;
pub use warrant::Warrant;

/// Something that cannot be signed. What was signed before is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// A state file of the home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A key failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Metadata cannot be made.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// OpenPGP.
    #[error(transparent)]
    OpenPgp(OpenPgpError),
    /// The policy allows no software keys.
    #[error("key {0} is a software key, which the policy does not allow (`insecure-software-keys`)")]
    SoftwareKey(KeyName),
    /// One token for two people.
    #[error(transparent)]
    SharedToken(#[from] SharedToken),
    /// This terminal has no private half for the key.
    #[error("terminal.toml has no token for key {0}")]
    NoToken(KeyName),
    /// Too few release managers' keys are on this terminal.
    #[error("{product} needs {need} release managers; this terminal has the keys of {}: {}", .have.len(), names(.have))]
    NeedsOthers {
        /// The product.
        product: Product,
        /// Whose keys are here.
        have: Vec<Holder>,
        /// How many must sign.
        need: usize,
    },
    /// Whoever started a release is no second person.
    #[error("{0} has started this release, and this terminal has no other person's keys for it")]
    Starter(Holder),
    /// Nobody can claim anything here.
    #[error("terminal.toml has no claim key")]
    NoClaimKeyHere,
    /// Several people's keys on one terminal.
    #[error("this terminal holds release keys of {}; the policy wants each person's on a terminal of their own", names(.0))]
    SameTerminal(Vec<Holder>),
    /// The starter has no claim key.
    #[error("{0} has no claim key in the policy, so nobody can say what was built")]
    NoClaimKey(Holder),
    /// A claim does not count.
    #[error("the claim of {holder} {reason}; nothing was signed")]
    Claim {
        /// Whose.
        holder: String,
        /// Why.
        reason: String,
    },
    /// Two people built the same and got different bytes.
    #[error("what {holder} built is not what this terminal built; nothing was signed: {}", some(.differences))]
    Disagrees {
        /// Who built it elsewhere.
        holder: Holder,
        /// What differs, a line each.
        differences: Vec<String>,
    },
    /// Too few people built the release and agree.
    #[error("{have} people built {product} and agree, {need} must; nothing was signed")]
    TooFewClaims {
        /// The product.
        product: Product,
        /// How many agree.
        have: usize,
        /// How many must.
        need: usize,
    },
    /// A release manifest that says more than it may.
    #[error("the release manifest of {product} {reason}; it was not signed")]
    Manifest {
        /// The product.
        product: Product,
        /// What is wrong.
        reason: String,
    },
    /// A fault of this program: what is to be signed was not looked at.
    #[error("the release manifest changed after it was looked at; it was not signed")]
    NoWarrant,
    /// Too few release managers signed.
    #[error("the release manifest has {have} signatures by different people, {need} are needed")]
    ThresholdNotMet {
        /// How many signed.
        have: usize,
        /// How many must.
        need: usize,
    },
    /// A signature over the checksums does not verify today.
    #[error("only {have} of {need} OpenPGP signatures over SHA256SUMS verify by certificates that are valid now")]
    Checksums {
        /// How many verify.
        have: usize,
        /// How many were made.
        need: usize,
    },
    /// The policy lists no certificate.
    #[error("the policy lists no OpenPGP certificate of {0}")]
    NoCertificate(String),
    /// A release manifest with a signature of a stranger.
    #[error("the release manifest has a signature by key {0}, which is no release manager's")]
    Stranger(String),
    /// A release manifest with a wrong signature.
    #[error("the signature of {0} on the release manifest is wrong")]
    NotSigned(Holder),
    /// A signer was not made ready.
    #[error("key {0} was not opened for this batch")]
    NotOpened(KeyName),
}

impl From<OpenPgpError> for SignError {
    fn from(error: OpenPgpError) -> Self {
        match error {
            OpenPgpError::Key(error) => Self::Key(error),
            error @ OpenPgpError::Other(_) => Self::OpenPgp(error),
        }
    }
}

/// The first of several lines.
fn some(lines: &[String]) -> String {
    const SHOWN: usize = 10;
    let more = lines.len().saturating_sub(SHOWN);
    let shown = lines[..lines.len() - more].join("; ");
    if more > 0 { format!("{shown}; and {more} more") } else { shown }
}

fn names(holders: &[Holder]) -> String {
    holders.iter().map(Holder::as_str).collect::<Vec<_>>().join(", ")
}
