//! Deploy keys, and whether a mirror can be pushed to with them, without pushing
//! anything.

use std::path::PathBuf;

use super::Account;
use super::INCOMING;
use super::session;
use super::session::Session;
use super::staging;
use crate::home::Home;
use crate::policy::KeyPlace;
use crate::policy::MirrorEntry;
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
    home: &Home,
    entry: &SftpEntry,
    account: Account,
    folders: impl Iterator<Item = &'a str>,
    progress: &dyn Progress,
) -> Result<Checked, PublishError> {
    session::with(home, entry, account, progress, async |session| {
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
    home: &Home,
    entry: &SftpEntry,
    account: Account,
    folders: impl Iterator<Item = &'a str>,
    progress: &dyn Progress,
) -> Result<Vec<String>, PublishError> {
    session::with(home, entry, account, progress, async |session| lacking(session, folders).await)
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
    home: &Home,
    entry: &SftpEntry,
    progress: &dyn Progress,
) -> Result<[(Account, String); 2], PublishError> {
    let mut all: Vec<(PathBuf, String)> = Vec::new();
    for other in home.terminal.mirrors.values() {
        let MirrorEntry::Sftp(other) = other else { continue };
        let jump = other.jump.as_ref().map(|jump| &jump.key);
        for KeyPlace::File(path) in [&other.pool_key, &other.pointer_key].into_iter().chain(jump) {
            let public = public_half(home, path, progress)?;
            if let Some((first, _)) = all.iter().find(|(_, known)| *known == public) {
                let (first, second) = (first.display().to_string(), path.display().to_string());
                return Err(PublishError::SharedKey { first, second });
            }
            all.push((path.clone(), public));
        }
    }
    let public = |account: Account| {
        let KeyPlace::File(path) = account.key(entry);
        let (_, public) = all.iter().find(|(known, _)| known == path).cloned().unwrap_or_default();
        (account, public)
    };
    Ok([public(Account::Pool), public(Account::Pointer)])
}

/// Makes deploy keys where their files are missing: each account of each mirror
/// has one of its own.
///
/// # Errors
/// They cannot be made.
pub fn make_deploy_keys(home: &Home, entry: &SftpEntry, progress: &dyn Progress) -> Result<(), PublishError> {
    for account in [Account::Pool, Account::Pointer] {
        let KeyPlace::File(path) = account.key(entry);
        let path = home.resolve(path);
        if !path.exists() {
            let program = Program::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]);
            program.arg(&path).run(progress)?;
        }
    }
    Ok(())
}

/// The public half of a private key, without its comment.
fn public_half(home: &Home, path: &std::path::Path, progress: &dyn Progress) -> Result<String, PublishError> {
    let path = home.resolve(path);
    std::fs::File::open(&path).map_err(|error| PublishError::io(&path, error))?;
    // Without a passphrase, as a push needs it: there is nobody to ask.
    let printed = Program::new("ssh-keygen").args(["-y", "-P", "", "-f"]).arg(&path).run(progress)?;
    let printed = String::from_utf8_lossy(&printed);
    Ok(printed.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}
