//! Two and three people on terminals of their own: one starts a release, others rebuild
//! and approve it, and whatever is wrong is refused.

use std::fs;

use crate::support::Lab;
use crate::support::homes::ALICE;
use crate::support::homes::BOB;
use crate::support::homes::CAROL;
use crate::support::homes::request;
use crate::support::homes::three;
use crate::support::terminal::at_a_terminal;

const REJECTED: i32 = 3;
const WAITING: i32 = 6;

#[test]
fn two_people_release() {
    let lab = three(1);
    lab.tag("1.0");
    let asked = lab.cut("1.0").exits(WAITING).says("WAITING for other people");
    let asked = asked.says("signs     alice (1 of 2 needed)").says("built     alice (1 of 2 needed)");
    asked.says("home/outbox/kestrel_1.0.request.json").says("release cut kestrel 1.0").says("Carry these files");
    lab.assert_nothing_published();
    // A request carries no signature of a release manager.
    let journal = String::from_utf8(lab.read("home/journal.jsonl")).unwrap();
    assert!(journal.contains("\"what\":\"request kestrel 1.0 manifest 1\""), "{journal}");
    // Without an answer it goes on waiting, and asks nobody for anything.
    lab.runs(&["cut", "1.0", "--yes=1.0"]).exits(WAITING).does_not_say("Built");

    lab.carry(ALICE, BOB).exits(0).says("message   kestrel_1.0.request.json").says("release approve");
    let approved = lab.approve(BOB, "1.0").exits(0).says("Request of alice to release 1.0 of kestrel");
    let approved = approved.says("Fetched").says("Compared  3 files are what alice built, byte for byte");
    approved.says("since     nothing: this is the first release").says("home-bob/outbox/kestrel_1.0_bob.approval.json");
    lab.carry(BOB, ALICE).exits(0).says("message");
    let released = lab.cut("1.0").exits(0).does_not_say("Built").says("by alice, bob (2 of 3)");
    released.says("Released kestrel 1.0");
    assert!(!lab.path("home/outbox/kestrel_1.0.request.json").exists());
    let json = lab.verify(&["--json", "mirror"]).exits(0).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["files"][0]["built_by"], serde_json::json!(["alice", "bob"]));
    assert_eq!(json["files"][0]["signed_by"], serde_json::json!(["alice", "bob"]));
    lab.verify(&["home/repository"]).exits(0);
    // OpenPGP users count both as well.
    for name in ["SHA256SUMS", "SHA256SUMS.asc"] {
        lab.copy(&Lab::mirrored("1.0", name), name);
    }
    let mut sqv = crate::support::program("sqv");
    sqv.args(["-n", "2", "--keyring", "home/keys/alice.asc", "--keyring", "home/keys/bob.asc"]);
    crate::support::run(sqv.args(["SHA256SUMS.asc", "SHA256SUMS"]).current_dir(lab.path(""))).exits(0);

    // The next one: bob's home knows the release before only from the request, and then
    // from the mirror.
    lab.tag_next("1.1");
    lab.ask("1.1", BOB);
    let approved = lab.approve(BOB, "1.1").exits(0).says("this home does not know its commit");
    approved.says("manifest 2 of kestrel");
    lab.carry(BOB, ALICE).exits(0);
    lab.cut("1.1").exits(0);
    lab.runs(&["import", "--from", "mirror", "--home", BOB]).exits(0);
    lab.tag_next("1.2");
    lab.ask("1.2", BOB);
    let shown = lab.approve(BOB, "1.2").exits(0).says("since     1.1: 1 commit, 1 changed file");
    shown.says("M notes");
    lab.carry(BOB, ALICE).exits(0);
    lab.cut("1.2").exits(0);
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.2: 5 files").says("kestrel 1.0: 5 files");
}

#[test]
fn a_person_confirms_an_approval() {
    let lab = three(1);
    lab.tag("1.0");
    lab.ask("1.0", BOB);
    let path = request(BOB, "1.0");
    lab.with_keys(&["approve", &path, "--home", BOB]).exits(2).says("no terminal to confirm on");
    lab.with_keys(&["approve", &path, "--yes=1.1", "--home", BOB]).exits(2).says("--yes names version 1.1");
    let (code, screen) = at_a_terminal(&lab, &format!("release approve {path} --home {BOB}"), |_| "\n".to_owned());
    assert_eq!(code, 1, "{screen}");
    for shown in ["asked by  alice", "adds      1.0, 5 files", "by        bob", "nothing was signed"] {
        assert!(screen.contains(shown), "{shown}: {screen}");
    }
    lab.assert_signed_nothing(BOB);
    let json = lab.with_keys(&["approve", &path, "--yes=1.0", "--json", "--home", BOB]).exits(0).does_not_say("Built");
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert!(json["file"].as_str().unwrap().ends_with("kestrel_1.0_bob.approval.json"), "{json}");
    let waits = lab.with_keys(&["cut", "1.0", "--yes=1.0", "--json"]).exits(WAITING);
    let json: serde_json::Value = serde_json::from_str(&waits.out).unwrap();
    assert_eq!((&json["waiting"]["signers_needed"], &json["waiting"]["signers"][0]), (&2.into(), &"alice".into()));
    lab.verify(&["mirror"]).exits(1);
}

