//! Thresholds of people.
//!
//! TUF counts keys. We count holders: who has two keys in a role still counts
//! once, and a key without a holder counts for nobody. This file alone decides
//! who signed; the core has checked the same threshold by keys before.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use sigstore_tuf::Key;
use sigstore_tuf::Metadata;
use sigstore_tuf::RoleKeys;
use sigstore_types::SignatureBytes;

use crate::manifest::Holder;

/// Who signed a role, and what it needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signers {
    /// Distinct holders with a valid signature by a key of the role, and its id.
    pub signed: BTreeMap<Holder, String>,
    /// All holders of keys of the role.
    pub holders: BTreeSet<Holder>,
    /// How many distinct holders must have signed.
    pub threshold: usize,
}

impl Signers {
    /// Whether enough people signed. A threshold of zero is never met.
    pub fn met(&self) -> bool {
        self.threshold > 0 && self.signed.len() >= self.threshold
    }
}

/// Counts the people who signed `metadata`, given the keys and threshold that
/// its delegator declares for it and the holders of those keys.
pub fn signers<T: sigstore_tuf::Role>(
    metadata: &Metadata<T>,
    keys: &BTreeMap<String, Key>,
    role: &RoleKeys,
    holders: &BTreeMap<String, Holder>,
) -> Signers {
    let of_role: BTreeSet<&str> = role.keyids.iter().map(String::as_str).collect();
    let mut signed = BTreeMap::new();
    for signature in metadata.signatures() {
        let keyid = signature.keyid.as_str();
        let (Some(key), Some(holder)) = (keys.get(keyid), holders.get(keyid)) else {
            continue;
        };
        if !of_role.contains(keyid) || signed.contains_key(holder) {
            continue;
        }
        let Ok(bytes) = hex::decode(&signature.sig) else {
            continue;
        };
        if key.verify(metadata.signed_canonical(), &SignatureBytes::new(bytes)).is_ok() {
            signed.insert(holder.clone(), keyid.to_owned());
        }
    }
    Signers {
        signed,
        holders: of_role.iter().filter_map(|keyid| holders.get(*keyid).cloned()).collect(),
        threshold: role.threshold,
    }
}
