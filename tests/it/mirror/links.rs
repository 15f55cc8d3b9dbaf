//! Pushes over links that are slow, silent, or cut, and past the timer that seals.

use std::fs;
use std::time::Duration;
use std::time::Instant;

use super::published;
use super::ready;
use super::tag;
use super::with_mirror;
use crate::support::Lab;
use crate::support::is_long;
use crate::support::mirror::Mirror;
use crate::support::program;
use crate::support::relay::Fault;
use crate::support::relay::Relay;
use crate::support::run;

/// The files that readers can see, without folders.
fn files(mirror: &Mirror) -> Vec<String> {
    published(mirror).lines().filter(|line| line.starts_with('-')).map(str::to_owned).collect()
}

/// Tags 1.2, with half a megabyte that cannot be compressed.
fn tag_large(lab: &Lab) {
    let mut notes = String::new();
    for _ in 0..9000 {
        notes.push_str(&"0".repeat(60));
    }
    let key = "00000000000000000000000000000000";
    let mut openssl = program("openssl");
    lab.write("zeros", notes);
    openssl.args(["enc", "-aes-128-ctr", "-K", key, "-iv", key, "-in"]).arg(lab.path("zeros"));
    run(openssl.arg("-out").arg(lab.path("work/notes"))).exits(0);
    lab.commit("1.2");
    lab.tag("1.2");
}

#[test]
fn a_link_that_breaks_or_hangs_shows_nothing_and_the_next_push_goes_on() {
    let (lab, mirror) = with_mirror();
    tag_large(&lab);
    let before = files(&mirror);
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    let (to_ssh, to_web) = (Relay::to(mirror.ssh), Relay::to(mirror.http));
    let terminal = terminal.replace(&format!("port = {}", mirror.ssh), &format!("port = {}", to_ssh.port));
    lab.write("home/terminal.toml", terminal.replace(&format!(":{}\"", mirror.http), &format!(":{}\"", to_web.port)));

    // Cut while files are on their way, before anything has a name.
    to_ssh.fails(300_000, Fault::Cut);
    let said = lab.cut("1.2").exits(4).says("published   here").says("not pushed  eu1");
    said.says(&format!("the SSH connection to 127.0.0.1:{} ended", to_ssh.port));
    assert_eq!(files(&mirror), before);
    lab.verify(&[&mirror.url()]).exits(0).does_not_say("kestrel 1.2");

    // A mirror that says nothing, or too little, holds up nobody for ever. The limits
    // of 60 seconds are shortened to 3 here.
    let too_slow = "answers too slowly: nothing for 3 s, or less than 16 kB a second";
    for (relay, after, fault, says) in [
        (&to_ssh, 0, Fault::Silent, too_slow),
        (&to_ssh, 300_000, Fault::Silent, too_slow),
        (&to_ssh, 0, Fault::Slow(3000), too_slow),
        // It takes all of it, and gives it back a drop at a time.
        (&to_web, 0, Fault::Slow(3000), "slower than 4000 bytes per second"),
        (&to_web, 0, Fault::Silent, "timeout"),
    ] {
        relay.fails(after, fault);
        let begun = Instant::now();
        let said = lab.with_keys_and(&["publish"], &[("RELEASE_PATIENCE", "3")]).exits(4);
        said.says("not pushed  eu1").says(says);
        assert!(begun.elapsed() < Duration::from_secs(120), "{fault:?}: {:?}", begun.elapsed());
        relay.fails(0, Fault::None);
        lab.verify(&[&mirror.url()]).exits(0).does_not_say("kestrel 1.2");
        assert!(relay.port == to_web.port || files(&mirror) == before, "{fault:?}");
    }
    // A wire that is pulled out: ssh itself asks whether anybody is there, and ends
    // without a word.
    if is_long() {
        mirror.as_root("rm -rf /srv/mirror/pool-root/pub/*/kestrel/1.2").exits(0);
        to_ssh.fails(300_000, Fault::Silent);
        lab.runs(&["publish"]).exits(4).says(&format!("127.0.0.1:{} ended", to_ssh.port));
        to_ssh.fails(0, Fault::None);
    }
    lab.runs(&["publish"]).exits(0).says("to mirror eu1");
    lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.2");
}

#[test]
fn a_slow_link_is_slow_and_no_fault() {
    let (lab, mirror) = with_mirror();
    tag_large(&lab);
    let relay = Relay::to(mirror.ssh);
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    let port = |port: u16| format!("port = {port}");
    lab.write("home/terminal.toml", terminal.replace(&port(mirror.ssh), &port(relay.port)));
    // A megabyte, at a megabit per second.
    relay.fails(0, Fault::Slow(125_000));
    let begun = Instant::now();
    lab.cut("1.2").exits(0).says("to mirror eu1");
    assert!(begun.elapsed() > Duration::from_secs(8), "it was not slow: {:?}", begun.elapsed());
    lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.2");
}

#[test]
fn what_the_timer_seals_between_two_links_is_staged_again() {
    let lab = ready();
    // The only mirror, so that the step is its own.
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    lab.write("home/terminal.toml", terminal.replace("[mirror.here]\npath = \"../mirror\"", ""));
    let mirror = Mirror::set_up(&lab, "eu1");
    lab.runs(&["publish"]).exits(0);
    tag(&lab, "1.2");
    let cut = ["cut", "kestrel", "1.2", "--yes=1.2"];
    let said = lab.with_keys_and(&cut, &[("RELEASE_FAIL_AT", "publish.begun")]);
    assert_eq!(said.code, None, "killed: {said:?}");

    let mut push = lab.release().arg("publish").env("RELEASE_STOP_AT", "publish.file").spawn().unwrap();
    let state = || fs::read_to_string(format!("/proc/{}/stat", push.id())).unwrap();
    let begun = Instant::now();
    while !state().contains(") T ") {
        assert!(begun.elapsed() < Duration::from_secs(60), "it has not stopped: {}", state());
        std::thread::sleep(Duration::from_millis(20));
    }
    mirror.as_root("NO_FAKE_STAT=1 faketime -f +2d release-mirror-seal; rmdir /srv/mirror/pool-root/incoming").exits(0);
    mirror.as_root("install -d -o rel-pool -g rel-pool -m 700 /srv/mirror/pool-root/incoming").exits(0);
    run(program("kill").args(["-CONT", &push.id().to_string()])).exits(0);
    assert!(push.wait().unwrap().success());
    lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.2");
    // Some content is there twice: under the name that was sealed, and again under
    // the one that was not there yet. All of it is read-only.
    let names = "cd /srv/mirror/pool-root/pub; find */kestrel/1.2 -type f -perm 0444 -print | while read -r name; do \
                 echo $(sha256sum <$name | cut -c1-64) $(stat -c %i $name); done | sort -u | cut -c1-64 | uniq -d";
    assert_ne!(mirror.as_root(names).exits(0).out, "");
    lab.runs(&["mirror", "audit", "eu1"]).exits(0);
}
