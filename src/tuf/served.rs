//! What a mirror serves, as far as the online key vouches for it.

use sigstore_tuf::Metadata;
use sigstore_tuf::Timestamp;
use sigstore_tuf::TrustedMetadataSet;

use super::Files;
use super::TransportError;
use super::client;

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
    let Ok(mut set) = TrustedMetadataSet::from_root(root) else {
        return Ok(None);
    };
    for _ in 0..limits.max_root_rotations {
        let name = format!("metadata/{}.root.json", set.root().version + 1);
        match read(files, &name, limits.root_max_length)? {
            Some(next) if set.update_root(&next).is_ok() => {}
            _ => break,
        }
    }
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

/// Reads a file; one that cannot be metadata is as good as none.
fn read(files: &dyn Files, path: &str, max: u64) -> Result<Option<Vec<u8>>, TransportError> {
    match files.read(path, max) {
        Err(TransportError::TooLong { .. } | TransportError::NotAFile { .. }) => Ok(None),
        other => other,
    }
}
