//! Removable media, filled by somebody hostile: what is taken of them, what is
//! refused, and that nothing is lost.

use std::fs;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::Mutex;

use release::home::Home;
use release::home::failpoint::IMPORT_STEPS;
use release::manifest::Sha256;
use release::media;
use release::media::Fate;
use release::progress::Event;
use release::progress::Progress;

use crate::support::Lab;
use crate::support::RECIPE;
use crate::support::RELEASE;
use crate::support::Said;
use crate::support::forge::value;
use crate::support::program;
use crate::support::run;

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const REJECTED: i32 = 3;

fn import(lab: &Lab) -> Said {
    lab.runs(&["import", "medium"])
}

/// The names below a folder of the home, sorted.
fn names(lab: &Lab, folder: &str) -> Vec<String> {
    let entries = lab.path(folder).read_dir().unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn inputs_come_by_medium_and_are_used_by_hash() {
    let lab = Lab::new();
    let data = b"vendored\n";
    let sha256 = Sha256::of(data);
    lab.write("work/build.sh", "mkdir -p out; cat vendor/data > out/kestrel; cp notes out/notes\n");
    let inputs = format!("[build]\ninputs = [{{ path = \"vendor/data\", sha256 = \"{sha256}\" }}]");
    lab.write("work/release.toml", RECIPE.replace("[build]", &inputs));
    lab.commit("inputs");
    lab.tag("1.0");
    lab.cut("1.0").exits(FAILED).says("is not in the home").says("release import DIR");

    // What the medium has under that name is something else.
    lab.write("medium/data", "something else\n");
    import(&lab).exits(0).says("input     data").says("Took 1 of 1 name.");
    lab.cut("1.0").exits(FAILED).says("is not in the home");
    lab.assert_nothing_published();
    lab.write("medium/any-name.at_all", data);
    let said = import(&lab).exits(0).says("known     data").says("input     any-name.at_all");
    said.says(&sha256.to_string()[..12]);
    import(&lab).exits(0).says("Took 0 of 2 names.");
    lab.cut("1.0").exits(0);
    assert_eq!(lab.read(&Lab::mirrored("1.0", "kestrel-1.0")), data);

    // A copy that was damaged in the home is replaced by a good one.
    lab.write(&format!("home/inputs/{sha256}"), "vendored?");
    import(&lab).exits(0).says("input     any-name.at_all");
    assert_eq!(lab.read(&format!("home/inputs/{sha256}")), data);
    let facts = value(lab.runs(&["import", "medium", "--json"]).exits(0).out.as_bytes());
    assert_eq!(facts["files"][0]["sha256"], sha256.to_string());
    assert_eq!((facts["files"][0]["result"].as_str(), facts["files"][0]["length"].as_u64()), (Some("known"), Some(9)));
}

#[test]
fn only_plain_files_with_plain_names_are_taken() {
    let lab = Lab::new();
    let canary = lab.path("canary");
    fs::write(&canary, "outside\n").unwrap();
    lab.write("medium/good", "good\n");
    fs::hard_link(&canary, lab.path("medium/hard")).unwrap();
    symlink(&canary, lab.path("medium/link")).unwrap();
    symlink("good", lab.path("medium/near")).unwrap();
    symlink("loop", lab.path("medium/loop")).unwrap();
    symlink("..", lab.path("medium/up")).unwrap();
    run(program("mkfifo").arg(lab.path("medium/pipe"))).exits(0);
    let _socket = std::os::unix::net::UnixListener::bind(lab.path("medium/socket")).unwrap();
    fs::create_dir(lab.path("medium/folder")).unwrap();
    symlink("..", lab.path("medium/folder/folder")).unwrap();
    fs::write(lab.path("medium/folder/inside"), "inside\n").unwrap();
    File::create(lab.path("medium/huge")).unwrap().set_len(1 << 40).unwrap();
    for name in ["a\u{1b}[2Jb", "..x", ".hidden", "a b", "-rf", "caf\u{e9}"] {
        fs::write(lab.path("medium").join(name), "bad name\n").unwrap();
    }
    let bytes: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff, b'x']);
    fs::write(lab.path("medium").join(bytes), "no text\n").unwrap();
    fs::write(lab.path("medium/kestrel-1.0.git.bundle"), "no bundle\n").unwrap();
    fs::write(lab.path("medium/kestrel.bundle"), "# v2 git bundle\n\nPACK").unwrap();
    fs::write(lab.path("medium/falcon-1.0.git.bundle"), "# v2 git bundle\n\nPACK").unwrap();

    let said = import(&lab).exits(REJECTED).says("input     good").says("input     hard").says("skipped   folder");
    let said = said.says("refused   link: it is a link").says("refused   near: it is a link");
    let said = said.says("refused   pipe: it is not a plain file").says("refused   socket: it is not a plain file");
    let said =
        said.says("refused   huge: it is longer than").says("refused   kestrel-1.0.git.bundle: it does not begin");
    let said = said.says("refused   kestrel.bundle: a git bundle is named").says("refused   falcon-1.0.git.bundle");
    let said = said.says("17 names of the medium refused").says("2 files taken and kept");
    assert!(!said.out.contains('\u{1b}') && said.out.contains(r"a\u{1b}[2Jb"), "{}", said.out);
    let mut kept = [Sha256::of(b"good\n").to_string(), Sha256::of(b"outside\n").to_string()];
    kept.sort();
    assert_eq!(names(&lab, "home/inputs"), kept);
    assert_eq!(names(&lab, "home/inbox"), [""; 0]);
    let out = lab.runs(&["import", "medium", "--json"]).exits(REJECTED).out;
    assert_eq!(value(out.as_bytes())["files"].as_array().unwrap().len(), 20);
    lab.tag("1.0");
    lab.cut("1.0").exits(0);
}

