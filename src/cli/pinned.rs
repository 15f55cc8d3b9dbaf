//! The roots that count in this run, with what was seen under each.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use super::error;
use super::error::CommandError;
use super::trust;
use super::ui::Ui;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::names::printable;
use crate::transport::Files;
use crate::transport::Folder;
use crate::transport::TransportError;
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

    /// Whether something was seen of a product under this root.
    pub fn knows(&self, product: &Product) -> bool {
        self.seen.iter().any(|source| source.copies.roles.contains_key(product))
    }

    /// Refuses a product that a project other than the chosen one has: which one
    /// is meant must not depend on who answers.
    pub fn refuse_ambiguous(all: &[Self], chosen: usize, product: &Product) -> Result<(), CommandError> {
        if all.iter().enumerate().any(|(index, pinned)| index != chosen && pinned.knows(product)) {
            return Err(ambiguous(product));
        }
        Ok(())
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

/// Two trusted projects have a product of one name.
pub fn ambiguous(product: &Product) -> CommandError {
    CommandError::usage(format!("two projects that you trust have a product {product}; nothing was verified"))
        .hint("name the root of the project that you mean with --root")
}

/// Says so where a project has switched safety rules off.
pub fn warn_if_insecure(trust: &Trust, ui: &Ui) {
    let insecure: Vec<String> = trust.policy().insecure.iter().map(|name| printable(name)).collect();
    if !insecure.is_empty() {
        ui.warn(&format!("demonstration only: the policy allows {}", insecure.join(" and ")));
    }
}

/// A repository by path or URL.
///
/// # Errors
/// There is no such folder.
pub fn open_repository(place: &str) -> Result<Arc<dyn Files>, TransportError> {
    if Url::is_url(place) {
        Ok(Arc::new(Url::new(place)))
    } else if Path::new(place).is_dir() {
        Ok(Arc::new(Folder::new(place)))
    } else {
        Err(TransportError::NoFolder(place.to_owned()))
    }
}
