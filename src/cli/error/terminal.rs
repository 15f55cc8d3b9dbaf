//! Exit codes and hints for what goes wrong at the terminal.

use std::path::Path;
use std::path::PathBuf;

use super::CommandError;
use super::FAILED;
use super::INTERNAL;
use super::REJECTED;
use super::USAGE;
use super::amend::unfinished;
use super::shell_path;
use crate::abandon::AbandonError;
use crate::cut::CutError;
use crate::enrol::EnrolError;
use crate::enrol::ImportPublicError;
use crate::home::HomeError;
use crate::import::ImportError;
use crate::init::InitError;
use crate::key::KeyError;
use crate::key::agent::Refusal;
use crate::key::piv::Problem;
use crate::key::piv::Secret;
use crate::key::piv::TokenError;
use crate::key::piv::apdu::CardError;
use crate::media::MediaError;
use crate::publish::PublishError;
use crate::repository::RepositoryError;
use crate::sign::SignError;
use crate::transport::TransportError;
use crate::verify::VerifyError;

/// What helps where the journal is lost, old or damaged.
const WHOLE: &str = "nothing was changed. Never put back the journal alone, since keys have signed what an old one does \
                     not say: restore the whole home from its newest backup, then take over what a mirror serves using:";
/// Where to get a file of the home that is gone.
const PUT_BACK: &str = "put the file back from a backup; each mirror has those of the repository";

/// The policy that was signed last, in the repository of a home.
fn newest_policy(home: &Path) -> Option<PathBuf> {
    let numbered = home.join("repository/targets/policy").read_dir().ok()?.flatten().filter_map(|entry| {
        let number: u64 = entry.file_name().to_str()?.parse().ok()?;
        Some((number, entry.path()))
    });
    let (_, folder) = numbered.max()?;
    let mut files = folder.read_dir().ok()?.flatten().map(|entry| entry.path());
    files.find(|path| path.to_string_lossy().ends_with(".policy.toml"))
}

impl From<HomeError> for CommandError {
    fn from(error: HomeError) -> Self {
        let result = Self::from_error(FAILED, &error);
        if error.is_of_journal() {
            return result.hint_command(WHOLE, &["import", "--from", "MIRROR"]);
        }
        match &error {
            HomeError::NotAHome { .. } => result.hint_command(
                "name the home with --home or RELEASE_HOME, or make one using:",
                &["init", "--policy", "FILE"],
            ),
            HomeError::LostConfig { folder, file } => match newest_policy(folder).filter(|_| *file == "policy.toml") {
                Some(signed) => {
                    let cp = format!("cp {} {}", shell_path(&signed), shell_path(&folder.join(file)));
                    result.hint_lines("nothing was changed; put the signed one back using:", &[cp])
                }
                None => result.hint(
                    "nothing was changed; put the file back from a backup, or write it anew: examples/terminal.toml \
                     shows all that it can say",
                ),
            },
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
            KeyError::File { ref source, .. } if source.kind() == std::io::ErrorKind::NotFound => result.hint(
                "put the key back from a backup, and run the same command again. If it is lost for good and enough \
                 other people can sign, take it out of [token] in terminal.toml: the plan of `release cut` names who \
                 signs then",
            ),
            KeyError::NoPassphrase { .. } | KeyError::WrongPassphrase(_) | KeyError::NoPin { .. } => {
                result.hint("signatures that were made are kept; run the same command again")
            }
            KeyError::Token(error) => {
                let again = "signatures that were made are kept; run the same command again";
                with_token_hint(result, &error).hint(again)
            }
            KeyError::NoTokenService(_) => no_token_service(result).hint("then run the same command again"),
            _ => result,
        }
    }
}

/// What helps where the smart card service is not there.
pub(super) fn no_token_service(result: CommandError) -> CommandError {
    let lines = ["apt-get install pcscd", "systemctl start pcscd.socket"].map(str::to_owned);
    result.hint_lines("as root, install it or start it using:", &lines)
}

