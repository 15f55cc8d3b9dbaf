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
use super::git::Git;
use super::refs;
use crate::key::ssh;
use crate::key::ssh::Reader;
use crate::manifest::Tag;
use crate::manifest::claim::GitId;
use crate::openpgp;
use crate::openpgp::Certificate;
use crate::process::Program;

/// Longer files with maintainers' keys are refused.
const MAX_KEYS: u64 = 16 << 20;
/// Longer tag objects are refused; release notes are some kilobytes.
const MAX_TAG: u64 = 1 << 20;
/// More sign-offs of one tag are refused: each costs some runs of git.
const MAX_SIGNOFFS: usize = 100;
const PGP_BEGIN: &str = "-----BEGIN PGP SIGNATURE-----";
const SSH_BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const SSH_END: &str = "-----END SSH SIGNATURE-----";

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
            maintainers.revoked =
                revoked_keys(&read(path)?).map_err(|reason| SourceError::Keys { path: path.to_owned(), reason })?;
        }
        Ok(maintainers)
    }
}

/// Reads a list of revoked keys: one fingerprint a line, `#` begins a comment.
///
/// # Errors
/// A line that is no fingerprint: a key whose fingerprint is misspelt would
/// silently go on to count.
pub fn revoked_keys(bytes: &[u8]) -> Result<BTreeSet<String>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut revoked = BTreeSet::new();
    for (line, number) in lines.zip(1..).filter(|(line, _)| !line.is_empty()) {
        if let Some(digest) = line.strip_prefix("SHA256:") {
            if STANDARD_NO_PAD.decode(digest).ok().is_none_or(|digest| digest.len() != 32) {
                return Err(format!("line {number} is no SSH fingerprint as `ssh-keygen -l` prints it"));
            }
            revoked.insert(line.to_owned());
            continue;
        }
        let fingerprint: String = line.split_whitespace().collect::<String>().to_uppercase();
        let is_hex = fingerprint.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_hex || !matches!(fingerprint.len(), 40 | 64) {
            return Err(format!("line {number} is neither an OpenPGP fingerprint nor SHA256:…"));
        }
        revoked.insert(fingerprint);
    }
    Ok(revoked)
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
    let (release, commit) = check_one(git, refs::TAG, request.tag, request.maintainers, now)?;
    let mut tags = vec![release];
    let signoffs = git.refs(refs::SIGNOFFS)?;
    if signoffs.len() > MAX_SIGNOFFS {
        let reason = format!("it has {} sign-offs; at most {MAX_SIGNOFFS} are read", signoffs.len());
        return Err(SourceError::MalformedTag { tag: request.tag.to_owned(), reason });
    }
    for (name, _) in signoffs {
        let full = format!("signoff/{}/{name}", request.tag);
        let (tag, found) = check_one(git, &format!("{}{name}", refs::SIGNOFFS), &full, request.maintainers, now)?;
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
    let (kind, size) = git.kind(&object)?;
    if kind != "tag" {
        return Err(SourceError::NotAnnotated { tag: name.to_owned(), kind });
    }
    if size > MAX_TAG {
        let reason = format!("it is longer than {MAX_TAG} bytes");
        return Err(SourceError::MalformedTag { tag: name.to_owned(), reason });
    }
    let bytes = git.object("tag", &object)?;
    let parsed = Parsed::parse(&bytes).map_err(|fault| fault.of(name))?;
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

/// A tag object, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The commit that it names.
    pub commit: GitId,
    /// The name that it gives itself.
    pub name: String,
    /// What the signature covers: all that is before it.
    pub payload: Vec<u8>,
    /// The signature.
    pub signature: Signature,
}

/// The signature of a tag object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// There is none.
    None,
    /// OpenPGP, in ASCII armor.
    Pgp(Vec<u8>),
    /// SSH, in the armor of PROTOCOL.sshsig.
    Ssh(Vec<u8>),
}

/// What is wrong with a tag object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is a tag of something else than a commit.
    Kind(String),
    /// git would not make it.
    Malformed(String),
}

impl Fault {
    fn of(self, tag: &str) -> SourceError {
        match self {
            Self::Kind(kind) => SourceError::NotAnnotated { tag: tag.to_owned(), kind: format!("tag of a {kind}") },
            Self::Malformed(reason) => SourceError::MalformedTag { tag: tag.to_owned(), reason },
        }
    }
}

impl Parsed {
    /// Reads a tag object: `object`, `type`, `tag`, `tagger`, an empty line, the
    /// message, and after it at most one signature over all that is before it.
    ///
    /// # Errors
    /// Another form, or a tag of something else than a commit.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let malformed = |reason: &str| Fault::Malformed(reason.to_owned());
        let starts: Vec<usize> = line_starts(bytes)
            .filter(|start| {
                bytes[*start..].starts_with(PGP_BEGIN.as_bytes()) || bytes[*start..].starts_with(SSH_BEGIN.as_bytes())
            })
            .collect();
        let (payload, signature) = match starts.as_slice() {
            [] => (bytes, Signature::None),
            [start] => {
                let (payload, signature) = bytes.split_at(*start);
                let signature = signature.to_vec();
                let is_pgp = signature.starts_with(PGP_BEGIN.as_bytes());
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
            return Err(Fault::Kind(kind.to_owned()));
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
    let signature = SshSignature::parse(signature).ok_or_else(|| unknown("its SSH signature cannot be read"))?;
    if signature.by_certificate() {
        return Err(unknown("its SSH signature is by a certificate; list the key itself"));
    }
    let fingerprint = signature.fingerprint();
    if maintainers.revoked.contains(&fingerprint) {
        return Err(unknown(&format!("key {fingerprint} is revoked")));
    }
    let io = |source| SourceError::Io { path: git.folder().to_owned(), source };
    let mut file = tempfile::NamedTempFile::new_in(git.folder()).map_err(io)?;
    file.write_all(&signature.to_armor()).map_err(io)?;
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

/// An SSH signature (PROTOCOL.sshsig): magic `SSHSIG`, version, the public key
/// as a string, and what only ssh-keygen reads.
///
/// ssh-keygen is asked about what was read here, in an armor made anew, so that
/// the key that verifies is the one that was looked up among the revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSignature {
    blob: Vec<u8>,
    key: Vec<u8>,
}

impl SshSignature {
    /// Reads an armored signature, and nothing after it.
    pub fn parse(armored: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(armored).ok()?;
        let body = text.strip_prefix(SSH_BEGIN)?.strip_prefix('\n')?.trim_end_matches('\n').strip_suffix(SSH_END)?;
        let blob = STANDARD.decode(body.split('\n').collect::<String>()).ok()?;
        let mut reader = Reader(blob.strip_prefix(b"SSHSIG")?);
        reader.number()?;
        let key = reader.string()?.to_vec();
        Reader(&key).string()?;
        Some(Self { blob, key })
    }

    /// The fingerprint of the key, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        ssh::fingerprint(&self.key)
    }

    /// Whether the key stands in a certificate, whose fingerprint is another
    /// one than the key's.
    fn by_certificate(&self) -> bool {
        Reader(&self.key).string().is_none_or(|kind| kind.ends_with(b"-cert-v01@openssh.com"))
    }

    /// The signature in armor, as ssh-keygen writes it.
    pub fn to_armor(&self) -> Vec<u8> {
        let mut out = format!("{SSH_BEGIN}\n").into_bytes();
        for line in STANDARD.encode(&self.blob).as_bytes().chunks(70) {
            out.extend_from_slice(line);
            out.push(b'\n');
        }
        out.extend_from_slice(SSH_END.as_bytes());
        out.push(b'\n');
        out
    }
}
