//! One run that signs an amendment: who signs, what is asked of whom, and the seal.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use jiff::Timestamp;

use super::Amend;
use super::AmendError;
use super::Amending;
use super::Begun;
use super::Edit;
use super::Lacking;
use super::Waiting;
use super::consent;
use super::files::REQUEST;
use super::files::new_files;
use super::first::INIT;
use super::payload;
use super::payload::Computed;
use super::payload::Member;
use super::payload::Payload;
use super::payload::ROOT;
use super::payload::TARGETS;
use super::proof;
use super::proof::Signed;
use super::revocation;
use super::revocation::Gone;
use super::rules::repo_path;
use crate::approve;
use crate::approve::Amendment;
use crate::approve::Message as _;
use crate::approve::Sent;
use crate::cut::Sealer;
use crate::enrol::ATTESTATION;
use crate::enrol::PLACE;
use crate::home;
use crate::home::Event as Entry;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::key::Signer as _;
use crate::key::SoftwareKey;
use crate::key::ToSign;
use crate::key::piv::Tokens;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Sha256;
use crate::policy::Place;
use crate::policy::Policy;
use crate::policy::Span;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Stage;
use crate::repository::RepositoryError;
use crate::repository::State;
use crate::repository::layout;
use crate::repository::seal::Added;
use crate::repository::seal::OnlineKey;
use crate::sign;
use crate::sign::Batch;
use crate::sign::SignError;

/// One run that signs an amendment.
pub(super) struct Work<'w> {
    pub amend: &'w Amend<'w>,
    pub folder: &'w Path,
    pub begun: &'w Begun,
    pub edit: &'w Edit,
    pub state: &'w State,
    pub tokens: &'w Tokens<'w>,
}

