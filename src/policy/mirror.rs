//! The mirrors of `terminal.toml`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::Component;
use std::path::PathBuf;

use serde::Deserialize;

use super::location::KeyFile;
use super::terminal::Place;
use super::text::ConfigError;
use super::text::Span;
use super::text::Text;
use crate::key::ssh::HostKey;
use crate::manifest::KeyName;
use crate::manifest::MirrorName;
use crate::manifest::names::NameError;

/// Where publications go.
#[derive(Debug, Clone)]
pub enum MirrorEntry {
    /// A local folder, relative to `terminal.toml`.
    Folder(PathBuf),
    /// A web server that is written to over SSH.
    Sftp(Box<SftpEntry>),
    /// One that this machine never reaches: a courier does, and brings a receipt.
    Courier,
}

/// A web server with the two accounts that `scripts/mirror` makes.
#[derive(Debug, Clone)]
pub struct SftpEntry {
    /// Where readers find it.
    pub url: String,
    /// Where it is reached; nothing is asked of DNS.
    pub addresses: Vec<IpAddr>,
    /// The port of its SSH server.
    pub port: u16,
    /// The host key of its SSH server.
    pub host_key: HostKey,
    /// The key of the account that adds files.
    pub pool_key: DeployKey,
    /// The key of the account that replaces pointers.
    pub pointer_key: DeployKey,
    /// The machine between.
    pub jump: Option<Jump>,
}

impl SftpEntry {
    /// All that is connected to: by ssh, and by the reader of its web server.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        let web = web_port(&self.url);
        let readers = self.addresses.iter().map(|address| SocketAddr::new(*address, web));
        let ssh: Vec<SocketAddr> = match &self.jump {
            Some(jump) => vec![SocketAddr::new(jump.address, jump.port)],
            None => self.addresses.iter().map(|address| SocketAddr::new(*address, self.port)).collect(),
        };
        ssh.into_iter().chain(readers).collect()
    }
}

/// The port that a URL of [`is_web_server`] leads to.
fn web_port(url: &str) -> u16 {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let authority = rest.split('/').next().unwrap_or_default();
    let named = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    named.unwrap_or(if scheme == "https" { 443 } else { 80 })
}

/// A machine through which a mirror is reached.
#[derive(Debug, Clone)]
pub struct Jump {
    /// Its address.
    pub address: IpAddr,
    /// The port of its SSH server.
    pub port: u16,
    /// The account there.
    pub user: String,
    /// Its host key.
    pub host_key: HostKey,
    /// The key of that account.
    pub key: KeyFile,
}

/// The key of an account of a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployKey {
    /// Its name, as that of files beside other public keys: `mirror-eu1-pool`.
    pub name: KeyName,
    /// Where its private half is.
    pub place: Place,
}

impl DeployKey {
    /// The names of a mirror's two keys: that of the account that adds files, and
    /// that of the one that replaces pointers.
    ///
    /// # Errors
    /// The name of the mirror is too long.
    pub fn names(mirror: &MirrorName) -> Result<[KeyName; 2], NameError> {
        Ok([format!("mirror-{mirror}-pool").parse()?, format!("mirror-{mirror}-pointer").parse()?])
    }

    /// The file of the public half of a key in a token, in the home.
    pub fn public(name: &KeyName) -> String {
        format!("keys/{name}.pem")
    }
}

/// A place, as `pool-key` and `pointer-key` write it: `token:15237801/9a`, or
/// `file:keys/a`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct DeployPlace(Place);

impl TryFrom<String> for DeployPlace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mistake = || "a deploy key is named as `token:SERIAL/SLOT` or `file:PATH`".to_owned();
        if let Some(path) = text.strip_prefix("file:").filter(|path| !path.is_empty()) {
            return Ok(Self(Place::File(path.into())));
        }
        let (serial, slot) = text.strip_prefix("token:").and_then(|rest| rest.split_once('/')).ok_or_else(mistake)?;
        let serial = serial.parse().map_err(|_| mistake())?;
        Ok(Self(Place::Slot { serial, slot: slot.parse()? }))
    }
}

