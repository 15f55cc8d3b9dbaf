//! What a cut publishes for apt, and that stock apt takes it.

use std::collections::BTreeMap;
use std::fs;

use release::home::failpoint::APT_STEPS;

use super::client::Client;
use super::client::Form;
use super::commit;
use super::thief::DISTS;
use crate::support::Lab;
use crate::support::program;
use crate::support::python;
use crate::support::run;
use crate::support::server::Nginx;

const REJECTED: i32 = 3;

/// The certificate of the archive as a mirror has it.
pub fn certificate(lab: &Lab, end: &str) -> std::path::PathBuf {
    let armored = lab.read("home/keys/archive.asc");
    let keys = fs::read_dir(lab.path("mirror/keys")).unwrap().map(|entry| entry.unwrap().path());
    let found = keys.filter(|path| path.extension().is_some_and(|found| found == "asc"));
    let path =
        found.into_iter().find(|path| fs::read(path).unwrap() == armored).expect("the mirror has the certificate");
    path.with_extension(end)
}

fn text(lab: &Lab, path: &str) -> String {
    String::from_utf8(lab.read(path)).unwrap()
}

#[test]
fn stock_apt_installs_upgrades_and_is_told_of_withdrawals() {
    let mut lab = Lab::with_apt();
    assert!(!lab.path("mirror/apt").exists(), "without a package there is no suite");
    commit(
        &lab,
        "1.0",
        &[("kestrel", "amd64", "1.0-1"), ("kestrel-doc", "all", "1.0-1"), ("kestrel", "arm64", "1.0-1")],
    );
    lab.cut("1.0").exits(0);
    let nginx = Nginx::serve(&lab.path("mirror"));
    let mut clients = Vec::new();
    for (end, form) in [("asc", Form::OneLine), ("gpg", Form::Deb822)] {
        let client = Client::new(&nginx.url(), &certificate(&lab, end), form);
        let said = client.update().exits(0);
        assert!(said.out.contains("InRelease") && !said.out.contains("Ign:"), "{}", said.out);
        assert_eq!(said.err, "", "no warnings");
        assert_eq!(client.candidate("kestrel").as_deref(), Some("1.0-1"));
        client.runs(&["apt-get", "download", "kestrel"]).exits(0);
        let file = "kestrel_1.0-1_amd64.deb";
        assert_eq!(fs::read(client.path(file)).unwrap(), lab.read(&Lab::mirrored("1.0", file)));
        client.runs(&["apt-get", "install", "-y", "kestrel", "kestrel-doc"]).exits(0);
        assert_eq!(client.installed("kestrel").as_deref(), Some("1.0-1"));
        assert!(client.path("root/usr/share/kestrel-doc/notes").exists());
        clients.push(client);
    }

    commit(&lab, "1.1", &[("kestrel", "amd64", "1.1-1")]);
    lab.cut("1.1").exits(0);
    let client = &clients[0];
    client.update().exits(0);
    client.runs(&["apt-get", "upgrade", "-y"]).exits(0);
    assert_eq!(client.installed("kestrel").as_deref(), Some("1.1-1"));
    let packages = text(&lab, &format!("{DISTS}/main/binary-amd64/Packages"));
    assert_eq!(packages.matches("Package: kestrel\n").count(), 2, "all versions are there: {packages}");
    assert!(text(&lab, &format!("{DISTS}/main/binary-arm64/Packages")).contains("Package: kestrel-doc\n"));

    // Nothing new, and new dates.
    let before = client.date().unwrap();
    let generations =
        |lab: &Lab| fs::read_dir(lab.path(&format!("{DISTS}/main/binary-amd64/by-hash/SHA256"))).unwrap().count();
    assert_eq!(generations(&lab), 6, "old ones are kept");
    let (release, index) = (text(&lab, &format!("{DISTS}/Release")), packages);
    lab.travel("+20d");
    lab.with_keys(&["refresh"]).exits(0);
    assert_eq!(generations(&lab), 6);
    assert_eq!(text(&lab, &format!("{DISTS}/main/binary-amd64/Packages")), index);
    let refreshed = text(&lab, &format!("{DISTS}/Release"));
    let other: Vec<&str> = release.lines().filter(|line| !refreshed.contains(line)).collect();
    assert!(other.len() == 2 && other[0].starts_with("Date: ") && other[1].starts_with("Valid-Until: "), "{other:?}");
    client.runs_at(Some("+20d"), &["apt-get", "update", "--error-on=any"]).exits(0);
    assert_ne!(client.date().unwrap(), before);
    lab.runs(&["status"]).exits(0).says("suite stable").says("release refresh");

    // apt does not go back by itself; who comes new gets the one before.
    lab.with_keys(&["withdraw", "kestrel", "1.1", "--reason", "crashes", "--yes=1.1"]).exits(0);
    client.runs_at(Some("+20d"), &["apt-get", "update", "--error-on=any"]).exits(0);
    client.runs_at(Some("+20d"), &["apt-get", "upgrade", "-y"]).exits(0);
    assert_eq!(client.installed("kestrel").as_deref(), Some("1.1-1"));
    let other = &clients[1];
    other.runs_at(Some("+20d"), &["apt-get", "update", "--error-on=any"]).exits(0);
    assert_eq!(other.candidate("kestrel").as_deref(), Some("1.0-1"));
    assert!(lab.path("mirror/apt/pool/main/k/kestrel/kestrel_1.1-1_amd64.deb").exists(), "nothing is deleted");
}

