//! OpenPGP certificates: what gpg, gpgv and sqv make of them, and how they are extended.

use std::fs;
use std::path::Path;

use release::key::Algorithm;
use release::key::KeyError;
use release::key::Secrets;
use release::key::Signer;
use release::key::SoftwareKey;
use release::key::piv::Secret;
use release::key::piv::TokenName;
use release::key::piv::Tokens;
use release::key::piv::Wanted;
use release::manifest::Holder;
use release::manifest::KeyName;
use release::manifest::Sha256;
use release::openpgp;
use release::openpgp::Certificate;
use release::openpgp::NewKey;
use release::progress;
use release::progress::Progress;
use zeroize::Zeroizing;

use crate::support::Lab;
use crate::support::Said;
use crate::support::mirror::entry;
use crate::support::piv::hand::Event;
use crate::support::program;
use crate::support::run;
use crate::support::tokens::PIN;
use crate::support::tokens::PUK;
use crate::support::tokens::SERIALS;
use crate::support::tokens::TokenLab;

const REJECTED: i32 = 3;
const ALICE: usize = 0;

/// A program that is started at a moment: `+0`, or `+720d`.
fn at(moment: &str, name: &str) -> std::process::Command {
    let mut command = program("faketime");
    command.args(["-f", moment, name]);
    command
}

/// gpg with a home of its own, at a moment.
fn gpg(lab: &Lab, moment: &str, arguments: &[&str]) -> Said {
    let home = lab.path("gnupg");
    fs::create_dir_all(&home).unwrap();
    run(program("chmod").arg("700").arg(&home)).exits(0);
    let mut command = at(moment, "gpg");
    command.args(["--batch", "--trust-model", "always"]).args(arguments);
    run(command.env("GNUPGHOME", home).current_dir(lab.path("")))
}

fn sqv(lab: &Lab, moment: &str, certificate: &str, signature: &str, data: &str) -> Said {
    run(at(moment, "sqv").args(["--keyring", certificate, signature, data]).current_dir(lab.path("")))
}

/// The certificates of a mirror that are alice's and bob's: those that signed.
fn published(lab: &Lab, kind: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(lab.path("mirror/keys")).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == kind));
    files.map(|path| fs::read(path).unwrap()).collect()
}

/// The keys that gpg sees in a certificate: what each can do, and when it ends.
fn keys_in(lab: &Lab, certificate: &str) -> Vec<(String, String, i64)> {
    let shown = gpg(lab, "+0", &["--show-keys", "--with-colons", certificate]).exits(0);
    let keys = shown.out.lines().filter(|line| line.starts_with("pub") || line.starts_with("sub"));
    keys.map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields[0].to_owned(), fields[11].to_owned(), fields[6].parse().unwrap())
    })
    .collect()
}

