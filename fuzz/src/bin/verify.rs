//! A whole verification: whatever is done to the files of a bundle, nothing
//! verifies that did not verify before.
//!
//! The first byte says whether the attacker has all keys, and seals what he has
//! changed; nothing is asked then but that nothing panics. The rest is changes.

#![no_main]

use std::sync::LazyLock;

use jiff::SignedDuration;
use libfuzzer_sys::fuzz_target;
use release::manifest::Bundle;
use release::manifest::Sha256;
use release::manifest::json;
use release::verify::Judge;
use release::verify::Trust;
use release::verify::Verdict;
use release::verify::strict;
use release_fuzz::LABORATORY;
use release_fuzz::changes::Files;
use release_fuzz::signatures;
use release_fuzz::subject;
use release_fuzz::value;
use serde_json::Value;

/// The files of the bundle in the order in which each names the one before.
static FILES: LazyLock<Files> = LazyLock::new(|| {
    signatures::install();
    let bundle = &LABORATORY.bundle;
    let verdict = judge(bundle).map(|mut judge| judge.judge(&LABORATORY.genuine, LABORATORY.sealed));
    assert!(matches!(verdict, Some(Ok(Verdict::Verified(_)))), "the laboratory's own bundle verifies");
    let metadata = [&bundle.role, &bundle.targets, &bundle.snapshot, &bundle.timestamp];
    let claims = serde_json::to_value(&bundle.claims).unwrap();
    Files::new(metadata.into_iter().chain(&bundle.roots).map(|file| value(file)).chain([claims]))
});

/// The judge whom `release verify` asks; `None` where it rejects all files.
fn judge(bundle: &Bundle) -> Option<Judge> {
    let root = &LABORATORY.root;
    let source = strict::check("changed", bundle, root).ok()?;
    let trust = Trust::establish(root, &bundle.product, &[source]).ok()?;
    Some(Judge::new(trust, bundle.claims.clone()))
}

fuzz_target!(|data: &[u8]| {
    let files = &*FILES;
    let Some((flags, changes)) = data.split_first() else {
        return;
    };
    let stolen = flags & 1 == 1;
    signatures::steal_all_keys(stolen);
    let Some(bundle) = changed(files.change(changes), stolen) else {
        return;
    };
    let Some(mut judge) = judge(&bundle) else {
        return;
    };
    let (sealed, genuine) = (LABORATORY.sealed, &LABORATORY.genuine);
    let later = judge.judge(genuine, sealed + SignedDuration::from_hours(24 * 40));
    let evil = [subject("kestrel-1.0", b"evil"), subject("evil", b"evil"), subject("kestrel-6.6", b"")];
    let evil = evil.map(|evil| judge.judge(&evil, sealed).is_ok());
    let accepted = judge.judge(genuine, sealed).is_ok();
    if stolen {
        return;
    }
    assert!(!evil.contains(&true), "evil content is never accepted");
    assert!(!matches!(later, Ok(Verdict::Verified(_))), "what has expired stays so");
    if accepted {
        let original = &LABORATORY.bundle;
        assert!(original.claims.iter().any(|claim| bundle.claims.contains(claim)));
        let found = Bundle { claims: original.claims.clone(), ..bundle };
        assert_eq!(found, *original, "accepted metadata is the signed metadata");
    }
});

/// The bundle with these files changed; `None` where it is none any more.
fn changed(mut files: Vec<Option<Value>>, seal: bool) -> Option<Bundle> {
    let mut bundle = LABORATORY.bundle.clone();
    if let Some(claims) = files.pop()? {
        bundle.claims = json::typed(claims).ok()?;
    }
    let members = [&mut bundle.role, &mut bundle.targets, &mut bundle.snapshot, &mut bundle.timestamp];
    let mut members: Vec<&mut Vec<u8>> = members.into_iter().chain(&mut bundle.roots).collect();
    for at in 0..members.len() {
        if let Some(value) = &files[at] {
            *members[at] = serde_json::to_vec(value).ok()?;
            let (parent, name) = match at {
                0 => (2, "kestrel.json"),
                1 => (2, "targets.json"),
                2 => (3, "snapshot.json"),
                _ => continue,
            };
            if seal {
                let entry = entry_of(value, members[at]);
                let listing = files[parent].get_or_insert_with(|| release_fuzz::value(members[parent]));
                if let Some(listed) = listing.pointer_mut("/signed/meta").and_then(Value::as_object_mut) {
                    listed.insert(name.to_owned(), entry);
                }
            }
        }
    }
    Some(bundle)
}

/// How a snapshot or timestamp lists a file.
fn entry_of(value: &Value, file: &[u8]) -> Value {
    serde_json::json!({
        "version": value["signed"]["version"],
        "length": file.len(),
        "hashes": { "sha256": Sha256::of(file) },
    })
}
