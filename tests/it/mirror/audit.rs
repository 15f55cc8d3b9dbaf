//! What an audit of a mirror finds.

use super::with_mirror;
use crate::support::Lab;
use crate::support::mirror::Mirror;

#[test]
fn an_audit_finds_what_is_not_as_published() {
    let (lab, mirror) = with_mirror();
    let count = |said: &str| said.lines().filter(|line| line.starts_with("  ")).count();
    for name in ["eu1", "here"] {
        let said = lab.runs(&["mirror", "audit", name]).exits(0);
        said.says(&format!("{name}  publication 3, ")).says("as published, and nothing else");
    }
    lab.runs(&["mirror", "audit", "us1"]).exits(2).says("terminal.toml has no mirror `us1`");
    let pool = "releases/kestrel/1.1";
    mirror.as_root(&format!(
        "cd /srv/mirror/pool-root/pub/{pool}; printf X | dd of=kestrel-1.1 conv=notrunc status=none; rm kestrel-1.1.notes; \
         chmod 644 SHA256SUMS; echo extra >extra; chmod 444 extra; ln -s /etc/passwd link; mkdir -p ../.git; echo x >../.git/x; \
         printf x >\"$(printf 'a\\033[31mb')\"; \
         cd /srv/mirror/meta-root/pub/metadata; echo junk >1.kestrel.json; echo junk >99.root.json; chmod 666 1.root.json"
    ))
    .exits(0);
    let said = lab.runs(&["mirror", "audit", "eu1"]).exits(3);
    // The bytes are there under both names of the file, whose name is no matter.
    for line in [
        format!("changed     {pool}/kestrel-1.1:"),
        "changed     targets/kestrel/1.1/".to_owned(),
        format!("missing     {pool}/kestrel-1.1.notes: readers get nothing"),
        format!("unexpected  {pool}/extra: nobody has published it"),
        format!("unexpected  {pool}/link: nobody"),
        "unexpected  releases/kestrel/.git/x: nobody".to_owned(),
        format!("unexpected  {pool}/a\\u{{1b}}[31mb: nobody"),
        format!("mode        {pool}/SHA256SUMS: its mode there is 100644"),
        "changed     metadata/1.kestrel.json:".to_owned(),
        "unexpected  metadata/99.root.json".to_owned(),
        "mode        metadata/1.root.json: its mode there is 100666".to_owned(),
    ] {
        assert!(said.has(&line), "no {line:?} in {said:?}");
    }
    let json = lab.runs(&["mirror", "audit", "eu1", "--json"]).exits(3).out;
    let json = release::manifest::json::from_slice(json.as_bytes()).unwrap();
    let findings = json["findings"].as_array().unwrap().len();
    // One more name of the file whose mode changed.
    assert!(findings >= 12, "{json}");
    assert!(count(&said.out) >= findings, "a line for each");
    lab.runs(&["mirror", "audit", "here"]).exits(0);
}

/// The findings of an audit, each with its kind.
#[track_caller]
fn findings(lab: &Lab) -> Vec<String> {
    let said = lab.runs(&["mirror", "audit", "eu1", "--json"]).exits(3);
    let json = release::manifest::json::from_slice(said.out.as_bytes()).unwrap();
    let line = |finding: &serde_json::Value| {
        format!("{} {}", finding["kind"].as_str().unwrap(), finding["finding"].as_str().unwrap())
    };
    json["findings"].as_array().unwrap().iter().map(line).collect()
}

