//! A home: the public files of a policy, keys that are on this terminal, and the first
//! publication with the root of trust and the signed policy, which several terminals sign if
//! none has keys enough.

mod tokens;

pub(crate) use tokens::check_attestations;
pub(crate) use tokens::plugged_keys;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::amend::AmendError;
use crate::amend::First;
use crate::amend::Founded;
use crate::amend::Waiting;
use crate::cut::Operator;
use crate::enrol;
use crate::enrol::ATTESTATION;
use crate::enrol::EnrolError;
use crate::enrol::MAKERS;
use crate::enrol::PLACE;
use crate::enrol::PRIVATE;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::key::KeyError;
use crate::key::PublicKey;
use crate::key::piv::enrolment::Enrolment;
use crate::manifest::KeyName;
use crate::manifest::MirrorName;
use crate::manifest::Sha256;
use crate::policy::Policy;
use crate::policy::Sandbox;
use crate::policy::SharedToken;
use crate::policy::Terminal;
use crate::repository::RepositoryError;
use crate::tuf::draft::DraftError;

/// What to make a home from.
pub struct Request<'a> {
    /// The folder of the new home.
    pub home: &'a Path,
    /// The policy; files that it names are found relative to it.
    pub policy: &'a Path,
    /// Local mirrors: name and folder.
    pub mirrors: &'a [(MirrorName, PathBuf)],
    /// Toolchains: folder and the name below `/opt`.
    pub toolchains: &'a [(PathBuf, String)],
    /// Makes keys whose public halves do not exist, as files.
    pub software_keys: bool,
    /// The request of another terminal for the first root, which this one answers.
    pub answers: Option<&'a [u8]>,
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// How far the first root is.
    pub founded: Founded,
    /// Names of the keys that were made.
    pub keys: Vec<KeyName>,
}

/// A home that could not be made. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// The folder is in use.
    #[error("{} exists and is not empty", .0.display())]
    Exists(PathBuf),
    /// The policy does not allow keys in files.
    #[error("the policy does not set `insecure-software-keys = true`, so no key is made as a file")]
    NotAllowed,
    /// Nobody has made these keys.
    #[error("nobody has made these keys of the policy yet: {}", names(.0))]
    NotEnrolled(Vec<KeyName>),
    /// A key could be anywhere.
    #[error("key {0} has no attestation, and the policy does not set `insecure-software-keys = true`")]
    NoAttestation(KeyName),
    /// An attestation does not count.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// Whoever begins seals the first publication.
    #[error("the online key {0} is not here, and whoever begins a project needs it")]
    NotOnline(String),
    /// Another home waits for its first root here.
    #[error("{} waits for the first root of another policy", .0.display())]
    OtherPolicy(PathBuf),
    /// One token for two people.
    #[error(
        "keys of {} and {} were made in token {}: whoever knows its PIN could use both",
        .0.owners[0], .0.owners[1], .0.serial
    )]
    SharedToken(SharedToken),
    /// The first root cannot be signed.
    #[error(transparent)]
    Amend(Box<AmendError>),
    /// The first root, for which a home waits, cannot be signed yet.
    #[error(transparent)]
    Unfinished(Box<AmendError>),
    /// There is no policy to start from.
    #[error("there is no policy file {}", .0.display())]
    NoPolicy(PathBuf),
    /// A file that the policy names is missing and cannot be made.
    #[error("the policy names {}, which does not exist", .0.display())]
    Missing(PathBuf),
    /// The home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Metadata cannot be made.
    #[error(transparent)]
    Draft(#[from] DraftError),
}

impl From<AmendError> for InitError {
    fn from(error: AmendError) -> Self {
        Self::Amend(Box::new(error))
    }
}

/// Makes a home. It appears under its name when it is whole, or waits for others to sign its
/// first root; then the same call goes on.
///
/// # Errors
/// The policy has a mistake, keys cannot be made, or the folder is in use.
pub fn init(request: &Request<'_>, operator: &dyn Operator, now: &dyn Fn() -> Timestamp) -> Result<Made, InitError> {
    let in_use = |folder: &Path| folder.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if in_use(request.home) {
        return go_on(request, operator, now);
    }
    // A name that nobody else gives a folder: what a killed run left is removed.
    let name = request.home.file_name().unwrap_or_default().to_string_lossy();
    let partial = request.home.with_file_name(format!(".{name}.release-init"));
    let clear = || atomic::remove_folder(&partial);
    clear()?;
    let mut made = build(request, &partial, operator, now).inspect_err(|_| {
        // What could not be finished must not look like a home.
        let _ = clear();
    })?;
    fs::rename(&partial, request.home).map_err(|error| HomeError::io(request.home, error))?;
    if let Founded::Waiting(Waiting { file, .. }) | Founded::Answered(file) = &mut made.founded {
        *file = request.home.join("outbox").join(file.file_name().unwrap_or_default());
    }
    Ok(made)
}

