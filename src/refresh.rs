//! Renews what users need to know that nothing is newer: snapshot, timestamp
//! and bundles, with new dates. OpenPGP certificates that were extended go along.

use jiff::Timestamp;

use crate::cut;
use crate::cut::Calendar;
use crate::cut::CutError;
use crate::cut::Sealer;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::Secrets;
use crate::key::piv::Tokens;
use crate::manifest::KeyName;
use crate::manifest::RepoPath;
use crate::manifest::names::NameError;
use crate::openpgp::Certificate;
use crate::openpgp::OpenPgpError;
use crate::repository::Pending;
use crate::repository::State;
use crate::repository::seal::Added;
use crate::repository::seal::OnlineKey;
use crate::sign;
use crate::sign::Batch;
use crate::sign::SignError;

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
    cut::refuse_old_home(home, &state, &mut journal, operator, now)?;
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
    let certificates = changed_certificates(home).map_err(SignError::from)?;
    let added = Added { files: &certificates, state: None };
    Ok(sealer.seal(&state, PURPOSE, None, &added, &key, &mut journal)?.serial)
}

/// The files of certificates that were extended since they were published.
fn changed_certificates(home: &Home) -> Result<Vec<(RepoPath, Vec<u8>)>, OpenPgpError> {
    let other = |error: &dyn std::fmt::Display| OpenPgpError::Other(error.to_string());
    let mut files = Vec::new();
    for entry in home.policy.certificates() {
        // One that is lost stays published as it is.
        let path = home.resolve(entry.file.get_ref());
        let Some(bytes) = atomic::read_if_there(&path).map_err(|error| other(&error))? else {
            continue;
        };
        for (name, bytes) in Certificate::one(&bytes)?.published()? {
            let published = atomic::read_if_there(&home.repository().join(&name)).map_err(|error| other(&error))?;
            if published.is_some_and(|published| published != bytes) {
                files.push((name.parse().map_err(|error: NameError| other(&error))?, bytes));
            }
        }
    }
    Ok(files)
}
