//! A thief who has the archive's key, and nothing else that signs: he makes suites that
//! stock apt takes.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use release::key::SoftwareKey;
use release::manifest::Sha256;
use release::openpgp;
use release::openpgp::Certificate;

use crate::support::Lab;
use crate::support::deb;

pub const DISTS: &str = "mirror/apt/dists/stable";
const INDEX: &str = "main/binary-amd64/Packages";

/// Exchanges a file. Its time is new, so that a web server does not say that it is as
/// before.
pub fn replace(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A file of the suite as text.
pub fn text(lab: &Lab, name: &str) -> String {
    String::from_utf8(lab.read(&format!("{DISTS}/{name}"))).unwrap()
}

/// Signs a suite that says this, today.
pub fn sign(lab: &Lab, release: &str) {
    let name = "archive-openpgp";
    let path = lab.path(&format!("home/keys/{name}.key"));
    let key = SoftwareKey::open(&name.parse().unwrap(), &path, &format!("horse-{name}")).unwrap();
    let certificate = Certificate::one(&lab.read("home/keys/archive.asc")).unwrap();
    let now = Timestamp::now();
    let detached = openpgp::sign_detached(&certificate, &key, "", release.as_bytes(), now).unwrap();
    let clear = openpgp::sign_cleartext(&certificate, &key, "", release.trim_end_matches('\n'), now).unwrap();
    for (file, bytes) in [
        ("Release", release.as_bytes().to_vec()),
        ("Release.gpg", openpgp::join_signatures(&[detached]).unwrap()),
        ("InRelease", clear),
    ] {
        replace(&lab.path(&format!("{DISTS}/{file}")), &bytes);
    }
}

/// Has the suite name other forms of its index: the end of each name, and its content.
pub fn exchange(lab: &Lab, forms: &[(&str, Vec<u8>)]) {
    exchange_forms(lab, INDEX, forms);
}

fn exchange_forms(lab: &Lab, index: &str, forms: &[(&str, Vec<u8>)]) {
    let mut release = text(lab, "Release");
    for (end, bytes) in forms {
        let name = format!("{index}{end}");
        let line = release.lines().find(|line| line.ends_with(&format!(" {name}"))).unwrap().to_owned();
        let sha256 = Sha256::of(bytes);
        release = release.replace(&line, &format!(" {sha256} {:>8} {name}", bytes.len()));
        replace(&lab.path(&format!("{DISTS}/{name}")), bytes);
        let (folder, _) = index.rsplit_once('/').unwrap();
        replace(&lab.path(&format!("{DISTS}/{folder}/by-hash/SHA256/{sha256}")), bytes);
    }
    sign(lab, &release);
}

/// Has the suite name another index, in all its forms.
pub fn exchange_all(lab: &Lab, index: &str) {
    exchange_index(lab, INDEX, index);
}

/// The same for an index of this name.
pub fn exchange_index(lab: &Lab, name: &str, index: &str) {
    let (gz, xz) = (deb::gz(index.as_bytes()), deb::xz(index.as_bytes()));
    exchange_forms(lab, name, &[("", index.into()), (".gz", gz), (".xz", xz)]);
}

/// A package that nobody released, in the pool; gives its stanza.
pub fn plant(lab: &Lab) -> String {
    let control = deb::CONTROL.replace("Version: 1.0-1", "Version: 6.6-6").replace("Depends: libc6 (>= 2.3)\n", "");
    let package = deb::deb(&control);
    let path = "pool/main/k/kestrel/kestrel_6.6-6_amd64.deb";
    replace(&lab.path(&format!("mirror/apt/{path}")), &package);
    format!("{control}Filename: {path}\nSize: {}\nSHA256: {}\n", package.len(), Sha256::of(&package))
}

/// The index as it is now.
pub fn index(lab: &Lab) -> String {
    text(lab, INDEX)
}
