//! Pushes what a medium carries, from a machine that has nothing but deploy keys,
//! and writes what has become of it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::Carried;
use super::CourierError;
use super::Export;
use super::RECEIPT;
use super::Receipt;
use super::Record;
use super::Seen;
use super::VERSION;
use super::vouch;
use crate::home;
use crate::home::Base;
use crate::home::HomeError;
use crate::home::atomic;
use crate::manifest::Sha256;
use crate::manifest::json;
use crate::manifest::names::one_line;
use crate::publish;
use crate::publish::DeployKeys;
use crate::publish::MirrorState;
use crate::publish::Outcome;
use crate::publish::Shown;
use crate::repository::RepositoryError;
use crate::transport::Medium;
use crate::transport::read_plain;
use crate::tuf;

/// The file of a courier's folder with the root that he trusts.
const ROOT: &str = "root.json";
/// The file of a courier's folder with what all of its mirrors hold.
const CARRIED: &str = "carried.json";

/// What was pushed.
#[derive(Debug)]
pub struct Pushed {
    /// The newest publication of what was carried.
    pub serial: u64,
    /// The digest of all of it, as the terminal has shown it.
    pub digest: Sha256,
    /// How mirrors fared.
    pub outcomes: Vec<Outcome>,
}

/// Checks a medium and pushes it; the receipt goes to the folder `to`. The caller
/// holds the lock of the courier's folder. `checked` is told the number and the digest
/// of what will be pushed, before anything is.
///
/// # Errors
/// The medium is refused: nothing was pushed. The receipt cannot be written. Failures
/// of mirrors are in their outcomes.
pub fn push(
    keys: &DeployKeys<'_>,
    place: &Path,
    to: &Path,
    now: Timestamp,
    checked: &dyn Fn(u64, Sha256),
) -> Result<Pushed, CourierError> {
    let (base, progress) = (keys.base(), keys.progress());
    let pinned = root(base)?;
    let carried = Arc::new(Carried::open(place)?);
    let newest_root = vouch::check(&carried, &pinned, now, progress)?;
    carried.check_content(progress)?;
    let desk = Medium::open(to)?;
    // Better now than when all is pushed.
    desk.write(RECEIPT, |_| Ok(()))
        .and_then(|()| desk.remove(RECEIPT.as_ref()))
        .map_err(|source| CourierError::Write { path: desk.path(RECEIPT), source })?;
    home::step("courier.checked");
    let (serial, digest) = (carried.export.serial, carried.digest);
    checked(serial, digest);
    let newest = (serial, carried.timestamp()?);
    // Where everything is at hand, what a mirror has lost is put back.
    let everything = carried.export.after == 0 || !goes_on(base, &carried.export)?;
    let outcomes = publish::push_carried(carried.as_ref(), newest, everything, &newest_root, now, keys)?;
    home::step("courier.pushed");
    if outcomes.iter().all(|outcome| outcome.result.is_ok()) {
        atomic::write(&base.resolve(CARRIED), &carried.export.to_vec().map_err(RepositoryError::Json)?)?;
    }
    let receipt = receipt(base, carried.export.serial, &newest_root, &outcomes)?;
    desk.write(RECEIPT, |file| file.write_all(&receipt))
        .and_then(|()| desk.sync())
        .map_err(|source| CourierError::Write { path: desk.path(RECEIPT), source })?;
    Ok(Pushed { serial, digest, outcomes })
}

/// Whether the publications that mirrors hold, as far as is noted here, are those that
/// the medium has under the same numbers. Otherwise nothing may be taken for granted: a
/// new file that somebody has put into an old publication would be on no mirror.
fn goes_on(base: &Base, export: &Export) -> Result<bool, HomeError> {
    let before = atomic::read_if_there(&base.resolve(CARRIED))?;
    let Some(before) = before.and_then(|bytes| Export::parse(&bytes).ok()) else {
        return Ok(false);
    };
    for mirror in base.terminal.mirrors.keys() {
        if MirrorState::load(base, mirror)?.serial > before.serial {
            return Ok(false);
        }
    }
    let is_there = |record: &Record| {
        let found = export.publications.binary_search_by_key(&record.serial, |record| record.serial);
        found.is_ok_and(|place| export.publications[place] == *record)
    };
    Ok(before.publications.iter().all(is_there))
}

/// The root of the project whose publications are carried.
fn root(base: &Base) -> Result<Vec<u8>, CourierError> {
    let path = base.resolve(ROOT);
    match read_plain(&path, tuf::client::limits().root_max_length) {
        Ok(Some(root)) => Ok(root),
        Ok(None) => Err(CourierError::NoRoot(path)),
        Err(error) => Err(HomeError::of_transport(&path, error).into()),
    }
}

/// What mirrors show now.
fn receipt(base: &Base, serial: u64, root: &[u8], outcomes: &[Outcome]) -> Result<Vec<u8>, CourierError> {
    let mut mirrors = Vec::new();
    for Shown { mirror, noted, served } in publish::shown(base, root)? {
        let failed = outcomes.iter().find(|outcome| outcome.mirror == mirror).and_then(|outcome| {
            let error = outcome.result.as_ref().err()?;
            let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
            Some(one_line(&format!("{error}{cause}")))
        });
        let error = failed.or_else(|| served.as_ref().err().map(|error| one_line(&error.to_string())));
        let timestamp = served.ok().flatten().and_then(|served| json::from_slice(&served.timestamp).ok());
        mirrors.push(Seen { mirror, serial: noted.serial, timestamp, error });
    }
    mirrors.sort_by(|one, other| one.mirror.cmp(&other.mirror));
    let receipt = Receipt { version: VERSION, serial, mirrors };
    Ok(receipt.to_vec().map_err(RepositoryError::Json)?)
}
