//! Judges for the place where a file lies: from the bundles there, from what
//! was seen before, and from repositories.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::cli::error;
use crate::cli::error::CommandError;
use crate::cli::pinned;
use crate::cli::pinned::Pinned;
use crate::cli::ui::Ui;
use crate::manifest::Bundle;
use crate::manifest::Product;
use crate::manifest::bundle;
use crate::manifest::dsse::Envelope;
use crate::manifest::names::printable;
use crate::progress::Event;
use crate::progress::Progress;
use crate::transport;
use crate::verify::Judge;
use crate::verify::Origin;
use crate::verify::Rejection;
use crate::verify::Source;
use crate::verify::Subject;
use crate::verify::Trust;
use crate::verify::Verdict;
use crate::verify::VerifyError;
use crate::verify::repository;
use crate::verify::strict;

/// Where to look for what a file is verified with.
pub(super) struct Places<'a> {
    pub(super) pinned: &'a [Pinned],
    pub(super) bundle: Option<&'a Path>,
    pub(super) repository: Option<&'a str>,
    pub(super) offline: bool,
    pub(super) ui: &'a Ui,
    /// Bundles that were checked and are good.
    pub(super) good: RefCell<BTreeSet<PathBuf>>,
}

/// One judge for each product that is known at a place.
pub(super) struct Judges {
    judges: Vec<Judge>,
    /// Why bundles there could not be used.
    refused: Vec<CommandError>,
}

/// What was found about one product under one pinned root.
#[derive(Default)]
struct Evidence {
    sources: Vec<Source>,
    claims: Vec<Envelope>,
}

/// Bundles with their names, and why others could not be read.
type Found = (Vec<(PathBuf, Bundle)>, Vec<CommandError>);

type ByProduct = BTreeMap<(usize, Product), Evidence>;

impl Judges {
    /// Finds the bundles in `folder` (or the one that was named), asks the
    /// repositories, and seats the judges.
    pub(super) fn seat(folder: &Path, places: &Places<'_>) -> Result<Self, CommandError> {
        let (bundles, mut refused) = places.bundles(folder)?;
        let mut known = ByProduct::new();
        for (path, bundle) in bundles {
            match places.check(&name_of(&path), &bundle) {
                Ok((root, source)) => {
                    places.good.borrow_mut().insert(path);
                    let evidence = known.entry((root, bundle.product)).or_default();
                    evidence.sources.push(source);
                    evidence.claims.extend(bundle.claims);
                }
                Err(rejection) => refused.push(rejection.into()),
            }
        }
        if !places.offline {
            places.ask_repositories(&mut known)?;
        }
        let mut judges = Vec::new();
        for (root, product) in known.keys() {
            Pinned::refuse_ambiguous(places.pinned, *root, product)?;
            if known.keys().any(|(other, same)| other != root && same == product) {
                return Err(pinned::ambiguous(product));
            }
        }
        for ((root, product), evidence) in known {
            let pinned = &places.pinned[root];
            let mut sources = pinned.seen().to_vec();
            sources.extend(evidence.sources.iter().cloned());
            match Trust::establish(&pinned.root, &product, &sources) {
                Ok(trust) => {
                    places.warn_of_old_repository(&trust, pinned, &evidence.sources);
                    pinned.remember(&trust, places.ui);
                    pinned::warn_if_insecure(&trust, places.ui);
                    judges.push(Judge::new(trust, evidence.claims));
                }
                Err(rejection) => refused.push(rejection.into()),
            }
        }
        Ok(Self { judges, refused })
    }

    /// The verdict by the judge who knows most of the file.
    pub(super) fn judge(
        &mut self,
        path: &Path,
        subject: &Subject,
        places: &Places<'_>,
        now: jiff::Timestamp,
    ) -> Result<Verdict, CommandError> {
        let rank = |judge: &Judge| match judge.find(subject) {
            Ok(_) => 0,
            Err(_) if judge.find_claim(subject).is_some() => 0,
            Err(Rejection::Renamed { .. } | Rejection::Withdrawn { .. }) => 1,
            Err(Rejection::Altered { .. }) => 2,
            Err(_) => 3,
        };
        let Some(judge) = self.judges.iter_mut().min_by_key(|judge| rank(judge)) else {
            return Err(if self.refused.is_empty() { nothing_known(path, places) } else { refusal(&self.refused) });
        };
        // Without a bundle the claims come from the repository, release by release.
        if let Origin::Repository(place) = judge.trust().origin().clone()
            && let Ok((version, _)) = judge.find(subject)
        {
            let files = pinned::open_repository(&place)?;
            let claims = repository::claims_of(files.as_ref(), judge.trust(), &version)?;
            judge.add_claims(claims);
        }
        judge.judge(subject, now).map_err(|rejection| {
            let refused = self.refused.iter().map(full);
            for reason in judge.trust().ignored().iter().cloned().chain(refused) {
                places.ui.warn(&reason);
            }
            rejection.into()
        })
    }
}

