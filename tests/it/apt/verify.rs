//! `release verify` of what a mirror has for apt: it goes by what people signed, not by
//! the archive's key.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::process::Stdio;

use super::client::Client;
use super::client::Form;
use super::commit;
use super::suite::certificate;
use super::thief;
use super::thief::DISTS;
use super::thief::replace;
use crate::support::Lab;
use crate::support::Said;
use crate::support::deb;
use crate::support::server::Nginx;

const REJECTED: i32 = 3;
const STALE: i32 = 5;

/// A mirror with two releases; `first` is it after the first one.
fn mirror() -> Lab {
    let lab = Lab::with_apt();
    commit(
        &lab,
        "1.0",
        &[("kestrel", "amd64", "1.0-1"), ("kestrel-doc", "all", "1.0-1"), ("kestrel", "arm64", "1.0-1")],
    );
    lab.cut("1.0").exits(0);
    lab.copy("mirror", "first");
    commit(&lab, "1.1", &[("kestrel", "amd64", "1.1-1")]);
    lab.cut("1.1").exits(0);
    lab.copy("mirror", "good");
    lab
}

/// The mirror says the truth again.
fn reset(lab: &Lab) {
    fs::remove_dir_all(lab.path("mirror/apt")).unwrap();
    lab.copy("good/apt", "mirror/apt");
}

fn verify(lab: &Lab) -> Said {
    lab.verify(&["mirror"])
}

#[test]
fn a_mirror_with_a_suite_verifies_as_folder_and_by_its_url() {
    let mut lab = mirror();
    let nginx = Nginx::serve(&lab.path("mirror"));
    let both = |lab: &Lab, code: i32| {
        let folder = verify(lab).exits(code).does_not_say("looking again").does_not_say("do not use");
        lab.verify(&[&nginx.url()]).exits(code).does_not_say("looking again");
        folder
    };
    both(&lab, 0).says("kestrel_1.1-1_amd64.deb");
    // What is withdrawn stays in the pool, and nothing names it.
    lab.with_keys(&["withdraw", "kestrel", "1.1", "--reason", "crashes", "--yes=1.1"]).exits(0);
    assert!(lab.path("mirror/apt/pool/main/k/kestrel/kestrel_1.1-1_amd64.deb").exists());
    both(&lab, 0).does_not_say("kestrel_1.1-1_amd64.deb");
    lab.with_keys(&["withdraw", "kestrel", "1.0", "--reason", "crashes", "--yes=1.0"]).exits(0);
    assert_eq!(thief::index(&lab), "");
    commit(&lab, "1.2", &[("kestrel", "amd64", "1.2-1")]);
    lab.cut("1.2").exits(0);
    both(&lab, 0);
    // What a push brings before it is announced is not released.
    let package = deb::deb(&deb::CONTROL.replace("1.0-1", "1.3-1"));
    let digest = release::manifest::Sha256::of(&package);
    let pool = "mirror/apt/pool/main/k/kestrel/kestrel_1.3-1_amd64.deb";
    for path in [pool.to_owned(), format!("mirror/targets/kestrel/1.3/{digest}.kestrel_1.3-1_amd64.deb")] {
        replace(&lab.path(&path), &package);
    }
    verify(&lab).exits(0).says("releases/kestrel/1.3 is not released: do not use what lies there");
    fs::remove_dir_all(lab.path("mirror/targets/kestrel/1.3")).unwrap();
    verify(&lab).exits(REJECTED).says(pool);
    fs::remove_file(lab.path(pool)).unwrap();
    lab.travel("+40d");
    verify(&lab).exits(STALE).says("suite stable for apt has expired on");
    lab.with_keys(&["refresh"]).exits(0);
    both(&lab, 0);
}

/// What is wrong, how, what is said of it, and the version that stock apt would install.
type Lie<'a> = (&'a str, &'a dyn Fn(), &'a str, Option<&'a str>);

