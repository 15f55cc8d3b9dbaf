//! OpenPGP certificates that leave the policy: whoever has their primary key here revokes
//! them, and users who take them anew see that. No verdict of ours rests on it.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::AmendError;
use super::Edit;
use super::rules::NamedFiles;
use super::rules::repo_path;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::key::piv;
use crate::key::piv::Token;
use crate::manifest::KeyName;
use crate::manifest::Sha256;
use crate::openpgp;
use crate::openpgp::Certificate;
use crate::openpgp::Reason;
use crate::policy::Place;
use crate::policy::Policy;
use crate::sign::Batch;
use crate::sign::SignError;

/// Fingerprints of certificates that left the policy.
#[derive(Debug, Default)]
pub struct Gone {
    /// Those that were revoked.
    pub revoked: Vec<String>,
    /// Those whose primary keys are not here.
    pub left: Vec<String>,
}

/// A certificate that leaves the policy.
pub(super) struct Leaving {
    primary: KeyName,
    file: Vec<u8>,
    certificate: Certificate,
    is_here: bool,
}

/// The certificates of a home that another policy does not have.
///
/// # Errors
/// One cannot be read; there are tokens, and no service for them.
pub(super) fn leaving(home: &Home, policy: &Policy) -> Result<Vec<Leaving>, AmendError> {
    let stay: BTreeSet<&str> = policy.certificates().map(|entry| entry.file.get_ref().as_str()).collect();
    let mut leaving = Vec::new();
    for entry in home.policy.certificates().filter(|entry| !stay.contains(entry.file.get_ref().as_str())) {
        let path = home.resolve(entry.file.get_ref());
        let file = atomic::read(&path)?;
        let certificate =
            Certificate::one(&file).map_err(|error| HomeError::Damaged { path, reason: error.to_string() })?;
        let is_here = match home.terminal.tokens.get(&entry.primary).map(toml::Spanned::get_ref) {
            Some(Place::File(path)) => home.resolve(path).exists(),
            Some(Place::Slot { serial, .. }) => piv::all()?.iter().map(Token::serial).any(|found| found == *serial),
            None => false,
        };
        leaving.push(Leaving { primary: entry.primary, file, certificate, is_here });
    }
    Ok(leaving)
}

/// The keys that revoke them.
pub(super) fn keys(leaving: &[Leaving]) -> impl Iterator<Item = KeyName> {
    leaving.iter().filter(|certificate| certificate.is_here).map(|certificate| certificate.primary.clone())
}

/// Revokes what can be revoked here. Gives the files by which users get it.
///
/// # Errors
/// A key failed.
pub(super) fn revoke(
    leaving: &[Leaving],
    edit: &Edit,
    at: Timestamp,
    batch: &Batch<'_>,
    (journal, now): (&mut Journal, Timestamp),
) -> Result<(NamedFiles, Gone), AmendError> {
    let reason = match edit {
        Edit::Revoke(_) => Reason::Compromised,
        Edit::RemoveHolder(_) => Reason::Retired,
        _ => Reason::Superseded,
    };
    let (mut files, mut gone) = (Vec::new(), Gone::default());
    for Leaving { primary, file, certificate, is_here } in leaving {
        let fingerprint = certificate.fingerprint();
        if !is_here {
            gone.left.push(fingerprint);
            continue;
        }
        journal.ask(now, primary, &format!("revocation of certificate {fingerprint}"), Sha256::of(file))?;
        let revoked = openpgp::revoke(certificate, batch.signer(primary)?, at, reason).map_err(SignError::from)?;
        for (name, bytes) in revoked.published().map_err(SignError::from)? {
            files.push((repo_path(name.parse())?, bytes));
        }
        gone.revoked.push(fingerprint);
    }
    Ok((files, gone))
}
