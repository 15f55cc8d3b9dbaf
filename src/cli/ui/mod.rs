//! The only folder that prints or reads the terminal.
//!
//! Standard output is data: verdicts, tables, JSON. Talk, prompts and progress
//! go to standard error. Colour repeats what words say; it is off when the
//! stream is not a terminal, or a dumb one, or `NO_COLOR` is set. Bars vanish
//! when done.

#[cfg(feature = "terminal")]
mod secrets;

use std::io::IsTerminal;
use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::ProgressBar;
use indicatif::ProgressStyle;

use super::Global;
use super::error::CommandError;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Progress;
use crate::progress::Stage;

/// Colours by meaning.
#[derive(Debug, Clone, Copy)]
pub enum Paint {
    /// Done, VERIFIED.
    Good,
    /// STALE, warnings.
    Care,
    /// REJECTED, errors.
    Bad,
}

/// Talks to the person at the terminal.
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the command line")]
pub struct Ui {
    /// Results as JSON.
    pub json: bool,
    quiet: bool,
    bars: bool,
    verbose: bool,
    colour_out: bool,
    colour_err: bool,
    bar: Mutex<Option<ProgressBar>>,
    #[cfg(feature = "terminal")]
    secrets: secrets::Known,
}

impl Ui {
    /// A user interface as the global options ask for it.
    pub fn new(global: &Global) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = !dumb && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            json: global.json,
            quiet: global.quiet,
            bars: !dumb && !global.quiet && std::io::stderr().is_terminal(),
            verbose: global.verbose,
            colour_out: colour && std::io::stdout().is_terminal(),
            colour_err: colour && std::io::stderr().is_terminal(),
            bar: Mutex::new(None),
            #[cfg(feature = "terminal")]
            secrets: secrets::Known::new(global.pin_fd),
        }
    }

    /// Prints data: one or more lines on standard output.
    pub fn data(&self, text: &str) {
        self.clear_bar();
        // A reader that has seen enough closes the pipe; that is not an error.
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// Prints talk: one or more lines on standard error.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.to_stderr(text);
        }
    }

    /// Prints a warning, also when quiet.
    pub fn warn(&self, text: &str) {
        let word = self.painted("warning:", Paint::Care, self.colour_err);
        self.to_stderr(&format!("{word} {text}"));
    }

    /// Prints an error with causes and hints.
    pub fn error(&self, error: &CommandError) {
        if self.json {
            let value = serde_json::json!({
                "version": 1,
                "exit": error.code(),
                "error": error.message(),
                "causes": error.causes(),
                "hints": error.hints(),
            });
            self.data(&value.to_string());
        }
        let word = self.painted("error:", Paint::Bad, self.colour_err);
        let mut text = format!("{word} {}", error.message());
        for cause in error.causes() {
            text.push_str("\n  caused by: ");
            text.push_str(cause);
        }
        for hint in error.hints() {
            text.push_str("\n\nhint: ");
            text.push_str(hint);
        }
        self.to_stderr(&text);
    }

    /// A word in colour, where standard output has colours.
    pub fn paint(&self, word: &str, paint: Paint) -> String {
        self.painted(word, paint, self.colour_out)
    }

    #[expect(clippy::unused_self, reason = "reads as one of the family")]
    fn painted(&self, word: &str, paint: Paint, colour: bool) -> String {
        if !colour {
            return word.to_owned();
        }
        let code = match paint {
            Paint::Good => "1;32",
            Paint::Care => "1;33",
            Paint::Bad => "1;31",
        };
        format!("\u{1b}[{code}m{word}\u{1b}[0m")
    }

    fn to_stderr(&self, text: &str) {
        self.clear_bar();
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    fn clear_bar(&self) {
        if let Ok(mut slot) = self.bar.lock()
            && let Some(bar) = slot.take()
        {
            bar.finish_and_clear();
        }
    }

    fn with_bar(&self, act: impl FnOnce(&ProgressBar)) {
        if let Ok(slot) = self.bar.lock()
            && let Some(bar) = slot.as_ref()
        {
            act(bar);
        }
    }

    fn start_bar(&self, message: String) {
        self.clear_bar();
        if !self.bars {
            return;
        }
        let bar = ProgressBar::new_spinner().with_style(template("{spinner} {msg:.70}"));
        bar.set_message(message);
        bar.enable_steady_tick(Duration::from_millis(120));
        if let Ok(mut slot) = self.bar.lock() {
            *slot = Some(bar);
        }
    }

    /// One line for a finished step, with its evidence.
    fn done(&self, verb: &str, evidence: &str) {
        let verb = self.painted(&format!("{verb:>12}"), Paint::Good, self.colour_err);
        self.say(&format!("{verb}  {evidence}"));
    }
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// What a stage is doing, for its progress line.
fn doing(stage: Stage) -> &'static str {
    match stage {
        Stage::Fetch => "Fetching",
        Stage::Archive => "Archiving",
        Stage::Build => "Building",
        Stage::Stage => "Staging",
        Stage::Sign => "Signing",
        Stage::Seal => "Sealing",
        Stage::Check => "Checking",
        Stage::Publish => "Publishing",
        Stage::Verify => "Verifying",
        Stage::Download => "Downloading",
    }
}

