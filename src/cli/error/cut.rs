//! What to do when a cut stops: the state that it left, and the next command.

use std::path::Path;
use std::path::PathBuf;

use super::CommandError;
use super::FAILED;
use super::install;
use super::shell_path;
use super::terminal::no_token_service;
use super::terminal::with_token_hint;
use crate::amend::Begun;
use crate::build::BuildError;
use crate::build::is_systemd;
use crate::cut::CutError;
use crate::home::CutState;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::KeyError;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::policy::Location;
use crate::policy::Scheme;
use crate::process::ProcessError;
use crate::publish;
use crate::repository::RepositoryError;
use crate::sign::SignError;
use crate::source::KeyFault;
use crate::source::SourceError;

/// How `terminal.toml` names a host, for one who has to write it.
fn source_host(host: &str) -> [String; 5] {
    [
        "[[source]]".to_owned(),
        format!("host     = \"{host}\""),
        "address  = [\"192.0.2.10\"]".to_owned(),
        "host-key = \"ssh-ed25519 AAAA...\"".to_owned(),
        "key      = \"file:keys/git\"".to_owned(),
    ]
}

/// A file of the home that is not as the cut left it.
enum Fault {
    Lost(PathBuf),
    Damaged,
}

impl Fault {
    fn of(error: &CutError) -> Option<Self> {
        let home = match error {
            CutError::DamagedRepository(_) | CutError::Repository(RepositoryError::Damaged { .. }) => {
                return Some(Self::Damaged);
            }
            CutError::Home(error)
            | CutError::Repository(RepositoryError::Home(error))
            | CutError::Sign(SignError::Home(error)) => error,
            _ => return None,
        };
        match home {
            HomeError::Missing(path) | HomeError::Io { path, .. } if home.is_missing() => {
                Some(Self::Lost(path.clone()))
            }
            HomeError::Damaged { .. } => Some(Self::Damaged),
            _ => None,
        }
    }
}

/// A cut that stopped.
pub struct Stop<'a> {
    /// The home.
    pub home: &'a Home,
    /// The product.
    pub product: &'a Product,
    /// The version.
    pub version: &'a Version,
    /// The command that goes on.
    pub again: &'a [&'a str],
    /// Whether it answers what another terminal has started.
    pub is_answer: bool,
}

