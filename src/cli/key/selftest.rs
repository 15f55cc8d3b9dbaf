//! `release key selftest`: whether the tokens of this terminal work.

use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;

use crate::cli::error::CommandError;
use crate::cli::ui::Ui;
use crate::cli::ui::counted;
use crate::enrol;
use crate::home::Home;

/// Sign a test with each key in a token
///
/// Asks for PINs and touches as a cut does, and shows how long each key takes. What
/// is signed is good for nothing else. Run it with each new kind of token, before
/// you rely on it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only the keys in this token
    #[arg(long, value_name = "SERIAL")]
    token: Option<u32>,
}

/// Runs `release key selftest`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let _lock = home.lock("release key selftest")?;
    let took = enrol::selftest(&home, args.token, ui, &Timestamp::now)?;
    if took.is_empty() {
        let token = args.token.map_or_else(|| "a token".to_owned(), |serial| format!("token {serial}"));
        return Err(CommandError::failed(format!("terminal.toml names no key in {token}; nothing was tested"))
            .hint_command("see which key is where using:", &["key", "list"]));
    }
    ui.say(&format!("{} work.", counted(took.len(), "key")));
    if ui.json {
        let keys: Vec<Value> =
            took.iter().map(|(key, milliseconds)| json!({ "key": key, "milliseconds": milliseconds })).collect();
        ui.data(&json!({ "version": 1, "keys": keys }).to_string());
    }
    Ok(0)
}
