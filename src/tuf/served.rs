//! What a mirror serves, as far as the online key vouches for it.

use sigstore_tuf::Metadata;
use sigstore_tuf::Timestamp;
use sigstore_tuf::TrustedMetadataSet;

use super::Files;
use super::TransportError;
use super::client;
use crate::manifest::RepoPath;

/// The newest state that a mirror serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The number of its timestamp.
    pub serial: u64,
    /// `timestamp.json`.
    pub timestamp: Vec<u8>,
}

/// Follows the roots that are served from `root` forward, and reads the
/// timestamp. `None`: nothing is served, or junk that no online key signed.
///
/// # Errors
/// The mirror cannot be read.
pub fn newest(files: &dyn Files, root: &[u8]) -> Result<Option<Served>, TransportError> {
    let limits = client::limits();
    let Some((set, _)) = follow(files, root)? else {
        return Ok(None);
    };
    let Some(timestamp) = read(files, "metadata/timestamp.json", limits.timestamp_max_length)? else {
        return Ok(None);
    };
    let Ok(metadata) = super::well_formed(&timestamp).and_then(|()| Metadata::<Timestamp>::from_slice(&timestamp))
    else {
        return Ok(None);
    };
    let root = set.root();
    let signed = root.role("timestamp").map(|role| metadata.verify_threshold(&root.keys, role, "timestamp"));
    let serial = metadata.signed().version;
    Ok(signed.is_some_and(|result| result.is_ok()).then_some(Served { serial, timestamp }))
}

/// The next root that is served and that the newest one does not vouch for, as
/// a thief of a pointer key may leave to stop clients.
///
/// # Errors
/// The mirror cannot be read.
pub fn junk_root(files: &dyn Files, root: &[u8]) -> Result<Option<RepoPath>, TransportError> {
    Ok(follow(files, root)?.and_then(|(_, junk)| junk?.parse().ok()))
}

/// The newest root that is served, and the name of the one after it if that is
/// junk.
fn follow(files: &dyn Files, root: &[u8]) -> Result<Option<(TrustedMetadataSet, Option<String>)>, TransportError> {
    let limits = client::limits();
    let Ok(mut set) = TrustedMetadataSet::from_root(root) else {
        return Ok(None);
    };
    for _ in 0..limits.max_root_rotations {
        let name = format!("metadata/{}.root.json", set.root().version + 1);
        match files.read(&name, limits.root_max_length) {
            Ok(Some(next)) if set.update_root(&next).is_ok() => {}
            Ok(None) => return Ok(Some((set, None))),
            Ok(Some(_)) | Err(TransportError::TooLong { .. } | TransportError::NotAFile { .. }) => {
                return Ok(Some((set, Some(name))));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some((set, None)))
}

/// Reads a file; one that cannot be metadata is as good as none.
fn read(files: &dyn Files, path: &str, max: u64) -> Result<Option<Vec<u8>>, TransportError> {
    match files.read(path, max) {
        Err(TransportError::TooLong { .. } | TransportError::NotAFile { .. }) => Ok(None),
        other => other,
    }
}
