//! The architecture, held by tests: who imports whom, who prints, who starts
//! programs, and how long files get.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::support::program;
use crate::support::project;
use crate::support::run;

fn sources() -> Vec<(PathBuf, String)> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    collect(&project("src"), &mut paths);
    paths.sort();
    let base = project("src");
    paths
        .into_iter()
        .map(|path| (path.strip_prefix(&base).unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect()
}

/// The module of a file below `src`.
fn module(path: &Path) -> String {
    let first = path.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The part of a file before its tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}

#[test]
fn stages_do_not_import_each_other_and_shared_parts_point_one_way() {
    let stages = ["source", "build", "repository", "sign", "publish", "verify"];
    // Each imports only what stands to its right.
    let shared = [
        "approve",
        "window",
        "home",
        "policy",
        "tuf",
        "openpgp",
        "manifest",
        "key",
        "transport",
        "process",
        "parallel",
        "progress",
        "ssh",
    ];
    // Values without behaviour, which everything may name.
    let exceptions = [
        // A key's name, a holder's, a digest: what progress and keys speak of.
        ("key", "manifest"),
        ("transport", "manifest"),
        ("process", "manifest"),
        ("progress", "manifest"),
    ];
    let of_verify = ["tuf", "manifest", "progress", "parallel"];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let importer = module(&path);
        for imported in without_tests(&text).split("crate::").skip(1) {
            let imported: String = imported.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if imported == importer || exceptions.contains(&(importer.as_str(), imported.as_str())) {
                continue;
            }
            let rank = |name: &str| shared.iter().position(|other| *other == name);
            let allowed = match importer.as_str() {
                "verify" => of_verify.contains(&imported.as_str()),
                stage if stages.contains(&stage) => rank(&imported).is_some(),
                part => match (rank(part), rank(&imported)) {
                    (Some(from), Some(to)) => from < to,
                    (Some(_), None) => false,
                    _ => true,
                },
            };
            if !allowed {
                wrong.push(format!("{} imports {imported}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_the_user_interface_prints_and_only_process_starts_programs() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let text = without_tests(&text);
        let prints =
            ["println!", "print!(", "eprintln!", "eprint!", "io::stdout", "io::stderr", "io::stdin", "rpassword::"];
        if !path.starts_with("cli/ui") && prints.iter().any(|word| text.contains(word)) {
            wrong.push(format!("{} prints", path.display()));
        }
        if path != Path::new("process.rs") && text.contains("Command::new") {
            wrong.push(format!("{} starts programs", path.display()));
        }
        if !path.starts_with("publish") && (text.contains("async fn") || text.contains(".await")) {
            wrong.push(format!("{} is asynchronous", path.display()));
        }
        for word in [".unwrap()", ".expect(\"", "unreachable!", "todo!", "SystemTime::now"] {
            if text.contains(word) {
                wrong.push(format!("{} has {word}", path.display()));
            }
        }
        if text.contains("Timestamp::now()") && !path.starts_with("cli") {
            wrong.push(format!("{} reads the clock", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_stay_short_enough_to_be_read() {
    for (path, text) in sources() {
        let long = text.starts_with("// Long because ");
        assert!(text.lines().count() <= 600 || long, "{} has {} lines", path.display(), text.lines().count());
    }
}

#[test]
fn the_verifier_has_no_c_and_no_terminal_in_it() {
    let mut command = program("cargo");
    command.args(["tree", "--offline", "--locked", "-e", "normal,build", "--prefix", "none", "--format", "{p}"]);
    command.args(["--no-default-features", "--features", "verify"]).current_dir(project(""));
    command.env("HOME", std::env::var_os("HOME").unwrap_or_default());
    for name in ["CARGO_HOME", "RUSTUP_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let tree = run(&mut command).exits(0).out;
    let crates: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains(&"sigstore-tuf"));
    for name in [
        "cc",
        "cmake",
        "bindgen",
        "ring",
        "aws-lc-sys",
        "openssl-sys",
        "nettle-sys",
        "tokio",
        "sequoia-openpgp",
        "reqwest",
    ] {
        assert!(!crates.contains(&name), "the verifier depends on {name}");
    }
}
