//! What a mirror's web server gives, and that it agrees with the layout of the
//! repository.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

use release::manifest::Class;
use release::manifest::RepoPath;
use release::repository::layout;

use super::with_mirror;
use crate::support::Lab;
use crate::support::mirror::Mirror;
use crate::support::program;
use crate::support::random::Random;
use crate::support::run;

/// The status and headers of an answer.
fn answer(arguments: &[&str], url: &str) -> String {
    run(program("curl").args(["-s", "-i", "--path-as-is", "--max-time", "20"]).args(arguments).arg(url)).exits(0).out
}

#[test]
fn the_web_server_gives_what_layout_says_and_nothing_else() {
    let (_lab, mirror) = with_mirror();
    let url = |path: &str| format!("{}{path}", mirror.url());
    let file = "/releases/kestrel/1.1/kestrel-1.1";
    for (paths, cache) in [
        (&[file, "/releases/kestrel/1.1/SHA256SUMS"][..], "public, max-age=31536000, immutable"),
        (
            &[
                "/metadata/timestamp.json",
                "/metadata/1.root.json",
                "/metadata/2.kestrel.json",
                "/bundles/kestrel.bundle.json",
                "/index.html",
                "/",
            ][..],
            "no-cache",
        ),
    ] {
        for path in paths {
            let got = answer(&[], &url(path));
            assert!(got.starts_with("HTTP/1.1 200"), "{path}: {got}");
            assert!(got.contains(&format!("Cache-Control: {cache}\r\n")), "{path}: {got}");
            assert!(got.contains("X-Content-Type-Options: nosniff\r\n"), "{path}: {got}");
        }
    }
    assert!(answer(&["-r", "0-3"], &url(file)).ends_with("\r\n\r\nkest"));
    for method in ["PUT", "POST", "DELETE", "MKCOL", "MOVE", "PATCH", "OPTIONS", "TRACE"] {
        let got = answer(&["-X", method, "-d", "x"], &url(file));
        assert!(got.starts_with("HTTP/1.1 405"), "{method}: {got}");
    }
    mirror
        .as_root(
            "cd /srv/mirror/pool-root/pub; ln -s /etc/passwd releases/link; ln -s /etc releases/etc; \
        ln -s releases/kestrel other; mkdir .git; echo secret >.git/config; echo secret >releases/.hidden",
        )
        .exits(0);
    for path in [
        "/releases/",
        "/releases",
        "/releases/kestrel/1.1",
        "/metadata/",
        "/targets/",
        "/incoming/",
        "/nothing",
        "/releases/link",
        "/releases/etc/passwd",
        "/other/1.1/kestrel-1.1",
        "/.git/config",
        "/releases/.hidden",
        "/releases/../../incoming/",
        "/..%2f..%2fetc/passwd",
        "/metadata/timestamp.json.new",
        "/metadata/01.root.json",
    ] {
        let got = answer(&[], &url(path));
        assert!(got.starts_with("HTTP/1.1 404") || got.starts_with("HTTP/1.1 400"), "{path}: {got}");
        assert!(!got.contains("Cache-Control"), "what is not there yet must not be remembered: {path}: {got}");
    }
}

/// Status, caching and content of the answers for these paths, asked for over few
/// connections.
fn answers(lab: &Lab, mirror: &Mirror, paths: &[&str]) -> Vec<(String, String, Vec<u8>)> {
    let folder = lab.path("answers");
    fs::create_dir_all(&folder).unwrap();
    let mut config = "write-out = \"%{http_code} %header{cache-control}\\n\"\n".to_owned();
    for (number, path) in paths.iter().enumerate() {
        let file = folder.join(number.to_string());
        writeln!(config, "url = \"{}/{path}\"\noutput = \"{}\"", mirror.url(), file.display()).unwrap();
    }
    lab.write("curl.config", config);
    let said = run(program("curl").args(["-s", "--path-as-is", "-g", "-K"]).arg(lab.path("curl.config"))).exits(0);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), paths.len());
    let answer = |(number, line): (usize, &&str)| {
        let (status, cache) = line.split_once(' ').unwrap();
        (status.to_owned(), cache.to_owned(), fs::read(folder.join(number.to_string())).unwrap_or_default())
    };
    lines.iter().enumerate().map(answer).collect()
}

/// How readers may keep what is of a class.
fn caching(class: Class) -> &'static str {
    match class {
        Class::WriteOnce => "public, max-age=31536000, immutable",
        Class::Pointer => "no-cache",
    }
}

