//! What a user sees: the right files verify, everything else is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use crate::support::Lab;
use crate::support::forge::Forger;
use crate::support::program;
use crate::support::run;
use crate::support::server::Nginx;

const STALE: i32 = 5;
const REJECTED: i32 = 3;

/// The ways in which a file is spoilt.
fn spoilt(original: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut changed = original.to_vec();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    vec![
        ("changed by one bit", changed),
        ("truncated", original[..original.len() - 1].to_vec()),
        ("extended", [original, b"\n"].concat()),
        ("empty", Vec::new()),
    ]
}

fn replace(path: &Path, bytes: &[u8]) {
    // Published files are read-only, and may have several names.
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_download_verifies_without_network() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0.tar.gz");
    let mut command = program("unshare");
    command.args(["-n", "--"]).arg(crate::support::RELEASE).args([
        "verify",
        "--offline",
        "--root",
        "trust/root.json",
        &file,
    ]);
    command.current_dir(lab.path("")).env("XDG_DATA_HOME", lab.path("data"));
    run(&mut command)
        .exits(0)
        .says("VERIFIED kestrel-1.0.tar.gz")
        .says("signed by   alice, bob (2 of 3; 2 needed)")
        .says("on release/1")
        .says("later revocations unknown");
}

#[test]
fn every_file_of_a_release_verifies_from_folder_mirror_and_web() {
    let lab = Lab::released();
    lab.verify(&["mirror"]).exits(0).says("VERIFIED kestrel/1.0/kestrel-1.0\n").says("5 files");
    let server = Nginx::serve(&lab.path("mirror"));
    lab.verify(&[&server.url()]).exits(0).says("5 files").says("by http://127.0.0.1");
    fs::create_dir(lab.path("plain")).unwrap();
    fs::copy(lab.path(&Lab::mirrored("1.0", "kestrel-1.0")), lab.path("plain/kestrel-1.0")).unwrap();
    lab.verify(&["plain/kestrel-1.0", "--repository", &server.url()]).exits(0).says("VERIFIED");
    lab.verify(&["plain/kestrel-1.0", "--repository", "mirror"]).exits(0).says("VERIFIED");
    lab.verify(&["plain/kestrel-1.0", "--offline"]).exits(1).says("put the *.bundle.json of its release beside it");
    lab.copy("mirror/releases/kestrel/1.0", "downloads");
    fs::remove_file(lab.path("downloads/claim.alice.intoto.json")).unwrap();
    lab.verify(&["downloads"]).exits(0).says("5 files").says("Skipped SHA256SUMS.asc");
}

#[test]
fn a_spoilt_artifact_is_rejected_by_name() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    let original = lab.read(&file);
    for (how, bytes) in spoilt(&original) {
        lab.write(&file, bytes);
        let said = lab.verify(&[&file]).exits(REJECTED).says("REJECTED kestrel-1.0").says("SHA-256");
        assert!(said.out.contains("is not what was released as kestrel 1.0"), "{how}: {}", said.out);
    }
    lab.write(&file, &original);
    lab.verify(&[&file]).exits(0);
}

#[test]
fn a_spoilt_bundle_is_rejected_by_name() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    let bundle = "download/kestrel-1.0.bundle.json";
    for (how, bytes) in spoilt(&lab.read(bundle)) {
        let original = lab.read(bundle);
        lab.write(bundle, bytes);
        let said = lab.verify(&[&file]).exits(REJECTED).says("kestrel-1.0.bundle.json");
        assert!(said.out.contains("REJECTED"), "{how}: {}", said.out);
        lab.write(bundle, original);
    }
}

