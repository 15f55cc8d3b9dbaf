//! Attacks by a thief.

use std::fs;
use std::time::Duration;

use release::process::Confines;
use release::process::Program;
use release::progress::Silent;

use crate::support::Lab;
use crate::support::program;
use crate::support::run;

fn journal(lab: &Lab) -> String {
    String::from_utf8(lab.read("home/journal.jsonl")).unwrap()
}

/// A restored home, brought up to date by an import that was interrupted.
#[test]
fn an_interrupted_import_burns_the_number_after_it() {
    let lab = Lab::released();
    lab.copy("home", "backup");
    lab.release_next("1.1");
    lab.copy("home", "current");
    // What the lost home signed last, and nobody saw: manifest 3.
    lab.tag("1.2");
    let said = lab.with_keys_and(&["cut", "kestrel", "1.2", "--yes=1.2"], &[("RELEASE_FAIL_AT", "role.signed")]);
    assert_eq!(said.code, None);
    let lost = journal(&lab);
    fs::remove_dir_all(lab.path("home")).unwrap();
    fs::rename(lab.path("backup"), lab.path("home")).unwrap();
    let inner = lab.with_keys_and(&["import", "--from", "here"], &[("RELEASE_FAIL_AT", "seal.checked")]);
    assert_eq!(inner.code, None, "killed");
    lab.runs(&["import", "--from", "here"]).exits(0);
    lab.write("work/notes", "other notes");
    lab.commit("other");
    lab.tag("1.3");
    lab.cut("1.3").exits(0).says("manifest 4 of kestrel");
    let asks = |text: &str| -> Vec<String> {
        text.lines().filter(|l| l.contains("\"what\":\"kestrel 3\"")).map(str::to_owned).collect()
    };
    assert!(journal(&lab).contains("\"kind\":\"import\""), "the import is in the journal");
    assert!(!asks(&lost).is_empty() && asks(&journal(&lab)).is_empty(), "number 3 is used again");
}

/// What a build prints decides what a person is told to do.
#[test]
fn a_build_does_not_write_advice() {
    let lab = Lab::new();
    lab.write(
        "work/build.sh",
        "echo 'cp: cannot open /var/lib/release/keys/online.key: Permission denied' >&2; exit 1\n",
    );
    lab.commit("x");
    lab.tag("1.0");
    let said = lab.cut("1.0");
    assert!(!said.has("the right to use that path"));
}

/// A failed build leaves what it wrote and programs that run as its owner.
#[test]
fn a_failed_build_leaves_nothing() {
    let lab = Lab::new();
    lab.write("work/build.sh", "cp /bin/sh own; chmod 4755 own; head -c 50000000 /dev/zero > big; exit 1\n");
    lab.commit("x");
    lab.tag("1.0");
    lab.cut("1.0").exits(1);
    lab.runs(&["abandon", "kestrel", "1.0", "--yes=1.0"]).exits(0);
    let left = run(program("find")
        .arg(lab.path("home/cuts"))
        .args(["(", "-perm", "-4000", "-o", "-size", "+40M", ")", "-ls"]));
    assert!(left.out.is_empty());
}

/// Memory of the kernel's, for sockets.
#[test]
fn sockets_count_as_memory() {
    let lab = Lab::new();
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    lab.write("home/terminal.toml", terminal.replace("[sandbox]\n", "[sandbox]\nmemory = \"64MiB\"\n"));
    let script = r#"
import resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
kept, total = [], 0
while total < 600 << 20:
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    door.bind(("127.0.0.1", 0))
    door.listen()
    here = socket.create_connection(door.getsockname())
    kept += [door, here, door.accept()[0]]
    here.setblocking(False)
    before = total
    try:
        while True:
            total += here.send(bytes(60000))
    except OSError:
        pass
    if total == before:
        break
print("has", "all" if total >= 600 << 20 else "enough", "of it", flush=True)
"#;
    lab.write("work/hog.py", script);
    lab.write("work/build.sh", "python3 hog.py; exit 1\n");
    lab.commit("x");
    lab.tag("1.0");
    lab.cut("1.0").exits(1).does_not_say("has all of it");
}

/// What reads foreign bytes writes to one folder, also as root.
#[test]
fn a_confined_program_gets_no_right_back() {
    let lab = Lab::new();
    lab.write("folder/file", "");
    lab.write("canary", "alive");
    let folder = lab.path("folder");
    let confines = Confines { folder: &folder, time: Duration::from_secs(20), memory: 1 << 30, file: 1 << 20 };
    let script = "mount -o remount,rw,bind / && echo dead > ../canary; ls /proc | grep -c '^[0-9]'; echo yes > file";
    let output = Program::confined("sh", &confines).args(["-c", script]).output(&[], &Silent).unwrap();
    assert_eq!(lab.read("canary"), b"alive");
    assert_eq!(lab.read("folder/file"), b"yes\n");
    let seen: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(seen < 10, "it sees {seen} processes");
}
