//! What is trusted: role by role the newest metadata that the pinned root leads
//! to, taken from all places that have a copy. Older copies are ignored.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use sigstore_tuf::Metadata;
use sigstore_tuf::Role;
use sigstore_tuf::RoleKeys;
use sigstore_tuf::Root;
use sigstore_tuf::Snapshot;
use sigstore_tuf::Targets;
use sigstore_tuf::TrustedMetadataSet;

use super::Origin;
use super::Rejection;
use crate::manifest::Bundle;
use crate::manifest::Holder;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::tuf::BEFORE_ALL;
use crate::tuf::Copies;
use crate::tuf::ProductRole;
use crate::tuf::SignedPolicy;
use crate::tuf::people;
use crate::tuf::people::Signers;

/// Longer root chains are refused.
const MAX_ROOTS: u64 = 1024;

/// Copies of metadata and where they came from.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where from.
    pub origin: Origin,
    /// The copies.
    pub copies: Copies,
}

/// A role that was found: its file, its content, and where it came from.
#[derive(Debug, Clone)]
struct Found<T> {
    origin: Origin,
    file: Vec<u8>,
    metadata: Metadata<T>,
}

/// What is trusted about one product.
#[derive(Debug, Clone)]
pub struct Trust {
    product: Product,
    pinned: Sha256,
    chain: Vec<Vec<u8>>,
    root: Root,
    policy: SignedPolicy,
    targets: Found<Targets>,
    role: Found<Targets>,
    listing: ProductRole,
    signers: Signers,
    timestamp: Found<sigstore_tuf::Timestamp>,
    snapshot: Found<Snapshot>,
    ignored: Vec<String>,
}

/// Something whose time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Staleness {
    /// A role has expired.
    Expired {
        /// Which role.
        role: String,
        /// When.
        at: Timestamp,
    },
    /// A newer version of a role is known to exist, but not at hand.
    Superseded {
        /// Which role.
        role: String,
        /// The number at hand.
        have: u64,
        /// The number that exists.
        newest: u64,
    },
}

impl fmt::Display for Staleness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { role, at } => write!(f, "{role} expired on {}", at.strftime("%Y-%m-%d")),
            Self::Superseded { role, have, newest } => {
                write!(f, "number {newest} of {role} exists, and number {have} is at hand")
            }
        }
    }
}

impl Trust {
    /// Finds what is trusted about `product`, from `pinned_root` forward.
    ///
    /// # Errors
    /// Nothing usable was found; a bundle or repository breaks a rule.
    pub fn establish(pinned_root: &[u8], product: &Product, sources: &[Source]) -> Result<Self, Rejection> {
        let (set, chain) = root_chain(pinned_root, sources)?;
        let root = set.root().clone();

        let mut ignored = Vec::new();
        let targets = newest(
            sources,
            "targets",
            &mut ignored,
            |copies| copies.targets.as_deref(),
            |found| {
                top_level(&root, found, "targets")?;
                let policy = policy_of(found)?;
                let holders = holders_of(found, &policy)?;
                let role = root.role("targets").ok_or_else(|| no_role(&found.origin, "targets"))?;
                enough(found, "targets", &people::signers(&found.metadata, &root.keys, role, &holders))
            },
        )?;
        let policy = policy_of(&targets)?;
        let holders = holders_of(&targets, &policy)?;
        let (keys, role_keys) = delegation(&targets, product)?;

        let role = newest(
            sources,
            product.as_str(),
            &mut ignored,
            |copies| copies.roles.get(product).map(Vec::as_slice),
            |found| {
                found.metadata.verify_threshold(&keys, &role_keys, product.as_str()).map_err(|source| {
                    let (origin, file) = (found.origin.clone(), file_name(product.as_str(), found));
                    // Whoever signed it did so by the keys of an older targets role.
                    if found_under_older(sources, &found.origin, targets.metadata.signed().version) {
                        Rejection::Revoked { origin, file, source }
                    } else {
                        Rejection::Metadata { origin, file, source }
                    }
                })?;
                enough(found, product.as_str(), &people::signers(&found.metadata, &keys, &role_keys, &holders))
            },
        )?;
        let rule = |reason: String| Rejection::Rule {
            origin: role.origin.clone(),
            file: file_name(product.as_str(), &role),
            reason,
        };
        let listing = ProductRole::of(product, role.metadata.signed()).map_err(|error| rule(error.to_string()))?;
        let signers = people::signers(&role.metadata, &keys, &role_keys, &holders);

        let timestamp: Found<sigstore_tuf::Timestamp> = newest(
            sources,
            "timestamp",
            &mut Vec::new(),
            |copies| copies.timestamp.as_deref(),
            |found| top_level(&root, found, "timestamp"),
        )?;
        let pin = timestamp.metadata.signed().snapshot_meta().map(|meta| meta.version);
        let snapshot = newest(
            sources,
            "snapshot",
            &mut Vec::new(),
            |copies| copies.snapshot.as_deref(),
            |found: &Found<Snapshot>| {
                top_level(&root, found, "snapshot")?;
                if Some(found.metadata.signed().version) == pin {
                    Ok(())
                } else {
                    Err(Rejection::Rule {
                        origin: found.origin.clone(),
                        file: file_name("snapshot", found),
                        reason: format!("the newest timestamp names snapshot {}", pin.unwrap_or_default()),
                    })
                }
            },
        )?;

        Ok(Self {
            product: product.clone(),
            pinned: Sha256::of(pinned_root),
            chain,
            root,
            policy,
            targets,
            role,
            listing,
            signers,
            timestamp,
            snapshot,
            ignored,
        })
    }

