//! The newest valid copy of one role, among all places that have one.

use sigstore_tuf::Metadata;
use sigstore_tuf::Role;
use sigstore_tuf::Root;

use super::Origin;
use super::Rejection;
use super::Source;
use crate::tuf::Copies;
use crate::tuf::people::Signers;

/// A role that was found: its file, its content, and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Found<T> {
    pub(super) origin: Origin,
    pub(super) file: Vec<u8>,
    pub(super) metadata: Metadata<T>,
}

/// The copy with the highest number among those that `check` accepts. Where all
/// are refused, the reason of the first one that is not remembered.
pub(super) fn newest<T: Role + Clone>(
    sources: &[Source],
    name: &str,
    ignored: &mut Vec<String>,
    copy: impl Fn(&Copies) -> Option<&[u8]>,
    mut check: impl FnMut(&Found<T>) -> Result<(), Rejection>,
) -> Result<Found<T>, Rejection> {
    let mut best: Option<Found<T>> = None;
    let mut refused: Option<Rejection> = None;
    for source in sources {
        let Some(file) = copy(&source.copies) else {
            continue;
        };
        let found = match Metadata::<T>::from_slice(file) {
            Ok(metadata) => Found { origin: source.origin.clone(), file: file.to_vec(), metadata },
            Err(error) => {
                refused.get_or_insert(Rejection::Metadata {
                    origin: source.origin.clone(),
                    file: format!("{name}.json"),
                    source: error,
                });
                continue;
            }
        };
        if let Err(rejection) = check(&found) {
            if source.origin != Origin::Memory {
                ignored.push(rejection.to_string());
            }
            if refused.is_none() || source.origin != Origin::Memory {
                refused = Some(rejection);
            }
            continue;
        }
        match &best {
            Some(other) if other.metadata.signed().version() == found.metadata.signed().version() => {
                if other.metadata.signed_canonical() != found.metadata.signed_canonical() {
                    return Err(Rejection::Equivocation {
                        file: file_name(name, &found),
                        first: other.origin.clone(),
                        second: found.origin,
                    });
                }
                // Who says now that it is the newest counts more than memory.
                if matches!(found.origin, Origin::Repository(_)) {
                    best = Some(found);
                }
            }
            Some(other) if other.metadata.signed().version() > found.metadata.signed().version() => {}
            _ => best = Some(found),
        }
    }
    match (best, refused) {
        (Some(found), _) => Ok(found),
        (None, Some(rejection)) => Err(rejection),
        (None, None) => Err(Rejection::Nothing { file: format!("{name}.json") }),
    }
}

pub(super) fn file_name<T: Role>(name: &str, found: &Found<T>) -> String {
    if name == "timestamp" {
        "timestamp.json".to_owned()
    } else {
        format!("{}.{name}.json", found.metadata.signed().version())
    }
}

/// The threshold by keys that the root declares for a top-level role.
pub(super) fn top_level<T: Role>(root: &Root, found: &Found<T>, name: &str) -> Result<(), Rejection> {
    let role = root.role(name).ok_or_else(|| no_role(&found.origin, name))?;
    found.metadata.verify_threshold(&root.keys, role, name).map_err(|source| Rejection::Metadata {
        origin: found.origin.clone(),
        file: file_name(name, found),
        source,
    })
}

pub(super) fn no_role(origin: &Origin, name: &str) -> Rejection {
    Rejection::Rule { origin: origin.clone(), file: "root.json".to_owned(), reason: format!("it has no role `{name}`") }
}

/// The threshold by people.
pub(super) fn enough<T: Role>(found: &Found<T>, name: &str, signers: &Signers) -> Result<(), Rejection> {
    if signers.met() {
        return Ok(());
    }
    Err(Rejection::TooFewPeople {
        origin: found.origin.clone(),
        file: file_name(name, found),
        have: signers.signed.keys().cloned().collect(),
        of: signers.holders.len(),
        need: signers.threshold,
    })
}

/// A rule of ours that a copy breaks.
pub(super) fn rule<T: Role>(name: &str, found: &Found<T>, reason: String) -> Rejection {
    Rejection::Rule { origin: found.origin.clone(), file: file_name(name, found), reason }
}
