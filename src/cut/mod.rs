//! The release, as one linear function: fetch, build, agree, stage, sign, seal,
//! check, publish. The only caller of several stages.
//!
//! Every step's result is on disk before the next begins. The same command
//! again goes on from there; from the first signature on, the bytes of a cut
//! are final.

mod error;
mod operator;
mod sealer;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::build;
use crate::build::Environment;
use crate::home;
use crate::home::CutState;
use crate::home::Event as Entry;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::home::cut::BuildState;
use crate::home::cut::StagedState;
use crate::key::PublicKey;
use crate::manifest::Holder;
use crate::manifest::Pin;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::SourceArchive;
use crate::manifest::Version;
use crate::manifest::claim::Build;
use crate::manifest::dsse::Envelope;
use crate::manifest::release;
use crate::openpgp;
use crate::policy::ProductPolicy;
use crate::policy::Recipe;
use crate::policy::recipe;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Stage;
use crate::publish;
use crate::repository::Pending;
use crate::repository::RepositoryError;
use crate::repository::State;
use crate::repository::layout;
use crate::repository::seal;
use crate::repository::seal::OnlineKey;
use crate::repository::seal::ReleaseFile;
use crate::repository::seal::SignedRelease;
use crate::repository::stage::Place;
use crate::repository::stage::Staged;
use crate::sign;
use crate::sign::Agreement;
use crate::sign::Batch;
use crate::sign::Plan;
use crate::sign::ThresholdMet;
use crate::source;
use crate::source::Maintainers;

pub use error::CutError;
pub use operator::Operator;
pub use operator::Preview;
pub use operator::Review;
pub use operator::Stopped;
pub use sealer::Sealer;

/// What a finished cut did.
#[derive(Debug)]
pub struct Summary {
    /// The publication that holds the release; none after a dry run.
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
    pub fn run(&self) -> Result<Summary, CutError> {
        let _lock = self.home.lock(&format!("release cut {} {}", self.product, self.version))?;
        Pending::finish_interrupted(self.home)?;
        let mut journal = self.home.journal()?;
        let mut state = State::load(&self.home.repository())?;
        let of_product = self.of_product()?;
        self.check_policy(&state)?;
        self.check_clock(&journal)?;

        let folder = self.home.cut(self.product, self.version);
        let stage = folder.join("stage");
        let mut cut = self.open_state(&folder, &state)?;
        if cut.sealed.is_none() {
            let plan = Plan::new(self.home, self.product)?;
            self.check_others()?;
            self.show_plan(&plan, of_product, &state, cut.pin.as_ref(), cut.staged.is_some())?;
            atomic::make_folder(&stage)?;
            let signing = journal.was_asked(&self.claim_name());

            // Fetch and build, unless signatures have made the bytes final.
            if !signing {
                self.fetch(&mut cut, of_product, &folder, &mut journal)?;
                self.build(&mut cut, &folder, &stage, &mut journal)?;
            }

            // Stage: all payloads are final before the first prompt.
            let staged = if signing {
                self.restore(&cut, &state, &folder, &stage)?
            } else {
                self.stage(&mut cut, of_product, &state, &plan, &folder, &stage, &journal)?
            };
            let pin = cut.pin.as_ref().ok_or_else(|| lost(&folder, "pin"))?;
            let fixed = cut.staged.clone().ok_or_else(|| lost(&folder, "stage"))?;

            // Agree and sign: one confirmation, every key opened once.
            if !signing {
                self.confirm(&state, &staged, pin, &fixed, &plan, &mut journal)?;
            }
            let batch = Batch::open(self.home, &plan, &staged.role, &stage, self.operator)?;
            let met = self.sign(&batch, &plan, of_product, staged.clone(), &fixed, &stage, &mut journal)?;

            // Seal on top of what is published now, check, and only then keep it.
            let claims = met.claims;
            let sealed =
                self.seal(&batch, &plan, &state, &met.threshold, &claims, &staged, &stage, &mut journal)?;
            cut.sealed = Some(sealed);
            cut.save(&folder)?;
            state = State::load(&self.home.repository())?;
        }
        let mirrors = publish::push(self.home, (self.now)(), self.operator)?;
        note_published(&mut journal, &mirrors, state.serial(), (self.now)())?;
        Ok(Summary { serial: cut.sealed, mirrors })
    }

