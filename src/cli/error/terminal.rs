//! Exit codes and hints for what goes wrong at the terminal.

use super::CommandError;
use super::FAILED;
use super::INTERNAL;
use super::REJECTED;
use super::USAGE;
use crate::abandon::AbandonError;
use crate::cut::CutError;
use crate::home::HomeError;
use crate::import::ImportError;
use crate::init::InitError;
use crate::key::KeyError;
use crate::media::MediaError;
use crate::publish::OldHome;
use crate::publish::PublishError;
use crate::repository::RepositoryError;
use crate::sign::SignError;
use crate::transport::TransportError;
use crate::verify::VerifyError;

/// Where to get a file of the home that is gone.
const PUT_BACK: &str = "put the file back from a backup; each mirror has those of the repository";

impl From<HomeError> for CommandError {
    fn from(error: HomeError) -> Self {
        let result = Self::from_error(FAILED, &error);
        match &error {
            HomeError::NotAHome { .. } => result.hint_command(
                "name the home with --home or RELEASE_HOME, or make one using:",
                &["init", "--policy", "FILE", "--software-keys"],
            ),
            HomeError::Locked { .. } => result.hint("wait until it is done; a command that was killed holds no lock"),
            HomeError::Newer(_) => result.hint("use the newer release; nothing was changed"),
            HomeError::SecondPayload { .. } => {
                let mut result = result;
                result.code = REJECTED;
                result.hint("nothing was signed; find out why the payload has changed before you go on")
            }
            HomeError::Damaged { .. } => {
                result.hint("nothing was changed; restore the file from a backup, or ask for help with this message")
            }
            error if error.is_missing() => result.hint(PUT_BACK),
            _ => result,
        }
    }
}

impl From<KeyError> for CommandError {
    fn from(error: KeyError) -> Self {
        let result = Self::from_error(FAILED, &error);
        match error {
            KeyError::OtherKey { .. } => result.hint("look for the right key file, or correct terminal.toml"),
            KeyError::NoPassphrase { .. } | KeyError::WrongPassphrase(_) => {
                result.hint("signatures that were made are kept; run the same command again")
            }
            _ => result,
        }
    }
}

impl From<SignError> for CommandError {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Home(error) => return error.into(),
            SignError::Key(error) => return error.into(),
            _ => {}
        }
        let refused = matches!(
            error,
            SignError::Claim { .. }
                | SignError::TooFewClaims { .. }
                | SignError::ThresholdNotMet { .. }
                | SignError::SameTerminal(_)
        );
        let result = Self::from_error(if refused { REJECTED } else { FAILED }, &error);
        match error {
            SignError::NeedsOthers { .. } | SignError::NeedsRebuilds { .. } => {
                result.hint("nothing was built or signed; this version cannot take approvals from another terminal yet")
            }
            SignError::SoftwareKey(_) => {
                result.hint("a policy that allows software keys says `insecure-software-keys = true`")
            }
            SignError::NoToken(name) => result.hint(format!("add `{name}` to [token] in terminal.toml")),
            _ => result,
        }
    }
}

pub(super) fn install(result: CommandError, program: &str) -> CommandError {
    let package = match program {
        "bwrap" => "bubblewrap",
        "ssh" | "ssh-keygen" => "openssh-client",
        "setpriv" | "taskset" => "util-linux",
        other => other,
    };
    result.hint(format!("on Debian: apt-get install {package}"))
}

impl From<RepositoryError> for CommandError {
    fn from(error: RepositoryError) -> Self {
        match error {
            RepositoryError::Home(error) => return error.into(),
            RepositoryError::Key(error) => return error.into(),
            _ => {}
        }
        let result = Self::from_error(FAILED, &error);
        match &error {
            RepositoryError::Interrupted { purpose, .. } => {
                let words: Vec<&str> = purpose.split(' ').collect();
                match words.as_slice() {
                    [product, version] => result
                        .hint_command("finish it first using:", &["cut", product, version])
                        .hint_command("or burn it using:", &["abandon", product, version]),
                    _ => result.hint_command("finish it first using:", &["refresh"]),
                }
            }
            RepositoryError::Released { .. } | RepositoryError::Withdrawn { .. } => {
                result.hint("give the release a new version")
            }
            RepositoryError::Damaged { .. } => result.hint(PUT_BACK),
            RepositoryError::TooLarge { .. } => {
                result.hint("nothing was signed; split the product, or withdraw releases that nobody should use")
            }
            _ => result,
        }
    }
}

