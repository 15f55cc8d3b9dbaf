//! The strict check of a bundle, before its content counts as a copy.
//!
//! Stricter than TUF, which must tolerate other writers: only we write bundles.
//! One root chain from the first root, which contains the pinned root byte for
//! byte; every file consistent with the others; no signature that is surplus,
//! doubled, invalid or written in capitals, and nothing beside what is signed.

use std::collections::BTreeMap;

use sigstore_tuf::Key;
use sigstore_tuf::Metadata;
use sigstore_tuf::Role;
use sigstore_tuf::Root;
use sigstore_tuf::Snapshot;
use sigstore_tuf::Targets;
use sigstore_tuf::Timestamp;
use sigstore_tuf::TrustedMetadataSet;

use super::Origin;
use super::Rejection;
use super::Source;
use crate::manifest::Bundle;
use crate::manifest::Sha256;
use crate::tuf::BEFORE_ALL;
use crate::tuf::Copies;
use crate::tuf::Draft;
use crate::tuf::key;

/// More signatures than this in a root chain are refused: whoever makes up roots
/// before the pinned one can put any number of keys in them, and each signature
/// costs time.
const MAX_CHAIN_SIGNATURES: usize = 512;

/// Checks a bundle against the pinned root and gives its copies.
///
/// # Errors
/// Whatever is not as a bundle must be. Expiry is not judged here.
pub fn check(name: &str, bundle: &Bundle, pinned_root: &[u8]) -> Result<Source, Rejection> {
    let origin = Origin::Bundle(name.to_owned());
    let wrong = |file: &str, source| Rejection::Metadata { origin: origin.clone(), file: file.to_owned(), source };
    if !bundle.roots.iter().any(|root| root == pinned_root) {
        return Err(Rejection::OtherRoot { name: name.to_owned(), pinned: Sha256::of(pinned_root).short() });
    }

    let mut copies = Copies::default();
    let mut signatures = 0;
    let mut set: Option<TrustedMetadataSet> = None;
    for (file, number) in bundle.roots.iter().zip(1_u64..) {
        let file_name = format!("{number}.root.json");
        let metadata = Metadata::<Root>::from_slice(file).map_err(|e| wrong(&file_name, e))?;
        signatures += metadata.signatures().len();
        if signatures > MAX_CHAIN_SIGNATURES {
            let reason = format!("the root chain has more than {MAX_CHAIN_SIGNATURES} signatures");
            return Err(rule(&origin, &file_name, &reason));
        }
        let mut allowed = allowed_keys(metadata.signed(), "root");
        let next = match set.take() {
            None if metadata.signed().version == 1 => {
                TrustedMetadataSet::from_root(file).map_err(|e| wrong(&file_name, e))?
            }
            None => return Err(rule(&origin, &file_name, "the chain does not begin with the first root")),
            Some(mut set) => {
                allowed.extend(allowed_keys(set.root(), "root"));
                set.update_root(file).map_err(|e| wrong(&file_name, e))?;
                set
            }
        };
        only_good_signatures(&origin, &file_name, &metadata, &allowed)?;
        nothing_else(&origin, &file_name, file)?;
        copies.roots.insert(number, file.clone());
        set = Some(next);
    }
    let Some(mut set) = set else {
        return Err(rule(&origin, "1.root.json", "there is no root"));
    };

    let product = bundle.product.as_str();
    set.update_timestamp(&bundle.timestamp, BEFORE_ALL).map_err(|e| wrong("timestamp.json", e))?;
    set.update_snapshot(&bundle.snapshot, BEFORE_ALL).map_err(|e| wrong("snapshot.json", e))?;
    set.update_targets(&bundle.targets, BEFORE_ALL).map_err(|e| wrong("targets.json", e))?;
    set.update_delegated_targets(&bundle.role, product, "targets", BEFORE_ALL)
        .map_err(|e| wrong(&format!("{product}.json"), e))?;

    let root = set.root();
    signatures_of::<Timestamp>(&origin, "timestamp.json", &bundle.timestamp, &allowed_keys(root, "timestamp"))?;
    signatures_of::<Snapshot>(&origin, "snapshot.json", &bundle.snapshot, &allowed_keys(root, "snapshot"))?;
    signatures_of::<Targets>(&origin, "targets.json", &bundle.targets, &allowed_keys(root, "targets"))?;
    let delegated = set.targets_role("targets").and_then(|targets| targets.delegations.as_ref());
    let of_product = delegated.map_or_else(BTreeMap::new, |delegations| {
        let keyids = delegations.roles.iter().filter(|role| role.name == product).flat_map(|role| &role.keyids);
        keyids.filter_map(|id| Some((id.clone(), delegations.keys.get(id)?.clone()))).collect()
    });
    signatures_of::<Targets>(&origin, &format!("{product}.json"), &bundle.role, &of_product)?;

    copies.timestamp = Some(bundle.timestamp.clone());
    copies.snapshot = Some(bundle.snapshot.clone());
    copies.targets = Some(bundle.targets.clone());
    copies.roles.insert(bundle.product.clone(), bundle.role.clone());
    Ok(Source { origin, copies })
}

