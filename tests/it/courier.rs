//! A courier between a terminal without a network and its mirrors, and somebody who
//! has his medium on the way back.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use release::home::failpoint::COURIER_STEPS;
use release::manifest::Sha256;
use serde_json::Value;
use serde_json::json;

use crate::support::Lab;
use crate::support::RELEASE;
use crate::support::Said;
use crate::support::forge::Forger;
use crate::support::forge::value;
use crate::support::mirror::Mirror;
use crate::support::mirror::enter_in;
use crate::support::program;
use crate::support::run;

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const REJECTED: i32 = 3;
const PARTIAL: i32 = 4;

/// A laboratory in which 1.0 is released, whose terminal reaches no mirror, and the
/// folder of a courier who knows the root and has no mirror yet. What was mirrored
/// before is `copy`.
fn apart(mirrors: &[&str]) -> Lab {
    let lab = Lab::released();
    fs::rename(lab.path("mirror"), lab.path("copy")).unwrap();
    fs::remove_dir_all(lab.path("home/mirrors")).unwrap();
    let entries = mirrors.iter().map(|name| format!("[mirror.{name}]\ncourier = true\n")).collect::<Vec<_>>().concat();
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    lab.write("home/terminal.toml", terminal.replace("[mirror.here]\npath = \"../mirror\"", &entries));
    lab.write("courier/root.json", lab.read("trust/root.json"));
    lab.write("courier/terminal.toml", "version = 1\n");
    lab
}

/// The same, and the courier pushes to two folders, `one` and `two`.
pub fn with_folders() -> Lab {
    let lab = apart(&["one", "two"]);
    lab.write(
        "courier/terminal.toml",
        "version = 1\n[mirror.one]\npath = \"../one\"\n[mirror.two]\npath = \"../two\"\n",
    );
    lab
}

fn next(lab: &Lab, version: &str) {
    lab.write("work/notes", format!("notes of {version}\n"));
    lab.commit(version);
    lab.tag(version);
    lab.cut(version).exits(0).says("A courier brings it to").says(&format!("Released kestrel {version}."));
}

#[track_caller]
pub fn export(lab: &Lab) -> Said {
    lab.runs(&["export", "stick"])
}

#[track_caller]
pub fn push(lab: &Lab) -> Said {
    lab.runs(&["courier", "push", "stick", "--home", "courier"])
}

#[track_caller]
fn import(lab: &Lab) -> Said {
    lab.runs(&["import", "stick"])
}

/// A whole round.
#[track_caller]
pub fn round(lab: &Lab) {
    export(lab).exits(0);
    push(lab).exits(0);
    import(lab).exits(0);
}

