//! What is signed for an amendment, by whom, and who has.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::Value;
use sigstore_tuf::Metadata;
use sigstore_tuf::Root;
use sigstore_tuf::Targets;

use super::AmendError;
use super::rules::NamedFiles;
use super::rules::Rules;
use crate::approve::Amendment;
use crate::approve::Renewed;
use crate::home::Home;
use crate::home::atomic;
use crate::key::PublicKey;
use crate::key::ToSign;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::json;
use crate::policy::Policy;
use crate::policy::RoleEntry;
use crate::policy::Span;
use crate::repository::RepositoryError;
use crate::repository::State;
use crate::repository::seal;
use crate::tuf::Draft;
use crate::tuf::SignedPolicy;
use crate::tuf::people;
use crate::tuf::product::WITHDRAWN;

/// The role of that name.
pub(super) const ROOT: &str = "root";
/// The role of that name.
pub(super) const TARGETS: &str = "targets";

/// A key that may sign a payload.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub name: KeyName,
    pub holder: Holder,
    pub public: PublicKey,
}

/// People of whom so many must sign.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// Members by the ids of their keys.
    pub of: BTreeMap<String, Member>,
    pub need: usize,
}

impl Group {
    fn new(rules: &Rules<'_>, policy: &Policy, keys: &[Span<String>], need: u32) -> Result<Self, AmendError> {
        let mut of = BTreeMap::new();
        for key in keys {
            let (name, id, public) = rules.key(key.get_ref())?;
            if let Some(holder) = policy.holder_of(name) {
                of.insert(id.to_owned(), Member { name: name.clone(), holder, public: public.clone() });
            }
        }
        Ok(Self { of, need: need as usize })
    }

    /// Who has signed, by these key ids.
    pub fn signed<'s>(&self, keyids: impl Iterator<Item = &'s str>) -> BTreeSet<&Holder> {
        keyids.filter_map(|id| self.of.get(id)).map(|member| &member.holder).collect()
    }
}

/// A metadata file and who must sign it.
#[derive(Debug, Clone)]
pub(super) struct Payload {
    pub draft: Draft,
    /// A new root needs enough people of the old one, and of the new one.
    pub groups: Vec<Group>,
}

impl Payload {
    pub fn member(&self, keyid: &str) -> Option<&Member> {
        self.groups.iter().find_map(|group| group.of.get(keyid))
    }

    /// The keys that are to sign, of those that are available, so that no more sign
    /// than must. With what they make, the payload is complete if `true` is given.
    pub fn choose(&self, available: &dyn Fn(&Member) -> bool) -> (Vec<Member>, bool) {
        let mut signed: BTreeSet<String> = self.draft.signed_by().map(str::to_owned).collect();
        let mut chosen = Vec::new();
        let mut all: Vec<(&String, &Member)> = self.groups.iter().flat_map(|group| &group.of).collect();
        // Whoever counts for both roots comes first; then the same people for every role, so
        // that few are asked for a PIN.
        let groups_of = |id: &str| self.groups.iter().filter(|group| group.of.contains_key(id)).count();
        all.sort_by_key(|(id, member)| (std::cmp::Reverse(groups_of(id)), member.holder.clone()));
        for (id, member) in all {
            let helps = self.groups.iter().any(|group| {
                let people = group.signed(signed.iter().map(String::as_str));
                group.of.contains_key(id) && people.len() < group.need && !people.contains(&member.holder)
            });
            if helps && available(member) {
                signed.insert(id.clone());
                chosen.push(member.clone());
            }
        }
        let enough = |group: &Group| group.signed(signed.iter().map(String::as_str)).len() >= group.need;
        (chosen, self.groups.iter().all(enough))
    }

    /// Adds a signature that a member has made.
    ///
    /// # Errors
    /// It is by nobody who should sign this, or wrong.
    pub fn add(&mut self, keyid: &str, holder: Option<&Holder>, signature: &[u8]) -> Result<(), AmendError> {
        let role = self.draft.role().to_owned();
        let refuse = |reason: &str| AmendError::Signature { role: role.clone(), reason: reason.to_owned() };
        let member = self.member(keyid).ok_or_else(|| refuse("it is by a key that does not sign it"))?;
        if holder.is_some_and(|holder| *holder != member.holder) {
            return Err(refuse(&format!("it is by a key of {}", member.holder)));
        }
        if !member.public.verifies(ToSign::Message(&self.draft.canonical()?), signature) {
            return Err(refuse(&format!("it is not by {} over what is computed here", member.name)));
        }
        self.draft.add_signature(keyid, signature);
        Ok(())
    }

