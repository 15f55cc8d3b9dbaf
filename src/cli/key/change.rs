//! `release key rotate`, `revoke`, `add-holder`, `remove-holder`, `set-threshold`,
//! `recover`, `renew`, `abandon`: which keys count, and how many. `release policy change`:
//! everything else that the policy says.

use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;

use crate::amend;
use crate::amend::Amend;
use crate::amend::Edit;
use crate::amend::Outcome;
use crate::amend::Waiting;
use crate::cli::cut::AtTerminal;
use crate::cli::cut::Today;
use crate::cli::cut::check_number;
use crate::cli::cut::report_mirrors;
use crate::cli::error;
use crate::cli::error::CommandError;
use crate::cli::ui::Ui;
use crate::home;
use crate::home::Home;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Line;

/// Options of every change.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Make the new keys as files, for demonstrations and tests
    #[arg(long)]
    software_keys: bool,
    /// Do not ask: this is the number of `targets` to sign
    #[arg(long, value_name = "NUMBER")]
    yes: Option<u64>,
    #[command(flatten)]
    today: Today,
}

/// Put new keys in place of old ones
///
/// The policy names new keys, `alice-root-2` for `alice-root`; their holders make them
/// with `release key generate`, by the policy that this command lays out. Then as
/// many people as must sign the new root, and all that follows from it, as they sign a
/// release: other terminals answer the request with `release approve`, and the same
/// command goes on. A root is signed by enough old and enough new keys. At last every old
/// key is tried: what it signs must count for nothing. Users follow by themselves.
///
/// An OpenPGP key has a new certificate; the old one is revoked by its primary key, if that
/// is here, and published so.
///
/// Claims by an old claim key go on to count, for releases that were made with it; no
/// terminal takes new ones.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  Replace the keys of a token that is worn out:
      release key rotate alice-root alice-targets alice-release alice-claim")]
pub struct Rotate {
    /// The keys, as the policy names them
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<KeyName>,
    #[command(flatten)]
    common: Common,
}

/// Take keys out of the policy, with nothing in their place
///
/// For a stolen token whose owner gets no other one today. As `release key rotate`
/// otherwise. A claim key goes with its holder's release keys.
#[derive(Debug, clap::Args)]
pub struct Revoke {
    /// The keys, as the policy names them
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<KeyName>,
    #[command(flatten)]
    common: Common,
}

