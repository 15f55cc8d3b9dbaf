//! Takes into a home what a removable medium brings: inputs of builds, git bundles with
//! the source of a version, and what other release managers send.
//!
//! The medium is hostile. Nothing on it is trusted, and nothing needs to be: an
//! input is used under its digest, by a recipe that enrolled maintainers have
//! tagged, and a bundle is fetched from as from any other source. Requests, approvals and
//! claims are signed by whoever sends them; what they say is looked at by the commands
//! that use them. They are kept under names that follow from what they say. So every plain
//! file with a plain name is taken, whether a recipe asks for it already or not:
//! mostly the recipe comes on the same medium. What nobody asks for costs space,
//! which is bounded here.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use tempfile::NamedTempFile;

use crate::approve::ClaimKeys;
use crate::approve::Incoming;
use crate::approve::MAX_MESSAGE;
use crate::approve::Message;
use crate::approve::MessageError;
use crate::approve::Sent;
use crate::home;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::SOURCE_BUNDLE;
use crate::home::atomic;
use crate::manifest::FileName;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::claim::Statement;
use crate::progress::Event;
use crate::progress::Progress;
use crate::progress::Stage;
use crate::sign;
use crate::transport::Found;
use crate::transport::Medium;
use crate::transport::TransportError;

/// More names than this on a medium are too many.
pub const MAX_NAMES: usize = 1000;
/// Longer files are refused, in bytes.
pub const MAX_FILE: u64 = 4 << 30;
/// More than this of one medium is refused, in bytes.
pub const MAX_TOTAL: u64 = 16 << 30;
/// What stays free in the home, in bytes: a full disk stops every release.
pub const RESERVE: u64 = 256 << 20;

/// How unfinished copies begin.
const PARTIAL: &str = ".new-";
/// How requests, approvals and claims begin.
const ENVELOPE: &[u8] = b"{\"payload\":\"";
/// How git bundles begin.
const SIGNATURES: [&[u8]; 2] = [b"# v2 git bundle\n", b"# v3 git bundle\n"];

/// A medium that cannot be read, or a home that cannot take it. What was taken
/// before is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// The medium.
    #[error(transparent)]
    Medium(#[from] TransportError),
    /// The home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// There is not enough space for a file.
    #[error(
        "{} has {available} bytes free; {name} has {length}, and {RESERVE} stay free for the next release",
        .folder.display()
    )]
    NoSpace {
        /// The folder that should take it.
        folder: PathBuf,
        /// What is free there.
        available: u64,
        /// The file.
        name: FileName,
        /// Its length in bytes.
        length: u64,
    },
}

/// What became of a name on a medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is an input of builds now.
    Input(Sha256, u64),
    /// It is in the inbox now.
    Bundle(Sha256, u64),
    /// A request, an approval or a claim is in the inbox now, under this name.
    Message(String, Sha256, u64),
    /// The home has it already.
    Known(Sha256, u64),
    /// A folder, which is not entered.
    Folder,
    /// It was refused, and why.
    Refused(String),
}

/// Takes every plain file at the top of a medium. The caller holds the lock.
/// `report` is told each name, as it is on the medium, and what became of it.
///
/// # Errors
/// The medium cannot be read or has too many names: nothing was taken. The home
/// cannot be written or has no space: what was reported is kept.
pub fn take(
    home: &Home,
    place: &Path,
    progress: &dyn Progress,
    report: &mut dyn FnMut(&str, &Fate),
) -> Result<(), MediaError> {
    let medium = Medium::open(place)?;
    let names = medium.names(MAX_NAMES)?;
    let mut taker = Taker { home, progress, lengths: BTreeSet::new(), total: 0 };
    for folder in [home.inputs(), home.inbox()] {
        atomic::make_folder(&folder)?;
        taker.look_at(&folder)?;
    }
    for name in names {
        let shown = name.to_string_lossy();
        let fate = match shown.parse::<FileName>() {
            // Of any name: many systems leave some of their own.
            _ if medium.has_folder(&name) => Fate::Folder,
            Err(_) => Fate::Refused("a name has A-Z a-z 0-9 . _ + ~ - only, and begins with none of . -".to_owned()),
            Ok(name) => match medium.find(name.as_str()) {
                Ok(Found::File(file, length)) => taker.file(&name, file, length)?,
                Ok(Found::Folder) => Fate::Folder,
                Ok(Found::Other(reason)) => Fate::Refused(reason.to_owned()),
                Err(error) => Fate::Refused(format!("it cannot be read: {error}")),
            },
        };
        report(&shown, &fate);
    }
    Ok(())
}

/// What became of the copy of a file.
enum Copied {
    /// It is whole, and has this digest.
    Whole(NamedTempFile, Sha256),
    /// The medium is at fault, and why.
    Refused(String),
}

struct Taker<'a> {
    home: &'a Home,
    progress: &'a dyn Progress,
    /// The lengths of what the home has: other files need not be looked for.
    lengths: BTreeSet<u64>,
    total: u64,
}

