//! A whole verification: whatever is done to a bundle, nothing verifies that did
//! not verify before.
//!
//! Bytes changed at random hardly ever make JSON again. The input is therefore a
//! list of changes to the values of the laboratory's bundle, four bytes each:
//! what to do, to which value, and with what. An input that begins with `{` is a
//! bundle as it is.

#![no_main]

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::Mutex;

use jiff::SignedDuration;
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use release::manifest::Bundle;
use release::manifest::Sha256;
use release::manifest::json;
use release::tuf::provider::RustCrypto;
use release::verify::Judge;
use release::verify::Subject;
use release::verify::Trust;
use release::verify::Verdict;
use release::verify::strict;
use serde_json::Value;
use sigstore_crypto::CryptoProvider;
use sigstore_crypto::Error;
use sigstore_crypto::HashContext;
use sigstore_crypto::Result;
use sigstore_crypto::SigningScheme;
use sigstore_types::HashAlgorithm;

/// What scripts/fuzz takes from the laboratory.
struct Laboratory {
    root: Vec<u8>,
    value: Value,
    bundle: Bundle,
    genuine: Subject,
    now: Timestamp,
}

/// Remembers which signatures verify: nearly all that the changes leave are the
/// same, and checking them takes a hundred times as long as all the rest.
#[derive(Debug)]
struct Remembering;

static REMEMBERED: LazyLock<Mutex<HashMap<Sha256, bool>>> = LazyLock::new(Mutex::default);

fn remembered(parts: &[&[u8]], check: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut name = Vec::new();
    for part in parts {
        name.extend((part.len() as u64).to_be_bytes());
        name.extend(*part);
    }
    let mut known = REMEMBERED.lock().unwrap();
    if known.len() > 100_000 {
        known.clear();
    }
    match *known.entry(Sha256::of(&name)).or_insert_with(|| check().is_ok()) {
        true => Ok(()),
        false => Err(Error::Verification("it does not verify".to_owned())),
    }
}

impl CryptoProvider for Remembering {
    fn hash(&self, algorithm: HashAlgorithm) -> Result<Box<dyn HashContext>> {
        RustCrypto.hash(algorithm)
    }

    fn verify_raw(&self, scheme: SigningScheme, key: &[u8], data: &[u8], signature: &[u8]) -> Result<()> {
        let parts = [b"raw", scheme.name().as_bytes(), key, data, signature];
        remembered(&parts, || RustCrypto.verify_raw(scheme, key, data, signature))
    }

    fn verify_prehashed(&self, scheme: SigningScheme, key: &[u8], digest: &[u8], signature: &[u8]) -> Result<()> {
        let parts = [b"digest", scheme.name().as_bytes(), key, digest, signature];
        remembered(&parts, || RustCrypto.verify_prehashed(scheme, key, digest, signature))
    }
}

static LABORATORY: LazyLock<Laboratory> = LazyLock::new(|| {
    let _ = sigstore_crypto::install_default_provider(&Remembering);
    let folder = std::env::var_os("RELEASE_FUZZ_LABORATORY").expect("run scripts/fuzz, which makes the laboratory");
    let folder = Path::new(&folder);
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let bytes = read("kestrel-1.0.bundle.json");
    let content = read("kestrel-1.0");
    let bundle = Bundle::parse(&bytes).unwrap();
    let timestamp = json::from_slice(&bundle.timestamp).unwrap();
    let laboratory = Laboratory {
        root: read("root.json"),
        value: json::from_slice(&bytes).unwrap(),
        bundle,
        genuine: subject("kestrel-1.0", &content),
        now: timestamp["signed"]["x-release-sealed"].as_str().unwrap().parse().unwrap(),
    };
    let verdict = trusted(&laboratory, &bytes).map(|mut judge| judge.judge(&laboratory.genuine, laboratory.now));
    assert!(matches!(verdict, Some(Ok(Verdict::Verified(_)))), "the laboratory's own bundle verifies");
    laboratory
});