#[test]
fn a_spoilt_file_of_a_mirror_is_rejected_by_name() {
    let lab = Lab::released();
    let names = [
        "metadata/timestamp.json",
        "metadata/2.snapshot.json",
        "metadata/1.targets.json",
        "metadata/1.kestrel.json",
        "releases/kestrel/1.0/SHA256SUMS",
        "releases/kestrel/1.0/kestrel-1.0.tar.gz",
        "releases/kestrel/1.0/kestrel-1.0.bundle.json",
        "releases/kestrel/1.0/claim.alice.intoto.json",
        "bundles/kestrel.bundle.json",
    ];
    for name in names {
        let path = lab.path(&format!("mirror/{name}"));
        let original = fs::read(&path).unwrap();
        for (how, bytes) in spoilt(&original) {
            replace(&path, &bytes);
            let said = lab.verify(&["mirror"]);
            // Metadata may end in a line break: it parses to the same, and is
            // pinned by hash everywhere but in timestamp.json itself.
            let harmless = how == "extended" && name.ends_with("timestamp.json");
            if harmless {
                said.exits(0);
            } else {
                let said = said.exits(REJECTED);
                // Claims are named by their holder's file, metadata by its role.
                let word = name.rsplit('/').next().unwrap().trim_start_matches("1.").trim_start_matches("2.");
                let word = word.trim_end_matches(".intoto.json").trim_start_matches("claim.");
                assert!(said.out.contains(word), "{name} {how}: {}", said.out);
            }
        }
        fs::remove_file(&path).unwrap();
        lab.verify(&["mirror"]).exits(REJECTED);
        replace(&path, &original);
    }
    lab.verify(&["mirror"]).exits(0);
}

#[test]
fn a_root_that_does_not_follow_is_rejected() {
    let lab = Lab::released();
    lab.write("mirror/metadata/2.root.json", lab.read("mirror/metadata/1.root.json"));
    lab.verify(&["mirror"]).exits(REJECTED);
    lab.write("mirror/metadata/2.root.json", b"{}");
    lab.verify(&["mirror"]).exits(REJECTED);
}

#[test]
fn a_renamed_file_is_rejected_unless_the_user_says_its_name() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    fs::rename(lab.path(&file), lab.path("download/update")).unwrap();
    lab.verify(&["download/update"]).exits(REJECTED).says("was released under the name kestrel-1.0");
    lab.verify(&["download/update", "--as", "kestrel-1.0"]).exits(0);
    lab.verify(&["download/update", "--as", "kestrel-1.0.tar.gz"]).exits(REJECTED);
}

#[test]
fn a_file_that_nobody_released_is_rejected_among_others() {
    let lab = Lab::released();
    lab.download("1.0", "kestrel-1.0");
    lab.write("download/extra", "not ours\n");
    lab.verify(&["download"]).exits(REJECTED).says("VERIFIED download/kestrel-1.0").says("REJECTED download/extra");
    lab.verify(&["download/kestrel-1.0", "download/missing"]).exits(1).says("there is no file download/missing");
    lab.verify(&["download/extra", "download/missing"]).exits(REJECTED);
}

#[test]
fn what_expired_is_stale_and_never_excuses_more() {
    let mut lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    lab.travel("+31d");
    lab.verify(&[&file]).exits(STALE).says("STALE kestrel-1.0").says("expired     timestamp");
    lab.verify(&["mirror"]).exits(STALE);
    lab.write(&file, "other bytes\n");
    lab.verify(&[&file]).exits(REJECTED);
    // A renewed seal makes the old file current again.
    lab.with_keys(&["refresh"]).exits(0);
    lab.download("1.0", "kestrel-1.0");
    lab.verify(&["download/kestrel-1.0", "--bundle", "mirror/bundles/kestrel.bundle.json"]).exits(0);
    lab.travel("+400d");
    lab.verify(&["mirror"]).exits(STALE).says("root, on");
}

#[test]
fn two_versions_verify_and_an_old_mirror_is_noticed() {
    let lab = Lab::released();
    lab.copy("mirror", "old-mirror");
    let old = lab.download("1.0", "kestrel-1.0");
    lab.release_next("1.1");
    lab.verify(&["mirror"]).exits(0).says("kestrel 1.0: 5 files").says("kestrel 1.1: 5 files");
    let new = lab.download("1.1", "kestrel-1.1");
    // The old file with its old bundle is still a release of ours.
    lab.verify(&[&old, &new]).exits(0);
    // A mirror that serves less than was seen is not.
    lab.verify(&["old-mirror"]).exits(REJECTED).says("serves timestamp number 2, but 3 was seen before");
    let server = Nginx::serve(&lab.path("old-mirror"));
    lab.runs(&["download", "kestrel", "--root", "trust/root.json", "--to", "got", "--repository", &server.url()])
        .exits(REJECTED)
        .says("seen before");
    assert!(!lab.path("got").exists());
    // Whoever has seen nothing cannot know.
    fs::remove_dir_all(lab.path("data")).unwrap();
    lab.verify(&["old-mirror"]).exits(0);
}

