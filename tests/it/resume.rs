//! Killed at any step, a cut is finished by the same command, nothing is signed
//! twice, and whoever reads the mirror meanwhile never sees a broken state.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use release::home::failpoint::STEPS;

use crate::support::Lab;
use crate::support::is_long;
use crate::support::run;

/// Kills a cut at one step as often as the step is passed, and finishes it.
fn kill_at(step: &str) {
    for nth in 1.. {
        let lab = Lab::released();
        lab.write("work/notes", "1.1\n");
        lab.commit("1.1");
        lab.tag("1.1");
        let stop = AtomicBool::new(false);
        let reads = AtomicUsize::new(0);
        let killed = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    lab.verify(&["mirror", "--quiet"]).exits(0);
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            });
            let point = format!("{step}:{nth}");
            let said = lab.with_keys_and(&["cut", "1.1", "--yes=1.1"], &[("RELEASE_FAIL_AT", &point)]);
            let killed = said.code.is_none();
            assert!(killed || said.code == Some(0), "{point}: {said:?}");
            if killed {
                lab.verify(&["mirror"]).exits(0);
                lab.cut("1.1").exits(0);
            }
            lab.cut("1.1").exits(0).does_not_say("Signed");
            stop.store(true, Ordering::SeqCst);
            reader.join().unwrap();
            killed
        });
        assert!(reads.load(Ordering::SeqCst) > 0);
        lab.verify(&["mirror"]).exits(0).says("kestrel 1.0: 5 files").says("kestrel 1.1: 5 files");
        lab.verify(&["home/repository"]).exits(0);
        signed_once(&lab.path("home"));
        for folder in ["home/publications", "mirror", "home/repository"] {
            no_litter(&lab.path(folder));
        }
        if !killed {
            assert!(nth > 1, "{step} is never passed");
            return;
        }
        // Steps that are passed for each of many files: the first times show
        // enough, but for `scripts/test --long`.
        if nth >= 3 && !is_long() {
            return;
        }
    }
}

/// Every name was signed for one digest, and asked for once by each key.
pub fn signed_once(home: &Path) {
    let journal = std::fs::read_to_string(home.join("journal.jsonl")).unwrap();
    let mut asked = std::collections::BTreeMap::new();
    for line in journal.lines() {
        let event = &serde_json::from_str::<serde_json::Value>(line).unwrap()["event"];
        if event["kind"] == "ask" {
            let name = (event["key"].to_string(), event["what"].to_string());
            let digest = event["digest"].to_string();
            assert!(asked.insert(name.clone(), digest).is_none(), "{name:?} was asked for twice");
        }
    }
    let manifests = asked.keys().filter(|(_, what)| what == "\"kestrel 2\"").count();
    assert_eq!(manifests, 2);
}

/// Nothing that a killed command was making lies about.
pub fn no_litter(folder: &Path) {
    for entry in folder.read_dir().unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".partial") && !name.starts_with('.'), "{}/{name}", folder.display());
    }
}

macro_rules! kill_at {
    ($($name:ident: $step:literal;)*) => {
        $(#[test]
        fn $name() {
            kill_at($step);
        })*

        #[test]
        fn every_step_is_tried() {
            let tried = [$($step),*];
            assert_eq!(tried.as_slice(), STEPS.as_slice());
        }
    };
}

kill_at! {
    killed_after_fetching: "fetch.done";
    killed_after_archiving: "archive.done";
    killed_between_builds: "build.first";
    killed_after_building: "build.done";
    killed_after_staging: "stage.done";
    killed_before_the_claim: "claim.asked";
    killed_after_the_claim: "claim.signed";
    killed_before_a_manager_signs: "role.asked";
    killed_after_a_manager_signed: "role.signed";
    killed_before_an_openpgp_signature: "openpgp.asked";
    killed_after_an_openpgp_signature: "openpgp.signed";
    killed_when_sealing_begins: "seal.begun";
    killed_after_the_snapshot: "seal.snapshot";
    killed_after_the_timestamp: "seal.timestamp";
    killed_after_the_self_check: "seal.checked";
    killed_before_the_seal_is_recorded: "seal.linked";
    killed_after_the_seal_is_recorded: "seal.recorded";
    killed_when_publishing_begins: "publish.begun";
    killed_after_a_file: "publish.file";
    killed_after_a_pointer: "publish.pointer";
    killed_after_the_timestamp_is_served: "publish.timestamp";
    killed_after_publishing: "publish.recorded";
}

