//! Source packages in a suite.

use std::fmt::Write;
use std::fs;

use super::client::Client;
use super::client::Form;
use super::suite::certificate;
use super::thief;
use super::thief::DISTS;
use super::thief::replace;
use crate::support::Lab;
use crate::support::RECIPE;
use crate::support::program;
use crate::support::python;
use crate::support::run;
use crate::support::server::Nginx;

const REJECTED: i32 = 3;

/// Commits a version whose build makes a source package with dpkg-source.
fn commit(lab: &Lab, version: &str, after: &str) {
    let script = format!(
        "mkdir -p out kestrel/debian/source; cp notes out/kestrel; cp notes out/notes; cp notes kestrel/\n\
         echo '3.0 (native)' >kestrel/debian/source/format\n\
         printf 'Source: kestrel\\nSection: utils\\nPriority: optional\\nMaintainer: K <k@kestrel.example>\\n\
         Build-Depends: debhelper-compat (= 13)\\n\\nPackage: kestrel\\nArchitecture: any\\nDescription: a kestrel\\n' \
         >kestrel/debian/control\n\
         printf 'kestrel ({version}) stable; urgency=low\\n\\n  * All.\\n\\n -- K <k@kestrel.example>  Thu, 01 Jan 2026 00:00:00 +0000\\n' \
         >kestrel/debian/changelog\n\
         dpkg-source -b kestrel && mv kestrel_* out/\n{after}\n"
    );
    let mut recipe = RECIPE.to_owned();
    writeln!(recipe, "[[artifact]]\npath = \"out/kestrel_{version}.dsc\"\nkind = \"dsc\"").unwrap();
    writeln!(recipe, "[[artifact]]\npath = \"out/kestrel_{version}.tar.xz\"").unwrap();
    lab.write("work/build.sh", script);
    lab.write("work/notes", format!("notes of {version}\n"));
    lab.write("work/release.toml", recipe);
    lab.commit(version);
    lab.tag(version);
}

#[test]
fn stock_apt_gets_and_unpacks_sources() {
    let lab = Lab::with_apt();
    commit(&lab, "1.0", "");
    lab.cut("1.0").exits(0);
    commit(&lab, "1.1", "");
    lab.cut("1.1").exits(0);
    let nginx = Nginx::serve(&lab.path("mirror"));
    let client = Client::new(&nginx.url(), &certificate(&lab, "asc"), Form::Deb822);
    let list = client.path("etc/sources.list.d/kestrel.sources");
    let text = fs::read_to_string(&list).unwrap().replace("Types: deb\n", "Types: deb deb-src\n");
    fs::write(&list, text).unwrap();
    client.update().exits(0);
    for (wanted, version) in [("kestrel", "1.1"), ("kestrel=1.0", "1.0")] {
        client.runs(&["apt-get", "source", wanted]).exits(0);
        let notes = fs::read_to_string(client.path(&format!("kestrel-{version}/notes"))).unwrap();
        assert_eq!(notes, format!("notes of {version}\n"));
        let name = format!("kestrel_{version}.dsc");
        assert_eq!(fs::read(client.path(&name)).unwrap(), lab.read(&Lab::mirrored(version, &name)));
    }

    // Others read the same.
    let sources = lab.path(&format!("{DISTS}/main/source/Sources"));
    let theirs =
        run(program("apt-ftparchive").args(["sources", "pool"]).current_dir(lab.path("mirror/apt"))).exits(0).out;
    let script = "import sys\nfrom debian.deb822 import Sources\n\
        for stanza in Sources.iter_paragraphs(open(sys.argv[1]), use_apt_pkg=False):\n\
        \x20   files = sorted((f['name'], f['size'], f['sha256']) for f in stanza['Checksums-Sha256'])\n\
        \x20   print(stanza['Package'], stanza['Version'], stanza['Directory'], stanza['Build-Depends'], files)\n";
    lab.write("theirs", theirs);
    let read = |path: &std::path::Path| {
        let said = run(program(python().to_str().unwrap()).args(["-c", script]).arg(path)).exits(0).out;
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(read(&sources).len(), 2);
    assert_eq!(read(&sources), read(&lab.path("theirs")));

    // What people signed is what is there.
    lab.verify(&["mirror"]).exits(0);
    lab.copy("mirror/apt", "good");
    let lie = |change: &dyn Fn(), message: &str| {
        change();
        lab.verify(&["mirror"]).exits(REJECTED).says(message);
        fs::remove_dir_all(lab.path("mirror/apt")).unwrap();
        lab.copy("good", "mirror/apt");
    };
    let index = String::from_utf8(fs::read(&sources).unwrap()).unwrap();
    let exchange = |index: &str| thief::exchange_index(&lab, "main/source/Sources", index);
    lie(&|| exchange(&index.replacen("Build-Depends: ", "Build-Depends: evil, ", 1)), "what nobody has signed");
    lie(&|| exchange(index.split_inclusive("\n\n").last().unwrap()), "lacks kestrel_1.0.dsc");
    let archive = "mirror/apt/pool/main/k/kestrel/kestrel_1.0.tar.xz";
    lie(&|| replace(&lab.path(archive), b"text"), "kestrel_1.0.tar.xz");
    lie(&|| fs::remove_file(lab.path(archive)).unwrap(), "is missing");
    lab.with_keys(&["withdraw", "kestrel", "1.0", "--reason", "crashes", "--yes=1.0"]).exits(0);
    assert!(!String::from_utf8(fs::read(&sources).unwrap()).unwrap().contains("Version: 1.0\n"));
    lab.verify(&["mirror"]).exits(0);
}

#[test]
fn a_source_package_that_lists_something_else_is_refused() {
    let lab = Lab::with_apt();
    for (version, after, reason) in [
        ("1.0", "sed -i 's/^Version: .*/Version: 6.6/' out/kestrel_1.0.dsc", "what it says is kestrel_6.6.dsc"),
        ("1.1", "echo more >>out/kestrel_1.1.tar.xz", "kestrel_1.1.tar.xz, which is no artifact, or another one"),
        ("1.2", "sed -i '/^Maintainer/d' out/kestrel_1.2.dsc", "has no Maintainer"),
    ] {
        commit(&lab, version, after);
        lab.cut(version).exits(REJECTED).says(&format!("kestrel_{version}.dsc")).says(reason);
        lab.assert_nothing_published();
        lab.runs(&["abandon", "kestrel", version, &format!("--yes={version}")]).exits(0);
    }
}
