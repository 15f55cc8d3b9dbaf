//! The steps of a cut, each from values to values, with its result on disk.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;

use super::Cut;
use super::CutError;
use super::Review;
use super::Sealer;
use super::lost;
use super::request::Gathered;
use crate::approve::ClaimKeys;
use crate::build;
use crate::build::Environment;
use crate::home;
use crate::home::CutState;
use crate::home::Event as Entry;
use crate::home::Journal;
use crate::home::atomic;
use crate::home::cut::BuildState;
use crate::home::cut::StagedState;
use crate::manifest::Holder;
use crate::manifest::Pin;
use crate::manifest::Sha256;
use crate::manifest::SourceArchive;
use crate::manifest::claim::Build;
use crate::manifest::dsse::Envelope;
use crate::manifest::release;
use crate::openpgp;
use crate::policy::Destination;
use crate::policy::ProductPolicy;
use crate::policy::Recipe;
use crate::policy::recipe;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Stage;
use crate::repository::RepositoryError;
use crate::repository::State;
use crate::repository::layout;
use crate::repository::seal;
use crate::repository::seal::Added;
use crate::repository::seal::OnlineKey;
use crate::repository::seal::ReleaseFile;
use crate::repository::seal::SignedRelease;
use crate::repository::stage::Place;
use crate::repository::stage::Staged;
use crate::sign;
use crate::sign::Agreement;
use crate::sign::Plan;
use crate::sign::Session;
use crate::sign::ThresholdMet;
use crate::sign::Warrant;
use crate::source;
use crate::source::Maintainers;

/// What signing gives.
pub(super) struct Signed {
    threshold: ThresholdMet,
    claims: Vec<Envelope>,
    builders: BTreeSet<Holder>,
}

