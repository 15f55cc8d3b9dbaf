//! What a new version of a product role changes. Old entries stay as they are,
//! or are withdrawn with a reason; nothing else may happen to them.

use std::collections::BTreeSet;

use serde_json::Map;
use serde_json::Value;
use sigstore_tuf::Metadata;
use sigstore_tuf::Targets;

use super::Draft;
use super::ProductRole;
use super::draft::DraftError;
use super::product::ProductRoleError;
use super::product::WITHDRAWN;
use super::product::Withdrawn;
use crate::manifest::Product;
use crate::manifest::Version;
use crate::manifest::names::quoted;

/// What a new version of a product role changes.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// The releases that are new.
    pub added: BTreeSet<Version>,
    /// The releases that are taken back.
    pub withdrawn: Vec<Withdrawn>,
}

/// A new version of a product role that nobody may sign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Its entries are not those of a product.
    #[error(transparent)]
    Role(#[from] ProductRoleError),
    /// Its number does not grow.
    #[error("has number {after}, and the one before has {before}")]
    Number {
        /// The number before.
        before: u64,
        /// Its number.
        after: u64,
    },
    /// An entry is gone, and nobody says why.
    #[error("drops {}, which was released and is not withdrawn", quoted(.0))]
    Dropped(String),
    /// An entry says something else than before.
    #[error("changes {}, which was released before", quoted(.0))]
    Changed(String),
    /// A release that was there gets one more file.
    #[error("adds {} to a release that was made before", quoted(.0))]
    AddedTo(String),
    /// The list of withdrawn releases is not the one before with more at its end.
    #[error("changes what was withdrawn before")]
    Rewritten,
    /// A release is withdrawn that was not there, or is still there.
    #[error("withdraws {0}, which it did not release or still lists")]
    NotReleased(Version),
    /// It has members that a product role does not have.
    #[error("says more than a release manifest does")]
    Surplus,
}

