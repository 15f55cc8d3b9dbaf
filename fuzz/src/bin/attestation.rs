//! Attestations of tokens: the time in seconds, in four bytes; then certificates of
//! a slot and of F9, what is configured, and the enrolled key, each after its
//! length in two bytes.

#![no_main]

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use release::key::PublicKey;
use release::key::attestation;
use release::key::attestation::Expected;
use release::key::attestation::Makers;
use release::manifest::Attested;
use release::manifest::PinPolicy;
use release::manifest::TouchPolicy;
use release::manifest::names;

fuzz_target!(|data: &[u8]| {
    if let Ok(attested) = Attested::parse(data) {
        assert_eq!(attested.to_json().unwrap(), data);
    }
    let Some((seconds, mut rest)) = data.split_first_chunk::<4>() else {
        return;
    };
    let mut part = || {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let part;
        (part, rest) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        Some(part)
    };
    let (Some(slot), Some(f9), Some(file), Some(key)) = (part(), part(), part(), part()) else {
        return;
    };
    let makers = match Makers::read([("makers", file)]) {
        Ok(makers) => makers,
        Err(error) => return assert!(!error.to_string().contains(names::is_hidden)),
    };
    let Ok(key) = PublicKey::from_pem(&String::from_utf8_lossy(key)) else {
        return;
    };
    let expected = Expected {
        key: &key,
        serial: 20_000_001,
        slot: "9c".parse().unwrap(),
        pin_policy: PinPolicy::Once,
        touch_policy: TouchPolicy::Cached,
        allow_weak_firmware: false,
    };
    let now = Timestamp::from_second(u32::from_be_bytes(*seconds).into()).unwrap();
    match attestation::verify(slot, f9, &makers, &expected, now) {
        Ok(attested) => {
            assert_eq!((attested.serial, attested.slot), (expected.serial, expected.slot));
            assert!(attested.pin_policy >= expected.pin_policy && attested.touch_policy >= expected.touch_policy);
            assert!(attested.firmware >= attestation::SOUND_FIRMWARE && !attested.root.contains(names::is_hidden));
            assert_eq!(Attested::parse(&attested.to_json().unwrap()), Ok(attested));
        }
        Err(error) => assert!(!error.to_string().contains(names::is_hidden)),
    }
});
