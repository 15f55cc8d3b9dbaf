//! `terminal.toml`: what is true of this machine only. It can add restrictions,
//! never loosen the policy.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde::de::value::SeqAccessDeserializer;

use super::Policy;
use super::Purpose;
use super::location::SourceHost;
use super::mirror;
use super::mirror::DeployKey;
use super::mirror::MirrorEntry;
use super::mirror::Publish;
use super::sandbox::Sandbox;
use super::text::ConfigError;
use super::text::Span;
use super::text::Text;
use super::window::WindowEntry;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::MirrorName;
use crate::manifest::Slot;

/// The version of `terminal.toml` that this program reads.
const VERSION: u32 = 1;

/// What is true of this machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    version: Span<u32>,
    /// Where the private halves of keys are.
    #[serde(rename = "token", default)]
    pub tokens: BTreeMap<KeyName, Span<Place>>,
    /// How builds are confined.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// The firewall of this machine, if it has one.
    pub window: Option<WindowEntry>,
    /// How hosts are reached that have source.
    #[serde(rename = "source", default, deserialize_with = "hosts")]
    pub sources: Vec<SourceHost>,
    /// How publications are spread.
    #[serde(default)]
    pub publish: Publish,
    #[serde(rename = "mirror", default)]
    raw_mirrors: BTreeMap<MirrorName, Span<mirror::Raw>>,
    /// Where publications go.
    #[serde(skip)]
    pub mirrors: BTreeMap<MirrorName, MirrorEntry>,
}

/// A list of hosts: one that is written as a single table is told how.
fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SourceHost>, D::Error> {
    struct Hosts;
    impl<'de> Visitor<'de> for Hosts {
        type Value = Vec<SourceHost>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of hosts, each written as [[source]]")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(sequence))
        }
    }
    deserializer.deserialize_seq(Hosts)
}

/// Where a private key is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PlaceEntry")]
pub enum Place {
    /// In a slot of a hardware token.
    Slot {
        /// The token's serial number.
        serial: u32,
        /// The slot.
        slot: Slot,
    },
    /// In an encrypted key file, relative to `terminal.toml`.
    File(PathBuf),
}

/// As `pool-key` writes it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot { serial, slot } => write!(f, "token:{serial}/{slot}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// [`Place`], as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceEntry {
    file: Option<PathBuf>,
    serial: Option<u32>,
    slot: Option<Slot>,
}

impl TryFrom<PlaceEntry> for Place {
    type Error = &'static str;

    fn try_from(entry: PlaceEntry) -> Result<Self, &'static str> {
        match entry {
            PlaceEntry { file: None, serial: Some(serial), slot: Some(slot) } => Ok(Self::Slot { serial, slot }),
            PlaceEntry { file: Some(file), serial: None, slot: None } => Ok(Self::File(file)),
            _ => Err("a key is in a token, `{ serial = 15237801, slot = \"9c\" }`, or in a `{ file = \"...\" }`"),
        }
    }
}

/// A token that holds keys of two people, or of one and of the archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "terminal.toml has keys of {} and {} in token {serial}: whoever knows its PIN could use both",
    .owners[0], .owners[1]
)]
pub struct SharedToken {
    /// The token.
    pub serial: u32,
    /// Whose keys.
    pub owners: [String; 2],
}