#[test]
fn what_systems_leave_on_a_stick_is_no_alarm() {
    let lab = Lab::new();
    lab.write("medium/good", "good\n");
    for folder in [".Trash-1000", "System Volume Information", "caf\u{e9}", ".fseventsd"] {
        lab.write(&format!("medium/{folder}/inside"), "inside\n");
    }
    let said = import(&lab).exits(0).says("input     good").says("skipped   .Trash-1000: a folder");
    said.says("skipped   System Volume Information: a folder").says("Took 1 of 5 names.");
    assert_eq!(names(&lab, "home/inputs"), [Sha256::of(b"good\n").to_string()]);
    // A link stays one, whatever it leads to and whatever its name is.
    symlink(".Trash-1000", lab.path("medium/.Trash-1001")).unwrap();
    import(&lab).exits(REJECTED).says("refused   .Trash-1001").says("1 name of the medium refused");
}

#[test]
fn devices_and_other_file_systems_are_not_opened() {
    // Only root can make them.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let lab = Lab::new();
    fs::create_dir(lab.path("medium")).unwrap();
    run(program("mknod").arg(lab.path("medium/zero")).args(["c", "1", "5"])).exits(0);
    fs::write(lab.path("medium/mounted"), "").unwrap();
    fs::write(lab.path("secret"), "secret\n").unwrap();
    let said = confined(&lab, &["--bind", &shown(&lab, "secret"), &shown(&lab, "medium/mounted")]).exits(REJECTED);
    said.says("refused   zero: it is not a plain file")
        .says("refused   mounted: it is a link, or on another file system");
    assert_eq!(names(&lab, "home/inputs"), [""; 0]);
}

fn shown(lab: &Lab, path: &str) -> String {
    lab.path(path).display().to_string()
}

/// Imports with other mounts.
fn confined(lab: &Lab, mounts: &[&str]) -> Said {
    let inner = lab.release();
    let mut command = program("bwrap");
    command.args(["--dev-bind", "/", "/"]).args(mounts).arg("--").arg(RELEASE).args(["import", "medium"]);
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    run(command.current_dir(lab.path("")))
}

