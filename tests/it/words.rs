//! What the program says: to machines, to people at a terminal, and after
//! mistakes.

use std::fs;

use serde_json::Value;

use crate::support::Lab;
use crate::support::RECIPE;
use crate::support::Said;
use crate::support::program;
use crate::support::run;
use crate::support::terminal::at_a_terminal;

const REJECTED: i32 = 3;

/// Demands that standard output is one JSON object with the exit code of an
/// error, and that no line of talk is wider than 80 columns where it could be
/// wrapped.
#[track_caller]
fn json(said: &Said) -> Value {
    let value: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    assert!(value.is_object() && value["version"] == 1, "{said:?}");
    let says_so = value["error"].is_string() || value["verdict"].is_string();
    assert!(said.code == Some(0) || says_so, "{said:?}");
    for line in said.err.lines().filter(|line| !line.starts_with("    ") && !line.starts_with("+ ")) {
        assert!(line.chars().count() <= 80 || !line.trim_start().contains(' '), "{line:?} in {said:?}");
    }
    value
}

#[test]
fn every_command_gives_machines_one_object() {
    let lab = Lab::released();
    let next = |version: &str| {
        lab.write("work/notes", version);
        lab.commit(version);
        lab.tag(version);
    };
    let fingerprint = run(program("sha256sum").arg(lab.path("trust/root.json"))).out[..64].to_owned();
    let print = format!("--fingerprint={fingerprint}");
    let fresh = ["init", "--policy", "policy/policy.toml", "--software-keys", "--home", "fresh"];
    next("1.1");
    lab.begin("1.1");
    let table: &[(&[&str], i32)] = &[
        (&["status"], 0),
        (&["status", "--home", "nowhere"], 1),
        (&["policy", "check"], 0),
        (&["policy", "check", "work/release.toml"], 1),
        (&["trust", "add", "trust/root.json"], 2),
        (&["trust", "add", "trust/root.json", &print, "--repository", "mirror"], 0),
        (&["trust", "add", "trust/root.json", "--fingerprint=00"], 3),
        (&["trust", "list"], 0),
        (&["verify", "mirror"], 0),
        (&["trust", "remove", &fingerprint], 0),
        (&["trust", "remove", &fingerprint], 1),
        (&["verify", "mirror"], 1),
        (&["cut", "1.1", "--dry-run"], 0),
        (&["cut", "1.0", "--dry-run"], 1),
        (&["cut", "1.1"], 2),
        (&["cut", "falcon", "1.1", "--yes=1.1"], 2),
        (&["cut", "7.7", "--yes=7.7"], 1),
        (&["cut", "1/1"], 2),
        (&["abandon", "1.1"], 2),
        (&["abandon", "1.1", "--yes=1.1"], 0),
        (&["abandon", "7.7", "--yes=7.7"], 1),
        (&["publish"], 0),
        (&["refresh"], 0),
        (&["import", "--from", "here"], 0),
        (&["import", "--from", "nowhere"], 1),
        (&fresh, 0),
        (&fresh, 1),
        (&["util", "man", "man"], 0),
        (&["util", "completions", "bash"], 0),
        (&["nonsense"], 2),
    ];
    for (arguments, code) in table {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let said = lab.with_keys(&arguments);
        assert!(said.code == Some(*code), "{arguments:?}: {said:?}");
        json(&said);
    }
    next("1.2");
    let said = lab.with_keys(&["cut", "1.2", "--yes=1.2", "--json"]).exits(0);
    assert_eq!(json(&said)["mirrors"][0]["mirror"], "here");

    // A mirror that fails.
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    lab.write("home/terminal.toml", format!("{terminal}\n[mirror.second]\npath = \"../second\"\n"));
    lab.write("second", "");
    next("1.3");
    for arguments in [&["cut", "1.3", "--yes=1.3", "--json"][..], &["publish", "--json"], &["refresh", "--json"]] {
        let said = lab.with_keys(arguments).exits(4);
        let value = json(&said);
        assert_eq!(value["exit"], 4);
        assert_eq!(value["mirrors"].as_array().unwrap().len(), 2, "{value}");
        assert!(value["hints"].as_array().unwrap().len() > 1, "{value}");
    }
    lab.runs(&["publish"]).exits(4).does_not_say("could not be reached");
}

#[test]
fn hints_carry_the_home_that_was_named() {
    let lab = Lab::new();
    fs::rename(lab.path("home"), lab.path("the home")).unwrap();
    lab.tag("1.0");
    lab.with_keys_and(&["cut", "1.0", "--yes=1.0", "--home", "the home"], &[("RELEASE_FAIL_AT", "stage.done")]);
    let said = lab.with_keys(&["cut", "1.1", "--yes=1.1", "--home", "the home"]).exits(1);
    for command in ["release cut kestrel 1.0", "release abandon kestrel 1.0"] {
        let pasted = said.err.lines().find(|line| line.starts_with(&format!("    {command}"))).unwrap();
        assert_eq!(pasted.trim(), format!("{command} --home 'the home'"));
    }
    fs::rename(lab.path("the home"), lab.path("home")).unwrap();
    lab.cut("1.1").exits(1).says("release cut kestrel 1.0").does_not_say("--home");
}

