//! The second person's side of a release: rebuild what another terminal has started,
//! compare, and sign the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use sigstore_tuf::Metadata;
use sigstore_tuf::Targets;

use super::Approving;
use super::Cut;
use super::CutError;
use super::Waiting;
use super::check_clock;
use super::lost;
use super::refuse_old_home;
use crate::approve;
use crate::approve::Approval;
use crate::approve::MAX_MESSAGE;
use crate::approve::Request;
use crate::approve::Sent;
use crate::build::Environment;
use crate::home;
use crate::home::CutState;
use crate::home::Event as Entry;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::key::piv::Tokens;
use crate::manifest::Artifact;
use crate::manifest::Build;
use crate::manifest::FileName;
use crate::manifest::Holder;
use crate::manifest::Pin;
use crate::manifest::Sha256;
use crate::manifest::claim::GitId;
use crate::manifest::claim::Statement;
use crate::manifest::dsse;
use crate::manifest::dsse::Envelope;
use crate::manifest::release;
use crate::policy::ProductPolicy;
use crate::policy::recipe;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Stage;
use crate::repository::Pending;
use crate::repository::RepositoryError;
use crate::repository::State;
use crate::repository::seal;
use crate::repository::stage::Described;
use crate::sign;
use crate::sign::Agreement;
use crate::sign::Batch;
use crate::sign::Plan;
use crate::sign::Session;
use crate::sign::SignError;
use crate::sign::Warrant;
use crate::source::Since;
use crate::transport::read_plain;
use crate::tuf::Draft;
use crate::tuf::ProductRole;
use crate::tuf::SignedPolicy;
use crate::tuf::change::Change;
use crate::tuf::people;

/// The file of the request that is answered, in the folder of an approval.
const REQUEST: &str = "request.json";

/// What a person who was asked gives.
#[derive(Debug)]
pub enum Answer {
    /// An approval: its file.
    Approval(PathBuf),
    /// A claim: its file.
    Claim(PathBuf),
    /// A claim; more people must rebuild before anybody signs.
    Waiting(Waiting),
}

/// A request whose sender is known, and what it asks to sign.
struct Asked {
    request: Request,
    sha256: Sha256,
    /// The file of the role before, if there was one.
    before: Option<Vec<u8>>,
    role: Draft,
    /// What the starter claims.
    claimed: Statement,
}

