//! Why a change of the policy stops.

use std::path::PathBuf;

use super::EditError;
use super::RulesError;
use super::command;
use crate::approve::MessageError;
use crate::cut::CutError;
use crate::cut::Stopped;
use crate::home::HomeError;
use crate::init::InitError;
use crate::key::KeyError;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Line;
use crate::manifest::Product;
use crate::publish::OldHome;
use crate::repository::RepositoryError;
use crate::sign::SignError;
use crate::tuf::draft::DraftError;

/// Why a change stopped. What was signed before is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AmendError {
    /// The change makes no sense.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// Another change is not finished.
    #[error("another change is not finished: `release {}`", command(.0.as_str()).join(" "))]
    Other(Line),
    /// Nothing to give up.
    #[error("no change of keys is begun")]
    NothingBegun,
    /// Keys may have signed it.
    #[error("keys of this terminal have signed the change `release {}`, so that its numbers are taken", command(.0.as_str()).join(" "))]
    Asked(Line),
    /// Keys that nobody has made.
    #[error("nobody has made these keys yet: {}", names(.keys))]
    NotMade {
        /// Which.
        keys: Vec<KeyName>,
        /// The policy that names them.
        policy: PathBuf,
    },
    /// No key here signs.
    #[error("no key of this terminal signs this change")]
    NoKeyHere,
    /// A file of a request, or of a policy, that is not taken.
    #[error("the file {name} of a new key is refused: {reason}")]
    File {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A request that nobody should sign.
    #[error("the request of {starter} is refused: {reason}; nothing was signed")]
    Refused {
        /// Who asks.
        starter: Holder,
        /// Why.
        reason: String,
    },
    /// A request with a key that somebody else has made.
    #[error(
        "the request of {starter} has {key} as a new key of somebody whose keys are here, and this terminal does not have that one; nothing was signed"
    )]
    Foreign {
        /// The key.
        key: KeyName,
        /// Who asks.
        starter: Holder,
    },
    /// A request from before the newest targets, or after ones that are not here.
    #[error(
        "the request is stale: it is for number {number} of `targets`, and {newest} is the newest here; nothing was signed"
    )]
    Stale {
        /// Its number.
        number: u64,
        /// The newest one.
        newest: u64,
    },
    /// A request that follows other releases.
    #[error(
        "the request follows another release manifest of {product} than {number}, which is the newest here; nothing was signed"
    )]
    OtherManifest {
        /// The product.
        product: Product,
        /// The newest one here.
        number: u64,
    },
    /// An answer to something else.
    #[error("it answers request {theirs}, and this terminal has made request {ours}")]
    OtherAnswer {
        /// The request that it answers.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// A signature that does not count.
    #[error("a signature for `{role}` does not count: {reason}")]
    Signature {
        /// The role.
        role: String,
        /// Why.
        reason: String,
    },
    /// No message of an enrolled person.
    #[error("this is no message that counts: {0}; nothing was signed")]
    Message(#[source] MessageError),
    /// An old key would still be accepted.
    #[error("{key} still works for `{role}`; nothing was published")]
    StillWorks {
        /// The key.
        key: KeyName,
        /// The role.
        role: String,
    },
    /// The trial of an old key proves nothing.
    #[error("key {0} cannot be tried: what enough people have signed does not count either; nothing was published")]
    NoTrial(KeyName),
    /// A rehearsal failed.
    #[error("the drill failed where {0}: not everybody could sign, or the mirror did not take it")]
    Drill(&'static str),
    /// The policy cannot become metadata.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// New keys.
    #[error(transparent)]
    Init(#[from] InitError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Metadata.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// What cuts have in common with it.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// Signing.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The home.
    #[error(transparent)]
    Home(#[from] HomeError),
}

impl From<Stopped> for AmendError {
    fn from(stopped: Stopped) -> Self {
        Self::Cut(stopped.into())
    }
}

impl From<OldHome> for AmendError {
    fn from(error: OldHome) -> Self {
        Self::Cut(error.into())
    }
}

fn names(keys: &[KeyName]) -> String {
    keys.iter().map(KeyName::as_str).collect::<Vec<_>>().join(", ")
}