/// Every file below a folder, with its content.
pub fn files(lab: &Lab, folder: &str) -> String {
    run(program("sh").current_dir(lab.path("")).args(["-c", "find $0 -type f -exec sha256sum {} + | sort -k2", folder]))
        .out
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The name on the medium of a content that a mirror would have under this name.
fn on_stick(lab: &Lab, name: &str) -> String {
    format!("stick/{}", Sha256::of(&lab.read(&format!("home/repository/{name}"))))
}

/// A content of the stick that is not small.
pub fn artifact(lab: &Lab) -> String {
    on_stick(lab, "releases/kestrel/1.0/kestrel-1.0")
}

#[test]
fn a_courier_brings_releases_to_mirrors_that_the_terminal_never_sees() {
    let lab = apart(&["eu1", "us1", "here"]);
    for (said, text) in [(lab.runs(&["mirror", "list"]), "reached by a courier"), (lab.runs(&["status"]), "2 behind")] {
        said.exits(0).says(text);
    }
    lab.runs(&["publish"]).exits(0).says("A courier brings it to 3 mirrors").does_not_say("no mirror");
    for command in [&["mirror", "catch-up", "eu1"][..], &["mirror", "audit", "eu1"], &["import", "--from", "eu1"]] {
        lab.runs(command).exits(USAGE).says("is reached by a courier, not from here");
    }
    // The courier's machine: deploy keys are made there, and nothing else is there.
    let entries = ["eu1", "us1"].map(|name| (name, enter_in(&lab, "courier", name)));
    let servers = entries.map(|(name, ports)| Mirror::start_in(&lab, "courier", name, ports));
    let terminal = String::from_utf8(lab.read("courier/terminal.toml")).unwrap();
    lab.write("courier/terminal.toml", format!("{terminal}\n[mirror.here]\npath = \"../mirror\"\n"));
    lab.runs(&["mirror", "check", "eu1", "--home", "courier"]).exits(0).says("rel-pool  logs in");

    next(&lab, "1.1");
    let said = export(&lab).exits(0).says("Wrote publication 3 to stick: all publications");
    let digest = said.err.lines().map(str::trim).find(|line| line.len() == 64).unwrap().to_owned();
    // Nothing is there twice, and nothing is linked.
    let content: Vec<String> = names(&lab.path("stick")).into_iter().filter(|name| name.len() == 64).collect();
    for name in &content {
        assert_eq!(Sha256::of(&lab.read(&format!("stick/{name}"))).to_string(), *name);
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&lab.path(&format!("stick/{name}")).metadata().unwrap()), 1);
    }
    let said =
        push(&lab).exits(0).says(&digest).says("publication 3 to mirror eu1").says("publication 3 to mirror us1");
    said.says("Wrote the receipt stick/release-receipt.json").says("to mirror here");
    for url in [servers[0].url(), servers[1].url(), "mirror".to_owned()] {
        lab.verify(&[&url]).exits(0).says("kestrel 1.0").says("kestrel 1.1");
    }
    lab.runs(&["status"]).exits(0).says("3 behind; run `release export DIR`");
    let said = import(&lab).exits(0).says("holds      eu1: publication 3").says("holds      us1: publication 3");
    said.says("holds      here: publication 3").says("Took the receipt.");
    lab.runs(&["status"]).exits(0).says("eu1  publication 3  up to date, by its receipt").does_not_say("behind");

    // The next one carries only what is new, and one mirror is down.
    next(&lab, "1.2");
    lab.runs(&["status"]).exits(0).says("1 behind");
    export(&lab).exits(0).says("what came after publication 3");
    assert!(!lab.path(&on_stick(&lab, "releases/kestrel/1.1/kestrel-1.1")).exists(), "what mirrors have is carried");
    assert!(lab.path(&on_stick(&lab, "releases/kestrel/1.2/kestrel-1.2")).exists());
    let [up, down] = servers;
    drop(down);
    let said = push(&lab).exits(PARTIAL).says("not pushed  us1").says("1 of 3 mirrors").says("Connection refused");
    said.says("release courier push stick").says("Wrote the receipt");
    lab.verify(&[&up.url()]).exits(0).says("kestrel 1.2");
    let said = import(&lab)
        .exits(0)
        .says("holds      eu1: publication 4")
        .says("behind     us1: publication 3: the receipt says: cannot fetch");
    said.says("Connection refused");
    lab.runs(&["status"]).exits(0).says("us1  publication 3").says("when that is mended, run `release export DIR`");
    // Offline, with a mirror that nobody has heard of, the next cut goes on.
    next(&lab, "1.3");
    export(&lab).exits(0).says("what came after publication 3");
    let back = Mirror::start_in(&lab, "courier", "us1", entries[1].1);
    push(&lab).exits(0).says("publication 5 to mirror us1");
    lab.verify(&[&back.url()]).exits(0).says("kestrel 1.0").says("kestrel 1.2").says("kestrel 1.3");
    import(&lab).exits(0);
    // A mirror has lost a file: with all at hand, it is put back.
    back.as_root("rm -f /srv/mirror/pool-root/pub/releases/kestrel/1.0/kestrel-1.0").exits(0);
    lab.verify(&[&back.url()]).exits(REJECTED);
    export(&lab).exits(0).says("nothing that mirrors lack, by their receipts");
    push(&lab).exits(0).says("publication 5 to mirror us1 (0 new files)");
    let facts = value(lab.runs(&["export", "stick", "--all", "--json"]).exits(0).out.as_bytes());
    assert_eq!((&facts["serial"], &facts["after"]), (&json!(5), &json!(0)), "{facts}");
    let pushed = lab.runs(&["courier", "push", "stick", "--home", "courier", "--json"]).exits(0);
    let pushed = value(pushed.out.as_bytes());
    assert_eq!(pushed["digest"], facts["digest"]);
    assert_eq!(pushed["mirrors"][2], json!({ "mirror": "us1", "new_files": 1, "error": null }), "{pushed}");
    lab.verify(&[&back.url()]).exits(0).says("kestrel 1.0");
    let taken = value(lab.runs(&["import", "stick", "--json"]).exits(0).out.as_bytes());
    assert_eq!(taken["mirrors"][0]["serial"], json!(5), "{taken}");
    let facts = value(lab.runs(&["status", "--json"]).exits(0).out.as_bytes());
    assert_eq!(facts["mirrors"].as_array().unwrap().len(), 3);
    for mirror in facts["mirrors"].as_array().unwrap() {
        assert_eq!((&mirror["serial"], &mirror["by_courier"]), (&json!(5), &json!(true)), "{mirror}");
    }
}