impl Stop<'_> {
    /// The error as a person sees it.
    pub fn explain(&self, error: CutError) -> CommandError {
        match error {
            CutError::Source(error) => self.source(error),
            CutError::Build(error) => self.build(error),
            CutError::Recipe { .. } => self.mend_source(error.into()),
            CutError::Repository(RepositoryError::Deb { .. }) => {
                self.give_up(error.into(), "mend the package at the source")
            }
            CutError::Stopped(_) => self.again(error.into(), "to sign after all, without building again, using:"),
            CutError::Sign(SignError::Key(ref key)) | CutError::Repository(RepositoryError::Key(ref key)) => {
                let result = CommandError::from_error(FAILED, &error);
                let result = match key {
                    KeyError::NoPassphrase { .. } | KeyError::WrongPassphrase(_) | KeyError::NoPin { .. } => result,
                    KeyError::Token(token) => with_token_hint(result, token),
                    KeyError::NoTokenService(_) => no_token_service(result),
                    KeyError::BadSignature(_) => {
                        result.hint("wrong signatures can give a key away: if it happens again, replace the key")
                    }
                    _ => return error.into(),
                };
                self.again(result, "signatures that were made are kept; go on using the same command again:")
            }
            CutError::StageChanged(_) => self.give_up(error.into(), "find out who changed it"),
            CutError::OtherPolicy { signed, .. } => {
                if let Ok(Some(begun)) = Begun::load(self.home) {
                    return CutError::OtherAmendment(begun.change).into();
                }
                let cp = format!("cp {} {}", self.signed_policy(signed), shell_path(&self.home.resolve("policy.toml")));
                CommandError::from(error)
                    .hint_lines("nothing was built or signed; put the signed one back using:", &[cp])
                    .hint_command("or, with the keys that it names, using:", &["import", "--from", "MIRROR"])
            }
            error => {
                let fault = Fault::of(&error);
                let result = CommandError::from(error);
                if result.code() != FAILED || (fault.is_none() && !result.hints().is_empty()) {
                    return result;
                }
                let again = format!("{}; when that is mended, go on using the same command again:", self.standing());
                let result = self.again(result, &again);
                match fault {
                    Some(Fault::Lost(path)) if path.starts_with(self.folder()) && self.is_open() => {
                        self.give_up(result, "if the file is lost for good, give this version up")
                    }
                    _ => result,
                }
            }
        }
    }

    fn source(&self, error: SourceError) -> CommandError {
        let pinned = self.state().is_some_and(|state| state.pin.is_some());
        let nothing = self.nothing();
        let tag = self.tag();
        let about = format!("-m '{} {}'", self.product, self.version);
        let push = |name: &str, force: &str| format!("git push {force}origin refs/tags/{name}");
        let again = "then use the same command again:";
        let by_maintainer = |result: CommandError, force: &str| {
            let why = format!("{nothing}; a maintainer signs the head of a release branch using:");
            let lines = [format!("git tag {force}-s {about} {tag}"), push(&tag, force)];
            self.again(result.hint_lines(&why, &lines), again)
        };
        let mut result = if error.is_transient() {
            self.space(CommandError::from_error(FAILED, &error))
        } else {
            CommandError::from_error(super::REJECTED, &error)
        };
        if let Some(bundle) = self.home.source_bundle(self.product, self.version) {
            result = about_bundle(result, &bundle, nothing);
            // What is wrong is wrong with the bundle, and nobody knows of the source.
            if matches!(
                error,
                SourceError::NoTag { .. }
                    | SourceError::NotAHead { .. }
                    | SourceError::Moved { .. }
                    | SourceError::Unsound { .. }
                    | SourceError::Unreachable { .. }
            ) {
                return result;
            }
        }
        match error {
            SourceError::Unsound { .. } => self.again(
                result.hint(format!(
                    "{nothing}; what came is no sound repository, or too large: find out who made it so before you go \
                     on"
                )),
                "to try once more, use the same command again:",
            ),
            SourceError::Unreachable { .. } => {
                self.again(self.about_host(result, nothing), "when that is mended, go on using the same command again:")
            }
            SourceError::Unpinned { host, .. } => self.again(
                result
                    .hint(format!(
                        "{nothing}, and no connection was made. Get the host's key from its operator, over another \
                         channel than the network"
                    ))
                    .hint_lines("and let terminal.toml say how this machine reaches the host:", &source_host(&host)),
                "then use the same command again:",
            ),
            SourceError::LoginKey { path, fault } => self.about_key(result, &path, &fault),
            SourceError::Process(ProcessError::Missing(program)) => self.again(install(result, &program), again),
            SourceError::OtherOwner(_) => result.hint(format!(
                "{nothing}; mirror the repository as the user who runs this program (`git clone --mirror`), and name \
                 the copy as `source`"
            )),
            error if error.is_transient() => {
                self.again(result, &format!("{nothing}; when that is mended, go on using the same command again:"))
            }
            SourceError::Tree { .. } | SourceError::NoFile { .. } => self.mend_source(result),
            _ if pinned => {
                let who = "somebody has moved it since this cut began: find out who and why, and have it put back";
                self.give_up(result, &format!("{nothing}; {who}"))
            }
            SourceError::NoTag { .. } => by_maintainer(result, ""),
            SourceError::NotAnnotated { tag: wrong, .. }
            | SourceError::MalformedTag { tag: wrong, .. }
            | SourceError::Unsigned(wrong)
            | SourceError::UnknownSigner { tag: wrong, .. }
                if wrong == tag =>
            {
                by_maintainer(result, "-f ")
            }
            SourceError::TooFewSigners { .. } => {
                let why = format!("{nothing}; each further maintainer signs the same commit using:");
                let name = format!("signoff/{tag}/NAME");
                let lines = [format!("git tag -s {about} {name} '{tag}^{{commit}}'"), push(&name, "")];
                self.again(result.hint_lines(&why, &lines), again)
            }
            SourceError::NotAHead { .. } => self.again(
                result.hint(format!(
                    "{nothing}; a release is tagged at the head of its branch: make the tag again there, or tag \
                     another version"
                )),
                again,
            ),
            SourceError::Renamed { .. } => result.hint(format!(
                "{nothing}; somebody serves an old signed tag as a new one: do not release from this source"
            )),
            _ => self.again(
                result.hint(format!("{nothing}; have the tag or the sign-off made again, or removed, at the source")),
                again,
            ),
        }
    }

    /// How a key that logs in is made one that ssh uses.
    fn about_key(&self, result: CommandError, path: &Path, fault: &KeyFault) -> CommandError {
        let path = shell_path(path);
        let (why, command) = match fault {
            KeyFault::Mode(_) => ("let nobody else read it, using:", format!("chmod 600 {path}")),
            KeyFault::Passphrase => ("take its passphrase away using:", format!("ssh-keygen -p -N '' -f {path}")),
            KeyFault::NoKey(_) => (
                "make another one, and have the host's operator let it read the repository, using:",
                format!("ssh-keygen -t ed25519 -N '' -f {path}"),
            ),
        };
        let why = format!("{}, and no connection was made; {why}", self.nothing());
        self.again(result.hint_lines(&why, &[command]), "then use the same command again:")
    }

    /// What to look at where a host gives no source.
    fn about_host(&self, result: CommandError, nothing: &str) -> CommandError {
        let product = self.home.policy.products.get(self.product);
        let Some(Location::Remote(remote)) = product.map(|product| product.source.get_ref()) else {
            return result.hint(format!("{nothing}; look whether the source is where the policy says"));
        };
        let identity = match remote.scheme {
            Scheme::Ssh => "`host-key` and `key`, which the host may have replaced or not know",
            Scheme::Https => "`ca`, if the host's certificate is not from one of the system's authorities",
        };
        result.hint(format!(
            "{nothing}; look at the cable and the clock, and in terminal.toml at the [[source]] of host {}: `address`, \
             and {identity}. Do not change who is trusted before the host's operator says so",
            remote.host
        ))
    }

    fn build(&self, error: BuildError) -> CommandError {
        let result = CommandError::from_error(if error.is_refusal() { super::REJECTED } else { FAILED }, &error);
        let result = if error.is_refusal() { result } else { self.space(result) };
        let again = "nothing was signed; when that is mended, go on using the same command again:";
        match error {
            BuildError::Process(ProcessError::Missing(program)) => self.again(install(result, &program), again),
            BuildError::Failed { .. } => self.give_up(
                self.again(
                    result,
                    "nothing was signed; if this terminal is at fault (no toolchain in terminal.toml, no space), mend \
                     it and use the same command again:",
                ),
                "if the source is at fault, mend it there",
            ),
            BuildError::Limit { reached, .. } => self.more_of(reached.limit, result),
            BuildError::TooLarge { .. } => self.more_of("artifact", result),
            BuildError::NoGroup { hierarchies, .. } => self.again(give_groups(result, &hierarchies), again),
            BuildError::NotReproducible { .. } => {
                let folder = shell_path(&self.folder());
                let why = format!(
                    "nothing was signed; both builds are kept in {folder}: build-1 and second. Mend the build at the \
                     source, or say `reproducible = false` in release.toml if that is what you want"
                );
                self.give_up(result, &why)
            }
            BuildError::Artifact { .. } | BuildError::InputInTheWay(_) => {
                self.give_up(result, "nothing was signed; mend release.toml or the build at the source")
            }
            BuildError::NoInput { .. } => self.again(
                result.hint_command(
                    "nothing was signed; put the file on a medium, under any name, and take it using:",
                    &["import", "DIR"],
                ),
                "then go on using the same command again:",
            ),
            BuildError::WrongInput { .. } => {
                let result = result.hint_command(
                    "nothing was signed; the file in the home is damaged. Bring it again, and take it using:",
                    &["import", "DIR"],
                );
                self.give_up(self.again(result, again), "if release.toml is wrong, mend it")
            }
            _ => self.again(result, again),
        }
    }

    /// For builds that reached a limit.
    fn more_of(&self, limit: &str, result: CommandError) -> CommandError {
        let terminal = self.home.resolve("terminal.toml");
        let why = format!(
            "nothing was signed; if the build needs more, and this terminal has it, set `{limit}` under `[sandbox]` \
             in {}, and use the same command again:",
            shell_path(&terminal)
        );
        self.give_up(self.again(result, &why), "if the source is at fault, mend it there")
    }

    /// For mistakes in the source that no cut can get around.
    fn mend_source(&self, result: CommandError) -> CommandError {
        if self.state().is_some_and(|state| state.pin.is_some()) {
            return self.give_up(result, "nothing was signed; mend it at the source");
        }
        let result = result.hint(
            "nothing was built or signed, and nothing is pinned: mend it at the source, and have the tag made again \
             at the new head. examples/kestrel/release.toml is a whole recipe",
        );
        self.again(result, "then use the same command again:")
    }

    fn again(&self, result: CommandError, why: &str) -> CommandError {
        result.hint_command(why, self.again)
    }

    fn give_up(&self, result: CommandError, why: &str) -> CommandError {
        if self.is_answer {
            return result.hint(format!("{why}. Whoever started this release has to hear of it"));
        }
        let why =
            format!("{why}. This version has its tag pinned for ever: release another one, after burning it using:");
        result.hint_command(&why, &["abandon", self.product.as_str(), self.version.as_str()])
    }

    /// Programs do not always say that the disk is full.
    fn space(&self, result: CommandError) -> CommandError {
        const SCARCE: u64 = 64 << 20;
        let free = atomic::free_space(self.home.folder()).unwrap_or(u64::MAX);
        if free >= SCARCE {
            return result;
        }
        let home = self.home.folder().display();
        result.hint(format!("only {} kB are free; free some space on the file system of {home}", free / 1000))
    }

    fn folder(&self) -> PathBuf {
        if self.is_answer {
            return self.home.approval(self.product, self.version);
        }
        self.home.cut(self.product, self.version)
    }

    fn state(&self) -> Option<CutState> {
        CutState::load(&self.folder()).ok().flatten()
    }

    fn is_open(&self) -> bool {
        self.state().is_none_or(|state| state.is_open())
    }

    /// How far the cut has come.
    fn standing(&self) -> &'static str {
        let purpose = format!("{} {}", self.product, self.version);
        let asked = self.home.journal().is_ok_and(|journal| journal.was_asked(&format!("claim {purpose}")));
        match self.state() {
            _ if publish::find(self.home, &purpose).is_ok_and(|found| found.is_some()) => {
                "it is signed and sealed, and mirrors have it or will"
            }
            _ if asked => "what was signed is kept, and nothing was published",
            Some(state) if state.build.is_some() => "what was built is kept, and nothing was signed",
            _ => "nothing was built or signed",
        }
    }

    /// What was not done, where the source was at fault.
    fn nothing(&self) -> &'static str {
        match self.state() {
            Some(state) if state.build.is_some() => "nothing was signed, and what was built is kept",
            _ => "nothing was built or signed",
        }
    }

    fn tag(&self) -> String {
        self.home.policy.products.get(self.product).map_or_else(String::new, |product| product.tag_of(self.version))
    }

    /// Where the signed policy is, in the home's repository.
    fn signed_policy(&self, signed: Sha256) -> String {
        let policies = self.home.repository().join("targets/policy");
        let name = format!("{signed}.policy.toml");
        let found = policies.read_dir().into_iter().flatten().flatten().map(|entry| entry.path().join(&name));
        shell_path(&found.filter(|path| path.exists()).last().unwrap_or_else(|| policies.join(&name)))
    }
}

