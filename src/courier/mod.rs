//! The courier: somebody who carries publications from a terminal without a network
//! to a connected machine that has nothing but deploy keys, and a receipt back.
//!
//! ```text
//! release-export.json         what is carried, and the digest of each publication
//! <serial>.publication.json   all publications of the home: what is where on a mirror
//! <sha256>                    each content once
//! release-receipt.json        what each mirror holds, written by the courier
//! ```
//!
//! One folder without folders in it, so that any file system can have it. The medium
//! is hostile both ways. [`export`] writes it at the terminal, [`push`] checks it and
//! pushes it by the code of `release publish`, [`receipt`] takes the receipt.

pub mod carried;
pub mod export;
pub mod push;
pub mod receipt;
mod vouch;

use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::home::HomeError;
use crate::manifest::MirrorName;
use crate::manifest::Sha256;
use crate::manifest::json;
use crate::manifest::json::JsonError;
use crate::publish::OldHome;
use crate::repository::RepositoryError;
use crate::transport::TransportError;
use crate::verify::VerifyError;

pub use carried::Carried;

/// The file that says what a medium carries; it is written last.
pub const EXPORT: &str = "release-export.json";
/// The file that says what became of it.
pub const RECEIPT: &str = "release-receipt.json";
/// How files of publications end, behind their number.
const PUBLICATION: &str = ".publication.json";
/// The version of both files that this program writes and reads.
const VERSION: u32 = 1;

/// More names on a medium are too many.
pub const MAX_NAMES: usize = 200_000;
/// A medium has at most so many publications.
pub const MAX_PUBLICATIONS: usize = 10_000;
/// All files of publications together are at most so long, in bytes.
pub const MAX_RECORDS: u64 = 32 << 20;
/// All content that is carried together is at most so long, in bytes.
pub const MAX_TOTAL: u64 = 256 << 30;
/// A longer [`EXPORT`] is refused, in bytes.
pub const MAX_EXPORT: u64 = 2 << 20;
/// A longer [`RECEIPT`] is refused, in bytes.
pub const MAX_RECEIPT: u64 = 1 << 20;
/// A receipt speaks of at most so many mirrors.
const MAX_MIRRORS: usize = 256;

/// [`EXPORT`]: what a medium carries. Its digest is that of all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    version: u32,
    /// The newest publication.
    pub serial: u64,
    /// All content is there that came after this publication; of what came before,
    /// only the metadata that is needed to verify it.
    pub after: u64,
    /// All publications, sorted by number.
    pub publications: Vec<Record>,
}

/// A publication on a medium.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its number.
    pub serial: u64,
    /// Digest of its file.
    pub sha256: Sha256,
}

impl Record {
    /// The name of its file.
    fn file(&self) -> String {
        format!("{}{PUBLICATION}", self.serial)
    }
}

/// [`RECEIPT`]: what a courier has seen on mirrors. Nobody signs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    version: u32,
    /// The newest publication of what was carried.
    pub serial: u64,
    /// What each mirror shows.
    pub mirrors: Vec<Seen>,
}

/// What a courier has seen on a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The mirror.
    pub mirror: MirrorName,
    /// The newest publication that it holds whole.
    pub serial: u64,
    /// The `timestamp.json` that its readers get, if the online key has signed it.
    pub timestamp: Option<Value>,
    /// Why it was not brought up to date, or not read.
    pub error: Option<String>,
}

/// A file on a medium that is not what its name says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Not JSON in compact form, or not the members of such a file.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Written by a newer version of this program.
    #[error("it was written by a newer release")]
    Newer,
    /// What it says cannot be.
    #[error("{0}")]
    Wrong(&'static str),
}

impl Export {
    /// Reads [`EXPORT`].
    ///
    /// # Errors
    /// Anything that [`Self::to_vec`] would not write.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let export: Self = parse(bytes)?;
        let serials = || export.publications.iter().map(|record| record.serial);
        if export.publications.len() > MAX_PUBLICATIONS {
            return Err(FormatError::Wrong("it has too many publications"));
        }
        if !serials().is_sorted_by(|one, next| one < next) || serials().next_back() != Some(export.serial) {
            return Err(FormatError::Wrong("its publications are not in order"));
        }
        if export.after > export.serial {
            return Err(FormatError::Wrong("it begins after its end"));
        }
        Ok(export)
    }

    /// Writes it in compact form.
    ///
    /// # Errors
    /// None.
    pub fn to_vec(&self) -> Result<Vec<u8>, JsonError> {
        json::to_vec(self)
    }
}

