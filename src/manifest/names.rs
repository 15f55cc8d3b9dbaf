//! Names that come from outside, each checked once when it is parsed.
//!
//! A name that passes can be joined to a path, printed on a terminal and used
//! in a URL as it is: it has no separators, no control characters, no leading
//! dot and a bounded length.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;

/// A name that does not have the form its kind asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not a {what}: {rule}", quoted(.found))]
pub struct NameError {
    what: &'static str,
    found: String,
    rule: &'static str,
}

/// Makes foreign text safe for one line of a terminal: control characters and
/// non-ASCII are escaped, and long text is cut.
///
/// ```
/// assert_eq!(release::manifest::names::printable("a\u{1b}[2Jb"), r"a\u{1b}[2Jb");
/// ```
pub fn printable(text: &str) -> String {
    escaped(text, 80, |c| c != ' ' && !c.is_ascii_graphic())
}

/// Makes a message that may quote foreign text safe for one line: what
/// [`is_hidden`] is escaped, and a very long message is cut.
///
/// ```
/// assert_eq!(release::manifest::names::one_line("Zoë\n\u{202e}"), "Zoë\\n\\u{202e}");
/// ```
pub fn one_line(text: &str) -> String {
    escaped(text, 4000, is_hidden)
}

/// At most `shown` characters of a text, with those that `is_bad` escaped.
fn escaped(text: &str, shown: usize, is_bad: impl Fn(char) -> bool) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == shown {
            out.push_str("...");
            break;
        }
        if is_bad(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a character controls the terminal, breaks the line, turns the
/// direction of writing, or cannot be seen.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// [`printable`], in quotes.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", printable(text))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError { what: $what, found: text.to_owned(), rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

macro_rules! ordered_by_text {
    ($($name:ident),*) => {$(
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.0.cmp(&other.0)
            }
        }
    )*};
}

/// One leading character of `first`, then up to `more` of `rest`.
fn shaped(text: &str, first: fn(u8) -> bool, rest: fn(u8) -> bool, more: usize) -> bool {
    let bytes = text.as_bytes();
    match bytes.split_first() {
        Some((head, tail)) => first(*head) && tail.len() <= more && tail.iter().all(|b| rest(*b)),
        None => false,
    }
}

fn lower_or_digit(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Names that would clash with a role or a folder of the repository.
const RESERVED: [&str; 8] = ["root", "targets", "snapshot", "timestamp", "apt", "keys", "log", "policy"];

name!(
    /// What is released: `kestrel`. Also the name of its TUF role.
    Product,
    "product name",
    "use 2 to 64 of a-z 0-9 + . -, beginning with a letter or digit, and none of root, targets, \
     snapshot, timestamp, apt, keys, log, policy",
    |text| {
        text.len() >= 2
            && shaped(text, lower_or_digit, |b| lower_or_digit(b) || b"+.-".contains(&b), 63)
            && !RESERVED.contains(&text)
    }
);
name!(
    /// One release of a product: `2.4.0`, `2.5.0~rc1`.
    ///
    /// Ordered as Debian orders upstream versions (Debian policy 5.6.12): digits
    /// by value, letters before other characters, and `~` before everything,
    /// also before the end.
    Version,
    "version",
    "use 1 to 64 of A-Z a-z 0-9 . + ~ -, beginning with a digit",
    |text| {
        shaped(text, |b| b.is_ascii_digit(), |b| b.is_ascii_alphanumeric() || b".+~-".contains(&b), 63)
    }
);
name!(
    /// The name of a file, one path segment.
    FileName,
    "file name",
    "use 1 to 200 of A-Z a-z 0-9 . _ + ~ -, beginning with a letter or digit",
    |text| {
        shaped(
            text,
            |b| b.is_ascii_alphanumeric(),
            |b| b.is_ascii_alphanumeric() || b"._+~-".contains(&b),
            199,
        )
    }
);
name!(
    /// A person who holds keys, as the policy names them: `alice`.
    Holder,
    "holder name",
    "use 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit",
    |text| shaped(text, lower_or_digit, |b| lower_or_digit(b) || b"._-".contains(&b), 63)
);
name!(
    /// A key, as the policy names it: `alice-release`.
    KeyName,
    "key name",
    "use 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit",
    |text| shaped(text, lower_or_digit, |b| lower_or_digit(b) || b"._-".contains(&b), 63)
);
name!(
    /// A mirror, as `terminal.toml` names it: `eu1`.
    MirrorName,
    "mirror name",
    "use 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit",
    |text| shaped(text, lower_or_digit, |b| lower_or_digit(b) || b"._-".contains(&b), 63)
);
name!(
    /// A host, as URLs name it: `git.example.org`.
    HostName,
    "host name",
    "use 1 to 253 of a-z 0-9 . -, beginning and ending with a letter or digit",
    |text| {
        shaped(text, lower_or_digit, |b| lower_or_digit(b) || b".-".contains(&b), 252)
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
            && !text.contains("..")
    }
);
name!(
    /// A line that somebody wrote for people: the name of a holder, the reason
    /// of a withdrawal.
    ///
    /// Letters are composed: a decomposed one looks the same, and is another
    /// one to what is signed.
    Line,
    "line of text",
    "use 1 to 300 characters, none of them hidden, letters composed",
    |text| {
        let hidden = |c| is_hidden(c) || ('\u{300}'..='\u{36f}').contains(&c);
        (1..=300).contains(&text.chars().count()) && !text.chars().any(hidden)
    }
);
name!(
    /// A suite of the apt repository: `stable`. Users have it in their list of sources.
    Suite,
    "suite",
    "use 1 to 32 of a-z 0-9 -, beginning with a letter or digit",
    |text| shaped(text, lower_or_digit, |b| lower_or_digit(b) || b == b'-', 31)
);
name!(
    /// A component of a suite: `main`. Users have it in their list of sources.
    Component,
    "component",
    "use 1 to 32 of a-z 0-9 -, beginning with a letter or digit",
    |text| shaped(text, lower_or_digit, |b| lower_or_digit(b) || b == b'-', 31)
);
name!(
    /// The name of a Debian package, binary or source (Debian policy 5.6.1 and 5.6.7).
    PackageName,
    "package name",
    "use 2 to 64 of a-z 0-9 + . -, beginning with a letter or digit",
    |text| text.len() >= 2 && shaped(text, lower_or_digit, |b| lower_or_digit(b) || b"+.-".contains(&b), 63)
);
name!(
    /// What a Debian package was built for: `amd64`, or `all` (Debian policy 5.6.8).
    /// Wildcards are none.
    Architecture,
    "Debian architecture",
    "use one such as amd64, arm64 or all: 1 to 32 of a-z 0-9 -, beginning with a letter or digit",
    |text| {
        shaped(text, lower_or_digit, |b| lower_or_digit(b) || b == b'-', 31)
            && text != "source"
            && text.split('-').all(|part| part != "any")
    }
);
name!(
    /// A path inside the repository: segments joined by `/`, none of them
    /// empty, none beginning with a dot.
    RepoPath,
    "repository path",
    "use segments of A-Z a-z 0-9 . _ + ~ - that begin with a letter or digit, joined by /",
    |text| text.len() <= 512 && text.split('/').all(|segment| segment.parse::<FileName>().is_ok()
        || is_hash_prefixed(segment))
);
ordered_by_text!(
    Architecture,
    Component,
    FileName,
    Holder,
    HostName,
    KeyName,
    MirrorName,
    PackageName,
    Product,
    RepoPath,
    Suite
);

/// `<sha256>.<file>`, where the whole may be longer than a file name.
fn is_hash_prefixed(segment: &str) -> bool {
    segment.split_once('.').is_some_and(|(hash, file)| {
        hash.len() == 64
            && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            && file.parse::<FileName>().is_ok()
    })
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        // `1.0` and `1.00` are the same version to Debian; as names they differ.
        compare_upstream(self.0.as_bytes(), other.0.as_bytes()).then_with(|| self.0.cmp(&other.0))
    }
}

