//! SSH and OpenPGP signatures of tags, maintainers' certificates, and lists of
//! revoked keys.

#![no_main]

use std::collections::BTreeSet;

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use release::openpgp;
use release::openpgp::Certificate;
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
    let certificates = Certificate::all(data).unwrap_or_default();
    assert!(certificates.iter().all(|certificate| !certificate.fingerprint().is_empty()));
    let signers = openpgp::signers_of(b"data", data, &[], Timestamp::UNIX_EPOCH, &BTreeSet::new());
    assert!(signers.is_err() || signers.is_ok_and(|signers| signers.is_empty()));
});
