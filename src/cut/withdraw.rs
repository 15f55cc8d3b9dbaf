//! Takes a release back: the next release manifest lists it as withdrawn, with the
//! reason. Nothing is deleted anywhere, and users are told.

use std::path::PathBuf;

use serde_json::Value;
use serde_json::json;

use super::Cut;
use super::CutError;
use super::Sealer;
use super::Summary;
use super::Withdrawing;
use super::push;
use super::refuse_old_home;
use crate::home;
use crate::home::Event as Entry;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::key::piv::Tokens;
use crate::manifest::Line;
use crate::manifest::Version;
use crate::manifest::json;
use crate::policy::ProductPolicy;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Stage;
use crate::publish;
use crate::publish::DeployKeys;
use crate::repository::Pending;
use crate::repository::RepositoryError;
use crate::repository::State;
use crate::repository::seal;
use crate::repository::seal::Added;
use crate::repository::seal::OnlineKey;
use crate::repository::seal::SignedRelease;
use crate::sign;
use crate::sign::Batch;
use crate::sign::Plan;
use crate::sign::Session;
use crate::sign::ThresholdMet;
use crate::sign::Warrant;
use crate::tuf::Draft;
use crate::tuf::product::WITHDRAWN;
use crate::tuf::product::Withdrawn;

