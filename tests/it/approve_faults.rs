//! Approvals among terminals that lie, media that change what they carry, and commands
//! that are killed at any step.

use std::collections::BTreeMap;
use std::fs;

use release::approve::Approval;
use release::approve::Message;
use release::approve::Request;
use release::approve::Sent;
use release::home::failpoint::APPROVAL;
use release::home::failpoint::REQUEST;
use release::key::Signer;
use release::key::SoftwareKey;
use release::key::ToSign;
use release::manifest::Sha256;
use release::manifest::dsse::Envelope;
use release::tuf::Draft;
use release::tuf::key;
use serde_json::Value;
use serde_json::json;

use crate::resume::no_litter;
use crate::support::Lab;
use crate::support::forge::Forger;
use crate::support::homes::ALICE;
use crate::support::homes::BOB;
use crate::support::homes::request;
use crate::support::homes::three;

const REJECTED: i32 = 3;
const WAITING: i32 = 6;

/// Somebody's stolen key, with its TUF id.
fn stolen(lab: &Lab, home: &str, name: &str) -> (String, SoftwareKey) {
    release::tuf::install_crypto();
    let path = lab.path(&format!("{home}/keys/{name}.key"));
    let stolen = SoftwareKey::open(&name.parse().unwrap(), &path, &format!("horse-{name}")).unwrap();
    (key::identified(stolen.public()).unwrap().0, stolen)
}

fn sign(key: &SoftwareKey, message: &[u8]) -> Vec<u8> {
    key.sign("forgery", ToSign::Message(message)).unwrap()
}

/// A message file, signed by this key.
fn message<M: Message>(message: M, (keyid, key): &(String, SoftwareKey)) -> Vec<u8> {
    let (sent, bytes) = Sent::new(message).unwrap();
    sent.seal(keyid, &sign(key, &bytes)).unwrap()
}

/// A claim that says something else than it did.
fn claim(claim: &Envelope, (keyid, key): &(String, SoftwareKey), change: impl Fn(&mut Value)) -> Envelope {
    let mut statement: Value = serde_json::from_slice(&claim.payload().unwrap()).unwrap();
    change(&mut statement);
    let mut forged = Envelope::new(&release::manifest::json::to_vec(&statement).unwrap());
    let signature = sign(key, &forged.signed_bytes().unwrap());
    forged.add_signature(keyid, &signature);
    forged
}

fn read<M: Message>(lab: &Lab, path: &str) -> M {
    Sent::<M>::parse(&lab.read(path)).unwrap().message
}

/// 1.0 is released by alice and bob, and alice asks bob for 1.1.
fn second_asked() -> Lab {
    static READY: std::sync::OnceLock<Lab> = std::sync::OnceLock::new();
    let ready = READY.get_or_init(|| {
        let lab = three(1);
        lab.release_first();
        lab.runs(&["import", "--from", "mirror", "--home", BOB]).exits(0);
        fs::remove_file(lab.path("home-bob/outbox/kestrel_1.0_bob.approval.json")).unwrap();
        lab.tag_next("1.1");
        lab.ask("1.1", BOB);
        lab
    });
    ready.twin()
}

/// The payloads of a request and of an approval, as small as they can be.
pub fn payloads() -> (Value, Value) {
    let entry = json!({ "length": 1, "hashes": { "sha256": Sha256::of(b"") }, "custom": { "kind": "file" } });
    let text = |number, targets: &Value, withdrawn: Value| {
        let role = Draft::product("kestrel", number, jiff::Timestamp::UNIX_EPOCH, targets, &withdrawn);
        String::from_utf8(role.to_file().unwrap()).unwrap()
    };
    let before = json!({ "kestrel/0.8/a": entry, "kestrel/0.9/a": entry });
    let after = json!({ "kestrel/0.9/a": entry, "kestrel/1.0/a": entry });
    let withdrawn = json!([{ "version": "0.8", "reason": "x", "successor": null, "date": "2026-01-01T00:00:00Z" }]);
    let git = "a".repeat(40);
    let pin = json!({ "tags": [{ "name": "v1.0", "object": git, "signer": "mia" }], "commit": git,
        "commit_time": 1_700_000_000, "branch": "release/1", "head": git });
    let request = json!({
        "version": 1, "product": "kestrel", "release": "1.0", "starter": "alice", "at": "2026-01-01T00:00:00Z",
        "policy": Sha256::of(b"policy"), "pin": pin,
        "environment": "{\"packages\":{\"a:all\":\"1\"},\"toolchains\":[],\"version\":1}", "claim": Envelope::new(b"{}"),
        "follows": text(1, &before, json!([])), "role": text(2, &after, withdrawn), "journal": Sha256::of(b"journal"),
    });
    let approval = json!({
        "version": 1, "product": "kestrel", "release": "1.0", "holder": "alice", "request": Sha256::of(b"request"),
        "claim": Envelope::new(b"{}"), "keyid": "00", "signature": "00", "checksums": "00",
    });
    (request, approval)
}