#[test]
fn a_suite_says_what_it_is_and_is_signed_twice() {
    let lab = Lab::with_apt();
    commit(&lab, "1.0", &[("kestrel", "amd64", "1.0-1"), ("kestrel-doc", "all", "1.0-1")]);
    lab.cut("1.0").exits(0);
    let release = text(&lab, &format!("{DISTS}/Release"));
    let fields: BTreeMap<&str, &str> = release.lines().filter_map(|line| line.split_once(": ")).collect();
    for (field, value) in [
        ("Origin", "packages.kestrel.example"),
        ("Label", "packages.kestrel.example"),
        ("Suite", "stable"),
        ("Codename", "stable"),
        ("Acquire-By-Hash", "yes"),
        ("No-Support-for-Architecture-all", "Packages"),
        ("Architectures", "amd64"),
        ("Components", "main"),
    ] {
        assert_eq!(fields.get(field), Some(&value), "{release}");
    }
    let key = certificate(&lab, "gpg");
    assert_eq!(fields["Signed-By"], key.file_stem().unwrap().to_str().unwrap());
    // Each index is there under its name and that of its content, and nothing else is.
    let mut listed = Vec::new();
    for line in release.split_once("SHA256:\n").unwrap().1.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let path = lab.path(&format!("{DISTS}/{}", words[2]));
        assert_eq!(fs::metadata(&path).unwrap().len().to_string(), words[1]);
        let by_hash = path.with_file_name("by-hash").join("SHA256").join(words[0]);
        assert_eq!(fs::read(&by_hash).unwrap(), fs::read(&path).unwrap());
        assert_eq!(release::manifest::Sha256::of(&fs::read(&path).unwrap()).to_string(), words[0]);
        listed.push(words[2].to_owned());
    }
    let forms = |index: &str| ["", ".gz", ".xz"].map(|end| format!("main/{index}{end}"));
    assert_eq!(listed, [forms("binary-amd64/Packages"), forms("source/Sources")].concat());
    let packages = lab.path(&format!("{DISTS}/main/binary-amd64/Packages"));
    for (tool, end) in [("gzip", "gz"), ("xz", "xz")] {
        let unpacked = run(program(tool).arg("-dc").arg(packages.with_extension(end))).exits(0).out;
        assert_eq!(unpacked.as_bytes(), fs::read(&packages).unwrap());
    }
    // Stock verifiers, with nothing of apt.
    let path = |file: &str| lab.path(&format!("{DISTS}/{file}"));
    let gpgv = |arguments: &[&std::path::Path]| run(program("gpgv").arg("--keyring").arg(&key).args(arguments));
    gpgv(&[&path("InRelease")]).exits(0).says("Good signature");
    gpgv(&[&path("Release.gpg"), &path("Release")]).exits(0).says("Good signature");
    run(program("sqv").arg("--keyring").arg(&key).arg(path("Release.gpg")).arg(path("Release"))).exits(0);
    let signed = lab.path("signed");
    run(program("gpgv").arg("--keyring").arg(&key).arg("-o").arg(&signed).arg(path("InRelease"))).exits(0);
    assert_eq!(lab.read("signed"), lab.read(&format!("{DISTS}/Release")));
    // The same packages and time give the same bytes.
    let again = lab.twin();
    fs::remove_dir_all(again.path("mirror")).unwrap();
    again.runs(&["publish"]).exits(0);
    for file in ["InRelease", "Release", "Release.gpg", "main/binary-amd64/Packages.xz"] {
        assert_eq!(again.read(&format!("{DISTS}/{file}")), lab.read(&format!("{DISTS}/{file}")), "{file}");
    }
}

