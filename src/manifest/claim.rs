//! Pins, and what a build says of itself: in-toto Statement v1 with SLSA
//! provenance v1.
//!
//! The same statement serves twice. Signed by a holder's claim key it is a
//! *claim*: "from this pin, with this recipe and environment, I got these
//! digests". Bare, with the head of the journal, it is the *provenance* of the
//! release, which the product role authenticates as a TUF target. Two claims
//! agree when their subjects and their build definitions are equal.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use super::Artifact;
use super::FileName;
use super::Product;
use super::Sha256;
use super::Version;
use super::json;
use super::json::JsonError;
use super::names::quoted;

/// `_type` of every statement.
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// `predicateType` of every statement.
const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// What the fields of `externalParameters` and the dependencies mean.
const BUILD_TYPE: &str = "urn:release-terminal:build:1";
/// The kind of builder: a release terminal, in a sandbox without network.
const BUILDER: &str = "urn:release-terminal:builder:1";

/// The id of a git object: SHA-1 or SHA-256, lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GitId(String);

/// A text that is not a git object id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not a git object id", super::names::quoted(.0))]
pub struct GitIdError(String);

impl GitId {
    /// The first 12 digits, for lines that people read.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    /// The id as hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GitId {
    type Err = GitIdError;
    fn from_str(text: &str) -> Result<Self, GitIdError> {
        let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex && matches!(text.len(), 40 | 64) { Ok(Self(text.to_owned())) } else { Err(GitIdError(text.to_owned())) }
    }
}

impl TryFrom<String> for GitId {
    type Error = GitIdError;
    fn try_from(text: String) -> Result<Self, GitIdError> {
        text.parse()
    }
}

impl From<GitId> for String {
    fn from(id: GitId) -> String {
        id.0
    }
}

impl fmt::Display for GitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A signed annotated tag that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// Its name, without `refs/tags/`.
    pub name: String,
    /// The id of the tag object.
    pub object: GitId,
    /// The enrolled maintainer who signed it.
    pub signer: String,
}

/// What a cut builds, fixed at its first fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The release tag, then the sign-offs by further maintainers.
    pub tags: Vec<Tag>,
    /// The commit that all tags name.
    pub commit: GitId,
    /// When the commit was made, in seconds since 1970: SOURCE_DATE_EPOCH.
    pub commit_time: i64,
    /// The release branch whose head the commit was.
    pub branch: String,
    /// The head of the branch at that time.
    pub head: GitId,
}

/// The source archive, made from the pinned commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceArchive {
    /// Digest of the uncompressed tar; the pin's SHA-256, whatever git hashes with.
    pub tar: Sha256,
    /// Size of the uncompressed tar in bytes.
    pub tar_length: u64,
    /// The compressed archive, where the recipe asks for one.
    pub gz: Option<CompressedArchive>,
}

/// The compressed source archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompressedArchive {
    /// Its published name.
    pub name: FileName,
    /// Digest of the compressed bytes.
    pub sha256: Sha256,
    /// Size in bytes.
    pub length: u64,
    /// Compressor, version and level: other ones give other bytes.
    pub compressor: String,
}

/// All that determines the bytes of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build<'a> {
    /// What is built.
    pub product: &'a Product,
    /// Which version.
    pub version: &'a Version,
    /// Where the source came from, as the policy names it.
    pub source: &'a str,
    /// The pin.
    pub pin: &'a Pin,
    /// The source archive.
    pub archive: &'a SourceArchive,
    /// Digest of `release.toml`.
    pub recipe: Sha256,
    /// Digest of the build environment's description.
    pub environment: Sha256,
    /// Inputs by the path at which the build sees them.
    pub inputs: &'a BTreeMap<String, Sha256>,
}

impl Build<'_> {
    /// SLSA `buildDefinition`.
    fn definition(&self) -> Value {
        let mut dependencies = vec![json!({
            "name": "source",
            "uri": format!("git+{}", self.source),
            "digest": { "gitCommit": self.pin.commit },
        })];
        dependencies.extend(
            self.pin
                .tags
                .iter()
                .map(|tag| json!({ "name": format!("tag {}", tag.name), "digest": { "gitTag": tag.object } })),
        );
        dependencies.push(json!({ "name": "source.tar", "digest": { "sha256": self.archive.tar } }));
        if let Some(gz) = &self.archive.gz {
            dependencies.push(json!({
                "name": "source.tar.gz",
                "digest": { "sha256": gz.sha256 },
                "annotations": { "compressor": gz.compressor },
            }));
        }
        dependencies.push(json!({ "name": "release.toml", "digest": { "sha256": self.recipe } }));
        dependencies.push(json!({ "name": "environment", "digest": { "sha256": self.environment } }));
        dependencies.extend(
            self.inputs
                .iter()
                .map(|(path, sha256)| json!({ "name": format!("input {path}"), "digest": { "sha256": sha256 } })),
        );
        json!({
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "product": self.product,
                "version": self.version,
                "branch": self.pin.branch,
                "tag": self.pin.tags.first().map(|tag| &tag.name),
            },
            "resolvedDependencies": dependencies,
        })
    }

    /// The statement about `artifacts`, in compact form. With `journal`, the
    /// head of this terminal's journal, it is the provenance of a release.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn statement(&self, artifacts: &[Artifact], journal: Option<Sha256>) -> Result<Vec<u8>, JsonError> {
        let mut run = json!({
            "builder": { "id": BUILDER, "version": { "release-terminal": env!("CARGO_PKG_VERSION") } },
        });
        if let Some(head) = journal {
            run["byproducts"] = json!([{ "name": "journal", "digest": { "sha256": head } }]);
        }
        let subjects: Vec<Value> = artifacts
            .iter()
            .map(|artifact| json!({ "name": artifact.name, "digest": { "sha256": artifact.sha256 } }))
            .collect();
        json::to_vec(&json!({
            "_type": STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": PREDICATE_TYPE,
            "predicate": { "buildDefinition": self.definition(), "runDetails": run },
        }))
    }
}

