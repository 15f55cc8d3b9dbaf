//! Full disks, read-only file systems, permissions that were lost: at every step
//! the message says what to free or to mend, nothing is signed twice, a reader of
//! the mirror sees the old or the new state, and the same command goes on.

use std::fs;
use std::process::Command;
use std::process::Stdio;

use release::home::failpoint::STEPS;

use crate::resume::no_litter;
use crate::resume::signed_once;
use crate::support::Lab;
use crate::support::RELEASE;
use crate::support::Said;
use crate::support::is_long;
use crate::support::program;
use crate::support::room::Room;
use crate::support::run;

const FAILED: i32 = 1;
const PARTIAL: i32 = 4;

/// Something that goes wrong with a folder, and how it is mended.
struct Fault {
    what: &'static str,
    folder: &'static str,
    begin: &'static str,
    end: &'static str,
    /// What the system says, and the beginning of what helps.
    says: [&'static str; 2],
    code: i32,
}

const SPACE: [&str; 2] = ["No space left on device", "free some space on the file system"];
const READ_ONLY: [&str; 2] = ["Read-only file system", "mounted so that it can be written"];
const DENIED: [&str; 2] = ["Permission denied", "give the user who runs this the right"];

/// What can happen to the home.
const OF_HOME: [Fault; 4] = [
    Fault { what: "full", folder: "home", begin: "", end: "", says: SPACE, code: FAILED },
    Fault {
        what: "read-only",
        folder: "home",
        begin: "mount -o remount,ro home",
        end: "mount -o remount,rw home",
        says: READ_ONLY,
        code: FAILED,
    },
    Fault {
        what: "not writable",
        folder: "home",
        begin: "chmod -R u-w home",
        end: "chmod -R u+w home",
        says: DENIED,
        code: FAILED,
    },
    Fault {
        what: "not readable",
        folder: "home/repository",
        begin: "chmod 0 home/repository",
        end: "chmod 755 home/repository",
        says: DENIED,
        code: FAILED,
    },
];

/// What can happen to the repository in it, and to a mirror.
const OF_MIRROR: [Fault; 4] = [
    Fault { what: "full", folder: "mirror", begin: "", end: "", says: SPACE, code: PARTIAL },
    Fault {
        what: "read-only",
        folder: "mirror",
        begin: "mount -o remount,ro mirror",
        end: "mount -o remount,rw mirror",
        says: READ_ONLY,
        code: PARTIAL,
    },
    Fault {
        what: "not writable",
        folder: "mirror",
        begin: "chmod -R u-w mirror",
        end: "chmod -R u+w mirror",
        says: DENIED,
        code: PARTIAL,
    },
    Fault {
        what: "not readable",
        folder: "mirror",
        begin: "chmod 0 mirror",
        end: "chmod 755 mirror",
        says: DENIED,
        code: PARTIAL,
    },
];

impl Fault {
    /// Runs a command while this holds, and gives what it should have said.
    #[must_use]
    fn strike(&self, lab: &mut Lab, room: &Room, command: &[&str], step: &str) -> Option<String> {
        let is_full = self.says == SPACE;
        if is_full {
            room.leave_pages(self.folder, 0);
        } else {
            room.does(self.begin);
        }
        room.lift_permissions(lab, false);
        let said = lab.with_keys(command);
        room.lift_permissions(lab, true);
        if is_full {
            room.make_space(self.folder);
        } else {
            room.does(self.end);
        }
        // What is removed there makes space for the rest.
        let done = is_full && step == "seal.recorded" && said.code == Some(0);
        let names_all = self.says.iter().chain([&self.folder]).all(|text| said.has(text));
        let goes_on = said.has("same command again") || said.has(&format!("release {}", command[0]));
        let good = said.code == Some(self.code) && names_all && goes_on;
        (!done && !good).then(|| format!("{} {} after {step}: {said:?}\n", self.folder, self.what))
    }
}

const CUT: [&str; 4] = ["cut", "kestrel", "1.1", "--yes=1.1"];

fn tagged() -> Lab {
    let lab = Lab::released();
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    lab
}

#[track_caller]
fn kill(lab: &Lab, command: &[&str], step: &str) {
    let said: Said = lab.with_keys_and(command, &[("RELEASE_FAIL_AT", step)]);
    assert_eq!(said.code, None, "{step}: {said:?}");
    lab.verify(&["mirror", "--quiet"]).exits(0);
}

/// The release is whole, for new and old users, and was signed once.
fn is_released(lab: &Lab, room: &Room) {
    lab.with_keys(&CUT).exits(0);
    lab.with_keys(&CUT).exits(0).does_not_say("Signed");
    for repository in ["mirror", "home/repository"] {
        lab.verify(&[repository]).exits(0).says("kestrel 1.0: 5 files").says("kestrel 1.1: 5 files");
    }
    signed_once(&room.path("home"));
}

fn is_publishing(step: &str) -> bool {
    step.starts_with("publish.")
}

/// Makes a mirror again what it was: a push that only fails to be noted in the
/// home leaves nothing to push.
fn put_back(lab: &Lab, step: &str) {
    if !lab.path("old").exists() {
        lab.copy("mirror", "old");
    }
    if is_publishing(step) {
        fs::remove_dir_all(lab.path("mirror")).unwrap();
        lab.copy("old", "mirror");
    }
}

#[test]
fn a_mirror_that_fails_at_any_step_of_publishing() {
    let mut lab = tagged();
    let room = Room::around(&mut lab, &["home", "mirror"]);
    let mut wrong = Vec::new();
    for step in STEPS.into_iter().filter(|step| is_publishing(step)) {
        kill(&lab, &CUT, step);
        // From there on nothing is written to the mirror any more.
        let written = !matches!(step, "publish.timestamp" | "publish.recorded");
        for fault in OF_MIRROR.iter().filter(|_| written) {
            wrong.extend(fault.strike(&mut lab, &room, &CUT, step));
            lab.verify(&["mirror", "--quiet"]).exits(0);
        }
    }
    is_released(&lab, &room);
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

#[test]
fn a_home_that_fails_at_any_step_of_a_refresh() {
    let mut lab = Lab::released();
    let room = Room::around(&mut lab, &["home"]);
    let mut wrong = Vec::new();
    let is_passed = |step: &&str| step.starts_with("seal.") || is_publishing(step) && *step != "publish.file";
    for step in STEPS.into_iter().filter(is_passed) {
        put_back(&lab, step);
        kill(&lab, &["refresh"], step);
        for fault in &OF_HOME {
            wrong.extend(fault.strike(&mut lab, &room, &["refresh"], step));
        }
    }
    lab.with_keys(&["refresh"]).exits(0);
    lab.verify(&["mirror"]).exits(0);
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

#[test]
fn a_home_that_fails_at_any_step_of_a_cut() {
    let mut lab = tagged();
    let room = Room::around(&mut lab, &["home"]);
    let mut wrong = Vec::new();
    for step in STEPS {
        put_back(&lab, step);
        kill(&lab, &CUT, step);
        for fault in &OF_HOME {
            wrong.extend(fault.strike(&mut lab, &room, &CUT, step));
        }
    }
    is_released(&lab, &room);
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

/// A disk that is full in the middle: each run gets a page more than the one
/// before and stops at another write.
fn fills_up(folder: &str, code: i32, step: usize) {
    let mut lab = tagged();
    let room = Room::around(&mut lab, &["home", "mirror"]);
    let mut stopped = 0;
    for pages in (0..).step_by(if is_long() { 1 } else { step }) {
        room.leave_pages(folder, pages);
        let said = lab.with_keys(&CUT);
        room.make_space(folder);
        lab.verify(&["mirror", "--quiet"]).exits(0);
        if said.code == Some(0) {
            break;
        }
        stopped += 1;
        let said = said.exits(code).says("release cut kestrel 1.1").says("free some space").says(folder);
        assert!(pages < 300, "{said:?}");
    }
    assert!(stopped > 2, "stopped {stopped} times");
    is_released(&lab, &room);
    no_litter(&room.path("mirror"));
}

#[test]
fn a_home_that_fills_up_in_the_middle() {
    fills_up("home", FAILED, 3);
}

#[test]
fn a_mirror_that_fills_up_in_the_middle() {
    fills_up("mirror", PARTIAL, 1);
}

#[test]
fn a_verdict_needs_no_place_to_remember_it() {
    let mut lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    lab.write("data/other", "x");
    let room = Room::around(&mut lab, &["data"]);
    room.leave_pages("data", 0);
    lab.verify(&[&file]).exits(0).says("VERIFIED").says(SPACE[0]).says("data/release").says("is not remembered");
    room.make_space("data");
    room.does("mount -o remount,ro data");
    lab.verify(&[&file]).exits(0).says(READ_ONLY[0]).says("is not remembered");
    let fingerprint = release::manifest::Sha256::of(&lab.read("trust/root.json")).to_string();
    let add = ["trust", "add", "trust/root.json", "--fingerprint", &fingerprint];
    lab.runs(&add).exits(FAILED).says(READ_ONLY[0]).says(READ_ONLY[1]).says("data/release");
    room.does("mount -o remount,rw data");
    lab.verify(&[&file]).exits(0).does_not_say("is not remembered");
    room.does("chmod -R u-rwx data");
    room.lift_permissions(&mut lab, false);
    lab.verify(&[&file]).exits(0).says(DENIED[0]).says("an older state might not be noticed");
}

#[test]
fn what_cannot_be_read_is_no_verdict() {
    let mut lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    let room = Room::around(&mut lab, &[]);
    room.lift_permissions(&mut lab, false);
    let closed = |path: &str, what: &str, named: &str| {
        room.does(&format!("chmod 0 {path}"));
        let said = lab.verify(&[what]).exits(FAILED).says(DENIED[0]).says(DENIED[1]).says(named);
        assert!(!said.out.contains("VERIFIED"), "{said:?}");
        room.does(&format!("chmod 755 {path}"));
        lab.verify(&[what]).exits(0);
    };
    closed("trust/root.json", &file, "trust/root.json");
    closed("download/kestrel-1.0", &file, "download/kestrel-1.0");
    closed("download/kestrel-1.0.bundle.json", &file, "kestrel-1.0.bundle.json");
    closed("download", "download", "download");
    for path in [
        "metadata",
        "metadata/timestamp.json",
        "metadata/2.snapshot.json",
        "metadata/1.kestrel.json",
        "releases/kestrel",
        "releases/kestrel/1.0/kestrel-1.0",
        "releases/kestrel/1.0/claim.alice.intoto.json",
        "targets/kestrel/1.0",
        "bundles/kestrel.bundle.json",
    ] {
        // All names of one content are one file.
        closed(&format!("mirror/{path}"), "mirror", path.rsplit('/').next().unwrap());
    }
    // What has vanished meanwhile.
    fs::rename(lab.path("download/kestrel-1.0.bundle.json"), lab.path("bundle")).unwrap();
    lab.verify(&[&file]).exits(FAILED).says("there is no bundle beside");
    fs::rename(lab.path("bundle"), lab.path("download/kestrel-1.0.bundle.json")).unwrap();
    fs::remove_file(lab.path("download/kestrel-1.0")).unwrap();
    lab.verify(&[&file]).exits(FAILED).says("there is no file download/kestrel-1.0");
}

#[test]
fn success_is_never_claimed_of_what_was_not_printed() {
    let mut lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    let full = |arguments: &[&str]| {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        to(lab.release().args(arguments), full)
    };
    let closed = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        to(lab.release().args(arguments), writer)
    };
    let verify = ["verify", "--root", "trust/root.json", &file];
    for arguments in
        [&verify[..], &["--json", "verify", "--root", "trust/root.json", &file], &["status"], &["status", "--json"]]
    {
        full(arguments).exits(FAILED).says("cannot write to standard output").says(SPACE[0]);
    }
    closed(&verify).exits(FAILED).says("cannot write to standard output").says("Broken pipe");
    // Who reads the beginning of a list only wants no message.
    for arguments in [&["status"][..], &["status", "--json"]] {
        assert_eq!(closed(arguments).exits(FAILED).err, "");
    }
    for arguments in [["--version"], ["--help"]] {
        full(&arguments).exits(FAILED);
    }
    full(&["util", "completions", "bash"]).exits(FAILED);
    // What is worse stays what it is.
    lab.write("download/kestrel-1.0", "evil");
    full(&verify).exits(3);
    closed(&verify).exits(3);
    lab.travel("+31d");
    let late = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    to(lab.release().args(["verify", "--root", "trust/root.json", "--offline", "mirror"]), late).exits(FAILED);
    // Talk may get lost, verdicts are on standard output.
    let said = run(program("sh")
        .args(["-c", "exec \"$@\" 2>/dev/full", "sh", RELEASE])
        .args(verify)
        .current_dir(lab.path("")));
    assert_eq!(said.code, Some(3), "{said:?}");
}

/// Runs a program with another standard output.
fn to(command: &mut Command, stdout: impl Into<Stdio>) -> Said {
    let output = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    Said { code: output.status.code(), out: String::new(), err }
}
