//! Real projects in the laboratory, released from homes that share nothing but
//! the source.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use release::manifest::Sha256;

use super::Lab;
use super::Said;
use super::program;
use super::run;
use super::with_toolchain;

/// A project in a laboratory: its source is the branch and tag in `work`.
pub struct Project {
    pub lab: Lab,
    product: &'static str,
    version: &'static str,
}

impl Project {
    /// Makes a laboratory for a version of a product, whose source `fill` puts
    /// into the empty folder `work`.
    pub fn new(product: &'static str, version: &'static str, fill: impl FnOnce(&Lab)) -> Self {
        let lab = Lab::new();
        run(lab.git("work").args(["rm", "-q", "-r", "."])).exits(0);
        fill(&lab);
        lab.commit(product);
        lab.tag(version);
        let policy = String::from_utf8(lab.read("policy/policy.toml")).unwrap();
        lab.write("policy/policy.toml", policy.replace("[product.kestrel]", &format!("[product.{product}]")));
        Self { lab, product, version }
    }

    /// Makes a home that publishes to the mirror `<home>-mirror`, with the
    /// inputs that are in the laboratory's folder `inputs`.
    fn init(&self, home: &str) {
        let mirror = format!("here={home}-mirror");
        let mut init = vec!["init", "--home", home, "--policy", "policy/policy.toml", "--software-keys"];
        init.extend(["--mirror", &mirror]);
        let toolchains = toolchains();
        init.extend(toolchains.iter().flat_map(|folder| ["--toolchain", folder]));
        self.lab.with_keys(&init).exits(0);
        if self.lab.path("inputs").exists() {
            self.lab.copy("inputs/.", &format!("{home}/inputs"));
        }
    }

    fn cut(&self, home: &str, mode: &str) -> Said {
        self.lab.with_keys(&["cut", "--home", home, self.product, self.version, mode]).exits(0)
    }

    /// Fetches the source into a new home and reads the recipe, and no more.
    pub fn plan(&self, home: &str) -> Said {
        self.init(home);
        self.cut(home, "--dry-run")
    }

    /// Releases from a new home, and verifies what its mirror serves.
    pub fn release(&self, home: &str) {
        self.init(home);
        self.cut(home, &format!("--yes={}", self.version)).says("a second build is identical");
        let root = format!("{home}/repository/metadata/1.root.json");
        self.lab.runs(&["verify", "--root", &root, &format!("{home}-mirror")]).exits(0).says("VERIFIED");
    }

    /// The folder of the release on the mirror of a home.
    pub fn released(&self, home: &str) -> String {
        format!("{home}-mirror/releases/{}/{}", self.product, self.version)
    }

    /// Digests of the artifacts that a home has released.
    fn artifacts(&self, home: &str) -> BTreeMap<String, Sha256> {
        let files = fs::read_dir(self.lab.path(&self.released(home))).unwrap().map(|entry| entry.unwrap());
        let digests =
            files.map(|entry| (entry.file_name().into_string().unwrap(), Sha256::of(&fs::read(entry.path()).unwrap())));
        // What a home says about a release names its keys, or the head of its journal.
        digests
            .filter(|(name, _)| {
                ![".intoto.", ".bundle.", "SHA256SUMS"].iter().any(|of_the_home| name.contains(of_the_home))
            })
            .collect()
    }

    /// Releases from two homes, `first` and `second`, which give the same bytes.
    pub fn release_twice(&self) {
        self.release("first");
        self.release("second");
        assert_eq!(self.artifacts("first"), self.artifacts("second"), "two homes released other bytes");
    }
}

/// The Rust toolchain that runs these tests, where it is not below `/usr`.
fn toolchains() -> Vec<String> {
    let sysroot = run(with_toolchain(&mut program("rustc")).args(["--print", "sysroot"])).exits(0).out;
    let sysroot = sysroot.trim_end();
    if Path::new(sysroot).starts_with("/usr") {
        return Vec::new();
    }
    ["bin", "lib"].map(|folder| format!("rust/{folder}={sysroot}/{folder}")).into()
}
