//! `release abandon`: give up a cut that is not sealed.

use std::path::Path;

use jiff::Timestamp;

use super::cut::what;
use super::error::CommandError;
use super::ui::Ui;
use crate::abandon;
use crate::home::Home;
use crate::manifest::Version;

/// Give up a cut that is not sealed
///
/// Burns the version and the number of its release manifest: no key will ever
/// sign another manifest under that number, and no other bytes will ever have
/// that version. A release that is sealed cannot be abandoned.
#[derive(Debug, clap::Args)]
#[command(override_usage = "release abandon [OPTIONS] [PRODUCT] VERSION")]
pub struct Args {
    /// The product (may be left out when there is one) and the version
    #[arg(required = true, num_args = 1..=2, value_names = ["PRODUCT", "VERSION"])]
    what: Vec<String>,
    /// Do not ask: this is the version to burn
    #[arg(long, value_name = "VERSION")]
    yes: Option<Version>,
}

/// Runs `release abandon`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let (product, version) = what(&args.what, &home)?;
    let confirmed = match &args.yes {
        Some(yes) => *yes == version,
        None => {
            ui.ask(&format!("To burn {product} {version} for ever, type the version (empty line stops): "))?.trim()
                == version.as_str()
        }
    };
    if !confirmed {
        return Err(CommandError::failed("stopped by you; nothing was burned"));
    }
    let _lock = home.lock(&format!("release abandon {product} {version}"))?;
    abandon::abandon(&home, &product, &version, Timestamp::now())?;
    ui.say(&format!("Abandoned {product} {version}. Use another version."));
    Ok(0)
}