/// Whether a file is a message of an enrolled person.
fn holds<M: Message>(file: &[u8], keys: &release::approve::ClaimKeys) -> bool {
    Sent::<M>::parse(file).is_ok_and(|sent| sent.signed_by(keys).is_ok())
}

/// Flips bits of each byte, and cuts off everywhere.
fn flip<M: Message>(file: &[u8], keys: &release::approve::ClaimKeys) {
    assert!(holds::<M>(file, keys));
    for at in 0..file.len() {
        for bit in [1, 32] {
            let mut altered = file.to_vec();
            altered[at] ^= bit;
            assert!(!holds::<M>(&altered, keys), "byte {at} of a {}", M::NAME);
        }
        assert!(!holds::<M>(&file[..at], keys), "cut off at {at}");
    }
    assert!(!holds::<M>(&[file, b"\n"].concat(), keys));
}

#[test]
fn an_altered_byte_of_a_message_is_noticed() {
    release::tuf::install_crypto();
    let key = SoftwareKey::generate("alice-claim".parse().unwrap(), release::key::Algorithm::P256).unwrap();
    let (id, _) = key::identified(key.public()).unwrap();
    let keys = BTreeMap::from([(id.clone(), ("alice".parse().unwrap(), key.public().clone()))]);
    let (asked, approval) = payloads();
    let asked: Request = serde_json::from_value(asked).unwrap();
    let approval: Approval = serde_json::from_value(approval).unwrap();
    let signer = (id, key);
    let (asked, approval) = (message(asked, &signer), message(approval, &signer));
    flip::<Request>(&asked, &keys);
    flip::<Approval>(&approval, &keys);
    // Neither is the other, nor a claim.
    assert!(!holds::<Request>(&approval, &keys) && !holds::<Approval>(&asked, &keys));
    assert!(Envelope::parse(&asked).unwrap().payload().is_err());
}

