//! Products and sources that change with the policy, which people sign as they sign changes
//! of keys.

use std::fs;

use super::ALICE;
use super::BOB;
use super::CAROL;
use super::REJECTED;
use super::WAITING;
use super::approve;
use crate::interop::ngclient;
use crate::support::Lab;
use crate::support::Said;
use crate::support::homes::three;

/// A second product, from the same source, whose tags somebody else signs.
const OSPREY: &str = r#"
[product.osprey]
source = "../source.git"
branch = "release/*"
tag = "osprey-{version}"
tag-signers = ["keys/osprey.allowed_signers"]
keys = ["alice-release", "bob-release", "carol-release"]
threshold = 2
rebuilds = 1
expires = "1y"
"#;

#[track_caller]
fn change(lab: &Lab, file: &str, variables: &[(&str, &str)]) -> Said {
    let yes = format!("--yes={}", lab.next_targets(ALICE));
    lab.with_keys_and(&["policy", "change", file, &yes], variables)
}

#[test]
fn a_product_comes_with_its_maintainers() {
    let lab = three(1);
    lab.release_first();
    for home in [BOB, CAROL] {
        lab.runs(&["import", "--from", "mirror", "--home", home]).exits(0);
    }
    let before = String::from_utf8(lab.read("home/policy.toml")).unwrap();
    let refused = |text: &str, code: i32, why: &str| {
        lab.write("draft/policy.toml", text);
        change(&lab, "draft/policy.toml", &[]).exits(code).says(why);
        assert_eq!(String::from_utf8(lab.read("home/policy.toml")).unwrap(), before, "{why}");
        let _ = lab.change("abandon");
    };
    refused(&before, 2, "says what the policy says already");
    refused(&format!("{before}\nsurprise = 1\n"), 1, "surprise");
    refused(&before.replace("product.kestrel", "product.merlin"), REJECTED, "it drops the product kestrel");
    let after = format!("{before}{OSPREY}").replace("tag = \"v{version}\"", "tag = \"kestrel-{version}\"");
    refused(&after, 1, "osprey.allowed_signers");
    lab.runs(&["policy", "change", "nothing.toml", "--yes=2"]).exits(1).says("there is no file nothing.toml");
    lab.runs(&["policy", "change", "a b.toml", "--yes=2"]).exits(2).says("without spaces");
    // One name, two files.
    lab.write("draft/keys/more/maintainers.allowed_signers", "other\n");
    let clash = after.replace("keys/osprey.allowed", "keys/more/maintainers.allowed");
    refused(&clash, 1, "two files of the policy have the name maintainers.allowed_signers, and differ");

    let noa = String::from_utf8(lab.read("policy/keys/maintainers.allowed_signers")).unwrap();
    let noa = noa.lines().find(|line| line.starts_with("noa")).unwrap().to_owned();
    lab.write("draft/policy.toml", &after);
    lab.write("draft/keys/osprey.allowed_signers", format!("{noa}\n"));
    let killed = change(&lab, "draft/policy.toml", &[("RELEASE_FAIL_AT", "amend.begun")]);
    assert_eq!(killed.code, None);
    let asked = change(&lab, "draft/policy.toml", &[]).exits(WAITING).says("targets   alice (2 needed)");
    asked.says("release policy change draft/policy.toml").does_not_say("root ");
    lab.runs(&["status"]).exits(0).says("is not finished: `release policy change draft/policy.toml`");
    lab.cut("1.1").exits(1).says("a change of the policy is not finished: `release policy change draft/policy.toml`");

    // Somebody whose maintainers are others notices.
    lab.carry(ALICE, CAROL).exits(0);
    let good = lab.read("home-carol/keys/maintainers.allowed_signers");
    lab.write("home-carol/keys/maintainers.allowed_signers", [good.as_slice(), b"# more\n"].concat());
    approve(&lab, CAROL, 2, &[]).exits(REJECTED).says("other files of maintainers");

    lab.carry(ALICE, BOB).exits(0);
    let shown = approve(&lab, BOB, 2, &[]).exits(0).says("To be signed: targets 2").says("+ [product.osprey]");
    let shown = shown.says("- tag = \"v{version}\"").says("+ tag = \"kestrel-{version}\"");
    shown.says("+ file keys/osprey.allowed_signers, SHA-256");
    lab.carry(BOB, ALICE).exits(0);
    change(&lab, "draft/policy.toml", &[]).exits(0).says("Done: root 1 and targets 2 hold from now on");
    assert_eq!(String::from_utf8(lab.read("home/policy.toml")).unwrap(), after);
    lab.all_users_follow(&["1.0"]);
    for home in [BOB, CAROL] {
        lab.runs(&["import", "--from", "mirror", "--home", home]).exits(0).says("policy.toml is now the one");
        assert_eq!(lab.read(&format!("{home}/keys/osprey.allowed_signers")), format!("{noa}\n").as_bytes());
    }
    assert_eq!(lab.read("home-carol/keys/maintainers.allowed_signers"), good, "what was signed holds");

    // Its maintainer signs its tags, and nobody else; it is released by two people.
    lab.tag_as("osprey-0.1", "mia");
    let cut = || lab.with_keys(&["cut", "osprey", "0.1", "--yes=0.1"]);
    cut().exits(REJECTED).says("is not signed by an enrolled maintainer");
    fs::remove_dir_all(lab.path("home/cuts")).unwrap();
    lab.tag_as("osprey-0.2", "noa");
    let cut = || lab.with_keys(&["cut", "osprey", "0.2", "--yes=0.2"]);
    cut().exits(WAITING);
    lab.carry(ALICE, BOB).exits(0);
    lab.with_keys(&["approve", "home-bob/inbox/osprey_0.2.request.json", "--yes=0.2", "--home", BOB]).exits(0);
    lab.carry(BOB, ALICE).exits(0);
    cut().exits(0);
    lab.verify(&["mirror"]).exits(0).says("osprey 0.2").says("kestrel 1.0");
}

