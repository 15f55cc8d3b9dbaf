//! A mirror that serves what it likes: old files for new ones, changed ones, or
//! none. Whoever reads it trusts nothing but what was signed, and nothing older
//! than what was seen.
//!
//! The first byte says what the reader has seen and whether the attacker has all
//! keys; then nothing is asked but that nothing panics. The rest is changes.

#![no_main]

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use release::manifest::Product;
use release::transport::Opened;
use release::tuf::Files;
use release::tuf::ProductRole;
use release::tuf::TransportError;
use release::tuf::served;
use release::verify::Source;
use release::verify::VerifyError;
use release::verify::repository;
use release_fuzz::LABORATORY;
use release_fuzz::changes;
use release_fuzz::signatures;
use release_fuzz::value;

/// What is served genuinely, and what a reader of it knows.
struct Genuine {
    files: changes::Files,
    product: Product,
    seen: Source,
    listing: ProductRole,
    serial: u64,
}

static GENUINE: LazyLock<Genuine> = LazyLock::new(|| {
    signatures::install();
    let product: Product = "kestrel".parse().unwrap();
    let (seen, trust) = read(&serve(BTreeMap::new()), &product, &[]).unwrap();
    let served = served::newest(&Mirror(BTreeMap::new()), &LABORATORY.root).unwrap().unwrap();
    Genuine {
        files: changes::Files::new(LABORATORY.metadata.values().map(|file| value(file))),
        listing: trust.listing().clone(),
        serial: served.serial,
        product,
        seen,
    }
});

/// The laboratory's mirror with these files in place of its own; `None`: gone.
struct Mirror(BTreeMap<&'static str, Option<Vec<u8>>>);

impl Files for Mirror {
    fn open(&self, path: &str) -> Result<Option<Opened>, TransportError> {
        let bytes = match self.0.get(path) {
            Some(changed) => changed.clone(),
            None => LABORATORY.metadata.get(path).cloned(),
        };
        Ok(bytes.map(|bytes| Opened { length: Some(bytes.len() as u64), content: Box::new(Cursor::new(bytes)) }))
    }

    fn place(&self) -> String {
        "mirror".to_owned()
    }
}

fn serve(changed: BTreeMap<&'static str, Option<Vec<u8>>>) -> Arc<dyn Files> {
    Arc::new(Mirror(changed))
}

fn read(
    files: &Arc<dyn Files>,
    product: &Product,
    seen: &[Source],
) -> Result<(Source, release::verify::Trust), VerifyError> {
    let root = &LABORATORY.root;
    let (source, _) = repository::fetch(files, root, Some(product))?;
    let trust = repository::trust_of(&source, product, root, seen)?;
    Ok((source, trust))
}

fuzz_target!(|data: &[u8]| {
    let genuine = &*GENUINE;
    let Some((flags, changes)) = data.split_first() else {
        return;
    };
    let stolen = flags & 1 == 1;
    signatures::steal_all_keys(stolen);
    let seen = if flags & 2 == 2 { std::slice::from_ref(&genuine.seen) } else { &[] };
    let changed = LABORATORY.metadata.keys().map(String::as_str).zip(genuine.files.change(changes));
    let changed = changed.filter_map(|(path, value)| {
        let value = value?;
        Some((path, (!value.is_null()).then(|| serde_json::to_vec(&value).unwrap())))
    });
    let files = serve(changed.collect());
    let found = read(&files, &genuine.product, seen);
    let newest = served::newest(files.as_ref(), &LABORATORY.root).unwrap();
    if stolen {
        return;
    }
    assert!(newest.is_none_or(|served| served.serial <= genuine.serial), "no number that was not signed");
    if let Ok((_, trust)) = found {
        assert!(trust.listing() == &genuine.listing || seen.is_empty() && trust.listing().releases.is_empty());
    }
});