/// Let one more person sign
///
/// The policy gets the person, and keys for each role; the thresholds stay as they are.
#[derive(Debug, clap::Args)]
pub struct AddHolder {
    /// The person's short name
    holder: Holder,
    /// The name to show; default: the short one
    #[arg(long, value_name = "TEXT")]
    name: Option<Line>,
    /// `root`, `targets` or a product (can be repeated; default: all)
    #[arg(long, value_name = "ROLE")]
    role: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// Take a person out of the policy, with all keys
///
/// What the person claimed before goes on to count.
#[derive(Debug, clap::Args)]
pub struct RemoveHolder {
    /// The person, as the policy names them
    holder: Holder,
    #[command(flatten)]
    common: Common,
}

/// Change how many people must sign
#[derive(Debug, clap::Args)]
pub struct SetThreshold {
    /// `root`, `targets` or a product
    role: String,
    /// How many people, at least 2
    threshold: u32,
    #[command(flatten)]
    common: Common,
}

/// Recover from a stolen online key
///
/// As `release key rotate` for the online key, also where mirrors show numbers that a
/// thief has made up. Users who saw those follow: with the key, its numbers are void.
#[derive(Debug, clap::Args)]
pub struct Recover {
    #[command(flatten)]
    common: Common,
}

/// Sign root, targets and release manifests with new dates
///
/// Changes no key. Run it well before `release status` says that they expire.
#[derive(Debug, clap::Args)]
pub struct Renew {
    #[command(flatten)]
    common: Common,
}

/// Give up a change of keys that nobody here has signed
#[derive(Debug, clap::Args)]
pub struct Abandon {}

pub fn rotate(args: &Rotate, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    run(&Edit::Rotate(args.keys.clone()), &args.common, home, ui)
}

pub fn revoke(args: &Revoke, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    run(&Edit::Revoke(args.keys.clone()), &args.common, home, ui)
}

pub fn add_holder(args: &AddHolder, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let AddHolder { holder, name, role, common } = args;
    let edit = Edit::AddHolder { holder: holder.clone(), name: name.clone(), roles: role.clone() };
    run(&edit, common, home, ui)
}

pub fn remove_holder(args: &RemoveHolder, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    run(&Edit::RemoveHolder(args.holder.clone()), &args.common, home, ui)
}

pub fn set_threshold(args: &SetThreshold, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let (role, threshold) = (args.role.clone(), args.threshold);
    run(&Edit::SetThreshold { role, threshold }, &args.common, home, ui)
}

pub fn recover(args: &Recover, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    run(&Edit::Recover, &args.common, home, ui)
}

pub fn renew(args: &Renew, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    run(&Edit::Renew, &args.common, home, ui)
}

/// Runs `release key abandon`.
pub fn abandon(_: &Abandon, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let operator = AtTerminal { ui, yes: false, today: None };
    let given_up = Amend { home: &home, operator: &operator, now: &Timestamp::now }.abandon()?;
    if ui.json {
        ui.data(&json!({ "version": 1, "abandoned": given_up }).to_string());
    }
    let command = amend::command(given_up.as_str()).join(" ");
    ui.say(&format!("Gave up `release {command}`; nothing was signed."));
    Ok(0)
}

/// Runs `release policy change`.
pub fn policy(file: &Path, common: &Common, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let name = file.display().to_string();
    let named = name.parse().ok().filter(|_| !name.contains([' ', '\'', '"']));
    let named =
        named.ok_or_else(|| CommandError::usage("name a file without spaces and quotes; nothing was changed"))?;
    let text = home::read_text(file)?.ok_or_else(|| {
        CommandError::failed(format!("there is no file {name}"))
            .hint("nothing was changed; change a copy of the policy of the home, and name that")
    })?;
    let beside = file.parent().unwrap_or(Path::new(""));
    run_beside(&Edit::Policy { file: named, text }, Some(beside), common, home, ui)
}

fn run(edit: &Edit, common: &Common, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    run_beside(edit, None, common, home, ui)
}

fn run_beside(edit: &Edit, beside: Option<&Path>, common: &Common, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let operator = AtTerminal { ui, yes: common.yes.is_some(), today: common.today.today };
    let change = Amend { home: &home, operator: &operator, now: &Timestamp::now };
    let number = change.next()?;
    check_number(common.yes, number, ui)?;
    let words = edit.to_string();
    let again = amend::command(&words);
    let summary = match change.run(edit, beside, common.software_keys)? {
        Outcome::Done(summary) => summary,
        Outcome::Waiting(waiting) => return Ok(report_waiting(&waiting, &words, &again, ui)),
    };
    let facts = json!({
        "version": 1, "change": words, "targets": summary.number, "root": summary.root, "serial": summary.serial,
        "retired": summary.retired,
    });
    let home = Home::open(home.folder())?;
    report_retired(&summary.retired, ui);
    for fingerprint in &summary.certificates.revoked {
        ui.say(&format!("OpenPGP certificate {fingerprint} is revoked, and published so."));
    }
    for fingerprint in &summary.certificates.left {
        let warning = "has left the policy and is not revoked: its primary key is not here";
        ui.warn(&format!("OpenPGP certificate {fingerprint} {warning}"));
    }
    report_mirrors(&home, &summary.mirrors, facts, &["publish"], ui)?;
    ui.say(&format!("Done: root {} and targets {} hold from now on.", summary.root, summary.number));
    Ok(0)
}

/// Names files of keys that have left the policy.
pub fn report_retired(files: &[PathBuf], ui: &Ui) {
    if !files.is_empty() {
        let files: Vec<String> = files.iter().map(|path| format!("    {}", path.display())).collect();
        ui.say(&format!("These files hold keys that count for nothing now; destroy them:\n\n{}", files.join("\n")));
    }
}

/// Prints what to carry to whom. Gives exit 6.
pub fn report_waiting(waiting: &Waiting, words: &str, again: &[&str], ui: &Ui) -> u8 {
    let mut lines = vec!["WAITING for other people".to_owned()];
    for role in &waiting.roles {
        let people = role.have.iter().map(Holder::as_str).collect::<Vec<_>>().join(", ");
        let people = if people.is_empty() { "nobody yet" } else { &people };
        lines.push(format!("  {:<9} {people} ({} needed)", role.role, role.need));
    }
    lines.push(format!("  request   {}", waiting.request));
    ui.say(&lines.join("\n"));
    if ui.json {
        let roles =
            waiting.roles.iter().map(|role| json!({ "role": role.role, "signers": role.have, "needed": role.need }));
        let waits = json!({ "request": waiting.request, "file": waiting.file, "roles": roles.collect::<Vec<_>>() });
        ui.data(&json!({ "version": 1, "change": words, "targets": waiting.number, "waiting": waits }).to_string());
    } else {
        ui.data(&waiting.file.display().to_string());
    }
    ui.say(&format!(
        "Carry this file to them; when their answers are in the inbox (`release import`), go on using:\n\n    release {}",
        again.join(" ")
    ));
    error::WAITING
}
