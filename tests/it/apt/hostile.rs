//! What stock apt refuses of a mirror that lies: each time the exit code, the message,
//! and what the machine would install afterwards.

use std::fs;
use std::path::Path;

use super::client::Client;
use super::client::Form;
use super::commit;
use super::suite::certificate;
use crate::support::Lab;
use crate::support::server::Nginx;

const DISTS: &str = "mirror/apt/dists/stable";

/// Changes a text in a file, to another one of the same length or not. Its time is new,
/// so that a web server does not say that it is as before.
fn change(lab: &Lab, file: &str, from: &str, to: &str) {
    let path = lab.path(file);
    let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
    assert!(text.contains(from), "{file}: {text}");
    replace(&path, text.replacen(from, to, 1).as_bytes());
}

fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A mirror that can be made to lie, and what is true.
struct World {
    lab: Lab,
    nginx: Nginx,
    /// A client that has seen the newest state, and its date.
    known: Client,
    date: Option<String>,
}

impl World {
    fn new() -> Self {
        let lab = Lab::with_apt();
        commit(&lab, "1.0", &[("kestrel", "amd64", "1.0-1")]);
        lab.cut("1.0").exits(0);
        lab.copy("mirror", "first");
        commit(&lab, "1.1", &[("kestrel", "amd64", "1.1-1")]);
        lab.cut("1.1").exits(0);
        lab.copy("mirror", "good");
        let nginx = Nginx::serve(&lab.path("mirror"));
        let known = Client::new(&nginx.url(), &certificate(&lab, "asc"), Form::OneLine);
        known.update().exits(0);
        let date = known.date();
        Self { lab, nginx, known, date }
    }

    /// A client that has seen nothing yet.
    fn fresh(&self) -> Client {
        Client::new(&self.nginx.url(), &certificate(&self.lab, "asc"), Form::OneLine)
    }

    /// The mirror says the truth again.
    fn reset(&self) {
        fs::remove_dir_all(self.lab.path("mirror/apt")).unwrap();
        self.lab.copy("good/apt", "mirror/apt");
    }

    /// The index that clients ask for.
    fn by_hash(&self) -> String {
        let release = String::from_utf8(self.lab.read(&format!("{DISTS}/Release"))).unwrap();
        let line = release.lines().find(|line| line.ends_with("Packages.xz")).unwrap();
        let hash = line.split_whitespace().next().unwrap();
        format!("{DISTS}/main/binary-amd64/by-hash/SHA256/{hash}")
    }

    /// Whoever has seen the newest state keeps it.
    #[track_caller]
    fn assert_kept(&self, what: &str) {
        let seen = (self.known.candidate("kestrel"), self.known.date());
        assert_eq!(seen, (Some("1.1-1".to_owned()), self.date.clone()), "{what}");
    }
}

#[test]
fn a_suite_that_is_not_ours_is_refused_by_stock_apt() {
    let world = World::new();
    let lab = &world.lab;
    // Somebody else's repository, in which all is in order.
    let other = Lab::with_apt();
    fs::remove_dir_all(other.path("home")).unwrap();
    let init = ["init", "--policy", "policy/policy.toml", "--software-keys", "--mirror", "here=mirror"];
    other.with_keys(&init).exits(0);
    commit(&other, "1.0", &[("kestrel", "amd64", "6.6-6")]);
    other.cut("1.0").exits(0);
    let in_release = format!("{DISTS}/InRelease");
    let unsigned = || {
        fs::remove_file(lab.path(&in_release)).unwrap();
        fs::remove_file(lab.path(&format!("{DISTS}/Release.gpg"))).unwrap();
    };
    let portal = || {
        let signed = [b"Welcome! Please log in.\n".to_vec(), lab.read(&in_release)].concat();
        replace(&lab.path(&in_release), &signed);
    };
    let lies: [(&str, &dyn Fn(), &str); 6] = [
        ("a changed text", &|| change(lab, &in_release, "Suite: stable", "Suite: stabel"), "BADSIG"),
        ("somebody else's key", &|| replace(&lab.path(&in_release), &other.read(&in_release)), "NO_PUBKEY"),
        ("no signature", &unsigned, "is not signed"),
        ("text before what is signed", &portal, "NOSPLIT"),
        ("no index", &|| fs::remove_dir_all(lab.path(&format!("{DISTS}/main"))).unwrap(), "404"),
        ("nothing", &|| fs::remove_dir_all(lab.path("mirror/apt/dists")).unwrap(), "does not have a Release file"),
    ];
    for (what, lie, message) in lies {
        lie();
        let client = world.fresh();
        let said = client.update();
        assert!(said.code == Some(100) && said.has(message), "{what}: {said:?}");
        assert_eq!(client.candidate("kestrel"), None, "{what}");
        // Whoever has the index does not ask for it.
        if what != "no index" {
            let said = world.known.update();
            assert_eq!(said.code, Some(100), "{what}: {said:?}");
        }
        world.assert_kept(what);
        world.reset();
    }
}