    /// The product that this is about.
    pub fn product(&self) -> &Product {
        &self.product
    }

    /// The digest of the pinned root.
    pub fn pinned(&self) -> Sha256 {
        self.pinned
    }

    /// The part of the policy that clients enforce.
    pub fn policy(&self) -> &SignedPolicy {
        &self.policy
    }

    /// The releases of the product.
    pub fn listing(&self) -> &ProductRole {
        &self.listing
    }

    /// Who signed the product's role.
    pub fn signers(&self) -> &Signers {
        &self.signers
    }

    /// The number of the product's role.
    pub fn role_number(&self) -> u64 {
        self.role.metadata.signed().version
    }

    /// The number of the timestamp: the newest state that is known.
    pub fn serial(&self) -> u64 {
        self.timestamp.metadata.signed().version
    }

    /// Why copies of the targets and product roles were refused, where a better
    /// one was found elsewhere.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Where the product's role was found.
    pub fn origin(&self) -> &Origin {
        &self.role.origin
    }

    /// Where the freshest word on what is current was found.
    pub fn freshness_origin(&self) -> &Origin {
        &self.timestamp.origin
    }

    /// When the newest known state was sealed, as its timestamp says.
    pub fn sealed(&self) -> Option<Timestamp> {
        self.timestamp.metadata.signed().extra.get(crate::tuf::draft::SEALED)?.as_str()?.parse().ok()
    }

    /// When the first of the roles expires: until then the verdict holds.
    pub fn good_until(&self) -> Timestamp {
        self.expiries().into_iter().map(|(_, at)| at).min().unwrap_or(BEFORE_ALL)
    }

    fn expiries(&self) -> Vec<(String, Timestamp)> {
        vec![
            ("root".to_owned(), self.root.expires),
            ("targets".to_owned(), self.targets.metadata.signed().expires),
            (self.product.to_string(), self.role.metadata.signed().expires),
            ("snapshot".to_owned(), self.snapshot.metadata.signed().expires),
            ("timestamp".to_owned(), self.timestamp.metadata.signed().expires),
        ]
    }