/// The second product is there, and each home knows of it.
fn with_osprey() -> Lab {
    let lab = three(1);
    lab.release_first();
    let import = || {
        for home in [BOB, CAROL] {
            lab.runs(&["import", "--from", "mirror", "--home", home]).exits(0);
        }
    };
    import();
    let policy = String::from_utf8(lab.read("home/policy.toml")).unwrap() + OSPREY;
    lab.write("draft/policy.toml", policy.replace("\"keys/osprey.", "\"keys/maintainers."));
    change(&lab, "draft/policy.toml", &[]).exits(WAITING);
    lab.carry(ALICE, BOB).exits(0);
    approve(&lab, BOB, 2, &[]).exits(0);
    lab.carry(BOB, ALICE).exits(0);
    change(&lab, "draft/policy.toml", &[]).exits(0);
    import();
    lab
}

#[test]
fn two_products_wait_at_once_and_numbers_stay_right() {
    let lab = with_osprey();
    let cut = |product: &str, version: &str| lab.with_keys(&["cut", product, version, &format!("--yes={version}")]);
    let approved = |product: &str, version: &str| {
        lab.carry(ALICE, BOB).exits(0);
        let request = format!("home-bob/inbox/{product}_{version}.request.json");
        lab.with_keys(&["approve", &request, &format!("--yes={version}"), "--home", BOB]).exits(0);
        lab.carry(BOB, ALICE).exits(0);
    };
    // Two users who look after every step, and remember.
    let look = |products: &[(&str, &str)]| {
        let said = lab.verify(&["mirror"]).exits(0);
        let mut artifacts = Vec::new();
        for (product, version) in products {
            assert!(said.has(&format!("{product} {version}")), "{product} {version}: {said:?}");
            artifacts.push(format!("{product}/{version}/{product}-{version}"));
        }
        ngclient(&lab, "python-all-along", &artifacts).exits(0);
    };
    look(&[("kestrel", "1.0")]);
    for tag in ["v1.1", "v1.2", "osprey-0.1", "osprey-0.2"] {
        lab.tag_as(tag, "mia");
    }
    cut("kestrel", "1.1").exits(WAITING);
    cut("osprey", "0.1").exits(WAITING);
    look(&[("kestrel", "1.0")]);
    lab.with_keys(&["refresh"]).exits(0);
    look(&[("kestrel", "1.0")]);
    approved("kestrel", "1.1");
    approved("osprey", "0.1");
    // One is given up, though it was approved; the other one goes on.
    lab.runs(&["abandon", "kestrel", "1.1", "--yes=1.1"]).exits(0);
    cut("kestrel", "1.1").exits(1).says("was abandoned");
    cut("osprey", "0.1").exits(0);
    lab.runs(&["import", "--from", "mirror", "--home", BOB]).exits(0);
    look(&[("kestrel", "1.0"), ("osprey", "0.1")]);
    cut("kestrel", "1.2").exits(WAITING);
    cut("osprey", "0.2").exits(WAITING);
    lab.with_keys(&["refresh"]).exits(0);
    look(&[("kestrel", "1.0"), ("osprey", "0.1")]);
    approved("osprey", "0.2");
    approved("kestrel", "1.2");
    cut("kestrel", "1.2").exits(0);
    look(&[("kestrel", "1.2"), ("osprey", "0.1")]);
    cut("osprey", "0.2").exits(0);
    look(&[("kestrel", "1.0"), ("kestrel", "1.2"), ("osprey", "0.1"), ("osprey", "0.2")]);
    assert!(!lab.path("mirror/releases/kestrel/1.1").exists());
    // Each publication has the number after the one before it.
    let newest = (1..99).take_while(|n| lab.path(&format!("mirror/metadata/{n}.snapshot.json")).exists()).count();
    let timestamp: serde_json::Value = serde_json::from_slice(&lab.read("mirror/metadata/timestamp.json")).unwrap();
    assert_eq!(timestamp["signed"]["version"], newest);
    lab.runs(&["mirror", "audit", "here"]).exits(0);
}
