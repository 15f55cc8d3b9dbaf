//! What helps where a home is older than the world, and on the way of a courier.

use super::CommandError;
use super::FAILED;
use super::REJECTED;
use crate::courier::CourierError;
use crate::publish::OldHome;
use crate::transport::TransportError;
use crate::verify::VerifyError;

/// What helps a home that is older than what a courier has seen.
pub const COPY: &str = "find out who published; then have the courier bring a copy of all that a mirror serves, and take \
                        it over using:";

impl From<OldHome> for CommandError {
    fn from(error: OldHome) -> Self {
        let result = Self::from_error(FAILED, &error);
        match &error {
            OldHome::Home(_) => match error {
                OldHome::Home(error) => error.into(),
                _ => result,
            },
            OldHome::Behind { by_courier: true, .. } => result.hint_command(COPY, &["import", "--from", "DIR"]),
            OldHome::Behind { mirror, .. } => {
                let from = mirror.to_string();
                result.hint_command(
                    "find out who published, then bring this home up to date using:",
                    &["import", "--from", &from],
                )
            }
            OldHome::Unknown { .. } => result
                .hint(
                    "bring one mirror back, so that it can be read here, and run the same command again: a home that \
                     was restored from a backup would sign under numbers that are taken. For a mirror that will never \
                     come back, name another one in terminal.toml",
                )
                .hint_command("one that has lost everything gets it back using:", &["publish"]),
        }
    }
}

impl From<CourierError> for CommandError {
    fn from(error: CourierError) -> Self {
        // On another machine, which no `--home` of this one concerns.
        let export = "at the terminal, write it again with `release export DIR`";
        match error {
            CourierError::Home(error) => error.into(),
            CourierError::Repository(error) => error.into(),
            CourierError::OldHome(error) => error.into(),
            CourierError::Medium(error @ TransportError::TooMany { .. }) => {
                Self::from_error(REJECTED, &error).hint("nothing was done; find out who had the medium")
            }
            CourierError::Medium(error) => Self::from(error).hint("mount the medium, and name its folder"),
            CourierError::Write { .. } => Self::from_error(FAILED, &error).hint(
                "when the medium can be written, run the same command again; `release courier push` can write its \
                 receipt elsewhere, with --receipt DIR",
            ),
            CourierError::NoSpace { .. } => Self::from_error(FAILED, &error)
                .hint("take a larger medium, or free some space there, and run the same command again"),
            CourierError::Taken { .. } => {
                Self::from_error(FAILED, &error).hint("name a folder that is new, or that was exported to before")
            }
            CourierError::TooMuch(_) => Self::from_error(FAILED, &error)
                .hint("take the receipts of couriers, so that what mirrors have is left out"),
            CourierError::NoExport(_) => {
                Self::from_error(FAILED, &error).hint("at the terminal, finish it with `release export DIR`")
            }
            CourierError::NoReceipt(_) => Self::from_error(FAILED, &error)
                .hint("on the courier's machine, push it with `release courier push DIR`"),
            CourierError::Verify(VerifyError::Transport(_)) => Self::from_error(FAILED, &error).hint(export),
            CourierError::Refused { .. } | CourierError::Verify(_) => {
                Self::from_error(REJECTED, &error).hint("find out who had the medium").hint(export)
            }
            CourierError::BadReceipt { .. } => Self::from_error(REJECTED, &error).hint(
                "find out who had the medium; have it written again on the courier's machine, with `release courier \
                 push DIR`",
            ),
            CourierError::NoFolder(_) => Self::from_error(FAILED, &error).hint(
                "name the courier's folder with --home; it has `terminal.toml` with the line `version = 1`, and \
                 `root.json` of the project",
            ),
            CourierError::NoRoot(_) => Self::from_error(FAILED, &error).hint(
                "name the courier's folder with --home, or put the project's root.json there, and compare its SHA-256 \
                 with the fingerprint that the terminal shows; nothing was pushed",
            ),
        }
    }
}
