//! SHA-256 digests, the one hash that names and compares content here.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::io::Read;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;
use sha2::Digest as _;

/// 64 to 128 KiB is where hashing is fastest: the buffer stays in the L2 cache.
const BUFFER_LENGTH: usize = 128 * 1024;

thread_local! {
    /// One buffer a thread: a fresh one for each of many small files costs more
    /// than hashing them.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A SHA-256 digest (FIPS 180-4). Written as 64 lower-case hex digits; other
/// spellings are refused, so that one digest has one spelling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256([u8; 32]);

/// A text that is not a SHA-256 digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest is 64 lower-case hex digits")]
pub struct DigestError;

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The digest and length of all that `reader` gives; `advanced` is told of
    /// every piece. Memory stays flat.
    ///
    /// # Errors
    /// What `reader` returns.
    pub fn of_reader(mut reader: impl Read, advanced: &mut dyn FnMut(u64)) -> io::Result<(Self, u64)> {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(BUFFER_LENGTH, 0);
            let mut hasher = sha2::Sha256::new();
            let mut length = 0;
            loop {
                let count = match reader.read(buffer) {
                    Ok(0) => return Ok((Self(hasher.finalize().into()), length)),
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                hasher.update(&buffer[..count]);
                length += count as u64;
                advanced(count as u64);
            }
        })
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hex digits, for lines that people read.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl From<[u8; 32]> for Sha256 {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for Sha256 {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let lower = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let mut bytes = [0; 32];
        if !lower || hex::decode_to_slice(text, &mut bytes).is_err() {
            return Err(DigestError);
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_digest_has_one_spelling() {
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sha256::of(b"abc").to_string(), text);
        assert_eq!(text.parse(), Ok(Sha256::of(b"abc")));
        assert!(text.to_uppercase().parse::<Sha256>().is_err());
        assert!(text[2..].parse::<Sha256>().is_err());
    }
}
