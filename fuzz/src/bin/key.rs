//! Public keys, as the policy and roots name them, and signatures by them. Roots
//! come from whoever serves them: keys of every kind that is read, of any size.

#![no_main]

use libfuzzer_sys::fuzz_target;
use release::key::PublicKey;
use release::key::ToSign;
use release::tuf;
use release::tuf::key;
use sigstore_tuf::Key;

const SCHEMES: [(&str, &str); 9] = [
    ("ecdsa", "ecdsa-sha2-nistp256"),
    ("ecdsa", "ecdsa-sha2-nistp384"),
    ("ed25519", "ed25519"),
    ("rsa", "rsassa-pss-sha256"),
    ("rsa", "rsassa-pss-sha384"),
    ("rsa", "rsassa-pss-sha512"),
    ("ml-dsa", "ml-dsa-44/1"),
    ("ml-dsa", "ml-dsa-65/1"),
    ("ml-dsa", "ml-dsa-87/1"),
];

fuzz_target!(init: tuf::install_crypto(), |data: &[u8]| {
    // Which scheme, the length of the signature, the signature, the key.
    let Some(([scheme, high, low], rest)) = data.split_first_chunk() else {
        return;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let (signature, public) = rest.split_at(length.min(rest.len()));
    let Ok(public) = std::str::from_utf8(public) else {
        return;
    };
    if let Ok(key) = PublicKey::from_pem(public) {
        assert_eq!(PublicKey::from_pem(&key.to_pem()).as_ref(), Ok(&key));
        assert!(!key.verifies(ToSign::Message(b"message"), signature));
        let (id, typed) = key::identified(&key).unwrap();
        assert_eq!((id.len(), typed.verification_key().is_ok()), (64, true));
    }
    let (keytype, scheme) = SCHEMES[usize::from(*scheme) % SCHEMES.len()];
    let object = serde_json::json!({ "keytype": keytype, "scheme": scheme, "keyval": { "public": public } });
    let key: Key = serde_json::from_value(object).unwrap();
    assert!(!key::verifies(&key, b"message", signature), "nobody has signed it");
});
