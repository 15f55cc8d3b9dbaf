//! What to do when a change of the policy or its keys stops.

use super::CommandError;
use super::FAILED;
use super::REJECTED;
use super::USAGE;
use super::shell_path;
use crate::amend::AmendError;
use crate::amend::EditError;
use crate::amend::command;
use crate::manifest::Line;

/// What to do where another change is not finished.
pub(super) fn unfinished(result: CommandError, words: &Line) -> CommandError {
    let command = command(words.as_str());
    result
        .hint_command("finish it first using:", &command)
        .hint_command("or give it up, if nobody has signed it, using:", &["key", "abandon"])
}

impl From<AmendError> for CommandError {
    fn from(error: AmendError) -> Self {
        let code = match &error {
            AmendError::Edit(EditError::Shape(_)) => FAILED,
            AmendError::Edit(_) | AmendError::NothingBegun => USAGE,
            AmendError::File { .. }
            | AmendError::Foreign { .. }
            | AmendError::Refused { .. }
            | AmendError::Stale { .. }
            | AmendError::OtherManifest { .. }
            | AmendError::Signature { .. }
            | AmendError::Message(_) => REJECTED,
            _ => FAILED,
        };
        let result = Self::from_error(code, &error);
        match error {
            AmendError::Init(error) => {
                let mut result = Self::from(error);
                for hint in &mut result.hints {
                    *hint = hint.replace("no home was made", "nothing was signed");
                }
                result
            }
            AmendError::Key(error) => error.into(),
            AmendError::Cut(error) => error.into(),
            AmendError::Sign(error) => error.into(),
            AmendError::Repository(error) => error.into(),
            AmendError::Home(error) => error.into(),
            AmendError::Edit(EditError::TooFew { .. }) => {
                result.hint("nothing was changed; put new keys in their place, or set the threshold first")
            }
            AmendError::Edit(EditError::Online(key)) => result.hint_command(
                "nothing was changed; put a new one in its place using:",
                &["key", "rotate", key.as_str()],
            ),
            AmendError::Edit(_) => {
                result.hint_command("nothing was changed; see what the policy has using:", &["policy", "check"])
            }
            AmendError::Other(words) => unfinished(result, &words),
            AmendError::NotMade { policy, .. } => {
                let generate =
                    format!("release key generate --holder NAME --token SERIAL --policy {}", shell_path(&policy));
                result
                    .hint_lines("nothing was signed; each person makes keys in a token using:", &[generate])
                    .hint("then run the same command again")
                    .hint("people who have terminals of their own make theirs there, by a copy of that folder")
                    .hint("for demonstrations and tests, say --software-keys")
            }
            AmendError::Foreign { .. } => result.hint(
                "plug in the token in which you have made it, and run the same command again; if nobody here has made \
                 it, find out who has",
            ),
            AmendError::NoKeyHere => result.hint("nothing was signed; use a terminal that has keys of those who sign"),
            AmendError::Stale { .. } | AmendError::OtherManifest { .. } => result
                .hint_command("bring the older home up to date, and ask again; using:", &["import", "--from", "DIR"]),
            AmendError::StillWorks { .. } | AmendError::NoTrial(_) => {
                result.hint("the old keys hold as before; ask for help with this message")
            }
            _ => result,
        }
    }
}
