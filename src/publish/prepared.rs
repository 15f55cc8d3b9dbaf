//! Whether mirrors have the folders that a publication needs.

use super::Account;
use super::DeployKeys;
use super::at_once;
use super::sftp;
use crate::manifest::Class;
use crate::manifest::MirrorName;
use crate::policy::MirrorEntry;
use crate::policy::SftpEntry;
use crate::progress::Event;

/// A mirror that could not take what is about to be signed.
#[derive(Debug, thiserror::Error)]
#[error("mirror `{mirror}` lacks folders that this release needs: {}; nothing was signed", .folders.join(", "))]
pub struct Unprepared {
    /// The mirror.
    pub mirror: MirrorName,
    /// What it lacks.
    pub folders: Vec<String>,
}

/// Refuses to go on where a mirror behind SSH lacks a folder that only its
/// operator can make. To be called before anything is signed. `folders` are those
/// that names of a class are below. One that cannot be asked keeps its old state,
/// with a warning: a mirror that is down holds up no release. Only mirrors whose
/// deploy keys are in tokens are asked, or only the others: a person gives a PIN
/// when all else is ready, and what needs none is better known before a build.
///
/// # Errors
/// A mirror lacks folders.
pub fn refuse_unprepared(
    keys: &DeployKeys<'_>,
    by_token: bool,
    folders: impl Fn(Class) -> Vec<&'static str> + Sync,
) -> Result<(), Unprepared> {
    let mut all: Vec<(&MirrorName, &SftpEntry, Class)> = Vec::new();
    for (name, entry) in &keys.base().terminal.mirrors {
        if let MirrorEntry::Sftp(entry) = entry {
            let classes = [Class::WriteOnce, Class::Pointer].map(|class| (name, entry.as_ref(), class));
            all.extend(
                classes.into_iter().filter(|(_, entry, class)| Account::of(*class).is_in_token(entry) == by_token),
            );
        }
    }
    let answers =
        at_once(&all, |(_, entry, class)| sftp::lacks(keys, entry, Account::of(*class), folders(*class).into_iter()));
    let mut silent = None;
    for ((mirror, ..), missing) in all.iter().zip(answers) {
        match missing {
            Ok(folders) if folders.is_empty() => {}
            Ok(folders) => return Err(Unprepared { mirror: (*mirror).clone(), folders }),
            // Both accounts mostly fail for one reason.
            Err(error) if silent.replace(mirror) != Some(mirror) => keys.progress().event(Event::Warning(&format!(
                "mirror `{mirror}`: {error}; whether it can take this release is not known"
            ))),
            Err(_) => {}
        }
    }
    Ok(())
}