#[test]
fn a_round_that_is_killed_anywhere_is_finished_by_the_same_commands() {
    let publish = ["publish.begun", "publish.file", "publish.file:5", "publish.pointer", "publish.timestamp"];
    let ready = with_folders();
    round(&ready);
    next(&ready, "1.1");
    for step in COURIER_STEPS.into_iter().chain(publish).chain(["export.content:9", "receipt.seen:2"]) {
        let lab = ready.twin();
        let mut killed = 0;
        for command in [
            &["export", "stick", "--all"][..],
            &["courier", "push", "stick", "--home", "courier"],
            &["import", "stick"],
        ] {
            let said = run(lab.release().args(command).env("RELEASE_FAIL_AT", step));
            if said.code.is_none() {
                killed += 1;
                if command[0] == "export" && step != "export.done" {
                    push(&lab).exits(FAILED).says("has no export, or one that was interrupted");
                }
                for mirror in ["one", "two"] {
                    // A reader who has seen nothing of the other one.
                    let seen = lab.path(&format!("reader of {mirror}"));
                    let verify = ["verify", "--root", "trust/root.json", mirror];
                    run(lab.release().env("XDG_DATA_HOME", seen).args(verify)).exits(0);
                }
                lab.runs(&["status"]).exits(0);
                lab.runs(command).exits(0);
            } else {
                assert_eq!(said.code, Some(0), "{step}: {said:?}");
            }
        }
        assert_eq!(killed, 1, "{step}");
        assert_eq!(files(&lab, "one").replace("one/", "two/"), files(&lab, "two"));
        lab.verify(&["one"]).exits(0);
        lab.runs(&["status"]).exits(0).says("one  publication 3  up to date").says("two  publication 3  up to date");
        assert!(!names(&lab.path("stick")).iter().any(|name| name.starts_with('.')));
    }
}

/// Changes a receipt.
fn receipt(lab: &Lab, change: impl FnOnce(&mut Value)) {
    let mut receipt = value(&lab.read("stick/release-receipt.json"));
    change(&mut receipt);
    lab.write("stick/release-receipt.json", receipt.to_string());
}

