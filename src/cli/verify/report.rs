//! Verdicts in words and as JSON.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;

use crate::cli::error;
use crate::cli::error::CommandError;
use crate::cli::ui::Paint;
use crate::cli::ui::Ui;
use crate::cli::ui::counted;
use crate::manifest::Attested;
use crate::manifest::Holder;
use crate::manifest::Product;
use crate::manifest::Version;
use crate::manifest::names::printable;
use crate::verify::Facts;
use crate::verify::Origin;
use crate::verify::Verdict;
use crate::verify::trust::Staleness;

/// The verdict on one file or repository, ready to be shown.
pub(super) struct Outcome {
    path: String,
    code: u8,
    facts: Option<Facts>,
    stale: Vec<Staleness>,
    error: Option<CommandError>,
}

impl Outcome {
    /// VERIFIED or STALE.
    pub(super) fn of(path: String, verdict: Verdict) -> Self {
        let (code, facts, stale) = match verdict {
            Verdict::Verified(facts) => (0, facts, Vec::new()),
            Verdict::Stale(facts, stale) => (error::STALE, facts, stale),
        };
        Self { path, code, facts: Some(*facts), stale, error: None }
    }

    /// REJECTED, or no verdict.
    pub(super) fn failed(path: String, error: CommandError) -> Self {
        Self { path, code: error.code(), facts: None, stale: Vec::new(), error: Some(error.with_remedy()) }
    }
}

/// Prints the outcomes; gives the exit code.
pub(super) fn report(outcomes: &[Outcome], ui: &Ui) -> u8 {
    let code = [error::INTERNAL, error::REJECTED, error::FAILED, error::STALE]
        .into_iter()
        .find(|code| outcomes.iter().any(|outcome| outcome.code == *code))
        .unwrap_or(0);
    if ui.json {
        let files: Vec<Value> = outcomes.iter().map(to_json).collect();
        ui.data(&json!({ "version": 1, "exit": code, "verdict": word(code).0, "files": files }).to_string());
        return code;
    }
    match outcomes {
        [only] => {
            headline(ui, only.code, &file_name(&only.path));
            if let Some(facts) = &only.facts {
                ui.data(&describe(facts));
            }
            reasons(ui, only);
        }
        many => several(ui, many),
    }
    hints(ui, outcomes);
    code
}

fn headline(ui: &Ui, code: u8, name: &str) {
    let (word, paint) = word(code);
    ui.data(&format!("{} {name}", ui.paint(word, paint)));
}

/// A line for each file, then what holds for all files of a release.
fn several(ui: &Ui, outcomes: &[Outcome]) {
    let mut releases: BTreeMap<(&Product, &Version), (&Facts, usize)> = BTreeMap::new();
    for outcome in outcomes {
        headline(ui, outcome.code, &printable(&outcome.path));
        match &outcome.facts {
            Some(facts) => releases.entry((&facts.product, &facts.version)).or_insert((facts, 0)).1 += 1,
            None => reasons(ui, outcome),
        }
    }
    for ((product, version), (facts, count)) in releases {
        ui.data(&format!("\n{product} {version}: {}\n{}", counted(count, "file"), describe(facts)));
    }
    if let Some(stale) = outcomes.iter().find(|outcome| !outcome.stale.is_empty()) {
        reasons(ui, stale);
    }
}

fn word(code: u8) -> (&'static str, Paint) {
    match code {
        0 => ("VERIFIED", Paint::Good),
        error::STALE => ("STALE", Paint::Care),
        error::REJECTED => ("REJECTED", Paint::Bad),
        _ => ("ERROR", Paint::Bad),
    }
}

fn people(holders: &BTreeSet<Holder>) -> String {
    holders.iter().map(Holder::as_str).collect::<Vec<_>>().join(", ")
}

/// The facts, a line each.
fn describe(facts: &Facts) -> String {
    let (signed, of) = (facts.signed_by.len(), facts.holders.len());
    let built_by = people(&facts.built.by);
    let mut lines = vec![
        format!("  release     {} {}", facts.product, facts.version),
        format!("  project     {} (root {})", printable(&facts.project), facts.root.short()),
        format!("  signed by   {} ({signed} of {of}; {} needed)", people(&facts.signed_by), facts.threshold),
        match facts.built.need {
            1 => format!("  built by    {built_by} (no independent rebuild needed)"),
            need => format!("  built by    {built_by} ({need} people needed)"),
        },
    ];
    // What holds for all of them; the details are in the JSON.
    if let Some(weakest) = facts.attested.values().min_by_key(|attested| attested.touch_policy) {
        let some = if facts.attested.len() == signed {
            String::new()
        } else {
            format!(" (only of {})", facts.attested.keys().map(Holder::as_str).collect::<Vec<_>>().join(", "))
        };
        lines.insert(3, format!("  keys        {weakest}{some}"));
    }
    if let Some(commit) = &facts.built.commit {
        let branch = facts.built.branch.as_deref().map(printable).unwrap_or_default();
        lines.push(format!("  built from  {} on {branch}", commit.short()));
    }
    lines.push(format!("  fresh until {}", day(facts.good_until)));
    if let Some(sealed) = facts.sealed {
        lines.push(match &facts.freshness {
            Origin::Repository(place) => format!("  as of       {}, by {}", day(sealed), printable(place)),
            _ => format!("  as of       {}; later revocations unknown", day(sealed)),
        });
    }
    lines.join("\n")
}

