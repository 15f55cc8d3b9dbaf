//! What is known of keys: to users, to the terminal, and to whoever gets them on a
//! medium.

use std::fs;

use release::key::Signer;
use release::manifest::Attested;
use release::manifest::Sha256;
use sequoia_openpgp as sequoia;
use sequoia_openpgp::parse::Parse as _;
use sequoia_openpgp::serialize::SerializeInto as _;
use serde_json::Value;
use serde_json::json;

use sequoia::Packet;
use sequoia::crypto::mpi;
use sequoia::packet::key::Key4;
use sequoia::packet::key::PublicParts;
use sequoia::packet::key::SecretParts;
use sequoia::packet::key::SubordinateRole;
use sequoia::packet::key::UnspecifiedRole;
use sequoia::packet::signature::SignatureBuilder;
use sequoia::types::Curve;
use sequoia::types::HashAlgorithm;
use sequoia::types::KeyFlags;
use sequoia::types::SignatureType;

use crate::support::Lab;
use crate::support::forge::Forger;
use crate::support::piv::key::Algorithm;
use crate::support::piv::key::Key;
use crate::support::piv::key::PinPolicy;
use crate::support::piv::key::TouchPolicy;
use crate::support::piv::vendor::Vendor;
use crate::support::program;
use crate::support::run;
use crate::support::tokens::SERIALS;
use crate::support::tokens::TokenLab;

const REJECTED: i32 = 3;

#[test]
fn only_what_enough_people_signed_is_told_about_keys() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    let keys = |exit: i32| {
        let said: Value = serde_json::from_str(&lab.verify(&["--json", &file]).exits(exit).out).unwrap();
        said["files"][0]["keys"].clone()
    };
    let unknown = json!([
        { "holder": "alice", "made_in_hardware": false }, { "holder": "bob", "made_in_hardware": false },
    ]);
    assert_eq!(keys(0), unknown);
    lab.verify(&[&file]).exits(0).does_not_say("made in hardware");

    let claims =
        vec![serde_json::from_slice(&lab.read("mirror/releases/kestrel/1.0/claim.alice.intoto.json")).unwrap()];
    let mut forger = Forger::new(&lab);
    let (_, alice) = forger.key("alice-release");
    let facts = json!({
        "version": 1, "key": Sha256::of(&alice.public().to_der()), "serial": 7, "slot": "9c", "firmware": "5.7.1",
        "pin-policy": "once", "touch-policy": "always", "form-factor": "USB-C nano", "fips": false, "cspn": false,
        "root": "CN=Maker",
    });
    let written = release::manifest::json::to_vec(&facts).unwrap();
    assert!(Attested::parse(&written).is_ok());
    let mut number = 1;
    let mut bundle = |digest: Sha256, signers: &[&str]| {
        number += 1;
        forger.targets = forger.sign(&forger.targets.clone(), signers, |signed| {
            signed["version"] = json!(number);
            signed["targets"]["keys/1/alice-release.attested.json"] = json!({
                "length": written.len(), "hashes": { "sha256": digest }, "custom": { "attested": facts },
            });
        });
        forger.seal();
        lab.write("download/kestrel-1.0.bundle.json", forger.bundle(claims.clone()));
    };
    let (alice_and_bob, alice) = (["alice-targets", "bob-targets"], ["alice-targets"]);
    bundle(Sha256::of(b"another file"), &alice_and_bob);
    assert_eq!(keys(0), unknown, "what stands there is not the target");
    bundle(Sha256::of(&written), &alice_and_bob);
    assert_eq!((&keys(0)[0]["touch"], &keys(0)[1]), (&json!("always"), &unknown[1]));
    let said = lab.verify(&[&file]).exits(0);
    said.says("keys        made in hardware, never exported, touch needed for each signature (only of alice)");
    bundle(Sha256::of(&written), &alice);
    lab.verify(&[&file]).exits(REJECTED).says("targets").does_not_say("made in hardware");
}

