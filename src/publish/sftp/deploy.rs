//! Deploy keys, in tokens and in files: what is public about them, and the use of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use super::Account;
use crate::home::Base;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::KeyError;
use crate::key::PublicKey;
use crate::key::piv::PivKey;
use crate::key::piv::TokenName;
use crate::key::piv::Tokens;
use crate::key::piv::Wanted;
use crate::policy::DeployKey;
use crate::policy::MirrorEntry;
use crate::policy::Place;
use crate::policy::Policy;
use crate::policy::SftpEntry;
use crate::process::Program;
use crate::progress::Progress;
use crate::publish::PublishError;

/// Opens the tokens with deploy keys, each when it is first needed.
pub struct DeployKeys<'t> {
    base: &'t Base,
    /// Where it is known whose token it is.
    policy: Option<&'t Policy>,
    tokens: &'t Tokens<'t>,
    /// Tokens that failed: all mirrors hear the same, and no further try of a PIN is
    /// spent.
    failed: Mutex<BTreeMap<u32, Arc<KeyError>>>,
}

/// Where a deploy key is.
pub(super) enum Opened<'t> {
    /// In a file, which ssh reads.
    File(PathBuf),
    /// In a token that is open.
    Token(Box<PivKey<'t>>),
}

impl<'t> DeployKeys<'t> {
    /// The keys of a machine, in tokens that may be open already.
    pub fn new(base: &'t Base, policy: Option<&'t Policy>, tokens: &'t Tokens<'t>) -> Self {
        Self { base, policy, tokens, failed: Mutex::default() }
    }

    /// The keys of a home, where it is known whose tokens they are in.
    pub fn of(home: &'t Home, tokens: &'t Tokens<'t>) -> Self {
        Self::new(home, Some(&home.policy), tokens)
    }

    /// Whether there is any in a token.
    pub fn are_in_tokens(&self) -> bool {
        self.base.terminal.deploy_keys().any(|key| matches!(key.place, Place::Slot { .. }))
    }

    /// The folder of the machine.
    pub fn base(&self) -> &'t Base {
        self.base
    }

    /// What is told of what is done.
    pub fn progress(&self) -> &'t dyn Progress {
        self.tokens.person()
    }

    /// Opens a key. Whoever comes second waits until the first has given the PIN.
    ///
    /// # Errors
    /// The token is missing, holds another key, or refuses its PIN.
    pub(super) fn open(&self, key: &DeployKey) -> Result<Opened<'t>, PublishError> {
        let (serial, slot) = match &key.place {
            Place::File(path) => return Ok(Opened::File(self.base.resolve(path))),
            Place::Slot { serial, slot } => (*serial, *slot),
        };
        let enrolled = public_half(self.base, key)?;
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = failed.get(&serial) {
            return Err(PublishError::Key(Arc::clone(error)));
        }
        let holder = self.policy.and_then(|policy| self.base.terminal.holder_of(policy, serial));
        let wanted = Wanted {
            name: &key.name,
            token: TokenName { serial, holder },
            slot,
            is_enrolled: Box::new(move |public| *public == enrolled),
        };
        let fail = |error: KeyError| {
            let error = Arc::new(error);
            failed.insert(serial, Arc::clone(&error));
            PublishError::Key(error)
        };
        let mut opened = self.tokens.open(&[wanted]).map_err(fail)?;
        // One was wanted.
        opened.pop().map(|key| Opened::Token(Box::new(key))).ok_or_else(|| PublishError::NoKey(key.name.clone()))
    }
}

/// The public half of a deploy key in a token, as it was enrolled.
///
/// # Errors
/// Its file is missing, or holds no key.
pub(super) fn public_half(base: &Base, key: &DeployKey) -> Result<PublicKey, PublishError> {
    let path = base.folder().join(DeployKey::public(&key.name));
    let Some(bytes) = atomic::read_if_there(&path)? else {
        return Err(PublishError::NoKey(key.name.clone()));
    };
    let damaged = |reason| HomeError::Damaged { path, reason };
    Ok(PublicKey::from_pem(&String::from_utf8_lossy(&bytes)).map_err(damaged)?)
}

/// The public halves of a mirror's deploy keys, as `authorized_keys` has them.
///
/// # Errors
/// A key cannot be read, or is used for anything else.
pub fn public_deploy_keys(
    base: &Base,
    entry: &SftpEntry,
    progress: &dyn Progress,
) -> Result<[(Account, String); 2], PublishError> {
    let mut all: Vec<(String, String)> = Vec::new();
    for other in base.terminal.mirrors.values() {
        let MirrorEntry::Sftp(other) = other else { continue };
        let jump = other.jump.as_ref().map(|jump| {
            let place = Place::File(jump.key.0.clone());
            Ok((place.to_string(), of_file(base, &jump.key.0, progress)?))
        });
        let own = [&other.pool_key, &other.pointer_key];
        let own = own.map(|key| Ok::<_, PublishError>((key.place.to_string(), of_key(base, key, progress)?)));
        for key in own.into_iter().chain(jump) {
            let (place, public) = key?;
            if let Some((first, _)) = all.iter().find(|(_, known)| *known == public) {
                return Err(PublishError::SharedKey { first: first.clone(), second: place });
            }
            all.push((place, public));
        }
    }
    let public = |account: Account| {
        let place = account.key(entry).place.to_string();
        let (_, public) = all.iter().find(|(known, _)| *known == place).cloned().unwrap_or_default();
        (account, public)
    };
    Ok([public(Account::Pool), public(Account::Pointer)])
}

/// Makes deploy keys in files where they are missing: each account of each mirror
/// has one of its own.
///
/// # Errors
/// They cannot be made.
pub fn make_deploy_key_files(base: &Base, entry: &SftpEntry, progress: &dyn Progress) -> Result<(), PublishError> {
    for account in [Account::Pool, Account::Pointer] {
        let Place::File(path) = &account.key(entry).place else { continue };
        let path = base.resolve(path);
        if let Some(folder) = path.parent() {
            atomic::make_folder(folder)?;
        }
        if !path.exists() {
            let program = Program::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]);
            program.arg(&path).run(progress)?;
        }
    }
    Ok(())
}

fn of_key(base: &Base, key: &DeployKey, progress: &dyn Progress) -> Result<String, PublishError> {
    match &key.place {
        Place::File(path) => of_file(base, path, progress),
        Place::Slot { .. } => Ok(public_half(base, key)?.to_authorized_key()),
    }
}

/// The public half of a private key, without its comment.
fn of_file(base: &Base, path: &Path, progress: &dyn Progress) -> Result<String, PublishError> {
    let path = base.resolve(path);
    std::fs::File::open(&path).map_err(|error| PublishError::io(&path, error))?;
    // Without a passphrase, as a push needs it: there is nobody to ask.
    let printed = Program::new("ssh-keygen").args(["-y", "-P", "", "-f"]).arg(&path).run(progress)?;
    let printed = String::from_utf8_lossy(&printed);
    Ok(printed.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}
