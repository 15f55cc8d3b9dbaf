//! Times one source archive: `cargo bench --bench archive -- REPOSITORY TAG KEYS OUT`.
//!
//! Prints the processor seconds that the archive alone took, git included, and
//! writes `OUT.tar` and `OUT.tar.gz`. `scripts/bench` compares them with what
//! `git archive` and `gzip` take.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use release::policy::Location;
use release::progress::Silent;
use release::source;
use release::source::Maintainers;

/// User and system seconds of this process and of the children it waited for.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    // Fields 14 to 17 of proc(5), counted from the third, in 1/100 s.
    fields[11..15].iter().map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [repository, tag, keys, out] = arguments.as_slice() else {
        println!("usage: archive REPOSITORY TAG KEYS OUT");
        return;
    };
    let maintainers = Maintainers::load([Path::new(keys)], None).unwrap();
    let request = source::Request {
        source: &Location::Local(repository.clone()),
        bundle: None,
        hosts: &[],
        base: Path::new("/"),
        bounds: source::Bounds::default(),
        tag,
        branch: "*",
        maintainers: &maintainers,
        threshold: 1,
        pinned: None,
    };
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("source.git");
    let fetched = source::fetch(&request, &folder, jiff::Timestamp::now(), &Silent).unwrap();
    let before = processor_seconds();
    let name = "bench.tar.gz".parse().unwrap();
    let (tar, gz) = (format!("{out}.tar"), format!("{out}.tar.gz"));
    let (archive, files) = fetched.archive("bench", Path::new(&tar), Some((&name, Path::new(&gz)))).unwrap();
    let seconds = processor_seconds() - before;
    let gz = archive.gz.unwrap();
    println!("{seconds:.2} {} {files} {}", gz.length, gz.sha256);
}
