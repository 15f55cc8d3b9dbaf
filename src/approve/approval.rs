//! An approval: what one release manager, who rebuilt a release and got the same
//! bytes, gives to whoever asked.

use serde::Deserialize;
use serde::Serialize;

use super::Message;
use crate::home;
use crate::manifest::Holder;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::dsse::Envelope;

/// An approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// [`super::VERSION`].
    pub version: u32,
    /// What is released.
    pub product: Product,
    /// Which version.
    pub release: Version,
    /// Who approves.
    pub holder: Holder,
    /// Digest of the request's file.
    pub request: Sha256,
    /// The approver's claim.
    pub claim: Envelope,
    /// The id of the key that signed the release manifest.
    pub keyid: String,
    /// Its signature over the manifest, in hex, as the manifest holds it.
    pub signature: String,
    /// The OpenPGP signature over `SHA256SUMS`, in hex; none if the approver has no
    /// certificate.
    pub checksums: Option<String>,
}

impl Message for Approval {
    const NAME: &str = "approval";
    const TYPE: &str = "application/vnd.release-terminal.approval+json";

    fn sender(&self) -> &Holder {
        &self.holder
    }

    fn file(&self) -> String {
        home::answer_file(&self.product, &self.release, &self.holder, home::APPROVAL)
    }

    fn product(&self) -> Option<&Product> {
        Some(&self.product)
    }
}
