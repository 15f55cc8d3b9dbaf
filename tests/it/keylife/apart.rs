//! People who each make their keys on a terminal of their own: when a project begins, and
//! when keys change. Only public halves, requests and answers travel.

use std::fs;

use super::ALICE;
use super::BOB;
use super::CAROL;
use super::REJECTED;
use super::WAITING;
use super::approve;
use crate::support::Lab;
use crate::support::Said;
use crate::support::homes::three;

const HOMES: [(&str, &str); 3] = [(ALICE, "alice"), (BOB, "bob"), (CAROL, "carol")];

/// Makes the keys of somebody as files, by the policy in a folder.
fn generate(lab: &Lab, folder: &str, whose: &[&str], home: &str) -> Said {
    let policy = format!("{folder}/policy.toml");
    lab.with_keys(&[&["key", "generate", "--policy", &policy, "--software-keys", "--home", home], whose].concat())
}

/// Takes public halves from a folder.
fn take(lab: &Lab, policy: &str, folder: &str, begin: &str) -> Said {
    let entries = fs::read_dir(lab.path(folder)).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let public = names.filter(|name| name.starts_with(begin) && !name.contains(".key"));
    let paths: Vec<String> = public.map(|name| format!("{folder}/{name}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    lab.runs(&[&["key", "import-public", "--policy", policy], paths.as_slice()].concat())
}

/// A laboratory in which each person has a folder with the policy, and all public halves; the
/// private ones stay where they were made.
fn enrolled() -> Lab {
    let lab = Lab::new();
    for folder in ["home", "mirror", "trust"] {
        let _ = fs::remove_dir_all(lab.path(folder));
    }
    let policy = String::from_utf8(lab.read("policy/policy.toml")).unwrap();
    let policy = policy.replace("insecure-same-terminal = true\n", "").replace("rebuilds = 0", "rebuilds = 1");
    lab.write("policy/policy.toml", policy);
    for (home, holder) in HOMES {
        let folder = format!("policy-{holder}");
        lab.copy("policy", &folder);
        let killed = lab.with_keys_and(
            &["key", "generate", "--policy", &format!("{folder}/policy.toml"), "--software-keys", "--home", home]
                .into_iter()
                .chain(["--holder", holder])
                .collect::<Vec<_>>(),
            &[("RELEASE_FAIL_AT", "software.saved:2")],
        );
        assert_eq!(killed.code, None, "{killed:?}");
        let said = generate(&lab, &folder, &["--holder", holder], home).exits(0).says("demonstration only");
        said.says(&format!("{folder}/keys/{holder}-root.key"));
        generate(&lab, &folder, &["--holder", holder], home).exits(2).says("has no key without a public half");
    }
    generate(&lab, "policy-alice", &["--online"], ALICE).exits(0);
    for (_, whose) in HOMES {
        for (_, holder) in HOMES.iter().filter(|(_, holder)| *holder != whose) {
            take(&lab, &format!("policy-{holder}/policy.toml"), &format!("policy-{whose}/keys"), whose).exits(0);
        }
    }
    for holder in ["bob", "carol"] {
        let policy = format!("policy-{holder}/policy.toml");
        lab.runs(&["key", "import-public", "--policy", &policy, "policy-alice/keys/online.pem"]).exits(0);
    }
    lab
}

/// alice begins, or goes on.
fn init(lab: &Lab, variables: &[(&str, &str)]) -> Said {
    lab.with_keys_and(&["init", "--policy", "policy-alice/policy.toml", "--mirror", "here=mirror"], variables)
}

/// Another one answers her.
fn answer(lab: &Lab, home: &str, holder: &str, request: &str) -> Said {
    let policy = format!("policy-{holder}/policy.toml");
    lab.with_keys(&["init", "--policy", &policy, "--answer", request, "--yes=1", "--home", home])
}

const REQUEST: &str = "home/outbox/policy_1.request.json";

#[test]
fn a_project_begins_on_separate_terminals() {
    let lab = enrolled();
    let told = lab.with_keys(&["init", "--policy", "policy-bob/policy.toml", "--home", BOB]).exits(1);
    told.says("the online key online is not here").says("no home was made");
    assert!(!lab.path(BOB).exists());
    let asked = init(&lab, &[]).exits(WAITING).says("root      alice (2 needed)").says("targets   alice (2 needed)");
    asked.says("release init --policy policy-alice/policy.toml").says(REQUEST);
    let journal = String::from_utf8(lab.read("home/journal.jsonl")).unwrap();
    assert!(!journal.contains("\"what\":\"root 1\""), "whoever begins signs last: {journal}");
    // Nothing else works there yet, and nothing is lost.
    lab.tag("0.9");
    lab.cut("0.9").exits(1).says("timestamp.json");
    init(&lab, &[]).exits(WAITING);

    let refused = |said: Said, code: i32, why: &str| {
        said.exits(code).says(why).says("no home was made");
        assert!(!lab.path(BOB).exists(), "{why}");
    };
    // Not by herself, not another policy, not another key, not altered.
    refused(answer(&lab, "home-2", "alice", REQUEST), REJECTED, "alice has started");
    let policy = String::from_utf8(lab.read("policy-bob/policy.toml")).unwrap();
    lab.write("policy-bob/policy.toml", policy.replacen("threshold = 2", "threshold = 3", 1));
    refused(answer(&lab, BOB, "bob", REQUEST), REJECTED, "follows another policy");
    lab.write("policy-bob/policy.toml", policy);
    let pem = lab.read("policy-bob/keys/alice-root.pem");
    lab.write("policy-bob/keys/alice-root.pem", lab.read("home/keys/alice-targets.pem"));
    refused(answer(&lab, BOB, "bob", REQUEST), REJECTED, "keys/alice-root.pem of a new key is refused");
    lab.write("policy-bob/keys/alice-root.pem", pem);
    let mut altered = lab.read(REQUEST);
    let at = altered.len() / 2;
    altered[at] ^= 1;
    lab.write("altered.json", altered);
    let said = answer(&lab, BOB, "bob", "altered.json");
    assert!([Some(1), Some(REJECTED)].contains(&said.code), "{said:?}");
    refused(answer(&lab, BOB, "bob", "nothing.json"), 1, "there is no file nothing.json");

    let said = answer(&lab, BOB, "bob", REQUEST).exits(0).says("To be signed: root 1, targets 1");
    let said = said.says("asked by  alice: init").says("+ [role]").says("by        bob-root, bob-targets");
    said.says("home-bob/outbox/policy_1_bob.approval.json");
    answer(&lab, BOB, "bob", REQUEST).exits(1).says("exists and is not empty");
    lab.runs(&["import", "--from", "mirror", "--home", BOB]).exits(1);
    lab.carry(BOB, ALICE).exits(0);
    let policy = lab.read("policy-alice/policy.toml");
    lab.write("policy-alice/policy.toml", [policy.as_slice(), b"# other\n"].concat());
    init(&lab, &[]).exits(1).says("waits for the first root of another policy");
    lab.write("policy-alice/policy.toml", policy);

    lab.copy(REQUEST, "request.json");
    // Killed anywhere, it goes on.
    for step in ["amend.gathered", "amend.signed", "seal.begun", "seal.timestamp", "seal.linked"] {
        let twin = lab.twin();
        let killed = init(&twin, &[("RELEASE_FAIL_AT", step)]);
        assert_eq!(killed.code, None, "{step}: {killed:?}");
        init(&twin, &[]).exits(0).says("a root of trust in");
        assert!(!twin.path("home/amendment").exists(), "{step}");
    }
    let done = init(&lab, &[]).exits(0).says("Fingerprint of the root");
    done.does_not_say("WAITING");
    init(&lab, &[]).exits(1).says("exists and is not empty");
    lab.runs(&["publish"]).exits(0);
    lab.copy("home/repository/metadata", "trust");
    fs::rename(lab.path("trust/1.root.json"), lab.path("trust/root.json")).unwrap();
    let root: serde_json::Value = serde_json::from_slice(&lab.read("trust/root.json")).unwrap();
    assert_eq!(root["signatures"].as_array().unwrap().len(), 2);

    // The others take it over; from nobody else.
    let other = Lab::released();
    lab.write("other/metadata/1.root.json", other.read("mirror/metadata/1.root.json"));
    let foreign = lab.runs(&["import", "--from", "other", "--home", BOB]).exits(REJECTED);
    foreign.says("it is not the first root that this terminal has signed");
    lab.runs(&["import", "--from", "mirror", "--home", BOB]).exits(0).says("from publication 0 to 1");
    lab.runs(&["import", "--from", "mirror", "--home", BOB]).exits(0).says("up to date");
    // carol comes later: what she signs then is what there is.
    answer(&lab, CAROL, "carol", "request.json").exits(0);
    lab.runs(&["import", "--from", "mirror", "--home", CAROL]).exits(0).says("from publication 0 to 1");

    // And release together.
    lab.release_first();
    lab.verify(&["mirror"]).exits(0).says("alice, bob (2 of 3; 2 needed)");
    lab.all_users_follow(&["1.0"]);
}

#[test]
fn two_terminals_make_keys() {
    let lab = three(1);
    lab.release_first();
    for home in [BOB, CAROL] {
        lab.runs(&["import", "--from", "mirror", "--home", home]).exits(0);
    }
    lab.expects(&["alice-root-2", "bob-root-2"]);
    let words = "rotate alice-root bob-root";
    let told = lab.change(words).exits(1).says("nobody has made these keys yet: bob-root-2").says("a copy of");
    told.does_not_say("alice-root-2,");
    assert!(!lab.path("home/keys/bob-root-2.key").exists(), "bob makes his own");
    lab.copy("home/amendment", "draft");
    let holder = ["--holder", "bob"];
    // Somebody else makes it in his name.
    let forged = lab.twin();
    forged.copy("draft", "thief");
    generate(&forged, "thief", &holder, "nowhere").exits(0);
    take(&forged, "home/amendment/policy.toml", "thief/keys", "bob-root-2").exits(0);
    forged.change(words).exits(WAITING);
    forged.carry(ALICE, BOB).exits(0);
    let refused = approve(&forged, BOB, 2, &[]).exits(REJECTED);
    refused.says("has bob-root-2 as a new key of somebody whose keys are here").says("nothing was signed");
    forged.carry(ALICE, CAROL).exits(0);

    generate(&lab, "draft", &holder, BOB).exits(0).says("home-bob/keys/bob-root-2.key").says("Made 1 key");
    take(&lab, "home/amendment/policy.toml", "draft/keys", "bob-root-2").exits(0);
    lab.change(words).exits(WAITING);
    lab.carry(ALICE, BOB).exits(0);
    approve(&lab, BOB, 2, &[]).exits(0).says("bob-root, bob-root-2, bob-targets");
    lab.carry(BOB, ALICE).exits(0);
    let done = lab.change(words).exits(0).says("by alice-root counts for nothing in root");
    done.says("what was signed by bob-root counts for nothing in root");
    lab.all_users_follow(&["1.0"]);
    let followed = lab.runs(&["import", "--from", "mirror", "--home", BOB]).exits(0).says("destroy them");
    followed.says("home-bob/keys/bob-root.key");
    let terminal = String::from_utf8(lab.read("home-bob/terminal.toml")).unwrap();
    assert!(terminal.contains("bob-root-2 =") && !terminal.contains("bob-root ="), "{terminal}");
    // bob's new key counts: carol asks, and he signs.
    lab.runs(&["import", "--from", "mirror", "--home", CAROL]).exits(0);
    lab.give_online_key(CAROL);
    lab.change_and("set-threshold root 3", CAROL, &[]).exits(WAITING);
    for home in [ALICE, BOB] {
        lab.carry(CAROL, home).exits(0);
        approve(&lab, home, 3, &[]).exits(0);
        lab.carry(home, CAROL).exits(0);
    }
    lab.change_and("set-threshold root 3", CAROL, &[]).exits(0);
}

#[test]
fn a_change_that_is_given_up_can_be_made_again() {
    let lab = three(1);
    lab.expects(&["alice-root-2"]);
    lab.change("rotate alice-root").exits(WAITING);
    lab.change("abandon").exits(0);
    assert!(lab.path("home/keys/alice-root-2.key").exists());
    lab.change("rotate alice-root").exits(WAITING);
    lab.carry(ALICE, BOB).exits(0);
    approve(&lab, BOB, 2, &[]).exits(0);
    lab.carry(BOB, ALICE).exits(0);
    lab.change("rotate alice-root").exits(0);
}
