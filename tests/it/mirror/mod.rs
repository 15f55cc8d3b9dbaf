//! Mirrors over SSH: real sshd and nginx, set up by `scripts/mirror`, and a
//! thief with the deploy keys.

mod audit;
mod blind;
mod jump;
mod links;
mod seal;
mod server;
mod thief;
mod web;

use std::fs;
use std::io::Write;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::support::Lab;
use crate::support::RELEASE;
use crate::support::mirror::Mirror;
use crate::support::mirror::enter;
use crate::support::program;
use crate::support::project;
use crate::support::python;
use crate::support::run;
use crate::support::wait_until;

/// A laboratory in which 1.0 is released to the folder `mirror`, and 1.1 is
/// tagged.
fn ready() -> Lab {
    let lab = Lab::released();
    tag(&lab, "1.1");
    lab
}

fn tag(lab: &Lab, version: &str) {
    lab.write("work/notes", format!("notes of {version}\n"));
    lab.commit(version);
    lab.tag(version);
}

/// The same with one mirror, to which all of it is published.
fn with_mirror() -> (Lab, Mirror) {
    let lab = ready();
    let mirror = Mirror::set_up(&lab, "eu1");
    lab.cut("1.1").exits(0);
    (lab, mirror)
}

/// Every file of a mirror that readers can see, with its content.
fn published(mirror: &Mirror) -> String {
    let list = "cd /srv/mirror; find */pub -type f -printf '%M %n %p ' -exec sha256sum {} \\; | sort -k3; \
                find */pub ! -type f -printf '%M %u %p\\n' | sort";
    mirror.as_root(list).exits(0).out
}

#[test]
fn a_release_goes_to_three_mirrors_at_once_and_a_fourth_is_caught_up() {
    let lab = ready();
    let mirrors = ["eu1", "us1", "ap1"].map(|name| Mirror::set_up(&lab, name));
    for name in ["eu1", "us1", "ap1"] {
        let said = lab.runs(&["mirror", "check", name]).exits(0);
        said.says("rel-pool  logs in").says("rel-meta  logs in");
    }
    let down = enter(&lab, "sa1");
    lab.runs(&["mirror", "check", "sa1"]).exits(1).says("the SSH connection to 127.0.0.1").says("Connection refused");
    let said = lab.cut("1.1").exits(4).says("not pushed  sa1").says("1 of 5 mirrors");
    assert_eq!(said.err.matches("whether it can take").count(), 1, "{said:?}");
    for name in ["eu1", "us1", "ap1", "here"] {
        assert!(said.has(&format!("published   {name}")), "{said:?}");
    }
    lab.runs(&["status"]).exits(0).says("sa1");
    for (number, mirror) in mirrors.iter().enumerate() {
        lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.0").says("kestrel 1.1");
        let folder = format!("python{number}");
        fs::create_dir(lab.path(&folder)).unwrap();
        let mut client = program(python().to_str().unwrap());
        client.arg(project("tests/python/ngclient.py")).arg(lab.path("trust/root.json")).arg(mirror.url());
        run(client.arg(lab.path(&folder)).arg("kestrel/1.1/kestrel-1.1")).exits(0);
        assert_eq!(lab.read(&format!("{folder}/kestrel_1.1_kestrel-1.1")), b"kestrel 1.1\n");
        // Nothing there is writable, and every content is there once.
        let seen = mirror.as_root("cd /srv/mirror; find */pub -type f ! -perm 0444").exits(0);
        assert_eq!(seen.out, "");
        let release = "cd /srv/mirror/pool-root/pub; stat -c %i releases/kestrel/1.1/kestrel-1.1 targets/kestrel/1.1/*kestrel-1.1";
        let inodes = mirror.as_root(release).exits(0).out;
        let inodes: Vec<&str> = inodes.lines().collect();
        assert_eq!((inodes.len(), inodes[0]), (2, inodes[1]));
    }
    // It comes back, and needs no key.
    let back = Mirror::start(&lab, "sa1", down);
    lab.with_keys(&["refresh"]).exits(0).says("publication 4 to mirror sa1");
    lab.verify(&[&back.url()]).exits(0).says("kestrel 1.0").says("kestrel 1.1");
    assert_eq!(published(&back), published(&mirrors[0]));
    // What has nothing new costs no login.
    let logins = || fs::read_to_string(mirrors[0].disk.join("sshd.log")).unwrap().matches("Accepted publickey").count();
    let before = logins();
    lab.runs(&["publish"]).exits(0);
    assert_eq!(logins(), before);
    // An older home publishes nothing there.
    lab.copy("home", "old");
    lab.with_keys(&["refresh"]).exits(0);
    lab.runs(&["publish", "--home", "old"]).exits(4).says("mirror `sa1`: it serves publication 5, this home has 4");
    lab.runs(&["import", "--home", "old", "--from", "eu1"]).exits(0).says("from publication 4 to 5");
}

