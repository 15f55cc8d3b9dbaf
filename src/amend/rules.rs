//! What a policy becomes in metadata: `root`, and `targets` with its files. The same
//! policy, files and state before give the same bytes on every terminal, so that
//! whoever signs a change computes it, instead of reading what others have.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;

use super::files::last_segment;
use crate::enrol::ATTESTED;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::PublicKey;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Product;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::json::JsonError;
use crate::manifest::names::NameError;
use crate::openpgp::Certificate;
use crate::openpgp::OpenPgpError;
use crate::policy::ARCHIVE;
use crate::policy::Policy;
use crate::policy::Span;
use crate::repository::RepositoryError;
use crate::repository::seal;
use crate::sign;
use crate::sign::SignError;
use crate::tuf;
use crate::tuf::Draft;
use crate::tuf::SignedPolicy;
use crate::tuf::draft::DraftError;
use crate::tuf::draft::RoleKeys;
use crate::tuf::policy::ClaimKey;
use crate::tuf::policy::HolderEntry;
use crate::tuf::policy::ProductEntry;

/// A policy that cannot become metadata.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// One key under two names: it would count for two people, or two purposes.
    #[error("keys {0} and {1} of the policy are the same key")]
    SameKey(KeyName, KeyName),
    /// A key that the policy does not have.
    #[error("the policy has no key {0}")]
    NoKey(String),
    /// Two files under one name: nobody could tell which is meant.
    #[error("two files of the policy have the name {0}, and differ")]
    SameName(String),
    /// A file of the policy.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A key.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A certificate.
    #[error(transparent)]
    OpenPgp(#[from] OpenPgpError),
    /// A path that has no place, or metadata before that cannot be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// Metadata cannot be made.
    #[error(transparent)]
    Draft(#[from] DraftError),
}

impl From<JsonError> for RulesError {
    fn from(error: JsonError) -> Self {
        DraftError::from(error).into()
    }
}

/// Files of a publication by name.
pub type NamedFiles = Vec<(RepoPath, Vec<u8>)>;

/// A policy with the public halves of its keys.
pub struct Rules<'a> {
    policy: &'a Policy,
    /// The folder that its files are in; `policy.toml` is one of them.
    folder: &'a Path,
    ids: BTreeMap<KeyName, (String, PublicKey)>,
}

impl<'a> Rules<'a> {
    /// Reads the public halves of all keys.
    ///
    /// # Errors
    /// One is missing, malformed, or there under two names.
    pub fn load(policy: &'a Policy, folder: &'a Path) -> Result<Self, RulesError> {
        let mut ids: BTreeMap<KeyName, (String, PublicKey)> = BTreeMap::new();
        for (name, entry) in &policy.keys {
            let path = folder.join(entry.public.get_ref());
            let pem = String::from_utf8(atomic::read(&path)?).unwrap_or_default();
            let public = PublicKey::from_pem(&pem).map_err(|reason| HomeError::Damaged { path, reason })?;
            let id = sign::keyid(&public)?;
            if let Some((other, _)) = ids.iter().find(|(_, (known, _))| *known == id) {
                return Err(RulesError::SameKey(other.clone(), name.clone()));
            }
            ids.insert(name.clone(), (id, public));
        }
        Ok(Self { policy, folder, ids })
    }

    /// The id and the public half of a key.
    ///
    /// # Errors
    /// The policy does not have it.
    pub fn key(&self, name: &str) -> Result<(&KeyName, &str, &PublicKey), RulesError> {
        let found = self.ids.iter().find(|(known, _)| known.as_str() == name);
        let (name, (id, public)) = found.ok_or_else(|| RulesError::NoKey(name.to_owned()))?;
        Ok((name, id, public))
    }

