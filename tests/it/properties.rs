//! What holds for all inputs, tried on many: JSON, names, versions, paths.

use std::cmp::Ordering;
use std::path::Component;
use std::path::Path;

use release::manifest::Class;
use release::manifest::FileName;
use release::manifest::Product;
use release::manifest::RepoPath;
use release::manifest::Sha256;
use release::manifest::Version;
use release::manifest::json;
use release::manifest::names;
use release::repository::layout;
use sigstore_tuf::canonical_json::to_canonical_bytes;

use crate::support::random::Random;

#[test]
fn every_json_value_has_one_compact_form() {
    let mut random = Random::new(1);
    for _ in 0..3000 {
        let value = random.json(5);
        let compact = json::to_vec(&value).unwrap();
        assert_eq!(json::from_slice_strict(&compact).unwrap(), value);
        // In any other spelling it is the same value, and not ours.
        let pretty = serde_json::to_vec_pretty(&value).unwrap();
        assert_eq!(json::from_slice(&pretty).unwrap(), value);
        assert_eq!(json::from_slice_strict(&pretty).is_ok(), pretty == compact);
        assert!(json::from_slice_strict(&[&compact[..], b"\n"].concat()).is_err());
        // What is signed is the same whatever the spelling.
        let canonical = |bytes: &[u8]| to_canonical_bytes(&json::from_slice(bytes).unwrap()).unwrap();
        assert_eq!(canonical(&pretty), canonical(&compact));
        // One byte less is no JSON, or other JSON.
        for end in 0..compact.len() {
            assert!(json::from_slice_strict(&compact[..end]).map_or(true, |other| other != value));
        }
    }
}

#[test]
fn two_values_never_share_a_canonical_form() {
    // Strings go in raw but for `"` and `\`; nothing in one can pass for another.
    let mut random = Random::new(2);
    let mut seen = std::collections::HashMap::new();
    for _ in 0..20_000 {
        let value = random.json(2);
        let other = seen.insert(to_canonical_bytes(&value).unwrap(), value.clone());
        assert!(other.is_none_or(|other| other == value));
    }
}

#[test]
fn names_that_pass_move_no_path_and_show_what_they_are() {
    let mut random = Random::new(3);
    let alphabet = ['a', 'Z', '0', '.', '.', '-', '+', '~', '_', '/', '\\', ' ', '\n', '\0', '\u{e9}', '\u{202e}'];
    let (mut good, mut bad) = (0, 0);
    for _ in 0..100_000 {
        let text = random.text(&alphabet, 5);
        let passes =
            [text.parse::<FileName>().is_ok(), text.parse::<Product>().is_ok(), text.parse::<Version>().is_ok()];
        if passes.contains(&true) {
            good += 1;
            assert_eq!(Path::new(&text).components().collect::<Vec<_>>(), [Component::Normal(text.as_ref())]);
            assert_eq!(names::printable(&text), text);
        } else {
            bad += 1;
        }
        if text.parse::<RepoPath>().is_ok() {
            assert!(Path::new(&text).components().all(|part| matches!(part, Component::Normal(_))));
        }
        for shown in [names::one_line(&text), names::printable(&text)] {
            assert!(!shown.contains(names::is_hidden), "{shown:?}");
        }
    }
    assert!(good > 1000 && bad > 1000, "{good} and {bad}");
}

#[test]
fn versions_have_one_total_order() {
    let mut random = Random::new(4);
    let mut versions: Vec<Version> = (0..300).map(|_| random.version().parse().unwrap()).collect();
    for a in &versions {
        for b in &versions {
            assert_eq!(a.cmp(b), b.cmp(a).reverse());
            assert_eq!(a.cmp(b) == Ordering::Equal, a == b);
        }
    }
    // Sorting finds the same order from wherever it starts, if there is one.
    versions.sort();
    let sorted = versions.clone();
    for _ in 0..20 {
        for index in (1..versions.len()).rev() {
            versions.swap(index, random.below(index + 1));
        }
        versions.sort();
        assert_eq!(versions, sorted);
    }
}

#[test]
fn a_path_has_a_class_only_where_its_names_are_checked() {
    let mut random = Random::new(5);
    let hash = Sha256::of(b"").to_string();
    let hashed = format!("{hash}.file");
    let words = [
        "metadata",
        "targets",
        "releases",
        "bundles",
        "keys",
        "policy",
        "apt",
        "kestrel",
        "1.0",
        "1",
        "01",
        "0",
        "timestamp.json",
        "1.root.json",
        "1.kestrel.json",
        "1.timestamp.json",
        "kestrel.bundle.json",
        "index.html",
        &hashed,
        &hash,
        "file",
    ];
    let mut classes = std::collections::BTreeMap::new();
    for _ in 0..200_000 {
        let segments: Vec<&str> = (0..=random.below(4)).map(|_| *random.one_of(&words)).collect();
        let path: RepoPath = segments.join("/").parse().unwrap();
        let class = layout::class_of(&path);
        *classes.entry(format!("{class:?}")).or_insert(0) += 1;
        // Metadata and bundles are used again, releases and targets never.
        match (segments[0], class) {
            ("targets" | "releases", Some(class)) => {
                assert_eq!(class, Class::WriteOnce, "{path}");
                assert_eq!(segments.len(), 4, "{path}");
            }
            (_, Some(class)) => {
                assert_eq!(class, Class::Pointer, "{path}");
                assert!(segments.len() <= 2, "{path}");
            }
            (_, None) => {}
        }
        // One segment more or less is another place, or none.
        let deeper: RepoPath = format!("{path}/file").parse().unwrap();
        assert!(class.is_none() || layout::class_of(&deeper).is_none(), "{deeper}");
    }
    assert_eq!(classes.len(), 3, "{classes:?}");
}

#[test]
fn what_the_layout_makes_has_the_class_that_it_needs() {
    let mut random = Random::new(6);
    let file_alphabet = ['a', 'Z', '0', '.', '_', '+', '~', '-'];
    for _ in 0..3000 {
        let Ok(version) = random.version().parse::<Version>() else { continue };
        let Ok(file) = format!("f{}", random.text(&file_alphabet, 199)).parse::<FileName>() else { continue };
        let product: Product = format!("p{}", random.one_of(&["1", "-x", "+.."])).parse().unwrap();
        let class = |path: RepoPath| layout::class_of(&path);
        let target = layout::target(&product, &version, Sha256::of(b""), &file).unwrap();
        assert_eq!(class(target), Some(Class::WriteOnce));
        let release = layout::release(&product, &version, file.as_str()).unwrap();
        assert_eq!(class(release), Some(Class::WriteOnce));
        assert_eq!(class(layout::bundle(&product).unwrap()), Some(Class::Pointer));
        let number = 1 + random.below(1000) as u64;
        assert_eq!(class(layout::metadata(number, product.as_str()).unwrap()), Some(Class::Pointer));
    }
}