#[test]
fn a_quorum_of_mirrors_shows_a_release_or_none_does() {
    let lab = ready();
    for name in ["eu1", "us1"] {
        enter(&lab, name);
    }
    let said = lab.cut("1.1").exits(4).says("only 1 of 3 mirrors could take them and 2 must");
    said.says("not pushed  here").says("3 of 3 mirrors could not be brought up to date");
    lab.verify(&["mirror"]).exits(0).does_not_say("kestrel 1.1");
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    lab.write("home/terminal.toml", terminal + "\n[publish]\nquorum = 1\n");
    lab.runs(&["publish"]).exits(4).says("published   here").says("2 of 3 mirrors");
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.1");
}

/// What a thief tries on a published file, and what stops it.
const ATTACKS: [&str; 17] = [
    "put junk FILE",
    "put -a junk FILE",
    "reput junk FILE",
    "rm FILE",
    "rename FILE /incoming/away",
    "rename -l FILE /incoming/away",
    "chmod 666 FILE",
    "chown 0 FILE",
    "ln /incoming/junk FILE",
    "ln -s /etc/passwd /incoming/link",
    "ln -s /etc/passwd FOLDER/link",
    "rmdir FOLDER",
    "rename FOLDER /incoming/folder",
    "get /etc/passwd",
    "get ../../../../etc/passwd",
    "put junk /../../../etc/junk",
    "mkdir /root",
];

