//! Foreign bytes that are made to hurt: endless, deep, doubled, too many, or full
//! of control characters. Each refusal is an exit code and a message, and every
//! program here may take five seconds and 200 MB at most.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use release::manifest::dsse::Envelope;
use release::manifest::json;
use release::manifest::names::is_hidden;
use serde_json::Value;
use serde_json::json;

use crate::support::Lab;
use crate::support::Said;
use crate::support::forge::Forger;
use crate::support::forge::value;
use crate::support::program;
use crate::support::run;

const FAILED: i32 = 1;
const REJECTED: i32 = 3;
const CLAIM: &str = "mirror/releases/kestrel/1.0/claim.alice.intoto.json";

/// Runs a command of the program within its limits: CPU seconds, which do not
/// depend on what else the machine does, and bytes that are its own.
#[track_caller]
fn bounded(command: &Command) -> Said {
    let mut limited = program("prlimit");
    limited.args(["--cpu=5", "--data=200000000", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        limited.env(name, value.unwrap_or_default());
    }
    let said = run(limited.current_dir(command.get_current_dir().unwrap()));
    let hidden = |text: &str| text.chars().any(|c| is_hidden(c) && c != '\n');
    assert!(!hidden(&said.out) && !hidden(&said.err), "hidden characters:\n{:?}\n{:?}", said.out, said.err);
    said
}

#[track_caller]
fn runs(lab: &Lab, arguments: &[&str]) -> Said {
    bounded(lab.release().args(arguments))
}

#[track_caller]
fn verify(lab: &Lab, what: &[&str]) -> Said {
    bounded(lab.release().args(["verify", "--root", "trust/root.json"]).args(what))
}

/// Ways in which a file never ends: a sparse one of a terabyte, a pipe that
/// nobody writes to, a device.
fn endless(lab: &Lab, path: &str, mut refused: impl FnMut(&str)) {
    let path = lab.path(path);
    let original = fs::read(&path).ok();
    let clear = || drop(fs::remove_file(&path));
    clear();
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    refused("sparse");
    clear();
    run(program("mkfifo").arg(&path)).exits(0);
    refused("pipe");
    clear();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    refused("device");
    clear();
    if let Some(original) = original {
        fs::write(&path, original).unwrap();
    }
}

/// JSON that no parser should follow: 100,000 levels deep, a key that comes
/// twice in each object, a million values.
fn spiteful(original: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    let text = String::from_utf8(original.to_vec()).unwrap();
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let doubled = text.replacen('{', "{\"a\":{\"b\":0,\"b\":0},", 1);
    let many = text.replacen('{', &format!("{{\"a\":[{}0],", "0,".repeat(1_000_000)), 1);
    [
        ("recursion limit exceeded", deep.into_bytes()),
        ("the key \"b\" comes twice", doubled.into_bytes()),
        ("more than 250000 values", many.into_bytes()),
    ]
}

#[test]
fn endless_files_are_not_read() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    endless(&lab, "download/kestrel-1.0.bundle.json", |how| {
        let why = if how == "sparse" { "is longer than 33554432 bytes" } else { "is not a plain file" };
        verify(&lab, &[&file]).exits(REJECTED).says("kestrel-1.0.bundle.json").says(why);
        verify(&lab, &[&file, "--bundle", "download/kestrel-1.0.bundle.json"]).exits(REJECTED).says(why);
    });
    endless(&lab, "trust/root.json", |how| {
        let why = if how == "sparse" { "is longer than 512000 bytes" } else { "is not a plain file" };
        verify(&lab, &[&file]).exits(REJECTED).says(why);
        runs(&lab, &["trust", "add", "trust/root.json", "--fingerprint", "0"]).exits(REJECTED).says(why);
    });
    for name in [
        "metadata/timestamp.json",
        "metadata/2.snapshot.json",
        "metadata/1.targets.json",
        "metadata/1.kestrel.json",
        "metadata/2.root.json",
        "releases/kestrel/1.0/SHA256SUMS",
        "releases/kestrel/1.0/kestrel-1.0.bundle.json",
        "releases/kestrel/1.0/claim.alice.intoto.json",
        "releases/kestrel/1.0/kestrel-1.0",
        "bundles/kestrel.bundle.json",
    ] {
        endless(&lab, &format!("mirror/{name}"), |_| {
            verify(&lab, &["mirror"]).exits(REJECTED).says(name.rsplit('/').next().unwrap());
        });
    }
    // What was remembered is never more than a hint.
    verify(&lab, &[&file]).exits(0);
    let seen = run(program("find").arg(lab.path("data")).args(["-name", "kestrel.json"])).out;
    let seen = seen.trim().strip_prefix(lab.path("").to_str().unwrap()).unwrap().to_owned();
    endless(&lab, seen.trim_start_matches('/'), |_| {
        verify(&lab, &[&file]).exits(0).says("an older state might not be noticed");
    });
}