impl Receipt {
    /// Reads [`RECEIPT`]. Nothing in it is true because it stands there.
    ///
    /// # Errors
    /// Anything that [`Self::to_vec`] would not write.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let receipt: Self = parse(bytes)?;
        if receipt.mirrors.len() > MAX_MIRRORS {
            return Err(FormatError::Wrong("it speaks of too many mirrors"));
        }
        if !receipt.mirrors.is_sorted_by(|one, next| one.mirror < next.mirror) {
            return Err(FormatError::Wrong("its mirrors are not in order, or one comes twice"));
        }
        Ok(receipt)
    }

    /// Writes it in compact form.
    ///
    /// # Errors
    /// A timestamp with a fraction in it.
    pub fn to_vec(&self) -> Result<Vec<u8>, JsonError> {
        json::to_vec(self)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FormatError> {
    let value = json::from_slice_strict(bytes)?;
    match value["version"].as_u64() {
        Some(version) if version > u64::from(VERSION) => Err(FormatError::Newer),
        Some(version) if version == u64::from(VERSION) => Ok(json::typed(value)?),
        _ => Err(FormatError::Wrong("it has no version")),
    }
}

/// A round of a courier that stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CourierError {
    /// The medium cannot be read.
    #[error(transparent)]
    Medium(#[from] TransportError),
    /// The medium cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The medium is too small.
    #[error("{place} has {free} bytes free, and {needed} are needed; it was not changed")]
    NoSpace {
        /// The folder.
        place: String,
        /// What is free there.
        free: u64,
        /// What is needed.
        needed: u64,
    },
    /// The folder that should be written has something else in it.
    #[error("{place} has something else in it: {name}; it was not changed")]
    Taken {
        /// The folder.
        place: String,
        /// A name in it. Foreign text, printable.
        name: String,
    },
    /// More than a medium carries.
    #[error("a medium does not carry so much: {0}; nothing was written")]
    TooMuch(&'static str),
    /// The folder has no export, or one that is not finished.
    #[error("{0} has no export, or one that was interrupted; nothing was pushed")]
    NoExport(String),
    /// The folder has an export without a receipt.
    #[error("{0} has an export and no receipt: no courier has pushed it to the end")]
    NoReceipt(String),
    /// What is on the medium is not what a terminal writes.
    #[error("what {place} carries is refused: {reason}; nothing was pushed")]
    Refused {
        /// The folder.
        place: String,
        /// Why. Foreign text is printable.
        reason: String,
    },
    /// A receipt that is none.
    #[error("{path} is no receipt: {source}; nothing of it was believed")]
    BadReceipt {
        /// The file.
        path: String,
        /// Why.
        source: FormatError,
    },
    /// What it carries does not verify.
    #[error("what the medium carries does not verify; nothing was pushed")]
    Verify(#[source] VerifyError),
    /// There is no courier's folder.
    #[error("{} is no courier's folder: it has no terminal.toml; nothing was pushed", .0.display())]
    NoFolder(PathBuf),
    /// Nobody knows whose publications a courier should carry.
    #[error("{} is missing: the root of the project whose releases are carried", .0.display())]
    NoRoot(PathBuf),
    /// The home is older than the world.
    #[error(transparent)]
    OldHome(#[from] OldHome),
    /// The home or the folder of the courier.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The home's repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_order_is_refused() {
        let zeros = "0".repeat(64);
        let export = |serial: u64, after: u64, serials: &[u64]| {
            let records: Vec<String> =
                serials.iter().map(|serial| format!("{{\"serial\":{serial},\"sha256\":\"{zeros}\"}}")).collect();
            let records = records.join(",");
            let text = format!("{{\"after\":{after},\"publications\":[{records}],\"serial\":{serial},\"version\":1}}");
            Export::parse(text.as_bytes())
        };
        assert!(export(3, 2, &[1, 3]).is_ok() && export(3, 3, &[3]).is_ok());
        for (serial, after, serials) in
            [(3, 2, &[3, 1][..]), (3, 2, &[1, 1, 3]), (3, 2, &[1, 2]), (3, 4, &[1, 3]), (0, 0, &[])]
        {
            assert!(export(serial, after, serials).is_err(), "{serial} {after} {serials:?}");
        }
        let seen = |name: &str| format!("{{\"error\":null,\"mirror\":\"{name}\",\"serial\":1,\"timestamp\":null}}");
        let receipt = |mirrors: &[String], version: u32| {
            let mirrors = mirrors.join(",");
            Receipt::parse(format!("{{\"mirrors\":[{mirrors}],\"serial\":1,\"version\":{version}}}").as_bytes())
        };
        assert!(receipt(&[seen("a"), seen("b")], 1).is_ok());
        assert!(receipt(&[seen("b"), seen("a")], 1).is_err() && receipt(&[seen("a"), seen("a")], 1).is_err());
        assert!(receipt(&[seen("../a")], 1).is_err());
        assert!(matches!(receipt(&[], 2), Err(FormatError::Newer)) && receipt(&[], 0).is_err());
    }
}
