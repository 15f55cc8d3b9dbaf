//! Withdrawing a release: users are told, nothing is deleted, and a killed
//! withdrawal is finished by the same command.

use std::fs;

use release::home::failpoint::WITHDRAWAL;

use crate::resume::no_litter;
use crate::support::Lab;
use crate::support::Said;
use crate::support::terminal::at_a_terminal;

const REJECTED: i32 = 3;
const REASON: &str = "it loses data";

/// 1.0 and 1.1 are released.
fn two_releases() -> Lab {
    let lab = Lab::released();
    lab.release_next("1.1");
    lab
}

fn withdraw(lab: &Lab, version: &str) -> Said {
    withdraw_for(lab, version, REASON, &[])
}

fn withdraw_for(lab: &Lab, version: &str, reason: &str, variables: &[(&str, &str)]) -> Said {
    let yes = format!("--yes={version}");
    lab.with_keys_and(&["withdraw", version, "--reason", reason, "--successor", "1.1", &yes], variables)
}

#[test]
fn users_are_told_that_a_release_is_withdrawn() {
    let lab = two_releases();
    let file = lab.download("1.0", "kestrel-1.0.notes");
    lab.verify(&[&file, "--repository", "mirror"]).exits(0);
    let before = lab.read("mirror/releases/kestrel/1.0/kestrel-1.0");
    withdraw(&lab, "1.0").exits(0).says("Withdrew kestrel 1.0").says("by alice, bob (2 of 3)");

    let why = "kestrel 1.0, which was withdrawn on";
    let instead = "it loses data; use 1.1 instead";
    // Whoever has the old bundle only cannot know.
    lab.twin().runs(&["verify", "--root", "trust/root.json", "--offline", &file]).exits(0).says("later revocations");
    let told = lab.verify(&[&file, "--repository", "mirror"]).exits(REJECTED);
    told.says("\"kestrel-1.0.notes\" is a file of").says(why).says(instead);
    // From now on this user remembers, also without the repository.
    lab.verify(&["--offline", &file]).exits(REJECTED).says(why).says(instead);
    let json = lab.verify(&["--json", &file, "--repository", "mirror"]).exits(REJECTED).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["verdict"], "REJECTED");
    assert!(json["files"][0]["reason"].as_str().unwrap().contains(instead), "{json}");
    // Without the old bundle, its name tells; other names are only unknown.
    fs::remove_file(lab.path("download/kestrel-1.0.bundle.json")).unwrap();
    let fresh = lab.twin();
    fs::remove_dir_all(fresh.path("data")).unwrap();
    let told = fresh.verify(&[&file, "--repository", "mirror"]).exits(REJECTED);
    told.says("\"kestrel-1.0.notes\" has the name of a file of").says(why);
    fresh.copy("download/kestrel-1.0.notes", "download/kestrel-1.0.1.notes");
    let told = fresh.verify(&["download/kestrel-1.0.1.notes", "--repository", "mirror"]).exits(REJECTED);
    told.says("is in no release").does_not_say("withdrawn");

    // Nothing was deleted, and what is there is accounted for.
    assert_eq!(lab.read("mirror/releases/kestrel/1.0/kestrel-1.0"), before);
    let whole = lab.verify(&["mirror"]).exits(0).says("kestrel 1.1: 5 files");
    whole.says("kestrel 1.0 was withdrawn on").says(instead).does_not_say("kestrel 1.0: 5 files");
    lab.verify(&["home/repository"]).exits(0);
    lab.runs(&["mirror", "audit", "here"]).exits(0);
    assert!(!String::from_utf8(lab.read("mirror/index.html")).unwrap().contains("kestrel-1.0"));
    lab.runs(&["download", "--root", "trust/root.json", "--repository", "mirror", "kestrel"]).exits(0).says("1.1");
}

#[test]
fn a_withdrawal_is_for_ever() {
    let lab = two_releases();
    withdraw(&lab, "1.0").exits(0);
    // Again, it only looks after the mirrors.
    withdraw(&lab, "1.0").exits(0).does_not_say("Sealed");
    withdraw_for(&lab, "1.0", "another reason", &[]).exits(1).says("for the reason \"it loses data\"");
    fs::remove_dir_all(lab.path("home/cuts")).unwrap();
    lab.cut("1.0").exits(1).says("kestrel 1.0 was withdrawn; use another version");
    // What comes after goes on to say so.
    lab.release_next("1.2");
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.0 was withdrawn").says("kestrel 1.2");
    // The last one can be withdrawn too.
    for version in ["1.2", "1.1"] {
        let yes = format!("--yes={version}");
        lab.with_keys(&["withdraw", version, "--reason", "gone", &yes]).exits(0);
    }
    lab.verify(&["mirror"]).exits(1).says("it holds no release").says("kestrel 1.1 was withdrawn");
    lab.release_next("1.3");
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.3: 5 files");
}

