//! One command at a time.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::io::Write;
use std::path::Path;

use super::HomeError;

/// The lock of a home; it is given back when dropped, also by a crash.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `folder`, or says who has it.
    ///
    /// # Errors
    /// Another command has it; the file cannot be used.
    pub fn take(folder: &Path, command: &str) -> Result<Self, HomeError> {
        let path = folder.join("lock");
        let io = |source| HomeError::io(&path, source);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&mut file).take(1000).read_to_string(&mut holder);
                return Err(HomeError::Locked { holder: crate::manifest::names::printable(holder.trim()) });
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(io(error)),
        }
        let note = format!("`{command}`, process {}\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all(note.as_bytes())).map_err(io)?;
        Ok(Self { _file: file })
    }
}
