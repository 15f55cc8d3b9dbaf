//! Any JSON that is accepted has one compact form, which is read as the same
//! value and has the same canonical form.

#![no_main]

use libfuzzer_sys::fuzz_target;
use release::manifest::json;
use sigstore_tuf::canonical_json::to_canonical_bytes;

fuzz_target!(|data: &[u8]| {
    let Ok(value) = json::from_slice(data) else {
        assert!(json::from_slice_strict(data).is_err());
        return;
    };
    let Ok(compact) = json::to_vec(&value) else {
        assert!(to_canonical_bytes(&value).is_err(), "both refuse fractions");
        return;
    };
    let again = json::from_slice_strict(&compact).unwrap();
    assert_eq!(again, value);
    assert_eq!(json::from_slice_strict(data).is_ok(), compact == data);
    assert_eq!(to_canonical_bytes(&again).unwrap(), to_canonical_bytes(&value).unwrap());
});