impl Taker<'_> {
    /// Removes copies that a killed command left, and notes what is there.
    fn look_at(&mut self, folder: &Path) -> Result<(), HomeError> {
        let mut look = || -> io::Result<()> {
            for entry in folder.read_dir()? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
                    fs::remove_file(entry.path())?;
                } else {
                    self.lengths.insert(entry.metadata()?.len());
                }
            }
            Ok(())
        };
        look().map_err(|error| HomeError::io(folder, error))
    }

    fn file(&mut self, name: &FileName, mut file: File, length: u64) -> Result<Fate, MediaError> {
        let refused = |reason: &str| Ok(Fate::Refused(reason.to_owned()));
        let unreadable = |error: io::Error| Ok(Fate::Refused(format!("it cannot be read: {error}")));
        if length > MAX_FILE {
            return Ok(Fate::Refused(format!("it is longer than {MAX_FILE} bytes")));
        }
        self.total += length;
        if self.total > MAX_TOTAL {
            return Ok(Fate::Refused(format!("with it, the medium has more than {MAX_TOTAL} bytes")));
        }
        let is_bundle = match begins_as_bundle(&mut file) {
            Ok(is_bundle) => is_bundle,
            Err(error) => return unreadable(error),
        };
        match Self::is_message(name, &mut file) {
            Ok(true) => return self.message(name, &mut file, length),
            Ok(false) => {}
            Err(error) => return unreadable(error),
        }
        match (is_bundle, self.names_a_version(name)) {
            (true, false) => {
                return refused("a git bundle is named PRODUCT-VERSION.git.bundle, of a product of the policy");
            }
            (false, _) if name.as_str().ends_with(SOURCE_BUNDLE) => {
                return refused("it does not begin as a git bundle");
            }
            _ => {}
        }
        let target = |sha256| if is_bundle { self.home.inbox().join(name.as_str()) } else { self.home.input(sha256) };
        if self.lengths.contains(&length) {
            let sha256 = match Sha256::of_reader(Read::take(&file, MAX_FILE), &mut |_| {}) {
                Ok((sha256, _)) => sha256,
                Err(error) => return unreadable(error),
            };
            let there = target(sha256);
            // A copy that was damaged since is no copy.
            if there.is_file() && atomic::digest(&there)? == sha256 {
                return Ok(Fate::Known(sha256, length));
            }
        }
        let folder = if is_bundle { self.home.inbox() } else { self.home.inputs() };
        check_space(&folder, name, length)?;
        self.progress.event(Event::Begin { stage: Stage::Import, what: name.as_str() });
        self.progress.event(Event::Length(length));
        let (copy, sha256) = match self.copy(&mut file, length, &folder)? {
            Copied::Whole(copy, sha256) => (copy, sha256),
            Copied::Refused(reason) => return Ok(Fate::Refused(reason)),
        };
        home::step("import.copied");
        keep(copy, &target(sha256)).map_err(|error| HomeError::io(&folder, error))?;
        home::step("import.kept");
        self.lengths.insert(length);
        Ok(if is_bundle { Fate::Bundle(sha256, length) } else { Fate::Input(sha256, length) })
    }

    /// Whether a file is what another terminal has sent, or pretends to be.
    fn is_message(name: &FileName, file: &mut File) -> io::Result<bool> {
        let mut begin = Vec::new();
        Read::take(&mut *file, ENVELOPE.len() as u64).read_to_end(&mut begin)?;
        file.rewind()?;
        let ends = [home::REQUEST, home::APPROVAL, home::CLAIM];
        Ok(begin == ENVELOPE || ends.iter().any(|end| name.as_str().ends_with(end)))
    }

    /// Takes a request, an approval or a claim, where it is signed by an enrolled person.
    fn message(&self, name: &FileName, file: &mut File, length: u64) -> Result<Fate, MediaError> {
        if length > MAX_MESSAGE {
            return Ok(Fate::Refused(MessageError::TooLong.to_string()));
        }
        let mut bytes = Vec::new();
        if let Err(error) = Read::take(&mut *file, MAX_MESSAGE + 1).read_to_end(&mut bytes) {
            return Ok(Fate::Refused(format!("it cannot be read: {error}")));
        }
        let kept = match self.name_of_message(&bytes) {
            Ok(kept) => kept,
            Err(reason) => return Ok(Fate::Refused(reason)),
        };
        let (path, sha256) = (self.home.inbox().join(&kept), Sha256::of(&bytes));
        if path.is_file() && atomic::digest(&path)? == sha256 {
            return Ok(Fate::Known(sha256, length));
        }
        check_space(&self.home.inbox(), name, length)?;
        home::step("import.copied");
        atomic::write(&path, &bytes)?;
        home::step("import.kept");
        Ok(Fate::Message(kept, sha256, length))
    }

    /// The name under which a message is kept, whatever it was called; or why it is none
    /// that counts.
    fn name_of_message(&self, bytes: &[u8]) -> Result<String, String> {
        let claim_keys = sign::claim_keys(self.home).map_err(|error| error.to_string())?;
        let incoming = Incoming::parse(bytes).map_err(|error| error.to_string())?;
        match &incoming {
            Incoming::Request(sent) => self.name_of(sent, &claim_keys),
            Incoming::Approval(sent) => self.name_of(sent, &claim_keys),
            Incoming::Amendment(sent) => self.name_of(sent, &claim_keys),
            Incoming::Consent(sent) => self.name_of(sent, &claim_keys),
            Incoming::Claim(claim) => {
                let payload = claim.payload().map_err(|error| error.to_string())?;
                let statement = Statement::parse(&payload).map_err(|error| error.to_string())?;
                let people = sign::claimants(claim, &statement, &claim_keys).map_err(|error| error.to_string())?;
                let holder = people.first().ok_or("nobody has signed it")?;
                let product: Option<Product> = statement.product().and_then(|name| name.parse().ok());
                let version: Option<Version> = statement.version().and_then(|name| name.parse().ok());
                let (product, version) = product.zip(version).ok_or("it names no product and version")?;
                self.check_product(Some(&product))?;
                Ok(home::answer_file(&product, &version, holder, home::CLAIM))
            }
        }
    }

    fn name_of<M: Message>(&self, sent: &Sent<M>, claim_keys: &ClaimKeys) -> Result<String, String> {
        sent.signed_by(claim_keys).map_err(|error| error.to_string())?;
        self.check_product(sent.message.product())?;
        Ok(sent.message.file())
    }

    fn check_product(&self, product: Option<&Product>) -> Result<(), String> {
        match product.filter(|product| !self.home.policy.products.contains_key(*product)) {
            Some(product) => Err(format!("it is about {product}, which is no product of this policy")),
            None => Ok(()),
        }
    }

    /// Whether a name is that of a bundle of one of our products.
    fn names_a_version(&self, name: &FileName) -> bool {
        let Some(stem) = name.as_str().strip_suffix(SOURCE_BUNDLE) else {
            return false;
        };
        let version = |product: &str| stem.strip_prefix(product)?.strip_prefix('-')?.parse::<Version>().ok();
        self.home.policy.products.keys().any(|product| version(product.as_str()).is_some())
    }

    /// Copies a file beside where it will be. What counts is the digest of what
    /// was copied.
    fn copy(&self, file: &mut File, length: u64, folder: &Path) -> Result<Copied, HomeError> {
        let failed = |error: io::Error| HomeError::io(folder, error);
        let unreadable = |error: io::Error| Ok(Copied::Refused(format!("it cannot be read: {error}")));
        let mut copy = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(folder).map_err(failed)?;
        let before = match file.rewind().and_then(|()| file.metadata()) {
            Ok(before) => before,
            Err(error) => return unreadable(error),
        };
        let mut tee = Tee { from: Read::take(&mut *file, length + 1), to: copy.as_file_mut(), failed: None };
        let copied = Sha256::of_reader(&mut tee, &mut |count| self.progress.event(Event::Advance(count)));
        if let Some(error) = tee.failed {
            return Err(failed(error));
        }
        let (sha256, read) = match copied {
            Ok(copied) => copied,
            Err(error) => return unreadable(error),
        };
        match file.metadata() {
            Ok(after) if read == length && state(&after) == state(&before) => Ok(Copied::Whole(copy, sha256)),
            Ok(_) => Ok(Copied::Refused("it changed while it was read".to_owned())),
            Err(error) => unreadable(error),
        }
    }
}