#[test]
fn a_forged_receipt_costs_another_round_and_nothing_else() {
    let lab = with_folders();
    round(&lab);
    next(&lab, "1.1");
    export(&lab).exits(0);
    push(&lab).exits(0);
    lab.copy("stick", "good");
    let status = lab.runs(&["status"]).exits(0).out;
    let refused = |change: &dyn Fn(&mut Value), why: &str| {
        receipt(&lab, change);
        import(&lab).exits(REJECTED).says(why);
        lab.write("stick/release-receipt.json", lab.read("good/release-receipt.json"));
    };
    // Numbers that nobody has signed stop nobody.
    refused(&|it| it["mirrors"][0]["timestamp"]["signed"]["version"] = json!(99), "one: nobody has signed");
    refused(&|it| it["mirrors"][0]["timestamp"] = json!({}), "one: nobody has signed what it shows");
    refused(&|it| it["mirrors"][0]["timestamp"] = json!("x"), "one: nobody has signed what it shows");
    refused(&|it| it["mirrors"][0]["mirror"] = json!("../../evil"), "is no receipt");
    refused(&|it| it["mirrors"][1]["mirror"] = json!("one"), "one comes twice");
    refused(&|it| it["version"] = json!(2), "it was written by a newer release");
    refused(&|it| it["more"] = json!(1), "unknown field");
    let huge = |lab: &Lab| fs::File::create(lab.path("stick/release-receipt.json")).unwrap().set_len(1 << 40).unwrap();
    huge(&lab);
    import(&lab).exits(REJECTED).says("release-receipt.json is longer than");
    fs::remove_file(lab.path("stick/release-receipt.json")).unwrap();
    symlink("/dev/zero", lab.path("stick/release-receipt.json")).unwrap();
    import(&lab).exits(REJECTED).says("release-receipt.json: it is a link");
    fs::remove_file(lab.path("stick/release-receipt.json")).unwrap();
    import(&lab).exits(FAILED).says("an export and no receipt").says("release courier push DIR");
    let behind = |status: &str| status.lines().filter(|line| line.contains(" behind")).count();
    assert_eq!((behind(&status), behind(&lab.runs(&["status"]).exits(0).out)), (2, 1), "only `two` was believed");

    // A mirror that is none of ours, a name that would hurt, and more than it shows.
    lab.write("stick/release-receipt.json", lab.read("good/release-receipt.json"));
    receipt(&lab, |it| {
        it["mirrors"][0]["mirror"] = json!("mine");
        it["mirrors"][1]["serial"] = json!(99);
        it["mirrors"][1]["error"] = json!("run `rm -rf /`\u{1b}[2J\n");
    });
    let said = import(&lab).exits(0).says("skipped    mine");
    assert!(!said.out.contains('\u{1b}'), "{said:?}");
    let said = said.says("the receipt says: run `rm -rf /`");
    assert!(!said.err.contains("rm -rf"), "{said:?}");
    assert!(!lab.path("home/mirrors/mine.json").exists());
    let said = lab.runs(&["status"]).exits(0).says("two  publication 3").does_not_say("99");
    assert!(!said.out.contains('\u{1b}'), "{said:?}");

    // A receipt of what was never pushed: its timestamp was on the stick.
    lab.with_keys(&["refresh"]).exits(0);
    export(&lab).exits(0);
    let timestamp = value(&lab.read("home/repository/metadata/timestamp.json"));
    let forged =
        ["one", "two"].map(|name| json!({ "mirror": name, "serial": 4, "timestamp": timestamp, "error": null }));
    lab.write("stick/release-receipt.json", json!({ "version": 1, "serial": 4, "mirrors": forged }).to_string());
    import(&lab).exits(0);
    lab.runs(&["status"]).exits(0).says("two  publication 4  up to date");
    next(&lab, "1.2");
    export(&lab).exits(0).says("what came after publication 4");
    let before = files(&lab, "one");
    // Mirrors show nothing of it: the courier's own look at them counts.
    let said = push(&lab).exits(PARTIAL).says("which this medium does not carry").says("--all");
    said.says("2 of 2 mirrors");
    for mirror in ["one", "two"] {
        lab.verify(&[mirror]).exits(0).does_not_say("kestrel 1.2");
    }
    assert!(before.lines().all(|line| files(&lab, "one").contains(line)), "what was there is there");
    import(&lab).exits(0).says("behind     one: publication 3");
    round(&lab);
    lab.verify(&["one"]).exits(0).says("kestrel 1.2");
}

#[test]
fn a_receipt_with_a_newer_signed_state_stops_a_home_that_was_restored() {
    let lab = with_folders();
    round(&lab);
    lab.copy("home", "backup");
    next(&lab, "1.1");
    round(&lab);
    fs::remove_dir_all(lab.path("home")).unwrap();
    fs::rename(lab.path("backup"), lab.path("home")).unwrap();
    // What it would carry is refused where it comes to, and the receipt says why.
    lab.runs(&["export", "stick"]).exits(0);
    push(&lab).exits(PARTIAL).says("it serves publication 3, this home has 2");
    let said = import(&lab).exits(FAILED).says("newer      one: another publication 3 than this home's");
    said.says("this home is older than the world").says("release import --from DIR");
    lab.tag("1.2");
    let said = lab.cut("1.2").exits(FAILED).says("older than the world; nothing was built or signed: mirror `one`");
    said.says("release import --from DIR").does_not_say("Fetched");
    lab.with_keys(&["refresh"]).exits(FAILED).says("older than the world");
    lab.runs(&["export", "stick"]).exits(FAILED).says("older than the world");
    lab.runs(&["status"]).exits(0).says("it serves publication 3, this home has 2");
    // That is not forgotten because somebody brings another receipt.
    let genuine = lab.read("stick/release-receipt.json");
    let old = value(&lab.read("home/repository/metadata/timestamp.json"));
    for shown in [old, Value::Null] {
        receipt(&lab, |it| it["mirrors"][0]["timestamp"] = shown);
        import(&lab).exits(FAILED).says("newer      one: another publication 3");
        lab.cut("1.2").exits(FAILED).says("older than the world");
    }
    lab.write("stick/release-receipt.json", genuine);
    // A copy of a mirror comes on a stick.
    lab.copy("one", "copied");
    lab.runs(&["import", "--from", "copied"]).exits(0).says("from publication 2 to 3");
    lab.runs(&["status"]).exits(0).says("one  publication 3  up to date").does_not_say("this home has");
    next(&lab, "1.3");
    round(&lab);
    for mirror in ["one", "two"] {
        lab.verify(&[mirror]).exits(0).says("kestrel 1.1").says("kestrel 1.3");
    }

    // Another state under this home's own number, by a thief of the online key.
    let newest = lab.read("one/metadata/timestamp.json");
    fs::rename(lab.path("one"), lab.path("mirror")).unwrap();
    let forger = Forger::new(&lab);
    let forked = forger.sign(&newest, &["online"], |signed| signed["expires"] = json!("2040-01-01T00:00:00Z"));
    receipt(&lab, |it| it["mirrors"][0]["timestamp"] = value(&forked));
    import(&lab).exits(FAILED).says("this home is older than the world");
    lab.with_keys(&["refresh"]).exits(FAILED).says("it serves another publication");
}