impl Cut<'_> {
    /// Withdraws the version, seals and publishes that. The same call again goes on
    /// from where it was interrupted.
    ///
    /// # Errors
    /// The version or the successor was not released; too few release managers'
    /// keys are here; a cut that keys have signed for is not finished.
    pub fn withdraw(&self, reason: &Line, successor: Option<&Version>) -> Result<Summary, CutError> {
        let _lock = self.home.lock(&self.withdrawal())?;
        let (mut journal, mut state, of_product) = self.begin()?;
        let tokens = Tokens::new(self.operator);
        let folder = self.home.withdrawal(self.product, self.version);
        let listing = state.releases(self.product)?;
        let mut serial = publish::find(self.home, &self.withdrawal())?;
        match listing.withdrawn.iter().find(|entry| entry.version == *self.version) {
            Some(entry) if entry.reason == *reason && entry.successor.as_ref() == successor => {}
            Some(entry) => return Err(self.other_reason(entry)),
            None => {
                for wanted in [Some(self.version), successor].into_iter().flatten() {
                    if !listing.releases.contains_key(wanted) {
                        let (product, version) = (self.product.clone(), wanted.clone());
                        return Err(CutError::NotReleased { product, version });
                    }
                }
                if successor == Some(self.version) {
                    let (product, version) = (self.product.clone(), self.version.clone());
                    return Err(CutError::OwnSuccessor { product, version });
                }
                refuse_old_home(self.home, &state, &mut journal, self.operator, self.now)?;
                self.check_signed_for(&journal)?;
                let plan = Plan::to_withdraw(self.home, self.product)?;
                let (role, entry) = self.draft_withdrawal(of_product, &state, &journal, reason, successor)?;
                serial = Some(self.seal_withdrawal((&plan, &tokens), &state, &mut journal, role, &entry)?);
                state = State::load(&self.home.repository())?;
            }
        }
        atomic::remove_folder(&folder)?;
        // While the network is used, no token is open but those that let in at mirrors.
        tokens.keep(|serial| self.home.terminal.has_deploy_key_in(serial));
        let keys = DeployKeys::of(self.home, &tokens);
        let mirrors = push(self.home, &state, &keys, &mut journal, self.now)?;
        Ok(Summary { serial, mirrors })
    }

    fn withdrawal(&self) -> String {
        format!("withdraw {} {}", self.product, self.version)
    }

    fn withdrawal_file(&self) -> PathBuf {
        self.home.withdrawal(self.product, self.version).join(format!("{}.json", self.product))
    }

    fn other_reason(&self, entry: &Withdrawn) -> CutError {
        CutError::OtherReason {
            product: self.product.clone(),
            version: self.version.clone(),
            reason: entry.reason.clone(),
            successor: entry.successor.clone(),
        }
    }

    /// The next manifest without the release; the one that an earlier run began, if
    /// a key may have signed it.
    fn draft_withdrawal(
        &self,
        of_product: &ProductPolicy,
        state: &State,
        journal: &Journal,
        reason: &Line,
        successor: Option<&Version>,
    ) -> Result<(Draft, Withdrawn), CutError> {
        let path = self.withdrawal_file();
        let (current, before) =
            state.roles.get(self.product).map_or((0, &[][..]), |(number, file)| (*number, file.as_slice()));
        let number = journal.next_number(self.product, current);
        if let Some(file) = atomic::read_if_there(&path)? {
            let begun = Draft::parse(self.product.as_str(), &file).map_err(RepositoryError::from)?;
            let last = begun.signed()[WITHDRAWN].as_array().and_then(|list| list.last()).cloned().unwrap_or_default();
            let entry: Withdrawn = json::typed(last)
                .map_err(|error| HomeError::Damaged { path: path.clone(), reason: error.to_string() })?;
            let same = entry.reason == *reason && entry.successor.as_ref() == successor;
            let asked = journal.was_asked(&format!("{} {}", self.product, begun.number()));
            match (same, asked) {
                (true, _) if begun.number() == number => return Ok((begun, entry)),
                (false, true) if begun.number() == number => return Err(self.other_reason(&entry)),
                _ => {}
            }
        }
        let at = seal::to_second((self.now)());
        let entry = Withdrawn {
            version: self.version.clone(),
            reason: reason.clone(),
            successor: successor.cloned(),
            date: at,
        };
        let before = json::from_slice_strict(before).map_err(RepositoryError::from)?;
        let mut targets = before["signed"]["targets"].clone();
        let prefix = format!("{}/{}/", self.product, self.version);
        if let Some(entries) = targets.as_object_mut() {
            entries.retain(|path, _| !path.starts_with(&prefix));
        }
        let mut withdrawn = before["signed"][WITHDRAWN].as_array().cloned().unwrap_or_default();
        withdrawn.push(json!(entry));
        let expires = seal::expiry(at, of_product.expires.get_ref().duration());
        let role = Draft::product(self.product.as_str(), number, expires, &targets, &Value::Array(withdrawn));
        atomic::write(&path, &role.to_file().map_err(RepositoryError::from)?)?;
        home::step("withdraw.drafted");
        Ok((role, entry))
    }

    fn seal_withdrawal(
        &self,
        (plan, tokens): (&Plan, &Tokens<'_>),
        state: &State,
        journal: &mut Journal,
        role: Draft,
        entry: &Withdrawn,
    ) -> Result<u64, CutError> {
        let before = state.roles.get(self.product).map(|(_, file)| file.as_slice());
        let digest = role.digest().map_err(RepositoryError::from)?;
        let mut signed = role.signed_by();
        if signed.next().is_none() {
            self.operator.confirm_withdrawal(&Withdrawing {
                product: self.product,
                entry,
                number: role.number(),
                digest,
                plan,
            })?;
        }
        drop(signed);
        journal.append(
            (self.now)(),
            Entry::Withdraw { product: self.product.clone(), release: self.version.clone(), manifest: digest },
        )?;
        let mut keys = Vec::new();
        for (name, _) in &plan.release {
            if !role.has_signature(plan.keyid(name)?) {
                keys.push(name);
            }
        }
        keys.push(&plan.online);
        let batch = Batch::open_keys(self.home, keys, tokens)?;
        self.operator.event(Event::Begin { stage: Stage::Sign, what: &self.withdrawal() });
        let folder = self.home.withdrawal(self.product, self.version);
        let now = (self.now)();
        let mut session = Session { batch, plan, stage: &folder, signing: &folder, journal, now };
        let warrant = Warrant::to_withdraw(self.product, before, &role)?;
        let met = ThresholdMet::of(session.sign_role(&warrant, role)?, plan.need)?;
        let holders: Vec<String> = met.people().iter().map(ToString::to_string).collect();
        let evidence = Evidence::Signed { holders: &holders, of: plan.of };
        self.operator.event(Event::Done { stage: Stage::Sign, evidence });
        let release =
            SignedRelease { product: self.product, version: None, role: met.role(), claims: &[], files: Vec::new() };
        let online = session.batch.signer(&plan.online)?;
        let keyid = sign::keyid(online.public())?;
        let online = OnlineKey { keyid: &keyid, signer: online };
        let sealer = Sealer { home: self.home, operator: self.operator, now: self.now };
        let publication =
            sealer.seal(state, &self.withdrawal(), Some(&release), &Added::default(), &online, session.journal)?;
        Ok(publication.serial)
    }

    /// A cut that keys have signed for has taken the next number.
    fn check_signed_for(&self, journal: &Journal) -> Result<(), CutError> {
        for cut in self.home.cuts()?.into_iter().filter(|cut| cut.product == *self.product && cut.is_open()) {
            if journal.was_asked(&format!("claim {} {}", cut.product, cut.release)) {
                return Err(CutError::OtherCut { product: cut.product, other: cut.release });
            }
        }
        self.check_withdrawals(journal)?;
        self.check_amendment()?;
        match Pending::find(self.home)? {
            Some((serial, purpose)) if purpose != self.withdrawal() => {
                Err(RepositoryError::Interrupted { serial, purpose }.into())
            }
            _ => Ok(()),
        }
    }

    /// A withdrawal that keys have signed for has taken the next number.
    pub(super) fn check_withdrawals(&self, journal: &Journal) -> Result<(), CutError> {
        for (path, version) in self.home.withdrawals(self.product)? {
            if version == *self.version {
                continue;
            }
            let Some(file) = atomic::read_if_there(&path.join(format!("{}.json", self.product)))? else {
                continue;
            };
            let begun = Draft::parse(self.product.as_str(), &file).map_err(RepositoryError::from)?;
            let newest = State::load(&self.home.repository())?.roles.get(self.product).map_or(0, |(number, _)| *number);
            if begun.number() > newest && journal.was_asked(&format!("{} {}", self.product, begun.number())) {
                return Err(CutError::OtherWithdrawal { product: self.product.clone(), other: version });
            }
        }
        Ok(())
    }
}
