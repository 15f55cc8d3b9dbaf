//! What a build may do, and what is refused of it.

use crate::support::Lab;
use crate::support::RECIPE;
use crate::support::program;
use crate::support::run;

const REJECTED: i32 = 3;

/// A laboratory whose build runs this shell script.
fn building(script: &str) -> Lab {
    let lab = Lab::new();
    lab.write("work/build.sh", format!("mkdir -p out; echo notes > out/notes; echo kestrel > out/kestrel\n{script}"));
    lab.commit("build");
    lab.tag("1.0");
    lab
}

#[test]
fn a_build_that_gives_other_bytes_the_second_time_is_refused() {
    for script in [
        "date +%N > out/kestrel",
        "date +%s > out/kestrel",
        "hostname > out/kestrel",
        "nproc > out/kestrel",
        "head -c 16 /dev/urandom > out/kestrel",
        "cat /proc/sys/kernel/random/boot_id /proc/self/mountinfo > out/kestrel",
    ] {
        let lab = building(script);
        lab.cut("1.0")
            .exits(REJECTED)
            .says("a second build gave other bytes for kestrel-1.0")
            .says("nothing was signed")
            .says(&format!("kept in {}", lab.path("home/cuts/kestrel-1.0").display()));
        assert!(
            lab.path("home/cuts/kestrel-1.0/build-1").is_dir() && lab.path("home/cuts/kestrel-1.0/second").is_dir()
        );
        lab.assert_nothing_published();
    }
}

#[test]
fn one_build_is_enough_where_the_recipe_says_so() {
    let lab = building("date +%N > out/kestrel");
    lab.write("work/release.toml", RECIPE.replace("[build]", "[build]\nreproducible = false"));
    lab.commit("once");
    lab.tag("1.1");
    lab.cut("1.1").exits(0).does_not_say("a second build is identical");
}

#[test]
fn a_build_has_no_network_no_token_no_home_and_no_privileges() {
    // Each line must fail or find nothing; the last line shows that it was reached.
    let script = r#"
! ls /root /home /etc/shadow /run/pcscd /dev/bus /sys 2>/dev/null
test -z "$(ls /run)"
! (exec 3<>/dev/tcp/127.0.0.1/1) 2>/dev/null
grep -q . /proc/net/dev
test "$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort | tr '\n' ' ')" = "lo "
! touch /usr/x /x /etc/x /source/x /opt 2>/dev/null
! unshare -Ur true 2>/dev/null
test "$(ls /var/lib)" = dpkg
! touch /var/lib/dpkg/x 2>/dev/null
dpkg-query --search /usr/bin/dpkg
test "$(id -u)" = 1000
grep -q '^CapEff:.0000000000000000$' /proc/self/status
grep -q '^NoNewPrivs:.1$' /proc/self/status
test "$(umask)" = 0022
test "$TZ" = UTC -a "$LC_ALL" = C.UTF-8 -a "$RELEASE_VERSION" = 1.0
test -n "$SOURCE_DATE_EPOCH"
! env | grep -E 'RELEASE_HOME|XDG|PIN'
test "$(ls /proc/self/fd | tr '\n' ' ')" = "0 1 2 3 "
! cat <&3
test "$(stat -c %Y notes)" = "$SOURCE_DATE_EPOCH"
cmp notes /source/notes
echo changed > notes
echo reached > out/kestrel
"#;
    let lab = building(&format!("set -e\n{script}"));
    lab.cut("1.0").exits(0);
    assert_eq!(lab.read(&Lab::mirrored("1.0", "kestrel-1.0")), b"reached\n");
}

#[test]
fn a_failed_build_shows_the_end_of_its_log() {
    let lab = building("echo 'something \x1b[31mred' >&2; exit 7");
    let said = lab.cut("1.0").exits(1).says("the build failed (exit status: 7)").says("build-1.log").says("something");
    assert!(!said.err.contains('\u{1b}'), "{}", said.err);
    lab.assert_nothing_published();
    // Mended in a new commit, the same version can still be cut after abandon only.
    lab.runs(&["abandon", "kestrel", "1.0", "--yes=1.0"]).exits(0);
    lab.cut("1.0").exits(1).says("was abandoned");
}

