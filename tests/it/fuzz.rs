//! What the fuzz targets start from, and the changes that need no luck to find:
//! every byte of a bundle, every bit of a metadata file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use jiff::Timestamp;
use release::key::Algorithm;
use release::key::Signer;
use release::key::SoftwareKey;
use release::key::ToSign;
use release::manifest::Bundle;
use release::manifest::Product;
use release::manifest::Sha256;
use release::manifest::dsse::Envelope;
use release::parallel::in_parallel;
use release::tuf::Draft;
use release::tuf::Files;
use release::tuf::TransportError;
use release::tuf::draft::MetaEntry;
use release::tuf::draft::RoleKeys;
use release::verify::Judge;
use release::verify::Subject;
use release::verify::Trust;
use release::verify::Verdict;
use release::verify::repository;
use release::verify::strict;
use serde_json::Value;
use serde_json::json;

use crate::agent::Login;
use crate::approve_faults::payloads;
use crate::attestation::attested;
use crate::support::Lab;
use crate::support::attestation::Maker;
use crate::support::deb;
use crate::support::program;
use crate::support::project;
use crate::support::run;

/// Where scripts/fuzz wants the seeds.
const FOLDER: &str = "RELEASE_FUZZ_CORPUS";

#[test]
fn the_laboratory_gives_seeds_to_every_fuzz_target() {
    release::tuf::install_crypto();
    let lab = Lab::released();
    let mut files = small_project();
    let content = &files["kestrel-1.0"];
    let subject = Subject { name: "kestrel-1.0".to_owned(), sha256: Sha256::of(content), length: content.len() as u64 };
    let verdict = judge(&files["root.json"], &files["bundle.json"], &subject, SEALED.parse().unwrap());
    assert!(matches!(verdict, Some(Verdict::Verified(_))), "what is changed verifies unchanged");
    let seeds = seeds(&lab, &files);
    let mut targets: Vec<String> = fs::read_dir(project("fuzz/src/bin"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    targets.sort();
    assert!(targets.iter().eq(seeds.keys()), "every target has a seed: {targets:?}");
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    for (target, seeds) in seeds {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder).unwrap();
        for seed in seeds {
            fs::write(folder.join(Sha256::of(&seed).to_string()), seed).unwrap();
        }
    }
    // What several targets compare with.
    let laboratory = Path::new(&folder).join("laboratory");
    fs::create_dir_all(laboratory.join("metadata")).unwrap();
    files.insert("alice.asc".to_owned(), lab.read("home/keys/alice.asc"));
    files.insert("SHA256SUMS".to_owned(), lab.read(&Lab::mirrored("1.0", "SHA256SUMS")));
    for (name, content) in files {
        fs::write(laboratory.join(name), content).unwrap();
    }
}

/// When [`small_project`] was sealed.
const SEALED: &str = "2026-01-01T00:00:00Z";

/// A released project as small as one can be: each byte of its metadata is read
/// some ten times in a verification. Two people release, one has the root.
fn small_project() -> BTreeMap<String, Vec<u8>> {
    let key = |name: &str, algorithm| {
        let key = SoftwareKey::generate(name.parse().unwrap(), algorithm).unwrap();
        (release::tuf::key::identified(key.public()).unwrap().0, key)
    };
    let keys: BTreeMap<&str, (String, SoftwareKey)> =
        ["alice-root", "alice-targets", "alice-release", "bob-release", "alice-claim", "online"]
            .map(|name| (name, key(name, if name == "online" { Algorithm::P256 } else { Algorithm::Ed25519 })))
            .into();
    let objects = |names: &[&str]| -> BTreeMap<String, Value> {
        names.iter().map(|name| (keys[name].0.clone(), release::tuf::key::object(keys[name].1.public()))).collect()
    };
    let role = |names: &[&str]| RoleKeys {
        keyids: names.iter().map(|name| keys[name].0.clone()).collect(),
        threshold: u32::try_from(names.len()).unwrap(),
    };
    let sign = |mut draft: Draft, names: &[&str]| {
        let message = draft.canonical().unwrap();
        for name in names {
            draft.add_signature(&keys[name].0, &keys[name].1.sign("a seed", ToSign::Message(&message)).unwrap());
        }
        draft.to_file().unwrap()
    };
    let sealed: Timestamp = SEALED.parse().unwrap();
    let expires = sealed + SignedDuration::from_hours(24 * 30);

    let roles = BTreeMap::from([
        ("root", role(&["alice-root"])),
        ("targets", role(&["alice-targets"])),
        ("snapshot", role(&["online"])),
        ("timestamp", role(&["online"])),
    ]);
    let root = Draft::root(1, expires, &objects(&["alice-root", "alice-targets", "online"]), &roles);
    let root = sign(root, &["alice-root"]);
    let holder = |name: &str, held: &[&str]| json!({ "name": name, "keyids": held.iter().map(|key| &keys[key].0).collect::<Vec<_>>() });
    let policy = json!({
        "version": 1,
        "holders": {
            "alice": holder("Alice", &["alice-root", "alice-targets", "alice-release"]),
            "bob": holder("Bob", &["bob-release"]),
        },
        "claims": { &keys["alice-claim"].0: {
            "holder": "alice", "key": release::tuf::key::object(keys["alice-claim"].1.public()),
        } },
        "products": { "kestrel": { "rebuilds": 0 } },
        "repository": "https://packages.example.org",
    });
    let people = ["alice-release", "bob-release"];
    let products = BTreeMap::from([("kestrel".to_owned(), role(&people))]);
    let targets = Draft::targets(1, expires, &json!({}), &objects(&people), &products, &policy);
    let targets = sign(targets, &["alice-targets"]);

    let content = b"kestrel 1.0\n";
    let listed = json!({ "kestrel/1.0/kestrel-1.0": {
        "length": content.len(), "hashes": { "sha256": Sha256::of(content) }, "custom": { "kind": "file" },
    } });
    let product = sign(Draft::product("kestrel", 1, expires, &listed, &json!([])), &people);
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": "kestrel-1.0", "digest": { "sha256": Sha256::of(content) } }],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": { "buildDefinition": {
            "buildType": "urn:release-terminal:build:1",
            "externalParameters": { "product": "kestrel", "version": "1.0", "branch": "release/1" },
            "resolvedDependencies": [],
        } },
    });
    let mut claim = Envelope::new(&release::manifest::json::to_vec(&statement).unwrap());
    let (id, key) = &keys["alice-claim"];
    claim.add_signature(id, &key.sign("a seed", ToSign::Message(&claim.signed_bytes().unwrap())).unwrap());

    let mut meta = BTreeMap::from([("targets.json".to_owned(), MetaEntry::of(1, &targets))]);
    let before = sign(Draft::snapshot(1, expires, &meta), &["online"]);
    let before_that = Draft::timestamp(1, expires, &MetaEntry::of(1, &before), sealed - SignedDuration::from_hours(1));
    meta.insert("kestrel.json".to_owned(), MetaEntry::of(1, &product));
    let snapshot = sign(Draft::snapshot(2, expires, &meta), &["online"]);
    let timestamp = sign(Draft::timestamp(2, expires, &MetaEntry::of(2, &snapshot), sealed), &["online"]);
    let bundle = Bundle {
        product: "kestrel".parse().unwrap(),
        roots: vec![root.clone()],
        targets: targets.clone(),
        role: product.clone(),
        snapshot: snapshot.clone(),
        timestamp: timestamp.clone(),
        claims: vec![claim],
    };
    BTreeMap::from([
        ("bundle.json".to_owned(), bundle.to_vec().unwrap()),
        ("kestrel-1.0".to_owned(), content.to_vec()),
        ("metadata/1.root.json".to_owned(), root.clone()),
        ("metadata/1.targets.json".to_owned(), targets),
        ("metadata/1.kestrel.json".to_owned(), product),
        ("metadata/1.snapshot.json".to_owned(), before),
        ("metadata/2.snapshot.json".to_owned(), snapshot),
        ("metadata/timestamp.json".to_owned(), timestamp),
        // Nobody asks for it; an attacker has it and can serve it again.
        ("metadata/old-timestamp.json".to_owned(), sign(before_that, &["online"])),
        ("root.json".to_owned(), root),
    ])
}