    /// Fetches into a throw-away folder and shows the plan. Touches nothing.
    ///
    /// # Errors
    /// As [`Self::run`] would find before it builds.
    pub fn dry_run(&self) -> Result<Summary, CutError> {
        let state = State::load(&self.home.repository())?;
        let of_product = self.of_product()?;
        self.check_policy(&state)?;
        self.check_clock(&self.home.journal()?)?;
        let folder = self.home.cut(self.product, self.version);
        let cut = self.open_state(&folder, &state)?;
        let plan = Plan::new(self.home, self.product)?;
        self.check_others()?;
        let scratch = tempfile::tempdir()
            .map_err(|error| CutError::Home(HomeError::io(&std::env::temp_dir(), error)))?;
        let path = scratch.path().join("source.git");
        let fetched = self.fetch_source(of_product, cut.pin.as_ref(), &path)?;
        self.read_recipe(&fetched)?;
        self.show_plan(&plan, of_product, &state, Some(&fetched.pin), cut.staged.is_some())?;
        Ok(Summary { serial: None, mirrors: Vec::new() })
    }

    fn of_product(&self) -> Result<&ProductPolicy, CutError> {
        self.home.policy.products.get(self.product).ok_or_else(|| CutError::NoProduct(self.product.clone()))
    }

    fn claim_name(&self) -> String {
        format!("claim {} {}", self.product, self.version)
    }

    fn purpose(&self) -> String {
        format!("{} {}", self.product, self.version)
    }

    /// A cut refuses a policy that is not the newest signed one.
    fn check_policy(&self, state: &State) -> Result<(), CutError> {
        let signed = signed_policy(state)?;
        let found = self.home.policy_digest;
        if signed == found { Ok(()) } else { Err(CutError::OtherPolicy { signed, found }) }
    }

    /// The clock is never before what this terminal has done.
    fn check_clock(&self, journal: &Journal) -> Result<(), CutError> {
        let now = (self.now)();
        match journal.last_time() {
            Some(then) if then > now => Err(CutError::Clock { now, what: "the last line of the journal", then }),
            _ => Ok(()),
        }
    }

    /// The state of this cut: new, or as the last run left it.
    fn open_state(&self, folder: &Path, state: &State) -> Result<CutState, CutError> {
        let place = Place { state, product: self.product, version: self.version };
        let Some(mut cut) = CutState::load(folder)? else {
            place.check_free()?;
            return Ok(CutState::new(self.product.clone(), self.version.clone(), (self.now)()));
        };
        if cut.abandoned {
            let (product, version) = (self.product.clone(), self.version.clone());
            return Err(CutError::Abandoned { product, version });
        }
        if cut.sealed.is_none() {
            // A crash between sealing and noting it leaves the record of the seal.
            cut.sealed = publish::find(self.home, &self.purpose())?;
        }
        if cut.sealed.is_none() {
            place.check_free()?;
        }
        Ok(cut)
    }