impl From<DraftError> for ChangeError {
    fn from(error: DraftError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl Change {
    /// Compares a role with the file of the one before, if there was one.
    ///
    /// # Errors
    /// It changes more than it may.
    pub fn between(product: &Product, before: Option<&[u8]>, after: &Draft) -> Result<Self, ChangeError> {
        let before = before.map(|file| Draft::parse(product.as_str(), file)).transpose()?;
        let old = before.as_ref().map_or(&Value::Null, Draft::signed);
        let new = after.signed();
        let expires = new["expires"].as_str().and_then(|text| text.parse().ok());
        let expires = expires.ok_or_else(|| ChangeError::Unreadable("it has no expiry".to_owned()))?;
        let plain =
            Draft::product(product.as_str(), after.number(), expires, &new["targets"], &new[WITHDRAWN]).digest()?;
        if plain != after.digest()? {
            return Err(ChangeError::Surplus);
        }
        let number = before.as_ref().map_or(0, Draft::number);
        if after.number() <= number {
            return Err(ChangeError::Number { before: number, after: after.number() });
        }
        let unreadable = |error: sigstore_tuf::Error| ChangeError::Unreadable(error.to_string());
        let metadata = Metadata::<Targets>::from_slice(&after.to_file()?).map_err(unreadable)?;
        let listing = ProductRole::of(product, metadata.signed())?;

        let none = Map::new();
        let entries = |signed: &'_ Value| signed["targets"].as_object().cloned().unwrap_or_default();
        let (old_entries, new_entries) = (entries(old), new["targets"].as_object().unwrap_or(&none));
        let version_of = |path: &str| path.split('/').nth(1).and_then(|version| version.parse::<Version>().ok());
        let released: BTreeSet<Version> = old_entries.keys().filter_map(|path| version_of(path)).collect();
        let (listed_before, listed) = (list(&old[WITHDRAWN]), list(&new[WITHDRAWN]));
        if !new[WITHDRAWN].is_array() || !listed.starts_with(listed_before) {
            return Err(ChangeError::Rewritten);
        }
        let withdrawn = listing.withdrawn[listed_before.len()..].to_vec();
        let mut gone = BTreeSet::new();
        for entry in &withdrawn {
            let version = &entry.version;
            if !released.contains(version) || listing.releases.contains_key(version) || !gone.insert(version) {
                return Err(ChangeError::NotReleased(version.clone()));
            }
        }
        for (path, entry) in &old_entries {
            match new_entries.get(path) {
                Some(same) if same == entry => {}
                Some(_) => return Err(ChangeError::Changed(path.clone())),
                None if version_of(path).is_some_and(|version| gone.contains(&version)) => {}
                None => return Err(ChangeError::Dropped(path.clone())),
            }
        }
        let mut added = BTreeSet::new();
        for path in new_entries.keys().filter(|path| !old_entries.contains_key(*path)) {
            let is_old = |version: &Version| {
                released.contains(version) || listing.withdrawn.iter().any(|entry| entry.version == *version)
            };
            match version_of(path) {
                Some(version) if !is_old(&version) => added.insert(version),
                _ => return Err(ChangeError::AddedTo(path.clone())),
            };
        }
        Ok(Self { added, withdrawn })
    }
}

fn list(withdrawn: &Value) -> &[Value] {
    withdrawn.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn role(number: u64, targets: &Value, withdrawn: &Value) -> Draft {
        Draft::product("kestrel", number, Timestamp::UNIX_EPOCH, targets, withdrawn)
    }

    fn entry(byte: &str) -> Value {
        json!({ "length": 1, "hashes": { "sha256": byte.repeat(64) }, "custom": { "kind": "file" } })
    }

    #[test]
    fn old_entries_stay_or_are_withdrawn() {
        let product: Product = "kestrel".parse().unwrap();
        let old = json!({ "kestrel/1.0/a": entry("a"), "kestrel/1.1/b": entry("b") });
        let reason = json!([{ "version": "1.0", "reason": "broken", "successor": "1.1",
            "date": "2026-01-01T00:00:00Z" }]);
        let before = role(1, &old, &json!([])).to_file().unwrap();
        let between = |after: &Draft| Change::between(&product, Some(&before), after);
        let unsigned = String::from_utf8(before.clone()).unwrap().replace("signatures", "signateres");
        let unread = Change::between(&product, Some(unsigned.as_bytes()), &role(2, &old, &json!([])));
        assert!(matches!(unread, Err(ChangeError::Unreadable(_))), "{unread:?}");

        let mut more = old.clone();
        more["kestrel/1.2/c"] = entry("c");
        let change = between(&role(2, &more, &json!([]))).unwrap();
        assert_eq!(change.added, BTreeSet::from(["1.2".parse().unwrap()]));
        let less = json!({ "kestrel/1.1/b": entry("b") });
        let change = between(&role(3, &less, &reason)).unwrap();
        assert_eq!((change.added.len(), change.withdrawn.len()), (0, 1));

        let mut changed = old.clone();
        changed["kestrel/1.0/a"] = entry("d");
        let mut larger = old.clone();
        larger["kestrel/1.0/z"] = entry("e");
        let mut surplus = role(2, &old, &json!([]));
        surplus = Draft::parse(
            "kestrel",
            String::from_utf8(surplus.to_file().unwrap())
                .unwrap()
                .replace("\"version\":2", "\"version\":2,\"x\":1")
                .as_bytes(),
        )
        .unwrap();
        for (after, why) in [
            (role(2, &changed, &json!([])), "changes \"kestrel/1.0/a\""),
            (role(2, &less, &json!([])), "drops \"kestrel/1.0/a\""),
            (role(2, &larger, &json!([])), "adds \"kestrel/1.0/z\""),
            (role(1, &more, &json!([])), "has number 1"),
            (role(2, &old, &reason), "withdraws 1.0"),
            (role(2, &old, &Value::Null), "`x-release-withdrawn` is malformed"),
            (surplus, "says more"),
        ] {
            let error = between(&after).unwrap_err().to_string();
            assert!(error.starts_with(why), "{why}: {error}");
        }
        let withdrawn = role(2, &less, &reason).to_file().unwrap();
        let again = Change::between(&product, Some(&withdrawn), &role(3, &old, &reason)).unwrap_err().to_string();
        assert!(again.starts_with("adds \"kestrel/1.0/a\""), "{again}");
        let rewritten = Change::between(&product, Some(&withdrawn), &role(3, &less, &json!([])));
        assert!(matches!(rewritten, Err(ChangeError::Rewritten)));
    }
}
