//! Builds that take all they can get.

use std::cell::OnceCell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;

use crate::support::Lab;
use crate::support::RECIPE;
use crate::support::Said;
use crate::support::program;
use crate::support::run;
use crate::support::wait_until;

const REJECTED: i32 = 3;
/// An ordinary user, who is in every machine's list of users: `nobody`.
const USER: u32 = 65_534;
/// What a good build does.
const GOOD: &str = "mkdir -p out; echo notes > out/notes; echo kestrel > out/kestrel\n";
/// Small enough to be reached soon, and enough for a good build.
const SETTINGS: &str = "memory = \"64MiB\"\nprocesses = 100\nlog = \"1MiB\"\nartifact = \"1MiB\"\n";

/// Who runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    Root,
    /// In control groups that root gave to this user.
    User,
}

/// A laboratory with a home on a small disk of its own, and limits.
struct Small {
    lab: Lab,
    who: As,
    given: OnceCell<Vec<PathBuf>>,
}

impl Small {
    fn new(who: As, settings: &str, script: &str) -> Self {
        let lab = Lab::new();
        lab.write("work/build.sh", format!("{GOOD}{script}"));
        lab.write("work/release.toml", RECIPE.replace("[build]", "[build]\nreproducible = false"));
        lab.commit("build");
        lab.tag("1.0");
        lab.write("canary", "alive");
        fs::rename(lab.path("home"), lab.path("copy")).unwrap();
        fs::create_dir(lab.path("home")).unwrap();
        let options = "size=400m,nr_inodes=20000,mode=700";
        run(program("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(lab.path("home"))).exits(0);
        let small = Self { lab, who, given: OnceCell::new() };
        small.lab.copy("copy/.", "home");
        small.set(settings);
        small
    }

    fn set(&self, settings: &str) {
        let terminal = String::from_utf8(self.lab.read("copy/terminal.toml")).unwrap();
        assert!(terminal.contains("[sandbox]\n"), "{terminal}");
        self.lab.write("home/terminal.toml", terminal.replace("[sandbox]\n", &format!("[sandbox]\n{settings}")));
    }

    fn own(&self, user: u32) {
        run(program("chown").args(["-R", "-h", &format!("{user}:{user}")]).arg(self.lab.path(""))).exits(0);
    }

    /// Groups of version 1 that belong to the user.
    fn given(&self) -> &[PathBuf] {
        self.given.get_or_init(|| {
            let inode = self.lab.path("").metadata().unwrap().ino();
            own_groups()
                .map(|group| {
                    let given = group.join(format!("release-test-{inode}"));
                    fs::create_dir(&given).unwrap();
                    run(program("chown").args(["-R", &USER.to_string()]).arg(&given)).exits(0);
                    given
                })
                .into()
        })
    }

    fn runs(&self, arguments: &[&str]) -> Said {
        if self.who == As::Root {
            return self.lab.with_keys(arguments);
        }
        self.own(USER);
        let enter = "for group; do shift; test \"$group\" = -- && break; echo $$ > \"$group/cgroup.procs\"; done";
        let said = run(&mut as_user(&self.lab, enter, self.given(), arguments));
        self.own(0);
        said
    }

    fn cut(&self, version: &str) -> Said {
        self.runs(&["cut", "kestrel", version, &format!("--yes={version}")])
    }

    /// Cuts a version that must not come out, and then a good one.
    fn refuses(&self, code: i32, says: &str, limit: &str) -> Said {
        let said = self.cut("1.0").exits(code).says(says).says("nothing was signed");
        let setting = format!("set `{limit}` under `[sandbox]` in {}", self.lab.path("home/terminal.toml").display());
        let said = said.says(&setting).says("release cut kestrel 1.0").says("release abandon kestrel 1.0");
        self.lab.assert_nothing_published();
        self.assert_nothing_left();
        self.runs(&["abandon", "kestrel", "1.0", "--yes=1.0"]).exits(0);
        if limit == "time" {
            self.set("time = \"1h\"");
        }
        self.lab.write("work/build.sh", GOOD);
        self.lab.commit("mended");
        self.lab.tag("1.1");
        self.cut("1.1").exits(0);
        self.assert_nothing_left();
        said
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        assert_eq!(groups(&self.lab), Vec::<PathBuf>::new());
        assert_eq!(self.lab.read("canary"), b"alive");
        for build in fs::read_dir(self.lab.path("home/cuts")).unwrap() {
            let build = build.unwrap().path();
            assert!(!build.join("second/build").exists(), "{}", build.display());
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run(program("umount").arg("--lazy").arg(self.lab.path("home")));
        for group in self.given.get().into_iter().flatten() {
            let _ = fs::remove_dir(group);
        }
    }
}

/// A command that runs a script of root's, which takes `--` and what stands
/// before it from its arguments, and then the program as an ordinary user.
fn as_user(lab: &Lab, script: &str, before: &[PathBuf], arguments: &[&str]) -> std::process::Command {
    let inner = lab.release();
    let user = USER.to_string();
    let drop = "exec setpriv --reuid \"$USER\" --regid \"$USER\" --clear-groups \"$@\" --pin-fd 3 3<passphrases";
    let mut command = program("sh");
    command.args(["-c", &format!("{script}\n{drop}"), "sh"]).args(before).arg("--").arg(inner.get_program());
    command.args(arguments).current_dir(lab.path("")).env("USER", user);
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
}

/// The control groups of this process, of memory and of processes. Tests of an
/// ordinary user are written for version 1, which is what the machines of CI have.
fn own_groups() -> [PathBuf; 2] {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    ["memory", "pids"].map(|controller| {
        let path = own.lines().find_map(|line| line.split_once(&format!(":{controller}:/"))).unwrap().1;
        PathBuf::from(format!("/sys/fs/cgroup/{controller}")).join(path)
    })
}

/// The control groups of builds of a laboratory's home.
fn groups(lab: &Lab) -> Vec<PathBuf> {
    let cuts = lab.path("home/cuts").metadata().unwrap();
    let name = format!("release-build-{:x}-{:x}*", cuts.dev(), cuts.ino());
    let found = run(program("find").args(["/sys/fs/cgroup", "-name", &name]));
    found.out.lines().map(PathBuf::from).collect()
}

macro_rules! refused {
    ($($name:ident: $settings:expr, $script:expr => $code:expr, $limit:literal, $says:literal;)*) => {
        $(mod $name {
            use super::*;
            #[test]
            fn of_root() {
                Small::new(As::Root, $settings, $script).refuses($code, $says, $limit);
            }
            #[test]
            fn of_an_ordinary_user() {
                Small::new(As::User, $settings, $script).refuses($code, $says, $limit);
            }
        })*
    };
}

refused! {
    a_fork_bomb: SETTINGS, "f() { f & f & wait; }; f"
        => 1, "processes", "had more than 100 processes at once";
    a_fork_bomb_that_hides: SETTINGS, "trap '' TERM HUP INT; while :; do (setsid sleep 600 >/dev/null 2>&1 &); done"
        => 1, "processes", "had more than 100 processes at once";
    a_hungry_process: SETTINGS, "tail /dev/zero"
        => 1, "memory", "ran out of its 64MiB of memory";
    a_hungry_process_whose_end_is_hidden: SETTINGS, "tail /dev/zero || true"
        => 1, "memory", "ran out of its 64MiB of memory";
    hungry_processes: SETTINGS, "for i in $(seq 20); do (head -c 8M /dev/zero; sleep 600) | tail -n 1 & done; wait"
        => 1, "memory", "ran out of its 64MiB of memory";
    files_in_memory: SETTINGS, "head -c 1G /dev/zero > /dev/shm/big || sleep 600"
        => 1, "memory", "ran out of its 64MiB of memory";
    files_in_memory_without_content: SETTINGS, "cd /tmp; seq 10000000 | xargs mkdir || sleep 600"
        => 1, "memory", "ran out of its 64MiB of memory";
    a_huge_file: "disk = \"32MiB\"", "head -c 1G /dev/zero > big; sleep 600"
        => 1, "disk", "filled more than 32MiB of the disk";
    a_file_without_a_name: "disk = \"32MiB\"", "exec 9> big; rm big; chmod 0 .; head -c 1G /dev/zero >&9; sleep 600"
        => 1, "disk", "filled more than 32MiB of the disk";
    many_files: "disk = \"32MiB\"", "split -b 8192 -a 6 /dev/zero; sleep 600"
        => 1, "disk", "filled more than 32MiB of the disk";
    a_disk_that_is_smaller_than_the_limit: "", "head -c 1G /dev/zero > big; sleep 600"
        => 1, "disk", "filled more than 35";
    empty_files: "", "seq 1000000 | xargs touch; sleep 600"
        => 1, "disk", "nine tenths of what the disk has room for";
    an_endless_log: SETTINGS, "yes"
        => 1, "log", "printed more than 1MiB";
    an_endless_line: SETTINGS, "cat /dev/zero"
        => 1, "log", "printed more than 1MiB";
    an_endless_build: "time = \"2s\"", "trap '' TERM INT HUP; while :; do :; done"
        => 1, "time", "took longer than 2s";
    a_giant_artifact: SETTINGS, "head -c 2M /dev/zero > out/kestrel"
        => REJECTED, "artifact", "left \"out/kestrel\" with 2097152 bytes; an artifact has at most 1048576 (1MiB)";
    a_sparse_artifact: "", "truncate -s 1T out/kestrel"
        => REJECTED, "artifact", "with 1099511627776 bytes; an artifact has at most 4294967296 (4GiB)";
}

#[test]
fn a_log_is_cut_off_on_disk() {
    let small = Small::new(As::Root, SETTINGS, "yes endless");
    let said = small.cut("1.0").exits(1).says("home/cuts/kestrel-1.0/build-1.log, which ends:\n    endless\n");
    assert!(said.err.len() < 4000, "{}", said.err);
    let log = small.lab.read("home/cuts/kestrel-1.0/build-1.log");
    assert!(log.len() <= (1 << 20) + 100, "{} bytes", log.len());
    assert!(log.ends_with(b"\n[the build printed more than 1MiB: the log was cut off here]\n"));
    // What it filled is free again, and a higher limit is taken over at once.
    assert!(!small.lab.path("home/cuts/kestrel-1.0/build-1").exists());
    small.set("log = \"2MiB\"");
    small.cut("1.0").exits(1).says("printed more than 2MiB");
}

/// Cuts with a build that leaves processes behind, which no signal but one ends.
fn hide_processes(who: As) {
    // A length of sleep that no other process has.
    let sleep = format!("sleep 87{}{}", std::process::id(), who as u32);
    let hide = format!("(trap '' TERM HUP INT; setsid sh -c '{sleep} & {sleep}' >/dev/null 2>&1 &)\nsleep 0.2");
    let small = Small::new(who, SETTINGS, &hide);
    small.cut("1.0").exits(0);
    small.assert_nothing_left();
    let left = run(program("pgrep").args(["--full", "--exact", &sleep])).out;
    assert_eq!(left, "", "{who:?}");
}

#[test]
fn processes_that_hide_do_not_outlive_a_build_of_root() {
    hide_processes(As::Root);
}

#[test]
fn processes_that_hide_do_not_outlive_a_build_of_an_ordinary_user() {
    hide_processes(As::User);
}

#[test]
fn a_killed_cut_leaves_its_group_to_the_next_and_to_nobody_else() {
    let long = Small::new(As::Root, SETTINGS, "test -e /tmp/../source/quick || sleep 86399");
    let lab = &long.lab;
    let mut command = lab.release();
    command.args(["cut", "1.0", "--yes=1.0"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut cut = command.spawn().unwrap();
    let members = || groups(lab).iter().any(|group| fs::read_to_string(group.join("cgroup.procs")).unwrap() != "");
    wait_until("the build has begun", &members);
    // A cut in another home ends nothing of this one.
    let other = Lab::new();
    other.tag("1.0");
    other.cut("1.0").exits(0);
    assert!(members() && cut.try_wait().unwrap().is_none());
    cut.kill().unwrap();
    cut.wait().unwrap();
    wait_until("no process is left", || !members());
    assert!(!groups(lab).is_empty());
    // The same command again finds them, and a process that is still inside.
    let mut straggler = program("sh");
    straggler.args(["-c", "for group; do echo $$ > \"$group/cgroup.procs\"; done; exec sleep 86400", "sh"]);
    let mut straggler = straggler.args(groups(lab)).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the straggler has entered", &members);
    long.set("time = \"2s\"");
    long.cut("1.0").exits(1).says("took longer than 2s");
    assert_eq!(groups(lab), Vec::<PathBuf>::new());
    assert!(straggler.wait().unwrap().code().is_none(), "it was not killed");
}

#[test]
fn nothing_is_built_where_nothing_can_be_bounded() {
    let small = Small::new(As::User, SETTINGS, "");
    let lab = &small.lab;
    small.own(USER);
    let cut = ["cut", "kestrel", "1.0", "--yes=1.0"];
    let said = run(&mut as_user(lab, "shift", &[], &cut)).exits(1);
    let said = said
        .says("this terminal cannot bound the memory and the processes of a build, so nothing was built")
        .says(
            "systemd does not run; control groups of version 2: the kernel offers none of memory and processes there;",
        )
        .says("control groups of version 1: cannot make /sys/fs/cgroup/memory/")
        .says("as root, give this shell control groups of its own using:")
        .says("release cut kestrel 1.0");
    lab.assert_nothing_published();
    assert!(!lab.path("home/cuts/kestrel-1.0/build-1.log").exists());
    // Those commands help, in a shell that is there when they run.
    let commands = said.err.lines().filter_map(|line| line.strip_prefix("    "));
    let of_root = |line: &&str| ["mkdir ", "chown ", "echo "].iter().any(|command| line.starts_with(command));
    let commands: Vec<&str> = commands.filter(of_root).collect();
    assert_eq!(commands.len(), 6, "{commands:#?}");
    let given: Vec<&str> = commands.iter().filter_map(|line| line.strip_prefix("mkdir -p ")).collect();
    let script = commands.iter().map(|line| match line.split_once(" > ") {
        Some((_, file)) => format!("echo $$ > {file}\n"),
        None => format!("{line}\n"),
    });
    let script = format!("set -e; shift\n{}", script.collect::<String>());
    let said = run(&mut as_user(lab, &script, &[], &[cut.as_slice(), &["-v"]].concat()));
    small.own(0);
    for group in given {
        fs::remove_dir(group).unwrap();
    }
    let said = said.exits(0);
    said.says("Build 1: at most 2h, 64MiB of memory, 100 processes,")
        .says("by control groups of version 1 at /sys/fs/");
}

#[test]
fn limits_that_mean_nothing_are_refused_with_their_place() {
    let lab = Lab::new();
    lab.tag("1.0");
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    let line = terminal.lines().position(|line| line == "[sandbox]").unwrap() + 2;
    for (settings, says) in [
        ("memory = \"8GB\"", "10: `8GB` is not a size such as \"512MiB\" or \"8GiB\""),
        ("memory = \"0GiB\"", "10: `0GiB` is not a size"),
        ("memory = \"99999999999TiB\"", "10: `99999999999TiB` is not a size"),
        ("disk = 32", "8: invalid type: integer `32`, expected a string"),
        ("time = \"2d\"", "8: `2d` is not a time such as \"90s\", \"45m\" or \"2h\""),
        ("memory = \"1KiB\"", "10: no build does with 1KiB of memory; give it at least 64MiB"),
        ("memory = \"65535KiB\"", "10: no build does with 65535KiB of memory"),
        ("processes = 0", "13: `0` is not a number of processes between 16 and 4194304"),
        ("processes = 1", "13: `1` is not a number of processes between 16 and 4194304"),
        ("processes = 4194305", "13: `4194305` is not a number of processes"),
        ("memroy = \"8GiB\"", "1: unknown field `memroy`"),
        ("memroy = \"8GiB\"", "did you mean `memory`?"),
    ] {
        lab.write("home/terminal.toml", terminal.replace("[sandbox]\n", &format!("[sandbox]\n{settings}\n")));
        let said = lab.cut("1.0").exits(1).says("terminal.toml");
        said.says(says).says(&format!("terminal.toml:{line}:"));
    }
    lab.assert_nothing_published();
}

#[test]
fn limits_are_no_part_of_the_environment() {
    let small = Small::new(As::Root, "", "");
    small.cut("1.0").exits(0).does_not_say("at most");
    small.set(SETTINGS);
    small.lab.commit("again");
    small.lab.tag("1.1");
    small.cut("1.1").exits(0);
    let journal = String::from_utf8(small.lab.read("home/journal.jsonl")).unwrap();
    let environments: Vec<&str> = journal.split("\"environment\":").skip(1).map(|rest| &rest[..66]).collect();
    assert_eq!(environments.len(), 2);
    assert_eq!(environments[0], environments[1]);
}
