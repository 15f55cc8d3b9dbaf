//! Cutting, refreshing, abandoning: the release manager's commands.

use std::fs;

use crate::support::Lab;
use crate::support::program;
use crate::support::run;
use crate::support::terminal::at_a_terminal;
use crate::support::today;

const REJECTED: i32 = 3;

#[test]
fn a_cut_says_what_it_does_and_signs_what_it_showed() {
    let lab = Lab::new();
    lab.tag("1.0");
    let said = lab.cut("1.0").exits(0);
    let digest = said.err.lines().find_map(|line| line.trim().strip_prefix("digest    ")).unwrap().to_owned();
    let role = lab.read("mirror/metadata/1.kestrel.json");
    let signed = sigstore_tuf::Metadata::<sigstore_tuf::Targets>::from_slice(&role).unwrap();
    assert_eq!(release::manifest::Sha256::of(signed.signed_canonical()).to_string(), digest);
    // All names of one content are one file in the home, and copies on the mirror.
    let names = |root: &str| {
        let path = lab.path(&format!("{root}/releases/kestrel/1.0/kestrel-1.0"));
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap())
    };
    assert_ne!(names("home/repository"), names("mirror"));
    let target = fs::read_dir(lab.path("home/repository/targets/kestrel/1.0")).unwrap().flatten();
    let target =
        target.map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with(".kestrel-1.0")).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(target).unwrap());
    assert_eq!(inode, names("home/repository"));
    let page = String::from_utf8(lab.read("mirror/index.html")).unwrap();
    assert!(page.contains("releases/kestrel/1.0/kestrel-1.0.tar.gz") && !page.contains("BEGIN"));
    lab.cut("1.0").exits(0).does_not_say("Signed");
}

#[test]
fn nothing_is_signed_without_confirmation() {
    let lab = Lab::new();
    lab.tag("1.0");
    lab.with_keys(&["cut", "1.0"]).exits(2).says("no terminal to confirm on").says("--yes=1.0").does_not_say("Fetched");
    let other = lab.with_keys(&["cut", "1.0", "--yes=1.1"]).exits(2);
    other.says("--yes names version 1.1, the command line 1.0").does_not_say("Fetched");
    let (code, screen) = at_a_terminal(&lab, "release cut 1.0", |_| "\n".to_owned());
    assert_eq!(code, 1, "{screen}");
    assert!(screen.contains("stopped by you; nothing was signed"), "{screen}");
    lab.assert_nothing_published();
    // Stopped: the next run does not build again.
    lab.cut("1.0").exits(0).does_not_say("Built");
}

#[test]
fn a_passphrase_is_used_once_and_a_wrong_one_opens_nothing() {
    let lab = Lab::new();
    lab.tag("1.0");
    let right = String::from_utf8(lab.read("passphrases")).unwrap();
    lab.write("passphrases", right.replace("horse-bob-release", "mule-bob-release"));
    let wrong = lab.cut("1.0").exits(1);
    wrong.says("wrong passphrase for key bob-release").says("signatures that were made are kept");
    // A second line is a second try.
    lab.write("passphrases", right.replace("bob-release ", "bob-release wrong\nbob-release "));
    lab.with_keys_and(&["cut", "1.0", "--yes=1.0"], &[("RELEASE_FAIL_AT", "claim.asked")]).does_not_say("wrong");
    lab.write("passphrases", right.lines().filter(|line| !line.starts_with("online")).collect::<Vec<_>>().join("\n"));
    lab.cut("1.0").exits(1).says("no passphrase for key online");
    lab.assert_nothing_published();
    lab.runs(&["cut", "1.0", "--yes=1.0"]).exits(1).says("pass it with --pin-fd");
    lab.write("passphrases", &right);
    lab.cut("1.0").exits(0);
    // No passphrase is anywhere in the home.
    let found = run(program("grep").args(["-rl", "horse-"]).arg(lab.path("home")));
    assert_eq!(found.code, Some(1), "{}", found.out);
}

#[test]
fn a_key_that_is_not_the_enrolled_one_signs_nothing() {
    let lab = Lab::new();
    lab.tag("1.0");
    let key = |name: &str| lab.path(&format!("home/keys/{name}.key"));
    fs::copy(key("bob-root"), key("bob-release")).unwrap();
    let right = String::from_utf8(lab.read("passphrases")).unwrap();
    lab.write("passphrases", right.replace("bob-release horse-bob-release", "bob-release horse-bob-root"));
    lab.cut("1.0").exits(1).says("is not the private half of key bob-release");
    lab.assert_nothing_published();
}

