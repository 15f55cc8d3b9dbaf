//! Killed at any step, a cut is finished by the same command, nothing is signed
//! twice, and whoever reads the mirror meanwhile never sees a broken state.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use release::home::failpoint::STEPS;

use crate::support::Lab;
use crate::support::is_long;

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
        signed_once(&lab);
        no_litter(&lab);
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
fn signed_once(lab: &Lab) {
    let journal = String::from_utf8(lab.read("home/journal.jsonl")).unwrap();
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

fn no_litter(lab: &Lab) {
    for folder in ["home/publications", "mirror", "home/repository"] {
        for entry in lab.path(folder).read_dir().unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.ends_with(".partial") && !name.starts_with('.'), "{folder}/{name}");
        }
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
        no_litter(&lab);
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