    /// Where it is kept with the signatures so far.
    pub fn file(&self, folder: &Path) -> PathBuf {
        signing_file(folder, self.draft.role())
    }
}

/// Where the metadata of a role is kept, with the signatures so far.
pub(super) fn signing_file(folder: &Path, role: &str) -> PathBuf {
    folder.join(SIGNING).join(format!("{role}.json"))
}

/// The folder of an amendment's metadata.
const SIGNING: &str = "signing";

/// A key that leaves a role.
#[derive(Debug, Clone)]
pub(super) struct Leaving {
    pub role: String,
    pub name: KeyName,
    pub keyid: String,
}

/// All of an amendment that follows from its policy and files.
pub(super) struct Computed {
    pub policy: Policy,
    pub payloads: Vec<Payload>,
    /// New files of the top-level role.
    pub files: NamedFiles,
    pub leaving: Vec<Leaving>,
}

impl Computed {
    /// All who may sign.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.payloads.iter().flat_map(|payload| &payload.groups).flat_map(|group| group.of.values())
    }

    /// Digests of what is signed, by role.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn digests(&self) -> Result<BTreeMap<String, Sha256>, AmendError> {
        let digest = |payload: &Payload| Ok((payload.draft.role().to_owned(), payload.draft.digest()?));
        self.payloads.iter().map(digest).collect()
    }

    /// Takes over the signatures that were made before.
    ///
    /// # Errors
    /// A file cannot be read, or holds a wrong signature.
    pub fn restore(&mut self, folder: &Path) -> Result<(), AmendError> {
        for payload in &mut self.payloads {
            let Some(file) = atomic::read_if_there(&payload.file(folder))? else {
                continue;
            };
            let kept = Draft::parse(payload.draft.role(), &file)?;
            // Another number was taken meanwhile.
            if kept.digest()? != payload.draft.digest()? {
                continue;
            }
            for keyid in kept.signed_by() {
                payload.add(keyid, None, &kept.signature(keyid).unwrap_or_default())?;
            }
        }
        Ok(())
    }
}

/// Computes the first root and the first targets.
///
/// # Errors
/// The policy cannot become metadata.
pub(super) fn first(policy: &Policy, folder: &Path, at: Timestamp) -> Result<Computed, AmendError> {
    let rules = Rules::load(policy, folder)?;
    let group = |role: &RoleEntry| Group::new(&rules, policy, &role.keys, *role.threshold.get_ref());
    let (targets, files) = rules.targets(1, at, None)?;
    let payloads = vec![
        Payload { draft: rules.root(1, at)?, groups: vec![group(&policy.role.root)?] },
        Payload { draft: targets, groups: vec![group(&policy.role.targets)?] },
    ];
    Ok(Computed { policy: policy.clone(), payloads, files, leaving: Vec::new() })
}

/// What a renewed manifest follows, and which number it gets.
pub(super) type Numbers<'n> = &'n dyn Fn(&Product, u64) -> u64;

/// Fills in products and digests of an amendment that is being made.
///
/// # Errors
/// The policy cannot become metadata.
pub(super) fn fix(
    home: &Home,
    state: &State,
    folder: &Path,
    amendment: &mut Amendment,
    numbers: Numbers<'_>,
    everything: bool,
) -> Result<Computed, AmendError> {
    let policy = parse(folder, &amendment.policy)?;
    let rules = Rules::load(&policy, folder)?;
    let (targets, _) = rules.targets(amendment.number, amendment.at, Some(&state.targets.1))?;
    amendment.products.clear();
    for (product, (number, file)) in &state.roles {
        if policy.products.contains_key(product) && (everything || !still_signed(product, file, &targets)?) {
            let renewed = Renewed { number: numbers(product, *number), follows: Sha256::of(file) };
            amendment.products.insert(product.clone(), renewed);
        }
    }
    let with_root = everything || !same_keys(state.newest_root()?, &rules.root(1, amendment.at)?)?;
    let computed = compute(home, state, folder, amendment, with_root)?;
    amendment.roles = computed.digests()?;
    Ok(computed)
}

