//! Mirrors that serve less than before, more than was released, or the wrong
//! project.

use std::fs;

use crate::support::Lab;
use crate::support::forge::Forger;
use crate::support::forge::value;

const REJECTED: i32 = 3;

#[test]
fn a_product_that_was_seen_cannot_disappear() {
    let lab = Lab::new();
    lab.runs(&["publish"]).exits(0);
    lab.verify(&["mirror"]).exits(1).says("holds no release yet").does_not_say("VERIFIED");
    lab.copy("mirror", "empty");
    lab.tag("1.0");
    lab.cut("1.0").exits(0);
    lab.verify(&["mirror"]).exits(0);
    lab.verify(&["empty"]).exits(REJECTED).says("was seen before").does_not_say("VERIFIED");
    let download = |from: &str| lab.runs(&["download", "kestrel", "--root", "trust/root.json", "--repository", from]);
    download("empty").exits(REJECTED);

    // The online key alone can seal a newer state without the product.
    let mut thief = Forger::new(&lab);
    thief.seal_without_product();
    thief.serve();
    lab.verify(&["mirror"]).exits(REJECTED).says("no longer lists kestrel.json");
    download("mirror").exits(REJECTED).says("no longer lists kestrel.json");
    let file = "home/repository/releases/kestrel/1.0/kestrel-1.0";
    lab.verify(&[file, "--repository", "mirror"]).exits(REJECTED).says("no longer lists kestrel.json");
    // Who has seen nothing is told that nobody speaks of what lies there.
    fs::remove_dir_all(lab.path("data")).unwrap();
    lab.verify(&["mirror"]).exits(1).says("releases/kestrel/1.0 is not released").says("holds no release yet");
}

#[test]
fn an_expired_mirror_without_a_release_is_stale() {
    let mut lab = Lab::new();
    lab.runs(&["publish"]).exits(0);
    lab.travel("+40d");
    lab.verify(&["mirror"]).exits(5).says("timestamp expired on").does_not_say("VERIFIED");
}

#[test]
fn nothing_hides_in_the_folder_of_a_repository() {
    let evil = [
        "setup.sh",
        "metadata/setup.sh",
        "bundles/setup.sh",
        "keys/setup.sh",
        "releases/kestrel/1.0/setup.sh",
        "targets/kestrel/1.0/setup.sh",
        "targets/policy/2/0000000000000000000000000000000000000000000000000000000000000000.policy.toml",
        "releases/kestrel/1.0/.hidden",
    ];
    for path in evil {
        let lab = Lab::released();
        lab.write(&format!("mirror/{path}"), "evil\n");
        lab.verify(&["mirror"]).exits(REJECTED).says("no metadata speaks of it").says(&path[..path.len().min(40)]);
    }
    // What a push brings first, or junk that looks like it.
    let lab = Lab::released();
    lab.write("mirror/releases/kestrel/9.9/kestrel-9.9", "evil\n");
    lab.verify(&["mirror"]).exits(0).says("releases/kestrel/9.9 is not released: do not use what lies there");
    // Four public files do not make a repository of a folder with something else.
    let lab = Lab::new();
    lab.runs(&["publish"]).exits(0);
    lab.copy("mirror/metadata", "metadata.copy");
    lab.write("got/kestrel-1.0", "evil\n");
    fs::rename(lab.path("metadata.copy"), lab.path("got/metadata")).unwrap();
    lab.verify(&["got"]).exits(REJECTED).does_not_say("VERIFIED");
    let lab = Lab::released();
    std::os::unix::fs::symlink("/etc/hostname", lab.path("mirror/releases/kestrel/1.0/link")).unwrap();
    lab.verify(&["mirror"]).exits(REJECTED).says("releases/kestrel/1.0/link");
}

#[test]
fn the_signed_policy_is_verified_too() {
    let lab = Lab::released();
    let folder = lab.path("mirror/targets/policy/1");
    let policy = folder.read_dir().unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&policy).unwrap();
    fs::write(&policy, "other\n").unwrap();
    lab.verify(&["mirror"]).exits(REJECTED).says("policy.toml");
}

#[test]
fn added_spaces_and_members_do_not_switch_memory_off() {
    for spoil in [|text: String| format!("{text}\n"), |text: String| text.replacen('{', "{\"x\":1.5,", 1)] {
        let lab = Lab::released();
        lab.copy("mirror", "old");
        lab.release_next("1.1");
        let path = lab.path("mirror/metadata/timestamp.json");
        let text = spoil(fs::read_to_string(&path).unwrap());
        fs::remove_file(&path).unwrap();
        fs::write(&path, text).unwrap();
        let said = lab.verify(&["mirror"]);
        if said.code == Some(0) {
            said.does_not_say("not remembered");
            lab.verify(&["old"]).exits(REJECTED).says("was seen before");
        } else {
            said.exits(REJECTED);
        }
    }
}