/// A path of each kind, with names as strange as they may be.
fn paths_of_each_kind(random: &mut Random) -> [String; 8] {
    let lower: Vec<char> = "az09+.-".chars().collect();
    let any: Vec<char> = "aZ09._+~-".chars().collect();
    let hash: String = (0..64).map(|_| *random.one_of(&['0', '9', 'a', 'f'])).collect();
    let mut product = || match random.below(8) {
        0 => (*random.one_of(&["rootx", "root.x", "targets-", "apt.json", "log.bundle.json", "policy.bundle"]))
            .to_owned(),
        _ => format!("{}{}{}", random.one_of(&['a', 'z', '0']), random.one_of(&lower), random.text(&lower, 62)),
    };
    let products = [product(), product(), product(), product()];
    let file = format!("{}{}", random.one_of(&['a', 'Z', '0']), random.text(&any, 150));
    let version = random.version();
    let number = format!("{}{}", random.one_of(&['1', '9']), random.text(&['0', '9'], 18));
    let role = *random.one_of(&["root", "targets", "snapshot", &products[2]]);
    let fingerprint: String = (0..*random.one_of(&[40, 64])).map(|_| *random.one_of(&['0', '9', 'A', 'F'])).collect();
    let folder = match random.below(3) {
        0 => format!("policy/{number}"),
        1 => format!("keys/{number}"),
        _ => format!("{}/{version}", products[0]),
    };
    let short: Vec<char> = "az09-".chars().collect();
    let word = |random: &mut Random| format!("{}{}", random.one_of(&['a', 'z', '0']), random.text(&short, 31));
    let (suite, component) = (word(random), word(random));
    let architecture = match random.below(3) {
        0 => (*random.one_of(&["all", "amd64", "x-anyx", "many", "sourcex", "source-a"])).to_owned(),
        _ => format!("x{}", random.text(&['a', '0', '-'], 31)),
    };
    let of_component = format!("apt/dists/{suite}/{component}");
    let (place, index) = match random.below(3) {
        0 => ("source".to_owned(), "Sources"),
        _ => (format!("binary-{architecture}"), "Packages"),
    };
    let indices = format!("{of_component}/{place}");
    let end = *random.one_of(&["deb", "dsc", "orig.tar.xz", "diff.gz", "tar.zst"]);
    let source = match random.below(4) {
        0 => format!("lib{}", random.text(&lower, 3)),
        _ => format!("{}x{}", random.one_of(&['l', 'a', '0']), random.text(&lower, 62)),
    };
    let is_lib = source.starts_with("lib") && source.chars().nth(3).is_some_and(|c| c.is_ascii_alphanumeric());
    let prefix = &source[..if is_lib { 4 } else { 1 }];
    [
        format!("targets/{folder}/{hash}.{file}"),
        format!("releases/{}/{version}/{file}", products[1]),
        format!("metadata/{number}.{role}.json"),
        format!("bundles/{}.bundle.json", products[3]),
        format!("keys/{fingerprint}.{}", random.one_of(&["asc", "gpg"])),
        match random.below(2) {
            0 => format!("apt/pool/{component}/{prefix}/{source}/{file}.{end}"),
            _ => format!("{indices}/by-hash/SHA256/{hash}"),
        },
        match random.below(2) {
            0 => format!("{indices}/{index}{}", random.one_of(&["", ".gz", ".xz"])),
            _ => format!("apt/dists/{suite}/{}", random.one_of(&["InRelease", "Release", "Release.gpg"])),
        },
        (*random.one_of(&["index.html", "metadata/timestamp.json"])).to_owned(),
    ]
}

/// A path that is almost the same.
fn neighbour(random: &mut Random, path: &str) -> String {
    let mut segments: Vec<&str> = path.split('/').collect();
    match random.below(8) {
        0 => segments.push("more"),
        1 => _ = segments.pop(),
        2 => {
            let reserved = ["root", "targets", "snapshot", "timestamp", "apt", "keys", "log", "policy", "k"];
            let at = random.below(segments.len());
            segments[at] = reserved[random.below(reserved.len())];
        }
        3 => return path.replacen('.', "..", 1),
        4 => return format!("{path}.new"),
        5 => return path.to_ascii_uppercase(),
        _ => {
            let mut bytes = path.as_bytes().to_vec();
            let at = random.below(bytes.len());
            bytes[at] = *random.one_of(b"aAgG019./_+~-");
            return String::from_utf8(bytes).unwrap();
        }
    }
    segments.join("/")
}

