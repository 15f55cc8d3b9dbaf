//! A suite for apt as sealing writes it and verifying demands it: `Release`, what is
//! around it in `InRelease`, and the stanzas of `Packages`
//! (<https://wiki.debian.org/DebianRepository/Format>).
//!
//! There is one way to write each of them. Whoever parses one writes it again and
//! compares: what is not written like that, another reader may take for something else.

use std::fmt::Write as _;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::Architecture;
use super::Component;
use super::HostName;
use super::RepoPath;
use super::Sha256;
use super::Suite;
use super::names::NameError;
use super::names::quoted;

/// Below it is what apt asks for: what its lists of sources name.
pub const APT: &str = "apt/";
/// What a suite is, and its indices, in the signature.
pub const IN_RELEASE: &str = "InRelease";
/// The same by itself.
pub const RELEASE: &str = "Release";
/// The signature of [`RELEASE`].
pub const RELEASE_SIGNATURE: &str = "Release.gpg";
/// The ends of the names of an index: plain, by gzip, by xz.
pub const FORMS: [&str; 3] = ["", ".gz", ".xz"];
/// A longer `InRelease` is refused, in bytes: it has three lines for each architecture.
pub const MAX_RELEASE: u64 = 128 << 10;
/// A longer index is refused in each of its forms, in bytes: it has some 40,000 packages.
pub const MAX_INDEX: u64 = 32 << 20;
/// Packages that are for every architecture.
pub const ALL: &str = "all";

/// As in RFC 5322, in UTC: what apt reads.
const DATE: &str = "%a, %d %b %Y %H:%M:%S UTC";
/// What is around a text that is signed (RFC 9580, 7.1).
const BEFORE: &str = "-----BEGIN PGP SIGNED MESSAGE-----\n";
const BETWEEN: &str = "\n-----BEGIN PGP SIGNATURE-----\n";
const AFTER: &str = "\n-----END PGP SIGNATURE-----\n";

/// What a suite says of itself: `Release`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Its name.
    pub suite: Suite,
    /// Whose it is: the host of the repository. Clients never see it change.
    pub origin: HostName,
    /// When it was made.
    pub date: Timestamp,
    /// Until when clients take it.
    pub valid_until: Timestamp,
    /// For what it has indices.
    pub architectures: Vec<Architecture>,
    /// Its components.
    pub components: Vec<Component>,
    /// The fingerprints of the certificates that sign it.
    pub signed_by: String,
    /// Its indices in all their forms.
    pub indices: Vec<Index>,
}

/// One form of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The component whose packages it lists.
    pub component: Component,
    /// What it lists of that.
    pub lists: Lists,
    /// One of [`FORMS`].
    pub form: &'static str,
    /// Size in bytes.
    pub length: u64,
    /// Digest of its content.
    pub sha256: Sha256,
}

/// What an index lists of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lists {
    /// Packages for an architecture, and those for all.
    Packages(Architecture),
    /// Source packages.
    Sources,
}

impl Lists {
    /// The folder of the index, and its name there without the end.
    fn place(&self) -> (String, &'static str) {
        match self {
            Self::Packages(architecture) => (format!("binary-{architecture}"), "Packages"),
            Self::Sources => ("source".to_owned(), "Sources"),
        }
    }

    fn of(folder: &str, name: &str) -> Option<Self> {
        match (folder.strip_prefix("binary-"), name) {
            (Some(architecture), "Packages") => Some(Self::Packages(architecture.parse().ok()?)),
            (None, "Sources") if folder == "source" => Some(Self::Sources),
            _ => None,
        }
    }

    /// The name of one of the [`FORMS`] of the index, below the folder of the suite.
    pub fn name(&self, component: &Component, form: &str) -> String {
        let (folder, name) = self.place();
        format!("{component}/{folder}/{name}{form}")
    }
}

impl Index {
    /// Its name below the folder of the suite.
    pub fn name(&self) -> String {
        self.lists.name(&self.component, self.form)
    }

    /// The name that it has as long as its content is this.
    pub fn by_hash(&self) -> String {
        format!("{}/{}/by-hash/SHA256/{}", self.component, self.lists.place().0, self.sha256)
    }
}