#[test]
fn a_killed_refresh_is_finished() {
    for step in ["seal.begun", "seal.snapshot", "seal.timestamp", "seal.checked", "seal.linked", "publish.pointer"] {
        let lab = Lab::released();
        lab.with_keys_and(&["refresh"], &[("RELEASE_FAIL_AT", step)]);
        lab.verify(&["mirror"]).exits(0);
        lab.with_keys(&["refresh"]).exits(0);
        lab.verify(&["mirror"]).exits(0);
        no_litter(&lab.path("mirror"));
        no_litter(&lab.path("home/publications"));
    }
}

#[test]
fn a_cut_and_a_refresh_do_not_take_each_others_numbers() {
    let lab = Lab::released();
    lab.with_keys_and(&["refresh"], &[("RELEASE_FAIL_AT", "seal.snapshot")]);
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    lab.cut("1.1").exits(1).says("sealing of publication 3 for refresh was interrupted").says("release refresh");
    lab.with_keys(&["refresh"]).exits(0);
    lab.cut("1.1").exits(0);
    lab.verify(&["mirror"]).exits(0);
}

/// Another commit under the tag of 1.1.
fn change_source(lab: &Lab) {
    lab.write("work/notes", "changed\n");
    lab.commit("changed");
    run(lab.git("work").args(["tag", "-d", "v1.1"])).exits(0);
    lab.tag("1.1");
}

#[test]
fn a_changed_source_changes_nothing_that_was_signed() {
    for step in ["role.signed", "publish.pointer"] {
        let lab = Lab::released();
        let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
        lab.write("home/terminal.toml", format!("{terminal}\n[mirror.second]\npath = \"../second\"\n"));
        lab.runs(&["publish"]).exits(0);
        lab.write("work/notes", "1.1\n");
        lab.commit("1.1");
        lab.tag("1.1");
        // One mirror cannot be written until the cut has been killed.
        fs::rename(lab.path("second"), lab.path("away")).unwrap();
        lab.write("second", "");
        let said = lab.with_keys_and(&["cut", "1.1", "--yes=1.1"], &[("RELEASE_FAIL_AT", step)]);
        assert_eq!(said.code, None, "killed: {said:?}");
        fs::remove_file(lab.path("second")).unwrap();
        fs::rename(lab.path("away"), lab.path("second")).unwrap();
        if step != "role.signed" {
            // The other one has all new files, and shows none.
            let has = |mirror: &str| lab.path(mirror).join("releases/kestrel/1.1").exists();
            assert_eq!((has("mirror"), has("second")), (true, false));
        }
        for mirror in ["mirror", "second"] {
            lab.verify(&[mirror]).exits(0).does_not_say("kestrel 1.1");
        }
        change_source(&lab);
        lab.cut("1.1").exits(0).does_not_say("Fetched").does_not_say("Built");
        for mirror in ["mirror", "second"] {
            assert_eq!(lab.read(&format!("{mirror}/releases/kestrel/1.1/kestrel-1.1.notes")), b"1.1\n");
            lab.verify(&[mirror]).exits(0).says("kestrel 1.1: 5 files");
        }
        signed_once(&lab.path("home"));
    }
}

