//! Where everything is in the repository, and which names are used again.
//!
//! The web server's map, the folders that a mirror needs and the publication
//! all come from one table, `PLACES`.

use crate::manifest::Class;
use crate::manifest::FileName;
use crate::manifest::Product;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::names::NameError;

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

/// Every path has one place.
const PLACES: [Place; 6] = [
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
        ];
        let pointers = [
            "metadata/timestamp.json".to_owned(),
            "metadata/1.root.json".to_owned(),
            "metadata/12.kestrel.json".to_owned(),
            "bundles/kestrel.bundle.json".to_owned(),
            format!("keys/{}.asc", "A".repeat(40)),
            "index.html".to_owned(),
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