impl Places<'_> {
    /// The bundles at a place, and why others there cannot be read.
    fn bundles(&self, folder: &Path) -> Result<Found, CommandError> {
        if let Some(path) = self.bundle {
            let named = read_bundle(path)?;
            return Ok((vec![(path.to_owned(), named)], Vec::new()));
        }
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let mut paths: Vec<PathBuf> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.to_string_lossy().ends_with(bundle::SUFFIX))
            .collect();
        paths.sort();
        let (mut bundles, mut refused) = (Vec::new(), Vec::new());
        for path in paths {
            match read_bundle(&path) {
                Ok(bundle) => bundles.push((path, bundle)),
                Err(error) => refused.push(error),
            }
        }
        Ok((bundles, refused))
    }

    /// Whether a file is a bundle of a project that is trusted.
    pub(super) fn check_file(&self, path: &Path) -> Result<(), CommandError> {
        if self.good.borrow().contains(path) {
            return Ok(());
        }
        let bundle = read_bundle(path)?;
        self.check(&name_of(path), &bundle)?;
        Ok(())
    }

    /// Checks a bundle under each root until one is in it.
    fn check(&self, name: &str, bundle: &Bundle) -> Result<(usize, Source), Rejection> {
        let mut result = Err(Rejection::Nothing { file: "root".to_owned() });
        for (index, pinned) in self.pinned.iter().enumerate() {
            result = strict::check(name, bundle, &pinned.root).map(|source| (index, source));
            if !matches!(result, Err(Rejection::OtherRoot { .. })) {
                break;
            }
        }
        result
    }

    /// Adds what repositories know: the one that was named, else those that
    /// were recorded with a root.
    fn ask_repositories(&self, known: &mut ByProduct) -> Result<(), CommandError> {
        let recorded = self.pinned.iter().enumerate();
        let asked: Vec<(usize, String)> = match self.repository {
            Some(place) => {
                let files = pinned::open_repository(place)?;
                vec![(Pinned::of_repository(self.pinned, files.as_ref())?, place.to_owned())]
            }
            None => recorded.filter_map(|(index, pinned)| Some((index, pinned.repository.clone()?))).collect(),
        };
        for (root, place) in asked {
            let of_bundles: Vec<Product> =
                known.keys().filter(|(index, _)| *index == root).map(|(_, product)| product.clone()).collect();
            // With a bundle only its product is of interest, without one any may be.
            let wanted: Vec<Option<&Product>> =
                if of_bundles.is_empty() { vec![None] } else { of_bundles.iter().map(Some).collect() };
            let files = pinned::open_repository(&place)?;
            for product in wanted {
                self.ui.event(Event::Request(&place));
                match repository::fetch(&files, &self.pinned[root].root, product) {
                    Ok((source, loaded)) => {
                        // Also where it hides a product: that it does must show.
                        let seen = self.pinned[root].seen().iter().flat_map(|seen| seen.copies.roles.keys());
                        let asked = product.map_or_else(|| seen.cloned().collect(), |product| vec![product.clone()]);
                        for product in loaded.into_iter().chain(asked).collect::<BTreeSet<_>>() {
                            known.entry((root, product)).or_default().sources.push(source.clone());
                        }
                    }
                    // A bundle is enough for a verdict; silence is nothing against the file.
                    Err(VerifyError::Transport(error)) if product.is_some() => {
                        self.ui.warn(&format!("{error}; going on with the bundle and what was seen before"));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn warn_of_old_repository(&self, trust: &Trust, pinned: &Pinned, sources: &[Source]) {
        for source in sources.iter().filter(|source| matches!(source.origin, Origin::Repository(_))) {
            let alone = Trust::establish(&pinned.root, trust.product(), std::slice::from_ref(source));
            if let Err(rejection) = alone.and_then(|alone| trust.refuse_rollback(&alone)) {
                self.ui.warn(&format!("{rejection}; the newer one counts"));
            }
        }
    }
}

fn name_of(path: &Path) -> String {
    printable(&path.file_name().unwrap_or_default().to_string_lossy())
}

/// Why no bundle could be used: one that cannot be read is no verdict on the file.
fn refusal(refused: &[CommandError]) -> CommandError {
    let rejected = refused.iter().any(|error| error.code() == error::REJECTED);
    let code = if rejected { error::REJECTED } else { error::FAILED };
    let all = CommandError::new(code, refused.iter().map(full).collect::<Vec<_>>().join("; "));
    refused.iter().fold(all, CommandError::remedy_of)
}

/// An error with its causes, on one line.
fn full(error: &CommandError) -> String {
    std::iter::once(error.message()).chain(error.causes().iter().map(String::as_str)).collect::<Vec<_>>().join(": ")
}

fn nothing_known(path: &Path, places: &Places<'_>) -> CommandError {
    let path = path.display();
    match places.repository {
        Some(place) => CommandError::failed(format!(
            "there is no bundle beside {path}, and {place} holds no release, so nothing is known about it"
        )),
        None => CommandError::failed(format!(
            "there is no bundle beside {path} and no repository to ask, so nothing is known about it"
        ))
        .hint(if places.offline {
            "put the *.bundle.json of its release beside it, or name it with --bundle"
        } else {
            "put the *.bundle.json of its release beside it, or name one with --bundle or --repository"
        }),
    }
}

fn read_bundle(path: &Path) -> Result<Bundle, CommandError> {
    let name = || name_of(path);
    let Some(bytes) = transport::read_plain(path, bundle::MAX_BUNDLE)? else {
        return Err(CommandError::failed(format!("there is no file {}", path.display())));
    };
    Ok(Bundle::parse(&bytes).map_err(|source| Rejection::Bundle { name: name(), source })?)
}
