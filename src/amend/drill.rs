//! Rehearses every change of keys on a throw-away copy of the project: the same policy,
//! with keys that are files and belong to nobody.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use jiff::civil::Date;
use toml_edit::DocumentMut;
use zeroize::Zeroizing;

use super::Amend;
use super::AmendError;
use super::Amending;
use super::Edit;
use super::Outcome;
use crate::approve::Request;
use crate::cut::Approving;
use crate::cut::Calendar;
use crate::cut::CutError;
use crate::cut::Operator;
use crate::cut::Preview;
use crate::cut::Review;
use crate::cut::Stopped;
use crate::cut::Withdrawing;
use crate::home;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::init;
use crate::key::KeyError;
use crate::key::Secrets;
use crate::key::piv::Secret;
use crate::key::piv::TokenName;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Sha256;
use crate::policy::Policy;
use crate::policy::Span;
use crate::progress::Event;
use crate::progress::Progress;
use crate::progress::Silent;
use crate::transport::Files;
use crate::transport::Folder;
use crate::verify::repository;
use crate::verify::repository::Extent;

/// Somebody who exists nowhere else.
const GUEST: &str = "drill-guest";

/// A change that was rehearsed.
#[derive(Debug)]
pub struct Rehearsed {
    /// The case, in words.
    pub case: &'static str,
    /// The command, behind `release key`.
    pub change: String,
    /// How long it took, signing, proof and publishing, in milliseconds.
    pub milliseconds: u128,
}

