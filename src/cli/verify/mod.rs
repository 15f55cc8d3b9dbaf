//! `release verify`: is this what was released?

mod judges;
mod report;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use jiff::Timestamp;

use self::judges::Judges;
use self::judges::Places;
use self::report::Outcome;
use super::error;
use super::error::CommandError;
use super::pinned;
use super::pinned::Pinned;
use super::ui::Ui;
use super::ui::counted;
use crate::manifest::Sha256;
use crate::manifest::bundle;
use crate::manifest::names::printable;
use crate::manifest::release;
use crate::parallel::in_parallel;
use crate::progress::Event;
use crate::progress::Progress;
use crate::progress::Stage;
use crate::transport;
use crate::transport::Folder;
use crate::transport::Url;
use crate::verify::Project;
use crate::verify::Rejection;
use crate::verify::Subject;
use crate::verify::Verdict;
use crate::verify::VerifyError;
use crate::verify::inventory;
use crate::verify::repository;
use crate::verify::repository::Extent;

/// A folder with more files than this is not verified as a repository.
const MAX_FILES: usize = 2_000_000;
/// What a mirror takes for the files that are replaced at the end of a push.
const PUSH: Duration = Duration::from_secs(3);

/// Is this what was released?
///
/// VERIFIED (exit 0): enough people signed a release that lists this file under
/// this name, enough people built it, and nothing has expired. STALE (exit 5):
/// the same, but something has expired; look for a newer state. REJECTED (exit
/// 3): do not use it.
///
/// Trust comes from --root or `release trust add`, never from what is verified.
/// A file is looked up in --bundle, else in each *.bundle.json beside it, else
/// in --repository. A folder with `metadata/` and a URL are verified as whole
/// repositories; any other folder as downloads, all of which must be listed.
///
/// What was seen is remembered, so that nobody can pass off an older state
/// later.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  Verify a download with the bundle beside it, without network:
      release verify --offline --root root.json kestrel-2.4.0.tar.gz

  Verify everything that a mirror serves:
      release verify https://mirror.example.org")]
pub struct Args {
    /// Files, folders or repositories to verify
    #[arg(required = true, value_name = "FILE|DIR|URL")]
    paths: Vec<String>,
    /// Trust this root instead of those of `release trust`
    #[arg(long, value_name = "ROOT.json")]
    root: Option<PathBuf>,
    /// The bundle that lists the files
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Also ask this repository for the newest state
    #[arg(long, value_name = "URL|DIR")]
    repository: Option<String>,
    /// Ask no repository, not even the one that `trust add` recorded
    #[arg(long, conflicts_with = "repository")]
    offline: bool,
    /// Verify the file as if it had this name
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
}

/// Runs `release verify`.
pub fn run(args: &Args, ui: &Ui) -> Result<u8, CommandError> {
    let now = Timestamp::now();
    let pinned = Pinned::all(args.root.as_deref(), ui)?;
    let places = Places {
        pinned: &pinned,
        bundle: args.bundle.as_deref(),
        repository: args.repository.as_deref(),
        offline: args.offline,
        ui,
        good: RefCell::default(),
    };
    let mut outcomes = Vec::new();
    let mut files = Vec::new();
    for path in &args.paths {
        let folder = Path::new(path);
        if Url::is_url(path) || folder.join("metadata").is_dir() {
            outcomes.extend(whole_repository(path, &pinned, now, ui)?);
        } else if folder.is_dir() {
            files.extend(downloads_in(folder)?);
        } else {
            files.push(folder.to_owned());
        }
    }
    let means = set_means_apart(&mut files, ui);
    if files.is_empty() && outcomes.is_empty() {
        return Err(CommandError::usage("there is nothing to verify: name a file that was released")
            .hint("bundles and OpenPGP signatures are what files are verified with"));
    }
    if args.name.is_some() && (files.len() != 1 || args.paths.len() != 1) {
        return Err(CommandError::usage("--as goes with exactly one file"));
    }
    outcomes.extend(judge_all(&files, args.name.as_deref(), &places, now)?);
    // Whoever sees a folder VERIFIED takes all in it for good.
    outcomes.extend(means.iter().filter_map(|path| {
        let refused = places.check_file(path).err()?;
        Some(Outcome::failed(path.display().to_string(), refused))
    }));
    Ok(report::report(&outcomes, ui))
}

