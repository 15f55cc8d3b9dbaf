//! `release withdraw`: take a release back.

use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use super::cut::AtTerminal;
use super::cut::Today;
use super::cut::check_yes;
use super::cut::product_of;
use super::cut::report_mirrors;
use super::error::CommandError;
use super::ui::Ui;
use crate::cut::Cut;
use crate::home::Home;
use crate::manifest::Line;
use crate::manifest::Product;
use crate::manifest::Version;

/// Take a release back
///
/// Signs and publishes that the version is withdrawn, why, and what to use
/// instead. Users who verify its files are told so: REJECTED. Nothing is deleted
/// from mirrors, and what was withdrawn stays withdrawn.
///
/// To resume an interrupted withdrawal, run the same command again.
#[derive(Debug, clap::Args)]
#[command(
    allow_missing_positional = true,
    after_long_help = "\
Examples:
  Withdraw a release that a later one mends:
      release withdraw kestrel 2.4.0 --reason 'loses data' --successor 2.4.1"
)]
pub struct Args {
    /// The product; may be left out when there is one
    product: Option<Product>,
    /// The version
    version: Version,
    /// Why, in words for users; one line
    #[arg(long, value_name = "TEXT")]
    reason: Line,
    /// The release to use instead
    #[arg(long, value_name = "VERSION")]
    successor: Option<Version>,
    /// Do not ask: this is the version to withdraw
    #[arg(long, value_name = "VERSION")]
    yes: Option<Version>,
    #[command(flatten)]
    today: Today,
}

/// Runs `release withdraw`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let (product, version) = (&product_of(args.product.as_ref(), &home)?, &args.version);
    check_yes(args.yes.as_ref(), version, "nothing was signed", ui)?;
    let operator = AtTerminal { ui, yes: args.yes.is_some(), today: args.today.today };
    let now = &Timestamp::now;
    let cut = Cut { home: &home, product, version, with_source: false, operator: &operator, now };
    let summary = cut.withdraw(&args.reason, args.successor.as_ref())?;
    let facts = json!({ "version": 1, "product": product, "withdrawn": version, "serial": summary.serial });
    report_mirrors(&home, &summary.mirrors, facts, &["publish"], ui)?;
    ui.say(&format!("Withdrew {product} {version}."));
    Ok(0)
}
