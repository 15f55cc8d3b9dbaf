//! Attestations of tokens, made by openssl: each chain that is accepted, and each
//! reason for which one is not.

use jiff::SignedDuration;
use jiff::Timestamp;
use release::key::PublicKey;
use release::key::attestation;
use release::key::attestation::AttestationError;
use release::key::attestation::Expected;
use release::key::attestation::Makers;
use release::manifest::Attested;
use release::manifest::Firmware;
use release::manifest::PinPolicy;
use release::manifest::Sha256;
use release::manifest::TouchPolicy;
use release::manifest::names::is_hidden;
use release::parallel::in_parallel;
use x509_cert::der::Decode as _;
use x509_cert::der::Encode as _;
use x509_cert::der::Tag;
use x509_cert::der::Tagged as _;
use x509_cert::der::asn1::Any;

use crate::support::attestation::AUTHORITY;
use crate::support::attestation::Maker;
use crate::support::attestation::SOUND;

fn expected(key: &PublicKey) -> Expected<'_> {
    Expected {
        key,
        serial: 20_000_001,
        slot: "9c".parse().unwrap(),
        pin_policy: PinPolicy::Once,
        touch_policy: TouchPolicy::Cached,
        allow_weak_firmware: false,
    }
}

/// What the usual maker vouches for.
pub fn attested(maker: &Maker) -> Attested {
    verify(maker, &["root.pem"]).unwrap()
}

/// Verifies the files `slot.der` and `f9.der` with the authorities in `files`.
fn verify(maker: &Maker, files: &[&str]) -> Result<Attested, AttestationError> {
    verify_bytes(maker, files, &maker.read("slot.der"), &maker.read("f9.der"))
}

fn verify_bytes(maker: &Maker, files: &[&str], slot: &[u8], f9: &[u8]) -> Result<Attested, AttestationError> {
    attestation::verify(slot, f9, &makers(maker, files)?, &expected(&maker.public("slot")), Timestamp::now())
}

fn makers(maker: &Maker, files: &[&str]) -> Result<Makers, AttestationError> {
    let contents: Vec<Vec<u8>> = files.iter().map(|file| maker.read(file)).collect();
    Makers::read(files.iter().copied().zip(contents.iter().map(Vec::as_slice)))
}

/// Demands a refusal whose message has all these texts, and nothing hidden.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, AttestationError>, texts: &[&str]) {
    let message = result.unwrap_err().to_string();
    for text in texts {
        assert!(message.contains(text), "no {text:?} in {message:?}");
    }
    assert!(!message.contains(is_hidden) && !message.ends_with('.'), "{message:?}");
}

#[test]
fn a_key_that_the_maker_vouches_for_is_attested() {
    let maker = Maker::usual();
    let attested = verify(&maker, &["root.pem"]).unwrap();
    let key = maker.public("slot");
    assert_eq!(attested.key, Sha256::of(&key.to_der()));
    assert_eq!((attested.serial, attested.slot.to_string().as_str()), (20_000_001, "9c"));
    assert_eq!(attested.firmware, Firmware([5, 7, 1]));
    assert_eq!((attested.pin_policy, attested.touch_policy), (PinPolicy::Once, TouchPolicy::Cached));
    assert_eq!((attested.form_factor.as_str(), attested.fips, attested.cspn), ("USB-C keychain", false, false));
    assert_eq!(attested.root, "CN=Maker Root");
    assert_eq!(attested.to_string(), "made in hardware, never exported, touch needed");
    assert_eq!(Attested::parse(&attested.to_json().unwrap()), Ok(attested.clone()));
    assert!(maker.openssl_verifies("root", &["f9"], "slot"), "openssl agrees");
    // The same root as DER, and in PEM between other text and another root.
    assert_eq!(verify(&maker, &["root.der"]), Ok(attested.clone()));
    maker.key("other", "P-384");
    maker.certify_with("other", "other", "Other Root", AUTHORITY, &["-days", "10", "-sha384"]);
    let text = [b"Roots\n=====\n".as_slice(), &maker.read("other.pem"), b"\nand\n", &maker.read("root.pem")].concat();
    maker.write("both.txt", &text);
    assert_eq!(verify(&maker, &["both.txt", "root.pem"]), Ok(attested));
    // More is asked for than the least that the policy wants.
    let always = SOUND.replace("DER:0203", "DER:0302") + "\n1.3.6.1.4.1.41482.3.10=DER:0500";
    maker.certify("slot", "f9", "YubiKey PIV Attestation 9c", &always.replace("3.9=DER:03", "3.9=DER:81"));
    let attested = verify(&maker, &["root.pem"]).unwrap();
    assert_eq!((attested.pin_policy, attested.touch_policy), (PinPolicy::Always, TouchPolicy::Always));
    assert_eq!((attested.form_factor.as_str(), attested.fips), ("USB-A keychain", true));
    // Ed25519 keys are attested too.
    maker.key("slot", "ed25519");
    maker.certify("slot", "f9", "YubiKey PIV Attestation 9c", SOUND);
    assert!(verify(&maker, &["root.pem"]).is_ok());
}

