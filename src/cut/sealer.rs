//! Seals and checks: the part that cuts and refreshes share.

use std::sync::Arc;

use jiff::Timestamp;

use super::CutError;
use crate::home;
use crate::home::Event as Entry;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::manifest::KeyName;
use crate::manifest::Product;
use crate::manifest::Publication;
use crate::manifest::names::NameError;
use crate::openpgp::Certificate;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Progress;
use crate::progress::Silent;
use crate::progress::Stage;
use crate::publish;
use crate::repository::Pending;
use crate::repository::State;
use crate::repository::apt::ArchiveKey;
use crate::repository::seal;
use crate::repository::seal::Added;
use crate::repository::seal::SealKeys;
use crate::repository::seal::SignedRelease;
use crate::sign;
use crate::sign::Batch;
use crate::sign::SignError;
use crate::transport::Folder;
use crate::tuf::Files;
use crate::verify;
use crate::verify::Origin;
use crate::verify::VerifyError;
use crate::verify::repository;
use crate::verify::repository::Extent;

/// Makes publications.
pub struct Sealer<'a> {
    /// The home.
    pub home: &'a Home,
    /// The person at the terminal.
    pub operator: &'a dyn Progress,
    /// The clock.
    pub now: &'a dyn Fn() -> Timestamp,
}

/// The keys of a seal, of those that were opened.
///
/// # Errors
/// The online key was not opened; the archive's certificate cannot be read.
pub fn seal_keys<'b>(home: &Home, batch: &'b Batch<'_>) -> Result<SealKeys<'b>, CutError> {
    let damaged = |error: NameError| {
        let path = home.folder().join("policy.toml");
        HomeError::Damaged { path, reason: error.to_string() }
    };
    let online: KeyName = home.policy.role.online.key.get_ref().parse().map_err(damaged)?;
    let online = batch.signer(&online)?;
    let mut archive = None;
    if let Some(entry) = home.policy.archive()
        && let Ok(signer) = batch.signer(&entry.signing)
    {
        let certificate = Certificate::one(&atomic::read(&home.resolve(entry.file.get_ref()))?);
        archive = Some(ArchiveKey { certificate: certificate.map_err(SignError::from)?, signer });
    }
    Ok(SealKeys { keyid: sign::keyid(online.public())?, online, archive })
}

impl Sealer<'_> {
    /// Makes the next publication, verifies it, and puts it into the home's
    /// repository.
    ///
    /// # Errors
    /// A key failed, or what was sealed does not verify. The same call
    /// again goes on.
    pub fn seal(
        &self,
        state: &State,
        purpose: &str,
        release: Option<&SignedRelease<'_>>,
        added: &Added<'_>,
        keys: &SealKeys<'_>,
        journal: &mut Journal,
    ) -> Result<Publication, CutError> {
        let serial = journal.next_serial(state.serial());
        let asked = journal.asked(&format!("snapshot {serial}"));
        let pending = Pending::begin(self.home, serial, purpose, (self.now)(), asked)?;
        home::step("seal.begun");
        let publication = seal::prepare(self.home, state, &pending, release, added, keys, journal)?;
        self.check(state, &pending, &publication, release.map(|release| release.product))?;
        pending.mark_checked()?;
        let (now, purpose) = ((self.now)(), purpose.to_owned());
        let timestamp = publication.timestamp();
        journal.append(now, Entry::Seal { serial, purpose, timestamp })?;
        pending.commit(&publication)?;
        self.operator.event(Event::Done { stage: Stage::Seal, evidence: Evidence::Sealed { serial } });
        Ok(publication)
    }

    /// Why a self-check failed: what was published before does not verify any
    /// more, since files of the home were lost or changed, or what is new does not.
    fn blame(&self, state: &State, error: VerifyError) -> CutError {
        match publish::lost(self.home) {
            Ok(None) => {}
            Ok(Some(path)) => return HomeError::Missing(path).into(),
            Err(error) => return error.into(),
        }
        let before: Arc<dyn Files> = Arc::new(Folder::new(state.folder()));
        let root = state.first_root().unwrap_or_default();
        let check = || repository::check(&before, root, &[], Extent::Metadata, (self.now)(), &Silent);
        match check() {
            Err(damage) if state.serial() > 0 => CutError::DamagedRepository(damage),
            _ => CutError::SelfCheck(error),
        }
    }

    /// Verifies a publication before anybody sees it: as a new user from the
    /// first root, and as a user who verified the state before. A release must
    /// not be STALE; what was released before may have become so.
    fn check(
        &self,
        state: &State,
        pending: &Pending,
        publication: &Publication,
        released: Option<&Product>,
    ) -> Result<(), CutError> {
        let files: Arc<dyn Files> = Arc::new(pending.preview(publication));
        let root = state.first_root()?;
        let before = verify::Source { origin: Origin::Memory, copies: state.copies() };
        let before = if state.serial() == 0 { Vec::new() } else { vec![before] };
        let failed = |error| self.blame(state, error);
        self.operator.event(Event::Begin { stage: Stage::Check, what: &publication.purpose });
        let now = (self.now)();
        let mut count = 0;
        // Metadata, claims and bundles of all releases; the bytes of this one.
        let fresh = repository::check(&files, root, &[], Extent::Metadata, now, &Silent).map_err(failed)?;
        repository::check(&files, root, &before, Extent::Metadata, now, &Silent).map_err(failed)?;
        for checked in &fresh.products {
            count += checked.files.len();
            let product = checked.trust.product();
            let stale = checked.trust.stale(now);
            let Some(why) = stale.first() else {
                continue;
            };
            if Some(product) == released {
                let reason = format!("it would be STALE from the first day: {why}");
                let (origin, file) = (Origin::Repository(files.place()), format!("{product}.json"));
                return Err(failed(verify::Rejection::Rule { origin, file, reason }.into()));
            }
            // It must not keep other products from their users.
            let warning = format!("{product} is STALE for its users: {why}");
            self.operator.event(Event::Warning(&warning));
        }
        for (name, entry) in publication.names() {
            repository::check_entry(files.as_ref(), name, entry).map_err(failed)?;
        }
        self.operator.event(Event::Done { stage: Stage::Check, evidence: Evidence::Checked { files: count } });
        Ok(())
    }
}
