//! `release abandon`: give up a cut that is not sealed.

use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use super::cut::check_yes;
use super::cut::product_of;
use super::error::CommandError;
use super::ui::Ui;
use crate::abandon;
use crate::home::Home;
use crate::manifest::Product;
use crate::manifest::Version;

/// Give up a cut that is not sealed
///
/// Burns the version and the number of its release manifest: no key will ever
/// sign another manifest under that number, and no other bytes will ever have
/// that version. A release that is sealed cannot be abandoned.
#[derive(Debug, clap::Args)]
#[command(allow_missing_positional = true)]
pub struct Args {
    /// The product; may be left out when there is one
    product: Option<Product>,
    /// The version
    version: Version,
    /// Do not ask: this is the version to burn
    #[arg(long, value_name = "VERSION")]
    yes: Option<Version>,
}

/// Runs `release abandon`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let (product, version) = (product_of(args.product.as_ref(), &home)?, &args.version);
    check_yes(args.yes.as_ref(), version, "nothing was burned", ui)?;
    if args.yes.is_none() {
        let question = format!("To burn {product} {version} for ever, type the version (empty line stops): ");
        if ui.ask(&question)?.trim() != version.as_str() {
            return Err(CommandError::failed("stopped by you; nothing was burned"));
        }
    }
    let _lock = home.lock(&format!("release abandon {product} {version}"))?;
    abandon::abandon(&home, &product, version, Timestamp::now())?;
    ui.say(&format!("Abandoned {product} {version}. Use another version."));
    if ui.json {
        ui.data(&json!({ "version": 1, "product": product, "abandoned": version }).to_string());
    }
    Ok(0)
}
