//! The emulated tokens behave as real ones do, command by command.

use std::time::Duration;

use p256::ecdsa::signature::hazmat::PrehashVerifier;

use crate::support::piv::Token;
use crate::support::piv::apdu;
use crate::support::piv::apdu::Apdu;
use crate::support::piv::apdu::find;
use crate::support::piv::apdu::first;
use crate::support::piv::apdu::tlv;
use crate::support::piv::hand::Event;
use crate::support::piv::hand::Patience;
use crate::support::piv::hand::Touch;
use crate::support::piv::host::Host;
use crate::support::piv::key::Algorithm;
use crate::support::piv::key::Key;
use crate::support::piv::key::Management;
use crate::support::piv::key::PinPolicy;
use crate::support::piv::key::TouchPolicy;
use crate::support::piv::state::Secret;
use crate::support::piv::state::TokenSpec;

const P256: Algorithm = Algorithm::P256;
const DIGEST: [u8; 32] = [7; 32];

fn token() -> Token {
    Token::new(&TokenSpec::default())
}

/// A token with a P-256 key in a slot.
fn with_key(slot: u8, pin: PinPolicy, touch: TouchPolicy) -> Token {
    let token = token();
    Host::open(&token).generate(slot, P256, pin, touch).unwrap();
    token
}

#[test]
fn commands_and_values_are_read_in_all_their_forms() {
    let parsed = |bytes: &[u8]| Apdu::parse(bytes).map(|apdu| (apdu.data, apdu.extended));
    assert_eq!(parsed(&[0, 1, 2, 3]), Some((vec![], false)));
    assert_eq!(parsed(&[0, 1, 2, 3, 0]), Some((vec![], false)));
    assert_eq!(parsed(&[0, 1, 2, 3, 2, 8, 9]), Some((vec![8, 9], false)));
    assert_eq!(parsed(&[0, 1, 2, 3, 2, 8, 9, 0]), Some((vec![8, 9], false)));
    assert_eq!(parsed(&[0, 1, 2, 3, 0, 0, 0]), Some((vec![], true)));
    assert_eq!(parsed(&[0, 1, 2, 3, 0, 0, 2, 8, 9, 0, 0]), Some((vec![8, 9], true)));
    assert_eq!(parsed(&[0, 1, 2]), None);
    assert_eq!(parsed(&[0, 1, 2, 3, 4, 5]), None);
    for length in [0, 127, 128, 255, 256, 3000] {
        let value = vec![5; length];
        let bytes = [tlv(0x5c, &[1]), tlv(0x7f49, &value), tlv(0x81, &[2])].concat();
        assert_eq!(find(&bytes, 0x7f49), Some(value.as_slice()));
        assert_eq!(find(&bytes, 0x81), Some([2].as_slice()));
        assert_eq!(find(&bytes[..bytes.len() - 1], 0x81), None);
    }
}

#[test]
fn nothing_is_answered_before_the_applet_is_selected() {
    let token = token();
    assert_eq!(token.transmit(&[0, 0xf8, 0, 0]), apdu::NOT_SUPPORTED.to_be_bytes());
    assert_eq!(token.transmit(&[0, 0xa4, 4, 0, 3, 1, 2, 3]), apdu::NOT_FOUND.to_be_bytes());
    let host = Host::open(&token);
    assert_eq!(host.send(0xf8, 0, 0, &[]), Ok(20_000_001_u32.to_be_bytes().to_vec()));
    assert_eq!(host.send(0xfd, 0, 0, &[]), Ok(vec![5, 7, 1]));
    // The management applet says what the token is.
    host.send(0xa4, 4, 0, &[0xa0, 0, 0, 5, 0x27, 0x47, 0x11, 0x17]).unwrap();
    let configuration = host.send(0x1d, 0, 0, &[]).unwrap();
    assert_eq!(usize::from(configuration[0]), configuration.len() - 1);
    assert_eq!(find(&configuration[1..], 0x02), Some(20_000_001_u32.to_be_bytes().as_slice()));
    assert_eq!(find(&configuration[1..], 0x04), Some([1].as_slice()));
    assert_eq!(find(&configuration[1..], 0x05), Some([5, 7, 1].as_slice()));
    assert_eq!(host.verify("123456"), Err(apdu::NOT_SUPPORTED));
}