#[test]
fn a_stolen_pool_key_changes_nothing_that_was_published() {
    let (lab, mirror) = with_mirror();
    let before = published(&mirror);
    // Longer than what is appended to: sftp's own client would not ask otherwise.
    lab.write("junk", "junk\n".repeat(10_000));
    mirror.sftp(&lab, "rel-pool", "pool", "put junk /incoming/junk\n").exits(0);
    let attack = |request: &str, file: &str, folder: &str| {
        let request = request.replace("FILE", file).replace("FOLDER", folder);
        let said = mirror.sftp(&lab, "rel-pool", "pool", &format!("{request}\n"));
        assert_ne!(said.code, Some(0), "{request}: {said:?}");
        assert_eq!(published(&mirror), before, "{request}");
    };
    let (file, folder) = ("/pub/releases/kestrel/1.1/kestrel-1.1", "/pub/releases/kestrel/1.1");
    for request in ATTACKS.iter().chain(&["rename /incoming/junk FILE", "rename -l /incoming/junk FILE"]) {
        attack(request, file, folder);
    }
    // The same bytes under the name that they had before they were published.
    let staged = mirror.as_root("cd /srv/mirror/pool-root; find incoming -links +1 -size -2").exits(0).out;
    let staged = format!("/{}", staged.lines().next().unwrap());
    for request in ["put junk FILE", "put -a junk FILE", "chmod 666 FILE", "rm FILE"] {
        attack(request, &staged, "/incoming");
    }
    // Metadata is not this account's; neither is a folder that nobody has made.
    for request in ["put junk /pub/metadata/2.root.json", "mkdir /pub/metadata", "put junk /pub/index.html"] {
        attack(request, "", "");
    }
    no_way_in(&lab, &mirror, "rel-pool", "pool");
    // Neither key opens the other account, nor root's, also not with planted files.
    mirror.as_root("mkdir -p /root/.ssh; cp /etc/ssh/release-mirror/keys/rel-pool /root/.ssh/authorized_keys").exits(0);
    mirror.as_root("cp /root/.ssh/authorized_keys /root/.ssh/authorized_keys2").exits(0);
    for account in ["rel-meta", "root", "nobody"] {
        let said = mirror.sftp(&lab, account, "pool", "ls\n");
        assert_ne!(said.code, Some(0), "{account}: {said:?}");
        said.says("Permission denied");
    }

    // Sealed, also a shell would not help; and pushing goes on.
    tag(&lab, "1.2");
    mirror.as_root("NO_FAKE_STAT=1 faketime -f +2d release-mirror-seal").exits(0);
    let sealed = mirror
        .as_root("cd /srv/mirror; ls -A pool-root/incoming; lsattr pool-root/pub/releases/kestrel/1.1/kestrel-1.1");
    assert!(sealed.exits(0).out.starts_with("----i"), "staged files are gone, and the file is immutable");
    let before = published(&mirror);
    for command in
        ["rm -f F", "mv F D/x", "echo x >>F", "chmod 666 F", "ln -f /incoming/x F", "rm -rf D", "mv D /tmp/x"]
    {
        let folder = "/srv/mirror/pool-root/pub/releases/kestrel/1.1";
        let command = command.replace('F', &format!("{folder}/kestrel-1.1")).replace('D', folder);
        let said =
            mirror.as_root(&format!("setpriv --reuid rel-pool --regid rel-pool --clear-groups sh -c '{command}'"));
        assert_ne!(said.code, Some(0), "{command}: {said:?}");
        assert_eq!(published(&mirror), before, "{command}");
    }
    lab.cut("1.2").exits(0).says("to mirror eu1");
    lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.1").says("kestrel 1.2");

    // What is left to a thief: names of the future.
    tag(&lab, "1.3");
    mirror
        .sftp(
            &lab,
            "rel-pool",
            "pool",
            "mkdir /pub/releases/kestrel/1.3\nput junk /pub/releases/kestrel/1.3/kestrel-1.3\n",
        )
        .exits(0);
    let said = lab.cut("1.3").exits(4).says("published   here").says("not pushed  eu1");
    said.says("is not a read-only file on the mirror").says("/pub/releases/kestrel/1.3/kestrel-1.3");
    lab.verify(&[&mirror.url()]).exits(0).does_not_say("kestrel 1.3");
    mirror.as_root("chmod 444 /srv/mirror/pool-root/pub/releases/kestrel/1.3/kestrel-1.3").exits(0);
    lab.runs(&["publish"]).exits(4).says("holds other bytes than this release").says("was not replaced");
    mirror.as_root("rm -f /srv/mirror/pool-root/pub/releases/kestrel/1.3/kestrel-1.3").exits(0);
    lab.runs(&["publish"]).exits(0);
    lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.3");
}

