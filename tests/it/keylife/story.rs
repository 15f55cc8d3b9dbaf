//! The life of a project, in one story: three people, of whom two sign, and all that happens
//! to their keys. After each change there is a release, old and new users with our program
//! and with python-tuf take it, and each key that has left is tried and refused.

use std::fs;

use super::thief::Users;
use crate::support::Lab;
use crate::support::forge::Forger;

/// Makes a change, and a release after it.
#[track_caller]
fn change(users: &mut Users<'_>, words: &str, new: &[&str], version: &str) {
    users.lab.expects(new);
    users.lab.change(words).exits(0);
    users.agree();
    users.lab.release_next(version);
    users.versions.push(version.to_owned());
    users.agree();
}

/// A key file is lost: nobody has it any more.
fn lose(lab: &Lab, name: &str) {
    fs::remove_file(lab.path(&format!("home/keys/{name}.key"))).unwrap();
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    let line = |line: &&str| !line.starts_with(&format!("{name} = "));
    lab.write("home/terminal.toml", terminal.lines().filter(line).collect::<Vec<_>>().join("\n"));
}

#[test]
fn a_project_outlives_its_keys() {
    let lab = Lab::released();
    let mut users = Users::of(&lab);

    // One is rotated.
    change(&mut users, "rotate alice-release", &["alice-release-2"], "1.1");
    users.refuse("kestrel", &["alice-release"]);

    // One is lost.
    lose(&lab, "bob-root");
    change(&mut users, "rotate bob-root", &["bob-root-2"], "1.2");

    // Two at once: as many as must sign.
    let new = ["alice-root-2", "carol-root-2", "alice-targets-2", "carol-targets-2"];
    change(&mut users, "rotate alice-root carol-root alice-targets carol-targets", &new, "1.3");
    users.refuse("root", &["alice-root", "carol-root"]);
    users.refuse("targets", &["alice-targets", "carol-targets"]);

    // A fourth person, and three who must sign.
    change(&mut users, "add-holder dave", &["dave-root", "dave-targets", "dave-release", "dave-claim"], "1.4");
    for role in ["root", "targets"] {
        lab.change(&format!("set-threshold {role} 3")).exits(0);
    }
    change(&mut users, "set-threshold kestrel 3", &[], "1.5");
    lab.verify(&["mirror"]).exits(0).says("3 of 4; 3 needed");
    // Two of them are too few now.
    users.refuse("kestrel", &[]);

    // A token is stolen.
    change(&mut users, "revoke carol-root-2 carol-targets-2 carol-release carol-claim", &[], "1.6");
    lab.verify(&["mirror"]).exits(0).says("alice, bob, dave (3 of 3; 3 needed)");
    users.refuse("root", &["carol-root-2", "alice-root", "carol-root"]);
    users.refuse("targets", &["carol-targets-2", "alice-targets", "carol-targets"]);
    users.refuse("kestrel", &["carol-release", "alice-release"]);

    // What was released while it was may be bad.
    let bad = ["withdraw", "1.5", "--reason", "a thief had a key", "--successor", "1.6", "--yes=1.5"];
    lab.with_keys(&bad).exits(0);
    users.versions.retain(|version| version != "1.5");
    users.withdrawn.push("1.5".to_owned());
    users.agree();
    lab.release_next("1.7");
    users.versions.push("1.7".to_owned());
    users.agree();

    // The online key is stolen, and counts far ahead; everybody sees it.
    let mut thief = Forger::new(&lab);
    thief.seal_as(9000);
    thief.serve();
    users.agree_with_thief();
    lab.expects(&["online-2"]);
    lab.change("recover").exits(0);
    fs::remove_file(lab.path("mirror/metadata/9000.snapshot.json")).unwrap();
    users.agree();
    lab.release_next("1.8");
    users.versions.push("1.8".to_owned());
    users.agree();
    users.refuse_seal("online");
    // What was taken from people long ago still counts for nothing.
    users.refuse("root", &["carol-root-2", "alice-root", "carol-root"]);
    users.refuse("kestrel", &["carol-release", "alice-release"]);
}
