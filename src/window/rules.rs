//! The rule set of the kernel's firewall: from the configuration, and as the kernel has
//! it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;

use super::WindowError;
use crate::home::Home;
use crate::manifest::Sha256;
use crate::manifest::json;
use crate::manifest::json::JsonError;
use crate::policy::Destination;
use crate::policy::Location;
use crate::policy::MirrorEntry;
use crate::process::Program;
use crate::progress::Progress;

/// The rules, with places for users and addresses.
const TEMPLATE: &str = include_str!("../../packaging/terminal/terminal.nft.in");

/// The table of the rules, as nft is told.
pub(super) const TABLE: &str = "inet release_terminal";
/// Its set of what can be reached now.
pub(super) const WINDOW: &str = "window";

/// The mark of connections to a destination.
pub(super) fn mark(to: Destination) -> u64 {
    match to {
        Destination::Source => 1,
        Destination::Mirrors => 2,
    }
}

/// What a window to a destination leads to, by address and port.
///
/// # Errors
/// A host of source has no address.
pub fn pinned(home: &Home, to: Destination) -> Result<BTreeSet<SocketAddr>, WindowError> {
    let mut found = BTreeSet::new();
    match to {
        Destination::Source => {
            for product in home.policy.products.values() {
                let Location::Remote(remote) = product.source.get_ref() else { continue };
                let host = home.terminal.sources.iter().find(|entry| *entry.host.get_ref() == remote.host);
                let addresses = host.map_or(&[][..], |host| &host.address);
                if addresses.is_empty() {
                    return Err(WindowError::NoAddress(remote.host.to_string()));
                }
                found.extend(addresses.iter().map(|address| SocketAddr::new(*address, remote.port())));
            }
        }
        Destination::Mirrors => {
            for entry in home.terminal.mirrors.values() {
                if let MirrorEntry::Sftp(entry) = entry {
                    found.extend(entry.endpoints());
                }
            }
        }
    }
    Ok(found)
}

/// The rules that this home needs, as a file for nft.
///
/// # Errors
/// `terminal.toml` has no firewall; a host of source has no address.
pub fn render(home: &Home) -> Result<String, WindowError> {
    let entry = home.terminal.window.as_ref().ok_or(WindowError::NoFirewall)?;
    let mut text = TEMPLATE.replace("@user@", entry.user.as_str());
    for to in Destination::ALL {
        let (v4, v6): (Vec<SocketAddr>, Vec<SocketAddr>) = pinned(home, to)?.iter().partition(|at| at.is_ipv4());
        for (family, all) in [(4, v4), (6, v6)] {
            text = text.replace(&format!("@{to}{family}@"), &elements(&all));
        }
    }
    Ok(text)
}

/// The elements of a set, which nft does not take if there are none.
fn elements(all: &[SocketAddr]) -> String {
    if all.is_empty() {
        return "# none".to_owned();
    }
    let all: Vec<String> = all.iter().map(|at| format!("{} . {}", at.ip(), at.port())).collect();
    format!("elements = {{ {} }}", all.join(", "))
}

/// Loads rules from standard input where they do nothing, and shows what the kernel has
/// made of them.
const TRY: &str = "nft -f - && exec nft --json list table inet release_terminal";

/// The digest of what the kernel has once [`render`]'s rules are loaded: they are, in a
/// network namespace that is gone afterwards.
///
/// # Errors
/// As [`render`]; nft does not take the rules, since a user is missing; it is not
/// installed.
pub fn expected(home: &Home, progress: &dyn Progress) -> Result<Sha256, WindowError> {
    let nft = Program::new("unshare").usual_args(["--user", "--map-root-user", "--net", "sh", "-c", TRY]);
    let listed = nft.feed(render(home)?.as_bytes(), progress)?;
    Ok(digest(&json::from_slice(&listed)?)?)
}

/// The digest of a rule set as `nft --json list table` shows it, without what changes by
/// itself: numbers that the kernel gives, counters, the order of sets, and the elements
/// of the window.
pub(super) fn digest(listing: &Value) -> Result<Sha256, JsonError> {
    let mut listing = listing.clone();
    if let Some(entries) = listing["nftables"].as_array_mut() {
        entries.retain(|entry| entry.get("metainfo").is_none());
        for entry in entries {
            if entry["set"]["name"] == WINDOW {
                entry["set"]["elem"].take();
            }
            settle(entry);
        }
    }
    json::digest(&listing)
}

fn settle(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("handle");
            // Of a counter that has a name; where one is used, that is a text.
            if let Some(Value::Object(counter)) = members.get_mut("counter") {
                counter.remove("packets");
                counter.remove("bytes");
            }
            for (name, member) in members {
                settle(member);
                if let (true, Value::Array(items)) = (matches!(name.as_str(), "elem" | "set"), member) {
                    items.sort_by_cached_key(ToString::to_string);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listing(handle: u64, packets: u64, elements: &Value, port: u16) -> Value {
        json!({ "nftables": [
            { "metainfo": { "version": "1.0.6" } },
            { "counter": { "name": "refused_in", "handle": handle, "packets": packets, "bytes": 60 * packets } },
            { "set": { "name": "window", "type": "mark", "handle": handle + 1, "elem": elements } },
            { "set": { "name": "source", "handle": handle + 2, "elem": [{ "concat": ["192.0.2.1", port] }] } },
            { "rule": { "handle": handle + 3, "expr": [{ "counter": "refused_in" }, { "accept": null }] } },
        ] })
    }

    #[test]
    fn the_digest_is_of_the_rules_alone() {
        let first = digest(&listing(1, 0, &json!([]), 22)).unwrap();
        let later = listing(7, 9, &json!([{ "elem": { "val": 1, "timeout": 60, "expires": 12 } }]), 22);
        assert_eq!(digest(&later).unwrap(), first);
        assert_ne!(digest(&listing(1, 0, &json!([]), 23)).unwrap(), first);
        let mut other = later.clone();
        other["nftables"][4]["rule"]["expr"][1] = json!({ "drop": null });
        assert_ne!(digest(&other).unwrap(), first);
        let mut other = later;
        other["nftables"].as_array_mut().unwrap().pop();
        assert_ne!(digest(&other).unwrap(), first);
    }

    #[test]
    fn the_order_of_sets_says_nothing() {
        let set = |all: &[&str]| json!({ "nftables": [{ "set": { "name": "source", "elem": all } }] });
        assert_eq!(digest(&set(&["a", "b"])).unwrap(), digest(&set(&["b", "a"])).unwrap());
        assert_ne!(digest(&set(&["a", "b"])).unwrap(), digest(&set(&["a", "c"])).unwrap());
    }
}