    /// Ids and threshold of a role, and its key objects added to `objects`.
    fn role(
        &self,
        keys: &[Span<String>],
        threshold: u32,
        objects: &mut BTreeMap<String, Value>,
    ) -> Result<RoleKeys, RulesError> {
        let mut keyids = Vec::new();
        for key in keys {
            let (_, id, public) = self.key(key.get_ref())?;
            objects.insert(id.to_owned(), tuf::key::object(public));
            keyids.push(id.to_owned());
        }
        Ok(RoleKeys { keyids, threshold })
    }

    /// The root.
    ///
    /// # Errors
    /// A role names no key.
    pub fn root(&self, number: u64, at: Timestamp) -> Result<Draft, RulesError> {
        let role = &self.policy.role;
        let mut objects = BTreeMap::new();
        let root = self.role(&role.root.keys, *role.root.threshold.get_ref(), &mut objects)?;
        let targets = self.role(&role.targets.keys, *role.targets.threshold.get_ref(), &mut objects)?;
        let online = self.role(std::slice::from_ref(&role.online.key), 1, &mut objects)?;
        let roles =
            BTreeMap::from([("root", root), ("targets", targets), ("snapshot", online.clone()), ("timestamp", online)]);
        Ok(Draft::root(number, seal::expiry(at, role.root.expires.get_ref().duration()), &objects, &roles))
    }

    /// The top-level targets, and the files that it lists with their names. What
    /// `before` lists already keeps its name. Claim keys that `before` has and the policy
    /// has not go on to count, for the releases that were made with them.
    ///
    /// # Errors
    /// A file is missing or malformed.
    pub fn targets(
        &self,
        number: u64,
        at: Timestamp,
        before: Option<&[u8]>,
    ) -> Result<(Draft, NamedFiles), RulesError> {
        let before = match before {
            Some(file) => crate::manifest::json::from_slice_strict(file)?["signed"].take(),
            None => Value::Null,
        };
        let mut listing = Listing {
            number,
            before: &before["targets"],
            targets: serde_json::Map::new(),
            named: BTreeMap::new(),
            files: Vec::new(),
        };
        listing.add("policy", "policy.toml", atomic::read(&self.folder.join("policy.toml"))?, None)?;
        for (name, entry) in &self.policy.keys {
            let pem = atomic::read(&self.folder.join(entry.public.get_ref()))?;
            listing.add("keys", &format!("{name}.{PUBLIC}"), pem, None)?;
        }
        for (name, file) in self.policy.public_files() {
            let attested = self.folder.join(Policy::file_beside(file, &name, ATTESTED));
            if let Some(bytes) = atomic::read_if_there(&attested)? {
                // Users who have no more than a bundle see it as well.
                let facts = crate::manifest::json::from_slice_strict(&bytes)?;
                let custom = json!({ tuf::policy::ATTESTED: facts });
                listing.add("keys", &format!("{name}.{ATTESTED}"), bytes, Some(custom))?;
            }
        }
        for entry in self.policy.certificates() {
            let bytes = atomic::read(&self.folder.join(entry.file.get_ref()))?;
            let certificate = Certificate::one(&bytes)?;
            listing.add("keys", &format!("{}.asc", entry.holder.map_or(ARCHIVE, Holder::as_str)), bytes, None)?;
            for (name, bytes) in certificate.published()? {
                listing.files.push((repo_path(name.parse())?, bytes));
            }
        }
        for file in self.policy.tag_files() {
            listing.add("keys", last_segment(file), atomic::read(&self.folder.join(file))?, None)?;
        }
        let mut objects = BTreeMap::new();
        let mut products = BTreeMap::new();
        for (name, product) in &self.policy.products {
            let role = self.role(&product.keys, *product.threshold.get_ref(), &mut objects)?;
            products.insert(name.to_string(), role);
        }
        let extension = serde_json::to_value(self.signed_policy(&before)?).map_err(JsonError::from)?;
        let expires = seal::expiry(at, self.policy.role.targets.expires.get_ref().duration());
        let Listing { targets, files, .. } = listing;
        Ok((Draft::targets(number, expires, &Value::Object(targets), &objects, &products, &extension), files))
    }

