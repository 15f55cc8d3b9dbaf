//! `release trust`: the roots that this user trusts.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use serde_json::json;

use super::error::CommandError;
use super::ui::Ui;
use crate::manifest::Sha256;
use crate::manifest::json;
use crate::manifest::names::printable;

/// A root is a few kilobytes; TUF clients refuse more than this.
pub const MAX_ROOT: u64 = 512_000;
/// A note holds a path or a URL.
const MAX_NOTE: u64 = 64 << 10;
/// The version of the note that this program writes and reads.
const VERSION: u32 = 1;

/// The roots that you trust
///
/// A root names the people whose signatures count. Trust it once, after you
/// have compared its fingerprint with one from another channel: a person, a
/// printed page, several sites. Later roots follow by themselves.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Trust a root after comparing its fingerprint
    Add {
        /// The root metadata, `1.root.json`
        #[arg(value_name = "ROOT.json")]
        root: PathBuf,
        /// The fingerprint that you have from another channel
        #[arg(long, value_name = "SHA256")]
        fingerprint: Option<String>,
        /// Where this project serves its newest state
        #[arg(long, value_name = "URL|DIR")]
        repository: Option<String>,
    },
    /// List the roots that you trust
    List,
    /// Stop trusting a root, and forget what was seen under it
    Remove {
        /// The fingerprint, or at least its first 8 digits
        fingerprint: String,
    },
}

/// A trusted root.
#[derive(Debug, Clone)]
pub struct Trusted {
    /// The exact bytes of the pinned root.
    pub root: Vec<u8>,
    /// Where the newest state is, if it was given.
    pub repository: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Note {
    version: u32,
    repository: Option<String>,
}

fn folder() -> Result<PathBuf, CommandError> {
    super::data_folder()
        .map(|folder| folder.join("trust"))
        .ok_or_else(|| CommandError::failed("there is no folder for your data: neither XDG_DATA_HOME nor HOME is set"))
}

/// Reads a root file.
pub fn read_root(path: &Path) -> Result<Vec<u8>, CommandError> {
    let show = path.display();
    let Some(bytes) = crate::transport::read_plain(path, MAX_ROOT)? else {
        return Err(CommandError::failed(format!("there is no file {show}")).hint(
            "nothing was changed; a project shows its root on its site, and every mirror as metadata/1.root.json",
        ));
    };
    crate::tuf::well_formed(&bytes)
        .and_then(|()| sigstore_tuf::TrustedMetadataSet::from_root(&bytes))
        .map_err(|error| CommandError::new(super::error::REJECTED, format!("{show} is not a TUF root: {error}")))?;
    Ok(bytes)
}

/// All roots that were added.
pub fn all() -> Result<Vec<Trusted>, CommandError> {
    let folder = folder()?;
    let Ok(entries) = fs::read_dir(&folder) else {
        return Ok(Vec::new());
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(".root.json"));
    paths.sort();
    let mut trusted = Vec::new();
    for path in paths {
        let root = read_root(&path)?;
        let note = read_note(&note_path(&folder, Sha256::of(&root)))?;
        trusted.push(Trusted { root, repository: note.and_then(|note| note.repository) });
    }
    Ok(trusted)
}

/// Reads what was noted with a root. A damaged note is no missing one: without
/// the repository, nobody would be asked for the newest state.
fn read_note(path: &Path) -> Result<Option<Note>, CommandError> {
    let damaged = |reason: String| {
        CommandError::failed(format!("{} is damaged: {reason}", path.display()))
            .hint_command("write it anew using:", &["trust", "add", "ROOT.json", "--repository", "URL"])
    };
    let Some(bytes) = crate::transport::read_plain(path, MAX_NOTE).map_err(|error| damaged(error.to_string()))? else {
        return Ok(None);
    };
    let value = json::from_slice_strict(&bytes).map_err(|error| damaged(error.to_string()))?;
    let note: Note = json::typed(value).map_err(|error| damaged(error.to_string()))?;
    if note.version > VERSION {
        return Err(CommandError::failed(format!("{} was written by a newer release", path.display())));
    }
    Ok(Some(note))
}

fn root_path(folder: &Path, digest: Sha256) -> PathBuf {
    folder.join(format!("{digest}.root.json"))
}

fn note_path(folder: &Path, digest: Sha256) -> PathBuf {
    folder.join(format!("{digest}.note.json"))
}

/// A fingerprint in groups, for comparing by eye and reading aloud.
pub fn grouped(digest: Sha256) -> String {
    let hex = digest.to_string();
    let groups: Vec<&str> = (0..16).filter_map(|i| hex.get(i * 4..i * 4 + 4)).collect();
    format!("{}\n    {}", groups[..8].join(" "), groups[8..].join(" "))
}

/// Runs `release trust`.
pub fn run(command: Command, ui: &Ui) -> Result<u8, CommandError> {
    match command {
        Command::Add { root, fingerprint, repository } => add(&root, fingerprint.as_deref(), repository, ui),
        Command::List => list(ui),
        Command::Remove { fingerprint } => remove(&fingerprint, ui),
    }
}

fn add(path: &Path, fingerprint: Option<&str>, repository: Option<String>, ui: &Ui) -> Result<u8, CommandError> {
    let root = read_root(path)?;
    let digest = Sha256::of(&root);
    if let Some(text) = fingerprint {
        let wanted: String = text.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect();
        if wanted != digest.to_string() {
            return Err(CommandError::new(
                super::error::REJECTED,
                format!("{} has the fingerprint {digest}, not {wanted}", path.display()),
            )
            .hint("do not use this root; nothing was added"));
        }
    } else if !ui.can_ask() {
        return Err(CommandError::usage(
            "there is no terminal to ask on, so nothing can be compared and nothing was added",
        )
        .hint("give the fingerprint that you have from another channel by `--fingerprint=SHA256`"));
    } else {
        ui.say(&format!("Fingerprint of {} (SHA-256):\n\n    {}\n", path.display(), grouped(digest)));
        ui.say("Compare it with one from another channel: a person, a printed page, several sites.");
        let question = "To trust this root, type its last 4 digits (empty line stops): ";
        let tail = &digest.to_string()[60..];
        if ui.ask(question)?.trim() != tail {
            return Err(CommandError::failed("stopped; the root was not added"));
        }
    }
    let repository = match repository {
        Some(place) if !crate::transport::Url::is_url(&place) => {
            let path = std::path::absolute(&place)
                .map_err(|error| CommandError::system(format!("cannot use {place}: {error}"), &error))?;
            Some(path.display().to_string())
        }
        other => other,
    };
    let folder = folder()?;
    let facts = json!({ "version": 1, "trusted": digest, "repository": repository });
    let note = json::to_vec(&Note { version: VERSION, repository })
        .map_err(|error| CommandError::from_error(super::error::INTERNAL, &error))?;
    write(&folder, &note_path(&folder, digest), &note)?;
    write(&folder, &root_path(&folder, digest), &root)?;
    ui.say(&format!("Trusted root {digest}"));
    if ui.json {
        ui.data(&facts.to_string());
    }
    Ok(0)
}

fn write(folder: &Path, path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| CommandError::system(format!("cannot write {}: {error}", path.display()), &error))
}