#[test]
fn a_version_is_released_once() {
    let lab = Lab::released();
    fs::remove_dir_all(lab.path("home/cuts")).unwrap();
    lab.cut("1.0").exits(1).says("kestrel 1.0 was released before");
    let lab = Lab::released();
    lab.runs(&["cut", "1.0", "--dry-run"]).exits(1).says("kestrel 1.0 was released before").does_not_say("Fetched");
    lab.runs(&["cut", "falcon", "1.1", "--dry-run"]).exits(2).says("the policy has 1 product: kestrel");
}

#[test]
fn an_abandoned_version_and_its_number_are_burned() {
    let lab = Lab::released();
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    // Interrupted after the first release manager has signed manifest 2.
    let said = lab.with_keys_and(&["cut", "1.1", "--yes=1.1"], &[("RELEASE_FAIL_AT", "role.signed")]);
    assert_eq!(said.code, None, "killed: {said:?}");
    lab.runs(&["abandon", "1.1", "--yes=1.2"]).exits(2).says("nothing was burned");
    lab.runs(&["abandon", "1.1"]).exits(2).says("no terminal to confirm on").says("--yes=1.1");
    lab.runs(&["abandon", "1.1", "--yes=1.1"]).exits(0);
    lab.cut("1.1").exits(1).says("was abandoned").says("tag another version").does_not_say("same command");
    lab.runs(&["abandon", "1.0", "--yes=1.0"]).exits(1).says("is sealed");
    lab.runs(&["abandon", "7.7", "--yes=7.7"]).exits(1).says("there is no cut");
    lab.release_next("1.2");
    assert!(!lab.path("mirror/metadata/2.kestrel.json").exists());
    assert!(lab.path("mirror/metadata/3.kestrel.json").exists());
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.2").does_not_say("kestrel 1.1");
}

#[test]
fn an_abandoned_seal_burns_its_number() {
    let lab = Lab::released();
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    lab.with_keys_and(&["cut", "1.1", "--yes=1.1"], &[("RELEASE_FAIL_AT", "seal.snapshot")]);
    // Nothing else may take its numbers meanwhile.
    lab.with_keys(&["refresh"]).exits(1).says("was interrupted").says("release cut kestrel 1.1");
    lab.runs(&["status"]).exits(0).says("was interrupted").says("kestrel 1.1  staged");
    lab.runs(&["abandon", "1.1", "--yes=1.1"]).exits(0);
    lab.with_keys(&["refresh"]).exits(0);
    lab.verify(&["mirror"]).exits(0);
    assert!(
        lab.path("mirror/metadata/4.snapshot.json").exists() && !lab.path("mirror/metadata/3.snapshot.json").exists()
    );
}

#[test]
fn one_cut_of_a_product_at_a_time() {
    let lab = Lab::new();
    lab.tag("1.0");
    lab.begin("1.0");
    lab.tag("1.1");
    lab.cut("1.1").exits(1).says("the cut of kestrel 1.0 is not finished").says("release abandon kestrel 1.0");
    lab.cut("1.0").exits(0);
    lab.cut("1.1").exits(0);
}

#[test]
fn a_changed_stage_is_not_signed() {
    let lab = Lab::new();
    lab.tag("1.0");
    lab.begin("1.0");
    let file = lab.path("home/cuts/kestrel-1.0/stage/kestrel-1.0");
    fs::write(&file, "poisoned\n").unwrap();
    lab.cut("1.0").exits(REJECTED).says("has changed since it was made; nothing was signed");
    lab.assert_nothing_published();
}

#[test]
fn a_policy_that_nobody_signed_is_refused() {
    let lab = Lab::released();
    let policy = String::from_utf8(lab.read("home/policy.toml")).unwrap();
    lab.write("home/policy.toml", policy.replace("threshold = 2\nrebuilds", "threshold = 1\nrebuilds"));
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    let hint = lab.cut("1.1").exits(REJECTED).says("is not the newest signed policy").err;
    let copy = hint.lines().find(|line| line.starts_with("    cp ")).unwrap();
    run(program("sh").args(["-c", copy])).exits(0);
    assert_eq!(String::from_utf8(lab.read("home/policy.toml")).unwrap(), policy);
    lab.cut("1.1").exits(0);
}

