//! Takes the receipt of a courier at the terminal.
//!
//! Nobody signs it, so anybody who had the medium may have written it. That a mirror
//! serves a newer state than this home has counts only with the online key's
//! signature, which nobody can forge. Whatever else it says costs no more than another
//! round: what it wrongly says a mirror holds is left out of the next export, and the
//! courier then finds that the mirror lacks it.

use std::path::Path;

use jiff::Timestamp;

use super::CourierError;
use super::EXPORT;
use super::MAX_RECEIPT;
use super::RECEIPT;
use super::Receipt;
use super::Seen;
use super::carried;
use crate::home::Home;
use crate::manifest::MirrorName;
use crate::manifest::Sha256;
use crate::manifest::json;
use crate::manifest::names::one_line;
use crate::manifest::publication::TIMESTAMP;
use crate::policy::MirrorEntry;
use crate::publish;
use crate::publish::MirrorState;
use crate::repository::State;
use crate::transport::Files;
use crate::transport::Found;
use crate::transport::Medium;
use crate::transport::Opened;
use crate::transport::TransportError;
use crate::tuf;
use crate::tuf::served::Served;

/// What became of a line of a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The mirror holds this publication.
    Holds(u64),
    /// It holds this one, and why no newer one. Foreign text.
    Behind(u64, String),
    /// It serves a newer or another state than this home has made, which the online
    /// key has signed.
    Newer(u64),
    /// It is no mirror of ours that a courier reaches.
    Unknown,
    /// It was not believed, and why.
    Refused(String),
}

/// Whether a folder is that of a courier.
///
/// # Errors
/// There is no such folder.
pub fn is_courier(place: &Path) -> Result<bool, CourierError> {
    let medium = Medium::open(place)?;
    Ok([EXPORT, RECEIPT].iter().any(|name| !matches!(medium.find(name), Err(_) | Ok(Found::Folder))))
}

/// Takes a receipt. The caller holds the lock. `report` is told each mirror, and what
/// became of what the receipt says.
///
/// # Errors
/// There is none, it is malformed, or the home cannot be written: what was reported is
/// kept.
pub fn take(
    home: &Home,
    place: &Path,
    now: Timestamp,
    report: &mut dyn FnMut(&MirrorName, &Fate),
) -> Result<(), CourierError> {
    let medium = Medium::open(place)?;
    let path = medium.path(RECEIPT).display().to_string();
    let bytes = carried::read(&medium, RECEIPT, MAX_RECEIPT);
    let bytes = bytes.map_err(|reason| CourierError::Refused { place: place.display().to_string(), reason })?;
    let bytes = bytes.ok_or_else(|| CourierError::NoReceipt(place.display().to_string()))?;
    let receipt = Receipt::parse(&bytes).map_err(|source| CourierError::BadReceipt { path, source })?;
    let state = State::load(&home.repository())?;
    for seen in &receipt.mirrors {
        report(&seen.mirror, &note(home, &state, seen, now)?);
    }
    Ok(())
}

fn note(home: &Home, state: &State, seen: &Seen, now: Timestamp) -> Result<Fate, CourierError> {
    let mirror = &seen.mirror;
    if !matches!(home.terminal.mirrors.get(mirror), Some(MirrorEntry::Courier)) {
        return Ok(Fate::Unknown);
    }
    let root = state.newest_root()?;
    let files = publish::files(home, mirror, &MirrorEntry::Courier);
    let is_newer = |shown: &Served| {
        shown.serial > state.serial() || (shown.serial == state.serial() && shown.timestamp != state.timestamp.1)
    };
    // What stops this home is not forgotten because somebody brings another receipt.
    if let Some(known) = tuf::served::newest(files.as_ref(), root)?
        && is_newer(&known)
    {
        return Ok(Fate::Newer(known.serial));
    }
    // Whoever wrote it must not seem to be this program.
    let error = seen.error.as_deref().map(|text| format!("the receipt says: {}", one_line(text)));
    let Some(value) = &seen.timestamp else {
        // It was not read, or nothing of ours is there.
        let held = if error.is_some() { MirrorState::load(home, mirror)?.serial } else { 0 };
        let kept = files.read(TIMESTAMP, MAX_RECEIPT)?.filter(|_| error.is_some());
        publish::note_receipt(home, mirror, kept.as_deref(), &MirrorState::of_receipt(held, now, error.clone()))?;
        return Ok(error.map_or(Fate::Holds(0), |error| Fate::Behind(held, error)));
    };
    let unsigned = || Ok(Fate::Refused("nobody has signed what it shows".to_owned()));
    let Ok(timestamp) = json::to_vec(value) else {
        return unsigned();
    };
    let Ok(Some(served)) = tuf::served::newest(&Shown(&timestamp), root) else {
        return unsigned();
    };
    let theirs = served.serial;
    if theirs < state.serial() && publish::serials(home)?.binary_search(&theirs).is_ok() {
        let sealed = publish::load(home, theirs)?.timestamp();
        if sealed != Sha256::of(&timestamp) {
            let reason = format!("it shows another publication {theirs} than this home has sealed");
            return Ok(Fate::Refused(reason));
        }
    }
    let held = seen.serial.min(theirs);
    publish::note_receipt(home, mirror, Some(&timestamp), &MirrorState::of_receipt(held, now, error.clone()))?;
    if is_newer(&served) {
        return Ok(Fate::Newer(theirs));
    }
    Ok(match error {
        Some(error) => Fate::Behind(held, error),
        None => Fate::Holds(held),
    })
}

/// A mirror that serves this timestamp and nothing else.
struct Shown<'a>(&'a [u8]);

impl Files for Shown<'_> {
    fn open(&self, path: &str) -> Result<Option<Opened>, TransportError> {
        let found = (path == TIMESTAMP).then(|| self.0.to_vec());
        Ok(found
            .map(|bytes| Opened { length: Some(bytes.len() as u64), content: Box::new(std::io::Cursor::new(bytes)) }))
    }

    fn place(&self) -> String {
        "the receipt".to_owned()
    }
}