/// What helps with a token, besides doing it again.
pub(super) fn with_token_hint(result: CommandError, error: &TokenError) -> CommandError {
    let serial = error.token.serial;
    let free = |result: CommandError| {
        let lines = ["gpgconf --kill scdaemon".to_owned()];
        result.hint_lines("end the other program; GnuPG lets go of a token using:", &lines)
    };
    match &error.problem {
        Problem::NoReader | Problem::Missing { .. } => result.hint(format!("plug in token {serial}")),
        Problem::InUse(_) => free(result).hint(format!("if it is not there, plug in token {serial}")),
        Problem::Twice => result.hint("pull out the one that is not yours, and find out whose it is"),
        Problem::TooOld { .. } => result.hint("enrol a newer token for these keys"),
        Problem::EmptySlot { .. } | Problem::OtherKey { .. } => {
            result.hint("nothing was signed; look for the right token, or correct [token] in terminal.toml")
        }
        Problem::Factory(Secret::Pin) => result.hint_command(
            "nothing was signed; set a PIN with the PUK using:",
            &["key", "unblock", "--token", &serial.to_string()],
        ),
        Problem::Factory(Secret::Puk) => {
            let lines = [format!("ykman --device {serial} piv access change-puk")];
            result.hint_lines("nothing was signed; set another PUK, and put it into a safe, using:", &lines)
        }
        Problem::FactoryManagement => {
            let lines = [format!("ykman --device {serial} piv access change-management-key --generate --protect")];
            result.hint_lines("nothing was signed; set a random one, which is kept in the token, using:", &lines)
        }
        Problem::LastTry(which) => {
            let result = result
                .hint(format!("if you know the {which} for sure, say --last-try {serial}; a wrong one blocks it"));
            match which {
                Secret::Pin => result.hint_command(
                    "if you do not, set a new one with the PUK using:",
                    &["key", "unblock", "--token", &serial.to_string()],
                ),
                Secret::Puk => result,
            }
        }
        Problem::Blocked(Secret::Pin) => result.hint_command(
            "set a new PIN with the PUK, which lies with the papers of the token, using:",
            &["key", "unblock", "--token", &serial.to_string()],
        ),
        Problem::Blocked(Secret::Puk) => {
            result.hint("without PIN and PUK its keys are lost: take them out of the policy, and enrol another token")
        }
        Problem::NotTouched(_) => result.hint("touch it while it blinks, within 15 seconds"),
        Problem::Signing { error: CardError::Removed, .. } | Problem::Card(CardError::Removed) => {
            result.hint(format!("plug in token {serial} again"))
        }
        _ => result,
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
                | SignError::Disagrees { .. }
                | SignError::Manifest { .. }
                | SignError::Starter(_)
                | SignError::ThresholdNotMet { .. }
                | SignError::SameTerminal(_)
                | SignError::SharedToken(_)
        );
        let result = Self::from_error(if refused { REJECTED } else { FAILED }, &error);
        match error {
            SignError::NeedsOthers { .. } => result.hint(
                "nothing was built or signed; add the keys of release managers to [token] in terminal.toml, or use a \
                 terminal that has them",
            ),
            SignError::Starter(_) => {
                result.hint("nothing was built or signed; another person approves it, on another terminal")
            }
            SignError::NoClaimKeyHere => result.hint("nothing was built; add a claim key to [token] in terminal.toml"),
            SignError::Disagrees { .. } => result.hint(
                "one of the two terminals is not honest, or the build depends on the machine: find out which before \
                 anybody signs",
            ),
            SignError::SoftwareKey(_) => {
                result.hint("a policy that allows software keys says `insecure-software-keys = true`")
            }
            SignError::SharedToken(_) => {
                result.hint("nothing was signed; each person needs a token with a PIN of its own")
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
                    ["policy", _, command @ ..] => result.hint_command("finish it first using:", command),
                    ["withdraw", product, version] => result.hint_command(
                        "finish it first, for the same reason as before, using:",
                        &["withdraw", product, version, "--reason", "TEXT"],
                    ),
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
            CutError::NoProduct(_) | CutError::OwnSuccessor { .. } => Self::from_error(USAGE, &error),
            CutError::Abandoned { .. } => {
                Self::from_error(FAILED, &error).hint("nothing was built or signed; tag another version, and cut that")
            }
            CutError::Expired { .. } => Self::from_error(FAILED, &error)
                .hint_command("nothing was built or signed; renew it using:", &["key", "renew"]),
            CutError::ExpiresBefore { ref command, .. } => Self::from_error(FAILED, &error)
                .hint_command("renew it using:", &command.split(' ').collect::<Vec<_>>()),
            CutError::OtherAmendment(words) => {
                unfinished(Self::from_error(FAILED, &CutError::OtherAmendment(words.clone())), &words)
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
            CutError::OldHome(error) => error.into(),
            CutError::Unprepared(ref unprepared) => {
                let name = unprepared.mirror.to_string();
                Self::from_error(FAILED, &error)
                    .hint_command(
                        "on that mirror, its operator runs, as root, `scripts/mirror LAYOUT` with what this prints here:",
                        &["mirror", "layout", &name],
                    )
                    .hint("then run the same command again")
            }
            CutError::Environment { ref differences, .. } => {
                const SHOWN: usize = 20;
                let mut result = Self::from_error(FAILED, &error);
                for line in differences.iter().take(SHOWN) {
                    result = result.cause(line.clone());
                }
                if differences.len() > SHOWN {
                    result = result.cause(format!("and {} more", differences.len() - SHOWN));
                }
                result.hint(
                    "give both terminals the same packages and toolchains; then the starter cuts anew, or you run the \
                     same command again",
                )
            }
            CutError::Differs { ref differences, ref folder, .. } => {
                let mut result = Self::from_error(REJECTED, &error);
                for line in differences.iter().take(20) {
                    result = result.cause(line.clone());
                }
                result.hint(format!(
                    "one of the two terminals is not honest, or the build depends on the machine: find out which before \
                     anybody signs. The files of this terminal are in {}; diffoscope shows how two differ",
                    shell_path(folder)
                ))
            }
            CutError::RequestPolicy { .. } => Self::from_error(REJECTED, &error)
                .hint("bring the home with the older policy up to date: `release import --from MIRROR`"),
            CutError::StaleRequest { ref starter, .. } => Self::from_error(REJECTED, &error).hint(format!(
                "{starter} brings the other home up to date, and runs the same `release cut` again: it makes a new \
                 request"
            )),
            CutError::OtherRequest { .. } | CutError::OwnCut { .. } => Self::from_error(REJECTED, &error)
                .hint("a version is released once: agree on one request, and let the others be given up"),
            CutError::Message { .. } | CutError::Request { .. } | CutError::Answer { .. } => {
                Self::from_error(REJECTED, &error).hint("have it brought again; if it stays so, find out who made it")
            }
            CutError::OtherWithdrawal { ref product, ref other } => {
                let (product, other) = (product.clone(), other.clone());
                Self::from_error(FAILED, &error).hint_command(
                    "finish it, for the same reason as before, using:",
                    &["withdraw", product.as_str(), other.as_str(), "--reason", "TEXT"],
                )
            }
            CutError::NotReleased { .. } => Self::from_error(FAILED, &error)
                .hint("a cut that is not sealed is given up with `release abandon`; index.html lists the releases"),
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
        match error {
            PublishError::Home(error) => error.into(),
            error => with_publish_hint(Self::from_error(FAILED, &error), &error),
        }
    }
}

/// What helps where a mirror could not be reached.
pub fn with_publish_hint(result: CommandError, error: &PublishError) -> CommandError {
    match error {
        PublishError::Key(error) => match error.as_ref() {
            KeyError::Token(error) => with_token_hint(result, error),
            KeyError::NoTokenService(_) => no_token_service(result),
            _ => result,
        },
        PublishError::NoKey(_) => result.hint_command(
            "put the file back from a backup. If nobody made such a key, take the mirror out of terminal.toml, and add \
             it by the command that is explained using:",
            &["mirror", "add", "--help"],
        ),
        PublishError::NotSigned { refusal: Refusal::Key(_), .. } => {
            result.hint("look whether the token with the deploy keys is plugged in")
        }
        PublishError::OtherHost(_) => result.hint(
            "if the operator of the mirror has given it a new host key, compare it over another channel, and \
             write it into terminal.toml",
        ),
        PublishError::Denied { .. } => {
            result.hint("have the operator of the mirror run scripts/mirror with what `release mirror layout` prints")
        }
        PublishError::Conflict { .. } | PublishError::Mode { .. } => result.hint(
            "on that mirror, its operator finds out who wrote the file (the log of its SSH server names the key of each \
             login), and removes it, after `chattr -i` if it was sealed",
        ),
        PublishError::Ended { .. } | PublishError::Silent(_) => result.hint(
            "look whether that mirror is up and runs release-mirror-sshd.service, and whether terminal.toml has its address",
        ),
        PublishError::Full { .. } => result.hint("have the operator of the mirror make space there"),
        _ => result,
    }
}

impl From<InitError> for CommandError {
    fn from(error: InitError) -> Self {
        let result = Self::from_error(FAILED, &error);
        let again = "no home was made; when that is mended, run the same command again";
        match error {
            InitError::NoPolicy(_) => {
                result.hint("no home was made; name the policy with --policy: examples/policy.toml is a whole one")
            }
            InitError::Amend(error) => Self::from(*error).hint(again),
            InitError::Unfinished(error) => {
                Self::from(*error).hint("the home waits as before; when that is mended, run the same command again")
            }
            InitError::Key(KeyError::Token(ref token)) => with_token_hint(result, token).hint(again),
            InitError::Key(KeyError::NoTokenService(_)) => no_token_service(result).hint(again),
            InitError::Enrol(error) => {
                let mut result = Self::from(error);
                result.hints = vec![again.to_owned()];
                result
            }
            InitError::NotEnrolled(_) => result
                .hint_command(
                    "no home was made; each person makes keys in a token by the command that is explained using:",
                    &["key", "generate", "--help"],
                )
                .hint("for demonstrations and tests, say --software-keys"),
            InitError::SharedToken(_) => {
                let mut result = result;
                result.code = REJECTED;
                result.hint("no home was made; each person needs a token with a PIN of its own")
            }
            InitError::NotOnline(_) => {
                result.hint("no home was made; plug in its token, or begin where that is, and answer from here")
            }
            InitError::OtherPolicy(_) => {
                result.hint("nothing was changed; name its policy with --policy, or another folder with --home")
            }
            InitError::Exists(_) => result.hint("nothing was changed; name another folder with --home"),
            _ => result.hint(again),
        }
    }
}

impl From<EnrolError> for CommandError {
    fn from(error: EnrolError) -> Self {
        let again = "what was made is kept; when that is mended, run the same command again";
        let result = Self::from_error(FAILED, &error);
        match &error {
            EnrolError::Key(KeyError::Token(token)) => with_token_hint(result, token).hint(again),
            EnrolError::Key(KeyError::NoTokenService(_)) => no_token_service(result).hint(again),
            EnrolError::NoSoftwareKeys => {
                result.hint("nothing was made; name a token with --token, or set it for a demonstration")
            }
            EnrolError::NoHolder(_) | EnrolError::NothingToMake(_) | EnrolError::NoPolicy(_) => {
                let mut result = result;
                result.code = USAGE;
                result.hint(match error {
                    EnrolError::NothingToMake(_) => {
                        "nothing was made: all of these keys exist, and `release key show` tells where"
                    }
                    _ => "nothing was made; name the policy with --policy, if it is another one",
                })
            }
            EnrolError::WeakFirmware { .. } => {
                let mut result = result;
                result.code = REJECTED;
                result.hint(
                    "no key was made; firmware cannot be renewed: use a newer token, or a policy that says \
                     `insecure-weak-firmware = true`",
                )
            }
            EnrolError::Taken { token, .. } | EnrolError::NoSlot(token) => {
                let lines = [format!("ykman --device {} piv reset", token.serial)];
                result.hint_lines(
                    "no key was made. If nobody needs what is in this token, erase all its keys using:",
                    &lines,
                )
            }
            EnrolError::SlotInUse { .. } => {
                result.hint("no key was made; name a free slot, or none: one is chosen then")
            }
            EnrolError::Makers(_) => result.hint(
                "no key was made; the makers of tokens publish the certificates of their roots: get them, compare \
                 them with those from another channel, and put them there as PEM files",
            ),
            EnrolError::Shared(..) => {
                let mut result = result;
                result.code = REJECTED;
                result.hint("no key was made; take a token in which nobody has keys")
            }
            EnrolError::NoKeys(_) => result.hint_command("see which key is in which token using:", &["key", "list"]),
            EnrolError::Attestation { .. } | EnrolError::NotMadeThere { .. } | EnrolError::Changed { .. } => {
                let mut result = result;
                result.code = REJECTED;
                result.hint("do not use this token: nobody can tell where such a key was made")
            }
            EnrolError::Certificate { .. } => {
                let mut result = result;
                result.code = REJECTED;
                result.hint("use the certificate that `release key generate` has made, and no other")
            }
            EnrolError::NotErased { token, .. } => {
                let lines = [format!("ykman --device {} piv reset", token.serial)];
                result.hint_lines("erase all keys of this token using:", &lines)
            }
            EnrolError::BlockedPuk(token) | EnrolError::UnknownManagement(token) => {
                let lines = [format!("ykman --device {} piv reset", token.serial)];
                result.hint_lines("no key was made. Take another token, or erase all keys of this one using:", &lines)
            }
            _ => result.hint(again),
        }
    }
}

impl From<ImportPublicError> for CommandError {
    fn from(error: ImportPublicError) -> Self {
        let nothing = "nothing was kept beside the policy";
        match error {
            ImportPublicError::Enrol(error) => error.into(),
            ImportPublicError::Home(error) => {
                Self::from(error).hint("what was kept is whole; when that is mended, run the same command again")
            }
            ImportPublicError::Read(error) => Self::from(error).hint(nothing),
            ImportPublicError::Incomplete { .. } => Self::from_error(FAILED, &error)
                .hint(format!("{nothing}; name all files of a key, as `release key generate` has made them")),
            ImportPublicError::Other(_) => Self::from_error(REJECTED, &error).hint(format!(
                "{nothing}. A key that is enrolled is never replaced: compare both with the person whose it is"
            )),
            error => Self::from_error(REJECTED, &error)
                .hint(format!("{nothing}; ask the person whose files these are, not over the medium")),
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
            AbandonError::NoCut { .. } => Self::from_error(FAILED, &error)
                .hint_command("nothing was burned; see which cuts are not finished using:", &["status"]),
            error => Self::from_error(FAILED, &error),
        }
    }
}
