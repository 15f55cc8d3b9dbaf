//! Who will sign, found out before anything is built.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;

use super::SignError;
use super::keyid;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::PublicKey;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Product;
use crate::policy::Place;

/// The keys that this terminal will use for one product.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Who builds here: the first release manager with keys here.
    pub builder: Holder,
    /// The builder's claim key.
    pub claim: KeyName,
    /// The release managers' keys that will sign, with their holders.
    pub release: Vec<(KeyName, Holder)>,
    /// How many may sign.
    pub of: usize,
    /// How many must sign.
    pub need: u32,
    /// How many people besides the starter must rebuild.
    pub rebuilds: u32,
    /// OpenPGP keys with their holders and certificates.
    pub openpgp: Vec<(KeyName, Holder, PathBuf)>,
    /// The key of snapshot and timestamp.
    pub online: KeyName,
    /// The key of suites for apt, if the product's packages go there.
    pub archive: Option<KeyName>,
    /// All release managers: their keys by id.
    pub managers: BTreeMap<String, (Holder, PublicKey)>,
    /// The certificates of those release managers who have one, with the keys that sign
    /// in them.
    pub certificates: BTreeMap<Holder, (KeyName, PathBuf)>,
    keyids: BTreeMap<KeyName, String>,
}

impl Plan {
    /// The plan of whoever starts a release. Others may have to approve it.
    ///
    /// # Errors
    /// Nobody's keys are here, or the policy does not allow those that are.
    pub fn new(home: &Home, product: &Product) -> Result<Self, SignError> {
        let mut plan = Self::of(home, product, |_| true)?;
        plan.release.truncate(plan.need as usize);
        plan.openpgp = plan.own_certificates();
        Self::check_here(home, plan.keys())?;
        Ok(plan)
    }

    /// The plan for a withdrawal: nothing is built, so that nobody claims anything.
    ///
    /// # Errors
    /// As [`Self::new`]; also too few release managers' keys are here.
    pub fn to_withdraw(home: &Home, product: &Product) -> Result<Self, SignError> {
        let mut plan = Self::of(home, product, |_| true)?;
        let need = plan.need as usize;
        if plan.release.len() < need {
            let have = plan.release.into_iter().map(|(_, holder)| holder).collect();
            return Err(SignError::NeedsOthers { product: product.clone(), have, need });
        }
        plan.release.truncate(need);
        Self::check_here(home, plan.release.iter().map(|(key, _)| key).chain([&plan.online]).chain(&plan.archive))?;
        Ok(plan)
    }

    /// The plan of one release manager who approves what `starter` has started.
    ///
    /// # Errors
    /// Nobody but the starter has keys here, or the policy does not allow those that
    /// are.
    pub fn to_approve(home: &Home, product: &Product, starter: &Holder) -> Result<Self, SignError> {
        let mut plan = Self::of(home, product, |holder| holder != starter)?;
        plan.release.truncate(1);
        plan.openpgp = plan.own_certificates();
        // Whoever has started it seals it.
        plan.archive = None;
        Self::check_here(home, plan.keys().into_iter().filter(|key| **key != plan.online))?;
        Ok(plan)
    }

    /// The plan of somebody who rebuilds what `starter` has started, and signs nothing
    /// but a claim.
    ///
    /// # Errors
    /// Nobody but the starter has a claim key here.
    pub fn to_rebuild(home: &Home, product: &Product, starter: &Holder) -> Result<Self, SignError> {
        let here = home.policy.claim_keys().filter(|(key, _)| home.terminal.tokens.contains_key(*key));
        let (own, others): (Vec<_>, Vec<_>) = here.partition(|(_, holder)| holder == starter);
        let Some((claim, builder)) = others.into_iter().next() else {
            return Err(if own.is_empty() { SignError::NoClaimKeyHere } else { SignError::Starter(starter.clone()) });
        };
        let mut plan = Self::all(home, product)?;
        (plan.builder, plan.claim, plan.release) = (builder, claim.clone(), Vec::new());
        Self::check_here(home, [&plan.claim])?;
        Ok(plan)
    }

    /// The keys of those people here who are wanted.
    fn of(home: &Home, product: &Product, wanted: impl Fn(&Holder) -> bool) -> Result<Self, SignError> {
        let mut plan = Self::all(home, product)?;
        let policy = &home.policy;
        plan.release.retain(|(key, _)| home.terminal.tokens.contains_key(key));
        let people: BTreeSet<&Holder> = plan.release.iter().map(|(_, holder)| holder).collect();
        if people.len() > 1 && plan.rebuilds > 0 && !policy.insecure_same_terminal {
            return Err(SignError::SameTerminal(people.into_iter().cloned().collect()));
        }
        let starter = plan.release.iter().find(|(_, holder)| !wanted(holder)).map(|(_, holder)| holder.clone());
        plan.release.retain(|(_, holder)| wanted(holder));
        let Some((_, builder)) = plan.release.first().cloned() else {
            return Err(match starter {
                Some(starter) => SignError::Starter(starter),
                None => SignError::NeedsOthers { product: product.clone(), have: Vec::new(), need: plan.need as usize },
            });
        };
        plan.claim = policy.claim_key(&builder).cloned().ok_or_else(|| SignError::NoClaimKey(builder.clone()))?;
        plan.builder = builder;
        Ok(plan)
    }