fn whole_repository(place: &str, pinned: &[Pinned], now: Timestamp, ui: &Ui) -> Result<Vec<Outcome>, CommandError> {
    let files = pinned::open_repository(place)?;
    let pinned = &pinned[Pinned::of_repository(pinned, files.as_ref())?];
    let check = || repository::check(&files, &pinned.root, pinned.seen(), Extent::Everything, now, ui);
    let found = match check() {
        Err(VerifyError::Rejected(Rejection::Suite { .. })) => {
            ui.say("A suite for apt is not as it was released. If that is a push, it is soon over; looking again.");
            std::thread::sleep(PUSH);
            check()
        }
        found => found,
    };
    let whole = match found {
        Ok(whole) => whole,
        Err(error) => return Ok(vec![Outcome::failed(place.to_owned(), error.into())]),
    };
    let mut outcomes = Vec::new();
    if !Url::is_url(place) {
        let paths = Folder::new(place).list(MAX_FILES)?;
        let unaccounted = inventory::unaccounted(files.as_ref(), &whole, paths);
        for folder in unaccounted.unreleased {
            ui.warn(&format!("{} is not released: do not use what lies there", printable(&folder)));
        }
        for path in unaccounted.foreign {
            let reason = "no metadata speaks of it: it is not part of any release";
            outcomes.push(Outcome::failed(format!("{place}/{path}"), CommandError::new(error::REJECTED, reason)));
        }
    }
    for suite in whole.suites.iter().filter(|suite| suite.valid_until < now) {
        let reason = format!("suite {} for apt has expired on {}", suite.suite, suite.valid_until.strftime("%Y-%m-%d"));
        let path = format!("{place}/apt/dists/{}", suite.suite);
        outcomes.push(Outcome::failed(path, CommandError::new(error::STALE, reason)));
    }
    if whole.products.iter().all(|product| product.files.is_empty()) {
        outcomes.push(no_release(place, &whole.project, now));
    }
    for product in whole.products {
        for entry in &product.trust.listing().withdrawn {
            let successor = entry.successor.as_ref();
            let instead = successor.map_or_else(String::new, |successor| format!("; use {successor} instead"));
            ui.warn(&format!(
                "{} {} was withdrawn on {}: {}{instead}",
                product.trust.product(),
                entry.version,
                entry.date.strftime("%Y-%m-%d"),
                printable(entry.reason.as_str())
            ));
        }
        pinned.remember(&product.trust, ui);
        pinned::warn_if_insecure(&product.trust, ui);
        outcomes.extend(product.files.into_iter().map(|verdict| {
            let facts = verdict.facts();
            Outcome::of(format!("{}/{}/{}", facts.product, facts.version, facts.artifact.name), verdict)
        }));
    }
    Ok(outcomes)
}

/// A repository whose metadata is good, and which has released nothing yet.
fn no_release(place: &str, project: &Project, now: Timestamp) -> Outcome {
    let stale: Vec<String> = project.stale(now).iter().map(ToString::to_string).collect();
    let error = if stale.is_empty() {
        CommandError::failed("it holds no release yet, so there is nothing to verify")
    } else {
        CommandError::new(error::STALE, format!("it holds no release, and {}", stale.join("; ")))
    };
    Outcome::failed(place.to_owned(), error)
}

/// All that lies in a folder of downloads.
fn downloads_in(folder: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let failed =
        |error: std::io::Error| CommandError::system(format!("cannot read {}: {error}", folder.display()), &error);
    let entries = fs::read_dir(folder).map_err(failed)?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// Takes out what files are verified with, and gives the bundles.
fn set_means_apart(files: &mut Vec<PathBuf>, ui: &Ui) -> Vec<PathBuf> {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let signatures = files.extract_if(.., |path| name(path) == release::CHECKSUMS_SIGNATURE).count();
    if signatures > 0 {
        let what = release::CHECKSUMS_SIGNATURE;
        ui.say(&format!("Skipped {what}: OpenPGP signatures; check them with `sqv` or `gpg`."));
    }
    files.extract_if(.., |path| name(path).ends_with(bundle::SUFFIX)).collect()
}

/// Hashes all files, then judges one after the other.
fn judge_all(
    paths: &[PathBuf],
    name: Option<&str>,
    places: &Places<'_>,
    now: Timestamp,
) -> Result<Vec<Outcome>, CommandError> {
    let mut seated: BTreeMap<PathBuf, Judges> = BTreeMap::new();
    let mut outcomes = Vec::new();
    for (path, subject) in paths.iter().zip(hash_all(paths, places.ui)) {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let judges = match seated.entry(folder) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let judges = Judges::seat(entry.key(), places)?;
                entry.insert(judges)
            }
        };
        let verdict: Result<Verdict, CommandError> = subject.and_then(|mut subject| {
            if let Some(name) = name {
                name.clone_into(&mut subject.name);
            }
            judges.judge(path, &subject, places, now)
        });
        let shown = path.display().to_string();
        outcomes.push(match verdict {
            Ok(verdict) => Outcome::of(shown, verdict),
            Err(error) => Outcome::failed(shown, error),
        });
    }
    Ok(outcomes)
}

/// Hashes files on all cores, with one bar for all.
fn hash_all(paths: &[PathBuf], ui: &Ui) -> Vec<Result<Subject, CommandError>> {
    if paths.is_empty() {
        return Vec::new();
    }
    let total = paths.iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum();
    ui.event(Event::Begin { stage: Stage::Verify, what: &counted(paths.len(), "file") });
    ui.event(Event::Length(total));
    let slots: Vec<(&PathBuf, OnceLock<Result<Subject, CommandError>>)> =
        paths.iter().map(|path| (path, OnceLock::new())).collect();
    let Ok(()) = in_parallel(&slots, |(path, slot)| -> Result<(), std::convert::Infallible> {
        let _ = slot.set(hash_one(path, ui));
        Ok(())
    });
    let lost = || Err(CommandError::new(error::INTERNAL, "a file was not hashed"));
    slots.into_iter().map(|(_, slot)| slot.into_inner().unwrap_or_else(lost)).collect()
}

fn hash_one(path: &Path, ui: &Ui) -> Result<Subject, CommandError> {
    let show = printable(&path.display().to_string());
    let Some((file, _)) = transport::open_plain(path)? else {
        return Err(CommandError::failed(format!("there is no file {show}")));
    };
    let (sha256, length) = Sha256::of_reader(file, &mut |count| ui.event(Event::Advance(count)))
        .map_err(|error| CommandError::system(format!("cannot read {show}: {error}"), &error))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Subject { name, sha256, length })
}