/// A file of a suite.
///
/// # Errors
/// The path would be too long.
pub fn file(suite: &Suite, name: &str) -> Result<RepoPath, NameError> {
    format!("{APT}dists/{suite}/{name}").parse()
}

/// What the suites of a repository call themselves: its host.
///
/// # Errors
/// The URL has none.
pub fn origin(repository: &str) -> Result<HostName, NameError> {
    let host = repository.split_once("://").map_or(repository, |(_, rest)| rest);
    host.split(['/', ':', '?', '#']).next().unwrap_or_default().parse()
}

impl Release {
    /// The text that is signed.
    pub fn render(&self) -> String {
        let merged = self.architectures.iter().any(|architecture| architecture.as_str() != ALL);
        let architectures: Vec<&str> = self.architectures.iter().map(Architecture::as_str).collect();
        let components: Vec<&str> = self.components.iter().map(Component::as_str).collect();
        let mut text = format!(
            "Origin: {origin}\nLabel: {origin}\nSuite: {suite}\nCodename: {suite}\nDate: {}\nValid-Until: {}\n\
             Acquire-By-Hash: yes\n{}Architectures: {}\nComponents: {}\nSigned-By: {}\nSHA256:\n",
            self.date.strftime(DATE),
            self.valid_until.strftime(DATE),
            // Every client takes the indices of its own architecture, which have those
            // for all as well.
            if merged { "No-Support-for-Architecture-all: Packages\n" } else { "" },
            architectures.join(" "),
            components.join(" "),
            self.signed_by,
            origin = self.origin,
            suite = self.suite,
        );
        for index in &self.indices {
            let _ = writeln!(text, " {} {:>8} {}", index.sha256, index.length, index.name());
        }
        text
    }

    /// Reads what [`Self::render`] has written.
    ///
    /// # Errors
    /// It was written otherwise, with the first line that is not as expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (head, sums) = text.split_once("\nSHA256:\n").ok_or("it lists no SHA-256")?;
        let field = |name: &str| {
            let value = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.ok_or_else(|| format!("it has no {name}"))
        };
        let date = |name: &str| {
            let date = DateTime::strptime(DATE, field(name)?).and_then(|date| date.to_zoned(TimeZone::UTC));
            date.map(|date| date.timestamp()).map_err(|_| format!("its {name} is no date"))
        };
        let release = Self {
            suite: name(field("Suite")?)?,
            origin: name(field("Origin")?)?,
            date: date("Date")?,
            valid_until: date("Valid-Until")?,
            architectures: field("Architectures")?.split(' ').map(name).collect::<Result<_, _>>()?,
            components: field("Components")?.split(' ').map(name).collect::<Result<_, _>>()?,
            signed_by: field("Signed-By")?.to_owned(),
            indices: sums.lines().map(index).collect::<Result<_, _>>()?,
        };
        let written = release.render();
        match text.lines().zip(written.lines()).find(|(found, expected)| found != expected) {
            Some((found, expected)) => Err(format!("it says {} instead of {}", quoted(found), quoted(expected))),
            None if text != written => Err("it says something more".to_owned()),
            None => Ok(release),
        }
    }

    /// The text in an `InRelease`, as it stands in `Release`. Who has signed it is not
    /// looked at: apt does that.
    ///
    /// # Errors
    /// There is something else than one text with its signature.
    pub fn signed_text(in_release: &[u8]) -> Result<String, &'static str> {
        let text = std::str::from_utf8(in_release).map_err(|_| "it is no text")?;
        let signed = text.strip_prefix(BEFORE).ok_or("it begins with something that is not signed")?;
        let (hash, signed) = signed.split_once("\n\n").ok_or("it has no signed text")?;
        if !hash.lines().all(|line| line.strip_prefix("Hash: ").is_some_and(|hash| is_plain(hash, ""))) {
            return Err("it has unknown lines before what is signed");
        }
        let (text, signature) = signed.split_once(BETWEEN).ok_or("it has no signature")?;
        // None of ours begins like that, and readers would not agree on what it says.
        if text.lines().any(|line| line.starts_with('-')) {
            return Err("a line of it begins with a dash");
        }
        let armor = signature.strip_suffix(AFTER).ok_or("something follows its signature")?;
        if !armor.lines().all(|line| line.is_empty() || is_plain(line, "+/=")) {
            return Err("its signature is malformed");
        }
        Ok(format!("{text}\n"))
    }
}

