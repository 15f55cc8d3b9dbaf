//! The indices of a suite: `Packages` and `Sources` in three forms, and `Release`, which names them
//! (<https://wiki.debian.org/DebianRepository/Format>). All bytes follow from the
//! packages and the time.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::io::Read;

use jiff::Timestamp;

use super::Control;
use super::Dsc;
use crate::manifest::Architecture;
use crate::manifest::Component;
use crate::manifest::HostName;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::Suite;
use crate::manifest::names::NameError;
use crate::manifest::suite;
use crate::manifest::suite::Lists;
use crate::manifest::suite::SourceStanza;
use crate::manifest::suite::Stanza;

/// A package in the pool.
#[derive(Debug, Clone)]
pub struct Package {
    /// What it says of itself.
    pub control: Control,
    /// Where it is in the repository.
    pub path: RepoPath,
    /// Size in bytes.
    pub length: u64,
    /// Digest of its content.
    pub sha256: Sha256,
}

impl Package {
    /// Its stanza in `Packages`.
    fn stanza(&self) -> String {
        let filename = self.path.as_str().strip_prefix(suite::APT).unwrap_or(self.path.as_str());
        let (control, length, sha256) = (&self.control.stanza(), self.length, self.sha256);
        Stanza { control, filename, length, sha256 }.render()
    }
}

/// A source package in the pool.
#[derive(Debug, Clone)]
pub struct Source {
    /// What it says of itself.
    pub dsc: Dsc,
    /// Where the `.dsc` is in the repository.
    pub path: RepoPath,
    /// The size of the `.dsc` in bytes.
    pub length: u64,
    /// The digest of the content of the `.dsc`.
    pub sha256: Sha256,
}

impl Source {
    /// Its stanza in `Sources`.
    fn stanza(&self) -> String {
        let path = self.path.as_str().strip_prefix(suite::APT).unwrap_or(self.path.as_str());
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let (control, length, sha256) = (&self.dsc.stanza(), self.length, self.sha256);
        SourceStanza { control, name, length, sha256, directory }.render()
    }
}

/// What a component of a suite has.
#[derive(Debug, Default)]
pub struct Contents {
    /// Packages.
    pub packages: Vec<Package>,
    /// Source packages.
    pub sources: Vec<Source>,
}

impl Contents {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.sources.is_empty()
    }
}

/// What a suite says of itself, which clients never see change.
#[derive(Debug)]
pub struct Head<'a> {
    /// Its name.
    pub suite: &'a Suite,
    /// Whose repository it is.
    pub origin: HostName,
    /// The fingerprint of the certificate that signs it.
    pub signed_by: String,
}

/// The indices of a suite.
#[derive(Debug)]
pub struct Indices {
    /// Their files, each under its own name and that of its content.
    pub files: Vec<(RepoPath, Vec<u8>)>,
    /// `Release`: what they are, and the digest of each.
    pub release: String,
}

/// Makes the indices of a suite as of the first time, valid until the second, for these
/// architectures and those of its packages.
///
/// # Errors
/// A path becomes too long; memory for compression is missing.
pub fn indices(
    head: Head<'_>,
    contents: &BTreeMap<Component, Contents>,
    mut architectures: BTreeSet<Architecture>,
    (at, until): (Timestamp, Timestamp),
) -> Result<Indices, IndexError> {
    let packages = contents.values().flat_map(|contents| &contents.packages);
    architectures.extend(packages.map(|package| package.control.architecture.clone()));
    // Every client takes those for its own architecture, which hold these as well.
    if architectures.iter().any(|architecture| architecture.as_str() != suite::ALL) {
        architectures.retain(|architecture| architecture.as_str() != suite::ALL);
    }
    // One without packages has sources, or had something.
    if architectures.is_empty() {
        architectures.insert(suite::ALL.parse()?);
    }
    let (mut files, mut indices) = (Vec::new(), Vec::new());
    let mut add = |component: &Component, lists: Lists, stanzas: Vec<String>| -> Result<(), IndexError> {
        let plain = stanzas.join("\n").into_bytes();
        for form in suite::FORMS {
            let bytes = match form {
                ".gz" => gzip(&plain)?,
                ".xz" => xz(&plain)?,
                _ => plain.clone(),
            };
            let (sha256, length) = (Sha256::of(&bytes), bytes.len() as u64);
            if length > suite::MAX_INDEX {
                return Err(IndexError::TooLarge { suite: head.suite.clone(), length });
            }
            let index = suite::Index { component: component.clone(), lists: lists.clone(), form, length, sha256 };
            files.push((suite::file(head.suite, &index.name())?, bytes.clone()));
            files.push((suite::file(head.suite, &index.by_hash())?, bytes));
            indices.push(index);
        }
        Ok(())
    };
    for (component, contents) in contents {
        for architecture in &architectures {
            let of_architecture = |it: &&Package| {
                it.control.architecture == *architecture || it.control.architecture.as_str() == suite::ALL
            };
            let mut listed: Vec<&Package> = contents.packages.iter().filter(of_architecture).collect();
            listed.sort_by(|a, b| order(a).cmp(&order(b)));
            let stanzas = listed.into_iter().map(Package::stanza).collect();
            add(component, Lists::Packages(architecture.clone()), stanzas)?;
        }
        let mut listed: Vec<&Source> = contents.sources.iter().collect();
        listed.sort_by(|a, b| (&a.dsc.source, &a.dsc.version).cmp(&(&b.dsc.source, &b.dsc.version)));
        add(component, Lists::Sources, listed.into_iter().map(Source::stanza).collect())?;
    }
    let release = suite::Release {
        suite: head.suite.clone(),
        origin: head.origin,
        date: at,
        valid_until: until,
        architectures: architectures.into_iter().collect(),
        components: contents.keys().cloned().collect(),
        signed_by: head.signed_by,
        indices,
    };
    Ok(Indices { files, release: release.render() })
}

/// Indices that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A path is too long.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An index would be too long for users.
    #[error("suite {suite} for apt would have an index of {length} bytes; {} is the most", suite::MAX_INDEX)]
    TooLarge {
        /// The suite.
        suite: Suite,
        /// The size that it would have.
        length: u64,
    },
    /// Compression failed.
    #[error("cannot compress an index")]
    Compress(#[from] io::Error),
}

/// By name, and then the newest last.
fn order(package: &Package) -> (&crate::manifest::PackageName, &super::DebVersion, &Architecture) {
    let control = &package.control;
    (&control.package, &control.version, &control.architecture)
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    flate2::bufread::GzEncoder::new(bytes, flate2::Compression::best()).read_to_end(&mut packed)?;
    Ok(packed)
}

fn xz(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    let stream = liblzma::stream::Stream::new_easy_encoder(6, liblzma::stream::Check::Crc64);
    let stream = stream.map_err(io::Error::other)?;
    liblzma::bufread::XzEncoder::new_stream(bytes, stream).read_to_end(&mut packed)?;
    Ok(packed)
}
