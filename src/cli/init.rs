//! `release init`: a home with policy, keys and root of trust.

use std::fmt::Display;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;

use super::cut::AtTerminal;
use super::cut::check_number;
use super::error;
use super::error::CommandError;
use super::key::change::report_waiting;
use super::trust;
use super::ui::Ui;
use super::ui::counted;
use crate::amend::Founded;
use crate::approve::MAX_MESSAGE;
use crate::init::Request;
use crate::manifest::FileName;
use crate::manifest::MirrorName;
use crate::manifest::names::NameError;
use crate::transport;

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
///
/// Where too few of those who must sign are here, it ends WAITING (exit 6), with a
/// request in the outbox. People at other terminals, who have the same policy and the
/// same public files, make a home with --answer, which signs the same root; when their
/// answers are in the inbox (`release import`), the same command here goes on. They take
/// over what it has published by `release import --from`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  Make a home with the tokens of those who sign the root:
      release init --policy policy.toml --mirror here=/srv/packages

  Make a home for a demonstration:
      release init --home demo/home --policy policy.toml \\
          --software-keys --mirror here=demo/mirror

  Sign the root that another terminal asks for:
      release init --policy policy.toml \\
          --answer /media/stick/policy_1.request.json")]
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
    /// Sign the first root that another terminal asks for
    #[arg(long, value_name = "REQUEST")]
    answer: Option<PathBuf>,
    /// Do not ask: this is the number of `targets` to sign, which is 1
    #[arg(long, value_name = "NUMBER", requires = "answer")]
    yes: Option<u64>,
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
    let answers = match &args.answer {
        Some(path) => Some(transport::read_plain(path, MAX_MESSAGE)?.ok_or_else(|| {
            CommandError::failed(format!("there is no file {}", path.display())).hint("no home was made")
        })?),
        None => None,
    };
    if args.answer.is_some() {
        check_number(args.yes, 1, ui)?;
    }
    let request = Request {
        home,
        policy: &args.policy,
        mirrors: &mirrors,
        toolchains: &toolchains,
        software_keys,
        answers: answers.as_deref(),
    };
    if software_keys {
        ui.warn("demonstration only: these keys are files");
    }
    let operator = AtTerminal { ui, yes: args.yes.is_some(), today: None };
    let made = crate::init::init(&request, &operator, &Timestamp::now)?;
    let root = match made.founded {
        Founded::Root(root) => root,
        Founded::Waiting(waiting) => {
            let policy = error::shell_path(&args.policy);
            return Ok(report_waiting(&waiting, "init", &["init", "--policy", &policy], ui));
        }
        Founded::Answered(file) => {
            ui.say(&format!("Made a home in {}. Carry this to the terminal that asked:", home.display()));
            ui.data(&if ui.json {
                serde_json::json!({ "version": 1, "targets": 1, "file": file }).to_string()
            } else {
                file.display().to_string()
            });
            ui.say("When the root is published, take it over using:\n\n    release import --from MIRROR");
            return Ok(0);
        }
    };
    let keys = if made.keys.is_empty() { String::new() } else { format!("{} and ", counted(made.keys.len(), "key")) };
    ui.say(&format!("Made {keys}a root of trust in {}", home.display()));
    ui.say(&format!("Fingerprint of the root (SHA-256):\n\n    {}\n", trust::grouped(root)));
    ui.say("Publish it where your users can compare it: they trust it once.");
    if ui.json {
        ui.data(&serde_json::json!({ "version": 1, "root": root, "keys": made.keys }).to_string());
    }
    Ok(0)
}