#[test]
fn a_clock_that_went_back_is_refused() {
    let mut lab = Lab::released();
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    lab.travel("-2d");
    lab.cut("1.1").exits(1).says("the clock says").says("set the clock");
}

#[test]
fn two_commands_do_not_write_at_once() {
    let lab = Lab::released();
    let file = fs::File::create(lab.path("home/lock")).unwrap();
    file.lock().unwrap();
    lab.write("home/lock", "`release cut kestrel 1.1`, process 1\n");
    let before = lab.read("home/journal.jsonl");
    for command in [
        &["cut", "1.1", "--yes=1.1"][..],
        &["refresh"],
        &["publish"],
        &["import", "--from", "here"],
        &["abandon", "1.0", "--yes=1.0"],
    ] {
        let said = lab.with_keys(command).exits(1);
        said.says("another command is at work in this home: `release cut kestrel 1.1`, process 1");
    }
    assert_eq!(lab.read("home/journal.jsonl"), before);
    lab.runs(&["status"]).exits(0);
    drop(file);
    lab.with_keys(&["refresh"]).exits(0);
}

#[test]
fn refresh_tells_users_that_nothing_is_newer() {
    let mut lab = Lab::released();
    lab.travel("+20d");
    lab.runs(&["status"]).exits(0).says("due").says("release refresh");
    lab.with_keys(&["refresh"]).exits(0).says("Published  publication 3");
    lab.travel("+45d");
    lab.verify(&["mirror"]).exits(0);
    lab.runs(&["status"]).exits(0).says("the seal");
    let status: serde_json::Value = serde_json::from_str(&lab.runs(&["status", "--json"]).exits(0).out).unwrap();
    assert_eq!((status["serial"].as_u64(), status["mirrors"][0]["serial"].as_u64()), (Some(3), Some(3)));
}

#[test]
fn what_people_signed_and_has_expired_stops_a_cut_but_no_refresh() {
    let mut lab = Lab::released();
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    lab.travel("+400d");
    let today = today("+400d");
    let cut = ["cut", "1.1", "--yes=1.1", "--today", &today];
    lab.with_keys(&cut).exits(1).says("role `root` expired on").does_not_say("Fetched");
    lab.with_keys(&["refresh", "--today", &today]).exits(0).says("kestrel is STALE for its users: root expired on");
    lab.verify(&["mirror"]).exits(5);
}

#[test]
fn a_mirror_that_was_down_is_caught_up() {
    let lab = Lab::released();
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    lab.write("home/terminal.toml", format!("{terminal}\n[mirror.second]\npath = \"../second\"\n"));
    // A file where the mirror's folder should be.
    lab.write("second", "");
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    lab.cut("1.1").exits(4).says("not pushed  second").says("published   here").says("1 of 2 mirrors");
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.1");
    lab.runs(&["status"]).exits(0).says("3 behind");
    fs::remove_file(lab.path("second")).unwrap();
    lab.runs(&["publish"]).exits(0);
    lab.verify(&["second"]).exits(0).says("kestrel 1.1");
    lab.runs(&["publish"]).exits(0);
}

#[test]
fn a_squatted_name_stops_that_mirror_only() {
    let lab = Lab::released();
    lab.write("mirror/releases/kestrel/1.1/kestrel-1.1", "squatted\n");
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    lab.cut("1.1").exits(4).says("holds other bytes than this release").says("kestrel-1.1").says("was not replaced");
    // Readers see the old state, whole: pointers were not touched.
    assert!(!lab.path("mirror/metadata/2.kestrel.json").exists());
    fs::remove_file(lab.path("mirror/releases/kestrel/1.1/kestrel-1.1")).unwrap();
    lab.cut("1.1").exits(0).does_not_say("Signed");
    lab.verify(&["mirror"]).exits(0);
}

/// A laboratory whose home was restored from a backup made before 1.1.
fn restored() -> Lab {
    let lab = Lab::released();
    lab.copy("home", "backup");
    lab.release_next("1.1");
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.1");
    run(program("rm").arg("-rf").arg(lab.path("home"))).exits(0);
    fs::rename(lab.path("backup"), lab.path("home")).unwrap();
    lab
}