#[test]
fn a_request_that_says_what_it_must_not_is_refused_before_a_build() {
    let lab = second_asked();
    let good: Request = read(&lab, &request(BOB, "1.1"));
    let alice = stolen(&lab, ALICE, "alice-claim");
    let journal = lab.read("home-bob/journal.jsonl");
    let refused = |changed: Request, why: &str| {
        lab.write("forged.json", message(changed, &alice));
        let said = lab.with_keys(&["approve", "forged.json", "--yes=1.1", "--home", BOB]).exits(REJECTED).says(why);
        said.does_not_say("Fetched").says("nothing was");
        assert_eq!(lab.read("home-bob/journal.jsonl"), journal, "{why}");
    };
    let with = |change: &dyn Fn(&mut Request)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed
    };
    let role = |change: &dyn Fn(&mut Value)| {
        with(&|changed| {
            let mut role: Value = serde_json::from_str(&changed.role).unwrap();
            change(&mut role);
            changed.role = String::from_utf8(release::manifest::json::to_vec(&role).unwrap()).unwrap();
        })
    };
    let old = "kestrel/1.0/kestrel-1.0";
    let drops = role(&|role| drop(role["signed"]["targets"].as_object_mut().unwrap().remove(old)));
    refused(drops, "its manifest drops \"kestrel/1.0/kestrel-1.0\"");
    refused(role(&|role| role["signed"]["targets"][old]["length"] = json!(1)), "its manifest changes \"kestrel/1.0/");
    let more =
        |role: &mut Value| role["signed"]["targets"]["kestrel/1.0/more"] = role["signed"]["targets"][old].clone();
    refused(role(&more), "adds \"kestrel/1.0/more\" to a release that was made before");
    let third = |role: &mut Value| role["signed"]["targets"]["kestrel/6.6/x"] = role["signed"]["targets"][old].clone();
    refused(role(&third), "its manifest does not add 1.1 alone");
    refused(role(&|role| role["signed"]["x"] = json!(1)), "says more than a release manifest does");
    refused(role(&|role| role["signed"]["version"] = json!(1)), "its manifest has number 1");
    refused(role(&|role| role["signed"]["expires"] = json!("2099-01-01T00:00:00Z")), "does not expire when the policy");
    let signature = json!([{ "keyid": "00", "sig": "00" }]);
    refused(role(&|role| role["signatures"] = signature.clone()), "its manifest is not one without signatures");
    refused(role(&|role| role["more"] = json!(1)), "its manifest is not one without signatures");
    let withdrawn = json!([{ "version": "1.0", "reason": "x", "successor": null, "date": "2026-01-01T00:00:00Z" }]);
    refused(role(&|role| role["signed"]["x-release-withdrawn"] = withdrawn.clone()), "withdraws 1.0");

    // Another past: a stale one, one that nobody signed, none.
    refused(with(&|changed| changed.follows = None), "is stale: it follows manifest 0 of kestrel, and manifest 1");
    let follows = |change: &dyn Fn(&mut Value)| {
        with(&|changed| {
            let mut role: Value = serde_json::from_str(changed.follows.as_deref().unwrap()).unwrap();
            change(&mut role);
            changed.follows = Some(String::from_utf8(release::manifest::json::to_vec(&role).unwrap()).unwrap());
        })
    };
    refused(follows(&|role| role["signed"]["version"] = json!(5)), "it is signed by 0 people, and 2 must");
    let other = follows(&|role| role["signed"]["expires"] = json!("2099-01-01T00:00:00Z"));
    refused(other, "it follows another manifest 1 than is published");

    refused(with(&|changed| changed.policy = Sha256::of(b"other")), "follows another policy");
    let later = with(&|changed| changed.at = changed.at.checked_add(jiff::SignedDuration::from_hours(1000)).unwrap());
    lab.write("forged.json", message(later, &alice));
    lab.with_keys(&["approve", "forged.json", "--yes=1.1", "--home", BOB]).exits(1).says("but the request is from");
    refused(with(&|changed| changed.environment.push(' ')), "its claim is about something else");
    let commit = "b".repeat(40).parse::<release::manifest::claim::GitId>().unwrap();
    refused(with(&|changed| changed.pin.commit = commit.clone()), "its claim is about something else");
    // Somebody else's claim, and somebody else's signature.
    let bob = stolen(&lab, BOB, "bob-claim");
    refused(with(&|changed| changed.claim = claim(&good.claim, &bob, |_| {})), "its claim is not by its sender");
    lab.write("forged.json", message(good.clone(), &bob));
    let other = lab.with_keys(&["approve", "forged.json", "--yes=1.1", "--home", BOB]).exits(REJECTED);
    other.says("it says that it is from alice, and is signed by the claim key of bob");
    lab.runs(&["import", "forged.json", "--home", BOB]).exits(1);
    // From a newer version of the program.
    lab.write("forged.json", message(with(&|changed| changed.version = 2), &alice));
    let newer = lab.with_keys(&["approve", "forged.json", "--yes=1.1", "--home", BOB]).exits(REJECTED);
    newer.says("it was written by a newer release (format 2)");
    // A pin that the source does not have is found after fetching.
    let mut pinned = good.clone();
    pinned.pin.commit_time += 1;
    lab.write("forged.json", message(pinned, &alice));
    let other = lab.with_keys(&["approve", "forged.json", "--yes=1.1", "--home", BOB]).exits(REJECTED);
    other.says("its pin is not what this terminal fetched").does_not_say("Built");
    // After all of that, the good one is approved.
    lab.approve(BOB, "1.1").exits(0);
    lab.carry(BOB, ALICE).exits(0);
    lab.cut("1.1").exits(0);
    lab.verify(&["mirror"]).exits(0);
}