/// No shell, no program, no forwarding.
fn no_way_in(lab: &Lab, mirror: &Mirror, account: &str, key: &str) {
    let ssh = |arguments: &[&str]| {
        let mut command = mirror.ssh(lab, "ssh", account, key);
        run(command.args(["-o", "ExitOnForwardFailure=yes"]).args(arguments))
    };
    for arguments in [
        &["127.0.0.1", "id"][..],
        &["-tt", "127.0.0.1"],
        &["127.0.0.1", "/bin/sh", "-c", "id"],
        &["-W", "127.0.0.1:22", "127.0.0.1"],
        &["-R", "0:127.0.0.1:22", "-N", "127.0.0.1"],
        &["-R", "/incoming/socket:127.0.0.1:22", "-N", "127.0.0.1"],
        &["-w", "any", "-N", "127.0.0.1"],
        &["-A", "-s", "127.0.0.1", "netconf"],
    ] {
        let said = ssh(arguments);
        assert_ne!(said.code, Some(0), "{arguments:?}: {said:?}");
        assert!(!said.has("uid="), "{arguments:?}: {said:?}");
    }
    // A port that ssh opens here leads nowhere there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let forward = format!("{port}:127.0.0.1:{}", mirror.ssh);
    let mut tunnel: Command = mirror.ssh(lab, "ssh", account, key);
    let mut tunnel = tunnel.args(["-N", "-L", &forward, "127.0.0.1"]).spawn().unwrap();
    let mut connected = None;
    while connected.is_none() && tunnel.try_wait().unwrap().is_none() {
        connected = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).ok();
    }
    let mut heard = String::new();
    if let Some(mut stream) = connected {
        let _ = std::io::Read::read_to_string(&mut stream, &mut heard);
    }
    let _ = tunnel.kill();
    let _ = tunnel.wait();
    assert_eq!(heard, "");
}

#[test]
fn what_a_stolen_pointer_key_can_change_is_refused_by_clients_and_repaired() {
    let (lab, mirror) = with_mirror();
    let before = published(&mirror);
    // Longer than what is appended to: sftp's own client would not ask otherwise.
    lab.write("junk", "junk\n".repeat(10_000));
    mirror.sftp(&lab, "rel-meta", "pointer", "put junk /incoming/junk\n").exits(0);
    let attack = |request: &str| {
        let said = mirror.sftp(&lab, "rel-meta", "pointer", &format!("{request}\n"));
        assert_ne!(said.code, Some(0), "{request}: {said:?}");
        assert_eq!(published(&mirror), before, "{request}");
    };
    for request in ATTACKS {
        // Its own pointers it may move; that comes below.
        if !request.starts_with("rename FILE") && !request.starts_with("put junk FILE") {
            attack(&request.replace("FILE", "/pub/metadata/timestamp.json").replace("FOLDER", "/pub/metadata"));
        }
    }
    attack("put junk /pub/metadata/timestamp.json");
    // What is published for ever is in the other account's chroot.
    for request in ["put junk /pub/releases/kestrel/1.1/kestrel-1.1", "ls /pub/releases", "rename /pub/bundles /pub/x"]
    {
        attack(request);
    }
    no_way_in(&lab, &mirror, "rel-meta", "pointer");

    // Junk for each pointer that clients begin with: refused, and repaired without a key.
    for pointer in ["timestamp.json", "2.root.json", "99.root.json"] {
        let junk = format!("put junk /incoming/new\nrename /incoming/new /pub/metadata/{pointer}\n");
        mirror.sftp(&lab, "rel-meta", "pointer", &junk).exits(0);
        let said = lab.verify(&[&mirror.url()]);
        assert_eq!(said.code == Some(0), pointer == "99.root.json", "{pointer}: {said:?}");
        lab.runs(&["publish"]).exits(0);
        lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.1");
    }
    // An old timestamp is refused by who has seen a newer one, and repaired.
    mirror.as_root("cd /srv/mirror/meta-root; install -o rel-meta pub/metadata/timestamp.json incoming/old").exits(0);
    lab.with_keys(&["refresh"]).exits(0);
    lab.verify(&[&mirror.url()]).exits(0);
    mirror.sftp(&lab, "rel-meta", "pointer", "rename /incoming/old /pub/metadata/timestamp.json\n").exits(0);
    lab.verify(&[&mirror.url()]).exits(3).says("was seen before");
    lab.runs(&["status"]).exits(0).says("1 behind");
    lab.runs(&["publish"]).exits(0);
    lab.verify(&[&mirror.url()]).exits(0);
}

