//! A request to approve a release: all that another person needs to rebuild it, to
//! see what will be signed, and to sign the same. It carries no signature of a release
//! manager.

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use super::Message;
use crate::home;
use crate::manifest::Holder;
use crate::manifest::Pin;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::dsse::Envelope;

/// A request. Recipe, inputs and digests of artifacts stand in the starter's claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`super::VERSION`].
    pub version: u32,
    /// What is released.
    pub product: Product,
    /// Which version.
    pub release: Version,
    /// Who asks.
    pub starter: Holder,
    /// When the manifest was made; also the creation time of OpenPGP signatures.
    pub at: Timestamp,
    /// Digest of the policy that the starter follows.
    pub policy: Sha256,
    /// What is built.
    pub pin: Pin,
    /// The description of the build environment, as compact JSON.
    pub environment: String,
    /// The starter's claim.
    pub claim: Envelope,
    /// The newest role of the product, as it is published; none before the first
    /// release.
    pub follows: Option<String>,
    /// The role that is to be signed, as a metadata file without signatures.
    pub role: String,
    /// The head of the starter's journal, which the provenance names.
    pub journal: Sha256,
}

impl Message for Request {
    const NAME: &str = "request";
    const TYPE: &str = "application/vnd.release-terminal.request+json";

    fn sender(&self) -> &Holder {
        &self.starter
    }

    fn file(&self) -> String {
        home::request_file(&self.product, &self.release)
    }

    fn product(&self) -> Option<&Product> {
        Some(&self.product)
    }
}
