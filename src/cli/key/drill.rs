//! `release key drill`: the ceremony, on keys that are thrown away.

use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;

use crate::cli::error::CommandError;
use crate::cli::ui::Ui;
use crate::cli::ui::counted;
use crate::enrol;
use crate::enrol::Request;
use crate::enrol::Whose;
use crate::manifest::Holder;

/// Rehearse `release key generate` on keys that are thrown away
///
/// Shows the same screens and takes the time, then erases the keys from the token,
/// for which it asks for the PIN once more. Nothing is kept beside the policy or in a
/// home. Take a token in which nobody has keys; its new PIN and PUK stay.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The person, as the policy names them
    #[arg(long, value_name = "NAME")]
    holder: Holder,
    /// The serial number that is printed on the token
    #[arg(long, value_name = "SERIAL")]
    token: u32,
    /// The policy
    #[arg(long, value_name = "FILE", default_value = "policy.toml")]
    policy: PathBuf,
}

/// Runs `release key drill`.
pub fn run(args: &Args, ui: &Ui) -> Result<u8, CommandError> {
    ui.say("A drill: the keys that are made now are thrown away.");
    let request = Request { policy: &args.policy, whose: Whose::Person(&args.holder), serial: args.token };
    let drilled = enrol::drill(&request, ui, Timestamp::now())?;
    let (count, seconds) = (counted(drilled.keys.len(), "key"), drilled.milliseconds / 1000);
    ui.say(&format!(
        "Made {count} in {}, and erased them from token {}.",
        counted(usize::try_from(seconds).unwrap_or(0), "second"),
        args.token
    ));
    if ui.json {
        let (keys, milliseconds) = (&drilled.keys, drilled.milliseconds);
        ui.data(&json!({ "version": 1, "token": args.token, "keys": keys, "milliseconds": milliseconds }).to_string());
    }
    Ok(0)
}