impl Cut<'_> {
    pub(super) fn fetch_source<'f>(
        &'f self,
        of_product: &ProductPolicy,
        pinned: Option<&Pin>,
        folder: &'f Path,
        journal: &mut Journal,
    ) -> Result<source::Source<'f>, CutError> {
        let signers: Vec<PathBuf> =
            of_product.tag_signers.iter().map(|file| self.home.resolve(file.get_ref())).collect();
        let revoked = of_product.tag_revoked.as_ref().map(|file| self.home.resolve(file.get_ref()));
        let maintainers = Maintainers::load(signers.iter().map(PathBuf::as_path), revoked.as_deref())?;
        let bundle = self.home.source_bundle(self.product, self.version);
        let request = source::Request {
            source: of_product.source.get_ref(),
            bundle: bundle.as_deref(),
            hosts: &self.home.terminal.sources,
            base: self.home.folder(),
            bounds: source::Bounds::default(),
            tag: &of_product.tag_of(self.version),
            branch: of_product.branch.get_ref(),
            maintainers: &maintainers,
            threshold: of_product.tag_threshold,
            pinned,
        };
        self.operator.event(Event::Begin { stage: Stage::Fetch, what: request.tag });
        let fetch = || Ok::<_, CutError>(source::fetch(&request, folder, (self.now)(), self.operator)?);
        let fetched = match bundle {
            Some(_) => fetch()?,
            None => self.window().through(Destination::Source, journal, |_| fetch())?,
        };
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
                bundle: bundle.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()),
            },
        });
        Ok(fetched)
    }

    pub(super) fn read_recipe(&self, fetched: &source::Source<'_>) -> Result<Recipe, CutError> {
        let bytes = fetched.file(recipe::FILE, recipe::MAX_LENGTH)?;
        Recipe::parse(&bytes, self.product, self.version)
            .map_err(|error| CutError::Recipe { commit: fetched.pin.commit.short().to_owned(), error })
    }

    /// Fetches and pins. A later run fetches again, and must get the same. With `look`,
    /// that is shown what came.
    pub(super) fn fetch(
        &self,
        cut: &mut CutState,
        of_product: &ProductPolicy,
        folder: &Path,
        journal: &mut Journal,
        look: &mut dyn FnMut(&source::Source<'_>) -> Result<(), CutError>,
    ) -> Result<(), CutError> {
        let repository = folder.join(home::cut::REPOSITORY);
        let fetched = self.fetch_source(of_product, cut.pin.as_ref(), &repository, journal)?;
        let recipe = self.read_recipe(&fetched)?;
        look(&fetched)?;
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
            let (archive, files) = fetched.archive(&prefix, &folder.join(home::cut::ARCHIVE), gz)?;
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
    pub(super) fn build(
        &self,
        cut: &mut CutState,
        folder: &Path,
        stage: &Path,
        journal: &mut Journal,
    ) -> Result<(), CutError> {
        let bytes = atomic::read(&folder.join(recipe::FILE))?;
        let pin = cut.pin.as_ref().ok_or_else(|| lost(folder, "pin"))?;
        let archive = cut.archive.as_ref().ok_or_else(|| lost(folder, "archive"))?;
        let recipe = Recipe::parse(&bytes, self.product, self.version)
            .map_err(|error| CutError::Recipe { commit: pin.commit.short().to_owned(), error })?;
        if cut.build.is_some() {
            return Ok(());
        }
        let tar = folder.join(home::cut::ARCHIVE);
        if atomic::digest(&tar)? != archive.tar {
            return Err(CutError::StageChanged(tar));
        }
        let environment = Environment::describe(&self.home.terminal.sandbox.toolchains)?;
        atomic::write(&folder.join(super::ENVIRONMENT), &environment.to_vec()?)?;
        let mut artifacts: Vec<_> = archive.gz.iter().map(build::source_artifact).collect();
        if !recipe.artifacts.is_empty() {
            let built = build::run(
                &build::Request {
                    product: self.product,
                    version: self.version,
                    recipe: &recipe,
                    tar: &tar,
                    inputs: &|sha256| self.home.input(sha256),
                    environment: &environment,
                    epoch: pin.commit_time,
                    sandbox: &self.home.terminal.sandbox,
                    work: folder,
                    stage,
                },
                self.operator,
            )?;
            self.operator.event(Event::Done {
                stage: Stage::Build,
                evidence: Evidence::Built {
                    artifacts: built.artifacts.len(),
                    milliseconds: built.milliseconds,
                    twice: recipe.reproducible,
                },
            });
            artifacts.extend(built.artifacts);
        }
        let done =
            BuildState { recipe: recipe.sha256, environment: environment.digest()?, inputs: recipe.inputs, artifacts };
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
    pub(super) fn restore(
        &self,
        cut: &CutState,
        state: &State,
        folder: &Path,
        folders: (&Path, &Path),
    ) -> Result<Staged, CutError> {
        let fixed = cut.staged.as_ref().ok_or_else(|| lost(folder, "stage"))?;
        let newest = state.roles.get(self.product).map_or(0, |(number, _)| *number);
        if newest >= fixed.number {
            let (product, version) = (self.product.clone(), self.version.clone());
            return Err(CutError::Overtaken { product, version, number: fixed.number, newest });
        }
        let place = Place { state, product: self.product, version: self.version };
        let staged = place.restore(folders)?;
        if staged.role.number() != fixed.number || staged.role.digest().map_err(RepositoryError::from)? != fixed.digest
        {
            return Err(CutError::StageChanged(place.role_file(folders.1)));
        }
        check_stage(&staged, folders.0)?;
        Ok(staged)
    }

    /// Makes what will be signed, or reads back what an earlier run made.
    #[expect(clippy::too_many_arguments, reason = "the values of the linear function")]
    pub(super) fn stage(
        &self,
        cut: &mut CutState,
        of_product: &ProductPolicy,
        state: &State,
        plan: &Plan,
        folder: &Path,
        folders: (&Path, &Path),
        journal: &Journal,
    ) -> Result<Staged, CutError> {
        let place = Place { state, product: self.product, version: self.version };
        let current = state.roles.get(self.product).map_or(0, |(number, _)| *number);
        let number = journal.next_number(self.product, current);
        if let Some(fixed) = &cut.staged
            && fixed.number == number
        {
            return self.restore(cut, state, folder, folders);
        }
        let done = cut.build.as_ref().ok_or_else(|| lost(folder, "build"))?;
        let pin = cut.pin.as_ref().ok_or_else(|| lost(folder, "pin"))?;
        let archive: &SourceArchive = cut.archive.as_ref().ok_or_else(|| lost(folder, "archive"))?;
        let source = of_product.source.get_ref().public();
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
        let at = seal::to_second((self.now)());
        let expires = seal::expiry(at, of_product.expires.get_ref().duration());
        let staged = place.stage(&statement, &done.artifacts, number, expires, journal.head(), folders)?;
        check_stage(&staged, folders.0)?;
        let digest = staged.role.digest().map_err(RepositoryError::from)?;
        cut.staged = Some(StagedState { number, digest, at, starter: plan.builder.clone() });
        cut.save(folder)?;
        home::step("stage.done");
        self.operator.event(Event::Done { stage: Stage::Stage, evidence: Evidence::Staged { digest } });
        Ok(staged)
    }

    pub(super) fn confirm(
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
                starter: plan.builder.clone(),
            },
        )?;
        Ok(())
    }

    /// Claim, release manifest, checksums: in this order, each through the
    /// value that the one before has made.
    pub(super) fn sign(
        &self,
        session: &mut Session<'_>,
        of_product: &ProductPolicy,
        state: &State,
        staged: &Staged,
        fixed: &StagedState,
        gathered: &Gathered,
    ) -> Result<Signed, CutError> {
        self.operator.event(Event::Begin { stage: Stage::Sign, what: &self.purpose() });
        let (plan, stage) = (session.plan, session.stage);
        let mut claims = vec![session.claim(self.product, self.version, &staged.statement)?];
        claims.extend(gathered.claims.values().cloned());
        let agreed = Agreement::of(self.product, &staged.statement, claims, &self.claim_keys()?, plan.rebuilds)?;
        let threshold = *of_product.threshold.get_ref();
        let before = state.roles.get(self.product).map(|(_, file)| file.as_slice());
        let warrant = Warrant::to_release(&agreed, (self.product, self.version), before, &staged.role)?;
        let mut role = staged.role.clone();
        for (keyid, signature) in gathered.signatures.values() {
            role.add_signature(keyid, signature);
        }
        let met = ThresholdMet::of(session.sign_role(&warrant, role)?, threshold)?;
        if let Some(signatures) = session.sign_checksums(&met, &staged.checksums, fixed.at)? {
            let certificates: Vec<PathBuf> = plan.openpgp.iter().map(|(.., path)| path.clone()).collect();
            openpgp::stock::check(&certificates, &staged.checksums, &signatures, stage, self.operator)?;
        }
        let holders: Vec<String> = met.people().iter().map(Holder::to_string).collect();
        let evidence = Evidence::Signed { holders: &holders, of: plan.of };
        self.operator.event(Event::Done { stage: Stage::Sign, evidence });
        let (claims, builders) = (agreed.claims().to_vec(), agreed.people().clone());
        Ok(Signed { threshold: met, claims, builders })
    }

    pub(super) fn claim_keys(&self) -> Result<ClaimKeys, CutError> {
        Ok(sign::claim_keys(self.home)?)
    }

    /// Seals, verifies as users will, and puts it into the home's repository.
    pub(super) fn seal(
        &self,
        session: &mut Session<'_>,
        state: &State,
        signed: &Signed,
        staged: &Staged,
    ) -> Result<u64, CutError> {
        self.operator.event(Event::Begin { stage: Stage::Seal, what: &self.purpose() });
        let release = SignedRelease {
            product: self.product,
            version: Some(self.version),
            role: signed.threshold.role(),
            claims: &signed.claims,
            files: self.release_files(state, &signed.builders, staged, session.stage)?,
        };
        let online = session.batch.signer(&session.plan.online)?;
        let keyid = sign::keyid(online.public())?;
        let online = OnlineKey { keyid: &keyid, signer: online };
        let sealer = Sealer { home: self.home, operator: self.operator, now: self.now };
        let publication =
            sealer.seal(state, &self.purpose(), Some(&release), &Added::default(), &online, session.journal)?;
        Ok(publication.serial)
    }

    /// The files of the release with all their names.
    pub(super) fn release_files(
        &self,
        state: &State,
        builders: &BTreeSet<Holder>,
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
        let claims = builders.iter().map(release::claim_file);
        for name in claims.chain([release::CHECKSUMS_SIGNATURE.to_owned()]) {
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
