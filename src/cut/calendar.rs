//! What expires, when, and who can renew it by which command.

use jiff::SignedDuration;
use jiff::Timestamp;

use super::Cut;
use super::CutError;
use crate::enrol;
use crate::home::Home;
use crate::home::atomic;
use crate::key::piv::TokenName;
use crate::manifest::KeyName;
use crate::openpgp::Certificate;
use crate::policy::Span;
use crate::progress::Event;
use crate::repository::RepositoryError;
use crate::repository::State;
use crate::repository::state;

/// How long before an expiry it is shown as due.
const NOTICE: SignedDuration = SignedDuration::from_hours(90 * 24);

/// Something that expires.
#[derive(Debug, Clone)]
pub struct Expiry {
    /// What.
    pub what: String,
    /// When.
    pub at: Timestamp,
    /// From when on it should be renewed.
    pub due: Timestamp,
    /// The people of whom enough must act; `None` where the command says who.
    pub who: Option<String>,
    /// The command that renews it, behind `release`.
    pub command: String,
    /// Whether the next release needs it to be valid, and does not renew it itself.
    is_needed: bool,
}

/// All that expires, the soonest first.
///
/// # Errors
/// Metadata or a certificate cannot be read.
pub fn calendar(state: &State, home: &Home, now: Timestamp) -> Result<Vec<Expiry>, RepositoryError> {
    let policy = &home.policy;
    let notice = |at: Timestamp| at.checked_sub(NOTICE).unwrap_or(at);
    let of_people = |what: String, at: Timestamp, keys: &[Span<String>], need: u32, is_needed| {
        let holders = keys.iter().filter_map(|key| policy.holder_of(&key.get_ref().parse().ok()?));
        let names: Vec<String> = holders.map(|holder| holder.to_string()).collect();
        let who = Some(format!("{need} of {}", names.join(", ")));
        Expiry { what, at, due: notice(at), who, command: "key renew".to_owned(), is_needed }
    };
    let mut all = Vec::new();
    let roles = [&policy.role.root, &policy.role.targets];
    for ((name, at), role) in state.top_level_expiry()?.into_iter().zip(roles) {
        all.push(of_people(name.to_owned(), at, &role.keys, *role.threshold.get_ref(), true));
    }
    for (product, (_, role)) in &state.roles {
        let at = state::expiry(product.as_str(), role)?;
        if let Some(entry) = policy.products.get(product) {
            let what = format!("releases of {product}");
            all.push(of_people(what, at, &entry.keys, *entry.threshold.get_ref(), false));
        }
    }
    let at = state::expiry("timestamp.json", &state.timestamp.1)?;
    let half = policy.role.online.expires.get_ref().duration() / 2;
    let (what, due) = ("the seal".to_owned(), at.checked_sub(half).unwrap_or(at));
    all.push(Expiry { what, at, due, who: None, command: "refresh".to_owned(), is_needed: false });
    for entry in policy.certificates() {
        let file = atomic::read_if_there(&home.resolve(entry.file.get_ref()))?;
        let certificate = file.and_then(|file| Certificate::one(&file).ok());
        if let Some(at) = certificate.and_then(|certificate| certificate.expires()) {
            let (whose, option) = entry.holder.map_or_else(
                || ("the archive".to_owned(), "--archive".to_owned()),
                |holder| (holder.to_string(), format!("--holder {holder}")),
            );
            let (what, command) = (format!("certificate of {whose}"), format!("key openpgp extend {option}"));
            all.push(Expiry { what, at, due: notice(at), who: None, command, is_needed: true });
        }
    }
    for (serial, (at, keys)) in enrol::attested_until(policy, home.folder(), now) {
        let token = TokenName { serial, holder: keys.first().and_then(|key| policy.owner_of(key)) };
        let keys: Vec<&str> = keys.iter().map(KeyName::as_str).collect();
        let (what, command) = (format!("attestation of {token}"), format!("key rotate {}", keys.join(" ")));
        all.push(Expiry { what, at, due: notice(at), who: None, command, is_needed: true });
    }
    all.sort_by_key(|expiry| expiry.at);
    Ok(all)
}

impl Cut<'_> {
    /// Refuses a release whose successor nobody could make, since something that it
    /// needs will have expired by then. What is due is told.
    pub(super) fn check_calendar(&self, state: &State) -> Result<(), CutError> {
        let now = (self.now)();
        let policy = &self.home.policy;
        let next = policy.next_release.map_or(now, |period| now.checked_add(period.duration()).unwrap_or(now));
        for expiry in calendar(state, self.home, now)?.into_iter().filter(|expiry| expiry.is_needed) {
            if policy.next_release.is_some() && expiry.at < next {
                let Expiry { what, at, command, .. } = expiry;
                return Err(CutError::ExpiresBefore { what, at, next, command });
            }
            if expiry.due < now {
                let Expiry { what, at, command, .. } = expiry;
                let date = at.strftime("%Y-%m-%d");
                self.operator
                    .event(Event::Warning(&format!("{what} expires on {date}: `release {command}` renews it")));
            }
        }
        Ok(())
    }
}
