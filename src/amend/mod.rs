//! Changes of the policy and its keys: the *amendments*. Each is a new `targets`, with a
//! new `root` where keys of that change, and release manifests that are signed anew where
//! too few of those count who have signed them.
//!
//! An amendment is asked for, approved and finished as a release is: by a request in the
//! outbox, consents of others, and the same command again. Where all keys are on one
//! terminal it is finished at once. Everybody computes what is to be signed from the new
//! policy (`rules.rs`, `payload.rs`); the old keys are tried before anybody sees the new
//! ones (`proof.rs`).

mod consent;
mod drill;
mod edit;
mod error;
mod files;
mod first;
mod payload;
mod places;
mod proof;
mod revocation;
mod rules;
mod work;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;

use self::files::key_file;
use self::files::lay_out;
use self::files::set_places;
use self::payload::ROOT;
use self::payload::TARGETS;
use self::work::Work;
use crate::approve::Amendment;
use crate::cut;
use crate::cut::CutError;
use crate::cut::Operator;
use crate::enrol;
use crate::home;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::init;
use crate::key::SoftwareKey;
use crate::key::piv::Tokens;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Line;
use crate::manifest::Sha256;
use crate::policy::Place;
use crate::policy::Policy;
use crate::publish;
use crate::publish::DeployKeys;
use crate::repository::Pending;
use crate::repository::RepositoryError;
use crate::repository::State;
use crate::repository::seal;

pub use drill::Rehearsed;
pub use drill::rehearse;
pub use edit::Edit;
pub use edit::EditError;
pub use edit::command;
pub use error::AmendError;
pub use files::Begun;
pub use files::adopt;
pub use files::forget;
pub use first::First;
pub use first::Founded;
pub use first::agreed_root;
pub use revocation::Gone;
pub use rules::RulesError;

/// Changes the policy of a home.
pub struct Amend<'a> {
    /// The home.
    pub home: &'a Home,
    /// The person at the terminal.
    pub operator: &'a dyn Operator,
    /// The clock.
    pub now: &'a dyn Fn() -> Timestamp,
}

/// How an amendment ended.
#[derive(Debug)]
pub enum Outcome {
    /// It is sealed.
    Done(Summary),
    /// Other people must consent first.
    Waiting(Waiting),
}

/// What a finished amendment did.
#[derive(Debug)]
pub struct Summary {
    /// The number of the new `targets`.
    pub number: u64,
    /// The number of the newest root.
    pub root: usize,
    /// The publication that holds it.
    pub serial: u64,
    /// Key files that are of no use any more.
    pub retired: Vec<PathBuf>,
    /// OpenPGP certificates that were revoked, and those that nobody here could revoke.
    pub certificates: revocation::Gone,
    /// How the push to each mirror ended.
    pub mirrors: Vec<publish::Outcome>,
}

/// An amendment that waits for other people.
#[derive(Debug)]
pub struct Waiting {
    /// The number of the new `targets`.
    pub number: u64,
    /// The digest of the request.
    pub request: Sha256,
    /// The request.
    pub file: PathBuf,
    /// What still lacks signatures.
    pub roles: Vec<Lacking>,
}

/// A role that lacks signatures.
#[derive(Debug)]
pub struct Lacking {
    /// The role.
    pub role: String,
    /// Who has signed, or will here.
    pub have: BTreeSet<Holder>,
    /// How many people must.
    pub need: usize,
}

/// What is about to be signed.
#[derive(Debug)]
pub struct Amending<'a> {
    /// What was asked for, and by whom.
    pub amendment: &'a Amendment,
    /// What changes in `policy.toml`: its lines, behind `-` and `+`.
    pub lines: Vec<String>,
    /// Names of the roles that are signed, with their numbers.
    pub roles: Vec<(String, u64)>,
    /// The keys that sign here.
    pub keys: Vec<KeyName>,
}

