//! What a package says of itself: its control file, one stanza (Debian policy 5.1 and
//! 5.3). Its text goes into the index as it is, so that it must not be able to say
//! more there than a field.

use super::DebError;
use super::DebVersion;
use crate::manifest::Architecture;
use crate::manifest::PackageName;
use crate::manifest::names::quoted;

/// Longer control files are refused, in bytes.
pub(super) const MAX_LENGTH: u64 = 256 << 10;
/// Fields that the index adds, or that only dpkg's own state has.
const RESERVED: [&str; 9] =
    ["filename", "size", "md5sum", "sha1", "sha256", "sha512", "description-md5", "status", "package-type"];

/// A checked control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// What is installed.
    pub package: PackageName,
    /// Its version.
    pub version: DebVersion,
    /// What it was built for.
    pub architecture: Architecture,
    /// The source package that it was made from.
    pub source: PackageName,
    /// All fields that have a value.
    fields: Fields,
}

impl Control {
    /// Parses a control file.
    ///
    /// # Errors
    /// It is no single stanza of plain text, a field is missing, doubled, malformed, or
    /// none that a package has.
    pub fn parse(bytes: &[u8]) -> Result<Self, DebError> {
        let refuse = |reason: &str| Err(DebError::new(format!("its control file {reason}")));
        let mut fields =
            fields(bytes, &RESERVED).map_err(|reason| DebError::new(format!("its control file {reason}")))?;
        fields.retain(|(_, value)| !value.is_empty());
        let value = |wanted: &str| {
            let found = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.as_str())
        };
        let needed =
            |wanted: &str| value(wanted).ok_or_else(|| DebError::new(format!("its control file has no {wanted}")));
        for wanted in ["Maintainer", "Description"] {
            needed(wanted)?;
        }
        let name = |text: &str| text.parse::<PackageName>().map_err(|error| DebError::new(error.to_string()));
        let package = name(needed("Package")?)?;
        let version = needed("Version")?.parse()?;
        let architecture = needed("Architecture")?.parse();
        let architecture: Architecture =
            architecture.map_err(|error: crate::manifest::names::NameError| DebError::new(error.to_string()))?;
        // `name`, or `name (version)` where that is another one.
        let source = match value("Source").map(|source| source.split_once(" (").unwrap_or((source, ")"))) {
            None => package.clone(),
            Some((source, version)) => {
                let Some(version) = version.strip_suffix(')') else {
                    return refuse("has a malformed Source");
                };
                if !version.is_empty() {
                    version.parse::<DebVersion>()?;
                }
                name(source)?
            }
        };
        Ok(Self { package, version, architecture, source, fields })
    }

    /// The name that Debian gives the package's file: no epoch.
    pub fn file_name(&self) -> String {
        format!("{}_{}_{}.deb", self.package, self.version.without_epoch(), self.architecture)
    }

    /// The fields, `Package` first, each with a line break at its end.
    pub fn stanza(&self) -> String {
        let (first, others): (Vec<_>, Vec<_>) =
            self.fields.iter().partition(|(name, _)| name.eq_ignore_ascii_case("Package"));
        first.into_iter().chain(others).map(|(name, value)| render(name, value)).collect()
    }
}

/// Fields in their order: name, and value with its further lines.
pub(super) type Fields = Vec<(String, String)>;

/// The fields of a single stanza of plain text, none of which is `reserved`.
///
/// # Errors
/// It is none, or a field is malformed or doubled; with what it is or has instead.
pub(super) fn fields(bytes: &[u8], reserved: &[&str]) -> Result<Fields, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err("has control characters".to_owned());
    }
    let mut fields = Fields::new();
    for line in text.trim_end_matches('\n').split('\n').map(|line| line.trim_end_matches([' ', '\t'])) {
        if line.is_empty() {
            return Err("has an empty line: it is not one stanza".to_owned());
        }
        if line.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut().ok_or("begins with the further line of a field")?;
            value.push('\n');
            value.push_str(line);
            continue;
        }
        let Some((name, value)) = line.split_once(':').filter(|(name, _)| is_field(name)) else {
            return Err(format!("has a line that is no field: {}", quoted(line)));
        };
        if reserved.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
            return Err(format!("has the field {name}, which is not for packages to say"));
        }
        if fields.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
            return Err(format!("has the field {name} twice"));
        }
        fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
    Ok(fields)
}