#[test]
fn an_export_takes_a_folder_of_its_own_with_enough_space() {
    let lab = with_folders();
    // Whatever was prepared on the stick, nothing is written through it.
    lab.write("victim", "victim\n");
    let artifact = artifact(&lab);
    fs::create_dir(lab.path("stick")).unwrap();
    for name in [&artifact[6..], ".new-release-export.json", "release-export.json", "1.publication.json"] {
        symlink(lab.path("victim"), lab.path("stick").join(name)).unwrap();
    }
    symlink(lab.path("victim"), lab.path(&artifact.replace("stick/", "stick/.new-"))).unwrap();
    export(&lab).exits(0);
    assert_eq!(lab.read("victim"), b"victim\n");
    assert!(lab.path("stick").read_dir().unwrap().all(|entry| entry.unwrap().file_type().unwrap().is_file()));
    // What was damaged since is written again, and what is not needed is taken away.
    lab.write(&artifact, "kestrel 6.6\n");
    lab.write(&format!("stick/{}", "0".repeat(64)), "old");
    export(&lab).exits(0);
    push(&lab).exits(0);
    lab.write("full/holiday.jpg", "photo");
    lab.runs(&["export", "full"]).exits(FAILED).says("has something else in it: holiday.jpg").says("was not changed");
    assert_eq!(names(&lab.path("full")), ["holiday.jpg"]);
    lab.runs(&["export", "victim"]).exits(FAILED).says("there is no folder victim");
    lab.runs(&["export", "no/such"]).exits(FAILED).says("no/such");

    // A file of the home that was damaged goes nowhere.
    let file = "home/repository/releases/kestrel/1.0/kestrel-1.0";
    let good = lab.read(file);
    run(program("chmod").arg("644").arg(lab.path(file))).exits(0);
    lab.write(file, "kestrel 6.6\n");
    fs::remove_dir_all(lab.path("stick")).unwrap();
    lab.runs(&["export", "stick", "--all"]).exits(FAILED).says("is not what was published");
    push(&lab).exits(FAILED).says("has no export");
    lab.write(file, good);

    // A medium that is too small, one that is read-only, and one that fills up.
    let inside = |mount: &[&str], command: &[&str]| {
        let inner = lab.release();
        let mut bwrap = program("bwrap");
        bwrap.args(["--dev-bind", "/", "/"]).args(mount).arg("--").arg(RELEASE).args(command);
        for (name, value) in inner.get_envs() {
            bwrap.env(name, value.unwrap_or_default());
        }
        run(bwrap.current_dir(lab.path("")))
    };
    fs::create_dir_all(lab.path("stick")).unwrap();
    let stick = lab.path("stick").display().to_string();
    let said = inside(&["--size", "1000000", "--tmpfs", &stick], &["export", "stick", "--all"]).exits(FAILED);
    said.says("bytes free, and").says("it was not changed").says("a larger medium");
    lab.runs(&["export", "stick", "--all"]).exits(0);
    let read_only = ["--ro-bind", &stick, &stick];
    let pushes = ["courier", "push", "stick", "--home", "courier"];
    inside(&read_only, &["export", "stick"]).exits(FAILED).says("Read-only file system");
    let before = files(&lab, "one");
    let said = inside(&read_only, &pushes).exits(FAILED).says("cannot write").says("--receipt DIR");
    said.does_not_say("Published");
    assert_eq!(files(&lab, "one"), before);
    fs::create_dir(lab.path("desk")).unwrap();
    inside(&read_only, &[&pushes[..], &["--receipt", "desk"]].concat()).exits(0);
    // A receipt may come alone.
    lab.runs(&["import", "desk"]).exits(0).says("holds      one: publication 2");
}
