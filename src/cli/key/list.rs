//! `release key list`: which key is where, and which tokens are here.

use std::path::Path;

use serde_json::Value;
use serde_json::json;

use crate::cli::error::CommandError;
use crate::cli::ui::Ui;
use crate::cli::ui::counted;
use crate::home::Home;
use crate::key::KeyError;
use crate::key::piv;
use crate::key::piv::Secret;
use crate::key::piv::Token;
use crate::key::piv::TokenName;
use crate::manifest::Holder;
use crate::policy::Place;

/// Show which key is where, and the tokens that are plugged in
///
/// Asks for no PIN, and spends no try of one.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// A token that is plugged in.
struct Plugged {
    serial: u32,
    firmware: String,
    pin: Option<u8>,
    puk: Option<u8>,
}

/// Runs `release key list`.
pub fn run(_: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let plugged: Vec<Plugged> = match piv::all() {
        Ok(tokens) => tokens.into_iter().map(look).collect(),
        // Who has no tokens needs no service for them.
        Err(error @ KeyError::NoTokenService(_)) => {
            ui.warn(&error.to_string());
            Vec::new()
        }
        Err(error) => return Err(error.into()),
    };
    let tries = |left: Option<u8>| left.map_or("?".to_owned(), |left| counted(usize::from(left), "try"));
    let mut lines = vec!["Tokens that are plugged in".to_owned()];
    for token in &plugged {
        let Plugged { serial, firmware, pin, puk } = token;
        lines.push(format!("  {serial}  firmware {firmware}; PIN {} left, PUK {} left", tries(*pin), tries(*puk)));
    }
    lines.extend(plugged.is_empty().then(|| "  none".to_owned()));
    lines.push("\nKeys of the policy".to_owned());
    let mut keys: Vec<Value> = Vec::new();
    let names: Vec<_> = home.policy.public_files().map(|(name, _)| name).collect();
    let width = names.iter().map(|name| name.as_str().len()).max().unwrap_or(0);
    for name in names {
        let holder = home.policy.owner_of(&name);
        let place = home.terminal.tokens.get(&name).map(toml::Spanned::get_ref);
        let (text, mut value) = match place {
            Some(place) => describe(place, holder.clone(), &plugged),
            None => ("not on this terminal".to_owned(), json!({})),
        };
        value["key"] = json!(name);
        value["holder"] = json!(holder);
        lines.push(format!("  {:<width$}  {text}", name.as_str()));
        keys.push(value);
    }
    let mut deploy: Vec<Value> = Vec::new();
    let width = home.terminal.deploy_keys().map(|key| key.name.as_str().len()).max().unwrap_or(0);
    lines.extend((width > 0).then(|| "\nDeploy keys".to_owned()));
    for key in home.terminal.deploy_keys() {
        let holder = match key.place {
            Place::Slot { serial, .. } => home.terminal.holder_of(&home.policy, serial),
            Place::File(_) => None,
        };
        let (text, mut value) = describe(&key.place, holder, &plugged);
        value["key"] = json!(key.name);
        lines.push(format!("  {:<width$}  {text}", key.name.as_str()));
        deploy.push(value);
    }
    if ui.json {
        let tokens: Vec<Value> = plugged
            .iter()
            .map(|token| {
                let Plugged { serial, firmware, pin, puk } = token;
                json!({ "serial": serial, "firmware": firmware, "pin_tries": pin, "puk_tries": puk })
            })
            .collect();
        ui.data(&json!({ "version": 1, "tokens": tokens, "keys": keys, "deploy_keys": deploy }).to_string());
    } else {
        ui.data(&lines.join("\n"));
    }
    Ok(0)
}

/// Where a key is, for people and for machines.
fn describe(place: &Place, holder: Option<Holder>, plugged: &[Plugged]) -> (String, Value) {
    match place {
        Place::Slot { serial, slot } => {
            let is_here = plugged.iter().any(|token| token.serial == *serial);
            let token = TokenName { serial: *serial, holder };
            let here = if is_here { "" } else { ", not plugged in" };
            (format!("{token}, slot {slot}{here}"), json!({ "serial": serial, "slot": slot, "plugged": is_here }))
        }
        Place::File(path) => (format!("file {}", path.display()), json!({ "file": path })),
    }
}

fn look(mut token: Token) -> Plugged {
    Plugged {
        serial: token.serial(),
        firmware: token.firmware().to_string(),
        pin: token.tries().ok(),
        puk: token.secret(Secret::Puk).ok().map(|state| state.tries),
    }
}