    /// One waiting cut per product, and no interrupted seal of something else.
    fn check_others(&self) -> Result<(), CutError> {
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

    fn show_plan(
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

    fn fetch_source<'f>(
        &'f self,
        of_product: &ProductPolicy,
        pinned: Option<&Pin>,
        folder: &'f Path,
    ) -> Result<source::Source<'f>, CutError> {
        let signers: Vec<PathBuf> =
            of_product.tag_signers.iter().map(|file| self.home.resolve(file.get_ref())).collect();
        let revoked = of_product.tag_revoked.as_ref().map(|file| self.home.resolve(file.get_ref()));
        let maintainers = Maintainers::load(signers.iter().map(PathBuf::as_path), revoked.as_deref())?;
        let request = source::Request {
            source: of_product.source.get_ref(),
            base: self.home.folder(),
            tag: &of_product.tag_of(self.version),
            branch: of_product.branch.get_ref(),
            maintainers: &maintainers,
            threshold: of_product.tag_threshold,
            pinned,
        };
        self.operator.event(Event::Begin { stage: Stage::Fetch, what: request.tag });
        let fetched = source::fetch(&request, folder, (self.now)(), self.operator)?;
        let commit_time = Timestamp::from_second(fetched.pin.commit_time).unwrap_or(Timestamp::MAX);
        let now = (self.now)();
        if commit_time > now {
            return Err(CutError::Clock { now, what: "the commit", then: commit_time });
        }
        let signers: Vec<String> =
            fetched.pin.tags.iter().map(|tag| crate::manifest::names::printable(&tag.signer)).collect();
        self.operator.event(Event::Done {
            stage: Stage::Fetch,
            evidence: Evidence::Fetched {
                branch: &fetched.pin.branch,
                commit: fetched.pin.commit.short(),
                signers: &signers,
            },
        });
        Ok(fetched)
    }

    fn read_recipe(&self, fetched: &source::Source<'_>) -> Result<Recipe, CutError> {
        let bytes = fetched.file(recipe::FILE, recipe::MAX_LENGTH)?;
        Recipe::parse(&bytes, self.product, self.version)
            .map_err(|error| CutError::Recipe { commit: fetched.pin.commit.short().to_owned(), error })
    }

    /// Fetches and pins. A later run fetches again, and must get the same.
    fn fetch(
        &self,
        cut: &mut CutState,
        of_product: &ProductPolicy,
        folder: &Path,
        journal: &mut Journal,
    ) -> Result<(), CutError> {
        let repository = folder.join("source.git");
        let fetched = self.fetch_source(of_product, cut.pin.as_ref(), &repository)?;
        let recipe = self.read_recipe(&fetched)?;
        if cut.pin.is_none() {
            let (product, release) = (self.product.clone(), self.version.clone());
            journal.append((self.now)(), Entry::Pin { product, release, pin: fetched.pin.clone() })?;
            cut.pin = Some(fetched.pin.clone());
            cut.save(folder)?;
        }
        home::step("fetch.done");
        if cut.archive.is_none() {
            let prefix = build::source_prefix(self.product, self.version);
            self.operator.event(Event::Begin { stage: Stage::Archive, what: &prefix });
            let gz = recipe.source_archive.as_ref().map(|name| (name, folder.join("stage").join(name.as_str())));
            let gz = gz.as_ref().map(|(name, path)| (*name, path.as_path()));
            let (archive, files) = fetched.archive(&prefix, &folder.join("source.tar"), gz)?;
            let evidence = Evidence::Archived { tar: archive.tar, files };
            self.operator.event(Event::Done { stage: Stage::Archive, evidence });
            cut.archive = Some(archive);
            cut.save(folder)?;
        }
        atomic::write(&folder.join(recipe::FILE), &fetched.file(recipe::FILE, recipe::MAX_LENGTH)?)?;
        home::step("archive.done");
        Ok(())
    }

