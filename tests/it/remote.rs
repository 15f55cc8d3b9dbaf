//! Source over ssh and over https: what a cut fetches, and what it refuses of
//! hostile servers and surroundings.

use std::fmt::Write;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use jiff::Timestamp;
use release::policy::Location;
use release::policy::Terminal;
use release::progress::Silent;
use release::source;
use release::source::Bounds;
use release::source::Maintainers;
use release::source::SourceError;

use crate::support::Lab;
use crate::support::RELEASE;
use crate::support::Said;
use crate::support::program;
use crate::support::run;
use crate::support::server::GIT_HOST;
use crate::support::server::GitHttps;
use crate::support::server::Sshd;
use crate::support::server::free_port;

const FAILED: i32 = 1;
const REJECTED: i32 = 3;

/// How the laboratory's sshd serves its repository.
const UPLOAD_PACK: &str = "exec git upload-pack \"$(dirname \"$0\")/source.git\"\n";

/// A laboratory whose policy fetches from this URL, and whose terminal.toml ends
/// in these lines.
pub fn fetching(lab: Lab, url: &str, lines: &str) -> Lab {
    let policy = String::from_utf8(lab.read("policy/policy.toml")).unwrap();
    lab.write("policy/policy.toml", policy.replace("../source.git", url));
    fs::remove_dir_all(lab.path("home")).unwrap();
    let _ = fs::remove_dir_all(lab.path("mirror"));
    lab.with_keys(&["init", "--policy", "policy/policy.toml", "--software-keys", "--mirror", "here=mirror"]).exits(0);
    fs::copy(lab.path("home/repository/metadata/1.root.json"), lab.path("trust/root.json")).unwrap();
    lab.copy("home/terminal.toml", "terminal.toml");
    reach(&lab, lines);
    lab
}

/// Lets terminal.toml end in these lines.
fn reach(lab: &Lab, lines: &str) {
    let terminal = String::from_utf8(lab.read("terminal.toml")).unwrap();
    lab.write("home/terminal.toml", format!("{terminal}\n{lines}\n"));
}

pub fn dry_run(lab: &Lab) -> Said {
    lab.runs(&["cut", "kestrel", "1.0", "--dry-run"])
}

/// What `terminal.toml` says of the laboratory's sshd.
fn by_ssh(host_key: &str, key: &str) -> String {
    format!(
        "[[source]]\nhost = \"{GIT_HOST}\"\naddress = [\"127.0.0.1\"]\nhost-key = \"{host_key}\"\nkey = \"file:../{key}\""
    )
}

/// What `terminal.toml` says of the laboratory's nginx.
fn by_https(ca: &str) -> String {
    format!("[[source]]\nhost = \"{GIT_HOST}\"\naddress = [\"127.0.0.1\"]\nca = \"../{ca}\"")
}

/// A laboratory with a tag, that fetches over ssh, its server and the right lines.
fn ssh_lab() -> (Lab, Sshd, String) {
    let lab = Lab::new();
    lab.tag("1.0");
    let host_key = Sshd::key(&lab, "host");
    Sshd::key(&lab, "deploy");
    Sshd::key(&lab, "nobody");
    lab.write("served.sh", UPLOAD_PACK);
    let port = free_port();
    let sshd = Sshd::serve(&lab, port, "host");
    let url = format!("ssh://{}@{GIT_HOST}:{port}/source.git", Sshd::user());
    let lines = by_ssh(&host_key, "deploy");
    (fetching(lab, &url, &lines), sshd, lines)
}

/// The same over https. The path says what nginx does.
fn https_lab(path: &str) -> (Lab, GitHttps, u16) {
    let lab = Lab::new();
    lab.tag("1.0");
    GitHttps::certificates(&lab);
    let port = free_port();
    let server = GitHttps::serve(&lab, port, "server");
    let url = format!("https://{GIT_HOST}:{port}/{path}");
    (fetching(lab, &url, &by_https("ca.pem")), server, port)
}

