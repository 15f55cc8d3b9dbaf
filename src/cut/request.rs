//! The starter's side of an approval: the request, and what others have answered.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use super::Cut;
use super::CutError;
use super::lost;
use crate::approve;
use crate::approve::Approval;
use crate::approve::ClaimKeys;
use crate::approve::MAX_MESSAGE;
use crate::approve::Request;
use crate::approve::Sent;
use crate::home;
use crate::home::CutState;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::ToSign;
use crate::manifest::Holder;
use crate::manifest::Sha256;
use crate::manifest::claim;
use crate::manifest::claim::Statement;
use crate::manifest::dsse::Envelope;
use crate::manifest::names::printable;
use crate::manifest::release;
use crate::openpgp;
use crate::openpgp::Certificate;
use crate::progress::Event;
use crate::repository::RepositoryError;
use crate::repository::State;
use crate::repository::stage::Staged;
use crate::sign;
use crate::sign::Plan;
use crate::sign::Session;
use crate::sign::SignError;
use crate::source;
use crate::transport::read_plain;

/// How the names of approvals begin that a cut has taken.
const TAKEN: &str = "approval.";

/// A release that waits for other people.
#[derive(Debug)]
pub struct Waiting {
    /// What to carry to them: a request, or a claim.
    pub files: Vec<PathBuf>,
    /// The digest of the request.
    pub request: Sha256,
    /// Who will have signed: those who have approved, and those with keys here.
    pub signers: BTreeSet<Holder>,
    /// How many must sign.
    pub signers_needed: usize,
    /// Who has built it.
    pub builders: BTreeSet<Holder>,
    /// How many must have built it.
    pub builders_needed: usize,
}

/// What others have answered.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Their claims.
    pub(super) claims: BTreeMap<Holder, Envelope>,
    /// Their signatures on the manifest, with the ids of their keys.
    pub(super) signatures: BTreeMap<Holder, (String, Vec<u8>)>,
}

impl Gathered {
    fn take(&mut self, approval: &Approval) {
        let signature = hex::decode(&approval.signature).unwrap_or_default();
        self.claims.insert(approval.holder.clone(), approval.claim.clone());
        self.signatures.insert(approval.holder.clone(), (approval.keyid.clone(), signature));
    }

    /// Who still has to do what, if anybody.
    pub(super) fn waits(&self, plan: &Plan, files: Vec<PathBuf>, request: Sha256) -> Option<Waiting> {
        let signers: BTreeSet<Holder> =
            self.signatures.keys().chain(plan.release.iter().map(|(_, holder)| holder)).cloned().collect();
        let builders: BTreeSet<Holder> = self.claims.keys().chain([&plan.builder]).cloned().collect();
        let (signers_needed, builders_needed) = (plan.need as usize, plan.rebuilds as usize + 1);
        let enough = signers.len() >= signers_needed && builders.len() >= builders_needed;
        (!enough).then_some(Waiting { files, request, signers, signers_needed, builders, builders_needed })
    }
}