#[test]
fn a_download_comes_with_a_bundle_that_verifies_it() {
    let lab = Lab::released();
    let download =
        || lab.runs(&["download", "kestrel", "--root", "trust/root.json", "--repository", "mirror", "--to", "got"]);
    let bundle = lab.path("mirror/bundles/kestrel.bundle.json");
    let good = fs::read(&bundle).unwrap();
    for junk in [b"{}".to_vec(), good[..good.len() - 1].to_vec(), b"#!/bin/sh\n".to_vec()] {
        fs::write(&bundle, junk).unwrap();
        download().exits(REJECTED).says("bundles/kestrel.bundle.json");
        assert!(!lab.path("got/kestrel.bundle.json").exists());
    }
    fs::remove_file(&bundle).unwrap();
    download().exits(REJECTED).says("is missing");
    fs::write(&bundle, &good).unwrap();
    download().exits(0);
    lab.verify(&["--offline", "got"]).exits(0);
    let json = ["download", "kestrel", "--root", "trust/root.json", "--repository", "mirror", "--to", "got", "--json"];
    let facts = value(lab.runs(&json).exits(0).out.as_bytes());
    assert_eq!((facts["release"].as_str(), facts["files"][0]["verdict"].as_str()), (Some("1.0"), Some("VERIFIED")));
    // A bundle from before the release does not list it.
    lab.release_next("1.1");
    fs::write(&bundle, &good).unwrap();
    download().exits(REJECTED);
}

#[test]
fn a_downloaded_bundle_is_as_fresh_as_the_last_refresh() {
    let mut lab = Lab::released();
    lab.travel("+20d");
    lab.with_keys(&["refresh"]).exits(0);
    lab.travel("+40d");
    lab.runs(&["download", "kestrel", "--root", "trust/root.json", "--repository", "mirror", "--to", "got"]).exits(0);
    fs::remove_dir_all(lab.path("data")).unwrap();
    lab.verify(&["--offline", "got"]).exits(0);
}

#[test]
fn a_whole_release_folder_verifies_and_nothing_else_in_it() {
    let lab = Lab::released();
    lab.copy("mirror/releases/kestrel/1.0", "got");
    lab.verify(&["--offline", "got"]).exits(0).says("VERIFIED got/claim.alice.intoto.json").says("6 files");
    let all: Vec<String> =
        lab.path("got").read_dir().unwrap().map(|entry| entry.unwrap().path().display().to_string()).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    lab.verify(&all).exits(0).says("6 files");
    // What only looks like a bundle, or a claim, is refused.
    lab.write("got/setup.bundle.json", "#!/bin/sh\n");
    lab.verify(&["--offline", "got"]).exits(REJECTED).says("setup.bundle.json");
    fs::remove_file(lab.path("got/setup.bundle.json")).unwrap();
    lab.copy("got/claim.alice.intoto.json", "got/claim.bob.intoto.json");
    lab.verify(&["--offline", "got"]).exits(REJECTED).says("claim.bob.intoto.json");
    fs::remove_file(lab.path("got/claim.bob.intoto.json")).unwrap();
    let mut claim = value(&lab.read("got/claim.alice.intoto.json"));
    claim["payload"] = serde_json::json!("AAAA");
    fs::remove_file(lab.path("got/claim.alice.intoto.json")).unwrap();
    lab.write("got/claim.alice.intoto.json", claim.to_string());
    lab.verify(&["--offline", "got"]).exits(REJECTED).says("claim.alice.intoto.json");
}

#[test]
fn two_trusted_projects_with_one_product_need_a_word() {
    let lab = Lab::released();
    lab.with_keys(&[
        "init",
        "--home",
        "other",
        "--policy",
        "policy/policy.toml",
        "--software-keys",
        "--mirror",
        "o=hostile",
    ])
    .exits(0);
    lab.tag("1.1");
    lab.with_keys(&["cut", "--home", "other", "kestrel", "1.1", "--yes=1.1"]).exits(0);
    for root in ["other/repository/metadata/1.root.json", "trust/root.json"] {
        let fingerprint = release::manifest::Sha256::of(&lab.read(root)).to_string();
        lab.runs(&["trust", "add", root, "--fingerprint", &fingerprint]).exits(0);
    }
    lab.runs(&["verify", "mirror"]).exits(0);
    let said = "two projects that you trust have a product kestrel";
    lab.runs(&["download", "kestrel", "--repository", "hostile", "--to", "got"]).exits(2).says(said);
    lab.copy("hostile/releases/kestrel/1.1", "got");
    lab.runs(&["verify", "got"]).exits(2).says(said).says("--root");
    lab.verify(&["mirror"]).exits(0).says("project     ");
}

#[test]
fn a_folder_that_is_not_there_is_no_verdict() {
    let lab = Lab::released();
    lab.runs(&["download", "kestrel", "--root", "trust/root.json", "--repository", "nowhere"])
        .exits(1)
        .says("there is no folder nowhere");
    lab.runs(&["download", "falcon", "--root", "trust/root.json", "--repository", "mirror"])
        .exits(2)
        .says("has no product falcon")
        .says("it has kestrel");
}