#[test]
fn outputs_that_are_no_plain_files_are_refused() {
    const SOCKET: &str =
        "rm out/kestrel; python3 -c 'from socket import *; socket(AF_UNIX).bind(\"out/kestrel\")'; test -S out/kestrel";
    for (script, why) in [
        ("ln -sf /etc/hostname out/kestrel", "a link leads to it"),
        ("rm out/kestrel; mkfifo out/kestrel", "it is not a plain file"),
        ("rm out/kestrel; mkdir out/kestrel", "it is not a plain file"),
        ("ln -sf /dev/zero out/kestrel", "a link leads to it"),
        (SOCKET, "it is not a plain file"),
        ("rm out/kestrel", "there is none"),
        (": > out/kestrel", "it is empty"),
        ("mv out real; ln -s real out", "a link leads to it"),
        ("rm -r out; ln -s /etc out; true", "a link leads to it"),
    ] {
        let lab = building(script);
        lab.cut("1.0").exits(REJECTED).says("the build left no usable \"out/").says(why);
        lab.assert_nothing_published();
    }
}

#[test]
fn a_link_to_the_hosts_files_is_not_followed() {
    let lab = building("rm -r out; ln -s / out");
    lab.write("work/release.toml", RECIPE.replace("path = \"out/kestrel\"", "path = \"out/etc/hostname\""));
    lab.commit("steal");
    lab.tag("1.1");
    lab.cut("1.1").exits(REJECTED).says("a link leads to it");
}

#[test]
fn nothing_of_a_build_is_left_running_or_lying_about() {
    let lab = building("(sleep 300; echo late > out/late) & mkdir -p ro/d; chmod 000 ro/d ro");
    lab.cut("1.0").exits(0);
    let cut = lab.path("home/cuts/kestrel-1.0");
    assert!(!cut.join("build-1").exists() && !cut.join("second/build").exists());
}

#[test]
fn nothing_of_a_build_outlives_a_killed_cut() {
    // A length of sleep that no other process has.
    let sleep = format!("sleep 86{}", std::process::id());
    let lab = building(&format!("(setsid {sleep} &) ; {sleep}"));
    let running = || run(program("pgrep").args(["--full", "--exact", &sleep])).out.lines().count();
    let wait_until = |done: &dyn Fn() -> bool| {
        (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            done()
        })
    };
    let mut cut = lab.release();
    let mut child = cut.args(["cut", "1.0", "--yes=1.0"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    assert!(wait_until(&|| running() == 2), "the build never began");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(wait_until(&|| running() == 0), "processes of the build are left");
    // The next cut removes the control group that is left.
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    lab.write("home/terminal.toml", terminal.replace("[sandbox]\n", "[sandbox]\ntime = \"1s\"\n"));
    lab.cut("1.0").exits(1).says("took longer than 1s");
}

#[test]
fn inputs_come_by_hash() {
    let lab = building("cat vendor/data > out/kestrel");
    let data = b"vendored\n";
    let sha256 = release::manifest::Sha256::of(data);
    let recipe =
        RECIPE.replace("[build]", &format!("[build]\ninputs = [{{ path = \"vendor/data\", sha256 = \"{sha256}\" }}]"));
    lab.write("work/release.toml", &recipe);
    lab.commit("inputs");
    lab.tag("1.1");
    lab.cut("1.1").exits(1).says("input \"vendor/data\"").says(&format!("inputs/{sha256}"));
    lab.write(&format!("home/inputs/{sha256}"), "something else\n");
    lab.cut("1.1").exits(REJECTED).says("has SHA-256").says("the recipe says");
    lab.assert_nothing_published();
    lab.write(&format!("home/inputs/{sha256}"), data);
    lab.cut("1.1").exits(0);
    assert_eq!(lab.read(&Lab::mirrored("1.1", "kestrel-1.1")), data);
    let provenance = String::from_utf8(lab.read(&Lab::mirrored("1.1", "provenance.intoto.json"))).unwrap();
    assert!(provenance.contains("input vendor/data") && provenance.contains(&sha256.to_string()));

    lab.write("work/release.toml", recipe.replace("vendor/data", "notes"));
    lab.commit("in the way");
    lab.tag("1.2");
    lab.cut("1.2").exits(REJECTED).says("would replace a file of the source tree");
}