#[test]
fn pin_and_puk_count_their_tries() {
    let token = token();
    let host = Host::open(&token);
    assert_eq!(host.verify(""), Err(0x63c3));
    assert_eq!(host.verify("111111"), Err(0x63c2));
    assert_eq!(host.verify(""), Err(0x63c2));
    host.verify("123456").unwrap();
    host.verify("").unwrap();
    host.change(0x80, "123456", "12345").unwrap_err();
    host.change(0x80, "123456", "654321").unwrap();
    for left in [2, 1, 0] {
        assert_eq!(host.verify("123456"), Err(0x63c0 | left));
    }
    // Blocked, for the right PIN too.
    for pin in ["654321", ""] {
        assert_eq!(host.verify(pin), Err(apdu::BLOCKED));
    }
    assert_eq!(host.change(0x80, "654321", "123456"), Err(apdu::BLOCKED));
    assert_eq!(host.unblock("87654321", "123456"), Err(0x63c2));
    host.unblock("12345678", "222222").unwrap();
    host.verify("222222").unwrap();
    host.change(0x81, "12345678", "87654321").unwrap();
    for left in [2, 1, 0] {
        assert_eq!(host.unblock("12345678", "222222"), Err(0x63c0 | left));
    }
    assert_eq!(host.unblock("87654321", "222222"), Err(apdu::BLOCKED));
    // A reset needs both to be blocked, and makes all as it was.
    assert_eq!(host.send(0xfb, 0, 0, &[]), Err(apdu::CONDITIONS));
    token.change(|state| state.pin.left = 0);
    host.send(0xfb, 0, 0, &[]).unwrap();
    host.verify("123456").unwrap();
    let pins: Vec<bool> = token
        .events()
        .iter()
        .filter_map(|event| if let Event::Pin(right) = event { Some(*right) } else { None })
        .collect();
    assert_eq!(pins, [false, true, false, false, false, false, true, true]);
    assert_eq!(token.pins(), 8);
}

#[test]
fn the_number_of_tries_is_set_with_pin_and_management_key() {
    let token = token();
    let host = Host::open(&token);
    assert_eq!(host.send(0xfa, 5, 8, &[]), Err(apdu::SECURITY_STATUS));
    host.manage().unwrap();
    assert_eq!(host.send(0xfa, 5, 8, &[]), Err(apdu::SECURITY_STATUS));
    host.change(0x80, "123456", "654321").unwrap();
    host.verify("654321").unwrap();
    assert_eq!(host.send(0xfa, 0, 8, &[]), Err(apdu::WRONG_PARAMETERS));
    host.send(0xfa, 5, 8, &[]).unwrap();
    // It brings the defaults back.
    assert_eq!(token.state().pin, Secret::new("123456", 5));
    assert_eq!(token.state().puk, Secret::new("12345678", 8));
    assert_eq!(host.verify("111111"), Err(0x63c4));
}

#[test]
fn the_management_key_is_shown_both_ways_with_every_cipher() {
    for (algorithm, length) in [(0x03, 24), (0x08, 16), (0x0a, 24), (0x0c, 32)] {
        let token = token();
        let host = Host::open(&token);
        let key: Vec<u8> = (1..=length).collect();
        let new = [&[algorithm, 0x9b, length], key.as_slice()].concat();
        assert_eq!(host.send(0xff, 0xff, 0xff, &new), Err(apdu::SECURITY_STATUS));
        host.manage().unwrap();
        host.send(0xff, 0xff, 0xff, &new).unwrap();
        let host = Host::open(&token);
        host.manage().unwrap();
        // The token proves that it knows the key, too.
        let host = Host::open(&token);
        let management = Management::new(algorithm, &key).unwrap();
        let challenge = vec![9; management.block()];
        let witness = host.send(0x87, algorithm, 0x9b, &tlv(0x7c, &tlv(0x80, &[]))).unwrap();
        let witness = management.decrypt(find(first(&witness).unwrap().1, 0x80).unwrap());
        let proof = tlv(0x7c, &[tlv(0x80, &witness), tlv(0x81, &challenge)].concat());
        let answer = host.send(0x87, algorithm, 0x9b, &proof).unwrap();
        assert_eq!(find(first(&answer).unwrap().1, 0x82), Some(management.encrypt(&challenge).as_slice()));
        host.put(0x5f_c102, &[1]).unwrap();
        // A challenge serves once, and a wrong key does not.
        assert_eq!(host.send(0x87, algorithm, 0x9b, &proof), Err(apdu::SECURITY_STATUS));
        let host = Host::open(&token);
        host.send(0x87, algorithm, 0x9b, &tlv(0x7c, &tlv(0x81, &[]))).unwrap();
        let wrong = tlv(0x7c, &tlv(0x82, &challenge));
        assert_eq!(host.send(0x87, algorithm, 0x9b, &wrong), Err(apdu::SECURITY_STATUS));
        assert_eq!(host.put(0x5f_c102, &[1]), Err(apdu::SECURITY_STATUS));
    }
}