/// A field as a stanza has it, with a line break at its end.
pub(super) fn render(name: &str, value: &str) -> String {
    let space = if value.starts_with('\n') { "" } else { " " };
    format!("{name}:{space}{value}\n")
}

/// The name of a field: printable ASCII without a colon, and no comment.
fn is_field(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(['#', '-']) && name.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Package: kestrel\nVersion: 1:1.0-2\nArchitecture: amd64\nSource: kestrel-src (1.0)\n\
        Maintainer: K <k@kestrel.example>\nDepends:\nDescription: short\n long\n .\n more\n";

    #[test]
    fn a_control_file_becomes_one_stanza() {
        let control = Control::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(control.file_name(), "kestrel_1.0-2_amd64.deb");
        assert_eq!(control.source.as_str(), "kestrel-src");
        assert_eq!(control.stanza(), GOOD.replace("Depends:\n", ""), "what has no value is left out");
        let later = GOOD.replace("Package: kestrel\n", "").replace("Maintainer", "package: kestrel\nMaintainer");
        assert!(Control::parse(later.as_bytes()).unwrap().stanza().starts_with("package: kestrel\nVersion: "));
    }

    #[test]
    fn what_could_say_more_than_a_field_is_refused() {
        for (from, to, reason) in [
            ("Package: kestrel\n", "", "has no Package"),
            ("Version: 1:1.0-2\n", "", "has no Version"),
            ("Architecture: amd64\n", "", "has no Architecture"),
            ("Maintainer: K <k@kestrel.example>\n", "", "has no Maintainer"),
            ("Description: short\n long\n .\n more\n", "", "has no Description"),
            ("Depends:", "DESCRIPTION: again", "has the field Description twice"),
            ("Depends:", "Filename: ../x", "has the field Filename"),
            ("Depends:", "SHA256: 00", "has the field SHA256"),
            ("Depends:\n", "\nPackage: other\n", "is not one stanza"),
            ("Depends:\n", " \t\n", "is not one stanza"),
            ("Depends:\n", "# comment\n", "no field"),
            ("Depends:\n", "a b: c\n", "no field"),
            ("Depends:\n", "text\n", "no field"),
            ("short", "sh\u{1b}[2Jort", "control characters"),
            ("short", "sh\rort", "control characters"),
            ("short", "sh\u{85}ort", "control characters"),
            ("short", "sh\0ort", "control characters"),
            ("Package: kestrel\n", " kestrel\nPackage: kestrel\n", "further line"),
            ("Package: kestrel\n", "Package: kestrel\n more\n", "is not a package name"),
            ("Package: kestrel\n", "Package: ../kestrel\n", "is not a package name"),
            ("Package: kestrel\n", "Package: Kestrel\n", "is not a package name"),
            ("kestrel-src (1.0)", "../kestrel-src", "is not a package name"),
            ("kestrel-src (1.0)", "kestrel-src (1.0", "malformed Source"),
            ("kestrel-src (1.0)", "kestrel-src (one)", "is no version"),
            ("1:1.0-2", "one", "is no version"),
            ("1:1.0-2", "1.0/2", "is no version"),
            ("1:1.0-2", "a:1.0", "is no version"),
            ("1:1.0-2", "99999999999:1.0", "is no version"),
            ("1:1.0-2", "1.0-", "is no version"),
            ("amd64", "any", "is not a Debian architecture"),
            ("amd64", "linux-any", "is not a Debian architecture"),
            ("amd64", "source", "is not a Debian architecture"),
            ("amd64", "amd64 arm64", "is not a Debian architecture"),
            ("amd64", "../amd64", "is not a Debian architecture"),
        ] {
            let control = GOOD.replacen(from, to, 1);
            assert_ne!(control, GOOD, "{from}");
            let error = Control::parse(control.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{to:?}: {error}");
            assert!(!error.contains(['\u{1b}', '\n']), "{error:?}");
        }
        assert!(Control::parse(b"Package: \xff\n").unwrap_err().to_string().contains("UTF-8"));
        assert!(Control::parse(b"").unwrap_err().to_string().contains("is not one stanza"));
    }
}