#[test]
fn a_mix_of_two_releases_is_rejected() {
    let lab = Lab::released();
    lab.copy("mirror", "old-mirror");
    lab.release_next("1.1");
    let mix = |from: &str, to: &str| {
        lab.copy("mirror", "mixed");
        replace(&lab.path(&format!("mixed/{to}")), &lab.read(from));
        lab.verify(&["mixed"]).exits(REJECTED).says("mixed");
        fs::remove_dir_all(lab.path("mixed")).unwrap();
    };
    mix("mirror/metadata/2.snapshot.json", "metadata/3.snapshot.json");
    mix("mirror/metadata/1.kestrel.json", "metadata/2.kestrel.json");
    mix("mirror/releases/kestrel/1.0/kestrel-1.0", "releases/kestrel/1.1/kestrel-1.1");
    mix("mirror/releases/kestrel/1.0/SHA256SUMS", "releases/kestrel/1.1/SHA256SUMS");
    mix("mirror/releases/kestrel/1.0/claim.alice.intoto.json", "releases/kestrel/1.1/claim.alice.intoto.json");
}

#[test]
fn nothing_can_be_written_and_the_verdict_is_the_same() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    lab.write("data", "a file where a folder should be");
    lab.verify(&[&file]).exits(0).says("is not remembered");
    fs::remove_file(lab.path("data")).unwrap();
    lab.verify(&[&file]).exits(0).does_not_say("is not remembered");
    // A damaged memory costs memory, not the verdict.
    let seen = walk(&lab.path("data")).into_iter().find(|path| path.ends_with("kestrel.json")).unwrap();
    fs::write(&seen, "{}").unwrap();
    lab.verify(&[&file]).exits(0).says("an older state might not be noticed");
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_root_is_trusted_after_its_fingerprint_was_compared() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    lab.runs(&["verify", &file]).exits(1).says("you trust no root yet").says("release trust add ROOT.json");
    lab.runs(&["trust", "add", "trust/root.json"]).exits(2).says("no terminal to ask on");
    let wrong = "0".repeat(64);
    lab.runs(&["trust", "add", "trust/root.json", "--fingerprint", &wrong]).exits(REJECTED).says("nothing was added");
    lab.runs(&["verify", &file]).exits(1);
    let right = release::manifest::Sha256::of(&lab.read("trust/root.json")).to_string();
    lab.runs(&["trust", "add", "trust/root.json", "--fingerprint", &right.to_uppercase(), "--repository", "mirror"])
        .exits(0);
    lab.runs(&["trust", "list"]).exits(0).says(&right);
    lab.runs(&["verify", &file]).exits(0).says("by /");
    lab.runs(&["verify", "--offline", &file]).exits(0);
    lab.runs(&["download", "kestrel", "--to", "got"]).exits(0).says("VERIFIED got/kestrel-1.0.tar.gz");
    lab.verify(&["got"]).exits(0).says("3 files");
    lab.runs(&["download", "kestrel", "--to", "one", "--version", "1.0", "--file", "kestrel-1.0.notes"]).exits(0);
    assert_eq!(lab.path("one").read_dir().unwrap().count(), 2);
    lab.runs(&["download", "kestrel", "--version", "9.9"]).exits(1).says("has no release 9.9");
    lab.runs(&["download", "kestrel", "--file", "nothing"]).exits(1).says("has no file of that name");
    lab.runs(&["trust", "remove", &right[..8]]).exits(0);
    lab.runs(&["verify", &file]).exits(1);
}

#[test]
fn another_project_is_not_trusted() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    // Another project: the same policy, other keys.
    lab.with_keys(&["init", "--home", "other", "--policy", "policy/policy.toml", "--software-keys"]).exits(0);
    let root = "other/repository/metadata/1.root.json";
    lab.runs(&["verify", "--root", root, &file]).exits(REJECTED).says("does not contain the root that you trust");
    lab.runs(&["verify", "--root", root, "mirror"]).exits(REJECTED);
    lab.runs(&["verify", "--root", root, "--repository", "mirror", &file]).exits(REJECTED);
    // With both trusted, each finds its own.
    for root in [root, "trust/root.json"] {
        let fingerprint = release::manifest::Sha256::of(&lab.read(root)).to_string();
        lab.runs(&["trust", "add", root, "--fingerprint", &fingerprint]).exits(0);
    }
    lab.runs(&["verify", &file]).exits(0);
    lab.runs(&["verify", "mirror"]).exits(0);
}

