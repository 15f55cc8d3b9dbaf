//! What stops a cut before it begins, and what it shows first.

use std::path::Path;

use jiff::SignedDuration;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Calendar;
use super::Cut;
use super::CutError;
use super::Preview;
use crate::amend::Begun;
use crate::home::CutState;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::manifest::Pin;
use crate::manifest::Sha256;
use crate::policy::Destination;
use crate::policy::ProductPolicy;
use crate::progress::Progress;
use crate::publish;
use crate::publish::DeployKeys;
use crate::repository::Pending;
use crate::repository::RepositoryError;
use crate::repository::State;
use crate::repository::layout;
use crate::repository::stage::Place;
use crate::sign::Plan;
use crate::window::Window;

/// How long a terminal may lie in its safe before somebody confirms its clock.
pub const UNATTENDED: SignedDuration = SignedDuration::from_hours(45 * 24);

impl Cut<'_> {
    /// How every command begins that signs for the product: what was interrupted is
    /// finished, and nothing is stale. The caller holds the lock.
    pub(super) fn begin(&self) -> Result<(Journal, State, &ProductPolicy), CutError> {
        Pending::finish_interrupted(self.home)?;
        let journal = self.home.journal()?;
        let state = State::load(&self.home.repository())?;
        let of_product = self.of_product()?;
        self.check_policy(&state)?;
        check_clock(&journal, &state, (self.now)(), self.operator)?;
        self.check_expiry(&state)?;
        Ok((journal, state, of_product))
    }

    /// The network window of this terminal.
    pub(super) fn window(&self) -> Window<'_> {
        Window::of(self.home, self.operator, self.now)
    }

    pub(super) fn of_product(&self) -> Result<&ProductPolicy, CutError> {
        self.home.policy.products.get(self.product).ok_or_else(|| CutError::NoProduct(self.product.clone()))
    }

    pub(super) fn claim_name(&self) -> String {
        format!("claim {} {}", self.product, self.version)
    }

    /// Whether a release manager's key was asked to sign the manifest of this cut.
    pub(super) fn is_signed(&self, cut: &CutState, journal: &Journal) -> bool {
        let signed = |number: u64| journal.was_asked(&format!("{} {number}", self.product));
        cut.staged.as_ref().is_some_and(|staged| signed(staged.number))
    }

    /// Whether the number of a manifest that waits for approval was taken by another.
    pub(super) fn is_overtaken(&self, cut: &CutState, state: &State, journal: &Journal) -> bool {
        let current = state.roles.get(self.product).map_or(0, |(number, _)| *number);
        let next = journal.next_number(self.product, current);
        let moved = cut.staged.as_ref().is_some_and(|staged| staged.number != next);
        cut.requested.is_some() && moved && !self.is_signed(cut, journal)
    }

    pub(super) fn purpose(&self) -> String {
        format!("{} {}", self.product, self.version)
    }

    /// A cut refuses a policy that is not the newest signed one.
    pub(super) fn check_policy(&self, state: &State) -> Result<(), CutError> {
        check_signed_policy(self.home, state)
    }

    /// Nobody should sign what users would not get VERIFIED.
    pub(super) fn check_expiry(&self, state: &State) -> Result<(), CutError> {
        let now = (self.now)();
        match state.top_level_expiry()?.into_iter().find(|(_, at)| *at < now) {
            Some((role, at)) => Err(CutError::Expired { role, at }),
            None => Ok(()),
        }
    }

    /// The state of this cut: new, or as the last run left it.
    pub(super) fn open_state(&self, folder: &Path, state: &State, journal: &Journal) -> Result<CutState, CutError> {
        let place = Place { state, product: self.product, version: self.version };
        let known = CutState::load_of(folder, self.product, self.version)?;
        if known.as_ref().is_some_and(|cut| cut.abandoned) || journal.has_abandoned(self.product, self.version) {
            let (product, version) = (self.product.clone(), self.version.clone());
            return Err(CutError::Abandoned { product, version });
        }
        let Some(mut cut) = known else {
            place.check_free()?;
            if journal.was_asked(&self.claim_name()) {
                return Err(HomeError::Missing(CutState::file(folder)).into());
            }
            return Ok(CutState::new(self.product.clone(), self.version.clone(), (self.now)()));
        };
        if cut.sealed.is_none() {
            // A crash between sealing and noting it leaves the record of the seal.
            cut.sealed = publish::find(self.home, &self.purpose())?;
        }
        if cut.sealed.is_none() {
            place.check_free()?;
        }
        Ok(cut)
    }

    /// Mirrors have the folders that only their operators can make.
    /// `by_token`: on mirrors whose deploy keys are in tokens, or on the others.
    pub(super) fn check_mirrors(keys: &DeployKeys<'_>, by_token: bool) -> Result<(), CutError> {
        Ok(publish::refuse_unprepared(keys, by_token, |class| layout::folders(class).collect())?)
    }

    /// One waiting cut per product, and no interrupted seal of something else.
    pub(super) fn check_others(&self, journal: &Journal) -> Result<(), CutError> {
        self.check_withdrawals(journal)?;
        self.check_amendment()?;
        let open = |cut: &CutState| cut.product == *self.product && cut.release != *self.version && cut.is_open();
        if let Some(other) = self.home.cuts()?.into_iter().find(open) {
            return Err(CutError::OtherCut { product: other.product, other: other.release });
        }
        match Pending::find(self.home)? {
            Some((serial, purpose)) if purpose != self.purpose() => {
                Err(RepositoryError::Interrupted { serial, purpose }.into())
            }
            _ => Ok(()),
        }
    }

    /// A change of the policy may have signed for the next number.
    pub(super) fn check_amendment(&self) -> Result<(), CutError> {
        match Begun::load(self.home)? {
            Some(begun) => Err(CutError::OtherAmendment(begun.change)),
            None => Ok(()),
        }
    }

    pub(super) fn show_plan(
        &self,
        plan: &Plan,
        of_product: &ProductPolicy,
        state: &State,
        pin: Option<&Pin>,
        resumes: bool,
    ) -> Result<(), CutError> {
        let listing = state.releases(self.product)?;
        self.operator.plan(&Preview {
            product: self.product,
            version: self.version,
            source: of_product.source.get_ref(),
            bundle: self.home.source_bundle(self.product, self.version),
            tag: &of_product.tag_of(self.version),
            pin,
            previous: listing.newest(),
            plan,
            mirrors: self.home.terminal.mirrors.keys().map(AsRef::as_ref).collect(),
            insecure: self.home.policy.insecure(),
            resumes,
        });
        Ok(())
    }
}