    /// Builds, unless an earlier run has.
    fn build(
        &self,
        cut: &mut CutState,
        folder: &Path,
        stage: &Path,
        journal: &mut Journal,
    ) -> Result<(), CutError> {
        let path = folder.join(recipe::FILE);
        let bytes = fs::read(&path).map_err(|error| HomeError::io(&path, error))?;
        let pin = cut.pin.as_ref().ok_or_else(|| lost(folder, "pin"))?;
        let archive = cut.archive.as_ref().ok_or_else(|| lost(folder, "archive"))?;
        let recipe = Recipe::parse(&bytes, self.product, self.version)
            .map_err(|error| CutError::Recipe { commit: pin.commit.short().to_owned(), error })?;
        if cut.build.is_some() {
            return Ok(());
        }
        let environment = Environment::describe(&self.home.terminal.sandbox.toolchains)?;
        atomic::write(&folder.join("environment.json"), &environment.to_vec()?)?;
        let mut artifacts: Vec<_> = archive.gz.iter().map(build::source_artifact).collect();
        if !recipe.artifacts.is_empty() {
            let built = build::run(
                &build::Request {
                    product: self.product,
                    version: self.version,
                    recipe: &recipe,
                    tar: &folder.join("source.tar"),
                    inputs: &|sha256| self.home.input(sha256),
                    environment: &environment,
                    epoch: pin.commit_time,
                    work: folder,
                    stage,
                },
                self.operator,
            )?;
            self.operator.event(Event::Done {
                stage: Stage::Build,
                evidence: Evidence::Built {
                    artifacts: built.artifacts.len(),
                    seconds: built.seconds,
                    twice: recipe.reproducible,
                },
            });
            artifacts.extend(built.artifacts);
        }
        let done = BuildState {
            recipe: recipe.sha256,
            environment: environment.digest()?,
            inputs: recipe.inputs,
            artifacts,
        };
        journal.append(
            (self.now)(),
            Entry::Build {
                product: self.product.clone(),
                release: self.version.clone(),
                recipe: done.recipe,
                environment: done.environment,
                artifacts: Sha256::of(release::checksums(&done.artifacts).as_bytes()),
            },
        )?;
        cut.build = Some(done);
        cut.save(folder)?;
        home::step("build.done");
        Ok(())
    }

    /// Reads back what was staged, from the first signature on.
    fn restore(&self, cut: &CutState, state: &State, folder: &Path, stage: &Path) -> Result<Staged, CutError> {
        let fixed = cut.staged.as_ref().ok_or_else(|| lost(folder, "stage"))?;
        let place = Place { state, product: self.product, version: self.version };
        let staged = place.restore(stage)?;
        if staged.role.number() != fixed.number || staged.role.digest().map_err(RepositoryError::from)? != fixed.digest {
            return Err(CutError::StageChanged(place.role_file(stage)));
        }
        check_stage(&staged, stage)?;
        Ok(staged)
    }

    /// Makes what will be signed, or reads back what an earlier run made.
    #[expect(clippy::too_many_arguments, reason = "the values of the linear function")]
    fn stage(
        &self,
        cut: &mut CutState,
        of_product: &ProductPolicy,
        state: &State,
        plan: &Plan,
        folder: &Path,
        stage: &Path,
        journal: &Journal,
    ) -> Result<Staged, CutError> {
        let place = Place { state, product: self.product, version: self.version };
        let current = state.roles.get(self.product).map_or(0, |(number, _)| *number);
        let number = journal.next_number(self.product, current);
        if let Some(fixed) = &cut.staged
            && fixed.number == number
        {
            return self.restore(cut, state, folder, stage);
        }
        let done = cut.build.as_ref().ok_or_else(|| lost(folder, "build"))?;
        let pin = cut.pin.as_ref().ok_or_else(|| lost(folder, "pin"))?;
        let archive: &SourceArchive = cut.archive.as_ref().ok_or_else(|| lost(folder, "archive"))?;
        let source = build_source(of_product);
        let statement = Build {
            product: self.product,
            version: self.version,
            source: &source,
            pin,
            archive,
            recipe: done.recipe,
            environment: done.environment,
            inputs: &done.inputs,
        };
        let at = seal::expiry((self.now)(), jiff::SignedDuration::ZERO);
        let expires = seal::expiry(at, of_product.expires.get_ref().duration());
        let staged = place.stage(&statement, &done.artifacts, number, expires, journal.head(), stage)?;
        check_stage(&staged, stage)?;
        let digest = staged.role.digest().map_err(RepositoryError::from)?;
        cut.staged = Some(StagedState { number, digest, at, starter: plan.starter.clone() });
        cut.save(folder)?;
        home::step("stage.done");
        self.operator.event(Event::Done { stage: Stage::Stage, evidence: Evidence::Staged { digest } });
        Ok(staged)
    }

