//! Thieves with keys: fewer than a threshold, keys that are no longer trusted,
//! the online key.

use release::manifest::dsse::Envelope;
use serde_json::json;

use crate::support::Lab;
use crate::support::forge::Forger;
use crate::support::forge::number;
use crate::support::forge::value;

const REJECTED: i32 = 3;
const EVIL: &[u8] = b"evil\n";

fn claims(lab: &Lab) -> Vec<Envelope> {
    vec![serde_json::from_slice(&lab.read("mirror/releases/kestrel/1.0/claim.alice.intoto.json")).unwrap()]
}

/// Puts a forged file and bundle where a user would download them.
fn offer(lab: &Lab, name: &str, bundle: &[u8]) -> String {
    lab.write(&format!("forged/{name}"), EVIL);
    lab.write("forged/kestrel.bundle.json", bundle);
    format!("forged/{name}")
}

#[test]
fn one_signature_of_two_is_not_enough() {
    let lab = Lab::released();
    let mut forger = Forger::new(&lab);
    forger.role = forger.sign(&forger.role.clone(), &["alice-release"], |signed| {
        Forger::add_release(signed, "kestrel/6.6/kestrel-6.6", EVIL);
    });
    forger.seal();
    let file = offer(&lab, "kestrel-6.6", &forger.bundle(claims(&lab)));
    lab.verify(&[&file]).exits(REJECTED).says("threshold not met");
    forger.serve();
    lab.verify(&["mirror"]).exits(REJECTED).says("kestrel.json").says("1/2");
}

#[test]
fn two_keys_of_one_person_count_once() {
    let lab = Lab::released();
    let mut forger = Forger::new(&lab);
    // k people were tricked into giving one of them a second key.
    let (bob, _) = forger.key("bob-release");
    forger.targets = forger.sign(&forger.targets.clone(), &["alice-targets", "bob-targets"], |signed| {
        signed["version"] = json!(2);
        let holders = &mut signed["x-release"]["holders"];
        let ids = holders["bob"]["keyids"].as_array_mut().unwrap();
        ids.retain(|id| *id != json!(bob));
        holders["alice"]["keyids"].as_array_mut().unwrap().push(json!(bob));
    });
    forger.seal();
    forger.serve();
    lab.verify(&["mirror"]).exits(REJECTED).says("signed by 1 of 2 people; 2 must sign");
}

#[test]
fn a_key_without_a_holder_counts_for_nobody() {
    let lab = Lab::released();
    let mut forger = Forger::new(&lab);
    forger.targets = forger.sign(&forger.targets.clone(), &["alice-targets", "bob-targets"], |signed| {
        signed["version"] = json!(2);
        signed["x-release"]["holders"]["bob"]["keyids"] = json!([]);
    });
    forger.seal();
    forger.serve();
    // The targets role itself has only alice left among its signers then.
    lab.verify(&["mirror"]).exits(REJECTED).says("people; 2 must sign");
}

#[test]
fn an_unknown_key_is_surplus() {
    let lab = Lab::released();
    let forger = Forger::new(&lab);
    let (id, key, _) = Forger::fresh_key("stranger");
    let keys = [forger.key("alice-release"), forger.key("bob-release"), (id, key)];
    let mut role = Forger::sign_with(&forger.role, &keys, |_| {});
    let mut other = Forger::new(&lab);
    std::mem::swap(&mut other.role, &mut role);
    other.seal();
    let file = lab.download("1.0", "kestrel-1.0");
    lab.write("download/kestrel-1.0.bundle.json", other.bundle(claims(&lab)));
    lab.verify(&[&file]).exits(REJECTED).says("a surplus signature");
}

#[test]
fn what_nobody_signed_has_no_place_in_a_bundle() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    let bundle = value(&lab.read("download/kestrel-1.0.bundle.json"));
    // The timestamp is the one file that no other pins by its digest.
    for place in ["/timestamp", "/timestamp/signatures/0"] {
        let mut forged = bundle.clone();
        forged.pointer_mut(place).unwrap()["x"] = json!("by nobody");
        lab.write("download/kestrel-1.0.bundle.json", release::manifest::json::to_vec(&forged).unwrap());
        lab.verify(&[&file]).exits(REJECTED).says("timestamp.json: it holds more than what is signed");
    }
}

