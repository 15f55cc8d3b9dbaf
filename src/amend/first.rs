//! The first root and the first targets of a project: what `release init` signs. They are
//! signed as any later change is: where keys of those who must sign are on other terminals,
//! this one asks, and those answer.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;

use super::AmendError;
use super::Waiting;
use super::consent;
use super::consent::Consenting;
use super::files;
use super::files::Begun;
use super::files::REQUEST;
use super::payload;
use super::payload::Computed;
use super::payload::Member;
use super::payload::ROOT;
use super::payload::TARGETS;
use super::rules::repo_path;
use super::work;
use crate::approve;
use crate::approve::Amendment;
use crate::approve::Message as _;
use crate::approve::Sent;
use crate::cut::CutError;
use crate::cut::Operator;
use crate::cut::Sealer;
use crate::home;
use crate::home::Event;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::key::SoftwareKey;
use crate::key::piv::Tokens;
use crate::manifest::KeyName;
use crate::manifest::Line;
use crate::manifest::Sha256;
use crate::repository::Pending;
use crate::repository::RepositoryError;
use crate::repository::State;
use crate::repository::layout;
use crate::repository::seal;
use crate::repository::seal::Added;
use crate::repository::seal::OnlineKey;
use crate::sign;
use crate::sign::Batch;
use crate::tuf::Draft;

/// What it is called, where a later change has the words of its command.
pub(super) const INIT: &str = "init";
/// The number of the first targets.
const FIRST: u64 = 1;

/// The first change of a home.
pub struct First<'a> {
    /// The home, which has a policy, public files of all keys, and nothing else.
    pub home: &'a Home,
    /// The person at the terminal.
    pub operator: &'a dyn Operator,
    /// The clock.
    pub now: &'a dyn Fn() -> Timestamp,
}

/// How far it came.
#[derive(Debug)]
pub enum Founded {
    /// The project has a root, with this digest.
    Root(Sha256),
    /// Other people must sign.
    Waiting(Waiting),
    /// This terminal has answered another one; the file of that.
    Answered(PathBuf),
}