#[test]
fn a_third_person_rebuilds_and_two_sign() {
    let lab = three(2);
    lab.tag("1.0");
    lab.ask("1.0", BOB);
    lab.carry(ALICE, CAROL).exits(0);
    // Two builds are too few for anybody to sign.
    let waits = lab.approve(BOB, "1.0").exits(WAITING).says("built     alice, bob (2 of 3 needed)");
    waits.says("home-bob/outbox/kestrel_1.0_bob.claim.json");
    let journal = String::from_utf8(lab.read("home-bob/journal.jsonl")).unwrap();
    assert!(!journal.contains("\"what\":\"kestrel 1\""), "bob signed too early");
    // carol signs no release.
    let path = request(CAROL, "1.0");
    let rebuilt = lab.with_keys(&["rebuild", &path, "--yes=1.0", "--home", CAROL]).exits(0);
    rebuilt.says("Rebuilt kestrel 1.0").says("home-carol/outbox/kestrel_1.0_carol.claim.json");
    let journal = String::from_utf8(lab.read("home-carol/journal.jsonl")).unwrap();
    assert!(journal.contains("\"key\":\"carol-claim\"") && !journal.contains("carol-release"), "{journal}");
    lab.carry(CAROL, BOB).exits(0);
    lab.carry(CAROL, ALICE).exits(0);
    lab.approve(BOB, "1.0").exits(0).says("Approved kestrel 1.0").does_not_say("Built");
    lab.carry(BOB, ALICE).exits(0);
    lab.cut("1.0").exits(0).says("by alice, bob (2 of 3)");
    let json = lab.verify(&["--json", "mirror"]).exits(0).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["files"][0]["built_by"], serde_json::json!(["alice", "bob", "carol"]));
    assert_eq!(json["files"][0]["builds_needed"], 3);
}

#[test]
fn three_people_sign_where_two_must() {
    let lab = three(0);
    lab.tag("1.0");
    lab.ask("1.0", BOB);
    lab.carry(ALICE, CAROL).exits(0);
    for home in [BOB, CAROL] {
        lab.approve(home, "1.0").exits(0);
        lab.carry(home, ALICE).exits(0);
    }
    lab.cut("1.0").exits(0).says("by alice, bob, carol (3 of 3)");
    lab.verify(&["mirror"]).exits(0).says("alice, bob, carol (3 of 3; 2 needed)");
}

#[test]
fn source_and_inputs_travel_with_a_request() {
    let lab = three(1);
    lab.write("work/big", "x".repeat(100));
    let digest = release::manifest::Sha256::of(b"vendored\n");
    let recipe = crate::support::RECIPE
        .replace("[build]\n", &format!("[build]\ninputs = [{{ path = \"vendor\", sha256 = \"{digest}\" }}]\n"));
    lab.write("work/release.toml", recipe);
    lab.commit("inputs");
    lab.tag("1.0");
    lab.write(&format!("home/inputs/{digest}"), "vendored\n");
    let said = lab.with_keys(&["cut", "1.0", "--yes=1.0", "--with-source"]).exits(WAITING);
    said.says("kestrel-1.0.git.bundle").says(&digest.to_string());
    // Bob's terminal reaches no source.
    fs::rename(lab.path("source.git"), lab.path("away.git")).unwrap();
    lab.carry(ALICE, BOB).exits(0).says("bundle    kestrel-1.0.git.bundle").says("input");
    lab.approve(BOB, "1.0").exits(0).says("from inbox/kestrel-1.0.git.bundle");
    lab.carry(BOB, ALICE).exits(0);
    lab.cut("1.0").exits(0);
    lab.verify(&["mirror"]).exits(0);
}

#[test]
fn whoever_starts_a_release_does_not_approve_it() {
    let lab = three(1);
    lab.tag("1.0");
    lab.cut("1.0").exits(WAITING);
    let path = "home/outbox/kestrel_1.0.request.json";
    let own = lab.with_keys(&["approve", path, "--yes=1.0"]).exits(REJECTED);
    own.says("alice has started this release, and this terminal has no other person's keys").does_not_say("Fetched");
    lab.with_keys(&["rebuild", path, "--yes=1.0"]).exits(REJECTED).says("alice has started this release");
    // Nor on a second terminal, with her second set of keys.
    lab.copy(ALICE, "home-alice");
    fs::remove_dir_all(lab.path("home-alice/cuts")).unwrap();
    lab.with_keys(&["approve", path, "--yes=1.0", "--home", "home-alice"]).exits(REJECTED).says("alice has started");
    // Nor can one terminal be two people.
    for name in ["release", "claim", "openpgp"] {
        let key = format!("keys/bob-{name}.key");
        lab.copy(&format!("{BOB}/{key}"), &format!("home-alice/{key}"));
    }
    let terminal = String::from_utf8(lab.read("home-alice/terminal.toml")).unwrap();
    let bob = "[token]\nbob-release = { file = \"keys/bob-release.key\" }\nbob-claim = { file = \"keys/bob-claim.key\" }\n\
               bob-openpgp = { file = \"keys/bob-openpgp.key\" }\n";
    lab.write("home-alice/terminal.toml", terminal.replacen("[token]\n", bob, 1));
    let both = lab.with_keys(&["approve", path, "--yes=1.0", "--home", "home-alice"]).exits(REJECTED);
    both.says("this terminal holds release keys of alice, bob");
    // The terminal that cuts it approves no other request for it.
    lab.tag_next("1.1");
    lab.assert_nothing_published();
}

