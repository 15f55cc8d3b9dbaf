//! Source packages (dsc(5)): what one says of itself, and which files it has. Nobody
//! unpacks it here: that is for whoever builds it.

use super::DebError;
use super::DebVersion;
use super::control;
use super::control::Fields;
use crate::manifest::FileName;
use crate::manifest::PackageName;
use crate::manifest::Sha256;
use crate::manifest::names::NameError;
use crate::manifest::suite::SOURCE_FILES;

/// A longer `.dsc` is refused, in bytes.
pub(super) const MAX_LENGTH: u64 = 64 << 10;
/// Fields that the index adds, or that would be another package's.
const RESERVED: [&str; 4] = ["directory", "package", "filename", "status"];
/// Its files, by digests that nobody needs beside the one that is kept.
const OTHER_FILES: [&str; 3] = ["Files", "Checksums-Sha1", SOURCE_FILES];

/// A checked `.dsc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dsc {
    /// The name of the source package.
    pub source: PackageName,
    /// Its version.
    pub version: DebVersion,
    /// Its files but the `.dsc`.
    pub files: Vec<SourceFile>,
    /// All other fields that have a value.
    fields: Fields,
}

/// A file of a source package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Its name.
    pub name: FileName,
    /// Its size in bytes.
    pub length: u64,
    /// The digest of its content.
    pub sha256: Sha256,
}

impl Dsc {
    /// Parses a `.dsc` that nobody has signed: the release is.
    ///
    /// # Errors
    /// It is no single stanza of plain text; a field is missing, doubled or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, DebError> {
        let mut fields = control::fields(bytes, &RESERVED).map_err(|reason| DebError::new(format!("it {reason}")))?;
        fields.retain(|(_, value)| !value.is_empty());
        let value = |wanted: &str| {
            let found = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.as_str()).ok_or_else(|| DebError::new(format!("it has no {wanted}")))
        };
        for wanted in ["Format", "Maintainer"] {
            value(wanted)?;
        }
        let source = value("Source")?.parse().map_err(|error: NameError| DebError::new(error.to_string()))?;
        let version = value("Version")?.parse()?;
        let files = value(SOURCE_FILES)?.trim_start().lines().map(file).collect::<Option<Vec<_>>>();
        let files = files.ok_or_else(|| DebError::new(format!("its {SOURCE_FILES} has a malformed line")))?;
        for (at, file) in files.iter().enumerate() {
            let same = |other: &SourceFile| other.name == file.name;
            let is_dsc = file.name.as_str().rsplit('.').next() == Some("dsc");
            if files.iter().take(at).any(same) || is_dsc {
                return Err(DebError::new(format!("it lists {} twice, or itself", file.name)));
            }
        }
        fields.retain(|(name, _)| OTHER_FILES.iter().all(|other| !name.eq_ignore_ascii_case(other)));
        Ok(Self { source, version, files, fields })
    }

    /// The name that Debian gives the `.dsc`: no epoch.
    pub fn file_name(&self) -> String {
        format!("{}_{}.dsc", self.source, self.version.without_epoch())
    }

    /// What an index has of it, but where it is, and the `.dsc` among its files.
    pub fn stanza(&self) -> String {
        let mut text = control::render("Package", self.source.as_str());
        for (name, value) in self.fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("Source")) {
            text.push_str(&control::render(name, value));
        }
        let line = |file: &SourceFile| format!("\n {} {} {}", file.sha256, file.length, file.name);
        let files: String = self.files.iter().map(line).collect();
        text + &control::render(SOURCE_FILES, &files)
    }
}

fn file(line: &str) -> Option<SourceFile> {
    let mut words = line.split_ascii_whitespace();
    let (sha256, length, name) =
        (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next().is_none().then_some(SourceFile { name, length, sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> String {
        let digest = Sha256::of(b"x");
        format!(
            "Format: 3.0 (quilt)\nSource: kestrel\nBinary: kestrel,\n kestrel-doc\nArchitecture: any\nVersion: 1:1.0-2\n\
             Maintainer: K <k@kestrel.example>\nChecksums-Sha1:\n 00 7 kestrel_1.0.orig.tar.xz\nChecksums-Sha256:\n \
             {digest} 7 kestrel_1.0.orig.tar.xz\n {digest} 8 kestrel_1.0-2.debian.tar.xz\nFiles:\n 00 7 x\n"
        )
    }

    #[test]
    fn a_source_package_becomes_one_stanza() {
        let dsc = Dsc::parse(good().as_bytes()).unwrap();
        assert_eq!((dsc.file_name().as_str(), dsc.files.len()), ("kestrel_1.0-2.dsc", 2));
        let digest = Sha256::of(b"x");
        assert_eq!(
            dsc.stanza(),
            format!(
                "Package: kestrel\nFormat: 3.0 (quilt)\nBinary: kestrel,\n kestrel-doc\nArchitecture: any\n\
                 Version: 1:1.0-2\nMaintainer: K <k@kestrel.example>\nChecksums-Sha256:\n \
                 {digest} 7 kestrel_1.0.orig.tar.xz\n {digest} 8 kestrel_1.0-2.debian.tar.xz\n"
            )
        );
    }

    #[test]
    fn what_is_no_source_package_is_refused() {
        for (from, to, reason) in [
            ("Source: kestrel\n", "", "has no Source"),
            ("Format: 3.0 (quilt)\n", "", "has no Format"),
            ("Source: kestrel", "Source: ../kestrel", "is not a package name"),
            ("Version: 1:1.0-2", "Version: 1.0/2", "is no version"),
            ("Format: ", "Directory: pool\nFormat: ", "not for packages to say"),
            ("Format: ", "Package: other\nFormat: ", "not for packages to say"),
            ("Format: ", "-----BEGIN PGP SIGNED MESSAGE-----\nFormat: ", "no field"),
            ("Checksums-Sha256:\n", "Checksums-Sha256:\n 00 7 x\n", "malformed line"),
            (" 7 kestrel_1.0.orig", " 7 ../orig", "malformed line"),
            (" 8 kestrel_1.0-2.debian", " 8 more kestrel", "malformed line"),
            (" 8 kestrel_1.0-2.debian.tar.xz", " 7 kestrel_1.0.orig.tar.xz", "twice, or itself"),
            (" 8 kestrel_1.0-2.debian.tar.xz", " 7 kestrel_1.0-2.dsc", "twice, or itself"),
        ] {
            let changed = good().replace(from, to);
            assert_ne!(changed, good(), "{from}");
            let error = Dsc::parse(changed.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{to:?}: {error}");
        }
    }
}
