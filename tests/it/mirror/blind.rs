//! What a thief or a hostile mirror does so that pushes and audits do not end, or do
//! not find what he has done.

use super::tag;
use super::with_mirror;
use crate::support::RELEASE;
use crate::support::mirror::Mirror;
use crate::support::program;
use crate::support::run;

/// Runs something with the rights that a deploy key gives: as sshd would for a client
/// of a thief, such as with modes that sftp's own client does not ask for.
fn with_rights(mirror: &Mirror, account: &str, command: &str) {
    let command = format!("setpriv --reuid {account} --regid {account} --clear-groups bash -ec '{command}'");
    mirror.as_root(&command).exits(0);
}

#[test]
fn folders_in_place_of_pointers_are_put_aside() {
    let (lab, mirror) = with_mirror();
    let metadata = "/srv/mirror/meta-root/pub/metadata";
    // The second one can be neither removed nor moved to another folder.
    for make in ["mkdir timestamp.json; echo x >timestamp.json/x", "mkdir -m 0 timestamp.json"] {
        let plant = format!("cd {metadata}; mv timestamp.json ../../incoming; {make}; mkdir -m 0 4.snapshot.json");
        with_rights(&mirror, "rel-meta", &plant);
        assert_ne!(lab.verify(&[&mirror.url()]).code, Some(0), "{make}");
        lab.runs(&["publish"]).exits(0).says("to mirror eu1");
        lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.1");
        mirror.as_root(&format!("rmdir {metadata}/4.snapshot.json")).exits(0);
    }
    with_rights(&mirror, "rel-meta", &format!("mkdir -m 0 {metadata}/4.snapshot.json"));
    lab.with_keys(&["refresh"]).exits(0).says("publication 4 to mirror eu1");
    lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.1");
}

#[test]
fn an_audit_finds_more_than_what_a_thief_shows_it() {
    let (lab, mirror) = with_mirror();
    let releases = "/srv/mirror/pool-root/pub/releases";
    mirror.as_root(&format!("printf X | dd of={releases}/kestrel/1.1/kestrel-1.1 conv=notrunc status=none")).exits(0);
    let changed = "changed     releases/kestrel/1.1/kestrel-1.1:";
    with_rights(&mirror, "rel-pool", &format!("mkdir {releases}/x; echo x >{releases}/x/x; chmod 0 {releases}/x"));
    let said = lab.runs(&["mirror", "audit", "eu1"]).exits(3).says(changed);
    said.says("unexpected  releases/x/: nobody has published it").does_not_say("silent");
    with_rights(&mirror, "rel-pool", &format!("cd {releases}; touch {{1..11000}}"));
    let said = lab.runs(&["mirror", "audit", "eu1"]).exits(3).says(changed);
    said.says("silent      not all of its disk was looked at").does_not_say("is not on its disk");
}

/// An sftp server that never comes to an end.
const ENDLESS: &str = r#"
import struct, sys
text = lambda it: struct.pack(">I", len(it)) + it
def send(kind, body):
    sys.stdout.buffer.write(struct.pack(">IB", 1 + len(body), kind) + body)
    sys.stdout.buffer.flush()
while head := sys.stdin.buffer.read(5):
    length, kind = struct.unpack(">IB", head)
    body = sys.stdin.buffer.read(length - 1)
    number = body[:4]
    if kind == 1:
        names = [b"limits", b"1", b"statvfs", b"2", b"fsync", b"1", b"hardlink", b"1", b"posix-rename", b"1"]
        pairs = zip(names[::2], names[1::2])
        send(2, struct.pack(">I", 3) + b"".join(text(name + b"@openssh.com") + text(count) for name, count in pairs))
    elif kind == 200:
        numbers = [1, 1, 1, 1] if b"limits" in body else [4096] * 11
        send(201, number + b"".join(struct.pack(">Q", it) for it in numbers))
    elif kind == 12:
        send(104, number + struct.pack(">I", 1) + text(b".") + text(b".") + bytes(4))
    elif kind == 5:
        send(103, number + text(b"x"))
    elif kind in (3, 11):
        send(102, number + text(b"handle"))
    elif kind in (7, 17):
        send(105, number + struct.pack(">II", 4, 0o40755))
    else:
        send(101, number + bytes(12))
"#;

#[test]
fn a_server_whose_answers_do_not_end_is_left() {
    let (lab, mirror) = with_mirror();
    tag(&lab, "1.2");
    lab.write("eu1/endless.py", ENDLESS);
    mirror.as_root("pkill -f [r]elease-mirror/sshd_config").exits(0);
    mirror
        .as_root(
            "usermod -s /bin/sh rel-pool; usermod -s /bin/sh rel-meta; cd /etc/ssh/release-mirror; \
             sed -i '/^Match/,$d; /^ForceCommand/d; s:^PidFile.*:PidFile none:' sshd_config; \
             echo 'ForceCommand /usr/bin/python3 /srv/endless.py' >>sshd_config; \
             /usr/sbin/sshd -f /etc/ssh/release-mirror/sshd_config -o ListenAddress=127.0.0.1 -E /srv/endless.log",
        )
        .exits(0);
    let inner = lab.release();
    let mut timeout = program("timeout");
    timeout.args(["120", RELEASE, "mirror", "audit", "eu1"]).current_dir(lab.path(""));
    for (name, value) in inner.get_envs() {
        timeout.env(name, value.unwrap_or_default());
    }
    run(&mut timeout).exits(3).says("not all of its disk was looked at").says("it lists more than");
}
