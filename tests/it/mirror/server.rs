//! What `scripts/mirror` makes of a machine.

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
    script(&format!("--check {listen}")).exits(0).says("Nothing would be changed.");
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
    script(&format!("--dry-run {listen}")).exits(0).says("would: write /etc/ssh/release-mirror/sshd_config");
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
