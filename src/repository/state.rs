//! What is sealed: the metadata that a new seal builds upon.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::Value;
use sigstore_tuf::Metadata;
use sigstore_tuf::Targets;

use super::RepositoryError;
use crate::home::HomeError;
use crate::manifest::Holder;
use crate::manifest::Product;
use crate::manifest::json;
use crate::tuf::Copies;
use crate::tuf::ProductRole;
use crate::tuf::SignedPolicy;
use crate::tuf::draft::SEALED;

/// Longer metadata of our own is a sign of damage.
const MAX_METADATA: u64 = 32 << 20;

/// The current metadata of the home's repository.
#[derive(Debug, Clone)]
pub struct State {
    folder: PathBuf,
    /// `1.root.json`, `2.root.json`, …
    pub roots: Vec<Vec<u8>>,
    /// Number and file of the top-level targets.
    pub targets: (u64, Vec<u8>),
    /// Number and file of each product's role.
    pub roles: BTreeMap<Product, (u64, Vec<u8>)>,
    /// Number and file of the snapshot.
    pub snapshot: (u64, Vec<u8>),
    /// Number and file of the timestamp; the number is the newest publication's.
    pub timestamp: (u64, Vec<u8>),
}

impl State {
    /// What a home begins with: top-level roles, and nothing sealed.
    pub fn first(folder: &Path, root: Vec<u8>, targets: Vec<u8>) -> Self {
        Self {
            folder: folder.to_owned(),
            roots: vec![root],
            targets: (1, targets),
            roles: BTreeMap::new(),
            snapshot: (0, Vec::new()),
            timestamp: (0, Vec::new()),
        }
    }

    /// Loads the current metadata from the folder of a repository.
    ///
    /// # Errors
    /// A file is missing or not metadata.
    pub fn load(folder: &Path) -> Result<Self, RepositoryError> {
        let read = |name: &str| -> Result<(Vec<u8>, Value), RepositoryError> {
            let path = folder.join("metadata").join(name);
            let bytes = crate::transport::read_plain(&path, MAX_METADATA)
                .map_err(|error| HomeError::of_transport(&path, error))?
                .ok_or(HomeError::Missing(path))?;
            let value = json::from_slice_strict(&bytes)
                .map_err(|error| RepositoryError::Damaged { file: name.to_owned(), reason: error.to_string() })?;
            Ok((bytes, value))
        };
        let number = |name: &str, value: &Value| {
            value["signed"]["version"].as_u64().ok_or_else(|| RepositoryError::Damaged {
                file: name.to_owned(),
                reason: "it has no version".to_owned(),
            })
        };
        let listed = |parent: &str, value: &Value, name: &str| {
            value["signed"]["meta"][name]["version"].as_u64().ok_or_else(|| RepositoryError::Damaged {
                file: parent.to_owned(),
                reason: format!("it does not list {name}"),
            })
        };
        let (timestamp, value) = read("timestamp.json")?;
        let serial = number("timestamp.json", &value)?;
        let snapshot_number = listed("timestamp.json", &value, "snapshot.json")?;
        let (snapshot, value) = read(&format!("{snapshot_number}.snapshot.json"))?;
        let targets_number = listed("snapshot", &value, "targets.json")?;
        let (targets, _) = read(&format!("{targets_number}.targets.json"))?;
        let mut roles = BTreeMap::new();
        for (name, entry) in value["signed"]["meta"].as_object().into_iter().flatten() {
            let Some(product) = name.strip_suffix(".json").and_then(|name| name.parse::<Product>().ok()) else {
                continue;
            };
            let number = entry["version"].as_u64().unwrap_or(0);
            let (file, _) = read(&format!("{number}.{product}.json"))?;
            roles.insert(product, (number, file));
        }
        let mut roots = Vec::new();
        loop {
            let name = format!("{}.root.json", roots.len() + 1);
            if !folder.join("metadata").join(&name).exists() {
                break;
            }
            roots.push(read(&name)?.0);
        }
        Ok(Self {
            folder: folder.to_owned(),
            roots,
            targets: (targets_number, targets),
            roles,
            snapshot: (snapshot_number, snapshot),
            timestamp: (serial, timestamp),
        })
    }

