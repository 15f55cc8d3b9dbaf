//! `terminal.toml`: what is true of this machine only. It can add restrictions,
//! never loosen the policy.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;

use super::text::ConfigError;
use super::text::Span;
use super::text::Text;
use crate::manifest::FileName;
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
    /// Where publications go.
    #[serde(rename = "mirror", default)]
    pub mirrors: BTreeMap<MirrorName, MirrorEntry>,
}

/// Where a private key is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenEntry {
    /// An encrypted key file, relative to `terminal.toml`.
    pub file: PathBuf,
}

/// How builds are confined.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// Folders that builds see besides `/usr`.
    #[serde(default)]
    pub toolchains: Vec<Toolchain>,
}

/// A folder that builds see, read-only.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toolchain {
    /// The folder on this machine.
    pub path: Span<PathBuf>,
    /// Where builds see it, below `/opt`. Its `bin` is on their PATH, or it
    /// itself where that is its name.
    pub at: Span<String>,
}

/// A mirror: a local folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorEntry {
    /// The folder, relative to `terminal.toml`.
    pub path: PathBuf,
}

impl Terminal {
    /// Parses and checks the file at `path`.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn parse(path: &Path, text: String) -> Result<Self, ConfigError> {
        let text = Text::new(path, text);
        let terminal: Self = text.parse()?;
        if *terminal.version.get_ref() != VERSION {
            return Err(text.error(&terminal.version, "written for another version of release"));
        }
        for toolchain in &terminal.sandbox.toolchains {
            if !toolchain.path.get_ref().is_absolute() {
                return Err(text.error(&toolchain.path, "the folder of a toolchain is an absolute path"));
            }
            let at = toolchain.at.get_ref();
            let plain = |segment: &str| segment.parse::<FileName>().is_ok();
            if !at.strip_prefix("/opt/").is_some_and(|below| below.split('/').all(plain)) {
                return Err(text.error(&toolchain.at, "builds see toolchains below /opt"));
            }
        }
        Ok(terminal)
    }
}