#[test]
fn endless_files_of_a_home_are_not_read() {
    let lab = Lab::released();
    let status = || runs(&lab, &["status"]).exits(FAILED);
    for name in ["policy.toml", "terminal.toml"] {
        endless(&lab, &format!("home/{name}"), |_| {
            status().says(name).says("not a text file of at most");
        });
    }
    for name in ["cuts/kestrel-1.0/cut.json", "mirrors/here.json", "repository/metadata/timestamp.json"] {
        endless(&lab, &format!("home/{name}"), |_| {
            status().says(name.rsplit('/').next().unwrap()).says("damaged");
        });
    }
    endless(&lab, "home/journal.jsonl", |how| {
        let why = if how == "sparse" { "line 1: it is longer than 262144 bytes" } else { "is not a plain file" };
        runs(&lab, &["refresh"]).exits(FAILED).says("journal.jsonl is damaged").says(why);
    });
    runs(&lab, &["status"]).exits(0);
    fs::remove_dir_all(lab.path("mirror")).unwrap();
    fs::remove_file(lab.path("home/mirrors/here.json")).unwrap();
    endless(&lab, "home/publications/2.json", |_| {
        runs(&lab, &["publish"]).exits(4).says("2.json is damaged");
    });

    let root = release::manifest::Sha256::of(&lab.read("trust/root.json")).to_string();
    runs(&lab, &["trust", "add", "trust/root.json", "--fingerprint", &root, "--repository", "mirror"]).exits(0);
    endless(&lab, &format!("data/release/trust/{root}.note.json"), |how| {
        let why = if how == "sparse" { "is longer than 65536 bytes" } else { "is not a plain file" };
        runs(&lab, &["trust", "list"]).exits(FAILED).says(".note.json is damaged").says(why);
    });
}

#[test]
fn passphrases_that_never_end_or_are_no_lines_are_refused() {
    let lab = Lab::released();
    let with = |descriptor: &str| {
        let inner = lab.release();
        let mut command = program("sh");
        command.arg("-c").arg(format!("exec \"$@\" refresh --pin-fd 3 3<{descriptor}")).arg("sh");
        command.arg(inner.get_program()).current_dir(lab.path(""));
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        bounded(&command).exits(FAILED)
    };
    with("/dev/zero").says("it gives more than 65536 bytes");
    with("/dev/null").says("has no further line for it");
    lab.write("secrets", "\nonline horse-online\nhorse-online\n");
    with("secrets").says("line 3 is neither SERIAL PIN nor KEYNAME PASSPHRASE").does_not_say("horse");
    lab.write("secrets", "../online horse-online\n");
    with("secrets").says("line 1 is neither SERIAL PIN nor KEYNAME PASSPHRASE").does_not_say("horse");
    lab.write("secrets", b"online \xff\n");
    with("secrets").says("cannot read file descriptor 3");
}

#[test]
fn spiteful_json_is_refused_wherever_it_comes_from() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    let try_all = |path: &str, refused: &dyn Fn() -> Said, code: i32| {
        let original = lab.read(path);
        for (why, bytes) in spiteful(&original) {
            let _ = fs::remove_file(lab.path(path));
            lab.write(path, bytes);
            let said = refused().exits(code);
            // Bounded by its length before that.
            assert!(said.has(why) || said.has("is longer than"), "{path}: {said:?}");
        }
        lab.write(path, original);
    };
    try_all("download/kestrel-1.0.bundle.json", &|| verify(&lab, &[&file]), REJECTED);
    try_all("trust/root.json", &|| verify(&lab, &[&file]), REJECTED);
    for name in ["metadata/timestamp.json", "metadata/1.kestrel.json", "bundles/kestrel.bundle.json"] {
        try_all(&format!("mirror/{name}"), &|| verify(&lab, &["mirror"]), REJECTED);
    }
    try_all(CLAIM, &|| verify(&lab, &["mirror"]), REJECTED);
    for name in ["cuts/kestrel-1.0/cut.json", "mirrors/here.json", "repository/metadata/timestamp.json"] {
        try_all(&format!("home/{name}"), &|| runs(&lab, &["status"]), FAILED);
    }
    let root = release::manifest::Sha256::of(&lab.read("trust/root.json")).to_string();
    runs(&lab, &["trust", "add", "trust/root.json", "--fingerprint", &root]).exits(0);
    let note = format!("data/release/trust/{root}.note.json");
    try_all(&note, &|| runs(&lab, &["trust", "list"]).says("note.json is damaged"), FAILED);
    // A line of the journal, whose length is bounded first.
    let journal = lab.read("home/journal.jsonl");
    for (why, bytes) in &spiteful(journal.split(|b| *b == b'\n').next().unwrap())[..2] {
        lab.write("home/journal.jsonl", [bytes.as_slice(), b"\n"].concat());
        runs(&lab, &["refresh"]).exits(FAILED).says("journal.jsonl is damaged: line 1").says(why);
    }
}