/// The head of the journal that a provenance names.
pub fn journal_head(provenance: &[u8]) -> Option<Sha256> {
    let value = json::from_slice(provenance).ok()?;
    let byproducts = value["predicate"]["runDetails"]["byproducts"].as_array()?;
    let journal = byproducts.iter().find(|item| item["name"] == "journal")?;
    journal["digest"]["sha256"].as_str()?.parse().ok()
}

/// A statement as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    subjects: BTreeMap<String, Sha256>,
    definition: Value,
}

/// A statement that is not one of ours.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// Not JSON of the expected members and types.
    #[error("not an in-toto statement: {0}")]
    Json(#[from] JsonError),
    /// Another kind of statement.
    #[error("{member} is {}, not {expected}", super::names::quoted(.found))]
    Kind {
        /// Which member.
        member: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        expected: &'static str,
    },
    /// One name with two digests.
    #[error("it names {} twice", super::names::quoted(.0))]
    Doubled(String),
}

#[derive(Deserialize)]
struct RawStatement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<RawSubject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: RawPredicate,
}

#[derive(Deserialize)]
struct RawSubject {
    name: String,
    digest: RawDigest,
}

#[derive(Deserialize)]
struct RawDigest {
    sha256: Sha256,
}

#[derive(Deserialize)]
struct RawPredicate {
    #[serde(rename = "buildDefinition")]
    build_definition: Value,
}

impl Statement {
    /// Parses a statement, which is in compact form.
    ///
    /// # Errors
    /// Another type, build type or shape; a name with two digests.
    pub fn parse(bytes: &[u8]) -> Result<Self, StatementError> {
        let raw: RawStatement = json::typed(json::from_slice_strict(bytes)?)?;
        let expect = |member, found: &str, expected| {
            if found == expected {
                Ok(())
            } else {
                Err(StatementError::Kind { member, found: found.to_owned(), expected })
            }
        };
        expect("_type", &raw.kind, STATEMENT_TYPE)?;
        expect("predicateType", &raw.predicate_type, PREDICATE_TYPE)?;
        let definition = raw.predicate.build_definition;
        expect("buildType", definition["buildType"].as_str().unwrap_or_default(), BUILD_TYPE)?;
        let mut subjects = BTreeMap::new();
        for subject in raw.subject {
            if subjects.insert(subject.name.clone(), subject.digest.sha256).is_some() {
                return Err(StatementError::Doubled(subject.name));
            }
        }
        Ok(Self { subjects, definition })
    }

    /// Names and digests of what was built.
    pub fn subjects(&self) -> &BTreeMap<String, Sha256> {
        &self.subjects
    }

    /// The product that was built, as stated.
    pub fn product(&self) -> Option<&str> {
        self.definition["externalParameters"]["product"].as_str()
    }

    /// The version that was built, as stated.
    pub fn version(&self) -> Option<&str> {
        self.definition["externalParameters"]["version"].as_str()
    }

    /// The commit that was built.
    pub fn commit(&self) -> Option<GitId> {
        self.dependency("source")?["digest"]["gitCommit"].as_str()?.parse().ok()
    }

    /// The release branch that it was on.
    pub fn branch(&self) -> Option<&str> {
        self.definition["externalParameters"]["branch"].as_str()
    }

    /// The digest of a dependency: `release.toml`, `environment`, `source.tar`.
    pub fn digest_of(&self, dependency: &str) -> Option<Sha256> {
        self.dependency(dependency)?["digest"]["sha256"].as_str()?.parse().ok()
    }

    fn dependency(&self, name: &str) -> Option<&Value> {
        self.definition["resolvedDependencies"].as_array()?.iter().find(|item| item["name"] == name)
    }

    /// What differs from the statement of another terminal: a line for each file, and
    /// for each thing that went into the build.
    pub fn differences(&self, there: &Self) -> Vec<String> {
        let show = |found: Option<&Sha256>| found.map_or_else(|| "nothing".to_owned(), ToString::to_string);
        let names: BTreeSet<&String> = self.subjects.keys().chain(there.subjects.keys()).collect();
        let mut lines = Vec::new();
        for name in names {
            let (own, other) = (self.subjects.get(name), there.subjects.get(name));
            if own != other {
                lines.push(format!("{}: here {}, there {}", quoted(name), show(own), show(other)));
            }
        }
        if self.definition != there.definition {
            for name in ["source.tar", "source.tar.gz", "release.toml", "environment"] {
                let (own, other) = (self.digest_of(name), there.digest_of(name));
                if own != other {
                    lines.push(format!("{name}: here {}, there {}", show(own.as_ref()), show(other.as_ref())));
                }
            }
            if lines.is_empty() {
                lines.push("the pin, the inputs or the compressor".to_owned());
            }
        }
        lines
    }

    /// Whether both say that the same bytes came out of the same source,
    /// recipe and environment.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self == other
    }
}