/// Until when a suite is valid whose `InRelease` this is; nothing if it is none of ours.
pub fn valid_until(in_release: &[u8]) -> Option<Timestamp> {
    let release = Release::parse(&Release::signed_text(in_release).ok()?).ok()?;
    Some(release.valid_until)
}

fn name<T: FromStr<Err = NameError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: NameError| error.to_string())
}

/// Letters, digits, and these.
fn is_plain(text: &str, others: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

fn index(line: &str) -> Result<Index, String> {
    let malformed = || format!("it has a malformed line: {}", quoted(line));
    let mut words = line.split_ascii_whitespace();
    let (Some(sha256), Some(length), Some(path), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(malformed());
    };
    let unknown = || format!("it lists {}, which is no index of packages", quoted(path));
    let segments: Vec<&str> = path.split('/').collect();
    let [component, folder, file] = segments.as_slice() else {
        return Err(unknown());
    };
    let stem = file.split('.').next().unwrap_or_default();
    let form = file.strip_prefix(stem).unwrap_or_default();
    Ok(Index {
        component: name(component)?,
        lists: Lists::of(folder, stem).ok_or_else(unknown)?,
        form: FORMS.into_iter().find(|known| *known == form).ok_or_else(unknown)?,
        length: length.parse().map_err(|_| malformed())?,
        sha256: sha256.parse().map_err(|_| malformed())?,
    })
}

/// A package as `Packages` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stanza<'a> {
    /// What the package says of itself, with a line break at the end of each line.
    pub control: &'a str,
    /// Where it is, below `apt/`.
    pub filename: &'a str,
    /// Size in bytes.
    pub length: u64,
    /// Digest of its content.
    pub sha256: Sha256,
}

impl<'a> Stanza<'a> {
    /// Its text.
    pub fn render(&self) -> String {
        format!("{}Filename: {}\nSize: {}\nSHA256: {}\n", self.control, self.filename, self.length, self.sha256)
    }

    /// The stanzas of an index.
    pub fn all(index: &'a str) -> impl Iterator<Item = Result<Self, String>> {
        stanzas(index).map(|stanza| stanza.and_then(Self::parse))
    }

    /// Reads what [`Self::render`] has written, without the last line break.
    fn parse(text: &'a str) -> Result<Self, String> {
        let malformed = || format!("it has a malformed stanza: {}", quoted(text));
        let end = text.rfind("\nFilename: ").ok_or_else(malformed)? + 1;
        let (control, added) = text.split_at_checked(end).ok_or_else(malformed)?;
        let mut lines = added.split('\n');
        let mut field = |name: &str| lines.next()?.strip_prefix(name);
        let filename = field("Filename: ").ok_or_else(malformed)?;
        let length = field("Size: ").and_then(|size| size.parse().ok()).ok_or_else(malformed)?;
        let sha256 = field("SHA256: ").and_then(|digest| digest.parse().ok()).ok_or_else(malformed)?;
        let stanza = Self { control, filename, length, sha256 };
        // What stands there is all, and a number has one form.
        if stanza.render().strip_suffix('\n') == Some(text) { Ok(stanza) } else { Err(malformed()) }
    }

    /// The value of a field of one line.
    pub fn field(&self, wanted: &str) -> Option<&'a str> {
        self.control.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    }
}

/// A source package as `Sources` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStanza<'a> {
    /// What its `.dsc` says of it, with a line break at the end of each line. The last
    /// field lists its files but the `.dsc`.
    pub control: &'a str,
    /// The name of the `.dsc`.
    pub name: &'a str,
    /// Its size in bytes.
    pub length: u64,
    /// The digest of its content.
    pub sha256: Sha256,
    /// Where its files are, below `apt/`.
    pub directory: &'a str,
}

/// The field of a source package that lists its files.
pub const SOURCE_FILES: &str = "Checksums-Sha256";

impl<'a> SourceStanza<'a> {
    /// Its text.
    pub fn render(&self) -> String {
        let Self { control, name, length, sha256, directory } = self;
        format!("{control} {sha256} {length} {name}\nDirectory: {directory}\n")
    }