impl Work<'_> {
    /// Signs and seals, if enough people have consented or have their keys here.
    pub fn sign(
        &self,
        made: Vec<SoftwareKey>,
        journal: &mut Journal,
        purpose: &str,
    ) -> Result<Result<(u64, Gone), Waiting>, AmendError> {
        let (folder, operator) = (self.folder, self.amend.operator);
        // Keys may have been made since the home was opened.
        let home = &Home::open(self.amend.home.folder())?;
        let (mut amendment, mut computed) = self.fix(home, journal)?;
        let signing_home = union(home, &computed.policy, folder);
        check_people(&signing_home, &computed)?;
        let is_here = |member: &Member| is_here(&signing_home, member);
        let starter = starter(home, &computed, &is_here)?;
        amendment.starter = starter.clone();
        computed.restore(folder)?;
        let request = self.request(home, &amendment)?;
        if let Some(sent) = &request {
            consent::gather(home, sent, &mut computed, folder, operator)?;
        }
        let lacking = lacking(&computed, &is_here);
        let confirmed = journal.has_amended(digest_of(&amendment)?);
        if !confirmed && (request.is_none() || lacking.is_empty()) {
            self.confirm(home, &amendment, &computed, &is_here)?;
            if lacking.is_empty() {
                let digest = digest_of(&amendment)?;
                let change = amendment.change.clone();
                let number = amendment.number;
                journal.append((self.amend.now)(), Entry::Amend { number, change, starter, amendment: digest })?;
            }
        }
        if !lacking.is_empty() {
            let sent = match request {
                Some(sent) => sent,
                None => self.ask(home, amendment, journal)?,
            };
            let file = home.outbox().join(sent.message.file());
            if !file.exists() {
                atomic::write(&file, &atomic::read(&folder.join(REQUEST))?)?;
            }
            let number = sent.message.number;
            return Ok(Err(Waiting { number, request: sent.sha256, file, roles: lacking }));
        }

        let online: KeyName = parse_name(home, computed.policy.role.online.key.get_ref())?;
        let mut names: BTreeSet<KeyName> = BTreeSet::from([online.clone()]);
        for payload in &computed.payloads {
            names.extend(payload.choose(&is_here).0.into_iter().map(|member| member.name));
        }
        // Old keys that are files here are tried.
        for leaving in &computed.leaving {
            let place = signing_home.terminal.tokens.get(&leaving.name).map(toml::Spanned::get_ref);
            if matches!(place, Some(Place::File(path)) if home.resolve(path).exists()) {
                names.insert(leaving.name.clone());
            }
        }
        let certificates = revocation::leaving(home, &computed.policy)?;
        // Whoever has just chosen a passphrase is not asked for it.
        let made: Vec<SoftwareKey> = made.into_iter().filter(|key| names.remove(key.name())).collect();
        let mut batch = Batch::open_keys(&signing_home, &names, self.tokens)?;
        for key in made {
            batch.add(key);
        }
        operator.event(Event::Begin { stage: Stage::Sign, what: purpose });
        for payload in &mut computed.payloads {
            let chosen: Vec<KeyName> = payload.choose(&is_here).0.into_iter().map(|member| member.name).collect();
            sign_payload(payload, &chosen, &batch, journal, folder, (self.amend.now)())?;
        }
        let people: BTreeSet<&Holder> = computed
            .payloads
            .iter()
            .flat_map(|payload| payload.draft.signed_by().filter_map(|id| Some(&payload.member(id)?.holder)))
            .collect();
        let holders: Vec<String> = people.iter().map(ToString::to_string).collect();
        let evidence = Evidence::Signed { holders: &holders, of: computed.policy.holders.len() };
        operator.event(Event::Done { stage: Stage::Sign, evidence });
        let now = (self.amend.now)();
        // By the policy that has them.
        let revoking: Vec<KeyName> = revocation::keys(&certificates).collect();
        let revoking = Batch::open_keys(home, &revoking, self.tokens)?;
        let (files, gone) = revocation::revoke(&certificates, self.edit, self.begun.at, &revoking, (journal, now))?;
        computed.files.extend(files);
        Ok(Ok((self.seal(&signing_home, &computed, &batch, &online, journal, purpose)?, gone)))
    }

    /// The amendment, with all that follows from it.
    fn fix(&self, home: &Home, journal: &Journal) -> Result<(Amendment, Computed), AmendError> {
        let path = self.folder.join("policy.toml");
        let policy_text = home::read_text(&path)?.ok_or_else(|| HomeError::Missing(path.clone()))?;
        let policy = Policy::parse(&path, policy_text.clone()).map_err(HomeError::from)?;
        let nobody = home.policy.holders.keys().next().cloned();
        let mut amendment = Amendment {
            version: approve::VERSION,
            number: self.begun.number,
            starter: nobody.ok_or(HomeError::Missing(path))?,
            at: self.begun.at,
            change: self.begun.change.clone(),
            follows: home.policy_digest,
            policy: policy_text,
            files: new_files(home, self.folder, &policy)?,
            products: BTreeMap::new(),
            roles: BTreeMap::new(),
        };
        let numbers = |product: &crate::manifest::Product, current: u64| journal.next_number(product, current);
        let everything = *self.edit == Edit::Renew;
        let computed = payload::fix(home, self.state, self.folder, &mut amendment, &numbers, everything)?;
        Ok((amendment, computed))
    }

    /// The request that was sent, if it was for this.
    fn request(&self, home: &Home, amendment: &Amendment) -> Result<Option<Sent<Amendment>>, AmendError> {
        let Some(file) = atomic::read_if_there(&self.folder.join(REQUEST))? else {
            return Ok(None);
        };
        let sent = Sent::<Amendment>::parse(&file).map_err(AmendError::Message)?;
        if sent.message == *amendment {
            return Ok(Some(sent));
        }
        let warning = "a release was made meanwhile; consents are asked for anew";
        self.amend.operator.event(Event::Warning(warning));
        let _ = fs::remove_file(home.outbox().join(sent.message.file()));
        Ok(None)
    }

    /// Puts the request into the outbox.
    fn ask(&self, home: &Home, amendment: Amendment, journal: &mut Journal) -> Result<Sent<Amendment>, AmendError> {
        let claim = own_claim(&home.policy, home, &amendment.starter)?;
        let batch = Batch::open_keys(home, [&claim], self.tokens)?;
        let name = amendment.file();
        let file = vouch(amendment, &claim, &batch, journal, (self.amend.now)())?;
        atomic::make_folder(&home.outbox())?;
        atomic::write(&self.folder.join(REQUEST), &file)?;
        home::step("amend.asked");
        atomic::write(&home.outbox().join(name), &file)?;
        Sent::parse(&file).map_err(AmendError::Message)
    }

    fn confirm(
        &self,
        home: &Home,
        amendment: &Amendment,
        computed: &Computed,
        is_here: &dyn Fn(&Member) -> bool,
    ) -> Result<(), AmendError> {
        let chosen = computed.payloads.iter().flat_map(|payload| payload.choose(is_here).0);
        let keys = chosen.map(|member| member.name).collect::<BTreeSet<_>>().into_iter().collect();
        Ok(self.amend.operator.confirm_amendment(&amending(home, amendment, computed, keys)?)?)
    }

    fn seal(
        &self,
        home: &Home,
        computed: &Computed,
        batch: &Batch<'_>,
        online: &KeyName,
        journal: &mut Journal,
        purpose: &str,
    ) -> Result<u64, AmendError> {
        let mut after = self.state.clone();
        let mut files = computed.files.clone();
        for payload in &computed.payloads {
            let (role, number, file) = (payload.draft.role(), payload.draft.number(), payload.draft.to_file()?);
            files.push((repo_path(layout::metadata(number, role))?, file.clone()));
            match role {
                ROOT => after.roots.push(file),
                TARGETS => after.targets = (number, file),
                product => {
                    let found = after.roles.iter_mut().find(|(name, _)| name.as_str() == product);
                    if let Some((_, entry)) = found {
                        *entry = (number, file);
                    }
                }
            }
        }
        let signed = Signed { state: self.state, root: after.newest_root()?, targets: &after.targets.1 };
        let now = (self.amend.now)();
        proof::try_old_keys(computed, &signed, batch, (journal, now), self.amend.operator)?;
        let home = home.amended(computed.policy.clone(), home.policy_digest);
        let signer = batch.signer(online)?;
        let keyid = sign::keyid(signer.public())?;
        let sealer = Sealer { home: &home, operator: self.amend.operator, now: self.amend.now };
        let added = Added { files: &files, state: Some(&after) };
        let online = OnlineKey { keyid: &keyid, signer };
        Ok(sealer.seal(self.state, purpose, None, &added, &online, journal)?.serial)
    }
}