#[test]
fn a_medium_with_too_many_names_or_none_is_said_so() {
    let lab = Lab::new();
    import(&lab).exits(FAILED).says("there is no folder medium").says("nothing was taken");
    fs::create_dir(lab.path("medium")).unwrap();
    import(&lab).exits(0).says("The medium is empty");
    for number in 0..100_000 {
        File::create(lab.path("medium").join(format!("n{number}"))).unwrap();
    }
    import(&lab).exits(REJECTED).says("has more than 1000 files").says("nothing was taken");
    assert_eq!(names(&lab, "home/inputs"), [""; 0]);
    lab.write("file", "x");
    lab.runs(&["import", "file"]).exits(FAILED).says("there is no folder file");
    lab.runs(&["import"]).exits(USAGE);
    lab.runs(&["import", "medium", "--from", "here"]).exits(USAGE);
}

#[test]
fn a_medium_cannot_fill_the_disk_and_may_be_read_only() {
    let lab = Lab::new();
    lab.write("medium/a", "small\n");
    lab.write("medium/b", vec![7; 100_000]);
    let tiny = ["--size", "1000000", "--tmpfs", &shown(&lab, "home/inputs")].map(str::to_owned);
    let tiny: Vec<&str> = tiny.iter().map(String::as_str).collect();
    let said = confined(&lab, &tiny).exits(FAILED).says("bytes free").says("stay free for the next release");
    said.says("release import DIR");
    let medium = shown(&lab, "medium");
    confined(&lab, &["--ro-bind", &medium, &medium]).exits(0).says("Took 2 of 2 names.");
    assert_eq!(names(&lab, "home/inputs").len(), 2);
}

/// Changes a file of the medium as soon as some of it was read.
struct Changing<'a>(&'a Lab, Mutex<Option<fn(&Lab)>>);

impl Progress for Changing<'_> {
    fn event(&self, event: Event<'_>) {
        if let Event::Advance(_) = event
            && let Some(change) = self.1.lock().unwrap().take()
        {
            change(self.0);
        }
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    let changes: [fn(&Lab); 4] = [
        |lab| fs::OpenOptions::new().append(true).open(lab.path("medium/a")).unwrap().write_all(b"more").unwrap(),
        |lab| File::options().write(true).open(lab.path("medium/a")).unwrap().set_len(10).unwrap(),
        |lab| fs::remove_file(lab.path("medium/a")).unwrap(),
        |lab| {
            fs::write(lab.path("medium/other"), "other").unwrap();
            fs::rename(lab.path("medium/other"), lab.path("medium/a")).unwrap();
        },
    ];
    let lab = Lab::new();
    let home = Home::open(&lab.path("home")).unwrap();
    for change in changes {
        let _ = fs::remove_dir_all(lab.path("medium"));
        lab.write("medium/a", vec![7; 3_000_000]);
        lab.write("medium/b", "other file\n");
        let changing = Changing(&lab, Mutex::new(Some(change)));
        let mut fates = Vec::new();
        let report = &mut |name: &str, fate: &Fate| fates.push((name.to_owned(), fate.clone()));
        media::take(&home, &lab.path("medium"), &changing, report).unwrap();
        assert_eq!(fates[0], ("a".to_owned(), Fate::Refused("it changed while it was read".to_owned())));
        assert!(matches!(fates[1].1, Fate::Input(..) | Fate::Known(..)), "{fates:?}");
        assert_eq!(names(&lab, "home/inputs"), [Sha256::of(b"other file\n").to_string()]);
    }
}

