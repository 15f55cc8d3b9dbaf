//! `release key openpgp`: certificates.

use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use crate::cli::error::CommandError;
use crate::cli::ui::Ui;
use crate::enrol;
use crate::enrol::Whose;
use crate::home::Home;
use crate::manifest::Holder;

/// OpenPGP certificates, which `release key generate` makes
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Extend(Extend),
}

/// Let a certificate be valid for longer
///
/// As long as the policy says, from today. Asks the primary key of the certificate
/// only. What was signed before stays good. `release refresh` publishes it.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("whose").required(true).args(["holder", "archive"]))]
pub struct Extend {
    /// The person, as the policy names them
    #[arg(long, value_name = "NAME")]
    holder: Option<Holder>,
    /// The certificate of the archive, for apt
    #[arg(long)]
    archive: bool,
}

/// Runs `release key openpgp`.
pub fn run(command: &Command, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let Command::Extend(args) = command;
    let home = Home::open(home)?;
    let _lock = home.lock("release key openpgp extend")?;
    let whose = args.holder.as_ref().map_or(Whose::Archive, Whose::Person);
    let certificate = enrol::extend(&home, whose, ui, Timestamp::now())?;
    let (fingerprint, expires) = (certificate.fingerprint(), certificate.expires());
    if let Some(expires) = expires {
        ui.say(&format!("Certificate {fingerprint} is good until {}.", expires.strftime("%Y-%m-%d")));
    }
    ui.say("Publish it with `release refresh`.");
    if ui.json {
        ui.data(&json!({ "version": 1, "fingerprint": fingerprint, "expires": expires }).to_string());
    }
    Ok(0)
}
