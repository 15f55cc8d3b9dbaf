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
