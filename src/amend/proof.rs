//! Tries the keys that leave a role: what they sign must count for nothing any more.

use jiff::Timestamp;

use super::AmendError;
use super::payload::Computed;
use super::payload::Leaving;
use super::payload::Payload;
use super::payload::ROOT;
use super::payload::TARGETS;
use super::payload::would_count;
use crate::home::Journal;
use crate::key::ToSign;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Progress;
use crate::progress::Stage;
use crate::repository::State;
use crate::sign::Batch;
use crate::tuf::Draft;

/// The signed files of an amendment.
pub(super) struct Signed<'a> {
    pub state: &'a State,
    pub root: &'a [u8],
    pub targets: &'a [u8],
}

/// Tries each key that leaves a role, and shows what came out. Whoever has the key here
/// signs by it what enough people have signed: with one signature too few of theirs, and
/// that one, nobody accepts it. Without the key, what it signed before is tried.
///
/// # Errors
/// An old key still works.
pub(super) fn try_old_keys(
    computed: &Computed,
    signed: &Signed<'_>,
    batch: &Batch<'_>,
    (journal, now): (&mut Journal, Timestamp),
    progress: &dyn Progress,
) -> Result<(), AmendError> {
    for leaving in &computed.leaving {
        let payload = computed.payloads.iter().find(|payload| payload.draft.role() == leaving.role);
        let (counts, how) = match (payload, batch.signer(&leaving.name)) {
            (Some(payload), Ok(signer)) => {
                let what = format!("trial of {} {}", leaving.role, payload.draft.number());
                journal.ask(now, &leaving.name, &what, payload.draft.digest()?)?;
                let signature = signer.sign(&what, ToSign::Message(&payload.draft.canonical()?))?;
                let control = stripped(payload, leaving, 0, None)?;
                if !would_count(&control, &leaving.role, signed.root, signed.targets)? {
                    return Err(AmendError::NoTrial(leaving.name.clone()));
                }
                let forged = stripped(payload, leaving, 1, Some(&signature))?;
                (would_count(&forged, &leaving.role, signed.root, signed.targets)?, "a new signature")
            }
            _ => (would_count_alone(leaving, signed)?, "what was signed"),
        };
        if counts {
            return Err(AmendError::StillWorks { key: leaving.name.clone(), role: leaving.role.clone() });
        }
        let evidence = Evidence::Tried { key: leaving.name.as_str(), role: &leaving.role, how };
        progress.event(Event::Done { stage: Stage::Check, evidence });
    }
    Ok(())
}

/// The payload as just enough people of the new policy have signed it, less `fewer` of
/// them, with the signature of the key that leaves.
fn stripped(
    payload: &Payload,
    leaving: &Leaving,
    fewer: usize,
    signature: Option<&[u8]>,
) -> Result<Vec<u8>, AmendError> {
    let mut draft = payload.draft.without_signatures();
    if let Some(group) = payload.groups.last() {
        let good = payload.draft.signed_by().filter(|id| group.of.contains_key(*id));
        for keyid in good.take(group.need.saturating_sub(fewer)) {
            draft.add_signature(keyid, &payload.draft.signature(keyid).unwrap_or_default());
        }
    }
    if let Some(signature) = signature {
        draft.add_signature(&leaving.keyid, signature);
    }
    Ok(draft.to_file()?)
}

/// Whether the file before counts with nothing but the signature of the key that leaves.
fn would_count_alone(leaving: &Leaving, signed: &Signed<'_>) -> Result<bool, AmendError> {
    let state = signed.state;
    let file = match leaving.role.as_str() {
        ROOT => state.newest_root()?.to_vec(),
        TARGETS => state.targets.1.clone(),
        "timestamp" => state.timestamp.1.clone(),
        product => match state.roles.iter().find(|(name, _)| name.as_str() == product) {
            Some((_, (_, file))) => file.clone(),
            None => return Ok(false),
        },
    };
    let before = Draft::parse(&leaving.role, &file)?;
    let mut alone = before.without_signatures();
    if let Some(signature) = before.signature(&leaving.keyid) {
        alone.add_signature(&leaving.keyid, &signature);
    }
    would_count(&alone.to_file()?, &leaving.role, signed.root, signed.targets)
}
