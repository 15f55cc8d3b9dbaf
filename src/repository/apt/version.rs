//! Versions of Debian packages (Debian policy 5.6.12).

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use super::DebError;
use crate::manifest::names::compare_upstream;
use crate::manifest::names::quoted;

/// `[epoch:]upstream[-revision]`. Ordered as dpkg orders it; versions that dpkg takes
/// for the same one, as `1.0` and `1.00`, follow each other by their text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebVersion(String);

impl DebVersion {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the epoch, as in the names of files.
    pub fn without_epoch(&self) -> &str {
        self.0.split_once(':').map_or(self.as_str(), |(_, rest)| rest)
    }

    /// Epoch, upstream version and revision.
    fn parts(&self) -> (u32, &str, &str) {
        let epoch = self.0.split_once(':').map_or(0, |(epoch, _)| epoch.parse().unwrap_or(0));
        let rest = self.without_epoch();
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        (epoch, upstream, revision)
    }

    /// The order of dpkg: which of two is newer, or neither.
    pub fn compare(&self, other: &Self) -> Ordering {
        let ((epoch, upstream, revision), (other_epoch, other_upstream, other_revision)) =
            (self.parts(), other.parts());
        let upstream = compare_upstream(upstream.as_bytes(), other_upstream.as_bytes());
        let revision = compare_upstream(revision.as_bytes(), other_revision.as_bytes());
        epoch.cmp(&other_epoch).then(upstream).then(revision)
    }
}

impl FromStr for DebVersion {
    type Err = DebError;

    fn from_str(text: &str) -> Result<Self, DebError> {
        let (epoch, rest) = text.split_once(':').unwrap_or(("0", text));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
        let of = |allowed: &[u8], part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || allowed.contains(&b));
        let good = text.len() <= 96
            && !epoch.is_empty()
            && epoch.bytes().all(|b| b.is_ascii_digit())
            && epoch.parse::<u32>().is_ok_and(|epoch| epoch <= i32::MAX.unsigned_abs())
            && upstream.starts_with(|c: char| c.is_ascii_digit())
            && of(b".+~-", upstream)
            && !revision.is_empty()
            && of(b".+~", revision);
        if good {
            return Ok(Self(text.to_owned()));
        }
        let rule = "use [epoch:]upstream[-revision] of A-Z a-z 0-9 . + ~ -, upstream beginning with a digit";
        Err(DebError::new(format!("{} is no version: {rule}", quoted(text))))
    }
}

impl Ord for DebVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.compare(other).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for DebVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for DebVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
