//! Who signed a tag.
//!
//! The tag object is read and its signature checked here, and not by
//! `git verify-tag`, which accepts an old tag under a new name and an expired
//! key whose owner backdates.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use jiff::Timestamp;

use super::Request;
use super::SourceError;
use super::git;
use super::git::Git;
use crate::manifest::Sha256;
use crate::manifest::Tag;
use crate::manifest::claim::GitId;
use crate::openpgp;
use crate::openpgp::Certificate;
use crate::process::Program;

/// Longer files with maintainers' keys are refused.
const MAX_KEYS: u64 = 16 << 20;
const PGP: &[u8] = b"-----BEGIN PGP SIGNATURE-----";
const SSH: &[u8] = b"-----BEGIN SSH SIGNATURE-----";

/// The people who may sign tags.
#[derive(Debug, Default)]
pub struct Maintainers {
    certificates: Vec<Certificate>,
    /// Files in the format of ssh-keygen(1), ALLOWED SIGNERS.
    allowed_signers: Vec<PathBuf>,
    /// Fingerprints: OpenPGP in upper-case hex, SSH as `SHA256:…`.
    revoked: BTreeSet<String>,
}

impl Maintainers {
    /// Reads the policy's files: OpenPGP certificates (armored or binary) or SSH
    /// allowed signers, told apart by their content.
    ///
    /// # Errors
    /// A file is missing or holds neither.
    pub fn load<'a>(signers: impl IntoIterator<Item = &'a Path>, revoked: Option<&Path>) -> Result<Self, SourceError> {
        let mut maintainers = Self::default();
        for path in signers {
            let bytes = read(path)?;
            if is_allowed_signers(&bytes) {
                maintainers.allowed_signers.push(path.to_owned());
                continue;
            }
            let wrong = |reason: String| SourceError::Keys { path: path.to_owned(), reason };
            let certificates = Certificate::all(&bytes).map_err(|error| wrong(error.to_string()))?;
            if certificates.is_empty() {
                return Err(wrong("it is empty".to_owned()));
            }
            maintainers.certificates.extend(certificates);
        }
        if let Some(path) = revoked {
            let text = String::from_utf8_lossy(&read(path)?).into_owned();
            for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
                match line {
                    "" => {}
                    ssh if ssh.starts_with("SHA256:") => {
                        maintainers.revoked.insert(ssh.to_owned());
                    }
                    hex => {
                        let fingerprint: String = hex.split_whitespace().collect::<String>().to_uppercase();
                        let is_hex = fingerprint.bytes().all(|b| b.is_ascii_hexdigit());
                        if !is_hex || !matches!(fingerprint.len(), 40 | 64) {
                            let reason = "a line is neither an OpenPGP fingerprint nor SHA256:…".to_owned();
                            return Err(SourceError::Keys { path: path.to_owned(), reason });
                        }
                        maintainers.revoked.insert(fingerprint);
                    }
                }
            }
        }
        Ok(maintainers)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    let missing = || SourceError::Io { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() };
    crate::transport::read_plain(path, MAX_KEYS)
        .map_err(|error| SourceError::Keys { path: path.to_owned(), reason: error.to_string() })?
        .ok_or_else(missing)
}

/// Every line with content has an SSH key type after the principals.
fn is_allowed_signers(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    lines.peek().is_some()
        && lines.all(|line| {
            line.split_ascii_whitespace()
                .skip(1)
                .any(|word| word.starts_with("ssh-") || word.starts_with("ecdsa-") || word.starts_with("sk-"))
        })
}

/// Tags that were checked, and the commit that they name.
pub(super) struct Checked {
    pub(super) tags: Vec<Tag>,
    pub(super) commit: GitId,
}

