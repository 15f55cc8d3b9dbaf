//! What others make of our repositories: python-tuf, gpg, gpgv, sqv, sha256sum,
//! and the TUF project's repository simulator against our client.

use std::fs;

use crate::support::Lab;
use crate::support::Said;
use crate::support::program;
use crate::support::project;
use crate::support::python;
use crate::support::random::Random;
use crate::support::run;
use crate::support::server::Nginx;

#[test]
fn python_tuf_downloads_every_artifact_of_two_versions() {
    let lab = Lab::released();
    lab.release_next("1.1");
    let artifacts = python_tuf_downloads(&lab, &["1.0", "1.1"]);
    assert_eq!(artifacts.len(), 10);
    // The other way round: what python-tuf refuses. A mirror that mixes.
    fs::copy(lab.path("mirror/metadata/1.kestrel.json"), lab.path("mirror/metadata/2.kestrel.json")).unwrap();
    assert_ne!(ngclient(&lab, "mixed", &artifacts).code, Some(0));
}

/// What python-tuf's client says when it downloads artifacts into a folder, where it
/// remembers what it has seen.
pub fn ngclient(lab: &Lab, folder: &str, artifacts: &[String]) -> Said {
    let server = Nginx::serve(&lab.path("mirror"));
    fs::create_dir_all(lab.path(folder)).unwrap();
    let mut command = program(python().to_str().unwrap());
    command.arg(project("tests/python/ngclient.py")).arg(lab.path("trust/root.json")).arg(server.url());
    run(command.arg(lab.path(folder)).args(artifacts))
}

/// The artifacts of some versions, as TUF names them.
pub fn artifacts_of(lab: &Lab, versions: &[impl AsRef<str>]) -> Vec<String> {
    let mut artifacts = Vec::new();
    for version in versions.iter().map(AsRef::as_ref) {
        for entry in fs::read_dir(lab.path(&format!("mirror/targets/kestrel/{version}"))).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            artifacts.push(format!("kestrel/{version}/{}", &name[65..]));
        }
    }
    artifacts
}

/// Demands that python-tuf downloads the artifacts of some versions. Gives their
/// names.
pub fn python_tuf_downloads(lab: &Lab, versions: &[&str]) -> Vec<String> {
    let artifacts = artifacts_of(lab, versions);
    ngclient(lab, "python", &artifacts).exits(0);
    for artifact in &artifacts {
        let (_, rest) = artifact.split_once('/').unwrap();
        let name = artifact.replace('/', "_");
        assert_eq!(
            lab.read(&format!("python/{name}")),
            lab.read(&format!("mirror/releases/kestrel/{rest}")),
            "{artifact}"
        );
    }
    artifacts
}

#[test]
fn stock_verifiers_accept_the_checksums() {
    openpgp_accepts_the_checksums(&Lab::released());
}

/// Demands that sha256sum, sqv, gpgv and gpg accept the checksums of 1.0, signed by
/// Alice and Bob, and nothing else.
pub fn openpgp_accepts_the_checksums(lab: &Lab) {
    let folder = lab.path("mirror/releases/kestrel/1.0");
    run(program("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&folder)).exits(0);

    let certificates = |kind: &str| {
        let mut all = Vec::new();
        for entry in fs::read_dir(lab.path("mirror/keys")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == kind) {
                all.push(path);
            }
        }
        assert_eq!(all.len(), 3);
        all
    };
    let keyring: Vec<u8> = certificates("gpg").iter().flat_map(|path| fs::read(path).unwrap()).collect();
    lab.write("keyring.gpg", keyring);
    let files = ["SHA256SUMS.asc", "SHA256SUMS"];
    let sqv = |count: &str| {
        let mut command = program("sqv");
        command.args(["-n", count, "--keyring"]).arg(lab.path("keyring.gpg")).args(files).current_dir(&folder);
        run(&mut command)
    };
    assert_eq!(sqv("2").exits(0).out.lines().count(), 2);
    assert_ne!(sqv("3").code, Some(0));
    run(program("gpgv").arg("--keyring").arg(lab.path("keyring.gpg")).args(files).current_dir(&folder)).exits(0);

    fs::create_dir(lab.path("gnupg")).unwrap();
    run(program("chmod").arg("700").arg(lab.path("gnupg"))).exits(0);
    let gpg = |arguments: &[&str]| {
        let mut command = program("gpg");
        command.env("GNUPGHOME", lab.path("gnupg")).args(["--batch", "--trust-model", "always"]);
        command.args(arguments).current_dir(&folder);
        run(&mut command)
    };
    for path in certificates("asc") {
        gpg(&["--import", path.to_str().unwrap()]).exits(0);
    }
    gpg(&["--verify", "SHA256SUMS.asc", "SHA256SUMS"]).exits(0).says("\"Alice\"").says("\"Bob\"");
    let changed = [lab.read("mirror/releases/kestrel/1.0/SHA256SUMS").as_slice(), b"x\n"].concat();
    lab.write("changed", changed);
    assert_ne!(gpg(&["--verify", "SHA256SUMS.asc", lab.path("changed").to_str().unwrap()]).code, Some(0));
}

#[test]
fn openssl_opens_our_keys_and_accepts_our_signatures() {
    let lab = Lab::released();
    let mut command = program("openssl");
    command.args(["pkey", "-in", "home/keys/alice-release.key", "-passin", "pass:horse-alice-release", "-pubout"]);
    let public = run(command.current_dir(lab.path(""))).exits(0).out;
    assert_eq!(public.as_bytes(), lab.read("home/keys/alice-release.pem"));

    let role = lab.read("mirror/metadata/1.kestrel.json");
    let metadata = sigstore_tuf::Metadata::<sigstore_tuf::Targets>::from_slice(&role).unwrap();
    release::tuf::install_crypto();
    let key = release::key::PublicKey::from_pem(&public).unwrap();
    let (id, _) = release::tuf::key::identified(&key).unwrap();
    let signature = metadata.signatures().iter().find(|signature| signature.keyid == id).unwrap();
    lab.write("message", metadata.signed_canonical());
    lab.write("signature", hex::decode(&signature.sig).unwrap());
    let mut command = program("openssl");
    command.args(["dgst", "-sha256", "-verify", "home/keys/alice-release.pem", "-signature", "signature", "message"]);
    run(command.current_dir(lab.path(""))).exits(0).says("Verified OK");
}

/// CI has no copy of the TUF project's conformance suite; its repository
/// simulator is in python-tuf's source distribution.
#[test]
fn the_client_follows_the_tuf_repository_simulator() {
    let mut command = program(python().to_str().unwrap());
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).arg(project("tests/python/simulator.py"));
    command.env("RELEASE", crate::support::RELEASE).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("SIMULATOR", project("target/python/tuf-source"));
    run(&mut command).exits(0);
}

#[test]
fn versions_sort_as_dpkg_sorts_them() {
    let mut random = Random::new(20_260_101);
    for _ in 0..400 {
        let (a, b) = (random.version(), random.version());
        // dpkg would take what follows the last `-` as a Debian revision.
        let debian = |text: &str| format!("{text}-0");
        let said = run(program("dpkg").args(["--compare-versions", &debian(&a), "lt", &debian(&b)]));
        let parse = |text: &str| text.parse::<release::manifest::Version>().unwrap();
        let equal = run(program("dpkg").args(["--compare-versions", &debian(&a), "eq", &debian(&b)])).code == Some(0);
        assert!(equal || (parse(&a) < parse(&b)) == (said.code == Some(0)), "{a} and {b}");
    }
}