    fn confirm(
        &self,
        state: &State,
        staged: &Staged,
        pin: &Pin,
        fixed: &StagedState,
        plan: &Plan,
        journal: &mut Journal,
    ) -> Result<(), CutError> {
        let place = Place { state, product: self.product, version: self.version };
        let changes = place.changes(staged)?;
        self.operator.confirm(&Review {
            product: self.product,
            version: self.version,
            pin,
            changes: &changes,
            number: fixed.number,
            digest: fixed.digest,
            plan,
        })?;
        journal.append(
            (self.now)(),
            Entry::Confirm {
                product: self.product.clone(),
                release: self.version.clone(),
                manifest: fixed.digest,
                starter: plan.starter.clone(),
            },
        )?;
        Ok(())
    }

    /// Claim, release manifest, checksums: in this order, each through the
    /// value that the one before has made.
    #[expect(clippy::too_many_arguments, reason = "the values of the linear function")]
    fn sign(
        &self,
        batch: &Batch,
        plan: &Plan,
        of_product: &ProductPolicy,
        staged: Staged,
        fixed: &StagedState,
        stage: &Path,
        journal: &mut Journal,
    ) -> Result<Signed, CutError> {
        self.operator.event(Event::Begin { stage: Stage::Sign, what: &self.purpose() });
        let now = (self.now)();
        let claim = batch.claim(plan, self.product, self.version, &staged.statement, stage, journal, now)?;
        let agreed =
            Agreement::of(self.product, &staged.statement, vec![claim], &self.claim_keys()?, plan.rebuilds)?;
        let place_file = stage.join(format!("{}.json", self.product));
        let threshold = *of_product.threshold.get_ref();
        let met = batch.sign_role(plan, &agreed, staged.role, threshold, &place_file, journal, now)?;
        let signatures = batch.sign_checksums(plan, &met, &staged.checksums, fixed.at, stage, journal)?;
        if let Some(signatures) = signatures {
            let certificates: Vec<PathBuf> = plan.openpgp.iter().map(|(.., path)| path.clone()).collect();
            openpgp::stock::check(&certificates, &staged.checksums, &signatures, stage, self.operator)?;
        }
        let holders: Vec<String> = met.people().iter().map(Holder::to_string).collect();
        let evidence = Evidence::Signed { holders: &holders, of: plan.of };
        self.operator.event(Event::Done { stage: Stage::Sign, evidence });
        Ok(Signed { threshold: met, claims: agreed.claims().to_vec() })
    }

    fn claim_keys(&self) -> Result<BTreeMap<String, (Holder, PublicKey)>, CutError> {
        let mut keys = BTreeMap::new();
        for (name, holder) in self.home.policy.claim_keys() {
            let public = sign::load_public(self.home, name)?;
            keys.insert(sign::keyid(&public)?, (holder, public));
        }
        Ok(keys)
    }

    /// Seals, verifies as users will, and puts it into the home's repository.
    #[expect(clippy::too_many_arguments, reason = "the values of the linear function")]
    fn seal(
        &self,
        batch: &Batch,
        plan: &Plan,
        state: &State,
        met: &ThresholdMet,
        claims: &[Envelope],
        staged: &Staged,
        stage: &Path,
        journal: &mut Journal,
    ) -> Result<u64, CutError> {
        self.operator.event(Event::Begin { stage: Stage::Seal, what: &self.purpose() });
        let release = SignedRelease {
            product: self.product,
            version: self.version,
            role: met.role(),
            claims,
            files: self.release_files(state, plan, staged, stage)?,
        };
        let online = batch.signer(&plan.online)?;
        let keyid = sign::keyid(online.public())?;
        let online = OnlineKey { keyid: &keyid, signer: online };
        let sealer = Sealer { home: self.home, operator: self.operator, now: self.now };
        let publication = sealer.seal(state, &self.purpose(), Some(&release), &[], &online, journal)?;
        Ok(publication.serial)
    }

