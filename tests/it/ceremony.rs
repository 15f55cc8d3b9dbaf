//! What a token or its reader does that no ceremony or cut expects, and the rehearsal of
//! a ceremony.

use std::fs;
use std::time::Duration;

use release::key::PublicKey;

use crate::support::piv::Fault;
use crate::support::piv::Token;
use crate::support::piv::hand::Event;
use crate::support::piv::key::Algorithm;
use crate::support::piv::key::Key;
use crate::support::piv::key::Management;
use crate::support::piv::key::PinPolicy;
use crate::support::piv::key::TouchPolicy;
use crate::support::piv::reader::Pcscd;
use crate::support::tokens::PIN;
use crate::support::tokens::PUK;
use crate::support::tokens::SERIALS;
use crate::support::tokens::TokenLab;

const REJECTED: i32 = 3;
const ALICE: usize = 0;
const BOB: usize = 1;

fn is_signature(event: Event) -> bool {
    matches!(event, Event::Signature(_))
}

#[test]
fn without_a_reader_or_a_card_that_answers_nothing_is_signed() {
    let lab = TokenLab::new();
    lab.lab.tag("1.0");
    lab.begin("1.0");
    let none = Pcscd::with_readers(0);
    let (name, socket) = none.variable();
    let said = lab.runs_and(&["cut", "1.0", "--yes=1.0"], &[(name, socket.to_str().unwrap())]).exits(1);
    said.says("is not plugged in: there is no card reader").says("plug in token 20000001").says("cut kestrel 1.0");
    lab.lab.assert_nothing_published();
    assert_eq!(lab.count(is_signature), 0);

    // A slow one is waited for.
    lab.tokens[ALICE].fail(Token::SIGN, 1, Fault::Slow(Duration::from_secs(3)));
    lab.cut("1.0").exits(0).says("Released kestrel 1.0");
    assert_eq!(lab.count(is_signature), 7);
    lab.lab.verify(&["mirror"]).exits(0);
}

#[test]
fn a_pin_from_the_factory_opens_nothing() {
    let lab = TokenLab::new();
    lab.lab.tag("1.0");
    lab.begin("1.0");
    lab.tokens[ALICE].change(|state| "123456".clone_into(&mut state.pin.value));
    let said = lab.cut("1.0").exits(1).says("token 20000001 of alice still has the PIN from the factory");
    said.says("release key unblock --token 20000001").says("release cut kestrel 1.0");
    assert_eq!((lab.count(is_signature), lab.tokens[ALICE].pins()), (0, 0));
    lab.lab.assert_nothing_published();
    lab.set_lines(SERIALS[ALICE], &[PUK, PIN]);
    lab.runs(&["key", "unblock", "--token", "20000001"]).exits(0);
    lab.set_pins(&[]);
    lab.cut("1.0").exits(0);
}

/// What sets a PIN, and what writes keys, is no better known than the PIN.
#[test]
fn a_puk_or_management_key_from_the_factory_signs_nothing() {
    let lab = TokenLab::new();
    lab.lab.tag("1.0");
    lab.begin("1.0");
    let alice = &lab.tokens[ALICE];
    let good = alice.state();
    let refused = |message: &str, command: &str| {
        lab.set_pins(&[]);
        let said = lab.cut("1.0").exits(1).says(&format!("token 20000001 of alice still has the {message}"));
        said.says(command).says("release cut kestrel 1.0");
        assert_eq!((lab.count(is_signature), alice.pins()), (0, 0));
        lab.lab.assert_nothing_published();
        lab.runs(&["key", "selftest"]).exits(1).says(message);
    };
    alice.change(|state| "12345678".clone_into(&mut state.puk.value));
    refused("PUK from the factory", "ykman --device 20000001 piv access change-puk");
    alice.change(|state| {
        state.puk = good.puk.clone();
        state.management = Management::default_of(state.firmware);
    });
    refused(
        "management key from the factory",
        "ykman --device 20000001 piv access change-management-key --generate --protect",
    );
    alice.change(|state| *state = good.clone());
    lab.set_pins(&[]);
    lab.cut("1.0").exits(0);
    lab.lab.verify(&["mirror"]).exits(0);
}