#[test]
fn one_version_has_one_request() {
    let lab = three(1);
    lab.tag("1.0");
    lab.ask("1.0", BOB);
    lab.approve(BOB, "1.0").exits(0);
    // carol starts the same version, and gets the number as well: she needs the online key.
    lab.give_online_key(CAROL);
    lab.with_keys(&["cut", "1.0", "--yes=1.0", "--home", CAROL]).exits(WAITING);
    lab.carry(CAROL, BOB).exits(0);
    let second = lab.approve(BOB, "1.0").exits(REJECTED);
    second.says("kestrel 1").says("nothing was signed").does_not_say("Fetched");
    // alice, who has started it herself, approves it no more than bob does.
    lab.carry(CAROL, ALICE).exits(0);
    let own = lab.approve(ALICE, "1.0").exits(REJECTED);
    own.says("this home has started kestrel 1.0 itself");
    // bob's answer to alice is no answer to carol.
    lab.carry(BOB, CAROL).exits(0);
    let other = lab.with_keys(&["cut", "1.0", "--yes=1.0", "--home", CAROL]).exits(WAITING);
    other.says("it answers request");
    lab.carry(BOB, ALICE).exits(0);
    lab.cut("1.0").exits(0);
    lab.verify(&["mirror"]).exits(0);
}

#[test]
fn a_stale_request_is_refused_and_made_anew() {
    let lab = three(1);
    lab.release_first();
    // carol has a copy of the online key, and starts 1.1 from the state before 1.0.
    lab.tag_next("1.1");
    lab.give_online_key(CAROL);
    lab.with_keys(&["cut", "1.1", "--yes=1.1", "--home", CAROL]).exits(WAITING);
    lab.carry(CAROL, ALICE).exits(0);
    let stale = lab.approve(ALICE, "1.1").exits(REJECTED).says("the request of carol is stale: it follows manifest 0");
    stale.says("manifest 1 is published").says("carol brings the other home up to date").does_not_say("Fetched");
    // She does, and asks again for the same bytes.
    lab.runs(&["import", "--from", "mirror", "--home", CAROL]).exits(0);
    let again = lab.with_keys(&["cut", "1.1", "--yes=1.1", "--home", CAROL]).exits(WAITING);
    again.says("approvals are asked for anew").does_not_say("Built");
    lab.carry(CAROL, ALICE).exits(0);
    lab.approve(ALICE, "1.1").exits(0).says("manifest 3 of kestrel");
    lab.carry(ALICE, CAROL).exits(0);
    lab.with_keys(&["cut", "1.1", "--yes=1.1", "--home", CAROL]).exits(0);
    lab.verify(&["home-carol/repository"]).exits(0).says("kestrel 1.1").says("kestrel 1.0");
}

#[test]
fn another_policy_or_environment_is_refused_before_a_build() {
    let lab = three(1);
    lab.tag("1.0");
    lab.ask("1.0", BOB);
    // A toolchain that alice does not have.
    let terminal = String::from_utf8(lab.read("home-bob/terminal.toml")).unwrap();
    lab.write("tools/bin/cc", "#!/bin/sh\n");
    let path = lab.path("tools");
    let toolchains = format!("toolchains = [{{ path = \"{}\", at = \"/opt/tools\" }}]", path.display());
    let changed: Vec<&str> = terminal.lines().filter(|line| !line.starts_with("toolchains")).collect();
    let changed = changed.join("\n").replace("[sandbox]", &format!("[sandbox]\n{toolchains}"));
    lab.write("home-bob/terminal.toml", changed);
    let other = lab.approve(BOB, "1.0").exits(1).says("build environment is not that of alice");
    let other = other.says("toolchain /opt/tools: here").says("there none").does_not_say("Fetched");
    other.says("give both terminals the same packages and toolchains");
    lab.assert_signed_nothing(BOB);
    lab.write("home-bob/terminal.toml", terminal);
    // Another policy, well formed and not signed.
    let policy = String::from_utf8(lab.read("home-bob/policy.toml")).unwrap();
    lab.write("home-bob/policy.toml", policy.replace("expires = \"30d\"", "expires = \"29d\""));
    lab.approve(BOB, "1.0").exits(REJECTED).says("is not the newest signed policy");
    lab.write("home-bob/policy.toml", policy);
    lab.approve(BOB, "1.0").exits(0);
}
