//! The roots that count in this run, with what was seen under each.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use super::error;
use super::error::CommandError;
use super::trust;
use super::ui::Ui;
use crate::manifest::Sha256;
use crate::manifest::names::printable;
use crate::transport::Files;
use crate::transport::Folder;
use crate::transport::Url;
use crate::verify::Source;
use crate::verify::Trust;
use crate::verify::memory::Memory;

/// Where memory is kept: one folder per pinned root below this one.
pub fn memory_base() -> Option<PathBuf> {
    super::data_folder().map(|folder| folder.join("seen"))
}

/// A root that counts in this run, with what was seen under it.
pub struct Pinned {
    /// Its exact bytes.
    pub root: Vec<u8>,
    /// The repository that was recorded with it.
    pub repository: Option<String>,
    memory: Option<Memory>,
    seen: Vec<Source>,
}

impl Pinned {
    /// The root of `--root`, or all that were added.
    pub fn all(root: Option<&Path>, ui: &Ui) -> Result<Vec<Self>, CommandError> {
        let trusted = match root {
            Some(path) => vec![trust::Trusted { root: trust::read_root(path)?, repository: None }],
            None => trust::all()?,
        };
        if trusted.is_empty() {
            return Err(CommandError::failed("you trust no root yet, so nothing can be verified").hint_command(
                "after comparing the fingerprint of a project's root with one from another channel, add it using:",
                &["trust", "add", "ROOT.json"],
            ));
        }
        let base = memory_base();
        if base.is_none() {
            ui.warn("neither XDG_DATA_HOME nor HOME is set; nothing can be remembered");
        }
        Ok(trusted
            .into_iter()
            .map(|trusted| {
                let memory = base.as_deref().map(|base| Memory::new(base, Sha256::of(&trusted.root)));
                let (seen, damaged) = memory.as_ref().map(Memory::recall).unwrap_or_default();
                for error in damaged {
                    ui.warn(&format!("{error}; an older state might not be noticed"));
                }
                Self { root: trusted.root, repository: trusted.repository, memory, seen }
            })
            .collect())
    }

    /// What was seen before.
    pub fn seen(&self) -> &[Source] {
        &self.seen
    }

    /// Remembers; a failure changes no verdict.
    pub fn remember(&self, trust: &Trust, ui: &Ui) {
        if let Some(memory) = &self.memory
            && let Err(error) = memory.remember(trust)
        {
            ui.warn(&format!("{error}; what was seen now is not remembered"));
        }
    }

    /// Which of several roots a repository belongs to: the one that it serves.
    pub fn of_repository(all: &[Self], files: &dyn Files) -> Result<usize, CommandError> {
        if all.len() == 1 {
            return Ok(0);
        }
        for (index, pinned) in all.iter().enumerate() {
            let number = sigstore_tuf::TrustedMetadataSet::from_root(&pinned.root).map_or(1, |set| set.root().version);
            let served = files.read(&format!("metadata/{number}.root.json"), trust::MAX_ROOT)?;
            if served.as_ref() == Some(&pinned.root) {
                return Ok(index);
            }
        }
        Err(CommandError::new(error::REJECTED, format!("{} serves none of the roots that you trust", files.place())))
    }
}

/// Says so where a project has switched safety rules off.
pub fn warn_if_insecure(trust: &Trust, ui: &Ui) {
    let insecure: Vec<String> = trust.policy().insecure.iter().map(|name| printable(name)).collect();
    if !insecure.is_empty() {
        ui.warn(&format!("demonstration only: the policy allows {}", insecure.join(" and ")));
    }
}

/// A repository by path or URL.
pub fn open_repository(place: &str) -> Arc<dyn Files> {
    if Url::is_url(place) { Arc::new(Url::new(place)) } else { Arc::new(Folder::new(place)) }
}
