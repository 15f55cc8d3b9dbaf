//! The timer of a mirror, which works as root on names that a thief has chosen.

use std::process::Stdio;

use super::published;
use super::with_mirror;

const RELEASE: &str = "/srv/mirror/pool-root/pub/releases/kestrel/1.1";

#[test]
fn the_timer_seals_hour_after_hour() {
    let (_lab, mirror) = with_mirror();
    let file = format!("{RELEASE}/kestrel-1.1");
    let unsealed = "cd /srv/mirror/pool-root/pub; find . -user rel-pool; find . -type f -print0 | xargs -0 lsattr | grep -v '^----i' || true";
    // What is young keeps its owner; names in folders are only added to from the start.
    mirror.as_root("release-mirror-seal").exits(0);
    let facts = mirror.as_root(&format!("stat -c '%U %a' {file} {RELEASE}; lsattr -d {RELEASE} {file}")).exits(0).out;
    assert!(facts.starts_with("rel-pool 444\nroot 1775\n-----a"), "{facts}");
    assert!(facts.lines().nth(3).unwrap().starts_with("------"), "{facts}");
    mirror.as_root("NO_FAKE_STAT=1 faketime -f +2d release-mirror-seal").exits(0);
    assert_eq!(mirror.as_root(unsealed).exits(0).out, "");
    mirror.as_root("NO_FAKE_STAT=1 faketime -f +3d release-mirror-seal").exits(0);
}

#[test]
fn a_thief_of_the_pool_key_keeps_nothing_from_being_sealed() {
    let (lab, mirror) = with_mirror();
    lab.write("junk", "junk\n");
    let file = "/pub/releases/kestrel/1.1/kestrel-1.1";
    let is_sealed = |file: &str| mirror.as_root(&format!("lsattr {file}")).exits(0).out.starts_with("----i");
    // A further name makes the inode new, and the content no younger.
    mirror.as_root(&format!("touch -d '2 days ago' {RELEASE}/kestrel-1.1")).exits(0);
    mirror.sftp(&lab, "rel-pool", "pool", &format!("ln {file} /pub/releases/kestrel/1.1/again\n")).exits(0);
    mirror.as_root("release-mirror-seal").exits(0);
    assert!(is_sealed(&format!("{RELEASE}/kestrel-1.1")));
    // Nor does a staged name of what is sealed, which cannot be removed any more.
    let plant = "mkdir /incoming/x\nput junk /incoming/x/a\nln /incoming/x/a /pub/releases/kestrel/1.1/junk\n";
    mirror.sftp(&lab, "rel-pool", "pool", plant).exits(0);
    mirror.as_root(&format!("touch -d '2 days ago' {RELEASE}/junk; release-mirror-seal")).exits(0);
    assert!(is_sealed(&format!("{RELEASE}/junk")));
    mirror.as_root("ls /srv/mirror/pool-root/incoming/x/a").exits(0);
    mirror.as_root("NO_FAKE_STAT=1 faketime -f +2d release-mirror-seal").exits(0);
    assert!(is_sealed(&format!("{RELEASE}/SHA256SUMS")));
    // Who has made a file and kept it open could write to it.
    let mut open = mirror.ssh(&lab, "sftp", "rel-pool", "pool");
    let mut open = open.arg("127.0.0.1").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    // Nobody there waits for what has ended.
    let sessions = "pgrep -u rel-pool --runstates R,S,D >/dev/null";
    while mirror.as_root(sessions).code != Some(0) {
        assert!(open.try_wait().unwrap().is_none());
    }
    mirror.as_root("release-mirror-seal").exits(0);
    mirror.as_root(sessions).exits(0);
    mirror.as_root("release-mirror-seal 0").exits(0);
    mirror.as_root(&format!("for wait in {{1..100}}; do {sessions} || exit 0; sleep 0.1; done; exit 1")).exits(0);
    open.wait().unwrap();
    // Names that programs could take for options, or for several names.
    let plant = "mkdir /pub/releases/-R\nput junk \"/pub/releases/-R/--reference=x\"\nput junk \"/pub/releases/a b\"\n";
    mirror.sftp(&lab, "rel-pool", "pool", plant).exits(0);
    mirror.as_root("NO_FAKE_STAT=1 faketime -f +2d release-mirror-seal").exits(0);
    assert_eq!(mirror.as_root("find /srv/mirror/pool-root/pub -user rel-pool").exits(0).out, "");
}

#[test]
fn a_shell_of_an_account_has_the_timer_change_nothing_else() {
    let (_lab, mirror) = with_mirror();
    let victims = "mkdir -m 700 /srv/victim /srv/victim/folder; echo secret >/srv/victim/secret; \
                   chmod 600 /srv/victim/secret";
    mirror.as_root(victims).exits(0);
    let state = "stat -c '%n %U:%G %a %Z' /srv/victim/*; lsattr -d /srv/victim/*";
    let (victims, before) = (mirror.as_root(state).exits(0).out, published(&mirror));
    mirror
        .as_root(
            r"
cat >/srv/thief <<'EOF'
cd /srv/mirror/pool-root/pub/releases
mkdir -p evil
while true; do
    for name in 1 2 3 4 5 6 7 8; do
        touch -d '3 days ago' evil/f$name
        mkdir -p evil/d$name
        rm -f evil/f$name; ln -s /srv/victim/secret evil/f$name
        rmdir evil/d$name; ln -s /srv/victim/folder evil/d$name
        rm -f evil/f$name evil/d$name
    done 2>/dev/null
done
EOF
for round in 1 2 3 4 5 6; do
    # It is ended when it is older than what is sealed, and comes back.
    for thief in 1 2 3 4; do
        setpriv --reuid rel-pool --regid rel-pool --clear-groups timeout 1 bash /srv/thief || true
    done &
    for run in 1 2 3 4; do sleep 0.2; release-mirror-seal 0 2>/dev/null || true; done
    wait || true
    cd /srv/mirror/pool-root/pub/releases
    chattr -f -R -i -a . || true
    rm -rf evil
done",
        )
        .exits(0);
    assert_eq!(mirror.as_root(state).exits(0).out, victims);
    let files = |list: &str| -> Vec<String> {
        let content = |line: &str| Some(line.rsplit_once("  ").filter(|_| line.starts_with('-'))?.1.to_owned());
        list.lines().filter_map(content).collect()
    };
    assert_eq!(files(&before), files(&published(&mirror)));
}