fn list(ui: &Ui) -> Result<u8, CommandError> {
    let roots = all()?;
    if ui.json {
        let roots: Vec<serde_json::Value> = roots
            .iter()
            .map(|trusted| json!({ "fingerprint": Sha256::of(&trusted.root), "repository": trusted.repository }))
            .collect();
        ui.data(&json!({ "version": 1, "roots": roots }).to_string());
        return Ok(0);
    }
    for trusted in &roots {
        let place = printable(trusted.repository.as_deref().unwrap_or("-"));
        ui.data(&format!("{}  {place}", Sha256::of(&trusted.root)));
    }
    if roots.is_empty() {
        ui.say("You trust no root yet.");
    }
    Ok(0)
}

fn remove(fingerprint: &str, ui: &Ui) -> Result<u8, CommandError> {
    let wanted = fingerprint.to_lowercase();
    if wanted.len() < 8 {
        return Err(CommandError::usage("give at least the first 8 digits of the fingerprint"));
    }
    let matching: Vec<Sha256> =
        all()?.iter().map(|t| Sha256::of(&t.root)).filter(|d| d.to_string().starts_with(&wanted)).collect();
    let [digest] = matching.as_slice() else {
        return Err(CommandError::failed(format!(
            "{} of your trusted roots begin with {wanted}; nothing was removed",
            matching.len()
        ))
        .hint_command("to see them all, run:", &["trust", "list"]));
    };
    let folder = folder()?;
    let root = root_path(&folder, *digest);
    fs::remove_file(&root)
        .map_err(|error| CommandError::system(format!("cannot remove {}: {error}", root.display()), &error))?;
    // What is left without its root is never read again.
    let _ = fs::remove_file(note_path(&folder, *digest));
    if let Some(seen) = super::pinned::memory_base() {
        let _ = fs::remove_dir_all(seen.join(digest.to_string()));
    }
    ui.say(&format!("Removed root {digest}"));
    if ui.json {
        ui.data(&json!({ "version": 1, "removed": digest }).to_string());
    }
    Ok(0)
}