/// A home that knows old keys and new ones, whose public halves are in a folder of it.
pub(super) fn union(home: &Home, policy: &Policy, folder: &Path) -> Home {
    let mut both = policy.clone();
    for (name, entry) in &mut both.keys {
        if !home.policy.keys.contains_key(name) {
            let path = folder.join(entry.public.get_ref());
            entry.public = Span::new(entry.public.span(), path.display().to_string());
        }
    }
    for (name, entry) in &home.policy.keys {
        both.keys.entry(name.clone()).or_insert_with(|| entry.clone());
    }
    for (name, line) in &home.policy.holders {
        both.holders.entry(name.clone()).or_insert_with(|| line.clone());
    }
    home.amended(both, home.policy_digest)
}

/// Keys of several people on one terminal, where the policy wants them apart.
pub(super) fn check_people(home: &Home, computed: &Computed) -> Result<(), AmendError> {
    let here = computed.members().filter(|member| is_here(home, member));
    let people: BTreeSet<Holder> = here.map(|member| member.holder.clone()).collect();
    let rebuilds = home.policy.products.values().any(|product| *product.rebuilds.get_ref() > 0);
    if people.len() > 1 && rebuilds && !home.policy.insecure_same_terminal {
        return Err(SignError::SameTerminal(people.into_iter().collect()).into());
    }
    Ok(())
}

/// Who asks: the first person with a key here that signs, and a claim key.
pub(super) fn starter(
    home: &Home,
    computed: &Computed,
    is_here: &dyn Fn(&Member) -> bool,
) -> Result<Holder, AmendError> {
    let mut here =
        computed.members().filter(|member| is_here(member)).map(|member| &member.holder).collect::<BTreeSet<_>>();
    let has_claim =
        |holder: &Holder| home.policy.claim_key(holder).is_some_and(|key| home.terminal.tokens.contains_key(key));
    let first = here.iter().find(|holder| has_claim(holder)).copied().or_else(|| here.pop_first());
    first.cloned().ok_or(AmendError::NoKeyHere)
}

/// Whether a key is on this terminal.
pub(super) fn is_here(home: &Home, member: &Member) -> bool {
    home.terminal.tokens.contains_key(&member.name)
}

/// The claim key by which somebody here sends messages.
pub(super) fn own_claim(policy: &Policy, home: &Home, holder: &Holder) -> Result<KeyName, AmendError> {
    let claim = policy.claim_key(holder).filter(|key| home.terminal.tokens.contains_key(*key));
    Ok(claim.ok_or_else(|| SignError::NoClaimKey(holder.clone()))?.clone())
}

