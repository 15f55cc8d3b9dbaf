//! Compressed members of a package, within bounds: a small one must not become a
//! large one.

use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;

use super::DebError;

/// How much memory a decoder may take, in bytes: `xz -9` takes 65 MiB.
const MAX_MEMORY: u64 = 100 << 20;
/// The base-2 logarithm of the largest window of zstd, in bytes: that of `--ultra -22`.
const MAX_WINDOW: u32 = 27;

/// How a member is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    /// By the end of a member's name, after `control.tar` or `data.tar`.
    pub fn of(suffix: &str) -> Option<Self> {
        match suffix {
            "" => Some(Self::None),
            ".gz" => Some(Self::Gzip),
            ".xz" => Some(Self::Xz),
            ".zst" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Unpacks all of a member, which `look` reads, and no more than `max` bytes of it.
///
/// # Errors
/// It is damaged, becomes too large, or something follows what is compressed.
pub(super) fn unpack<T>(
    packed: &mut impl Read,
    compression: Compression,
    max: u64,
    look: impl FnOnce(&mut dyn Read) -> Result<T, DebError>,
) -> Result<T, DebError> {
    let mut packed = BufReader::new(packed);
    let seen = {
        let decoder: Box<dyn Read + '_> = match compression {
            Compression::None => Box::new(&mut packed),
            Compression::Gzip => Box::new(flate2::bufread::GzDecoder::new(&mut packed)),
            Compression::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(MAX_MEMORY, 0).map_err(io::Error::other)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(&mut packed, stream))
            }
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut packed)?;
                decoder.window_log_max(MAX_WINDOW)?;
                Box::new(decoder.single_frame())
            }
        };
        let mut bounded = Bounded { decoder, left: max };
        let seen = look(&mut bounded)?;
        // The checksum is at the end.
        io::copy(&mut bounded, &mut io::sink())?;
        seen
    };
    if packed.fill_buf()?.is_empty() {
        return Ok(seen);
    }
    Err(DebError::new("something follows what is compressed"))
}

/// A reader that fails where too much comes.
struct Bounded<'r> {
    decoder: Box<dyn Read + 'r>,
    left: u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| io::Error::other(TOO_LARGE))?;
        Ok(count)
    }
}

/// What a bomb is refused with.
const TOO_LARGE: &str = "it becomes too large when it is unpacked";
