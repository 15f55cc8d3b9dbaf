//! What a cut refuses to fetch.

use std::fs;
use std::path::Path;

use release::policy::Terminal;

use crate::support::Lab;
use crate::support::RECIPE;
use crate::support::program;
use crate::support::project;
use crate::support::run;
use crate::support::server::GIT_HOST;
use crate::support::today;

const REJECTED: i32 = 3;

#[test]
fn a_tag_must_be_signed_by_a_maintainer_who_counts() {
    let lab = Lab::new();
    lab.cut("1.0").exits(REJECTED).says("the source has no tag \"v1.0\"");

    run(lab.git("work").args(["tag", "v1.0"])).exits(0);
    lab.push("refs/tags/v1.0");
    lab.cut("1.0").exits(REJECTED).says("tag \"v1.0\" is not an annotated tag of a commit: it is a commit");

    run(lab.git("work").args(["tag", "-f", "-a", "-m", "1.0", "v1.0"])).exits(0);
    lab.push("refs/tags/v1.0");
    lab.cut("1.0").exits(REJECTED).says("tag \"v1.0\" is not signed");

    for (who, why) in [("stranger", "is not listed"), ("retired", "is revoked")] {
        run(lab.git("work").args(["tag", "-d", "v1.0"])).exits(0);
        lab.tag_as("v1.0", who);
        lab.cut("1.0").exits(REJECTED).says("is not signed by an enrolled maintainer").says(why);
    }
    lab.assert_nothing_published();

    run(lab.git("work").args(["tag", "-d", "v1.0"])).exits(0);
    lab.tag_as("v1.0", "noa");
    lab.cut("1.0").exits(0).says("tag signed by noa@kestrel.example");
}

#[test]
fn an_old_tag_under_a_new_name_is_refused() {
    let lab = Lab::new();
    lab.tag("0.9");
    let old = run(lab.git("work").args(["rev-parse", "v0.9"])).exits(0).out;
    run(lab.git("work").args(["update-ref", "refs/tags/v1.0", old.trim()])).exits(0);
    lab.push("refs/tags/v1.0");
    lab.cut("1.0").exits(REJECTED).says("is really tag \"v0.9\", delivered under another name");
    lab.assert_nothing_published();
}

#[test]
fn a_changed_tag_is_not_signed() {
    let lab = Lab::new();
    lab.tag("1.0");
    let object = run(lab.git("work").args(["cat-file", "tag", "v1.0"])).exits(0).out;
    lab.write("object", object.replace("Mia", "Eve"));
    let id = run(lab.git("work").args(["hash-object", "-t", "tag", "-w", "../object"])).exits(0).out;
    run(lab.git("work").args(["update-ref", "refs/tags/v1.0", id.trim()])).exits(0);
    lab.push("refs/tags/v1.0");
    lab.cut("1.0").exits(REJECTED).says("did not make the signature");
    // Two signatures in one object: whose payload would be signed?
    lab.write("object", format!("{object}{}", &object[object.find("-----BEGIN").unwrap()..]));
    let id = run(lab.git("work").args(["hash-object", "-t", "tag", "-w", "../object"])).exits(0).out;
    run(lab.git("work").args(["update-ref", "refs/tags/v1.0", id.trim()])).exits(0);
    lab.push("refs/tags/v1.0");
    lab.cut("1.0").exits(REJECTED).says("it has several signatures");
}

#[test]
fn the_tagged_commit_is_the_head_of_a_release_branch_at_first() {
    let lab = Lab::new();
    lab.tag("1.0");
    lab.write("work/notes", "later\n");
    lab.commit("later");
    lab.cut("1.0").exits(REJECTED).says("is not the head of a branch \"release/*\"");

    // On a branch that releases are not made from.
    run(lab.git("work").args(["checkout", "-q", "-b", "wild"])).exits(0);
    lab.write("work/notes", "wild\n");
    lab.commit("wild");
    lab.tag("1.1");
    lab.cut("1.1").exits(REJECTED).says("is not the head of a branch");
    lab.assert_nothing_published();
}

