//! `release.toml`: how to build, from the source tree. It is the developers'
//! word and hostile until the policy says otherwise.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use super::text::ConfigError;
use super::text::Span;
use super::text::Text;
use crate::manifest::FileName;
use crate::manifest::Kind;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::release;

/// The version of `release.toml` that this program reads.
const VERSION: u32 = 1;
/// The name of the recipe in the source tree.
pub const FILE: &str = "release.toml";
/// Longer recipes are refused.
pub const MAX_LENGTH: u64 = 256 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: Span<u32>,
    build: RawBuild,
    #[serde(rename = "source-archive")]
    source_archive: Option<RawSourceArchive>,
    #[serde(rename = "artifact", default)]
    artifacts: Vec<RawArtifact>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBuild {
    script: Vec<String>,
    #[serde(default)]
    inputs: Vec<RawInput>,
    #[serde(default = "yes")]
    reproducible: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInput {
    path: Span<String>,
    sha256: Sha256,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSourceArchive {
    name: Span<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawArtifact {
    path: Span<String>,
    name: Option<Span<String>>,
    #[serde(default)]
    kind: RawKind,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawKind {
    #[default]
    File,
    Deb,
    Dsc,
}

fn yes() -> bool {
    true
}

/// A checked recipe, with its names made out for one version.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Digest of the file.
    pub sha256: Sha256,
    /// Shell commands, run one after the other until one fails.
    pub script: Vec<String>,
    /// Inputs by the path at which the build sees them.
    pub inputs: BTreeMap<String, Sha256>,
    /// Whether a second build must give the same bytes.
    pub reproducible: bool,
    /// The name of the source archive, if one is published.
    pub source_archive: Option<FileName>,
    /// What the build makes.
    pub artifacts: Vec<RecipeArtifact>,
}

/// One thing that the build makes.
#[derive(Debug, Clone)]
pub struct RecipeArtifact {
    /// Where the build leaves it, relative to its folder.
    pub path: String,
    /// The name under which it is published.
    pub name: FileName,
    /// What it is.
    pub kind: Kind,
}

impl Recipe {
    /// Parses and checks a recipe for `version` of `product`.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn parse(bytes: &[u8], product: &Product, version: &Version) -> Result<Self, ConfigError> {
        let path = Path::new(FILE);
        let Ok(string) = std::str::from_utf8(bytes) else {
            return Err(Text::new(path, String::new()).error_in_general("not UTF-8 text"));
        };
        let text = Text::new(path, string.to_owned());
        let raw: Raw = text.parse()?;
        text.check_version(&raw.version, VERSION)?;
        let made_out = |name: &str| name.replace("{product}", product.as_str()).replace("{version}", version.as_str());
        let mut names = BTreeSet::new();
        let mut published = |at: &Span<String>, name: String| -> Result<FileName, ConfigError> {
            let name: FileName = name.parse().map_err(|error| text.error(at, error))?;
            let written_by_us = [release::CHECKSUMS, release::CHECKSUMS_SIGNATURE, release::PROVENANCE];
            if written_by_us.contains(&name.as_str())
                || name.as_str().ends_with(crate::manifest::bundle::SUFFIX)
                || name.as_str().ends_with(".intoto.json")
            {
                return Err(text.error(at, format!("`{name}` is a name that the terminal itself uses")));
            }
            if !names.insert(name.clone()) {
                return Err(text.error(at, format!("two artifacts are named `{name}`")));
            }
            Ok(name)
        };
        let source_archive = match &raw.source_archive {
            Some(archive) => {
                let name = published(&archive.name, made_out(archive.name.get_ref()))?;
                if !name.as_str().ends_with(".tar.gz") {
                    return Err(text.error(&archive.name, "the name of a source archive ends in .tar.gz"));
                }
                Some(name)
            }
            None => None,
        };
        let mut artifacts = Vec::new();
        for artifact in &raw.artifacts {
            let path = made_out(artifact.path.get_ref());
            check_relative(&text, &artifact.path, &path)?;
            let (at, name) = match &artifact.name {
                Some(name) => (name, made_out(name.get_ref())),
                None => (&artifact.path, path.rsplit('/').next().unwrap_or_default().to_owned()),
            };
            let name = published(at, name)?;
            let kind = match artifact.kind {
                RawKind::File => Kind::File,
                RawKind::Deb => Kind::Deb,
                RawKind::Dsc => Kind::Dsc,
            };
            artifacts.push(RecipeArtifact { path, name, kind });
        }
        if artifacts.is_empty() && source_archive.is_none() {
            return Err(text.error_in_general("it names no artifact: there would be nothing to release"));
        }
        if raw.build.script.is_empty() && !artifacts.is_empty() {
            return Err(text.error_in_general("`build.script` is empty, so no artifact could be made"));
        }
        let mut inputs = BTreeMap::new();
        for input in &raw.build.inputs {
            check_relative(&text, &input.path, input.path.get_ref())?;
            if inputs.insert(input.path.get_ref().clone(), input.sha256).is_some() {
                return Err(text.error(&input.path, "two inputs have this path"));
            }
        }
        Ok(Self {
            sha256: Sha256::of(bytes),
            script: raw.build.script,
            inputs,
            reproducible: raw.build.reproducible,
            source_archive,
            artifacts,
        })
    }
}

/// A path below the build's folder.
fn check_relative(text: &Text, at: &Span<String>, path: &str) -> Result<(), ConfigError> {
    let plain = |segment: &str| !segment.is_empty() && segment != "." && segment != "..";
    if path.len() <= 512 && path.split('/').all(plain) && !path.chars().any(char::is_control) {
        return Ok(());
    }
    Err(text.error(at, "name a file below the build's folder, without `..`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Recipe, ConfigError> {
        Recipe::parse(text.as_bytes(), &"kestrel".parse().unwrap(), &"2.4.0".parse().unwrap())
    }

    #[test]
    fn makes_names_out() {
        let recipe = parse(
            "version = 1\n[build]\nscript = [\"make\"]\n[source-archive]\nname = \"{product}-{version}.tar.gz\"\n\
             [[artifact]]\npath = \"out/{product}_{version}_amd64.deb\"\nkind = \"deb\"\n",
        )
        .unwrap();
        assert_eq!(recipe.source_archive.unwrap().as_str(), "kestrel-2.4.0.tar.gz");
        assert_eq!(recipe.artifacts[0].path, "out/kestrel_2.4.0_amd64.deb");
        assert_eq!(recipe.artifacts[0].name.as_str(), "kestrel_2.4.0_amd64.deb");
        assert!(recipe.reproducible);
    }

    #[test]
    fn mistakes_have_a_place_and_a_nearest_word() {
        let error = parse("version = 1\n[build]\nscirpt = []\n").unwrap_err();
        assert_eq!((error.line, error.column, error.nearest.as_deref()), (3, 1, Some("script")));
        let cases = [
            ("[[artifact]]\npath = \"../x\"", "without `..`"),
            ("[[artifact]]\npath = \"/x\"", "without `..`"),
            ("[[artifact]]\npath = \"x\"\nname = \"SHA256SUMS\"", "itself uses"),
            ("[[artifact]]\npath = \"x\"\nname = \"a/b\"", "file name"),
            ("[[artifact]]\npath = \"a/x\"\n[[artifact]]\npath = \"b/x\"", "two artifacts"),
            ("", "nothing to release"),
        ];
        for (rest, message) in cases {
            let error = parse(&format!("version = 1\n[build]\nscript = [\"true\"]\n{rest}\n")).unwrap_err();
            assert!(error.to_string().contains(message), "{rest}: {error}");
        }
    }
}
