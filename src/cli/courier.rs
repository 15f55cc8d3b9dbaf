//! `release courier`: for a connected machine that has nothing but deploy keys.

use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;

use super::cut::report_mirrors;
use super::error;
use super::error::CommandError;
use super::ui::Ui;
use crate::courier;
use crate::courier::CourierError;
use crate::courier::push;
use crate::home::Base;
use crate::home::HomeError;
use crate::key::piv::Tokens;
use crate::publish::DeployKeys;

/// For the courier: push what `release export` has written
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Push what `release export` has written, and write a receipt
    ///
    /// --home names the courier's folder. It has `root.json`, the root of the project,
    /// and `terminal.toml` with the mirrors, their deploy keys and nothing else;
    /// `release mirror add`, `layout` and `check` work there. Everything on the medium
    /// is verified before anything is pushed, as `release publish` does it.
    ///
    /// To go on after an interruption, run the same command again.
    #[command(after_long_help = "\
Examples:
  Push what is on a stick:
      release courier push /media/stick/kestrel --home courier")]
    Push(Push),
}

/// The arguments of `release courier push`.
#[derive(Debug, clap::Args)]
pub struct Push {
    /// The folder that was exported
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Write the receipt to this folder, where DIR cannot be written
    #[arg(long, value_name = "DIR")]
    receipt: Option<PathBuf>,
}

/// Runs `release courier`.
pub fn run(command: &Command, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let Command::Push(args) = command;
    let base = Base::open(home).map_err(|error| match error {
        HomeError::NotAHome { folder, .. } => CourierError::NoFolder(folder),
        other => other.into(),
    })?;
    let _lock = base.lock("release courier push")?;
    let to = args.receipt.as_ref().unwrap_or(&args.dir);
    let checked = |serial, digest| {
        ui.say(&format!("Publication {serial} verifies. Compare its digest with the terminal's:\n\n    {digest}\n"));
    };
    let tokens = Tokens::new(ui);
    let keys = DeployKeys::new(&base, None, &tokens);
    let done = push::push(&keys, &args.dir, to, Timestamp::now(), &checked)?;
    let receipt = to.join(courier::RECEIPT);
    ui.say(&format!("Wrote the receipt {}; bring it to the terminal.", receipt.display()));
    let facts = json!({
        "version": 1, "serial": done.serial, "digest": done.digest, "receipt": receipt.display().to_string(),
    });
    let (dir, to) = (error::shell_path(&args.dir), error::shell_path(to));
    let mut again = vec!["courier", "push", dir.as_str()];
    if args.receipt.is_some() {
        again.extend(["--receipt", to.as_str()]);
    }
    report_mirrors(&base, &done.outcomes, facts, &again, ui)?;
    Ok(0)
}
