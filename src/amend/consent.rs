//! The other people's side of an amendment: compute what it asks to sign, look at it, and
//! sign the same.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;

use super::Amend;
use super::AmendError;
use super::files::REQUEST;
use super::files::lay_out;
use super::files::set_places;
use super::payload::Computed;
use super::payload::ROOT;
use super::payload::compute;
use super::payload::parse;
use super::places;
use super::work::amending;
use super::work::check_people;
use super::work::digest_of;
use super::work::is_here;
use super::work::own_claim;
use super::work::sign_payload;
use super::work::union;
use super::work::vouch;
use crate::approve;
use crate::approve::Amendment;
use crate::approve::Consent;
use crate::approve::MAX_MESSAGE;
use crate::approve::Sent;
use crate::cut;
use crate::cut::CutError;
use crate::cut::Operator;
use crate::home;
use crate::home::Event as Entry;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::init;
use crate::key::piv::Tokens;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::names::printable;
use crate::policy::Policy;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Progress;
use crate::progress::Stage;
use crate::publish;
use crate::repository::Pending;
use crate::repository::State;
use crate::sign;
use crate::sign::Batch;
use crate::sign::SignError;
use crate::transport::read_plain;

impl Amend<'_> {
    /// Answers the request of another terminal with the signatures of one person here.
    /// Gives the file of the consent.
    ///
    /// # Errors
    /// The request is not one that anybody here should sign. Nothing was signed then. The
    /// same call again goes on.
    pub fn answer(&self, file: &[u8]) -> Result<PathBuf, AmendError> {
        let home = self.home;
        let _lock = home.lock("release approve")?;
        Pending::finish_interrupted(home)?;
        let mut journal = home.journal()?;
        let state = State::load(&home.repository())?;
        cut::check_signed_policy(home, &state)?;
        let sent = Sent::<Amendment>::parse(file).map_err(AmendError::Message)?;
        let amendment = &sent.message;
        if amendment.follows != home.policy_digest {
            let (starter, theirs) = (amendment.starter.clone(), amendment.follows);
            return Err(CutError::RequestPolicy { starter, theirs, ours: home.policy_digest }.into());
        }
        let starter = sent.signed_by(&sign::claim_keys(home)?).map_err(AmendError::Message)?;
        let now = (self.now)();
        cut::check_clock(&journal, &state, now, self.operator)?;
        if amendment.at > now {
            return Err(CutError::Clock { now, what: "the request", then: amendment.at }.into());
        }
        publish::refuse_old_home(home, state.newest_root()?, self.operator).map_err(CutError::from)?;

        let folder = home.approvals().join(home::amendment(amendment.number));
        let noted = atomic::read_if_there(&folder.join(REQUEST))?;
        if noted.as_deref() != Some(file) {
            atomic::remove_folder(&folder)?;
        }
        lay_out(home, &folder, &amendment.policy, &amendment.files)?;
        let policy = parse(&folder, &amendment.policy)?;
        init::check_attestations(&policy, &folder, &places::known(home, &policy, &folder)?, now)?;
        // New keys of people who are here were made here.
        set_places(home.folder(), &places::found(home, &policy, &folder)?, &BTreeSet::new())?;
        let home = &Home::open(home.folder())?;
        if let Some(key) = places::foreign(home, &policy, &folder)? {
            return Err(AmendError::Foreign { key, starter });
        }
        let with_root = amendment.roles.contains_key(ROOT);
        let computed = compute(home, &state, &folder, amendment, with_root)?;
        if computed.digests()? != amendment.roles {
            return Err(AmendError::Refused { starter, reason: OTHER.to_owned() });
        }
        let signing_home = union(home, &computed.policy, &folder);
        let (home, claims) = (&signing_home, &home.policy);
        let consenting = Consenting { home, claims, folder: &folder, operator: self.operator, now };
        consenting.give(&sent, file, computed, &starter, &mut journal)
    }
}

/// What a terminal says that computes other metadata.
pub(super) const OTHER: &str = "this terminal computes other metadata from it; has it other files of maintainers, or another version of this \
     program?";

/// One person's consent to what another terminal asks for and this one has computed.
pub(super) struct Consenting<'c> {
    /// The home, which knows all keys that sign.
    pub home: &'c Home,
    /// The policy by whose claim keys people send messages.
    pub claims: &'c Policy,
    /// Where signatures are kept.
    pub folder: &'c Path,
    pub operator: &'c dyn Operator,
    pub now: Timestamp,
}