#[test]
fn a_withdrawal_that_makes_no_sense_signs_nothing() {
    let lab = two_releases();
    let journal = lab.read("home/journal.jsonl");
    let with = |arguments: &[&str]| {
        let mut all = vec!["withdraw"];
        all.extend(arguments);
        lab.with_keys(&all)
    };
    with(&["9.9", "--reason", "x", "--yes=9.9"]).exits(1).says("kestrel 9.9 is no release; nothing was signed");
    let unknown = with(&["1.0", "--reason", "x", "--successor", "9.9", "--yes=1.0"]);
    unknown.exits(1).says("kestrel 9.9 is no release");
    with(&["1.0", "--reason", "x", "--successor", "1.0", "--yes=1.0"]).exits(2).says("its own successor");
    with(&["1.0", "--reason", "x\u{1b}[2J", "--yes=1.0"]).exits(2).says("none of them hidden");
    with(&["1.0", "--yes=1.0"]).exits(2).says("--reason");
    with(&["1.0", "--reason", "x"]).exits(2).says("no terminal to confirm on");
    with(&["1.0", "--reason", "x", "--yes=1.1"]).exits(2).says("--yes names version 1.1");
    assert_eq!(lab.read("home/journal.jsonl"), journal);
    let (code, screen) = at_a_terminal(&lab, "release withdraw 1.0 --reason x", |_| "\n".to_owned());
    assert_eq!(code, 1, "{screen}");
    assert!(screen.contains("stopped by you; nothing was signed"), "{screen}");
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.0: 5 files");
    // Too few people: the others' keys are elsewhere.
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    let alone: Vec<&str> = terminal.lines().filter(|line| !line.contains("bob") && !line.contains("carol")).collect();
    lab.write("home/terminal.toml", alone.join("\n"));
    withdraw(&lab, "1.0").exits(1).says("kestrel needs 2 release managers; this terminal has the keys of 1: alice");
    lab.write("home/terminal.toml", terminal);
    withdraw(&lab, "1.0").exits(0);
}

#[test]
fn a_killed_withdrawal_is_finished() {
    let steps = [
        "role.asked",
        "role.signed",
        "seal.begun",
        "seal.snapshot",
        "seal.timestamp",
        "seal.checked",
        "seal.linked",
        "seal.recorded",
        "publish.begun",
        "publish.pointer",
        "publish.timestamp",
    ];
    let first = two_releases();
    for step in WITHDRAWAL.iter().chain(&steps) {
        let lab = first.twin();
        let killed = withdraw_for(&lab, "1.0", REASON, &[("RELEASE_FAIL_AT", step)]);
        assert_eq!(killed.code, None, "{step}: {killed:?}");
        lab.verify(&["mirror"]).exits(0);
        withdraw(&lab, "1.0").exits(0);
        lab.verify(&["mirror"]).exits(0).says("kestrel 1.0 was withdrawn").does_not_say("kestrel 1.0: 5 files");
        asked_once(&lab);
        for folder in ["home/publications", "mirror", "home/repository"] {
            no_litter(&lab.path(folder));
        }
    }
}

/// No key was asked twice for the same, or for two manifests of one number.
fn asked_once(lab: &Lab) {
    let journal = String::from_utf8(lab.read("home/journal.jsonl")).unwrap();
    let mut asked = std::collections::BTreeSet::new();
    for line in journal.lines() {
        let event = &serde_json::from_str::<serde_json::Value>(line).unwrap()["event"];
        if event["kind"] == "ask" {
            assert!(asked.insert((event["key"].to_string(), event["what"].to_string())), "{event} twice");
        }
    }
}

#[test]
fn withdrawals_and_cuts_do_not_take_each_others_numbers() {
    let lab = two_releases();
    let killed = withdraw_for(&lab, "1.0", REASON, &[("RELEASE_FAIL_AT", "role.signed")]);
    assert_eq!(killed.code, None, "{killed:?}");
    lab.write("work/notes", "1.2\n");
    lab.commit("1.2");
    lab.tag("1.2");
    let refused = lab.cut("1.2").exits(1).says("the withdrawal of kestrel 1.0 is not finished");
    refused.says("release withdraw kestrel 1.0 --reason TEXT");
    // What a key may have signed is not changed.
    withdraw_for(&lab, "1.0", "another", &[]).exits(1).says("for the reason \"it loses data\"");
    withdraw(&lab, "1.0").exits(0);

    // The other way round.
    let said = lab.with_keys_and(&["cut", "1.2", "--yes=1.2"], &[("RELEASE_FAIL_AT", "claim.signed")]);
    assert_eq!(said.code, None, "{said:?}");
    let yes = ["withdraw", "1.1", "--reason", "bad", "--yes=1.1"];
    lab.with_keys(&yes).exits(1).says("the cut of kestrel 1.2 is not finished");
    lab.runs(&["abandon", "1.2", "--yes=1.2"]).exits(0);
    lab.with_keys(&yes).exits(0);
    lab.verify(&["mirror"]).exits(1).says("kestrel 1.1 was withdrawn");
    asked_once(&lab);
    // A withdrawal that no key has signed holds nobody up.
    let lab = two_releases();
    let killed = withdraw_for(&lab, "1.0", REASON, &[("RELEASE_FAIL_AT", "withdraw.drafted")]);
    assert_eq!(killed.code, None, "{killed:?}");
    lab.release_next("1.2");
    withdraw_for(&lab, "1.0", "another", &[]).exits(0);
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.2: 5 files").says("withdrawn on");
}
