//! Source trees and inputs that are made to hurt: the terminal writes no tree that
//! git would not write, and unpacks nothing.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;

use crate::support::Lab;
use crate::support::RECIPE;
use crate::support::program;
use crate::support::run;

const REJECTED: i32 = 3;

#[test]
fn the_terminal_unpacks_no_input() {
    let mut lab = Lab::new();
    // Ten gigabytes in ten megabytes, and a terabyte in a few kilobytes.
    let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    member.write_all(&vec![0; 10 << 20]).unwrap();
    lab.write("bomb.gz", member.finish().unwrap().repeat(1000));
    fs::File::create(lab.path("hole")).unwrap().set_len(1 << 40).unwrap();
    run(program("tar").args(["--sparse", "-cf", "bomb.tar", "hole"]).current_dir(lab.path(""))).exits(0);
    let mut inputs = String::new();
    for name in ["bomb.gz", "bomb.tar"] {
        let bomb = lab.read(name);
        let sha256 = release::manifest::Sha256::of(&bomb);
        lab.write(&format!("home/inputs/{sha256}"), bomb);
        write!(inputs, "{{ path = \"{name}\", sha256 = \"{sha256}\" }},").unwrap();
    }
    let recipe = RECIPE.replace("[build]", &format!("[build]\ninputs = [{inputs}]"));
    lab.write("work/release.toml", recipe);
    lab.commit("inputs");
    lab.tag("1.0");
    // No file may be longer than the longer of them, and no memory could hold it.
    lab.start_through(&["prlimit", "--cpu=20", "--data=400000000", "--fsize=20000000"]);
    lab.cut("1.0").exits(0);
    lab.verify(&["mirror"]).exits(0);
}

#[test]
fn trees_that_git_would_not_write_are_refused() {
    let with = |entry: &str, replaces_notes: bool| {
        let lab = Lab::new();
        let git = |arguments: &[&str]| run(lab.git("work").args(arguments)).exits(0).out.trim().to_owned();
        let raw = lab.git("work").args(["cat-file", "tree", "HEAD^{tree}"]).output().unwrap().stdout;
        let notes = raw.windows(13).position(|window| window == b"100644 notes\0").unwrap();
        let (before, after) = (if replaces_notes { &raw[..notes] } else { b"" }, &raw[notes + 13..]);
        let rest = if replaces_notes { after.to_vec() } else { [&after[..20], &raw].concat() };
        lab.write("tree", [before, entry.as_bytes(), b"\0", &rest].concat());
        let tree = git(&["hash-object", "-t", "tree", "-w", "--literally", "../tree"]);
        let commit = git(&["commit-tree", &tree, "-m", "odd"]);
        git(&["update-ref", "refs/heads/release/1", &commit]);
        lab.push("refs/heads/release/1");
        lab.tag("1.0");
        lab
    };
    for (entry, why) in [
        ("100644 .git", "hasDotgit"),
        ("100644 .GIT", "hasDotgit"),
        ("100644 ..", "hasDotdot"),
        ("100644 a/b", "fullPathname"),
    ] {
        let lab = with(entry, false);
        lab.cut("1.0").exits(REJECTED).says(why).does_not_say("Fetched");
        lab.assert_nothing_published();
    }
    let lab = with("10644 notes", true);
    lab.cut("1.0").exits(REJECTED).says("notes").does_not_say("Archived");
    lab.assert_nothing_published();
    // Mended at the source, under a new tag.
    lab.commit("mended");
    lab.tag("1.1");
    lab.cut("1.0").exits(REJECTED);
    lab.runs(&["abandon", "1.0", "--yes=1.0"]).exits(0);
    lab.cut("1.1").exits(0);
    // Odd bits of plain files count as git counts them: executable or not.
    for (entry, mode) in [("100664 notes", "-rw-r--r-- 0/0"), ("104755 notes", "-rwxr-xr-x 0/0")] {
        let lab = with(entry, true);
        lab.cut("1.0").exits(0);
        let archive = lab.path(&Lab::mirrored("1.0", "kestrel-1.0.tar.gz"));
        let listed = run(program("tar").args(["--numeric-owner", "-tvf"]).arg(archive)).exits(0).out;
        assert!(listed.lines().any(|line| line.starts_with(mode) && line.ends_with("/notes")), "{listed}");
    }
    // A repository whose ids are SHA-256.
    let lab = Lab::new();
    fs::remove_dir_all(lab.path("source.git")).unwrap();
    fs::remove_dir_all(lab.path("work/.git")).unwrap();
    run(lab.git("").args(["init", "-q", "--bare", "--object-format=sha256", "source.git"])).exits(0);
    run(lab.git("work").args(["init", "-q", "--object-format=sha256", "-b", "release/1"])).exits(0);
    run(lab.git("work").args(["remote", "add", "origin", "../source.git"])).exits(0);
    lab.commit("first");
    lab.tag("1.0");
    lab.cut("1.0").exits(REJECTED).says("its objects are named by SHA-256");
    lab.assert_nothing_published();
}