/// The policy of an amendment.
///
/// # Errors
/// It has a mistake.
pub(super) fn parse(folder: &Path, text: &str) -> Result<Policy, AmendError> {
    let path = super::rules::policy_path(folder);
    Ok(Policy::parse(&path, text.to_owned()).map_err(crate::home::HomeError::from)?)
}

/// Computes what an amendment asks to sign.
///
/// # Errors
/// It leaves out what must be signed, or follows another state.
pub(super) fn compute(
    home: &Home,
    state: &State,
    folder: &Path,
    amendment: &Amendment,
    with_root: bool,
) -> Result<Computed, AmendError> {
    let refuse = |reason: String| AmendError::Refused { starter: amendment.starter.clone(), reason };
    if amendment.number != state.targets.0 + 1 {
        return Err(AmendError::Stale { number: amendment.number, newest: state.targets.0 });
    }
    let policy = parse(folder, &amendment.policy)?;
    let rules = Rules::load(&policy, folder)?;
    let (old_policy, old_rules) = (&home.policy, Rules::load(&home.policy, home.folder())?);
    let mut payloads = Vec::new();
    let root = rules.root(state.roots.len() as u64 + 1, amendment.at)?;
    if with_root {
        let (old, new) = (&old_policy.role.root, &policy.role.root);
        let groups = vec![
            Group::new(&old_rules, old_policy, &old.keys, *old.threshold.get_ref())?,
            Group::new(&rules, &policy, &new.keys, *new.threshold.get_ref())?,
        ];
        payloads.push(Payload { draft: root, groups });
    } else if !same_keys(state.newest_root()?, &root)? {
        return Err(refuse("it changes keys of the root, and makes no new root".to_owned()));
    }
    let (targets, files) = rules.targets(amendment.number, amendment.at, Some(&state.targets.1))?;
    for (product, (_, file)) in &state.roles {
        if !policy.products.contains_key(product) {
            return Err(refuse(format!("it drops the product {product}")));
        }
        if !amendment.products.contains_key(product) && !still_signed(product, file, &targets)? {
            return Err(refuse(format!("too few people would have signed the manifest of {product}")));
        }
    }
    let role = &policy.role.targets;
    let groups = vec![Group::new(&rules, &policy, &role.keys, *role.threshold.get_ref())?];
    payloads.push(Payload { draft: targets, groups });
    for (product, renewed) in &amendment.products {
        let of_product = policy.products.get(product);
        let (Some((number, file)), Some(of_product)) = (state.roles.get(product), of_product) else {
            return Err(refuse(format!("it renews the manifest of {product}, which has none here")));
        };
        if renewed.follows != Sha256::of(file) || renewed.number <= *number {
            return Err(AmendError::OtherManifest { product: product.clone(), number: *number });
        }
        let before = json::from_slice_strict(file).map_err(RepositoryError::from)?;
        let (listed, withdrawn) = (&before["signed"][TARGETS], &before["signed"][WITHDRAWN]);
        let expires = seal::expiry(amendment.at, of_product.expires.get_ref().duration());
        let draft = Draft::product(product.as_str(), renewed.number, expires, listed, withdrawn);
        let groups = vec![Group::new(&rules, &policy, &of_product.keys, *of_product.threshold.get_ref())?];
        payloads.push(Payload { draft, groups });
    }
    let leaving = leaving(old_policy, &old_rules, &policy, &rules)?;
    drop(rules);
    Ok(Computed { policy, payloads, files, leaving })
}

/// Keys that are in a role by one policy, and not by the next.
fn leaving(
    old: &Policy,
    old_rules: &Rules<'_>,
    new: &Policy,
    new_rules: &Rules<'_>,
) -> Result<Vec<Leaving>, AmendError> {
    let mut leaving = Vec::new();
    for (role, keys) in roles_of(old) {
        let now = roles_of(new).into_iter().find(|(name, _)| *name == role).map(|(_, keys)| keys).unwrap_or_default();
        let now: BTreeSet<&str> = now.into_iter().filter_map(|key| Some(new_rules.key(key).ok()?.1)).collect();
        for key in keys {
            let (name, keyid, _) = old_rules.key(key)?;
            if !now.contains(keyid) {
                leaving.push(Leaving { role: role.clone(), name: name.clone(), keyid: keyid.to_owned() });
            }
        }
    }
    Ok(leaving)
}

