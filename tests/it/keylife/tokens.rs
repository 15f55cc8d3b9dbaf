//! Changes of keys that are in hardware tokens: the real pcscd, emulated tokens, and a home
//! for each person.

use std::fs;

use release::approve::Amendment;
use release::approve::Sent;
use sha2::Digest as _;

use super::ALICE;
use super::BOB;
use super::CAROL;
use super::REJECTED;
use super::WAITING;
use crate::interop;
use crate::support::Lab;
use crate::support::Said;
use crate::support::piv::Fault;
use crate::support::piv::Token;
use crate::support::piv::hand::Event;
use crate::support::piv::state::State;
use crate::support::piv::state::TokenSpec;
use crate::support::tokens::PIN;
use crate::support::tokens::PUK;
use crate::support::tokens::SERIALS;
use crate::support::tokens::TokenLab;

/// The policy that a change lays out.
const NEW_POLICY: &str = "home/amendment/policy.toml";

fn is_signature(event: Event) -> bool {
    matches!(event, Event::Signature(_))
}

/// A laboratory in which 1.0 is released, and each person has a home. That of alice has the
/// online key and the mirror.
fn apart() -> TokenLab {
    let lab = TokenLab::new();
    lab.lab.tag("1.0");
    lab.cut("1.0").exits(0);
    let terminal = String::from_utf8(lab.lab.read("home/terminal.toml")).unwrap();
    for (home, own) in [(BOB, vec![SERIALS[1]]), (CAROL, vec![SERIALS[2]]), (ALICE, vec![SERIALS[0], SERIALS[3]])] {
        if home != ALICE {
            lab.lab.copy(ALICE, home);
        }
        let is_own = |line: &&str| own.iter().any(|serial| line.contains(&serial.to_string()));
        let mut lines: Vec<&str> =
            terminal.lines().filter(|line| !line.contains("serial = ") || is_own(line)).collect();
        if home != ALICE {
            lines.truncate(lines.iter().position(|line| line.starts_with("[mirror")).unwrap());
        }
        lab.lab.write(&format!("{home}/terminal.toml"), lines.join("\n"));
    }
    lab
}

/// Makes the new keys of somebody.
fn generate(lab: &TokenLab, policy: &str, whose: &[&str], serial: u32) -> Said {
    lab.set_lines(serial, &[PIN, PUK]);
    let token = serial.to_string();
    let said = lab.runs(&[&["key", "generate", "--policy", policy, "--token", &token], whose].concat());
    lab.set_pins(&[]);
    said
}

fn approve(lab: &TokenLab, home: &str, number: u64) -> Said {
    let (path, yes) = (format!("{home}/inbox/policy_{number}.request.json"), format!("--yes={number}"));
    lab.runs(&["approve", &path, &yes, "--home", home])
}

/// Carries a request to somebody who signs it, and the answer back.
#[track_caller]
fn agreed(lab: &TokenLab, home: &str, number: u64) {
    lab.lab.carry(ALICE, home).exits(0);
    approve(lab, home, number).exits(0);
    lab.lab.carry(home, ALICE).exits(0);
}