    /// All whose time is over at `now`.
    pub fn stale(&self, now: Timestamp) -> Vec<Staleness> {
        let mut stale: Vec<Staleness> = self
            .expiries()
            .into_iter()
            .filter(|(_, at)| *at < now)
            .map(|(role, at)| Staleness::Expired { role, at })
            .collect();
        let have = [
            ("targets", self.targets.metadata.signed().version),
            (self.product.as_str(), self.role.metadata.signed().version),
        ];
        for (role, have) in have {
            let listed = self.snapshot.metadata.signed().meta.get(&format!("{role}.json")).map(|meta| meta.version);
            if let Some(newest) = listed.filter(|newest| *newest > have) {
                stale.push(Staleness::Superseded { role: role.to_owned(), have, newest });
            }
        }
        stale
    }

    /// What to remember: the newest of everything, as one file.
    pub fn to_remember(&self) -> Bundle {
        Bundle {
            product: self.product.clone(),
            roots: self.chain.clone(),
            targets: self.targets.file.clone(),
            role: self.role.file.clone(),
            snapshot: self.snapshot.file.clone(),
            timestamp: self.timestamp.file.clone(),
            claims: Vec::new(),
        }
    }

    /// Refuses a repository that serves less than what is trusted: `served` is
    /// what it alone leads to.
    ///
    /// # Errors
    /// A role with a lower number than was seen.
    pub fn refuse_rollback(&self, served: &Self) -> Result<(), Rejection> {
        let origin = || served.timestamp.origin.clone();
        let pairs = [
            ("root", served.root.version, self.root.version),
            ("timestamp", served.serial(), self.serial()),
            ("snapshot", served.snapshot.metadata.signed().version, self.snapshot.metadata.signed().version),
            ("targets", served.targets.metadata.signed().version, self.targets.metadata.signed().version),
            (self.product.as_str(), served.role_number(), self.role_number()),
        ];
        for (file, offered, seen) in pairs {
            if offered < seen {
                return Err(Rejection::RolledBack { origin: origin(), file: file.to_owned(), offered, seen });
            }
        }
        Ok(())
    }
}

/// Follows the roots from the pinned one forward, wherever the next one is.
fn root_chain(pinned: &[u8], sources: &[Source]) -> Result<(TrustedMetadataSet, Vec<Vec<u8>>), Rejection> {
    let mut set = TrustedMetadataSet::from_root(pinned).map_err(Rejection::Root)?;
    let mut chain = vec![pinned.to_vec()];
    while set.root().version < MAX_ROOTS {
        let next = set.root().version + 1;
        let mut refused = None;
        let mut adopted = false;
        for source in sources {
            let Some(file) = source.copies.roots.get(&next) else {
                continue;
            };
            match set.update_root(file) {
                Ok(()) => {
                    chain.push(file.clone());
                    adopted = true;
                    break;
                }
                Err(error) if source.origin != Origin::Memory => {
                    refused.get_or_insert((source.origin.clone(), error));
                }
                Err(_) => {}
            }
        }
        if !adopted {
            return match refused {
                Some((origin, source)) => {
                    Err(Rejection::Metadata { origin, file: format!("{next}.root.json"), source })
                }
                None => Ok((set, chain)),
            };
        }
    }
    Ok((set, chain))
}