    /// The stanzas of an index.
    pub fn all(index: &'a str) -> impl Iterator<Item = Result<Self, String>> {
        stanzas(index).map(|stanza| stanza.and_then(Self::parse))
    }

    /// Reads what [`Self::render`] has written, without the last line break.
    fn parse(text: &'a str) -> Result<Self, String> {
        let parsed = || {
            let (fields, directory) = text.rsplit_once("\nDirectory: ")?;
            let (control, line) = fields.split_at_checked(fields.rfind('\n')? + 1)?;
            let (sha256, length, name) = source_file(line)?;
            let stanza = Self { control, name, length, sha256, directory };
            (stanza.render().strip_suffix('\n') == Some(text)).then_some(stanza)
        };
        parsed().ok_or_else(|| format!("it has a malformed stanza: {}", quoted(text)))
    }

    /// Its files but the `.dsc`: digest, size in bytes, name.
    pub fn files(&self) -> impl Iterator<Item = Option<(Sha256, u64, &'a str)>> {
        let listed = self.control.split_once(&format!("\n{SOURCE_FILES}:\n")).map_or("", |(_, lines)| lines);
        listed.lines().map(source_file)
    }
}

/// A line of [`SOURCE_FILES`].
fn source_file(line: &str) -> Option<(Sha256, u64, &str)> {
    let mut words = line.strip_prefix(' ')?.split(' ');
    let file = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?);
    words.next().is_none().then_some(file)
}