/// The keys of each role that is signed.
fn roles_of<'p>(policy: &'p Policy) -> Vec<(String, Vec<&'p str>)> {
    let names = |keys: &'p [Span<String>]| keys.iter().map(|key| key.get_ref().as_str()).collect();
    let mut roles: Vec<(String, Vec<&str>)> = vec![
        (ROOT.to_owned(), names(&policy.role.root.keys)),
        (TARGETS.to_owned(), names(&policy.role.targets.keys)),
        ("timestamp".to_owned(), vec![policy.role.online.key.get_ref().as_str()]),
    ];
    for (product, entry) in &policy.products {
        roles.push((product.to_string(), names(&entry.keys)));
    }
    roles
}

/// Whether a root has the keys and thresholds of another one.
fn same_keys(root: &[u8], draft: &Draft) -> Result<bool, AmendError> {
    let before = json::from_slice_strict(root).map_err(RepositoryError::from)?;
    let (old, new): (&Value, &Value) = (&before["signed"], draft.signed());
    Ok(["keys", "roles"].iter().all(|member| old[member] == new[member]))
}

/// Whether a release manifest is signed by enough people, and nobody else, under new
/// targets.
fn still_signed(product: &Product, file: &[u8], targets: &Draft) -> Result<bool, AmendError> {
    let damaged = |error: String| RepositoryError::Damaged { file: format!("{product}.json"), reason: error };
    let role = Metadata::<Targets>::from_slice(file).map_err(|error| damaged(error.to_string()))?;
    let targets = Metadata::<Targets>::from_slice(&targets.to_file()?).map_err(|error| damaged(error.to_string()))?;
    let policy = SignedPolicy::of(targets.signed()).map_err(|error| damaged(error.to_string()))?;
    let holders = policy.holder_of_key().map_err(|error| damaged(error.to_string()))?;
    let delegations = targets.signed().delegations.as_ref();
    let of_product = delegations.and_then(|all| all.roles.iter().find(|role| role.name == product.as_str()));
    let (Some(delegations), Some(of_product)) = (delegations, of_product) else {
        return Ok(false);
    };
    let signers = people::signers(&role, &delegations.keys, &of_product.role_keys(), &holders);
    Ok(signers.met() && signers.signed.len() == role.signatures().len())
}

/// Whether a file that one key and others have signed would count. `signed` holds the
/// new root and the new targets.
///
/// # Errors
/// They cannot be read.
pub(super) fn would_count(file: &[u8], role: &str, root: &[u8], targets: &[u8]) -> Result<bool, AmendError> {
    let damaged =
        |error: sigstore_tuf::Error| RepositoryError::Damaged { file: role.to_owned(), reason: error.to_string() };
    let root = Metadata::<Root>::from_slice(root).map_err(damaged)?;
    let root = root.signed();
    let counts = match role {
        ROOT => {
            let keys = root.role(ROOT);
            let metadata = Metadata::<Root>::from_slice(file).map_err(damaged)?;
            keys.is_some_and(|keys| metadata.verify_threshold(&root.keys, keys, ROOT).is_ok())
        }
        TARGETS => {
            let keys = root.role(TARGETS);
            let metadata = Metadata::<Targets>::from_slice(file).map_err(damaged)?;
            keys.is_some_and(|keys| metadata.verify_threshold(&root.keys, keys, TARGETS).is_ok())
        }
        "timestamp" => {
            let keys = root.role(role);
            let metadata = Metadata::<sigstore_tuf::Timestamp>::from_slice(file).map_err(damaged)?;
            keys.is_some_and(|keys| metadata.verify_threshold(&root.keys, keys, role).is_ok())
        }
        product => {
            let targets = Metadata::<Targets>::from_slice(targets).map_err(damaged)?;
            let delegations = targets.signed().delegations.as_ref();
            let found = delegations.and_then(|all| Some((all, all.roles.iter().find(|role| role.name == product)?)));
            let metadata = Metadata::<Targets>::from_slice(file).map_err(damaged)?;
            found.is_some_and(|(all, role)| metadata.verify_threshold(&all.keys, &role.role_keys(), product).is_ok())
        }
    };
    Ok(counts)
}
