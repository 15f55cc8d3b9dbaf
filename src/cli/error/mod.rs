//! Errors at the border to people: the kind gives the exit code, causes say
//! why, hints give the next command. The only place where hints are attached.

#[cfg(feature = "terminal")]
mod amend;
#[cfg(feature = "terminal")]
mod courier;
#[cfg(feature = "terminal")]
mod cut;
#[cfg(feature = "terminal")]
mod terminal;
#[cfg(feature = "terminal")]
mod window;

use std::error::Error;
use std::io;
use std::io::ErrorKind;
#[cfg(feature = "terminal")]
use std::path::Path;

use rustix::io::Errno;
use serde_json::Value;
use serde_json::json;

use crate::verify::Rejection;
use crate::verify::VerifyError;

#[cfg(feature = "terminal")]
pub use courier::COPY;
#[cfg(feature = "terminal")]
pub use cut::Stop;
#[cfg(feature = "terminal")]
use terminal::install;
#[cfg(feature = "terminal")]
pub(super) use terminal::with_publish_hint;

/// The command could not do it: file missing, network down, build failed.
pub const FAILED: u8 = 1;
/// Wrong arguments.
pub const USAGE: u8 = 2;
/// REJECTED.
pub const REJECTED: u8 = 3;
/// Some mirrors only.
pub const PARTIAL: u8 = 4;
/// STALE.
pub const STALE: u8 = 5;
/// WAITING for another person.
pub const WAITING: u8 = 6;
/// A fault of this program.
pub const INTERNAL: u8 = 70;

/// An error as a person sees it.
#[derive(Debug)]
pub struct CommandError {
    code: u8,
    message: String,
    causes: Vec<String>,
    hints: Vec<String>,
    /// What machines should know besides.
    facts: Option<Value>,
    /// What to free or to allow, where the system refused something.
    remedy: Option<&'static str>,
}

/// How a command of ours begins in a hint.
const COMMAND: &str = "    release ";