impl Cut<'_> {
    /// What others have answered to the request of this cut: what an earlier run has
    /// taken, and with `looks` what is in the inbox. What is there and does not count is
    /// told, and left where it is.
    ///
    /// # Errors
    /// Somebody built other bytes.
    pub(super) fn gather(
        &self,
        cut: &CutState,
        plan: &Plan,
        staged: &Staged,
        (stage, signing): (&Path, &Path),
        looks: bool,
    ) -> Result<Gathered, CutError> {
        let mut gathered = Gathered::default();
        let Some(request) = cut.requested else {
            return Ok(gathered);
        };
        let claim_keys = self.claim_keys()?;
        let own = Statement::parse(&staged.statement).map_err(|error| RepositoryError::Damaged {
            file: crate::repository::stage::STATEMENT.to_owned(),
            reason: error.to_string(),
        })?;
        let check = Check { cut: self, plan, staged, own: &own, claim_keys: &claim_keys, request };
        for holder in self.home.policy.holders.keys().filter(|holder| **holder != plan.builder) {
            if let Some(file) = atomic::read_if_there(&signing.join(format!("{TAKEN}{holder}")))? {
                gathered.take(&check.approval(&file)?);
            } else if let Some(file) = atomic::read_if_there(&stage.join(release::claim_file(holder)))? {
                gathered.claims.insert(holder.clone(), check.claim(&file)?.1);
            }
        }
        if !looks {
            return Ok(gathered);
        }
        for (path, is_approval) in self.answers()? {
            let Some(file) = read_plain(&path, MAX_MESSAGE).map_err(|error| HomeError::of_transport(&path, error))?
            else {
                continue;
            };
            let taken = if is_approval {
                check.approval(&file).and_then(|approval| {
                    keep(&approval, &file, stage, signing)?;
                    gathered.take(&approval);
                    home::step("approval.taken");
                    Ok(())
                })
            } else {
                check.claim(&file).and_then(|(holder, claim)| {
                    if let Entry::Vacant(entry) = gathered.claims.entry(holder) {
                        atomic::write(&stage.join(release::claim_file(entry.key())), &file)?;
                        entry.insert(claim);
                    }
                    Ok(())
                })
            };
            match taken {
                Err(CutError::Answer { reason, .. }) => {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    let warning = format!("inbox/{}: {reason}", printable(&name));
                    self.operator.event(Event::Warning(&warning));
                }
                taken => taken?,
            }
        }
        Ok(gathered)
    }

    /// The files of the inbox that may be answers to this cut's request, and whether
    /// they are approvals.
    pub(super) fn answers(&self) -> Result<Vec<(PathBuf, bool)>, HomeError> {
        let folder = self.home.inbox();
        let begin = format!("{}_{}_", self.product, self.version);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(HomeError::io(&folder, error)),
        };
        let mut found: Vec<(PathBuf, bool)> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let is_approval = name.ends_with(home::APPROVAL);
                (name.starts_with(&begin) && (is_approval || name.ends_with(home::CLAIM)))
                    .then(|| (entry.path(), is_approval))
            })
            .collect();
        found.sort();
        Ok(found)
    }

    /// Makes the claim and the request, unless an earlier run has, and puts the request
    /// into the outbox. Gives the files to carry.
    pub(super) fn ask(
        &self,
        cut: &mut CutState,
        folder: &Path,
        state: &State,
        staged: &Staged,
        session: &mut Session<'_>,
    ) -> Result<PathBuf, CutError> {
        let fixed = cut.staged.clone().ok_or_else(|| lost(folder, "stage"))?;
        let claim = session.claim(self.product, self.version, &staged.statement)?;
        let provenance = session.stage.join(release::PROVENANCE);
        let journal = claim::journal_head(&atomic::read(&provenance)?)
            .ok_or_else(|| HomeError::Damaged { path: provenance, reason: "it names no journal".to_owned() })?;
        let text = |path: PathBuf, bytes: Vec<u8>| {
            String::from_utf8(bytes).map_err(|error| HomeError::Damaged { path, reason: error.to_string() })
        };
        let environment = folder.join(super::ENVIRONMENT);
        let before = state.roles.get(self.product).map(|(_, file)| file.clone());
        let role = staged.role.to_file().map_err(RepositoryError::from)?;
        let request = Request {
            version: approve::VERSION,
            product: self.product.clone(),
            release: self.version.clone(),
            starter: fixed.starter.clone(),
            at: fixed.at,
            policy: self.home.policy_digest,
            pin: cut.pin.clone().ok_or_else(|| lost(folder, "pin"))?,
            environment: text(environment.clone(), atomic::read(&environment)?)?,
            claim,
            follows: before.map(|file| text(PathBuf::from("role"), file)).transpose()?,
            role: text(PathBuf::from("role"), role)?,
            journal,
        };
        let path = self.request_path();
        // A crash may have come between the file and its note.
        let there = read_plain(&path, MAX_MESSAGE).ok().flatten().and_then(|file| Sent::<Request>::parse(&file).ok());
        let digest = match there {
            Some(there) if there.message == request && there.signed_by(&self.claim_keys()?).is_ok() => there.sha256,
            _ => {
                let what = format!("request {} {} manifest {}", self.product, self.version, fixed.number);
                let (sent, signed) = Sent::new(request).map_err(|error| self.own_message(&error))?;
                let (keyid, signature) = session.vouch(&what, &signed)?;
                home::step("request.signed");
                let file = sent.seal(&keyid, &signature).map_err(|error| self.own_message(&error))?;
                atomic::write(&path, &file)?;
                home::step("request.written");
                Sha256::of(&file)
            }
        };
        cut.requested = Some(digest);
        cut.save(folder)?;
        home::step("request.noted");
        Ok(path)
    }

    pub(super) fn request_path(&self) -> PathBuf {
        self.home.outbox().join(home::request_file(self.product, self.version))
    }

    pub(super) fn own_message(&self, error: &approve::MessageError) -> CutError {
        CutError::TooMuch { product: self.product.clone(), version: self.version.clone(), reason: error.to_string() }
    }

    /// Puts source and inputs into the outbox, for terminals without a network.
    pub(super) fn pack_source(&self, cut: &CutState, folder: &Path) -> Result<Vec<PathBuf>, CutError> {
        let outbox = self.home.outbox();
        atomic::make_folder(&outbox)?;
        let bundle = outbox.join(format!("{}-{}{}", self.product, self.version, home::SOURCE_BUNDLE));
        // git writes beside it, and gives it its name when it is whole.
        let pin = cut.pin.as_ref().ok_or_else(|| lost(folder, "pin"))?;
        source::bundle(&folder.join(home::cut::REPOSITORY), pin, &bundle, self.operator)?;
        let mut files = vec![bundle];
        let built = cut.build.as_ref().ok_or_else(|| lost(folder, "build"))?;
        for sha256 in built.inputs.values().collect::<BTreeSet<_>>() {
            let (from, to) = (self.home.input(*sha256), outbox.join(sha256.to_string()));
            if !to.exists() {
                fs::hard_link(&from, &to).map_err(|error| HomeError::io(&to, error))?;
            }
            files.push(to);
        }
        Ok(files)
    }

    /// Takes away what was to be carried for a release that is sealed.
    pub(super) fn clear_outbox(&self) {
        let _ = fs::remove_file(self.request_path());
        let bundle = format!("{}-{}{}", self.product, self.version, home::SOURCE_BUNDLE);
        let _ = fs::remove_file(self.home.outbox().join(bundle));
    }
}