fn reasons(ui: &Ui, outcome: &Outcome) {
    for stale in &outcome.stale {
        ui.data(&match stale {
            Staleness::Expired { role, at } => format!("  expired     {role}, on {}", day(*at)),
            Staleness::Superseded { role, have, newest } => {
                format!("  superseded  {role} number {have}; number {newest} exists but is not at hand")
            }
        });
    }
    let Some(error) = &outcome.error else {
        return;
    };
    ui.data(&format!("  reason      {}", error.message()));
    for cause in error.causes() {
        ui.data(&format!("  because     {cause}"));
    }
}

/// What to do, once for all.
fn hints(ui: &Ui, outcomes: &[Outcome]) {
    let mut hints: Vec<&str> = Vec::new();
    for outcome in outcomes {
        hints.extend(outcome.error.iter().flat_map(CommandError::hints).map(String::as_str));
        if !outcome.stale.is_empty() {
            hints.push("get the newest bundle or go online; if it stays STALE, ask the project");
        }
        if outcome.code == error::REJECTED {
            hints.push("do not use it; get it again from another place, and tell the project");
        }
    }
    let mut said = BTreeSet::new();
    for hint in hints.into_iter().filter(|hint| said.insert(*hint)) {
        ui.say(&format!("\nhint: {hint}"));
    }
}

/// The last segment of a path, or all of a URL.
fn file_name(path: &str) -> String {
    if crate::transport::Url::is_url(path) {
        return printable(path);
    }
    printable(&Path::new(path).file_name().map_or_else(|| path.into(), |name| name.to_string_lossy()))
}

fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

/// The key by which a person signed.
fn key_to_json(holder: &Holder, attested: Option<&Attested>) -> Value {
    let mut value = json!({ "holder": holder, "made_in_hardware": attested.is_some() });
    if let (Some(attested), Some(members)) = (attested, value.as_object_mut()) {
        let facts = json!({
            "never_exported": true,
            "pin": attested.pin_policy,
            "touch": attested.touch_policy,
            "firmware": attested.firmware,
            "form_factor": attested.form_factor,
            "fips": attested.fips,
            "cspn": attested.cspn,
            "token": attested.serial,
            "slot": attested.slot,
            "vouched_for_by": attested.root,
        });
        if let Value::Object(facts) = facts {
            members.extend(facts);
        }
    }
    value
}

fn to_json(outcome: &Outcome) -> Value {
    let mut value = json!({ "path": outcome.path, "verdict": word(outcome.code).0 });
    if let (Some(facts), Some(members)) = (&outcome.facts, value.as_object_mut()) {
        let facts = json!({
            "product": facts.product,
            "release": facts.version,
            "file": facts.artifact.name,
            "kind": facts.artifact.kind,
            "project": facts.project,
            "root": facts.root,
            "sha256": facts.artifact.sha256,
            "length": facts.artifact.length,
            "signed_by": facts.signed_by,
            "keys": facts.signed_by.iter().map(|holder| key_to_json(holder, facts.attested.get(holder))).collect::<Vec<_>>(),
            "holders": facts.holders,
            "threshold": facts.threshold,
            "built_by": facts.built.by,
            "builds_needed": facts.built.need,
            "commit": facts.built.commit,
            "branch": facts.built.branch,
            "fresh_until": facts.good_until,
            "as_of": facts.sealed,
            "online": matches!(facts.freshness, Origin::Repository(_)),
            "insecure": facts.insecure,
        });
        if let Value::Object(facts) = facts {
            members.extend(facts);
        }
    }
    if !outcome.stale.is_empty() {
        value["stale"] = outcome
            .stale
            .iter()
            .map(|stale| match stale {
                Staleness::Expired { role, at } => json!({ "expired": role, "at": at }),
                Staleness::Superseded { role, have, newest } => {
                    json!({ "superseded": role, "have": have, "newest": newest })
                }
            })
            .collect();
    }
    if let Some(error) = &outcome.error {
        value["reason"] = json!(error.message());
        value["causes"] = json!(error.causes());
    }
    value
}
