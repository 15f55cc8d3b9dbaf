//! Where the Debian packages of a product go.

use serde::Deserialize;

use super::Policy;
use super::policy_file::CertificateEntry;
use super::text::ConfigError;
use super::text::Span;
use super::text::Text;
use crate::manifest::Component;
use crate::manifest::Suite;
use crate::manifest::suite;

/// The place of a product's packages in the repository for apt. Users have both names
/// in their lists of sources. Several products may share them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apt {
    /// The suite.
    pub suite: Span<Suite>,
    /// The component of it.
    pub component: Component,
}

impl Policy {
    /// The certificate whose key signs suites.
    pub fn archive(&self) -> Option<CertificateEntry<'_>> {
        self.certificates().find(|entry| entry.holder.is_none())
    }

    pub(super) fn check_apt(&self, text: &Text) -> Result<(), ConfigError> {
        let Some(apt) = self.products.values().find_map(|product| product.apt.as_ref()) else {
            return Ok(());
        };
        if self.openpgp.archive.is_none() {
            let message =
                "apt takes only a suite that is signed: name the certificate for that with `archive` below [openpgp]";
            return Err(text.error(&apt.suite, message));
        }
        if suite::origin(self.repository.get_ref()).is_err() {
            return Err(
                text.error(&self.repository, "a suite for apt is called after the host here, and there is none")
            );
        }
        Ok(())
    }
}
