//! A product role: the signed manifest of all its releases.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::manifest::Artifact;
use crate::manifest::FileName;
use crate::manifest::Kind;
use crate::manifest::Line;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::names::quoted;
use crate::manifest::release;

/// The member of `signed` that lists withdrawn releases; append-only.
pub const WITHDRAWN: &str = "x-release-withdrawn";

/// The releases of one product, as its role lists them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProductRole {
    /// Every release that is not withdrawn, with its files by name.
    pub releases: BTreeMap<Version, BTreeMap<FileName, Artifact>>,
    /// Releases that were withdrawn.
    pub withdrawn: Vec<Withdrawn>,
}

/// A release that its product took back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// Which one.
    pub version: Version,
    /// Why, for users.
    pub reason: Line,
    /// What to use instead.
    pub successor: Option<Version>,
    /// When.
    pub date: Timestamp,
}

/// A product role that lists what it must not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProductRoleError {
    /// A target path that is not `<product>/<version>/<file>`.
    #[error("role `{product}` lists {}, which is not a file of one of its releases", quoted(.path))]
    Foreign {
        /// The role.
        product: Product,
        /// The path.
        path: String,
    },
    /// A target without a usable SHA-256.
    #[error("role lists {} without a SHA-256 in lower-case hex", quoted(.0))]
    NoDigest(String),
    /// A target whose kind cannot be read, or does not go with its name.
    #[error("role lists {} with a wrong kind", quoted(.0))]
    Kind(String),
    /// Malformed list of withdrawn releases.
    #[error("`{WITHDRAWN}` is malformed: {0}")]
    Withdrawn(serde_json::Error),
}

impl ProductRole {
    /// Reads a verified role.
    ///
    /// # Errors
    /// Any entry outside the product's own releases makes the whole role
    /// invalid, not only that entry.
    pub fn of(product: &Product, role: &sigstore_tuf::Targets) -> Result<Self, ProductRoleError> {
        let mut releases: BTreeMap<Version, BTreeMap<FileName, Artifact>> = BTreeMap::new();
        for (path, target) in &role.targets {
            let foreign = || ProductRoleError::Foreign { product: product.clone(), path: path.clone() };
            let mut segments = path.split('/');
            let (Some(first), Some(version), Some(file), None) =
                (segments.next(), segments.next(), segments.next(), segments.next())
            else {
                return Err(foreign());
            };
            if first != product.as_str() {
                return Err(foreign());
            }
            let version: Version = version.parse().map_err(|_| foreign())?;
            let name: FileName = file.parse().map_err(|_| foreign())?;
            let sha256 = target
                .hashes
                .get("sha256")
                .and_then(|hex| hex.parse().ok())
                .ok_or_else(|| ProductRoleError::NoDigest(path.clone()))?;
            let kind = target.custom.as_ref().map_or(&Value::Null, |custom| &custom["kind"]);
            // A kind that a later version of this program knows is still a file.
            let kind = match kind.as_str() {
                Some(_) => serde_json::from_value(kind.clone()).unwrap_or(Kind::File),
                None => return Err(ProductRoleError::Kind(path.clone())),
            };
            // Claims need not name these two; nothing else may pass as one of them.
            let about = match name.as_str() {
                release::CHECKSUMS => Kind::Checksums,
                release::PROVENANCE => Kind::Provenance,
                _ => Kind::File,
            };
            let exempt = |kind| matches!(kind, Kind::Checksums | Kind::Provenance);
            if (exempt(kind) || exempt(about)) && kind != about {
                return Err(ProductRoleError::Kind(path.clone()));
            }
            let control = target.custom.as_ref().and_then(|custom| custom.get("control"));
            let control = control
                .map(|hex| hex.as_str().and_then(|hex| hex.parse().ok()).ok_or(()))
                .transpose()
                .map_err(|()| ProductRoleError::NoDigest(path.clone()))?;
            let artifact = Artifact { name: name.clone(), kind, length: target.length, sha256, control };
            releases.entry(version).or_default().insert(name, artifact);
        }
        let withdrawn = match role.extra.get(WITHDRAWN) {
            None => Vec::new(),
            Some(list) => serde_json::from_value(list.clone()).map_err(ProductRoleError::Withdrawn)?,
        };
        Ok(Self { releases, withdrawn })
    }

    /// The highest version.
    pub fn newest(&self) -> Option<&Version> {
        self.releases.keys().next_back()
    }

    /// The releases that list a file with this digest, under its name there.
    pub fn find(&self, sha256: Sha256) -> impl Iterator<Item = (&Version, &Artifact)> {
        self.releases.iter().flat_map(move |(version, files)| {
            files.values().filter(move |file| file.sha256 == sha256).map(move |file| (version, file))
        })
    }

    /// The `targets` member of the role.
    pub fn to_targets(&self, product: &Product) -> Value {
        let mut targets = serde_json::Map::new();
        for (version, files) in &self.releases {
            for file in files.values() {
                let mut entry = json!({
                    "length": file.length,
                    "hashes": { "sha256": file.sha256 },
                    "custom": { "kind": file.kind },
                });
                if let Some(control) = file.control {
                    entry["custom"]["control"] = json!(control);
                }
                targets.insert(format!("{product}/{version}/{}", file.name), entry);
            }
        }
        Value::Object(targets)
    }
}
