//! A laboratory: a folder with a source repository, a home with software keys,
//! a local mirror, and a user who trusts the first root.

pub mod attestation;
pub mod forge;
pub mod homes;
pub mod mirror;
pub mod network;
pub mod outside;
pub mod piv;
pub mod random;
pub mod relay;
pub mod room;
pub mod server;
pub mod sshd;
pub mod terminal;
pub mod tokens;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;

use tempfile::TempDir;

/// The program under test.
pub const RELEASE: &str = env!("CARGO_BIN_EXE_release");

/// Everything that a program said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Demands an exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Whether a text is on one of the streams, wherever its lines were wrapped.
    pub fn has(&self, text: &str) -> bool {
        let unwrapped = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        [&self.out, &self.err].iter().any(|said| said.contains(text) || unwrapped(said).contains(&unwrapped(text)))
    }

    /// Demands a text on standard output or standard error.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.has(text), "no {text:?} in\nstdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub fn does_not_say(self, text: &str) -> Self {
        assert!(!self.has(text), "{text:?} in\n{}\n{}", self.out, self.err);
        self
    }
}

/// Runs a program with a clean environment.
#[track_caller]
pub fn run(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A program with nothing of this user's environment.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C.UTF-8");
    command
}

/// The date at a moment that a laboratory travels to.
pub fn today(moment: &str) -> String {
    run(program("faketime").args(["-f", moment, "date", "-u", "+%F"])).exits(0).out.trim().to_owned()
}

/// Whether `scripts/test --long` runs the tests: what takes too long for every
/// change is done too.
pub fn is_long() -> bool {
    std::env::var_os("RELEASE_TEST_LONG").is_some()
}

/// Lets a program find cargo and rustc where this user has them.
pub fn with_toolchain(command: &mut Command) -> &mut Command {
    let variables = ["HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"];
    command.envs(variables.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
}

/// A laboratory of one test.
pub struct Lab {
    folder: TempDir,
    /// What programs are started through: another time, another room.
    through: Vec<String>,
}

/// The laboratory that others are copied from: making keys takes a while.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<TempDir> = OnceLock::new();
    TEMPLATE.get_or_init(make_template).path()
}

fn make_template() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab { folder, through: Vec::new() };
    let root = lab.path("");
    fs::create_dir_all(root.join("policy/keys")).unwrap();
    let keygen = |name: &str| {
        let path = root.join(name);
        run(program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(path)).exits(0);
        let public = fs::read_to_string(root.join(format!("{name}.pub"))).unwrap();
        public.split(' ').take(2).collect::<Vec<_>>().join(" ")
    };
    let mut signers = String::new();
    for name in ["mia", "noa", "retired"] {
        writeln!(signers, "{name}@kestrel.example namespaces=\"git\" {}", keygen(name)).unwrap();
    }
    keygen("stranger");
    fs::write(root.join("policy/keys/maintainers.allowed_signers"), signers).unwrap();
    let retired = run(program("ssh-keygen").arg("-lf").arg(root.join("retired.pub"))).exits(0).out;
    let fingerprint = retired.split_whitespace().nth(1).unwrap().to_owned();
    fs::write(root.join("policy/keys/revoked"), format!("# left the project\n{fingerprint}\n")).unwrap();
    let policy = fs::read_to_string(project("examples/policy.toml"))
        .unwrap()
        .replace("tag-threshold = 1", "tag-threshold = 1\ntag-revoked = \"keys/revoked\"");
    fs::write(root.join("policy/policy.toml"), policy).unwrap();
    let mut passphrases = String::from("online horse-online\n");
    for holder in ["alice", "bob", "carol"] {
        for purpose in ["root", "targets", "release", "claim", "openpgp", "certify"] {
            writeln!(passphrases, "{holder}-{purpose} horse-{holder}-{purpose}").unwrap();
        }
    }
    fs::write(root.join("passphrases"), passphrases).unwrap();
    lab.with_keys(&["init", "--policy", "policy/policy.toml", "--software-keys", "--mirror", "here=mirror"]).exits(0);
    fs::create_dir(root.join("trust")).unwrap();
    fs::copy(root.join("home/repository/metadata/1.root.json"), root.join("trust/root.json")).unwrap();
    run(lab.git("").args(["init", "-q", "--bare", "source.git"])).exits(0);
    run(lab.git("").args(["clone", "-q", "source.git", "work"])).exits(0);
    run(lab.git("work").args(["checkout", "-q", "-b", "release/1"])).exits(0);
    lab.write("work/release.toml", RECIPE);
    lab.write(
        "work/build.sh",
        "mkdir -p out\nprintf 'kestrel %s\\n' \"$RELEASE_VERSION\" > out/kestrel\ncp notes out/notes\n",
    );
    lab.write("work/notes", "notes of kestrel\n");
    lab.commit("first");
    lab.folder
}

