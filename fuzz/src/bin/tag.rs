//! Tag objects as git delivers them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use release::source::tag::Parsed;
use release::source::tag::Signature;

fuzz_target!(|data: &[u8]| {
    if let Ok(tag) = Parsed::parse(data) {
        assert!(data.starts_with(&tag.payload));
        let signature: &[u8] = match &tag.signature {
            Signature::None => b"",
            Signature::Pgp(signature) | Signature::Ssh(signature) => signature,
        };
        assert_eq!([&tag.payload, signature].concat(), data);
        assert!(!tag.name.contains('\n'));
    }
});