#[test]
fn after_the_pin_the_branch_may_move_on_but_nothing_else() {
    let lab = Lab::new();
    lab.tag("1.0");
    // Pinned and built, and stopped before signing.
    lab.begin("1.0");
    lab.write("work/notes", "later\n");
    lab.commit("later");

    // The same tag name on another commit, signed by the same maintainer.
    let original = run(lab.git("work").args(["rev-parse", "v1.0"])).exits(0).out;
    run(lab.git("work").args(["tag", "-d", "v1.0"])).exits(0);
    lab.tag("1.0");
    let moved = lab.cut("1.0").exits(REJECTED).says("the source now serves commit").says("somebody has moved it");
    moved.says("what was built is kept").says("release abandon kestrel 1.0");
    lab.assert_nothing_published();

    // The same commit, another tag object.
    run(lab.git("work").args(["tag", "-d", "v1.0"])).exits(0);
    run(lab.git("work").args(["checkout", "-q", "HEAD~1"])).exits(0);
    lab.tag_as("v1.0", "noa");
    lab.cut("1.0").exits(REJECTED).says("the source now serves tag v1.0");
    run(lab.git("work").args(["checkout", "-q", "release/1"])).exits(0);

    // A branch that no longer holds the commit.
    run(lab.git("work").args(["update-ref", "refs/tags/v1.0", original.trim()])).exits(0);
    lab.push("refs/tags/v1.0");
    run(lab.git("work").args(["checkout", "-q", "--orphan", "other"])).exits(0);
    run(lab.git("work").args(["commit", "-q", "-m", "other"])).exits(0);
    lab.push("HEAD:refs/heads/release/1");
    lab.cut("1.0").exits(REJECTED).says("branch release/1");

    // As it was, with a later head: goes on with the pinned commit.
    lab.push("release/1:refs/heads/release/1");
    lab.cut("1.0").exits(0);
    let notes = lab.read(&Lab::mirrored("1.0", "kestrel-1.0.notes"));
    assert_eq!(notes, b"notes of kestrel\n");
}

#[test]
fn several_maintainers_sign_off() {
    let lab = Lab::new();
    // A home whose policy asks for two maintainers.
    let policy = String::from_utf8(lab.read("policy/policy.toml")).unwrap();
    lab.write("policy/policy.toml", policy.replace("tag-threshold = 1", "tag-threshold = 2"));
    lab.with_keys(&["init", "--home", "two", "--policy", "policy/policy.toml", "--software-keys"]).exits(0);
    let cut = || lab.with_keys(&["cut", "--home", "two", "1.0", "--yes=1.0"]);
    lab.tag("1.0");
    cut().exits(REJECTED).says("1 of 2 maintainers signed tag \"v1.0\": mia@kestrel.example");
    lab.tag_as("signoff/v1.0/again", "mia");
    cut().exits(REJECTED).says("1 of 2 maintainers");
    lab.tag_as("signoff/v1.0/noa", "stranger");
    cut().exits(REJECTED).says("signoff/v1.0/noa").says("is not listed");
    run(lab.git("work").args(["tag", "-d", "signoff/v1.0/noa"])).exits(0);
    lab.write("work/notes", "later\n");
    lab.commit("later");
    lab.tag_as("signoff/v1.0/noa", "noa");
    cut().exits(REJECTED).says("is on commit");
    run(lab.git("work").args(["tag", "-d", "signoff/v1.0/noa"])).exits(0);
    run(lab.git("work").args(["reset", "-q", "--hard", "v1.0"])).exits(0);
    lab.push("+HEAD:refs/heads/release/1");
    lab.tag_as("signoff/v1.0/noa", "noa");
    cut().exits(0).says("mia@kestrel.example, mia@kestrel.example, noa@kestrel.example");
}

