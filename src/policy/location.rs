//! Where source is, and how this terminal reaches the hosts that have it.
//!
//! The policy says *what* is fetched: a URL without secrets, the same on every
//! terminal. `terminal.toml` says how this machine gets there: addresses, so that
//! no DNS is asked, and who the host must prove to be.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::text::Span;
use crate::key::ssh::HostKey;
use crate::manifest::HostName;

/// Where a product's source is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Location {
    /// A git repository on this machine: a path, or a `file://` URL.
    Local(String),
    /// A git repository on a host.
    Remote(Remote),
}

/// A git repository on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// How it is fetched.
    pub scheme: Scheme,
    /// The host.
    pub host: HostName,
    /// The port, where it is not the usual one.
    port: Option<u16>,
    /// The user that ssh logs in as.
    user: Option<String>,
    /// The path on the host; begins with `/`.
    path: String,
}

/// How a repository on a host is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `https://`
    Https,
    /// `ssh://`
    Ssh,
}

impl Scheme {
    /// The name, as URLs and git spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Ssh => "ssh",
        }
    }
}

impl Remote {
    /// The port that is connected to.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.scheme {
            Scheme::Https => 443,
            Scheme::Ssh => 22,
        })
    }

    /// The URL without the user: what claims and provenance say.
    pub fn public(&self) -> String {
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        format!("{}://{}{port}{}", self.scheme.as_str(), self.host, self.path)
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.public();
        match (&self.user, url.split_once("://")) {
            (Some(user), Some((scheme, rest))) => write!(f, "{scheme}://{user}@{rest}"),
            _ => f.write_str(&url),
        }
    }
}

impl Location {
    /// What claims and provenance say of where the source came from: a URL
    /// without its user; a path of this machine by its last segment.
    pub fn public(&self) -> String {
        match self {
            Self::Local(path) => {
                format!("file:{}", path.trim_end_matches('/').rsplit('/').next().unwrap_or_default())
            }
            Self::Remote(remote) => remote.public(),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => f.write_str(path),
            Self::Remote(remote) => remote.fmt(f),
        }
    }
}

impl TryFrom<String> for Location {
    type Error = String;
    /// Reads a path, or a URL of the schemes that are fetched. The message never
    /// repeats the text, which may hold a password.
    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err("a source is a path or a URL".to_owned());
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return match scheme {
                "file" if rest.starts_with('/') => Ok(Self::Local(text)),
                "file" => Err("a file:// URL names an absolute path: file:///path".to_owned()),
                "https" => remote(Scheme::Https, rest).map(Self::Remote),
                "ssh" => remote(Scheme::Ssh, rest).map(Self::Remote),
                "http" | "git" => Err(format!(
                    "{scheme}:// shows everybody what is fetched, and lets anybody change it; use https:// or ssh://"
                )),
                _ => Err("a source is a path, or a URL with file://, https:// or ssh://".to_owned()),
            };
        }
        if text.contains("::") {
            return Err("`name::` starts a program as git's transport; use a path, https:// or ssh://".to_owned());
        }
        if text.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err("write ssh://user@host/path for host:path".to_owned());
        }
        Ok(Self::Local(text))
    }
}

/// What stands behind `https://` or `ssh://`.
fn remote(scheme: Scheme, rest: &str) -> Result<Remote, String> {
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, authority),
    };
    match (scheme, user) {
        (Scheme::Https, Some(_)) => {
            return Err("an https:// source has no user and no password: the policy is public".to_owned());
        }
        (Scheme::Ssh, None) => return Err("an ssh:// source names its user: ssh://user@host/path".to_owned()),
        (Scheme::Ssh, Some(user)) if user.contains(':') => {
            return Err("an ssh:// source has no password: the policy is public".to_owned());
        }
        (Scheme::Ssh, Some(user)) if !is_word(user) => {
            return Err(
                "the user of an ssh:// source has A-Z a-z 0-9 . _ - only, and begins with none of . -".to_owned()
            );
        }
        _ => {}
    }
    let (host, port) = match place.split_once(':').filter(|(host, _)| !host.starts_with('[')) {
        Some((host, port)) => {
            let port = port.parse().ok().filter(|port| *port != 0);
            (host, Some(port.ok_or_else(|| "the port of a source is a number from 1 to 65535".to_owned())?))
        }
        None => (place, None),
    };
    let host = host.parse().map_err(|error| format!("{error}; terminal.toml names its address"))?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._~+-/@,=:".contains(&b);
    let segment = |part: &str| !matches!(part, "" | "." | "..");
    let inner = path.trim_start_matches('/').trim_end_matches('/');
    if path.starts_with("//") || !inner.split('/').all(segment) || !path.bytes().all(plain) {
        return Err("the path of a source has segments of A-Z a-z 0-9 . _ ~ + - @ , = : only".to_owned());
    }
    Ok(Remote { scheme, host, port, user: user.map(str::to_owned), path: path.to_owned() })
}

fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !text.is_empty() && !text.starts_with(['.', '-']) && text.bytes().all(plain)
}

/// How this terminal reaches a host that has source: `[[source]]` of
/// `terminal.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceHost {
    /// The host, as URLs name it.
    pub host: Span<HostName>,
    /// Its addresses. With them no DNS is asked.
    #[serde(default)]
    pub address: Vec<IpAddr>,
    /// For ssh: the key that the host must prove to have.
    #[serde(rename = "host-key")]
    pub host_key: Option<HostKey>,
    /// For ssh: the key that logs in.
    pub key: Option<KeyFile>,
    /// For https: a file of certificates, relative to `terminal.toml`, that
    /// vouch for the host in place of the system's.
    pub ca: Option<PathBuf>,
}

/// The file of a private key that logs in, relative to `terminal.toml`:
/// `file:keys/git`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyFile(pub PathBuf);

impl TryFrom<String> for KeyFile {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(Self(path.into())),
            _ => Err("this key is named as `file:PATH`; only deploy keys are in tokens".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location, String> {
        Location::try_from(text.to_owned())
    }

    #[test]
    fn a_url_says_where_and_holds_no_secret() {
        for (url, public) in [
            ("https://git.example.org/kestrel.git", "https://git.example.org/kestrel.git"),
            ("https://git.example.org:8443/a/b", "https://git.example.org:8443/a/b"),
            ("ssh://git@git.example.org/~mia/k.git", "ssh://git.example.org/~mia/k.git"),
            ("ssh://git@192.0.2.1:2222/k.git/", "ssh://192.0.2.1:2222/k.git/"),
            ("../source.git", "file:source.git"),
            ("file:///srv/git/kestrel.git/", "file:kestrel.git"),
        ] {
            let location = parse(url).unwrap();
            assert_eq!((location.to_string(), location.public()), (url.to_owned(), public.to_owned()));
        }
    }

    #[test]
    fn what_is_not_fetched_is_refused_without_repeating_it() {
        for (text, why) in [
            ("http://x.example/k", "use https:// or ssh://"),
            ("git://x.example/k", "use https:// or ssh://"),
            ("ftp://x.example/k", "a path, or a URL with"),
            ("ext::sh -c evil", "starts a program"),
            ("x.example:k.git", "write ssh://user@host/path"),
            ("git@x.example:k.git", "write ssh://user@host/path"),
            ("file://relative", "file:///path"),
            ("https://mia:secret@x.example/k", "the policy is public"),
            ("https://mia@x.example/k", "the policy is public"),
            ("ssh://mia:secret@x.example/k", "the policy is public"),
            ("ssh://x.example/k", "names its user"),
            ("ssh://-oProxyCommand=evil@x.example/k", "the user of"),
            ("ssh://git@-oProxyCommand=evil/k", "is not a host name"),
            ("https://X.example/k", "is not a host name"),
            ("https://[::1]/k", "is not a host name"),
            ("https://x.example:0/k", "from 1 to 65535"),
            ("https://x.example:99999/k", "from 1 to 65535"),
            ("https://x.example", "the path of"),
            ("https://x.example/", "the path of"),
            ("https://x.example//k", "the path of"),
            ("https://x.example/../k", "the path of"),
            ("https://x.example/k?token=secret", "the path of"),
            ("https://x.example/k#x", "the path of"),
            ("https://x.example/%2e%2e/k", "the path of"),
            ("", "a path or a URL"),
            ("a\nb", "a path or a URL"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn a_key_that_logs_in_is_a_file() {
        assert_eq!(KeyFile::try_from("file:keys/git".to_owned()), Ok(KeyFile("keys/git".into())));
        for bad in ["keys/git", "file:", "token:15237801/9a"] {
            assert!(KeyFile::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