/// Goes on with a home that waits for its first root.
fn go_on(request: &Request<'_>, operator: &dyn Operator, now: &dyn Fn() -> Timestamp) -> Result<Made, InitError> {
    let exists = || InitError::Exists(request.home.to_owned());
    let home = Home::open(request.home).map_err(|_| exists())?;
    if request.answers.is_some() || !First::is_begun(&home)? {
        return Err(exists());
    }
    let policy =
        crate::home::read_text(request.policy)?.ok_or_else(|| InitError::NoPolicy(request.policy.to_owned()))?;
    if Sha256::of(policy.as_bytes()) != home.policy_digest {
        return Err(InitError::OtherPolicy(request.home.to_owned()));
    }
    let _lock = home.lock("release init")?;
    let founded = First { home: &home, operator, now }.sign(BTreeMap::new(), &mut home.journal()?);
    let founded = founded.map_err(|error| InitError::Unfinished(Box::new(error)))?;
    Ok(Made { founded, keys: Vec::new() })
}

fn build(
    request: &Request<'_>,
    folder: &Path,
    operator: &dyn Operator,
    now: &dyn Fn() -> Timestamp,
) -> Result<Made, InitError> {
    let text = crate::home::read_text(request.policy)?.ok_or_else(|| InitError::NoPolicy(request.policy.to_owned()))?;
    let policy = Policy::parse(request.policy, text.clone()).map_err(HomeError::from)?;
    if request.software_keys && !policy.insecure_software_keys {
        return Err(InitError::NotAllowed);
    }
    private_folder(folder)?;
    for name in ["repository", "cuts", "publications", "mirrors", "inputs", "inbox", "outbox"] {
        atomic::make_folder(&folder.join(name))?;
    }
    private_folder(&folder.join("keys"))?;
    let from = request.policy.parent().unwrap_or(Path::new("."));
    copy_files(&policy, from, folder)?;
    atomic::write(&folder.join("policy.toml"), text.as_bytes())?;
    // What can be wrong is found out before anybody is asked for a passphrase.
    let new = new_keys(&policy, folder);
    if !new.is_empty() && !request.software_keys {
        return Err(InitError::NotEnrolled(new.into_iter().collect()));
    }
    let mut in_files = copy_private(&policy, from, folder)?;
    in_files.extend(new.iter().cloned());
    let in_tokens = tokens::plugged_keys(&policy, folder)?;
    check_keys(&policy, folder, &new)?;
    let online = policy.role.online.key.get_ref();
    let is_here = in_files.iter().chain(in_tokens.keys()).any(|key| key.as_str() == online);
    if request.answers.is_none() && !is_here {
        return Err(InitError::NotOnline(online.clone()));
    }
    tokens::check_attestations(&policy, folder, &new, now())?;
    let terminal = terminal_file(request, &in_files, &in_tokens);
    Terminal::parse(Path::new("terminal.toml"), terminal.clone()).map_err(HomeError::from)?;
    atomic::write(&folder.join("terminal.toml"), terminal.as_bytes())?;
    let made = enrol::make_files(&policy, folder, &new, &|name| folder.join(key_file(name)), operator, now())?;

    let home = Home::open(folder)?;
    let mut journal = Journal::begin(&home.journal_file());
    let keys = made.keys().cloned().collect();
    let first = First { home: &home, operator, now };
    let founded = match request.answers {
        Some(file) => first.answer(file, &mut journal)?,
        None => first.sign(made, &mut journal)?,
    };
    Ok(Made { founded, keys })
}

fn names(keys: &[KeyName]) -> String {
    keys.iter().map(KeyName::as_str).collect::<Vec<_>>().join(", ")
}

fn private_folder(folder: &Path) -> Result<(), InitError> {
    use std::os::unix::fs::DirBuilderExt;
    let make = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    Ok(make.map_err(|error| HomeError::io(folder, error))?)
}