/// The copy with the highest number among those that `check` accepts. Where all
/// are refused, the reason of the first one that is not remembered.
fn newest<T: Role + Clone>(
    sources: &[Source],
    name: &str,
    ignored: &mut Vec<String>,
    copy: impl Fn(&Copies) -> Option<&[u8]>,
    mut check: impl FnMut(&Found<T>) -> Result<(), Rejection>,
) -> Result<Found<T>, Rejection> {
    let mut best: Option<Found<T>> = None;
    let mut refused: Option<Rejection> = None;
    for source in sources {
        let Some(file) = copy(&source.copies) else {
            continue;
        };
        let found = match Metadata::<T>::from_slice(file) {
            Ok(metadata) => Found { origin: source.origin.clone(), file: file.to_vec(), metadata },
            Err(error) => {
                refused.get_or_insert(Rejection::Metadata {
                    origin: source.origin.clone(),
                    file: format!("{name}.json"),
                    source: error,
                });
                continue;
            }
        };
        if let Err(rejection) = check(&found) {
            if source.origin != Origin::Memory {
                ignored.push(rejection.to_string());
            }
            if refused.is_none() || source.origin != Origin::Memory {
                refused = Some(rejection);
            }
            continue;
        }
        match &best {
            Some(other) if other.metadata.signed().version() == found.metadata.signed().version() => {
                if other.metadata.signed_canonical() != found.metadata.signed_canonical() {
                    return Err(Rejection::Equivocation {
                        file: file_name(name, &found),
                        first: other.origin.clone(),
                        second: found.origin,
                    });
                }
                // Who says now that it is the newest counts more than memory.
                if matches!(found.origin, Origin::Repository(_)) {
                    best = Some(found);
                }
            }
            Some(other) if other.metadata.signed().version() > found.metadata.signed().version() => {}
            _ => best = Some(found),
        }
    }
    match (best, refused) {
        (Some(found), _) => Ok(found),
        (None, Some(rejection)) => Err(rejection),
        (None, None) => Err(Rejection::Nothing { file: format!("{name}.json") }),
    }
}

fn file_name<T: Role>(name: &str, found: &Found<T>) -> String {
    if name == "timestamp" {
        "timestamp.json".to_owned()
    } else {
        format!("{}.{name}.json", found.metadata.signed().version())
    }
}

/// The threshold by keys that the root declares for a top-level role.
fn top_level<T: Role>(root: &Root, found: &Found<T>, name: &str) -> Result<(), Rejection> {
    let role = root.role(name).ok_or_else(|| no_role(&found.origin, name))?;
    found.metadata.verify_threshold(&root.keys, role, name).map_err(|source| Rejection::Metadata {
        origin: found.origin.clone(),
        file: file_name(name, found),
        source,
    })
}

fn no_role(origin: &Origin, name: &str) -> Rejection {
    Rejection::Rule { origin: origin.clone(), file: "root.json".to_owned(), reason: format!("it has no role `{name}`") }
}

/// The threshold by people.
fn enough<T: Role>(found: &Found<T>, name: &str, signers: &Signers) -> Result<(), Rejection> {
    if signers.met() {
        return Ok(());
    }
    Err(Rejection::TooFewPeople {
        origin: found.origin.clone(),
        file: file_name(name, found),
        have: signers.signed.iter().cloned().collect(),
        of: signers.holders.len(),
        need: signers.threshold,
    })
}

fn policy_of(targets: &Found<Targets>) -> Result<SignedPolicy, Rejection> {
    SignedPolicy::of(targets.metadata.signed()).map_err(|error| rule(targets, error.to_string()))
}

fn holders_of(targets: &Found<Targets>, policy: &SignedPolicy) -> Result<BTreeMap<String, Holder>, Rejection> {
    policy.holder_of_key().map_err(|error| rule(targets, error.to_string()))
}

fn rule(targets: &Found<Targets>, reason: String) -> Rejection {
    Rejection::Rule { origin: targets.origin.clone(), file: file_name("targets", targets), reason }
}

/// Keys and threshold of the product's role.
fn delegation(
    targets: &Found<Targets>,
    product: &Product,
) -> Result<(BTreeMap<String, sigstore_tuf::Key>, RoleKeys), Rejection> {
    let none = || rule(targets, format!("it delegates to no product `{product}`"));
    let delegations = targets.metadata.signed().delegations.as_ref().ok_or_else(none)?;
    let role = delegations.roles.iter().find(|role| role.name == product.as_str()).ok_or_else(none)?;
    Ok((delegations.keys.clone(), role.role_keys()))
}

/// Whether the place that `origin` names came with an older targets role than
/// the newest known one.
fn found_under_older(sources: &[Source], origin: &Origin, newest: u64) -> bool {
    sources.iter().filter(|source| source.origin == *origin).any(|source| {
        source
            .copies
            .targets
            .as_deref()
            .and_then(|file| Metadata::<Targets>::from_slice(file).ok())
            .is_some_and(|targets| targets.signed().version < newest)
    })
}
