//! What git lists of a source, and the refspecs that are made of it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use release::source::refs;

fuzz_target!(|data: &[u8]| {
    let Ok(specs) = refs::specs(&String::from_utf8_lossy(data), "v1.0", "release/*") else {
        return;
    };
    for spec in specs {
        let (source, target) = spec.split_once(':').unwrap();
        assert!(source.starts_with("refs/") && target.starts_with("refs/inbox/"));
        assert!(
            !spec
                .contains(|c: char| c.is_ascii_control() || c.is_whitespace() && c.is_ascii() || "*?[^~\\".contains(c))
        );
        assert!(!target.contains(':'));
    }
});
