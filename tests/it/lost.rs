//! Files that vanish from a home between two runs of a cut: either they are made
//! again, or the refusal names them and the cut goes on when they are back.
//! Never are other bytes signed, and never is a part of a release published.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use release::home::failpoint::STEPS;

use crate::resume::signed_once;
use crate::support::Lab;
use crate::support::program;
use crate::support::run;

/// Files by their paths below the home, with what tells whether they changed.
type Files = BTreeMap<String, (u64, i64, i64)>;

/// What is one thing here: what other tests are about, or what each run makes
/// anew.
const WHOLE: [&str; 7] =
    ["keys", "cuts/kestrel-1.0", "repository/keys", "repository/targets/keys", "source.git", "build-1", "second"];

/// What a home holds, below a folder of it.
fn files_of(home: &Path, below: &str, found: &mut Files) {
    for entry in fs::read_dir(home.join(below)).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{below}{}", entry.file_name().into_string().unwrap());
        let metadata = entry.metadata().unwrap();
        let whole = WHOLE.iter().any(|whole| name == *whole || name.ends_with(&format!("kestrel-1.1/{whole}")));
        if metadata.is_dir() && !whole {
            files_of(home, &format!("{name}/"), found);
        } else {
            found.insert(name, (metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
        }
    }
}

fn remove(path: &Path) {
    run(program("rm").arg("-rf").arg(path)).exits(0);
}

/// Lets each file vanish, after each of these steps, that has changed since the
/// step before.
fn lose(steps: &[&str], below: &str) {
    let lab = Lab::released();
    lab.write("work/notes", "1.1\n");
    lab.commit("1.1");
    lab.tag("1.1");
    let cut = ["cut", "kestrel", "1.1", "--yes=1.1"];
    let mut wrong = Vec::new();
    let mut known = Files::new();
    for step in steps {
        let said = lab.with_keys_and(&cut, &[("RELEASE_FAIL_AT", step)]);
        assert_eq!(said.code, None, "{step}: {said:?}");
        let mut files = Files::new();
        files_of(&lab.path("home"), "", &mut files);
        for folder in ["home", "mirror"] {
            remove(&lab.path(&format!("{folder}.kept")));
            lab.copy(folder, &format!("{folder}.kept"));
        }
        for file in files.keys().filter(|file| known.get(*file) != files.get(*file) && file.starts_with(below)) {
            remove(&lab.path("home").join(file));
            let said = lab.with_keys(&cut);
            match said.code {
                Some(0) => {}
                Some(1 | 3 | 4) if said.has(file.rsplit('/').next().unwrap()) => {
                    let [kept, lost] = ["home.kept", "home"].map(|home| lab.path(home).join(file));
                    run(program("cp").arg("-a").arg(kept).arg(lost)).exits(0);
                    let again = lab.with_keys(&cut);
                    if again.code != Some(0) {
                        wrong.push(format!("{step}: {file} is back, and it does not go on: {again:?}\n"));
                    }
                }
                code => wrong.push(format!("{step}: {file}: exit {code:?}, or not named:\n{}\n", said.err)),
            }
            lab.verify(&["mirror", "--quiet"]).exits(0);
            signed_once(&lab.path("home"));
            for folder in ["home", "mirror"] {
                remove(&lab.path(folder));
                lab.copy(&format!("{folder}.kept"), folder);
            }
            // The user has seen none of that.
            remove(&lab.path("data"));
        }
        known = files;
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

#[test]
fn what_vanishes_before_a_cut_is_staged_is_made_again_or_named() {
    lose(&STEPS[..4], "cuts/kestrel-1.1/");
}

#[test]
fn what_vanishes_after_a_cut_is_staged_is_made_again_or_named() {
    lose(&STEPS[4..], "");
}
