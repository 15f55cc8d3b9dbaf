//! The bundle: all that a user without network needs, in one file.
//!
//! One JSON object in compact form (see [`super::json`]):
//!
//! ```json
//! {"claims":[…],"product":"kestrel","required":[],"role":{…},"root":[{…}],
//!  "snapshot":{…},"targets":{…},"timestamp":{…},"type":"release-bundle","version":1}
//! ```
//!
//! `root` is the chain from the first root. The other members are TUF metadata
//! files, member for file, and `claims` holds DSSE envelopes. A later writer may
//! add members; those that a reader must understand stand in `required`.

use serde_json::Map;
use serde_json::Value;

use super::Product;
use super::dsse::Envelope;
use super::json;
use super::json::JsonError;
use super::names::quoted;

/// `type` of a bundle.
const TYPE: &str = "release-bundle";
/// The version of the format that this program writes and reads.
const VERSION: u64 = 1;
/// Larger bundles are refused before they are parsed. A product role is below
/// 4 MB, a claim of the same size for each release is far above need.
pub const MAX_BUNDLE: u64 = 32 << 20;
/// What a bundle's file name ends with.
pub const SUFFIX: &str = ".bundle.json";

/// The file name of the bundle of a product's current releases.
pub fn current(product: &Product) -> String {
    format!("{product}{SUFFIX}")
}

/// Where a repository has [`current`].
pub fn current_path(product: &Product) -> String {
    format!("bundles/{}", current(product))
}

/// The members that this program understands.
const MEMBERS: [&str; 10] =
    ["claims", "product", "required", "role", "root", "snapshot", "targets", "timestamp", "type", "version"];

/// A bundle: TUF metadata files by their exact bytes, and claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The product whose releases it verifies.
    pub product: Product,
    /// `1.root.json`, `2.root.json`, …
    pub roots: Vec<Vec<u8>>,
    /// `N.targets.json`.
    pub targets: Vec<u8>,
    /// `N.<product>.json`.
    pub role: Vec<u8>,
    /// `N.snapshot.json`.
    pub snapshot: Vec<u8>,
    /// `timestamp.json`.
    pub timestamp: Vec<u8>,
    /// Signed claims about releases.
    pub claims: Vec<Envelope>,
}

/// A file that is not a bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Not JSON in compact form.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Longer than [`MAX_BUNDLE`].
    #[error("longer than {MAX_BUNDLE} bytes")]
    TooLarge,
    /// JSON, but not an object with `"type": "release-bundle"`.
    #[error("not a release bundle")]
    NotABundle,
    /// A member is missing or has another type.
    #[error("member `{0}` is missing or malformed")]
    Member(&'static str),
    /// Written by a newer version of this program, which says that a reader
    /// must understand something that we do not.
    #[error("written by a newer release: it needs {}", quoted(.0))]
    Newer(String),
}

impl Bundle {
    /// Parses a bundle. Signatures are not checked here.
    ///
    /// # Errors
    /// Anything but a bundle in compact form whose required members are known.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() as u64 > MAX_BUNDLE {
            return Err(BundleError::TooLarge);
        }
        let Value::Object(mut members) = json::from_slice_strict(bytes)? else {
            return Err(BundleError::NotABundle);
        };
        if members.get("type").and_then(Value::as_str) != Some(TYPE) {
            return Err(BundleError::NotABundle);
        }
        match members.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(newer) if newer > VERSION => return Err(BundleError::Newer(format!("version {newer}"))),
            _ => return Err(BundleError::Member("version")),
        }
        for name in array(&mut members, "required")? {
            match name.as_str() {
                Some(known) if MEMBERS.contains(&known) => {}
                Some(other) => return Err(BundleError::Newer(other.to_owned())),
                None => return Err(BundleError::Member("required")),
            }
        }
        let mut file = |name| {
            members
                .remove(name)
                .filter(Value::is_object)
                .ok_or(BundleError::Member(name))
                .and_then(|v| Ok(json::to_vec(&v)?))
        };
        let (targets, role) = (file("targets")?, file("role")?);
        let (snapshot, timestamp) = (file("snapshot")?, file("timestamp")?);
        let product = members
            .get("product")
            .and_then(Value::as_str)
            .and_then(|name| name.parse().ok())
            .ok_or(BundleError::Member("product"))?;
        let roots = array(&mut members, "root")?.iter().map(json::to_vec).collect::<Result<Vec<_>, _>>()?;
        if roots.is_empty() {
            return Err(BundleError::Member("root"));
        }
        let claims = array(&mut members, "claims")?
            .into_iter()
            .map(|claim| Envelope::from_value(claim).map_err(|_| BundleError::Member("claims")))
            .collect::<Result<_, _>>()?;
        Ok(Self { product, roots, targets, role, snapshot, timestamp, claims })
    }

    /// Writes the bundle in compact form.
    ///
    /// # Errors
    /// Metadata that is not JSON in compact form.
    pub fn to_vec(&self) -> Result<Vec<u8>, JsonError> {
        let roots: Vec<Value> =
            self.roots.iter().map(|root| json::from_slice_strict(root)).collect::<Result<_, _>>()?;
        json::to_vec(&serde_json::json!({
            "type": TYPE,
            "version": VERSION,
            "required": [],
            "product": self.product,
            "root": roots,
            "targets": json::from_slice_strict(&self.targets)?,
            "role": json::from_slice_strict(&self.role)?,
            "snapshot": json::from_slice_strict(&self.snapshot)?,
            "timestamp": json::from_slice_strict(&self.timestamp)?,
            "claims": self.claims,
        }))
    }
}

fn array(members: &mut Map<String, Value>, name: &'static str) -> Result<Vec<Value>, BundleError> {
    match members.remove(name) {
        Some(Value::Array(items)) => Ok(items),
        _ => Err(BundleError::Member(name)),
    }
}
