//! `release approve` and `release rebuild`: what another terminal has started.

use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;

use super::cut::AtTerminal;
use super::cut::Today;
use super::cut::check_number;
use super::cut::check_yes;
use super::cut::product_of;
use super::cut::report_waiting;
use super::error;
use super::error::CommandError;
use super::error::Stop;
use super::ui::Ui;
use crate::amend::Amend;
use crate::approve::Amendment;
use crate::approve::Incoming;
use crate::approve::MAX_MESSAGE;
use crate::approve::Request;
use crate::approve::Sent;
use crate::cut::Answer;
use crate::cut::Cut;
use crate::home::Home;
use crate::manifest::Version;
use crate::transport;

/// Rebuild what another release manager has started, compare, and sign the same
///
/// Takes a request, which `release cut` has left in the outbox of another terminal.
/// Compares the build environments first, then fetches the source itself, or takes
/// it from a git bundle in the inbox; builds; and compares every byte. Shows who asks
/// for what, and what has changed since the last release, and asks once. The approval
/// goes into the outbox, to be carried back.
///
/// A request to change keys or the policy, which `release key` has left there, is
/// computed anew instead, and shown.
///
/// To resume, run the same command again.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  Approve what a stick brings:
      release import /media/stick
      release approve /var/lib/release/inbox/kestrel_2.4.0.request.json")]
pub struct Args {
    #[command(flatten)]
    common: Common,
}

/// Rebuild what another terminal has started, and claim what came out
///
/// As `release approve`, but signs only a claim: for whoever may not sign releases, or
/// where the policy wants more rebuilds than signatures.
#[derive(Debug, clap::Args)]
pub struct RebuildArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// The request
    #[arg(value_name = "REQUEST")]
    request: PathBuf,
    /// Do not ask: this is the version to sign, or the number of `targets`
    #[arg(long, value_name = "VERSION")]
    yes: Option<Version>,
    #[command(flatten)]
    today: Today,
}

/// Runs `release approve`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    answer(&args.common, false, home, ui)
}

/// Runs `release rebuild`.
pub fn rebuild(args: &RebuildArgs, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    answer(&args.common, true, home, ui)
}

/// Answers a request to change the policy or its keys.
fn consent(
    args: &Common,
    file: &[u8],
    sent: &Sent<Amendment>,
    only_rebuild: bool,
    home: &Home,
    ui: &Ui,
) -> Result<u8, CommandError> {
    if only_rebuild {
        return Err(CommandError::usage("a change of keys is approved; there is nothing to rebuild"));
    }
    let number = sent.message.number;
    let yes = args.yes.as_ref().map(|yes| yes.as_str().parse().unwrap_or(0));
    check_number(yes, number, ui)?;
    let operator = AtTerminal { ui, yes: yes.is_some(), today: args.today.today };
    let path = Amend { home, operator: &operator, now: &Timestamp::now }.answer(file)?;
    ui.say(&format!("Approved targets {number}. Carry this to the terminal that asked:"));
    ui.data(&if ui.json {
        json!({ "version": 1, "targets": number, "file": path }).to_string()
    } else {
        path.display().to_string()
    });
    Ok(0)
}

fn answer(args: &Common, only_rebuild: bool, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let path = args.request.display();
    let Some(file) = transport::read_plain(&args.request, MAX_MESSAGE)? else {
        return Err(CommandError::failed(format!("there is no file {path}"))
            .hint("nothing was done; `release import` puts the requests of a medium into the inbox of the home"));
    };
    if let Ok(Incoming::Amendment(sent)) = Incoming::parse(&file) {
        return consent(args, &file, &sent, only_rebuild, &home, ui);
    }
    // Only to know what is asked for; who asks is found out later.
    let request = Sent::<Request>::parse(&file).map_err(|error| {
        CommandError::from_error(error::REJECTED, &error).cause(format!("{path} is no request for approval"))
    })?;
    let (product, version) = (product_of(Some(&request.message.product), &home)?, &request.message.release);
    check_yes(args.yes.as_ref(), version, "nothing was built or signed", ui)?;
    let operator = AtTerminal { ui, yes: args.yes.is_some(), today: args.today.today };
    let now = &Timestamp::now;
    let cut = Cut { home: &home, product: &product, version, with_source: false, operator: &operator, now };
    let request = error::shell_path(&args.request);
    let again = [if only_rebuild { "rebuild" } else { "approve" }, request.as_str()];
    let stop = Stop { home: &home, product: &product, version, again: &again, is_answer: true };
    let answer = cut.answer(&file, only_rebuild).map_err(|error| stop.explain(error))?;
    let facts = json!({ "version": 1, "product": product, "release": version });
    let (what, path) = match answer {
        Answer::Approval(path) => ("Approved", path),
        Answer::Claim(path) => ("Rebuilt", path),
        Answer::Waiting(waiting) => {
            let why = "when the claims of the others are in the inbox, approve using:";
            return Ok(report_waiting(&waiting, facts, why, &again, ui));
        }
    };
    if ui.json {
        let mut facts = facts;
        facts["file"] = json!(path);
        ui.data(&facts.to_string());
    }
    ui.say(&format!("{what} {product} {version}. Carry this to the terminal that asked:"));
    if !ui.json {
        ui.data(&path.display().to_string());
    }
    Ok(0)
}
