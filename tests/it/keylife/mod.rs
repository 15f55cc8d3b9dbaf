//! Keys that are rotated, revoked and stolen, people who come and go: after each change
//! old and new users get the right verdict, and what an old key signs counts for nothing.

mod apart;
mod openpgp;
mod policy;
mod story;
mod thief;
mod tokens;

use std::fmt::Write as _;
use std::fs;

use release::approve::Amendment;
use release::approve::Sent;
use release::home::failpoint::AMENDMENT;
use release::home::failpoint::CONSENT;
use release::key::Signer;
use release::key::SoftwareKey;
use release::key::ToSign;
use release::tuf::Draft;
use release::tuf::key;

use crate::interop::python_tuf_downloads;
use crate::resume::no_litter;
use crate::support::Lab;
use crate::support::Said;
use crate::support::homes::ALICE;
use crate::support::homes::BOB;
use crate::support::homes::CAROL;
use crate::support::homes::three;
use crate::support::terminal::at_a_terminal;

const REJECTED: i32 = 3;
const WAITING: i32 = 6;

impl Lab {
    /// The passphrases of keys that a change makes.
    fn expects(&self, keys: &[&str]) {
        let mut text = String::from_utf8(self.read("passphrases")).unwrap();
        for key in keys {
            writeln!(text, "{key} horse-{key}").unwrap();
        }
        self.write("passphrases", text);
    }

    /// The number that the next change gets.
    fn next_targets(&self, home: &str) -> usize {
        (1..99).find(|n| !self.path(&format!("{home}/repository/metadata/{n}.targets.json")).exists()).unwrap()
    }

    /// Changes keys in a home.
    #[track_caller]
    fn change_and(&self, words: &str, home: &str, variables: &[(&str, &str)]) -> Said {
        let yes = format!("--yes={}", self.next_targets(home));
        let mut arguments = vec!["key"];
        arguments.extend(words.split(' '));
        arguments.extend(["--software-keys", &yes, "--home", home]);
        if words == "abandon" {
            arguments = vec!["key", "abandon", "--home", home];
        }
        self.with_keys_and(&arguments, variables)
    }

    #[track_caller]
    fn change(&self, words: &str) -> Said {
        self.change_and(words, ALICE, &[])
    }

    /// Old and new users accept what is released.
    #[track_caller]
    fn all_users_follow(&self, versions: &[&str]) {
        // A new user, from the first root.
        self.verify(&["mirror"]).exits(0);
        self.verify(&["home/repository"]).exits(0);
        // A user who has verified before remembers, and follows.
        for version in versions {
            let file = self.download(version, &format!("kestrel-{version}"));
            self.verify(&[&file, "--repository", "mirror"]).exits(0).says("VERIFIED");
        }
        let _ = fs::remove_dir_all(self.path("python"));
        python_tuf_downloads(self, versions);
        self.runs(&["mirror", "audit", "here"]).exits(0);
    }

    /// A role of the mirror that a thief signs anew with the next number, by stolen keys.
    fn forge(&self, role: &str, home: &str, stolen: &[&str]) -> Vec<u8> {
        release::tuf::install_crypto();
        let number =
            (1..99).take_while(|n| self.path(&format!("mirror/metadata/{n}.{role}.json")).exists()).last().unwrap();
        let file = String::from_utf8(self.read(&format!("mirror/metadata/{number}.{role}.json"))).unwrap();
        let next = file.replace(&format!("\"version\":{number}"), &format!("\"version\":{}", number + 1));
        let mut draft = Draft::parse(role, next.as_bytes()).unwrap().without_signatures();
        assert_eq!(draft.number(), number + 1);
        for name in stolen {
            let path = self.path(&format!("{home}/keys/{name}.key"));
            let key = SoftwareKey::open(&name.parse().unwrap(), &path, &format!("horse-{name}")).unwrap();
            let id = key::identified(key.public()).unwrap().0;
            draft.add_signature(&id, &key.sign("forgery", ToSign::Message(&draft.canonical().unwrap())).unwrap());
        }
        let file = draft.to_file().unwrap();
        self.write(&format!("mirror/metadata/{}.{role}.json", number + 1), &file);
        file
    }
}

