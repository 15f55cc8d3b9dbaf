//! What fuzz targets share: the tests' laboratory, signatures that are checked
//! once, and changes to JSON that leave it JSON.

pub mod changes;
pub mod signatures;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::LazyLock;

use jiff::Timestamp;
use release::manifest::Bundle;
use release::manifest::Sha256;
use release::manifest::json;
use release::verify::Subject;
use serde_json::Value;

/// What scripts/fuzz takes from the laboratory.
pub struct Laboratory {
    /// The root that users pin.
    pub root: Vec<u8>,
    /// The bundle of the release.
    pub bundle: Bundle,
    /// A file of the release.
    pub genuine: Subject,
    /// When the release was sealed.
    pub sealed: Timestamp,
    /// The metadata files of the mirror by their paths there.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// The certificate of a release manager.
    pub certificate: Vec<u8>,
    /// What was signed by it.
    pub checksums: Vec<u8>,
}

/// The laboratory, read once.
pub static LABORATORY: LazyLock<Laboratory> = LazyLock::new(|| {
    let folder = std::env::var_os("RELEASE_FUZZ_LABORATORY").expect("run scripts/fuzz, which makes the laboratory");
    let folder = PathBuf::from(folder);
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let bundle = Bundle::parse(&read("bundle.json")).unwrap();
    let timestamp = json::from_slice(&bundle.timestamp).unwrap();
    Laboratory {
        root: read("root.json"),
        genuine: subject("kestrel-1.0", &read("kestrel-1.0")),
        sealed: timestamp["signed"]["x-release-sealed"].as_str().unwrap().parse().unwrap(),
        bundle,
        metadata: files(&folder.join("metadata")),
        certificate: read("alice.asc"),
        checksums: read("SHA256SUMS"),
    }
});

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            (format!("metadata/{}", entry.file_name().into_string().unwrap()), std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// A file that somebody asks about.
pub fn subject(name: &str, content: &[u8]) -> Subject {
    Subject { name: name.to_owned(), sha256: Sha256::of(content), length: content.len() as u64 }
}

/// The value of a file of the laboratory.
pub fn value(file: &[u8]) -> Value {
    json::from_slice(file).unwrap()
}