#[test]
fn readers_see_whole_states_while_fifty_generations_are_pushed() {
    let (lab, mirror) = with_mirror();
    let (done, pushing) = (AtomicBool::new(false), AtomicBool::new(false));
    let (reads, beside) = ([const { AtomicUsize::new(0) }; 3], AtomicUsize::new(0));
    let wrong = Mutex::new(Vec::new());
    let url = mirror.url();
    let read = &|reader: usize| {
        let data = lab.path(&format!("reader{reader}"));
        while !done.load(Ordering::SeqCst) {
            let began = pushing.load(Ordering::SeqCst);
            // Pushes come first, and wait for readers in between.
            let mut command = program("nice");
            command.args(["-n", "19", RELEASE, "verify", "--root", "trust/root.json", &url]);
            let said = run(command.current_dir(lab.path("")).env("XDG_DATA_HOME", &data));
            if said.code != Some(0) || !said.has("kestrel 1.1") {
                wrong.lock().unwrap().push(said);
            }
            reads[reader].fetch_add(1, Ordering::SeqCst);
            if began || pushing.load(Ordering::SeqCst) {
                beside.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|reader| scope.spawn(move || read(reader))).collect();
        let push = std::panic::AssertUnwindSafe(|| {
            for number in 1..=50 {
                pushing.store(true, Ordering::SeqCst);
                // Mostly pointers, and now and then a release.
                if number % 20 == 0 {
                    let version = format!("2.{number}");
                    tag(&lab, &version);
                    lab.cut(&version).exits(0);
                } else {
                    lab.with_keys(&["refresh"]).exits(0);
                }
                pushing.store(false, Ordering::SeqCst);
                // However busy the machine is, each reader has read as often.
                let late = || reads.iter().any(|reads| reads.load(Ordering::SeqCst) < number);
                wait_until("each reader has read once more", || !late());
            }
        });
        let pushed = std::panic::catch_unwind(push);
        // Readers end whatever has happened.
        done.store(true, Ordering::SeqCst);
        drop(readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<()>>());
        pushed.unwrap();
    });
    let reads: usize = reads.into_iter().map(AtomicUsize::into_inner).sum();
    let (beside, wrong) = (beside.into_inner(), wrong.into_inner().unwrap());
    let not_whole = wrong.len();
    writeln!(std::io::stderr(), "50 generations: {reads} reads, {beside} of them beside a push, {not_whole} not whole")
        .unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(reads >= 150, "{reads} reads");
    assert!(beside >= 50, "{beside} reads beside a push");
}

#[test]
fn a_push_that_is_killed_anywhere_shows_nothing_and_is_finished_by_the_next() {
    let lab = ready();
    // The only mirror, so that the steps are its own.
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    lab.write("home/terminal.toml", terminal.replace("[mirror.here]\npath = \"../mirror\"", ""));
    let mirror = Mirror::set_up(&lab, "eu1");
    lab.runs(&["publish"]).exits(0);
    for (step, version) in [
        ("publish.begun", "1.1"),
        ("publish.file", "1.2"),
        ("publish.file:7", "1.3"),
        ("publish.pointer", "1.4"),
        ("publish.pointer:4", "1.5"),
        ("publish.timestamp", "1.6"),
        ("publish.recorded", "1.7"),
    ] {
        if version != "1.1" {
            tag(&lab, version);
        }
        let cut = ["cut", "kestrel", version, &format!("--yes={version}")];
        let said = lab.with_keys_and(&cut, &[("RELEASE_FAIL_AT", step)]);
        assert_eq!(said.code, None, "{step}: {said:?}");
        lab.verify(&[&mirror.url()]).exits(0);
        if step == "publish.file" {
            // A day passes before anybody looks: staged files are taken away, and
            // names that are there are sealed.
            mirror.as_root("NO_FAKE_STAT=1 faketime -f +2d release-mirror-seal").exits(0);
        }
        lab.cut(version).exits(0).does_not_say("Signed");
        lab.verify(&[&mirror.url()]).exits(0).says(&format!("kestrel {version}"));
    }
}