#[test]
fn a_bad_bundle_beside_a_good_one_does_no_harm() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    lab.write("download/junk.bundle.json", "{}");
    lab.verify(&[&file]).exits(0);
    lab.verify(&[&file, "--bundle", "download/junk.bundle.json"]).exits(REJECTED).says("junk.bundle.json");
    lab.verify(&[&file, "--bundle", "download/none.bundle.json"]).exits(1).says("there is no file");
}

#[test]
fn what_is_no_plain_file_is_refused_without_blocking() {
    let lab = Lab::released();
    lab.download("1.0", "kestrel-1.0");
    run(program("mkfifo").arg(lab.path("download/pipe"))).exits(0);
    lab.verify(&["download/pipe"]).exits(REJECTED).says("is not a plain file");
    fs::create_dir(lab.path("download/folder")).unwrap();
    lab.verify(&["download"]).exits(REJECTED).says("REJECTED download/folder");
}

#[test]
fn an_unreachable_server_is_no_verdict() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    let server = Nginx::serve(&lab.path("mirror"));
    let url = server.url();
    drop(server);
    lab.verify(&[&url]).exits(1).says("cannot fetch");
    // With a bundle there is a verdict all the same.
    lab.verify(&[&file, "--repository", &url]).exits(0).says("going on with the bundle");
    lab.verify(&["https://127.0.0.1:1/"]).exits(1);
}

#[test]
fn json_says_the_same() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    let good: serde_json::Value = serde_json::from_str(&lab.verify(&["--json", &file]).exits(0).out).unwrap();
    assert_eq!(good["verdict"], "VERIFIED");
    assert_eq!(good["files"][0]["signed_by"], serde_json::json!(["alice", "bob"]));
    assert_eq!(good["files"][0]["insecure"], serde_json::json!(["same-terminal", "software-keys"]));
    lab.write(&file, "other\n");
    let bad: serde_json::Value = serde_json::from_str(&lab.verify(&["--json", &file]).exits(REJECTED).out).unwrap();
    assert_eq!((bad["exit"].as_i64(), bad["files"][0]["verdict"].as_str()), (Some(3), Some("REJECTED")));
    assert!(bad["files"][0]["reason"].as_str().unwrap().contains("is not what was released"));
}

#[test]
fn control_characters_in_names_are_shown_escaped() {
    let lab = Lab::released();
    lab.download("1.0", "kestrel-1.0");
    lab.write("download/a\u{1b}[2Jb", "x");
    let said = lab.verify(&["download"]).exits(REJECTED);
    assert!(!said.out.contains('\u{1b}') && !said.err.contains('\u{1b}'), "{said:?}");
}

#[test]
fn files_of_a_mirror_can_be_read_by_all_and_changed_by_none() {
    let lab = Lab::released();
    for path in walk(&lab.path("mirror")) {
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        let below = path.strip_prefix(lab.path("mirror")).unwrap();
        let written_once = below.starts_with("targets") || below.starts_with("releases");
        assert_eq!(mode, if written_once { 0o444 } else { 0o644 }, "{}", below.display());
    }
}

#[test]
fn four_gibibytes_are_verified_in_32_mebibytes_of_memory() {
    const LENGTH: u64 = 4 << 30;
    // Of that many zeros.
    const SHA256: &str = "8479e43911dc45e89f934fe48d01297e16f51d17aa561d4d1c216b1ae0fcddca";
    let lab = Lab::released();
    let mut forger = Forger::new(&lab);
    forger.role = forger.sign(&forger.role.clone(), &["alice-release", "bob-release"], |signed| {
        Forger::add_release(signed, "kestrel/1.1/zeros", b"");
        signed["targets"]["kestrel/1.1/zeros"]["length"] = json!(LENGTH);
        signed["targets"]["kestrel/1.1/zeros"]["hashes"]["sha256"] = json!(SHA256);
    });
    forger.seal();
    lab.write("download/kestrel.bundle.json", forger.bundle(vec![forger.claim("1.1", "zeros", SHA256)]));
    fs::File::create(lab.path("download/zeros")).unwrap().set_len(LENGTH).unwrap();
    let inner = lab.release();
    let mut command = program("/usr/bin/time");
    command.args(["-o", "memory", "-f", "%M"]).arg(inner.get_program()).current_dir(lab.path(""));
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    run(command.args(["verify", "--root", "trust/root.json", "download/zeros"])).exits(0).says("VERIFIED");
    let kibibytes: u64 = String::from_utf8(lab.read("memory")).unwrap().trim().parse().unwrap();
    assert!(kibibytes <= 32 << 10, "{kibibytes} KiB");
}
