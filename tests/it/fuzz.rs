//! What the fuzz targets start from, and the changes that need no luck to find:
//! every byte of a bundle, every bit of a metadata file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use release::manifest::Bundle;
use release::manifest::Product;
use release::manifest::Sha256;
use release::manifest::dsse::Envelope;
use release::parallel::in_parallel;
use release::tuf::Files;
use release::tuf::TransportError;
use release::verify::Judge;
use release::verify::Subject;
use release::verify::Trust;
use release::verify::Verdict;
use release::verify::repository;
use release::verify::strict;

use crate::agent::Login;
use crate::attestation::attested;
use crate::support::Lab;
use crate::support::attestation::Maker;
use crate::support::project;
use crate::support::run;

/// Where scripts/fuzz wants the seeds.
const FOLDER: &str = "RELEASE_FUZZ_CORPUS";

#[test]
fn the_laboratory_gives_seeds_to_every_fuzz_target() {
    let lab = Lab::released();
    let object = run(lab.git("work").args(["cat-file", "tag", "v1.0"])).exits(0).out.into_bytes();
    let tag = release::source::tag::Parsed::parse(&object).unwrap();
    let release::source::tag::Signature::Ssh(signature) = tag.signature else { panic!("not signed by SSH") };
    let bundle = lab.read(&Lab::mirrored("1.0", "kestrel-1.0.bundle.json"));
    let claim = lab.read(&Lab::mirrored("1.0", "claim.alice.intoto.json"));
    let statement = Envelope::parse(&claim).unwrap().payload().unwrap();
    let metadata = |name: &str| lab.read(&format!("mirror/metadata/{name}"));
    let names = b"1.0 1.0~rc1 1.0.1 kestrel-1.0.tar.gz targets/kestrel/1.0/x metadata/1.root.json".to_vec();
    let maker = Maker::usual();
    let attested = attested(&maker).to_json().unwrap();
    let seeds: BTreeMap<&str, Vec<Vec<u8>>> = BTreeMap::from([
        ("agent", vec![Login::new().seed()]),
        ("attestation", vec![maker.seed(Timestamp::now()), attested]),
        ("bundle", vec![bundle.clone()]),
        ("envelope", vec![claim.clone(), statement.clone()]),
        ("json", vec![statement, br#"{"a":[1,-1,null,true,"\n\u001b"],"b":{"c":18446744073709551615}}"#.to_vec()]),
        (
            "metadata",
            ["1.root.json", "1.targets.json", "1.kestrel.json", "2.snapshot.json", "timestamp.json"]
                .map(metadata)
                .to_vec(),
        ),
        ("names", vec![names]),
        ("policy", vec![lab.read("home/policy.toml"), lab.read("home/terminal.toml")]),
        ("recipe", vec![lab.read("work/release.toml")]),
        (
            "signature",
            vec![
                signature,
                lab.read(&Lab::mirrored("1.0", "SHA256SUMS.asc")),
                lab.read("home/keys/alice.asc"),
                lab.read("home/keys/revoked"),
            ],
        ),
        ("state", vec![lab.read("home/cuts/kestrel-1.0/cut.json"), lab.read("home/journal.jsonl")]),
        ("tag", vec![object]),
        ("verify", vec![bundle.clone(), vec![0, 0, 0, 0], vec![1, 0, 9, 9, 2, 0, 5, 5]]),
        // Not a target: what `verify` compares with.
        ("laboratory", Vec::new()),
    ]);
    let mut targets: Vec<String> = fs::read_dir(project("fuzz/fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    targets.sort();
    let seeded: Vec<&str> = seeds.iter().filter(|(_, seeds)| !seeds.is_empty()).map(|(target, _)| *target).collect();
    assert_eq!(targets, seeded, "every target has a seed");
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    for (target, seeds) in seeds {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder).unwrap();
        for seed in seeds {
            fs::write(folder.join(Sha256::of(&seed).to_string()), seed).unwrap();
        }
        if target == "laboratory" {
            fs::write(folder.join("root.json"), lab.read("trust/root.json")).unwrap();
            fs::write(folder.join("kestrel-1.0.bundle.json"), &bundle).unwrap();
            fs::write(folder.join("kestrel-1.0"), lab.read(&Lab::mirrored("1.0", "kestrel-1.0"))).unwrap();
        }
    }
}

/// The verdict on a file, as `release verify --bundle` finds it.
fn judge(root: &[u8], bundle: &[u8], subject: &Subject, now: Timestamp) -> Option<Verdict> {
    let bundle = Bundle::parse(bundle).ok()?;
    let source = strict::check("flipped", &bundle, root).ok()?;
    let trust = Trust::establish(root, &bundle.product, &[source]).ok()?;
    Judge::new(trust, bundle.claims).judge(subject, now).ok()
}

fn subject(lab: &Lab) -> Subject {
    let content = lab.read(&Lab::mirrored("1.0", "kestrel-1.0"));
    Subject { name: "kestrel-1.0".to_owned(), sha256: Sha256::of(&content), length: content.len() as u64 }
}

#[test]
fn no_flipped_byte_of_a_bundle_verifies() {
    release::tuf::install_crypto();
    let lab = Lab::released();
    let (root, subject) = (lab.read("trust/root.json"), subject(&lab));
    let bundle = lab.read(&Lab::mirrored("1.0", "kestrel-1.0.bundle.json"));
    let now = Timestamp::now();
    assert!(matches!(judge(&root, &bundle, &subject, now), Some(Verdict::Verified(_))));
    let changes: Vec<usize> = (0..bundle.len()).collect();
    let long = std::env::var_os("RELEASE_TEST_LONG").is_some();
    let tried = AtomicUsize::new(0);
    let result = in_parallel(&changes, |at| {
        // One bit of each byte, all of them where there is time.
        let bits = if long { 0..8 } else { at % 8..at % 8 + 1 };
        for bit in bits {
            let mut flipped = bundle.clone();
            flipped[*at] ^= 1 << bit;
            tried.fetch_add(1, Ordering::Relaxed);
            if judge(&root, &flipped, &subject, now).is_some() {
                return Err(format!("bit {bit} of byte {at} gives a verdict better than REJECTED"));
            }
        }
        // A bundle that ends here.
        if at % 16 == 0 && judge(&root, &bundle[..*at], &subject, now).is_some() {
            return Err(format!("the first {at} bytes give a verdict"));
        }
        Ok(())
    });
    assert_eq!(result, Ok(()));
    assert!(tried.into_inner() >= bundle.len());
}

/// A mirror with one file that is not as it was.
struct Altered {
    files: BTreeMap<String, Vec<u8>>,
    name: &'static str,
    content: Vec<u8>,
}

impl Files for Altered {
    fn open(&self, path: &str) -> Result<Option<release::transport::Opened>, TransportError> {
        let bytes = if path == self.name { Some(&self.content) } else { self.files.get(path) };
        Ok(bytes.map(|bytes| release::transport::Opened {
            content: Box::new(std::io::Cursor::new(bytes.clone())),
            length: Some(bytes.len() as u64),
        }))
    }

    fn place(&self) -> String {
        "mirror".to_owned()
    }
}

/// Whether a user without a bundle would trust what is served.
fn trusts(files: Altered, root: &[u8], product: &Product) -> bool {
    let files: std::sync::Arc<dyn Files> = std::sync::Arc::new(files);
    repository::fetch(&files, root, Some(product))
        .is_ok_and(|(served, _)| repository::trust_of(&served, product, root, &[]).is_ok())
}

#[test]
fn no_flipped_bit_of_a_metadata_file_is_trusted() {
    release::tuf::install_crypto();
    let lab = Lab::released();
    let (root, product) = (lab.read("trust/root.json"), "kestrel".parse().unwrap());
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(lab.path("mirror/metadata")).unwrap() {
        let entry = entry.unwrap();
        let name = format!("metadata/{}", entry.file_name().into_string().unwrap());
        files.insert(name, fs::read(entry.path()).unwrap());
    }
    // The one file that no other one pins by its digest.
    let name = "metadata/timestamp.json";
    let original = files[name].clone();
    let altered = |content: Vec<u8>| Altered { files: files.clone(), name, content };
    assert!(trusts(altered(original.clone()), &root, &product));
    let bits: Vec<usize> = (0..original.len() * 8).collect();
    let result = in_parallel(&bits, |bit| {
        let mut content = original.clone();
        content[bit / 8] ^= 1 << (bit % 8);
        if trusts(altered(content), &root, &product) {
            return Err(format!("bit {bit} changes nothing: {:?}", char::from(original[bit / 8])));
        }
        Ok(())
    });
    assert_eq!(result, Ok(()));
}
