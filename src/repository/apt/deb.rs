//! Reads Debian binary packages (deb(5)). Every one is foreign: a build made it, of
//! whatever its source tree says.

use std::io;
use std::io::BufReader;
use std::io::Read;

use super::Control;
use super::DebError;
use super::ar::Archive;
use super::control;
use super::unpack::Compression;
use super::unpack::unpack;
use crate::manifest::names::quoted;

/// How large `control.tar` may be when it is unpacked, in bytes.
const MAX_CONTROL: u64 = 16 << 20;
/// How large `data.tar` may be when it is unpacked, in bytes, and how many times as
/// large as it is packed, where that is more. What is worth packing becomes ten times
/// smaller, a bomb a thousand times.
const MAX_DATA: u64 = 256 << 20;
const MAX_RATIO: u64 = 100;
/// Longer paths are refused, in bytes.
const MAX_PATH: u64 = 4096;

/// A package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deb {
    /// What it says of itself.
    pub control: Control,
}

impl Deb {
    /// Reads what a package says of itself. What it installs is not looked at: that is
    /// for packages that [`Self::check`] has taken before.
    ///
    /// # Errors
    /// It is no package, or says something malformed.
    pub fn read(package: impl Read) -> Result<Self, DebError> {
        let (_, deb) = Self::begin(package)?;
        Ok(deb)
    }

    /// Reads all of a package, and looks at the name of every file in it.
    ///
    /// # Errors
    /// As [`Self::read`]; a file would be unpacked elsewhere than where the package
    /// says, or it becomes too large when it is unpacked.
    pub fn check(package: impl Read) -> Result<Self, DebError> {
        let (mut archive, deb) = Self::begin(package)?;
        let (compression, length) = member(&mut archive, "data.tar")?;
        let max = length.saturating_mul(MAX_RATIO).max(MAX_DATA);
        unpack(&mut archive, compression, max, |tar| walk(tar, |_, _, _| Ok(())))?;
        match archive.next()? {
            None => Ok(deb),
            Some((name, _)) => Err(DebError::new(format!("it has a member {} too many", quoted(&name)))),
        }
    }

    /// Reads up to what it installs.
    fn begin<R: Read>(package: R) -> Result<(Archive<BufReader<R>>, Self), DebError> {
        let mut archive = Archive::open(BufReader::new(package))?;
        let (name, length) = archive.next()?.unwrap_or_default();
        let mut format = Vec::new();
        (&mut archive).take(16).read_to_end(&mut format)?;
        if name != "debian-binary" || length > 16 || format != b"2.0\n" {
            return Err(DebError::new("it is no Debian package of format 2.0"));
        }
        let (compression, _) = member(&mut archive, "control.tar")?;
        let mut found = None;
        unpack(&mut archive, compression, MAX_CONTROL, |tar| {
            walk(tar, |path, kind, content| {
                if path != b"control" {
                    return Ok(());
                }
                if !kind.is_file() || found.is_some() {
                    return Err(DebError::new("its control file is no plain file, or there are two"));
                }
                found = Some(read_to(content, control::MAX_LENGTH, "its control file")?);
                Ok(())
            })
        })?;
        let control = found.ok_or_else(|| DebError::new("it has no control file"))?;
        Ok((archive, Self { control: Control::parse(&control)? }))
    }
}

/// Finds the next member, which has this name and says how it is compressed.
fn member<R: Read>(archive: &mut Archive<R>, wanted: &str) -> Result<(Compression, u64), DebError> {
    let (name, length) = archive.next()?.ok_or_else(|| DebError::new(format!("it has no {wanted}")))?;
    let Some(suffix) = name.strip_prefix(wanted) else {
        return Err(DebError::new(format!("it has a member {} where {wanted} should be", quoted(&name))));
    };
    let compression = Compression::of(suffix).ok_or_else(|| {
        DebError::new(format!(
            "{} is compressed in a way that this program does not read; use gz, xz or zst",
            quoted(&name)
        ))
    })?;
    Ok((compression, length))
}

/// Reads a tar file (that of dpkg: ustar with the long names of GNU), and shows each
/// entry: its path below the root, what it is, and its content.
fn walk(
    tar: &mut dyn Read,
    mut look: impl FnMut(&[u8], tar::EntryType, &mut dyn Read) -> Result<(), DebError>,
) -> Result<(), DebError> {
    let mut archive = tar::Archive::new(tar);
    // Names of the entry that follows, where they are too long for it.
    let (mut long_path, mut long_link) = (None, None);
    // Otherwise names of any length would be read into memory.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        match kind {
            tar::EntryType::GNULongName => long_path = Some(read_name(&mut entry)?),
            tar::EntryType::GNULongLink => long_link = Some(read_name(&mut entry)?),
            tar::EntryType::Regular
            | tar::EntryType::Link
            | tar::EntryType::Symlink
            | tar::EntryType::Char
            | tar::EntryType::Block
            | tar::EntryType::Directory
            | tar::EntryType::Fifo => {
                let path = long_path.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                let link = long_link.take().or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
                let path = inside(&path)?;
                match (kind, &link) {
                    (tar::EntryType::Link, Some(link)) => _ = inside(link)?,
                    (tar::EntryType::Symlink, Some(link)) if is_plain(link) => {}
                    (tar::EntryType::Link | tar::EntryType::Symlink, _) => {
                        return Err(refuse(path, "is a link to nowhere"));
                    }
                    _ => {}
                }
                look(path, kind, &mut entry)?;
            }
            _ => return Err(DebError::new("it holds an entry that is neither file, folder, link, device nor pipe")),
        }
    }
    Ok(())
}

/// A name that is the content of an entry; a zero byte ends it.
fn read_name(entry: &mut impl Read) -> Result<Vec<u8>, DebError> {
    let mut name = read_to(entry, MAX_PATH, "the name of a file in it")?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn read_to(content: &mut (impl Read + ?Sized), max: u64, what: &str) -> Result<Vec<u8>, DebError> {
    let mut bytes = Vec::new();
    content.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(DebError::new(format!("{what} is longer than {max} bytes")));
    }
    Ok(bytes)
}

/// A path below the root, without `./` and the `/` at the end; that of the root itself
/// is empty.
fn inside(path: &[u8]) -> Result<&[u8], DebError> {
    let below = path.strip_prefix(b"./").unwrap_or(path);
    let below = below.strip_suffix(b"/").unwrap_or(below);
    if below.is_empty() || below == b"." {
        return if path.starts_with(b".") { Ok(b"") } else { Err(refuse(path, "has no name")) };
    }
    if !is_plain(path) || below.split(|b| *b == b'/').any(|part| matches!(part, b"" | b"." | b"..")) {
        return Err(refuse(path, "is no path below the root"));
    }
    Ok(below)
}

/// Something that can be a path.
fn is_plain(path: &[u8]) -> bool {
    !path.is_empty() && path.len() as u64 <= MAX_PATH && !path.iter().any(u8::is_ascii_control)
}

fn refuse(path: &[u8], reason: &str) -> DebError {
    DebError::new(format!("{} in it {reason}", quoted(&String::from_utf8_lossy(path))))
}

impl From<io::Error> for DebError {
    fn from(error: io::Error) -> Self {
        // What the system says is about the disk, all else about what was read.
        if error.raw_os_error().is_some() { Self::Io(error) } else { Self::new(error.to_string()) }
    }
}