#[test]
fn keys_of_each_algorithm_sign() {
    let token = token();
    let host = Host::open(&token);
    for (slot, algorithm) in [(0x9a, P256), (0x82, Algorithm::P384), (0x95, Algorithm::Ed25519)] {
        assert_eq!(host.sign(slot, algorithm, &DIGEST), Err(apdu::NO_KEY));
        host.generate(slot, algorithm, PinPolicy::Never, TouchPolicy::Never).unwrap();
        let signature = host.sign(slot, algorithm, &DIGEST).unwrap();
        let point = token.state().keys[&slot].point();
        match algorithm {
            Algorithm::P256 => {
                let signature = p256::ecdsa::Signature::from_der(&signature).unwrap();
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).unwrap();
                key.verify_prehash(&DIGEST, &signature).unwrap();
            }
            Algorithm::P384 => {
                let signature = p384::ecdsa::Signature::from_der(&signature).unwrap();
                let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(&point).unwrap();
                let padded = [[0; 16].as_slice(), &DIGEST].concat();
                key.verify_prehash(&padded, &signature).unwrap();
            }
            Algorithm::Ed25519 => {
                let key = ed25519_dalek::VerifyingKey::try_from(point.as_slice()).unwrap();
                let verified = key.verify_strict(&DIGEST, &ed25519_dalek::Signature::from_slice(&signature).unwrap());
                verified.unwrap();
                // A whole message, in two commands.
                assert_eq!(host.sign(slot, algorithm, &[1; 300]).unwrap().len(), 64);
            }
        }
    }
    assert_eq!(host.sign(0x9a, Algorithm::P384, &DIGEST), Err(apdu::WRONG_DATA));
    assert_eq!(host.sign(0x9a, P256, &[1; 33]), Err(apdu::WRONG_DATA));
    assert_eq!(host.sign(0x9b + 4, P256, &DIGEST), Err(apdu::WRONG_PARAMETERS));
    assert_eq!(token.slots_used(), 3);
    assert_eq!(token.signatures(), 4);
}

#[test]
fn pin_policies_hold() {
    let token = token();
    let host = Host::open(&token);
    for (slot, pin) in [(0x9e, PinPolicy::Never), (0x9a, PinPolicy::Once), (0x9c, PinPolicy::Always)] {
        host.generate(slot, P256, pin, TouchPolicy::Never).unwrap();
    }
    let sign = |host: &Host, slot| host.sign(slot, P256, &DIGEST).map(|_| ());
    let refused = Err(apdu::SECURITY_STATUS);
    assert_eq!((sign(&host, 0x9e), sign(&host, 0x9a), sign(&host, 0x9c)), (Ok(()), refused, refused));
    host.verify("123456").unwrap();
    assert_eq!((sign(&host, 0x9c), sign(&host, 0x9c)), (Ok(()), refused));
    assert_eq!((sign(&host, 0x9a), sign(&host, 0x9a)), (Ok(()), Ok(())));
    // Any private key uses up the PIN's freshness.
    host.verify("123456").unwrap();
    assert_eq!((sign(&host, 0x9a), sign(&host, 0x9c)), (Ok(()), refused));
    // Selecting, a wrong PIN and a power cut forget it.
    host.send(0xa4, 4, 0, &[0xa0, 0, 0, 3, 8]).unwrap();
    assert_eq!(sign(&host, 0x9a), refused);
    host.verify("123456").unwrap();
    host.verify("999999").unwrap_err();
    assert_eq!(sign(&host, 0x9a), refused);
    host.verify("123456").unwrap();
    assert_eq!(sign(&Host::open(&token), 0x9a), refused);
    // What a slot asks for where nobody says so.
    for (slot, policy) in [(0x9a, 2), (0x9c, 3), (0x9d, 2), (0x9e, 1), (0x82, 2)] {
        let host = Host::open(&token);
        host.manage().unwrap();
        host.send(0x47, 0, slot, &tlv(0xac, &tlv(0x80, &[0x11]))).unwrap();
        let metadata = host.send(0xf7, 0, slot, &[]).unwrap();
        assert_eq!(find(&metadata, 0x02), Some([policy, 1].as_slice()));
    }
}