/// The stanzas of an index, each as its fields, without those that only some writers
/// have.
fn stanzas(index: &str) -> Vec<BTreeMap<String, String>> {
    let left_out = ["MD5sum", "SHA1", "SHA512", "Description-md5"];
    let mut all: Vec<_> = index
        .trim_end()
        .split("\n\n")
        .map(|stanza| {
            let mut fields = BTreeMap::new();
            let mut last = String::new();
            for line in stanza.lines() {
                if let Some((name, value)) = line.split_once(':').filter(|_| !line.starts_with(' ')) {
                    name.clone_into(&mut last);
                    fields.insert(last.clone(), value.trim().to_owned());
                } else {
                    let value: &mut String = fields.get_mut(&last).unwrap();
                    value.push('\n');
                    value.push_str(line);
                }
            }
            fields.retain(|name, _| !left_out.contains(&name.as_str()));
            fields
        })
        .collect();
    all.sort_by(|a, b| a["Filename"].cmp(&b["Filename"]));
    all
}

#[test]
fn others_read_and_write_the_same_index() {
    let lab = Lab::with_apt();
    commit(
        &lab,
        "1.0",
        &[("kestrel", "amd64", "1:1.0~rc1-1"), ("libkestrel2", "amd64", "2.0+b1"), ("kestrel-doc", "all", "1.0-1")],
    );
    lab.cut("1.0").exits(0);
    commit(&lab, "1.1", &[("kestrel", "amd64", "1:1.0-1")]);
    lab.cut("1.1").exits(0);
    let ours = text(&lab, &format!("{DISTS}/main/binary-amd64/Packages"));
    let theirs =
        run(program("apt-ftparchive").args(["packages", "pool"]).current_dir(lab.path("mirror/apt"))).exits(0).out;
    assert_eq!(stanzas(&ours).len(), 4);
    assert_eq!(stanzas(&ours), stanzas(&theirs));
    let versions: Vec<&str> = ours.lines().filter(|line| line.starts_with("Version: 1:")).collect();
    assert_eq!(versions, ["Version: 1:1.0~rc1-1", "Version: 1:1.0-1"], "by name, then by version");
    let script = "import sys\nfrom debian.deb822 import Packages, Release\n\
        for stanza in Packages.iter_paragraphs(open(sys.argv[1]), use_apt_pkg=False):\n\
        \x20   print(stanza['Package'], stanza['Version'], stanza['Filename'], stanza.get_version())\n\
        release = Release(open(sys.argv[2]))\nprint(len(release['SHA256']), release['Valid-Until'])\n";
    let mut command = program(python().to_str().unwrap());
    command.args(["-c", script]).arg(lab.path(&format!("{DISTS}/main/binary-amd64/Packages")));
    let said = run(command.arg(lab.path(&format!("{DISTS}/Release")))).exits(0).out;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[3], "libkestrel2 2.0+b1 pool/main/k/kestrel/libkestrel2_2.0+b1_amd64.deb 2.0+b1");
    assert!(lines.len() == 5 && lines[4].starts_with("6 ") && lines[4].ends_with(" UTC"), "{said}");
}

#[test]
fn packages_for_all_alone_have_an_index() {
    let lab = Lab::with_apt();
    commit(&lab, "1.0", &[("kestrel-doc", "all", "1.0-1")]);
    lab.cut("1.0").exits(0);
    let release = text(&lab, &format!("{DISTS}/Release"));
    assert!(release.contains("\nArchitectures: all\n") && !release.contains("No-Support"), "{release}");
    let nginx = Nginx::serve(&lab.path("mirror"));
    let client = Client::new(&nginx.url(), &certificate(&lab, "asc"), Form::OneLine);
    client.update().exits(0);
    assert_eq!(client.candidate("kestrel-doc").as_deref(), Some("1.0-1"));
}

