//! `release status`: cuts, mirrors, and what expires.

use std::error::Error;
use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;

use super::error::CommandError;
use super::ui::Paint;
use super::ui::Ui;
use crate::amend;
use crate::amend::Begun;
use crate::cut::calendar;
use crate::home::CutState;
use crate::home::Home;
use crate::manifest::claim;
use crate::manifest::dsse;
use crate::manifest::names::one_line;
use crate::manifest::names::printable;
use crate::manifest::release;
use crate::publish;
use crate::publish::PublishError;
use crate::repository::Pending;
use crate::repository::State;
use crate::transport;

/// Cuts, mirrors, and what expires
///
/// Changes nothing and needs no key.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `release status`.
pub fn run(_: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let now = Timestamp::now();
    let state = State::load(&home.repository())?;
    let cuts: Vec<CutState> = home.cuts()?.into_iter().filter(CutState::is_open).collect();
    let mirrors = publish::survey(&home, state.newest_root()?)?;
    let foreign = made_elsewhere(&state, &home)?;
    let expiries = calendar(&state, &home, now)?;
    let begun = Begun::load(&home)?;
    let pending = Pending::find(&home)?;
    if ui.json {
        let value = json!({
            "version": 1,
            "serial": state.serial(),
            "interrupted": pending.as_ref().map(|(serial, purpose)| json!({ "serial": serial, "purpose": purpose })),
            "changes_keys": begun.as_ref().map(|begun| json!({
                "change": begun.change, "targets": begun.number,
            })),
            "cuts": cuts.iter().map(|cut| json!({
                "product": cut.product, "release": cut.release, "step": step(cut),
            })).collect::<Vec<Value>>(),
            "mirrors": mirrors.iter().map(|survey| json!({
                "mirror": survey.mirror,
                "serial": survey.held.as_ref().ok(),
                "by_courier": survey.by_courier,
                "error": survey.held.as_ref().err().map(ToString::to_string).or(survey.noted.error.clone()),
            })).collect::<Vec<Value>>(),
            "made_elsewhere": foreign,
            "expires": expiries.iter().map(|expiry| json!({
                "what": expiry.what, "at": expiry.at, "due": expiry.due < now, "who": expiry.who,
                "command": format!("release {}", expiry.command),
            })).collect::<Vec<Value>>(),
        });
        ui.data(&value.to_string());
        return Ok(0);
    }
    ui.data(&format!("Publication {} is the newest of this home.", state.serial()));
    for release in &foreign {
        ui.data(&format!("{release} was made with a journal that this home does not have."));
    }
    if let Some((serial, purpose)) = pending {
        ui.data(&format!("Sealing of publication {serial} for {} was interrupted.", printable(&purpose)));
    }
    if let Some(begun) = begun {
        let command = amend::command(begun.change.as_str()).join(" ");
        ui.data(&format!("A change of the policy is not finished: `release {command}`"));
    }
    ui.data("\nCuts that are not finished");
    for cut in &cuts {
        ui.data(&format!("  {} {}  {}", cut.product, cut.release, step(cut)));
    }
    if cuts.is_empty() {
        ui.data("  none");
    }
    ui.data("\nMirrors");
    for survey in &mirrors {
        let push = if survey.by_courier { "release export DIR" } else { "release publish" };
        let held = survey.held.as_ref().copied();
        let behind = state.serial().saturating_sub(held.unwrap_or(0));
        ui.data(&match (held, behind, &survey.noted.error) {
            (Err(error), ..) => {
                let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
                let what = ui.paint(&one_line(&format!("{error}{cause}")), Paint::Bad);
                let command = match error {
                    PublishError::Ahead { .. } if survey.by_courier => "release import --from DIR".to_owned(),
                    PublishError::Ahead { .. } => format!("release import --from {}", survey.mirror),
                    _ => push.to_owned(),
                };
                format!("  {}  {what}; when that is understood, run `{command}`", survey.mirror)
            }
            (Ok(serial), 0, _) => {
                let word = if survey.by_courier { "up to date, by its receipt" } else { "up to date" };
                format!("  {}  publication {serial}  {}", survey.mirror, ui.paint(word, Paint::Good))
            }
            (Ok(serial), _, None) => {
                let word = ui.paint(&format!("{behind} behind; run `{push}`"), Paint::Care);
                format!("  {}  publication {serial}  {word}", survey.mirror)
            }
            (Ok(serial), _, Some(error)) => {
                let word = ui.paint(&format!("{behind} behind: {}", one_line(error)), Paint::Bad);
                format!("  {}  publication {serial}  {word}; when that is mended, run `{push}`", survey.mirror)
            }
        });
    }
    if mirrors.is_empty() {
        ui.data("  none");
    }
    ui.data("\nExpires");
    for expiry in &expiries {
        let date = expiry.at.strftime("%Y-%m-%d");
        let word = match (expiry.at < now, expiry.due < now) {
            (true, _) => ui.paint("  EXPIRED", Paint::Bad),
            (_, true) => ui.paint("  due", Paint::Care),
            _ => String::new(),
        };
        let who = expiry.who.as_ref().map_or_else(String::new, |who| format!("{who}: "));
        let command = format!("  renewed by {who}`release {}`", expiry.command);
        ui.data(&format!("  {date}  {}{word}{command}", expiry.what));
    }
    Ok(0)
}

/// The newest releases whose provenance names a state of the journal that this
/// home never had: another terminal made them, or this home was restored.
fn made_elsewhere(state: &State, home: &Home) -> Result<Vec<String>, CommandError> {
    let journal = home.journal()?;
    let mut found = Vec::new();
    for product in state.roles.keys() {
        let listing = state.releases(product)?;
        let Some(version) = listing.newest() else {
            continue;
        };
        let path = home.repository().join(format!("releases/{product}/{version}/{}", release::PROVENANCE));
        let provenance = transport::read_plain(&path, dsse::MAX_ENVELOPE)?.unwrap_or_default();
        let head = claim::journal_head(&provenance);
        if !head.is_some_and(|head| journal.knows(head)) {
            found.push(format!("{product} {version}"));
        }
    }
    Ok(found)
}

fn step(cut: &CutState) -> &'static str {
    match (&cut.pin, &cut.build, &cut.staged) {
        _ if cut.requested.is_some() => "waits for other people",
        (None, ..) => "started",
        (_, None, _) => "fetched",
        (_, _, None) => "built",
        _ => "staged",
    }
}
