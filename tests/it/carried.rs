//! Somebody has a courier's medium for a night, on the way to mirrors.

use std::fs;
use std::os::unix::fs::symlink;

use jiff::Timestamp;
use release::courier;
use release::home::Base;
use release::key::KeyError;
use release::key::Secrets;
use release::key::piv::Secret;
use release::key::piv::TokenName;
use release::key::piv::Tokens;
use release::manifest::Holder;
use release::manifest::KeyName;
use release::manifest::Sha256;
use release::progress::Event;
use release::progress::Progress;
use release::publish::DeployKeys;
use serde_json::Value;
use serde_json::json;
use zeroize::Zeroizing;

use crate::courier::artifact;
use crate::courier::export;
use crate::courier::files;
use crate::courier::push;
use crate::courier::round;
use crate::courier::with_folders;
use crate::support::Lab;
use crate::support::forge::value;
use crate::support::mirror::Mirror;
use crate::support::mirror::enter_in;
use crate::support::program;
use crate::support::run;

const FAILED: i32 = 1;
const REJECTED: i32 = 3;
const PARTIAL: i32 = 4;

/// What somebody does to a medium, and what the courier is told.
type Deed = (fn(&Lab), &'static str);

/// Changes a publication, and makes the export agree with it.
fn forge(lab: &Lab, serial: u64, change: impl FnOnce(&mut Value)) {
    let file = format!("stick/{serial}.publication.json");
    let mut publication = value(&lab.read(&file));
    change(&mut publication);
    let bytes = format!("{publication}\n");
    lab.write(&file, &bytes);
    let mut export = value(&lab.read("stick/release-export.json"));
    for record in export["publications"].as_array_mut().unwrap() {
        if record["serial"] == json!(serial) {
            record["sha256"] = json!(Sha256::of(bytes.as_bytes()));
        }
    }
    lab.write("stick/release-export.json", export.to_string());
}

/// Gives a publication a further name, with content of a thief.
fn add(lab: &Lab, name: &str, class: &str) {
    let content = format!("junk for {name}\n");
    let sha256 = Sha256::of(content.as_bytes());
    lab.write(&format!("stick/{sha256}"), &content);
    let name = name.replace("/SHA.", &format!("/{sha256}."));
    forge(lab, 2, |publication| {
        let entries = publication["entries"].as_array_mut().unwrap();
        let at = if class == "pointer" { entries.len() - 1 } else { 0 };
        entries.insert(at, json!({ "sha256": sha256, "length": content.len(), "names": [name], "class": class }));
    });
}

/// Takes names away from publications, and content that nobody names any more.
fn leave_out(lab: &Lab, part: &str) {
    forge(lab, 2, |publication| {
        publication["entries"].as_array_mut().unwrap().retain_mut(|entry| {
            let names = entry["names"].as_array_mut().unwrap();
            names.retain(|name| !name.as_str().unwrap().contains(part));
            let is_named = !names.is_empty();
            if !is_named {
                let _ = fs::remove_file(lab.path("stick").join(entry["sha256"].as_str().unwrap()));
            }
            is_named
        });
    });
}

const DEEDS: [Deed; 38] = [
    (|lab| lab.write("stick/readme.txt", "hello"), "readme.txt was not exported"),
    (|lab| lab.write("stick/a\u{1b}[2Jb", "hello"), r"a\u{1b}[2Jb was not exported"),
    (|lab| lab.write(&format!("stick/{}", "0".repeat(64)), "hello"), "was not exported"),
    (|lab| symlink("/etc/passwd", lab.path("stick/link")).unwrap(), "link was not exported"),
    (|lab| lab.write("stick/9.publication.json", "{}"), "9.publication.json was not exported"),
    (
        |lab| {
            let path = lab.path(&artifact(lab));
            fs::rename(&path, lab.path("away")).unwrap();
            symlink(lab.path("away"), path).unwrap();
        },
        "it is a link",
    ),
    (|lab| fs::remove_file(lab.path(&artifact(lab))).unwrap(), "kestrel-1.0 is missing"),
    (|lab| lab.write(&artifact(lab), "kestrel 6.6\n"), "it has another content"),
    (|lab| lab.write(&artifact(lab), "kestrel"), "it has 7 bytes, not 12"),
    (
        |lab| fs::File::create(lab.path(&artifact(lab))).unwrap().set_len(1 << 40).unwrap(),
        "it has 1099511627776 bytes, not 12",
    ),
    (
        |lab| {
            fs::remove_file(lab.path(&artifact(lab))).unwrap();
            run(program("mkfifo").arg(lab.path(&artifact(lab)))).exits(0);
        },
        "it is not a plain file",
    ),
    (
        |lab| {
            fs::remove_file(lab.path(&artifact(lab))).unwrap();
            fs::create_dir(lab.path(&artifact(lab))).unwrap();
        },
        "it is a folder",
    ),
    (
        |lab| fs::File::create(lab.path("stick/release-export.json")).unwrap().set_len(1 << 40).unwrap(),
        "release-export.json is longer than",
    ),
    (
        |lab| {
            fs::remove_file(lab.path("stick/release-export.json")).unwrap();
            symlink("/dev/zero", lab.path("stick/release-export.json")).unwrap();
        },
        "release-export.json: it is a link",
    ),
    (|lab| lab.write("stick/release-export.json", "{}"), "release-export.json: it has no version"),
    (
        |lab| fs::File::create(lab.path("stick/1.publication.json")).unwrap().set_len(1 << 40).unwrap(),
        "1.publication.json is longer than",
    ),
    (|lab| fs::remove_file(lab.path("stick/1.publication.json")).unwrap(), "1.publication.json is missing"),
    (
        |lab| lab.write("stick/1.publication.json", lab.read("stick/2.publication.json")),
        "1.publication.json is not the one that was exported",
    ),
    (|lab| forge(lab, 1, |publication| publication["serial"] = json!(7)), "1.publication.json: it is publication 7"),
    (
        |lab| forge(lab, 2, |publication| publication["entries"][0]["names"][0] = json!("../../evil")),
        "is not a repository path",
    ),
    (
        |lab| forge(lab, 2, |publication| publication["entries"][0]["names"][0] = json!("robots.txt")),
        "robots.txt has no place as write-once",
    ),
    // What is published for ever could be replaced.
    (
        |lab| {
            forge(lab, 2, |publication| {
                let entries = publication["entries"].as_array_mut().unwrap();
                for entry in entries.iter_mut().filter(|entry| entry["class"] == "write-once") {
                    entry["class"] = json!("pointer");
                    entry["names"].as_array_mut().unwrap().truncate(1);
                }
            });
        },
        "has no place as pointer",
    ),
    // Readers would come in before what the timestamp names is there.
    (|lab| forge(lab, 2, |publication| publication["entries"].as_array_mut().unwrap().reverse()), "before content"),
    (
        |lab| forge(lab, 2, |publication| drop(publication["entries"].as_array_mut().unwrap().pop())),
        "metadata/timestamp.json is not the last",
    ),
    (
        |lab| {
            forge(lab, 2, |publication| {
                for entry in publication["entries"].as_array_mut().unwrap() {
                    if entry["names"].to_string().contains("\"releases/kestrel/1.0/kestrel-1.0\"") {
                        entry["length"] = json!(u64::MAX);
                    }
                }
            });
        },
        "it has more than 274877906944 bytes",
    ),
    // It would fill mirrors for ever.
    (
        |lab| {
            forge(lab, 2, |publication| {
                let entries = publication["entries"].as_array_mut().unwrap();
                let signatures = entries.iter_mut().find(|it| it["names"].to_string().contains("SHA256SUMS.asc"));
                signatures.unwrap()["length"] = json!(64_u64 << 30);
            });
        },
        "SHA256SUMS.asc is longer than such a file may be",
    ),
    // Metadata would name what is on no mirror.
    (|lab| leave_out(lab, "kestrel-1.0.notes"), "of what was released"),
    (
        |lab| leave_out(lab, "releases/kestrel/1.0/kestrel-1.0.notes"),
        "no publication has releases/kestrel/1.0/kestrel-1.0.notes",
    ),
    (|lab| leave_out(lab, ".bundle.json"), "bundle.json of what was released"),
    (|lab| leave_out(lab, "claim.alice"), "publications have 0 of 1 claims about kestrel 1.0"),
    (|lab| add(lab, "releases/kestrel/6.6/kestrel-6.6", "write-once"), "is of a version that nobody has released"),
    (
        |lab| add(lab, "releases/kestrel/1.0/extra", "write-once"),
        "releases/kestrel/1.0/extra is no file of its release",
    ),
    (|lab| add(lab, "targets/kestrel/6.6/SHA.kestrel-6.6", "write-once"), "is of a version that nobody has released"),
    (|lab| add(lab, "releases/falcon/1.0/falcon-1.0", "write-once"), "is of a product that has no release"),
    (
        |lab| add(lab, "apt/pool/main/k/kestrel/kestrel_6.6_all.deb", "write-once"),
        "kestrel_6.6_all.deb is no package that was released",
    ),
    (
        |lab| {
            let digest = "a".repeat(64);
            add(lab, &format!("apt/dists/stable/main/binary-all/by-hash/SHA256/{digest}"), "write-once");
        },
        "does not bear its own digest",
    ),
    (|lab| add(lab, "metadata/2.root.json", "pointer"), "does not verify"),
    (
        |lab| add(lab, "metadata/9.kestrel.json", "pointer"),
        "metadata/9.kestrel.json is newer than what was signed last",
    ),
];

#[test]
fn what_somebody_has_changed_on_a_medium_is_refused_before_anything_is_pushed() {
    let lab = with_folders();
    export(&lab).exits(0);
    lab.copy("stick", "good");
    for (deed, why) in DEEDS {
        deed(&lab);
        let said = push(&lab).exits(REJECTED).says("nothing was pushed").says("find out who had the medium").says(why);
        assert!(!said.err.contains('\u{1b}'), "{said:?}");
        for path in ["one", "two", "stick/release-receipt.json", "courier/mirrors"] {
            assert!(!lab.path(path).exists(), "{why}: {path}");
        }
        fs::remove_dir_all(lab.path("stick")).unwrap();
        lab.copy("good", "stick");
    }
    // What systems leave is no alarm, and neither is a name that is used again.
    lab.write("stick/System Volume Information/x", "x");
    push(&lab).exits(0);
    lab.verify(&["one"]).exits(0);
}

#[test]
fn a_medium_of_another_project_and_an_old_one_are_refused() {
    let lab = with_folders();
    export(&lab).exits(0);
    let foreign = Lab::new();
    foreign.with_keys(&["init", "--policy", "policy/policy.toml", "--software-keys", "--home", "other"]).exits(0);
    foreign.runs(&["export", "stick", "--home", "other"]).exits(0);
    run(program("cp").arg("-a").arg(foreign.path("stick")).arg(lab.path("foreign"))).exits(0);
    let said = lab.runs(&["courier", "push", "foreign", "--home", "courier"]).exits(REJECTED);
    said.says("does not verify").says("nothing was pushed");
    assert!(!lab.path("one").exists());
    // Without a root nobody knows whose it should be, nor without a folder.
    fs::rename(lab.path("courier/root.json"), lab.path("root.json")).unwrap();
    push(&lab).exits(FAILED).says("courier/root.json is missing").says("fingerprint");
    fs::rename(lab.path("root.json"), lab.path("courier/root.json")).unwrap();
    lab.runs(&["courier", "push", "stick", "--home", "nowhere"]).exits(FAILED).says("is no courier's folder");
    lab.runs(&["courier", "push", "nowhere", "--home", "courier"]).exits(FAILED).says("there is no folder nowhere");

    // One that was carried before comes again, after a newer one.
    lab.copy("stick", "old");
    push(&lab).exits(0);
    lab.with_keys(&["refresh"]).exits(0);
    round(&lab);
    let before = files(&lab, "one");
    let said = lab.runs(&["courier", "push", "old", "--home", "courier"]).exits(PARTIAL);
    said.says("2 of 2 mirrors").says("it serves publication 3, this home has 2");
    assert_eq!(files(&lab, "one"), before);
    lab.verify(&["one"]).exits(0);
}

/// Does something as soon as content is on its way to a mirror.
struct Meanwhile<'a>(&'a (dyn Fn() + Sync));