#[test]
fn a_statement_within_a_claim_is_as_strict() {
    let lab = Lab::released();
    let forger = Forger::new(&lab);
    let file = lab.download("1.0", "kestrel-1.0");
    let original = Envelope::parse(&lab.read(CLAIM)).unwrap();
    for (why, statement) in spiteful(&original.payload().unwrap()) {
        let claim = sign_claim(&forger, &statement);
        lab.write("download/kestrel-1.0.bundle.json", forger.bundle(vec![claim]));
        verify(&lab, &[&file]).exits(REJECTED).says("the claim of alice").says(why);
    }
    // A claim whose one signature comes again and again.
    let mut replayed = value(&lab.read(CLAIM));
    let signature = replayed["signatures"][0].clone();
    replayed["signatures"] = vec![signature; 50_000].into();
    let replayed: Envelope = serde_json::from_value(replayed).unwrap();
    lab.write("download/kestrel-1.0.bundle.json", forger.bundle(vec![replayed]));
    verify(&lab, &[&file]).exits(REJECTED).says("it has two signatures by key");
    // The same claim thousands of times is one claim, and is checked once.
    lab.write("download/kestrel-1.0.bundle.json", forger.bundle(vec![original; 5_000]));
    verify(&lab, &[&file]).exits(0).says("built by    alice (no");
    // As long and as full of values as a bundle may be, and once more in a claim.
    let full = |length: usize| format!("{{\"a\":[{}0],\"b\":\"{}\"}}", "{\"\":0},".repeat(100_000), "x".repeat(length));
    let mut long = value(&lab.read(CLAIM));
    long["payload"] = json!("A".repeat(28 << 20));
    let claim: Envelope = serde_json::from_value(long).unwrap();
    lab.write("download/kestrel-1.0.bundle.json", forger.bundle(vec![claim]));
    verify(&lab, &[&file]).exits(REJECTED).says("the payload is longer than 4194304 bytes");
    let claim = sign_claim(&forger, full(2 << 20).as_bytes());
    let bundle = String::from_utf8(forger.bundle(vec![claim])).unwrap();
    let full = format!("{{\"a\":{},", full(27 << 20));
    lab.write("download/kestrel-1.0.bundle.json", bundle.replacen('{', &full, 1));
    verify(&lab, &[&file]).exits(REJECTED).says("the claim of alice").says("cannot be read");
}

/// A claim by alice's stolen claim key.
fn sign_claim(forger: &Forger<'_>, statement: &[u8]) -> Envelope {
    let mut claim = Envelope::new(statement);
    let (id, key) = forger.key("alice-claim");
    let signed = claim.signed_bytes().unwrap();
    claim.add_signature(
        &id,
        &release::key::Signer::sign(&key, "forgery", release::key::ToSign::Message(&signed)).unwrap(),
    );
    claim
}