#[test]
fn touches_are_asked_for_counted_and_withheld() {
    let token = with_key(0x9a, PinPolicy::Never, TouchPolicy::Always);
    let host = Host::open(&token);
    host.generate(0x82, P256, PinPolicy::Never, TouchPolicy::Cached).unwrap();
    let sign = |slot| host.sign(slot, P256, &DIGEST).map(|_| ());
    for slot in [0x9a, 0x9a, 0x82, 0x82, 0x9a] {
        sign(slot).unwrap();
    }
    assert_eq!(token.touches(), 4);
    token.forget_events();
    token.set_patience(Patience { touch: Duration::from_millis(40), cached: Duration::ZERO });
    token.set_touch(Touch::Withheld);
    assert_eq!((sign(0x9a), sign(0x82)), (Err(apdu::SECURITY_STATUS), Err(apdu::SECURITY_STATUS)));
    assert_eq!(token.events(), [Event::Touch(0x9a, false), Event::Touch(0x82, false)]);
    // A person who is slow, and one who is too slow.
    token.set_touch(Touch::After(Duration::from_secs(60)));
    assert_eq!(sign(0x9a), Err(apdu::SECURITY_STATUS));
    token.set_patience(Patience { touch: Duration::from_secs(60), ..Patience::default() });
    token.set_touch(Touch::After(Duration::from_millis(30)));
    sign(0x9a).unwrap();
    // A person who makes up their mind.
    token.set_touch(Touch::Withheld);
    std::thread::scope(|scope| {
        scope.spawn(|| token.set_touch(Touch::Granted));
        sign(0x9a).unwrap();
    });
    assert_eq!(token.signatures(), 2);
}

#[test]
fn objects_are_stored_in_pieces_and_read_in_pieces() {
    let token = token();
    let host = Host::open(&token);
    let data: Vec<u8> = (0..3000_u32).map(|number| number.to_le_bytes()[0]).collect();
    assert_eq!(host.put(0x5f_c105, &data), Err(apdu::SECURITY_STATUS));
    host.manage().unwrap();
    assert_eq!(host.get(0x5f_c105), Err(apdu::NOT_FOUND));
    host.put(0x5f_c105, &data).unwrap();
    assert_eq!(host.get(0x5f_c105), Ok(data.clone()));
    assert_eq!(host.put(0x5f_c105, &[1; 3053]), Err(apdu::NO_SPACE));
    host.put(0x5f_c105, &[]).unwrap();
    assert_eq!(host.get(0x5f_c105), Err(apdu::NOT_FOUND));
    // In one piece, with lengths of two bytes.
    host.put(0x5f_c105, &data).unwrap();
    let whole = token.transmit(&[0, 0xcb, 0x3f, 0xff, 0, 0, 5, 0x5c, 3, 0x5f, 0xc1, 0x05, 0, 0]);
    assert_eq!(whole.len(), 3000 + 4 + 2);
    // A command that breaks off leaves nothing behind.
    assert_eq!(token.transmit(&[0x10, 0xdb, 0x3f, 0xff, 1, 0x5c]), apdu::SUCCESS.to_be_bytes());
    assert_eq!(host.get(0x5f_c105), Ok(data));
    // Printed information is behind the PIN.
    host.put(0x5f_c109, &[1]).unwrap();
    assert_eq!(host.get(0x5f_c109), Err(apdu::SECURITY_STATUS));
    host.verify("123456").unwrap();
    assert_eq!(host.get(0x5f_c109), Ok(vec![1]));
}

