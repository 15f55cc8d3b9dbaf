//! `release download`: the newest release, verified.

use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;
use sha2::Digest;

use super::error;
use super::error::CommandError;
use super::pinned;
use super::pinned::Pinned;
use super::ui::Ui;
use crate::manifest::Artifact;
use crate::manifest::Bundle;
use crate::manifest::Kind;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::bundle;
use crate::progress::Event;
use crate::progress::Progress;
use crate::progress::Stage;
use crate::transport::Files;
use crate::verify::Judge;
use crate::verify::Rejection;
use crate::verify::Subject;
use crate::verify::Trust;
use crate::verify::Verdict;
use crate::verify::repository;
use crate::verify::strict;

/// Download the newest release of a product, verified
///
/// Nothing stands under its final name before it is verified. The bundle comes
/// along, so that the folder can be verified again without network.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  Download the newest release:
      release download kestrel --repository https://packages.example.org

  Download one file of an older one:
      release download kestrel --version 2.3.1 --file kestrel-2.3.1.tar.gz")]
pub struct Args {
    /// The product
    product: Product,
    /// This release instead of the newest
    #[arg(long, value_name = "VERSION")]
    version: Option<Version>,
    /// Only this file of it (can be repeated)
    #[arg(long = "file", value_name = "NAME")]
    files: Vec<String>,
    /// The folder to download to
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
    /// Trust this root instead of those of `release trust`
    #[arg(long, value_name = "ROOT.json")]
    root: Option<PathBuf>,
    /// The repository; default: the one recorded with the root
    #[arg(long, value_name = "URL|DIR")]
    repository: Option<String>,
}

/// Runs `release download`.
pub fn run(args: &Args, ui: &Ui) -> Result<u8, CommandError> {
    let pinned = Pinned::all(args.root.as_deref(), ui)?;
    let (root, place) = choose_repository(args, &pinned)?;
    let files = pinned::open_repository(&place)?;
    let product = &args.product;
    let root = match root {
        Some(root) => root,
        None => Pinned::of_repository(&pinned, files.as_ref())?,
    };
    Pinned::refuse_ambiguous(&pinned, root, product)?;
    let pinned = &pinned[root];
    let (served, loaded) = repository::fetch(&files, &pinned.root, Some(product))?;
    let project = repository::project_of(&served, &pinned.root, pinned.seen())?;
    if !loaded.contains(product) {
        let known = project.policy().products.keys().any(|known| known == product);
        if !known {
            let names: Vec<&str> = project.policy().products.keys().map(Product::as_str).collect();
            return Err(CommandError::usage(format!("{place} has no product {product}"))
                .hint(format!("it has {}", names.join(", "))));
        }
        return Err(CommandError::failed(format!("{place} has no release of {product}")));
    }
    let trust = repository::trust_of(&served, product, &pinned.root, pinned.seen())?;
    pinned.remember(&trust, ui);
    pinned::warn_if_insecure(&trust, ui);
    let newest = || {
        trust
            .listing()
            .newest()
            .cloned()
            .ok_or_else(|| CommandError::failed(format!("{place} has no release of {product}")))
    };
    let version = args.version.clone().map_or_else(newest, Ok)?;
    let wanted = choose_files(args, trust.listing().releases.get(&version), &version)?;
    let claims = repository::claims_of(files.as_ref(), &trust, &version)?;
    let mut judge = Judge::new(trust, claims);

    fs::create_dir_all(&args.to)
        .map_err(|error| CommandError::system(format!("cannot make {}: {error}", args.to.display()), &error))?;
    let mut code = 0;
    let mut got = Vec::new();
    for artifact in &wanted {
        // The verdict on what the manifest lists comes before the bytes.
        let word = match judge.judge(&subject_of(artifact), Timestamp::now())? {
            Verdict::Verified(_) => "VERIFIED",
            Verdict::Stale(..) => {
                code = error::STALE;
                "STALE"
            }
        };
        let path = format!("targets/{product}/{version}/{}.{}", artifact.sha256, artifact.name);
        let target = args.to.join(artifact.name.as_str());
        fetch_to(files.as_ref(), &path, artifact, &target, ui)?;
        if ui.json {
            got.push(json!({ "path": target, "verdict": word, "sha256": artifact.sha256, "length": artifact.length }));
        } else {
            ui.data(&format!("{word} {}", target.display()));
        }
    }
    fetch_bundle(files.as_ref(), product, &pinned.root, &wanted, &args.to)?;
    if ui.json {
        let facts = json!({ "version": 1, "exit": code, "product": product, "release": version, "files": got });
        ui.data(&facts.to_string());
    }
    if code == error::STALE {
        ui.warn("the newest state that the repository serves has expired; ask the project why");
    }
    Ok(code)
}

