//! What to do when a cut stops: the state that it left, and the next command.

use super::CommandError;
use super::FAILED;
use super::install;
use super::shell_path;
use super::terminal::no_token_service;
use super::terminal::with_token_hint;
use crate::build::BuildError;
use crate::cut::CutError;
use crate::home::CutState;
use crate::home::Home;
use crate::key::KeyError;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::process::ProcessError;
use crate::repository::RepositoryError;
use crate::sign::SignError;
use crate::source::SourceError;

/// A cut that stopped.
pub struct Stop<'a> {
    /// The home.
    pub home: &'a Home,
    /// The product.
    pub product: &'a Product,
    /// The version.
    pub version: &'a Version,
}

impl Stop<'_> {
    /// The error as a person sees it.
    pub fn explain(&self, error: CutError) -> CommandError {
        match error {
            CutError::Source(error) => self.source(error),
            CutError::Build(error) => self.build(error),
            CutError::Recipe { .. } => self.mend_source(error.into()),
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
                let cp = format!("cp {} {}", self.signed_policy(signed), shell_path(&self.home.resolve("policy.toml")));
                CommandError::from(error)
                    .hint_lines("nothing was built or signed; put the signed one back using:", &[cp])
            }
            error => {
                let result = CommandError::from(error);
                if result.code() != FAILED || !result.hints().is_empty() {
                    return result;
                }
                self.again(result, "when that is mended, go on using the same command again:")
            }
        }
    }

    fn source(&self, error: SourceError) -> CommandError {
        let pinned = self.state().is_some_and(|state| state.pin.is_some());
        let nothing = self.nothing();
        let tag = self.tag();
        let about = format!("-m '{} {}'", self.product, self.version);
        let push = |name: &str, force: &str| format!("git push {force}origin refs/tags/{name}");
        let again = "then cut it using the same command again:";
        let by_maintainer = |result: CommandError, force: &str| {
            let why = format!("{nothing}; a maintainer signs the head of a release branch using:");
            let lines = [format!("git tag {force}-s {about} {tag}"), push(&tag, force)];
            self.again(result.hint_lines(&why, &lines), again)
        };
        let result = CommandError::from_error(if error.is_transient() { FAILED } else { super::REJECTED }, &error);
        match error {
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
            SourceError::NoTag(_) => by_maintainer(result, ""),
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

    fn build(&self, error: BuildError) -> CommandError {
        let result = CommandError::from_error(if error.is_refusal() { super::REJECTED } else { FAILED }, &error);
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
            BuildError::NotReproducible { .. } => self.give_up(
                result,
                "nothing was signed; both builds are kept in the folder of the cut. Mend the build at the source, or \
                 say `reproducible = false` in release.toml if that is what you want",
            ),
            BuildError::Artifact { .. } | BuildError::InputInTheWay(_) => {
                self.give_up(result, "nothing was signed; mend release.toml or the build at the source")
            }
            BuildError::WrongInput { .. } => {
                self.give_up(self.again(result, again), "if release.toml is wrong, mend it")
            }
            _ => self.again(result, again),
        }
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
        self.again(result, "then cut it using the same command again:")
    }

    fn again(&self, result: CommandError, why: &str) -> CommandError {
        result.hint_command(why, &["cut", self.product.as_str(), self.version.as_str()])
    }

    fn give_up(&self, result: CommandError, why: &str) -> CommandError {
        let why =
            format!("{why}. This version has its tag pinned for ever: release another one, after burning it using:");
        result.hint_command(&why, &["abandon", self.product.as_str(), self.version.as_str()])
    }

    fn state(&self) -> Option<CutState> {
        CutState::load(&self.home.cut(self.product, self.version)).ok().flatten()
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