#[test]
fn openpgp_maintainers_count_while_their_key_is_good() {
    let lab = Lab::new();
    let gnupg = lab.path("gnupg");
    std::fs::create_dir(&gnupg).unwrap();
    run(program("chmod").arg("700").arg(&gnupg)).exits(0);
    let gpg = |arguments: &[&str]| {
        run(program("gpg")
            .env("GNUPGHOME", &gnupg)
            .args(["--batch", "--quiet", "--pinentry-mode", "loopback"])
            .args(["--passphrase", ""])
            .args(arguments))
    };
    // A subkey signs, which by itself is good for ever.
    gpg(&["--quick-generate-key", "Pat <pat@kestrel.example>", "ed25519", "cert", "1y"]).exits(0);
    let fingerprint = gpg(&["--list-keys", "--with-colons"]).out;
    let fingerprint = fingerprint.lines().find(|line| line.starts_with("fpr")).unwrap().split(':').nth(9).unwrap();
    gpg(&["--quick-add-key", fingerprint, "ed25519", "sign", "never"]).exits(0);
    let policy = String::from_utf8(lab.read("policy/policy.toml")).unwrap();
    lab.write("policy/policy.toml", policy.replace("\"1y\"", "\"5y\""));
    let export = |path: &str| lab.write(path, gpg(&["--export", "--armor"]).exits(0).out);
    export("policy/keys/maintainers.allowed_signers");
    let init = |home: &str| {
        lab.with_keys(&["init", "--home", home, "--policy", "policy/policy.toml", "--software-keys"]).exits(0);
    };
    init("good");
    let by_pat = ["-c", "gpg.format=openpgp", "-c", "user.signingkey=pat@kestrel.example"];
    run(lab.git("work").env("GNUPGHOME", &gnupg).args(by_pat).args(["tag", "-s", "-m", "1.0", "v1.0"])).exits(0);
    lab.push("refs/tags/v1.0");
    let cut = |lab: &Lab, home: &str| {
        lab.with_keys(&["cut", "--home", home, "1.0", "--yes=1.0", "--dry-run", "--today", &today("+400d")])
    };
    cut(&lab, "good").exits(0).says("tag signed by pat@kestrel.example");

    // Listed as revoked.
    lab.write("policy/keys/revoked", fingerprint);
    init("listed");
    cut(&lab, "listed").exits(REJECTED).says("by no certificate that is listed, valid today and not revoked");
    lab.write("policy/keys/revoked", "");

    // Revoked in the certificate, after the tag was signed: backdating is easy.
    let revocation = std::fs::read_dir(gnupg.join("openpgp-revocs.d")).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&revocation).unwrap().replace(":-----BEGIN", "-----BEGIN");
    lab.write("revocation.asc", text);
    export("before.asc");
    gpg(&["--import", lab.path("revocation.asc").to_str().unwrap()]).exits(0);
    export("policy/keys/maintainers.allowed_signers");
    init("revoked");
    cut(&lab, "revoked").exits(REJECTED).says("not revoked");

    // Expired today, whatever date the tag bears.
    let mut lab = lab;
    lab.travel("+400d");
    cut(&lab, "good").exits(REJECTED).says("valid today");
}

#[test]
fn an_ssh_key_counts_while_it_is_valid_today() {
    let mut lab = Lab::new();
    let signers = String::from_utf8(lab.read("policy/keys/maintainers.allowed_signers")).unwrap();
    lab.write(
        "policy/keys/maintainers.allowed_signers",
        signers.replace("namespaces=\"git\"", "namespaces=\"git\",valid-before=\"20270301\""),
    );
    lab.with_keys(&["init", "--home", "dated", "--policy", "policy/policy.toml", "--software-keys"]).exits(0);
    lab.tag("1.0");
    lab.with_keys(&["cut", "--home", "dated", "1.0", "--dry-run"]).exits(0);
    lab.travel("+200d");
    let today = today("+200d");
    let dated = ["cut", "--home", "dated", "1.0", "--dry-run", "--today", &today];
    lab.with_keys(&dated).exits(REJECTED).says("not valid today");
}

#[test]
fn ssh_certificates_do_not_hide_revoked_keys() {
    let lab = Lab::new();
    let keygen = |arguments: &[&str]| run(program("ssh-keygen").current_dir(lab.path("")).args(arguments)).exits(0);
    keygen(&["-q", "-t", "ed25519", "-N", "", "-f", "authority"]);
    keygen(&["-q", "-s", "authority", "-I", "noa", "-n", "noa@kestrel.example", "noa.pub"]);
    let authority = String::from_utf8(lab.read("authority.pub")).unwrap();
    let line = format!("noa@kestrel.example cert-authority,namespaces=\"git\" {authority}");
    lab.write("policy/keys/maintainers.allowed_signers", line);
    let fingerprint = keygen(&["-lf", "noa.pub"]).out.split_whitespace().nth(1).unwrap().to_owned();
    lab.write("policy/keys/revoked", fingerprint);
    lab.with_keys(&["init", "--home", "certified", "--policy", "policy/policy.toml", "--software-keys"]).exits(0);
    lab.tag_as("v1.0", "noa-cert");
    lab.with_keys(&["cut", "--home", "certified", "1.0", "--dry-run"])
        .exits(REJECTED)
        .says("is by a certificate; list the key itself");
}