fn rule(origin: &Origin, file: &str, reason: &str) -> Rejection {
    Rejection::Rule { origin: origin.clone(), file: file.to_owned(), reason: reason.to_owned() }
}

fn allowed_keys(root: &Root, role: &str) -> BTreeMap<String, Key> {
    let keyids = root.role(role).map(|role| role.keyids.as_slice()).unwrap_or_default();
    keyids.iter().filter_map(|id| Some((id.clone(), root.keys.get(id)?.clone()))).collect()
}

fn signatures_of<T: Role>(
    origin: &Origin,
    file_name: &str,
    file: &[u8],
    allowed: &BTreeMap<String, Key>,
) -> Result<(), Rejection> {
    let metadata = Metadata::<T>::from_slice(file).map_err(|source| Rejection::Metadata {
        origin: origin.clone(),
        file: file_name.to_owned(),
        source,
    })?;
    only_good_signatures(origin, file_name, &metadata, allowed)?;
    nothing_else(origin, file_name, file)
}

/// No member beside `signed`, `signatures` and what they hold: nobody signed it.
/// Roots and the timestamp could have one; others are pinned by their digest.
fn nothing_else(origin: &Origin, file_name: &str, file: &[u8]) -> Result<(), Rejection> {
    let written = Draft::parse(file_name, file).and_then(|draft| draft.to_file());
    match written {
        Ok(written) if written == file => Ok(()),
        _ => Err(rule(origin, file_name, "it holds more than what is signed and signatures in order")),
    }
}

fn only_good_signatures<T: Role>(
    origin: &Origin,
    file_name: &str,
    metadata: &Metadata<T>,
    allowed: &BTreeMap<String, Key>,
) -> Result<(), Rejection> {
    let mut seen = Vec::new();
    for signature in metadata.signatures() {
        let refuse =
            |what: &str| Err(rule(origin, file_name, &format!("{what} signature by key {}", short(&signature.keyid))));
        let Some(key) = allowed.get(&signature.keyid) else {
            return refuse("a surplus");
        };
        if seen.contains(&&signature.keyid) {
            return refuse("a doubled");
        }
        seen.push(&signature.keyid);
        let lower = signature.sig.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let good = match hex::decode(&signature.sig) {
            Ok(bytes) => lower && key::verifies(key, metadata.signed_canonical(), &bytes),
            Err(_) => false,
        };
        if !good {
            return refuse("an invalid");
        }
    }
    Ok(())
}

/// A key id for one line of a terminal, whatever it holds.
fn short(keyid: &str) -> String {
    crate::manifest::names::quoted(&keyid.chars().take(12).collect::<String>())
}
