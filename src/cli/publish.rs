//! `release publish`: push what is sealed to mirrors that lack it.

use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use super::cut::report_mirrors;
use super::error::CommandError;
use super::ui::Ui;
use crate::cut;
use crate::home::Home;
use crate::key::piv::Tokens;
use crate::publish::DeployKeys;
use crate::repository::Pending;
use crate::repository::State;

/// Push what is sealed to mirrors that lack it
///
/// Needs no key but deploy keys. A mirror that was down is brought to the newest state, never to
/// an older one.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `release publish`.
pub fn run(_: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let _lock = home.lock("release publish")?;
    Pending::finish_interrupted(&home)?;
    let state = State::load(&home.repository())?;
    let tokens = Tokens::new(ui);
    let keys = DeployKeys::of(&home, &tokens);
    let outcomes = cut::push(&home, &state, &keys, &mut home.journal()?, &Timestamp::now)?;
    report_mirrors(&home, &outcomes, json!({ "version": 1, "serial": state.serial() }), &["publish"], ui)?;
    Ok(0)
}
