//! Deploy keys in tokens, while they are used.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

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
use crate::policy::Place;
use crate::policy::Policy;
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