    /// The first root: what users pin.
    ///
    /// # Errors
    /// The repository has none.
    pub fn first_root(&self) -> Result<&[u8], RepositoryError> {
        self.roots.first().map(Vec::as_slice).ok_or_else(|| RepositoryError::Damaged {
            file: "1.root.json".to_owned(),
            reason: "it is missing".to_owned(),
        })
    }

    /// When the top-level roles that people sign expire.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn top_level_expiry(&self) -> Result<[(&'static str, Timestamp); 2], RepositoryError> {
        Ok([("root", expiry("root", self.newest_root()?)?), ("targets", expiry("targets", &self.targets.1)?)])
    }

    /// The newest root.
    ///
    /// # Errors
    /// The repository has none.
    pub fn newest_root(&self) -> Result<&[u8], RepositoryError> {
        self.roots.last().map_or_else(|| self.first_root(), |root| Ok(root))
    }

    /// The number of the newest publication.
    pub fn serial(&self) -> u64 {
        self.timestamp.0
    }

    /// When the newest publication was sealed.
    pub fn sealed(&self) -> Option<Timestamp> {
        let value = json::from_slice(&self.timestamp.1).ok()?;
        value["signed"][SEALED].as_str()?.parse().ok()
    }

    /// The part of the policy that users' clients enforce.
    ///
    /// # Errors
    /// The top-level targets cannot be read.
    pub fn signed_policy(&self) -> Result<SignedPolicy, RepositoryError> {
        let file = format!("{}.targets.json", self.targets.0);
        let damaged = |reason: String| RepositoryError::Damaged { file: file.clone(), reason };
        let targets = Metadata::<Targets>::from_slice(&self.targets.1).map_err(|error| damaged(error.to_string()))?;
        SignedPolicy::of(targets.signed()).map_err(|error| damaged(error.to_string()))
    }

    /// All people whose claims count, also those of whom only older claims do.
    ///
    /// # Errors
    /// As [`Self::signed_policy`].
    pub fn claimants(&self) -> Result<BTreeSet<Holder>, RepositoryError> {
        Ok(self.signed_policy()?.claims.into_values().map(|claim| claim.holder).collect())
    }

    /// The folder of the repository.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The releases of a product; none if it has had none.
    ///
    /// # Errors
    /// Its role cannot be read.
    pub fn releases(&self, product: &Product) -> Result<ProductRole, RepositoryError> {
        let Some((number, file)) = self.roles.get(product) else {
            return Ok(ProductRole::default());
        };
        let damaged = |reason: String| RepositoryError::Damaged { file: format!("{number}.{product}.json"), reason };
        let role = Metadata::<Targets>::from_slice(file).map_err(|error| damaged(error.to_string()))?;
        ProductRole::of(product, role.signed()).map_err(|error| damaged(error.to_string()))
    }

    /// All of it, as a user who was up to date has it.
    pub fn copies(&self) -> Copies {
        Copies {
            roots: (1..).zip(self.roots.iter().cloned()).collect(),
            timestamp: Some(self.timestamp.1.clone()),
            snapshot: Some(self.snapshot.1.clone()),
            targets: Some(self.targets.1.clone()),
            roles: self.roles.iter().map(|(product, (_, file))| (product.clone(), file.clone())).collect(),
        }
    }
}

/// When a metadata file expires.
///
/// # Errors
/// It does not say so.
pub fn expiry(role: &str, file: &[u8]) -> Result<Timestamp, RepositoryError> {
    let value = json::from_slice_strict(file).unwrap_or_default();
    let date = value["signed"]["expires"].as_str().and_then(|text| text.parse().ok());
    date.ok_or_else(|| RepositoryError::Damaged { file: role.to_owned(), reason: "it has no expiry".to_owned() })
}