/// Checks the release tag and its sign-offs, and counts distinct maintainers.
pub(super) fn check(git: &Git<'_>, request: &Request<'_>, now: Timestamp) -> Result<Checked, SourceError> {
    let (release, commit) = check_one(git, git::TAG, request.tag, request.maintainers, now)?;
    let mut tags = vec![release];
    for (name, _) in git.refs(git::SIGNOFFS)? {
        let full = format!("signoff/{}/{name}", request.tag);
        let (tag, found) = check_one(git, &format!("{}{name}", git::SIGNOFFS), &full, request.maintainers, now)?;
        if found != commit {
            return Err(SourceError::SignoffElsewhere { tag: full, found, wanted: commit });
        }
        tags.push(tag);
    }
    let people: BTreeSet<&String> = tags.iter().map(|tag| &tag.signer).collect();
    if people.len() < request.threshold as usize {
        return Err(SourceError::TooFewSigners {
            tag: request.tag.to_owned(),
            have: people.into_iter().cloned().collect(),
            need: request.threshold,
        });
    }
    Ok(Checked { tags, commit })
}

fn check_one(
    git: &Git<'_>,
    refname: &str,
    name: &str,
    maintainers: &Maintainers,
    now: Timestamp,
) -> Result<(Tag, GitId), SourceError> {
    let object = git.id(refname)?;
    let kind = git.kind(&object)?;
    if kind != "tag" {
        return Err(SourceError::NotAnnotated { tag: name.to_owned(), kind });
    }
    let bytes = git.object("tag", &object)?;
    let parsed = Parsed::parse(&bytes, name)?;
    if parsed.name != name {
        return Err(SourceError::Renamed { wanted: name.to_owned(), inner: parsed.name });
    }
    let signer = match &parsed.signature {
        Signature::None => return Err(SourceError::Unsigned(name.to_owned())),
        Signature::Pgp(signature) => pgp_signer(name, &parsed.payload, signature, maintainers, now)?,
        Signature::Ssh(signature) => ssh_signer(git, name, &parsed.payload, signature, maintainers, now)?,
    };
    Ok((Tag { name: name.to_owned(), object, signer }, parsed.commit))
}

struct Parsed {
    commit: GitId,
    name: String,
    payload: Vec<u8>,
    signature: Signature,
}

enum Signature {
    None,
    Pgp(Vec<u8>),
    Ssh(Vec<u8>),
}

impl Parsed {
    /// Reads a tag object: `object`, `type`, `tag`, `tagger`, an empty line, the
    /// message, and after it at most one signature over all that is before it.
    fn parse(bytes: &[u8], wanted: &str) -> Result<Self, SourceError> {
        let malformed = |reason: &str| SourceError::MalformedTag { tag: wanted.to_owned(), reason: reason.to_owned() };
        let starts: Vec<usize> = line_starts(bytes)
            .filter(|start| bytes[*start..].starts_with(PGP) || bytes[*start..].starts_with(SSH))
            .collect();
        let (payload, signature) = match starts.as_slice() {
            [] => (bytes, Signature::None),
            [start] => {
                let (payload, signature) = bytes.split_at(*start);
                let signature = signature.to_vec();
                let is_pgp = signature.starts_with(PGP);
                (payload, if is_pgp { Signature::Pgp(signature) } else { Signature::Ssh(signature) })
            }
            _ => return Err(malformed("it has several signatures")),
        };
        let header = payload.split(|b| *b == b'\n').take_while(|line| !line.is_empty());
        let lines: Vec<&str> = header
            .map(std::str::from_utf8)
            .collect::<Result<_, _>>()
            .map_err(|_| malformed("its header is not UTF-8"))?;
        let field = |index: usize, name: &str| {
            lines
                .get(index)
                .and_then(|line| line.strip_prefix(name)?.strip_prefix(' '))
                .ok_or_else(|| malformed(&format!("it has no `{name}`")))
        };
        let kind = field(1, "type")?;
        if kind != "commit" {
            return Err(SourceError::NotAnnotated { tag: wanted.to_owned(), kind: format!("tag of a {kind}") });
        }
        let commit = field(0, "object")?.parse().map_err(|_| malformed("its commit is no object id"))?;
        let name = field(2, "tag")?.to_owned();
        field(3, "tagger")?;
        if lines.len() != 4 {
            return Err(malformed("its header has unknown lines"));
        }
        Ok(Self { commit, name, payload: payload.to_vec(), signature })
    }
}

