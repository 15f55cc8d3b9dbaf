//! What stock apt refuses of a mirror that lies: each time the exit code, the message,
//! and what the machine would install afterwards.

use std::fmt::Write;
use std::fs;

use super::client::Client;
use super::client::Form;
use super::commit;
use super::suite::certificate;
use super::thief;
use super::thief::DISTS;
use super::thief::replace;
use crate::support::Lab;
use crate::support::program;
use crate::support::run;
use crate::support::server::Nginx;

/// Changes a text in a file, to another one of the same length or not. Its time is new,
/// so that a web server does not say that it is as before.
fn change(lab: &Lab, file: &str, from: &str, to: &str) {
    let path = lab.path(file);
    let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
    assert!(text.contains(from), "{file}: {text}");
    replace(&path, text.replacen(from, to, 1).as_bytes());
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

#[test]
fn what_a_suite_must_not_say_is_refused_by_stock_apt_though_the_key_has_signed_it() {
    let world = World::new();
    let lab = &world.lab;
    let change = |from: &str, to: &str| {
        let release = thief::text(lab, "Release");
        assert!(release.contains(from), "{from}: {release}");
        thief::sign(lab, &release.replace(from, to));
    };
    let weak = || {
        let release = thief::text(lab, "Release");
        let (head, sums) = release.split_once("SHA256:\n").unwrap();
        let mut weak = format!("{head}MD5Sum:\n");
        for line in sums.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let said = run(program("md5sum").arg(lab.path(&format!("{DISTS}/{}", words[2])))).exits(0).out;
            writeln!(weak, " {} {} {}", said.split(' ').next().unwrap(), words[1], words[2]).unwrap();
        }
        thief::sign(lab, &weak);
    };
    let changed = |field: &str| format!("changed its '{field}' value from");
    // What is wrong; whether new clients take it; what those are told who know ours.
    let lies: [(&dyn Fn(), bool, String); 4] = [
        (&weak, false, "provides only weak security information".to_owned()),
        (&|| change("Origin: packages", "Origin: other"), true, changed("Origin")),
        (&|| change("Label: packages", "Label: other"), true, changed("Label")),
        (&|| change("Codename: stable", "Codename: other"), true, changed("Codename")),
    ];
    for (lie, is_taken, message) in lies {
        let known = world.fresh();
        known.update().exits(0);
        lie();
        let client = world.fresh();
        let said = client.update();
        let candidate = client.candidate("kestrel");
        assert_eq!((said.code == Some(0), candidate.is_some()), (is_taken, is_taken), "{message}: {said:?}");
        let said = known.update();
        assert!(said.code == Some(100) && said.has(&message), "{message}: {said:?}");
        assert_eq!((known.candidate("kestrel").as_deref(), known.date()), (Some("1.1-1"), world.date.clone()));
        world.reset();
    }
}

#[test]
fn who_had_a_suite_is_told_when_it_is_signed_no_more_or_by_others() {
    let world = World::new();
    let lab = &world.lab;
    let unsigned = || {
        for file in ["InRelease", "Release.gpg"] {
            fs::remove_file(lab.path(&format!("{DISTS}/{file}"))).unwrap();
        }
    };
    let broken = || change(lab, &format!("{DISTS}/InRelease"), "Suite: stable", "Suite: stabel");
    let lies: [(&dyn Fn(), &str, i32); 2] =
        [(&unsigned, "is no longer signed", 100), (&broken, "previous index files will be used", 0)];
    for (lie, message, without) in lies {
        let clients = [world.fresh(), world.fresh()];
        for client in &clients {
            client.update().exits(0);
        }
        lie();
        let said = clients[0].update();
        assert!(said.code == Some(100) && said.has(message), "{message}: {said:?}");
        // Without the option, apt may go on as if nothing was.
        assert_eq!(clients[1].runs(&["apt-get", "update"]).code, Some(without), "{message}");
        for client in &clients {
            assert_eq!((client.candidate("kestrel").as_deref(), client.date()), (Some("1.1-1"), world.date.clone()));
        }
        world.reset();
    }
}

#[test]
fn indices_under_the_names_of_their_content_are_what_a_push_needs() {
    let world = World::new();
    let lab = &world.lab;
    let old = |file: &str| lab.read(&format!("first/apt/dists/stable/{file}"));
    let indices = ["", ".gz", ".xz"].map(|end| format!("main/binary-amd64/Packages{end}"));
    let restore = |files: &[&str]| {
        for file in files {
            replace(&lab.path(&format!("{DISTS}/{file}")), &old(file));
        }
    };
    let indices: Vec<&str> = indices.iter().map(String::as_str).collect();
    let without_by_hash = || fs::remove_dir_all(lab.path(&format!("{DISTS}/main/binary-amd64/by-hash"))).unwrap();
    // The new suite, whose indices are not there yet; and the old one, whose indices are
    // there no more.
    let releases = ["InRelease", "Release", "Release.gpg"];
    let pushes: [(&dyn Fn(), Option<&str>); 4] = [
        (&|| restore(&indices), Some("1.1-1")),
        (&|| restore(&releases), Some("1.0-1")),
        (
            &|| {
                restore(&indices);
                without_by_hash();
            },
            None,
        ),
        (
            &|| {
                restore(&releases);
                without_by_hash();
            },
            None,
        ),
    ];
    for (push, candidate) in pushes {
        push();
        let client = world.fresh();
        let said = client.update();
        match candidate {
            Some(_) => assert!(said.code == Some(0) && said.err.is_empty(), "{said:?}"),
            None => assert!(said.code == Some(100) && said.has("Mirror sync in progress?"), "{said:?}"),
        }
        assert_eq!(client.candidate("kestrel").as_deref(), candidate);
        world.reset();
    }
}

#[test]
fn the_certificate_can_stand_in_the_list_of_sources() {
    let world = World::new();
    let client = world.fresh();
    fs::remove_file(client.path("etc/sources.list")).unwrap();
    let armored = String::from_utf8(world.lab.read("home/keys/archive.asc")).unwrap();
    let lines = armored.lines().map(|line| if line.is_empty() { "." } else { line });
    let key: String = lines.flat_map(|line| [" ", line, "\n"]).collect();
    let text =
        format!("Types: deb\nURIs: {}/apt\nSuites: stable\nComponents: main\nSigned-By:\n{key}", world.nginx.url());
    fs::write(client.path("etc/sources.list.d/kestrel.sources"), text).unwrap();
    client.update().exits(0);
    assert_eq!(client.candidate("kestrel").as_deref(), Some("1.1-1"));
}