#[test]
fn one_name_and_version_never_has_other_bytes() {
    let lab = Lab::with_apt();
    commit(&lab, "1.0", &[("kestrel", "amd64", "1.0-1"), ("kestrel-doc", "all", "7")]);
    lab.cut("1.0").exits(0);
    let before = lab.read(&format!("{DISTS}/InRelease"));
    // The content differs from that of 1.0: the notes are others.
    commit(&lab, "1.1", &[("kestrel", "amd64", "1.0-1")]);
    let name = "kestrel_1.0-1_amd64.deb";
    lab.cut("1.1")
        .exits(REJECTED)
        .says(&format!("{name} was released before with other bytes"))
        .says("nothing was signed")
        .says("release abandon kestrel 1.1");
    let journal = text(&lab, "home/journal.jsonl");
    assert!(!journal.contains("claim kestrel 1.1"), "nothing was signed");
    assert_eq!(lab.read(&format!("{DISTS}/InRelease")), before);
    lab.runs(&["abandon", "kestrel", "1.1", "--yes=1.1"]).exits(0);
    // Nor where the first one is withdrawn.
    lab.with_keys(&["withdraw", "kestrel", "1.0", "--reason", "crashes", "--yes=1.0"]).exits(0);
    assert_eq!(text(&lab, &format!("{DISTS}/main/binary-amd64/Packages")), "");
    let nginx = Nginx::serve(&lab.path("mirror"));
    let client = Client::new(&nginx.url(), &certificate(&lab, "asc"), Form::OneLine);
    client.update().exits(0);
    assert_eq!(client.candidate("kestrel"), None);
    commit(&lab, "1.2", &[("kestrel", "amd64", "1.0-1")]);
    lab.cut("1.2").exits(REJECTED).says(&format!("{name} was released before with other bytes"));
}

#[test]
fn a_killed_cut_goes_on_with_the_suite_that_was_signed() {
    for step in APT_STEPS.iter().flat_map(|step| [format!("{step}:1"), format!("{step}:2")]) {
        let lab = Lab::with_apt();
        commit(&lab, "1.0", &[("kestrel", "amd64", "1.0-1")]);
        let said = lab.with_keys_and(&["cut", "kestrel", "1.0", "--yes=1.0"], &[("RELEASE_FAIL_AT", &step)]);
        assert_eq!(said.code, None, "{step}: killed: {said:?}");
        assert!(!lab.path("mirror/apt").exists());
        lab.cut("1.0").exits(0);
        let asked = text(&lab, "home/journal.jsonl");
        for file in ["Release.gpg", "InRelease"] {
            assert_eq!(asked.matches(&format!("\"what\":\"{file} stable 2\"")).count(), 1, "{step}");
        }
        let nginx = Nginx::serve(&lab.path("mirror"));
        let client = Client::new(&nginx.url(), &certificate(&lab, "asc"), Form::OneLine);
        client.update().exits(0);
        assert_eq!(client.candidate("kestrel").as_deref(), Some("1.0-1"), "{step}");
    }
}

#[test]
fn a_suite_that_would_outlive_its_certificate_is_not_signed() {
    let mut lab = Lab::with_apt();
    fs::remove_dir_all(lab.path("home")).unwrap();
    let policy = text(&lab, "policy/policy.toml");
    lab.write("policy/policy.toml", policy.replace("[openpgp]\n", "[openpgp]\nexpires = \"40d\"\n"));
    let init = ["init", "--policy", "policy/policy.toml", "--software-keys", "--mirror", "here=mirror"];
    lab.with_keys(&init).exits(0);
    commit(&lab, "1.0", &[("kestrel", "amd64", "1.0-1")]);
    lab.cut("1.0").exits(0);
    commit(&lab, "1.1", &[("kestrel", "amd64", "1.1-1")]);
    lab.travel("+20d");
    let said = lab.cut("1.1");
    assert_ne!(said.code, Some(0), "{said:?}");
    said.says("of the archive is not good until").says("release key openpgp extend --archive");
    let journal = text(&lab, "home/journal.jsonl");
    assert!(!journal.contains("claim kestrel 1.1"), "nothing was signed");
    let said = lab.with_keys(&["refresh"]);
    assert_ne!(said.code, Some(0), "{said:?}");
    assert_eq!(text(&lab, "home/journal.jsonl").matches("InRelease stable").count(), 1);
    lab.with_keys(&["key", "openpgp", "extend", "--archive"]).exits(0);
    lab.with_keys(&["refresh"]).exits(0);
    lab.verify(&["mirror"]).exits(0);
}
