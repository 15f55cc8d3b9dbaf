//! Where everything is in the repository, and which names are used again.
//!
//! The web server's map, the folders that a mirror needs and the publication
//! all come from one table, `PLACES`.

use crate::manifest::Architecture;
use crate::manifest::Class;
use crate::manifest::Component;
use crate::manifest::FileName;
use crate::manifest::PackageName;
use crate::manifest::Product;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::Suite;
use crate::manifest::Version;
use crate::manifest::names::NameError;
use crate::manifest::suite::APT;

/// A kind of path.
struct Place {
    class: Class,
    /// The folder that all of its kind are below; files at the top have none.
    folder: Option<&'static str>,
    /// Its URLs, as nginx matches them (PCRE): those of the paths that
    /// [`Self::holds`] finds, and no others.
    url: &'static str,
    /// Whether these segments are such a path.
    holds: fn(&[&str]) -> bool,
}

/// A product in a URL, before what ends it: reserved names are none.
macro_rules! product {
    ($end:literal) => {
        concat!("(?!(root|targets|snapshot|timestamp|apt|keys|log|policy)", $end, ")[a-z0-9][a-z0-9+.-]{1,63}", $end)
    };
}

/// A version in a URL, as a folder.
macro_rules! version {
    () => {
        "[0-9][A-Za-z0-9.+~-]{0,63}/"
    };
}

/// A file's name, at the end of a URL.
macro_rules! file {
    () => {
        "[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}$"
    };
}

/// A suite, a component or an architecture in a URL.
macro_rules! word {
    () => {
        "[a-z0-9][a-z0-9-]{0,31}"
    };
}

/// The folder of the indices of an architecture in a URL.
macro_rules! binary {
    () => {
        // Wildcards are no architectures.
        concat!("binary-(?!source/|([a-z0-9-]*-)?any[-/])", word!())
    };
}

/// Every path has one place.
const PLACES: [Place; 8] = [
    Place {
        class: Class::WriteOnce,
        folder: Some("targets"),
        url: concat!("^/targets/((policy|keys)/[0-9]{1,19}/|", product!("/"), version!(), r")[0-9a-f]{64}\.", file!()),
        holds: |path| match path {
            ["targets", "policy" | "keys", number, file] => is_number(number) && is_hashed(file),
            ["targets", product, version, file] => is_product(product) && is_version(version) && is_hashed(file),
            _ => false,
        },
    },
    Place {
        class: Class::WriteOnce,
        folder: Some("releases"),
        url: concat!("^/releases/", product!("/"), version!(), file!()),
        holds: |path| match path {
            ["releases", product, version, file] => is_product(product) && is_version(version) && is_file(file),
            _ => false,
        },
    },
    Place {
        class: Class::Pointer,
        folder: Some("metadata"),
        url: concat!(
            r"^/metadata/(timestamp\.json$|[1-9][0-9]{0,18}\.((root|targets|snapshot)\.json$|",
            product!(r"\.json$"),
            "))$"
        ),
        holds: |path| matches!(path, ["metadata", file] if *file == "timestamp.json" || is_numbered_role(file)),
    },
    Place {
        class: Class::Pointer,
        folder: Some("bundles"),
        url: concat!("^/bundles/", product!(r"\.bundle\.json$")),
        holds: |path| {
            let product = |file: &str| file.strip_suffix(crate::manifest::bundle::SUFFIX).is_some_and(is_product);
            matches!(path, ["bundles", file] if product(file))
        },
    },
    Place {
        class: Class::Pointer,
        folder: Some("keys"),
        url: r"^/keys/[0-9A-F]{40}([0-9A-F]{24})?\.(asc|gpg)$",
        holds: |path| matches!(path, ["keys", file] if is_key_file(file)),
    },
    Place {
        class: Class::WriteOnce,
        folder: Some("apt"),
        url: concat!(
            "^/apt/(dists/",
            word!(),
            "/",
            word!(),
            "/(source|",
            binary!(),
            ")/by-hash/SHA256/[0-9a-f]{64}|pool/",
            word!(),
            // A source begins with the folder that it is in.
            "/(lib[a-z0-9]|(?!l/lib[a-z0-9])[a-z0-9])/(?![a-z0-9]/|[a-z0-9+.-]{65})",
            r"\4[a-z0-9+.-]*/(?!.{201})[A-Za-z0-9][A-Za-z0-9._+~-]*",
            r"\.(deb|dsc|asc|diff\.gz|tar\.(gz|xz|bz2|zst)))$"
        ),
        holds: |path| match path {
            ["apt", "dists", suite, component, folder, "by-hash", "SHA256", hash] => {
                is_word(suite) && is_word(component) && is_indices(folder) && hash.parse::<Sha256>().is_ok()
            }
            ["apt", "pool", component, prefix, source, file] => {
                let source = source.parse::<PackageName>();
                is_word(component)
                    && source.is_ok_and(|source| pool_prefix(&source) == *prefix)
                    && is_file(file)
                    && POOL_ENDS.iter().any(|end| file.strip_suffix(end).is_some_and(|stem| !stem.is_empty()))
            }
            _ => false,
        },
    },
    Place {
        class: Class::Pointer,
        folder: Some("apt"),
        url: concat!(
            "^/apt/dists/(",
            word!(),
            "/",
            word!(),
            "/(source/Sources|",
            binary!(),
            r"/Packages)(\.gz|\.xz)?|",
            word!(),
            r"/(InRelease|Release|Release\.gpg))$"
        ),
        holds: |path| match path {
            ["apt", "dists", suite, component, "source", "Sources" | "Sources.gz" | "Sources.xz"] => {
                is_word(suite) && is_word(component)
            }
            ["apt", "dists", suite, component, folder, "Packages" | "Packages.gz" | "Packages.xz"] => {
                is_word(suite) && is_word(component) && is_binary(folder)
            }
            ["apt", "dists", suite, "InRelease" | "Release" | "Release.gpg"] => is_word(suite),
            _ => false,
        },
    },
    Place { class: Class::Pointer, folder: None, url: r"^/index\.html$", holds: |path| path == ["index.html"] },
];

