//! Mirrors behind another machine.

use std::fs;
use std::time::Duration;
use std::time::Instant;

use super::ready;
use crate::support::mirror::Mirror;
use crate::support::program;
use crate::support::run;

#[test]
fn a_mirror_is_reached_through_another_machine_that_is_pinned_too() {
    let lab = ready();
    let mirror = Mirror::set_up(&lab, "eu1");
    let port = mirror.start_jump(&lab);
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    let host_key = |file: &str| String::from_utf8(lab.read(file)).unwrap().trim().to_owned();
    let jump = |host_key: &str| {
        format!(
            "{terminal}jump = {{ address = \"127.0.0.1\", port = {port}, user = \"jump\", host-key = \"{host_key}\", \
             key = \"file:keys/jump\" }}\n"
        )
    };
    let log = || fs::read_to_string(mirror.disk.join("jump.log")).unwrap();
    lab.write("home/terminal.toml", jump(&host_key("eu1.host.pub")));
    lab.cut("1.1").exits(4).says("does not have the host key that terminal.toml pins");
    assert!(!log().contains("Accepted publickey for jump"));
    lab.write("home/terminal.toml", jump(&host_key("jump.host.pub")));
    // Killed with its configuration in its hands.
    fs::create_dir(lab.path("tmp")).unwrap();
    let tmp = lab.path("tmp");
    let said =
        lab.with_keys_and(&["publish"], &[("RELEASE_FAIL_AT", "publish.file"), ("TMPDIR", tmp.to_str().unwrap())]);
    assert_eq!(said.code, None, "{said:?}");
    lab.runs(&["publish"]).exits(0);
    lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.1");
    assert!(log().contains("Accepted publickey for jump"));

    // What ssh made of it: one key, one way in, and nothing of this user's.
    // The other account's login had begun, too.
    let is_pool = |folder: &std::path::PathBuf| {
        fs::read_to_string(folder.join("config")).is_ok_and(|config| config.contains("User rel-pool\n"))
    };
    let folder = fs::read_dir(&tmp).unwrap().map(|entry| entry.unwrap().path()).find(is_pool).unwrap();
    for (host, user) in [("mirror", "rel-pool"), ("jump", "jump")] {
        let facts = run(program("ssh").current_dir(&folder).args(["-G", "-F", "config", host])).exits(0).out;
        let key = format!("identityfile {host}.key");
        let keys: Vec<&str> = facts.lines().filter(|line| line.starts_with("identityfile ")).collect();
        assert_eq!(keys, [&key]);
        for fact in [
            &format!("user {user}"),
            &format!("hostkeyalias {host}"),
            "hostname 127.0.0.1",
            "batchmode yes",
            "identitiesonly yes",
            "identityagent none",
            "stricthostkeychecking true",
            "userknownhostsfile known_hosts",
            "globalknownhostsfile none",
            "updatehostkeys false",
            "verifyhostkeydns false",
            "canonicalizehostname false",
            "checkhostip no",
            "hostkeyalgorithms ssh-ed25519",
            "pubkeyauthentication true",
            "passwordauthentication no",
            "kbdinteractiveauthentication no",
            "hostbasedauthentication no",
            "gssapiauthentication no",
            "preferredauthentications publickey",
            "forwardagent no",
            "forwardx11 no",
            "tunnel false",
            "clearallforwardings yes",
            "permitlocalcommand no",
            "controlmaster false",
            "compression no",
            "serveraliveinterval 10",
            "serveralivecountmax 3",
        ] {
            assert!(facts.lines().any(|line| line == fact), "{host}: no {fact:?} in\n{facts}");
        }
        let kex = facts.lines().find_map(|line| line.strip_prefix("kexalgorithms ")).unwrap();
        assert!(kex.starts_with("sntrup761") || kex.starts_with("mlkem768"), "{kex}");
    }
    // The connection was made as both sides like it best.
    let used = fs::read_to_string(mirror.disk.join("sshd.log")).unwrap();
    assert!(used.contains("Accepted publickey for rel-pool") && used.contains("Accepted publickey for rel-meta"));

    // It takes connections and says nothing; what ssh has started to reach it ends too.
    mirror.as_root("pkill -STOP -f [r]elease-mirror/sshd_config").exits(0);
    let mut check = lab.release().args(["mirror", "check", "eu1"]).spawn().unwrap();
    let begun = Instant::now();
    let ended = loop {
        match check.try_wait().unwrap() {
            Some(ended) => break ended.code(),
            None if begun.elapsed() > Duration::from_secs(120) => {
                check.kill().unwrap();
                panic!("it does not end");
            }
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    assert_eq!(ended, Some(1));
    run(program("pgrep").args(["-f", &format!("ssh .*-W .127.0.0.1.:{} jump", mirror.ssh)])).exits(1);
    mirror.as_root("pkill -CONT -f [r]elease-mirror/sshd_config").exits(0);
}
