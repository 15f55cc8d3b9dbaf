//! The repository for apt.

mod client;
mod deb;
mod hostile;
mod push;
mod sources;
mod suite;
mod thief;
mod verify;

use std::fmt::Write;

use crate::support::Lab;
use crate::support::RECIPE;

/// The recipe of a release with packages for two architectures and for all.
fn recipe(packages: &[&str]) -> String {
    let mut recipe = RECIPE.to_owned();
    for package in packages {
        writeln!(recipe, "[[artifact]]\npath = \"out/{package}\"\nkind = \"deb\"").unwrap();
    }
    recipe
}

/// Commits a version that makes these packages: name, architecture and version of each.
/// They are made by dpkg-deb in the build.
fn commit(lab: &Lab, version: &str, packages: &[(&str, &str, &str)]) {
    let mut script = "mkdir -p out; cp notes out/kestrel; cp notes out/notes\n".to_owned();
    let mut names = Vec::new();
    for (name, architecture, of_package) in packages {
        let without_epoch = of_package.rsplit(':').next().unwrap();
        let file = format!("{name}_{without_epoch}_{architecture}.deb");
        writeln!(
            script,
            "rm -rf root; mkdir -p root/DEBIAN root/usr/share/{name}; cp notes root/usr/share/{name}/\n\
             printf '%s\\n' 'Package: {name}' 'Source: kestrel ({of_package})' 'Version: {of_package}' \
             'Architecture: {architecture}' 'Maintainer: K <k@kestrel.example>' 'Description: a kestrel' \
             ' that hovers' >root/DEBIAN/control\n\
             dpkg-deb --root-owner-group -Zxz -b root out/{file}"
        )
        .unwrap();
        names.push(file);
    }
    lab.write("work/build.sh", script);
    lab.write("work/notes", format!("notes of {version}\n"));
    lab.write("work/release.toml", recipe(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    lab.commit(version);
    lab.tag(version);
}