#[test]
fn a_killed_import_is_done_by_the_same_command() {
    let lab = Lab::new();
    lab.tag("1.0");
    for name in ["a", "b", "c"] {
        lab.write(&format!("medium/{name}"), name.repeat(1000));
    }
    let bundle = lab.path("medium/kestrel-1.0.git.bundle");
    run(lab
        .git("source.git")
        .args(["bundle", "create", "--quiet"])
        .arg(bundle)
        .args(["refs/tags/v1.0", "refs/heads/release/1"]))
    .exits(0);
    for step in IMPORT_STEPS {
        for nth in 1..=4 {
            for folder in ["home/inputs", "home/inbox"] {
                fs::remove_dir_all(lab.path(folder)).unwrap();
            }
            let point = format!("{step}:{nth}");
            let killed = run(lab.release().args(["import", "medium"]).env("RELEASE_FAIL_AT", &point));
            assert_eq!(killed.code, None, "{killed:?}");
            // What has its name is whole.
            for name in names(&lab, "home/inputs").iter().filter(|name| !name.starts_with('.')) {
                assert_eq!(Sha256::of(&lab.read(&format!("home/inputs/{name}"))).to_string(), *name);
            }
            import(&lab).exits(0);
            assert_eq!(names(&lab, "home/inputs").len(), 3, "{:?}", names(&lab, "home/inputs"));
            assert_eq!(names(&lab, "home/inbox"), ["kestrel-1.0.git.bundle"]);
            assert_eq!(lab.read("home/inbox/kestrel-1.0.git.bundle"), lab.read("medium/kestrel-1.0.git.bundle"));
        }
    }
    lab.cut("1.0").exits(0).says("from inbox/kestrel-1.0.git.bundle");
}

#[test]
fn a_medium_waits_for_other_commands() {
    let lab = Lab::new();
    lab.write("medium/a", "a");
    let lock = File::create(lab.path("home/lock")).unwrap();
    lock.lock().unwrap();
    import(&lab).exits(FAILED).says("another command is at work");
    drop(lock);
    import(&lab).exits(0);
}

/// A laboratory whose home was restored from a backup made before 1.1, and a stick with
/// a copy of all that a mirror serves.
fn restored() -> Lab {
    let lab = Lab::released();
    lab.copy("home", "backup");
    lab.release_next("1.1");
    fs::remove_dir_all(lab.path("home")).unwrap();
    fs::rename(lab.path("backup"), lab.path("home")).unwrap();
    lab.copy("mirror", "stick");
    lab
}

#[test]
fn a_copy_of_a_repository_leads_to_nothing_of_this_machine() {
    // What no metadata lists, and what is listed.
    for name in ["SHA256SUMS.asc", "SHA256SUMS", "claim.bob.intoto.json", "kestrel-1.1.bundle.json"] {
        let lab = restored();
        lab.write("home/keys/mirror-eu1-pool", "a deploy key\n");
        let file = lab.path("stick/releases/kestrel/1.1").join(name);
        let _ = fs::remove_file(&file);
        symlink(lab.path("home/keys/mirror-eu1-pool"), &file).unwrap();
        lab.runs(&["import", "--from", "stick"]).exits(REJECTED).says(&format!("{name} is not a plain file"));
        let found = run(program("grep").args(["-r", "-l", "a deploy key"]).arg(lab.path("home/repository")));
        assert_eq!(found.out, "", "{name}");
    }
    let lab = restored();
    fs::rename(lab.path("stick/releases/kestrel/1.1"), lab.path("elsewhere")).unwrap();
    symlink(lab.path("elsewhere"), lab.path("stick/releases/kestrel/1.1")).unwrap();
    lab.runs(&["import", "--from", "stick"]).exits(REJECTED).says("is not a plain file");
    // Signatures that nobody has made are not published by this home.
    let lab = restored();
    let file = lab.path("stick/releases/kestrel/1.1/SHA256SUMS.asc");
    fs::remove_file(&file).unwrap();
    fs::write(&file, "-----BEGIN JUNK-----\n").unwrap();
    lab.runs(&["import", "--from", "stick"]).exits(0).says("SHA256SUMS.asc is not signed by anybody").says("left out");
    assert!(lab.path("home/repository/releases/kestrel/1.1/kestrel-1.1").exists());
    assert!(!lab.path("home/repository/releases/kestrel/1.1/SHA256SUMS.asc").exists());
    let lab = restored();
    lab.runs(&["import", "--from", "stick"]).exits(0).does_not_say("left out");
    assert!(lab.path("home/repository/releases/kestrel/1.1/SHA256SUMS.asc").exists());
}