/// A case: what happened, and what is done about it; `None` where this policy has too
/// few people for it.
type Case = (&'static str, fn(&Policy) -> Option<Edit>);

const CASES: [Case; 9] = [
    ("one key is rotated", |policy| Some(Edit::Rotate(names(&policy.role.root.keys, 1)))),
    ("a whole threshold is rotated", |policy| {
        let role = &policy.role.root;
        Some(Edit::Rotate(names(&role.keys, *role.threshold.get_ref() as usize)))
    }),
    ("a token is stolen", |policy| {
        let spare = |keys: &[Span<String>], need: u32| keys.len() > need as usize;
        let (root, targets) = (&policy.role.root, &policy.role.targets);
        let products = policy.products.values().all(|product| {
            spare(&product.keys, *product.threshold.get_ref()) && spare(&product.keys, *product.rebuilds.get_ref() + 1)
        });
        let enough = spare(&root.keys, *root.threshold.get_ref()) && spare(&targets.keys, *targets.threshold.get_ref());
        let holder = policy.holder_of(names(&root.keys, 1).first()?)?;
        let own = policy.keys.keys().filter(|key| policy.holder_of(key).as_ref() == Some(&holder)).cloned();
        (products && enough).then(|| Edit::Revoke(own.collect()))
    }),
    ("a person comes", |_| Some(Edit::AddHolder { holder: GUEST.parse().ok()?, name: None, roles: Vec::new() })),
    ("a threshold is raised", |policy| threshold(policy, 1)),
    ("a threshold is lowered", |policy| threshold(policy, -1)),
    ("a person goes", |_| Some(Edit::RemoveHolder(GUEST.parse().ok()?))),
    ("the online key is stolen", |_| Some(Edit::Recover)),
    ("everything is about to expire", |_| Some(Edit::Renew)),
];

/// The first keys of a role.
fn names(keys: &[Span<String>], count: usize) -> Vec<KeyName> {
    keys.iter().take(count).filter_map(|key| key.get_ref().parse().ok()).collect()
}

fn threshold(policy: &Policy, by: i32) -> Option<Edit> {
    let role = &policy.role.root;
    let threshold = role.threshold.get_ref().checked_add_signed(by)?;
    let possible = (2..=role.keys.len()).contains(&(threshold as usize));
    possible.then(|| Edit::SetThreshold { role: super::payload::ROOT.to_owned(), threshold })
}

/// Rehearses all cases in an empty folder. `told` hears of each. Nothing of the home is
/// changed, and no key of it is used.
///
/// # Errors
/// A change failed, or a user who begins with the first root does not follow.
pub fn rehearse(
    home: &Home,
    folder: &Path,
    now: &dyn Fn() -> Timestamp,
    told: &mut dyn FnMut(&Rehearsed),
) -> Result<(), AmendError> {
    let (path, copy, mirror) = (folder.join("policy/policy.toml"), folder.join("home"), folder.join("mirror"));
    let text = home::read_text(&home.folder().join("policy.toml"))?.unwrap_or_default();
    let damaged = |error: toml_edit::TomlError| HomeError::Damaged { path: path.clone(), reason: error.to_string() };
    let mut document: DocumentMut = text.parse().map_err(damaged)?;
    for flag in ["insecure-software-keys", "insecure-same-terminal"] {
        document.insert(flag, toml_edit::value(true));
    }
    atomic::write(&path, document.to_string().as_bytes())?;
    for file in home.policy.tag_files() {
        atomic::write(&folder.join("policy").join(file), &atomic::read(&home.resolve(file))?)?;
    }
    let name = "drill".parse().map_err(|error: crate::manifest::names::NameError| HomeError::Damaged {
        path: mirror.clone(),
        reason: error.to_string(),
    })?;
    let request = init::Request {
        home: &copy,
        policy: &path,
        mirrors: &[(name, mirror.clone())],
        toolchains: &[],
        software_keys: true,
        answers: None,
    };
    init::init(&request, &Nobody, now)?;
    let first = fs::read(copy.join("repository/metadata/1.root.json")).map_err(|error| HomeError::io(&copy, error))?;
    let files: Arc<dyn Files> = Arc::new(Folder::new(&mirror));
    for (case, edit) in CASES {
        let copy = Home::open(&copy)?;
        let Some(edit) = edit(&copy.policy) else {
            continue;
        };
        let begun = Instant::now();
        match (Amend { home: &copy, operator: &Nobody, now }).run(&edit, None, true)? {
            Outcome::Done(summary) if summary.mirrors.iter().all(|outcome| outcome.result.is_ok()) => {}
            _ => return Err(AmendError::Drill(case)),
        }
        repository::check(&files, &first, &[], Extent::Everything, now(), &Silent).map_err(CutError::SelfCheck)?;
        told(&Rehearsed { case, change: edit.to_string(), milliseconds: begun.elapsed().as_millis() });
    }
    Ok(())
}

/// Nobody is asked, and nobody is told.
struct Nobody;

impl Progress for Nobody {
    fn event(&self, _: Event<'_>) {}
}

impl Secrets for Nobody {
    fn passphrase(&self, _: &KeyName, _: Option<&Holder>, _: bool) -> Result<Zeroizing<String>, KeyError> {
        Ok(Zeroizing::new("thrown away".to_owned()))
    }

    fn new_passphrase(&self, key: &KeyName, holder: Option<&Holder>) -> Result<Zeroizing<String>, KeyError> {
        self.passphrase(key, holder, false)
    }

    fn pin(&self, token: &TokenName, _: Secret, _: u8) -> Result<Zeroizing<String>, KeyError> {
        Err(KeyError::NoPin { token: token.clone(), reason: "a drill uses no token".to_owned() })
    }

    fn new_pin(&self, token: &TokenName, which: Secret) -> Result<Zeroizing<String>, KeyError> {
        self.pin(token, which, 0)
    }

    fn last_try(&self, _: &TokenName, _: Secret) -> bool {
        false
    }
}

impl Calendar for Nobody {
    fn today(&self, _: Timestamp, _: Timestamp) -> Option<Date> {
        None
    }
}

impl Operator for Nobody {
    fn plan(&self, _: &Preview<'_>) {}

    fn confirm(&self, _: &Review<'_>) -> Result<(), Stopped> {
        Err(Stopped)
    }

    fn requested(&self, _: &Request, _: Sha256) {}

    fn confirm_approval(&self, _: &Approving<'_>) -> Result<(), Stopped> {
        Err(Stopped)
    }

    fn confirm_withdrawal(&self, _: &Withdrawing<'_>) -> Result<(), Stopped> {
        Err(Stopped)
    }

    fn confirm_amendment(&self, _: &Amending<'_>) -> Result<(), Stopped> {
        Ok(())
    }
}