/// The class of a path; `None` for a path that has no place here.
pub fn class_of(path: &RepoPath) -> Option<Class> {
    let segments: Vec<&str> = path.as_str().split('/').collect();
    PLACES.iter().find(|place| (place.holds)(&segments)).map(|place| place.class)
}

/// The folders of a class, which must be there before anything is pushed.
pub fn folders(class: Class) -> impl Iterator<Item = &'static str> {
    PLACES.iter().filter(move |place| place.class == class).filter_map(|place| place.folder)
}

/// Regular expressions (PCRE) for the URLs of a class.
pub fn urls(class: Class) -> impl Iterator<Item = &'static str> {
    PLACES.iter().filter(move |place| place.class == class).map(|place| place.url)
}

fn is_product(name: &str) -> bool {
    name.parse::<Product>().is_ok()
}

fn is_version(name: &str) -> bool {
    name.parse::<Version>().is_ok()
}

fn is_file(name: &str) -> bool {
    name.parse::<FileName>().is_ok()
}

/// A number without a sign that fits in 64 bits.
fn is_number(text: &str) -> bool {
    (1..=19).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

/// `N.<role>.json`.
fn is_numbered_role(file: &str) -> bool {
    let Some((number, role)) = file.strip_suffix(".json").and_then(|stem| stem.split_once('.')) else {
        return false;
    };
    let known = matches!(role, "root" | "targets" | "snapshot") || role.parse::<Product>().is_ok();
    known && is_number(number) && !number.starts_with('0')
}

/// `<sha256>.<file>`.
fn is_hashed(file: &str) -> bool {
    file.split_once('.').is_some_and(|(hash, name)| hash.parse::<Sha256>().is_ok() && is_file(name))
}

/// `<fingerprint>.asc` or `.gpg`.
fn is_key_file(file: &str) -> bool {
    file.split_once('.').is_some_and(|(fingerprint, kind)| {
        matches!(kind, "asc" | "gpg")
            && matches!(fingerprint.len(), 40 | 64)
            && fingerprint.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_lowercase())
    })
}

/// A suite, or a component.
fn is_word(name: &str) -> bool {
    name.parse::<Suite>().is_ok()
}

/// What files of the pool end with: packages, and what source packages consist of.
const POOL_ENDS: [&str; 8] = [".deb", ".dsc", ".asc", ".diff.gz", ".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst"];

/// The folder of an index.
fn is_indices(folder: &str) -> bool {
    folder == "source" || is_binary(folder)
}

/// `binary-<architecture>`.
fn is_binary(folder: &str) -> bool {
    folder.strip_prefix("binary-").is_some_and(|name| name.parse::<Architecture>().is_ok())
}

/// The folder of packages whose source has this name, as Debian has it: its first
/// letter, or that and `lib`.
fn pool_prefix(source: &PackageName) -> &str {
    let name = source.as_str();
    let length =
        if name.starts_with("lib") && name.len() > 3 && name.as_bytes()[3].is_ascii_alphanumeric() { 4 } else { 1 };
    &name[..length]
}

