//! What is known of keys: to users, to the terminal, and to whoever gets them on a
//! medium.

use serde_json::Value;
use serde_json::json;

use release::key::Signer;
use release::manifest::Attested;
use release::manifest::Sha256;

use crate::support::Lab;
use crate::support::forge::Forger;

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