impl Progress for Meanwhile<'_> {
    fn event(&self, event: Event<'_>) {
        if let Event::Push { .. } = event {
            self.0();
        }
    }
}

/// Deploy keys are in files here: nobody is asked.
impl Secrets for Meanwhile<'_> {
    fn passphrase(&self, key: &KeyName, _: Option<&Holder>, _: bool) -> Result<Zeroizing<String>, KeyError> {
        Err(KeyError::WrongPassphrase(key.clone()))
    }

    fn new_passphrase(&self, key: &KeyName, _: Option<&Holder>) -> Result<Zeroizing<String>, KeyError> {
        Err(KeyError::WrongPassphrase(key.clone()))
    }

    fn pin(&self, token: &TokenName, _: Secret, _: u8) -> Result<Zeroizing<String>, KeyError> {
        Err(KeyError::NoPin { token: token.clone(), reason: String::new() })
    }

    fn new_pin(&self, token: &TokenName, which: Secret) -> Result<Zeroizing<String>, KeyError> {
        self.pin(token, which, 0)
    }

    fn last_try(&self, _: &TokenName, _: Secret) -> bool {
        false
    }
}

#[test]
fn a_medium_that_changes_after_it_was_checked_gives_no_name_to_anything() {
    release::tuf::install_crypto();
    let lab = with_folders();
    let artifact = artifact(&lab);
    let change: [&(dyn Fn() + Sync); 3] = [
        &|| fs::write(lab.path(&artifact), "kestrel 6.6\n").unwrap(),
        &|| drop(fs::remove_file(lab.path(&artifact))),
        &|| {
            let _ = fs::remove_file(lab.path(&artifact));
            let _ = symlink(lab.path("home/repository/releases/kestrel/1.0/kestrel-1.0"), lab.path(&artifact));
        },
    ];
    for (change, why) in change.into_iter().zip(["does not read back", "cannot use", "cannot use"]) {
        let _ = fs::remove_dir_all(lab.path("stick"));
        export(&lab).exits(0);
        let (base, stick) = (Base::open(&lab.path("courier")).unwrap(), lab.path("stick"));
        let meanwhile = Meanwhile(change);
        let tokens = Tokens::new(&meanwhile);
        let keys = DeployKeys::new(&base, None, &tokens);
        let pushed = courier::push::push(&keys, &stick, &stick, Timestamp::now(), &|_, _| ());
        for outcome in pushed.unwrap().outcomes {
            let error = outcome.result.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        for mirror in ["one", "two"] {
            assert!(!lab.path(mirror).join("releases/kestrel/1.0/kestrel-1.0").exists());
            assert!(!lab.path(mirror).join("metadata/timestamp.json").exists());
        }
    }
    fs::remove_dir_all(lab.path("stick")).unwrap();
    round(&lab);
    lab.verify(&["one"]).exits(0);
}

/// What is new is put into a publication that mirrors hold already.
#[test]
fn what_is_new_is_pushed_wherever_somebody_has_moved_it() {
    let lab = with_folders();
    let ports = enter_in(&lab, "courier", "eu1");
    let mirror = Mirror::start_in(&lab, "courier", "eu1", ports);
    round(&lab);
    lab.write("work/notes", "notes of 1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    lab.cut("1.1").exits(0);
    export(&lab).exits(0);
    let mut moved = Vec::new();
    forge(&lab, 3, |publication| {
        let entries = publication["entries"].as_array_mut().unwrap();
        moved = entries.extract_if(.., |entry| entry["class"] == "write-once").collect();
    });
    assert!(!moved.is_empty());
    forge(&lab, 2, |publication| drop(publication["entries"].as_array_mut().unwrap().splice(0..0, moved)));
    push(&lab).exits(0);
    lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.1");
}