/// The comparison of Debian policy 5.6.12, without epoch and revision: a `-`
/// is a character like any other.
pub(crate) fn compare_upstream(mut a: &[u8], mut b: &[u8]) -> Ordering {
    fn weight(b: Option<&u8>) -> i32 {
        match b {
            None => 0,
            Some(b'~') => -1,
            Some(c) if c.is_ascii_digit() => 0,
            Some(c) if c.is_ascii_alphabetic() => i32::from(*c),
            Some(c) => i32::from(*c) + 256,
        }
    }
    fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
        let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
        let (digits, rest) = text.split_at(end);
        let zeros = digits.iter().position(|b| *b != b'0').unwrap_or(digits.len());
        (&digits[zeros..], rest)
    }
    loop {
        while a.first().is_some_and(|c| !c.is_ascii_digit()) || b.first().is_some_and(|c| !c.is_ascii_digit()) {
            match weight(a.first()).cmp(&weight(b.first())) {
                Ordering::Equal => {}
                other => return other,
            }
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
        }
        let (digits_a, rest_a) = split_digits(a);
        let (digits_b, rest_b) = split_digits(b);
        let order = digits_a.len().cmp(&digits_b.len()).then_with(|| digits_a.cmp(digits_b));
        if order != Ordering::Equal || (rest_a.is_empty() && rest_b.is_empty()) {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_out_what_could_move_a_path() {
        for bad in ["", ".", "..", "a/b", ".hidden", "a b", "a\n", "é", "-rf", "a\0"] {
            assert!(bad.parse::<FileName>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(200).parse::<FileName>().is_ok());
        assert!("x".repeat(201).parse::<FileName>().is_err());
        for bad in ["../x", "/x", "x//y", "x/", "x/./y", "a/.git/config"] {
            assert!(bad.parse::<RepoPath>().is_err(), "{bad:?}");
        }
        let long = format!("targets/kestrel/1.0/{}.{}", "a".repeat(64), "x".repeat(200));
        assert!(long.parse::<RepoPath>().is_ok());
    }

    #[test]
    fn a_line_shows_all_that_it_says() {
        for bad in ["", "a\nb", "a\u{1b}[2J", "a\u{9b}2J", "a\u{202e}b", "\u{feff}a", "e\u{301}", "a\u{200b}"] {
            assert!(bad.parse::<Line>().is_err(), "{bad:?}");
        }
        assert!("Zo\u{eb} \u{5d0} \u{65e5}\u{672c} \u{1f600}".parse::<Line>().is_ok());
        assert!("x".repeat(301).parse::<Line>().is_err());
    }

    #[test]
    fn a_product_cannot_take_the_name_of_a_role_or_folder() {
        for bad in RESERVED {
            assert!(bad.parse::<Product>().is_err(), "{bad}");
        }
        assert!("kestrel".parse::<Product>().is_ok());
        assert!("k".parse::<Product>().is_err());
    }

    #[test]
    fn versions_sort_as_debian_sorts_them() {
        let sorted = ["0.9", "1.0~rc1", "1.0~rc2", "1.0", "1.0a", "1.0+b1", "1.0.1", "1.2", "1.10", "2.0"];
        for pair in sorted.windows(2) {
            let (a, b): (Version, Version) = (pair[0].parse().unwrap(), pair[1].parse().unwrap());
            assert!(a < b, "{a} < {b}");
        }
    }
}