/// What to do with a bundle that source came from.
fn about_bundle(result: CommandError, bundle: &Path, nothing: &str) -> CommandError {
    let bundle = shell_path(bundle);
    let why = format!(
        "{nothing}; the source came from {bundle}. A bundle holds the tag, its sign-offs and the release branch, with \
         all that they need; if it does not, have it made again, and take it using:"
    );
    result
        .hint_command(&why, &["import", "DIR"])
        .hint_lines("or take it away, to fetch from where the policy says:", &[format!("rm {bundle}")])
}

/// How a machine comes to control groups that this user may use.
fn give_groups(result: CommandError, hierarchies: &[PathBuf]) -> CommandError {
    let user = rustix::process::geteuid();
    if user.is_root() && hierarchies.is_empty() {
        let mount = "mount -t cgroup2 cgroup2 /sys/fs/cgroup".to_owned();
        return result.hint_lines("nothing was built; mount the kernel's control groups using:", &[mount]);
    }
    if user.is_root() {
        return result.hint(
            "nothing was built; this machine is a container without control groups of its own, or was booted without \
             them: build on another one, or boot with `cgroup_enable=memory`",
        );
    }
    let user = user.as_raw();
    let nothing = "nothing was built; as root";
    if is_systemd() {
        let linger = format!("loginctl enable-linger {user}");
        return result.hint_lines(&format!("{nothing}, have systemd manage this user's processes using:"), &[linger]);
    }
    let shell = rustix::process::getppid().map_or(0, rustix::process::Pid::as_raw_pid);
    let mut lines = Vec::new();
    for hierarchy in hierarchies {
        let group = hierarchy.join(format!("release-{user}"));
        let group = shell_path(&group);
        let is_unified = hierarchies.len() == 1;
        let own = if is_unified { format!("{group}/shell") } else { group.clone() };
        lines.push(format!("mkdir -p {own}"));
        if is_unified {
            for above in [shell_path(hierarchy), group.clone()] {
                lines.push(format!("echo '+memory +pids' > {above}/cgroup.subtree_control"));
            }
        }
        lines.push(format!("chown -R {user} {group}"));
        lines.push(format!("echo {shell} > {own}/cgroup.procs"));
    }
    if lines.is_empty() {
        return result.hint(format!("{nothing}, mount the kernel's control groups, or release as root"));
    }
    result.hint_lines(&format!("{nothing}, give this shell control groups of its own using:"), &lines)
}
