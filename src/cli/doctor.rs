//! `release doctor`: is this terminal fit for a release?

use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;

use super::error::CommandError;
use super::ui::Paint;
use super::ui::Ui;
use crate::doctor;
use crate::doctor::Finding;
use crate::doctor::Grade;
use crate::home::Home;

/// Is this terminal fit for a release?
///
/// Looks at image, user, modules, swap, sockets, programs, firewall, tokens, clock, disk,
/// and at what expires: a line for each, and below it what to do. Changes nothing, asks
/// for no PIN, and uses no network. Exit 1 if something is bad; what needs care is told.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `release doctor`.
pub fn run(_: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let findings = doctor::examine(&home, ui, Timestamp::now())?;
    let bad: Vec<&str> =
        findings.iter().filter(|finding| finding.grade == Grade::Bad).map(|finding| finding.what).collect();
    let of = |finding: &Finding| {
        let Finding { what, grade, found, fix } = finding;
        json!({ "what": what, "grade": grade.as_str(), "found": found, "fix": fix })
    };
    let facts = json!({ "version": 1, "findings": findings.iter().map(of).collect::<Vec<Value>>() });
    if !ui.json {
        for finding in &findings {
            show(finding, ui);
        }
    }
    if !bad.is_empty() {
        let message = format!("this terminal is not fit for a release: {}", bad.join(", "));
        return Err(CommandError::failed(message).facts(facts));
    }
    if ui.json {
        ui.data(&facts.to_string());
    }
    Ok(0)
}

fn show(Finding { what, grade, found, fix }: &Finding, ui: &Ui) {
    let paint = match grade {
        Grade::Good => Paint::Good,
        Grade::Care => Paint::Care,
        Grade::Bad => Paint::Bad,
    };
    let word = ui.paint(&format!("{:<4}", grade.as_str()), paint);
    ui.data(&format!("  {word}  {what:<8}  {found}"));
    if let Some(fix) = fix {
        ui.data(&format!("  {:<4}  {:<8}  {fix}", "do", ""));
    }
}
