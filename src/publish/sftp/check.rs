//! Whether a mirror can be pushed to, found out without pushing anything.

use super::Account;
use super::INCOMING;
use super::deploy::DeployKeys;
use super::session;
use super::session::Session;
use super::staging;
use crate::policy::SftpEntry;
use crate::publish::PublishError;

/// What was seen through an account.
#[derive(Debug)]
pub struct Checked {
    /// Which account.
    pub account: Account,
    /// How many bytes it can still write.
    pub free: u64,
    /// Folders that should be there and are not.
    pub missing: Vec<String>,
}

/// Logs in to an account of a mirror, and looks whether it has these folders and
/// takes files. Readers see nothing of it.
///
/// # Errors
/// It cannot be pushed to.
pub fn check<'a>(
    keys: &DeployKeys<'_>,
    entry: &SftpEntry,
    account: Account,
    folders: impl Iterator<Item = &'a str>,
) -> Result<Checked, PublishError> {
    session::with(keys, entry, account, None, async |session| {
        let missing = lacking(session, folders).await?;
        staging(session).await?;
        Ok(Checked { account, free: session.room(INCOMING, 0).await?, missing })
    })
}

/// Which of these folders a mirror lacks. Nothing is written there.
///
/// # Errors
/// The account cannot be used.
pub fn lacks<'a>(
    keys: &DeployKeys<'_>,
    entry: &SftpEntry,
    account: Account,
    folders: impl Iterator<Item = &'a str>,
) -> Result<Vec<String>, PublishError> {
    session::with(keys, entry, account, None, async |session| lacking(session, folders).await)
}

async fn lacking<'a>(session: &Session, folders: impl Iterator<Item = &'a str>) -> Result<Vec<String>, PublishError> {
    let mut missing = Vec::new();
    for folder in folders {
        if !session.look(&format!("/pub/{folder}")).await?.is_some_and(session::Found::is_folder) {
            missing.push(folder.to_owned());
        }
    }
    Ok(missing)
}
