//! `release.toml`, from the source tree.

#![no_main]

use libfuzzer_sys::fuzz_target;
use release::policy::Recipe;

fuzz_target!(|data: &[u8]| {
    let (product, version) = ("kestrel".parse().unwrap(), "2.4.0".parse().unwrap());
    match Recipe::parse(data, &product, &version) {
        Ok(recipe) => {
            let paths = recipe.artifacts.iter().map(|artifact| &artifact.path).chain(recipe.inputs.keys());
            for path in paths {
                assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")), "{path:?}");
                assert!(!path.contains(char::is_control), "{path:?}");
            }
            assert!(recipe.source_archive.is_some() || !recipe.artifacts.is_empty());
        }
        Err(error) => assert!(error.line > 0 && error.column > 0),
    }
});
