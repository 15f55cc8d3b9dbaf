//! Projects that have nothing to do with this one go through a release; two
//! homes release the same bytes.

use std::fs;

use crate::support::Lab;
use crate::support::is_long;
use crate::support::outside::Project;
use crate::support::program;
use crate::support::project;
use crate::support::run;

/// Puts a project that `scripts/outside-projects` has fetched into the
/// laboratory, with the recipe of this test.
fn copy_project(lab: &Lab, name: &str) {
    let folder = project(&format!("target/outside/{name}"));
    assert!(folder.is_dir(), "run scripts/outside-projects first, as scripts/test does");
    run(program("cp").arg("-a").arg(folder.join(".")).arg(lab.path("work"))).exits(0);
    lab.write("work/release.toml", fs::read(project(&format!("tests/outside/{name}.toml"))).unwrap());
}

#[test]
fn a_debian_source_package_is_released() {
    let hello = Project::new("hello", "2.10-3", |lab| copy_project(lab, "hello"));
    // Its four builds take minutes; one home, with two of them, shows most.
    if is_long() {
        hello.release_twice();
    } else {
        hello.release("first");
    }
    let deb = hello.lab.path(&format!("{}/hello_2.10-3_amd64.deb", hello.released("first")));
    let fields = run(program("dpkg-deb").arg("--field").arg(&deb)).exits(0);
    fields.says("Package: hello").says("Version: 2.10-3").says("Depends: libc6 (>= ");
    run(program("dpkg-deb").arg("--extract").arg(&deb).arg(hello.lab.path("installed"))).exits(0);
    run(&mut program(hello.lab.path("installed/usr/bin/hello").to_str().unwrap())).exits(0).says("Hello, world!");
}

#[test]
fn a_rust_program_with_dependencies_is_released() {
    let titlecase = Project::new("titlecase", "2.2.1", |lab| copy_project(lab, "titlecase"));
    let crates = fs::read_dir(titlecase.lab.path("work/vendor")).unwrap().count();
    assert!((1..=15).contains(&crates), "{crates} crates");
    titlecase.release_twice();
    let binary = titlecase.lab.path("titlecase");
    fs::copy(titlecase.lab.path(&format!("{}/titlecase-2.2.1-x86_64-linux", titlecase.released("first"))), &binary)
        .unwrap();
    run(program("chmod").arg("755").arg(&binary)).exits(0);
    let capitalise = "echo 'an outside project' | \"$0\"";
    run(program("sh").args(["-c", capitalise]).arg(binary)).exits(0).says("An Outside Project");
}