/// Changes a byte of what a terminal has built, as one who controls it would: nothing
/// there notices.
fn poison(lab: &Lab, folder: &str, artifact: &str) {
    let path = format!("{folder}/stage/{artifact}");
    let mut bytes = lab.read(&path);
    let old = Sha256::of(&bytes).to_string();
    bytes[0] ^= 1;
    lab.write(&path, &bytes);
    let state = String::from_utf8(lab.read(&format!("{folder}/cut.json"))).unwrap();
    assert!(state.contains(&old));
    lab.write(&format!("{folder}/cut.json"), state.replace(&old, &Sha256::of(&bytes).to_string()));
}

#[test]
fn a_poisoned_first_terminal_is_caught_by_the_second() {
    let lab = three(1);
    lab.tag("1.0");
    lab.with_keys_and(&["cut", "1.0", "--yes=1.0"], &[("RELEASE_FAIL_AT", "build.done")]);
    poison(&lab, "home/cuts/kestrel-1.0", "kestrel-1.0.notes");
    lab.ask("1.0", BOB);
    let caught = lab.approve(BOB, "1.0").exits(REJECTED).says("this terminal does not get what alice built");
    let ours = Sha256::of(b"notes of kestrel\n");
    let caught = caught.says(&format!("\"kestrel-1.0.notes\": here {ours}, there"));
    caught.says("home-bob/approvals/kestrel_1.0/stage").does_not_say("\"kestrel-1.0\": here");
    lab.assert_signed_nothing(BOB);
    lab.cut("1.0").exits(WAITING);
    lab.assert_nothing_published();
}

/// What somebody does to an approval.
type Change<'c> = &'c dyn Fn(&mut Approval);

