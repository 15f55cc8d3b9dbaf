//! What users of apt see while a release is pushed, and where that is cut off.

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use release::home::failpoint::APT_STEPS;
use release::home::failpoint::STEPS;

use super::client::Client;
use super::client::Form;
use super::commit;
use super::suite::certificate;
use super::thief::DISTS;
use crate::support::Lab;
use crate::support::server::Nginx;

const OLD: &str = "1.0-1";
const NEW: &str = "1.1-1";

/// A laboratory with one release, and one that is ready to be cut.
fn ready() -> Lab {
    let lab = Lab::with_apt();
    commit(&lab, "1.0", &[("kestrel", "amd64", OLD), ("kestrel-doc", "all", OLD)]);
    lab.cut("1.0").exits(0);
    commit(&lab, "1.1", &[("kestrel", "amd64", NEW), ("kestrel-doc", "all", NEW)]);
    lab
}

/// Stops another thread when it goes.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Updates and installs; gives what was installed.
#[track_caller]
fn install(client: &Client, what: &str) -> String {
    let said = client.update();
    assert!(said.code == Some(0) && said.err.is_empty(), "{what}: {said:?}");
    client.runs(&["apt-get", "install", "-y", "kestrel", "kestrel-doc"]).exits(0);
    client.installed("kestrel").unwrap()
}

#[test]
fn a_cut_that_is_killed_leaves_what_apt_takes() {
    let ready = ready();
    let sealing = STEPS.iter().skip_while(|step| **step != "seal.begun").filter(|step| **step != "publish.pointer");
    let once = APT_STEPS.iter().chain(sealing).map(|step| (*step).to_owned());
    // Of the suite's files, each is a pointer.
    let pointers = (1..).map(|nth| format!("publish.pointer:{nth}"));
    let mut seen = (0, 0);
    for step in once.chain(APT_STEPS.map(|step| format!("{step}:2"))).chain(pointers) {
        let lab = ready.twin();
        let nginx = Nginx::serve(&lab.path("mirror"));
        let known = Client::new(&nginx.url(), &certificate(&lab, "asc"), Form::OneLine);
        assert_eq!(install(&known, "before"), OLD);
        let said = lab.with_keys_and(&["cut", "kestrel", "1.1", "--yes=1.1"], &[("RELEASE_FAIL_AT", &step)]);
        if said.code == Some(0) {
            assert!(step.starts_with("publish.pointer:"), "{step} is never passed");
            break;
        }
        assert_eq!(said.code, None, "{step}: killed: {said:?}");
        let fresh = Client::new(&nginx.url(), &certificate(&lab, "gpg"), Form::Deb822);
        let installed = install(&known, &step);
        assert_eq!(install(&fresh, &step), installed, "{step}");
        if installed == OLD {
            seen.0 += 1;
        } else {
            seen.1 += 1;
        }
        lab.verify(&["home/repository"]).exits(0);

        lab.cut("1.1").exits(0);
        assert_eq!(install(&known, &step), NEW, "{step}");
        lab.verify(&["mirror"]).exits(0);
        let asked = String::from_utf8(lab.read("home/journal.jsonl")).unwrap();
        for file in ["Release.gpg", "InRelease"] {
            assert_eq!(asked.matches(&format!("\"what\":\"{file} stable 3\"")).count(), 1, "{step}: signed once");
        }
    }
    assert!(seen.0 > 5 && seen.1 > 0, "{seen:?}: before the push, and after it");
}

#[test]
fn a_client_that_began_before_a_push_ends_after_it() {
    let lab = ready();
    lab.copy("mirror", "first");
    lab.cut("1.1").exits(0);
    lab.copy("mirror", "second");
    // Pushes back and forth, as often as they can: what is written once stays.
    let indices = ["", ".gz", ".xz"].map(|end| format!("main/binary-amd64/Packages{end}"));
    let pointers = indices.into_iter().chain(["Release", "Release.gpg", "InRelease"].map(str::to_owned));
    let pointers: Vec<String> = pointers.collect();
    let nginx = Nginx::serve(&lab.path("mirror"));
    let stopped = AtomicBool::new(false);
    let pushes = AtomicUsize::new(0);
    let mut found = std::collections::BTreeSet::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for state in ["first", "second"].into_iter().cycle().take_while(|_| !stopped.load(Ordering::SeqCst)) {
                for name in &pointers {
                    fs::copy(lab.path(&format!("{state}/apt/dists/stable/{name}")), lab.path("new")).unwrap();
                    fs::rename(lab.path("new"), lab.path(&format!("{DISTS}/{name}"))).unwrap();
                }
                pushes.fetch_add(1, Ordering::SeqCst);
            }
        });
        // Also where a client fails.
        let _stop = Stop(&stopped);
        for nth in 0..100 {
            let client = Client::new(&nginx.url(), &certificate(&lab, "asc"), Form::OneLine);
            let said = client.update();
            assert!(said.code == Some(0) && said.err.is_empty(), "{nth}: {said:?}");
            found.insert(client.candidate("kestrel").unwrap());
        }
    });
    assert!(pushes.load(Ordering::SeqCst) > 100);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [OLD, NEW]);
}