/// [`publish::refuse_old_home`], through the network window.
///
/// # Errors
/// The same; the window cannot be opened or closed.
pub fn refuse_old_home(
    home: &Home,
    state: &State,
    journal: &mut Journal,
    progress: &dyn Progress,
    now: &dyn Fn() -> Timestamp,
) -> Result<(), CutError> {
    let root = state.newest_root()?;
    Window::of(home, progress, now)
        .through(Destination::Mirrors, journal, |_| Ok(publish::refuse_old_home(home, root, progress)?))
}

/// Refuses a policy that is not the newest signed one.
///
/// # Errors
/// It is another one, or nobody has signed one.
pub fn check_signed_policy(home: &Home, state: &State) -> Result<(), CutError> {
    let (signed, found) = (signed_policy(state)?, home.policy_digest);
    if signed == found { Ok(()) } else { Err(CutError::OtherPolicy { signed, found }) }
}

/// The clock is never before what this terminal has done. Long after it, a
/// person must say that the clock is right: a date far ahead would burn numbers
/// of the future and make everything look expired.
///
/// # Errors
/// The clock is behind, or nobody confirms that it is not ahead.
pub fn check_clock(
    journal: &Journal,
    state: &State,
    now: Timestamp,
    calendar: &(impl Calendar + ?Sized),
) -> Result<(), CutError> {
    let Some(last) = journal.last_time().max(state.sealed()) else {
        return Ok(());
    };
    if last > now {
        return Err(CutError::Clock { now, what: "the last entry of the journal", then: last });
    }
    if now.duration_since(last) <= UNATTENDED {
        return Ok(());
    }
    let said = calendar.today(now, last);
    // Wherever the person is, the date there differs from UTC's by one at most.
    let days = said.map(|said| (TimeZone::UTC.to_datetime(now).date() - said).get_days().abs());
    if days.is_some_and(|days| days <= 1) { Ok(()) } else { Err(CutError::Date { now, last, said }) }
}

/// The digest of the policy that the newest `targets` lists.
fn signed_policy(state: &State) -> Result<Sha256, CutError> {
    let damaged =
        |reason: String| RepositoryError::Damaged { file: format!("{}.targets.json", state.targets.0), reason };
    let targets = sigstore_tuf::Metadata::<sigstore_tuf::Targets>::from_slice(&state.targets.1)
        .map_err(|error| damaged(error.to_string()))?;
    let listed = targets.signed().targets.iter().filter(|(path, _)| {
        let segments: Vec<&str> = path.split('/').collect();
        matches!(segments.as_slice(), ["policy", _, "policy.toml"])
    });
    let digest = listed
        .max_by_key(|(path, _)| policy_number(path))
        .and_then(|(_, target)| target.hashes.get("sha256")?.parse().ok());
    Ok(digest.ok_or_else(|| damaged("it lists no policy".to_owned()))?)
}

/// The number in `policy/<number>/policy.toml`.
fn policy_number(path: &str) -> u64 {
    path.split('/').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}
