//! SSH signatures of tags, and lists of revoked keys.

#![no_main]

use libfuzzer_sys::fuzz_target;
use release::source::tag;
use release::source::tag::SshSignature;

fuzz_target!(|data: &[u8]| {
    if let Some(signature) = SshSignature::parse(data) {
        assert_eq!(SshSignature::parse(&signature.to_armor()), Some(signature.clone()));
        assert!(tag::revoked_keys(signature.fingerprint().as_bytes()).unwrap().contains(&signature.fingerprint()));
    }
    if let Ok(revoked) = tag::revoked_keys(data) {
        let lines: Vec<String> = revoked.iter().cloned().collect();
        assert_eq!(tag::revoked_keys(lines.join("\n").as_bytes()), Ok(revoked));
    }
});