#[test]
fn a_certificate_is_extended_and_what_it_signed_stays_good() {
    // A project that is three weeks old.
    let mut lab = Lab::new();
    fs::remove_dir_all(lab.path("home")).unwrap();
    lab.travel("-20d");
    lab.with_keys(&["init", "--policy", "policy/policy.toml", "--software-keys", "--mirror", "here=mirror"]).exits(0);
    lab.copy("home/repository/metadata/1.root.json", "trust/root.json");
    lab.travel("+0");
    lab.tag("1.0");
    lab.cut("1.0").exits(0);
    let old = lab.read("home/keys/alice.asc");
    lab.write("old.asc", &old);
    let before = keys_in(&lab, "old.asc");
    // Small letters are what a key itself can do.
    let kinds: Vec<(&str, &str)> = before.iter().map(|(kind, can, _)| (kind.as_str(), can.as_str())).collect();
    assert_eq!(kinds, [("pub", "cSC"), ("sub", "s")]);
    lab.runs(&["status"]).exits(0).says("certificate of alice renewed by `release key openpgp extend --holder alice`");

    let extend = ["key", "openpgp", "extend", "--holder", "alice"];
    let said = lab.with_keys(&extend).exits(0).says("is good until");
    said.says("Publish it with `release refresh`");
    let after = keys_in(&lab, "home/keys/alice.asc");
    let later = |index: usize| after[index].2 - before[index].2;
    assert!(later(0) == later(1) && (19 * 86_400..21 * 86_400).contains(&later(0)), "{before:?} {after:?}");
    assert_eq!(published(&lab, "asc").iter().filter(|file| **file == old).count(), 1, "not before it is published");
    lab.with_keys(&["refresh"]).exits(0).says("Published");
    let new = lab.read("home/keys/alice.asc");
    assert_eq!(published(&lab, "asc").iter().filter(|file| **file == new).count(), 1);
    lab.verify(&["mirror"]).exits(0);
    lab.with_keys(&["refresh"]).exits(0);
    lab.release_next("1.1");

    // What was signed before and after, by who has the new certificate.
    for version in ["1.0", "1.1"] {
        let files = ["SHA256SUMS.asc", "SHA256SUMS"].map(|name| Lab::mirrored(version, name));
        sqv(&lab, "+0", "home/keys/alice.asc", &files[0], &files[1]).exits(0);
        lab.write("keyring.gpg", published(&lab, "gpg").concat());
        let mut gpgv = program("gpgv");
        gpgv.args(["--keyring", "./keyring.gpg", &files[0], &files[1]]);
        run(gpgv.env("GNUPGHOME", lab.path("")).current_dir(lab.path(""))).exits(0);
    }
    // Between the old end and the new one.
    let [signature, sums] = ["SHA256SUMS.asc", "SHA256SUMS"].map(|name| Lab::mirrored("1.0", name));
    let verify = || gpg(&lab, "+720d", &["--verify", &signature, &sums]);
    gpg(&lab, "+0", &["--import", "old.asc"]).exits(0);
    verify().says("Good signature from \"Alice\" [expired]");
    gpg(&lab, "+0", &["--import", "home/keys/alice.asc", "home/keys/bob.asc"]).exits(0);
    verify().exits(0).says("Good signature from \"Alice\"").does_not_say("\"Alice\" [expired]");

    lab.with_keys(&["key", "openpgp", "extend", "--archive"]).exits(1).says("no OpenPGP certificate of the archive");
    lab.with_keys(&["key", "openpgp", "extend", "--holder", "dave"]).exits(1).says("no OpenPGP certificate of dave");
    lab.runs(&["key", "openpgp", "extend"]).exits(2);

    // Another terminal takes it; an older one, or another person's, replaces nothing.
    lab.write("two/policy.toml", lab.read("home/policy.toml"));
    for (name, content) in [("alice.asc", &old), ("attestation-roots/none.pem", &Vec::new())] {
        lab.write(&format!("two/keys/{name}"), content);
    }
    let take = |file: &str| lab.runs(&["key", "import-public", "--policy", "two/policy.toml", file]);
    take("home/keys/alice.asc").exits(0).says("new alice-openpgp: a software key");
    assert_eq!(lab.read("two/keys/alice.asc"), new);
    lab.write("older/alice.asc", &old);
    take("older/alice.asc").exits(REJECTED).says("keys/alice.asc is there already, with other content");
    lab.write("other/alice.asc", lab.read("home/keys/bob.asc"));
    take("other/alice.asc").exits(REJECTED).says("it is not for the holder's name");
    assert_eq!(lab.read("two/keys/alice.asc"), new);
}

#[test]
fn a_certificate_in_a_token_is_extended_by_one_touch() {
    let lab = TokenLab::new();
    let before = keys_in(&lab.lab, "home/keys/alice.asc");
    assert_eq!(before.len(), 2);
    lab.forget();
    let extend = ["key", "openpgp", "extend", "--holder", "alice"];
    let said = lab.runs(&extend).exits(0).says("Touch token 20000001 of alice to sign an OpenPGP certificate.");
    said.does_not_say(PIN);
    let count = |wanted: fn(Event) -> bool| lab.count(wanted);
    let touches = count(|event| matches!(event, Event::Touch(..)));
    assert_eq!((count(|event| matches!(event, Event::Pin(_))), touches), (1, 1));
    assert_eq!(count(|event| matches!(event, Event::Signature(slot) if slot == 0x87)), 2);
    lab.lab.tag("1.0");
    lab.cut("1.0").exits(0);
    let [signature, sums] = ["SHA256SUMS.asc", "SHA256SUMS"].map(|name| Lab::mirrored("1.0", name));
    sqv(&lab.lab, "+0", "home/keys/alice.asc", &signature, &sums).exits(0);
    // Pulled out: nothing is changed.
    let good = lab.lab.read("home/keys/alice.asc");
    lab.pcscd.reader(ALICE).unplug();
    lab.runs(&extend).exits(1).says("token 20000001 of alice is not plugged in");
    assert_eq!(lab.lab.read("home/keys/alice.asc"), good);
}