#[test]
fn newer_tokens_need_intermediates_that_are_configured() {
    // As from firmware 5.7.4 on: a root without end, by SHA-512, and two
    // intermediates that are not on the token.
    let maker = Maker::new();
    for (name, kind) in [("root", "2048"), ("a", "2048"), ("b", "P-384"), ("f9", "P-384"), ("slot", "P-256")] {
        maker.key(name, kind);
    }
    let with_length = |length: u8| AUTHORITY.replace("CA:TRUE", &format!("CA:TRUE,pathlen:{length}"));
    maker.certify_with("root", "root", "Attestation Root", &with_length(3), &["-days", "2912000", "-sha512"]);
    maker.certify_with("a", "root", "Intermediate", &with_length(2), &["-days", "1000", "-sha384"]);
    maker.certify("b", "a", "PIV Attestation B", &with_length(1));
    maker.certify_with("f9", "b", "PIV Attestation", &with_length(0), &["-days", "1000", "-sha384"]);
    maker.certify("slot", "f9", "YubiKey PIV Attestation 9c", &SOUND.replace("050701", "050704"));
    assert!(maker.openssl_verifies("root", &["a", "b", "f9"], "slot"), "openssl agrees");
    let files = ["a.pem", "root.pem", "b.pem"];
    assert_eq!(verify(&maker, &files).unwrap().firmware, Firmware([5, 7, 4]));
    refused(verify(&maker, &["root.pem"]), &["slot F9 is issued by CN=PIV Attestation B, which is not configured"]);
    refused(verify(&maker, &["root.pem", "b.pem"]), &["certificate 1 in b.pem is issued by CN=Intermediate"]);
    refused(verify(&maker, &["a.pem", "b.pem"]), &["no root of a token maker is configured"]);
    // A root that allows fewer authorities; then its successor under the same name
    // and key, in any order, as makers reissue theirs.
    maker.certify_with("root", "root", "Attestation Root", &with_length(2), &["-days", "1000", "-sha512"]);
    maker.write("short.pem", &maker.read("root.pem"));
    refused(verify(&maker, &files), &["certificate 1 in root.pem allows 2 authorities below it; there are 3"]);
    maker.certify_with("root", "root", "Attestation Root", &with_length(3), &["-days", "1000", "-sha512"]);
    for files in [["short.pem", "a.pem", "root.pem", "b.pem"], ["root.pem", "short.pem", "b.pem", "a.pem"]] {
        assert!(verify(&maker, &files).is_ok());
    }
    // Intermediates that certify each other lead nowhere, and come to an end.
    maker.certify("a", "b", "Intermediate", AUTHORITY);
    maker.certify("b", "a", "PIV Attestation B", AUTHORITY);
    refused(verify(&maker, &files), &["authorities below it"]);
}

