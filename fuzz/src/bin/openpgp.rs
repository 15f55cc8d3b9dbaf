//! OpenPGP certificates of maintainers and release managers, and signatures of
//! tags and checksums.

#![no_main]

use std::collections::BTreeSet;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use release::openpgp;
use release::openpgp::Certificate;
use release_fuzz::LABORATORY;

/// Who may sign.
static ALICE: LazyLock<Vec<Certificate>> = LazyLock::new(|| Certificate::all(&LABORATORY.certificate).unwrap());

fuzz_target!(|data: &[u8]| {
    let now = LABORATORY.sealed;
    let none = BTreeSet::new();
    if let Ok(certificates) = Certificate::all(data) {
        for certificate in &certificates {
            let again = Certificate::one(&certificate.to_binary().unwrap()).unwrap();
            assert_eq!(again.fingerprint(), certificate.fingerprint());
            assert!(!certificate.identity().is_empty());
        }
    }
    if let Ok(signers) = openpgp::signers_of(&LABORATORY.checksums, data, &ALICE, now, &none) {
        let revoked = BTreeSet::from([ALICE[0].fingerprint()]);
        let still = openpgp::signers_of(&LABORATORY.checksums, data, &ALICE, now, &revoked);
        assert!(still.unwrap().is_empty(), "a revoked key never counts");
        let other = openpgp::signers_of(b"evil", data, &ALICE, now, &none).unwrap();
        assert!(other.is_empty() && signers.len() <= ALICE.len() * data.len());
    }
});