#[test]
fn the_archive_has_a_token_of_its_own() {
    let lab = TokenLab::fresh();
    let policy = String::from_utf8(lab.lab.read("policy/policy.toml")).unwrap();
    lab.lab.write("policy/policy.toml", policy.replace("[openpgp]\n", "[openpgp]\narchive = \"keys/archive.asc\"\n"));
    lab.generate(ALICE).exits(0);
    let generate = |token: usize, whose: &[&str]| {
        let serial = SERIALS[token].to_string();
        lab.set_lines(SERIALS[token], &[PIN, PUK]);
        lab.runs(&[&["key", "generate", "--policy", "policy/policy.toml", "--token", &serial], whose].concat())
    };
    let said = generate(ALICE, &["--archive"]).exits(REJECTED).says("keys of the archive and alice in token 20000001");
    said.says("no key was made; take a token in which nobody has keys");
    assert_eq!(lab.tokens[ALICE].state().keys.len(), 7);
    lab.forget();
    let said = generate(2, &["--archive"]).exits(0).says("Generated archive-openpgp in slot 83, touch always");
    said.says("Two people keep this: one the token, the other its PIN.");
    assert_eq!(lab.count(|event| matches!(event, Event::Touch(..))), 3, "always: one for each signature");
    generate(2, &["--holder", "carol"]).exits(REJECTED).says("keys of carol and the archive in token 20000003");
    generate(2, &["--online"]).exits(REJECTED).says("keys of a machine and the archive in token 20000003");
    generate(1, &["--archive"]).exits(2).says("the archive has no key without a public half");
    let shown = gpg(&lab.lab, "+0", &["--show-keys", "policy/keys/archive.asc"]).exits(0);
    assert!(shown.out.contains("Archive of https://packages.kestrel.example"), "{shown:?}");
    let said = lab.runs(&["key", "show", "archive-openpgp", "--policy", "policy/policy.toml"]).exits(0);
    said.says("signs InRelease, for apt").says("touch needed for each signature");

    // Users get it like the others.
    generate(1, &["--holder", "bob"]).exits(0);
    generate(3, &["--online"]).exits(0);
    let policy = String::from_utf8(lab.lab.read("policy/policy.toml")).unwrap();
    let without_carol: Vec<&str> = policy.lines().filter(|line| !line.starts_with("carol")).collect();
    let policy = without_carol.join("\n") + "\n";
    let policy = ["root", "targets", "release"]
        .iter()
        .fold(policy, |policy, purpose| policy.replace(&format!(", \"carol-{purpose}\""), ""));
    lab.lab.write("policy/policy.toml", policy.replace(", carol = \"keys/carol.asc\"", ""));
    lab.set_pins(&[]);
    lab.runs(&["init", "--policy", "policy/policy.toml", "--mirror", "here=mirror"]).exits(0);
    lab.runs(&["publish"]).exits(0);
    let archive = lab.lab.read("policy/keys/archive.asc");
    assert_eq!(published(&lab.lab, "asc").iter().filter(|file| **file == archive).count(), 1);
    let terminal = String::from_utf8(lab.lab.read("home/terminal.toml")).unwrap();
    assert!(terminal.contains("archive-certify = { serial = 20000003, slot = \"88\" }"), "{terminal}");
    // The PIN of that token is not typed for pushes.
    let (_, add) = entry(&lab.lab, "eu1");
    let host_key = add.last().unwrap();
    let add: Vec<&str> = add.iter().map(String::as_str).chain(["--token", "20000003"]).collect();
    lab.forget();
    let said = lab.runs(&add).exits(REJECTED).says("keys of the archive and a machine in token 20000003");
    said.says("no key was made").does_not_say("PIN of");
    assert!(lab.events().is_empty());
    assert_eq!(String::from_utf8(lab.lab.read("home/terminal.toml")).unwrap(), terminal);
    let deploy = format!(
        "[mirror.eu1]\nurl = \"http://eu1.invalid:1\"\naddress = [\"127.0.0.1\"]\nport = 1\nhost-key = \"{host_key}\"\n\
         pool-key = \"token:20000003/9a\"\npointer-key = \"token:20000003/95\"\n"
    );
    lab.lab.write("home/terminal.toml", format!("{terminal}\n{deploy}"));
    lab.runs(&["refresh"]).exits(REJECTED).says("keys of the archive and a machine in token 20000003");
    lab.lab.write("home/terminal.toml", terminal.replace("serial = 20000004", "serial = 20000003"));
    lab.runs(&["refresh"]).exits(REJECTED).says("keys of the archive and a machine in token 20000003");
}