impl Progress for Ui {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Begin { stage, what } => self.start_bar(format!("{} {what}", doing(stage))),
            Event::Length(total) => self.with_bar(|bar| {
                bar.set_length(total);
                bar.set_style(template("{msg:.30} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec}"));
            }),
            Event::Advance(bytes) => self.with_bar(|bar| bar.inc(bytes)),
            Event::Output(line) => {
                let shown = crate::manifest::names::quoted(line);
                self.with_bar(|bar| bar.set_message(shown.trim_matches('"').to_owned()));
            }
            Event::Done { evidence, .. } => self.evidence(&evidence),
            Event::Program(line) | Event::Request(line) => {
                if self.verbose {
                    self.say(&format!("+ {line}"));
                }
            }
            Event::Warning(text) => self.warn(text),
        }
    }
}

impl Ui {
    fn evidence(&self, evidence: &Evidence<'_>) {
        match evidence {
            Evidence::Fetched { branch, commit, signers } => {
                self.done("Fetched", &format!("{branch} at {commit}, tag signed by {}", signers.join(", ")));
            }
            Evidence::Archived { tar, files } => {
                self.done("Archived", &format!("{files} files, tar sha256 {}", tar.short()));
            }
            Evidence::Built { artifacts, milliseconds, twice } => {
                let twice = if *twice { "; a second build is identical" } else { "" };
                self.done(
                    "Built",
                    &format!("{} in {}{twice}", counted(*artifacts, "artifact"), duration(*milliseconds)),
                );
            }
            Evidence::Staged { digest } => self.done("Staged", &format!("manifest sha256 {}", digest.short())),
            Evidence::Signed { holders, of } => {
                self.done("Signed", &format!("by {} ({} of {of})", holders.join(", "), holders.len()));
            }
            Evidence::Sealed { serial } => self.done("Sealed", &format!("publication {serial}")),
            Evidence::Checked { files: 0 } => self.done("Checked", "what is sealed, as a new user"),
            Evidence::Checked { files } => {
                self.done("Checked", &format!("{} as a new and as an old user", counted(*files, "file")));
            }
            Evidence::Published { mirror, serial, files } => self.done(
                "Published",
                &format!("publication {serial} to mirror {mirror} ({})", counted(*files, "new file")),
            ),
        }
    }
}

/// `1 file`, `2 files`.
pub fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

impl Ui {
    /// Asks a question on the terminal and reads one line.
    ///
    /// # Errors
    /// There is no terminal, or it was closed.
    pub fn ask(&self, question: &str) -> Result<String, CommandError> {
        self.clear_bar();
        if !std::io::stdin().is_terminal() {
            return Err(CommandError::usage(format!(
                "there is no terminal to ask on: {}",
                question.trim_end_matches([' ', ':'])
            )));
        }
        let _ = write!(std::io::stderr(), "{question}");
        let _ = std::io::stderr().flush();
        let mut answer = String::new();
        match std::io::stdin().read_line(&mut answer) {
            Ok(0) | Err(_) => Err(CommandError::failed("the terminal was closed; nothing was done")),
            Ok(_) => Ok(answer),
        }
    }
}

/// A duration for people: `0.8 s`, `11 min 4 s`.
fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..10 => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}
