//! `release init`: a home with policy, keys and root of trust.

use std::fmt::Display;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;

use super::error::CommandError;
use super::trust;
use super::ui::Ui;
use super::ui::counted;
use crate::init::Request;
use crate::manifest::FileName;
use crate::manifest::MirrorName;
use crate::manifest::names::NameError;

/// Make a home: policy, keys, root of trust
///
/// Copies the policy and the files that it names, and signs the first root and the
/// policy with the tokens that are plugged in. Users pin that root: publish its
/// fingerprint where they can compare it.
///
/// Before, each person makes keys with `release key generate`, and the public
/// files come together beside the policy. With --software-keys, keys that nobody
/// has made become encrypted files, which are for demonstrations and tests; the
/// policy must then say `insecure-software-keys = true`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  Make a home with the tokens of those who sign the root:
      release init --policy policy.toml --mirror here=/srv/packages

  Make a home for a demonstration:
      release init --home demo/home --policy policy.toml \\
          --software-keys --mirror here=demo/mirror")]
pub struct Args {
    /// The policy to start from
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Keep keys that nobody has made in files; for demonstrations and tests
    #[arg(long)]
    software_keys: bool,
    /// Publish to this local folder (can be repeated)
    #[arg(long = "mirror", value_name = "NAME=DIR", value_parser = mirror)]
    mirrors: Vec<(MirrorName, PathBuf)>,
    /// Let builds see this folder at /opt/NAME, which may have slashes (can be repeated)
    #[arg(long = "toolchain", value_name = "NAME=DIR", value_parser = toolchain)]
    toolchains: Vec<(String, PathBuf)>,
}

fn mirror(text: &str) -> Result<(MirrorName, PathBuf), String> {
    let (name, folder) = named_folder(text)?;
    Ok((name.parse().map_err(|error: NameError| error.to_string())?, folder))
}

fn toolchain(text: &str) -> Result<(String, PathBuf), String> {
    let (name, folder) = named_folder(text)?;
    for segment in name.split('/') {
        segment.parse::<FileName>().map_err(|error| error.to_string())?;
    }
    if !folder.is_dir() {
        return Err(format!("there is no folder {}", folder.display()));
    }
    Ok((name.to_owned(), folder))
}

fn named_folder(text: &str) -> Result<(&str, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => Ok((name, PathBuf::from(folder))),
        _ => Err("write NAME=DIR".to_owned()),
    }
}

/// Refuses an option that names the same thing twice.
fn check_distinct<T: PartialEq + Display>(option: &str, names: &[(T, PathBuf)]) -> Result<(), CommandError> {
    for (index, (name, _)) in names.iter().enumerate() {
        if names[..index].iter().any(|(other, _)| other == name) {
            return Err(CommandError::usage(format!("{option} {name} is given twice; nothing was made")));
        }
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    let failed = |error| CommandError::failed(format!("cannot use {}: {error}", path.display()));
    let absolute = std::path::absolute(path).map_err(failed)?;
    // Resolving `..` needs no file to exist.
    let mut clean = PathBuf::new();
    for part in absolute.components() {
        if part == std::path::Component::ParentDir {
            clean.pop();
        } else {
            clean.push(part);
        }
    }
    Ok(clean)
}

/// The way from one folder to another.
fn relative(to: &Path, from: &Path) -> PathBuf {
    let common = to.components().zip(from.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| std::path::Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

/// Runs `release init`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    check_distinct("--mirror", &args.mirrors)?;
    check_distinct("--toolchain", &args.toolchains)?;
    let mut toolchains = Vec::new();
    for (name, folder) in &args.toolchains {
        toolchains.push((absolute(folder)?, name.clone()));
    }
    let home = &absolute(home)?;
    let mut mirrors = Vec::new();
    for (name, folder) in &args.mirrors {
        // terminal.toml counts from the home, the command line from here.
        let folder = if folder.is_absolute() { folder.clone() } else { relative(&absolute(folder)?, home) };
        mirrors.push((name.clone(), folder));
    }
    let software_keys = args.software_keys;
    let request = Request { home, policy: &args.policy, mirrors: &mirrors, toolchains: &toolchains, software_keys };
    if software_keys {
        ui.warn("demonstration only: these keys are files");
    }
    let made = crate::init::init(&request, ui, &Timestamp::now)?;
    let keys = if made.keys.is_empty() { String::new() } else { format!("{} and ", counted(made.keys.len(), "key")) };
    ui.say(&format!("Made {keys}a root of trust in {}", home.display()));
    ui.say(&format!("Fingerprint of the root (SHA-256):\n\n    {}\n", trust::grouped(made.root)));
    ui.say("Publish it where your users can compare it: they trust it once.");
    if ui.json {
        ui.data(&serde_json::json!({ "version": 1, "root": made.root, "keys": made.keys }).to_string());
    }
    Ok(0)
}