#[test]
fn what_apt_reads_is_signed_in_one_file() {
    let lab = Lab::new();
    let now: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    let later = now + jiff::SignedDuration::from_hours(24 * 365 * 20);
    // Dashes and spaces at the end are what this form changes; one line has no break.
    let text = "Origin: kestrel\n- dashes\n-----BEGIN PGP SIGNATURE-----\nspaces  \t\nFrom here\n\nlast";
    for algorithm in [Algorithm::P256, Algorithm::Ed25519] {
        let make = |name: &str| SoftwareKey::generate(name.parse().unwrap(), algorithm).unwrap();
        let (primary, signing) = (make("archive-certify"), make("archive-openpgp"));
        let new = |signer| NewKey { signer, created: now };
        let certificate = openpgp::new_certificate(new(&primary), new(&signing), "Archive", later).unwrap();
        assert_eq!(certificate.signing_key().as_ref(), Some(signing.public()));
        assert_eq!((certificate.primary_key().as_ref(), certificate.expires()), (Some(primary.public()), Some(later)));
        certificate.check_plain("Archive", now).unwrap();
        assert!(certificate.check_plain("Archivist", now).is_err());
        assert!(certificate.check_plain("Archive", later + jiff::SignedDuration::from_secs(1)).is_err());
        // The key that certifies signs nothing else, and the other one certifies nothing.
        assert!(openpgp::sign_cleartext(&certificate, &primary, "InRelease", text, now).is_err());
        assert!(openpgp::sign_detached(&certificate, &primary, "Release", text.as_bytes(), now).is_err());
        assert!(openpgp::extend(&certificate, &signing, now, later).is_err());
        let signed = openpgp::sign_cleartext(&certificate, &signing, "InRelease", text, now).unwrap();
        let detached = openpgp::sign_detached(&certificate, &signing, "Release", text.as_bytes(), now).unwrap();
        lab.write("archive.gpg", certificate.to_binary().unwrap());
        lab.write("InRelease", &signed);
        lab.write("Release", text);
        lab.write("Release.gpg", openpgp::join_signatures(&[detached]).unwrap());
        let gpgv = |files: &[&str]| {
            let mut command = program("gpgv");
            command.env("GNUPGHOME", lab.path("")).args(["--keyring", "./archive.gpg"]).args(files);
            run(command.current_dir(lab.path("")))
        };
        gpgv(&["InRelease"]).exits(0).says("Good signature from \"Archive\"");
        gpgv(&["Release.gpg", "Release"]).exits(0);
        sqv(&lab, "+0", "archive.gpg", "Release.gpg", "Release").exits(0);
        gpg(&lab, "+0", &["--import", "archive.gpg"]).exits(0);
        gpg(&lab, "+0", &["--verify", "InRelease"]).exits(0);
        let changed = String::from_utf8(signed).unwrap().replace("kestrel", "kestral");
        lab.write("InRelease", changed);
        assert_ne!(gpgv(&["InRelease"]).code, Some(0));
        assert_ne!(gpg(&lab, "+0", &["--verify", "InRelease"]).code, Some(0));
    }
}

