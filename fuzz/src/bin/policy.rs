//! `policy.toml`, the same on every terminal.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use release::policy::Policy;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Policy::parse(Path::new("policy.toml"), text.to_owned()) {
        Ok(policy) => {
            assert!(policy.files().all(|file| file.split('/').all(|part| !matches!(part, "" | "." | ".."))));
            assert!(policy.products.values().all(|product| *product.threshold.get_ref() > 0));
            assert!(*policy.role.root.threshold.get_ref() as usize <= policy.holders.len());
        }
        Err(error) => assert!(error.line > 0 && error.column > 0),
    }
});
