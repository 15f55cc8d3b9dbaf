//! Who built a release and got the same bytes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashSet;

use super::Rejection;
use super::Trust;
use crate::manifest::Holder;
use crate::manifest::Kind;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::claim::GitId;
use crate::manifest::claim::Statement;
use crate::manifest::dsse::Envelope;
use crate::tuf::key;

/// The agreeing claims about one release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The people whose builds gave these digests.
    pub by: BTreeSet<Holder>,
    /// How many people must have built it.
    pub need: usize,
    /// The commit that was built.
    pub commit: Option<GitId>,
    /// The release branch that it was on.
    pub branch: Option<String>,
}

/// Checks all claims about one release.
///
/// Claims about other releases, and claims by keys that are not enrolled (any
/// more), count for nothing. A claim by an enrolled key that is badly signed,
/// or that names other digests than the product role, rejects the release: two
/// people then disagree on what it is.
///
/// # Errors
/// Such a claim, or fewer agreeing people than the signed policy asks for.
pub fn check(trust: &Trust, version: &Version, envelopes: &[Envelope]) -> Result<Built, Rejection> {
    let product = trust.product();
    let mut agreed: Option<Statement> = None;
    let mut by = BTreeSet::new();
    let mut seen = HashSet::new();
    // Several bundles bring the same claims; checking one twice costs time only.
    for envelope in envelopes.iter().filter(|envelope| seen.insert(*envelope)) {
        let reject = |holder: &str, reason: String| Rejection::Claim {
            holder: holder.to_owned(),
            product: product.clone(),
            version: version.clone(),
            reason,
        };
        let unreadable =
            |error: &dyn std::fmt::Display| reject(supposed(trust, envelope), format!("cannot be read: {error}"));
        let statement =
            Statement::parse(&envelope.payload().map_err(|e| unreadable(&e))?).map_err(|e| unreadable(&e))?;
        if statement.product() != Some(product.as_str()) || statement.version() != Some(version.as_str()) {
            continue;
        }
        let signed = envelope.signed_bytes().map_err(|e| unreadable(&e))?;
        for (keyid, signature) in envelope.signatures().map_err(|e| unreadable(&e))? {
            let Some(claim_key) = trust.policy().claims.get(keyid) else {
                continue;
            };
            let holder = claim_key.holder.as_str();
            if !key::verifies(&claim_key.key, &signed, &signature) {
                return Err(reject(holder, "is not signed by the claim key of that holder".to_owned()));
            }
            if *statement.subjects() != artifacts(trust, version) {
                return Err(reject(holder, "names other digests than the release manifest".to_owned()));
            }
            if agreed.as_ref().is_some_and(|other| !other.agrees_with(&statement)) {
                return Err(reject(holder, "disagrees with another one on source or environment".to_owned()));
            }
            by.insert(claim_key.holder.clone());
            agreed = Some(statement.clone());
        }
    }
    let need = trust.policy().products.get(product).map_or(0, |entry| entry.rebuilds as usize) + 1;
    if by.len() < need {
        return Err(Rejection::TooFewClaims {
            product: product.clone(),
            version: version.clone(),
            have: by.into_iter().collect(),
            need,
        });
    }
    let commit = agreed.as_ref().and_then(Statement::commit);
    let branch = agreed.as_ref().and_then(|statement| statement.branch().map(ToOwned::to_owned));
    Ok(Built { by, need, commit, branch })
}

/// Whose claim an envelope pretends to be, for messages.
fn supposed<'a>(trust: &'a Trust, envelope: &Envelope) -> &'a str {
    let signatures = envelope.signatures().unwrap_or_default();
    let key = signatures.first().and_then(|(keyid, _)| trust.policy().claims.get(*keyid));
    key.map_or("somebody", |key| key.holder.as_str())
}

/// What was built, as the product role lists it: all but the files that the
/// terminal writes about a build, whose names and kinds belong together.
fn artifacts(trust: &Trust, version: &Version) -> BTreeMap<String, Sha256> {
    let files = trust.listing().releases.get(version);
    files
        .into_iter()
        .flat_map(BTreeMap::values)
        .filter(|file| !matches!(file.kind, Kind::Checksums | Kind::Provenance))
        .map(|file| (file.name.to_string(), file.sha256))
        .collect()
}
