//! What `scripts/mirror` makes of a machine.

use super::tag;
use super::with_mirror;
use crate::support::program;
use crate::support::project;
use crate::support::run;

#[test]
fn sshd_allows_what_is_documented_for_each_account() {
    let (lab, mirror) = with_mirror();
    let common = "open,close,read,write,lstat,fstat,stat,opendir,readdir,realpath,mkdir,fsync";
    for (account, chroot, own) in
        [("rel-pool", "/srv/mirror/pool-root", "hardlink"), ("rel-meta", "/srv/mirror/meta-root", "posix-rename")]
    {
        let facts = mirror.as_root(&format!(
            "/usr/sbin/sshd -T -f /etc/ssh/release-mirror/sshd_config -C user={account},host=x,addr=192.0.2.1"
        ));
        let facts = facts.exits(0).out;
        for fact in [
            &format!("chrootdirectory {chroot}"),
            &format!("forcecommand internal-sftp -l INFO -u 0022 -p {common},{own},limits,statvfs"),
            "allowusers rel-pool",
            "allowusers rel-meta",
            "authenticationmethods publickey",
            "pubkeyauthentication yes",
            "passwordauthentication no",
            "kbdinteractiveauthentication no",
            "hostbasedauthentication no",
            "gssapiauthentication no",
            "kerberosauthentication no",
            "usepam no",
            "permitrootlogin no",
            "authorizedkeysfile /etc/ssh/release-mirror/keys/%u",
            "authorizedkeyscommand none",
            "authorizedprincipalsfile none",
            "trustedusercakeys none",
            "strictmodes yes",
            "permituserenvironment no",
            "permituserrc no",
            "disableforwarding yes",
            "allowagentforwarding no",
            "allowtcpforwarding no",
            "allowstreamlocalforwarding no",
            "x11forwarding no",
            "permittunnel no",
            "permitlisten none",
            "permitopen none",
            "permittty no",
            "compression no",
            "gatewayports no",
            "subsystem sftp internal-sftp",
            "hostkey /etc/ssh/ssh_host_ed25519_key",
            "hostkeyalgorithms ssh-ed25519",
            "pubkeyacceptedalgorithms ssh-ed25519,ecdsa-sha2-nistp256",
            "maxauthtries 2",
            "maxsessions 2",
        ] {
            assert!(facts.lines().any(|line| line == fact), "{account}: no {fact:?} in\n{facts}");
        }
        let kex = facts.lines().find(|line| line.starts_with("kexalgorithms ")).unwrap();
        assert!(
            kex["kexalgorithms ".len()..].split(',').all(|name| name.contains("sntrup") || name.contains("mlkem")),
            "{kex}"
        );
    }
    // What its auditors say of the algorithms.
    let audit = run(program("ssh-audit").args(["-n", "-p", &mirror.ssh.to_string(), "127.0.0.1"]));
    assert!(audit.out.contains("(kex) sntrup761x25519-sha512@openssh.com"), "{audit:?}");
    assert!(!audit.out.contains("[fail]"), "{audit:?}");
    // What versions warn of that are older than the algorithm, and the mark that no
    // packet may be left out (strict key exchange).
    let is_old = |line: &str| {
        (line.starts_with("(kex) sntrup761x25519") && line.ends_with("using experimental algorithm"))
            || (line.starts_with("(kex) kex-strict-s-v00@openssh.com") && line.ends_with("unknown algorithm"))
    };
    let warnings: Vec<&str> = audit.out.lines().filter(|line| line.contains("[warn]") && !is_old(line)).collect();
    assert_eq!(warnings, [""; 0], "{audit:?}");
    // Each key opens one account, and is restricted besides.
    for (account, key) in [("rel-pool", "pool"), ("rel-meta", "pointer")] {
        let public = String::from_utf8(lab.read(&format!("home/keys/mirror-eu1-{key}.pub"))).unwrap();
        let allowed = mirror.as_root(&format!("cat /etc/ssh/release-mirror/keys/{account}")).exits(0).out;
        assert_eq!(allowed.trim(), format!("restrict {}", public.trim()));
        let passwd = mirror.as_root(&format!("getent passwd {account}; getent shadow {account}")).exits(0).out;
        assert!(passwd.contains(":/nonexistent:/usr/sbin/nologin\n"), "{passwd}");
        assert!(passwd.contains(&format!("\n{account}:*:")), "{passwd}");
    }
}

