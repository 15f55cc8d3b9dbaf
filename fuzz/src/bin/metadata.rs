//! TUF metadata files of every role, and what our roles say beyond TUF.

#![no_main]

use libfuzzer_sys::fuzz_target;
use release::manifest::json;
use release::tuf;
use release::tuf::Draft;
use release::tuf::ProductRole;
use release::tuf::SignedPolicy;
use release_fuzz::signatures;
use sigstore_tuf::Metadata;
use sigstore_tuf::Root;
use sigstore_tuf::Snapshot;
use sigstore_tuf::Targets;
use sigstore_tuf::Timestamp;
use sigstore_tuf::TrustedMetadataSet;

fuzz_target!(init: signatures::install(), |data: &[u8]| {
    if tuf::well_formed(data).is_err() {
        return;
    }
    if Metadata::<Root>::from_slice(data).is_ok() {
        let _ = TrustedMetadataSet::from_root(data);
    }
    let _ = Metadata::<Snapshot>::from_slice(data);
    let _ = Metadata::<Timestamp>::from_slice(data);
    if let Ok(role) = Metadata::<Targets>::from_slice(data) {
        let _ = SignedPolicy::of(role.signed());
        let product = "kestrel".parse().unwrap();
        if let Ok(listing) = ProductRole::of(&product, role.signed()) {
            let paths: Vec<String> = listing.to_targets(&product).as_object().unwrap().keys().cloned().collect();
            assert!(paths.iter().eq(role.signed().targets.keys()), "every target is a file of a release");
        }
    }
    if let Ok(compact) = tuf::compact(data) {
        assert_eq!(tuf::compact(&compact).unwrap(), compact);
    }
    if let Ok(draft) = Draft::parse("kestrel", data) {
        let again = Draft::parse("kestrel", &draft.to_file().unwrap()).unwrap();
        assert_eq!(again, draft);
        assert!(json::from_slice_strict(&again.to_file().unwrap()).is_ok());
    }
});
