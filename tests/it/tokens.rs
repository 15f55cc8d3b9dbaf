//! Keys in hardware tokens: the real program, the real pcscd, emulated tokens.

use std::fmt::Write;
use std::io::BufRead;
use std::io::BufReader;
use std::process::Stdio;
use std::time::Duration;

use crate::interop;
use crate::support::Said;
use crate::support::piv::Fault;
use crate::support::piv::Token;
use crate::support::piv::hand::Event;
use crate::support::piv::hand::Patience;
use crate::support::piv::hand::Touch;
use crate::support::piv::key::Algorithm;
use crate::support::piv::key::Key;
use crate::support::piv::key::Management;
use crate::support::piv::key::PinPolicy;
use crate::support::piv::key::TouchPolicy;
use crate::support::piv::state::State;
use crate::support::piv::state::TokenSpec;
use crate::support::piv::vendor::Vendor;
use crate::support::program;
use crate::support::project;
use crate::support::run;
use crate::support::tokens::PIN;
use crate::support::tokens::PUK;
use crate::support::tokens::SERIALS;
use crate::support::tokens::TokenLab;

const ALICE: usize = 0;
const BOB: usize = 1;
const REJECTED: i32 = 3;

fn is_pin(event: Event) -> bool {
    matches!(event, Event::Pin(_))
}

fn is_touch(event: Event) -> bool {
    matches!(event, Event::Touch(..))
}

fn is_signature(event: Event) -> bool {
    matches!(event, Event::Signature(_))
}

/// What a cut by alice and bob asks of tokens: three PINs, and a touch for each of
/// six slots: two release keys, two OpenPGP keys, one claim, and the online key,
/// which signs twice.
fn asked_as_little_as_can_be(lab: &TokenLab, said: &Said) {
    assert_eq!((lab.count(is_pin), lab.count(is_touch), lab.count(is_signature)), (3, 6, 7), "{:?}", lab.events());
    let slots: usize = lab.tokens.iter().map(Token::slots_used).sum();
    assert!(lab.count(is_touch) <= slots, "{slots}");
    assert_eq!(said.err.matches("Touch token ").count(), 6, "{}", said.err);
}

#[test]
fn a_cut_by_two_of_three_people_with_tokens_is_verified_by_everybody() {
    let lab = TokenLab::new();
    lab.lab.tag("1.0");
    let said = lab.cut("1.0").exits(0).says("Signed by alice, bob (2 of 3)").does_not_say("demonstration");
    let said = said.says("Touch token 20000001 of alice to sign claim kestrel 1.0 (5 more).");
    let said = said.says("Touch token 20000004 to sign snapshot 2.").says("to sign manifest 1 of kestrel (");
    asked_as_little_as_can_be(&lab, &said);
    lab.lab.verify(&["mirror"]).exits(0).says("signed by alice, bob (2 of 3; 2 needed)").does_not_say("demonstration");
    // Also who has no more than a bundle is told where the keys are.
    let file = lab.lab.download("1.0", "kestrel-1.0");
    lab.lab.verify(&[&file]).exits(0).says("keys        made in hardware, never exported, touch needed\n");
    let json: serde_json::Value = serde_json::from_str(&lab.lab.verify(&["--json", &file]).exits(0).out).unwrap();
    let keys = &json["files"][0]["keys"];
    let expected = serde_json::json!({
        "holder": "alice", "made_in_hardware": true, "never_exported": true, "pin": "once", "touch": "cached",
        "firmware": "5.7.1", "form_factor": "USB-A keychain", "fips": false, "cspn": false, "token": 20_000_001,
        "slot": "9c", "vouched_for_by": "CN=TEST ONLY attestation root",
    });
    assert_eq!((keys.as_array().unwrap().len(), &keys[0]), (2, &expected));
    interop::python_tuf_downloads(&lab.lab, &["1.0"]);
    interop::openpgp_accepts_the_checksums(&lab.lab);

    // Nothing secret went anywhere.
    let found =
        run(program("grep").args(["-r", "-l", "-e", PIN, "-e", PUK, "home", "mirror"]).current_dir(lab.lab.path("")));
    assert_eq!(found.out, "");
    assert!(!said.has(PIN));
    // The PIN does not outlive the batch: whoever comes next needs it.
    assert_ne!(lab.tokens[ALICE].transmit(&[0x00, 0x20, 0x00, 0x80]), [0x90, 0x00]);
}