#[test]
fn the_repository_of_another_user_is_not_read() {
    // Only root can give a repository away.
    if rustix::process::geteuid().is_root() {
        let lab = Lab::new();
        lab.tag("1.0");
        run(program("chown").args(["-R", "nobody"]).arg(lab.path("source.git"))).exits(0);
        lab.cut("1.0").exits(1).says("belongs to another user").says("git clone --mirror");
        lab.assert_nothing_published();
    }
}

#[test]
fn a_policy_names_only_sources_that_are_fetched_safely() {
    let lab = Lab::new();
    let policy = String::from_utf8(lab.read("policy/policy.toml")).unwrap();
    for (source, why) in [
        ("ext::sh -c evil", "starts a program as git's transport"),
        ("host:path", "write ssh://user@host/path"),
        ("http://x.example/k.git", "use https:// or ssh://"),
        ("git://x.example/k", "use https:// or ssh://"),
        ("file://relative", "file:///path"),
        ("https://mia:secret@x.example/k", "has no user and no password"),
    ] {
        lab.write("policy/policy.toml", policy.replace("../source.git", source));
        let said = lab.runs(&["policy", "check", "policy/policy.toml"]).exits(1).says("policy.toml:46:10: ").says(why);
        said.does_not_say("secret");
        let init = ["init", "--home", "fresh", "--policy", "policy/policy.toml", "--software-keys"];
        lab.with_keys(&init).exits(1).says(why);
        assert!(!lab.path("fresh").exists());
    }
}

#[test]
fn a_source_that_would_run_or_lead_elsewhere_is_refused() {
    let refused = |files: &[(&str, &str)], how: &dyn Fn(&Lab), why: &str| {
        let lab = Lab::new();
        for (path, content) in files {
            lab.write(&format!("work/{path}"), content);
        }
        how(&lab);
        lab.commit("bad");
        lab.tag("1.0");
        lab.cut("1.0").exits(REJECTED).says(why);
        lab.assert_nothing_published();
    };
    refused(&[(".gitattributes", "notes export-subst\n")], &|_| {}, "export-subst");
    let link =
        |target: &'static str| move |lab: &Lab| std::os::unix::fs::symlink(target, lab.path("work/link")).unwrap();
    refused(&[], &link("/etc/passwd"), "a link that leads out of the tree");
    refused(&[], &link("../../etc/passwd"), "a link that leads out of the tree");
    refused(&[("a\u{1b}[2Jb", "x")], &|_| {}, "a name with control characters");
    refused(
        &[],
        &|lab| {
            let head = run(lab.git("work").args(["rev-parse", "HEAD"])).exits(0).out;
            let entry = format!("160000,{},sub", head.trim());
            run(lab.git("work").args(["update-index", "--add", "--cacheinfo", &entry])).exits(0);
            std::fs::create_dir(lab.path("work/sub")).unwrap();
        },
        "a submodule",
    );
    refused(
        &[("release.toml", "version = 1\n[build]\nscirpt = []\n")],
        &|_| {},
        "release.toml:3:1: unknown field `scirpt`",
    );
    refused(
        &[("release.toml", "version = 1\n[build]\nscript = [\"x\"]\n[[artifact]]\npath = \"../x\"\n")],
        &|_| {},
        "without `..`",
    );
    refused(&[], &|lab| std::fs::remove_file(lab.path("work/release.toml")).unwrap(), "has no release.toml");
}

