//! `x-release`: what the top-level `targets` role says beyond TUF.
//!
//! ```json
//! {"claims":{"<keyid>":{"holder":"alice","key":{…}}},
//!  "holders":{"alice":{"keyids":["<keyid>",…],"name":"Alice"},…},
//!  "insecure":["same-terminal","software-keys"],
//!  "products":{"kestrel":{"apt":{"component":"main","suite":"stable"},"rebuilds":1}},
//!  "repository":"https://packages.example.org","version":1}
//! ```
//!
//! Holders of key ids stand here, in the signed part, and not in key objects,
//! whose ids would change with them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Deserialize;
use serde::Serialize;
use sigstore_tuf::Key;

use crate::manifest::Component;
use crate::manifest::Holder;
use crate::manifest::Line;
use crate::manifest::Product;
use crate::manifest::Suite;

/// The member of `signed` that holds it.
pub const MEMBER: &str = "x-release";
/// The member of a target's `custom` that repeats what is attested of a key.
pub const ATTESTED: &str = "attested";
/// The version that this program writes and reads.
const VERSION: u32 = 1;

/// The part of the policy that users' clients enforce.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignedPolicy {
    version: u32,
    /// People, with the ids of their keys in `root`, `targets` and products.
    pub holders: BTreeMap<Holder, HolderEntry>,
    /// Claim keys by key id.
    pub claims: BTreeMap<String, ClaimKey>,
    /// What each product asks for.
    pub products: BTreeMap<Product, ProductEntry>,
    /// Where the newest state is served.
    pub repository: String,
    /// The safety rules that this project has switched off. Empty is good.
    #[serde(default)]
    pub insecure: Vec<String>,
}

/// A person.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HolderEntry {
    /// The name to show.
    pub name: Line,
    /// The ids of this person's keys.
    pub keyids: Vec<String>,
}

/// A claim key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClaimKey {
    /// Whose it is.
    pub holder: Holder,
    /// The TUF key object.
    pub key: Key,
}

/// What a product asks for beyond its TUF threshold.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProductEntry {
    /// How many people besides the starter must have rebuilt a release.
    pub rebuilds: u32,
    /// Where its Debian packages go, besides to its releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apt: Option<AptEntry>,
}

/// The place of a product's packages in the repository for apt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AptEntry {
    /// The suite.
    pub suite: Suite,
    /// The component of it.
    pub component: Component,
}

/// An `x-release` that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignedPolicyError {
    /// The member is missing.
    #[error("`{MEMBER}` is missing from the signed part")]
    Missing,
    /// It has another shape.
    #[error("`{MEMBER}` is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It was written for a newer reader.
    #[error("`{MEMBER}` has version {0}: written by a newer release")]
    Newer(u32),
    /// One key with two holders.
    #[error("key {0} has two holders")]
    TwoHolders(String),
}

impl SignedPolicy {
    /// A policy in the newest version.
    pub fn new(repository: String) -> Self {
        Self {
            version: VERSION,
            holders: BTreeMap::new(),
            claims: BTreeMap::new(),
            products: BTreeMap::new(),
            repository,
            insecure: Vec::new(),
        }
    }

    /// Reads it from a verified `targets` role.
    ///
    /// # Errors
    /// Missing, malformed, newer, or a key that two people hold.
    pub fn of(targets: &sigstore_tuf::Targets) -> Result<Self, SignedPolicyError> {
        let value = targets.extra.get(MEMBER).ok_or(SignedPolicyError::Missing)?;
        let policy: Self = serde_json::from_value(value.clone())?;
        if policy.version > VERSION {
            return Err(SignedPolicyError::Newer(policy.version));
        }
        policy.holder_of_key()?;
        Ok(policy)
    }

    /// Who can claim to have built a release: all who have a claim key, or had one.
    pub fn claimants(&self) -> BTreeSet<&Holder> {
        self.claims.values().map(|key| &key.holder).collect()
    }

    /// The holder of each key id.
    ///
    /// # Errors
    /// A key that two people hold.
    pub fn holder_of_key(&self) -> Result<BTreeMap<String, Holder>, SignedPolicyError> {
        let mut of_key = BTreeMap::new();
        for (holder, entry) in &self.holders {
            for keyid in &entry.keyids {
                if of_key.insert(keyid.clone(), holder.clone()).is_some_and(|other| other != *holder) {
                    return Err(SignedPolicyError::TwoHolders(keyid.clone()));
                }
            }
        }
        Ok(of_key)
    }

    /// The name to show for a holder.
    pub fn name<'a>(&'a self, holder: &'a Holder) -> &'a str {
        self.holders.get(holder).map_or(holder.as_str(), |entry| entry.name.as_str())
    }
}