const ALICE: usize = 0;
const BOB: usize = 1;
/// Where a colleague's files come from.
const STICK: &str = "policy/keys";
/// Where they are kept.
const OTHER: &str = "other/keys";
const BOBS: [&str; 14] = [
    "bob.asc",
    "bob-certify.token.json",
    "bob-certify.attestation.pem",
    "bob-openpgp.token.json",
    "bob-openpgp.attestation.pem",
    "bob-claim.pem",
    "bob-claim.token.json",
    "bob-claim.attestation.pem",
    "bob-release.pem",
    "bob-release.token.json",
    "bob-release.attestation.pem",
    "bob-root.pem",
    "bob-root.token.json",
    "bob-root.attestation.pem",
];

#[test]
fn a_key_is_shown_with_what_its_maker_vouches_for() {
    let lab = TokenLab::new();
    let said = lab.runs(&["key", "show", "alice-release"]).exits(0);
    let said = said.says("holder alice").says("purpose signs release manifests");
    let said =
        said.says("place token 20000001 of alice, slot 9c").says("made in hardware, never exported, touch needed");
    said.says("firmware 5.7.1, USB-A keychain, PIN once").says("by CN=TEST ONLY attestation root").does_not_say("bob");
    let all = lab.runs(&["key", "show"]).exits(0).says("alice-root").says("online").says("fingerprint");
    assert!(all.out.lines().all(|line| line.len() <= 80), "{}", all.out);
    let json: Value = serde_json::from_str(&lab.runs(&["key", "show", "--json"]).exits(0).out).unwrap();
    let keys = json["keys"].as_array().unwrap();
    assert!(keys.len() == 19 && keys.iter().all(|key| key["attested"]["firmware"] == "5.7.1"), "{json}");
    assert_eq!(keys[0]["place"], json!({ "serial": 20_000_001, "slot": "82" }));
    lab.runs(&["key", "show", "nobody-release"])
        .exits(1)
        .says("no key `nobody-release` with a public half")
        .says("release key list");
    // Before there is a home.
    lab.runs(&["key", "show", "bob-root", "--policy", "policy/policy.toml"]).exits(0).says("slot 85");

    // What was put there since is found out.
    lab.lab.copy("home/keys/bob-release.attestation.pem", "home/keys/alice-release.attestation.pem");
    let said = lab.runs(&["key", "show", "alice-release"]).exits(REJECTED).says("attested nothing that counts");
    said.says("the attestation of alice-release does not count").says("do not use such a key");
    lab.lab.write("home/keys/alice-release.attestation.pem", "nothing");
    lab.runs(&["key", "show", "alice-release"]).exits(1).says("it does not hold two certificates");

    let software = Lab::released();
    software
        .runs(&["key", "show", "alice-release"])
        .exits(0)
        .says("file keys/alice-release.key")
        .says("attested nothing");
}

#[test]
fn a_token_is_asked_again_where_its_keys_were_made() {
    let lab = TokenLab::new();
    let attest = || lab.runs(&["key", "attest", "--token", "20000001"]);
    lab.forget();
    let said = attest().exits(0).says("alice-root made in hardware, never exported, touch needed for each signature");
    said.says("as before");
    assert!(lab.events().is_empty(), "it needs no PIN: {:?}", lab.events());
    lab.runs(&["key", "attest", "--token", "7"]).exits(1).says("no key of the policy was made in token 7");

    let alice = &lab.tokens[ALICE];
    let good = alice.state();
    // The same maker, another attestation key: the token is not the one that it was.
    alice.change(|state| state.replace_f9(&Vendor::usual()));
    attest().exits(REJECTED).says("alice-claim what it said when that was made: the certificate in slot F9 differs");
    alice.change(|state| state.replace_f9(&Vendor::new("A thief")));
    attest().exits(REJECTED).says("the attestation of alice-claim does not count").says("is issued by");
    alice.change(|state| *state = good.clone());
    let other = Key::generate(Algorithm::P256, PinPolicy::Once, TouchPolicy::Cached);
    alice.change(|state| drop(state.keys.insert(0x9c, other)));
    attest().exits(REJECTED).says("the attestation is for another public key");
    let imported = Key::import(Algorithm::P256, &[5; 32], PinPolicy::Once, TouchPolicy::Cached).unwrap();
    alice.change(|state| drop(state.keys.insert(0x9c, imported)));
    attest().exits(REJECTED).says("vouches for no key in slot 9c").says("or one that was imported");
    alice.change(|state| *state = good.clone());
    alice.change(|state| state.firmware = [5, 4, 3]);
    attest().exits(REJECTED).says("the attestation of alice-claim does not count").says("5.4.3");
    alice.change(|state| *state = good);
    lab.pcscd.reader(ALICE).unplug();
    attest().exits(1).says("token 20000001 of alice is not plugged in").says("plug in token 20000001");
}