#[test]
fn a_million_signatures_or_targets_cost_little() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    let bundle = "download/kestrel-1.0.bundle.json";
    let original = String::from_utf8(lab.read(bundle)).unwrap();
    let signatures = format!("\"signatures\":[{}", "{\"keyid\":\"\",\"sig\":\"\"},".repeat(1_000_000));
    for (nth, _) in original.match_indices("\"signatures\":[") {
        let (before, after) = original.split_at(nth);
        lab.write(bundle, format!("{before}{}", after.replacen("\"signatures\":[", &signatures, 1)));
        verify(&lab, &[&file]).exits(REJECTED).says("more than 250000 values");
    }
    let mut targets = String::from("\"targets\":{");
    for number in 0..1_000_000 {
        write!(targets, "\"{number:07}\":{{\"hashes\":0}},").unwrap();
    }
    let at = original.rfind("\"targets\":{\"kestrel/").unwrap();
    let (before, after) = original.split_at(at);
    let many = format!("{before}{}", after.replacen("\"targets\":{", &targets, 1));
    assert!(many.len() < 32 << 20);
    lab.write(bundle, many);
    verify(&lab, &[&file]).exits(REJECTED).says("more than 250000 values");

    // As many values as are read, in the shape that takes most memory.
    let object = format!("{{\"a\":[{}0],", "{\"\":0},".repeat(120_000));
    lab.write(bundle, original.replacen('{', &object, 1));
    verify(&lab, &[&file]).exits(0);
    for name in ["metadata/1.kestrel.json", "metadata/2.snapshot.json"] {
        let path = format!("mirror/{name}");
        let text = String::from_utf8(lab.read(&path)).unwrap();
        fs::remove_file(lab.path(&path)).unwrap();
        lab.write(&path, text.replacen('{', &object, 1));
        verify(&lab, &["mirror"]).exits(REJECTED).says("integrity check failed");
        lab.write(&path, text);
    }

    // Roots before the pinned one are anybody's: their signatures are counted
    // before one is checked.
    let mut first = value(&lab.read("trust/root.json"));
    let one = first["signatures"][0].clone();
    first["signatures"] = vec![one; 513].into();
    let mut forged: Value = serde_json::from_str(&original).unwrap();
    forged["root"].as_array_mut().unwrap().insert(0, first);
    lab.write(bundle, json::to_vec(&forged).unwrap());
    verify(&lab, &[&file]).exits(REJECTED).says("the root chain has more than 512 signatures");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    let bundle = "download/kestrel-1.0.bundle.json";
    let original = value(&lab.read(bundle));
    for name in ["../kestrel", "kestrel/../x", "/kestrel", "..", "root", "kes\u{1b}[2Jtrel", "kestrel\n"] {
        let mut forged = original.clone();
        forged["product"] = json!(name);
        lab.write(bundle, json::to_vec(&forged).unwrap());
        verify(&lab, &[&file]).exits(REJECTED).says("member `product` is missing or malformed");
    }
    for path in [
        "kestrel/1.0/../../../etc/passwd",
        "/etc/passwd",
        "../../etc/passwd",
        "kestrel/../1.0/x",
        "kestrel/1.0/",
        "kestrel/1.0/.hidden",
        "kestrel/1.0/a\u{1b}[2Jb",
        "kestrel/1.0/a\nVERIFIED b",
        "kestrel/1.0/a\u{202e}b",
        "kestrel/1.0/a\\b",
        "kestrel/-/x",
    ] {
        let mut forger = Forger::new(&lab);
        forger.role = forger.sign(&forger.role.clone(), &["alice-release", "bob-release"], |signed| {
            Forger::add_release(signed, path, b"evil\n");
        });
        forger.seal();
        lab.write(bundle, forger.bundle(Vec::new()));
        verify(&lab, &[&file]).exits(REJECTED).says("which is not a file of one of its releases");
    }
    // What a user types is held to the same.
    for name in ["../x", "x/y", ".", "x\u{1b}[2J"] {
        runs(&lab, &["download", name, "--root", "trust/root.json", "--repository", "mirror"]).exits(2);
        runs(&lab, &["cut", "kestrel", name]).exits(2);
        runs(&lab, &["abandon", "kestrel", name]).exits(2);
    }
}