impl Terminal {
    /// Parses and checks the file at `path`.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn parse(path: &Path, text: String) -> Result<Self, ConfigError> {
        let text = Text::new(path, text);
        let mut terminal: Self = text.parse()?;
        text.check_version(&terminal.version, VERSION)?;
        terminal.sandbox.check(&text)?;
        terminal.window.as_ref().map_or(Ok(()), |window| window.check(&text))?;
        let mut hosts = BTreeSet::new();
        for source in &terminal.sources {
            if !hosts.insert(source.host.get_ref()) {
                return Err(text.error(&source.host, format!("`{}` stands here twice", source.host.get_ref())));
            }
        }
        let mut places: Vec<(&KeyName, &Place)> = Vec::new();
        for (name, place) in &terminal.tokens {
            if let Some((other, _)) = places.iter().find(|(_, taken)| *taken == place.get_ref()) {
                return Err(text.error(place, format!("`{other}` is there already; purposes never share a key")));
            }
            places.push((name, place.get_ref()));
        }
        let raw = std::mem::take(&mut terminal.raw_mirrors);
        terminal.mirrors = mirror::check(&text, raw, &terminal.publish, &terminal.tokens)?;
        Ok(terminal)
    }

    /// The deploy keys of all mirrors.
    pub fn deploy_keys(&self) -> impl Iterator<Item = &DeployKey> {
        self.mirrors.values().flat_map(|entry| match entry {
            MirrorEntry::Sftp(entry) => vec![&entry.pool_key, &entry.pointer_key],
            MirrorEntry::Folder(_) | MirrorEntry::Courier => Vec::new(),
        })
    }

    /// Whether a token holds a deploy key.
    pub fn has_deploy_key_in(&self, token: u32) -> bool {
        self.deploy_keys().any(|key| matches!(key.place, Place::Slot { serial, .. } if serial == token))
    }

    /// Whose a token is: the person who has a key of the policy in it.
    pub fn holder_of(&self, policy: &Policy, token: u32) -> Option<Holder> {
        self.tokens.iter().find_map(|(name, place)| match place.get_ref() {
            Place::Slot { serial, .. } if *serial == token => policy.owner_of(name),
            _ => None,
        })
    }

    /// The keys in tokens, also for deploying, with the serial numbers of those.
    pub fn keys_in_tokens(&self) -> impl Iterator<Item = (&KeyName, u32)> {
        let tokens = self.tokens.iter().map(|(name, place)| (name, place.get_ref()));
        let deploy = self.deploy_keys().map(|key| (&key.name, &key.place));
        tokens.chain(deploy).filter_map(|(name, place)| match place {
            Place::Slot { serial, .. } => Some((name, *serial)),
            Place::File(_) => None,
        })
    }

    /// Checks that no token is shared by two people: whoever knows its PIN would
    /// count for both. The archive shares its token with nobody and nothing, since two
    /// people keep that and its PIN.
    ///
    /// # Errors
    /// One is, with the people.
    pub fn check_tokens(&self, policy: &Policy) -> Result<(), SharedToken> {
        check_owners(policy, self.keys_in_tokens())
    }
}

/// Checks that no token is shared, given the keys and the serial numbers of their
/// tokens.
///
/// # Errors
/// As [`Terminal::check_tokens`].
pub fn check_owners<'a>(
    policy: &Policy,
    places: impl IntoIterator<Item = (&'a KeyName, u32)>,
) -> Result<(), SharedToken> {
    let mut owners: BTreeMap<u32, Owner> = BTreeMap::new();
    for (name, serial) in places {
        let owner = match (policy.owner_of(name), policy.purpose_of(name)) {
            (Some(holder), _) => Owner::Person(holder),
            (None, Some(Purpose::Archive)) => Owner::Archive,
            (None, _) => Owner::Machine,
        };
        match owners.get(&serial) {
            Some(other) if other.excludes(&owner) => {
                return Err(SharedToken { serial, owners: [other.to_string(), owner.to_string()] });
            }
            // Whoever is a person says more than a machine's key.
            Some(Owner::Machine) | None => drop(owners.insert(serial, owner)),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whose a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    Person(Holder),
    Archive,
    Machine,
}

impl Owner {
    fn excludes(&self, other: &Self) -> bool {
        let is_machine = [self, other].contains(&&Self::Machine);
        self != other && (!is_machine || [self, other].contains(&&Self::Archive))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person(holder) => holder.fmt(f),
            Self::Archive => f.write_str("the archive"),
            Self::Machine => f.write_str("a machine"),
        }
    }
}

#[cfg(test)]
mod tests {
    use toml::Spanned;

    use super::*;

    fn parse(tokens: &str) -> Result<Terminal, ConfigError> {
        Terminal::parse(Path::new("terminal.toml"), format!("version = 1\n[token]\n{tokens}\n"))
    }

    #[test]
    fn a_key_is_in_a_slot_or_in_a_file() {
        let terminal = parse("a = { serial = 7, slot = \"9c\" }\nb = { file = \"keys/b.key\" }").unwrap();
        let places: Vec<&Place> = terminal.tokens.values().map(Spanned::get_ref).collect();
        let slot = "9c".parse().unwrap();
        assert_eq!(places, [&Place::Slot { serial: 7, slot }, &Place::File(PathBuf::from("keys/b.key"))]);
    }

    #[test]
    fn wrong_places_are_named_where_they_stand() {
        for (wrong, message) in [
            ("{ serial = 7 }", "a key is in a token, `{ serial = 15237801"),
            ("{ slot = \"9c\" }", "a key is in a token"),
            ("{ }", "a key is in a token"),
            ("{ serial = 7, slot = \"9c\", file = \"x\" }", "a key is in a token"),
            ("{ serial = 7, slot = \"f9\" }", "\"f9\" is no slot for keys: use 9a,"),
            ("{ serial = -7, slot = \"9c\" }", "-7"),
            ("{ serail = 7, slot = \"9c\" }", "unknown field `serail`"),
            ("{ serial = 1, slot = \"9a\" }", "`a` is there already; purposes never share a key"),
        ] {
            let error = parse(&format!("a = {{ serial = 1, slot = \"9a\" }}\nb = {wrong}")).unwrap_err();
            assert!(error.message.contains(message), "{wrong}: {error}");
            assert_eq!(error.line, 4, "{wrong}: {error}");
        }
    }
}