/// The recipe of the laboratory's project.
pub const RECIPE: &str = r#"version = 1
[build]
script = ["sh build.sh"]
[source-archive]
name = "{product}-{version}.tar.gz"
[[artifact]]
path = "out/kestrel"
name = "{product}-{version}"
[[artifact]]
path = "out/notes"
name = "{product}-{version}.notes"
"#;

/// A file of this project.
pub fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The Python that `scripts/test` has prepared, with python-tuf in it.
pub fn python() -> PathBuf {
    let path = project("target/python/bin/python");
    assert!(path.exists(), "run scripts/test once: it prepares {}", path.display());
    path
}

impl Lab {
    /// A fresh laboratory: home, source with one commit on `release/1`, no tag.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lab = Self { folder, through: Vec::new() };
        lab.copy_from(template());
        lab
    }

    /// A laboratory in which 1.0 is released.
    pub fn released() -> Self {
        static RELEASED: OnceLock<TempDir> = OnceLock::new();
        let ready = RELEASED.get_or_init(|| {
            let lab = Self::new();
            lab.tag("1.0");
            lab.cut("1.0").exits(0);
            lab.folder
        });
        let lab = Self { folder: tempfile::tempdir().unwrap(), through: Vec::new() };
        lab.copy_from(ready.path());
        lab
    }

    /// A copy of a laboratory.
    pub fn twin(&self) -> Self {
        let lab = Self { folder: tempfile::tempdir().unwrap(), through: Vec::new() };
        lab.copy_from(self.folder.path());
        lab
    }

    fn copy_from(&self, other: &Path) {
        run(program("cp").arg("-a").arg(format!("{}/.", other.display())).arg(self.path(""))).exits(0);
        // The working clone remembers where it came from.
        if self.path("work").exists() {
            let source = self.path("source.git");
            run(self.git("work").args(["remote", "set-url", "origin"]).arg(source)).exits(0);
        }
    }

    /// A path in the laboratory.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// From now on programs see this time: `+31d` or a date.
    pub fn travel(&mut self, moment: &str) {
        self.start_through(&["faketime", "-f", moment]);
    }

    /// From now on programs are started by this one.
    pub fn start_through(&mut self, program: &[&str]) {
        self.through = program.iter().map(|&word| word.to_owned()).collect();
    }

    #[track_caller]
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[track_caller]
    pub fn read(&self, path: &str) -> Vec<u8> {
        let path = self.path(path);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The program under test, in the laboratory.
    pub fn release(&self) -> Command {
        let mut command = match self.through.split_first() {
            None => program(RELEASE),
            Some((first, others)) => {
                let mut command = program(first);
                command.args(others).arg(RELEASE);
                command
            }
        };
        command
            .current_dir(self.folder.path())
            .env("RELEASE_HOME", self.path("home"))
            .env("XDG_DATA_HOME", self.path("data"))
            .env("TMPDIR", self.folder.path());
        command
    }

    /// Runs the program.
    #[track_caller]
    pub fn runs(&self, arguments: &[&str]) -> Said {
        run(self.release().args(arguments))
    }

    /// Runs the program with all passphrases on descriptor 3.
    #[track_caller]
    pub fn with_keys(&self, arguments: &[&str]) -> Said {
        self.with_keys_and(arguments, &[])
    }

    /// The same, with environment variables.
    #[track_caller]
    pub fn with_keys_and(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
        let inner = self.release();
        let mut command = program("sh");
        command.args(["-c", "exec \"$@\" --pin-fd 3 3<passphrases", "sh"]).arg(inner.get_program());
        command.args(inner.get_args()).args(arguments).current_dir(self.folder.path());
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        run(command.envs(variables.iter().copied()))
    }

    /// Cuts a version of the laboratory's product.
    #[track_caller]
    pub fn cut(&self, version: &str) -> Said {
        self.with_keys(&["cut", "kestrel", version, &format!("--yes={version}")])
    }

    /// Begins to cut a version, up to what would be confirmed.
    #[track_caller]
    pub fn begin(&self, version: &str) {
        let yes = format!("--yes={version}");
        let said = self.with_keys_and(&["cut", "kestrel", version, &yes], &[("RELEASE_FAIL_AT", "stage.done")]);
        assert_eq!(said.code, None, "killed: {said:?}");
    }

    /// Verifies, trusting the first root.
    #[track_caller]
    pub fn verify(&self, what: &[&str]) -> Said {
        let mut arguments = vec!["verify", "--root", "trust/root.json"];
        arguments.extend(what);
        self.runs(&arguments)
    }

    /// A file of the mirror's release folder.
    pub fn mirrored(version: &str, file: &str) -> String {
        format!("mirror/releases/kestrel/{version}/{file}")
    }

    /// Puts a file of a release and its bundle where a user would have them.
    pub fn download(&self, version: &str, file: &str) -> String {
        let folder = self.path("download");
        fs::create_dir_all(&folder).unwrap();
        for name in [file.to_owned(), format!("kestrel-{version}.bundle.json")] {
            self.write(&format!("download/{name}"), self.read(&Self::mirrored(version, &name)));
        }
        format!("download/{file}")
    }

    /// git in a folder of the laboratory, signing as `mia` where asked.
    pub fn git(&self, folder: &str) -> Command {
        let mut command = program("git");
        command
            .current_dir(self.path(folder))
            .env("HOME", self.folder.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .args(["-c", "user.name=Mia", "-c", "user.email=mia@kestrel.example", "-c", "gpg.format=ssh"])
            .args(["-c", "init.defaultBranch=main", "-c", "advice.detachedHead=false"])
            .args(["-c", "protocol.file.allow=always"]);
        command
    }

    /// Commits all of `work` and pushes its branch.
    pub fn commit(&self, message: &str) {
        run(self.git("work").args(["add", "--all"])).exits(0);
        run(self.git("work").args(["commit", "-q", "--allow-empty", "-m", message])).exits(0);
        run(self.git("work").args(["push", "-q", "origin", "HEAD"])).exits(0);
    }

    /// Signs and pushes a tag of the head of `work`, by the maintainer `who`.
    pub fn tag_as(&self, name: &str, who: &str) {
        let key = format!("user.signingkey={}", self.path(&format!("{who}.pub")).display());
        run(self.git("work").args(["-c", &key, "tag", "-s", "-m", name, name])).exits(0);
        self.push(&format!("refs/tags/{name}"));
    }

    pub fn push(&self, refspec: &str) {
        run(self.git("work").args(["push", "-q", "--force", "origin", refspec])).exits(0);
    }

    /// Signs and pushes the tag of a version.
    pub fn tag(&self, version: &str) {
        self.tag_as(&format!("v{version}"), "mia");
    }

    /// A new commit, its tag and its release.
    pub fn release_next(&self, version: &str) {
        self.write("work/notes", format!("notes of {version}\n"));
        self.commit(version);
        self.tag(version);
        self.cut(version).exits(0);
    }

    /// Copies a folder of the laboratory.
    pub fn copy(&self, from: &str, to: &str) {
        run(program("cp").arg("-a").arg(self.path(from)).arg(self.path(to))).exits(0);
    }

    /// Whether no publication after the first one exists: nothing was released.
    #[track_caller]
    pub fn assert_nothing_published(&self) {
        assert!(!self.path("mirror/releases").exists(), "the mirror has a release");
        assert!(!self.path("home/repository/releases").exists(), "the home has a release");
        let journal = String::from_utf8(self.read("home/journal.jsonl")).unwrap();
        assert!(!journal.contains("\"what\":\"kestrel 1\""), "a release manifest was signed");
    }
}