#[test]
fn keys_in_tokens_are_rotated_revoked_and_recovered() {
    let lab = apart();
    let change = |words: &str, number: u64| {
        let yes = format!("--yes={number}");
        lab.runs(&[&["key"], words.split(' ').collect::<Vec<_>>().as_slice(), &[&yes]].concat())
    };
    let rotate = || change("rotate alice-root alice-release", 2);
    let told = rotate().exits(1).says("nobody has made these keys yet: alice-release-2, alice-root-2");
    told.says("release key generate --holder NAME --token SERIAL --policy");
    // In the same token, beside the old ones.
    let made = generate(&lab, NEW_POLICY, &["--holder", "alice"], SERIALS[0]).exits(0);
    made.says("Generated alice-release-2 in slot 88").says("Generated alice-root-2 in slot 89").says("Made 2 keys");
    // Without what its maker says of it, a key is none.
    let place = "home/amendment/keys/alice-root-2.token.json";
    let known = lab.lab.read(place);
    fs::remove_file(lab.lab.path(place)).unwrap();
    rotate().exits(1).says("key alice-root-2 has no attestation").says("nothing was signed");
    lab.lab.write(place, known);
    lab.forget();
    rotate().exits(WAITING).says("root      alice (2 needed)").says("kestrel   alice (2 needed)");
    assert_eq!(lab.count(is_signature), 1, "the request, and nothing else: {:?}", lab.events());
    let terminal = String::from_utf8(lab.lab.read("home/terminal.toml")).unwrap();
    assert!(terminal.contains("alice-root-2 = { serial = 20000001, slot = \"89\" }"), "{terminal}");

    // bob's token is pulled out between two signatures; none is made twice.
    lab.lab.carry(ALICE, BOB).exits(0);
    lab.forget();
    lab.tokens[1].fail(Token::SIGN, 3, Fault::PulledBefore);
    let shown = approve(&lab, BOB, 2).exits(1).says("by        bob-release, bob-root, bob-targets");
    shown.says("token 20000002 of bob did not sign").says("it was pulled out");
    assert!(!lab.lab.path("home-bob/outbox/policy_2_bob.approval.json").exists());
    lab.pcscd.reader(1).plug(&lab.tokens[1]);
    lab.set_pins(&[]);
    approve(&lab, BOB, 2).exits(0);
    assert_eq!(lab.tokens[1].signatures(), 4, "root, targets, kestrel, and the answer: {:?}", lab.events());
    lab.lab.carry(BOB, ALICE).exits(0);

    // alice's is not touched in the middle.
    lab.forget();
    lab.tokens[0].fail(Token::SIGN, 2, Fault::PulledBefore);
    rotate().exits(1).says("token 20000001 of alice did not sign").says("it was pulled out");
    lab.lab.verify(&["mirror"]).exits(0);
    assert!(!lab.lab.path("mirror/metadata/2.root.json").exists());
    lab.pcscd.reader(0).plug(&lab.tokens[0]);
    let done = rotate().exits(0).says("by alice, bob").says("root 2 and targets 2");
    // It had signed the new root before the token was pulled out.
    let done = done.says("what was signed by alice-root counts for nothing in root");
    done.says("what was signed by alice-release counts for nothing in kestrel");
    // The root by the old key and by the new one, targets, kestrel, snapshot, timestamp.
    assert_eq!(lab.count(is_signature), 6, "{:?}", lab.events());
    lab.lab.verify(&["mirror"]).exits(0).does_not_say("demonstration");
    interop::python_tuf_downloads(&lab.lab, &["1.0"]);
    let said = lab.runs(&["key", "show", "alice-root-2"]).exits(0).says("token 20000001 of alice, slot 89");
    said.says("made in hardware, never exported, touch needed for each signature");

    lab.runs(&["key", "attest", "--token", "20000001"]).exits(0).says("alice-root-2 made in hardware");
    // The others follow, and the next release is signed by the new key.
    for home in [BOB, CAROL] {
        lab.runs(&["import", "--from", "mirror", "--home", home]).exits(0).says("policy.toml is now the one");
    }
    lab.lab.tag_next("1.1");
    let cut = || lab.cut("1.1");
    cut().exits(WAITING);
    lab.lab.carry(ALICE, BOB).exits(0);
    lab.runs(&["approve", "home-bob/inbox/kestrel_1.1.request.json", "--yes=1.1", "--home", BOB]).exits(0);
    lab.lab.carry(BOB, ALICE).exits(0);
    cut().exits(0).says("alice, bob");

    // bob's token is stolen.
    let revoke = || change("revoke bob-root bob-targets bob-release bob-claim", 3);
    lab.pcscd.reader(1).unplug();
    lab.runs(&["import", "--from", "mirror", "--home", CAROL]).exits(0);
    revoke().exits(WAITING);
    agreed(&lab, CAROL, 3);
    let done = revoke().exits(0).says("what was signed by bob-release counts for nothing in kestrel");
    done.says("by bob-root counts for nothing in root");
    lab.lab.verify(&["mirror"]).exits(0).says("(2 of 2; 2 needed)");

    // So is the online key.
    let recover = || change("recover", 4);
    recover().exits(1).says("nobody has made these keys yet: online-2");
    generate(&lab, NEW_POLICY, &["--online"], SERIALS[3]).exits(0).says("Generated online-2 in slot 88");
    lab.runs(&["import", "--from", "mirror", "--home", CAROL]).exits(0);
    recover().exits(WAITING);
    agreed(&lab, CAROL, 4);
    recover().exits(0).says("what was signed by online counts for nothing in timestamp");
    lab.lab.verify(&["mirror"]).exits(0);
    let _ = fs::remove_dir_all(lab.lab.path("python"));
    interop::python_tuf_downloads(&lab.lab, &["1.0", "1.1"]);
}

/// Puts another token into a reader.
fn swap(lab: &TokenLab, reader: usize, token: &Token) {
    lab.pcscd.reader(reader).unplug();
    lab.pcscd.reader(reader).plug(token);
}