#[test]
fn the_script_changes_only_what_differs() {
    let (lab, mirror) = with_mirror();
    let script = |arguments: &str| {
        let (script, layout) = (project("scripts/mirror"), lab.path("eu1.layout"));
        mirror.as_root(&format!("{} {arguments} {}", script.display(), layout.display()))
    };
    let listen = mirror.url().replace("http://", "--listen ");
    let said = script(&format!("--check {listen}")).exits(0).says("Nothing would be changed.");
    for account in ["rel-pool", "rel-meta"] {
        for kind in ["ed25519", "ecdsa"] {
            assert!(said.has(&format!("{account} lets a key of type {kind} in.")), "{said:?}");
        }
    }
    mirror.as_root("chown rel-pool /srv").exits(0);
    let said = script(&format!("--check {listen}")).exits(1).says("Nothing would be changed.");
    said.says("rel-pool does not let a key of type ed25519 in").says("bad ownership or modes for chroot directory");
    mirror.as_root("chown root /srv; pkill -STOP -f [r]elease-mirror/sshd_config").exits(0);
    script(&format!("--check {listen}")).exits(1).says("does not show the host key");
    mirror.as_root("pkill -CONT -f [r]elease-mirror/sshd_config").exits(0);
    mirror.as_root("! ls -d /run/release-mirror-check.*; [ $(pgrep -c -f '[s]shd.*-D') = 1 ]").exits(0);
    script(&listen).exits(0).says("Nothing was changed.").says("host-key = \"ssh-ed25519 ");
    let state =
        "ls -lR --time-style=full-iso /etc/ssh /etc/nginx /srv/mirror /etc/passwd; cat /etc/ssh/release-mirror/*";
    mirror
        .as_root(
            "echo 'AllowUsers root' >>/etc/ssh/release-mirror/sshd_config; chmod 777 /srv/mirror/pool-root; \
        usermod -s /bin/sh rel-pool",
        )
        .exits(0);
    let before = mirror.as_root(state).out;
    script(&format!("--dry-run {listen}"))
        .exits(0)
        .says("would: write /etc/ssh/release-mirror/sshd_config")
        .says("\n-AllowUsers root\n");
    let said = script(&format!("--check {listen}")).exits(1);
    said.says("would: make folder /srv/mirror/pool-root").says("would: take home and shell of rel-pool");
    assert_eq!(mirror.as_root(state).out, before, "a dry run changes nothing");
    script(&listen).exits(0).says("write /etc").does_not_say("Nothing was changed");
    script(&format!("--check {listen}")).exits(0);
    // A layout is not believed.
    let layout = String::from_utf8(lab.read("eu1.layout")).unwrap();
    for bad in [
        "folder pool ../etc",
        "key pool ssh-ed25519 AAAA\ncommand=\"x\"",
        "url meta ^/x\"; } server {$",
        "url meta ^/x y$",
        "port 0",
        "x",
    ] {
        lab.write("eu1.layout", format!("{layout}{bad}\n"));
        script(&listen).exits(1).says("nothing was changed");
    }
}

#[test]
fn a_cut_signs_nothing_that_a_mirror_has_no_folder_for() {
    let (lab, mirror) = with_mirror();
    tag(&lab, "1.2");
    let journal = lab.read("home/journal.jsonl");
    mirror.as_root("cd /srv/mirror; mv pool-root/pub/targets meta-root/pub/keys /srv").exits(0);
    for command in [&["cut", "kestrel", "1.2", "--dry-run"][..], &["cut", "kestrel", "1.2", "--yes=1.2"]] {
        let said = lab.with_keys(command).exits(1);
        said.says("mirror `eu1` lacks folders that this release needs: targets; nothing was signed")
            .says("its operator runs, as root, `scripts/mirror LAYOUT` with what this prints here:")
            .says("release mirror layout eu1");
    }
    mirror.as_root("mv /srv/targets /srv/mirror/pool-root/pub").exits(0);
    lab.cut("1.2").exits(1).says("lacks folders that this release needs: keys");
    assert_eq!(lab.read("home/journal.jsonl"), journal);
    // What the operator does about it.
    let (script, layout) = (project("scripts/mirror"), lab.path("eu1.layout"));
    let listen = mirror.url().replace("http://", "--listen ");
    mirror.as_root(&format!("{} {listen} {}", script.display(), layout.display())).exits(0).says("pub/keys");
    lab.cut("1.2").exits(0).says("to mirror eu1").does_not_say("not known");
    lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.2");
}

#[test]
fn newer_versions_of_openssh_get_settings_of_their_own() {
    let (lab, mirror) = with_mirror();
    let script = |version: &str, arguments: &str| {
        let (script, layout) = (project("scripts/mirror"), lab.path("eu1.layout"));
        let ssh =
            format!("printf '#!/bin/sh\\necho {version} >&2\\n' >/usr/local/bin/ssh; chmod 755 /usr/local/bin/ssh");
        let listen = mirror.url().replace("http://", "--listen ");
        let run = format!("PATH=/usr/local/bin:$PATH {} {arguments} {listen} {}", script.display(), layout.display());
        mirror.as_root(&format!("{ssh}; {run}"))
    };
    // Debian 12 has 9.2, Debian 13 has 10.0.
    let both = "+KexAlgorithms mlkem768x25519-sha256,sntrup761x25519-sha512@openssh.com";
    script("OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19", "--dry-run").exits(0).says("Nothing would be changed.");
    for (version, lines) in [
        ("OpenSSH_9.7p1", &[][..]),
        ("OpenSSH_9.8p1", &["+PerSourcePenalties yes"]),
        ("OpenSSH_9.9p1", &["+PerSourcePenalties yes", both]),
        ("OpenSSH_10.0p2 Debian-7, OpenSSL 3.5.1", &["+PerSourcePenalties yes", both]),
    ] {
        let said = script(version, "--dry-run").exits(0);
        let added: Vec<&str> =
            said.out.lines().filter(|line| line.starts_with('+') && !line.starts_with("+++")).collect();
        let mut lines = lines.to_vec();
        lines.sort_by_key(|line| !line.contains("Kex"));
        assert_eq!(added, lines, "{version}: {said:?}");
    }
    // Settings that sshd does not know are not put where it reads them.
    let before = mirror.as_root("cat /etc/ssh/release-mirror/sshd_config").exits(0).out;
    let said = script("OpenSSH_9.8p1", "").exits(1).says("Bad configuration option: PerSourcePenalties");
    said.says("sshd does not take these settings; /etc/ssh/release-mirror/sshd_config was not changed");
    assert_eq!(mirror.as_root("cat /etc/ssh/release-mirror/sshd_config").exits(0).out, before);
}