#[test]
fn root_keys_are_rotated_and_users_follow() {
    let lab = Lab::released();
    let seen = lab.download("1.0", "kestrel-1.0");
    lab.verify(&[&seen, "--repository", "mirror"]).exits(0);
    lab.expects(&["alice-root-2"]);
    let policy = String::from_utf8(lab.read("home/policy.toml")).unwrap();
    let done = lab.change("rotate alice-root").exits(0);
    let done = done.says("To be signed: root 2, targets 2").says("asked by  alice: rotate alice-root");
    let done = done.says("- alice-root = { holder = \"alice\", public = \"keys/alice-root.pem\" }");
    let done = done.says("+ alice-root-2 = { holder = \"alice\", public = \"keys/alice-root-2.pem\" }");
    let done = done.says("Tried  a new signature by alice-root counts for nothing in root");
    let done = done.says("Done: root 2 and targets 2 hold from now on").says("destroy them");
    done.says("home/keys/alice-root.key");
    // Cross-signed, by no more keys than must.
    let root: serde_json::Value = serde_json::from_slice(&lab.read("mirror/metadata/2.root.json")).unwrap();
    let signatures = root["signatures"].as_array().unwrap().len();
    assert!((2..=3).contains(&signatures), "{root}");
    // The rest of the policy is as it was written.
    let after = String::from_utf8(lab.read("home/policy.toml")).unwrap();
    assert_eq!(after.lines().count(), policy.lines().count());
    assert!(after.contains("# A demonstration: keys in files") && after.contains("threshold = 2, expires = \"1y\""));
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    assert!(terminal.contains("alice-root-2") && !terminal.contains("alice-root ="), "{terminal}");
    lab.all_users_follow(&["1.0"]);
    lab.release_next("1.1");
    // Again, and two at once: as many as must sign.
    lab.expects(&["alice-root-3", "bob-root-2", "alice-targets-2", "bob-targets-2"]);
    let done = lab.change("rotate alice-root-2 bob-root alice-targets bob-targets").exits(0);
    let done =
        done.says("by bob-root counts for nothing in root").says("by alice-targets counts for nothing in targets");
    done.says("root 3 and targets 3");
    let root: serde_json::Value = serde_json::from_slice(&lab.read("mirror/metadata/3.root.json")).unwrap();
    assert!(root["signatures"].as_array().unwrap().len() >= 3, "old and new ones: {root}");
    lab.all_users_follow(&["1.0", "1.1"]);
    // What the old keys sign is refused, by a new user and by one who remembers.
    let honest = lab.twin();
    lab.forge("root", "home", &["alice-root", "bob-root"]);
    lab.verify(&["mirror"]).exits(REJECTED);
    lab.verify(&[&seen, "--repository", "mirror"]).exits(REJECTED);
    // The control: by keys that count, it is accepted.
    honest.forge("root", "home", &["alice-root-3", "bob-root-2"]);
    honest.verify(&["mirror"]).exits(0);
    // A mirror with such junk is mended.
    lab.with_keys(&["refresh"]).exits(0);
    lab.all_users_follow(&["1.0", "1.1"]);
}

#[test]
fn release_keys_are_rotated_and_old_releases_stay() {
    let lab = Lab::released();
    lab.expects(&["alice-release-2", "alice-2-claim", "online-2"]);
    let done = lab.change("rotate alice-release alice-claim online").exits(0);
    let done = done.says("To be signed: root 2, targets 2, kestrel 2").says("counts for nothing in kestrel");
    done.says("what was signed by online counts for nothing in timestamp");
    lab.all_users_follow(&["1.0"]);
    let json: serde_json::Value = serde_json::from_str(&lab.verify(&["--json", "mirror"]).exits(0).out).unwrap();
    assert_eq!(json["files"][0]["built_by"], serde_json::json!(["alice"]), "the claim by the old key counts");
    lab.expects(&[]);
    lab.release_next("1.1");
    lab.all_users_follow(&["1.0", "1.1"]);
    // A manifest by the old key and another one.
    lab.twin().forge("kestrel", "home", &["alice-release-2", "bob-release"]);
    let journal = String::from_utf8(lab.read("home/journal.jsonl")).unwrap();
    assert!(journal.contains("\"kind\":\"amend\"") && journal.contains("\"what\":\"kestrel 2\""));
}