#[test]
fn nothing_foreign_moves_the_cursor() {
    let lab = Lab::new();
    // Two that are neither control characters to git nor ASCII.
    let hostile = "\u{9b}2J\u{202e}";
    let raw = |said: &Said| [&said.out, &said.err].iter().any(|text| text.contains(['\u{1b}', '\u{9b}', '\u{202e}']));
    lab.tag("1.0");
    lab.push(&format!("HEAD:refs/heads/release/0{hostile}"));
    let said = lab.with_keys(&["cut", "1.0", "--yes=1.0", "-v"]).exits(0).says("release/0\\u{9b}2J\\u{202e}");
    assert!(!raw(&said), "{said:?}");
    for arguments in [&["verify", "--root", "trust/root.json", "mirror", "-v"][..], &["status"], &["publish", "-v"]] {
        let said = lab.runs(arguments).exits(0);
        assert!(!raw(&said), "{said:?}");
    }

    let name = format!("evil\u{1b}[2J{hostile}");
    lab.write(&name, "not toml");
    lab.write(&format!("folder-{name}/file"), "");
    let folder = format!("folder-{name}");
    for arguments in [
        &["policy", "check", &name][..],
        &["status", "--home", &name, "-v"],
        &["verify", "--root", "trust/root.json", &name, "-v"],
        &["verify", "--root", "trust/root.json", &folder, "-v", "--repository", &name],
        &["trust", "add", &name],
        &["import", "--from", &name, "-v"],
        &["util", "man", &format!("{name}/x")],
        &["init", "--policy", &name, "--software-keys", "--home", "fresh"],
        &["cut", &name],
        &[&name],
    ] {
        for json_too in [false, true] {
            let mut arguments = arguments.to_vec();
            arguments.extend(json_too.then_some("--json"));
            let said = lab.runs(&arguments);
            assert!(said.code.is_some_and(|code| code != 0) && !raw(&said), "{arguments:?}: {said:?}");
            if json_too {
                json(&said);
            }
        }
    }

    lab.write("work/release.toml", format!("\"a\\u001b[2J{hostile}\" = 1\n{RECIPE}"));
    lab.commit("2.0");
    lab.tag("2.0");
    let said = lab.cut("2.0").exits(REJECTED).says("unknown field").says("\\u{202e}");
    assert!(!raw(&said), "{said:?}");
}

#[test]
fn a_stop_says_what_was_not_done_and_what_to_do() {
    let lab = Lab::new();
    let cut = |version: &str| lab.cut(version).exits(REJECTED).says("nothing was built or signed");
    cut("1.0").says("git tag -s -m 'kestrel 1.0' v1.0").says("release cut kestrel 1.0");
    run(lab.git("work").args(["tag", "v1.0"])).exits(0);
    lab.push("refs/tags/v1.0");
    cut("1.0").says("git tag -f -s -m 'kestrel 1.0' v1.0").says("git push -f origin refs/tags/v1.0");

    let recipe = String::from_utf8(lab.read("work/release.toml")).unwrap();
    fs::remove_file(lab.path("work/release.toml")).unwrap();
    lab.commit("without");
    lab.tag("1.1");
    cut("1.1").says("has no release.toml").says("examples/kestrel/release.toml").says("nothing is pinned");
    lab.write("work/release.toml", recipe.replace("script", "scirpt"));
    lab.commit("mistake");
    lab.tag("1.2");
    cut("1.2").says("has a mistake").says("have the tag made again").says("release cut kestrel 1.2");

    // Pinned: another version is needed.
    let give_up = |version: &str| format!("release abandon kestrel {version}");
    lab.write("work/release.toml", &recipe);
    lab.write("work/build.sh", "echo no such compiler; false\n");
    lab.commit("broken");
    lab.tag("1.3");
    lab.cut("1.3").exits(1).says("no such compiler").says("nothing was signed").says(&give_up("1.3"));
    lab.runs(&["abandon", "1.3", "--yes=1.3"]).exits(0);
    lab.write("work/build.sh", "true\n");
    lab.commit("empty");
    lab.tag("1.4");
    let said = lab.cut("1.4").exits(REJECTED).says("the build left no usable").says(&give_up("1.4"));
    said.does_not_say("release cut");
    lab.assert_nothing_published();
}

#[test]
fn further_maintainers_are_told_the_name_of_their_tag() {
    let lab = Lab::new();
    let policy = String::from_utf8(lab.read("policy/policy.toml")).unwrap();
    lab.write("policy/policy.toml", policy.replace("tag-threshold = 1", "tag-threshold = 2"));
    lab.with_keys(&["init", "--home", "two", "--policy", "policy/policy.toml", "--software-keys"]).exits(0);
    lab.tag("1.0");
    lab.with_keys(&["cut", "--home", "two", "1.0", "--dry-run"])
        .exits(REJECTED)
        .says("git tag -s -m 'kestrel 1.0' signoff/v1.0/NAME 'v1.0^{commit}'")
        .says("release cut kestrel 1.0 --dry-run --home two");
}