/// `metadata/N.<role>.json`.
///
/// # Errors
/// The role's name does not fit in a path.
pub fn metadata(number: u64, role: &str) -> Result<RepoPath, NameError> {
    format!("metadata/{number}.{role}.json").parse()
}

/// Where TUF clients ask for a file of a release.
///
/// # Errors
/// The path would be too long.
pub fn target(product: &Product, version: &Version, sha256: Sha256, file: &FileName) -> Result<RepoPath, NameError> {
    format!("targets/{product}/{version}/{sha256}.{file}").parse()
}

/// Where people look for a file of a release.
///
/// # Errors
/// The path would be too long, or the file's name is none.
pub fn release(product: &Product, version: &Version, file: &str) -> Result<RepoPath, NameError> {
    format!("releases/{product}/{version}/{file}").parse()
}

/// The bundle of a product's current releases.
///
/// # Errors
/// None for a valid product.
pub fn bundle(product: &Product) -> Result<RepoPath, NameError> {
    crate::manifest::bundle::current_path(product).parse()
}

/// A package in the pool of a component.
///
/// # Errors
/// The path would be too long, or the file's name is none.
pub fn apt_package(component: &Component, source: &PackageName, file: &str) -> Result<RepoPath, NameError> {
    format!("{APT}pool/{component}/{}/{source}/{file}", pool_prefix(source)).parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_one_class_or_none() {
        let hash = "a".repeat(64);
        let write_once = [
            format!("targets/kestrel/2.4.0/{hash}.kestrel-2.4.0.tar.gz"),
            format!("targets/policy/1/{hash}.policy.toml"),
            format!("targets/keys/1/{hash}.alice.asc"),
            "releases/kestrel/2.4.0/SHA256SUMS.asc".to_owned(),
            "apt/pool/main/k/kestrel/kestrel_2.4.0-1_amd64.deb".to_owned(),
            "apt/pool/main/libk/libkestrel/libkestrel1_2.4.0_all.deb".to_owned(),
            "apt/pool/main/k/kestrel/kestrel_2.4.0.orig.tar.xz".to_owned(),
            format!("apt/dists/stable/main/binary-amd64/by-hash/SHA256/{hash}"),
            format!("apt/dists/stable/main/source/by-hash/SHA256/{hash}"),
        ];
        let pointers = [
            "metadata/timestamp.json".to_owned(),
            "metadata/1.root.json".to_owned(),
            "metadata/12.kestrel.json".to_owned(),
            "bundles/kestrel.bundle.json".to_owned(),
            format!("keys/{}.asc", "A".repeat(40)),
            "index.html".to_owned(),
            "apt/dists/stable/InRelease".to_owned(),
            "apt/dists/stable/Release.gpg".to_owned(),
            "apt/dists/stable/main/binary-amd64/Packages".to_owned(),
            "apt/dists/stable/main/binary-all/Packages.xz".to_owned(),
            "apt/dists/stable/main/source/Sources.gz".to_owned(),
        ];
        let nowhere = [
            "metadata/01.root.json",
            "metadata/root.json",
            "metadata/1.timestamp.json",
            "targets/kestrel/2.4.0/kestrel-2.4.0.tar.gz",
            "targets/kestrel/x/f",
            "releases/kestrel/2.4.0/a/b",
            "releases/kestrel/latest/x",
            "bundles/x.json",
            "robots.txt",
            "apt/pool/main/x/kestrel/kestrel_2.4.0-1_amd64.deb",
            "apt/pool/main/k/kestrel/kestrel_2.4.0-1_amd64.udeb",
            "apt/pool/main/l/libkestrel/libkestrel1_2.4.0_all.deb",
            "apt/pool/main/k/kestrel/tar.gz",
            "apt/dists/stable/main/source/Packages",
            "apt/dists/stable/main/binary-amd64/Sources",
            "apt/dists/stable/main/binary-any/Packages",
            "apt/dists/stable/main/binary-source/Packages",
            "apt/dists/stable/main/binary-amd64/Packages.zst",
            "apt/dists/stable/main/binary-amd64/by-hash/MD5Sum/aa",
            "apt/dists/stable/main/InRelease",
            "apt/dists/stable",
        ];
        for (paths, class) in [(write_once.as_slice(), Class::WriteOnce), (&pointers, Class::Pointer)] {
            for path in paths {
                assert_eq!(class_of(&path.parse().unwrap()), Some(class), "{path}");
            }
        }
        for path in nowhere {
            assert_eq!(class_of(&path.parse().unwrap()), None, "{path}");
        }
    }
}
