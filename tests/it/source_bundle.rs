//! Source from a git bundle that a medium brought. It is trusted as little as a
//! host, and cannot be talked to.

use crate::remote::dry_run;
use crate::remote::fetching;
use crate::remote::make_bundle;
use crate::remote::provenance;
use crate::support::Lab;
use crate::support::Said;
use crate::support::run;
use crate::support::server::GIT_HOST;

const FAILED: i32 = 1;
const REJECTED: i32 = 3;

/// A laboratory whose host cannot be reached, with the tag of 1.0.
fn offline_lab() -> Lab {
    let lab = Lab::new();
    lab.tag("1.0");
    fetching(
        lab,
        &format!("https://{GIT_HOST}/kestrel.git"),
        "[[source]]\nhost = \"git.kestrel.example\"\naddress = [\"127.0.0.1\"]",
    )
}

const BUNDLE: &str = "home/inbox/kestrel-1.0.git.bundle";

#[test]
fn a_release_is_cut_from_a_bundle_that_a_medium_brought() {
    let lab = offline_lab();
    dry_run(&lab)
        .exits(FAILED)
        .says("cannot fetch from https://git.kestrel.example/kestrel.git at 127.0.0.1")
        .says("release cut kestrel 1.0 --dry-run");
    make_bundle(&lab, "1.0", &["refs/tags/v1.0", "refs/heads/release/1"]);
    dry_run(&lab).exits(0).says("brought   by a medium").says("inbox/kestrel-1.0.git.bundle");
    lab.begin("1.0");
    let said = lab.cut("1.0").exits(0);
    said.says("tag signed by mia@kestrel.example, from inbox/kestrel-1.0.git.bundle");
    lab.verify(&["mirror"]).exits(0).says("VERIFIED");
    assert!(provenance(&lab).contains("\"git+https://git.kestrel.example/kestrel.git\""));
}

#[test]
fn a_bundle_gives_no_more_trust_than_a_host() {
    let lab = offline_lab();
    let both = ["refs/tags/v1.0", "refs/heads/release/1"];
    let refused = |why: &str| {
        let said = lab.cut("1.0").exits(REJECTED).says(why).says("nothing was built or signed");
        lab.assert_nothing_published();
        let journal = String::from_utf8(lab.read("home/journal.jsonl")).unwrap();
        assert!(!journal.contains("\"kind\":\"pin\""), "pinned: {journal}");
        said
    };
    // Without the tag; with the tag of another version under its name; unsigned.
    make_bundle(&lab, "1.0", &both[1..]);
    let about_bundle =
        |said: Said| said.says("release import DIR").says("rm ").does_not_say("git tag").does_not_say("abandon");
    about_bundle(refused("the bundle has no tag \"v1.0\"")).does_not_say("the source has");
    make_bundle(&lab, "1.0", &both[..1]);
    about_bundle(refused("is not the head of a branch"));
    let original = run(lab.git("work").args(["rev-parse", "v1.0"])).exits(0).out;
    lab.tag("0.9");
    let old = run(lab.git("work").args(["rev-parse", "v0.9"])).exits(0).out;
    run(lab.git("source.git").args(["update-ref", "refs/tags/v1.0", old.trim()])).exits(0);
    make_bundle(&lab, "1.0", &both);
    refused("is really tag \"v0.9\"");
    run(lab.git("source.git").args(["update-ref", "refs/tags/v1.0", original.trim()])).exits(0);
    // A thin bundle needs what the home does not have.
    lab.write("work/notes", "later\n");
    lab.commit("later");
    lab.tag("1.1");
    lab.write("medium/kestrel-1.1.git.bundle", "");
    run(lab
        .git("source.git")
        .args(["bundle", "create", "--quiet"])
        .arg(lab.path("medium/kestrel-1.1.git.bundle"))
        .args(["refs/tags/v1.1", "refs/heads/release/1", "^refs/tags/v1.0"]))
    .exits(0);
    lab.runs(&["import", "medium"]).exits(0);
    let said =
        lab.with_keys(&["cut", "kestrel", "1.1", "--yes=1.1"]).exits(REJECTED).says("lacks these prerequisite commits");
    said.says("nothing was built or signed").says("release import DIR").says("rm ");
    lab.push("+v1.0^{commit}:refs/heads/release/1");
    // Unknown capabilities of version 3.
    make_bundle(&lab, "1.0", &both);
    let good = lab.read(BUNDLE);
    let rest = good.strip_prefix(b"# v2 git bundle\n").unwrap();
    lab.write(BUNDLE, [b"# v3 git bundle\n@unheard-of=1\n", rest].concat());
    refused("unknown capability");
    // As it was.
    lab.write(BUNDLE, &good);
    lab.cut("1.0").exits(0);
}

#[test]
fn a_bundle_that_lacks_what_is_pinned_is_at_fault_itself() {
    let lab = offline_lab();
    let both = ["refs/tags/v1.0", "refs/heads/release/1"];
    make_bundle(&lab, "1.0", &both);
    let good = lab.read(BUNDLE);
    lab.begin("1.0");
    make_bundle(&lab, "1.0", &both[..1]);
    let refused = |why: &str| {
        let said = lab.cut("1.0").exits(REJECTED).says(why).says("release import DIR").says("rm ");
        said.says("nothing was").does_not_say("abandon").does_not_say("git tag").does_not_say("the source now");
        lab.assert_nothing_published();
    };
    refused("the bundle has no branch release/1 any more; this cut has pinned ");
    lab.write(BUNDLE, &good[..100]);
    refused("what came from bundle ");
    lab.write(BUNDLE, &good);
    lab.cut("1.0").exits(0);
}

#[test]
fn a_bundle_with_any_byte_changed_or_missing_pins_nothing_else() {
    let lab = offline_lab();
    make_bundle(&lab, "1.0", &["refs/tags/v1.0", "refs/heads/release/1"]);
    let good = lab.read(BUNDLE);
    let pin = |said: &Said| serde_json::from_str::<serde_json::Value>(&said.out).unwrap()["dry_run"]["pin"].clone();
    let fetch = || lab.runs(&["cut", "kestrel", "1.0", "--dry-run", "--json"]);
    let expected = pin(&fetch().exits(0));
    let header = good.windows(2).position(|pair| pair == b"\n\n").unwrap() + 2;
    let flips =
        [0, 3, 16, 20, 58, 64, header - 2, header - 1, header, header + 4, header + 11, header + 12, header + 20];
    let middle = (1..12).map(|part| header + (good.len() - header) * part / 12);
    let mut refused = 0;
    for at in flips.into_iter().chain(middle).chain([good.len() - 20, good.len() - 1]) {
        let mut changed = good.clone();
        changed[at] ^= 1;
        lab.write(BUNDLE, &changed);
        let said = fetch();
        // A branch under another name is for the source to say.
        if said.code == Some(0) {
            let mut found = pin(&said);
            found["branch"] = expected["branch"].clone();
            assert_eq!(found, expected, "byte {at}");
            assert!(at < header, "byte {at}");
        } else {
            said.exits(REJECTED);
            refused += 1;
        }
    }
    assert!(refused > 20, "{refused}");
    for length in [0, 10, header - 1, header, header + 12, good.len() / 2, good.len() - 20, good.len() - 1] {
        lab.write(BUNDLE, &good[..length]);
        fetch().exits(REJECTED);
    }
    lab.write(BUNDLE, &good);
    lab.cut("1.0").exits(0);
}