#[test]
fn web_server_folders_and_layout_agree_on_every_path() {
    let (lab, mirror) = with_mirror();
    // The folders are those of the layout, each with its account's right to add to it.
    let folders = "cd /srv/mirror; stat -c '%n %U:%G %a' pool-root/pub/* meta-root/pub/*/ | sort";
    let mut expected = Vec::new();
    for (class, root, group) in [(Class::WriteOnce, "pool", "rel-pool"), (Class::Pointer, "meta", "rel-meta")] {
        let slash = if root == "meta" { "/" } else { "" };
        expected.extend(layout::folders(class).map(|it| format!("{root}-root/pub/{it}{slash} root:{group} 1775")));
    }
    expected.sort();
    let seen = mirror.as_root(folders).exits(0).out;
    assert_eq!(seen.lines().collect::<Vec<_>>(), expected);

    // All that was published: from its class's folder, with its class's caching.
    let mut published = Vec::new();
    for record in fs::read_dir(lab.path("home/publications")).unwrap() {
        let record = fs::read(record.unwrap().path()).unwrap();
        let record: release::manifest::Publication = serde_json::from_slice(&record).unwrap();
        published.extend(record.names().map(|(name, entry)| (name.clone(), entry.class)));
    }
    let names: Vec<&str> = published.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.len() > 40, "{names:?}");
    for ((name, class), answer) in published.iter().zip(answers(&lab, &mirror, &names)) {
        assert_eq!(layout::class_of(name), Some(*class), "{name}");
        let content = lab.read(&format!("home/repository/{name}"));
        assert_eq!(answer, ("200".to_owned(), caching(*class).to_owned(), content), "{name}");
    }

    // Generated paths: one that has a class is served from there, and from nowhere
    // else; one that has none is not, even if somebody put files there.
    let mut random = Random::new(1);
    let mut paths = BTreeSet::new();
    let mut kinds = [0; 8];
    for _ in 0..80 {
        for (kind, path) in paths_of_each_kind(&mut random).into_iter().enumerate() {
            let parsed: RepoPath = path.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(layout::class_of(&parsed).is_some(), "{path}");
            for other in [neighbour(&mut random, &path), neighbour(&mut random, &path)] {
                paths.insert(other);
            }
            kinds[kind] += usize::from(paths.insert(path));
        }
    }
    assert!(kinds[..7].iter().all(|count| *count > 60), "{kinds:?}");
    // What is no path at all is asked for in the test above.
    let paths: Vec<(RepoPath, Option<Class>)> = paths
        .iter()
        .filter_map(|path| path.parse().ok())
        .filter(|path: &RepoPath| !names.contains(&path.as_str()))
        .map(|path| (path.clone(), layout::class_of(&path)))
        .collect();
    let (placed, nowhere): (Vec<_>, Vec<_>) = paths.iter().partition(|(_, class)| class.is_some());
    assert!(placed.len() > 320 && nowhere.len() > 320, "{} {}", placed.len(), nowhere.len());
    let mut files = String::new();
    for (path, class) in placed.iter().chain(&nowhere) {
        for root in match class {
            Some(Class::WriteOnce) => &["pool"][..],
            Some(Class::Pointer) => &["meta"],
            // Where a file has that name, a folder can't: then there is nothing.
            None => &["pool", "meta"],
        } {
            writeln!(files, "{root}-root/pub/{path}").unwrap();
        }
    }
    lab.write("files", files);
    let put = format!(
        "cd /srv/mirror; while read -r file; do mkdir -p \"${{file%/*}}\" 2>/dev/null && \
         {{ printf %s \"$file\" >\"$file\"; }} 2>/dev/null || true; done <{}",
        lab.path("files").display()
    );
    mirror.as_root(&put).exits(0);
    let asked: Vec<&str> = paths.iter().map(|(path, _)| path.as_str()).collect();
    for ((path, class), (status, cache, content)) in paths.iter().zip(answers(&lab, &mirror, &asked)) {
        match class {
            None => assert_eq!((status.as_str(), cache.as_str()), ("404", ""), "{path}"),
            Some(class) => {
                let root = if *class == Class::Pointer { "meta" } else { "pool" };
                let content = String::from_utf8(content).unwrap();
                let expected = ("200", caching(*class), format!("{root}-root/pub/{path}"));
                assert_eq!((status.as_str(), cache.as_str(), content), expected, "{path}");
            }
        }
    }
}
