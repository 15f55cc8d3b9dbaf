//! The first publication: keys that the policy names and nobody has made yet,
//! the root of trust, and the signed policy.

mod tokens;

pub(crate) use tokens::check_attestations;
pub(crate) use tokens::plugged_keys;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::amend::Rules;
use crate::amend::RulesError;
use crate::cut;
use crate::cut::CutError;
use crate::cut::Sealer;
use crate::enrol::ATTESTATION;
use crate::enrol::EnrolError;
use crate::enrol::MAKERS;
use crate::enrol::PLACE;
use crate::home::Event;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::key::Algorithm;
use crate::key::KeyError;
use crate::key::PublicKey;
use crate::key::Secrets;
use crate::key::Signer as _;
use crate::key::SoftwareKey;
use crate::key::ToSign;
use crate::key::piv::Tokens;
use crate::key::piv::enrolment::Enrolment;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::MirrorName;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::openpgp;
use crate::openpgp::NewKey;
use crate::openpgp::OpenPgpError;
use crate::policy::Policy;
use crate::policy::RoleEntry;
use crate::policy::Sandbox;
use crate::policy::SharedToken;
use crate::policy::Terminal;
use crate::progress::Progress;
use crate::repository::RepositoryError;
use crate::repository::State;
use crate::repository::layout;
use crate::repository::seal;
use crate::repository::seal::Added;
use crate::sign::Batch;
use crate::sign::SignError;
use crate::tuf::Draft;
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
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The digest of the first root, which users compare.
    pub root: Sha256,
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
    /// Too few keys of a role are here.
    #[error("role {role} needs {need} signatures, and only {have} of its keys are here")]
    TooFewKeys {
        /// The role.
        role: &'static str,
        /// How many must sign.
        need: u32,
        /// How many can.
        have: usize,
    },
    /// One token for two people.
    #[error(
        "keys of {} and {} were made in token {}: whoever knows its PIN could use both",
        .0.owners[0], .0.owners[1], .0.serial
    )]
    SharedToken(SharedToken),
    /// The policy cannot become metadata.
    #[error(transparent)]
    Rules(#[from] RulesError),
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
    /// Signing.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Metadata cannot be made.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// A certificate cannot be made or read.
    #[error(transparent)]
    OpenPgp(#[from] OpenPgpError),
    /// Sealing.
    #[error(transparent)]
    Cut(#[from] CutError),
}

/// Makes a home. It appears under its name when it is whole.
///
/// # Errors
/// The policy has a mistake, keys cannot be made, or the folder is in use.
pub fn init(request: &Request<'_>, operator: &impl Secrets, now: &dyn Fn() -> Timestamp) -> Result<Made, InitError> {
    let in_use = |folder: &Path| folder.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if in_use(request.home) {
        return Err(InitError::Exists(request.home.to_owned()));
    }
    // A name that nobody else gives a folder: what a killed run left is removed.
    let name = request.home.file_name().unwrap_or_default().to_string_lossy();
    let partial = request.home.with_file_name(format!(".{name}.release-init"));
    let clear = || atomic::remove_folder(&partial);
    clear()?;
    let made = build(request, &partial, operator, now).inspect_err(|_| {
        // What could not be finished must not look like a home.
        let _ = clear();
    })?;
    fs::rename(&partial, request.home).map_err(|error| HomeError::io(request.home, error))?;
    Ok(made)
}

fn build(
    request: &Request<'_>,
    folder: &Path,
    operator: &impl Secrets,
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
    copy_files(&policy, request.policy.parent().unwrap_or(Path::new(".")), folder)?;
    atomic::write(&folder.join("policy.toml"), text.as_bytes())?;
    // What can be wrong is found out before anybody is asked for a passphrase.
    let new = new_keys(&policy, folder);
    if !request.software_keys && !new.is_empty() {
        return Err(InitError::NotEnrolled(new.into_iter().collect()));
    }
    let in_tokens = tokens::plugged_keys(&policy, folder)?;
    check_keys(&policy, folder, &new, &in_tokens)?;
    tokens::check_attestations(&policy, folder, &new, now())?;
    let terminal = terminal_file(request, &new, &in_tokens);
    Terminal::parse(Path::new("terminal.toml"), terminal.clone()).map_err(HomeError::from)?;
    atomic::write(&folder.join("terminal.toml"), terminal.as_bytes())?;
    let made = make_keys(&policy, folder, &new, operator, now())?;

    let home = Home::open(folder)?;
    let mut journal = Journal::begin(&home.journal_file());
    let keys = made.keys().cloned().collect();
    let mut batch = Batch::open_keys(&home, &tokens::needed(&policy, &new, &in_tokens), &Tokens::new(operator))?;
    for key in made.into_values() {
        batch.add(key);
    }
    let root = sign_top_level(&home, &batch, operator, &mut journal, now)?;
    Ok(Made { root, keys })
}

fn names(keys: &[KeyName]) -> String {
    keys.iter().map(KeyName::as_str).collect::<Vec<_>>().join(", ")
}

type Keys = BTreeMap<KeyName, SoftwareKey>;

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

/// Keys that exist can be read, and those that are here suffice to sign.
fn check_keys(
    policy: &Policy,
    folder: &Path,
    new: &BTreeSet<KeyName>,
    in_tokens: &BTreeMap<KeyName, Enrolment>,
) -> Result<(), InitError> {
    for (_, entry) in policy.keys.iter().filter(|(name, _)| !new.contains(name)) {
        let path = folder.join(entry.public.get_ref());
        let pem = fs::read_to_string(&path).map_err(|error| HomeError::io(&path, error))?;
        let file = PathBuf::from(entry.public.get_ref());
        PublicKey::from_pem(&pem).map_err(|reason| HomeError::Damaged { path: file, reason })?;
    }
    let here = |name: &str| new.iter().chain(in_tokens.keys()).any(|key| key.as_str() == name);
    for (role, entry) in [("root", &policy.role.root), ("targets", &policy.role.targets)] {
        let (need, have) = (*entry.threshold.get_ref(), entry.keys.iter().filter(|key| here(key.get_ref())).count());
        if have < need as usize {
            return Err(InitError::TooFewKeys { role, need, have });
        }
    }
    if !here(policy.role.online.key.get_ref()) {
        return Err(InitError::TooFewKeys { role: "online", need: 1, have: 0 });
    }
    Ok(())
}

/// Makes keys: P-256 for TUF, Ed25519 for claims and OpenPGP.
fn make_keys(
    policy: &Policy,
    folder: &Path,
    new: &BTreeSet<KeyName>,
    secrets: &impl Secrets,
    now: Timestamp,
) -> Result<Keys, InitError> {
    let mut keys = Keys::new();
    let mut make = |name: &KeyName, holder: Option<&Holder>, algorithm| -> Result<(), InitError> {
        let key = SoftwareKey::generate(name.clone(), algorithm)?;
        key.save(&folder.join(key_file(name)), &secrets.new_passphrase(name, holder)?)?;
        keys.insert(name.clone(), key);
        Ok(())
    };
    let claims: BTreeSet<&KeyName> = policy.claim_keys().map(|(name, _)| name).collect();
    for name in policy.keys.keys().filter(|name| new.contains(name)) {
        let algorithm = if claims.contains(name) { Algorithm::Ed25519 } else { Algorithm::P256 };
        make(name, policy.holder_of(name).as_ref(), algorithm)?;
    }
    for entry in policy.certificates() {
        for name in [&entry.primary, &entry.signing].into_iter().filter(|name| new.contains(*name)) {
            make(name, entry.holder, Algorithm::Ed25519)?;
        }
    }
    for (name, key) in &keys {
        if let Some(entry) = policy.keys.get(name) {
            atomic::write(&folder.join(entry.public.get_ref()), key.public().to_pem().as_bytes())?;
        }
    }
    let created = seal::to_second(now);
    let expires = seal::expiry(created, policy.openpgp.expires.duration());
    for entry in policy.certificates() {
        let key = |name| keys.get(name).map(|signer| NewKey { signer, created });
        if let (Some(primary), Some(signing)) = (key(&entry.primary), key(&entry.signing)) {
            let certificate = openpgp::new_certificate(primary, signing, &policy.name_in(&entry), expires)?;
            atomic::write(&folder.join(entry.file.get_ref()), &certificate.to_armor()?)?;
        }
    }
    Ok(keys)
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

/// Root, targets, and the first publication.
fn sign_top_level(
    home: &Home,
    batch: &Batch<'_>,
    operator: &impl Progress,
    journal: &mut Journal,
    now: &dyn Fn() -> Timestamp,
) -> Result<Sha256, InitError> {
    let at = seal::to_second(now());
    let rules = Rules::load(&home.policy, home.folder())?;
    let root = rules.root(1, at)?;
    let root = sign_draft("root", root, &home.policy.role.root, &rules, batch, journal, at)?;
    let (targets, mut files) = rules.targets(1, at, None)?;
    let targets = sign_draft("targets", targets, &home.policy.role.targets, &rules, batch, journal, at)?;
    files.push((path(layout::metadata(1, "root"))?, root.clone()));
    files.push((path(layout::metadata(1, "targets"))?, targets.clone()));

    let keys = cut::seal_keys(home, batch)?;
    let state = State::first(&home.repository(), root.clone(), targets);
    let sealer = Sealer { home, operator, now };
    let added = Added { files: &files, state: None };
    sealer.seal(&state, "init", None, &added, &keys, journal)?;
    let digest = Sha256::of(&root);
    journal.append(now(), Event::Init { root: digest })?;
    Ok(digest)
}

fn path(made: Result<RepoPath, crate::manifest::names::NameError>) -> Result<RepoPath, InitError> {
    Ok(made.map_err(|error| RepositoryError::Damaged { file: "publication".to_owned(), reason: error.to_string() })?)
}

/// Signs a role by as many of its keys as it needs.
fn sign_draft(
    name: &'static str,
    mut draft: Draft,
    role: &RoleEntry,
    rules: &Rules<'_>,
    batch: &Batch<'_>,
    journal: &mut Journal,
    at: Timestamp,
) -> Result<Vec<u8>, InitError> {
    let need = *role.threshold.get_ref();
    let mut have = 0;
    for key in &role.keys {
        let (key, keyid, _) = rules.key(key.get_ref())?;
        let Some(signer) = batch.signer(key).ok().filter(|_| have < need as usize) else {
            continue;
        };
        let what = format!("{name} {}", draft.number());
        journal.ask(at, key, &what, draft.digest()?)?;
        let signature = signer.sign(&what, ToSign::Message(&draft.canonical()?))?;
        draft.add_signature(keyid, &signature);
        have += 1;
    }
    if have < need as usize {
        return Err(InitError::TooFewKeys { role: name, need, have });
    }
    Ok(draft.to_file()?)
}