    /// `x-release`.
    fn signed_policy(&self, before: &Value) -> Result<SignedPolicy, RulesError> {
        let policy = self.policy;
        let mut signed = SignedPolicy::new(policy.repository.get_ref().clone());
        signed.insecure = policy.insecure();
        for (holder, name) in &policy.holders {
            signed.holders.insert(holder.clone(), HolderEntry { name: name.clone(), keyids: Vec::new() });
        }
        let of_roles = policy.role.root.keys.iter().chain(&policy.role.targets.keys);
        let of_products = policy.products.values().flat_map(|product| &product.keys);
        let listed: BTreeSet<&String> = of_roles.chain(of_products).map(toml::Spanned::get_ref).collect();
        for key in listed {
            let (name, id, _) = self.key(key)?;
            if let Some(entry) = policy.holder_of(name).and_then(|holder| signed.holders.get_mut(&holder)) {
                entry.keyids.push(id.to_owned());
            }
        }
        for (name, holder) in policy.claim_keys() {
            let (_, id, public) = self.key(name.as_str())?;
            let (_, key) = tuf::key::identified(public).map_err(DraftError::from)?;
            signed.claims.insert(id.to_owned(), ClaimKey { holder, key });
        }
        if let Some(before) = before.get(tuf::policy::MEMBER) {
            let before: SignedPolicy = serde_json::from_value(before.clone()).map_err(JsonError::from)?;
            for (id, claim) in before.claims {
                signed.claims.entry(id).or_insert(claim);
            }
        }
        for (name, product) in &policy.products {
            let rebuilds = *product.rebuilds.get_ref();
            signed.products.insert(Product::clone(name), ProductEntry { rebuilds });
        }
        Ok(signed)
    }
}

/// How the targets end that hold public halves.
pub(super) const PUBLIC: &str = "pem";

/// The targets of the top-level role while they are gathered.
struct Listing<'a> {
    number: u64,
    before: &'a Value,
    targets: serde_json::Map<String, Value>,
    named: BTreeMap<String, Sha256>,
    files: NamedFiles,
}

impl Listing<'_> {
    /// Lists a file as `<folder>/<number>/<name>`, under the number that it has already
    /// if it is listed.
    fn add(&mut self, folder: &str, name: &str, bytes: Vec<u8>, custom: Option<Value>) -> Result<(), RulesError> {
        let sha256 = Sha256::of(&bytes);
        // Names of files without their folders, which may meet.
        match self.named.insert(name.to_owned(), sha256) {
            // Products may share their maintainers.
            Some(other) if other == sha256 => return Ok(()),
            Some(_) => return Err(RulesError::SameName(name.to_owned())),
            None => {}
        }
        let mut entry = json!({ "length": bytes.len(), "hashes": { "sha256": sha256 } });
        if let Some(custom) = custom {
            entry["custom"] = custom;
        }
        let listed = self.before.as_object().into_iter().flatten().find(|(path, known)| {
            let segments: Vec<&str> = path.split('/').collect();
            matches!(segments.as_slice(), [kind, _, file] if *kind == folder && *file == name) && **known == entry
        });
        if let Some((path, entry)) = listed {
            self.targets.insert(path.clone(), entry.clone());
            return Ok(());
        }
        let number = self.number;
        self.targets.insert(format!("{folder}/{number}/{name}"), entry);
        self.files.push((repo_path(format!("targets/{folder}/{number}/{sha256}.{name}").parse())?, bytes));
        Ok(())
    }
}

/// A path of a publication.
pub(super) fn repo_path(made: Result<RepoPath, NameError>) -> Result<RepoPath, RulesError> {
    let no_place =
        |error: NameError| RepositoryError::Damaged { file: "publication".to_owned(), reason: error.to_string() };
    Ok(made.map_err(no_place)?)
}

/// The folder of a policy, for messages.
pub(super) fn policy_path(folder: &Path) -> PathBuf {
    folder.join("policy.toml")
}