#[test]
fn five_hundred_artifacts_ask_for_no_more_than_one() {
    let lab = TokenLab::new();
    let mut recipe = String::from("version = 1\n[build]\nscript = [\"sh build.sh\"]\n");
    for number in 0..500 {
        write!(recipe, "[[artifact]]\npath = \"out/{number}\"\nname = \"{{product}}-{number}\"\n").unwrap();
    }
    lab.lab.write("work/release.toml", recipe);
    lab.lab.write("work/build.sh", "mkdir out\nfor n in $(seq 0 499); do echo $n > out/$n; done\n");
    lab.lab.commit("many");
    lab.lab.tag("1.0");
    let said = lab.cut("1.0").exits(0);
    asked_as_little_as_can_be(&lab, &said);
    lab.lab.verify(&["mirror"]).exits(0).says("kestrel 1.0: 502 files");
}

#[test]
fn killed_between_any_two_signatures_no_token_signs_twice() {
    let lab = TokenLab::new();
    let points = [
        "claim.asked",
        "claim.signed",
        "role.asked:1",
        "role.signed:1",
        "role.asked:2",
        "role.signed:2",
        "openpgp.asked:1",
        "openpgp.signed:1",
        "openpgp.asked:2",
        "openpgp.signed:2",
        "seal.begun",
        "seal.snapshot",
        "seal.timestamp",
    ];
    for (point, number) in points.into_iter().zip(1..) {
        let version = format!("1.{number}");
        lab.lab.tag(&version);
        lab.forget();
        let yes = format!("--yes={version}");
        let said = lab.runs_and(&["cut", &version, &yes], &[("RELEASE_FAIL_AT", point)]);
        assert_eq!(said.code, None, "{point}: {said:?}");
        lab.cut(&version).exits(0);
        assert_eq!(lab.count(is_signature), 7, "{point}: {:?}", lab.events());
        lab.cut(&version).exits(0).does_not_say("Touch");
    }
    lab.lab.verify(&["mirror"]).exits(0).says("kestrel 1.13: 5 files");
}

/// A cut that stops for want of a token: says why and what to do, signs nothing,
/// publishes nothing.
#[track_caller]
fn stops(lab: &TokenLab, said: Said, message: &str, hint: &str) {
    said.exits(1).says(message).says(hint).says("release cut kestrel 1.0").does_not_say("Signed");
    lab.lab.assert_nothing_published();
    assert_eq!(lab.count(is_signature), 0, "{:?}", lab.events());
    lab.forget();
}

