//! `terminal.toml`: what is true of this machine only. It can add restrictions,
//! never loosen the policy.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;

use super::location::SourceHost;
use super::mirror;
use super::mirror::MirrorEntry;
use super::mirror::Publish;
use super::sandbox::Sandbox;
use super::text::ConfigError;
use super::text::Span;
use super::text::Text;
use crate::manifest::KeyName;
use crate::manifest::MirrorName;

/// The version of `terminal.toml` that this program reads.
const VERSION: u32 = 1;

/// What is true of this machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    version: Span<u32>,
    /// Where the private halves of keys are.
    #[serde(rename = "token", default)]
    pub tokens: BTreeMap<KeyName, TokenEntry>,
    /// How builds are confined.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// How hosts are reached that have source.
    #[serde(rename = "source", default)]
    pub sources: Vec<SourceHost>,
    /// How publications are spread.
    #[serde(default)]
    pub publish: Publish,
    #[serde(rename = "mirror", default)]
    raw_mirrors: BTreeMap<MirrorName, Span<mirror::Raw>>,
    /// Where publications go.
    #[serde(skip)]
    pub mirrors: BTreeMap<MirrorName, MirrorEntry>,
}

/// Where a private key is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenEntry {
    /// An encrypted key file, relative to `terminal.toml`.
    pub file: PathBuf,
}

impl Terminal {
    /// Parses and checks the file at `path`.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn parse(path: &Path, text: String) -> Result<Self, ConfigError> {
        let text = Text::new(path, text);
        let mut terminal: Self = text.parse()?;
        text.check_version(&terminal.version, VERSION)?;
        terminal.sandbox.check(&text)?;
        let mut hosts = BTreeSet::new();
        for source in &terminal.sources {
            if !hosts.insert(source.host.get_ref()) {
                return Err(text.error(&source.host, format!("`{}` stands here twice", source.host.get_ref())));
            }
        }
        let raw = std::mem::take(&mut terminal.raw_mirrors);
        terminal.mirrors = mirror::check(&text, raw, &terminal.publish)?;
        Ok(terminal)
    }
}