/// Copies the files that the policy names and that exist, and what stands beside
/// the public halves of keys in tokens.
fn copy_files(policy: &Policy, from: &Path, folder: &Path) -> Result<(), InitError> {
    let must_exist: BTreeSet<&str> = policy.tag_files().collect();
    let beside = policy.public_files().flat_map(|(name, public)| {
        let here = from.join(public).exists();
        [PLACE, ATTESTATION].into_iter().filter(move |_| here).map(move |what| Policy::file_beside(public, &name, what))
    });
    let makers = fs::read_dir(from.join(MAKERS)).into_iter().flatten().flatten();
    let makers = makers.map(|entry| format!("{MAKERS}/{}", entry.file_name().to_string_lossy()));
    for name in policy.files().map(str::to_owned).chain(beside).chain(makers) {
        let (source, target) = (from.join(&name), folder.join(&name));
        match atomic::read_if_there(&source)? {
            Some(bytes) => atomic::write(&target, &bytes)?,
            None if must_exist.contains(name.as_str()) => return Err(InitError::Missing(source)),
            None => {}
        }
    }
    Ok(())
}

/// The keys whose public halves do not exist.
fn new_keys(policy: &Policy, folder: &Path) -> BTreeSet<KeyName> {
    let missing = |file: &str| !folder.join(file).exists();
    let keys = policy.keys.iter().filter(|(_, entry)| missing(entry.public.get_ref())).map(|(name, _)| name.clone());
    let of_openpgp = policy.certificates().filter(|entry| missing(entry.file.get_ref()));
    keys.chain(of_openpgp.flat_map(|entry| [entry.primary, entry.signing])).collect()
}

/// Copies the private halves of software keys that lie beside public ones, and gives their
/// names.
fn copy_private(policy: &Policy, from: &Path, folder: &Path) -> Result<BTreeSet<KeyName>, InitError> {
    let mut found = BTreeSet::new();
    for (name, public) in policy.public_files().filter(|_| policy.insecure_software_keys) {
        let source = from.join(Policy::file_beside(public, &name, PRIVATE));
        if let Some(bytes) = atomic::read_if_there(&source)? {
            let target = folder.join(key_file(&name));
            let mut options = fs::OpenOptions::new();
            let written = options.write(true).create_new(true).mode(0o600).open(&target);
            written.and_then(|mut file| file.write_all(&bytes)).map_err(|error| HomeError::io(&target, error))?;
            found.insert(name);
        }
    }
    Ok(found)
}

/// Keys that exist can be read.
fn check_keys(policy: &Policy, folder: &Path, new: &BTreeSet<KeyName>) -> Result<(), InitError> {
    for (_, entry) in policy.keys.iter().filter(|(name, _)| !new.contains(name)) {
        let path = folder.join(entry.public.get_ref());
        let pem = fs::read_to_string(&path).map_err(|error| HomeError::io(&path, error))?;
        let file = PathBuf::from(entry.public.get_ref());
        PublicKey::from_pem(&pem).map_err(|reason| HomeError::Damaged { path: file, reason })?;
    }
    Ok(())
}

/// Where the private half of a software key is, in the home.
fn key_file(name: &KeyName) -> String {
    format!("keys/{name}.key")
}

/// A name as a key of TOML, where a dot would separate two.
fn toml_key(name: &str) -> String {
    if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() }
}

/// `terminal.toml` of a new home.
fn terminal_file(request: &Request<'_>, files: &BTreeSet<KeyName>, in_tokens: &BTreeMap<KeyName, Enrolment>) -> String {
    let quoted = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    let mut text = String::from("# What is true of this machine only.\nversion = 1\n\n[token]\n");
    for (name, Enrolment { serial, slot, .. }) in in_tokens {
        let _ = writeln!(text, "{} = {{ serial = {serial}, slot = \"{slot}\" }}", toml_key(name.as_str()));
    }
    if !files.is_empty() {
        text.push_str(
            "# Software keys: for demonstrations and tests. Whoever copies the files and\n\
             # learns the passphrases has the keys.\n",
        );
    }
    for name in files {
        let _ = writeln!(text, "{} = {{ file = \"{}\" }}", toml_key(name.as_str()), key_file(name));
    }
    text.push_str("\n# How builds are confined.\n[sandbox]\n");
    if !request.toolchains.is_empty() {
        text.push_str("# Folders that they see besides /usr, read-only.\ntoolchains = [\n");
        for (path, name) in request.toolchains {
            let _ = writeln!(text, "    {{ path = {}, at = \"/opt/{name}\" }},", quoted(path));
        }
        text.push_str("]\n");
    }
    let Sandbox { time, memory, processes, disk, artifact, log, .. } = Sandbox::default();
    let _ = write!(
        text,
        "# What one build may take, unless another limit is set.\n# time = \"{time}\"\n# memory = \"{memory}\"\n\
         # processes = {processes}\n# disk = \"{disk}\"\n# artifact = \"{artifact}\"\n# log = \"{log}\"\n"
    );
    for (name, path) in request.mirrors {
        let _ = write!(text, "\n[mirror.{}]\npath = {}\n", toml_key(name.as_str()), quoted(path));
    }
    text
}
