//! The release, as one linear function: fetch, build, agree, stage, sign, seal,
//! check, publish. The only caller of several stages.
//!
//! Every step's result is on disk before the next begins. The same command
//! again goes on from there; from the first signature on, the bytes of a cut
//! are final.

mod approve;
mod calendar;
mod error;
mod guards;
mod operator;
mod request;
mod sealer;
mod steps;
mod withdraw;

use std::path::Path;

use jiff::Timestamp;

use crate::home::CutState;
use crate::home::Event as Entry;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::key::piv::Tokens;
use crate::manifest::Pin;
use crate::manifest::Product;
use crate::manifest::Version;
use crate::policy::Destination;
use crate::progress::Event;
use crate::publish;
use crate::publish::DeployKeys;
use crate::repository::State;
use crate::repository::stage::Place;
use crate::sign::Batch;
use crate::sign::Plan;
use crate::sign::Session;
use crate::window::Window;

pub use approve::Answer;
pub use calendar::Expiry;
pub use calendar::calendar;
pub use error::CutError;
pub use guards::UNATTENDED;
pub use guards::check_clock;
pub use guards::check_signed_policy;
pub use guards::refuse_old_home;
pub use operator::Approving;
pub use operator::Calendar;
pub use operator::Operator;
pub use operator::Preview;
pub use operator::Review;
pub use operator::Stopped;
pub use operator::Withdrawing;
pub use request::Waiting;
pub use sealer::Sealer;

/// The description of the build environment, in the folder of a cut.
const ENVIRONMENT: &str = "environment.json";

/// How a cut ended.
#[derive(Debug)]
pub enum Outcome {
    /// It is sealed.
    Released(Summary),
    /// Other people must answer first.
    Waiting(Waiting),
}

/// What a finished cut did.
#[derive(Debug)]
pub struct Summary {
    /// The publication that holds the release.
    pub serial: Option<u64>,
    /// How the push to each mirror ended.
    pub mirrors: Vec<publish::Outcome>,
}

/// Cuts one version of one product.
pub struct Cut<'a> {
    /// The home.
    pub home: &'a Home,
    /// The product.
    pub product: &'a Product,
    /// The version.
    pub version: &'a Version,
    /// Whether a request is to be carried with source and inputs.
    pub with_source: bool,
    /// The person at the terminal.
    pub operator: &'a dyn Operator,
    /// The clock.
    pub now: &'a dyn Fn() -> Timestamp,
}