    /// All release managers of a product, wherever their keys are.
    fn all(home: &Home, product: &Product) -> Result<Self, SignError> {
        let policy = &home.policy;
        home.terminal.check_tokens(policy)?;
        let damaged = |reason: &str| {
            SignError::Home(HomeError::Damaged { path: home.folder().join("policy.toml"), reason: reason.to_owned() })
        };
        let Some(of_product) = policy.products.get(product) else {
            return Err(SignError::NeedsOthers { product: product.clone(), have: Vec::new(), need: 1 });
        };
        let release: Vec<(KeyName, Holder)> = of_product
            .keys
            .iter()
            .filter_map(|key| {
                let name: KeyName = key.get_ref().parse().ok()?;
                let holder = policy.holder_of(&name)?;
                Some((name, holder))
            })
            .collect();
        let (mut keyids, mut managers, mut certificates) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (name, holder) in &release {
            let public = load_public(home, name)?;
            let id = keyid(&public)?;
            keyids.insert(name.clone(), id.clone());
            managers.insert(id, (holder.clone(), public));
            if let Some(entry) = policy.certificates().find(|entry| entry.holder == Some(holder)) {
                certificates.insert(holder.clone(), (entry.signing, home.resolve(entry.file.get_ref())));
            }
        }
        let (first, builder) = release.first().cloned().ok_or_else(|| damaged("a product has no keys"))?;
        let online = policy.role.online.key.get_ref().parse();
        let archive = of_product.apt.as_ref().and_then(|_| policy.archive()).map(|entry| entry.signing);
        Ok(Self {
            archive,
            builder,
            claim: first,
            of: release.len(),
            need: *of_product.threshold.get_ref(),
            rebuilds: *of_product.rebuilds.get_ref(),
            openpgp: Vec::new(),
            online: online.map_err(|_| damaged("the online key has no usable name"))?,
            release,
            managers,
            certificates,
            keyids,
        })
    }

    /// The OpenPGP keys of those who sign here and have a certificate.
    fn own_certificates(&self) -> Vec<(KeyName, Holder, PathBuf)> {
        let own = self.release.iter().filter_map(|(_, holder)| {
            let (key, path) = self.certificates.get(holder)?.clone();
            Some((key, holder.clone(), path))
        });
        own.collect()
    }

    /// Checks that this terminal may use these keys.
    fn check_here<'k>(home: &Home, keys: impl IntoIterator<Item = &'k KeyName>) -> Result<(), SignError> {
        for key in keys {
            match home.terminal.tokens.get(key).map(toml::Spanned::get_ref) {
                None => return Err(SignError::NoToken(key.clone())),
                Some(Place::File(_)) if !home.policy.insecure_software_keys => {
                    return Err(SignError::SoftwareKey(key.clone()));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Whether people elsewhere must sign or rebuild before this terminal can.
    pub fn needs_others(&self) -> bool {
        self.rebuilds > 0 || self.release.len() < self.need as usize
    }

    /// The TUF id of a release manager's key.
    ///
    /// # Errors
    /// The key is not part of the plan.
    pub fn keyid(&self, name: &KeyName) -> Result<&str, SignError> {
        self.keyids.get(name).map(String::as_str).ok_or_else(|| SignError::NotOpened(name.clone()))
    }

    /// All keys that will be opened, in the order of their use.
    pub fn keys(&self) -> Vec<&KeyName> {
        let release = self.release.iter().map(|(key, _)| key);
        let openpgp = self.openpgp.iter().map(|(key, ..)| key);
        std::iter::once(&self.claim).chain(release).chain(openpgp).chain([&self.online]).chain(&self.archive).collect()
    }
}

/// Reads the public half of a key of the policy.
///
/// # Errors
/// The file is missing or holds no such key.
pub fn load_public(home: &Home, name: &KeyName) -> Result<PublicKey, SignError> {
    let entry = home.policy.keys.get(name).ok_or_else(|| SignError::NoToken(name.clone()))?;
    let path = home.resolve(entry.public.get_ref());
    let pem = String::from_utf8(atomic::read(&path)?).unwrap_or_default();
    Ok(PublicKey::from_pem(&pem).map_err(|reason| HomeError::Damaged { path, reason })?)
}

/// The claim keys of the policy by key id, with their holders.
///
/// # Errors
/// The file of a public key is missing or holds no such key.
pub fn claim_keys(home: &Home) -> Result<BTreeMap<String, (Holder, PublicKey)>, SignError> {
    let mut keys = BTreeMap::new();
    for (name, holder) in home.policy.claim_keys() {
        let public = load_public(home, name)?;
        keys.insert(keyid(&public)?, (holder, public));
    }
    Ok(keys)
}