#[test]
fn a_poisoned_second_terminal_is_caught_by_the_first() {
    let lab = three(1);
    lab.tag("1.0");
    lab.ask("1.0", BOB);
    // It notices itself, as long as it is honest.
    lab.approve_and(BOB, "1.0", &[("RELEASE_FAIL_AT", "build.done")]);
    lab.copy("home-bob", "home-evil");
    poison(&lab, "home-evil/approvals/kestrel_1.0", "kestrel-1.0");
    lab.copy(&request(BOB, "1.0"), "request.json");
    let caught = lab.with_keys(&["approve", "request.json", "--yes=1.0", "--home", "home-evil"]).exits(REJECTED);
    caught.says("does not get what alice built").says("\"kestrel-1.0\": here");
    lab.assert_signed_nothing("home-evil");
    // And if it is not, the first one does.
    lab.approve(BOB, "1.0").exits(0);
    let bob = stolen(&lab, BOB, "bob-claim");
    let sent = "home-bob/outbox/kestrel_1.0_bob.approval.json";
    let good: Approval = read(&lab, sent);
    let mut evil = good.clone();
    evil.claim = claim(&good.claim, &bob, |statement| {
        statement["subject"][1]["digest"]["sha256"] = json!("0".repeat(64));
    });
    lab.write(sent, message(evil, &bob));
    lab.carry(BOB, ALICE).exits(0);
    let caught = lab.cut("1.0").exits(REJECTED).says("what bob built is not what this terminal built");
    caught.says(&format!("there {}", "0".repeat(64))).says("find out which before");
    // So does a claim alone.
    let _ = fs::remove_dir_all(lab.path("home/inbox"));
    let alone = claim(&good.claim, &bob, |statement| {
        statement["predicate"]["buildDefinition"]["resolvedDependencies"][2]["digest"]["sha256"] =
            json!("1".repeat(64));
    });
    fs::remove_file(lab.path(sent)).unwrap();
    lab.write("home-bob/outbox/bob.claim.json", alone.to_vec().unwrap());
    lab.carry(BOB, ALICE).exits(0).says("message");
    lab.cut("1.0").exits(REJECTED).says("what bob built is not").says("source.tar: here");
    // A signature on another manifest, an answer without OpenPGP, a stranger's key: none counts.
    let _ = fs::remove_dir_all(lab.path("home/inbox"));
    fs::remove_file(lab.path("home-bob/outbox/bob.claim.json")).unwrap();
    let changes: [(Change<'_>, &str); 5] = [
        (&|approval| approval.signature.replace_range(20..22, "00"), "the signature of bob is not on this manifest"),
        (&|approval| approval.checksums = None, "it has no good OpenPGP signature of bob"),
        (&|approval| approval.keyid = "00".repeat(32), "bob has not signed by a key of this product"),
        (&|approval| approval.request = Sha256::of(b"other"), "it answers request"),
        (&|approval| approval.signature.make_ascii_uppercase(), "the signature of bob is not on this manifest"),
    ];
    for (change, why) in changes {
        let mut changed = good.clone();
        change(&mut changed);
        lab.write(sent, message(changed, &bob));
        lab.carry(BOB, ALICE).exits(0);
        lab.cut("1.0").exits(WAITING).says(why);
    }
    lab.assert_nothing_published();
    lab.write(sent, message(good, &bob));
    lab.carry(BOB, ALICE).exits(0);
    lab.cut("1.0").exits(0);
    lab.verify(&["mirror"]).exits(0);
}

#[test]
fn a_terminal_without_its_gate_makes_no_client_accept() {
    let lab = three(1);
    lab.release_first();
    // alice's terminal signs and seals whatever it likes: one of two people.
    let evil = "kestrel/6.6/kestrel-6.6";
    let mut forger = Forger::new(&lab);
    forger.role = forger.sign(&forger.role.clone(), &["alice-release"], |signed| {
        Forger::add_release(signed, evil, b"evil");
    });
    forger.seal();
    forger.serve();
    lab.verify(&["mirror"]).exits(REJECTED).says("kestrel");
    // With bob's signature as well, and only her own claim.
    lab.copy("home-bob/keys/bob-release.key", "home/keys/bob-release.key");
    forger.role = forger.sign(
        &lab.read("home/repository/metadata/1.kestrel.json"),
        &["alice-release", "bob-release"],
        |signed| {
            Forger::add_release(signed, evil, b"evil");
        },
    );
    forger.seal();
    let own = forger.claim("6.6", "kestrel-6.6", &Sha256::of(b"evil").to_string());
    lab.write("download/kestrel-6.6", "evil");
    lab.write("download/kestrel-6.6.bundle.json", forger.bundle(vec![own]));
    let refused = lab.verify(&["download/kestrel-6.6"]).exits(REJECTED);
    refused.says("kestrel 6.6 was built by 1 people (alice); 2 must have built it");
}

#[test]
fn killed_at_any_step_both_sides_go_on() {
    let lab = three(1);
    lab.tag("1.0");
    let killed = |said: crate::support::Said, step: &str| assert_eq!(said.code, None, "{step}: {said:?}");
    let cut = |step: &str| {
        killed(lab.with_keys_and(&["cut", "1.0", "--yes=1.0"], &[("RELEASE_FAIL_AT", step)]), step);
        lab.assert_nothing_published();
    };
    // Each run goes on from where the last one was killed.
    for step in ["build.done", "stage.done", "claim.asked", "claim.signed"].iter().chain(&REQUEST[..3]) {
        cut(step);
    }
    lab.cut("1.0").exits(WAITING).does_not_say("Built");
    lab.carry(ALICE, BOB).exits(0);
    let steps = ["fetch.done", "build.done", "claim.asked", "claim.signed", "role.asked", "role.signed"];
    let late = ["openpgp.asked", "openpgp.signed"];
    let steps = APPROVAL[..1].iter().chain(&steps).chain(&late).chain(&APPROVAL[1..]);
    for step in steps {
        killed(lab.approve_and(BOB, "1.0", &[("RELEASE_FAIL_AT", step)]), step);
    }
    lab.approve(BOB, "1.0").exits(0).does_not_say("Built");
    let answer = lab.read("home-bob/outbox/kestrel_1.0_bob.approval.json");
    lab.approve(BOB, "1.0").exits(0);
    assert_eq!(lab.read("home-bob/outbox/kestrel_1.0_bob.approval.json"), answer, "the same answer again");
    let _ = fs::remove_dir_all(lab.path("stick"));
    lab.copy("home-bob/outbox", "stick");
    for step in ["import.copied", "import.kept"] {
        let mut command = lab.release();
        command.args(["import", "stick"]).env("RELEASE_FAIL_AT", step);
        killed(crate::support::run(&mut command), step);
    }
    lab.runs(&["import", "stick"]).exits(0).says("known");
    no_litter(&lab.path("home/inbox"));
    for step in ["approval.taken", "role.asked"] {
        cut_signed(&lab, step);
    }
    // From here on nothing is needed from the inbox.
    fs::remove_dir_all(lab.path("home/inbox")).unwrap();
    for step in ["role.signed", "openpgp.asked", "openpgp.signed", "seal.begun", "seal.timestamp", "seal.checked"] {
        cut_signed(&lab, step);
    }
    lab.cut("1.0").exits(0);
    lab.verify(&["mirror"]).exits(0).says("alice, bob");
    for home in [ALICE, BOB] {
        asked_once(&lab, home);
    }
}

fn cut_signed(lab: &Lab, step: &str) {
    let said = lab.with_keys_and(&["cut", "1.0", "--yes=1.0"], &[("RELEASE_FAIL_AT", step)]);
    assert_eq!(said.code, None, "{step}: {said:?}");
    assert!(!lab.path("mirror/releases").exists(), "{step}");
}

fn asked_once(lab: &Lab, home: &str) {
    let journal = String::from_utf8(lab.read(&format!("{home}/journal.jsonl"))).unwrap();
    let mut asked = std::collections::BTreeSet::new();
    for line in journal.lines() {
        let event = &serde_json::from_str::<Value>(line).unwrap()["event"];
        if event["kind"] == "ask" {
            assert!(asked.insert((event["key"].to_string(), event["what"].to_string())), "{event} twice");
        }
    }
}

#[test]
fn what_media_do_to_messages_is_noticed() {
    let lab = three(1);
    lab.tag("1.0");
    lab.cut("1.0").exits(WAITING);
    let whole = lab.read("home/outbox/kestrel_1.0.request.json");
    let name = "stick/kestrel_1.0.request.json";
    let taken = |lab: &Lab| lab.runs(&["import", "stick", "--home", BOB]);
    // Half written, empty, altered anywhere, something else.
    let mut bad: Vec<Vec<u8>> = vec![whole[..whole.len() / 2].to_vec(), Vec::new(), b"{}".to_vec()];
    bad.extend((0..8).map(|part| {
        let mut altered = whole.clone();
        altered[part * (whole.len() - 1) / 7] ^= 1;
        altered
    }));
    for bytes in bad {
        lab.write(name, bytes);
        taken(&lab).exits(REJECTED).says("refused   kestrel_1.0.request.json");
        lab.with_keys(&["approve", name, "--yes=1.0", "--home", BOB]).exits(REJECTED).does_not_say("Fetched");
    }
    lab.write(name, vec![b'x'; (16 << 20) + 1]);
    taken(&lab).exits(REJECTED).says("it is longer than 16777216 bytes");
    lab.with_keys(&["approve", name, "--yes=1.0", "--home", BOB]).exits(REJECTED);
    assert!(!lab.path(&request(BOB, "1.0")).exists());
    lab.assert_signed_nothing(BOB);
    // Renamed, also as something else: what it holds counts.
    fs::remove_file(lab.path(name)).unwrap();
    lab.write("stick/kestrel_9.9_carol.approval.json", &whole);
    taken(&lab).exits(0).says("message   kestrel_9.9_carol.approval.json");
    assert_eq!(lab.read(&request(BOB, "1.0")), whole);
    lab.approve(BOB, "1.0").exits(0);
    // Swapped: the request comes back in place of the answer.
    lab.write("home-bob/outbox/kestrel_1.0_bob.approval.json", &whole);
    lab.carry(BOB, ALICE).exits(0);
    lab.cut("1.0").exits(WAITING).says("signs     alice (1 of 2 needed)");
    // Lost on the way: it is made again, the same.
    fs::remove_file(lab.path("home-bob/outbox/kestrel_1.0_bob.approval.json")).unwrap();
    lab.approve(BOB, "1.0").exits(0).does_not_say("Built");
    fs::remove_dir_all(lab.path("home/inbox")).unwrap();
    lab.carry(BOB, ALICE).exits(0);
    fs::remove_file(lab.path("home/outbox/kestrel_1.0.request.json")).unwrap();
    lab.cut("1.0").exits(0);
    lab.verify(&["mirror"]).exits(0);
}