#[test]
fn old_certificates_of_f9_are_the_one_exception() {
    let maker = Maker::new();
    for (name, kind) in [("root", "2048"), ("f9", "2048"), ("slot", "P-256")] {
        maker.key(name, kind);
    }
    maker.certify("root", "root", "Maker Root", AUTHORITY);
    // No basicConstraints: what genuine tokens with firmware 5.2.4 hold.
    let old = "1.3.6.1.4.1.41482.3.3=DER:050204";
    let slot = |subject: &str| maker.certify("slot", "f9", subject, &SOUND.replace("050701", "050204"));
    maker.certify("f9", "root", "Maker PIV Attestation", old);
    slot("YubiKey PIV Attestation 9c");
    assert!(!maker.openssl_verifies("root", &["f9"], "slot"), "openssl has no exception");
    refused(verify(&maker, &["root.pem"]), &["firmware 5.2.4", "before 5.7.0", "YSA-2024-03"]);
    let key = maker.public("slot");
    let weak = Expected { allow_weak_firmware: true, ..expected(&key) };
    let attest = || {
        let makers = makers(&maker, &["root.pem"])?;
        attestation::verify(&maker.read("slot.der"), &maker.read("f9.der"), &makers, &weak, Timestamp::now())
    };
    assert_eq!(attest().unwrap().firmware, Firmware([5, 2, 4]));
    // Not where it says that it is no authority, or may not sign certificates.
    for (extensions, reason) in [
        ("basicConstraints=CA:FALSE", "its basicConstraints say CA:FALSE"),
        ("keyUsage=digitalSignature", "its keyUsage has no keyCertSign"),
        ("basicConstraints=DER:04", "cannot be read"),
    ] {
        maker.certify("f9", "root", "Maker PIV Attestation", extensions);
        refused(attest(), &["the certificate in slot F9 may not certify other keys", reason]);
    }
    // Not for what is configured.
    maker.certify("f9", "root", "Maker PIV Attestation", old);
    refused(makers(&maker, &["root.pem", "f9.pem"]), &["certificate 1 in f9.pem", "it has no basicConstraints"]);
    maker.certify("root", "root", "Maker Root", old);
    refused(attest(), &["certificate 1 in root.pem", "it has no basicConstraints"]);
}

#[test]
fn whatever_breaks_the_chain_is_refused() {
    let maker = Maker::usual();
    let (slot, f9) = (maker.read("slot.der"), maker.read("f9.der"));
    let attest = |slot: &[u8], f9: &[u8]| verify_bytes(&maker, &["root.pem"], slot, f9);
    // A maker of the same names with other keys, and one of another name.
    let other = Maker::usual();
    refused(
        verify_bytes(&maker, &["root.pem"], &other.read("slot.der"), &other.read("f9.der")),
        &["the certificate in slot F9 is not signed by the key of certificate 1 in root.pem, although it says so"],
    );
    refused(attest(&other.read("slot.der"), &f9), &["the attestation of the slot is not signed by the key of the"]);
    other.certify("root", "root", "Other Root", AUTHORITY);
    other.certify("f9", "root", "Maker PIV Attestation", AUTHORITY);
    other.certify("slot", "f9", "YubiKey PIV Attestation 9c", SOUND);
    refused(
        attest(&other.read("slot.der"), &other.read("f9.der")),
        &["is issued by CN=Other Root, which is not configured; the configured roots are CN=Maker Root"],
    );
    // F9 replaced by a certificate of its own.
    maker.key("own", "P-256");
    maker.certify("own", "own", "Own \u{1b}[2J", AUTHORITY);
    refused(attest(&slot, &maker.read("own.der")), &["is signed by its own key", "it was replaced"]);
    // F9 replaced by the attestation of a slot, whose key signs whatever its owner
    // likes, while the genuine certificate of F9 is configured as an intermediate.
    maker.key("forged", "P-256");
    maker.certify("forged", "slot", "YubiKey PIV Attestation 9c", SOUND);
    refused(
        verify_bytes(&maker, &["root.pem", "f9.pem"], &maker.read("forged.der"), &slot),
        &["slot F9 is itself the attestation of a slot, as CN=YubiKey PIV Attestation 9c"],
    );
    // The two swapped, one twice, made by another F9.
    assert!(attest(&f9, &slot).is_err() && attest(&slot, &slot).is_err() && attest(&f9, &f9).is_err());
    maker.key("stray", "P-256");
    maker.certify("stray", "root", "YubiKey PIV Attestation 9c", SOUND);
    refused(
        attest(&maker.read("stray.der"), &f9),
        &["names CN=Maker Root as its issuer; slot F9 is CN=Maker PIV Attestation"],
    );
    // Every refusal left the good chain good.
    assert!(attest(&slot, &f9).is_ok());
}