impl First<'_> {
    /// Whether a home waits for others to sign its first root.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_begun(home: &Home) -> Result<bool, HomeError> {
        Ok(Begun::load(home)?.is_some_and(|begun| begun.change.as_str() == INIT))
    }

    /// Signs the first root, or goes on with it. `made` are keys that were made just now.
    ///
    /// # Errors
    /// No key here signs it, or one failed. The same call again goes on.
    pub fn sign(&self, made: BTreeMap<KeyName, SoftwareKey>, journal: &mut Journal) -> Result<Founded, AmendError> {
        let (home, operator) = (self.home, self.operator);
        Pending::finish_interrupted(home)?;
        if let Ok(state) = State::load(&home.repository()) {
            return self.finished(Sha256::of(state.first_root()?), journal);
        }
        let folder = home.amendment();
        let begun = match Begun::load(home)? {
            Some(begun) => begun,
            None => Begun::new(self.words()?, FIRST, seal::to_second((self.now)())),
        };
        begun.save(&folder)?;
        let mut computed = payload::first(&home.policy, home.folder(), begun.at)?;
        computed.restore(&folder)?;
        let sent = match atomic::read_if_there(&folder.join(REQUEST))? {
            Some(file) => Some(Sent::<Amendment>::parse(&file).map_err(AmendError::Message)?),
            None => None,
        };
        if let Some(sent) = &sent {
            consent::gather(home, sent, &mut computed, &folder, operator)?;
        }
        let is_here = |member: &Member| work::is_here(home, member);
        let lacking = work::lacking(&computed, &is_here);
        if !lacking.is_empty() {
            let sent = match sent {
                Some(sent) => sent,
                None => self.ask(begun, &computed, made, journal)?,
            };
            let file = home.outbox().join(sent.message.file());
            atomic::make_folder(&home.outbox())?;
            atomic::write(&file, &atomic::read(&folder.join(REQUEST))?)?;
            let waiting = Waiting { number: FIRST, request: sent.sha256, file, roles: lacking };
            return Ok(Founded::Waiting(waiting));
        }
        let mut names: BTreeSet<KeyName> = BTreeSet::new();
        for payload in &computed.payloads {
            names.extend(payload.choose(&is_here).0.into_iter().map(|member| member.name));
        }
        let online = work::parse_name(home, home.policy.role.online.key.get_ref())?;
        names.insert(online.clone());
        let batch = self.open(&names, made)?;
        for payload in &mut computed.payloads {
            let chosen: Vec<KeyName> = payload.choose(&is_here).0.into_iter().map(|member| member.name).collect();
            work::sign_payload(payload, &chosen, &batch, journal, &folder, (self.now)())?;
        }
        let (mut added, mut signed) = (computed.files, BTreeMap::new());
        for payload in &computed.payloads {
            let (role, file) = (payload.draft.role(), payload.draft.to_file()?);
            added.push((repo_path(layout::metadata(FIRST, role))?, file.clone()));
            signed.insert(role.to_owned(), file);
        }
        let root = signed.remove(ROOT).unwrap_or_default();
        let digest = Sha256::of(&root);
        let signer = batch.signer(&online)?;
        let keyid = sign::keyid(signer.public())?;
        let state = State::first(&home.repository(), root, signed.remove(TARGETS).unwrap_or_default());
        let sealer = Sealer { home, operator, now: self.now };
        let added = Added { files: &added, state: None };
        sealer.seal(&state, INIT, None, &added, &OnlineKey { keyid: &keyid, signer }, journal)?;
        self.finished(digest, journal)
    }

    fn finished(&self, root: Sha256, journal: &mut Journal) -> Result<Founded, AmendError> {
        journal.append((self.now)(), Event::Init { root })?;
        let _ = fs::remove_file(self.home.outbox().join(home::amendment_file(FIRST)));
        atomic::remove_folder(&self.home.amendment())?;
        Ok(Founded::Root(root))
    }

    /// Opens keys, but those that were made just now.
    fn open(&self, names: &BTreeSet<KeyName>, made: BTreeMap<KeyName, SoftwareKey>) -> Result<Batch<'_>, AmendError> {
        let missing = names.iter().filter(|name| !made.contains_key(*name));
        let mut batch = Batch::open_keys(self.home, missing, &Tokens::new(self.operator))?;
        for (name, key) in made {
            if names.contains(&name) {
                batch.add(key);
            }
        }
        Ok(batch)
    }

    fn ask(
        &self,
        begun: Begun,
        computed: &Computed,
        made: BTreeMap<KeyName, SoftwareKey>,
        journal: &mut Journal,
    ) -> Result<Sent<Amendment>, AmendError> {
        let home = self.home;
        let is_here = |member: &Member| work::is_here(home, member);
        let starter = work::starter(home, computed, &is_here)?;
        let claim = work::own_claim(&home.policy, home, &starter)?;
        let path = home.folder().join("policy.toml");
        let amendment = Amendment {
            version: approve::VERSION,
            number: FIRST,
            starter,
            at: begun.at,
            change: begun.change,
            // Nothing was before: it is the policy that everybody must have.
            follows: home.policy_digest,
            policy: home::read_text(&path)?.ok_or(HomeError::Missing(path))?,
            files: files::all_files(home)?,
            products: BTreeMap::new(),
            roles: computed.digests()?,
        };
        let batch = self.open(&BTreeSet::from([claim.clone()]), made)?;
        let file = work::vouch(amendment, &claim, &batch, journal, (self.now)())?;
        atomic::write(&home.amendment().join(REQUEST), &file)?;
        home::step("amend.asked");
        Sent::parse(&file).map_err(AmendError::Message)
    }

    /// Answers another terminal that asks for the first root of the same policy, with the
    /// signatures of one person here.
    ///
    /// # Errors
    /// The request is not one that anybody here should sign. Nothing was signed then.
    pub fn answer(&self, file: &[u8], journal: &mut Journal) -> Result<Founded, AmendError> {
        let home = self.home;
        let sent = Sent::<Amendment>::parse(file).map_err(AmendError::Message)?;
        let starter = sent.signed_by(&sign::claim_keys(home)?).map_err(AmendError::Message)?;
        let amendment = &sent.message;
        let refuse = |reason: &str| AmendError::Refused { starter: starter.clone(), reason: reason.to_owned() };
        if amendment.change.as_str() != INIT || amendment.number != FIRST || !amendment.products.is_empty() {
            return Err(refuse("it changes keys of a project that exists, which a home of that project approves"));
        }
        let theirs = Sha256::of(amendment.policy.as_bytes());
        if theirs != home.policy_digest {
            return Err(CutError::RequestPolicy { starter, theirs, ours: home.policy_digest }.into());
        }
        let now = (self.now)();
        if amendment.at > now {
            return Err(CutError::Clock { now, what: "the request", then: amendment.at }.into());
        }
        let own = files::all_files(home)?;
        let names: BTreeSet<&String> = own.keys().chain(amendment.files.keys()).collect();
        if let Some(name) = names.into_iter().find(|name| own.get(*name) != amendment.files.get(*name)) {
            let reason = format!("it is not the one of {starter}: compare both with the person whose key it is");
            return Err(AmendError::File { name: crate::manifest::names::printable(name), reason });
        }
        let computed = payload::first(&home.policy, home.folder(), amendment.at)?;
        if computed.digests()? != amendment.roles {
            return Err(refuse(consent::OTHER));
        }
        let folder = home.approvals().join(home::amendment(FIRST));
        let consenting = Consenting { home, claims: &home.policy, folder: &folder, operator: self.operator, now };
        Ok(Founded::Answered(consenting.give(&sent, file, computed, &starter, journal)?))
    }

    fn words(&self) -> Result<Line, AmendError> {
        let damaged = |error: crate::manifest::names::NameError| HomeError::Damaged {
            path: self.home.folder().to_owned(),
            reason: error.to_string(),
        };
        Ok(INIT.parse().map_err(damaged)?)
    }
}

/// What of the first root this terminal has signed, where it has not seen the root itself
/// yet: the digest of its signed part.
///
/// # Errors
/// It cannot be read.
pub fn agreed_root(home: &Home) -> Result<Option<Sha256>, RepositoryError> {
    let folder = home.approvals().join(home::amendment(FIRST));
    let Some(file) = atomic::read_if_there(&payload::signing_file(&folder, ROOT))? else {
        return Ok(None);
    };
    Ok(Some(Draft::parse(ROOT, &file)?.digest()?))
}
