//! What a release consists of.

use serde::Deserialize;
use serde::Serialize;

use super::FileName;
use super::Sha256;

/// What kind of file an artifact is; `custom.kind` of its TUF target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// Any file.
    File,
    /// A Debian binary package.
    Deb,
    /// A Debian source package: the file that says what it is, and lists the others.
    Dsc,
    /// The source archive, made from the pinned commit.
    SourceArchive,
    /// `SHA256SUMS`.
    Checksums,
    /// `provenance.intoto.json`.
    Provenance,
    /// A claim: what one holder's build gave. No role lists it; its own signature
    /// counts.
    Claim,
}

/// One file of a release: its published name, kind, size in bytes and digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// The name under which users get it.
    pub name: FileName,
    /// What it is.
    pub kind: Kind,
    /// Size in bytes.
    pub length: u64,
    /// Digest of its content.
    pub sha256: Sha256,
    /// Of a Debian package that suites may have: the digest of what it says of itself,
    /// as indices have it (`control` of `custom` of its TUF target).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Sha256>,
}

/// The file that lists the digests of the others, in the format of
/// `sha256sum`.
pub const CHECKSUMS: &str = "SHA256SUMS";
/// OpenPGP signatures over [`CHECKSUMS`], one per approving holder.
pub const CHECKSUMS_SIGNATURE: &str = "SHA256SUMS.asc";
/// Where everything came from: in-toto Statement v1, SLSA provenance v1.
pub const PROVENANCE: &str = "provenance.intoto.json";

/// The file of one holder's claim about a release.
pub fn claim_file(holder: &super::Holder) -> String {
    format!("claim.{holder}.intoto.json")
}

/// The bundle beside a release.
pub fn bundle_file(product: &super::Product, version: &super::Version) -> String {
    format!("{product}-{version}.bundle.json")
}

/// Renders `SHA256SUMS`: one line per artifact, sorted by name, as
/// `sha256sum` writes and checks it.
pub fn checksums(artifacts: &[Artifact]) -> String {
    let mut lines: Vec<String> =
        artifacts.iter().map(|artifact| format!("{}  {}\n", artifact.sha256, artifact.name)).collect();
    lines.sort_by(|a, b| a[66..].cmp(&b[66..]));
    lines.concat()
}