#[test]
fn metadata_tell_defaults_and_origins() {
    let token = with_key(0x9c, PinPolicy::Always, TouchPolicy::Cached);
    let host = Host::open(&token);
    let metadata = |p2| host.send(0xf7, 0, p2, &[]).unwrap();
    assert_eq!(find(&metadata(0x80), 0x05), Some([1].as_slice()));
    assert_eq!(find(&metadata(0x9b), 0x05), Some([1].as_slice()));
    assert_eq!(find(&metadata(0x9b), 0x01), Some([0x0a].as_slice()));
    host.verify("999999").unwrap_err();
    assert_eq!(find(&metadata(0x80), 0x06), Some([3, 2].as_slice()));
    host.change(0x80, "123456", "654321").unwrap();
    assert_eq!(find(&metadata(0x80), 0x05), Some([0].as_slice()));
    assert_eq!(find(&metadata(0x81), 0x05), Some([1].as_slice()));
    let of_key = metadata(0x9c);
    let point = tlv(0x86, &token.state().keys[&0x9c].point());
    let expected = [tlv(1, &[0x11]), tlv(2, &[3, 3]), tlv(3, &[1]), tlv(4, &point)].concat();
    assert_eq!(of_key, expected);
    assert_eq!(host.send(0xf7, 0, 0x9a, &[]), Err(apdu::NO_KEY));
    // Imported.
    host.manage().unwrap();
    let secret = Key::generate(P256, PinPolicy::Once, TouchPolicy::Never).secret;
    let import = [tlv(0x06, &secret), tlv(0xaa, &[2]), tlv(0xab, &[1])].concat();
    host.send(0xfe, 0x11, 0x9a, &import).unwrap();
    assert_eq!(find(&metadata(0x9a), 0x03), Some([2].as_slice()));
    assert_eq!(host.attest(0x9a), Err(apdu::WRONG_DATA));
    host.verify("654321").unwrap();
    host.sign(0x9a, P256, &DIGEST).unwrap();
    // Moved, then deleted.
    host.send(0xf6, 0x83, 0x9a, &[]).unwrap();
    assert_eq!(host.send(0xf6, 0x9c, 0x83, &[]), Err(apdu::WRONG_DATA));
    host.send(0xf6, 0xff, 0x83, &[]).unwrap();
    assert_eq!(host.send(0xf7, 0, 0x83, &[]), Err(apdu::NO_KEY));
}

#[test]
fn older_firmware_knows_less() {
    let token = Token::new(&TokenSpec { firmware: [5, 4, 3], ..TokenSpec::default() });
    let host = Host::open(&token);
    host.manage().unwrap();
    assert_eq!(token.state().management.algorithm, 0x03);
    assert_eq!(host.send(0x47, 0, 0x9a, &tlv(0xac, &tlv(0x80, &[0xe0]))), Err(apdu::WRONG_DATA));
    assert_eq!(host.send(0xf6, 0xff, 0x9a, &[]), Err(apdu::NOT_SUPPORTED));
    assert_eq!(find(&host.send(0xf7, 0, 0x9b, &[]).unwrap(), 0x01), Some([3].as_slice()));
    let token = Token::new(&TokenSpec { firmware: [4, 3, 5], ..TokenSpec::default() });
    let host = Host::open(&token);
    for instruction in [0xf7, 0xf8] {
        assert_eq!(host.send(instruction, 0, 0x9b, &[]), Err(apdu::NOT_SUPPORTED));
    }
    host.send(0xa4, 4, 0, &[0xa0, 0, 0, 5, 0x27, 0x20, 1]).unwrap();
    assert_eq!(host.send(0x01, 0x10, 0, &[]), Ok(20_000_001_u32.to_be_bytes().to_vec()));
}

#[test]
fn a_token_is_kept_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let token = with_key(0x9c, PinPolicy::Never, TouchPolicy::Never);
    Host::open(&token).verify("999999").unwrap_err();
    token.save(&folder.path().join("token"));
    let again = Token::load(&folder.path().join("token"));
    assert_eq!(Host::open(&again).verify(""), Err(0x63c2));
    assert_eq!(again.state().keys[&0x9c].point(), token.state().keys[&0x9c].point());
    assert_eq!(again.state().objects, token.state().objects);
}