/// The roles that lack signatures, beside those that will be made here.
pub(super) fn lacking(computed: &Computed, is_here: &dyn Fn(&Member) -> bool) -> Vec<Lacking> {
    let mut lacking = Vec::new();
    for payload in &computed.payloads {
        let (chosen, complete) = payload.choose(is_here);
        if complete {
            continue;
        }
        let signed = payload.draft.signed_by().filter_map(|id| Some(payload.member(id)?.holder.clone()));
        let have: BTreeSet<Holder> = signed.chain(chosen.into_iter().map(|member| member.holder)).collect();
        let need = payload.groups.iter().map(|group| group.need).max().unwrap_or(0);
        lacking.push(Lacking { role: payload.draft.role().to_owned(), have, need });
    }
    lacking
}

/// Signs one payload by these keys, and keeps it after each signature.
pub(super) fn sign_payload(
    payload: &mut Payload,
    keys: &[KeyName],
    batch: &Batch<'_>,
    journal: &mut Journal,
    folder: &Path,
    now: Timestamp,
) -> Result<(), AmendError> {
    let what = format!("{} {}", payload.draft.role(), payload.draft.number());
    let (digest, message) = (payload.draft.digest()?, payload.draft.canonical()?);
    for name in keys {
        let signer = batch.signer(name)?;
        let keyid = sign::keyid(signer.public())?;
        if payload.draft.has_signature(&keyid) {
            continue;
        }
        journal.ask(now, name, &what, digest)?;
        home::step("amend.key-asked");
        let signature = signer.sign(&what, ToSign::Message(&message))?;
        payload.add(&keyid, None, &signature)?;
        atomic::write(&payload.file(folder), &payload.draft.to_file()?)?;
        home::step("amend.signed");
    }
    Ok(())
}

/// A message to other terminals, signed by the claim key of whoever sends it.
pub(super) fn vouch<M: approve::Message>(
    message: M,
    claim: &KeyName,
    batch: &Batch<'_>,
    journal: &mut Journal,
    now: Timestamp,
) -> Result<Vec<u8>, AmendError> {
    let (sent, bytes) = Sent::new(message).map_err(AmendError::Message)?;
    let (signer, digest) = (batch.signer(claim)?, Sha256::of(&bytes));
    // One amendment may be asked for again, after a release has taken a number.
    let what = format!("{} {}", sent.message.file(), digest.short());
    journal.ask(now, claim, &what, digest)?;
    let signature = signer.sign(&what, ToSign::Message(&bytes))?;
    sent.seal(&sign::keyid(signer.public())?, &signature).map_err(AmendError::Message)
}

/// The digest of what an amendment says.
pub(super) fn digest_of(amendment: &Amendment) -> Result<Sha256, AmendError> {
    Ok(crate::manifest::json::digest(amendment).map_err(RepositoryError::from)?)
}

/// What a person should look at before signing.
pub(super) fn amending<'a>(
    home: &Home,
    amendment: &'a Amendment,
    computed: &Computed,
    keys: Vec<KeyName>,
) -> Result<Amending<'a>, AmendError> {
    let path = home.folder().join("policy.toml");
    // Before the first one there was none.
    let is_first = amendment.change.as_str() == INIT;
    let before = if is_first { String::new() } else { home::read_text(&path)?.unwrap_or_default() };
    let only_in = |text: &str, other: &str, sign: char| -> Vec<String> {
        let mut others: Vec<&str> = other.lines().collect();
        let mut only = Vec::new();
        for line in text.lines() {
            match others.iter().position(|other| *other == line) {
                Some(at) => drop(others.remove(at)),
                None => only.push(format!("{sign} {line}")),
            }
        }
        only
    };
    let mut lines = only_in(&before, &amendment.policy, '-');
    lines.extend(only_in(&amendment.policy, &before, '+'));
    for (name, content) in &amendment.files {
        if !name.ends_with(PLACE) && !name.ends_with(ATTESTATION) {
            lines.push(format!("+ file {name}, SHA-256 {}", Sha256::of(content.as_bytes()).short()));
        }
    }
    let roles = computed.payloads.iter().map(|payload| (payload.draft.role().to_owned(), payload.draft.number()));
    Ok(Amending { amendment, lines, roles: roles.collect(), keys })
}

/// A name of the policy.
pub(super) fn parse_name(home: &Home, name: &str) -> Result<KeyName, AmendError> {
    let damaged = |error: crate::manifest::names::NameError| HomeError::Damaged {
        path: home.folder().join("policy.toml"),
        reason: error.to_string(),
    };
    Ok(name.parse().map_err(damaged)?)
}