/// Fetches with bounds of a test, in the laboratory, by what its home says.
fn fetch(lab: &Lab, url: &str, bounds: Bounds) -> Result<(), SourceError> {
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    let terminal = Terminal::parse(Path::new("terminal.toml"), terminal).unwrap();
    let signers = lab.path("policy/keys/maintainers.allowed_signers");
    let maintainers = Maintainers::load([signers.as_path()], None).unwrap();
    let request = source::Request {
        source: &Location::try_from(url.to_owned()).unwrap(),
        bundle: None,
        hosts: &terminal.sources,
        base: &lab.path("home"),
        bounds,
        tag: "v1.0",
        branch: "release/*",
        maintainers: &maintainers,
        threshold: 1,
        pinned: None,
    };
    source::fetch(&request, &lab.path("fetched.git"), Timestamp::now(), &Silent).map(drop)
}

fn url_of(lab: &Lab) -> String {
    let policy = String::from_utf8(lab.read("policy/policy.toml")).unwrap();
    let line = policy.lines().find(|line| line.starts_with("source = ")).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

pub fn provenance(lab: &Lab) -> String {
    String::from_utf8(lab.read(&Lab::mirrored("1.0", "provenance.intoto.json"))).unwrap()
}

#[test]
fn a_release_is_cut_from_an_ssh_server() {
    let (lab, sshd, lines) = ssh_lab();
    let refused = |lines: &str, why: &str| {
        reach(&lab, lines);
        let said = dry_run(&lab).exits(FAILED).says(why).says("nothing was built or signed");
        let said = said.says("release cut kestrel 1.0 --dry-run");
        lab.assert_nothing_published();
        said
    };
    let connections = || sshd.log().matches("Connection").count() + sshd.log().matches("Accepted").count();
    let before = connections();
    let nothing = "no connection was made";
    refused("", &format!("terminal.toml has no `host-key` for the host {GIT_HOST}"))
        .says(nothing)
        .says(&format!("host     = \"{GIT_HOST}\""));
    let without = lines.lines().filter(|line| !line.starts_with("host-key")).collect::<Vec<_>>().join("\n");
    refused(&without, "has no `host-key`").says(nothing).says("over another channel");
    let without = lines.lines().filter(|line| !line.starts_with("key")).collect::<Vec<_>>().join("\n");
    refused(&without, "has no `key`").says(nothing);
    assert_eq!(connections(), before, "a host that is not known was talked to");

    // Somebody else answers at the address.
    let other = fs::read_to_string(lab.path("nobody.pub")).unwrap();
    let said = refused(&by_ssh(other.trim(), "deploy"), "the host showed another key than `host-key`");
    said.says("127.0.0.1").does_not_say("@@@");
    assert!(!sshd.log().contains("Accepted"), "{}", sshd.log());
    let host_key = fs::read_to_string(lab.path("host.pub")).unwrap();
    refused(&by_ssh(host_key.trim(), "nobody"), "Permission denied (publickey)").does_not_say("give the user who runs");
    refused(&by_ssh(host_key.trim(), "missing"), "cannot use");
    // Nobody answers; without an address, the name leads nowhere.
    refused(&lines.replace("127.0.0.1", "127.0.0.2"), "Connection refused").says("127.0.0.2");
    let unpinned = lines.lines().filter(|line| !line.starts_with("address")).collect::<Vec<_>>().join("\n");
    refused(&unpinned, "Could not resolve hostname").says(GIT_HOST);

    // The first address that answers is taken.
    reach(&lab, &lines.replace("[\"127.0.0.1\"]", "[\"127.0.0.2\", \"127.0.0.1\"]"));
    dry_run(&lab).exits(0);
    reach(&lab, &lines);
    lab.cut("1.0").exits(0).says("tag signed by mia@kestrel.example");
    lab.verify(&["mirror"]).exits(0).says("VERIFIED");
    let public = url_of(&lab).replace(&format!("{}@", Sshd::user()), "");
    assert!(provenance(&lab).contains(&format!("\"git+{public}\"")), "{}", provenance(&lab));
    assert!(!provenance(&lab).contains(&format!("{}@{GIT_HOST}", Sshd::user())));
}

#[test]
fn a_key_that_ssh_would_not_use_is_found_out_before_anybody_is_connected_to() {
    let (lab, sshd, lines) = ssh_lab();
    let deploy = lab.path("deploy");
    let shell = |command: &str| drop(run(program("sh").args(["-ec", command]).current_dir(lab.path(""))).exits(0));
    let connections = || sshd.log().matches("Connection").count();
    let before = connections();
    let refused = |why: &str, command: &str| {
        let said =
            dry_run(&lab).exits(FAILED).says(why).says(&format!("{command} {}", lab.path("home/../deploy").display()));
        said.says("no connection was made").says("release cut kestrel 1.0 --dry-run").does_not_say("@@@");
        lab.assert_nothing_published();
        assert_eq!(connections(), before, "{}", sshd.log());
    };
    shell("chmod 644 deploy");
    refused("deploy has mode 0644", "chmod 600");
    shell("chmod 600 deploy; ssh-keygen -q -p -P '' -N 'a passphrase' -f deploy");
    refused("deploy has a passphrase", "ssh-keygen -p -N '' -f");
    let key = fs::read(&deploy).unwrap();
    lab.write("deploy", "no key\n");
    refused("deploy is no private key", "ssh-keygen -t ed25519 -N '' -f");
    lab.write("deploy", key);
    shell("ssh-keygen -q -p -P 'a passphrase' -N '' -f deploy");
    // A line as the host's file has it, with its comment.
    let host_key = fs::read_to_string(lab.path("host.pub")).unwrap();
    reach(&lab, &lines.replace(host_key.trim(), &format!("{} root@git", host_key.trim())));
    lab.cut("1.0").exits(0);
}

#[test]
fn a_host_cannot_blame_this_machine() {
    let (lab, _sshd, _) = ssh_lab();
    for words in [
        "fatal: detected dubious ownership in repository",
        "fatal: write error: No space left on device",
        "fatal: Out of diskspace",
        "bwrap: Can't mkdir",
        "timeout: failed",
        "Host key verification failed.",
        "Permission denied",
        "Read-only file system",
    ] {
        for code in [1, 124, 137, 255] {
            lab.write("served.sh", format!("echo \"{words}\" >&2; exit {code}\n"));
            let said = dry_run(&lab).exits(FAILED).says("cannot fetch from").says("git or the host said: ").says(words);
            let said = said.does_not_say("another user").does_not_say("free some").does_not_say("not finish");
            let said = said.does_not_say("give the user").does_not_say("mounted so").does_not_say("another key");
            said.says("nothing was built or signed").says("release cut kestrel 1.0 --dry-run");
        }
        lab.assert_nothing_published();
    }
    lab.write("served.sh", UPLOAD_PACK);
    lab.cut("1.0").exits(0);
}

#[test]
fn a_tag_that_moves_between_two_fetches_stops_the_cut() {
    let (lab, _sshd, _) = ssh_lab();
    lab.begin("1.0");
    let original = run(lab.git("work").args(["rev-parse", "v1.0"])).exits(0).out;
    lab.write("work/notes", "later\n");
    lab.commit("later");
    run(lab.git("work").args(["tag", "-d", "v1.0"])).exits(0);
    lab.tag("1.0");
    lab.cut("1.0").exits(REJECTED).says("the source now serves commit").says("somebody has moved it");
    lab.assert_nothing_published();
    run(lab.git("work").args(["update-ref", "refs/tags/v1.0", original.trim()])).exits(0);
    lab.push("refs/tags/v1.0");
    lab.cut("1.0").exits(0);
}

#[test]
fn a_release_is_cut_from_an_https_server() {
    let (lab, server, port) = https_lab("source.git");
    let refused = |lines: &str, why: &str| {
        reach(&lab, lines);
        let said =
            dry_run(&lab).exits(FAILED).says(why).says("nothing was built or signed").says("release cut kestrel 1.0");
        lab.assert_nothing_published();
        said
    };
    // The system's authorities do not know the server's.
    let good = by_https("ca.pem");
    let system = good.lines().filter(|line| !line.starts_with("ca")).collect::<Vec<_>>().join("\n");
    refused(&system, "certificate").says("`ca`");
    refused(&by_https("other-ca.pem"), "certificate").says("127.0.0.1").says(GIT_HOST);
    refused(&by_https("missing.pem"), "cannot use");
    refused("", "Could not resolve host").says(GIT_HOST);
    refused(&good.replace("127.0.0.1", "127.0.0.2"), "127.0.0.2");
    drop(server);
    for certificate in ["wrong", "alone"] {
        let _server = GitHttps::serve(&lab, port, certificate);
        refused(&good, "cert");
    }
    let _server = GitHttps::serve(&lab, port, "server");
    reach(&lab, &good);
    lab.cut("1.0").exits(0).says("tag signed by mia@kestrel.example");
    lab.verify(&["mirror"]).exits(0).says("VERIFIED");
    assert!(provenance(&lab).contains(&format!("\"git+https://{GIT_HOST}:{port}/source.git\"")));
}

#[test]
fn a_redirect_is_not_followed() {
    let (lab, _server, _) = https_lab("moved.git");
    dry_run(&lab).exits(FAILED).says("The requested URL returned error: 301").says("nothing was built or signed");
}

#[test]
fn servers_that_never_end_or_never_answer_count_as_down() {
    let patient = Bounds { answer: Duration::from_secs(60), ..Bounds::default() };
    let hasty = Bounds { answer: Duration::from_secs(2), ..patient };
    let kind = |result: Result<(), SourceError>| match result {
        Err(SourceError::Unsound { complaint, .. } | SourceError::Unreachable { complaint, .. }) => complaint,
        other => panic!("{other:?}"),
    };
    // A list of tags without end: pkt-lines of protocol 2.
    let (lab, _sshd, _) = ssh_lab();
    let id = "0123456789012345678901234567890123456789";
    let endless = format!("exec yes '003c{id} refs/tags/v1.0'\n");
    let url = url_of(&lab);
    lab.write("served.sh", format!("printf '000eversion 2\\n000cls-refs\\n0000'; {endless}"));
    let said = kind(fetch(&lab, &url, patient));
    assert!(said.contains("larger than a source may be"), "{said}");
    // More of a pack than may come.
    lab.write("served.sh", UPLOAD_PACK);
    let small = Bounds { pack: 1000, ..patient };
    let random: Vec<u8> = (0..20_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    lab.write("work/large", random);
    lab.commit("large");
    run(lab.git("work").args(["tag", "-d", "v1.0"])).exits(0);
    lab.tag("1.0");
    let said = kind(fetch(&lab, &url, small));
    assert!(said.contains("1000 bytes in one pack"), "{said}");
    fetch(&lab, &url, patient).unwrap();
    // Silence after the login; nothing that waits is left behind.
    let mark = lab.path("silent.pid");
    lab.write("served.sh", format!("echo $$ > {}; exec sleep 1000", mark.display()));
    let begun = Instant::now();
    assert!(kind(fetch(&lab, &url, hasty)).contains("did not finish within 2 seconds"));
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(mark.exists(), "the server was reached");
    let left = run(program("pgrep").arg("-f").arg(lab.path("fetched.git")));
    assert_eq!(left.out, "", "processes are left");

    // The same over https: silence before and behind TLS, and a list without end.
    let (lab, _server, _) = https_lab("cgi/source.git");
    let url = url_of(&lab);
    lab.write(
        "cgi.sh",
        format!(
            "#!/bin/sh\nprintf 'Content-Type: application/x-git-upload-pack-advertisement\\r\\n\\r\\n'\n\
         printf '001e# service=git-upload-pack\\n0000'\n{endless}"
        ),
    );
    run(program("chmod").arg("755").arg(lab.path("cgi.sh"))).exits(0);
    let said = kind(fetch(&lab, &url, patient));
    assert!(said.contains("larger than a source may be") || said.contains("did not finish"), "{said}");
    lab.write("cgi.sh", "#!/bin/sh\nexec sleep 1000\n");
    kind(fetch(&lab, &url, hasty));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    assert!(
        kind(fetch(&lab, &format!("https://{GIT_HOST}:{port}/k.git"), hasty))
            .contains("did not finish within 2 seconds")
    );
}

/// A home folder and an environment in which everything that git, ssh and curl
/// could look at runs a program or leads elsewhere.
fn traps(lab: &Lab) -> (PathBuf, Vec<(&'static str, String)>) {
    let trap = lab.path("trap");
    let canary = lab.path("canary");
    fs::create_dir_all(trap.join(".ssh")).unwrap();
    let touch = format!("touch {}", canary.display());
    let config = format!(
        "[core]\n\tsshCommand = {touch};\n\tfsmonitor = {touch};\n\tgitProxy = {touch}\n\taskPass = {touch}\n\
         [credential]\n\thelper = !{touch};\n[url \"https://127.0.0.1:1/\"]\n\tinsteadOf = https://{GIT_HOST}\n\
         [url \"ext::{touch} \"]\n\tinsteadOf = ssh://\n[protocol]\n\tallow = always\n\
         [http]\n\tproxy = http://127.0.0.1:1\n\tsslVerify = false\n\tcookieFile = {0}/cookies\n\
         [uploadpack]\n\tpackObjectsHook = {touch};\n[init]\n\ttemplateDir = {0}/template\n",
        trap.display()
    );
    fs::write(trap.join(".gitconfig"), &config).unwrap();
    let ssh = format!("Host *\n    ProxyCommand {touch}\n    PermitLocalCommand yes\n    LocalCommand {touch}\n");
    fs::write(trap.join(".ssh/config"), ssh).unwrap();
    fs::write(trap.join(".netrc"), "default login mia password secret\n").unwrap();
    let path = |name: &str| trap.join(name).display().to_string();
    for name in ["ssh", "git", "askpass", "git-remote-https"] {
        fs::create_dir_all(trap.join("bin")).unwrap();
        fs::write(trap.join("bin").join(name), format!("#!/bin/sh\n{touch}\n")).unwrap();
    }
    run(program("chmod").args(["-R", "755"]).arg(&trap)).exits(0);
    let variables = vec![
        ("HOME", trap.display().to_string()),
        ("XDG_CONFIG_HOME", path(".config")),
        ("SSH_AUTH_SOCK", path("agent.sock")),
        ("SSH_ASKPASS", path("bin/askpass")),
        ("SSH_ASKPASS_REQUIRE", "force".to_owned()),
        ("DISPLAY", ":0".to_owned()),
        ("GIT_SSH", path("bin/ssh")),
        ("GIT_SSH_COMMAND", path("bin/ssh")),
        ("GIT_ASKPASS", path("bin/askpass")),
        ("GIT_PROXY_COMMAND", path("bin/ssh")),
        ("GIT_EXTERNAL_DIFF", path("bin/ssh")),
        ("GIT_EXEC_PATH", path("bin")),
        ("GIT_TEMPLATE_DIR", path("template")),
        ("GIT_CONFIG_GLOBAL", path(".gitconfig")),
        ("GIT_CONFIG_SYSTEM", path(".gitconfig")),
        ("GIT_CONFIG_COUNT", "1".to_owned()),
        ("GIT_CONFIG_KEY_0", "core.sshCommand".to_owned()),
        ("GIT_CONFIG_VALUE_0", touch.clone()),
        ("GIT_ALLOW_PROTOCOL", "ext:http:git".to_owned()),
        ("GIT_DIR", path("nowhere")),
        ("GIT_OBJECT_DIRECTORY", path("nowhere")),
        ("GIT_SSL_NO_VERIFY", "1".to_owned()),
        ("GIT_SSL_CAINFO", lab.path("other-ca.pem").display().to_string()),
        ("GIT_TRACE", path("trace")),
        ("GIT_TRACE_CURL", path("trace")),
        ("https_proxy", "http://127.0.0.1:1".to_owned()),
        ("HTTPS_PROXY", "http://127.0.0.1:1".to_owned()),
        ("ALL_PROXY", "socks5://127.0.0.1:1".to_owned()),
        ("PAGER", touch),
    ];
    (canary, variables)
}

/// Fetches among traps: in the environment, and in the home folder that the user
/// database names.
fn among_traps(lab: &Lab) {
    let (canary, variables) = traps(lab);
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    run(lab.release().args(["cut", "kestrel", "1.0", "--dry-run"]).envs(variables.iter().copied())).exits(0);
    // The program may lie in that home folder.
    fs::copy(RELEASE, lab.path("release")).unwrap();
    let home = run(program("sh").args(["-c", "getent passwd \"$(id -u)\" | cut -d: -f6"])).exits(0).out;
    let inner = lab.release();
    let mut command = program("bwrap");
    command.args(["--dev-bind", "/", "/", "--cap-add", "ALL", "--bind"]).arg(lab.path("trap")).arg(home.trim());
    command.arg("--ro-bind").arg(lab.path("trap/.ssh/config")).arg("/etc/ssh/ssh_config");
    command.arg("--").arg(lab.path("release")).args(["cut", "kestrel", "1.0", "--dry-run"]);
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    run(command.current_dir(lab.path(""))).exits(0);
    assert!(!canary.exists(), "a trap was sprung");
    assert!(!lab.path("trap/trace").exists() && !lab.path("trap/cookies").exists());
}

#[test]
fn nothing_of_the_users_git_and_ssh_takes_part_over_ssh() {
    let (lab, _sshd, _) = ssh_lab();
    among_traps(&lab);
    lab.cut("1.0").exits(0);
}

#[test]
fn nothing_of_the_users_git_and_curl_takes_part_over_https() {
    let (lab, _server, _) = https_lab("source.git");
    among_traps(&lab);
    lab.cut("1.0").exits(0);
}

#[test]
fn the_systems_authorities_do_not_count_where_terminal_toml_names_one() {
    let (lab, _server, _) = https_lab("source.git");
    // A system that trusts the server's authority, in both ways that curl reads.
    fs::create_dir(lab.path("certs")).unwrap();
    let hash = run(program("openssl").args(["x509", "-noout", "-hash", "-in"]).arg(lab.path("ca.pem"))).exits(0).out;
    for name in [format!("{}.0", hash.trim()), "ca-certificates.crt".to_owned()] {
        lab.copy("ca.pem", &format!("certs/{name}"));
    }
    let dry_run = || {
        let inner = lab.release();
        let mut command = program("bwrap");
        command.args(["--dev-bind", "/", "/", "--cap-add", "ALL", "--ro-bind"]).arg(lab.path("certs"));
        command.args(["/etc/ssl/certs", "--", RELEASE, "cut", "kestrel", "1.0", "--dry-run"]);
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        run(command.current_dir(lab.path("")))
    };
    let good = by_https("ca.pem");
    reach(&lab, &good.lines().filter(|line| !line.starts_with("ca")).collect::<Vec<_>>().join("\n"));
    dry_run().exits(0);
    reach(&lab, &by_https("other-ca.pem"));
    dry_run().exits(FAILED).says("certificate");
    reach(&lab, &good);
    dry_run().exits(0);
}

#[test]
fn a_host_with_too_many_branches_is_refused() {
    let (lab, _sshd, _) = ssh_lab();
    let head = run(lab.git("work").args(["rev-parse", "HEAD"])).exits(0).out;
    let mut packed = "# pack-refs with: peeled fully-peeled sorted \n".to_owned();
    for number in 0..10_001 {
        writeln!(packed, "{} refs/heads/release/x{number:05}", head.trim()).unwrap();
    }
    lab.write("source.git/packed-refs", packed);
    lab.cut("1.0").exits(REJECTED).says("more than 10000 branches").says("nothing was built or signed");
    lab.assert_nothing_published();
    fs::remove_file(lab.path("source.git/packed-refs")).unwrap();
    lab.cut("1.0").exits(0);
}

/// Puts a commit with this tree, and its signed tag, into the source repository.
fn tag_tree(lab: &Lab, version: &str, tree: &str) {
    let parent = run(lab.git("work").args(["rev-parse", "HEAD"])).exits(0).out;
    let commit = run(lab.git("work").args(["commit-tree", "-m", "odd", "-p", parent.trim(), tree.trim()])).exits(0).out;
    let key = format!("user.signingkey={}", lab.path("mia.pub").display());
    let name = format!("v{version}");
    run(lab.git("work").args(["-c", &key, "tag", "-s", "-m", &name, &name, commit.trim()])).exits(0);
    lab.push(&format!("refs/tags/{name}"));
    lab.push(&format!("{}:refs/heads/release/1", commit.trim()));
}

/// An entry of a tree: mode, name, id.
type Entry<'a> = (&'a str, &'a str, &'a str);

/// A tree object with these entries, which no git would write.
fn tree(lab: &Lab, entries: &[Entry<'_>]) -> String {
    let mut bytes = Vec::new();
    for (mode, name, id) in entries {
        bytes.extend_from_slice(format!("{mode} {name}\0").as_bytes());
        bytes.extend((0..40).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap()));
    }
    lab.write("tree", bytes);
    run(lab.git("work").args(["hash-object", "-t", "tree", "-w", "--literally", "../tree"]))
        .exits(0)
        .out
        .trim()
        .to_owned()
}

#[test]
fn a_source_that_would_run_or_lead_elsewhere_is_refused_over_ssh_too() {
    let (lab, _sshd, _) = ssh_lab();
    let blob = |content: &str| {
        lab.write("blob", content);
        run(lab.git("work").args(["hash-object", "-w", "../blob"])).exits(0).out.trim().to_owned()
    };
    let (recipe, script) =
        (blob(crate::support::RECIPE), blob("mkdir out; echo x > out/kestrel; echo y > out/notes\n"));
    let good = [("100644", "build.sh", script.as_str()), ("100644", "release.toml", recipe.as_str())];
    let original = run(lab.git("work").args(["rev-parse", "HEAD"])).exits(0).out;
    let hook = tree(&lab, &[("100755", "config", &blob("[core]\n\tfsmonitor = touch canary\n"))]);
    let modules = blob("[submodule \"x\"]\n\tpath = x\n\turl = -u./payload\n");
    let target = blob("/etc/passwd");
    let head = original.trim();
    let cases: [(&str, Vec<Entry>, &str); 6] = [
        ("1.1", vec![("40000", ".git", &hook), good[0], good[1]], "hasDotgit"),
        ("1.2", vec![("40000", ".GIT", &hook), good[0], good[1]], "hasDotgit"),
        ("1.3", vec![("100644", ".gitmodules", &modules), good[0], good[1], ("160000", "x", head)], "gitmodulesUrl"),
        ("1.4", vec![good[0], ("120000", "link", &target), good[1]], "a link that leads out of the tree"),
        ("1.5", vec![good[0], good[1], ("140000", "socket", &script)], "a submodule"),
        ("1.6", vec![("40000", "..", &hook), good[0], good[1]], "hasDotdot"),
    ];
    for (version, entries, why) in cases {
        tag_tree(&lab, version, &tree(&lab, &entries));
        let yes = format!("--yes={version}");
        let said = lab.with_keys(&["cut", "kestrel", version, &yes]).exits(REJECTED).says(why);
        said.says("nothing was");
        lab.assert_nothing_published();
        assert!(!lab.path("canary").exists());
        let pinned = String::from_utf8(lab.read("home/journal.jsonl")).unwrap();
        assert!(
            !pinned.contains(&format!("\"release\":\"{version}\"")) || why.contains("link") || why.contains("module")
        );
        lab.runs(&["abandon", "kestrel", version, &yes]);
        run(lab.git("work").args(["push", "-q", "origin", &format!(":refs/tags/v{version}")])).exits(0);
        lab.push(&format!("{head}:refs/heads/release/1"));
    }
    // Bits that mean something to a file system do not get into the archive.
    tag_tree(&lab, "1.7", &tree(&lab, &[("104755", "build.sh", &script), ("100664", "release.toml", &recipe)]));
    lab.cut("1.7").exits(0);
    let archive = lab.path(&Lab::mirrored("1.7", "kestrel-1.7.tar.gz"));
    let listing = run(program("tar").arg("-tvf").arg(archive)).exits(0).out;
    assert!(listing.contains("-rwxr-xr-x") && listing.contains("-rw-r--r--") && !listing.contains("rws"), "{listing}");
}

#[test]
fn a_repository_of_sha256_objects_is_refused() {
    let (lab, _sshd, _) = ssh_lab();
    fs::rename(lab.path("source.git"), lab.path("kept.git")).unwrap();
    fs::rename(lab.path("work"), lab.path("work.kept")).unwrap();
    run(lab.git("").args(["init", "-q", "--bare", "--object-format=sha256", "source.git"])).exits(0);
    run(lab.git("").args(["clone", "-q", "source.git", "work"])).exits(0);
    run(lab.git("work").args(["checkout", "-q", "-b", "release/1"])).exits(0);
    lab.write("work/notes", "x\n");
    lab.commit("first");
    lab.tag("1.0");
    let refused = || {
        lab.cut("1.0").exits(REJECTED).says("SHA-256").says("nothing was built or signed");
        lab.assert_nothing_published();
    };
    refused();
    make_bundle(&lab, "1.0", &["refs/tags/v1.0", "refs/heads/release/1"]);
    refused();
    fs::remove_file(lab.path("home/inbox/kestrel-1.0.git.bundle")).unwrap();
    fs::remove_dir_all(lab.path("source.git")).unwrap();
    fs::rename(lab.path("kept.git"), lab.path("source.git")).unwrap();
    lab.cut("1.0").exits(0);
}

/// Brings a bundle of these refs on a medium.
pub fn make_bundle(lab: &Lab, version: &str, what: &[&str]) {
    let name = format!("kestrel-{version}.git.bundle");
    let _ = fs::remove_dir_all(lab.path("medium"));
    fs::create_dir(lab.path("medium")).unwrap();
    run(lab.git("source.git").args(["bundle", "create", "--quiet"]).arg(lab.path("medium").join(name)).args(what))
        .exits(0);
    lab.runs(&["import", "medium"]).exits(0).says("bundle");
}
