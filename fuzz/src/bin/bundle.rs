//! A bundle that is accepted is the one spelling of what was read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use release::manifest::Bundle;
use release::manifest::json;

fuzz_target!(|data: &[u8]| {
    if let Ok(bundle) = Bundle::parse(data) {
        let again = Bundle::parse(&bundle.to_vec().unwrap()).unwrap();
        assert_eq!(again, bundle);
        assert_eq!(json::to_vec(&json::from_slice(data).unwrap()).unwrap(), data);
    }
});