/// Whoever knows the PIN of a token would count twice.
#[test]
fn a_token_never_counts_for_two_people() {
    let lab = apart();
    let add = || lab.runs(&["key", "add-holder", "dave", "--yes=2"]);
    add().exits(1).says("nobody has made these keys yet: dave-claim, dave-release, dave-root, dave-targets");
    let dave = ["--holder", "dave"];
    let told = generate(&lab, NEW_POLICY, &dave, SERIALS[0]).exits(REJECTED);
    told.says("keys of dave and alice in token 20000001");

    // Where nobody knows whose token it is, its serial tells: it is alice's.
    for entry in fs::read_dir(lab.lab.path("home/amendment/keys")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if !name.ends_with(".token.json") && entry.path().is_file() {
            lab.lab.write(&format!("elsewhere/keys/{name}"), fs::read(entry.path()).unwrap());
        }
    }
    lab.lab.copy("home/amendment/keys/attestation-roots", "elsewhere/keys/attestation-roots");
    lab.lab.copy(NEW_POLICY, "elsewhere/policy.toml");
    let shared = Token::with(State::new(&TokenSpec { serial: SERIALS[0], ..TokenSpec::default() }));
    swap(&lab, 0, &shared);
    generate(&lab, "elsewhere/policy.toml", &dave, SERIALS[0]).exits(0);
    swap(&lab, 0, &lab.tokens[0]);
    let daves = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(lab.lab.path(folder)).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("dave-")).collect()
    };
    assert_eq!(daves("elsewhere/keys").len(), 12);
    for name in daves("elsewhere/keys") {
        lab.lab.write(&format!("home/amendment/keys/{name}"), lab.lab.read(&format!("elsewhere/keys/{name}")));
    }
    lab.forget();
    let refused = add().exits(REJECTED).says("keys of alice and dave were made in token 20000001");
    refused.says("nothing was signed; each person needs a token with a PIN of its own");
    assert_eq!(lab.count(is_signature), 0);

    // Nor does it get past whoever is asked: dave's own token first, and then alice, whose
    // terminal does not look.
    for name in daves("home/amendment/keys") {
        fs::remove_file(lab.lab.path(&format!("home/amendment/keys/{name}"))).unwrap();
    }
    let own = Token::new(&TokenSpec { serial: 20_000_009, ..TokenSpec::default() });
    swap(&lab, 2, &own);
    generate(&lab, NEW_POLICY, &dave, 20_000_009).exits(0);
    swap(&lab, 2, &lab.tokens[2]);
    add().exits(WAITING);
    let mut message = Sent::<Amendment>::parse(&lab.lab.read("home/outbox/policy_2.request.json")).unwrap().message;
    assert_eq!(message.files.len(), 12, "what is attested of a key does not travel: {:?}", message.files.keys());
    for (name, content) in &mut message.files {
        *content = String::from_utf8(lab.lab.read(&format!("elsewhere/{name}"))).unwrap();
    }
    let (sent, bytes) = Sent::new(message).unwrap();
    release::tuf::install_crypto();
    let claim = &lab.tokens[0].state().keys[&0x82];
    let public =
        release::key::PublicKey::from_pem(&String::from_utf8(lab.lab.read("home/keys/alice-claim.pem")).unwrap());
    let (id, _) = release::tuf::key::identified(&public.unwrap()).unwrap();
    let signature = claim.sign(&sha2::Sha256::digest(&bytes)).unwrap();
    lab.lab.write("forged.json", sent.seal(&id, &signature).unwrap());
    lab.forget();
    let refused = lab.runs(&["approve", "forged.json", "--yes=2", "--home", BOB]).exits(REJECTED);
    refused.says("keys of alice and dave were made in token 20000001");
    assert_eq!(lab.count(is_signature), 0);
    // The honest request is answered.
    agreed(&lab, BOB, 2);
    add().exits(0);
    lab.lab.verify(&["mirror"]).exits(0);
}

#[test]
fn attestations_end_as_well() {
    let mut lab = TokenLab::new();
    let shown = lab.runs(&["status"]).exits(0).says("2052-04-17 attestation of token 20000001 of alice");
    shown
        .says("release key rotate alice-claim alice-release alice-root alice-targets alice-openpgp")
        .does_not_say("due");
    let json: serde_json::Value = serde_json::from_str(&lab.runs(&["status", "--json"]).exits(0).out).unwrap();
    let all = json["expires"].as_array().unwrap();
    let attestations = all.iter().filter(|expiry| expiry["what"].as_str().unwrap().starts_with("attestation"));
    assert_eq!(attestations.count(), SERIALS.len());
    // A home that was not there when keys were made knows nothing of it.
    Lab::released().runs(&["status"]).exits(0).does_not_say("attestation");
    for (moment, word) in [("2052-03-01 00:00:00", "due"), ("2052-05-01 00:00:00", "EXPIRED")] {
        lab.lab.travel(moment);
        lab.runs(&["status"]).says(&format!("attestation of token 20000001 of alice {word}"));
    }
}