#[test]
fn a_version_that_keys_may_have_signed_is_not_cut_anew() {
    for step in ["claim.asked", "role.signed", "seal.begun", "seal.snapshot"] {
        let lab = Lab::released();
        lab.write("work/notes", "1.1\n");
        lab.commit("1.1");
        lab.tag("1.1");
        lab.with_keys_and(&["cut", "1.1", "--yes=1.1"], &[("RELEASE_FAIL_AT", step)]);
        // Somebody makes room for another try.
        std::fs::remove_dir_all(lab.path("home/cuts/kestrel-1.1")).unwrap();
        let _ = std::fs::remove_dir_all(lab.path("home/publications/3.partial"));
        change_source(&lab);
        let refused = lab.cut("1.1").exits(1).says("cuts/kestrel-1.1/cut.json is missing");
        refused.says("release abandon kestrel 1.1").does_not_say("Fetched");
        lab.runs(&["abandon", "1.1", "--yes=1.1"]).exits(0);
        lab.cut("1.1").exits(1).says("was abandoned").does_not_say("Fetched");
        std::fs::remove_dir_all(lab.path("home/cuts/kestrel-1.1")).unwrap();
        lab.cut("1.1").exits(1).says("was abandoned");
        lab.release_next("1.2");
        let serial = if step == "seal.snapshot" { 4 } else { 3 };
        let number = if step == "claim.asked" { 2 } else { 3 };
        assert!(lab.path(&format!("mirror/metadata/{serial}.snapshot.json")).exists(), "{step}");
        assert!(lab.path(&format!("mirror/metadata/{number}.kestrel.json")).exists(), "{step}");
        lab.verify(&["mirror"]).exits(0).says("kestrel 1.2").does_not_say("kestrel 1.1");
        lab.verify(&["home/repository"]).exits(0);
    }
}

#[test]
fn an_old_journal_that_is_put_back_lets_no_key_sign_twice() {
    let lab = Lab::released();
    lab.copy("home", "backup");
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    let said = lab.with_keys_and(&["cut", "1.1", "--yes=1.1"], &[("RELEASE_FAIL_AT", "role.signed")]);
    assert_eq!(said.code, None, "killed: {said:?}");
    lab.runs(&["abandon", "1.1", "--yes=1.1"]).exits(0);
    lab.write("work/notes", "1.2\n");
    lab.commit("1.2");
    lab.tag("1.2");
    lab.copy("home", "newest");
    let put_back = |file: &str| lab.write(&format!("home/{file}"), lab.read(&format!("backup/{file}")));
    put_back("journal.jsonl");
    for command in [&["cut", "1.2", "--yes=1.2"][..], &["refresh"], &["publish"], &["status"]] {
        let said = lab.with_keys(command).exits(1).says("journal.jsonl is older than this home").says("journal.head");
        said.says("restore the whole home").says("release import --from MIRROR");
    }
    put_back("journal.head");
    lab.cut("1.2").exits(1).says("older than this home: it lacks what was done for kestrel 1.1");
    std::fs::remove_dir_all(lab.path("home/cuts")).unwrap();
    lab.copy("newest/cuts", "home/cuts");
    for file in ["journal.jsonl", "journal.head"] {
        lab.write(&format!("home/{file}"), lab.read(&format!("newest/{file}")));
    }
    std::fs::remove_file(lab.path("home/journal.head")).unwrap();
    lab.cut("1.2").exits(1).says("journal.head is missing").says("restore the whole home");

    // The way out, although the mirror has nothing newer.
    std::fs::remove_dir_all(lab.path("home")).unwrap();
    lab.copy("backup", "home");
    lab.runs(&["import", "--from", "here"]).exits(0).says("up to date");
    lab.cut("1.2").exits(0).says("manifest 3 of kestrel");
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.2").does_not_say("kestrel 1.1");
}

#[test]
fn a_torn_line_of_the_journal_is_cut_off_and_noted() {
    let lab = Lab::released();
    let whole = String::from_utf8(lab.read("home/journal.jsonl")).unwrap();
    lab.write("home/journal.jsonl", format!("{whole}{{\"event\":{{\"kind\":\"ask\""));
    lab.runs(&["status"]).exits(0);
    lab.with_keys(&["refresh"]).exits(0);
    let after = String::from_utf8(lab.read("home/journal.jsonl")).unwrap();
    let noted = after.strip_prefix(&whole).unwrap().lines().next().unwrap();
    assert!(noted.contains("{\"kind\":\"torn\",\"length\":22}"), "{noted}");
    lab.verify(&["mirror"]).exits(0);
    // Without a journal nobody knows what keys have signed.
    for (journal, why) in [(Some(""), "journal.jsonl is damaged: line 1"), (Some("{"), "line 1"), (None, "is missing")]
    {
        std::fs::remove_file(lab.path("home/journal.jsonl")).unwrap();
        if let Some(journal) = journal {
            lab.write("home/journal.jsonl", journal);
        }
        lab.with_keys(&["refresh"]).exits(1).says(why).says("backup");
        lab.write("home/journal.jsonl", &after);
    }
    lab.with_keys(&["refresh"]).exits(0);
}
