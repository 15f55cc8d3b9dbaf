//! The source archive, from the objects of the pinned commit.
//!
//! The same commit gives the same bytes on every machine: names sorted by
//! bytes, owner 0, the commit's time, fixed modes, GNU format. The bytes of
//! files are those in the commit; no attribute of git changes them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::BufWriter;
use std::io::Read;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use flate2::Compression;
use flate2::GzBuilder;
use flate2::write::GzEncoder;
use sha2::Digest;

use super::SourceError;
use super::git::Git;
use crate::manifest::FileName;
use crate::manifest::Pin;
use crate::manifest::Sha256;
use crate::manifest::SourceArchive;
use crate::manifest::claim::CompressedArchive;
use crate::manifest::claim::GitId;

/// What makes the compressed bytes; another version may make others.
pub const COMPRESSOR: &str = "zlib-rs 0.6.8 level 9";
/// The level that [`COMPRESSOR`] names.
const LEVEL: u32 = 9;
/// More files than this in a commit are refused.
const MAX_FILES: usize = 1_000_000;
/// More bytes than this in a commit are refused.
const MAX_BYTES: u64 = 16 << 30;

/// A file or folder of the commit.
#[derive(Debug)]
pub struct TreeEntry {
    mode: Mode,
    id: String,
    size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Folder,
    File,
    Executable,
    Link,
}

/// Entries by path; a `BTreeMap` of byte strings sorts as we want it.
pub type Tree = BTreeMap<Vec<u8>, TreeEntry>;

pub(super) fn write(
    git: &Git<'_>,
    pin: &Pin,
    prefix: &str,
    tar: &Path,
    gz: Option<(&FileName, &Path)>,
) -> Result<(SourceArchive, usize), SourceError> {
    let mut tree = read_tree(git, &pin.commit)?;
    honour_attributes(git, &pin.commit, &mut tree)?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| SourceError::Io { path, source }
    };
    let mut sink = Sink {
        hasher: sha2::Sha256::new(),
        length: 0,
        tar: BufWriter::new(File::create(tar).map_err(io(tar))?),
        gz: match gz {
            Some((_, path)) => Some(compressed(File::create(path).map_err(io(path))?)),
            None => None,
        },
    };
    let mtime = u64::try_from(pin.commit_time).unwrap_or(0);
    let blobs: Vec<&str> = tree.values().filter(|entry| entry.mode != Mode::Folder).map(|e| e.id.as_str()).collect();
    let mut bad_link = None;
    git.call(&["cat-file", "--batch", "--buffer"])
        .exchange(
            git.progress(),
            |stdin| {
                let mut stdin = BufWriter::new(stdin);
                blobs.iter().try_for_each(|id| writeln!(stdin, "{id}"))?;
                stdin.flush()
            },
            |stdout| {
                let mut objects = BufReader::with_capacity(128 << 10, stdout);
                let mut builder = tar::Builder::new(&mut sink);
                append(&mut builder, prefix.as_bytes(), Mode::Folder, 0, mtime, &mut io::empty())?;
                for (path, entry) in &tree {
                    let full = [prefix.as_bytes(), b"/", path].concat();
                    if entry.mode == Mode::Folder {
                        append(&mut builder, &full, entry.mode, 0, mtime, &mut io::empty())?;
                        continue;
                    }
                    expect_header(&mut objects, &entry.id, entry.size)?;
                    let mut content = (&mut objects).take(entry.size);
                    if entry.mode == Mode::Link {
                        let mut target = Vec::new();
                        content.read_to_end(&mut target)?;
                        let is_link = |path: &[u8]| tree.get(path).is_some_and(|entry| entry.mode == Mode::Link);
                        if !stays_inside(path, &target, is_link) {
                            bad_link = Some(path.clone());
                            return Err(io::ErrorKind::InvalidData.into());
                        }
                        append_link(&mut builder, &full, &target, mtime)?;
                    } else {
                        append(&mut builder, &full, entry.mode, entry.size, mtime, &mut content)?;
                    }
                    let mut end = [0];
                    objects.read_exact(&mut end)?;
                }
                builder.finish()
            },
        )
        .map_err(|error| match &bad_link {
            Some(path) => in_tree(&pin.commit, path, "a link that leads out of the tree"),
            None => error.into(),
        })?;
    finish(sink, tar, gz).map(|archive| (archive, blobs.len()))
}

