//! Words and wiring: pages of commands with what they print.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Child;
use std::process::Stdio;

use crate::support::Lab;
use crate::support::RELEASE;
use crate::support::program;

#[test]
fn pages() {
    trycmd::TestCases::new()
        .register_bin("release", std::path::Path::new(RELEASE))
        .env("NO_COLOR", "1")
        .case("tests/cli/*.md");
}

#[test]
fn manual_pages_and_completions_are_made_for_every_command() {
    let lab = Lab::new();
    lab.runs(&["util", "man", "man"]).exits(0);
    let made: Vec<String> =
        lab.path("man").read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for name in ["release.1", "release-cut.1", "release-verify.1", "release-trust-add.1"] {
        assert!(made.iter().any(|file| file == name), "{name} in {made:?}");
    }
    let hidden = |file: &String| file.contains("tuf-client") || file.contains("window-helper");
    assert!(!made.iter().any(hidden), "{made:?}");
    // Examples can be pasted: their lines are not filled.
    let page = String::from_utf8(lab.read("man/release-mirror-add.1")).unwrap();
    assert!(page.contains("RELEASE_HOME"), "{page}");
    let page = page.split_once(".SH EXAMPLES\n.nf\n").unwrap().1;
    assert!(page.contains("\n      release mirror add eu1") && page.ends_with("\n.fi\n"), "{page}");
    for shell in ["bash", "zsh", "fish"] {
        lab.runs(&["util", "completions", shell])
            .exits(0)
            .says("verify")
            .does_not_say("tuf-client")
            .does_not_say("window-helper");
    }
}

#[test]
fn data_goes_to_stdout_and_talk_to_stderr_without_colours() {
    let lab = Lab::released();
    let said = lab.verify(&["mirror"]).exits(0);
    assert!(said.out.starts_with("VERIFIED") && said.err.starts_with("warning:"), "{said:?}");
    assert!(!said.out.contains('\u{1b}') && !said.err.contains('\u{1b}'));
    assert!(said.out.lines().all(|line| line.len() <= 80), "{}", said.out);
    let quiet = lab.verify(&["mirror", "--quiet"]).exits(0);
    assert_eq!(quiet.out, said.out);
}

#[test]
fn mistakes_in_configuration_have_a_place_and_a_nearest_word() {
    let lab = Lab::new();
    let policy = String::from_utf8(lab.read("policy/policy.toml")).unwrap();
    let check = |change: &dyn Fn(&str) -> String| {
        lab.write("policy/policy.toml", change(&policy));
        lab.runs(&["policy", "check", "policy/policy.toml"])
    };
    check(&|text| text.replace("[holder]", "[holders]")).exits(1).says("did you mean `holder`?");
    check(&|text| text.replace("\"bob-root\"", "\"bob-rot\""))
        .exits(1)
        .says("there is no key `bob-rot`; did you mean `bob-root`?");
    check(&|text| text.replace("\"bob-release\", ", "\"alice-root\", "))
        .exits(1)
        .says("`alice` holds two keys of this role");
    check(&|text| text.replace("threshold = 2\nrebuilds", "threshold = 4\nrebuilds"))
        .exits(1)
        .says("4 of 3 people can never sign");
    check(&|text| text.replace("rebuilds = 0", "rebuilds = 3")).exits(1).says("at most 2 of them can rebuild");
    check(&|text| text.lines().filter(|line| !line.starts_with("bob-claim")).collect::<Vec<_>>().join("\n"))
        .exits(1)
        .says("`bob` has no claim key")
        .says("the claim key of a holder is the key whose name ends in `-claim`");
    check(&|text| text.replace("\"30d\"", "\"91d\"")).exits(1).says("at most 90 days");
    check(&|text| text.replace("\"30d\"", "\"soon\"")).exits(1).says("is not a period");
    check(&|text| text.replace("keys/online.pem", "../online.pem")).exits(1).says("without `..`");
    check(&|text| {
        text.replace("holder = \"carol\", public = \"keys/carol-root.pem\"", "holder = \"carl\", public = \"x\"")
    })
    .exits(1)
    .says("did you mean `carol`?");
    check(&|text| text.replace("tag = \"v{version}\"", "tag = \"v\"")).exits(1).says("with `{version}` in it once");
    check(&|text| format!("{text}\n[nonsense]\n")).exits(1).says("unknown field `nonsense`");
    let said = check(&|text| text.replace("version = 1", "version = 2")).exits(1);
    assert!(said.err.contains("policy/policy.toml:4:11: written for a newer release"), "{}", said.err);
    lab.runs(&["policy", "check"])
        .exits(0)
        .says("2 of 3 people")
        .says("demonstration only: `insecure-software-keys` is set");
    lab.runs(&["policy", "check", "none.toml"]).exits(1).says("there is no file none.toml").says("policy check FILE");
    lab.runs(&["trust", "add", "none.json"]).exits(1).says("there is no file none.json").says("metadata/1.root.json");
    lab.runs(&["abandon", "9.9", "--yes=9.9"]).exits(1).says("there is no cut of kestrel 9.9").says("release status");
    let init = ["init", "--home", "new", "--policy", "none.toml", "--software-keys"];
    lab.runs(&init).exits(1).says("there is no policy file none.toml").says("--policy");
    lab.runs(&["status", "--home", "nowhere"]).exits(1).says("is not a home").says("release init");
}

#[test]
fn its_memory_is_nobody_elses() {
    // Where a user that is not root can run it. It waits for an answer that does not
    // come.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (copy, root) = (folder.path().join("release"), folder.path().join("root.json"));
    fs::copy(RELEASE, &copy).unwrap();
    fs::write(&root, Lab::new().read("trust/root.json")).unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    let started = |program_to_run: &Path, arguments: &[&str]| {
        let mut command = program("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program_to_run).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let owner = |child: &Child| fs::metadata(format!("/proc/{}/mem", child.id())).unwrap().uid();
    let mut other = started(Path::new("sh"), &["-c", "echo; exec sleep 600"]);
    other.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let mut release = started(&copy, &["verify", "--root", root.to_str().unwrap(), &url]);
    let asked = server.accept().unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", release.id())).unwrap();
    let core: Vec<&str> =
        limits.lines().find(|line| line.starts_with("Max core")).unwrap().split_whitespace().collect();
    let owners = (owner(&other), owner(&release));
    for child in [&mut other, &mut release] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    drop(asked);
    assert_eq!(core[4..6], ["0", "0"], "{limits}");
    // The kernel gives what belongs to a process that leaves no core dump to root.
    assert_eq!(owners, (65534, 0));
}
