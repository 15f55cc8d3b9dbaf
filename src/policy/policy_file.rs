//! `policy.toml`: who holds which key, which roles need how many people, and
//! how each product is released. Public, and the same on every terminal.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use jiff::SignedDuration;
use serde::Deserialize;

use super::location::Location;
use super::text::ConfigError;
use super::text::Span;
use super::text::Text;
use super::text::with_unit;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Line;
use crate::manifest::Product;
use crate::manifest::Version;

/// The version of `policy.toml` that this program reads.
const VERSION: u32 = 1;
/// A day, as expiry periods count it.
const DAY: u32 = 24 * 60 * 60;
/// The longest time that users may be kept from noticing that nothing is new.
const MAX_ONLINE_DAYS: u32 = 90;

/// A checked policy.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    version: Span<u32>,
    /// Where users find the newest state.
    pub repository: Span<String>,
    /// The project's own site, for `index.html`.
    pub site: Option<String>,
    /// When the next release is made at the latest. A cut refuses to leave behind what
    /// will have expired by then.
    #[serde(rename = "next-release")]
    pub next_release: Option<Period>,
    /// Allows private keys in files. For demonstrations and tests.
    #[serde(default, rename = "insecure-software-keys")]
    pub insecure_software_keys: bool,
    /// Allows keys of several people on one terminal. For demonstrations and tests.
    #[serde(default, rename = "insecure-same-terminal")]
    pub insecure_same_terminal: bool,
    /// Allows keys in tokens whose firmware gives them away to whoever has the
    /// token in hand for long (before 5.7: EUCLEAK).
    #[serde(default, rename = "insecure-weak-firmware")]
    pub insecure_weak_firmware: bool,
    /// People by their short name.
    #[serde(rename = "holder")]
    pub holders: BTreeMap<Holder, Line>,
    /// Keys by name.
    #[serde(rename = "key")]
    pub keys: BTreeMap<KeyName, KeyEntry>,
    /// The top-level roles.
    pub role: Roles,
    /// OpenPGP certificates.
    #[serde(default)]
    pub openpgp: OpenPgp,
    /// Products by name.
    #[serde(rename = "product")]
    pub products: BTreeMap<Product, ProductPolicy>,
}

/// A public key of the policy.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// Whose it is. The online key is a machine's and has none.
    pub holder: Option<Span<String>>,
    /// The file with the public key, PEM.
    pub public: Span<String>,
}

/// The top-level roles.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// Who may change everything.
    pub root: RoleEntry,
    /// Who says what the products' keys are.
    pub targets: RoleEntry,
    /// The key of snapshot and timestamp.
    pub online: Online,
}

/// A role of several people.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleEntry {
    /// Their keys.
    pub keys: Vec<Span<String>>,
    /// How many of them must sign.
    pub threshold: Span<u32>,
    /// How long its metadata is valid.
    pub expires: Span<Period>,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Release manifests.
    Release,
    /// Claims.
    Claim,
    /// `SHA256SUMS`.
    OpenPgp,
    /// The certificate of the key that signs `SHA256SUMS`.
    Certify,
    /// The role `targets`.
    Targets,
    /// The role `root`.
    Root,
    /// Snapshot and timestamp.
    Online,
    /// `InRelease`, which apt reads, and the certificate of the key for that.
    Archive,
}

/// The key of snapshot and timestamp.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Online {
    /// Its name.
    pub key: Span<String>,
    /// How long a seal is valid.
    pub expires: Span<Period>,
}

/// OpenPGP certificates.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenPgp {
    /// The certificate of each holder who signs `SHA256SUMS`.
    #[serde(default)]
    pub holders: BTreeMap<Holder, Span<String>>,
    /// The certificate of the key that signs `InRelease`. Its token and the PIN of
    /// that are kept by two people.
    pub archive: Option<Span<String>>,
    /// How long a certificate is valid from the day on which it is made or extended.
    #[serde(default = "two_years")]
    pub expires: Period,
}

impl Default for OpenPgp {
    fn default() -> Self {
        Self { holders: BTreeMap::new(), archive: None, expires: two_years() }
    }
}

fn two_years() -> Period {
    Period(2 * 365 * DAY)
}