/// How publications are spread.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// How many mirrors must hold all new files before any of them shows them.
    quorum: Option<Span<usize>>,
}

impl Publish {
    /// How many of `mirrors` must hold all new files before any of them shows
    /// them. By default half of them: one that is down does not hold up a
    /// release, and a release that few could take is not begun.
    pub fn quorum(&self, mirrors: usize) -> usize {
        self.quorum.as_ref().map_or(mirrors.div_ceil(2), |quorum| *quorum.get_ref())
    }
}

/// An entry as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Raw {
    path: Option<PathBuf>,
    #[serde(default)]
    courier: bool,
    url: Option<Span<String>>,
    address: Option<Span<Vec<IpAddr>>>,
    port: Option<u16>,
    host_key: Option<Span<HostKey>>,
    pool_key: Option<Span<DeployPlace>>,
    pointer_key: Option<Span<DeployPlace>>,
    jump: Option<RawJump>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawJump {
    address: IpAddr,
    port: Option<u16>,
    user: Span<String>,
    host_key: Span<HostKey>,
    key: Span<KeyFile>,
}

/// The port of SSH servers.
const PORT: u16 = 22;

/// Checks all entries. `tokens` is where the keys of the policy are.
///
/// # Errors
/// The first mistake, with its place.
pub(super) fn check(
    text: &Text,
    raw: BTreeMap<MirrorName, Span<Raw>>,
    publish: &Publish,
    tokens: &BTreeMap<KeyName, Span<Place>>,
) -> Result<BTreeMap<MirrorName, MirrorEntry>, ConfigError> {
    let mut places: Vec<Place> = Vec::new();
    let mut own = |place: &Place| {
        if let Some((other, _)) = tokens.iter().find(|(_, taken)| is_same(taken.get_ref(), place)) {
            return Err(format!("`{other}` is there already; purposes never share a key"));
        }
        if places.iter().any(|other| is_same(other, place)) {
            return Err("this key is used twice; each account of each mirror has its own".to_owned());
        }
        places.push(place.clone());
        Ok(())
    };
    let host_key = |key: &Span<HostKey>| match key.get_ref() {
        good if good.is_ed25519() => Ok(good.clone()),
        _ => Err(text.error(key, "the host key of a mirror is one of type ssh-ed25519")),
    };
    let reached = raw.values().filter(|entry| !entry.get_ref().courier).count();
    if let Some(quorum) = &publish.quorum
        && !(1..=reached).contains(quorum.get_ref())
    {
        return Err(text.error(
            quorum,
            format!("a quorum is at least 1 and at most the {reached} mirrors that this machine pushes to"),
        ));
    }
    let mut entries = BTreeMap::new();
    for (name, entry) in raw {
        let table = &entry;
        let raw = entry.get_ref().clone();
        let missing = |what: &str| text.error(table, format!("mirror `{name}` has neither `path` nor `{what}`"));
        let is_server =
            raw.url.is_some() || raw.address.is_some() || raw.pool_key.is_some() || raw.pointer_key.is_some();
        let entry = if raw.courier {
            if is_server || raw.path.is_some() {
                return Err(
                    text.error(table, format!("mirror `{name}` has `courier`, so nothing here says where it is"))
                );
            }
            MirrorEntry::Courier
        } else if let Some(path) = raw.path {
            if is_server {
                return Err(text.error(table, format!("mirror `{name}` has `path`, so it is a folder, and no server")));
            }
            MirrorEntry::Folder(path)
        } else {
            let url = raw.url.ok_or_else(|| missing("url"))?;
            if !is_web_server(url.get_ref()) {
                return Err(text.error(&url, "a mirror's URL begins with http:// or https://, and has no query"));
            }
            let address = raw.address.ok_or_else(|| missing("address"))?;
            if !(1..=8).contains(&address.get_ref().len()) {
                return Err(text.error(&address, "give 1 to 8 addresses"));
            }
            let jump = match raw.jump {
                Some(jump) if is_account(jump.user.get_ref()) => {
                    own(&Place::File(jump.key.get_ref().0.clone())).map_err(|error| text.error(&jump.key, error))?;
                    Some(Jump {
                        address: jump.address,
                        port: jump.port.unwrap_or(PORT),
                        user: jump.user.into_inner(),
                        host_key: host_key(&jump.host_key)?,
                        key: jump.key.into_inner(),
                    })
                }
                Some(jump) => return Err(text.error(&jump.user, "an account's name has a-z 0-9 _ - only")),
                None => None,
            };
            let mut key = |name: KeyName, place: Option<Span<DeployPlace>>, what: &str| {
                let place = place.ok_or_else(|| missing(what))?;
                own(&place.get_ref().0).map_err(|error| text.error(&place, error))?;
                Ok(DeployKey { name, place: place.into_inner().0 })
            };
            let [pool, pointer] = DeployKey::names(&name).map_err(|error| text.error(table, error.to_string()))?;
            MirrorEntry::Sftp(Box::new(SftpEntry {
                url: url.get_ref().trim_end_matches('/').to_owned(),
                addresses: address.into_inner(),
                port: raw.port.unwrap_or(PORT),
                host_key: host_key(&raw.host_key.ok_or_else(|| missing("host-key"))?)?,
                pool_key: key(pool, raw.pool_key, "pool-key")?,
                pointer_key: key(pointer, raw.pointer_key, "pointer-key")?,
                jump,
            }))
        };
        entries.insert(name, entry);
    }
    Ok(entries)
}