#[test]
fn an_attestation_of_something_else_is_refused() {
    let maker = Maker::usual();
    let makers = makers(&maker, &["root.pem"]).unwrap();
    let (slot, f9, key) = (maker.read("slot.der"), maker.read("f9.der"), maker.public("slot"));
    let attest = |expected: Expected<'_>| attestation::verify(&slot, &f9, &makers, &expected, Timestamp::now());
    let right = expected(&key);
    assert!(attest(right).is_ok());
    maker.key("other", "P-256");
    let other = maker.public("other");
    let digest = |key: &PublicKey| Sha256::of(&key.to_der()).short();
    refused(attest(Expected { key: &other, ..right }), &["another public key", &digest(&key), &digest(&other)]);
    refused(attest(Expected { serial: 20_000_002, ..right }), &["made by token 20000001, not 20000002"]);
    refused(attest(Expected { slot: "9a".parse().unwrap(), ..right }), &["for slot 9c, not 9a"]);
    refused(attest(Expected { pin_policy: PinPolicy::Always, ..right }), &["the PIN once", "at least always"]);
    refused(
        attest(Expected { touch_policy: TouchPolicy::Always, ..right }),
        &["the touch policy of the key is cached; the policy wants at least always"],
    );
    for old in ["050604", "040307"] {
        maker.certify("slot", "f9", "YubiKey PIV Attestation 9c", &SOUND.replace("050701", old));
        refused(verify(&maker, &["root.pem"]), &["before 5.7.0 keys can be stolen from it"]);
    }
    for subject in ["YubiKey PIV Attestation f9", "YubiKey PIV Attestation", "YubiKey PIV Attestation 9c/O=x", "9c"] {
        maker.certify("slot", "f9", subject, SOUND);
        refused(verify(&maker, &["root.pem"]), &["its subject", "names no slot"]);
    }
}

#[test]
fn missing_doubled_and_malformed_extensions_are_refused() {
    let maker = Maker::usual();
    let without = |id: &str| SOUND.lines().filter(|line| !line.contains(id)).collect::<Vec<_>>().join("\n");
    let attest = |extensions: &str| {
        maker.certify("slot", "f9", "YubiKey PIV Attestation 9c", extensions);
        verify(&maker, &["root.pem"])
    };
    for (id, name) in [("3.3=", "firmware"), ("3.7=", "serial number"), ("3.8=", "PIN and touch policy")] {
        refused(attest(&without(id)), &["the attestation of the slot has no extension 1.3.6.1.4.1.41482.3.", name]);
    }
    assert_eq!(attest(&without("3.9=")).unwrap().form_factor, "unknown");
    for (good, bad, shown) in [
        ("DER:050701", "DER:0507", "(firmware): 0507"),
        ("DER:050701", "DER:05070100", "(firmware): 05070100"),
        ("ASN1:INTEGER:20000001", "DER:01312d01", "(serial number): 01312d01"),
        ("ASN1:INTEGER:20000001", "ASN1:INTEGER:-1", "(serial number): 0201ff"),
        ("ASN1:INTEGER:20000001", "ASN1:INTEGER:4294967296", "(serial number): 02050100000000"),
        ("ASN1:INTEGER:20000001", "DER:020401312d0100", "(serial number): 020401312d0100"),
        ("DER:0203", "DER:02", "touch policy): 02"),
        ("DER:0203", "DER:0403", "touch policy): 0403"),
        ("DER:0203", "DER:0200", "touch policy): 0200"),
        ("DER:0203", "DER:020303", "touch policy): 020303"),
        ("3.9=DER:03", "3.9=DER:0303", "(form factor): 0303"),
    ] {
        refused(attest(&SOUND.replace(good, bad)), &["malformed extension 1.3.6.1.4.1.41482.3.", shown]);
    }
    refused(attest(&format!("{SOUND}\n1.2.3.4=critical,DER:00")), &["critical extension 1.2.3.4, which is not known"]);
    assert!(attest(&format!("{SOUND}\n1.2.3.4=DER:00")).is_ok(), "others may be ignored");
    // Twice: openssl makes no such certificate, so it is built from a sound one.
    let doubled = |name: &str, issuer: &str| {
        maker.altered(name, issuer, |tbs| {
            let last = tbs.pop().unwrap();
            let mut extensions = Vec::<Any>::from_der(last.value()).unwrap();
            extensions.push(extensions[0].clone());
            tbs.push(Any::new(last.tag(), extensions.to_der().unwrap()).unwrap());
        })
    };
    let (slot, f9) = (maker.read("slot.der"), maker.read("f9.der"));
    refused(
        verify_bytes(&maker, &["root.pem"], &doubled("slot", "f9"), &f9),
        &["the attestation of the slot has the extension 1.3.6.1.4.1.41482.3.3 twice"],
    );
    refused(
        verify_bytes(&maker, &["root.pem"], &slot, &doubled("f9", "root")),
        &["the certificate in slot F9 has the extension 2.5.29.19 twice"],
    );
    // The way in which it was built changes nothing by itself.
    assert!(verify_bytes(&maker, &["root.pem"], &maker.altered("slot", "f9", |_| ()), &f9).is_ok());
}