impl From<CutError> for CommandError {
    fn from(error: CutError) -> Self {
        match error {
            CutError::Repository(error) => error.into(),
            CutError::Sign(error) => error.into(),
            CutError::Home(error) => error.into(),
            CutError::NoProduct(_) => Self::from_error(USAGE, &error),
            CutError::Abandoned { .. } => {
                Self::from_error(FAILED, &error).hint("nothing was built or signed; tag another version, and cut that")
            }
            CutError::Expired { .. } => {
                Self::from_error(FAILED, &error).hint("nothing was built or signed; this version cannot renew it yet")
            }
            CutError::Clock { .. } => Self::from_error(FAILED, &error).hint("nothing was built or signed"),
            CutError::OtherPolicy { .. } | CutError::Recipe { .. } | CutError::StageChanged(_) => {
                Self::from_error(REJECTED, &error)
            }
            CutError::DamagedRepository(_) => Self::from_error(FAILED, &error).hint(PUT_BACK),
            CutError::SelfCheck(VerifyError::Transport(_)) => Self::from_error(FAILED, &error),
            CutError::SelfCheck(_) | CutError::StockVerifier(_) => {
                Self::from_error(INTERNAL, &error).hint("do not publish by hand; ask for help with this message")
            }
            CutError::Date { .. } => Self::from_error(FAILED, &error)
                .hint("nothing was built or signed; set the clock, or if it is right, say so with --today YYYY-MM-DD"),
            CutError::OldHome(OldHome::Behind { ref mirror, .. }) => {
                let from = mirror.to_string();
                Self::from_error(FAILED, &error).hint_command(
                    "find out who published, then bring this home up to date using:",
                    &["import", "--from", &from],
                )
            }
            CutError::Overtaken { ref product, ref version, .. } => {
                let (product, version) = (product.to_string(), version.to_string());
                Self::from_error(REJECTED, &error).hint_command(
                    "release it under another version, after burning this one using:",
                    &["abandon", &product, &version],
                )
            }
            CutError::OtherCut { ref product, ref other } => {
                let (product, other) = (product.clone(), other.clone());
                Self::from_error(FAILED, &error)
                    .hint_command("finish it using:", &["cut", product.as_str(), other.as_str()])
                    .hint_command("or burn that version using:", &["abandon", product.as_str(), other.as_str()])
            }
            _ => Self::from_error(FAILED, &error),
        }
    }
}

impl From<PublishError> for CommandError {
    fn from(error: PublishError) -> Self {
        let result = Self::from_error(FAILED, &error);
        match error {
            PublishError::Home(error) => error.into(),
            PublishError::OtherHost(_) => result.hint(
                "if the operator of the mirror has given it a new host key, compare it over another channel, and \
                 write it into terminal.toml",
            ),
            PublishError::Denied { .. } => result
                .hint("have the operator of the mirror run scripts/mirror with what `release mirror layout` prints"),
            _ => result,
        }
    }
}

impl From<InitError> for CommandError {
    fn from(error: InitError) -> Self {
        let fault = matches!(error, InitError::Cut(CutError::SelfCheck(_) | CutError::StockVerifier(_)));
        let result = Self::from_error(if fault { INTERNAL } else { FAILED }, &error);
        match error {
            InitError::Exists(_) => result.hint("nothing was changed; name another folder with --home"),
            _ => result.hint("no home was made; when that is mended, run the same command again"),
        }
    }
}

impl From<ImportError> for CommandError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Verify(error) => error.into(),
            ImportError::Home(error) => error.into(),
            ImportError::Repository(error) => error.into(),
        }
    }
}

impl From<MediaError> for CommandError {
    fn from(error: MediaError) -> Self {
        let again = ["import", "DIR"];
        match error {
            MediaError::Medium(error @ TransportError::TooMany { .. }) => {
                Self::from_error(REJECTED, &error).hint("nothing was taken; bring what a release needs, and no more")
            }
            MediaError::Medium(error) => {
                Self::from(error).hint_command("nothing was taken; mount the medium, and name its folder using:", &again)
            }
            MediaError::Home(error) => Self::from(error)
                .hint_command("what was taken is kept; when that is mended, take the rest using:", &again),
            MediaError::NoSpace { .. } => Self::from_error(FAILED, &error).hint_command(
                "what was taken is kept; free space there, for example files that no recipe asks for any more, and take \
                 the rest using:",
                &again,
            ),
        }
    }
}

impl From<AbandonError> for CommandError {
    fn from(error: AbandonError) -> Self {
        match error {
            AbandonError::Home(error) => error.into(),
            AbandonError::Repository(error) => error.into(),
            error => Self::from_error(FAILED, &error),
        }
    }
}