/// Closes both files and gives their digests.
fn finish(sink: Sink, tar: &Path, gz: Option<(&FileName, &Path)>) -> Result<SourceArchive, SourceError> {
    let failed = |path: &Path, source| SourceError::Io { path: path.to_owned(), source };
    let sha256 = Sha256::from(<[u8; 32]>::from(sink.hasher.finalize()));
    let close = |writer: BufWriter<File>| writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all();
    close(sink.tar).map_err(|error| failed(tar, error))?;
    let gz = match (sink.gz, gz) {
        (Some(encoder), Some((name, path))) => {
            let hashed = encoder.finish().map_err(|error| failed(path, error))?;
            close(hashed.inner).map_err(|error| failed(path, error))?;
            Some(CompressedArchive {
                name: name.clone(),
                sha256: Sha256::from(<[u8; 32]>::from(hashed.hasher.finalize())),
                length: hashed.length,
                compressor: COMPRESSOR.to_owned(),
            })
        }
        _ => None,
    };
    Ok(SourceArchive { tar: sha256, tar_length: sink.length, gz })
}

fn read_tree(git: &Git<'_>, commit: &GitId) -> Result<Tree, SourceError> {
    let listing = git.call(&["ls-tree", "-r", "-t", "-z", "-l", "--full-tree", commit.as_str()]).run(git.progress())?;
    parse_tree(&listing, commit)
}

/// Reads a commit's tree, as `git ls-tree -r -t -z -l` lists it.
///
/// # Errors
/// What has no place in an archive.
pub fn parse_tree(listing: &[u8], commit: &GitId) -> Result<Tree, SourceError> {
    let mut tree = Tree::new();
    let mut total = 0_u64;
    for line in listing.split(|b| *b == 0).filter(|line| !line.is_empty()) {
        let answer = || SourceError::Answer("ls-tree");
        let tab = line.iter().position(|b| *b == b'\t').ok_or_else(answer)?;
        let (fields, path) = (&line[..tab], &line[tab + 1..]);
        let fields: Vec<&str> = std::str::from_utf8(fields).map_err(|_| answer())?.split_ascii_whitespace().collect();
        let [mode, _, id, size] = fields.as_slice() else {
            return Err(answer());
        };
        let refuse = |reason| Err(in_tree(commit, path, reason));
        let mode = match *mode {
            "040000" => Mode::Folder,
            "100644" => Mode::File,
            "100755" => Mode::Executable,
            "120000" => Mode::Link,
            "160000" => return refuse("a submodule; vendor its files, or list them as inputs"),
            _ => return refuse("a file mode that git does not write"),
        };
        let dots = |segment: &[u8]| segment == b"." || segment == b".." || segment.eq_ignore_ascii_case(b".git");
        if path.split(|b| *b == b'/').any(|segment| segment.is_empty() || dots(segment)) {
            return refuse("a path that leads elsewhere");
        }
        if path.iter().any(u8::is_ascii_control) {
            return refuse("a name with control characters");
        }
        let size = if mode == Mode::Folder { 0 } else { size.parse().map_err(|_| answer())? };
        if mode == Mode::Link && size > 4096 {
            return refuse("a link that is too long");
        }
        total = total.saturating_add(size);
        if total > MAX_BYTES || tree.len() >= MAX_FILES {
            return refuse("more files or bytes than an archive may have");
        }
        tree.insert(path.to_vec(), TreeEntry { mode, id: (*id).to_owned(), size });
    }
    Ok(tree)
}

/// Leaves out what `export-ignore` says, and refuses `export-subst`, whose
/// result depends on more than the commit.
fn honour_attributes(git: &Git<'_>, commit: &GitId, tree: &mut Tree) -> Result<(), SourceError> {
    let has_attributes = tree.keys().any(|path| path.rsplit(|b| *b == b'/').next() == Some(b".gitattributes"));
    if !has_attributes {
        return Ok(());
    }
    let index = git.folder().join("attributes.index");
    git.call(&["read-tree", commit.as_str()]).env("GIT_INDEX_FILE", &index).run(git.progress())?;
    // As git archive asks: a folder's name ends in a slash.
    let mut names = Vec::new();
    for (path, entry) in &*tree {
        names.extend_from_slice(path);
        if entry.mode == Mode::Folder {
            names.push(b'/');
        }
        names.push(0);
    }
    let output = git
        .call(&["check-attr", "--cached", "-z", "--stdin", "export-ignore", "export-subst"])
        .env("GIT_INDEX_FILE", &index)
        .output(&names, git.progress())?;
    if !output.status.success() {
        return Err(SourceError::Answer("check-attr"));
    }
    let fields: Vec<&[u8]> = output.stdout.split(|b| *b == 0).collect();
    let mut ignored: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut substituted = Vec::new();
    for triple in fields.chunks_exact(3) {
        let [path, attribute, value] = triple else { continue };
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let is_set = *value != b"unspecified".as_slice() && *value != b"unset".as_slice();
        match (*attribute, is_set) {
            (b"export-ignore", true) => {
                ignored.insert(path.to_vec());
            }
            (b"export-subst", true) => substituted.push(path.to_vec()),
            _ => {}
        }
    }
    let is_ignored = |path: &[u8]| {
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        ends.chain([path.len()]).any(|end| ignored.contains(&path[..end]))
    };
    tree.retain(|path, _| !is_ignored(path));
    match substituted.into_iter().find(|path| tree.contains_key(path)) {
        Some(path) => Err(in_tree(commit, &path, "the attribute export-subst, whose result is not reproducible")),
        None => Ok(()),
    }
}