#[test]
fn what_the_archives_key_alone_signs_is_taken_by_apt_and_found_here() {
    let lab = mirror();
    let nginx = Nginx::serve(&lab.path("mirror"));
    let index = thief::index(&lab);
    let stanzas: Vec<&str> = index.split_inclusive("\n\n").collect();
    let newest = *stanzas.iter().find(|stanza| stanza.contains("Version: 1.1-1\n")).unwrap();
    let older = *stanzas.iter().find(|stanza| stanza.contains("Package: kestrel\nSource: kestrel (1.0-1)\n")).unwrap();
    let with = |stanza: &str| format!("{index}\n{stanza}");
    let evil = || with(&thief::plant(&lab));
    let without_newest = index.replace(newest, "");
    let lies: [Lie<'_>; 7] = [
        ("a planted package", &|| thief::exchange_all(&lab, &evil()), "which no release lists", Some("6.6-6")),
        (
            // apt compares what it unpacks with the plain index; others take one form.
            "only in the form that apt likes best",
            &|| thief::exchange(&lab, &[(".xz", deb::xz(evil().as_bytes()))]),
            "Packages.xz: does not unpack to the index",
            None,
        ),
        (
            // Stock apt stops at the end of the first; others go on.
            "behind the end of a form",
            &|| {
                let more = [deb::xz(index.as_bytes()), deb::xz(format!("\n{}", thief::plant(&lab)).as_bytes())];
                thief::exchange(&lab, &[(".xz", more.concat())]);
            },
            "Packages.xz: does not unpack to the index",
            Some("1.1-1"),
        ),
        (
            "the other form",
            &|| thief::exchange(&lab, &[(".gz", deb::gz(evil().as_bytes()))]),
            "Packages.gz: does not unpack to the index",
            Some("1.1-1"),
        ),
        (
            "an old package under a new version",
            &|| thief::exchange_all(&lab, &index.replace(older, &older.replace("Version: 1.0-1", "Version: 6.6-6"))),
            "what nobody has signed",
            Some("6.6-6"),
        ),
        (
            "a package that needs another one",
            &|| {
                let changed = newest.replace("Filename: ", "Depends: evil\nFilename: ");
                thief::exchange_all(&lab, &index.replace(newest, &changed));
            },
            "what nobody has signed",
            Some("1.1-1"),
        ),
        (
            "the newest is hidden",
            &|| thief::exchange_all(&lab, &without_newest),
            "lacks kestrel_1.1-1_amd64.deb, which was released",
            Some("1.0-1"),
        ),
    ];
    for (what, lie, message, candidate) in lies {
        lie();
        let client = Client::new(&nginx.url(), &certificate(&lab, "asc"), Form::OneLine);
        let said = client.update();
        assert_eq!(said.code, Some(if candidate.is_some() { 0 } else { 100 }), "{what}: {said:?}");
        assert_eq!(client.candidate("kestrel").as_deref(), candidate, "{what}: what stock apt makes of it");
        for place in [nginx.url(), "mirror".to_owned()] {
            let said = lab.verify(&[&place]).exits(REJECTED).says(message);
            assert!(said.out.starts_with("REJECTED "), "{what}: {said:?}");
            assert!(said.err.contains("looking again"), "{what}: {said:?}");
        }
        reset(&lab);
    }
    verify(&lab).exits(0);
}

#[test]
fn a_release_says_what_the_policy_says() {
    let lab = mirror();
    let change = |from: &str, to: &str| {
        let release = thief::text(&lab, "Release");
        assert!(release.contains(from), "{from}: {release}");
        thief::sign(&lab, &release.replace(from, to));
    };
    let lines = |end: &str| {
        let release = thief::text(&lab, "Release");
        release.lines().filter(|line| line.contains(end)).flat_map(|line| [line, "\n"]).collect::<String>()
    };
    let date = thief::text(&lab, "Release").lines().find(|line| line.starts_with("Date: ")).unwrap().to_owned();
    let until = thief::text(&lab, "Release").lines().find(|line| line.starts_with("Valid-Until: ")).unwrap().to_owned();
    let lies: [(&dyn Fn(), &str); 12] = [
        (&|| change("Acquire-By-Hash: yes", "Acquire-By-Hash: no"), "instead of"),
        (&|| change("Acquire-By-Hash: yes", "Acquire-By-Hash: yes\nNotAutomatic: yes"), "instead of"),
        (&|| change("packages.kestrel.example", "packages.other.example"), "is that of packages.other.example"),
        (&|| change("stable", "testing"), "is that of suite testing"),
        (&|| change("Components: main", "Components: main other"), "components that the policy has"),
        (&|| change("amd64 arm64\n", "arm64 amd64\n"), "in order"),
        (&|| change(&lines("binary-arm64"), ""), "does not list the indices"),
        (&|| change("Packages.xz", "Packages.zst"), "no index of packages"),
        (
            &|| {
                change(&lines("binary-arm64"), "");
                change("amd64 arm64\n", "amd64\n");
            },
            "lacks kestrel_1.0-1_arm64.deb",
        ),
        (&|| change(&until, "Valid-Until: Fri, 01 Jan 2100 00:00:00 UTC"), "too long"),
        (
            &|| {
                change(&date, "Date: Fri, 01 Jan 2100 00:00:00 UTC");
                change(&until, "Valid-Until: Sat, 02 Jan 2100 00:00:00 UTC");
            },
            "after the newest seal",
        ),
        (
            &|| {
                let signed = [b"Welcome!\n".to_vec(), lab.read(&format!("{DISTS}/InRelease"))].concat();
                replace(&lab.path(&format!("{DISTS}/InRelease")), &signed);
            },
            "not signed",
        ),
    ];
    for (lie, message) in lies {
        lie();
        verify(&lab).exits(REJECTED).says(message);
        reset(&lab);
    }
    verify(&lab).exits(0);
}