#[test]
fn a_restored_home_signs_nothing_before_it_is_up_to_date() {
    let lab = restored();
    lab.write("work/notes", "1.2\n");
    lab.commit("1.2");
    lab.tag("1.2");
    let journal = lab.read("home/journal.jsonl");
    let old = "this home is older than the world";
    lab.cut("1.2").exits(1).says(old).says("mirror `here`: it serves publication 3").says("import --from here");
    lab.runs(&["cut", "1.2", "--dry-run"]).exits(1).says(old);
    lab.with_keys(&["refresh"]).exits(1).says(old);
    lab.runs(&["publish"]).exits(4).says("it serves publication 3, this home has 2");
    assert_eq!(lab.read("home/journal.jsonl"), journal, "something was asked of a key");

    lab.runs(&["import", "--from", "here"]).exits(0).says("Brought this home from publication 2 to 3.");
    lab.runs(&["import", "--from", "here"]).exits(0).says("up to date");
    lab.runs(&["status"]).exits(0).says("publication 3").says("made with a journal that this home does not have");
    // What the lost home may have signed under the next numbers is never signed again.
    lab.cut("1.2").exits(0).says("manifest 4 of kestrel").says("publication 5");
    for release in ["kestrel 1.0", "kestrel 1.1", "kestrel 1.2"] {
        lab.verify(&["mirror"]).exits(0).says(release);
        lab.verify(&["home/repository"]).exits(0).says(release);
    }
    // A new user.
    fs::remove_dir_all(lab.path("data")).unwrap();
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.2");
    lab.cut("1.1").exits(1).says("was released before");
}

#[test]
fn an_import_takes_nothing_on_the_mirrors_word() {
    for (file, bytes) in [
        ("releases/kestrel/1.1/kestrel-1.1.bundle.json", "{}"),
        ("releases/kestrel/1.1/claim.alice.intoto.json", "{}"),
        ("metadata/timestamp.json", "{}"),
        ("metadata/2.kestrel.json", "{}"),
    ] {
        let lab = restored();
        fs::remove_file(lab.path(&format!("mirror/{file}"))).unwrap();
        lab.write(&format!("mirror/{file}"), bytes);
        lab.runs(&["import", "--from", "mirror"]).exits(3);
        assert!(!lab.path("home/repository/releases/kestrel/1.1").exists(), "{file}");
    }
    let lab = restored();
    let content = fs::read_dir(lab.path("mirror/targets/kestrel/1.1")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&content).unwrap();
    fs::write(&content, "other").unwrap();
    lab.runs(&["import", "--from", "mirror"]).exits(3).says("differs from the release manifest");
    // An older mirror has nothing to give.
    let lab = Lab::released();
    lab.copy("mirror", "old");
    lab.release_next("1.1");
    lab.runs(&["import", "--from", "old"]).exits(3).says("was seen before");
}

#[test]
fn a_home_that_signed_under_a_number_of_the_world_does_not_publish() {
    let lab = restored();
    // Without its mirror the old home cannot know.
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    lab.write("home/terminal.toml", terminal.replace("[mirror.here]\npath = \"../mirror\"", ""));
    lab.with_keys(&["refresh"]).exits(0);
    lab.write("home/terminal.toml", terminal);
    lab.runs(&["publish"]).exits(4).says("it serves another publication 3");
    lab.with_keys(&["refresh"]).exits(1).says("it serves another publication 3");
    lab.runs(&["import", "--from", "here"]).exits(3).says("two different");
}

#[test]
fn a_clock_far_ahead_needs_a_person() {
    let mut lab = Lab::released();
    lab.travel("+730d");
    lab.with_keys(&["refresh"]).exits(1).says("but this terminal was last used on").says("--today");
    lab.with_keys(&["refresh", "--today", "2026-01-01"]).exits(1).says("you say that today is 2026-01-01");
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    lab.cut("1.1").exits(1).says("but this terminal was last used on").says("--today").does_not_say("Fetched");
    lab.travel("-3d");
    lab.with_keys(&["refresh"]).exits(1).says("set the clock");
    lab.cut("1.1").exits(1).says("set the clock").does_not_say("Fetched");
    lab.travel("+0d");
    lab.cut("1.1").exits(0);
    lab.travel("+46d");
    lab.with_keys(&["refresh", "--today", &today("+46d")]).exits(0);
    lab.with_keys(&["refresh"]).exits(0);
}