#[test]
fn slots_of_other_kinds_sign_what_they_can() {
    let lab = TokenLab::new();
    // A slot that wants the PIN before each signature: the person types it once, since a
    // line of --pin-fd is used once.
    lab.tokens[BOB].change(|state| {
        for key in state.keys.values_mut() {
            key.pin = PinPolicy::Always;
        }
    });
    lab.lab.tag("1.0");
    lab.cut("1.0").exits(0);
    assert!(lab.tokens[BOB].pins() > 2, "{:?}", lab.tokens[BOB].events());

    // Ed25519 signs the message itself, which must fit into the token.
    let ed25519 = Key::generate(Algorithm::Ed25519, PinPolicy::Once, TouchPolicy::Cached);
    let point: [u8; 32] = ed25519.point().try_into().unwrap();
    let public = ed25519_dalek::VerifyingKey::from_bytes(&point).unwrap();
    lab.lab.write("home/keys/alice-claim.pem", PublicKey::Ed25519(Box::new(public)).to_pem());
    lab.tokens[ALICE].change(|state| drop(state.keys.insert(0x82, ed25519)));
    let said = lab.runs(&["key", "selftest", "--token", "20000001"]).exits(0);
    said.says("Tested alice-claim signed in").says("6 keys work");
    lab.lab.tag("1.1");
    lab.forget();
    let said = lab.cut("1.1").exits(1).says("did not sign claim kestrel 1.1").says("1014");
    said.says("release cut kestrel 1.1");
    assert_eq!(lab.count(is_signature), 0, "{:?}", lab.events());
    assert!(!lab.lab.path("mirror/releases/kestrel/1.1").exists());
}

#[test]
fn a_policy_is_not_met_by_a_key_that_asks_for_less() {
    let lab = TokenLab::fresh();
    let bob = &lab.tokens[BOB];
    for (pin, touch, message) in
        [(PinPolicy::Once, TouchPolicy::Never, "touch"), (PinPolicy::Never, TouchPolicy::Cached, "PIN")]
    {
        let said = lab.generate_and(BOB, &[("RELEASE_FAIL_AT", "enrol.noted")]);
        assert_eq!(said.code, None, "{said:?}");
        let weak = Key::generate(Algorithm::P256, pin, touch);
        bob.change(|state| drop(state.keys.insert(0x9c, weak)));
        let said =
            lab.generate(BOB).exits(REJECTED).says("the attestation of bob-release does not count").says(message);
        said.says("do not use this token");
        assert!(!lab.lab.path("policy/keys/bob-release.pem").exists());
        bob.change(|state| drop(state.keys.remove(&0x9c)));
    }
    lab.generate(BOB).exits(0);
}

#[test]
fn a_drill_is_the_ceremony_and_leaves_nothing() {
    let lab = TokenLab::fresh();
    let alice = &lab.tokens[ALICE];
    let files = || {
        let mut files: Vec<_> =
            fs::read_dir(lab.lab.path("policy/keys")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        files.sort();
        files
    };
    let (policy, before) = (lab.lab.read("policy/policy.toml"), files());
    let drill = |secrets: &[&str], variables: &[(&str, &str)]| {
        lab.set_lines(SERIALS[ALICE], secrets);
        let arguments = ["key", "drill", "--policy", "policy/policy.toml", "--holder", "alice", "--token", "20000001"];
        lab.runs_and(&arguments, variables)
    };
    let nothing_left = || {
        let state = alice.state();
        assert_eq!(state.keys.keys().collect::<Vec<_>>(), [&0xf9], "the attestation key only");
        assert!(!lab.lab.path("home").exists());
        assert_eq!((lab.lab.read("policy/policy.toml"), files()), (policy.clone(), before.clone()));
    };
    // It is the ceremony: it refuses what that refuses.
    drill(&["123456"], &[]).exits(1).says("every token leaves its factory with that PIN");
    nothing_left();
    let said = drill(&[PIN, PUK, PIN], &[]).exits(0).says("A drill: the keys that are made now are thrown away.");
    let said = said.says("Secured token 20000001 of alice").says("Generated alice-root in slot 85, touch always");
    said.says("Touch token 20000001 of alice to sign an OpenPGP certificate").says("Made 6 keys in");
    nothing_left();
    assert_ne!(alice.state().management.key, Management::default_of([5, 7, 1]).key);
    // Pulled out, or killed, in the middle: keys are left, and say how to get rid of them.
    let said = drill(&[PIN, PIN], &[("RELEASE_FAIL_AT", "drill.made")]);
    assert_eq!(said.code, None, "{said:?}");
    drill(&[PIN, PIN], &[]).exits(1).says("has a key in slot 9c already").says("ykman --device 20000001 piv reset");
    alice.change(|state| state.keys.retain(|slot, _| *slot == 0xf9));
    let said = drill(&[PIN, "111111"], &[]).exits(1).says("still has alice-");
    said.says("which was to be thrown away").says("it is wrong").says("piv reset");
    alice.change(|state| state.keys.retain(|slot, _| *slot == 0xf9));
    // An enrolled token is left alone, and so is the drill's own token for the real thing.
    lab.generate(ALICE).exits(0);
    let enrolled = alice.state().keys;
    drill(&[PIN, PIN], &[]).exits(1).says("already");
    assert!(alice.state().keys.iter().all(|(slot, key)| enrolled[slot].secret == key.secret));
}