/// Two spellings of one file are one key.
fn is_same(one: &Place, other: &Place) -> bool {
    let plain = |part: &Component| *part != Component::CurDir;
    match (one, other) {
        (Place::File(one), Place::File(other)) => one.components().filter(plain).eq(other.components().filter(plain)),
        _ => one == other,
    }
}

fn is_web_server(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:/[]%".contains(&b))
    })
}

/// What `useradd` of Debian takes.
fn is_account(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    (1..=32).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-')
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Terminal;
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    fn terminal(mirrors: &str) -> Result<Terminal, String> {
        let text = format!("version = 1\n{}", mirrors.replace("KEY", KEY));
        Terminal::parse(Path::new("terminal.toml"), text).map_err(|error| error.to_string())
    }

    const EU1: &str = "[mirror.eu1]\nurl = \"http://eu1.example/\"\naddress = [\"192.0.2.1\"]\nhost-key = \"KEY\"\n\
        pool-key = \"file:keys/a\"\npointer-key = \"file:keys/b\"\n";

    #[test]
    fn a_server_is_pinned_whole() {
        let parsed = terminal(EU1).unwrap();
        let Some(MirrorEntry::Sftp(entry)) = parsed.mirrors.values().next() else { panic!("{parsed:?}") };
        assert_eq!((entry.url.as_str(), entry.port), ("http://eu1.example", 22));
        assert_eq!(entry.host_key.to_line(), KEY);
        assert_eq!(entry.pool_key.name.as_str(), "mirror-eu1-pool");
        let tokens = EU1.replace("file:keys/a", "token:15237801/9a").replace("file:keys/b", "token:15237801/95");
        let parsed = terminal(&tokens).unwrap();
        let Some(MirrorEntry::Sftp(entry)) = parsed.mirrors.values().next() else { panic!("{parsed:?}") };
        let places = [&entry.pool_key, &entry.pointer_key].map(|key| key.place.to_string());
        assert_eq!(places, ["token:15237801/9a", "token:15237801/95"]);
    }

    #[test]
    fn mistakes_are_found_with_their_place() {
        let second = EU1.replace("eu1", "eu2");
        for (text, complaint) in [
            (EU1.replace("host-key", "hostkey"), "did you mean `host-key`?"),
            (EU1.replace("host-key = \"KEY\"\n", ""), "2:1: mirror `eu1` has neither `path` nor `host-key`"),
            (EU1.replace("KEY", "ssh-rsa AAAA"), "5:12: a host key is a type and base64"),
            (
                EU1.replace("KEY", "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBA=="),
                "5:12: the host key of a mirror is one of type ssh-ed25519",
            ),
            (EU1.replace("192.0.2.1", "eu1.example"), "4:12: invalid IP address"),
            (EU1.replace("[\"192.0.2.1\"]", "[]"), "4:11: give 1 to 8 addresses"),
            (EU1.replace("http://eu1.example/", "ftp://eu1.example"), "3:7: a mirror's URL begins with"),
            (EU1.replace("http://eu1.example/", "http://a b"), "a mirror's URL begins with"),
            (EU1.replace("file:keys/b", "keys/b"), "a deploy key is named as `token:SERIAL/SLOT` or `file:PATH`"),
            (EU1.replace("file:keys/b", "token:x/9a"), "7:15: a deploy key is named as"),
            (EU1.replace("file:keys/b", "token:7/f9"), "\"f9\" is no slot for keys"),
            (EU1.replace("file:keys/a", "token:7/9a").replace("file:keys/b", "token:7/9a"), "this key is used twice"),
            (
                format!(
                    "{}[token]\na-claim = {{ serial = 7, slot = \"9a\" }}\n",
                    EU1.replace("file:keys/b", "token:7/9a")
                ),
                "7:15: `a-claim` is there already; purposes never share a key",
            ),
            (EU1.replace("eu1]", &format!("{}]", "e".repeat(60))), "is not a key name"),
            (EU1.replace("keys/b", "./keys//a"), "7:15: this key is used twice"),
            (format!("{EU1}{second}"), "this key is used twice"),
            (format!("{EU1}path = \"x\"\n"), "mirror `eu1` has `path`, so it is a folder"),
            (
                format!("{EU1}[publish]\nquorum = 2\n"),
                "9:10: a quorum is at least 1 and at most the 1 mirrors that this machine pushes to",
            ),
            ("[mirror.a]\ncourier = true\npath = \"x\"\n".to_owned(), "mirror `a` has `courier`"),
            ("[mirror.a]\ncourier = true\n[publish]\nquorum = 1\n".to_owned(), "at most the 0 mirrors"),
            (
                format!(
                    "{EU1}jump = {{ address = \"192.0.2.2\", user = \"-oX\", host-key = \"KEY\", key = \"file:c\" }}"
                ),
                "an account's name",
            ),
            (
                format!(
                    "{EU1}jump = {{ address = \"192.0.2.2\", user = \"x\", host-key = \"KEY\", key = \"token:7/9a\" }}"
                ),
                "only deploy keys are in tokens",
            ),
        ] {
            let found = terminal(&text).unwrap_err();
            assert!(found.contains(complaint), "{text}\n{found}");
        }
    }

    #[test]
    fn ssh_and_the_web_server_are_endpoints() {
        let endpoints = |text: &str| {
            let parsed = terminal(text).unwrap();
            let Some(MirrorEntry::Sftp(entry)) = parsed.mirrors.values().next() else { panic!("{parsed:?}") };
            entry.endpoints().iter().map(SocketAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(endpoints(EU1), ["192.0.2.1:22", "192.0.2.1:80"]);
        let other = EU1.replace("http://eu1.example/", "https://[2001:db8::1]/a:1").replace("192.0.2.1", "2001:db8::1");
        assert_eq!(endpoints(&other), ["[2001:db8::1]:22", "[2001:db8::1]:443"]);
        let jump = "jump = { address = \"192.0.2.2\", port = 2, user = \"x\", host-key = \"KEY\", key = \"file:c\" }";
        let other = EU1.replace("http://eu1.example/", "http://eu1.example:8080");
        assert_eq!(endpoints(&format!("{other}{jump}\n")), ["192.0.2.2:2", "192.0.2.1:8080"]);
    }

    #[test]
    fn half_of_the_mirrors_make_a_quorum() {
        let none = Publish::default();
        assert_eq!([1, 2, 3, 4].map(|count| none.quorum(count)), [1, 1, 2, 2]);
    }
}
