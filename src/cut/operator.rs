//! The person at the terminal, as a cut sees them.

use std::path::PathBuf;

use jiff::Timestamp;
use jiff::civil::Date;

use crate::amend::Amending;
use crate::approve::Request;
use crate::key::Secrets;
use crate::manifest::Artifact;
use crate::manifest::Pin;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::policy::Location;
use crate::repository::stage::Changes;
use crate::sign::Plan;
use crate::source::Since;
use crate::tuf::product::Withdrawn;

/// Somebody who knows what day it is.
pub trait Calendar {
    /// The date of today, as a person says it; `None` if nobody can be asked.
    /// The clock says `now`, and the terminal was last used at `last`.
    fn today(&self, now: Timestamp, last: Timestamp) -> Option<Date>;
}

/// The person at the terminal.
pub trait Operator: Secrets + Calendar {
    /// Shows what is about to be done.
    fn plan(&self, preview: &Preview<'_>);

    /// Shows what is about to be signed, and asks once.
    ///
    /// # Errors
    /// The person stops; nothing was signed.
    fn confirm(&self, review: &Review<'_>) -> Result<(), Stopped>;

    /// Shows what another terminal asks for, before it is built.
    fn requested(&self, request: &Request, sha256: Sha256);

    /// Shows what is about to be approved, and asks once.
    ///
    /// # Errors
    /// The person stops; nothing was signed.
    fn confirm_approval(&self, approving: &Approving<'_>) -> Result<(), Stopped>;

    /// Shows what is about to be withdrawn, and asks once.
    ///
    /// # Errors
    /// The person stops; nothing was signed.
    fn confirm_withdrawal(&self, withdrawing: &Withdrawing<'_>) -> Result<(), Stopped>;

    /// Shows how the policy and its keys are about to change, and asks once.
    ///
    /// # Errors
    /// The person stops; nothing was signed.
    fn confirm_amendment(&self, amending: &Amending<'_>) -> Result<(), Stopped>;
}

/// The person did not confirm.
#[derive(Debug, thiserror::Error)]
#[error("stopped by you; nothing was signed, nothing was published")]
pub struct Stopped;

/// What a cut is going to do.
#[derive(Debug)]
pub struct Preview<'a> {
    /// The product.
    pub product: &'a Product,
    /// The version.
    pub version: &'a Version,
    /// Where the source is, as the policy says.
    pub source: &'a Location,
    /// The git bundle that a medium brought, which is taken in its place.
    pub bundle: Option<PathBuf>,
    /// The tag.
    pub tag: &'a str,
    /// The pin, where it is known.
    pub pin: Option<&'a Pin>,
    /// The release before.
    pub previous: Option<&'a Version>,
    /// Who signs.
    pub plan: &'a Plan,
    /// Where it goes.
    pub mirrors: Vec<&'a str>,
    /// The safety rules that the policy switches off.
    pub insecure: Vec<String>,
    /// Whether an interrupted cut goes on.
    pub resumes: bool,
}

/// What is about to be signed.
#[derive(Debug)]
pub struct Review<'a> {
    /// The product.
    pub product: &'a Product,
    /// The version.
    pub version: &'a Version,
    /// What is built.
    pub pin: &'a Pin,
    /// What changes in the release manifest.
    pub changes: &'a Changes,
    /// The number of the manifest.
    pub number: u64,
    /// The digest that release managers sign.
    pub digest: Sha256,
    /// Who signs.
    pub plan: &'a Plan,
}

/// What is about to be approved: it was rebuilt here, and is the same.
#[derive(Debug)]
pub struct Approving<'a> {
    /// What was asked.
    pub request: &'a Request,
    /// The digest of its file.
    pub sha256: Sha256,
    /// The number of the release manifest.
    pub number: u64,
    /// The digest that release managers sign.
    pub digest: Sha256,
    /// The files of the new release.
    pub files: &'a [Artifact],
    /// The release before, and what has changed since, where that is known.
    pub since: Option<(&'a Version, Option<&'a Since>)>,
    /// Who signs here.
    pub plan: &'a Plan,
}

/// What is about to be withdrawn.
#[derive(Debug)]
pub struct Withdrawing<'a> {
    /// The product.
    pub product: &'a Product,
    /// The version, why, and what to use instead.
    pub entry: &'a Withdrawn,
    /// The number of the release manifest.
    pub number: u64,
    /// The digest that release managers sign.
    pub digest: Sha256,
    /// Who signs.
    pub plan: &'a Plan,
}
