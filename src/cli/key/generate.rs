//! `release key generate`: the keys of a person, in a token.

use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;

use crate::cli::error::CommandError;
use crate::cli::ui::Ui;
use crate::cli::ui::counted;
use crate::enrol;
use crate::enrol::Request;
use crate::enrol::Whose;
use crate::home::Home;
use crate::home::HomeError;
use crate::manifest::Holder;

/// Make the keys of a person in a token
///
/// Everybody makes keys on a terminal of their own, by the same policy.
///
/// First sees to it that PIN, PUK and management key of the token are not those
/// from the factory. Then makes each key of the person that the policy names and
/// nobody has made, on the token itself, and checks where it comes from. Public
/// halves appear beside the policy.
///
/// If it was interrupted, run the same command again.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("whose").required(true).args(["holder", "online", "archive"]),
    after_long_help = "\
Examples:
  Make the keys of alice:
      release key generate --holder alice --token 15237801

  Make the online key, which is nobody's:
      release key generate --online --token 15237804"
)]
pub struct Args {
    /// The person, as the policy names them
    #[arg(long, value_name = "NAME")]
    holder: Option<Holder>,
    /// Make the key of snapshot and timestamp
    #[arg(long)]
    online: bool,
    /// Make the keys of the archive's certificate, for apt
    ///
    /// In a token of its own. Let one person keep that token, and another one choose and
    /// keep its PIN, so that neither signs alone.
    #[arg(long)]
    archive: bool,
    /// The serial number that is printed on the token
    #[arg(long, value_name = "SERIAL", required_unless_present = "software_keys")]
    token: Option<u32>,
    /// Make them as files instead, for demonstrations and tests
    ///
    /// In the home of that project, if there is one. Before, beside the public halves,
    /// where `release init` finds them.
    #[arg(long, conflicts_with = "token")]
    software_keys: bool,
    /// The policy
    #[arg(long, value_name = "FILE", default_value = "policy.toml")]
    policy: PathBuf,
}

/// Runs `release key generate`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let whose = match &args.holder {
        Some(holder) => Whose::Person(holder),
        None if args.archive => Whose::Archive,
        None => Whose::Online,
    };
    let Some(serial) = args.token else {
        return as_files(args, whose, home, ui);
    };
    let request = Request { policy: &args.policy, whose, serial };
    let made = enrol::generate(&request, ui, Timestamp::now())?;
    if args.archive {
        ui.say("Two people keep this: one the token, the other its PIN. Neither signs alone.");
    }
    ui.say(&format!("Made {} in token {}.", counted(made.len(), "key"), serial));
    if ui.json {
        ui.data(&json!({ "version": 1, "token": serial, "keys": made }).to_string());
    }
    Ok(0)
}

/// Makes keys as files.
fn as_files(args: &Args, whose: Whose<'_>, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = match Home::open(home) {
        Ok(home) => Some(home),
        Err(HomeError::NotAHome { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    ui.warn("demonstration only: these keys are files");
    let made = enrol::generate_files(&args.policy, whose, home.as_ref(), ui, Timestamp::now())?;
    let files: Vec<String> = made.values().map(|path| format!("    {}", path.display())).collect();
    ui.say(&format!("Made {}, with these private halves:\n\n{}", counted(made.len(), "key"), files.join("\n")));
    if ui.json {
        ui.data(&json!({ "version": 1, "files": made }).to_string());
    }
    Ok(0)
}
