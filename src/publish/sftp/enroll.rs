//! Deploy keys, and whether a mirror can be pushed to with them, without pushing
//! anything.

use std::path::Path;

use super::Account;
use super::INCOMING;
use super::deploy;
use super::deploy::DeployKeys;
use super::session;
use super::session::Session;
use super::staging;
use crate::home::Base;
use crate::home::atomic;
use crate::policy::DeployKey;
use crate::policy::MirrorEntry;
use crate::policy::Place;
use crate::policy::SftpEntry;
use crate::process::Program;
use crate::progress::Progress;
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

/// The public halves of a mirror's deploy keys, as `authorized_keys` has them.
///
/// # Errors
/// A key cannot be read, or is used for anything else.
pub fn deploy_keys(
    base: &Base,
    entry: &SftpEntry,
    progress: &dyn Progress,
) -> Result<[(Account, String); 2], PublishError> {
    let mut all: Vec<(String, String)> = Vec::new();
    for other in base.terminal.mirrors.values() {
        let MirrorEntry::Sftp(other) = other else { continue };
        let jump = other.jump.as_ref().map(|jump| {
            let place = Place::File(jump.key.0.clone());
            Ok((place.to_string(), of_file(base, &jump.key.0, progress)?))
        });
        let own = [&other.pool_key, &other.pointer_key];
        let own = own.map(|key| Ok::<_, PublishError>((key.place.to_string(), of_key(base, key, progress)?)));
        for key in own.into_iter().chain(jump) {
            let (place, public) = key?;
            if let Some((first, _)) = all.iter().find(|(_, known)| *known == public) {
                return Err(PublishError::SharedKey { first: first.clone(), second: place });
            }
            all.push((place, public));
        }
    }
    let public = |account: Account| {
        let place = account.key(entry).place.to_string();
        let (_, public) = all.iter().find(|(known, _)| *known == place).cloned().unwrap_or_default();
        (account, public)
    };
    Ok([public(Account::Pool), public(Account::Pointer)])
}

/// Makes deploy keys in files where they are missing: each account of each mirror
/// has one of its own.
///
/// # Errors
/// They cannot be made.
pub fn make_deploy_keys(base: &Base, entry: &SftpEntry, progress: &dyn Progress) -> Result<(), PublishError> {
    for account in [Account::Pool, Account::Pointer] {
        let Place::File(path) = &account.key(entry).place else { continue };
        let path = base.resolve(path);
        if let Some(folder) = path.parent() {
            atomic::make_folder(folder)?;
        }
        if !path.exists() {
            let program = Program::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]);
            program.arg(&path).run(progress)?;
        }
    }
    Ok(())
}

fn of_key(base: &Base, key: &DeployKey, progress: &dyn Progress) -> Result<String, PublishError> {
    match &key.place {
        Place::File(path) => of_file(base, path, progress),
        Place::Slot { .. } => Ok(deploy::public_half(base, key)?.to_authorized_key()),
    }
}

/// The public half of a private key, without its comment.
fn of_file(base: &Base, path: &Path, progress: &dyn Progress) -> Result<String, PublishError> {
    let path = base.resolve(path);
    std::fs::File::open(&path).map_err(|error| PublishError::io(&path, error))?;
    // Without a passphrase, as a push needs it: there is nobody to ask.
    let printed = Program::new("ssh-keygen").args(["-y", "-P", "", "-f"]).arg(&path).run(progress)?;
    let printed = String::from_utf8_lossy(&printed);
    Ok(printed.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}