/// Has nginx read its configuration again; ends when no worker goes by the old one.
const RELOAD: &str = "old=$(pgrep -d, -f '[n]ginx: worker'); nginx -s reload; \
                      while ps -o pid= -p $old >/dev/null; do sleep 0.05; done";

#[test]
fn faults_of_a_mirror_are_named_and_nothing_is_half_visible() {
    let (lab, mirror) = with_mirror();
    let before = published(&mirror);
    let terminal = lab.read("home/terminal.toml");
    tag(&lab, "1.2");
    lab.write("work/notes", "n".repeat(300_000));
    lab.commit("1.2");
    run(lab.git("work").args(["tag", "-d", "v1.2"])).exits(0);
    lab.tag("1.2");

    // A server that is not the one: it hears no name of ours.
    let text = String::from_utf8(terminal.clone()).unwrap();
    let pinned = String::from_utf8(lab.read("eu1.host.pub")).unwrap().trim().to_owned();
    run(program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(lab.path("other"))).exits(0);
    let other = String::from_utf8(lab.read("other.pub")).unwrap().trim().to_owned();
    lab.write("home/terminal.toml", text.replace(&pinned, &other));
    let said = lab.cut("1.2").exits(4).says("does not have the host key that terminal.toml pins");
    said.says("nothing was sent to it").says("published   here");
    lab.runs(&["mirror", "check", "eu1"]).exits(1).says("compare it over another channel");
    lab.write("home/terminal.toml", &terminal);

    // A key that the mirror does not know, none, and one that is used twice.
    let key = lab.read("home/keys/mirror-eu1-pool");
    lab.copy("other", "home/keys/mirror-eu1-pool");
    lab.runs(&["publish"]).exits(4).says("does not let rel-pool in").says("Permission denied");
    fs::remove_file(lab.path("home/keys/mirror-eu1-pool")).unwrap();
    lab.runs(&["publish"]).exits(4).says("cannot use").says("mirror-eu1-pool");
    lab.copy("home/keys/mirror-eu1-pointer", "home/keys/mirror-eu1-pool");
    lab.runs(&["mirror", "check", "eu1"]).exits(1).says("hold the same key");
    lab.runs(&["mirror", "layout", "eu1"]).exits(1).says("hold the same key");
    lab.write("home/keys/mirror-eu1-pool", key);

    let fails = |break_it: &str, says: &[&str], mend: &str| {
        mirror.as_root(break_it).exits(0);
        let said = lab.runs(&["publish"]).exits(4);
        mirror.as_root(mend).exits(0);
        for text in says {
            assert!(said.has(text), "{break_it}: no {text:?} in {said:?}");
        }
        let seen: Vec<String> =
            published(&mirror).lines().filter(|line| !line.contains("1.2")).map(str::to_owned).collect();
        let old: Vec<&str> = before.lines().collect();
        assert_eq!(seen, old, "{break_it}");
        lab.verify(&[&mirror.url()]).exits(0).does_not_say("kestrel 1.2");
    };
    // Permission lost.
    let lost = |root: &str, account: &str| {
        fails(
            &format!("chown root /srv/mirror/{root}/incoming"),
            &["the mirror refuses to look at /incoming/", "permission denied"],
            &format!("chown {account} /srv/mirror/{root}/incoming"),
        );
    };
    lost("pool-root", "rel-pool");
    // Every session is killed.
    fails(
        "(while true; do pkill -KILL -u rel-pool; done) >/dev/null 2>&1 & echo $! >/run/killer",
        &["the SSH connection to 127.0.0.1", "ended"],
        "kill $(cat /run/killer)",
    );
    // It takes connections and says nothing.
    fails(
        "pkill -STOP -f [r]elease-mirror/sshd_config",
        &["the SSH connection to 127.0.0.1", "timed out"],
        "pkill -CONT -f [r]elease-mirror/sshd_config",
    );
    // Full before it begins, and full on the way: few inodes are left.
    let full = |root: &str, limit: &str, text: &str| {
        let small = format!(
            "cd /srv/mirror; mount -t tmpfs -o mode=755 none /mnt; cp -a {root}/. /mnt; \
             mount -o remount,{limit} /mnt; mount --move /mnt {root}"
        );
        fails(&small, &["the mirror is full", text], &format!("umount /srv/mirror/{root}"));
    };
    full("pool-root", "size=$(($(df -k --output=used /mnt | tail -n 1) + 100))k", "and 3");
    full("pool-root", "nr_inodes=$(($(df --output=iused /mnt | tail -n 1) + 4))", "");
    // The same where pointers are written: all content is there by now.
    lost("meta-root", "rel-meta");
    full("meta-root", "size=$(($(df -k --output=used /mnt | tail -n 1) + 4))k", "");
    // Pointers that a cache still has: never called published.
    let config = "/etc/nginx/conf.d/release-mirror.conf";
    fails(
        &format!(
            "cp -a /srv/mirror/meta-root/pub /srv/stale; sed -i 's: /srv/mirror/meta-root/pub;: /srv/stale;:' {config}; \
             {RELOAD}"
        ),
        &["does not read back as it was written"],
        &format!(
            "sed -i 's: /srv/stale;: /srv/mirror/meta-root/pub;:' {config}; {RELOAD}; \
             rm -rf /srv/mirror/meta-root/pub; mv /srv/stale /srv/mirror/meta-root/pub"
        ),
    );
    // Other bytes to us than were stored.
    fails(
        &format!(
            "cp -a /srv/mirror/pool-root/pub /srv/liar; rm -f /srv/liar/releases/kestrel/1.2/kestrel-1.2; \
             echo lie >/srv/liar/releases/kestrel/1.2/kestrel-1.2; \
             sed -i 's: /srv/mirror/pool-root/pub;: /srv/liar;:' {config}; {RELOAD}"
        ),
        &["kestrel-1.2 holds other bytes than this release"],
        &format!("sed -i 's: /srv/liar;: /srv/mirror/pool-root/pub;:' {config}; {RELOAD}"),
    );
    lab.runs(&["publish"]).exits(0);
    lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.2");
}

