//! Names that pass can be joined to a path and printed; versions have one order.

#![no_main]

use std::cmp::Ordering;

use libfuzzer_sys::fuzz_target;
use release::manifest::FileName;
use release::manifest::Holder;
use release::manifest::Line;
use release::manifest::Product;
use release::manifest::RepoPath;
use release::manifest::Version;
use release::manifest::names;
use release::repository::layout;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let shown = names::one_line(text) + &names::printable(text);
    assert!(!shown.chars().any(names::is_hidden));
    if text.parse::<Line>().is_ok() && text.len() < 4000 {
        assert_eq!(names::one_line(text), text);
    }
    for word in text.split(' ') {
        let plain = [
            word.parse::<Product>().is_ok(),
            word.parse::<Version>().is_ok(),
            word.parse::<FileName>().is_ok(),
            word.parse::<Holder>().is_ok(),
        ];
        if plain.contains(&true) {
            assert!(!word.contains(['/', '\\']) && !word.starts_with(['.', '-']) && word.is_ascii());
            assert_eq!(std::path::Path::new(word).components().count(), 1);
        }
        if let Ok(path) = word.parse::<RepoPath>() {
            assert!(
                std::path::Path::new(word).components().all(|part| matches!(part, std::path::Component::Normal(_)))
            );
            let _ = layout::class_of(&path);
        }
    }
    let versions: Vec<Version> = text.split(' ').filter_map(|word| word.parse().ok()).take(3).collect();
    if let [a, b, c] = versions.as_slice() {
        assert_eq!(a.cmp(b), b.cmp(a).reverse());
        assert_eq!(a == b, a.cmp(b) == Ordering::Equal);
        if a <= b && b <= c {
            assert!(a <= c, "{a} <= {b} <= {c}");
        }
    }
});