#[test]
fn what_people_wrote_is_shown_without_control_characters() {
    let lab = Lab::released();
    let file = lab.download("1.0", "kestrel-1.0");
    let bundle = "download/kestrel-1.0.bundle.json";
    let claims = || vec![Envelope::parse(&lab.read(CLAIM)).unwrap()];
    // The name of a holder and the reason of a withdrawal are lines of text.
    let mut forger = Forger::new(&lab);
    forger.targets = forger.sign(&forger.targets.clone(), &["alice-targets", "bob-targets"], |signed| {
        signed["version"] = json!(2);
        signed["x-release"]["holders"]["carol"]["name"] = json!("Carol\u{1b}[2J\u{202e}");
    });
    forger.seal();
    lab.write(bundle, forger.bundle(claims()));
    verify(&lab, &[&file]).exits(REJECTED).says("Carol\\u{1b}[2J\\u{202e}\" is not a line of text");
    let mut forger = Forger::new(&lab);
    forger.role = forger.sign(&forger.role.clone(), &["alice-release", "bob-release"], |signed| {
        signed["version"] = json!(2);
        signed["x-release-withdrawn"] =
            json!([{ "version": "0.9", "reason": "x\nVERIFIED y", "successor": null, "date": "2026-01-01T00:00:00Z" }]);
    });
    forger.seal();
    lab.write(bundle, forger.bundle(claims()));
    verify(&lab, &[&file]).exits(REJECTED).says("\"x\\nVERIFIED y\" is not a line of text");
    // The branch in a claim is shown as it is in the source, so far as that can be.
    let statement = claims()[0].payload().unwrap();
    let mut statement = value(&statement);
    statement["predicate"]["buildDefinition"]["externalParameters"]["branch"] = json!("a\u{1b}[2J\u{9b}2J\nb\u{202e}");
    let forger = Forger::new(&lab);
    let claim = sign_claim(&forger, &json::to_vec(&statement).unwrap());
    lab.write(bundle, forger.bundle(vec![claim]));
    verify(&lab, &[&file]).exits(0).says("on a\\u{1b}[2J\\u{9b}2J\\nb\\u{202e}");
    let said = verify(&lab, &["--json", &file]).exits(0);
    let facts: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(facts["files"][0]["branch"], "a\u{1b}[2J\u{9b}2J\nb\u{202e}", "{}", said.out);
    // Names of files, also of those that nobody asked about.
    lab.download("1.0", "kestrel-1.0");
    lab.write("download/a\u{1b}[2J\nVERIFIED b\u{202e}", "evil");
    let said = verify(&lab, &["download"]).exits(REJECTED);
    assert!(!said.out.lines().any(|line| line.starts_with("VERIFIED b")), "{}", said.out);
    verify(&lab, &["download/x\u{1b}[2J"]).exits(FAILED).says("there is no file download/x\\u{1b}[2J");
    // What a core or parser quotes goes through the same door.
    let mut odd = value(&lab.read("trust/root.json"));
    odd["signed"]["_type"] = json!("a\u{1b}[2J".repeat(50_000));
    lab.write("odd.json", json::to_vec(&odd).unwrap());
    let said = runs(&lab, &["verify", "--root", "odd.json", &file]).exits(REJECTED).says("is not a TUF root");
    assert!(said.err.len() < 10_000, "a message of {} bytes", said.err.len());
}

#[test]
fn tags_and_branches_are_bounded_and_shown_without_control_characters() {
    let lab = Lab::new();
    run(lab.git("work").args(["push", "-q", "origin", ":release/1"])).exits(0);
    run(lab.git("work").args(["checkout", "-q", "-b", "release/a\u{9b}2J\u{202e}"])).exits(0);
    lab.commit("odd branch");
    lab.tag("1.0");
    let dry_run = |version: &str| bounded(lab.release().args(["cut", "kestrel", version, "--dry-run", "-v"]));
    dry_run("1.0").exits(0).says("release/a\\u{9b}2J\\u{202e} at");
    // A sign-off with a name to mislead.
    lab.tag_as("signoff/v1.0/\u{202e}\u{9b}2Jnoa", "stranger");
    dry_run("1.0").exits(REJECTED).says("signoff/v1.0/\\u{202e}\\u{9b}2Jnoa");
    // A key with another comment, more sign-offs than anybody reads.
    let object = run(lab.git("work").args(["rev-parse", "v1.0"])).exits(0).out;
    for number in 0..101 {
        lab.write(&format!("source.git/refs/tags/signoff/v1.0/{number}"), &object);
    }
    dry_run("1.0").exits(REJECTED).says("sign-offs; at most 100 are read");
    fs::remove_dir_all(lab.path("source.git/refs/tags/signoff")).unwrap();

    let make = |name: &str, object: &str| {
        lab.write("object", object);
        let id = run(lab.git("work").args(["hash-object", "-t", "tag", "-w", "--literally", "../object"])).exits(0).out;
        run(lab.git("work").args(["update-ref", &format!("refs/tags/{name}"), id.trim()])).exits(0);
        lab.push(&format!("refs/tags/{name}"));
    };
    let good = run(lab.git("work").args(["cat-file", "tag", "v1.0"])).exits(0).out;
    // Longer than anybody reads.
    make("v1.1", &good.replacen("\n\n", &format!("\n\n{}", "x\n".repeat(1 << 20)), 1));
    dry_run("1.1").exits(REJECTED).says("it is longer than 1048576 bytes");
    // What the object says of itself, escaped.
    make("v1.2", &good.replacen("tag v1.0", "tag v1.2\u{9b}\u{202e}", 1));
    let said = dry_run("1.2");
    assert_ne!(said.code, Some(0), "{said:?}");
    // An old signature, one with text after its end, and one of something else.
    let armor = &good[good.find("-----BEGIN").unwrap()..];
    make("v1.3", &good.replacen("tag v1.0", "tag v1.3", 1));
    dry_run("1.3").exits(REJECTED).says("did not make the signature");
    make("v1.4", &format!("{}trailing\n", good.replacen("tag v1.0", "tag v1.4", 1)));
    dry_run("1.4").exits(REJECTED).says("its SSH signature cannot be read");
    make("v1.5", &good.replacen(armor, "-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\n-----END SSH SIGNATURE-----\n", 1));
    dry_run("1.5").exits(REJECTED);
    lab.assert_nothing_published();
}