#[test]
fn a_stolen_token_is_revoked() {
    let lab = Lab::released();
    let seen = lab.download("1.0", "kestrel-1.0");
    lab.verify(&[&seen, "--repository", "mirror"]).exits(0);
    let done = lab.change("revoke alice-root alice-targets alice-release alice-claim").exits(0);
    done.says("To be signed: root 2, targets 2, kestrel 2").says("by alice-release counts for nothing in kestrel");
    lab.all_users_follow(&["1.0"]);
    // The others go on, and she is not asked.
    lab.release_next("1.1");
    lab.verify(&["mirror"]).exits(0).says("bob, carol (2 of 2; 2 needed)");
    lab.all_users_follow(&["1.0", "1.1"]);
    for role in ["root", "targets", "kestrel"] {
        let purpose = if role == "kestrel" { "release" } else { role };
        let thief = lab.twin();
        thief.forge(role, "home", &[&format!("alice-{purpose}"), &format!("bob-{purpose}")]);
        if role == "root" {
            thief.verify(&["mirror"]).exits(REJECTED);
            thief.verify(&[&seen, "--repository", "mirror"]).exits(REJECTED);
        }
    }
    // She gets a new token.
    lab.change("remove-holder alice").exits(0);
    lab.expects(&["alice-root-2", "alice-targets-2", "alice-release-2", "alice-2-claim"]);
    lab.change("add-holder alice").exits(0).says("+ alice-2-claim");
    lab.all_users_follow(&["1.0", "1.1"]);
}

#[test]
fn people_come_and_go_and_thresholds_change() {
    let lab = Lab::released();
    lab.expects(&["dave-root", "dave-targets", "dave-release", "dave-claim"]);
    lab.change("add-holder dave").exits(0).says("+ dave = \"dave\"");
    lab.all_users_follow(&["1.0"]);
    lab.change("set-threshold root 3").exits(0).says("root 3 and targets 3");
    lab.change("set-threshold kestrel 3").exits(0).says("kestrel 2");
    lab.all_users_follow(&["1.0"]);
    lab.release_next("1.1");
    lab.verify(&["mirror"]).exits(0).says("3 of 4");
    lab.change("set-threshold root 2").exits(0);
    lab.change("remove-holder carol").exits(0);
    lab.all_users_follow(&["1.0", "1.1"]);
    lab.change("renew").exits(0).says("nothing: only dates are new").says("root 6 and targets 7");
    lab.all_users_follow(&["1.0", "1.1"]);
    let told = lab.change("set-threshold root 9").exits(2);
    told.says("`root` has 3 keys, and 9 must sign");
}

#[test]
fn changes_that_make_no_sense_sign_nothing() {
    let lab = Lab::released();
    let before = (lab.read("home/journal.jsonl"), lab.read("home/policy.toml"), lab.read("home/terminal.toml"));
    for (words, code, why) in [
        ("rotate nobody-root", 2, "the policy has no key `nobody-root`"),
        ("revoke alice-root bob-root", 2, "`root` has 1 key left, and 2 must sign"),
        ("revoke online", 2, "`online` is the online key"),
        ("remove-holder dave", 2, "the policy has no holder `dave`"),
        ("add-holder alice", 2, "the policy has a holder `alice` already"),
        ("set-threshold root 4", 2, "`root` has 3 keys, and 4 must sign"),
        ("set-threshold root 2", 2, "the threshold of `root` is 2 already"),
        ("set-threshold root 1", 2, "needs no second person"),
        ("set-threshold osprey 2", 2, "`osprey` is neither"),
        ("revoke alice-claim", 1, "has no claim key"),
        ("abandon", 2, "no change of keys is begun"),
    ] {
        lab.change(words).exits(code).says(why);
        assert!(!lab.path("home/amendment/begun.json").exists(), "{words}");
    }
    lab.with_keys(&["key", "rotate", "alice-root", "--yes=9"])
        .exits(2)
        .says("--yes names number 9, and the next one is 2");
    lab.with_keys(&["key", "rotate", "alice-root"]).exits(2).says("no terminal to confirm on");
    assert_eq!(before, (lab.read("home/journal.jsonl"), lab.read("home/policy.toml"), lab.read("home/terminal.toml")));
    // Without software keys, people make them in tokens.
    let made = lab.with_keys(&["key", "rotate", "alice-root", "--yes=2"]).exits(1);
    made.says("nobody has made these keys yet: alice-root-2").says("release key generate --holder NAME");
    lab.change("rotate bob-root").exits(1).says("another change is not finished: `release key rotate alice-root`");
    lab.tag("1.1");
    lab.cut("1.1").exits(1).says("a change of the policy is not finished");
    lab.change("abandon").exits(0).says("Gave up `release key rotate alice-root`");
    lab.cut("1.1").exits(0);
    let (code, screen) = at_a_terminal(&lab, "release key set-threshold root 3", |_| "\n".to_owned());
    assert_eq!(code, 1, "{screen}");
    assert!(screen.contains("nothing was signed"), "{screen}");
    lab.change("abandon").exits(0);
    lab.verify(&["mirror"]).exits(0);
}