#[test]
fn a_server_that_answers_junk_is_refused() {
    let (lab, mirror) = with_mirror();
    tag(&lab, "1.2");
    // Somebody has taken the machine over, and its host key.
    mirror.as_root("pkill -f [r]elease-mirror/sshd_config").exits(0);
    mirror
        .as_root(
            "usermod -s /bin/sh rel-pool; \
        sed -i '/^Match/,$d; /^ForceCommand/d; s:^PidFile.*:PidFile none:' /etc/ssh/release-mirror/sshd_config; \
        echo 'ForceCommand /bin/sh /srv/evil' >>/etc/ssh/release-mirror/sshd_config; echo exit >/srv/evil; \
        /usr/sbin/sshd -f /etc/ssh/release-mirror/sshd_config -o ListenAddress=127.0.0.1 -E /srv/evil.log",
        )
        .exits(0);
    let extension = |name: &str, version: &str| {
        let number = |text: &str| format!("\\000\\000\\000\\{:03o}{text}", text.len());
        number(name) + &number(version)
    };
    let names = ["limits@openssh.com", "statvfs@openssh.com", "fsync@openssh.com", "hardlink@openssh.com"];
    let known: String =
        names.iter().map(|name| extension(name, if name.starts_with("statvfs") { "2" } else { "1" })).collect();
    let length: usize = 5 + names.iter().map(|name| name.len() + 9).sum::<usize>();
    let version =
        |length: usize, more: &str| format!("printf '\\000\\000\\000\\{length:03o}\\002\\000\\000\\000\\003{more}'");
    let status = "printf '\\000\\000\\000\\021\\145\\000\\000\\000\\001\\000\\000\\000\\143\\000\\000\\000\\000\\000\\000\\000\\000'";
    for (evil, says) in [
        ("exit 0".to_owned(), "ended"),
        ("cat /dev/zero".to_owned(), "ended"),
        ("yes".to_owned(), "ended"),
        ("echo This account is not available".to_owned(), "ended"),
        (version(5, "") + "; cat >/dev/null", "it has no limits@openssh.com version 1"),
        (version(length, &known) + "; cat /dev/zero", "ended"),
        // A status that does not exist.
        (version(length, &known) + "; " + status + "; cat >/dev/null", "ended"),
    ] {
        mirror.as_root(&format!("cat >/srv/evil <<'EOF'\n{evil}\nEOF")).exits(0);
        let said = lab.cut("1.2").exits(4).says("published   here").says("not pushed  eu1");
        assert!(said.has("127.0.0.1") && said.has(says), "{evil}: {said:?}");
    }
}

