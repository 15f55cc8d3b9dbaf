//! Metadata on its way to its signatures.
//!
//! A draft's `signed` part is final when the draft is made. Merging touches
//! only `signatures`, so that every signer signs, and every machine shows, the
//! same digest.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;
use sigstore_tuf::canonical_json;

use super::SPEC_VERSION;
use crate::manifest::Sha256;
use crate::manifest::json;
use crate::manifest::json::JsonError;

/// The member of a timestamp that says when it was sealed. TUF itself only says
/// when it expires.
pub const SEALED: &str = "x-release-sealed";

/// A metadata file that is being made: role, number, final `signed`, and the
/// signatures so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    role: String,
    number: u64,
    signed: Value,
    signatures: BTreeMap<String, String>,
}

/// A draft that cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DraftError {
    /// Not JSON in compact form, or without `signed` and `signatures`.
    #[error("malformed metadata: {0}")]
    Json(#[from] JsonError),
    /// A member is missing.
    #[error("malformed metadata: `{0}` is missing")]
    Missing(&'static str),
    /// A value that has no canonical form.
    #[error("metadata has no canonical form: {0}")]
    Canonical(#[from] sigstore_tuf::Error),
}

/// The keys and threshold of one role, for `root` and for delegations.
#[derive(Debug, Clone)]
pub struct RoleKeys {
    /// Key ids.
    pub keyids: Vec<String>,
    /// How many signatures by distinct keys.
    pub threshold: u32,
}

impl RoleKeys {
    fn to_value(&self) -> Value {
        json!({ "keyids": self.keyids, "threshold": self.threshold })
    }
}

/// Length, digest and version of a metadata file, for the role that lists it.
#[derive(Debug, Clone)]
pub struct MetaEntry {
    /// Its number.
    pub version: u64,
    /// Size of the merged file in bytes.
    pub length: u64,
    /// Digest of the merged file.
    pub sha256: Sha256,
}

impl MetaEntry {
    /// The entry of a finished file.
    pub fn of(version: u64, file: &[u8]) -> Self {
        Self { version, length: file.len() as u64, sha256: Sha256::of(file) }
    }

    fn to_value(&self) -> Value {
        json!({ "version": self.version, "length": self.length, "hashes": { "sha256": self.sha256 } })
    }
}

/// TUF's date format: UTC, whole seconds.
fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Draft {
    fn new(role: &str, kind: &str, number: u64, expires: Timestamp, mut members: Value) -> Self {
        members["_type"] = json!(kind);
        members["spec_version"] = json!(SPEC_VERSION);
        members["version"] = json!(number);
        members["expires"] = json!(date(expires));
        Self { role: role.to_owned(), number, signed: members, signatures: BTreeMap::new() }
    }

    /// A `root`: key objects by id, and the four top-level roles.
    pub fn root(
        number: u64,
        expires: Timestamp,
        keys: &BTreeMap<String, Value>,
        roles: &BTreeMap<&str, RoleKeys>,
    ) -> Self {
        let roles: serde_json::Map<String, Value> =
            roles.iter().map(|(name, role)| ((*name).to_owned(), role.to_value())).collect();
        Self::new("root", "root", number, expires, json!({ "consistent_snapshot": true, "keys": keys, "roles": roles }))
    }

    /// The top-level `targets`: targets, one terminating delegation per product
    /// to `<product>/*/*`, and `x-release`.
    pub fn targets(
        number: u64,
        expires: Timestamp,
        targets: &Value,
        keys: &BTreeMap<String, Value>,
        products: &BTreeMap<String, RoleKeys>,
        policy: &Value,
    ) -> Self {
        let roles: Vec<Value> = products
            .iter()
            .map(|(name, role)| {
                let mut entry = role.to_value();
                entry["name"] = json!(name);
                entry["terminating"] = json!(true);
                entry["paths"] = json!([format!("{name}/*/*")]);
                entry
            })
            .collect();
        let mut members = json!({ "targets": targets, "delegations": { "keys": keys, "roles": roles } });
        members[super::policy::MEMBER] = policy.clone();
        Self::new("targets", "targets", number, expires, members)
    }

    /// A product role.
    pub fn product(name: &str, number: u64, expires: Timestamp, targets: &Value, withdrawn: &Value) -> Self {
        let mut members = json!({ "targets": targets });
        members[super::product::WITHDRAWN] = withdrawn.clone();
        Self::new(name, "targets", number, expires, members)
    }

    /// A `snapshot` that lists metadata files by name.
    pub fn snapshot(number: u64, expires: Timestamp, meta: &BTreeMap<String, MetaEntry>) -> Self {
        let meta: serde_json::Map<String, Value> =
            meta.iter().map(|(name, entry)| (name.clone(), entry.to_value())).collect();
        Self::new("snapshot", "snapshot", number, expires, json!({ "meta": meta }))
    }

    /// A `timestamp` that lists a snapshot, and says when it was sealed.
    pub fn timestamp(number: u64, expires: Timestamp, snapshot: &MetaEntry, sealed: Timestamp) -> Self {
        let mut members = json!({ "meta": { "snapshot.json": snapshot.to_value() } });
        members[SEALED] = json!(date(sealed));
        Self::new("timestamp", "timestamp", number, expires, members)
    }

    /// Reads a draft of `role` back, with the signatures so far.
    ///
    /// # Errors
    /// Anything but a metadata file in compact form.
    pub fn parse(role: &str, file: &[u8]) -> Result<Self, DraftError> {
        let mut value = json::from_slice_strict(file)?;
        let signatures = value["signatures"].as_array().ok_or(DraftError::Missing("signatures"))?;
        let signatures = signatures
            .iter()
            .map(|item| Some((item["keyid"].as_str()?.to_owned(), item["sig"].as_str()?.to_owned())))
            .collect::<Option<_>>()
            .ok_or(DraftError::Missing("keyid"))?;
        let number = value["signed"]["version"].as_u64().ok_or(DraftError::Missing("version"))?;
        Ok(Self { role: role.to_owned(), number, signed: value["signed"].take(), signatures })
    }

    /// The role that this is for.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// What is signed.
    pub fn signed(&self) -> &Value {
        &self.signed
    }

    /// The number, TUF's `version`.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The bytes to sign: OLPC canonical JSON of `signed`.
    ///
    /// # Errors
    /// None for a draft made here.
    pub fn canonical(&self) -> Result<Vec<u8>, DraftError> {
        Ok(canonical_json::to_canonical_bytes(&self.signed)?)
    }

    /// The digest of the bytes to sign, which signers compare.
    ///
    /// # Errors
    /// As [`Self::canonical`].
    pub fn digest(&self) -> Result<Sha256, DraftError> {
        Ok(Sha256::of(&self.canonical()?))
    }

    /// Whether the key with this id has signed.
    pub fn has_signature(&self, keyid: &str) -> bool {
        self.signatures.contains_key(keyid)
    }

    /// The ids of the keys that have signed.
    pub fn signed_by(&self) -> impl Iterator<Item = &str> {
        self.signatures.keys().map(String::as_str)
    }

    /// The signature by the key with this id, if it has signed.
    pub fn signature(&self, keyid: &str) -> Option<Vec<u8>> {
        hex::decode(self.signatures.get(keyid)?).ok()
    }

    /// Adds a signature over [`Self::canonical`].
    pub fn add_signature(&mut self, keyid: &str, signature: &[u8]) {
        self.signatures.insert(keyid.to_owned(), hex::encode(signature));
    }

    /// The same, as nobody has signed it.
    #[must_use]
    pub fn without_signatures(&self) -> Self {
        Self { signatures: BTreeMap::new(), ..self.clone() }
    }

    /// The file as it is published, in compact form.
    ///
    /// # Errors
    /// As [`Self::canonical`].
    pub fn to_file(&self) -> Result<Vec<u8>, DraftError> {
        let signatures: Vec<Value> =
            self.signatures.iter().map(|(keyid, sig)| json!({ "keyid": keyid, "sig": sig })).collect();
        Ok(json::to_vec(&json!({ "signatures": signatures, "signed": self.signed }))?)
    }
}
