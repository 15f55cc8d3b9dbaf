//! `release key drill`: the ceremony, on keys that are thrown away.

use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;

use crate::amend;
use crate::amend::Rehearsed;
use crate::cli::error::CommandError;
use crate::cli::ui::Ui;
use crate::cli::ui::counted;
use crate::enrol;
use crate::enrol::Request;
use crate::enrol::Whose;
use crate::home::Home;
use crate::manifest::Holder;

/// Rehearse what is done with keys, on keys that are thrown away
///
/// Without options: every change of keys, from a rotation to a stolen online key, on a
/// copy of the project with this home's policy. No key of the home is used, and nothing of
/// it is changed; the time that each takes is printed.
///
/// With --holder and --token: `release key generate`. Shows the same screens and takes the time, then erases the keys from the token,
/// for which it asks for the PIN once more. Nothing is kept beside the policy or in a
/// home. Take a token in which nobody has keys; its new PIN and PUK stay.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The person, as the policy names them
    #[arg(long, value_name = "NAME", requires = "token")]
    holder: Option<Holder>,
    /// The serial number that is printed on the token
    #[arg(long, value_name = "SERIAL", requires = "holder")]
    token: Option<u32>,
    /// The policy
    #[arg(long, value_name = "FILE", default_value = "policy.toml")]
    policy: PathBuf,
}

/// Runs `release key drill`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    match (&args.holder, args.token) {
        (Some(holder), Some(token)) => generate(args, holder, token, ui),
        _ => changes(home, ui),
    }
}

/// Rehearses changes of keys.
fn changes(home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let failed = |error: std::io::Error| CommandError::system(format!("cannot make a folder: {error}"), &error);
    let folder = tempfile::tempdir().map_err(failed)?;
    ui.say("A drill: the keys that are made now are thrown away.");
    let mut all = Vec::new();
    amend::rehearse(&home, folder.path(), &Timestamp::now, &mut |rehearsed| {
        let Rehearsed { case, change, milliseconds } = rehearsed;
        if !ui.json {
            let seconds = format!("{}.{}", milliseconds / 1000, milliseconds / 100 % 10);
            ui.data(&format!("  {seconds:>5} s  {case}: `release key {change}`"));
        }
        all.push(json!({ "case": case, "change": change, "milliseconds": milliseconds }));
    })?;
    if ui.json {
        ui.data(&json!({ "version": 1, "changes": all }).to_string());
    }
    ui.say("Users who begin with the first root followed each of them.");
    Ok(0)
}

/// Rehearses the making of keys in a token.
fn generate(args: &Args, holder: &Holder, token: u32, ui: &Ui) -> Result<u8, CommandError> {
    ui.say("A drill: the keys that are made now are thrown away.");
    let request = Request { policy: &args.policy, whose: Whose::Person(holder), serial: token };
    let drilled = enrol::drill(&request, ui, Timestamp::now())?;
    let (count, seconds) = (counted(drilled.keys.len(), "key"), drilled.milliseconds / 1000);
    ui.say(&format!(
        "Made {count} in {}, and erased them from token {token}.",
        counted(usize::try_from(seconds).unwrap_or(0), "second"),
    ));
    if ui.json {
        let (keys, milliseconds) = (&drilled.keys, drilled.milliseconds);
        ui.data(&json!({ "version": 1, "token": token, "keys": keys, "milliseconds": milliseconds }).to_string());
    }
    Ok(0)
}