#[test]
fn another_products_files_cannot_be_listed() {
    let lab = Lab::released();
    let mut forger = Forger::new(&lab);
    forger.role = forger.sign(&forger.role.clone(), &["alice-release", "bob-release"], |signed| {
        Forger::add_release(signed, "heron/1.0/heron-1.0", EVIL);
    });
    forger.seal();
    let file = offer(&lab, "heron-1.0", &forger.bundle(claims(&lab)));
    lab.verify(&[&file]).exits(REJECTED).says("heron/1.0/heron-1.0").says("not a file of one of its releases");
    forger.serve();
    lab.verify(&["mirror"]).exits(REJECTED).says("heron");
}

#[test]
fn a_release_that_nobody_claims_to_have_built_is_rejected() {
    let lab = Lab::released();
    let mut forger = Forger::new(&lab);
    forger.role = forger.sign(&forger.role.clone(), &["alice-release", "bob-release"], |signed| {
        Forger::add_release(signed, "kestrel/6.6/kestrel-6.6", EVIL);
    });
    forger.seal();
    let file = offer(&lab, "kestrel-6.6", &forger.bundle(claims(&lab)));
    lab.verify(&[&file]).exits(REJECTED).says("was built by 0 people (nobody); 1 must have built it");
}

#[test]
fn more_rebuilds_than_claims_reject_a_release() {
    let lab = Lab::released();
    let mut forger = Forger::new(&lab);
    forger.targets = forger.sign(&forger.targets.clone(), &["alice-targets", "bob-targets"], |signed| {
        signed["version"] = json!(2);
        signed["x-release"]["products"]["kestrel"]["rebuilds"] = json!(1);
    });
    forger.seal();
    let file = lab.download("1.0", "kestrel-1.0");
    lab.write("download/kestrel-1.0.bundle.json", forger.bundle(claims(&lab)));
    lab.verify(&[&file]).exits(REJECTED).says("was built by 1 people (alice); 2 must have built it");
    // The same claim twice is one person.
    let twice = [claims(&lab), claims(&lab)].concat();
    lab.write("download/kestrel-1.0.bundle.json", forger.bundle(twice));
    lab.verify(&[&file]).exits(REJECTED).says("2 must have built it");
}

#[test]
fn a_claim_that_says_otherwise_rejects_a_release() {
    let lab = Lab::released();
    let forger = Forger::new(&lab);
    let file = lab.download("1.0", "kestrel-1.0");
    let claim = value(&lab.read("mirror/releases/kestrel/1.0/claim.alice.intoto.json"));
    // Another signature over the same statement.
    let mut bad = claim.clone();
    bad["signatures"][0]["sig"] = json!("AAAA");
    lab.write("download/kestrel-1.0.bundle.json", forger.bundle(vec![serde_json::from_value(bad).unwrap()]));
    lab.verify(&[&file]).exits(REJECTED).says("claim of alice").says("not signed by the claim key");
    // Another statement, signed by another holder's claim key: two people disagree.
    let (id, key) = forger.key("bob-claim");
    let original: Envelope = serde_json::from_value(claim).unwrap();
    let statement = String::from_utf8(original.payload().unwrap()).unwrap();
    let digest = statement.split("\"sha256\":\"").last().unwrap()[..64].to_owned();
    let mut forged = Envelope::new(statement.replace(&digest, &"0".repeat(64)).as_bytes());
    let signed = forged.signed_bytes().unwrap();
    let signature = release::key::Signer::sign(&key, "forgery", release::key::ToSign::Message(&signed)).unwrap();
    forged.add_signature(&id, &signature);
    lab.write("download/kestrel-1.0.bundle.json", forger.bundle(vec![original, forged]));
    lab.verify(&[&file]).exits(REJECTED).says("claim of bob");
}