/// alice asks, and bob answers.
#[track_caller]
fn approve(lab: &Lab, home: &str, number: u64, variables: &[(&str, &str)]) -> Said {
    let (path, yes) = (format!("{home}/inbox/policy_{number}.request.json"), format!("--yes={number}"));
    lab.with_keys_and(&["approve", &path, &yes, "--home", home], variables)
}

#[test]
fn two_terminals_rotate_a_key() {
    let lab = three(1);
    lab.release_first();
    for home in [BOB, CAROL] {
        lab.runs(&["import", "--from", "mirror", "--home", home]).exits(0);
    }
    lab.expects(&["alice-root-2", "alice-release-2"]);
    let asked = lab.change("rotate alice-root alice-release").exits(WAITING).says("WAITING for other people");
    let asked = asked.says("root      alice (2 needed)").says("kestrel   alice (2 needed)");
    asked.says("home/outbox/policy_2.request.json").says("release key rotate alice-root alice-release");
    let journal = String::from_utf8(lab.read("home/journal.jsonl")).unwrap();
    assert!(!journal.contains("\"what\":\"root 2\""), "the starter signs last");
    // Her own approval counts for nothing.
    let own = lab.with_keys(&["approve", "home/outbox/policy_2.request.json", "--yes=2"]).exits(REJECTED);
    own.says("alice has started");
    lab.carry(ALICE, BOB).exits(0).says("message   policy_2.request.json");
    let shown = approve(&lab, BOB, 2, &[]).exits(0).says("asked by  alice: rotate alice-root alice-release");
    let shown = shown.says("+ alice-root-2 =").says("by        bob-release, bob-root, bob-targets");
    shown.says("home-bob/outbox/policy_2_bob.approval.json");
    lab.change("rotate alice-root alice-release").exits(WAITING);
    lab.carry(BOB, ALICE).exits(0);
    lab.change("rotate alice-root alice-release").exits(0).says("by alice, bob").says("root 2 and targets 2");
    lab.all_users_follow(&["1.0"]);
    // The other homes follow by an import, and only then go on.
    lab.tag_next("1.1");
    lab.ask("1.1", BOB);
    lab.approve(BOB, "1.1").exits(REJECTED).says("follows another policy");
    let told = lab.runs(&["import", "--from", "mirror", "--home", BOB]).exits(0);
    told.says("policy.toml is now the one that was signed last");
    lab.approve(BOB, "1.1").exits(0);
    lab.carry(BOB, ALICE).exits(0);
    lab.cut("1.1").exits(0);
    lab.all_users_follow(&["1.0", "1.1"]);
}

#[test]
fn requests_that_nobody_should_sign_are_refused() {
    let lab = three(0);
    lab.expects(&["alice-root-2", "bob-root-2"]);
    lab.change("rotate alice-root").exits(WAITING);
    lab.carry(ALICE, BOB).exits(0);
    lab.carry(ALICE, CAROL).exits(0);
    // An altered request.
    let file = lab.read("home-bob/inbox/policy_2.request.json");
    for at in [file.len() / 3, file.len() / 2, file.len() - 20] {
        let mut altered = file.clone();
        altered[at] ^= 1;
        lab.write("altered.request.json", altered);
        let refused = lab.with_keys(&["approve", "altered.request.json", "--yes=2", "--home", BOB]);
        assert!([1, 3].contains(&refused.code.unwrap()), "{refused:?}");
    }
    lab.assert_signed_nothing(BOB);
    approve(&lab, BOB, 2, &[]).exits(0);
    // carol starts another change under the same number; bob has signed root 2.
    lab.give_online_key(CAROL);
    lab.change_and("set-threshold targets 3", CAROL, &[]).exits(WAITING);
    lab.carry(CAROL, BOB).exits(0);
    let second = approve(&lab, BOB, 2, &[]).exits(REJECTED);
    second.says("targets 2").says("it will not sign");
    // bob's answer is none to carol's request.
    lab.carry(BOB, CAROL).exits(0);
    lab.change_and("set-threshold targets 3", CAROL, &[]).exits(WAITING).says("it answers request");
    lab.change_and("abandon", CAROL, &[]).exits(0);
    // The same person twice is one.
    lab.carry(BOB, ALICE).exits(0);
    lab.change("rotate alice-root").exits(0);
    lab.verify(&["mirror"]).exits(1).says("it holds no release");
    // A request from before is stale now.
    lab.runs(&["import", "--from", "mirror", "--home", CAROL]).exits(0);
    approve(&lab, CAROL, 2, &[]).exits(REJECTED).says("follows another policy");
}