    /// The files of the release with all their names.
    fn release_files(
        &self,
        state: &State,
        plan: &Plan,
        staged: &Staged,
        stage: &Path,
    ) -> Result<Vec<ReleaseFile>, CutError> {
        let place = Place { state, product: self.product, version: self.version };
        let mut files = Vec::new();
        for artifact in &staged.files {
            files.push(ReleaseFile {
                path: stage.join(artifact.name.as_str()),
                names: place.names(artifact)?.to_vec(),
                sha256: artifact.sha256,
                length: artifact.length,
            });
        }
        for name in [release::claim_file(&plan.starter), release::CHECKSUMS_SIGNATURE.to_owned()] {
            let path = stage.join(&name);
            let Ok(metadata) = path.metadata() else {
                continue;
            };
            let public = layout::release(self.product, self.version, &name)
                .map_err(|error| RepositoryError::Damaged { file: name, reason: error.to_string() })?;
            files.push(ReleaseFile {
                sha256: atomic::digest(&path)?,
                length: metadata.len(),
                names: vec![public],
                path,
            });
        }
        Ok(files)
    }
}

/// What signing gives.
struct Signed {
    threshold: ThresholdMet,
    claims: Vec<Envelope>,
}

/// The digest of the policy that the newest `targets` lists.
fn signed_policy(state: &State) -> Result<Sha256, CutError> {
    let damaged = |reason: String| RepositoryError::Damaged { file: format!("{}.targets.json", state.targets.0), reason };
    let targets = sigstore_tuf::Metadata::<sigstore_tuf::Targets>::from_slice(&state.targets.1)
        .map_err(|error| damaged(error.to_string()))?;
    let listed = targets.signed().targets.iter().filter(|(path, _)| {
        let segments: Vec<&str> = path.split('/').collect();
        matches!(segments.as_slice(), ["policy", _, "policy.toml"])
    });
    let digest = listed.last().and_then(|(_, target)| target.hashes.get("sha256")?.parse().ok());
    Ok(digest.ok_or_else(|| damaged("it lists no policy".to_owned()))?)
}

/// What claims say of where the source came from: a URL as it is, a path of
/// this machine by its last segment.
fn build_source(of_product: &ProductPolicy) -> String {
    let source = of_product.source.get_ref();
    match source.split_once("://") {
        Some(("file", _)) | None => {
            format!("file:{}", source.trim_end_matches('/').rsplit('/').next().unwrap_or_default())
        }
        Some(_) => source.clone(),
    }
}

/// What was built and what is signed must still be the same bytes.
fn check_stage(staged: &Staged, stage: &Path) -> Result<(), CutError> {
    for file in &staged.files {
        let path = stage.join(file.name.as_str());
        if atomic::digest(&path)? != file.sha256 {
            return Err(CutError::StageChanged(path));
        }
    }
    Ok(())
}

fn note_published(
    journal: &mut Journal,
    mirrors: &[publish::Outcome],
    serial: u64,
    now: Timestamp,
) -> Result<(), CutError> {
    for outcome in mirrors.iter().filter(|outcome| outcome.result.is_ok()) {
        journal.append(now, Entry::Publish { mirror: outcome.mirror.clone(), serial })?;
    }
    Ok(())
}

fn lost(folder: &Path, what: &str) -> HomeError {
    HomeError::Damaged { path: folder.join("cut.json"), reason: format!("it has no {what}") }
}
