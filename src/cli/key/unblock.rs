//! `release key unblock`: a new PIN, by the PUK.

use serde_json::json;

use crate::cli::error::CommandError;
use crate::cli::ui::Ui;
use crate::enrol;

/// Set a new PIN with the PUK, where the PIN is blocked or forgotten
///
/// Keys stay as they are. A PUK that is wrong too often is blocked as well, and
/// then the token can only be erased.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The serial number that is printed on the token
    #[arg(long, value_name = "SERIAL")]
    token: u32,
}

/// Runs `release key unblock`.
pub fn run(args: &Args, ui: &Ui) -> Result<u8, CommandError> {
    enrol::unblock(args.token, ui)?;
    ui.say(&format!("Token {} has a new PIN.", args.token));
    if ui.json {
        ui.data(&json!({ "version": 1, "token": args.token }).to_string());
    }
    Ok(0)
}