#[test]
fn publish_repairs_what_a_mirror_has_lost() {
    let lab = Lab::released();
    fs::remove_file(lab.path("mirror/releases/kestrel/1.0/kestrel-1.0")).unwrap();
    fs::write(lab.path("mirror/metadata/1.targets.json"), "junk").unwrap();
    fs::remove_file(lab.path("mirror/index.html")).unwrap();
    lab.verify(&["mirror"]).exits(3);
    lab.runs(&["publish"]).exits(0).says("3 new files");
    lab.verify(&["mirror"]).exits(0);
    lab.runs(&["publish"]).exits(0).says("0 new files");
    // A link in place of a folder would lead a push elsewhere.
    fs::rename(lab.path("mirror/bundles"), lab.path("victim")).unwrap();
    std::os::unix::fs::symlink("../victim", lab.path("mirror/bundles")).unwrap();
    fs::write(lab.path("victim/kestrel.bundle.json"), "mine").unwrap();
    lab.runs(&["publish"]).exits(4).says("a link stands in place of a folder");
    assert_eq!(lab.read("victim/kestrel.bundle.json"), b"mine");
}

#[test]
fn a_crash_while_abandoning_blocks_nothing() {
    let lab = Lab::released();
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    lab.with_keys_and(&["cut", "1.1", "--yes=1.1"], &[("RELEASE_FAIL_AT", "seal.snapshot")]);
    lab.copy("home/publications/3.partial", "partial");
    lab.runs(&["abandon", "1.1", "--yes=1.1"]).exits(0);
    // As it was between the note and the removal.
    fs::rename(lab.path("partial"), lab.path("home/publications/3.partial")).unwrap();
    lab.with_keys(&["refresh"]).exits(1).says("release abandon kestrel 1.1");
    lab.runs(&["abandon", "1.1", "--yes=1.1"]).exits(0);
    lab.with_keys(&["refresh"]).exits(0).says("publication 4");
}

#[test]
fn artifacts_may_have_any_name_that_releases_may() {
    let lab = Lab::new();
    let names = ["SHA256SUMS.asc.alice", "kestrel.json", "claim.statement.json", "cut.json", "seal.json"];
    let artifacts = names.map(|name| format!("[[artifact]]\npath = \"out/{name}\"\n")).concat();
    lab.write("work/release.toml", format!("version = 1\n[build]\nscript = [\"sh build.sh\"]\n{artifacts}"));
    let script = names.map(|name| format!("echo {name} > out/{name}\n")).concat();
    lab.write("work/build.sh", format!("mkdir -p out\n{script}"));
    lab.commit("names");
    lab.tag("1.0");
    lab.cut("1.0").exits(0);
    lab.verify(&["mirror"]).exits(0).says("VERIFIED kestrel/1.0/SHA256SUMS.asc.alice");
}

#[test]
fn what_was_fetched_is_built_or_nothing_is() {
    let lab = Lab::new();
    lab.tag("1.0");
    lab.with_keys_and(&["cut", "1.0", "--yes=1.0"], &[("RELEASE_FAIL_AT", "archive.done")]);
    let tar = lab.path("home/cuts/kestrel-1.0/source.tar");
    let spoilt = String::from_utf8_lossy(&fs::read(&tar).unwrap()).replace("kestrel %s", "KESTREL %s");
    fs::write(&tar, spoilt).unwrap();
    lab.cut("1.0").exits(3).says("source.tar has changed since it was made");
    lab.assert_nothing_published();
}

#[test]
fn two_products_do_not_share_the_folder_of_a_cut() {
    let lab = Lab::new();
    let policy = String::from_utf8(lab.read("policy/policy.toml")).unwrap();
    let product = &policy[policy.find("[product.kestrel]").unwrap()..];
    lab.write(
        "policy/policy.toml",
        format!("{policy}\n{}", product.replace("[product.kestrel]", "[product.kestrel-1]")),
    );
    let mirror = ["--software-keys", "--mirror", "here=both"];
    lab.with_keys(&[&["init", "--home", "two", "--policy", "policy/policy.toml"], &mirror[..]].concat()).exits(0);
    lab.tag("1-2");
    lab.tag("2");
    lab.with_keys(&["cut", "--home", "two", "kestrel", "1-2", "--yes=1-2"]).exits(0);
    lab.with_keys(&["cut", "--home", "two", "kestrel-1", "2", "--yes=2"]).exits(1).says("is the folder of kestrel 1-2");
}