#[test]
fn what_is_no_certificate_is_refused() {
    let maker = Maker::usual();
    let (slot, f9) = (maker.read("slot.der"), maker.read("f9.der"));
    let attest = |slot: &[u8], f9: &[u8]| verify_bytes(&maker, &["root.pem"], slot, f9);
    let and_zeros = |bytes: &[u8], count: usize| [bytes, &vec![0; count]].concat();
    refused(attest(&and_zeros(&slot, 3), &f9), &["the attestation of the slot is followed by 3 further bytes"]);
    refused(attest(&slot, &and_zeros(&f9, 1)), &["the certificate in slot F9 is followed by 1 further bytes"]);
    refused(attest(&and_zeros(&slot, 8192), &f9), &["at most 8192 are read"]);
    for bad in [b"".as_slice(), b"\x30", b"\x30\x80", b"\x04\x00", b"text", &slot[..slot.len() - 1]] {
        refused(attest(bad, &f9), &["the attestation of the slot cannot be read"]);
    }
    // Version 1 has no extensions.
    let first = maker.altered("slot", "f9", |tbs| drop(tbs.remove(0)));
    refused(attest(&first, &f9), &["not an X.509 certificate of version 3"]);
    // A signature algorithm inside that is not the one outside.
    let two = maker.altered("slot", "f9", |tbs| {
        tbs[2] = Any::new(Tag::Sequence, b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03".to_vec()).unwrap();
    });
    refused(attest(&two, &f9), &["it names two signature algorithms"]);
    for (pem, text) in [
        (b"no certificate".as_slice(), "bad.pem holds no certificate"),
        (b"\xff", "bad.pem holds no certificate"),
        (b"", "bad.pem holds no certificate"),
        (b"-----BEGIN CERTIFICATE-----\n", "certificate 1 in bad.pem cannot be read: its PEM has no end"),
        (b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n", "certificate 1 in bad.pem cannot be read"),
        (b"\x30\x00", "certificate 1 in bad.pem cannot be read"),
    ] {
        maker.write("bad.pem", pem);
        refused(makers(&maker, &["root.pem", "bad.pem"]), &[text]);
    }
    maker.write("many.pem", &maker.read("root.pem").repeat(1000));
    refused(makers(&maker, &["many.pem"]), &["more than 64 certificates"]);
    refused(makers(&maker, &[]), &["no root of a token maker is configured"]);
}

#[test]
fn only_algorithms_of_makers_are_known() {
    let maker = Maker::usual();
    for (kind, hash, found) in [
        ("P-256", "-sha512", "signature algorithm 1.2.840.10045.4.3.4"),
        ("ed25519", "-sha256", "signature algorithm 1.3.101.112"),
        ("2048", "-sha1", "signature algorithm 1.2.840.113549.1.1.5"),
        ("1024", "-sha256", "not RSA of 2048 to 4096 bits"),
        ("P-521", "-sha256", "neither P-256 nor P-384"),
    ] {
        maker.key("root", kind);
        maker.certify_with("root", "root", "Maker Root", AUTHORITY, &["-days", "1000", hash]);
        refused(makers(&maker, &["root.pem"]), &["certificate 1 in root.pem is signed by an unknown algorithm", found]);
    }
    // An RSA signature algorithm without its parameters.
    let maker = Maker::usual();
    maker.key("f9", "2048");
    maker.certify("f9", "root", "Maker PIV Attestation", AUTHORITY);
    maker.certify("slot", "f9", "YubiKey PIV Attestation 9c", SOUND);
    assert!(verify(&maker, &["root.pem"]).is_ok());
    let bare = Any::new(Tag::Sequence, b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b".to_vec()).unwrap();
    let altered = maker.altered("slot", "root", |tbs| tbs[2] = bare.clone());
    let mut parts = Vec::<Any>::from_der(&altered).unwrap();
    parts[1] = bare;
    let slot = parts.to_der().unwrap();
    refused(verify_bytes(&maker, &["root.pem"], &slot, &maker.read("f9.der")), &["unusual parameters"]);
}

#[test]
fn every_certificate_must_be_valid_today() {
    let mut maker = Maker::usual();
    let (slot, f9, key) = (maker.read("slot.der"), maker.read("f9.der"), maker.public("slot"));
    let at = |maker: &Maker, slot: &[u8], f9: &[u8], days: i64| {
        let makers = makers(maker, &["root.pem"])?;
        let now = Timestamp::now() + SignedDuration::from_hours(24 * days);
        attestation::verify(slot, f9, &makers, &expected(&key), now)
    };
    assert!(at(&maker, &slot, &f9, 999).is_ok());
    refused(at(&maker, &slot, &f9, 1001), &["certificate 1 in root.pem was valid until"]);
    refused(at(&maker, &slot, &f9, -1), &["certificate 1 in root.pem is valid from"]);
    refused(at(&maker, &slot, &f9, -365 * 80), &["certificate 1 in root.pem is valid from"]);
    // A root that is valid longer, with the others as they were.
    maker.certify_with("root", "root", "Maker Root", AUTHORITY, &["-days", "2000", "-sha256"]);
    refused(at(&maker, &slot, &f9, 1001), &["the certificate in slot F9 was valid until"]);
    maker.travel("+10d");
    maker.certify("slot", "f9", "YubiKey PIV Attestation 9c", SOUND);
    let later = maker.read("slot.der");
    refused(at(&maker, &later, &f9, 5), &["the attestation of the slot is valid from"]);
    assert!(at(&maker, &later, &f9, 11).is_ok());
    maker.certify("f9", "root", "Maker PIV Attestation", AUTHORITY);
    refused(at(&maker, &later, &maker.read("f9.der"), 5), &["the certificate in slot F9 is valid from"]);
}

#[test]
fn no_flipped_bit_of_a_chain_is_accepted() {
    let maker = Maker::usual();
    let files = ["slot.der", "f9.der", "root.der"].map(|file| maker.read(file));
    let (key, now) = (maker.public("slot"), Timestamp::now());
    let read = |root: &[u8]| Makers::read([("root", root)]);
    let genuine = read(&files[2]).unwrap();
    let verify = |[slot, f9, root]: &[Vec<u8>; 3]| {
        let altered = if *root == files[2] { None } else { Some(read(root)?) };
        attestation::verify(slot, f9, altered.as_ref().unwrap_or(&genuine), &expected(&key), now)
    };
    assert!(verify(&files).is_ok());
    let bits: Vec<(usize, usize)> =
        (0..3).flat_map(|file| (0..files[file].len() * 8).map(move |bit| (file, bit))).collect();
    let result = in_parallel(&bits, |(file, bit)| {
        let mut flipped = files.clone();
        flipped[*file][bit / 8] ^= 1 << (bit % 8);
        match verify(&flipped) {
            Ok(_) => Err(format!("bit {bit} of file {file} changes nothing")),
            Err(_) => Ok(()),
        }
    });
    assert_eq!(result, Ok(()));
    // Nor is a chain that ends early, anywhere.
    for (file, content) in files.iter().enumerate() {
        for end in 0..content.len() {
            let mut cut = files.clone();
            cut[file].truncate(end);
            assert!(verify(&cut).is_err(), "the first {end} bytes of file {file}");
        }
    }
}
