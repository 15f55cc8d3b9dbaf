//! What may be signed as a release manifest.

use std::collections::BTreeMap;

use super::Agreement;
use super::SignError;
use crate::manifest::Kind;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::tuf::Draft;
use crate::tuf::ProductRole;
use crate::tuf::change::Change;
use crate::tuf::change::ChangeError;

/// Proof that a product role says no more than it may. It adds what enough people
/// have built and agree on, or nothing. Nothing signs a product role without one.
#[derive(Debug)]
pub struct Warrant {
    digest: Sha256,
}

impl Warrant {
    /// For a role that adds one release, whose bytes people agree on. `before` is
    /// the file of the newest role.
    ///
    /// # Errors
    /// It adds other bytes, or changes more than it may.
    pub fn to_release(
        agreed: &Agreement,
        (product, version): (&Product, &Version),
        before: Option<&[u8]>,
        role: &Draft,
    ) -> Result<Self, SignError> {
        let refuse = |reason: String| SignError::Manifest { product: product.clone(), reason };
        let change = Change::between(product, before, role).map_err(|error| refuse(error.to_string()))?;
        if change.added.iter().ne([version]) || !change.withdrawn.is_empty() {
            return Err(refuse(format!("does not add {version} alone")));
        }
        let built = built(product, version, role).map_err(|error| refuse(error.to_string()))?;
        if built != *agreed.subjects() {
            return Err(refuse("lists other bytes than those that people built".to_owned()));
        }
        Ok(Self { digest: role.digest()? })
    }

    /// For a role that adds nothing, and takes releases back.
    ///
    /// # Errors
    /// It changes anything else.
    pub fn to_withdraw(product: &Product, before: Option<&[u8]>, role: &Draft) -> Result<Self, SignError> {
        let refuse = |reason: String| SignError::Manifest { product: product.clone(), reason };
        let change = Change::between(product, before, role).map_err(|error| refuse(error.to_string()))?;
        if !change.added.is_empty() || change.withdrawn.is_empty() {
            return Err(refuse("does not only withdraw".to_owned()));
        }
        Ok(Self { digest: role.digest()? })
    }

    /// Whether this is what it is for.
    pub(super) fn is_for(&self, role: &Draft) -> Result<bool, SignError> {
        Ok(role.digest()? == self.digest)
    }
}

/// Names and digests of what a role says was built of a version.
fn built(product: &Product, version: &Version, role: &Draft) -> Result<BTreeMap<String, Sha256>, ChangeError> {
    let metadata = sigstore_tuf::Metadata::<sigstore_tuf::Targets>::from_slice(&role.to_file()?)
        .map_err(|error| ChangeError::Unreadable(error.to_string()))?;
    let listing = ProductRole::of(product, metadata.signed())?;
    let files = listing.releases.get(version).into_iter().flat_map(BTreeMap::values);
    let built = files.filter(|file| !matches!(file.kind, Kind::Checksums | Kind::Provenance));
    Ok(built.map(|file| (file.name.to_string(), file.sha256)).collect())
}
