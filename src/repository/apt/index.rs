//! The indices of a suite: `Packages` in three forms, and `Release`, which names them
//! (<https://wiki.debian.org/DebianRepository/Format>). All bytes follow from the
//! packages and the time.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::io::Read;

use jiff::Timestamp;

use super::Control;
use crate::manifest::Architecture;
use crate::manifest::Component;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::Suite;
use crate::manifest::names::NameError;
use crate::repository::layout;

/// Packages that are for every architecture.
const ALL: &str = "all";

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
        let below = self.path.as_str().strip_prefix(layout::APT).unwrap_or(self.path.as_str());
        format!("{}Filename: {below}\nSize: {}\nSHA256: {}\n", self.control.stanza(), self.length, self.sha256)
    }
}

/// What a suite says of itself, which clients never see change.
#[derive(Debug)]
pub struct Head<'a> {
    /// Its name.
    pub suite: &'a Suite,
    /// Whose repository it is.
    pub origin: &'a str,
    /// The fingerprint of the certificate that signs it.
    pub signed_by: &'a str,
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
    head: &Head<'_>,
    packages: &BTreeMap<Component, Vec<Package>>,
    mut architectures: BTreeSet<Architecture>,
    (at, until): (Timestamp, Timestamp),
) -> Result<Indices, IndexError> {
    architectures.extend(packages.values().flatten().map(|package| package.control.architecture.clone()));
    // Every client takes those for its own architecture, which hold these as well.
    let merged = architectures.iter().any(|architecture| architecture.as_str() != ALL);
    if merged {
        architectures.retain(|architecture| architecture.as_str() != ALL);
    }
    let mut files = Vec::new();
    let mut sums = String::new();
    for (component, packages) in packages {
        for architecture in &architectures {
            let of_architecture =
                |it: &&Package| it.control.architecture == *architecture || it.control.architecture.as_str() == ALL;
            let mut listed: Vec<&Package> = packages.iter().filter(of_architecture).collect();
            listed.sort_by(|a, b| order(a).cmp(&order(b)));
            let stanzas: Vec<String> = listed.into_iter().map(Package::stanza).collect();
            let plain = stanzas.join("\n").into_bytes();
            for (suffix, bytes) in [("", plain.clone()), (".gz", gzip(&plain)?), (".xz", xz(&plain)?)] {
                let sha256 = Sha256::of(&bytes);
                let folder = layout::apt_indices(component, architecture);
                let _ = writeln!(sums, " {sha256} {:>8} {folder}/Packages{suffix}", bytes.len());
                files.push((layout::apt_file(head.suite, &format!("{folder}/Packages{suffix}"))?, bytes.clone()));
                files.push((layout::apt_file(head.suite, &format!("{folder}/by-hash/SHA256/{sha256}"))?, bytes));
            }
        }
    }
    let words = |words: Vec<&str>| words.join(" ");
    let release = format!(
        "Origin: {origin}\nLabel: {origin}\nSuite: {suite}\nCodename: {suite}\nDate: {}\nValid-Until: {}\n\
         Acquire-By-Hash: yes\n{}Architectures: {}\nComponents: {}\nSigned-By: {}\nSHA256:\n{sums}",
        date(at),
        date(until),
        if merged { "No-Support-for-Architecture-all: Packages\n" } else { "" },
        words(architectures.iter().map(Architecture::as_str).collect()),
        words(packages.keys().map(Component::as_str).collect()),
        head.signed_by,
        origin = head.origin,
        suite = head.suite,
    );
    Ok(Indices { files, release })
}

/// Indices that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A path is too long.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Compression failed.
    #[error("cannot compress an index")]
    Compress(#[from] io::Error),
}

/// By name, and then the newest last.
fn order(package: &Package) -> (&crate::manifest::PackageName, &super::DebVersion, &Architecture) {
    let control = &package.control;
    (&control.package, &control.version, &control.architecture)
}

/// As in RFC 5322, in UTC: what apt reads.
fn date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string()
}

/// Until when a `Release` file is valid.
pub fn valid_until(release: &str) -> Option<Timestamp> {
    let value = release.lines().find_map(|line| line.strip_prefix("Valid-Until: "))?;
    let date = jiff::civil::DateTime::strptime("%a, %d %b %Y %H:%M:%S UTC", value).ok()?;
    date.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|date| date.timestamp())
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