#[test]
fn a_certificate_does_not_hide_a_revoked_key() {
    let lab = Lab::new();
    // An authority that the policy lists certifies the key that it revokes.
    let keygen = |arguments: &[&str]| {
        run(program("ssh-keygen").current_dir(lab.path("")).arg("-q").args(arguments)).exits(0);
    };
    keygen(&["-t", "ed25519", "-N", "", "-f", "authority"]);
    keygen(&["-s", "authority", "-I", "retired", "-n", "retired@kestrel.example", "retired.pub"]);
    let authority = String::from_utf8(lab.read("authority.pub")).unwrap();
    let key = authority.split(' ').take(2).collect::<Vec<_>>().join(" ");
    lab.write(
        "policy/keys/maintainers.allowed_signers",
        format!("*@kestrel.example cert-authority,namespaces=\"git\" {key}\n"),
    );
    lab.with_keys(&["init", "--home", "authority-home", "--policy", "policy/policy.toml", "--software-keys"]).exits(0);
    lab.write("retired-cert", lab.read("retired"));
    run(program("chmod").arg("600").arg(lab.path("retired-cert"))).exits(0);
    lab.write("retired-cert.pub", lab.read("retired-cert.pub"));
    lab.tag_as("v1.0", "retired-cert");
    lab.runs(&["cut", "--home", "authority-home", "1.0", "--dry-run"])
        .exits(REJECTED)
        .says("its SSH signature is by a certificate; list the key itself");
}

#[test]
fn a_list_of_revoked_keys_is_read_to_the_last_letter() {
    let lab = Lab::new();
    lab.tag("1.0");
    for (line, why) in [
        ("SHA256:tooshort", "line 2 is no SSH fingerprint"),
        ("SHA256:!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!", "line 2 is no SSH fingerprint"),
        ("MD5:00:11", "line 2 is neither an OpenPGP fingerprint nor SHA256:"),
        ("\u{feff}0000000000000000000000000000000000000000", "line 2 is neither"),
        ("alice", "line 2 is neither"),
    ] {
        lab.write("home/keys/revoked", format!("# revoked\n{line}\n"));
        runs(&lab, &["cut", "kestrel", "1.0", "--dry-run"]).exits(FAILED).says("lists no usable keys").says(why);
    }
    lab.write("home/keys/revoked", b"\xff\xfe\n");
    runs(&lab, &["cut", "kestrel", "1.0", "--dry-run"]).exits(FAILED).says("it is not UTF-8 text");
    endless(&lab, "home/keys/revoked", |_| {
        runs(&lab, &["cut", "kestrel", "1.0", "--dry-run"]).exits(FAILED).says("revoked");
    });
    lab.write("home/keys/revoked", "");
    runs(&lab, &["cut", "kestrel", "1.0", "--dry-run"]).exits(0);
}