#[test]
fn tokens_that_cannot_be_used_are_named_and_nothing_is_spent() {
    let lab = TokenLab::new();
    lab.lab.tag("1.0");
    lab.begin("1.0");
    let alice = &lab.tokens[ALICE];
    let cut = || lab.cut("1.0");
    let no_pin = || assert_eq!(lab.count(is_pin), 0, "{:?}", lab.events());

    let nowhere = ("PCSCLITE_CSOCK_NAME", "nowhere");
    let said = lab.runs_and(&["cut", "1.0", "--yes=1.0"], &[nowhere]);
    stops(&lab, said, "the smart card service does not answer", "systemctl start pcscd.socket");

    lab.pcscd.reader(ALICE).unplug();
    no_pin();
    stops(&lab, cut(), "token 20000001 of alice is not plugged in; there is token 20000003", "plug in token 20000001");

    let stranger = Token::new(&TokenSpec { serial: 29_999_999, ..TokenSpec::default() });
    lab.pcscd.reader(ALICE).plug(&stranger);
    no_pin();
    stops(&lab, cut(), "token 20000001 of alice is not plugged in; there is token 29999999", "plug in token 20000001");
    lab.pcscd.reader(ALICE).unplug();

    // It says that it is alice's.
    let mut state = alice.state();
    for key in state.keys.values_mut() {
        *key = Key::generate(Algorithm::P256, key.pin, key.touch);
    }
    let impostor = Token::with(state);
    lab.pcscd.reader(ALICE).plug(&impostor);
    let said = cut();
    assert_eq!((impostor.pins(), lab.count(is_pin)), (0, 0));
    stops(
        &lab,
        said,
        "token 20000001 of alice has another key in slot 82 than the one that is enrolled as alice-claim",
        "look for the right token",
    );
    lab.pcscd.reader(ALICE).unplug();
    let empty = Token::with(State::new(&TokenSpec { serial: SERIALS[ALICE], ..TokenSpec::default() }));
    lab.pcscd.reader(ALICE).plug(&empty);
    stops(&lab, cut(), "token 20000001 of alice has no key in slot 82, where alice-claim should be", "right token");
    lab.pcscd.reader(ALICE).unplug();

    // Both at once: one of them lies.
    lab.pcscd.reader(2).unplug();
    lab.pcscd.reader(ALICE).plug(alice);
    lab.pcscd.reader(2).plug(&impostor);
    no_pin();
    stops(&lab, cut(), "token 20000001 of alice is plugged in twice", "pull out the one that is not yours");
    lab.pcscd.reader(2).unplug();

    // Another program has it.
    let mut other = program("python3");
    other.arg(project("tests/python/hold.py")).envs([lab.pcscd.variable()]);
    let mut other = other.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut held = String::new();
    BufReader::new(other.stdout.take().unwrap()).read_line(&mut held).unwrap();
    assert_eq!(held, "held\n");
    let said = cut();
    drop(other.stdin.take());
    other.wait().unwrap();
    no_pin();
    stops(&lab, said, "is not plugged in, or another program uses it (in Yubico", "gpgconf --kill scdaemon");

    lab.cut("1.0").exits(0);
    lab.lab.verify(&["mirror"]).exits(0);
}

#[test]
fn a_pin_is_given_once_and_its_last_try_only_for_a_word() {
    let lab = TokenLab::new();
    lab.lab.tag("1.0");
    lab.begin("1.0");
    let alice = &lab.tokens[ALICE];
    let cut = || lab.cut("1.0");

    lab.set_pins(&[(SERIALS[ALICE], "12345")]);
    let said = cut();
    assert_eq!(lab.count(is_pin), 0);
    stops(&lab, said, "was not given a PIN or PUK: it has 6 to 8", "go on");

    lab.set_pins(&[(SERIALS[ALICE], "111111")]);
    let said = cut();
    assert_eq!((alice.pins(), alice.state().pin.left), (1, 2), "one try, of one token");
    stops(&lab, said, "token 20000001 of alice refuses the PIN: it is wrong, and 2 tries are left", "go on");

    lab.lab.write("passphrases", format!("{} {PIN}\n", SERIALS[BOB]));
    stops(&lab, cut(), "no PIN for token 20000001 of alice: the file descriptor of --pin-fd has no further", "go on");

    lab.set_pins(&[]);
    alice.change(|state| state.pin.left = 1);
    let said = cut();
    assert_eq!((lab.count(is_pin), alice.state().pin.left), (0, 1));
    stops(&lab, said, "has one try of its PIN left, which was not spent", "say --last-try 20000001");

    alice.change(|state| state.pin.left = 0);
    let said = cut();
    assert_eq!(lab.count(is_pin), 0);
    stops(&lab, said, "token 20000001 of alice has a blocked PIN", "release key unblock --token 20000001");

    // The PUK: wrong, nearly blocked, blocked, right.
    let unblock = |lines: &[&str], more: &[&str]| {
        lab.set_lines(SERIALS[ALICE], lines);
        lab.runs(&[&["key", "unblock", "--token", "20000001"], more].concat())
    };
    unblock(&["11111111", "777777"], &[]).exits(1).says("refuses the PUK: it is wrong, and 2 tries are left");
    unblock(&[PUK, PIN, "12345"], &[]).exits(0);
    assert_eq!((alice.state().pin.left, alice.state().puk.left), (3, 3));
    unblock(&[PUK, "123456"], &[]).exits(1).says("every token leaves its factory with that PIN");
    alice.change(|state| state.puk.left = 1);
    unblock(&[PUK, PIN], &[]).exits(1).says("has one try of its PUK left").says("--last-try 20000001");
    unblock(&[PUK, PIN], &["--last-try", "20000001"]).exits(0).says("Token 20000001 has a new PIN");
    alice.change(|state| state.puk.left = 0);
    unblock(&[PUK, PIN], &[]).exits(1).says("has a blocked PUK").says("enrol another token");

    alice.change(|state| state.pin.left = 1);
    lab.set_pins(&[]);
    lab.forget();
    let word = ["cut", "1.0", "--yes=1.0", "--last-try", "20000001"];
    lab.runs(&word).exits(0);
    assert_eq!(alice.state().pin.left, 3);
    lab.lab.verify(&["mirror"]).exits(0);
}