#[test]
fn catching_up_looks_at_every_file() {
    let (lab, mirror) = with_mirror();
    mirror.as_root("cd /srv/mirror; rm pool-root/pub/releases/kestrel/1.0/kestrel-1.0; rm -r pool-root/pub/targets/kestrel/1.1; \
        echo junk >meta-root/pub/metadata/1.kestrel.json; rm meta-root/pub/metadata/1.root.json").exits(0);
    // A push looks at what is new, and there is nothing.
    lab.runs(&["publish"]).exits(0).says("eu1 (0 new files)");
    lab.verify(&[&mirror.url()]).exits(3);
    lab.runs(&["mirror", "catch-up", "eu1"]).exits(0).says("eu1 (8 new files)");
    lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.0").says("kestrel 1.1");
    lab.runs(&["mirror", "catch-up", "eu1"]).exits(0).says("eu1 (0 new files)");
    lab.runs(&["mirror", "catch-up", "here"]).exits(0);
    lab.runs(&["mirror", "catch-up", "us1"]).exits(2).says("terminal.toml has no mirror `us1`");
}

#[test]
fn the_mirrors_of_a_terminal_are_listed() {
    let lab = Lab::released();
    let (ssh, http) = enter(&lab, "eu1");
    let said = lab.runs(&["mirror", "list"]).exits(0).says("here  ");
    said.says(&format!("eu1  http://eu1.invalid:{http}, over SSH to 127.0.0.1:{ssh}"));
    // Nothing that would not be read back is written.
    let terminal = lab.read("home/terminal.toml");
    let host_key = String::from_utf8(lab.read("eu1.host.pub")).unwrap();
    for (name, url, key, complaint) in [
        ("eu1", "http://eu1.example", host_key.as_str(), "terminal.toml has a mirror `eu1`; nothing was changed"),
        ("eu2", "http://eu1.example/\"\n[x]", &host_key, "a mirror's URL begins with http:// or https://"),
        ("eu2", "ftp://eu1.example", &host_key, "a mirror's URL begins with http:// or https://"),
        ("eu2", "http://eu1.example", "ssh-rsa AAAA", "a host key is a type and base64"),
    ] {
        let add = ["mirror", "add", name, "--url", url, "--address", "192.0.2.1", "--host-key", key];
        lab.runs(&[&add[..], &["--software-keys"]].concat()).exits(2).says(complaint).says("nothing was changed");
    }
    lab.copy("home/keys/mirror-eu1-pool", "home/keys/mirror-eu2-pointer");
    let add =
        ["mirror", "add", "eu2", "--url", "http://eu2.example", "--address", "192.0.2.1", "--host-key", &host_key];
    lab.runs(&add).exits(2).says("--token <SERIAL>");
    lab.runs(&[&add[..], &["--software-keys"]].concat()).exits(1).says("hold the same key");
    assert_eq!(lab.read("home/terminal.toml"), terminal);
    lab.runs(&["mirror", "check", "here"]).exits(2).says("is the local folder");
    lab.runs(&["mirror", "layout", "us1"]).exits(2).says("terminal.toml has no mirror `us1`");
}
