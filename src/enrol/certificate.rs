//! OpenPGP certificates of keys in a home: their end, moved.

use jiff::Timestamp;

use super::Whose;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::Secrets;
use crate::key::piv::Tokens;
use crate::manifest::Sha256;
use crate::openpgp;
use crate::openpgp::Certificate;
use crate::repository::seal;
use crate::sign::Batch;
use crate::sign::SignError;

/// Extends a certificate by as long as the policy says, counted from now. Asks its
/// primary key only. Gives the certificate, which is in the home then; what was signed
/// before stays good. The caller holds the lock.
///
/// # Errors
/// There is no certificate; its primary key is not here, or failed.
pub fn extend(home: &Home, whose: Whose<'_>, person: &dyn Secrets, now: Timestamp) -> Result<Certificate, SignError> {
    let mut entries = home.policy.certificates();
    let entry = entries.find(|entry| match whose {
        Whose::Person(holder) => entry.holder == Some(holder),
        Whose::Archive => entry.holder.is_none(),
        Whose::Online => false,
    });
    let entry = entry.ok_or_else(|| SignError::NoCertificate(whose.to_string()))?;
    let path = home.resolve(entry.file.get_ref());
    let bytes = atomic::read(&path)?;
    let damaged = |error: openpgp::OpenPgpError| HomeError::Damaged { path: path.clone(), reason: error.to_string() };
    let certificate = Certificate::one(&bytes).map_err(damaged)?;
    let at = seal::to_second(now);
    let expires = seal::expiry(at, home.policy.openpgp.expires.duration());
    let batch = Batch::open_keys(home, [&entry.primary], &Tokens::new(person))?;
    let what = format!("certificate {} at {at}", certificate.fingerprint());
    home.journal()?.ask(now, &entry.primary, &what, Sha256::of(&bytes))?;
    let extended = openpgp::extend(&certificate, batch.signer(&entry.primary)?, at, expires)?;
    atomic::write(&path, &extended.to_armor()?)?;
    Ok(extended)
}