#[test]
fn every_file_for_apt_is_accounted_for() {
    let lab = mirror();
    let (pool, doc) = ("mirror/apt/pool/main/k/kestrel", "kestrel-doc_1.0-1_all.deb");
    let amd64 = format!("{DISTS}/main/binary-amd64");
    let hash_of = |release: &str, name: &str| {
        let release = String::from_utf8(lab.read(release)).unwrap();
        let line = release.lines().find(|line| line.ends_with(name)).unwrap().to_owned();
        line.split_whitespace().next().unwrap().to_owned()
    };
    let now = format!("{amd64}/by-hash/SHA256/{}", hash_of(&format!("{DISTS}/Release"), "amd64/Packages.gz"));
    let old = format!("{amd64}/by-hash/SHA256/{}", hash_of("first/apt/dists/stable/Release", "amd64/Packages.gz"));
    let flip = |path: &str| {
        let mut bytes = lab.read(path);
        *bytes.last_mut().unwrap() ^= 1;
        replace(&lab.path(path), &bytes);
    };
    let add = |path: &str| replace(&lab.path(path), b"text");
    let remove = |path: &str| fs::remove_file(lab.path(path)).unwrap();
    let foreign = "no metadata speaks of it";
    let lies: [(&dyn Fn(), &str, &str); 16] = [
        (&|| _ = thief::plant(&lab), "kestrel_6.6-6_amd64.deb", foreign),
        (&|| add("mirror/apt/README"), "apt/README", foreign),
        (&|| add("mirror/apt/pool/main/x"), "apt/pool/main/x", foreign),
        (&|| add("mirror/apt/dists/other/InRelease"), "dists/other/InRelease", foreign),
        (&|| add(&format!("{amd64}/Packages.bz2")), "Packages.bz2", foreign),
        (&|| add(&format!("{DISTS}/main/binary-riscv64/Packages")), "binary-riscv64/Packages", foreign),
        (&|| add(&format!("{amd64}/by-hash/SHA256/{}", "a".repeat(64))), "by-hash/SHA256/aaaa", foreign),
        (&|| flip(&old), "by-hash", foreign),
        (&|| flip(&now), "by-hash", "has SHA-256"),
        (&|| remove(&now), "by-hash", "is missing"),
        (&|| flip(&format!("{amd64}/Packages.gz")), "Packages.gz", "has SHA-256"),
        (&|| flip(&format!("{pool}/{doc}")), doc, "has SHA-256"),
        (&|| remove(&format!("{pool}/{doc}")), doc, "is missing"),
        (&|| remove(&format!("{DISTS}/InRelease")), "InRelease", "is missing"),
        (&|| remove(&format!("{DISTS}/Release")), "Release", "is missing"),
        (
            // What was true once.
            &|| {
                fs::remove_dir_all(lab.path("mirror/apt/dists")).unwrap();
                lab.copy("first/apt/dists", "mirror/apt/dists");
            },
            "InRelease",
            "lacks kestrel_1.1-1_amd64.deb",
        ),
    ];
    for (lie, file, message) in lies {
        lie();
        verify(&lab).exits(REJECTED).says(file).says(message);
        reset(&lab);
    }
    // The same content at another place of the pool is no other content.
    fs::copy(lab.path(&format!("{pool}/{doc}")), lab.path(&format!("{pool}/other_1_all.deb"))).unwrap();
    verify(&lab).exits(0);
}

#[test]
fn a_push_that_is_on_its_way_is_waited_for() {
    let lab = mirror();
    // The suite is new already, and the timestamp comes last.
    let timestamp = "mirror/metadata/timestamp.json";
    let newest = lab.read(timestamp);
    replace(&lab.path(timestamp), &lab.read("first/metadata/timestamp.json"));
    verify(&lab).exits(REJECTED).says("after the newest seal");
    let mut command = lab.release();
    let mut child =
        command.args(["verify", "--root", "trust/root.json", "mirror"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("looking again")));
    replace(&lab.path(timestamp), &newest);
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
}
