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
use crate::policy::Policy;

/// The keys that a cut of one product will use on this terminal.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Who starts the cut: the first release manager with keys here.
    pub starter: Holder,
    /// The starter's claim key.
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
    keyids: BTreeMap<KeyName, String>,
}

impl Plan {
    /// Makes the plan for a product.
    ///
    /// # Errors
    /// Keys are missing here, or the policy does not allow those that are.
    pub fn new(home: &Home, product: &Product) -> Result<Self, SignError> {
        let plan = Self::of(home, product)?;
        if plan.rebuilds > 0 {
            return Err(SignError::NeedsRebuilds { product: product.clone(), need: plan.rebuilds });
        }
        Ok(plan)
    }

    /// The plan for a withdrawal: nothing is built, so that nobody claims anything.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn to_withdraw(home: &Home, product: &Product) -> Result<Self, SignError> {
        Ok(Self { openpgp: Vec::new(), ..Self::of(home, product)? })
    }

    fn of(home: &Home, product: &Product) -> Result<Self, SignError> {
        let policy = &home.policy;
        home.terminal.check_tokens(policy)?;
        let here = |key: &KeyName| home.terminal.tokens.contains_key(key);
        let Some(of_product) = policy.products.get(product) else {
            return Err(SignError::NeedsOthers { product: product.clone(), have: Vec::new(), need: 1 });
        };
        let all: Vec<(KeyName, Holder)> = of_product
            .keys
            .iter()
            .filter_map(|key| {
                let name: KeyName = key.get_ref().parse().ok()?;
                let holder = policy.holder_of(&name)?;
                Some((name, holder))
            })
            .collect();
        let of = all.len();
        let rebuilds = *of_product.rebuilds.get_ref();
        let mut release: Vec<(KeyName, Holder)> = all.into_iter().filter(|(key, _)| here(key)).collect();
        let people: BTreeSet<&Holder> = release.iter().map(|(_, holder)| holder).collect();
        if people.len() > 1 && rebuilds > 0 && !policy.insecure_same_terminal {
            return Err(SignError::SameTerminal(people.into_iter().cloned().collect()));
        }
        let need = *of_product.threshold.get_ref() as usize;
        if release.len() < need {
            let have = release.into_iter().map(|(_, holder)| holder).collect();
            return Err(SignError::NeedsOthers { product: product.clone(), have, need });
        }
        release.truncate(need);
        let Some((_, starter)) = release.first().cloned() else {
            return Err(SignError::NeedsOthers { product: product.clone(), have: Vec::new(), need });
        };
        let claim = policy.claim_key(&starter).cloned().ok_or_else(|| SignError::NoClaimKey(starter.clone()))?;
        let openpgp = openpgp_keys(policy, home, &release);
        let online: KeyName = policy.role.online.key.get_ref().parse().map_err(|_| {
            SignError::Home(HomeError::Damaged {
                path: home.folder().join("policy.toml"),
                reason: "the online key has no usable name".to_owned(),
            })
        })?;
        let mut keyids = BTreeMap::new();
        for (name, _) in &release {
            keyids.insert(name.clone(), keyid(&load_public(home, name)?)?);
        }
        let plan = Self {
            starter,
            claim,
            release,
            of,
            need: *of_product.threshold.get_ref(),
            rebuilds,
            openpgp,
            online,
            keyids,
        };
        for key in plan.keys() {
            match home.terminal.tokens.get(key).map(toml::Spanned::get_ref) {
                None => return Err(SignError::NoToken(key.clone())),
                Some(Place::File(_)) if !policy.insecure_software_keys => {
                    return Err(SignError::SoftwareKey(key.clone()));
                }
                Some(_) => {}
            }
        }
        Ok(plan)
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
        std::iter::once(&self.claim).chain(release).chain(openpgp).chain([&self.online]).collect()
    }
}

/// The OpenPGP keys of those release managers who have a certificate.
fn openpgp_keys(policy: &Policy, home: &Home, release: &[(KeyName, Holder)]) -> Vec<(KeyName, Holder, PathBuf)> {
    release
        .iter()
        .filter_map(|(_, holder)| {
            let certificate = policy.openpgp.holders.get(holder)?;
            Some((Policy::openpgp_key(holder)?, holder.clone(), home.resolve(certificate.get_ref())))
        })
        .collect()
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