#[test]
fn the_archive_is_what_git_would_export() {
    let lab = Lab::new();
    lab.write(
        "work/.gitattributes",
        "docs/ export-ignore\n*.secret export-ignore\n*.bat text eol=crlf\n/top export-ignore\n",
    );
    lab.write("work/docs/a", "not exported\n");
    lab.write("work/sub/docs/b", "not exported\n");
    lab.write("work/x.secret", "not exported\n");
    lab.write("work/top/c", "not exported\n");
    lab.write("work/sub/top/d", "exported\n");
    lab.write("work/run.bat", "echo\n");
    lab.write(&format!("work/{}/{}", "long".repeat(30), "name".repeat(30)), "long names\n");
    lab.write("work/\u{e9}t\u{e9}", "not ASCII\n");
    std::os::unix::fs::symlink("sub/top/d", lab.path("work/link")).unwrap();
    run(program("chmod").arg("755").arg(lab.path("work/build.sh"))).exits(0);
    lab.commit("attributes");
    lab.tag("1.0");
    lab.cut("1.0").exits(0);
    let list = |archive: &str| run(program("tar").args(["-tf"]).arg(lab.path(archive))).exits(0).out;
    run(lab.git("work").args(["archive", "--format=tar", "--prefix=kestrel-1.0/", "-o", "../git.tar", "v1.0"]))
        .exits(0);
    let ours = Lab::mirrored("1.0", "kestrel-1.0.tar.gz");
    let mut expected: Vec<String> = list("git.tar").lines().map(str::to_owned).collect();
    let mut found: Vec<String> = list(&ours).lines().map(str::to_owned).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    // Bytes are those of the commit: no attribute changes a line end.
    let bat = run(program("tar").args(["-xOf"]).arg(lab.path(&ours)).arg("kestrel-1.0/run.bat")).exits(0).out;
    assert_eq!(bat, "echo\n");
    let details = run(program("tar").args(["--numeric-owner", "-tvf"]).arg(lab.path(&ours))).exits(0).out;
    assert!(details.lines().all(|line| line.contains(" 0/0 ")), "{details}");
    // Another clone, another folder, another home: the same bytes.
    run(lab.git("").args(["clone", "-q", "--bare", "source.git", "again.git"])).exits(0);
    let policy = String::from_utf8(lab.read("policy/policy.toml")).unwrap();
    lab.write("policy/policy.toml", policy.replace("../source.git", "../again.git"));
    lab.with_keys(&["init", "--home", "again", "--policy", "policy/policy.toml", "--software-keys"]).exits(0);
    lab.with_keys(&["cut", "--home", "again", "1.0", "--yes=1.0"]).exits(0);
    assert_eq!(lab.read("again/repository/releases/kestrel/1.0/kestrel-1.0.tar.gz"), lab.read(&ours));
}

#[test]
fn a_dry_run_touches_nothing() {
    let lab = Lab::new();
    lab.tag("1.0");
    let before = run(program("find").arg(lab.path("home")).args(["-printf", "%p %T@ %s\\n"])).out;
    lab.runs(&["cut", "kestrel", "1.0", "--dry-run"])
        .exits(0)
        .says("source    release/1 at")
        .says("sign      2 of 3 release managers: alice, bob")
        .says("nothing was built, signed or pushed");
    let after = run(program("find").arg(lab.path("home")).args(["-printf", "%p %T@ %s\\n"])).out;
    assert_eq!(after, before);
    assert!(!RECIPE.is_empty());
}

#[test]
fn the_example_of_a_terminal_is_read() {
    let text = fs::read_to_string(project("examples/terminal.toml")).unwrap();
    let terminal = Terminal::parse(Path::new("terminal.toml"), text.clone()).unwrap();
    assert_eq!(terminal.sources.len(), 2);
    for (from, to, why) in [
        ("forge.example.org", GIT_HOST, "`git.kestrel.example` stands here twice"),
        ("192.0.2.20", "forge", "invalid IP address"),
        ("file:keys/git", "keys/git", "this key is named as `file:PATH`"),
        ("ssh-ed25519 AAAA", "ssh-ed25519 BAAA", "a host key is a type and base64"),
        ("ca =", "cas =", "did you mean `ca`?"),
    ] {
        let error = Terminal::parse(Path::new("terminal.toml"), text.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let table = "version = 1\n[source]\nhost = \"git.kestrel.example\"\n".to_owned();
    let error = Terminal::parse(Path::new("terminal.toml"), table).unwrap_err().to_string();
    assert!(error.contains("each written as [[source]]") && error.contains("terminal.toml:2:"), "{error}");
}
