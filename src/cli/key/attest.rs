//! `release key attest`: has a token say anew where its keys were made.

use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;

use super::policy_file;
use crate::cli::error::CommandError;
use crate::cli::ui::Ui;
use crate::cli::ui::counted;
use crate::enrol;

/// Ask a token again where its keys were made
///
/// Compares what it says with what the policy asks for and with what it said when
/// the keys were made. Asks for no PIN.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The serial number that is printed on the token
    #[arg(long, value_name = "SERIAL")]
    token: u32,
    /// The policy, where there is no home yet
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

/// Runs `release key attest`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let attested = enrol::attest(&policy_file(args.policy.as_deref(), home)?, args.token, Timestamp::now())?;
    if ui.json {
        let keys: Vec<Value> =
            attested.iter().map(|(key, attested)| json!({ "key": key, "attested": attested })).collect();
        ui.data(&json!({ "version": 1, "token": args.token, "keys": keys }).to_string());
    } else {
        let width = attested.iter().map(|(key, _)| key.as_str().len()).max().unwrap_or(0);
        for (key, attested) in &attested {
            ui.data(&format!("  {:<width$}  {attested}", key.as_str()));
        }
    }
    ui.say(&format!("Token {} vouches for {}, as before.", args.token, counted(attested.len(), "key")));
    Ok(0)
}