/// What each target starts from: small, since every byte costs time.
fn seeds(lab: &Lab, project: &BTreeMap<String, Vec<u8>>) -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let mirrored = |name: &str| lab.read(&Lab::mirrored("1.0", name));
    let claim = mirrored("claim.alice.intoto.json");
    let statement = Envelope::parse(&claim).unwrap().payload().unwrap();
    let object = run(lab.git("work").args(["cat-file", "tag", "v1.0"])).exits(0).out.into_bytes();
    let tag = release::source::tag::Parsed::parse(&object).unwrap();
    let release::source::tag::Signature::Ssh(signature) = tag.signature else { panic!("not signed by SSH") };
    let listing = run(lab.git("work").args(["ls-tree", "-r", "-t", "-z", "-l", "--full-tree", "HEAD"])).exits(0).out;
    let link = "120000 blob 0123456789012345678901234567890123456789       4\td/link\0";
    let metadata = project.iter().filter(|(name, _)| name.starts_with("metadata/")).map(|(_, file)| file.clone());
    let tampered =
        [[0, 0, 0, 9, 2].as_slice(), &[1, 5, 0, 90, 5], &[2, 5, 0, 0, 7], &[3, 0, 1, 5, 5, 1, 0, 9, 9, 2, 0, 5, 5]]
            .map(<[u8]>::to_vec);
    let maker = Maker::usual();
    let (request, approval) = payloads();
    let seed = |value: &Value| release::manifest::json::to_vec(value).unwrap();
    BTreeMap::from([
        ("agent", vec![Login::new().seed()]),
        ("amendment", amendments(lab).iter().map(seed).collect()),
        ("approval", vec![seed(&approval)]),
        ("attestation", vec![maker.seed(Timestamp::now()), attested(&maker).to_json().unwrap()]),
        ("bundle", vec![small_bundle()]),
        ("courier", carried(lab)),
        ("deb", packages()),
        ("envelope", vec![claim, statement.clone(), br#"["","",[["a","b"]]]"#.to_vec()]),
        ("journal", journals(&lab.read("home/journal.jsonl"))),
        ("json", vec![statement, br#"{"a":[1,-1,null,true,"\n\u001b"],"b":{"c":18446744073709551615}}"#.to_vec()]),
        ("key", keys(lab)),
        ("metadata", metadata.collect()),
        ("names", vec![b"1.0 1.0~rc1 1.0.1 kestrel-1.0.tar.gz targets/kestrel/1.0/x metadata/1.root.json".to_vec()]),
        ("openpgp", with_binary(&[lab.read("home/keys/alice.asc"), mirrored("SHA256SUMS.asc")])),
        ("policy", vec![lab.read("home/policy.toml")]),
        ("recipe", vec![lab.read("work/release.toml")]),
        ("refs", vec![run(lab.git("work").args(["ls-remote", "../source.git"])).exits(0).out.into_bytes()]),
        ("request", vec![seed(&request)]),
        ("repository", tampered.to_vec()),
        ("signature", vec![signature, lab.read("home/keys/revoked")]),
        ("state", vec![lab.read("home/cuts/kestrel-1.0/cut.json"), lab.read("home/publications/1.json")]),
        ("suite", suites()),
        ("tag", vec![object]),
        ("terminal", vec![lab.read("home/terminal.toml"), TOOLCHAIN.to_vec(), REMOTE.as_bytes().to_vec()]),
        ("tree", vec![format!("../build.sh\n{listing}{link}").into_bytes()]),
        ("url", ANSWERS.map(|answer| answer.as_bytes().to_vec()).to_vec()),
        ("verify", tampered.to_vec()),
    ])
}

/// A request to change the policy, and a consent to it.
fn amendments(lab: &Lab) -> [Value; 2] {
    let (digest, at) = (release::manifest::Sha256::of(b"x"), "2026-01-01T00:00:00Z");
    let policy = String::from_utf8(lab.read("home/policy.toml")).unwrap();
    let request = serde_json::json!({
        "version": 1, "number": 2, "starter": "alice", "at": at, "change": "rotate alice-root", "follows": digest,
        "policy": policy, "files": { "keys/alice-root-2.pem": "PEM" }, "roles": { "root": digest, "targets": digest },
        "products": { "kestrel": { "number": 2, "follows": digest } },
    });
    let consent = serde_json::json!({
        "version": 1, "number": 2, "holder": "bob", "amendment": digest,
        "signatures": { "root": { "00": "00" }, "targets": {} },
    });
    [request, consent]
}

/// A package in each compression, and what one says of itself.
fn packages() -> Vec<Vec<u8>> {
    let (control, data) = (deb::control(deb::CONTROL), deb::data());
    let of = |end: &str, control: &[u8], data: &[u8]| {
        let (control_name, data_name) = (format!("control.tar{end}"), format!("data.tar{end}"));
        deb::ar(&[("debian-binary", b"2.0\n"), (&control_name, control), (&data_name, data)])
    };
    vec![
        of("", &control, &data),
        of(".gz", &deb::gz(&control[..]), &deb::gz(&data[..])),
        of(".xz", &deb::xz(&control[..]), &deb::xz(&data[..])),
        of(".zst", &deb::zst(&control[..]), &deb::zst(&data[..])),
        deb::CONTROL.as_bytes().to_vec(),
    ]
}

/// What a suite says of itself, alone and signed, an index, and its packed forms.
fn suites() -> Vec<Vec<u8>> {
    let digest = release::manifest::Sha256::of(b"x");
    let index = format!("{}Filename: pool/main/k/kestrel/x.deb\nSize: 1\nSHA256: {digest}\n", deb::CONTROL);
    let release = format!(
        "Origin: k.example\nLabel: k.example\nSuite: stable\nCodename: stable\nDate: Sun, 01 Mar 2026 00:00:00 UTC\n\
         Valid-Until: Tue, 31 Mar 2026 00:00:00 UTC\nAcquire-By-Hash: yes\nArchitectures: all\nComponents: main\n\
         Signed-By: A\nSHA256:\n {digest}        1 main/binary-all/Packages\n"
    );
    assert!(release::manifest::suite::Release::parse(&release).is_ok());
    let signed = format!(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{release}-----BEGIN PGP SIGNATURE-----\n\nAAAA\n\
         -----END PGP SIGNATURE-----\n"
    );
    let (gz, xz) = (deb::gz(index.as_bytes()), deb::xz(index.as_bytes()));
    vec![release.into_bytes(), signed.into_bytes(), index.into_bytes(), gz, xz]
}

/// What a courier carries, and a receipt.
fn carried(lab: &Lab) -> Vec<Vec<u8>> {
    lab.runs(&["export", "stick"]).exits(0);
    let receipt =
        br#"{"mirrors":[{"error":"down","mirror":"eu1","serial":1,"timestamp":{"signed":{}}}],"serial":1,"version":1}"#;
    vec![lab.read("stick/release-export.json"), lab.read("stick/1.publication.json"), receipt.to_vec()]
}

/// A terminal that fetches from a host, and publishes to another one.
const REMOTE: &str = "version = 1\n[[source]]\nhost = \"git.kestrel.example\"\naddress = [\"192.0.2.1\", \"2001:db8::1\"]\n\
    host-key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\"\n\
    key = \"file:keys/git\"\nca = \"keys/git-ca.pem\"\n[mirror.eu1]\nurl = \"http://eu1.kestrel.example\"\n\
    address = [\"192.0.2.2\"]\nhost-key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\"\n\
    pool-key = \"token:15237801/9a\"\npointer-key = \"file:keys/pointer\"\n";

const TOOLCHAIN: &[u8] = br#"version = 1
[sandbox]
toolchains = [{ path = "/usr/local/rust", at = "/opt/rust" }]
"#;

const ANSWERS: [&str; 4] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "HTTP/1.1 302 Found\r\nLocation: /else\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{}",
    "HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n",
];

/// A bundle without what it is about, which `verify` reads.
fn small_bundle() -> Vec<u8> {
    let file = br#"{"signatures":[],"signed":{}}"#.to_vec();
    let mut claim = Envelope::new(b"{}");
    claim.add_signature("a", b"signature");
    let bundle = Bundle {
        product: "kestrel".parse().unwrap(),
        roots: vec![file.clone()],
        targets: file.clone(),
        role: file.clone(),
        snapshot: file.clone(),
        timestamp: file,
        claims: vec![claim],
    };
    bundle.to_vec().unwrap()
}

/// The journal, and each of its lines as one that the target links to the one
/// before.
fn journals(journal: &[u8]) -> Vec<Vec<u8>> {
    let lines = std::str::from_utf8(journal).unwrap().lines().map(|line| {
        let (before, after) = line.split_once(r#""prev":""#).unwrap();
        format!(r#"+{before}"prev":"{}{}"#, &after[64..], "\n").into_bytes()
    });
    lines.chain([journal.to_vec()]).collect()
}

/// A key of every kind that is read, after its number and a signature.
fn keys(lab: &Lab) -> Vec<Vec<u8>> {
    let made = |arguments: &[&str]| {
        run(program("openssl").arg("genpkey").args(arguments).arg("-out").arg(lab.path("key.pem"))).exits(0);
        run(program("openssl").args(["pkey", "-pubout", "-in"]).arg(lab.path("key.pem"))).exits(0).out
    };
    let ml_dsa = STANDARD.encode(
        [hex::decode("3082053230 0b0609608648016503040311 03820521 00".replace(' ', "")).unwrap(), vec![7; 1312]]
            .concat(),
    );
    let ml_dsa = format!("-----BEGIN PUBLIC KEY-----\n{ml_dsa}\n-----END PUBLIC KEY-----\n");
    let seed = |scheme: u8, length: u16, public: &str| {
        [&[scheme], length.to_be_bytes().as_slice(), &vec![1; usize::from(length)], public.as_bytes()].concat()
    };
    let curve = |name: &str| made(&["-algorithm", "EC", "-pkeyopt", &format!("ec_paramgen_curve:{name}")]);
    vec![
        seed(0, 70, &curve("P-256")),
        seed(1, 100, &curve("P-384")),
        seed(2, 64, &made(&["-algorithm", "ED25519"])),
        seed(2, 64, &"9a".repeat(32)),
        seed(3, 128, &made(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"])),
        seed(6, 2420, &ml_dsa),
    ]
}

/// Armored files, and what is in the armor.
fn with_binary<const N: usize>(armored: &[Vec<u8>; N]) -> Vec<Vec<u8>> {
    let binary = |file: &Vec<u8>| {
        let lines = std::str::from_utf8(file).unwrap().lines().skip_while(|line| !line.is_empty());
        let lines = lines.take_while(|line| !line.starts_with(['=', '-']));
        STANDARD.decode(lines.collect::<String>()).unwrap()
    };
    armored.iter().map(binary).chain(armored.iter().cloned()).collect()
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