/// What answers are compared with.
struct Check<'c> {
    cut: &'c Cut<'c>,
    plan: &'c Plan,
    staged: &'c Staged,
    own: &'c Statement,
    claim_keys: &'c ClaimKeys,
    request: Sha256,
}

impl Check<'_> {
    fn refuse(&self, reason: impl Into<String>) -> CutError {
        let (product, version) = (self.cut.product.clone(), self.cut.version.clone());
        CutError::Answer { product, version, reason: reason.into() }
    }

    /// An approval that counts.
    fn approval(&self, file: &[u8]) -> Result<Approval, CutError> {
        let sent = Sent::<Approval>::parse(file).map_err(|error| self.refuse(error.to_string()))?;
        let holder = sent.signed_by(self.claim_keys).map_err(|error| self.refuse(error.to_string()))?;
        let approval = sent.message;
        if (&approval.product, &approval.release) != (self.cut.product, self.cut.version) {
            let reason = format!("it is for {} {}", approval.product, approval.release);
            return Err(self.refuse(reason));
        }
        if holder == self.plan.builder || self.plan.release.iter().any(|(_, own)| *own == holder) {
            return Err(self.refuse(format!("{holder} signs on this terminal, and counts once")));
        }
        let claimants = self.claimants(&approval.claim)?;
        if claimants != BTreeSet::from([holder.clone()]) {
            return Err(self.refuse("its claim is not by its sender"));
        }
        if approval.request != self.request {
            return Err(self.refuse(format!(
                "it answers request {}, and this cut has made request {}",
                approval.request.short(),
                self.request.short()
            )));
        }
        let manager = self.plan.managers.get(&approval.keyid).filter(|(owner, _)| *owner == holder);
        let (_, key) =
            manager.ok_or_else(|| self.refuse(format!("{holder} has not signed by a key of this product")))?;
        let message = self.staged.role.canonical().map_err(RepositoryError::from)?;
        let signature = hex::decode(&approval.signature).unwrap_or_default();
        // One spelling, since the manifest holds it.
        if hex::encode(&signature) != approval.signature || !key.verifies(ToSign::Message(&message), &signature) {
            return Err(self.refuse(format!("the signature of {holder} is not on this manifest")));
        }
        self.check_openpgp(&approval)?;
        Ok(approval)
    }

    /// Whoever has a certificate signs the checksums as well.
    fn check_openpgp(&self, approval: &Approval) -> Result<(), CutError> {
        let Some((_, path)) = self.plan.certificates.get(&approval.holder) else {
            return match &approval.checksums {
                Some(_) => Err(self.refuse("it has an OpenPGP signature, and its sender no certificate")),
                None => Ok(()),
            };
        };
        let certificate = [Certificate::one(&atomic::read(path)?).map_err(SignError::from)?];
        let bytes = approval.checksums.as_deref().and_then(|text| hex::decode(text).ok()).unwrap_or_default();
        let now = (self.cut.now)();
        let good = openpgp::signers_of(&self.staged.checksums, &bytes, &certificate, now, &BTreeSet::new());
        match good {
            Ok(signers) if signers.len() == 1 => Ok(()),
            _ => Err(self.refuse(format!("it has no good OpenPGP signature of {}", approval.holder))),
        }
    }

    /// A claim that agrees, and whose it is.
    fn claim(&self, file: &[u8]) -> Result<(Holder, Envelope), CutError> {
        let claim = Envelope::parse(file).map_err(|error| self.refuse(error.to_string()))?;
        let claimants = self.claimants(&claim)?;
        match claimants.into_iter().collect::<Vec<_>>().as_slice() {
            [holder] if *holder != self.plan.builder => Ok((holder.clone(), claim)),
            _ => Err(self.refuse("it is not the claim of one other person")),
        }
    }

    /// Who claims what was built here. That somebody built other bytes stops the cut.
    fn claimants(&self, claim: &Envelope) -> Result<BTreeSet<Holder>, CutError> {
        sign::claimants(claim, self.own, self.claim_keys).map_err(|error| match error {
            error @ SignError::Disagrees { .. } => error.into(),
            other => self.refuse(other.to_string()),
        })
    }
}

/// Keeps what an approval brings. It is found again by the file that comes last.
fn keep(approval: &Approval, file: &[u8], stage: &Path, signing: &Path) -> Result<(), CutError> {
    let holder = &approval.holder;
    let claim = approval.claim.to_vec().map_err(RepositoryError::from)?;
    atomic::write(&stage.join(release::claim_file(holder)), &claim)?;
    if let Some(signature) = approval.checksums.as_deref().and_then(|text| hex::decode(text).ok()) {
        atomic::write(&sign::checksums_signature(signing, holder), &signature)?;
    }
    Ok(atomic::write(&signing.join(format!("{TAKEN}{holder}")), file)?)
}