/// An OpenPGP certificate of the policy, with the names of its two keys, under which
/// `terminal.toml` lists them.
#[derive(Debug, Clone)]
pub struct CertificateEntry<'a> {
    /// Whose it is; that of the archive is nobody's.
    pub holder: Option<&'a Holder>,
    /// The file, relative to the policy.
    pub file: &'a Span<String>,
    /// The primary key, which certifies: `<holder>-certify`, or `<holder>-2-certify` in a
    /// file `<holder>-2.asc`.
    pub primary: KeyName,
    /// The subkey, which signs: `<holder>-openpgp`, likewise.
    pub signing: KeyName,
}

/// What the keys of the archive's certificate are named after, instead of a holder.
pub const ARCHIVE: &str = "archive";

/// How a product is released.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductPolicy {
    /// Where its source is: a git repository.
    pub source: Span<Location>,
    /// The branches that releases are made from; at most one `*`.
    pub branch: Span<String>,
    /// The tag of a version; contains `{version}`.
    pub tag: Span<String>,
    /// Files with the maintainers' OpenPGP certificates or SSH allowed signers.
    #[serde(rename = "tag-signers")]
    pub tag_signers: Vec<Span<String>>,
    /// Keys of maintainers that no longer count, one fingerprint a line.
    #[serde(rename = "tag-revoked")]
    pub tag_revoked: Option<Span<String>>,
    /// How many maintainers must have signed.
    #[serde(rename = "tag-threshold", default = "one")]
    pub tag_threshold: u32,
    /// The release managers' keys.
    pub keys: Vec<Span<String>>,
    /// How many release managers must sign.
    pub threshold: Span<u32>,
    /// How many people besides the starter must rebuild.
    pub rebuilds: Span<u32>,
    /// How long the release manifest is valid.
    pub expires: Span<Period>,
}

fn one() -> u32 {
    1
}

/// A period: `90d`, `12h`, `1y` (365 days).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Period(u32);

impl Period {
    /// As a duration.
    pub fn duration(self) -> SignedDuration {
        SignedDuration::from_secs(i64::from(self.0))
    }
}

impl TryFrom<String> for Period {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let day = u64::from(DAY);
        let seconds = with_unit(&text, &[("h", 60 * 60), ("d", day), ("y", 365 * day)])
            .ok_or_else(|| format!("`{text}` is not a period such as \"90d\", \"12h\" or \"1y\""))?;
        match u32::try_from(seconds) {
            Ok(seconds) if (1..=20 * 365 * DAY).contains(&seconds) => Ok(Self(seconds)),
            _ => Err(format!("`{text}` is not between one hour and 20 years")),
        }
    }
}