/// A terminal with a policy of its own, and a colleague's files on a stick.
fn with_files_of_bob() -> TokenLab {
    let lab = TokenLab::fresh();
    lab.generate(ALICE).exits(0);
    lab.generate(BOB).exits(0);
    for file in ["policy.toml", "keys/attestation-roots/test-only.pem"] {
        lab.lab.write(&format!("other/{file}"), lab.lab.read(&format!("policy/{file}")));
    }
    lab
}

fn take(lab: &TokenLab, names: &[&str], more: &[(&str, &str)]) -> crate::support::Said {
    let paths: Vec<String> = names.iter().map(|name| format!("{STICK}/{name}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    lab.runs_and(&[&["key", "import-public", "--policy", "other/policy.toml"], paths.as_slice()].concat(), more)
}

#[test]
fn public_files_of_a_colleague_are_checked_before_they_are_kept() {
    let lab = with_files_of_bob();
    let nothing_kept = || {
        let kept: Vec<_> = fs::read_dir(lab.lab.path(OTHER)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(kept, ["attestation-roots"]);
    };
    let release = ["bob-release.pem", "bob-release.token.json", "bob-release.attestation.pem"];
    let refused = |code: i32, names: &[&str], message: &str| {
        take(&lab, names, &[]).exits(code).says(message).says("nothing was kept");
        nothing_kept();
    };
    // A changed file, and its undoing.
    let changed = |name: &str, content: &[u8], code: i32, message: &str| {
        let path = format!("{STICK}/{name}");
        let good = lab.lab.read(&path);
        lab.lab.write(&path, content);
        refused(code, &release, message);
        lab.lab.write(&path, good);
    };
    refused(1, &release[..2], "bob-release cannot be taken without keys/bob-release.attestation.pem");
    refused(1, &release[..1], "bob-release cannot be taken without keys/bob-release.token.json");
    refused(1, &release[1..], "bob-release cannot be taken without keys/bob-release.pem");
    refused(REJECTED, &["../policy.toml"], "the policy has no public file of the name \"policy.toml\"");
    refused(REJECTED, &["bob-release.pem", "bob-release.pem"], "bob-release.pem is named twice");
    changed(release[0], &lab.lab.read("policy/keys/alice-release.pem"), REJECTED, "is for another public key");
    changed(release[0], b"nothing", REJECTED, "holds no public key");
    changed(release[0], &vec![b'-'; 200_000], REJECTED, "is longer than");
    let place = String::from_utf8(lab.lab.read(&format!("{STICK}/{}", release[1]))).unwrap();
    changed(release[1], place.replace("20000002", "20000009").as_bytes(), REJECTED, "does not count");
    changed(release[1], place.replace("bob-release", "bob-claim").as_bytes(), REJECTED, "it is not about bob-release");
    changed(release[1], b"{}", REJECTED, "it has no version");
    changed(release[2], b"nothing", REJECTED, "it does not hold two certificates");
    let claims = lab.lab.read("policy/keys/bob-claim.attestation.pem");
    changed(release[2], &claims, REJECTED, "does not count");
    // Links lead anywhere.
    let linked = lab.lab.path(&format!("{STICK}/{}", release[0]));
    fs::rename(&linked, lab.lab.path("stashed")).unwrap();
    std::os::unix::fs::symlink(lab.lab.path("stashed"), &linked).unwrap();
    refused(REJECTED, &release, "it is a link");
    fs::remove_file(&linked).unwrap();
    refused(1, &release, "cannot read");
    fs::rename(lab.lab.path("stashed"), &linked).unwrap();
    // A maker whom this terminal does not know; none at all.
    let roots = "other/keys/attestation-roots/test-only.pem";
    let known = lab.lab.read(roots);
    lab.lab.write(roots, Vendor::new("Another maker").root_pem());
    refused(REJECTED, &release, "the attestation of bob-release does not count");
    lab.lab.write(roots, "");
    take(&lab, &release, &[]).exits(1).says("keys/attestation-roots cannot be used");
    lab.lab.write(roots, known);
    nothing_kept();
    // A certificate for somebody else, and two at once.
    let policy = String::from_utf8(lab.lab.read("other/policy.toml")).unwrap();
    lab.lab.write("other/policy.toml", policy.replace("bob = \"Bob\"", "bob = \"Robert\""));
    refused(REJECTED, &BOBS[..5], "it is not for the holder's name");
    lab.lab.write("other/policy.toml", policy);
    let certificate = lab.lab.read("policy/keys/bob.asc");
    lab.lab.write("policy/keys/bob.asc", [certificate.clone(), lab.lab.read("policy/keys/alice.asc")].concat());
    refused(REJECTED, &BOBS[..5], "it holds several certificates");
    lab.lab.write("policy/keys/bob.asc", certificate);
    refused(1, &BOBS[..3], "bob-openpgp cannot be taken without keys/bob-openpgp.token.json");

    // Killed between two files, the same command again takes the rest.
    let said = take(&lab, &release, &[("RELEASE_FAIL_AT", "public.kept:2")]);
    assert_eq!(said.code, None, "{said:?}");
    assert!(!lab.lab.path("other/keys/bob-release.pem").exists(), "the public half comes last");
    take(&lab, &release, &[]).exits(0).says("new bob-release: made in hardware").says("of 1 key");
    take(&lab, &release, &[]).exits(0).says("known bob-release").says("of 0 keys");
    let said = take(&lab, &BOBS, &[]).exits(0).says("new bob-openpgp: made in hardware, never exported");
    said.says("new bob-root: made in hardware, never exported, touch needed for each");
    for name in &BOBS {
        assert_eq!(lab.lab.read(&format!("{OTHER}/{name}")), lab.lab.read(&format!("{STICK}/{name}")), "{name}");
    }
    // What is there is never replaced.
    for name in release {
        lab.lab.copy(&format!("policy/keys/{}", name.replace("release", "claim")), &format!("{OTHER}/{name}"));
        take(&lab, &release, &[]).exits(REJECTED).says("is there already, with other content");
        lab.lab.copy(&format!("{STICK}/{name}"), &format!("{OTHER}/{name}"));
    }
    // One token, two people: whoever knows its PIN would count twice.
    let alice = ["alice-claim.pem", "alice-claim.token.json", "alice-claim.attestation.pem"];
    take(&lab, &alice, &[]).exits(0).says("new alice-claim");
    let policy = String::from_utf8(lab.lab.read("other/policy.toml")).unwrap();
    let whose = |name: &str, holder: &str| format!("{name}-root = {{ holder = \"{holder}\"");
    let swapped = policy.replace(&whose("alice", "alice"), &whose("alice", "carol"));
    let swapped = swapped.replace(&whose("carol", "carol"), &whose("carol", "alice"));
    assert_ne!(policy, swapped);
    lab.lab.write("other/policy.toml", swapped);
    let root = alice.map(|name| name.replace("claim", "root"));
    let said = take(&lab, &root.each_ref().map(String::as_str), &[]).exits(REJECTED);
    said.says("alice-root and alice-claim are in one token, 20000001, and belong to two people");
}

/// A slot of a token, for those who know how to ask it.
struct Slot(sequoia::packet::Key<PublicParts, UnspecifiedRole>, Key);

impl sequoia::crypto::Signer for Slot {
    fn public(&self) -> &sequoia::packet::Key<PublicParts, UnspecifiedRole> {
        &self.0
    }

    fn sign(&mut self, _: HashAlgorithm, digest: &[u8]) -> sequoia::Result<mpi::Signature> {
        let signature = p256::ecdsa::Signature::from_der(&self.1.sign(digest).unwrap())?;
        let (r, s) = signature.split_bytes();
        Ok(mpi::Signature::ECDSA { r: mpi::MPI::new(&r), s: mpi::MPI::new(&s) })
    }
}

/// The certificate with a further key that signs, made in software, as whoever has the
/// token and its PIN can add one.
fn with_a_software_key(certificate: &[u8], primary: Key) -> Vec<u8> {
    let cert = sequoia::Cert::from_bytes(certificate).unwrap();
    let key = cert.primary_key().key().clone();
    let mut certifier = Slot(key.clone().role_into_unspecified(), primary);
    let made: sequoia::packet::Key<SecretParts, SubordinateRole> =
        Key4::generate_ecc(true, Curve::NistP256).unwrap().into();
    let mut signer = made.clone().into_keypair().unwrap();
    let builder = |of_type| SignatureBuilder::new(of_type).set_hash_algo(HashAlgorithm::SHA256);
    let belongs = builder(SignatureType::PrimaryKeyBinding).sign_primary_key_binding(&mut signer, &key, &made).unwrap();
    let binding = builder(SignatureType::SubkeyBinding).set_key_flags(KeyFlags::empty().set_signing()).unwrap();
    let binding = binding.set_embedded_signature(belongs).unwrap();
    let binding = made.bind(&mut certifier, &cert, binding).unwrap();
    let packets = [Packet::from(made.take_secret().0), binding.into()];
    cert.insert_packets(packets).unwrap().0.armored().to_vec().unwrap()
}

#[test]
fn a_certificate_has_no_key_beside_those_that_are_attested() {
    let lab = with_files_of_bob();
    let good = lab.lab.read("policy/keys/bob.asc");
    let certify = lab.tokens[BOB].state().keys[&0x87].clone();
    let extended = with_a_software_key(&good, certify);
    // It is what OpenPGP takes for bob: all of it is bound together.
    lab.lab.write("policy/keys/bob.asc", extended);
    let mut gpg = program("gpg");
    gpg.args(["--show-keys", "--with-colons", "policy/keys/bob.asc"]).env("GNUPGHOME", lab.lab.path(""));
    let shown = run(gpg.current_dir(lab.lab.path(""))).exits(0);
    assert_eq!(shown.out.lines().filter(|line| line.starts_with("sub:")).count(), 2);
    let message = "it holds 3 keys, not two: one that certifies, and one that signs";
    take(&lab, &BOBS, &[]).exits(REJECTED).says("keys/bob.asc").says(message).says("nothing was kept");
    assert!(!lab.lab.path("other/keys/bob.asc").exists());
    // Nor does it come in where somebody has copied it.
    let policy = ["--policy", "policy/policy.toml"];
    let said = lab.runs(&[&["key", "show", "bob-openpgp"], &policy[..]].concat()).exits(REJECTED).says(message);
    said.says("attested nothing that counts");
    for index in 2..SERIALS.len() {
        lab.generate(index).exits(0);
    }
    lab.set_pins(&[]);
    let init = [&["init"], &policy[..], &["--mirror", "here=mirror"]].concat();
    lab.runs(&init).exits(REJECTED).says(message).says("no home was made");
    assert!(!lab.lab.path("home").exists());
    lab.lab.write("policy/keys/bob.asc", good);
    take(&lab, &BOBS, &[]).exits(0);
    lab.runs(&init).exits(0);
}