#[test]
fn a_killed_change_is_finished() {
    let mut steps: Vec<&str> =
        AMENDMENT.iter().filter(|step| **step != "amend.gathered" && **step != "amend.asked").copied().collect();
    steps.extend(["amend.signed:3", "seal.begun", "seal.snapshot", "seal.timestamp", "seal.checked", "seal.linked"]);
    steps.extend(["seal.recorded", "publish.begun", "publish.pointer", "publish.timestamp", "publish.recorded"]);
    for step in steps {
        let lab = Lab::released();
        lab.expects(&["alice-root-2", "alice-release-2"]);
        let words = "rotate alice-root alice-release";
        let killed = lab.change_and(words, ALICE, &[("RELEASE_FAIL_AT", step)]);
        assert_eq!(killed.code, None, "{step}: {killed:?}");
        let again = lab.with_keys(&["key", "rotate", "alice-root", "alice-release", "--software-keys", "--yes=2"]);
        again.exits(0).says("root 2 and targets 2");
        lab.verify(&["mirror"]).exits(0);
        lab.verify(&["home/repository"]).exits(0);
        no_litter(&lab.path("home/publications"));
        assert!(!lab.path("home/amendment").exists(), "{step}");
        lab.runs(&["status"]).exits(0);
    }
}

#[test]
fn a_killed_request_and_consent_are_finished() {
    let ready = three(0);
    for (step, who) in [
        ("amend.asked", ALICE),
        ("amend.noted", BOB),
        ("amend.key-asked", BOB),
        ("amend.signed", BOB),
        ("amend.signed:2", BOB),
        ("amend.consented", BOB),
        ("amend.gathered", "last"),
        ("amend.signed", "last"),
    ] {
        assert!(AMENDMENT.contains(&step.trim_end_matches(":2")) || CONSENT.contains(&step));
        let lab = ready.twin();
        lab.expects(&["alice-root-2"]);
        let kill = |this: &str| if who == this { vec![("RELEASE_FAIL_AT", step)] } else { Vec::new() };
        if who == ALICE {
            assert_eq!(lab.change_and("rotate alice-root", ALICE, &kill(ALICE)).code, None, "{step}");
        }
        lab.change("rotate alice-root").exits(WAITING);
        lab.carry(ALICE, BOB).exits(0);
        if who == BOB {
            assert_eq!(approve(&lab, BOB, 2, &kill(BOB)).code, None, "{step}");
        }
        approve(&lab, BOB, 2, &[]).exits(0);
        lab.carry(BOB, ALICE).exits(0);
        if who == "last" {
            assert_eq!(lab.change_and("rotate alice-root", ALICE, &kill("last")).code, None, "{step}");
        }
        lab.change("rotate alice-root").exits(0);
    }
}

