//! This project releases itself, as `release.toml` at its root says.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::path::Path;

use release::manifest::Kind;
use release::manifest::Sha256;
use release::policy::Recipe;

use crate::support::Lab;
use crate::support::is_long;
use crate::support::outside::Project;
use crate::support::program;
use crate::support::project;
use crate::support::run;
use crate::support::with_toolchain;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The input of the recipe.
const VENDOR: &str = "vendor.tar";

fn recipe() -> Recipe {
    let bytes = fs::read(project("release.toml")).unwrap();
    Recipe::parse(&bytes, &"release".parse().unwrap(), &VERSION.parse().unwrap()).unwrap()
}

/// The recipe's input as `scripts/vendor` has written it.
fn vendor_tar() -> File {
    File::open(project("target/vendor.tar")).expect("run scripts/vendor first, as scripts/test does")
}

#[test]
fn the_recipe_names_the_crates_of_the_lock_file() {
    let lock: toml::Table = fs::read_to_string(project("Cargo.lock")).unwrap().parse().unwrap();
    let packages = lock["package"].as_array().unwrap().iter();
    let locked: BTreeMap<String, String> = packages
        // Packages without a checksum are this project's own.
        .filter_map(|package| {
            let field = |name: &str| package.get(name)?.as_str();
            let file = format!("vendor/{}-{}.crate", field("name")?, field("version")?);
            Some((file, field("checksum")?.to_owned()))
        })
        .collect();
    let mut packed = BTreeMap::new();
    for entry in tar::Archive::new(vendor_tar()).entries().unwrap() {
        let entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let path = entry.path().unwrap().display().to_string();
            packed.insert(path, Sha256::of_reader(entry, &mut |_| {}).unwrap().0.to_string());
        }
    }
    assert_eq!(packed, locked, "target/vendor.tar is of another Cargo.lock: run scripts/vendor");
    let digest = Sha256::of_reader(vendor_tar(), &mut |_| {}).unwrap().0;
    assert_eq!(recipe().inputs, [(VENDOR.to_owned(), digest)].into(), "write this digest into release.toml");
}

#[test]
fn the_recipe_names_what_the_scripts_make() {
    let recipe = recipe();
    let words = recipe.script.iter().flat_map(|line| line.split(' '));
    for script in words.filter(|word| word.starts_with("scripts/") || word.starts_with("packaging/")) {
        assert!(project(script).is_file(), "{script}");
    }
    for artifact in recipe.artifacts.iter().filter(|artifact| artifact.path.starts_with("target/release/")) {
        assert!(project(&artifact.path).is_file(), "scripts/test makes {}", artifact.path);
    }
    let file = |kind: Kind, name: &str| {
        let artifact = recipe.artifacts.iter().find(|artifact| artifact.kind == kind && artifact.name.as_str() == name);
        artifact.unwrap_or_else(|| panic!("the recipe makes no {name}")).path.clone()
    };
    file(Kind::File, &format!("release-verify-{VERSION}-x86_64-linux"));
    file(Kind::File, &format!("release-terminal-{VERSION}-x86_64-linux"));
    assert_eq!(recipe.source_archive.as_ref().unwrap().as_str(), format!("release-{VERSION}.tar.gz"));
    let deb = project(&file(Kind::Deb, &format!("release-terminal_{VERSION}_amd64.deb")));
    run(with_toolchain(&mut program("sh"))
        .arg("packaging/deb.sh")
        .current_dir(project(""))
        .envs([("RELEASE_VERSION", VERSION), ("SOURCE_DATE_EPOCH", "1700000000")]))
    .exits(0);
    assert_is_a_debian_package(&deb);
}

/// Whether Debian's own checker finds nothing, and the program in it works.
fn assert_is_a_debian_package(deb: &Path) {
    let fail = ["--fail-on", "error,warning", "--tag-display-limit", "0"];
    run(program("lintian").args(fail).arg(deb)).exits(0);
    let field = |name: &str| run(program("dpkg-deb").arg("--field").arg(deb).arg(name)).exits(0).out;
    assert_eq!(field("Version").trim_end(), VERSION);
    let depends = field("Depends");
    for package in ["bubblewrap", "git", "openssh-client", "libc6 (>= ", "libnettle"] {
        assert!(depends.contains(package), "no {package} in {depends}");
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    run(program("dpkg-deb").arg("--raw-extract").arg(deb).arg(root)).exits(0);
    run(program("md5sum").args(["--check", "--quiet", "DEBIAN/md5sums"]).current_dir(root)).exits(0);
    let installed = root.join("usr/bin/release");
    run(program(installed.to_str().unwrap()).arg("--version")).exits(0).says(&format!("release {VERSION}"));
    for file in [
        "man/man1/release-cut.1.gz",
        "bash-completion/completions/release",
        "zsh/vendor-completions/_release",
        "fish/vendor_completions.d/release.fish",
        "doc/release-terminal/copyright",
        "doc/release-terminal/changelog.gz",
        "doc/release-terminal/third-party-licences.gz",
        "doc/release-terminal/RELEASING.md",
        "doc/release-terminal/examples/policy.toml",
        "doc/release-terminal/examples/terminal.toml",
        "release-terminal/mirror",
    ] {
        assert!(root.join("usr/share").join(file).is_file(), "no {file} in the package");
    }
}

#[test]
fn this_project_releases_itself() {
    let own = Project::new("release", VERSION, copy_tree);
    own.plan("plan").says("Dry run requested");
    // Building everything four times takes half an hour.
    if !is_long() {
        return;
    }
    for sha256 in recipe().inputs.values() {
        own.lab.write(&format!("inputs/{sha256}"), fs::read(project("target/vendor.tar")).unwrap());
    }
    own.release_twice();
    own.lab.copy(&own.released("first"), "downloads");
    let download = |name: &str| own.lab.path(&format!("downloads/{name}"));
    assert_is_a_debian_package(&download(&format!("release-terminal_{VERSION}_amd64.deb")));
    for name in ["verify", "terminal"].map(|name| format!("release-{name}-{VERSION}-x86_64-linux")) {
        let released = download(&name);
        run(program("chmod").arg("755").arg(&released)).exits(0);
        // It verifies its own release, and where it was built does not stand in it.
        run(program(released.to_str().unwrap())
            .args(["verify", "--root", "first/repository/metadata/1.root.json", &format!("downloads/{name}")])
            .env("XDG_DATA_HOME", own.lab.path("user"))
            .current_dir(own.lab.path("")))
        .exits(0)
        .says(&format!("release {VERSION}"));
        let folders = ["-e", "/build/vendor/", "-e", "/build/target/"];
        let found = run(program("grep").args(["--count", "--text", "--fixed-strings"]).args(folders).arg(&released));
        assert_eq!(found.code, Some(1), "{name} names the folder of its build");
    }
}

/// Puts this project's files, also those that are not committed, into the laboratory.
fn copy_tree(lab: &Lab) {
    let copy = "git ls-files -z --cached --others --exclude-standard | xargs -0 cp -a --parents -t \"$0\"";
    run(program("sh").args(["-c", copy]).arg(lab.path("work")).current_dir(project(""))).exits(0);
}