fn line_starts(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let after_breaks = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(index, _)| index + 1);
    std::iter::once(0).chain(after_breaks)
}

fn pgp_signer(
    name: &str,
    payload: &[u8],
    signature: &[u8],
    maintainers: &Maintainers,
    now: Timestamp,
) -> Result<String, SourceError> {
    let unknown = |reason: &str| SourceError::UnknownSigner { tag: name.to_owned(), reason: reason.to_owned() };
    let signers = openpgp::signers_of(payload, signature, &maintainers.certificates, now, &maintainers.revoked)
        .map_err(|error| unknown(&format!("its OpenPGP signature cannot be read: {error}")))?;
    match signers.first() {
        Some(certificate) => Ok(certificate.identity()),
        None => Err(unknown("its OpenPGP signature is by no certificate that is listed, valid today and not revoked")),
    }
}

/// Asks ssh-keygen, which wrote the format. The time that counts is now, not the
/// date in the tag, which whoever has a key writes as he likes.
fn ssh_signer(
    git: &Git<'_>,
    name: &str,
    payload: &[u8],
    signature: &[u8],
    maintainers: &Maintainers,
    now: Timestamp,
) -> Result<String, SourceError> {
    let unknown = |reason: &str| SourceError::UnknownSigner { tag: name.to_owned(), reason: reason.to_owned() };
    let (kind, fingerprint) = ssh_key(signature).ok_or_else(|| unknown("its SSH signature cannot be read"))?;
    if kind.ends_with("-cert-v01@openssh.com") {
        // Its fingerprint is not that of the key, which may be revoked.
        return Err(unknown("it is signed with an SSH certificate; only keys that are listed count"));
    }
    if maintainers.revoked.contains(&fingerprint) {
        return Err(unknown(&format!("key {fingerprint} is revoked")));
    }
    let io = |source| SourceError::Io { path: git.folder().to_owned(), source };
    let mut file = tempfile::NamedTempFile::new_in(git.folder()).map_err(io)?;
    file.write_all(signature).map_err(io)?;
    let time = format!("-Overify-time={}", now.strftime("%Y%m%d%H%M%SZ"));
    let mut complaint = String::new();
    for allowed in &maintainers.allowed_signers {
        let keygen = |action: &str| {
            Program::new("ssh-keygen").args(["-Y", action, &time, "-s"]).arg(file.path()).arg("-f").arg(allowed)
        };
        let found = keygen("find-principals").output(&[], git.progress())?;
        complaint = found.complaint;
        let principals = String::from_utf8_lossy(&found.stdout).into_owned();
        for principal in principals.lines().filter(|_| found.status.success()) {
            let verified = keygen("verify").args(["-n", "git", "-I", principal]).output(payload, git.progress())?;
            if verified.status.success() {
                return Ok(principal.to_lowercase());
            }
        }
    }
    let says = if complaint.is_empty() { String::new() } else { format!("; ssh-keygen says: {complaint}") };
    Err(unknown(&format!("SSH key {fingerprint} is not listed, not valid today, or did not make the signature{says}")))
}

/// Kind and fingerprint of the key in an SSH signature (PROTOCOL.sshsig): magic
/// `SSHSIG`, version, then the public key as a string, which begins with its
/// kind as a string.
fn ssh_key(armored: &[u8]) -> Option<(String, String)> {
    fn string(bytes: &[u8]) -> Option<&[u8]> {
        let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        bytes.get(4..)?.get(..length)
    }
    let text = std::str::from_utf8(armored).ok()?;
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    let blob = STANDARD.decode(body).ok()?;
    let key = string(blob.strip_prefix(b"SSHSIG")?.get(4..)?)?;
    let kind = String::from_utf8_lossy(string(key)?).into_owned();
    Some((kind, format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::of(key).as_bytes()))))
}
