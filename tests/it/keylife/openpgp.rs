//! OpenPGP certificates that others come in place of: gpg and sqv see which one counts.

use std::fs;

use crate::support::Lab;
use crate::support::Said;
use crate::support::program;
use crate::support::run;

fn gpg(lab: &Lab, home: &str, arguments: &[&str]) -> Said {
    let folder = lab.path(home);
    fs::create_dir_all(&folder).unwrap();
    run(program("chmod").arg("700").arg(&folder)).exits(0);
    let mut command = program("gpg");
    command.env("GNUPGHOME", folder).arg("--batch").args(arguments);
    run(command.current_dir(lab.path("")))
}

/// The fingerprint of a certificate, and whether gpg takes it for revoked.
fn shown(lab: &Lab, file: &str) -> (String, bool) {
    let said = gpg(lab, "gnupg-show", &["--show-keys", "--with-colons", file]).exits(0);
    let line = |kind: &str| said.out.lines().find(|line| line.starts_with(kind)).unwrap().to_owned();
    let is_revoked = line("pub:").split(':').nth(1) == Some("r");
    (line("fpr:").split(':').nth(9).unwrap().to_owned(), is_revoked)
}

fn sqv(lab: &Lab, certificate: &str, version: &str) -> Option<i32> {
    let [signature, sums] = ["SHA256SUMS.asc", "SHA256SUMS"].map(|name| Lab::mirrored(version, name));
    let mut command = program("sqv");
    run(command.args(["--keyring", certificate, &signature, &sums]).current_dir(lab.path(""))).code
}

#[test]
fn a_certificate_is_rotated_and_the_old_one_revoked() {
    let lab = Lab::released();
    let (old, _) = shown(&lab, "home/keys/alice.asc");
    lab.expects(&["alice-2-certify", "alice-2-openpgp"]);
    let done = lab.change("rotate alice-openpgp").exits(0).says("To be signed: targets 2");
    let done = done.says("alice = \"keys/alice-2.asc\"").says(&format!("OpenPGP certificate {old} is revoked"));
    done.says("home/keys/alice-certify.key").says("home/keys/alice-openpgp.key");
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    assert!(terminal.contains("alice-2-openpgp =") && !terminal.contains("alice-openpgp ="), "{terminal}");
    lab.all_users_follow(&["1.0"]);
    let (new, is_revoked) = shown(&lab, "home/keys/alice-2.asc");
    assert!(new != old && !is_revoked);
    let [old_file, new_file] = [&old, &new].map(|fingerprint| format!("mirror/keys/{fingerprint}.asc"));
    assert_eq!(shown(&lab, &old_file), (old.clone(), true));
    assert_eq!(shown(&lab, &new_file), (new.clone(), false));

    // What it signed before stays good, and says so.
    gpg(&lab, "gnupg", &["--import", &old_file]).exits(0);
    let [signature, sums] = ["SHA256SUMS.asc", "SHA256SUMS"].map(|name| Lab::mirrored("1.0", name));
    gpg(&lab, "gnupg", &["--verify", &signature, &sums]).says("Good signature from \"Alice\"").says("revoked");
    assert_eq!(sqv(&lab, &old_file, "1.0"), Some(0), "it was superseded later");
    // What comes is signed by the new one.
    lab.release_next("1.1");
    assert_eq!(sqv(&lab, &new_file, "1.1"), Some(0));
    assert_ne!(sqv(&lab, &old_file, "1.1"), Some(0));
    lab.all_users_follow(&["1.0", "1.1"]);

    // Stolen: nothing that it signed is good any more.
    let done = lab.change("revoke alice-2-openpgp").exits(0).says(&format!("OpenPGP certificate {new} is revoked"));
    done.says("- holders = {");
    assert_eq!(shown(&lab, &new_file), (new, true));
    assert_ne!(sqv(&lab, &new_file, "1.1"), Some(0));
    lab.release_next("1.2");
    lab.all_users_follow(&["1.0", "1.1", "1.2"]);

    // A primary key that is lost revokes nothing, and is not asked for.
    let (lost, _) = shown(&lab, "home/keys/bob.asc");
    fs::remove_file(lab.path("home/keys/bob-certify.key")).unwrap();
    lab.expects(&["bob-2-certify", "bob-2-openpgp"]);
    let done = lab.change("rotate bob-certify bob-openpgp").exits(0);
    done.says(&format!("OpenPGP certificate {lost} has left the policy and is not revoked"));
    assert_eq!(shown(&lab, &format!("mirror/keys/{lost}.asc")), (lost, false));
    lab.release_next("1.3");
    lab.change("revoke archive-openpgp").exits(2).says("the policy has no key `archive-openpgp`");
    // Two certificates cannot have keys of the same names.
    let policy = String::from_utf8(lab.read("home/policy.toml")).unwrap();
    let twice = policy.replace("bob = \"keys/bob-2.asc\"", "bob = \"keys/bob-2.asc\", \"bob-2\" = \"keys/x.asc\"");
    lab.write("twice.toml", twice.replacen("bob = \"Bob\"", "bob = \"Bob\"\nbob-2 = \"Other\"", 1));
    lab.runs(&["policy", "check", "twice.toml"]).exits(1).says("another certificate has a key `bob-2-certify`");
}