#[test]
fn what_fails_while_signing_is_named_and_the_same_command_goes_on() {
    let lab = TokenLab::new();
    let alice = &lab.tokens[ALICE];
    let patience = Patience { touch: Duration::from_millis(50), ..Patience::default() };
    let faults = [
        (None, "was not touched in time; claim kestrel 1.0 is not signed", "touch it while it blinks"),
        (Some(Fault::PulledBefore), "did not sign claim kestrel 1.1: it was pulled out", "plug in token 20000001"),
        (Some(Fault::PulledDuring), "did not sign claim kestrel 1.2: it was pulled out", "plug in token 20000001"),
        (Some(Fault::Garbage), "did not sign claim kestrel 1.3: it answers as no token does", "go on"),
        (Some(Fault::Truncated), "did not sign claim kestrel 1.4: it answers as no token does", "go on"),
        (Some(Fault::Flipped), "key alice-claim made a signature that does not verify", "go on"),
    ];
    for ((fault, message, hint), number) in faults.into_iter().zip(0..) {
        let version = format!("1.{number}");
        lab.lab.tag(&version);
        match &fault {
            None => {
                alice.set_patience(patience);
                alice.set_touch(Touch::Withheld);
            }
            Some(fault) => alice.fail(Token::SIGN, 1, fault.clone()),
        }
        let said = lab.cut(&version).exits(1).says(message).says(hint);
        said.says(&format!("release cut kestrel {version}")).does_not_say("Signed by");
        assert!(!lab.lab.path(&format!("mirror/releases/kestrel/{version}")).exists());
        alice.set_touch(Touch::Granted);
        alice.set_patience(Patience::default());
        if message.contains("pulled") {
            lab.pcscd.reader(ALICE).plug(alice);
        }
        lab.cut(&version).exits(0);
    }

    // In the middle of a batch: what was signed is kept.
    lab.lab.tag("2.0");
    lab.forget();
    lab.tokens[BOB].fail(Token::SIGN, 1, Fault::PulledBefore);
    lab.cut("2.0").exits(1).says("token 20000002 of bob did not sign manifest 7 of kestrel: it was pulled out");
    assert_eq!((alice.signatures(), lab.tokens[BOB].signatures()), (2, 0));
    lab.pcscd.reader(BOB).plug(&lab.tokens[BOB]);
    lab.cut("2.0").exits(0);
    assert_eq!(lab.count(is_signature), 7, "{:?}", lab.events());

    // After a batch nothing is missed.
    lab.lab.tag("2.1");
    alice.fail(Token::SIGN, 3, Fault::PulledAfter);
    lab.cut("2.1").exits(0);
    lab.pcscd.reader(ALICE).plug(alice);

    // The service dies.
    lab.lab.tag("2.2");
    lab.tokens[BOB].fail(Token::SIGN, 2, Fault::ReaderGone);
    lab.cut("2.2").exits(1).says("token 20000002 of bob did not sign SHA256SUMS of kestrel");
    assert!(!lab.lab.path("mirror/releases/kestrel/2.2").exists());
    lab.lab.verify(&["mirror"]).exits(0);
}

