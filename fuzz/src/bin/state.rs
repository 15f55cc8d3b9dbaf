//! The home's own files: the state of a cut, and a publication.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use release::home::CutState;
use release::home::atomic;
use release::home::cut;
use release::manifest::Publication;
use release::manifest::json;
use release::manifest::publication;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    read::<CutState>(data, cut::VERSION);
    if let Some(publication) = read::<Publication>(data, publication::VERSION) {
        assert!(publication.names().all(|(name, _)| Path::new(name.as_str()).is_relative()));
    }
});

/// What is read is written as what is read again.
fn read<T: DeserializeOwned + Serialize + PartialEq>(data: &[u8], version: u32) -> Option<T> {
    let path = Path::new("state.json");
    let state: T = atomic::parse_json(path, data, version).ok()?;
    let again: T = atomic::parse_json(path, &json::to_vec(&state).unwrap(), version).unwrap();
    assert!(again == state);
    Some(state)
}