#[test]
fn one_key_is_not_two_people() {
    let lab = Lab::new();
    let public = lab.read("home/keys/alice-release.pem");
    lab.write("policy/keys/alice-release.pem", &public);
    lab.write("policy/keys/bob-release.pem", &public);
    lab.with_keys(&["init", "--home", "same", "--policy", "policy/policy.toml", "--software-keys"])
        .exits(1)
        .says("alice-release and bob-release of the policy are the same key");
}

#[test]
fn junk_in_place_of_a_timestamp_is_repaired() {
    let lab = Lab::released();
    let timestamp = lab.path("mirror/metadata/timestamp.json");
    let unsigned = String::from_utf8(lab.read("mirror/metadata/timestamp.json")).unwrap();
    let ahead = unsigned.replace("\"version\":2", "\"version\":999");
    assert_ne!(ahead, unsigned);
    for junk in ["{".to_owned(), ahead, "x".repeat(20_000)] {
        fs::remove_file(&timestamp).unwrap();
        fs::write(&timestamp, junk).unwrap();
        fs::remove_file(lab.path("mirror/metadata/1.root.json")).unwrap();
        lab.verify(&["mirror"]).exits(3);
        lab.runs(&["publish"]).exits(0);
        lab.verify(&["mirror"]).exits(0);
        assert!(lab.path("mirror/metadata/1.root.json").exists());
    }
    run(program("rm").arg("-rf").arg(lab.path("mirror"))).exits(0);
    lab.runs(&["publish"]).exits(0);
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.0");
}

#[test]
fn a_home_can_be_moved() {
    let lab = Lab::released();
    fs::create_dir(lab.path("elsewhere")).unwrap();
    for name in ["home", "mirror", "source.git"] {
        fs::rename(lab.path(name), lab.path(&format!("elsewhere/{name}"))).unwrap();
    }
    run(lab.git("work").args(["remote", "set-url", "origin", "../elsewhere/source.git"])).exits(0);
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    lab.with_keys(&["cut", "--home", "elsewhere/home", "1.1", "--yes=1.1"]).exits(0);
    lab.verify(&["elsewhere/mirror"]).exits(0).says("kestrel 1.1");
}

#[test]
fn a_newer_releases_files_are_left_alone() {
    let lab = Lab::released();
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    lab.with_keys_and(&["cut", "1.1", "--yes=1.1"], &[("RELEASE_FAIL_AT", "seal.begun")]);
    for file in [
        "cuts/kestrel-1.1/cut.json",
        "publications/3.partial/seal.json",
        "publications/2.json",
        "mirrors/here.json",
        "journal.jsonl",
        "journal.head",
        "policy.toml",
        "terminal.toml",
    ] {
        let path = format!("home/{file}");
        let ours = lab.read(&path);
        let text = String::from_utf8(ours.clone()).unwrap();
        let newer = match text.rfind("\"version\":1") {
            Some(at) => format!("{}\"version\":2{}", &text[..at], &text[at + 11..]),
            None => text.replacen("version = 1", "version = 2", 1).replacen("version    = 1", "version = 2", 1),
        };
        assert_ne!(newer, text, "{file}");
        lab.write(&path, &newer);
        // A mirror that must be asked brings all of them into play.
        let said = lab.cut("1.1");
        assert!(matches!(said.code, Some(1 | 4)), "{file}: {said:?}");
        said.says("a newer release").says(file.rsplit('/').next().unwrap());
        assert_eq!(lab.read(&path), newer.as_bytes(), "{file}");
        lab.write(&path, ours);
    }
    lab.cut("1.1").exits(0);
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.1");
}

#[test]
fn init_leaves_nothing_behind_when_it_cannot_finish() {
    let lab = Lab::new();
    let init =
        |home: &str| lab.with_keys(&["init", "--home", home, "--policy", "policy/policy.toml", "--software-keys"]);
    init("home").exits(1).says("exists and is not empty");
    lab.write("passphrases", "online short\n");
    init("fresh").exits(1).says("no passphrase for key");
    let policy = String::from_utf8(lab.read("policy/policy.toml")).unwrap();
    lab.write("policy/policy.toml", policy.replace("insecure-software-keys = true", ""));
    init("fresh").exits(1).says("insecure-software-keys");
    lab.write("policy/policy.toml", policy.replace("keys/revoked", "keys/missing"));
    init("fresh").exits(1).says("keys/missing, which does not exist");
    assert!(!lab.path("fresh").exists() && !lab.path(".fresh.release-init").exists());
}