#[test]
fn a_token_belongs_to_one_person_and_a_terminal_too() {
    let lab = TokenLab::new();
    lab.lab.tag("1.0");
    let terminal = String::from_utf8(lab.lab.read("home/terminal.toml")).unwrap();
    assert!(terminal.contains("bob-openpgp = { serial = 20000002, slot = \"83\" }"), "{terminal}");
    lab.lab.write("home/terminal.toml", terminal.replace("20000002, slot = \"83\"", "20000001, slot = \"8f\""));
    lab.cut("1.0").exits(REJECTED).says("terminal.toml has keys of alice and bob in token 20000001");
    lab.lab.write("home/terminal.toml", terminal.replace("20000002, slot = \"83\"", "20000002, slot = \"9c\""));
    lab.cut("1.0").exits(1).says("terminal.toml:").says("`bob-openpgp` is there already; purposes never share a key");
    lab.lab.assert_nothing_published();

    // With rebuilds, each person is on a terminal of their own.
    let lab = TokenLab::new();
    let policy = String::from_utf8(lab.lab.read("policy/policy.toml")).unwrap();
    lab.lab.write("policy/policy.toml", policy.replace("rebuilds = 0", "rebuilds = 1"));
    lab.runs(&["init", "--home", "two", "--policy", "policy/policy.toml"]).exits(0);
    lab.lab.tag("1.0");
    let said = lab.runs(&["cut", "1.0", "--yes=1.0", "--home", "two"]).exits(REJECTED);
    said.says("holds release keys of alice, bob, carol; the policy wants each person's on a terminal of their own");
    assert_eq!(lab.count(is_signature), 6, "those of init: two of root, two of targets, and two of the seal");
}