impl Consenting<'_> {
    /// Shows what is asked for, signs it, and gives the file of the consent. The same call
    /// again goes on.
    ///
    /// # Errors
    /// Nobody here is to sign, or somebody stops.
    pub fn give(
        &self,
        sent: &Sent<Amendment>,
        file: &[u8],
        mut computed: Computed,
        starter: &Holder,
        journal: &mut Journal,
    ) -> Result<PathBuf, AmendError> {
        let (home, amendment, now) = (self.home, &sent.message, self.now);
        check_people(home, &computed)?;
        let holder = self.holder(&computed, starter)?;
        let claim = own_claim(self.claims, home, &holder)?;
        atomic::write(&self.folder.join(REQUEST), file)?;
        home::step("amend.noted");
        computed.restore(self.folder)?;

        let keys = own_keys(home, &computed, &holder);
        if !journal.has_amended(digest_of(amendment)?) {
            self.operator.confirm_amendment(&amending(home, amendment, &computed, keys.iter().cloned().collect())?)?;
            let (number, change, digest) = (amendment.number, amendment.change.clone(), digest_of(amendment)?);
            let starter = starter.clone();
            journal.append(now, Entry::Amend { number, change, starter, amendment: digest })?;
        }
        let target = home.outbox().join(home::consent_file(amendment.number, &holder));
        let tokens = Tokens::new(self.operator);
        let batch = Batch::open_keys(home, keys.iter().chain([&claim]), &tokens)?;
        self.operator.event(Event::Begin { stage: Stage::Sign, what: "the request" });
        let mut signatures: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for payload in &mut computed.payloads {
            let members = payload.groups.iter().flat_map(|group| group.of.values());
            let chosen: BTreeSet<KeyName> =
                members.filter(|member| keys.contains(&member.name)).map(|member| member.name.clone()).collect();
            let chosen: Vec<KeyName> = chosen.into_iter().collect();
            sign_payload(payload, &chosen, &batch, journal, self.folder, now)?;
            let made = payload.draft.signed_by();
            let made = made.map(|id| (id.to_owned(), hex::encode(payload.draft.signature(id).unwrap_or_default())));
            signatures.insert(payload.draft.role().to_owned(), made.collect());
        }
        signatures.retain(|_, made| !made.is_empty());
        let consent = Consent {
            version: approve::VERSION,
            number: amendment.number,
            holder: holder.clone(),
            amendment: sent.sha256,
            signatures,
        };
        let bytes = vouch(consent, &claim, &batch, journal, now)?;
        atomic::make_folder(&home.outbox())?;
        atomic::write(&target, &bytes)?;
        home::step("amend.consented");
        let holders = [holder.to_string()];
        let evidence = Evidence::Signed { holders: &holders, of: computed.policy.holders.len() };
        self.operator.event(Event::Done { stage: Stage::Sign, evidence });
        Ok(target)
    }

    /// Who consents here: one person other than the starter, with a key that signs.
    fn holder(&self, computed: &Computed, starter: &Holder) -> Result<Holder, AmendError> {
        let here: BTreeSet<&Holder> =
            computed.members().filter(|member| is_here(self.home, member)).map(|member| &member.holder).collect();
        match here.iter().find(|holder| **holder != starter) {
            Some(holder) => Ok((*holder).clone()),
            None if here.contains(starter) => Err(SignError::Starter(starter.clone()).into()),
            None => Err(AmendError::NoKeyHere),
        }
    }
}

/// The keys of one person here that may sign.
fn own_keys(home: &Home, computed: &Computed, holder: &Holder) -> BTreeSet<KeyName> {
    let own = computed.members().filter(|member| member.holder == *holder && is_here(home, member));
    own.map(|member| member.name.clone()).collect()
}

/// Takes the consents that media have brought. What does not count is told, and left
/// where it is.
///
/// # Errors
/// Files of the home.
pub(super) fn gather(
    home: &Home,
    request: &Sent<Amendment>,
    computed: &mut Computed,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), AmendError> {
    let begin = format!("{}_", home::amendment(request.message.number));
    let entries = fs::read_dir(home.inbox()).into_iter().flatten().flatten();
    let is_meant = |name: &str| name.starts_with(&begin) && name.ends_with(home::APPROVAL);
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_meant(name)).collect();
    names.sort();
    for name in names {
        let path = home.inbox().join(&name);
        let file = read_plain(&path, MAX_MESSAGE).map_err(|error| HomeError::of_transport(&path, error))?;
        if let Err(error) = take(home, request, computed, folder, &file.unwrap_or_default()) {
            if let AmendError::Home(error) = error {
                return Err(error.into());
            }
            progress.event(Event::Warning(&format!("inbox/{}: {error}", printable(&name))));
        }
    }
    Ok(())
}

fn take(
    home: &Home,
    request: &Sent<Amendment>,
    computed: &mut Computed,
    folder: &Path,
    file: &[u8],
) -> Result<(), AmendError> {
    let sent = Sent::<Consent>::parse(file).map_err(AmendError::Message)?;
    let holder = sent.signed_by(&sign::claim_keys(home)?).map_err(AmendError::Message)?;
    let consent = sent.message;
    if consent.amendment != request.sha256 {
        let (theirs, ours) = (consent.amendment.short(), request.sha256.short());
        return Err(AmendError::OtherAnswer { theirs, ours });
    }
    // All of it, or nothing.
    let mut payloads = computed.payloads.clone();
    for (role, made) in &consent.signatures {
        let payload = payloads.iter_mut().find(|payload| payload.draft.role() == role);
        let payload = payload.ok_or_else(|| AmendError::Signature {
            role: printable(role),
            reason: "nobody is asked to sign that".to_owned(),
        })?;
        for (keyid, signature) in made {
            let bytes = hex::decode(signature).unwrap_or_default();
            // One spelling, since the metadata holds it.
            if hex::encode(&bytes) != *signature {
                let (role, reason) = (printable(role), "a signature is not in small hex".to_owned());
                return Err(AmendError::Signature { role, reason });
            }
            payload.add(keyid, Some(&holder), &bytes)?;
        }
    }
    computed.payloads = payloads;
    for payload in &computed.payloads {
        atomic::write(&payload.file(folder), &payload.draft.to_file()?)?;
    }
    home::step("amend.gathered");
    Ok(())
}