/// The stanzas of an index, each without the last line break.
fn stanzas(index: &str) -> impl Iterator<Item = Result<&str, String>> {
    // A break ends the last one; between two there is another one.
    let whole = index.strip_suffix('\n');
    let none = index.is_empty();
    let stanzas = whole.unwrap_or(index).split("\n\n").filter(move |_| !none);
    stanzas.map(move |stanza| whole.map(|_| stanza).ok_or_else(|| "it has no line break at its end".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release() -> Release {
        let index = |form| Index {
            component: "main".parse().unwrap(),
            lists: Lists::Packages("amd64".parse().unwrap()),
            form,
            length: 7,
            sha256: Sha256::of(form.as_bytes()),
        };
        Release {
            suite: "stable".parse().unwrap(),
            origin: "packages.kestrel.example".parse().unwrap(),
            date: "2026-03-01T00:00:00Z".parse().unwrap(),
            valid_until: "2026-03-31T00:00:00Z".parse().unwrap(),
            architectures: vec!["amd64".parse().unwrap()],
            components: vec!["main".parse().unwrap()],
            signed_by: "A".repeat(40),
            indices: FORMS.map(index).to_vec(),
        }
    }

    #[test]
    fn a_release_is_read_as_it_is_written_and_no_other_way() {
        let text = release().render();
        assert_eq!(Release::parse(&text), Ok(release()));
        for (from, to) in [
            ("Acquire-By-Hash: yes", "Acquire-By-Hash: no"),
            ("Acquire-By-Hash: yes", "Acquire-By-Hash: yes\nNotAutomatic: yes"),
            ("Codename: stable", "Codename: other"),
            ("Label: packages", "Label: other"),
            ("Sun, 01 Mar", "Mon, 01 Mar"),
            ("Suite: stable\n", ""),
            ("Suite: stable\n", "Suite: stable\nSuite: stable\n"),
            ("No-Support-for-Architecture-all: Packages\n", ""),
            ("Architectures: amd64", "Architectures: amd64 all  arm64"),
            ("SHA256:\n", "SHA256:\n\n"),
            ("Packages.xz", "Packages.zst"),
            ("binary-amd64/Packages.xz", "binary-amd64/Sources.xz"),
            ("binary-amd64/Packages.xz", "source/Packages.xz"),
            ("Packages.xz", "i18n/Translation-en"),
            ("main/binary-amd64/Packages.xz", "../binary-amd64/Packages.xz"),
            ("main/binary-amd64/Packages.gz", "main/Contents-amd64.gz"),
            ("        7 ", " 7 "),
            ("        7 ", "       +7 "),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            assert!(Release::parse(&changed).is_err(), "{to}");
        }
        assert!(Release::parse(&format!("{text}\n")).is_err() && Release::parse(text.trim_end()).is_err());
        assert!(Release::parse(&text.replace('\n', "\r\n")).is_err());
    }

    #[test]
    fn what_is_signed_is_all_that_a_file_says() {
        let text = release().render();
        let file = format!("{BEFORE}Hash: SHA512\n\n{}{BETWEEN}\nabc+/=\n=AbCd{AFTER}", text.trim_end());
        assert_eq!(Release::signed_text(file.as_bytes()).as_ref(), Ok(&text));
        assert_eq!(valid_until(file.as_bytes()), Some(release().valid_until));
        for (from, to) in [
            (BEFORE, "text\n-----BEGIN PGP SIGNED MESSAGE-----\n"),
            ("Hash: SHA512\n", "Hash: SHA512\nComment: text\n"),
            ("Origin: ", "- Origin: "),
            ("abc", "Comment: text"),
            (AFTER, "\n-----END PGP SIGNATURE-----\ntext\n"),
            (AFTER, ""),
            (BETWEEN, "\n"),
            ("Hash: SHA512\n\n", "Hash: SHA512\n"),
        ] {
            let changed = file.replacen(from, to, 1);
            assert_ne!(changed, file, "{from}");
            let found = Release::signed_text(changed.as_bytes());
            assert!(found.is_err() || Release::parse(&found.unwrap()).is_err(), "{to}");
        }
        assert!(Release::signed_text(b"\xff").is_err());
    }

    #[test]
    fn stanzas_are_read_as_they_are_written() {
        let digest = Sha256::of(b"x");
        let control = "Package: kestrel\narchitecture: amd64\nDescription: x\n Filename: y\n";
        let stanza = Stanza { control, filename: "pool/main/k/kestrel/x.deb", length: 12, sha256: digest };
        let two = format!("{}\n{}", stanza.render(), stanza.render());
        let all: Vec<_> = Stanza::all(&two).collect::<Result<_, _>>().unwrap();
        assert_eq!(all, [stanza.clone(), stanza.clone()]);
        assert_eq!((stanza.field("Architecture"), stanza.field("Filename")), (Some("amd64"), None));
        assert_eq!(Stanza::all("").count(), 0);
        for (from, to) in [
            ("Size: 12", "Size: 012"),
            ("Size: 12", "Size: +12"),
            ("Size: 12\n", ""),
            ("SHA256: ", "SHA256:  "),
            ("\n\nPackage", "\n\n\nPackage"),
            ("\n\nPackage", "\n \nPackage"),
            ("Size: 12", "Depends: other\nSize: 12"),
        ] {
            let changed = two.replacen(from, to, 1);
            assert_ne!(changed, two, "{from}");
            let read: Result<Vec<_>, _> = Stanza::all(&changed).collect();
            // What is not refused is another control file, whose digest is another one.
            assert!(read.is_err() || read.unwrap()[0].control != control, "{to:?}");
        }
        let sources = SourceStanza {
            control: &format!("Package: kestrel\n{SOURCE_FILES}:\n {digest} 7 kestrel_1.0.tar.xz\n"),
            name: "kestrel_1.0.dsc",
            length: 12,
            sha256: digest,
            directory: "pool/main/k/kestrel",
        };
        let two_sources = format!("{}\n{}", sources.render(), sources.render());
        let all: Vec<_> = SourceStanza::all(&two_sources).collect::<Result<_, _>>().unwrap();
        assert_eq!(all, [sources.clone(), sources.clone()]);
        assert_eq!(sources.files().collect::<Vec<_>>(), [Some((digest, 7, "kestrel_1.0.tar.xz"))]);
        for (from, to) in
            [(" 12 ", " 012 "), ("Directory: ", "Directory:  "), ("kestrel_1.0.dsc", "a b"), (" 12 ", "  12 ")]
        {
            let changed = two_sources.replacen(from, to, 1);
            assert_ne!(changed, two_sources, "{from}");
            let read: Result<Vec<_>, _> = SourceStanza::all(&changed).collect();
            assert!(read.is_err() || read.unwrap()[0].directory != sources.directory, "{to:?}");
        }
        for wrong in ["\n", "Package: x\n", two.trim_end(), &format!("{two}\n"), &format!("{two}Tag: x\n")] {
            assert!(Stanza::all(wrong).any(|stanza| stanza.is_err()), "{wrong:?}");
        }
    }
}
