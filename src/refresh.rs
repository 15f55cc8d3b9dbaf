//! Renews what users need to know that nothing is newer: snapshot, timestamp
//! and bundles, with new dates and nothing else.

use jiff::Timestamp;

use crate::cut;
use crate::cut::Calendar;
use crate::cut::CutError;
use crate::cut::Sealer;
use crate::home::Home;
use crate::home::HomeError;
use crate::key::Secrets;
use crate::key::piv::Tokens;
use crate::manifest::KeyName;
use crate::publish;
use crate::repository::Pending;
use crate::repository::State;
use crate::repository::seal::OnlineKey;
use crate::sign;
use crate::sign::Batch;

/// What the publication is for.
pub const PURPOSE: &str = "refresh";

/// Seals a publication that adds no release. The caller holds the lock.
///
/// # Errors
/// Another command was interrupted while it sealed; the online key failed; what
/// was sealed does not verify.
pub fn refresh(
    home: &Home,
    (operator, tokens): (&(impl Secrets + Calendar), &Tokens<'_>),
    now: &dyn Fn() -> Timestamp,
) -> Result<u64, CutError> {
    Pending::finish_interrupted(home)?;
    let mut journal = home.journal()?;
    let state = State::load(&home.repository())?;
    if let Some((serial, purpose)) = Pending::find(home)?.filter(|(_, purpose)| purpose != PURPOSE) {
        return Err(crate::repository::RepositoryError::Interrupted { serial, purpose }.into());
    }
    cut::check_clock(&journal, &state, now(), operator)?;
    publish::refuse_old_home(home, state.newest_root()?, operator)?;
    let damaged = |error: crate::manifest::names::NameError| HomeError::Damaged {
        path: home.folder().join("policy.toml"),
        reason: error.to_string(),
    };
    let online: KeyName = home.policy.role.online.key.get_ref().parse().map_err(damaged)?;
    let batch = Batch::open_keys(home, [&online], tokens)?;
    let signer = batch.signer(&online)?;
    let keyid = sign::keyid(signer.public())?;
    let sealer = Sealer { home, operator, now };
    let key = OnlineKey { keyid: &keyid, signer };
    Ok(sealer.seal(&state, PURPOSE, None, &[], &key, &mut journal)?.serial)
}