#[test]
fn spiteful_configuration_is_refused() {
    let lab = Lab::new();
    let terminal = lab.read("home/terminal.toml");
    let long = 200_000;
    let nested = |open: &str| format!("a = {}", open.repeat(long));
    let tables: String = (0..20_000).fold(String::new(), |all, number| all + &format!("[t{number}]\n"));
    for (what, text) in [
        ("deep array", nested("[")),
        ("deep table", nested("{a=")),
        ("deep key", format!("{}a = 1", "a.".repeat(long))),
        ("deep heading", format!("[{}a]", "a.".repeat(long))),
        ("many tables", tables),
        ("doubled key", "version = 1\nversion = 1\n".to_owned()),
        ("long word", format!("{} = 1", "x".repeat(long))),
        ("control", "version = 1\n\"a\\u001b[2J\\u202e\" = 1\n".to_owned()),
        ("no text", "\0".repeat(long)),
    ] {
        lab.write("odd.toml", &text);
        let said = runs(&lab, &["policy", "check", "odd.toml"]).exits(FAILED).says("odd.toml:");
        assert!(said.err.len() < 10_000, "{what}: a message of {} bytes", said.err.len());
        lab.write("home/terminal.toml", &text);
        runs(&lab, &["status"]).exits(FAILED).says("terminal.toml:");
    }
    lab.write("home/terminal.toml", terminal);
    // The recipe is the source's: longer, deeper, and with names that lead elsewhere.
    let recipe = |text: &str, version: &str, why: &str| {
        lab.write("work/release.toml", text);
        lab.commit(version);
        lab.tag(version);
        runs(&lab, &["cut", "kestrel", version, "--dry-run"]).exits(REJECTED).says(why);
    };
    recipe(&"#\n".repeat(200_000), "1.0", "it is too long");
    recipe(&nested("["), "1.1", "release.toml:1:");
    let with = |artifact: &str| format!("version = 1\n[build]\nscript = [\"x\"]\n[[artifact]]\n{artifact}\n");
    recipe(&with("path = \"a/../../x\""), "1.2", "without `..`");
    recipe(&with("path = \"x\"\nname = \"../x\""), "1.3", "file name");
    recipe(&with("path = \"x\\u001b[2J\""), "1.4", "without `..`");
    recipe(&with("path = \"x\"\nname = \"a\\u202eb\""), "1.5", "a\\u{202e}b");
    recipe(&with("\"p\\u001b[2Jth\" = \"x\""), "1.6", "unknown field");
}

#[test]
fn what_a_courier_carries_is_bounded() {
    let lab = Lab::released();
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    lab.write("home/terminal.toml", terminal + "\n[mirror.one]\ncourier = true\n");
    lab.write("courier/terminal.toml", "version = 1\n[mirror.one]\npath = \"../one\"\n");
    lab.write("courier/root.json", lab.read("trust/root.json"));
    lab.runs(&["export", "stick"]).exits(0);
    let push = |lab: &Lab| runs(lab, &["courier", "push", "stick", "--home", "courier"]);
    let artifact = release::manifest::Sha256::of(&lab.read("mirror/releases/kestrel/1.0/kestrel-1.0"));
    for name in ["release-export.json", "2.publication.json", &artifact.to_string()] {
        endless(&lab, &format!("stick/{name}"), |_| drop(push(&lab).exits(REJECTED).says("is refused")));
    }
    let export = lab.read("stick/release-export.json");
    for (why, content) in spiteful(&export) {
        lab.write("stick/release-export.json", content);
        push(&lab).exits(REJECTED).says(why);
    }
    lab.write("stick/release-export.json", &export);
    let publication = lab.read("stick/2.publication.json");
    for (why, content) in spiteful(&publication) {
        let agrees = value(&export).to_string().replace(
            &release::manifest::Sha256::of(&publication).to_string(),
            &release::manifest::Sha256::of(&content).to_string(),
        );
        lab.write("stick/release-export.json", agrees);
        lab.write("stick/2.publication.json", content);
        push(&lab).exits(REJECTED).says(why);
    }
    assert!(!lab.path("one").exists());
    lab.runs(&["export", "stick"]).exits(0);
    push(&lab).exits(0);
    let receipt = lab.read("stick/release-receipt.json");
    for (why, content) in spiteful(&receipt) {
        lab.write("stick/release-receipt.json", content);
        let why = if why.starts_with("more") { "is longer than" } else { why };
        runs(&lab, &["import", "stick"]).exits(REJECTED).says(why);
    }
    lab.write("stick/release-receipt.json", receipt);
    endless(&lab, "stick/release-receipt.json", |_| drop(runs(&lab, &["import", "stick"]).exits(REJECTED)));
    runs(&lab, &["import", "stick"]).exits(0).says("one: publication 2");
}