impl Policy {
    /// Parses and checks the policy at `path`.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn parse(path: &Path, text: String) -> Result<Self, ConfigError> {
        let text = Text::new(path, text);
        let policy: Self = text.parse()?;
        policy.check(&text)?;
        Ok(policy)
    }

    fn check(&self, text: &Text) -> Result<(), ConfigError> {
        text.check_version(&self.version, VERSION)?;
        for entry in self.keys.values() {
            check_path(text, &entry.public)?;
            if let Some(holder) = &entry.holder {
                self.check_holder(text, holder)?;
            }
        }
        for (holder, file) in &self.openpgp.holders {
            check_path(text, file)?;
            if !self.holders.contains_key(holder) {
                let message = format!("there is no holder `{holder}`");
                return Err(text.error(file, message));
            }
        }
        self.check_archive(text)?;
        let mut names = BTreeSet::new();
        for entry in self.certificates() {
            if !names.insert(entry.primary.clone()) {
                return Err(text.error(entry.file, format!("another certificate has a key `{}`", entry.primary)));
            }
            if let Some(taken) = [&entry.primary, &entry.signing].into_iter().find(|name| self.keys.contains_key(*name))
            {
                return Err(
                    text.error(&self.keys[taken].public, format!("`{taken}` is the name of a key of a certificate"))
                );
            }
        }
        self.check_roles(text)?;
        for product in self.products.values() {
            self.check_product(text, product)?;
        }
        self.check_use(text)
    }

    fn check_archive(&self, text: &Text) -> Result<(), ConfigError> {
        let Some(file) = &self.openpgp.archive else {
            return Ok(());
        };
        check_path(text, file)?;
        if self.openpgp.holders.keys().any(|holder| holder.as_str() == ARCHIVE) {
            return Err(text.error(file, format!("the holder `{ARCHIVE}` has keys of the same names")));
        }
        Ok(())
    }

    fn check_holder(&self, text: &Text, holder: &Span<String>) -> Result<(), ConfigError> {
        if self.holders.keys().any(|known| known.as_str() == holder.get_ref()) {
            return Ok(());
        }
        Err(text.dangling(holder, "holder", self.holders.keys().map(Holder::as_str)))
    }

    fn check_roles(&self, text: &Text) -> Result<(), ConfigError> {
        self.check_role(text, &self.role.root.keys, &self.role.root.threshold)?;
        self.check_role(text, &self.role.targets.keys, &self.role.targets.threshold)?;
        self.find_key(text, &self.role.online.key)?;
        if self.role.online.expires.get_ref().0 > MAX_ONLINE_DAYS * DAY {
            return Err(
                text.error(&self.role.online.expires, format!("a seal is valid for at most {MAX_ONLINE_DAYS} days"))
            );
        }
        Ok(())
    }

    fn check_product(&self, text: &Text, product: &ProductPolicy) -> Result<(), ConfigError> {
        self.check_role(text, &product.keys, &product.threshold)?;
        for key in &product.keys {
            let holder = self.find_key(text, key)?.holder.as_ref().map_or("", |holder| holder.get_ref());
            if !self.claim_keys().any(|(_, claimant)| claimant.as_str() == holder) {
                return Err(text.error(
                    key,
                    format!(
                        "`{holder}` has no claim key, so nobody could say what `{holder}` has built; the claim key of \
                         a holder is the key whose name ends in `{CLAIM_SUFFIX}`"
                    ),
                ));
            }
        }
        let people = product.keys.len();
        if *product.rebuilds.get_ref() as usize >= people {
            return Err(text.error(
                &product.rebuilds,
                format!("only {people} people hold keys; at most {} of them can rebuild", people - 1),
            ));
        }
        if product.tag_threshold == 0 {
            return Err(text.error(&product.tag, "`tag-threshold` is at least 1"));
        }
        if product.tag_signers.is_empty() {
            return Err(text.error(&product.tag, "`tag-signers` names no file: nobody could sign a tag"));
        }
        for file in product.tag_signers.iter().chain(&product.tag_revoked) {
            check_path(text, file)?;
        }
        if product.tag.get_ref().matches("{version}").count() != 1
            || !is_ref(&product.tag.get_ref().replace("{version}", "1"))
        {
            return Err(text.error(&product.tag, "a tag is a git tag name with `{version}` in it once"));
        }
        let branch = product.branch.get_ref();
        if branch.matches('*').count() > 1 || !is_ref(&branch.replace('*', "x")) {
            return Err(text.error(&product.branch, "a branch is a git branch name with at most one `*`"));
        }
        Ok(())
    }

    /// Keys exist, each of another person, and enough of them.
    fn check_role(&self, text: &Text, keys: &[Span<String>], threshold: &Span<u32>) -> Result<(), ConfigError> {
        let mut people = BTreeSet::new();
        for name in keys {
            let entry = self.find_key(text, name)?;
            let Some(holder) = &entry.holder else {
                return Err(
                    text.error(name, format!("key `{}` has no holder, so it cannot count as a person", name.get_ref()))
                );
            };
            if !people.insert(holder.get_ref()) {
                return Err(text.error(
                    name,
                    format!("`{}` holds two keys of this role; one person counts once", holder.get_ref()),
                ));
            }
        }
        match *threshold.get_ref() as usize {
            0 => Err(text.error(threshold, "a threshold is at least 1")),
            needed if needed > people.len() => {
                Err(text.error(threshold, format!("{needed} of {} people can never sign", people.len())))
            }
            _ => Ok(()),
        }
    }

    fn find_key(&self, text: &Text, name: &Span<String>) -> Result<&KeyEntry, ConfigError> {
        let found = self.keys.iter().find(|(known, _)| known.as_str() == name.get_ref());
        found.map(|(_, entry)| entry).ok_or_else(|| text.dangling(name, "key", self.keys.keys().map(KeyName::as_str)))
    }

    /// Purposes never share a key, and every key has one.
    fn check_use(&self, text: &Text) -> Result<(), ConfigError> {
        let mut used: BTreeMap<&str, &str> = BTreeMap::new();
        let root = self.role.root.keys.iter().map(|key| (key, "root"));
        let targets = self.role.targets.keys.iter().map(|key| (key, "targets"));
        let online = std::iter::once((&self.role.online.key, "online"));
        let products =
            self.products.iter().flat_map(|(name, product)| product.keys.iter().map(move |key| (key, name.as_str())));
        for (key, purpose) in root.chain(targets).chain(online).chain(products) {
            let name = key.get_ref().as_str();
            if name.ends_with(CLAIM_SUFFIX) {
                return Err(text.error(key, format!("`{name}` is a claim key by its name; it signs nothing else")));
            }
            // Products may share their release managers' keys.
            let both_products = |other: &str| {
                let is_product = |name: &str| self.products.keys().any(|product| product.as_str() == name);
                is_product(other) && is_product(purpose)
            };
            if let Some(other) = used.insert(name, purpose).filter(|other| *other != purpose && !both_products(other)) {
                return Err(
                    text.error(key, format!("key `{name}` serves `{other}` already; purposes never share a key"))
                );
            }
        }
        let mut claimants = BTreeSet::new();
        for (name, entry) in &self.keys {
            if name.as_str().ends_with(CLAIM_SUFFIX) {
                let Some(holder) = &entry.holder else {
                    return Err(text.error(&entry.public, format!("claim key `{name}` has no holder")));
                };
                if !claimants.insert(holder.get_ref()) {
                    return Err(text.error(holder, format!("`{}` has two claim keys", holder.get_ref())));
                }
            } else if !used.contains_key(name.as_str()) {
                return Err(text.error(&entry.public, format!("no role uses key `{name}`")));
            }
        }
        Ok(())
    }

    /// The holder of a key.
    pub fn holder_of(&self, key: &KeyName) -> Option<Holder> {
        self.keys.get(key)?.holder.as_ref()?.get_ref().parse().ok()
    }

    /// Whose key it is, also of OpenPGP keys.
    pub fn owner_of(&self, key: &KeyName) -> Option<Holder> {
        self.holder_of(key).or_else(|| self.certificate_of(key)?.holder.cloned())
    }

    /// The claim key of a holder: the one whose name ends in `-claim`.
    pub fn claim_key(&self, holder: &Holder) -> Option<&KeyName> {
        self.claim_keys().find(|(_, owner)| owner == holder).map(|(name, _)| name)
    }

    /// All claim keys with their holders.
    pub fn claim_keys(&self) -> impl Iterator<Item = (&KeyName, Holder)> {
        self.keys
            .keys()
            .filter(|name| name.as_str().ends_with(CLAIM_SUFFIX))
            .filter_map(|name| Some((name, self.holder_of(name)?)))
    }

    /// The OpenPGP certificates.
    pub fn certificates(&self) -> impl Iterator<Item = CertificateEntry<'_>> {
        let of_holders = self.openpgp.holders.iter().map(|(holder, file)| (Some(holder), file));
        let all = of_holders.chain(self.openpgp.archive.iter().map(|file| (None, file)));
        all.filter_map(|(holder, file)| {
            let whose = holder.map_or(ARCHIVE, Holder::as_str);
            // A later certificate has a number in its name, and so have its keys.
            let stem = file.get_ref().rsplit('/').next().and_then(|name| name.strip_suffix(".asc")).unwrap_or_default();
            let number = stem.strip_prefix(whose).and_then(|rest| rest.strip_prefix('-'));
            let whose = if number.is_some_and(|number| number.parse::<u32>().is_ok()) { stem } else { whose };
            let name = |purpose: &str| format!("{whose}-{purpose}").parse().ok();
            Some(CertificateEntry { holder, file, primary: name("certify")?, signing: name("openpgp")? })
        })
    }

    /// The certificate that a key is in, if it is an OpenPGP key.
    pub fn certificate_of(&self, key: &KeyName) -> Option<CertificateEntry<'_>> {
        self.certificates().find(|entry| entry.primary == *key || entry.signing == *key)
    }

    /// The name in a certificate: that of its holder, or of the archive.
    pub fn name_in(&self, entry: &CertificateEntry<'_>) -> String {
        let holder = entry.holder.and_then(|holder| self.holders.get(holder));
        holder.map_or_else(|| format!("Archive of {}", self.repository.get_ref()), |name| name.as_str().to_owned())
    }

    /// All keys with the files of their public halves, which for OpenPGP keys are
    /// certificates.
    pub fn public_files(&self) -> impl Iterator<Item = (KeyName, &str)> {
        let keys = self.keys.iter().map(|(name, entry)| (name.clone(), entry.public.get_ref().as_str()));
        let of_openpgp = self.certificates().flat_map(|entry| {
            let file = entry.file.get_ref().as_str();
            [(entry.signing, file), (entry.primary, file)]
        });
        keys.chain(of_openpgp)
    }

    /// A file about a key, beside that of its public half: `<key>.<what>`.
    pub fn file_beside(public: &str, key: &KeyName, what: &str) -> String {
        let folder = public.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        format!("{folder}{key}.{what}")
    }

    /// What a key is for.
    pub fn purpose_of(&self, key: &KeyName) -> Option<Purpose> {
        let lists = |keys: &[Span<String>]| keys.iter().any(|name| name.get_ref() == key.as_str());
        if lists(&self.role.root.keys) {
            Some(Purpose::Root)
        } else if lists(&self.role.targets.keys) {
            Some(Purpose::Targets)
        } else if lists(std::slice::from_ref(&self.role.online.key)) {
            Some(Purpose::Online)
        } else if self.products.values().any(|product| lists(&product.keys)) {
            Some(Purpose::Release)
        } else if self.keys.contains_key(key) && key.as_str().ends_with(CLAIM_SUFFIX) {
            Some(Purpose::Claim)
        } else {
            let entry = self.certificate_of(key)?;
            Some(match entry.holder {
                None => Purpose::Archive,
                Some(_) if entry.primary == *key => Purpose::Certify,
                Some(_) => Purpose::OpenPgp,
            })
        }
    }

    /// All files that the policy names, relative to it.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let keys = self.keys.values().map(|entry| entry.public.get_ref().as_str());
        let certificates = self.certificates().map(|entry| entry.file.get_ref().as_str());
        keys.chain(certificates).chain(self.tag_files())
    }

    /// The files that say who may sign tags.
    pub fn tag_files(&self) -> impl Iterator<Item = &str> {
        self.products
            .values()
            .flat_map(|product| product.tag_signers.iter().chain(&product.tag_revoked))
            .map(|file| file.get_ref().as_str())
    }

    /// The safety rules that the policy switches off, as users are told.
    pub fn insecure(&self) -> Vec<String> {
        let mut names = Vec::new();
        if self.insecure_same_terminal {
            names.push("same-terminal".to_owned());
        }
        if self.insecure_software_keys {
            names.push("software-keys".to_owned());
        }
        if self.insecure_weak_firmware {
            names.push("weak-firmware".to_owned());
        }
        names
    }
}

impl ProductPolicy {
    /// The tag of a version. Git allows no `~` in names; Debian's DEP-14 writes
    /// `_` for it.
    pub fn tag_of(&self, version: &Version) -> String {
        self.tag.get_ref().replace("{version}", &version.as_str().replace('~', "_"))
    }
}

/// How the names of claim keys end.
const CLAIM_SUFFIX: &str = "-claim";

/// A path below the folder of the policy.
fn check_path(text: &Text, path: &Span<String>) -> Result<(), ConfigError> {
    let plain = |segment: &str| !segment.is_empty() && segment != "." && segment != "..";
    if path.get_ref().split('/').all(plain) && !path.get_ref().chars().any(char::is_control) {
        return Ok(());
    }
    Err(text.error(path, "name a file below the folder of this policy, without `..`"))
}

/// The rules of git-check-ref-format(1) that matter here, and no control or
/// glob characters.
fn is_ref(name: &str) -> bool {
    let component = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && !part.ends_with('.')
            && part.rsplit('.').next() != Some("lock")
    };
    name.split('/').all(component)
        && !name.contains("..")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-/".contains(&b))
}