/// A mirror without a finding, whose own facts are recorded. What this machine has
/// besides its system is no part of it.
fn recorded() -> (Lab, Mirror) {
    let (lab, mirror) = with_mirror();
    let apart = "for folder in /*; do case $folder in \
        /bin|/dev|/etc|/lib*|/proc|/run|/sbin|/srv|/sys|/usr|/var) ;; \
        *) [ ! -d $folder ] || [ -L $folder ] || mount -t tmpfs none $folder ;; esac; done; \
        cp -a /usr/lib/systemd/system /run/units; mount --bind /run/units /usr/lib/systemd/system";
    mirror.as_root(apart).exits(0);
    lab.runs(&["mirror", "audit", "eu1"]).exits(0).does_not_say("recorded");
    lab.runs(&["mirror", "audit", "eu1", "--accept"]).exits(1).says("it says nothing about itself");
    mirror.as_root("release-mirror-facts").exits(0);
    lab.runs(&["mirror", "audit", "eu1"]).exits(0).says("was not recorded");
    let said = lab.runs(&["mirror", "audit", "eu1", "--accept"]).exits(0);
    let digest = mirror.as_root("tail -n +3 /srv/mirror/meta-root/facts | sha256sum | cut -c1-64").exits(0).out;
    said.says(digest.trim());
    (lab, mirror)
}