fn subject_of(artifact: &Artifact) -> Subject {
    Subject { name: artifact.name.to_string(), sha256: artifact.sha256, length: artifact.length }
}

/// Downloads the bundle of today's state, which is good for longer than the one
/// beside the release. It must verify what was downloaded.
fn fetch_bundle(
    files: &dyn Files,
    product: &Product,
    root: &[u8],
    wanted: &[Artifact],
    folder: &Path,
) -> Result<(), CommandError> {
    let path = bundle::current_path(product);
    let place = format!("{}/{path}", files.place());
    let Some(bytes) = files.read(&path, bundle::MAX_BUNDLE)? else {
        return Err(Rejection::File { place, reason: "is missing".to_owned() }.into());
    };
    let bundle = Bundle::parse(&bytes).map_err(|source| Rejection::Bundle { name: place.clone(), source })?;
    let source = strict::check(&place, &bundle, root)?;
    let mut judge = Judge::new(Trust::establish(root, product, &[source])?, bundle.claims);
    for artifact in wanted {
        judge.judge(&subject_of(artifact), Timestamp::now())?;
    }
    write_whole(&folder.join(bundle::current(product)), |file| file.write_all(&bytes))
}

/// The repository to ask, and the root that it was recorded with.
fn choose_repository(args: &Args, pinned: &[Pinned]) -> Result<(Option<usize>, String), CommandError> {
    if let Some(place) = &args.repository {
        return Ok((None, place.clone()));
    }
    let recorded: Vec<(usize, &String)> =
        pinned.iter().enumerate().filter_map(|(index, pinned)| Some((index, pinned.repository.as_ref()?))).collect();
    match recorded.as_slice() {
        [(root, place)] => Ok((Some(*root), (*place).clone())),
        [] => Err(CommandError::usage("no repository is known; name one with --repository")),
        _ => Err(CommandError::usage("you trust several projects; name a repository with --repository")),
    }
}

fn choose_files(
    args: &Args,
    listed: Option<&std::collections::BTreeMap<crate::manifest::FileName, Artifact>>,
    version: &Version,
) -> Result<Vec<Artifact>, CommandError> {
    let product = &args.product;
    let Some(listed) = listed else {
        return Err(CommandError::failed(format!("{product} has no release {version}")));
    };
    if args.files.is_empty() {
        let about = |kind| matches!(kind, Kind::Checksums | Kind::Provenance);
        return Ok(listed.values().filter(|artifact| !about(artifact.kind)).cloned().collect());
    }
    args.files
        .iter()
        .map(|name| {
            listed.values().find(|artifact| artifact.name.as_str() == name).cloned().ok_or_else(|| {
                let names: Vec<&str> = listed.keys().map(crate::manifest::FileName::as_str).collect();
                CommandError::failed(format!("{product} {version} has no file of that name"))
                    .hint(format!("it has {}", names.join(", ")))
            })
        })
        .collect()
}

/// Downloads one file; only the right bytes get the final name.
fn fetch_to(files: &dyn Files, path: &str, artifact: &Artifact, target: &Path, ui: &Ui) -> Result<(), CommandError> {
    let place = format!("{}/{path}", files.place());
    ui.event(Event::Request(&place));
    ui.event(Event::Begin { stage: Stage::Download, what: artifact.name.as_str() });
    ui.event(Event::Length(artifact.length));
    let Some(opened) = files.open(path)? else {
        return Err(Rejection::File { place, reason: "is missing".to_owned() }.into());
    };
    let mut content = opened.content.take(artifact.length.saturating_add(1));
    let mut sha256 = None;
    write_whole(target, |file| {
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count])?;
            ui.event(Event::Advance(count as u64));
        }
        let found = Sha256::from(<[u8; 32]>::from(hasher.finalize()));
        sha256 = Some(found);
        if found == artifact.sha256 { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    })
    .map_err(|error| match sha256 {
        Some(found) if found != artifact.sha256 => Rejection::File {
            place,
            reason: format!("has SHA-256 {found}, {} is listed; nothing was kept", artifact.sha256),
        }
        .into(),
        _ => error,
    })
}

/// Writes a file under a temporary name and gives it its own when it is whole.
fn write_whole(target: &Path, write: impl FnOnce(&mut fs::File) -> io::Result<()>) -> Result<(), CommandError> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let failed = |error: io::Error| CommandError::system(format!("cannot write {}: {error}", target.display()), &error);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    write(file.as_file_mut()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
    }
    file.persist(target).map_err(|error| failed(error.error))?;
    Ok(())
}
