//! `release import`: what comes from outside into a home.

use std::path::Path;

use jiff::Timestamp;

use super::error::CommandError;
use super::pinned;
use super::ui::Ui;
use crate::home::Home;
use crate::import;

/// Bring a home up to date from a mirror
///
/// For a home that was restored from a backup, or that another terminal has
/// overtaken: it takes over what the mirror serves, after verifying all of it
/// from its own root of trust. The numbers that follow are left out once, since
/// keys may have signed under them in the home that was lost.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  After restoring a home from a backup:
      release import --from eu1")]
pub struct Args {
    /// A mirror of terminal.toml, or where a copy of the repository is
    #[arg(long, value_name = "MIRROR|URL|DIR")]
    from: String,
}

/// Runs `release import`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let mirror = home.terminal.mirrors.iter().find(|(name, _)| name.as_str() == args.from);
    let place = mirror.map_or_else(|| args.from.clone(), |(_, entry)| home.resolve(&entry.path).display().to_string());
    let files = pinned::open_repository(&place)?;
    let _lock = home.lock("release import")?;
    let done = import::from_mirror(&home, &files, Timestamp::now(), ui)?;
    if ui.json {
        ui.data(&serde_json::json!({ "version": 1, "before": done.before, "serial": done.serial }).to_string());
    }
    ui.say(&if done.before == done.serial {
        format!("This home is up to date: it has publication {}.", done.serial)
    } else {
        format!("Brought this home from publication {} to {}.", done.before, done.serial)
    });
    Ok(0)
}