/// What parsers quote can be as long as what they parse.
fn bounded(mut text: String) -> String {
    const SHOWN: usize = 4000;
    if let Some((end, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}

impl CommandError {
    /// An error with this exit code.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: bounded(message.into()),
            causes: Vec::new(),
            hints: Vec::new(),
            facts: None,
            remedy: None,
        }
    }

    /// The command could not do it.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(FAILED, message)
    }

    /// Wrong arguments.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// The system refused us something; `message` says what.
    pub fn system(message: impl Into<String>, error: &io::Error) -> Self {
        Self { remedy: remedy(error), ..Self::failed(message) }
    }

    /// An error with its whole chain of causes.
    pub fn from_error(code: u8, error: &(dyn Error + 'static)) -> Self {
        let mut result = Self::new(code, error.to_string());
        result.remedy = error.downcast_ref().and_then(remedy);
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            result.remedy = result.remedy.or_else(|| inner.downcast_ref().and_then(remedy));
            // Some libraries repeat their cause in their own message.
            if !result.message.contains(&text) && result.causes.last() != Some(&text) {
                result.causes.push(bounded(text));
            }
            cause = inner.source();
        }
        result
    }

    /// Adds a cause.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(bounded(cause.into()));
        self
    }

    /// Takes over the advice of another error, unless it is given already.
    #[must_use]
    pub fn hints_of(mut self, other: &Self) -> Self {
        let new: Vec<String> = other.hints.iter().filter(|hint| !self.hints.contains(hint)).cloned().collect();
        self.hints.extend(new);
        self
    }

    /// Adds advice in prose.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds a command that helps. `why` ends in "using:".
    #[must_use]
    pub fn hint_command(self, why: &str, arguments: &[&str]) -> Self {
        #[cfg(debug_assertions)]
        check_hint(arguments);
        self.hint(format!("{why}\n\n{COMMAND}{}", arguments.join(" ")))
    }

    /// Adds commands of other programs that help. `why` ends in a colon.
    #[must_use]
    #[cfg(feature = "terminal")]
    pub fn hint_lines(self, why: &str, lines: &[String]) -> Self {
        self.hint(format!("{why}\n\n    {}", lines.join("\n    ")))
    }

    /// Adds what machines should know besides: a JSON object.
    #[must_use]
    #[cfg(feature = "terminal")]
    pub fn facts(mut self, facts: Value) -> Self {
        self.facts = Some(facts);
        self
    }

    /// Takes over what helps against an error that this one speaks of.
    #[must_use]
    pub fn remedy_of(mut self, other: &Self) -> Self {
        self.remedy = self.remedy.or(other.remedy);
        self
    }

    /// Says first what to free or to allow, where the system refused us something.
    #[must_use]
    pub fn with_remedy(mut self) -> Self {
        let knows = self.hints.iter().any(|hint| hint.contains("free some space"));
        if let Some(remedy) = self.remedy.filter(|_| !knows) {
            let goes_on = self.hints.iter().any(|hint| hint.contains(COMMAND));
            let again = if goes_on { "" } else { ", then run the same command again" };
            self.hints.insert(0, format!("{remedy}{again}"));
        }
        self
    }

    /// Says which home our commands in hints are for, where the command line said.
    #[must_use]
    #[cfg(feature = "terminal")]
    pub fn in_home(mut self, home: &Path) -> Self {
        let home = shell_path(home);
        for hint in &mut self.hints {
            if hint.lines().last().is_some_and(|line| line.starts_with(COMMAND)) {
                hint.push_str(" --home ");
                hint.push_str(&home);
            }
        }
        self
    }

    /// The error as JSON.
    pub fn to_json(&self) -> Value {
        let mut value = self.facts.clone().unwrap_or_else(|| json!({ "version": 1 }));
        value["exit"] = json!(self.code);
        value["error"] = json!(self.message);
        value["causes"] = json!(self.causes);
        value["hints"] = json!(self.hints);
        value
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// What happened.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Why, outermost first.
    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    /// What to do.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

/// What helps where the system refused us something. Decided by its own error, never
/// by words: a host or a medium can say anything.
fn remedy(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::StorageFull => Some("free some space on the file system of that path (`df` shows how full it is)"),
        ErrorKind::QuotaExceeded => Some("free some space there, or have the quota raised"),
        ErrorKind::ReadOnlyFilesystem => Some("have the file system of that path mounted so that it can be written"),
        ErrorKind::PermissionDenied => {
            Some("give the user who runs this the right to use that path, also in the folders above")
        }
        _ if Errno::from_io_error(error) == Some(Errno::IO) => {
            Some("look after the disk of that path; it may be failing")
        }
        _ => None,
    }
}

/// A path as a shell reads it back.
#[cfg(feature = "terminal")]
pub(super) fn shell_path(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+:@%=,".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// A hint that the parser refuses would send a tired person astray.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "a wrong hint is a fault of this program, found by its tests")]
fn check_hint(arguments: &[&str]) {
    let line = std::iter::once("release").chain(arguments.iter().copied());
    if let Err(error) = super::command().try_get_matches_from(line)
        && error.use_stderr()
    {
        panic!("the hint `release {}` does not parse: {error}", arguments.join(" "));
    }
}

impl From<Rejection> for CommandError {
    fn from(rejection: Rejection) -> Self {
        Self::from_error(REJECTED, &rejection)
    }
}

impl From<VerifyError> for CommandError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Rejected(rejection) => rejection.into(),
            VerifyError::Transport(error) => error.into(),
        }
    }
}

impl From<crate::tuf::TransportError> for CommandError {
    fn from(error: crate::tuf::TransportError) -> Self {
        use crate::tuf::TransportError;
        let code = match error {
            TransportError::TooLong { .. } | TransportError::NotAFile { .. } => REJECTED,
            _ => FAILED,
        };
        Self::from_error(code, &error)
    }
}
