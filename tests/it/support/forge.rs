//! A forger with stolen keys: makes metadata that the program itself would
//! never sign, and puts it on the mirror.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use release::key::Signer;
use release::key::SoftwareKey;
use release::key::ToSign;
use release::manifest::Bundle;
use release::manifest::Sha256;
use release::manifest::dsse::Envelope;
use release::tuf::Draft;
use release::tuf::draft::MetaEntry;
use release::tuf::key;
use serde_json::Value;

use super::Lab;

/// The current metadata of a mirror, to be changed and signed again.
pub struct Forger<'a> {
    lab: &'a Lab,
    folder: PathBuf,
    pub roots: Vec<Vec<u8>>,
    pub targets: Vec<u8>,
    pub role: Vec<u8>,
    pub snapshot: Vec<u8>,
    pub timestamp: Vec<u8>,
    /// The name of the online key that the thief has.
    pub online: String,
}

/// The number of a metadata file.
pub fn number(file: &[u8]) -> u64 {
    value(file)["signed"]["version"].as_u64().unwrap()
}

pub fn value(file: &[u8]) -> Value {
    serde_json::from_slice(file).unwrap()
}

impl<'a> Forger<'a> {
    /// Takes what the mirror serves.
    pub fn new(lab: &'a Lab) -> Self {
        release::tuf::install_crypto();
        let folder = lab.path("mirror/metadata");
        let read = |name: String| fs::read(folder.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let timestamp = read("timestamp.json".to_owned());
        let snapshot_number = &value(&timestamp)["signed"]["meta"]["snapshot.json"]["version"];
        let snapshot = read(format!("{snapshot_number}.snapshot.json"));
        let listed = value(&snapshot)["signed"]["meta"].clone();
        let targets = read(format!("{}.targets.json", listed["targets.json"]["version"]));
        let role = read(format!("{}.kestrel.json", listed["kestrel.json"]["version"]));
        let roots = (1..100)
            .map(|number| folder.join(format!("{number}.root.json")))
            .take_while(|path| path.exists())
            .map(|path| fs::read(path).unwrap())
            .collect();
        Self { lab, folder, roots, targets, role, snapshot, timestamp, online: "online".to_owned() }
    }

    /// A stolen key, with its TUF id.
    pub fn key(&self, name: &str) -> (String, SoftwareKey) {
        let path = self.lab.path(&format!("home/keys/{name}.key"));
        let key = SoftwareKey::open(&name.parse().unwrap(), &path, &format!("horse-{name}")).unwrap();
        let (id, _) = key::identified(key.public()).unwrap();
        (id, key)
    }

    /// A fresh key, with its id and TUF object.
    pub fn fresh_key(name: &str) -> (String, SoftwareKey, Value) {
        let key = SoftwareKey::generate(name.parse().unwrap(), release::key::Algorithm::P256).unwrap();
        let (id, _) = key::identified(key.public()).unwrap();
        let object = key::object(key.public());
        (id, key, object)
    }

    /// Changes the signed part of a file and signs it by these keys.
    pub fn sign(&self, file: &[u8], keys: &[&str], change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let keys: Vec<(String, SoftwareKey)> = keys.iter().map(|name| self.key(name)).collect();
        Self::sign_with(file, &keys, change)
    }

    pub fn sign_with(file: &[u8], keys: &[(String, SoftwareKey)], change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut changed = value(file);
        changed["signatures"] = serde_json::json!([]);
        change(&mut changed["signed"]);
        let mut draft = Draft::parse("any", &release::manifest::json::to_vec(&changed).unwrap()).unwrap();
        let message = draft.canonical().unwrap();
        for (id, key) in keys {
            draft.add_signature(id, &key.sign("forgery", ToSign::Message(&message)).unwrap());
        }
        draft.to_file().unwrap()
    }

    /// A claim by alice's stolen claim key about a release of one file.
    pub fn claim(&self, version: &str, name: &str, sha256: &str) -> Envelope {
        let claim = self.lab.read("mirror/releases/kestrel/1.0/claim.alice.intoto.json");
        let mut statement = value(&Envelope::parse(&claim).unwrap().payload().unwrap());
        statement["subject"] = serde_json::json!([{ "name": name, "digest": { "sha256": sha256 } }]);
        statement["predicate"]["buildDefinition"]["externalParameters"]["version"] = serde_json::json!(version);
        let mut envelope = Envelope::new(statement.to_string().as_bytes());
        let (id, key) = self.key("alice-claim");
        let signed = envelope.signed_bytes().unwrap();
        envelope.add_signature(&id, &key.sign("forgery", ToSign::Message(&signed)).unwrap());
        envelope
    }

    /// Adds a release of one file to the role's signed part.
    pub fn add_release(signed: &mut Value, path: &str, content: &[u8]) {
        signed["version"] = serde_json::json!(signed["version"].as_u64().unwrap() + 1);
        signed["targets"][path] = serde_json::json!({
            "length": content.len(), "hashes": { "sha256": Sha256::of(content) }, "custom": { "kind": "file" },
        });
    }

    /// Signs snapshot and timestamp anew by the stolen online key, with the next
    /// number.
    pub fn seal(&mut self) {
        let serial = number(&self.timestamp) + 1;
        self.seal_as(serial);
    }

    pub fn seal_as(&mut self, serial: u64) {
        let keys = [self.key(&self.online)];
        self.seal_with(serial, &keys);
    }

    /// The next number, with a snapshot that lists no product.
    pub fn seal_without_product(&mut self) {
        let keys = [self.key(&self.online)];
        let listed = BTreeMap::from([("targets.json".to_owned(), MetaEntry::of(number(&self.targets), &self.targets))]);
        self.seal_listing(number(&self.timestamp) + 1, &keys, &listed);
    }

    pub fn seal_with(&mut self, serial: u64, keys: &[(String, SoftwareKey)]) {
        let meta = BTreeMap::from([
            ("targets.json".to_owned(), MetaEntry::of(number(&self.targets), &self.targets)),
            ("kestrel.json".to_owned(), MetaEntry::of(number(&self.role), &self.role)),
        ]);
        self.seal_listing(serial, keys, &meta);
    }

    fn seal_listing(&mut self, serial: u64, keys: &[(String, SoftwareKey)], meta: &BTreeMap<String, MetaEntry>) {
        let expires: Timestamp = value(&self.timestamp)["signed"]["expires"].as_str().unwrap().parse().unwrap();
        let snapshot = Draft::snapshot(serial, expires, meta).to_file().unwrap();
        self.snapshot = Self::sign_with(&snapshot, keys, |_| {});
        let entry = MetaEntry::of(serial, &self.snapshot);
        let timestamp = Draft::timestamp(serial, expires, &entry, Timestamp::UNIX_EPOCH).to_file().unwrap();
        self.timestamp = Self::sign_with(&timestamp, keys, |_| {});
    }

    /// Puts all of it on the mirror.
    pub fn serve(&self) {
        let write = |name: String, file: &[u8]| {
            let path = self.folder.join(name);
            let _ = fs::remove_file(&path);
            fs::write(path, file).unwrap();
        };
        for (file, number) in self.roots.iter().zip(1..) {
            write(format!("{number}.root.json"), file);
        }
        write(format!("{}.targets.json", number(&self.targets)), &self.targets);
        write(format!("{}.kestrel.json", number(&self.role)), &self.role);
        write(format!("{}.snapshot.json", number(&self.snapshot)), &self.snapshot);
        write("../bundles/kestrel.bundle.json".to_owned(), &self.bundle(Vec::new()));
        write("timestamp.json".to_owned(), &self.timestamp);
    }

    /// A bundle of all of it.
    pub fn bundle(&self, claims: Vec<Envelope>) -> Vec<u8> {
        let bundle = Bundle {
            product: "kestrel".parse().unwrap(),
            roots: self.roots.clone(),
            targets: self.targets.clone(),
            role: self.role.clone(),
            snapshot: self.snapshot.clone(),
            timestamp: self.timestamp.clone(),
            claims,
        };
        bundle.to_vec().unwrap()
    }
}
