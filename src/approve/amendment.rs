//! A change of the policy or its keys, which people sign as they sign a release: the
//! *amendment* that one asks for, and the *consent* that others give.
//!
//! An amendment carries the new policy with its new public files, and what they follow.
//! Whoever consents computes the metadata from that; of the metadata itself, only
//! digests travel.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use super::Message;
use crate::home;
use crate::manifest::Holder;
use crate::manifest::Line;
use crate::manifest::Product;
use crate::manifest::Sha256;

/// An amendment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amendment {
    /// [`super::VERSION`].
    pub version: u32,
    /// The number of the top-level `targets` that it makes.
    pub number: u64,
    /// Who asks.
    pub starter: Holder,
    /// When the metadata was made.
    pub at: Timestamp,
    /// What was asked for, as words of the command line: `rotate alice-root`.
    pub change: Line,
    /// Digest of the policy that it follows.
    pub follows: Sha256,
    /// The new `policy.toml`.
    pub policy: String,
    /// The public files of keys that are new, by their names relative to the policy.
    pub files: BTreeMap<String, String>,
    /// The products whose release managers sign their manifest anew.
    pub products: BTreeMap<Product, Renewed>,
    /// Digests of what is signed, by role.
    pub roles: BTreeMap<String, Sha256>,
}

/// A release manifest that is signed anew, with the same releases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewed {
    /// Its number.
    pub number: u64,
    /// Digest of the file of the newest one.
    pub follows: Sha256,
}

impl Message for Amendment {
    const NAME: &str = "request";
    const TYPE: &str = "application/vnd.release-terminal.amendment+json";

    fn sender(&self) -> &Holder {
        &self.starter
    }

    fn file(&self) -> String {
        home::amendment_file(self.number)
    }
}

/// One person's signatures under an amendment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consent {
    /// [`super::VERSION`].
    pub version: u32,
    /// The number of the amendment.
    pub number: u64,
    /// Who consents.
    pub holder: Holder,
    /// Digest of the file of the amendment.
    pub amendment: Sha256,
    /// Signatures in hex, by role and key id.
    pub signatures: BTreeMap<String, BTreeMap<String, String>>,
}

impl Message for Consent {
    const NAME: &str = "approval";
    const TYPE: &str = "application/vnd.release-terminal.consent+json";

    fn sender(&self) -> &Holder {
        &self.holder
    }

    fn file(&self) -> String {
        home::consent_file(self.number, &self.holder)
    }
}