#[test]
fn keys_are_made_in_tokens_that_are_fit_for_it() {
    let lab = TokenLab::fresh();
    let alice = &lab.tokens[ALICE];
    let public = ["release", "claim", "targets", "root"].map(|purpose| format!("policy/keys/alice-{purpose}.pem"));
    let nothing_made = || {
        assert!(public.iter().all(|file| !lab.lab.path(file).exists()));
        assert_eq!(alice.state().keys.len(), 1, "the attestation key only");
    };

    alice.change(|state| state.firmware = [5, 4, 3]);
    let said = lab.generate(ALICE).exits(REJECTED).says("has firmware 5.4.3, from which keys can be read");
    said.says("insecure-weak-firmware = true");
    nothing_made();
    alice.change(|state| state.firmware = [5, 7, 1]);

    let key = Key::generate(Algorithm::P256, PinPolicy::Once, TouchPolicy::Never);
    alice.change(|state| drop(state.keys.insert(0x84, key)));
    lab.generate(ALICE).exits(1).says("has a key in slot 84 already").says("ykman --device 20000001 piv reset");
    alice.change(|state| drop(state.keys.remove(&0x84)));
    nothing_made();

    lab.set_lines(SERIALS[ALICE], &["123456"]);
    let generate = ["key", "generate", "--policy", "policy/policy.toml", "--holder", "alice", "--token", "20000001"];
    lab.runs(&generate).exits(1).says("every token leaves its factory with that PIN");
    lab.set_lines(SERIALS[ALICE], &[PIN, "12345678"]);
    lab.runs(&generate).exits(1).says("every token leaves its factory with that PUK");
    alice.change(|state| state.puk.left = 0);
    lab.generate(ALICE).exits(1).says("has a blocked PUK").says("Take another token");
    alice.change(|state| state.puk.left = 3);
    let management = alice.state().management;
    alice.change(|state| state.management = Management::new(0x0a, &[7; 24]).unwrap());
    lab.generate(ALICE).exits(1).says("neither the one from the factory nor kept in the token");
    alice.change(|state| state.management = management);
    nothing_made();
    // The PUK was set by the run before last.
    assert_eq!((alice.state().pin.value.as_str(), alice.state().puk.value.as_str()), (PIN, PUK));

    // Killed at each step, it goes on with the key that it has made.
    for (step, keys) in [("enrol.noted", 1), ("enrol.generated:2", 3), ("enrol.attested:3", 5)] {
        let said = lab.generate_and(ALICE, &[("RELEASE_FAIL_AT", step)]);
        assert_eq!(said.code, None, "{step}: {said:?}");
        assert_eq!(alice.state().keys.len(), keys, "{step}");
    }
    let before = alice.state().keys;
    lab.forget();
    let said = lab.generate(ALICE).exits(0).says("Generated alice-root in slot 85, touch always");
    said.says("Made 4 keys in token 20000001").says("Touch token 20000001 of alice to sign an OpenPGP certificate");
    assert_eq!((lab.count(is_pin), lab.count(is_touch)), (1, 2));
    let after = alice.state();
    assert_eq!(after.keys.len(), 7);
    assert!(before.iter().all(|(slot, key)| after.keys[slot].secret == key.secret), "no key was made again");
    assert!(after.keys.iter().all(|(slot, key)| *slot == 0xf9 || key.pin == PinPolicy::Once));
    assert_ne!(after.management.key, Management::default_of([5, 7, 1]).key);
    lab.generate(ALICE).exits(2).says("alice has no key without a public half");

    // Whoever has no roots, or those of another maker, cannot tell where keys are made.
    let roots = "policy/keys/attestation-roots/test-only.pem";
    let known = lab.lab.read(roots);
    std::fs::remove_file(lab.lab.path(roots)).unwrap();
    lab.generate(2).exits(1).says("keys/attestation-roots cannot be used: no root").says("no key was made");
    lab.lab.write(roots, Vendor::new("Another maker").root_pem());
    let said = lab.generate(2).exits(REJECTED).says("the attestation of carol-release does not count");
    said.says("is issued by").says("do not use this token");
    assert!(!lab.lab.path("policy/keys/carol-release.pem").exists());
    lab.lab.write(roots, known);
    let replaced = lab.tokens[2].state();
    lab.tokens[2].change(|state| state.replace_f9(&Vendor::new("A thief")));
    lab.generate(2).exits(REJECTED).says("the attestation of carol-release does not count");
    lab.tokens[2].change(|state| *state = replaced);
    lab.generate(2).exits(0);

    // What others see of it.
    for file in &public {
        run(program("openssl").args(["pkey", "-pubin", "-noout", "-in", file]).current_dir(lab.lab.path(""))).exits(0);
    }
    let objects =
        run(program("pkcs15-tool").args(["--list-certificates", "--reader", "0"]).envs([lab.pcscd.variable()]));
    assert!(objects.exits(0).out.contains("Certificate for Digital Signature"));

    // An imported key is no key that was made in the token.
    let bob = &lab.tokens[BOB];
    let said = lab.generate_and(BOB, &[("RELEASE_FAIL_AT", "enrol.noted")]);
    assert_eq!(said.code, None);
    let secret = [5; 32];
    let imported = Key::import(Algorithm::P256, &secret, PinPolicy::Once, TouchPolicy::Cached).unwrap();
    bob.change(|state| drop(state.keys.insert(0x9c, imported)));
    let said =
        lab.generate(BOB).exits(REJECTED).says("token 20000002 of bob vouches for no key in slot 9c, where bob-");
    said.says("it holds none, or one that was imported").says("do not use this token");
    assert!(!lab.lab.path("policy/keys/bob-release.pem").exists());
}

