//! `release key import-public`: a colleague's public files.

use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;

use crate::cli::error::CommandError;
use crate::cli::ui::Paint;
use crate::cli::ui::Ui;
use crate::cli::ui::counted;
use crate::enrol;

/// Take a colleague's public files from a medium
///
/// Checks public keys, certificates and what the makers of tokens vouch for, and
/// keeps all files beside the policy, or none. Links and files of other names are
/// refused. What is there already is never replaced.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  Take what bob has made:
      release key import-public /media/stick/bob*")]
pub struct Args {
    /// The files, under the names that they have beside the policy
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The policy
    #[arg(long, value_name = "FILE", default_value = "policy.toml")]
    policy: PathBuf,
}

/// Runs `release key import-public`.
pub fn run(args: &Args, ui: &Ui) -> Result<u8, CommandError> {
    let taken = enrol::import(&args.policy, &args.files, Timestamp::now())?;
    if ui.json {
        let keys: Vec<Value> =
            taken.iter().map(|key| json!({ "key": key.name, "new": key.is_new, "attested": key.attested })).collect();
        ui.data(&json!({ "version": 1, "keys": keys }).to_string());
    } else {
        for key in &taken {
            let attested = key.attested.as_ref().map_or("a software key".to_owned(), ToString::to_string);
            let word = ui.paint(if key.is_new { "new  " } else { "known" }, Paint::Good);
            ui.data(&format!("  {word}  {}: {attested}", key.name));
        }
    }
    let count = taken.iter().filter(|key| key.is_new).count();
    ui.say(&format!("Kept the public files of {} beside the policy.", counted(count, "key")));
    Ok(0)
}
