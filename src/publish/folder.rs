//! A mirror that is a local folder, served by any web server.

use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use super::Content;
use super::Listed;
use super::PublishError;
use super::Supply;
use super::Work;
use crate::home;
use crate::home::atomic;
use crate::manifest::Entry;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::publication::TIMESTAMP;
use crate::transport::Folder;

/// Where files are made before they get their names. Web servers should not
/// serve names that begin with a dot; nothing depends on it.
const INCOMING: &str = ".incoming";

/// A mirror's folder, and what feeds it.
pub(super) struct Mirror<'s> {
    folder: PathBuf,
    supply: &'s dyn Supply,
}

impl<'s> Mirror<'s> {
    pub(super) fn new(folder: PathBuf, supply: &'s dyn Supply) -> Self {
        Self { folder, supply }
    }
}

impl super::Mirror for Mirror<'_> {
    fn unlock(&self) -> Result<(), PublishError> {
        Ok(())
    }

    /// Of what it should have, only names that have vanished are given again.
    fn push_content(&self, work: &Work, advanced: &(dyn Fn(u64) + Sync)) -> Result<usize, PublishError> {
        let incoming = self.incoming()?;
        let mut count = 0;
        for entry in &work.known.content {
            count += self.push_missing(entry, &incoming)?;
        }
        for entry in &work.new.content {
            count += self.push_missing(entry, &incoming)?;
            for name in &entry.names {
                self.read_back(name, entry)?;
            }
            advanced(entry.length);
        }
        Ok(count)
    }

    fn push_pointers(&self, work: &Work) -> Result<usize, PublishError> {
        let incoming = self.incoming()?;
        let mut count = 0;
        for (name, entry) in work.known.pointers.iter().chain(&work.new.pointers) {
            let target = self.folder.join(name.as_str());
            if atomic::digest(&target).is_ok_and(|found| found == entry.sha256) {
                continue;
            }
            count += 1;
            let staged = incoming.join("pointer");
            self.copy(name, entry, &staged)?;
            let switch = || -> io::Result<()> {
                let parent = self.make_parent(&target)?;
                fs::set_permissions(&staged, fs::Permissions::from_mode(0o644))?;
                fs::rename(&staged, &target)?;
                atomic::sync_folder(parent)
            };
            switch().map_err(|error| PublishError::io(&target, error))?;
            let is_last = name.as_str() == TIMESTAMP;
            home::step(if is_last { "publish.timestamp" } else { "publish.pointer" });
            if atomic::digest(&target)? != entry.sha256 {
                return Err(PublishError::ReadBack(target.display().to_string()));
            }
        }
        let _ = fs::remove_dir(&incoming);
        Ok(count)
    }

    fn set_aside(&self, path: &RepoPath) -> Result<(), PublishError> {
        let path = self.folder.join(path.as_str());
        fs::remove_file(&path).map_err(|error| PublishError::io(&path, error))
    }

    fn list(&self, max: usize) -> Result<Vec<Listed>, PublishError> {
        let mut listed = Vec::new();
        for path in Folder::new(&self.folder).list(max)? {
            if !path.starts_with(INCOMING) {
                let file = self.folder.join(&path);
                let metadata = file.symlink_metadata().map_err(|error| PublishError::io(&file, error))?;
                listed.push(Listed { path, mode: metadata.permissions().mode() });
            }
        }
        Ok(listed)
    }

    fn facts(&self) -> Result<Option<Vec<u8>>, PublishError> {
        Ok(None)
    }
}

impl Mirror<'_> {
    /// Gives one content those of its names that are not there. All of them share
    /// the file of this push, never that of a name which may have been tampered
    /// with since.
    fn push_missing(&self, entry: &Entry, incoming: &Path) -> Result<usize, PublishError> {
        let missing: Vec<&RepoPath> =
            entry.names.iter().filter(|name| !self.folder.join(name.as_str()).exists()).collect();
        let Some(first) = missing.first() else {
            return Ok(0);
        };
        let staged = incoming.join(entry.sha256.to_string());
        self.copy(first, entry, &staged)?;
        for name in &missing {
            self.link(&staged, name)?;
            home::step("publish.file");
            self.read_back(name, entry)?;
        }
        fs::remove_file(&staged).map_err(|error| PublishError::io(&staged, error))?;
        Ok(missing.len())
    }

    /// The folder for files that have no name yet; what a killed push left
    /// there is removed.
    fn incoming(&self) -> Result<PathBuf, PublishError> {
        let incoming = self.folder.join(INCOMING);
        let make = || -> io::Result<()> {
            if incoming.exists() {
                fs::remove_dir_all(&incoming)?;
            }
            make_public(&self.folder)?;
            fs::create_dir(&incoming)
        };
        make().map_err(|error| PublishError::io(&incoming, error))?;
        Ok(incoming)
    }

    /// Copies a content: mirrors get copies, never links.
    fn copy(&self, name: &RepoPath, entry: &Entry, to: &Path) -> Result<(), PublishError> {
        let Content { file: mut source, path: from } = self.supply.open(name, entry)?;
        let mut copy = || -> io::Result<()> {
            let mut target = File::create(to)?;
            io::copy(&mut source, &mut target)?;
            target.set_permissions(fs::Permissions::from_mode(0o444))?;
            target.sync_all()
        };
        copy().map_err(|error| PublishError::io(to, error))?;
        if atomic::digest(to)? == entry.sha256 {
            Ok(())
        } else {
            Err(PublishError::ReadBack(from.display().to_string()))
        }
    }

    /// The folder of a file on the mirror, made where it is missing. A link in
    /// its place would lead the push elsewhere.
    fn make_parent<'p>(&'p self, target: &'p Path) -> io::Result<&'p Path> {
        let parent = target.parent().unwrap_or(&self.folder);
        make_public(parent)?;
        let below = parent.ancestors().take_while(|folder| *folder != self.folder);
        if below.into_iter().any(Path::is_symlink) {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "a link stands in place of a folder"));
        }
        Ok(parent)
    }

    fn link(&self, staged: &Path, name: &RepoPath) -> Result<(), PublishError> {
        let target = self.folder.join(name.as_str());
        let link = || -> io::Result<()> {
            let parent = self.make_parent(&target)?;
            match fs::hard_link(staged, &target) {
                // Somebody was faster; the content is compared next.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            }?;
            atomic::sync_folder(parent)
        };
        link().map_err(|error| PublishError::io(&target, error))
    }

    fn read_back(&self, name: &RepoPath, entry: &Entry) -> Result<(), PublishError> {
        let path = self.folder.join(name.as_str());
        let read = || Sha256::of_reader(File::open(&path)?, &mut |_| {});
        let (found, _) = read().map_err(|error| PublishError::io(&path, error))?;
        if found == entry.sha256 {
            return Ok(());
        }
        let place = path.display().to_string();
        Err(PublishError::Conflict { place, found, expected: entry.sha256 })
    }
}

/// Makes a folder and those above it, readable by web servers whatever the
/// umask of this terminal is.
fn make_public(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new("/"));
    make_public(parent)?;
    fs::create_dir(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    atomic::sync_folder(parent)
}