#[test]
fn a_stolen_online_key_is_recovered_from() {
    let lab = Lab::released();
    let seen = lab.download("1.0", "kestrel-1.0");
    // The thief counts far ahead.
    release::tuf::install_crypto();
    let path = lab.path("home/keys/online.key");
    let online = SoftwareKey::open(&"online".parse().unwrap(), &path, "horse-online").unwrap();
    let id = key::identified(online.public()).unwrap().0;
    let sign = |role: &str, text: String| {
        let mut draft = Draft::parse(role, text.as_bytes()).unwrap().without_signatures();
        draft.add_signature(&id, &online.sign("x", ToSign::Message(&draft.canonical().unwrap())).unwrap());
        draft.to_file().unwrap()
    };
    let snapshot = String::from_utf8(lab.read("mirror/metadata/2.snapshot.json")).unwrap();
    let snapshot = sign(
        "snapshot",
        snapshot.replace("\"version\":2,", "\"version\":9000,").replace("\"version\":2}", "\"version\":9000}"),
    );
    lab.write("mirror/metadata/9000.snapshot.json", &snapshot);
    let mut timestamp: serde_json::Value = serde_json::from_slice(&lab.read("mirror/metadata/timestamp.json")).unwrap();
    timestamp["signed"]["version"] = 9000.into();
    let meta = &mut timestamp["signed"]["meta"]["snapshot.json"];
    meta["version"] = 9000.into();
    meta["length"] = snapshot.len().into();
    meta["hashes"]["sha256"] = release::manifest::Sha256::of(&snapshot).to_string().into();
    let text = String::from_utf8(release::manifest::json::to_vec(&timestamp).unwrap()).unwrap();
    lab.write("mirror/metadata/timestamp.json", sign("timestamp", text));
    // Users see that, and remember it.
    lab.verify(&[&seen, "--repository", "mirror"]).exits(0);
    lab.with_keys(&["refresh"]).exits(1).says("older than the world");
    lab.expects(&["online-2"]);
    lab.change("recover").exits(0).says("what was signed by online counts for nothing in timestamp");
    lab.verify(&[&seen, "--repository", "mirror"]).exits(0);
    lab.runs(&["mirror", "audit", "here"]).exits(REJECTED).says("metadata/9000.snapshot.json: nobody has published it");
    fs::remove_file(lab.path("mirror/metadata/9000.snapshot.json")).unwrap();
    lab.all_users_follow(&["1.0"]);
    lab.release_next("1.1");
    lab.all_users_follow(&["1.0", "1.1"]);
}

#[test]
fn what_expires_is_shown_and_renewed() {
    let mut lab = Lab::released();
    let shown = lab.runs(&["status"]).exits(0).says("root  renewed by 2 of alice, bob, carol: `release key renew`");
    shown.says("releases of kestrel").says("the seal  renewed by `release refresh`");
    lab.travel("+300d");
    lab.with_keys(&["refresh", "--today", &today(300)]).exits(0);
    lab.tag("1.1");
    let warned =
        lab.runs(&["cut", "1.1", "--dry-run"]).exits(0).says("root expires on").says("`release key renew` renews it");
    warned.says("targets expires on");
    lab.runs(&["status"]).exits(0).says("root  due");
    lab.change("renew").exits(0).says("To be signed: root 2, targets 2, kestrel 2");
    lab.runs(&["status"]).exits(0).does_not_say("root  due");
    lab.all_users_follow(&["1.0"]);
}

/// The date in so many days.
fn today(days: i64) -> String {
    let at = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(24 * days)).unwrap();
    at.strftime("%Y-%m-%d").to_string()
}

#[test]
fn a_cut_looks_ahead_to_the_next_release() {
    let lab = Lab::new();
    fs::remove_dir_all(lab.path("home")).unwrap();
    let policy = String::from_utf8(lab.read("policy/policy.toml")).unwrap();
    lab.write("policy/policy.toml", policy.replace("# next-release = \"120d\"", "next-release = \"2y\""));
    lab.with_keys(&["init", "--policy", "policy/policy.toml", "--software-keys", "--mirror", "here=mirror"]).exits(0);
    lab.tag("1.0");
    let refused = lab.cut("1.0").exits(1).says("root expires on").says("the policy has the next release on");
    refused.says("release key renew").does_not_say("Fetched");
    lab.assert_nothing_published();
}

#[test]
fn a_killed_push_shows_the_old_keys_or_the_new() {
    let words = "rotate alice-root alice-targets online";
    let (mut pushed, mut between) = (false, 0);
    for n in 1..20 {
        let lab = Lab::released();
        lab.expects(&["alice-root-2", "alice-targets-2", "online-2"]);
        let killed = lab.change_and(words, ALICE, &[("RELEASE_FAIL_AT", &format!("publish.pointer:{n}"))]);
        if killed.code.is_some() {
            pushed = true;
            break;
        }
        // Only between the root and the timestamp nobody can know.
        let code = lab.verify(&["mirror"]).code;
        between += u32::from(code == Some(REJECTED));
        assert!([Some(0), Some(REJECTED)].contains(&code));
        lab.with_keys(&["publish"]).exits(0);
        lab.verify(&["mirror"]).exits(0);
    }
    assert!(pushed && between <= 1, "{between}");
}