/// Whoever types the PIN of the archive's token.
struct Keeper;

impl Progress for Keeper {
    fn event(&self, _: progress::Event<'_>) {}
}

impl Secrets for Keeper {
    fn passphrase(&self, _: &KeyName, _: Option<&Holder>, _: bool) -> Result<Zeroizing<String>, KeyError> {
        panic!("no software key is asked for")
    }

    fn new_passphrase(&self, _: &KeyName, _: Option<&Holder>) -> Result<Zeroizing<String>, KeyError> {
        panic!("no software key is made")
    }

    fn pin(&self, _: &TokenName, _: Secret, _: u8) -> Result<Zeroizing<String>, KeyError> {
        Ok(Zeroizing::new(PIN.to_owned()))
    }

    fn new_pin(&self, _: &TokenName, _: Secret) -> Result<Zeroizing<String>, KeyError> {
        panic!("no PIN is set")
    }

    fn last_try(&self, _: &TokenName, _: Secret) -> bool {
        false
    }
}

/// Signs `Release` in a folder by the archive's token: `InRelease` and `Release.gpg`.
fn sign_as_the_archive(folder: &Path) {
    let certificate = Certificate::one(&fs::read(folder.join("archive.asc")).unwrap()).unwrap();
    let tokens = Tokens::new(&Keeper);
    let wanted = Wanted {
        name: &"archive-openpgp".parse().unwrap(),
        token: TokenName { serial: SERIALS[2], holder: None },
        slot: "83".parse().unwrap(),
        is_enrolled: Box::new(|public| certificate.signing_key().as_ref() == Some(public)),
    };
    let keys = tokens.open(&[wanted]).unwrap();
    let text = fs::read_to_string(folder.join("Release")).unwrap();
    let now = jiff::Timestamp::now();
    let signed = openpgp::sign_cleartext(&certificate, &keys[0], "InRelease", &text, now).unwrap();
    let detached = openpgp::sign_detached(&certificate, &keys[0], "Release", text.as_bytes(), now).unwrap();
    fs::write(folder.join("InRelease"), signed).unwrap();
    fs::write(folder.join("Release.gpg"), openpgp::join_signatures(&[detached]).unwrap()).unwrap();
}

#[test]
fn the_token_of_the_archive_signs_what_apt_reads() {
    // In a process of its own: which pcscd there is stands in its environment.
    const FOLDER: &str = "RELEASE_TEST_ARCHIVE";
    if let Some(folder) = std::env::var_os(FOLDER) {
        return sign_as_the_archive(Path::new(&folder));
    }
    let lab = TokenLab::fresh();
    let policy = String::from_utf8(lab.lab.read("policy/policy.toml")).unwrap();
    lab.lab.write("policy/policy.toml", policy.replace("[openpgp]\n", "[openpgp]\narchive = \"keys/archive.asc\"\n"));
    lab.set_lines(SERIALS[2], &[PIN, PUK]);
    let serial = SERIALS[2].to_string();
    lab.runs(&["key", "generate", "--policy", "policy/policy.toml", "--token", &serial, "--archive"]).exits(0);
    let packages = "Package: kestrel\nVersion: 1.0\nArchitecture: all\nMaintainer: Alice <alice@kestrel.example>\n\
                    Filename: kestrel.deb\nSize: 1\nSHA256: 00\nDescription: none\n";
    lab.lab.write("apt/Packages", packages);
    let now = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S UTC");
    let (digest, size) = (Sha256::of(packages.as_bytes()), packages.len());
    lab.lab.write("apt/Release", format!("Origin: kestrel\nDate: {now}\nSHA256:\n {digest} {size} Packages\n"));
    lab.lab.copy("policy/keys/archive.asc", "apt/archive.asc");
    let certificate = Certificate::one(&lab.lab.read("apt/archive.asc")).unwrap();
    lab.lab.write("apt/archive.gpg", certificate.to_binary().unwrap());
    lab.forget();
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "openpgp::the_token_of_the_archive_signs_what_apt_reads"]).envs([lab.pcscd.variable()]);
    run(again.env(FOLDER, lab.lab.path("apt"))).exits(0).says("1 passed");
    let events = lab.tokens[2].events();
    let signatures = events.iter().filter(|event| matches!(event, Event::Signature(0x83))).count();
    assert_eq!((lab.tokens[2].pins(), lab.tokens[2].touches(), signatures), (1, 2, 2), "{events:?}");

    // Cleartext for gpgv, gpg and apt; detached also for sqv, which knows no other.
    let gpgv = |files: &[&str]| {
        let mut command = program("gpgv");
        command.env("GNUPGHOME", lab.lab.path("")).args(["--keyring", "./apt/archive.gpg"]).args(files);
        run(command.current_dir(lab.lab.path("")))
    };
    gpgv(&["apt/InRelease"]).exits(0).says("Good signature from \"Archive of https://packages.kestrel.example\"");
    gpgv(&["apt/Release.gpg", "apt/Release"]).exits(0);
    gpg(&lab.lab, "+0", &["--import", "apt/archive.asc"]).exits(0);
    gpg(&lab.lab, "+0", &["--verify", "apt/InRelease"]).exits(0);
    sqv(&lab.lab, "+0", "apt/archive.asc", "apt/Release.gpg", "apt/Release").exits(0);
    let update = || {
        let folder = lab.lab.path("apt");
        lab.lab.write("sources", format!("deb [signed-by={0}/archive.gpg] file:{0} ./\n", folder.display()));
        fs::create_dir_all(lab.lab.path("lists/partial")).unwrap();
        let mut apt = program("apt-get");
        let options = ["Dir::Etc::sourceparts=-", "Dir::Etc::parts=-", "APT::Sandbox::User=root"].map(str::to_owned);
        let places = ["Dir::Etc::sourcelist=sources", "Dir::State::Lists=lists", "Dir::Cache=cache"];
        let places = places.map(|place| {
            let (name, path) = place.split_once('=').unwrap();
            format!("{name}={}", lab.lab.path(path).display())
        });
        for option in options.iter().chain(&places) {
            apt.args(["-o", option]);
        }
        run(apt.arg("update").current_dir(lab.lab.path("")))
    };
    update().exits(0).does_not_say("W:").does_not_say("E:");
    assert!(
        fs::read_dir(lab.lab.path("lists"))
            .unwrap()
            .any(|file| { file.unwrap().file_name().to_string_lossy().ends_with("_InRelease") })
    );
    let changed = String::from_utf8(lab.lab.read("apt/InRelease")).unwrap().replace("kestrel", "kestral");
    lab.lab.write("apt/InRelease", changed);
    assert_ne!(gpgv(&["apt/InRelease"]).code, Some(0));
    update().says("signatures were invalid");
}

