//! The archive that a Debian package is: `ar`, with three members of plain names
//! (deb(5)). What other readers of `ar` allow besides is refused, so that nobody
//! finds something else in a package than we did.

use std::io;
use std::io::Read;

use super::DebError;

/// What every archive begins with.
const MAGIC: &[u8; 8] = b"!<arch>\n";
/// How the header of a member ends.
const END: &[u8; 2] = b"`\n";

/// An archive that is read from front to back. Reading it gives the content of the
/// member that [`Archive::next`] found last.
pub(super) struct Archive<R> {
    reader: R,
    /// What of the member is not read yet, in bytes.
    left: u64,
    /// Whether a byte follows the member, to make its length even.
    padded: bool,
}

impl<R: Read> Archive<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// It is no archive.
    pub fn open(mut reader: R) -> Result<Self, DebError> {
        let mut magic = [0; 8];
        if fill(&mut reader, &mut magic)? < magic.len() || magic != *MAGIC {
            return Err(DebError::new("it is no ar archive"));
        }
        Ok(Self { reader, left: 0, padded: false })
    }

    /// The name of the next member, and its length in bytes; `None` at the end. What of
    /// the last one was not read is skipped.
    ///
    /// # Errors
    /// A header is malformed, or the archive ends in the middle of a member.
    pub fn next(&mut self) -> Result<Option<(String, u64)>, DebError> {
        io::copy(self, &mut io::sink())?;
        let ends_early = || DebError::new("it ends in the middle of a member");
        let mut padding = [0; 1];
        if std::mem::take(&mut self.padded) && fill(&mut self.reader, &mut padding)? == 0 {
            return Err(ends_early());
        }
        let mut header = [0; 60];
        match fill(&mut self.reader, &mut header)? {
            0 => return Ok(None),
            60 => {}
            _ => return Err(ends_early()),
        }
        let malformed = || DebError::new("the header of a member is malformed");
        let text = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).ok()?.trim_end_matches(' ');
            text.bytes().all(|b| b.is_ascii_graphic()).then(|| text.to_owned())
        };
        let name = text(&header[..16]).ok_or_else(malformed)?;
        let length = text(&header[48..58]).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        let length: u64 = length.and_then(|text| text.parse().ok()).ok_or_else(malformed)?;
        // As GNU ar ends a name.
        let name = name.strip_suffix('/').unwrap_or(&name).to_owned();
        if header[58..] != *END || name.is_empty() {
            return Err(malformed());
        }
        self.left = length;
        self.padded = length % 2 == 1;
        Ok(Some((name, length)))
    }
}

impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.reader.read(&mut buffer[..wanted])?;
        if count == 0 && wanted > 0 {
            return Err(io::Error::other("it ends in the middle of a member"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Reads until the buffer is full or nothing is left; gives how much that was.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