/// Revokes the keys of alice and bob: the root gives the targets role to new
/// keys, which give the product to carol and a newcomer. What a user has seen.
fn revoke_quorum(lab: &Lab) -> Forger<'_> {
    let mut forger = Forger::new(lab);
    let (first, first_key, first_object) = Forger::fresh_key("dave-targets");
    let (second, second_key, second_object) = Forger::fresh_key("erin-targets");
    let roots = ["alice-root", "carol-root"];
    let root = forger.sign(&forger.roots[0].clone(), &roots, |signed| {
        signed["version"] = json!(2);
        signed["keys"][&first] = first_object;
        signed["keys"][&second] = second_object;
        signed["roles"]["targets"]["keyids"] = json!([first, second]);
    });
    forger.roots.push(root);
    let (newcomer, newcomer_key, newcomer_object) = Forger::fresh_key("dave-release");
    let (carol, carol_key) = forger.key("carol-release");
    let keys = [(first.clone(), first_key), (second.clone(), second_key)];
    forger.targets = Forger::sign_with(&forger.targets, &keys, |signed| {
        signed["version"] = json!(2);
        signed["delegations"]["keys"][&newcomer] = newcomer_object;
        signed["delegations"]["roles"][0]["keyids"] = json!([carol, newcomer]);
        signed["x-release"]["holders"]["dave"] = json!({ "name": "Dave", "keyids": [first, newcomer] });
        signed["x-release"]["holders"]["erin"] = json!({ "name": "Erin", "keyids": [second] });
    });
    forger.role = Forger::sign_with(&forger.role, &[(carol, carol_key), (newcomer, newcomer_key)], |signed| {
        signed["version"] = json!(2);
    });
    forger.seal();
    forger
}

#[test]
fn a_revoked_quorum_cannot_backdate() {
    let lab = Lab::released();
    // What the revoked quorum makes with its old keys, dated before the revocation.
    let mut thieves = Forger::new(&lab);
    thieves.role = thieves.sign(&thieves.role.clone(), &["alice-release", "bob-release"], |signed| {
        Forger::add_release(signed, "kestrel/1.0.1/kestrel-1.0.1", EVIL);
    });
    thieves.seal_as(90);
    let forged_claim = thieves.claim("1.0.1", "kestrel-1.0.1", &release::manifest::Sha256::of(EVIL).to_string());
    let file = offer(&lab, "kestrel-1.0.1", &thieves.bundle(vec![forged_claim]));
    // Somebody who has not heard of the revocation is lost: the quorum could do this.
    lab.verify(&[&file]).exits(0);
    std::fs::remove_dir_all(lab.path("data")).unwrap();

    let honest = revoke_quorum(&lab);
    lab.download("1.0", "kestrel-1.0");
    lab.write("download/kestrel-1.0.bundle.json", honest.bundle(claims(&lab)));
    lab.verify(&["download/kestrel-1.0"]).exits(0).says("carol, dave");
    lab.verify(&[&file]).exits(REJECTED).says("REJECTED").says("is in no release");
    lab.verify(&[&file]).says("no longer trusted");
    // The honest old file with its old bundle still verifies, by the newer state.
    lab.download("1.0", "kestrel-1.0");
    lab.verify(&["download/kestrel-1.0"]).exits(0).says("carol, dave");
}

#[test]
fn two_manifests_of_one_number_are_an_alarm() {
    let lab = Lab::released();
    lab.verify(&["mirror"]).exits(0);
    let mut thieves = Forger::new(&lab);
    thieves.role = thieves.sign(&thieves.role.clone(), &["alice-release", "bob-release"], |signed| {
        Forger::add_release(signed, "kestrel/1.0.1/kestrel-1.0.1", EVIL);
        signed["version"] = json!(1);
    });
    thieves.seal();
    let file = offer(&lab, "kestrel-1.0.1", &thieves.bundle(claims(&lab)));
    lab.verify(&[&file]).exits(REJECTED).says("two different 1.kestrel.json are validly signed");
}

#[test]
fn the_online_key_alone_cannot_bring_back_an_old_manifest() {
    let lab = Lab::released();
    let old = Forger::new(&lab);
    lab.release_next("1.1");
    lab.verify(&["mirror"]).exits(0);
    // A thief of the online key serves the old manifest under a new timestamp.
    let mut thief = Forger::new(&lab);
    thief.role.clone_from(&old.role);
    thief.seal();
    assert_eq!((number(&thief.role), number(&thief.timestamp)), (1, 4));
    thief.serve();
    lab.verify(&["mirror"]).exits(REJECTED).says("serves kestrel number 1, but 2 was seen before");
    // A file of the hidden release verifies by what was seen.
    let file = lab.download("1.1", "kestrel-1.1");
    lab.verify(&[&file]).exits(0);
}