impl Cut<'_> {
    /// Rebuilds what another terminal has started, and answers with an approval, or
    /// with `only_rebuild` with a claim.
    ///
    /// # Errors
    /// The request is not one that a release manager here may answer; this terminal
    /// gets other bytes. Nothing was signed then. The same call again goes on.
    pub fn answer(&self, file: &[u8], only_rebuild: bool) -> Result<Answer, CutError> {
        let command = if only_rebuild { "rebuild" } else { "approve" };
        let _lock = self.home.lock(&format!("release {command} {} {}", self.product, self.version))?;
        Pending::finish_interrupted(self.home)?;
        let mut journal = self.home.journal()?;
        let state = State::load(&self.home.repository())?;
        let of_product = self.of_product()?;
        self.check_policy(&state)?;
        let asked = self.read_request(file, of_product, &state)?;
        let starter = &asked.request.starter;
        let plan = if only_rebuild {
            Plan::to_rebuild(self.home, self.product, starter)?
        } else {
            Plan::to_approve(self.home, self.product, starter)?
        };
        check_clock(&journal, &state, (self.now)(), self.operator)?;
        self.check_expiry(&state)?;
        refuse_old_home(self.home, &state, &mut journal, self.operator, self.now)?;
        self.check_asked_before(&asked, &plan, &journal)?;
        let folder = self.home.approval(self.product, self.version);
        let mut cut = self.open_approval(&folder, file, &asked, &journal)?;

        // The environment first: with another one, a build would prove nothing.
        let there = Environment::parse(asked.request.environment.as_bytes())?;
        let here = Environment::describe(&self.home.terminal.sandbox.toolchains)?;
        let differences = here.differences(&there);
        if !differences.is_empty() || here.digest()? != Sha256::of(asked.request.environment.as_bytes()) {
            return Err(CutError::Environment { starter: starter.clone(), differences });
        }
        let since = self.rebuild(&mut cut, of_product, &folder, &asked, &mut journal)?;
        let described = self.compare(&cut, of_product, &folder, &asked)?;
        self.operator.event(Event::Done {
            stage: Stage::Build,
            evidence: Evidence::Agreed { files: asked.claimed.subjects().len(), starter: starter.as_str() },
        });

        let confirmed =
            if only_rebuild { journal.was_asked(&self.claim_name()) } else { journal.has_approved(asked.sha256) };
        if !confirmed {
            self.operator.confirm_approval(&Approving {
                request: &asked.request,
                sha256: asked.sha256,
                number: asked.role.number(),
                digest: asked.role.digest().map_err(RepositoryError::from)?,
                files: &described.files,
                since: since.as_ref().map(|(previous, since)| (previous, since.as_ref())),
                plan: &plan,
            })?;
            let (product, release) = (self.product.clone(), self.version.clone());
            if !only_rebuild {
                journal.append(
                    (self.now)(),
                    Entry::Approve { product, release, starter: starter.clone(), request: asked.sha256 },
                )?;
            }
        }
        let answer = self.sign_answer(&plan, &folder, &asked, &described, &mut journal)?;
        CutState::drop_source(&folder);
        Ok(answer)
    }

    /// Checks all of a request that needs no build.
    fn read_request(&self, file: &[u8], of_product: &ProductPolicy, state: &State) -> Result<Asked, CutError> {
        let message = |error| CutError::Message { what: "request", error };
        let sent = Sent::<Request>::parse(file).map_err(message)?;
        // Who may sign it stands in the policy.
        let ours = self.home.policy_digest;
        if sent.message.policy != ours {
            let (starter, theirs) = (sent.message.starter.clone(), sent.message.policy);
            return Err(CutError::RequestPolicy { starter, theirs, ours });
        }
        sent.signed_by(&self.claim_keys()?).map_err(message)?;
        let (request, sha256) = (sent.message, sent.sha256);
        let refuse = |reason: String| CutError::Request { starter: request.starter.clone(), reason };
        let unreadable = |error: &dyn std::fmt::Display| refuse(format!("it cannot be read: {error}"));

        let payload = request.claim.payload().map_err(|error| unreadable(&error))?;
        let claimed = Statement::parse(&payload).map_err(|error| unreadable(&error))?;
        let claimants = sign::claimants(&request.claim, &claimed, &self.claim_keys()?)?;
        if claimants.iter().ne([&request.starter]) {
            return Err(refuse("its claim is not by its sender".to_owned()));
        }
        let is_about = (claimed.product(), claimed.version());
        if is_about != (Some(self.product.as_str()), Some(self.version.as_str()))
            || claimed.commit().as_ref() != Some(&request.pin.commit)
            || claimed.digest_of("environment") != Some(Sha256::of(request.environment.as_bytes()))
        {
            return Err(refuse("its claim is about something else".to_owned()));
        }

        let before = self.role_before(&request, state)?;
        let role = Draft::parse(self.product.as_str(), request.role.as_bytes()).map_err(|error| unreadable(&error))?;
        if role.signed_by().next().is_some() || role.to_file().ok().as_deref() != Some(request.role.as_bytes()) {
            return Err(refuse("its manifest is not one without signatures".to_owned()));
        }
        let change = Change::between(self.product, before.as_deref(), &role)
            .map_err(|error| refuse(format!("its manifest {error}")))?;
        if change.added.iter().ne([self.version]) || !change.withdrawn.is_empty() {
            return Err(refuse(format!("its manifest does not add {} alone", self.version)));
        }
        let now = (self.now)();
        if request.at > now {
            return Err(CutError::Clock { now, what: "the request", then: request.at });
        }
        let expires = seal::expiry(request.at, of_product.expires.get_ref().duration());
        if role.signed()["expires"].as_str().and_then(|text| text.parse().ok()) != Some(expires) {
            return Err(refuse("its manifest does not expire when the policy says".to_owned()));
        }
        Ok(Asked { request, sha256, before, role, claimed })
    }

    /// The newest role of the product that is known: the one that this home has, or a
    /// newer one that the request brings and enough people have signed.
    fn role_before(&self, request: &Request, state: &State) -> Result<Option<Vec<u8>>, CutError> {
        let refuse = |reason: String| CutError::Request { starter: request.starter.clone(), reason };
        let own = state.roles.get(self.product);
        let own_number = own.map_or(0, |(number, _)| *number);
        let Some(text) = &request.follows else {
            return match own {
                None => Ok(None),
                Some(_) => Err(self.stale(request, 0, own_number)),
            };
        };
        let unreadable = |error: &dyn std::fmt::Display| refuse(format!("the manifest that it follows: {error}"));
        let follows = Draft::parse(self.product.as_str(), text.as_bytes()).map_err(|error| unreadable(&error))?;
        if follows.number() < own_number {
            return Err(self.stale(request, follows.number(), own_number));
        }
        if let Some((number, file)) = own
            && *number == follows.number()
        {
            return if file == text.as_bytes() {
                Ok(Some(file.clone()))
            } else {
                Err(refuse(format!("it follows another manifest {number} than is published")))
            };
        }
        // Nothing that this home does not know is believed without a threshold.
        let targets = Metadata::<Targets>::from_slice(&state.targets.1).map_err(|error| unreadable(&error))?;
        let targets = targets.signed();
        let policy = SignedPolicy::of(targets).map_err(|error| unreadable(&error))?;
        let holders = policy.holder_of_key().map_err(|error| unreadable(&error))?;
        let delegations = targets.delegations.as_ref();
        let role = delegations.and_then(|all| all.roles.iter().find(|role| role.name == self.product.as_str()));
        let (Some(delegations), Some(role)) = (delegations, role) else {
            return Err(unreadable(&"the policy delegates nothing to it"));
        };
        let metadata = Metadata::<Targets>::from_slice(text.as_bytes()).map_err(|error| unreadable(&error))?;
        let signers = people::signers(&metadata, &delegations.keys, &role.role_keys(), &holders);
        if !signers.met() || follows.signed_by().count() != signers.signed.len() {
            return Err(unreadable(&format!(
                "it is signed by {} people, and {} must",
                signers.signed.len(),
                signers.threshold
            )));
        }
        if let Some((_, file)) = own {
            Change::between(self.product, Some(file), &follows).map_err(|error| unreadable(&error))?;
        }
        Ok(Some(text.clone().into_bytes()))
    }

    fn stale(&self, request: &Request, follows: u64, newest: u64) -> CutError {
        let (product, starter) = (self.product.clone(), request.starter.clone());
        CutError::StaleRequest { product, starter, follows, newest }
    }

    /// Refuses what would be a second answer to something else.
    fn check_asked_before(&self, asked: &Asked, plan: &Plan, journal: &Journal) -> Result<(), CutError> {
        let (product, version) = (self.product.clone(), self.version.clone());
        if let Some(own) = CutState::load_of(&self.home.cut(self.product, self.version), self.product, self.version)?
            && own.pin.is_some()
        {
            return Err(CutError::OwnCut { product, version });
        }
        if journal.has_abandoned(self.product, self.version) {
            return Err(CutError::Abandoned { product, version });
        }
        let (what, digest) =
            (format!("{} {}", self.product, asked.role.number()), asked.role.digest().map_err(RepositoryError::from)?);
        for (key, _) in &plan.release {
            if let Some(before) = journal.digest_asked(key, &what).filter(|before| *before != digest) {
                let key = key.to_string();
                return Err(HomeError::SecondPayload { key, what, before, now: digest }.into());
            }
        }
        Ok(())
    }

    /// The state of this approval: new, or as the last run left it.
    fn open_approval(
        &self,
        folder: &Path,
        file: &[u8],
        asked: &Asked,
        journal: &Journal,
    ) -> Result<CutState, CutError> {
        let kept = read_plain(&folder.join(REQUEST), MAX_MESSAGE)
            .map_err(|error| HomeError::of_transport(&folder.join(REQUEST), error))?;
        let known = CutState::load_of(folder, self.product, self.version)?;
        if let (Some(kept), Some(mut known)) = (&kept, known) {
            if kept == file {
                return Ok(known);
            }
            let before = Sent::<Request>::parse(kept).map_err(|error| CutError::Message { what: "request", error })?;
            let before = before.message;
            // Asked again after another release took the number: the same bytes from the
            // same source.
            let number = Draft::parse(self.product.as_str(), before.role.as_bytes()).map(|role| role.number());
            let same = before.starter == asked.request.starter
                && before.claim == asked.request.claim
                && before.pin == asked.request.pin
                && number.is_ok_and(|number| number < asked.role.number());
            if !same && journal.was_asked(&self.claim_name()) {
                let (product, version) = (self.product.clone(), self.version.clone());
                return Err(CutError::OtherRequest { product, version, starter: before.starter });
            }
            if same {
                let signing = folder.join("signing");
                atomic::remove_folder(&signing)?;
                known.staged = None;
                return note_approval(folder, file, asked, known);
            }
        }
        atomic::remove_folder(folder)?;
        let mut cut = CutState::new(self.product.clone(), self.version.clone(), (self.now)());
        cut.pin = Some(asked.request.pin.clone());
        note_approval(folder, file, asked, cut)
    }

    /// Fetches the pin from where this terminal finds it, and builds. Gives the release
    /// before, and what has changed since, where that is known.
    fn rebuild(
        &self,
        cut: &mut CutState,
        of_product: &ProductPolicy,
        folder: &Path,
        asked: &Asked,
        journal: &mut Journal,
    ) -> Result<Option<(crate::manifest::Version, Option<Since>)>, CutError> {
        let request = &asked.request;
        self.operator.requested(request, asked.sha256);
        let previous = self.previous_commit(asked)?;
        let mut since = None;
        let refuse = |reason: String| CutError::Request { starter: request.starter.clone(), reason };
        self.fetch(cut, of_product, folder, journal, &mut |fetched| {
            check_pin(&fetched.pin, &request.pin).map_err(refuse)?;
            since = match &previous {
                Some((version, Some(commit))) => Some((version.clone(), fetched.since(commit)?)),
                Some((version, None)) => Some((version.clone(), None)),
                None => None,
            };
            Ok(())
        })?;
        let found = Sha256::of(&atomic::read(&folder.join(recipe::FILE))?);
        if asked.claimed.digest_of("release.toml") != Some(found) {
            return Err(refuse("its claim names another recipe than the source has".to_owned()));
        }
        self.build(cut, folder, &folder.join("stage"), journal)?;
        Ok(since)
    }

    /// The newest release before, and its commit where this home knows it.
    fn previous_commit(&self, asked: &Asked) -> Result<Option<(crate::manifest::Version, Option<GitId>)>, CutError> {
        let Some(before) = &asked.before else {
            return Ok(None);
        };
        let damaged = |reason: String| RepositoryError::Damaged { file: format!("{}.json", self.product), reason };
        let role = Metadata::<Targets>::from_slice(before).map_err(|error| damaged(error.to_string()))?;
        let listing = ProductRole::of(self.product, role.signed()).map_err(|error| damaged(error.to_string()))?;
        let Some(version) = listing.newest() else {
            return Ok(None);
        };
        let path = self.home.repository().join(format!("releases/{}/{version}/{}", self.product, release::PROVENANCE));
        let provenance = read_plain(&path, dsse::MAX_ENVELOPE).ok().flatten().unwrap_or_default();
        let commit = Statement::parse(&provenance).ok().and_then(|statement| statement.commit());
        Ok(Some((version.clone(), commit)))
    }

    /// Compares what was built here with what is asked to be signed, byte for byte.
    fn compare(
        &self,
        cut: &CutState,
        of_product: &ProductPolicy,
        folder: &Path,
        asked: &Asked,
    ) -> Result<Described, CutError> {
        let request = &asked.request;
        let built = cut.build.as_ref().ok_or_else(|| lost(folder, "build"))?;
        for artifact in &built.artifacts {
            let path = folder.join("stage").join(artifact.name.as_str());
            if atomic::digest(&path)? != artifact.sha256 {
                return Err(CutError::StageChanged(path));
            }
        }
        let build = Build {
            product: self.product,
            version: self.version,
            source: &of_product.source.get_ref().public(),
            pin: &request.pin,
            archive: cut.archive.as_ref().ok_or_else(|| lost(folder, "archive"))?,
            recipe: built.recipe,
            environment: built.environment,
            inputs: &built.inputs,
        };
        let described = Described::of(&build, &built.artifacts, request.journal)?;
        let own = Statement::parse(&described.statement)
            .map_err(|error| HomeError::Damaged { path: CutState::file(folder), reason: error.to_string() })?;
        let differences = own.differences(&asked.claimed);
        if !differences.is_empty() {
            let (holder, folder) = (request.starter.clone(), folder.join("stage"));
            return Err(CutError::Differs { holder, differences, folder });
        }
        let refuse = |reason: String| CutError::Request { starter: request.starter.clone(), reason };
        let role = Metadata::<Targets>::from_slice(request.role.as_bytes()).map_err(|e| refuse(e.to_string()))?;
        let listing = ProductRole::of(self.product, role.signed()).map_err(|error| refuse(error.to_string()))?;
        let listed = listing.releases.get(self.version).cloned().unwrap_or_default();
        let ours: BTreeMap<FileName, Artifact> =
            described.files.iter().map(|file| (file.name.clone(), file.clone())).collect();
        let wrong = ours.keys().chain(listed.keys()).find(|name| ours.get(*name) != listed.get(*name));
        match wrong {
            Some(name) => Err(refuse(format!(
                "its manifest lists another {name} than the builds give; is it from another version of this program?"
            ))),
            None => Ok(described),
        }
    }

    /// The claim; and where enough people have built the same, the signatures.
    fn sign_answer(
        &self,
        plan: &Plan,
        folder: &Path,
        asked: &Asked,
        described: &Described,
        journal: &mut Journal,
    ) -> Result<Answer, CutError> {
        let (stage, signing) = (folder.join("stage"), folder.join("signing"));
        let path = |end| self.home.outbox().join(home::answer_file(self.product, self.version, &plan.builder, end));
        let kept = signing.join(format!("{}.json", self.product));
        let role = match atomic::read_if_there(&kept)? {
            Some(file) => Draft::parse(self.product.as_str(), &file).map_err(RepositoryError::from)?,
            None => asked.role.clone(),
        };
        let mut keys = vec![&plan.claim];
        for (name, _) in &plan.release {
            if !role.has_signature(plan.keyid(name)?) {
                keys.push(name);
            }
        }
        let unsigned = plan.openpgp.iter();
        let unsigned = unsigned.filter(|(_, holder, _)| !sign::checksums_signature(&signing, holder).exists());
        keys.extend(unsigned.map(|(name, ..)| name));
        let batch = Batch::open_keys(self.home, keys, &Tokens::new(self.operator))?;
        self.operator.event(Event::Begin { stage: Stage::Sign, what: &self.purpose() });
        let now = (self.now)();
        let mut session = Session { batch, plan, stage: &stage, signing: &signing, journal, now };
        let claim = session.claim(self.product, self.version, &described.statement)?;
        let claim_file = claim.to_vec().map_err(RepositoryError::from)?;
        if plan.release.is_empty() {
            atomic::write(&path(home::CLAIM), &claim_file)?;
            return Ok(Answer::Claim(path(home::CLAIM)));
        }

        let mut claims = BTreeMap::from([(asked.request.starter.clone(), asked.request.claim.clone())]);
        claims.extend(self.other_claims(&asked.claimed, plan)?);
        claims.insert(plan.builder.clone(), claim.clone());
        let builders = claims.keys().cloned().collect();
        let all = claims.into_values().collect();
        let agreed = Agreement::of(self.product, &described.statement, all, &self.claim_keys()?, plan.rebuilds);
        let agreed = match agreed {
            Err(SignError::TooFewClaims { need, .. }) => {
                atomic::write(&path(home::CLAIM), &claim_file)?;
                return Ok(Answer::Waiting(Waiting {
                    files: vec![path(home::CLAIM)],
                    request: asked.sha256,
                    signers: std::collections::BTreeSet::new(),
                    signers_needed: plan.need as usize,
                    builders,
                    builders_needed: need,
                }));
            }
            agreed => agreed?,
        };
        let warrant = Warrant::to_release(&agreed, (self.product, self.version), asked.before.as_deref(), &asked.role)?;
        let signed = session.sign_role(&warrant, role)?;
        let checksums = session.checksums_by(&signed, &plan.builder, &described.checksums, asked.request.at)?;
        let keyid = match plan.release.first() {
            Some((name, _)) => plan.keyid(name)?.to_owned(),
            None => String::new(),
        };
        let approval = Approval {
            version: approve::VERSION,
            product: self.product.clone(),
            release: self.version.clone(),
            holder: plan.builder.clone(),
            request: asked.sha256,
            claim,
            signature: hex::encode(signed.role().signature(&keyid).unwrap_or_default()),
            keyid,
            checksums: checksums.map(hex::encode),
        };
        let target = path(home::APPROVAL);
        let there = read_plain(&target, MAX_MESSAGE).ok().flatten();
        let there = there.and_then(|file| Sent::<Approval>::parse(&file).ok());
        let claim_keys = self.claim_keys()?;
        if !there.is_some_and(|there| there.message == approval && there.signed_by(&claim_keys).is_ok()) {
            let what = format!("approval {} {} manifest {}", self.product, self.version, asked.role.number());
            let (sent, bytes) = Sent::new(approval).map_err(|error| self.own_message(&error))?;
            let (keyid, signature) = session.vouch(&what, &bytes)?;
            home::step("approve.signed");
            atomic::write(&target, &sent.seal(&keyid, &signature).map_err(|error| self.own_message(&error))?)?;
            home::step("approve.written");
        }
        let holders = [plan.builder.to_string()];
        self.operator
            .event(Event::Done { stage: Stage::Sign, evidence: Evidence::Signed { holders: &holders, of: plan.of } });
        Ok(Answer::Approval(target))
    }

    /// Claims that media have brought, of people who got the same bytes.
    fn other_claims(&self, own: &Statement, plan: &Plan) -> Result<BTreeMap<Holder, Envelope>, CutError> {
        let mut claims = BTreeMap::new();
        let claim_keys = self.claim_keys()?;
        for (path, is_approval) in self.answers()? {
            if is_approval {
                continue;
            }
            let file = read_plain(&path, MAX_MESSAGE).map_err(|error| HomeError::of_transport(&path, error))?;
            let Some(claim) = file.and_then(|file| Envelope::parse(&file).ok()) else {
                continue;
            };
            match sign::claimants(&claim, own, &claim_keys) {
                Ok(people) => {
                    for holder in people.into_iter().filter(|holder| *holder != plan.builder) {
                        claims.insert(holder, claim.clone());
                    }
                }
                Err(error @ SignError::Disagrees { .. }) => return Err(error.into()),
                Err(error) => self.operator.event(Event::Warning(&error.to_string())),
            }
        }
        Ok(claims)
    }
}

/// What this terminal has fetched must be what the starter has pinned; since then,
/// more people may have signed off.
fn check_pin(fetched: &Pin, pinned: &Pin) -> Result<(), String> {
    let same = fetched.commit == pinned.commit
        && fetched.commit_time == pinned.commit_time
        && pinned.tags.iter().all(|tag| fetched.tags.contains(tag));
    if same { Ok(()) } else { Err("its pin is not what this terminal fetched".to_owned()) }
}

/// Notes what is answered, before anything is built.
fn note_approval(folder: &Path, file: &[u8], asked: &Asked, mut cut: CutState) -> Result<CutState, CutError> {
    cut.requested = Some(asked.sha256);
    for name in ["stage", "signing"] {
        atomic::make_folder(&folder.join(name))?;
    }
    cut.save(folder)?;
    atomic::write(&folder.join(REQUEST), file)?;
    home::step("approve.noted");
    Ok(cut)
}
