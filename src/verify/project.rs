//! What is trusted about a project, whatever the product: the newest root that
//! the pinned one leads to, the signed policy, and the newest word on what is
//! current.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sigstore_tuf::Metadata;
use sigstore_tuf::Root;
use sigstore_tuf::Snapshot;
use sigstore_tuf::Targets;
use sigstore_tuf::TrustedMetadataSet;

use super::Origin;
use super::Rejection;
use super::Source;
use super::Staleness;
use super::found;
use super::found::Found;
use super::found::file_name;
use super::found::newest;
use super::found::rule;
use super::found::top_level;
use crate::manifest::Attested;
use crate::manifest::Holder;
use crate::manifest::Sha256;
use crate::manifest::json;
use crate::tuf::SignedPolicy;
use crate::tuf::people;
use crate::tuf::policy::ATTESTED;

/// Longer root chains are refused.
const MAX_ROOTS: u64 = 1024;

/// What is trusted about a project.
#[derive(Debug, Clone)]
pub struct Project {
    pub(super) pinned: Sha256,
    pub(super) chain: Vec<Vec<u8>>,
    pub(super) root: Root,
    pub(super) policy: SignedPolicy,
    pub(super) holders: BTreeMap<String, Holder>,
    pub(super) targets: Found<Targets>,
    pub(super) timestamp: Found<sigstore_tuf::Timestamp>,
    pub(super) snapshot: Found<Snapshot>,
    pub(super) ignored: Vec<String>,
}

impl Project {
    /// Finds what is trusted, from `pinned_root` forward.
    ///
    /// # Errors
    /// Nothing usable was found; the newest state lists less than an older one.
    pub fn establish(pinned_root: &[u8], sources: &[Source]) -> Result<Self, Rejection> {
        let (set, chain) = root_chain(pinned_root, sources)?;
        let root = set.root().clone();

        let mut ignored = Vec::new();
        let targets = newest(
            sources,
            "targets",
            &mut ignored,
            |copies| copies.targets.as_deref(),
            |copy| {
                top_level(&root, copy, "targets")?;
                let (_, holders) = policy_of(copy)?;
                let role = root.role("targets").ok_or_else(|| found::no_role(&copy.origin, "targets"))?;
                found::enough(copy, "targets", &people::signers(&copy.metadata, &root.keys, role, &holders))
            },
        )?;
        let (policy, holders) = policy_of(&targets)?;

        let timestamp: Found<sigstore_tuf::Timestamp> = newest(
            sources,
            "timestamp",
            &mut Vec::new(),
            |copies| copies.timestamp.as_deref(),
            |copy| top_level(&root, copy, "timestamp"),
        )?;
        let pin = timestamp.metadata.signed().snapshot_meta().map(|meta| meta.version);
        let mut listed: Vec<(Origin, String)> = Vec::new();
        let snapshot = newest(
            sources,
            "snapshot",
            &mut Vec::new(),
            |copies| copies.snapshot.as_deref(),
            |copy: &Found<Snapshot>| {
                top_level(&root, copy, "snapshot")?;
                let names = copy.metadata.signed().meta.keys();
                listed.extend(names.map(|name| (copy.origin.clone(), name.clone())));
                if Some(copy.metadata.signed().version) == pin {
                    Ok(())
                } else {
                    let reason = format!("the newest timestamp names snapshot {}", pin.unwrap_or_default());
                    Err(rule("snapshot", copy, reason))
                }
            },
        )?;
        // TUF 5.5.5: what a snapshot lists, every later one lists as well.
        if let Some((_, name)) = listed.iter().find(|(_, name)| !snapshot.metadata.signed().meta.contains_key(name)) {
            return Err(Rejection::Dropped {
                origin: snapshot.origin.clone(),
                file: file_name("snapshot", &snapshot),
                dropped: name.clone(),
            });
        }
        let pinned = Sha256::of(pinned_root);
        Ok(Self { pinned, chain, root, policy, holders, targets, timestamp, snapshot, ignored })
    }

    /// The digest of the pinned root.
    pub fn pinned(&self) -> Sha256 {
        self.pinned
    }

    /// The part of the policy that clients enforce.
    pub fn policy(&self) -> &SignedPolicy {
        &self.policy
    }

    /// The number of the timestamp: the newest state that is known.
    pub fn serial(&self) -> u64 {
        self.timestamp.metadata.signed().version
    }

    /// When the newest known state was sealed, as its timestamp says.
    pub fn sealed(&self) -> Option<Timestamp> {
        self.timestamp.metadata.signed().extra.get(crate::tuf::draft::SEALED)?.as_str()?.parse().ok()
    }

    /// The files of the top-level role: path, digest and size.
    pub fn files(&self) -> impl Iterator<Item = (&str, Option<Sha256>, u64)> {
        self.targets.metadata.signed().targets.iter().map(|(path, target)| {
            let sha256 = target.hashes.get("sha256").and_then(|hex| hex.parse().ok());
            (path.as_str(), sha256, target.length)
        })
    }