#[test]
fn a_release_that_was_not_built_cannot_pass_as_a_file_about_a_build() {
    for kind in ["provenance", "checksums", "claim", "file"] {
        let lab = Lab::released();
        let mut forger = Forger::new(&lab);
        // Two release managers' keys, and no claim key.
        forger.role = forger.sign(&forger.role.clone(), &["alice-release", "bob-release"], |signed| {
            Forger::add_release(signed, "kestrel/1.0/kestrel-1.0-setup", EVIL);
            signed["targets"]["kestrel/1.0/kestrel-1.0-setup"]["custom"]["kind"] = json!(kind);
        });
        forger.seal();
        let file = offer(&lab, "kestrel-1.0-setup", &forger.bundle(claims(&lab)));
        lab.verify(&[&file]).exits(REJECTED);
    }
}

/// The old quorum's fork of the roots, as a bundle, and the project's own next
/// root, which takes their keys away, on the mirror.
fn forked_roots(lab: &Lab) -> Vec<u8> {
    let mut thieves = Forger::new(lab);
    let fork = thieves.sign(&thieves.roots[0].clone(), &["alice-root", "bob-root"], |signed| {
        signed["version"] = json!(2);
        signed["expires"] = json!("2040-01-01T00:00:00Z");
    });
    thieves.roots.push(fork);
    thieves.seal_as(90);
    let bundle = thieves.bundle(claims(lab));

    let mut project = Forger::new(lab);
    let (id, key, object) = Forger::fresh_key("dave-root");
    let keys = [project.key("alice-root"), project.key("carol-root"), (id.clone(), key)];
    let (carol, _) = project.key("carol-root");
    let root = Forger::sign_with(&project.roots[0].clone(), &keys, |signed| {
        signed["version"] = json!(2);
        signed["keys"][&id] = object;
        signed["roles"]["root"]["keyids"] = json!([carol, id]);
    });
    project.roots.push(root);
    project.serve();
    bundle
}

#[test]
fn two_next_roots_are_one_too_many() {
    let lab = Lab::released();
    let bundle = forked_roots(&lab);
    lab.verify(&["mirror"]).exits(0);
    lab.write("forged/kestrel-1.0", lab.read("mirror/releases/kestrel/1.0/kestrel-1.0"));
    lab.write("forged/kestrel.bundle.json", bundle);
    // Who has seen the project's root, and who asks it only now.
    lab.verify(&["forged/kestrel-1.0"]).exits(REJECTED).says("two different 2.root.json are validly signed");
    std::fs::remove_dir_all(lab.path("data")).unwrap();
    lab.verify(&["forged/kestrel-1.0", "--repository", "mirror"])
        .exits(REJECTED)
        .says("two different 2.root.json are validly signed");
    lab.verify(&["mirror"]).exits(0);
}

#[test]
fn memory_goes_on_after_the_online_key_was_stolen_and_replaced() {
    let lab = Lab::released();
    let mut thief = Forger::new(&lab);
    thief.seal_as(1000);
    thief.serve();
    lab.verify(&["mirror"]).exits(0);
    lab.copy("mirror", "thief");

    // A new root replaces the online key; numbers begin where the project was.
    let mut project = Forger::new(&lab);
    let (id, key, object) = Forger::fresh_key("online2");
    let root = project.sign(&project.roots[0].clone(), &["alice-root", "bob-root"], |signed| {
        signed["version"] = json!(2);
        signed["keys"][&id] = object;
        signed["roles"]["timestamp"]["keyids"] = json!([id]);
        signed["roles"]["snapshot"]["keyids"] = json!([id]);
    });
    project.roots.push(root);
    let keys = [(id, key)];
    for serial in [5, 6] {
        project.seal_with(serial, &keys);
        project.serve();
        lab.verify(&["mirror"]).exits(0);
        lab.copy("mirror", &format!("mirror.{serial}"));
    }
    lab.verify(&["mirror.5"]).exits(REJECTED).says("timestamp number 5, but 6 was seen before");
    lab.verify(&["thief"]).exits(REJECTED).says("root number 1, but 2 was seen before");
    lab.verify(&["mirror.6"]).exits(0);
}
