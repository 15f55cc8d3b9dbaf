//! What a mirror says about itself: accounts, settings, keys, units. Only a hint: one
//! whose root is not honest says what it likes. What it should say is recorded, with its
//! digest in the journal: whose head every release signs.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use super::DeployKeys;
use super::Finding;
use super::PublishError;
use super::Target;
use super::all_served;
use crate::home::Event;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::manifest::MirrorName;
use crate::manifest::Sha256;

/// More bytes than this are not read.
pub(super) const MAX_FACTS: u64 = 4 << 20;
/// The most characters of one fact.
const MAX_FACT: usize = 2000;
/// The version of what mirrors write, and of our record of it.
const VERSION: u32 = 1;
/// A mirror that has said nothing for so long has lost its timer. Clocks may differ.
const OLD: SignedDuration = SignedDuration::from_hours(48);

/// What a terminal has recorded of a mirror.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    version: u32,
    at: Timestamp,
    facts: BTreeSet<String>,
}

/// What a mirror says.
struct Facts {
    at: Timestamp,
    facts: BTreeSet<String>,
}

impl Facts {
    /// Reads what `release-mirror-facts` of `scripts/mirror` writes.
    fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "what it says is no text")?;
        let mut lines = text.lines();
        if lines.next() != Some("release-mirror-facts 1") {
            return Err("what it says is in no form that this program knows");
        }
        let time = lines.next().and_then(|line| line.strip_prefix("time "));
        let at = time.and_then(|time| time.parse().ok()).ok_or("it does not say when it has looked at itself")?;
        let is_plain = |line: &str| line.len() <= MAX_FACT && line.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        let facts: BTreeSet<String> = lines.map(str::to_owned).collect();
        if facts.iter().all(|line| is_plain(line)) {
            Ok(Self { at, facts })
        } else {
            Err("what it says has hidden characters or endless lines")
        }
    }
}

/// How far what a mirror says about itself was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// A folder, or a mirror that says nothing, of which nothing is recorded.
    Nothing,
    /// It says something, and nobody has recorded what it should say.
    NotRecorded,
    /// With what was recorded.
    All,
}

/// Compares what a mirror says with what was recorded.
///
/// # Errors
/// The record cannot be read.
pub(super) fn compare(
    home: &Home,
    mirror: &MirrorName,
    said: Option<&[u8]>,
    now: Timestamp,
) -> Result<(Compared, Vec<Finding>), HomeError> {
    let recorded: Option<Recorded> = atomic::read_json(&home.facts(mirror), VERSION)?;
    let Some(recorded) = recorded else {
        return Ok((if said.is_some() { Compared::NotRecorded } else { Compared::Nothing }, Vec::new()));
    };
    if accepted_digest(&home.journal()?, mirror) != Some(digest(&recorded.facts)) {
        return Ok((Compared::All, vec![Finding::Record]));
    }
    let silent = |reason: String| Ok((Compared::All, vec![Finding::Silent { reason }]));
    let Some(said) = said else {
        return silent("the mirror does not say any more what it is like".to_owned());
    };
    let said = match Facts::parse(said) {
        Ok(said) => said,
        Err(reason) => return silent(reason.to_owned()),
    };
    let appeared = said.facts.difference(&recorded.facts).map(|fact| Finding::Appeared { fact: fact.clone() });
    let vanished = recorded.facts.difference(&said.facts).map(|fact| Finding::Vanished { fact: fact.clone() });
    let mut findings: Vec<Finding> = appeared.chain(vanished).collect();
    if said.at.duration_since(now).abs() > OLD {
        findings.push(Finding::Silent { reason: format!("the mirror has last looked at itself at {}", said.at) });
    }
    Ok((Compared::All, findings))
}

/// What was recorded.
#[derive(Debug)]
pub struct Accepted {
    /// How many facts.
    pub facts: usize,
    /// The digest of the lines of the mirror's file after the first two.
    pub sha256: Sha256,
    /// What differs from what was recorded before; empty for the first time.
    pub changes: Vec<Finding>,
}

/// Records what a mirror says about itself, to compare it with at every audit. The
/// home is locked by the caller. `None`: there is no such mirror, or it is a folder.
///
/// # Errors
/// The mirror cannot be asked, or says nothing of use; nothing was recorded.
pub fn accept(
    home: &Home,
    mirror: &MirrorName,
    now: Timestamp,
    keys: &DeployKeys<'_>,
) -> Result<Option<Accepted>, PublishError> {
    let served = all_served(home)?.into_iter().find(|served| served.name == mirror);
    let Some(target) = served.and_then(|served| Target::new(keys, home, served)) else {
        return Ok(None);
    };
    let no_facts = |reason: &str| PublishError::NoFacts(reason.to_owned());
    let said = target.mirror.facts()?.ok_or_else(|| no_facts("it says nothing about itself"))?;
    let Facts { facts, .. } = Facts::parse(&said).map_err(no_facts)?;
    let (_, mut changes) = compare(home, mirror, Some(&said), now)?;
    changes.sort();
    let accepted = Accepted { facts: facts.len(), sha256: digest(&facts), changes };
    atomic::make_folder(&home.facts_folder())?;
    atomic::write_json(&home.facts(mirror), &Recorded { version: VERSION, at: now, facts })?;
    let mut journal = home.journal()?;
    if accepted_digest(&journal, mirror) != Some(accepted.sha256) {
        journal.append(now, Event::Accept { mirror: mirror.clone(), facts: accepted.sha256 })?;
    }
    Ok(Some(accepted))
}

fn digest(facts: &BTreeSet<String>) -> Sha256 {
    let text: String = facts.iter().flat_map(|fact| [fact, "\n"]).collect();
    Sha256::of(text.as_bytes())
}

/// What was accepted last of a mirror.
fn accepted_digest(journal: &Journal, mirror: &MirrorName) -> Option<Sha256> {
    let of = |event: &Event| match event {
        Event::Accept { mirror: of, facts } if of == mirror => Some(*facts),
        _ => None,
    };
    journal.events().filter_map(of).last()
}