#[test]
fn an_audit_names_each_change_and_is_silent_otherwise() {
    let (lab, mirror) = recorded();
    let clean = || {
        let said = lab.runs(&["mirror", "audit", "eu1"]).exits(0);
        assert!(said.out.ends_with(" files as published, and nothing else\n"), "{said:?}");
        assert_eq!((said.out.lines().count(), said.err.as_str()), (1, ""));
    };
    clean();
    let settings = "/etc/ssh/release-mirror/sshd_config";
    let release = "/srv/mirror/pool-root/pub/releases/kestrel/1.1";
    let target = "$(echo /srv/mirror/pool-root/pub/targets/kestrel/1.1/*.SHA256SUMS)";
    let files: &[(&str, &[&str], &str)] = &[
        (
            &format!(
                "cp -a {release}/claim* /srv/was; printf X | dd of=$(echo {release}/claim*) conv=notrunc status=none"
            ),
            &["changed releases/kestrel/1.1/claim.alice.intoto.json: readers get sha256"],
            &format!("cat /srv/was >$(echo {release}/claim*); rm -f /srv/was"),
        ),
        (
            &format!("echo extra >{release}/extra"),
            &["unexpected releases/kestrel/1.1/extra: nobody has published it"],
            &format!("rm {release}/extra"),
        ),
        (
            &format!("mv {release}/SHA256SUMS.asc /srv/was"),
            &["missing releases/kestrel/1.1/SHA256SUMS.asc: readers get nothing"],
            &format!("mv /srv/was {release}/SHA256SUMS.asc"),
        ),
        (
            &format!("chmod 644 {target}"),
            &["mode releases/kestrel/1.1/SHA256SUMS: its mode there is 100644", "mode targets/kestrel/1.1/"],
            &format!("chmod 444 {target}"),
        ),
    ];
    for (change, expected, mend) in files {
        mirror.as_root(change).exits(0);
        let found = findings(&lab);
        assert_eq!(found.len(), expected.len(), "{change}: {found:#?}");
        for (found, expected) in found.iter().zip(*expected) {
            assert!(found.starts_with(*expected), "{change}: {found} is not {expected}");
        }
        let said = lab.runs(&["mirror", "audit", "eu1"]).exits(3);
        let (kind, _) = expected[0].split_once(' ').unwrap();
        said.says(&format!("is not as it should be: {} finding", found.len())).says(&format!("  {kind}  "));
        mirror.as_root(mend).exits(0);
        clean();
    }

    // The machine, all at once: to look at all of it takes a while. Keys that would
    // let somebody in, wherever they are; settings; units; setuid files; accounts;
    // programs.
    mirror
        .as_root(
            "mkdir -p /var/log/home/.ssh; echo key >/var/log/home/.ssh/authorized_keys2; \
             echo key >/etc/ssh/authorized_keys; \
             cd /etc/ssh/release-mirror; cp -a sshd_config /srv/was; sed -i 's/^PermitTTY no/PermitTTY yes/; \
             /Match User rel-pool/,/Match User rel-meta/s/-p open/-p remove,open/' sshd_config; \
             echo '[Timer]' >/etc/systemd/system/new.timer; ln -s ../new.timer /etc/systemd/system/other.timer; \
             cp /bin/true /srv/mirror/meta-root/incoming/x; chmod 4755 /srv/mirror/meta-root/incoming/x; \
             useradd -M -s /bin/sh -o -u 0 toor; mount --bind /bin/true /usr/sbin/nginx; release-mirror-facts",
        )
        .exits(0);
    let pool = "internal-sftp -l INFO -u 0022 -p";
    let expected = [
        "appeared account toor 0:".to_owned(),
        "appeared altered /usr/sbin/nginx".to_owned(),
        "appeared file /etc/ssh/authorized_keys".to_owned(),
        format!("appeared file {settings}"),
        "appeared file /etc/systemd/system/new.timer".to_owned(),
        "appeared key /etc/ssh/authorized_keys".to_owned(),
        "appeared key /var/log/home/.ssh/authorized_keys2".to_owned(),
        "appeared place /etc/systemd/system/other.timer l".to_owned(),
        "appeared setuid 4755 root:root /srv/mirror/meta-root/incoming/x".to_owned(),
        format!("appeared sshd {settings} forcecommand {pool} remove,open"),
        format!("appeared sshd {settings} permittty yes"),
        format!("vanished file {settings}"),
        format!("vanished sshd {settings} forcecommand {pool} open"),
        format!("vanished sshd {settings} permittty no"),
    ];
    let found = findings(&lab);
    for expected in &expected {
        assert!(found.iter().any(|found| found.starts_with(expected.as_str())), "no {expected:?} in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    mirror
        .as_root(
            "rm -r /var/log/home /etc/ssh/authorized_keys /etc/systemd/system/new.timer \
             /etc/systemd/system/other.timer /srv/mirror/meta-root/incoming/x -f; \
             mv /srv/was /etc/ssh/release-mirror/sshd_config; userdel -f toor; umount /usr/sbin/nginx; \
             release-mirror-facts",
        )
        .exits(0);
    clean();

    // A mirror that says nothing, nothing new, or no sense.
    mirror.as_root("cp /srv/mirror/meta-root/facts /srv").exits(0);
    for (change, says) in [
        ("rm /srv/mirror/meta-root/facts", "silent the mirror does not say any more what it is like"),
        (
            "sed -i '2s/time 20../time 2001/' /srv/mirror/meta-root/facts",
            "silent the mirror has last looked at itself at",
        ),
        ("echo junk >/srv/mirror/meta-root/facts", "silent what it says is in no form"),
        ("sed -i 's/$/\\x1b/; 1,2s/.$//' /srv/mirror/meta-root/facts", "silent what it says has hidden characters"),
    ] {
        mirror.as_root("cp /srv/facts /srv/mirror/meta-root").exits(0);
        mirror.as_root(change).exits(0);
        let found = findings(&lab);
        assert!(found.len() == 1 && found[0].starts_with(says), "{change}: {found:?}");
    }
    mirror.as_root("head -c 5000000 /dev/zero >/srv/mirror/meta-root/facts").exits(0);
    let found = findings(&lab);
    assert!(found.len() == 1 && found[0].ends_with("/facts is longer than 4194304 bytes"), "{found:?}");
    // A thief of the key that reads them cannot change them.
    lab.write("junk", "junk\n");
    for request in ["put junk /facts", "rm /facts", "rename /incoming/junk /facts", "rename /facts /incoming/x"] {
        let said = mirror.sftp(&lab, "rel-meta", "pointer", &format!("-put junk /incoming/junk\n{request}\n"));
        assert_ne!(said.code, Some(0), "{request}: {said:?}");
    }
    mirror.as_root("cp /srv/facts /srv/mirror/meta-root").exits(0);
    clean();
    // What its operator did on purpose is recorded, and shown.
    mirror.as_root("echo '# ours' >/etc/cron.d/ours; release-mirror-facts").exits(0);
    lab.runs(&["mirror", "audit", "eu1", "--accept"]).exits(0).says("appeared    file /etc/cron.d/ours");
    clean();
    // The record is bound to the journal, whose head every release signs.
    let record = lab.read("home/facts/eu1.json");
    let text = String::from_utf8(record.clone()).unwrap();
    lab.write("home/facts/eu1.json", text.replacen("cron.d/ours", "cron.d/hers", 1));
    lab.runs(&["mirror", "audit", "eu1"]).exits(3).says("  record      what this home has recorded");
    lab.write("home/facts/eu1.json", record);
    clean();
    lab.runs(&["mirror", "audit", "here", "--accept"]).exits(2).says("is the local folder");
    lab.runs(&["mirror", "audit", "us1", "--accept"]).exits(2).says("has no mirror `us1`");
}

#[test]
fn a_thief_of_a_deploy_key_neither_holds_up_nor_blinds_what_a_mirror_says_of_itself() {
    let (lab, mirror) = recorded();
    // Longer than can be read in an hour, more than are looked at, and a path that is
    // longer than a fact.
    let plant = "cd /srv/mirror/pool-root/incoming; truncate -s 15T authorized_keys; \
                 mkdir -p a/.ssh; touch a/.ssh/{1..300}; \
                 long=$(printf %0250d 0); mkdir -p $long/$long/$long/$long/$long/$long/$long/$long; \
                 touch $long/$long/$long/$long/$long/$long/$long/$long/authorized_keys";
    mirror.as_root(&format!("setpriv --reuid rel-pool --regid rel-pool --clear-groups bash -ec '{plant}'")).exits(0);
    mirror.as_root("timeout 120 release-mirror-facts").exits(0);
    let found = findings(&lab);
    let of_thief = |found: &String| found.starts_with("appeared key /srv/mirror/pool-root/incoming/");
    assert!(found.len() == 100 && found.iter().all(of_thief), "{found:#?}");
    // What else is new is said as well.
    mirror.as_root("echo '# x' >/etc/cron.d/x; timeout 120 release-mirror-facts").exits(0);
    assert!(findings(&lab).iter().any(|found| found.starts_with("appeared file /etc/cron.d/x")));
    // What should be sealed, and is not.
    mirror
        .as_root("rm -rf /srv/mirror/pool-root/incoming/* /etc/cron.d/x; release-mirror-seal; release-mirror-facts")
        .exits(0);
    lab.runs(&["mirror", "audit", "eu1"]).exits(0);
    mirror
        .as_root(
            "touch -d '3 days ago' /srv/mirror/pool-root/pub/releases/kestrel/1.1/kestrel-1.1; release-mirror-facts",
        )
        .exits(0);
    let found = findings(&lab);
    assert!(!found.is_empty() && found.iter().all(|found| found.starts_with("appeared unsealed ")), "{found:?}");
}

#[test]
fn a_sample_reads_a_few_files_and_lists_all() {
    let (lab, mirror) = with_mirror();
    let read = |sample: &str, code: i32| {
        let json = lab.runs(&["mirror", "audit", "eu1", "--json", "--sample", sample]).exits(code).out;
        release::manifest::json::from_slice(json.as_bytes()).unwrap()
    };
    let whole = read("1000", 0);
    assert_eq!(whole["read"], whole["files"]);
    assert_eq!(read("5", 0)["read"], 5);
    let said = lab.runs(&["mirror", "audit", "eu1", "--sample", "5"]).exits(0);
    said.says(&format!("5 of {} files as published, and nothing else", whole["files"]));
    // One changed file is found as often as it is chosen; one that is gone, always.
    let file = "/srv/mirror/pool-root/pub/releases/kestrel/1.1/SHA256SUMS.asc";
    mirror.as_root(&format!("echo junk >{file}")).exits(0);
    assert_eq!(read("1000", 3)["findings"].as_array().unwrap().len(), 1);
    assert_eq!(read("0", 0)["read"], 0);
    mirror.as_root(&format!("rm {file}")).exits(0);
    let gone = read("0", 3);
    assert_eq!(gone["findings"][0]["kind"], "missing");
    assert_eq!(gone["findings"][0]["path"], "releases/kestrel/1.1/SHA256SUMS.asc");
}