/// A full disk stops every release.
fn check_space(folder: &Path, name: &FileName, length: u64) -> Result<(), MediaError> {
    let available = atomic::free_space(folder).map_err(|error| HomeError::io(folder, error))?;
    if available >= length.saturating_add(RESERVE) {
        return Ok(());
    }
    Err(MediaError::NoSpace { folder: folder.to_owned(), available, name: name.clone(), length })
}

/// What tells a change of a file's content or name.
fn state(metadata: &Metadata) -> [i64; 5] {
    let length = i64::try_from(metadata.len()).unwrap_or(i64::MAX);
    [length, metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()]
}

fn begins_as_bundle(file: &mut File) -> io::Result<bool> {
    let mut begin = Vec::new();
    Read::take(&mut *file, 16).read_to_end(&mut begin)?;
    file.rewind()?;
    Ok(SIGNATURES.contains(&begin.as_slice()))
}

/// Gives a copy its name, durably.
fn keep(copy: NamedTempFile, target: &Path) -> io::Result<()> {
    copy.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    copy.as_file().sync_all()?;
    copy.persist(target)?;
    target.parent().map_or(Ok(()), atomic::sync_folder)
}

/// Writes what is read, and keeps apart who failed.
struct Tee<'a, R> {
    from: R,
    to: &'a mut File,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        if let Err(error) = self.to.write_all(&buffer[..count]) {
            self.failed = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        Ok(count)
    }
}
