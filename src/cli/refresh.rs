//! `release refresh`: renew snapshot, timestamp and bundles.

use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use super::cut::AtTerminal;
use super::cut::Today;
use super::cut::report_mirrors;
use super::error::CommandError;
use super::ui::Ui;
use crate::cut;
use crate::home::Home;
use crate::key::piv::Tokens;
use crate::publish::DeployKeys;
use crate::refresh;
use crate::repository::State;

/// Renew timestamp, snapshot and bundles, and publish them
///
/// Tells users that what they have is still the newest. Needs the online key
/// only. Run it well before `release status` says that the seal expires.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    today: Today,
}

/// Runs `release refresh`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let _lock = home.lock("release refresh")?;
    let operator = AtTerminal { ui, yes: false, today: args.today.today };
    let tokens = Tokens::new(ui);
    refresh::refresh(&home, (&operator, &tokens), &Timestamp::now)?;
    tokens.keep(|serial| home.terminal.has_deploy_key_in(serial));
    let state = State::load(&home.repository())?;
    let keys = DeployKeys::of(&home, &tokens);
    let outcomes = cut::push(&home, &state, &keys, &mut home.journal()?, &Timestamp::now)?;
    report_mirrors(&home, &outcomes, json!({ "version": 1, "serial": state.serial() }), &["publish"], ui)?;
    Ok(0)
}