fn subject(name: &str, content: &[u8]) -> Subject {
    Subject { name: name.to_owned(), sha256: Sha256::of(content), length: content.len() as u64 }
}

/// The judge whom `release verify` asks; `None` where it rejects all files.
fn trusted(laboratory: &Laboratory, bytes: &[u8]) -> Option<Judge> {
    let bundle = Bundle::parse(bytes).ok()?;
    let source = strict::check("mutated", &bundle, &laboratory.root).ok()?;
    let trust = Trust::establish(&laboratory.root, &bundle.product, &[source]).ok()?;
    Some(Judge::new(trust, bundle.claims))
}

fuzz_target!(|data: &[u8]| {
    let laboratory = &*LABORATORY;
    let bytes = if data.starts_with(b"{") { data.to_vec() } else { changed(&laboratory.value, data) };
    let Some(mut judge) = trusted(laboratory, &bytes) else {
        return;
    };
    for evil in [subject("kestrel-1.0", b"evil"), subject("evil", b"evil"), subject("kestrel-6.6", b"")] {
        assert!(judge.judge(&evil, laboratory.now).is_err(), "evil content is never accepted");
    }
    let later = laboratory.now + SignedDuration::from_hours(24 * 40);
    let verdict = judge.judge(&laboratory.genuine, later);
    assert!(!matches!(verdict, Ok(Verdict::Verified(_))), "what has expired stays so");
    if judge.judge(&laboratory.genuine, laboratory.now).is_ok() {
        let mut found = Bundle::parse(&bytes).unwrap();
        assert!(laboratory.bundle.claims.iter().any(|claim| found.claims.contains(claim)));
        found.claims.clone_from(&laboratory.bundle.claims);
        assert_eq!(found, laboratory.bundle, "accepted metadata is the signed metadata");
    }
});

/// Applies the changes and writes the result in compact form.
fn changed(original: &Value, data: &[u8]) -> Vec<u8> {
    let mut value = original.clone();
    for change in data.chunks_exact(4).take(8) {
        let at = u16::from_be_bytes([change[1], change[2]]) as usize;
        let count = count(&value);
        let donor = nth(&mut value, &mut (usize::from(change[3]) * 7 % count)).cloned();
        let Some(node) = nth(&mut value, &mut (at % count)) else { continue };
        apply(node, change[0], change[3], donor.unwrap_or_default());
    }
    json::to_vec(&value).unwrap_or_default()
}

fn apply(node: &mut Value, what: u8, with: u8, donor: Value) {
    match (what % 6, &mut *node) {
        (0, Value::String(text)) => {
            let mut bytes = std::mem::take(text).into_bytes();
            if !bytes.is_empty() {
                let at = usize::from(with) % bytes.len();
                bytes[at] = (bytes[at] ^ (1 << (what / 6 % 8))) & 0x7f;
            }
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        (0, Value::Number(number)) => {
            *node = (number.as_u64().unwrap_or(0).wrapping_add(u64::from(with)).wrapping_sub(128)).into();
        }
        (1, Value::Object(members)) => {
            let key = members.keys().nth(usize::from(with) % members.len().max(1)).cloned();
            key.and_then(|key| members.remove(&key));
        }
        (1, Value::Array(items)) if !items.is_empty() => {
            items.remove(usize::from(with) % items.len());
        }
        (2, Value::Array(items)) if !items.is_empty() => items.push(items[usize::from(with) % items.len()].clone()),
        (2, Value::Object(members)) => {
            members.insert(format!("x{with}"), donor);
        }
        (3, Value::Array(items)) => items.push(donor),
        (4, Value::Array(items)) => items.reverse(),
        (5, Value::String(text)) => *text = Sha256::of(b"evil").to_string(),
        (_, node) => *node = donor,
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

/// The node with this number, counted as [`count`] counts.
fn nth<'a>(value: &'a mut Value, number: &mut usize) -> Option<&'a mut Value> {
    if *number == 0 {
        return Some(value);
    }
    *number -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, number)),
        Value::Object(members) => members.values_mut().find_map(|member| nth(member, number)),
        _ => None,
    }
}