#[test]
fn every_change_is_rehearsed() {
    let lab = Lab::released();
    let (journal, policy) = (lab.read("home/journal.jsonl"), lab.read("home/policy.toml"));
    let said = lab.runs(&["key", "drill"]).exits(0).says("A drill: the keys that are made now are thrown away");
    for (case, command) in [
        ("one key is rotated", "rotate alice-root`"),
        ("a whole threshold is rotated", "rotate "),
        ("a token is stolen", "revoke "),
        ("a person comes", "add-holder drill-guest"),
        ("a person goes", "remove-holder drill-guest"),
        ("the online key is stolen", "recover"),
        ("everything is about to expire", "renew"),
    ] {
        assert!(said.has(&format!("{case}: `release key {command}")), "{case}: {said:?}");
    }
    assert_eq!((journal, policy), (lab.read("home/journal.jsonl"), lab.read("home/policy.toml")));
    lab.runs(&["key", "drill", "--token", "7"]).exits(2).says("--holder");
}

/// alice's claim key is stolen; the thief asks bob for what he should not sign.
#[test]
fn a_forged_request_is_refused() {
    let lab = three(0);
    lab.expects(&["alice-root-2"]);
    lab.change("rotate alice-root").exits(WAITING);
    lab.carry(ALICE, BOB).exits(0);
    let honest = Sent::<Amendment>::parse(&lab.read("home-bob/inbox/policy_2.request.json")).unwrap().message;
    release::tuf::install_crypto();
    let path = lab.path("home/keys/alice-claim.key");
    let claim = SoftwareKey::open(&"alice-claim".parse().unwrap(), &path, "horse-alice-claim").unwrap();
    let id = key::identified(claim.public()).unwrap().0;
    let pem = honest.files.values().next().unwrap();
    let forge = |change: &dyn Fn(&mut Amendment)| {
        let mut message = honest.clone();
        change(&mut message);
        let yes = format!("--yes={}", message.number);
        let (sent, bytes) = Sent::new(message).unwrap();
        lab.write("forged.json", sent.seal(&id, &claim.sign("x", ToSign::Message(&bytes)).unwrap()).unwrap());
        lab.with_keys(&["approve", "forged.json", &yes, "--home", BOB])
    };
    let brings = |name: &str| {
        let name = name.to_owned();
        forge(&|amendment| drop(amendment.files.insert(name.clone(), pem.clone())))
    };
    for name in ["policy.toml", "../journal.jsonl", "keys/online.key", "/etc/passwd"] {
        brings(name).exits(REJECTED).says("no key of the new policy has such a file");
    }
    brings("keys/bob-root.pem").exits(REJECTED).says("it would replace another one");
    let other = "this terminal computes other metadata from it";
    let wrong = release::manifest::Sha256::of(b"x");
    let other_digest = |role: &str| {
        forge(&|amendment| {
            amendment.roles.insert(role.to_owned(), wrong);
        })
    };
    other_digest("root").exits(REJECTED).says(other);
    other_digest("kestrel").exits(REJECTED).says(other);
    forge(&|amendment| amendment.policy = amendment.policy.replace("threshold = 2", "threshold = 1"))
        .exits(REJECTED)
        .says(other);
    forge(&|amendment| amendment.roles.retain(|role, _| role != "root")).exits(REJECTED).says("makes no new root");
    forge(&|amendment| amendment.number = 3).exits(REJECTED).says("the request is stale");
    forge(&|amendment| amendment.follows = wrong).exits(REJECTED).says("follows another policy");
    forge(&|amendment| amendment.starter = "carol".parse().unwrap()).exits(REJECTED).says("is signed by the claim key");
    forge(&|amendment| amendment.at += jiff::SignedDuration::from_hours(1)).exits(1).says("the clock says");
    forge(&|amendment| amendment.files.clear()).exits(1).says("alice-root-2.pem");
    let journal = String::from_utf8(lab.read("home-bob/journal.jsonl")).unwrap();
    assert!(!journal.contains("\"what\":\"root 2\"") && !journal.contains("\"what\":\"targets 2\""), "{journal}");
    approve(&lab, BOB, 2, &[]).exits(0);
    lab.carry(BOB, ALICE).exits(0);
    lab.change("rotate alice-root").exits(0);
}