#[test]
fn an_index_or_package_that_is_not_ours_is_refused_by_stock_apt() {
    let world = World::new();
    let lab = &world.lab;
    let packages = lab.read(&world.by_hash());
    for (bytes, message) in [
        ([&packages[..], b"more"].concat(), "unexpected size"),
        (packages.iter().map(|byte| byte ^ 1).collect(), "Hash Sum mismatch"),
    ] {
        for file in [world.by_hash(), format!("{DISTS}/main/binary-amd64/Packages.xz")] {
            replace(&lab.path(&file), &bytes);
        }
        let client = world.fresh();
        let said = client.update();
        assert!(said.code == Some(100) && said.has(message), "{message}: {said:?}");
        assert_eq!(client.candidate("kestrel"), None);
        world.reset();
    }
    let file = "mirror/apt/pool/main/k/kestrel/kestrel_1.1-1_amd64.deb";
    let package = lab.read(file);
    let mut changed = package.clone();
    *changed.last_mut().unwrap() ^= 1;
    for (bytes, message) in [(changed, "Hash Sum mismatch"), ([&package[..], b"more"].concat(), "unexpected size")] {
        replace(&lab.path(file), &bytes);
        let client = world.fresh();
        client.update().exits(0);
        let said = client.runs(&["apt-get", "install", "-y", "kestrel"]);
        assert!(said.code == Some(100) && said.has(message), "{message}: {said:?}");
        assert_eq!(client.installed("kestrel"), None);
        world.reset();
    }
    // Only the pair of files, without the one that holds both.
    fs::remove_file(lab.path(&format!("{DISTS}/InRelease"))).unwrap();
    let client = world.fresh();
    client.update().exits(0);
    assert_eq!(client.candidate("kestrel").as_deref(), Some("1.1-1"));
}

#[test]
fn an_old_suite_is_taken_by_new_clients_until_it_expires() {
    let world = World::new();
    let lab = &world.lab;
    for (moment, message) in [("+40d", "is expired"), ("-2d", "is not valid yet")] {
        let client = world.fresh();
        let said = client.runs_at(Some(moment), &["apt-get", "update", "--error-on=any"]);
        assert!(said.code == Some(100) && said.has(message), "{moment}: {said:?}");
        assert_eq!(client.candidate("kestrel"), None, "{moment}");
    }
    for file in ["InRelease", "Release", "Release.gpg"] {
        replace(&lab.path(&format!("{DISTS}/{file}")), &lab.read(&format!("first/apt/dists/stable/{file}")));
    }
    // Without a word, whoever knows a newer one keeps it.
    world.known.update().exits(0);
    world.assert_kept("an older suite");
    let client = world.fresh();
    client.update().exits(0);
    assert_eq!(client.candidate("kestrel").as_deref(), Some("1.0-1"), "its indices are kept by their content");
}