impl Cut<'_> {
    /// The release: every step, in order.
    ///
    /// # Errors
    /// The first step that cannot be done. The same call again goes on from the
    /// last one that was.
    pub fn run(&self) -> Result<Outcome, CutError> {
        let _lock = self.home.lock(&format!("release cut {} {}", self.product, self.version))?;
        let (mut journal, mut state, of_product) = self.begin()?;

        let folder = self.home.cut(self.product, self.version);
        let (stage, signing) = (folder.join("stage"), folder.join("signing"));
        let mut cut = self.open_state(&folder, &state, &journal)?;
        let tokens = Tokens::new(self.operator);
        let keys = DeployKeys::of(self.home, &tokens);
        if cut.sealed.is_none() {
            if cut.build.is_none() {
                self.check_calendar(&state)?;
            }
            let plan = self.window().through(Destination::Mirrors, &mut journal, |journal| {
                publish::refuse_old_home(self.home, state.newest_root()?, self.operator)?;
                let plan = Plan::new(self.home, self.product)?;
                self.check_others(journal)?;
                Self::check_mirrors(&keys, false)?;
                Ok::<_, CutError>(plan)
            })?;
            self.show_plan(&plan, of_product, &state, cut.pin.as_ref(), cut.staged.is_some())?;
            atomic::make_folder(&stage)?;
            atomic::make_folder(&signing)?;
            let folders = (stage.as_path(), signing.as_path());
            let claimed = journal.was_asked(&self.claim_name());
            // While a request waited, another release may have taken its number.
            let stale = self.is_overtaken(&cut, &state, &journal);
            let asked = claimed && !stale;
            if stale {
                self.operator.event(Event::Warning("another release was made meanwhile; approvals are asked for anew"));
                std::fs::remove_dir_all(&signing).map_err(|error| HomeError::io(&signing, error))?;
                atomic::make_folder(&signing)?;
                cut.requested = None;
            }

            // Fetch and build, unless signatures have made the bytes final.
            let mut packed = Vec::new();
            if !claimed {
                self.fetch(&mut cut, of_product, &folder, &mut journal, &mut |_| Ok(()))?;
                self.build(&mut cut, &folder, &stage, &mut journal)?;
            }
            if self.with_source && plan.needs_others() && !self.is_signed(&cut, &journal) {
                packed = self.pack_source(&cut, &folder)?;
            }

            // Stage: all payloads are final before the first prompt.
            let staged = if asked {
                self.restore(&cut, &state, &folder, folders)?
            } else {
                self.stage(&mut cut, of_product, &state, &plan, &folder, folders, &journal)?
            };
            let pin = cut.pin.clone().ok_or_else(|| lost(&folder, "pin"))?;
            let fixed = cut.staged.clone().ok_or_else(|| lost(&folder, "stage"))?;

            // What others have answered; without it, ask them.
            let is_signed = self.is_signed(&cut, &journal);
            let gathered = self.gather(&cut, &plan, &staged, folders, !is_signed)?;
            let waits = gathered.waits(&plan, Vec::new(), cut.requested.unwrap_or(fixed.digest));
            let confirmed = asked && (cut.requested.is_none() || is_signed);
            if !confirmed && (waits.is_none() || cut.requested.is_none()) {
                self.confirm(&state, &staged, &pin, &fixed, &plan, &mut journal)?;
            }
            if let Some(mut waiting) = waits {
                waiting.files = vec![self.request_path()];
                if cut.requested.is_none() || !self.request_path().exists() {
                    let batch = Batch::open_keys(self.home, [&plan.claim], &tokens)?;
                    let now = (self.now)();
                    let mut session =
                        Session { batch, plan: &plan, stage: &stage, signing: &signing, journal: &mut journal, now };
                    self.ask(&mut cut, &folder, &state, &staged, &mut session)?;
                    waiting.request = cut.requested.unwrap_or(waiting.request);
                }
                waiting.files.extend(packed);
                return Ok(Outcome::Waiting(waiting));
            }

            // Agree and sign: one confirmation, every key opened once.
            if keys.are_in_tokens() {
                self.window().through(Destination::Mirrors, &mut journal, |_| Self::check_mirrors(&keys, true))?;
            }
            let batch = Batch::open(self.home, &plan, &staged.role, folders, &tokens)?;
            let now = (self.now)();
            let mut session =
                Session { batch, plan: &plan, stage: &stage, signing: &signing, journal: &mut journal, now };
            let signed = self.sign(&mut session, of_product, &state, &staged, &fixed, &gathered)?;

            // Seal on top of what is published now, check, and only then keep it.
            cut.sealed = Some(self.seal(&mut session, &state, &signed, &staged)?);
            cut.save(&folder)?;
            state = State::load(&self.home.repository())?;
        }
        CutState::drop_source(&folder);
        self.clear_outbox();
        // While the network is used, no token is open but those that let in at mirrors.
        tokens.keep(|serial| self.home.terminal.has_deploy_key_in(serial));
        let mirrors = push(self.home, &state, &keys, &mut journal, self.now)?;
        Ok(Outcome::Released(Summary { serial: cut.sealed, mirrors }))
    }

    /// Fetches into a throw-away folder and shows the plan. Touches nothing, and
    /// gives what would be pinned.
    ///
    /// # Errors
    /// As [`Self::run`] would find before it builds; the version was released.
    pub fn dry_run(&self) -> Result<Pin, CutError> {
        // Openings of the window are written to the journal.
        let has_window = self.home.terminal.window.is_some();
        let _lock = has_window.then(|| self.home.lock("release cut --dry-run")).transpose()?;
        let state = State::load(&self.home.repository())?;
        let of_product = self.of_product()?;
        self.check_policy(&state)?;
        let mut journal = self.home.journal()?;
        check_clock(&journal, &state, (self.now)(), self.operator)?;
        self.check_expiry(&state)?;
        self.check_calendar(&state)?;
        let folder = self.home.cut(self.product, self.version);
        let cut = self.open_state(&folder, &state, &journal)?;
        Place { state: &state, product: self.product, version: self.version }.check_free()?;
        let tokens = Tokens::new(self.operator);
        let keys = DeployKeys::of(self.home, &tokens);
        let plan = self.window().through(Destination::Mirrors, &mut journal, |journal| {
            publish::refuse_old_home(self.home, state.newest_root()?, self.operator)?;
            let plan = Plan::new(self.home, self.product)?;
            self.check_others(journal)?;
            Self::check_mirrors(&keys, false)?;
            Ok::<_, CutError>(plan)
        })?;
        let scratch =
            tempfile::tempdir().map_err(|error| CutError::Home(HomeError::io(&std::env::temp_dir(), error)))?;
        let path = scratch.path().join("source.git");
        let fetched = self.fetch_source(of_product, cut.pin.as_ref(), &path, &mut journal)?;
        self.read_recipe(&fetched)?;
        self.show_plan(&plan, of_product, &state, Some(&fetched.pin), cut.staged.is_some())?;
        Ok(fetched.pin.clone())
    }
}

/// Pushes what is sealed, and notes which mirrors hold it.
pub(crate) fn push(
    home: &Home,
    state: &State,
    keys: &DeployKeys<'_>,
    journal: &mut Journal,
    now: &dyn Fn() -> Timestamp,
) -> Result<Vec<publish::Outcome>, CutError> {
    let window = Window::of(home, keys.progress(), now);
    let mirrors = window.through(Destination::Mirrors, journal, |_| {
        Ok::<_, CutError>(publish::push(home, state.newest_root()?, now(), keys)?)
    })?;
    for outcome in mirrors.iter().filter(|outcome| outcome.result.is_ok()) {
        journal.append(now(), Entry::Publish { mirror: outcome.mirror.clone(), serial: state.serial() })?;
    }
    Ok(mirrors)
}

fn lost(folder: &Path, what: &str) -> HomeError {
    HomeError::Damaged { path: folder.join("cut.json"), reason: format!("it has no {what}") }
}