fn in_tree(commit: &GitId, path: &[u8], reason: &'static str) -> SourceError {
    SourceError::Tree { commit: commit.clone(), path: String::from_utf8_lossy(path).into_owned(), reason }
}

/// Whether a relative link at `path` leads to a place in the same tree. What is
/// below a link that stays inside is inside; what is above it can be anywhere.
pub fn stays_inside(path: &[u8], target: &[u8], is_link: impl Fn(&[u8]) -> bool) -> bool {
    if target.is_empty() || target.starts_with(b"/") || target.iter().any(u8::is_ascii_control) {
        return false;
    }
    let mut place: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    place.pop();
    let mut through_link = false;
    for segment in target.split(|b| *b == b'/') {
        if segment == b".." {
            if through_link || place.pop().is_none() {
                return false;
            }
        } else if !segment.is_empty() && segment != b"." {
            place.push(segment);
            through_link |= is_link(&place.join(&b'/'));
        }
    }
    true
}

/// Reads the line that `cat-file --batch` prints before an object.
fn expect_header(objects: &mut impl BufRead, id: &str, size: u64) -> io::Result<()> {
    let mut line = String::new();
    objects.take(256).read_line(&mut line)?;
    if line == format!("{id} blob {size}\n") { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn header(mode: Mode, size: u64, mtime: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    header.set_size(size);
    let (kind, bits) = match mode {
        Mode::Folder => (tar::EntryType::Directory, 0o755),
        Mode::File => (tar::EntryType::Regular, 0o644),
        Mode::Executable => (tar::EntryType::Regular, 0o755),
        Mode::Link => (tar::EntryType::Symlink, 0o777),
    };
    header.set_entry_type(kind);
    header.set_mode(bits);
    header
}

fn append(
    builder: &mut tar::Builder<&mut Sink>,
    path: &[u8],
    mode: Mode,
    size: u64,
    mtime: u64,
    content: &mut dyn Read,
) -> io::Result<()> {
    let path = if mode == Mode::Folder { [path, b"/"].concat() } else { path.to_vec() };
    builder.append_data(&mut header(mode, size, mtime), OsStr::from_bytes(&path), content)
}

fn append_link(builder: &mut tar::Builder<&mut Sink>, path: &[u8], target: &[u8], mtime: u64) -> io::Result<()> {
    builder.append_link(&mut header(Mode::Link, 0, mtime), OsStr::from_bytes(path), OsStr::from_bytes(target))
}

fn compressed(file: File) -> GzEncoder<Hashed> {
    let inner = Hashed { hasher: sha2::Sha256::new(), length: 0, inner: BufWriter::new(file) };
    // No name, no time, unknown system: nothing of this machine.
    GzBuilder::new().mtime(0).operating_system(255).write(inner, Compression::new(LEVEL))
}

/// Hashes the tar, and writes it to one or two files.
struct Sink {
    hasher: sha2::Sha256,
    length: u64,
    tar: BufWriter<File>,
    gz: Option<GzEncoder<Hashed>>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tar.write_all(bytes)?;
        if let Some(gz) = &mut self.gz {
            gz.write_all(bytes)?;
        }
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tar.flush()
    }
}

/// Hashes the compressed bytes on their way to the file.
struct Hashed {
    hasher: sha2::Sha256,
    length: u64,
    inner: BufWriter<File>,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write_all(bytes)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_must_stay_inside_the_tree() {
        for (path, target) in [("a", "b"), ("d/a", "../b"), ("d/a", "e/../../b"), ("a", "d/./b")] {
            assert!(stays_inside(path.as_bytes(), target.as_bytes(), |_| false), "{path} -> {target}");
        }
        for (path, target) in [("a", "../b"), ("a", "/etc/passwd"), ("d/a", "../../b"), ("a", ""), ("a", "b\n")] {
            assert!(!stays_inside(path.as_bytes(), target.as_bytes(), |_| false), "{path} -> {target}");
        }
    }

    #[test]
    fn no_link_climbs_out_through_another_one() {
        let is_link = |path: &[u8]| path == b"a/b/up";
        assert!(stays_inside(b"x", b"a/b/up/c", is_link));
        assert!(!stays_inside(b"x", b"a/b/up/../secret", is_link));
        assert!(stays_inside(b"x", b"a/b/down/../secret", is_link));
    }

    #[test]
    fn the_compressor_is_named_as_it_is_pinned() {
        let lock = include_str!("../../Cargo.lock");
        let (name, version) = (COMPRESSOR.split(' ').next().unwrap(), COMPRESSOR.split(' ').nth(1).unwrap());
        assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")));
    }
}