#[test]
fn init_finds_mistakes_before_it_asks_for_passphrases() {
    let lab = Lab::new();
    lab.write("passphrases", "");
    fs::create_dir(lab.path("tools")).unwrap();
    let init = |arguments: &[&str]| {
        let mut all = vec!["init", "--home", "fresh", "--policy", "policy/policy.toml", "--software-keys"];
        all.extend(arguments);
        lab.with_keys(&all)
    };
    init(&["--mirror", "A b=x"]).exits(2).says("'--mirror <NAME=DIR>'").says("is not a mirror name");
    init(&["--mirror", "x"]).exits(2).says("write NAME=DIR");
    init(&["--mirror", "a=x", "--mirror", "a=y"]).exits(2).says("--mirror a is given twice");
    init(&["--toolchain", "../x=tools"]).exits(2).says("'--toolchain <NAME=DIR>'").says("is not a file name");
    init(&["--toolchain", "rust=missing"]).exits(2).says("there is no folder missing");
    init(&["--toolchain", "r=tools", "--toolchain", "r=tools"]).exits(2).says("--toolchain r is given twice");
    lab.write("policy/keys/bob-root.pem", "nonsense");
    init(&[]).exits(1).says("keys/bob-root.pem").says("no home was made").does_not_say("release-init");
    fs::remove_file(lab.path("policy/keys/bob-root.pem")).unwrap();
    init(&[]).exits(1).says("no passphrase for key").says("no home was made").does_not_say("kept");

    // A relative toolchain, and names with dots.
    let lab = Lab::new();
    fs::create_dir(lab.path("tools")).unwrap();
    let made = ["init", "--home", "fresh", "--policy", "policy/policy.toml", "--software-keys"];
    let made = [&made[..], &["--toolchain", "rust/bin=tools", "--mirror", "eu.1=eu1"]].concat();
    lab.with_keys(&made).exits(0);
    let terminal = String::from_utf8(lab.read("fresh/terminal.toml")).unwrap();
    assert!(terminal.contains(&format!("path = \"{}\"", lab.path("tools").display())), "{terminal}");
    lab.runs(&["publish", "--home", "fresh"]).exits(0).says("mirror eu.1");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(lab.path("fresh/keys")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn the_terminal_echoes_after_ctrl_c() {
    let lab = Lab::released();
    let (_, screen) = at_a_terminal(&lab, "release refresh; echo exit $?; stty -a", |_| "sec\u{3}".to_owned());
    assert!(screen.contains("you pressed Ctrl-C") && screen.contains("exit 1"), "{screen}");
    assert!(screen.contains(" echo ") && !screen.contains("-echo ") && screen.contains(" icanon"), "{screen}");
    assert!(!screen.contains("sec"), "{screen}");
}

#[test]
fn bars_fit_into_a_window_of_80_columns() {
    let lab = Lab::new();
    let script = String::from_utf8(lab.read("work/build.sh")).unwrap();
    lab.write("work/build.sh", format!("{script}echo {}\nsleep 1\n", "long".repeat(100)));
    lab.commit("talks");
    lab.tag("1.0");
    let command = "stty cols 80; TERM=xterm release cut 1.0 --yes=1.0 --pin-fd 3 3<passphrases";
    let (code, screen) = at_a_terminal(&lab, command, |prompt| panic!("asks {prompt}"));
    assert_eq!(code, 0, "{screen}");
    // Each frame is drawn over the last one.
    let frames: Vec<&str> = screen.split("\u{1b}[2K").flat_map(str::lines).collect();
    let building: Vec<&&str> = frames.iter().filter(|frame| frame.contains("longlong")).collect();
    assert!(!building.is_empty(), "{screen}");
    for frame in building {
        assert!(frame.chars().count() <= 80 && !frame.contains("\u{1b}[38"), "{frame:?}");
    }
}

#[test]
fn a_guess_with_another_passphrase_is_no_try_of_the_person() {
    let lab = Lab::new();
    lab.tag("1.0");
    let right = |prompt: &str| {
        let key = prompt.trim_end_matches(": ").rsplit(' ').next().unwrap().to_owned();
        format!("horse-{key}\n")
    };
    // Every key of the laboratory has a passphrase of its own.
    let (code, screen) = at_a_terminal(&lab, "release cut 1.0 --yes=1.0", right);
    assert!(code == 0 && !screen.contains("does not open"), "{screen}");

    let mut prompts = Vec::new();
    let (code, screen) = at_a_terminal(&lab, "release refresh", |prompt| {
        prompts.push(prompt.to_owned());
        if prompts.len() == 1 { "wrong\n".to_owned() } else { right(prompt) }
    });
    assert!(code == 0 && prompts.len() == 2 && prompts[1].starts_with("That does not open it."), "{screen}");
    let (code, screen) = at_a_terminal(&lab, "release refresh", |_| "wrong\n".to_owned());
    assert!(code == 1 && screen.contains("wrong passphrase for key online"), "{screen}");
}
