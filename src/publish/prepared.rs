//! Whether mirrors have the folders that a publication needs.

use super::Account;
use super::at_once;
use super::sftp;
use crate::home::Home;
use crate::manifest::Class;
use crate::manifest::MirrorName;
use crate::policy::MirrorEntry;
use crate::policy::SftpEntry;
use crate::progress::Event;
use crate::progress::Progress;

/// A mirror that could not take what is about to be signed.
#[derive(Debug, thiserror::Error)]
#[error("mirror `{mirror}` lacks folders that this release needs: {}; nothing was built or signed", .folders.join(", "))]
pub struct Unprepared {
    /// The mirror.
    pub mirror: MirrorName,
    /// What it lacks.
    pub folders: Vec<String>,
}

/// Refuses to go on where a mirror behind SSH lacks a folder that only its
/// operator can make. To be called before anything is signed. `folders` are those
/// that names of a class are below. One that cannot be asked keeps its old state,
/// with a warning: a mirror that is down holds up no release.
///
/// # Errors
/// A mirror lacks folders.
pub fn refuse_unprepared(
    home: &Home,
    folders: impl Fn(Class) -> Vec<&'static str> + Sync,
    progress: &dyn Progress,
) -> Result<(), Unprepared> {
    let mut all: Vec<(&MirrorName, &SftpEntry, Class)> = Vec::new();
    for (name, entry) in &home.terminal.mirrors {
        if let MirrorEntry::Sftp(entry) = entry {
            all.extend([Class::WriteOnce, Class::Pointer].map(|class| (name, entry.as_ref(), class)));
        }
    }
    let answers = at_once(&all, |(_, entry, class)| {
        sftp::lacks(home, entry, Account::of(*class), folders(*class).into_iter(), progress)
    });
    let mut silent = None;
    for ((mirror, ..), missing) in all.iter().zip(answers) {
        match missing {
            Ok(folders) if folders.is_empty() => {}
            Ok(folders) => return Err(Unprepared { mirror: (*mirror).clone(), folders }),
            // Both accounts mostly fail for one reason.
            Err(error) if silent.replace(mirror) != Some(mirror) => progress.event(Event::Warning(&format!(
                "mirror `{mirror}`: {error}; whether it can take this release is not known"
            ))),
            Err(_) => {}
        }
    }
    Ok(())
}
