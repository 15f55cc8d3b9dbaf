//! What can happen to a home between two commands, and the way out that each
//! refusal shows.

use std::fs;

use crate::support::Lab;
use crate::support::program;
use crate::support::run;

fn tag_next(lab: &Lab, version: &str) {
    lab.write("work/notes", format!("{version}\n"));
    lab.commit(version);
    lab.tag(version);
}

#[test]
fn a_home_that_no_mirror_answers_signs_nothing() {
    let lab = Lab::released();
    tag_next(&lab, "1.1");
    let journal = lab.read("home/journal.jsonl");
    let refused = || {
        let commands = [&["refresh"][..], &["cut", "1.1", "--yes=1.1"], &["cut", "1.1", "--dry-run"]];
        for command in commands {
            let said = lab.with_keys(command).exits(1).says("no mirror says whether this home is the newest");
            said.says("mirror `here`").says("same command again").says("release publish");
        }
        assert_eq!(lab.read("home/journal.jsonl"), journal, "something was asked of a key");
    };
    fs::rename(lab.path("mirror"), lab.path("away")).unwrap();
    refused();
    std::os::unix::fs::symlink("mirror", lab.path("mirror")).unwrap();
    refused();

    // Another one answers.
    let terminal = lab.read("home/terminal.toml");
    let two = format!("{}\n[mirror.second]\npath = \"../second\"\n", String::from_utf8(terminal.clone()).unwrap());
    lab.write("home/terminal.toml", two);
    lab.runs(&["publish"]).exits(4);
    lab.with_keys(&["refresh"]).exits(4).says("mirror `here`").says("it may know more than this home");
    lab.write("home/terminal.toml", terminal);

    // It is back, and later it has lost everything.
    fs::remove_file(lab.path("mirror")).unwrap();
    fs::rename(lab.path("away"), lab.path("mirror")).unwrap();
    lab.cut("1.1").exits(0);
    fs::remove_dir_all(lab.path("mirror")).unwrap();
    lab.with_keys(&["refresh"]).exits(1).says("what it held is not there");
    lab.runs(&["publish"]).exits(0);
    lab.with_keys(&["refresh"]).exits(0);
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.1");
}

#[test]
fn a_lost_configuration_file_is_put_back() {
    let lab = Lab::released();
    let policy = lab.read("home/policy.toml");
    fs::remove_file(lab.path("home/policy.toml")).unwrap();
    let said = lab.runs(&["status"]).exits(1).says("this home has lost policy.toml").does_not_say("release init");
    let command = said.err.lines().find(|line| line.starts_with("    cp ")).unwrap();
    run(program("sh").args(["-c", command]).current_dir(lab.path(""))).exits(0);
    assert_eq!(lab.read("home/policy.toml"), policy);
    fs::remove_file(lab.path("home/terminal.toml")).unwrap();
    let said = lab.runs(&["status"]).exits(1).says("this home has lost terminal.toml");
    said.says("examples/terminal.toml").does_not_say("release init");
}

#[test]
fn a_release_does_without_a_lost_key_where_others_are_enough() {
    let lab = Lab::released();
    tag_next(&lab, "1.1");
    fs::remove_file(lab.path("home/keys/bob-release.key")).unwrap();
    lab.cut("1.1").exits(1).says("bob-release.key").says("take it out of [token]").says("same command again");
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    let without: Vec<&str> = terminal.lines().filter(|line| !line.starts_with("bob-release")).collect();
    assert_ne!(without.len(), terminal.lines().count());
    lab.write("home/terminal.toml", without.join("\n"));
    lab.cut("1.1").exits(0).says("alice, carol");
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.1");
}

#[test]
fn cuts_that_are_over_keep_no_source() {
    let lab = Lab::released();
    tag_next(&lab, "1.1");
    lab.with_keys_and(&["cut", "1.1", "--yes=1.1"], &[("RELEASE_FAIL_AT", "build.done")]);
    let kept = |version: &str| {
        ["source.git", "source.tar"].map(|name| lab.path(&format!("home/cuts/kestrel-{version}/{name}")).exists())
    };
    assert_eq!((kept("1.0"), kept("1.1")), ([false; 2], [true; 2]));
    lab.runs(&["abandon", "1.1", "--yes=1.1"]).exits(0);
    assert_eq!(kept("1.1"), [false; 2]);
    // Nothing else of them is needed either.
    fs::remove_dir_all(lab.path("home/cuts")).unwrap();
    lab.cut("1.0").exits(1).says("was released before");
    lab.cut("1.1").exits(1).says("was abandoned");
    lab.release_next("1.2");
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.0").says("kestrel 1.2");
}