#[test]
fn homes_are_made_with_the_tokens_that_are_there() {
    let lab = TokenLab::fresh();
    let init = || {
        lab.set_pins(&[]);
        lab.runs(&["init", "--policy", "policy/policy.toml", "--mirror", "here=mirror"])
    };
    init().exits(1).says("nobody has made these keys").says("release key generate --help");
    for index in 0..SERIALS.len() {
        lab.generate(index).exits(0);
    }
    // A key that nobody vouches for, and one that says it is another.
    let place = "policy/keys/carol-claim.token.json";
    let known = lab.lab.read(place);
    std::fs::remove_file(lab.lab.path(place)).unwrap();
    init().exits(1).says("key carol-claim has no attestation, and the policy does not set");
    lab.lab.write(place, String::from_utf8(known.clone()).unwrap().replace("20000003", "20000001"));
    init().exits(REJECTED).says("the attestation of carol-claim does not count").says("made by token 20000003");
    lab.lab.write(place, known);
    lab.pcscd.reader(ALICE).unplug();
    lab.pcscd.reader(BOB).unplug();
    // Where too few are here, it would ask those who are elsewhere.
    init().exits(6).says("root      carol (2 needed)").says("home/outbox/policy_1.request.json");
    std::fs::remove_dir_all(lab.lab.path("home")).unwrap();
    lab.pcscd.reader(3).unplug();
    init().exits(1).says("the online key online is not here").says("no home was made");
    lab.pcscd.reader(3).plug(&lab.tokens[3]);
    lab.pcscd.reader(BOB).plug(&lab.tokens[BOB]);
    lab.tokens[BOB].change(|state| state.pin.left = 0);
    init().exits(1).says("token 20000002 of bob has a blocked PIN").says("no home was made");
    assert!(!lab.lab.path("home").exists());
    lab.tokens[BOB].change(|state| state.pin.left = 3);
    lab.forget();
    init().exits(0).says("Made a root of trust in").does_not_say("demonstration");
    // Two of root, two of targets, and the online key twice for one touch.
    assert_eq!((lab.count(is_pin), lab.count(is_touch), lab.count(is_signature)), (3, 5, 6));
    let terminal = String::from_utf8(lab.lab.read("home/terminal.toml")).unwrap();
    assert!(terminal.contains("bob-root = { serial = 20000002, slot = \"85\" }"), "{terminal}");
    assert!(!terminal.contains("alice"), "{terminal}");
    // Users can read where each key is.
    let attested = |name: &str| {
        let mut files = std::fs::read_dir(lab.lab.path("mirror/targets/keys/1")).unwrap().flatten();
        let file = files.find(|file| file.file_name().to_str().unwrap().ends_with(&format!(".{name}.attested.json")));
        release::manifest::Attested::parse(&std::fs::read(file.unwrap().path()).unwrap()).unwrap()
    };
    lab.runs(&["publish"]).exits(0);
    assert_eq!(attested("alice-root").to_string(), "made in hardware, never exported, touch needed for each signature");
    assert_eq!(attested("bob-openpgp").serial, 20_000_002);

    let said = lab.runs(&["key", "list"]).exits(0).says("20000002 firmware 5.7.1; PIN 3 tries left, PUK 3 tries left");
    said.says("alice-release not on this terminal").says("bob-release token 20000002 of bob, slot 9c");
    lab.pcscd.reader(BOB).unplug();
    lab.runs(&["key", "list"]).exits(0).says("bob-release token 20000002 of bob, slot 9c, not plugged in");
    let json: serde_json::Value = serde_json::from_str(&lab.runs(&["key", "list", "--json"]).exits(0).out).unwrap();
    assert_eq!(json["tokens"].as_array().unwrap().len(), 2);
    lab.pcscd.reader(BOB).plug(&lab.tokens[BOB]);

    lab.forget();
    let said = lab.runs(&["key", "selftest", "--token", "20000002"]).exits(0).says("6 keys work.");
    said.says("Tested bob-root signed in").says("Touch token 20000002 of bob to sign a test (5 more).");
    assert_eq!((lab.count(is_pin), lab.count(is_touch), lab.count(is_signature)), (1, 6, 6));
    lab.tokens[BOB].fail(Token::SIGN, 2, Fault::Flipped);
    lab.runs(&["key", "selftest"]).exits(1).says("made a signature that does not verify");
    lab.runs(&["key", "selftest", "--token", "7"]).exits(1).says("nothing was tested");
}
