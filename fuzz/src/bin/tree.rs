//! The tree of a commit as git lists it, and where its links lead.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Component;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use release::source::archive;

fuzz_target!(|data: &[u8]| {
    // The target of a link, then the listing.
    let (target, listing) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[][..]),
    };
    let commit = "0123456789012345678901234567890123456789".parse().unwrap();
    let Ok(tree) = archive::parse_tree(listing, &commit) else {
        return;
    };
    for path in tree.keys().map(Vec::as_slice).chain([b"a/b/link".as_slice()]) {
        let parsed = Path::new(OsStr::from_bytes(path));
        assert!(parsed.components().all(|part| matches!(part, Component::Normal(_))));
        assert!(!path.iter().any(u8::is_ascii_control));
        if archive::stays_inside(path, target, |other| tree.contains_key(other)) {
            let mut depth = parsed.components().count() - 1;
            for part in Path::new(OsStr::from_bytes(target)).components() {
                match part {
                    Component::Normal(_) => depth += 1,
                    Component::ParentDir => depth = depth.checked_sub(1).expect("it leads out of the tree"),
                    Component::CurDir => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
});
