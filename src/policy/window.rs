//! `[window]` of `terminal.toml`: this machine has a firewall that lets nothing in or
//! out, but to the hosts that are named here, while a window is open.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;

use super::text::ConfigError;
use super::text::Span;
use super::text::Text;

/// More hosts are not tried.
const MAX_PROBES: usize = 16;

/// Where a window leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Destination {
    /// The hosts that have source.
    Source,
    /// The mirrors.
    Mirrors,
}

impl FromStr for Destination {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        Self::ALL.into_iter().find(|to| to.as_str() == text).ok_or("a window leads to `source` or to `mirrors`")
    }
}

impl Destination {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Source, Self::Mirrors];

    /// As the command line and the journal write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Mirrors => "mirrors",
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The firewall of this machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct WindowEntry {
    /// Who runs this program: nobody else is let out.
    pub user: Account,
    /// Hosts of which a cut shows that they cannot be reached, besides those that
    /// are pinned.
    #[serde(rename = "probe")]
    probes: Option<Span<Vec<SocketAddr>>>,
}

impl Default for WindowEntry {
    fn default() -> Self {
        Self { user: Account("release".to_owned()), probes: None }
    }
}

impl WindowEntry {
    pub(super) fn check(&self, text: &Text) -> Result<(), ConfigError> {
        match &self.probes {
            Some(probes) if probes.get_ref().len() > MAX_PROBES => {
                Err(text.error(probes, format!("name at most {MAX_PROBES} hosts to try")))
            }
            _ => Ok(()),
        }
    }

    /// The hosts to try besides those that are pinned.
    pub fn probes(&self) -> &[SocketAddr] {
        self.probes.as_ref().map_or(&[], |probes| probes.get_ref())
    }
}

/// The name or the number of a user of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Account(String);

impl Account {
    /// As nft takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Account {
    type Error = &'static str;

    /// What `useradd` of Debian makes, or a number.
    fn try_from(text: String) -> Result<Self, &'static str> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let is_number = text.parse::<u32>().is_ok_and(|number| number.to_string() == text);
        let is_name = text.bytes().all(plain) && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        if is_number || (is_name && text.len() <= 32) {
            return Ok(Self(text));
        }
        Err("a user's name has a-z 0-9 _ - only, and at most 32 of them")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Terminal;
    use super::*;

    fn parse(lines: &str) -> Result<WindowEntry, String> {
        let text = format!("version = 1\n[window]\n{lines}\n");
        let terminal = Terminal::parse(Path::new("terminal.toml"), text).map_err(|error| error.to_string())?;
        Ok(terminal.window.unwrap())
    }

    #[test]
    fn an_empty_table_is_a_window() {
        assert_eq!(parse("").unwrap().user.as_str(), "release");
        let window = parse("user = \"1000\"\nprobe = [\"[2001:db8::1]:443\"]").unwrap();
        assert_eq!(window.user.as_str(), "1000");
        assert_eq!(window.probes(), ["[2001:db8::1]:443".parse().unwrap()]);
        assert!(Terminal::parse(Path::new("t"), "version = 1\n".to_owned()).unwrap().window.is_none());
    }

    #[test]
    fn what_would_be_read_otherwise_in_a_rule_is_refused() {
        for user in ["", "-1", "01", "4294967296", "Mia", "a b", "1 accept", "a\\n", "a\"", "a;b", &"a".repeat(33)] {
            assert!(parse(&format!("user = \"{user}\"")).is_err(), "{user}");
        }
        let many = vec!["\"192.0.2.1:1\""; 17].join(",");
        assert!(parse(&format!("probe = [{many}]")).unwrap_err().contains("3:9: name at most 16"));
        assert!(parse("probe = [\"kestrel.example:1\"]").is_err(), "DNS would be asked");
        assert!(parse("users = \"a\"").unwrap_err().contains("did you mean `user`?"));
    }
}
