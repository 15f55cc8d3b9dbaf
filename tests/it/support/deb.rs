//! Debian packages, part by part, so that each can be wrong.

use std::io::Read;
use std::io::Write;

/// A control file that says nothing unusual.
pub const CONTROL: &str = "Package: kestrel\nVersion: 1.0-1\nArchitecture: amd64\n\
    Maintainer: K <k@kestrel.example>\nDepends: libc6 (>= 2.3)\nSection: utils\nPriority: optional\n\
    Description: short\n long\n .\n more\n";

/// A member of a tar file: type, path, target of a link, content.
pub type Member<'a> = (u8, &'a str, &'a str, &'a [u8]);

/// An ar archive.
pub fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = b"!<arch>\n".to_vec();
    for (name, content) in members {
        let length = content.len();
        writeln!(archive, "{name:<16}{:<12}{:<6}{:<6}{:<8}{length:<10}`", 0, 0, 0, 100_644).unwrap();
        archive.extend(*content);
        if length % 2 == 1 {
            archive.push(b'\n');
        }
    }
    archive
}

/// A tar file. Nothing in it is checked.
pub fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut file = Vec::new();
    for (kind, path, link, content) in members {
        let mut header = tar::Header::new_gnu();
        let bytes = header.as_mut_bytes();
        bytes[..path.len()].copy_from_slice(path.as_bytes());
        bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
        bytes[156] = *kind;
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        file.extend(header.as_bytes());
        file.extend(*content);
        file.resize(file.len().next_multiple_of(512), 0);
    }
    file.resize(file.len() + 1024, 0);
    file
}

pub fn gz(reader: impl Read) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(reader, flate2::Compression::best()).read_to_end(&mut packed).unwrap();
    packed
}

pub fn xz(reader: impl Read) -> Vec<u8> {
    let mut packed = Vec::new();
    liblzma::read::XzEncoder::new(reader, 1).read_to_end(&mut packed).unwrap();
    packed
}

pub fn zst(reader: impl Read) -> Vec<u8> {
    zstd::stream::encode_all(reader, 3).unwrap()
}

/// A `control.tar` with this control file.
pub fn control(text: &str) -> Vec<u8> {
    tar(&[(b'5', "./", "", b""), (b'0', "./control", "", text.as_bytes())])
}

/// A `data.tar` with one program.
pub fn data() -> Vec<u8> {
    tar(&[(b'5', "./", "", b""), (b'5', "./usr/", "", b""), (b'0', "./usr/kestrel", "", b"kestrel\n")])
}

/// A package of these two tar files, compressed by gzip.
pub fn of_tars(control: &[u8], data: &[u8]) -> Vec<u8> {
    ar(&[("debian-binary", b"2.0\n"), ("control.tar.gz", &gz(control)), ("data.tar.gz", &gz(data))])
}

/// A package with this control file.
pub fn deb(text: &str) -> Vec<u8> {
    of_tars(&control(text), &data())
}
