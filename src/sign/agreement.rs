//! The claims gate.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::SignError;
use crate::key::PublicKey;
use crate::key::ToSign;
use crate::manifest::Holder;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::claim::Statement;
use crate::manifest::dsse::Envelope;
use crate::manifest::names::printable;

/// Proof that enough people built the same bytes from the same source, recipe
/// and environment, one of them on this terminal. Only [`Agreement::of`] makes
/// one, and no release manifest gets a release without one.
#[derive(Debug)]
pub struct Agreement {
    claims: Vec<Envelope>,
    people: BTreeSet<Holder>,
    subjects: BTreeMap<String, Sha256>,
}

impl Agreement {
    /// Checks claims against what was built here: `statement` is this
    /// terminal's own, and `claim_keys` are those of the policy, by key id.
    ///
    /// # Errors
    /// A claim is badly signed or says otherwise; too few distinct people.
    pub fn of(
        product: &Product,
        statement: &[u8],
        claims: Vec<Envelope>,
        claim_keys: &BTreeMap<String, (Holder, PublicKey)>,
        rebuilds: u32,
    ) -> Result<Self, SignError> {
        let own = Statement::parse(statement).map_err(|error| unreadable(&error))?;
        let mut people = BTreeSet::new();
        for claim in &claims {
            people.extend(claimants(claim, &own, claim_keys)?);
        }
        let need = rebuilds as usize + 1;
        if people.len() < need {
            return Err(SignError::TooFewClaims { product: product.clone(), have: people.len(), need });
        }
        Ok(Self { claims, people, subjects: own.subjects().clone() })
    }

    /// The claims.
    pub fn claims(&self) -> &[Envelope] {
        &self.claims
    }

    /// Names and digests of what was built.
    pub(super) fn subjects(&self) -> &BTreeMap<String, Sha256> {
        &self.subjects
    }

    /// Who built it.
    pub fn people(&self) -> &BTreeSet<Holder> {
        &self.people
    }
}

/// Whose claim an envelope is, where it agrees with what was built here.
///
/// # Errors
/// It is badly signed, or says that other bytes came out.
pub fn claimants(
    claim: &Envelope,
    own: &Statement,
    claim_keys: &BTreeMap<String, (Holder, PublicKey)>,
) -> Result<BTreeSet<Holder>, SignError> {
    let signed = claim.signed_bytes().map_err(|error| unreadable(&error))?;
    let payload = claim.payload().map_err(|error| unreadable(&error))?;
    let theirs = Statement::parse(&payload).map_err(|error| unreadable(&error))?;
    let mut people = BTreeSet::new();
    for (keyid, signature) in claim.signatures().map_err(|error| unreadable(&error))? {
        let Some((holder, key)) = claim_keys.get(keyid) else {
            return Err(refuse(keyid, "is by a key that the policy does not know".to_owned()));
        };
        if !key.verifies(ToSign::Message(&signed), &signature) {
            return Err(refuse(holder.as_str(), "is not signed by that holder's claim key".to_owned()));
        }
        let differences = own.differences(&theirs);
        if !differences.is_empty() {
            return Err(SignError::Disagrees { holder: holder.clone(), differences });
        }
        people.insert(holder.clone());
    }
    Ok(people)
}

fn refuse(holder: &str, reason: String) -> SignError {
    SignError::Claim { holder: printable(holder), reason }
}

fn unreadable(error: &dyn std::fmt::Display) -> SignError {
    refuse("somebody", format!("cannot be read: {error}"))
}
