//! What is trusted about one product: role by role the newest metadata that the
//! pinned root leads to, taken from all places that have a copy. Older copies
//! are ignored.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use sigstore_tuf::Metadata;
use sigstore_tuf::RoleKeys;
use sigstore_tuf::Targets;

use super::Origin;
use super::Rejection;
use super::found;
use super::found::Found;
use super::found::file_name;
use super::found::newest;
use super::found::rule;
use super::project;
use super::project::Project;
use crate::manifest::Artifact;
use crate::manifest::Attested;
use crate::manifest::Bundle;
use crate::manifest::Holder;
use crate::manifest::Product;
use crate::manifest::Version;
use crate::manifest::json::JsonError;
use crate::tuf;
use crate::tuf::Copies;
use crate::tuf::ProductRole;
use crate::tuf::SignedPolicy;
use crate::tuf::people;
use crate::tuf::people::Signers;

/// Copies of metadata and where they came from.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where from.
    pub origin: Origin,
    /// The copies.
    pub copies: Copies,
}

/// What is trusted about one product.
#[derive(Debug, Clone)]
pub struct Trust {
    project: Project,
    product: Product,
    role: Found<Targets>,
    listing: ProductRole,
    signers: Signers,
    attested: BTreeMap<Holder, Attested>,
    former: Vec<(Version, Artifact)>,
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
        Self::of(Project::establish(pinned_root, sources)?, product, sources)
    }

    /// Finds what is trusted about a product of a project, in the same sources.
    ///
    /// # Errors
    /// As [`Self::establish`].
    pub fn of(project: Project, product: &Product, sources: &[Source]) -> Result<Self, Rejection> {
        let (keys, role_keys) = delegation(&project.targets, product)?;
        let mut ignored = project.ignored.clone();
        let role = newest(
            sources,
            product.as_str(),
            &mut ignored,
            |copies| copies.roles.get(product).map(Vec::as_slice),
            |copy| {
                copy.metadata.verify_threshold(&keys, &role_keys, product.as_str()).map_err(|source| {
                    let (origin, file) = (copy.origin.clone(), file_name(product.as_str(), copy));
                    // Whoever signed it did so by the keys of an older targets role.
                    if found_under_older(sources, &copy.origin, project.targets.metadata.signed().version) {
                        Rejection::Revoked { origin, file, source }
                    } else {
                        Rejection::Metadata { origin, file, source }
                    }
                })?;
                let signers = people::signers(&copy.metadata, &keys, &role_keys, &project.holders);
                found::enough(copy, product.as_str(), &signers)
            },
        )?;
        let listing = ProductRole::of(product, role.metadata.signed())
            .map_err(|error| rule(product.as_str(), &role, error.to_string()))?;
        let signers = people::signers(&role.metadata, &keys, &role_keys, &project.holders);
        let of_keys = project.attested();
        let attested = signers.signed.iter().filter_map(|(holder, keyid)| {
            let key = tuf::key::fingerprint(keys.get(keyid)?)?;
            Some((holder.clone(), of_keys.get(&key)?.clone()))
        });
        let attested = attested.collect();
        let former = former(sources, product, &listing);
        Ok(Self { project, product: product.clone(), role, listing, signers, attested, former, ignored })
    }

    /// What is trusted about the whole project.
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// The product that this is about.
    pub fn product(&self) -> &Product {
        &self.product
    }

    /// The part of the policy that clients enforce.
    pub fn policy(&self) -> &SignedPolicy {
        &self.project.policy
    }

    /// The releases of the product.
    pub fn listing(&self) -> &ProductRole {
        &self.listing
    }

    /// The files of withdrawn releases, as older roles at hand list them. Nobody has
    /// checked those roles: for the words of a rejection only.
    pub fn former(&self) -> &[(Version, Artifact)] {
        &self.former
    }

    /// Who signed the product's role.
    pub fn signers(&self) -> &Signers {
        &self.signers
    }

    /// What the top-level role says of the keys by which people signed the product's
    /// role, where it says something.
    pub fn attested(&self) -> &BTreeMap<Holder, Attested> {
        &self.attested
    }

    /// The number of the product's role.
    pub fn role_number(&self) -> u64 {
        self.role.metadata.signed().version
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
        &self.project.timestamp.origin
    }

    /// When the first of the roles expires: until then the verdict holds.
    pub fn good_until(&self) -> Timestamp {
        self.project.good_until().min(self.role.metadata.signed().expires)
    }

    /// All whose time is over at `now`.
    pub fn stale(&self, now: Timestamp) -> Vec<Staleness> {
        let mut stale = self.project.stale(now);
        stale.extend(project::expired(vec![(self.product.to_string(), self.role.metadata.signed().expires)], now));
        stale.extend(self.project.superseded(self.product.as_str(), self.role_number()));
        stale
    }

    /// What to remember: the newest of everything, as one file.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn to_remember(&self) -> Result<Bundle, JsonError> {
        let project = &self.project;
        Ok(Bundle {
            product: self.product.clone(),
            roots: project.chain.iter().map(|root| tuf::compact(root)).collect::<Result<_, _>>()?,
            targets: tuf::compact(&project.targets.file)?,
            role: tuf::compact(&self.role.file)?,
            snapshot: tuf::compact(&project.snapshot.file)?,
            timestamp: tuf::compact(&project.timestamp.file)?,
            claims: Vec::new(),
        })
    }

    /// How new this is: root number, then the number of the timestamp, which
    /// counts only as long as its root does.
    pub fn age(&self) -> (u64, u64) {
        (self.project.root.version, self.project.serial())
    }

    /// Refuses a repository that serves less than what is trusted: `served` is
    /// what it alone leads to.
    ///
    /// # Errors
    /// A role with a lower number than was seen.
    pub fn refuse_rollback(&self, served: &Self) -> Result<(), Rejection> {
        self.project.refuse_rollback(&served.project)?;
        let (offered, seen) = (served.role_number(), self.role_number());
        if offered < seen {
            let (origin, file) = (served.role.origin.clone(), self.product.to_string());
            return Err(Rejection::RolledBack { origin, file, offered, seen });
        }
        Ok(())
    }
}

/// Keys and threshold of the product's role.
fn delegation(
    targets: &Found<Targets>,
    product: &Product,
) -> Result<(BTreeMap<String, sigstore_tuf::Key>, RoleKeys), Rejection> {
    let none = || rule("targets", targets, format!("it delegates to no product `{product}`"));
    let delegations = targets.metadata.signed().delegations.as_ref().ok_or_else(none)?;
    let role = delegations.roles.iter().find(|role| role.name == product.as_str()).ok_or_else(none)?;
    Ok((delegations.keys.clone(), role.role_keys()))
}

/// What older roles list of releases that are withdrawn by now.
fn former(sources: &[Source], product: &Product, listing: &ProductRole) -> Vec<(Version, Artifact)> {
    if listing.withdrawn.is_empty() {
        return Vec::new();
    }
    let is_withdrawn = |version: &Version| listing.withdrawn.iter().any(|entry| entry.version == *version);
    let roles = sources.iter().filter_map(|source| source.copies.roles.get(product));
    let metadata = roles.filter_map(|file| Metadata::<Targets>::from_slice(file).ok());
    let older = metadata.filter_map(|role| ProductRole::of(product, role.signed()).ok());
    let releases = older.flat_map(|older| older.releases).filter(|(version, _)| is_withdrawn(version));
    releases.flat_map(|(version, files)| files.into_values().map(move |file| (version.clone(), file))).collect()
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