/// Found by fuzzing: a signature in it names a key by a fingerprint of kind 122.
const OF_AN_UNKNOWN_KIND: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----

xjMEaweZxhYJKwYBBAHaRw8BAQdAWjKamB6stvOmRvQIVpkiOB3IyVe/z4DiqxOWx/HVHErNBUFs
aWNlwsAEBBMWCAB2BYJrBpnGCRAgfHP/7dgMukcUAAAAAAAeACBzYWx0QG5vdGF0aW9ucy5zZXF1
b2lhLXBncC5vcmc0YmzeD4U7XGyiZE9iQz9myYTRnwje3ZG+2CgwRWnecAMVCAoCmwMWIXovWIkb
vxE2sJ1NKhvffHP/7dgMugAA6bsBAJcuBUuXKqgSEBUJYqx0UWBgNcDQzcpIQskZfI4lsY6zAP94
TgSR65ksSH8h0LE4M9e0LxTtluvpKwJbUef8d31EAQ==
-----END PGP PUBLIC KEY BLOCK-----
";

#[test]
fn a_certificate_that_cannot_be_published_is_refused() {
    let refused = Certificate::all(OF_AN_UNKNOWN_KIND.as_bytes()).unwrap_err();
    assert!(refused.to_string().contains("nknown kind of fingerprint"), "{refused}");
}