    /// What the top-level role says that makers of tokens vouch for: facts by the
    /// SHA-256 of the public key. Each is the content of a target, which stands in
    /// `custom` as well, so that a bundle holds it. What a later version has
    /// written is not known.
    pub(super) fn attested(&self) -> BTreeMap<Sha256, Attested> {
        let listed = self.targets.metadata.signed().targets.values().filter_map(|target| {
            let bytes = json::to_vec(target.custom.as_ref()?.get(ATTESTED)?).ok()?;
            let is_target = target.hashes.get("sha256").is_some_and(|hex| *hex == Sha256::of(&bytes).to_string());
            let attested = Attested::parse(&bytes).ok().filter(|_| is_target)?;
            Some((attested.key, attested))
        });
        listed.collect()
    }

    pub(super) fn expiries(&self) -> Vec<(String, Timestamp)> {
        vec![
            ("root".to_owned(), self.root.expires),
            ("targets".to_owned(), self.targets.metadata.signed().expires),
            ("snapshot".to_owned(), self.snapshot.metadata.signed().expires),
            ("timestamp".to_owned(), self.timestamp.metadata.signed().expires),
        ]
    }

    /// When the first of the top-level roles expires.
    pub fn good_until(&self) -> Timestamp {
        self.expiries().into_iter().map(|(_, at)| at).min().unwrap_or(crate::tuf::BEFORE_ALL)
    }

    /// All whose time is over at `now`.
    pub fn stale(&self, now: Timestamp) -> Vec<Staleness> {
        let mut stale = expired(self.expiries(), now);
        stale.extend(self.superseded("targets", self.targets.metadata.signed().version));
        stale
    }

    /// Whether the snapshot knows a newer copy of a role than the one at hand.
    pub(super) fn superseded(&self, role: &str, have: u64) -> Option<Staleness> {
        let newest = self.snapshot.metadata.signed().meta.get(&format!("{role}.json"))?.version;
        (newest > have).then(|| Staleness::Superseded { role: role.to_owned(), have, newest })
    }

    /// Refuses a repository that serves less than what is trusted: `served` is
    /// what it alone leads to.
    ///
    /// # Errors
    /// A role with a lower number than was seen.
    pub fn refuse_rollback(&self, served: &Self) -> Result<(), Rejection> {
        let pairs = [
            ("root", served.root.version, self.root.version),
            ("timestamp", served.serial(), self.serial()),
            ("snapshot", served.snapshot.metadata.signed().version, self.snapshot.metadata.signed().version),
            ("targets", served.targets.metadata.signed().version, self.targets.metadata.signed().version),
        ];
        match pairs.into_iter().find(|(_, offered, seen)| offered < seen) {
            None => Ok(()),
            Some((file, offered, seen)) => {
                let origin = served.timestamp.origin.clone();
                Err(Rejection::RolledBack { origin, file: file.to_owned(), offered, seen })
            }
        }
    }
}

/// Those whose time is over.
pub(super) fn expired(expiries: Vec<(String, Timestamp)>, now: Timestamp) -> Vec<Staleness> {
    let over = expiries.into_iter().filter(|(_, at)| *at < now);
    over.map(|(role, at)| Staleness::Expired { role, at }).collect()
}

fn policy_of(targets: &Found<Targets>) -> Result<(SignedPolicy, BTreeMap<String, Holder>), Rejection> {
    let policy = SignedPolicy::of(targets.metadata.signed());
    let policy = policy.map_err(|error| rule("targets", targets, error.to_string()))?;
    let holders = policy.holder_of_key().map_err(|error| rule("targets", targets, error.to_string()))?;
    Ok((policy, holders))
}

/// Follows the roots from the pinned one forward, wherever the next one is. Two
/// valid ones with one number mean that a quorum has signed both: no later root
/// of either can be trusted then.
fn root_chain(pinned: &[u8], sources: &[Source]) -> Result<(TrustedMetadataSet, Vec<Vec<u8>>), Rejection> {
    let mut set = TrustedMetadataSet::from_root(pinned).map_err(Rejection::Root)?;
    let mut chain = vec![pinned.to_vec()];
    while set.root().version < MAX_ROOTS {
        let number = set.root().version + 1;
        let mut refused = None;
        let mut next: Option<(&Source, TrustedMetadataSet)> = None;
        for source in sources {
            let Some(file) = source.copies.roots.get(&number) else {
                continue;
            };
            let mut candidate = set.clone();
            match candidate.update_root(file) {
                Ok(()) => match &next {
                    Some((first, other)) if signed_part(other.root_bytes()) != signed_part(file) => {
                        return Err(Rejection::Equivocation {
                            file: format!("{number}.root.json"),
                            first: first.origin.clone(),
                            second: source.origin.clone(),
                        });
                    }
                    Some(_) => {}
                    None => next = Some((source, candidate)),
                },
                Err(error) if source.origin != Origin::Memory => {
                    refused.get_or_insert((source.origin.clone(), error));
                }
                Err(_) => {}
            }
        }
        match (next, refused) {
            (Some((_, adopted)), _) => {
                chain.push(adopted.root_bytes().to_vec());
                set = adopted;
            }
            (None, Some((origin, source))) => {
                return Err(Rejection::Metadata { origin, file: format!("{number}.root.json"), source });
            }
            (None, None) => break,
        }
    }
    Ok((set, chain))
}

/// The bytes that signatures of a root cover.
fn signed_part(root: &[u8]) -> Option<Vec<u8>> {
    Metadata::<Root>::from_slice(root).ok().map(|metadata| metadata.signed_canonical().to_vec())
}