impl Amend<'_> {
    /// The number of the next amendment.
    ///
    /// # Errors
    /// The repository cannot be read.
    pub fn next(&self) -> Result<u64, AmendError> {
        let next = State::load(&self.home.repository())?.targets.0 + 1;
        Ok(Begun::load(self.home)?.map_or(next, |begun| begun.number))
    }

    /// Makes the change, or goes on with it.
    ///
    /// # Errors
    /// It makes no sense, or cannot be signed here. The same call again goes on.
    /// `beside` is the folder of a new policy, with files that it names.
    pub fn run(&self, edit: &Edit, beside: Option<&Path>, software_keys: bool) -> Result<Outcome, AmendError> {
        let words = edit.to_string();
        let command = command(&words).join(" ");
        let _lock = self.home.lock(&format!("release {command}"))?;
        Pending::finish_interrupted(self.home)?;
        let mut journal = self.home.journal()?;
        let mut state = State::load(&self.home.repository())?;
        let folder = self.home.amendment();
        let begun = Begun::load(self.home)?;
        if let Some(other) = begun.as_ref().filter(|begun| begun.change.as_str() != words) {
            return Err(AmendError::Other(other.change.clone()));
        }
        let purpose = |number: u64| format!("policy {number}: {command}");
        let sealed =
            begun.as_ref().map(|begun| publish::find(self.home, &purpose(begun.number))).transpose()?.flatten();
        let tokens = Tokens::new(self.operator);
        let mut certificates = revocation::Gone::default();
        let (number, serial) = match (begun, sealed) {
            (Some(begun), Some(serial)) => (begun.number, serial),
            (begun, _) => {
                self.check(edit, &journal, &state)?;
                let begun = match begun {
                    Some(begun) => begun,
                    None => self.begin(edit, beside, &state)?,
                };
                let made = self.make_keys(&folder, software_keys)?;
                let work = Work { amend: self, folder: &folder, begun: &begun, edit, state: &state, tokens: &tokens };
                match work.sign(made, &mut journal, &purpose(begun.number))? {
                    Ok((serial, gone)) => {
                        certificates = gone;
                        (begun.number, serial)
                    }
                    Err(waiting) => return Ok(Outcome::Waiting(waiting)),
                }
            }
        };
        state = if state.serial() < serial { State::load(&self.home.repository())? } else { state };
        let retired = self.take_over(&state)?;
        // While the network is used, no token is open but those that let in at mirrors.
        let home = Home::open(self.home.folder())?;
        tokens.keep(|serial| home.terminal.has_deploy_key_in(serial));
        let keys = DeployKeys::of(&home, &tokens);
        let mirrors = publish::push(&home, state.newest_root()?, (self.now)(), &keys)?;
        cut::note_published(&mut journal, &mirrors, state.serial(), (self.now)())?;
        self.clear(&folder, number)?;
        Ok(Outcome::Done(Summary { number, root: state.roots.len(), serial, retired, certificates, mirrors }))
    }

    /// Gives up what was begun and nobody here has signed.
    ///
    /// # Errors
    /// There is none, or keys of this home were asked for it.
    pub fn abandon(&self) -> Result<Line, AmendError> {
        let _lock = self.home.lock("release key abandon")?;
        Pending::finish_interrupted(self.home)?;
        let begun = Begun::load(self.home)?.ok_or(AmendError::NothingBegun)?;
        let (journal, state) = (self.home.journal()?, State::load(&self.home.repository())?);
        let root = state.roots.len() + 1;
        if begun.number <= state.targets.0
            || journal.was_asked(&format!("{ROOT} {root}"))
            || journal.was_asked(&format!("{TARGETS} {}", begun.number))
        {
            return Err(AmendError::Asked(begun.change));
        }
        self.clear(&self.home.amendment(), begun.number)?;
        Ok(begun.change)
    }

    fn clear(&self, folder: &Path, number: u64) -> Result<(), AmendError> {
        let _ = fs::remove_file(self.home.outbox().join(home::amendment_file(number)));
        Ok(atomic::remove_folder(folder)?)
    }

    /// What stops an amendment before anything is made.
    fn check(&self, edit: &Edit, journal: &Journal, state: &State) -> Result<(), AmendError> {
        cut::check_signed_policy(self.home, state)?;
        cut::check_clock(journal, state, (self.now)(), self.operator)?;
        // A thief of the online key makes any home look old.
        if *edit != Edit::Recover {
            publish::refuse_old_home(self.home, state.newest_root()?, self.operator).map_err(CutError::from)?;
        }
        for cut in self.home.cuts()?.into_iter().filter(home::CutState::is_open) {
            if journal.was_asked(&format!("claim {} {}", cut.product, cut.release)) {
                return Err(CutError::OtherCut { product: cut.product, other: cut.release }.into());
            }
        }
        for product in self.home.policy.products.keys() {
            if let Some((_, other)) = self.home.withdrawals(product)?.into_iter().next() {
                return Err(CutError::OtherWithdrawal { product: product.clone(), other }.into());
            }
        }
        match Pending::find(self.home)? {
            Some((serial, purpose)) if !purpose.ends_with(&format!(": {}", command(&edit.to_string()).join(" "))) => {
                Err(RepositoryError::Interrupted { serial, purpose }.into())
            }
            _ => Ok(()),
        }
    }

    /// Lays out the new policy.
    fn begin(&self, edit: &Edit, beside: Option<&Path>, state: &State) -> Result<Begun, AmendError> {
        let (home, folder) = (self.home, self.home.amendment());
        let path = home.folder().join("policy.toml");
        let before = home::read_text(&path)?.ok_or(HomeError::Missing(path))?;
        let is_taken =
            |name: &str| ["pem", "asc"].iter().any(|end| home.resolve(format!("keys/{name}.{end}")).exists());
        let after = edit.apply(&home.policy, &before, &is_taken)?;
        atomic::remove_folder(&folder)?;
        let brought = beside.map(|beside| files::tag_files(&after, beside)).transpose()?.unwrap_or_default();
        lay_out(home, &folder, &after, &brought)?;
        let damaged = |reason: String| HomeError::Damaged { path: folder.clone(), reason };
        let words: Line =
            edit.to_string().parse().map_err(|error: crate::manifest::names::NameError| damaged(error.to_string()))?;
        let at = seal::to_second((self.now)());
        let begun = Begun::new(words, state.targets.0 + 1, at);
        begun.save(&folder)?;
        home::step("amend.begun");
        Ok(begun)
    }

    /// Makes the new keys as files, or demands that people have made them in tokens.
    fn make_keys(&self, folder: &Path, software_keys: bool) -> Result<Vec<SoftwareKey>, AmendError> {
        let home = self.home;
        let path = folder.join("policy.toml");
        let text = home::read_text(&path)?.ok_or_else(|| HomeError::Missing(path.clone()))?;
        let policy = Policy::parse(&path, text).map_err(HomeError::from)?;
        let missing: BTreeSet<KeyName> =
            policy.public_files().filter(|(_, file)| !folder.join(file).exists()).map(|(name, _)| name).collect();
        // Whoever has another terminal makes keys there.
        let (own, others): (BTreeSet<KeyName>, BTreeSet<KeyName>) =
            missing.into_iter().partition(|name| software_keys && places::is_ours(home, &policy, name));
        if !others.is_empty() {
            return Err(AmendError::NotMade { keys: others.into_iter().collect(), policy: path });
        }
        if !own.is_empty() && !policy.insecure_software_keys {
            return Err(init::InitError::NotAllowed.into());
        }
        let file = |name: &KeyName| (name.clone(), Place::File(key_file(name)));
        set_places(home.folder(), &own.iter().map(file).collect(), &BTreeSet::new())?;
        let place = |name: &KeyName| home.resolve(key_file(name));
        let made = enrol::make_files(&policy, folder, &own, &place, self.operator, (self.now)())
            .map_err(init::InitError::from)?;
        home::step("amend.key");
        init::check_attestations(&policy, folder, &places::known(home, &policy, folder)?, (self.now)())?;
        set_places(home.folder(), &places::found(home, &policy, folder)?, &BTreeSet::new())?;
        Ok(made.into_values().collect())
    }

    /// Makes the signed policy that of this home, and forgets keys that it does not have.
    /// Gives their files.
    fn take_over(&self, state: &State) -> Result<Vec<PathBuf>, AmendError> {
        adopt(self.home, state)?;
        forget(self.home.folder())
    }
}
