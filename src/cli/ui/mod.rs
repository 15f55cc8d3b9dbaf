//! The only folder that prints or reads the terminal.
//!
//! Standard output is data: verdicts, tables, JSON. Talk, prompts and progress
//! go to standard error. Colour repeats what words say; it is off when the
//! stream is not a terminal, or a dumb one, or `NO_COLOR` is set. Bars vanish
//! when done. Everything is printed through `text`: no control characters but
//! our own, and no more than 80 columns where people read.

#[cfg(feature = "terminal")]
mod secrets;
mod text;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::MultiProgress;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;

use super::Global;
use super::error;
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
    pushes: Mutex<Pushes>,
    /// Why data could not be printed.
    unprinted: Mutex<Option<std::io::Error>>,
    #[cfg(feature = "terminal")]
    secrets: secrets::Known,
}

/// The bars of pushes to several mirrors at once.
#[derive(Default)]
struct Pushes {
    screen: MultiProgress,
    bars: Vec<(String, ProgressBar)>,
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
            pushes: Mutex::new(Pushes::default()),
            unprinted: Mutex::new(None),
            #[cfg(feature = "terminal")]
            secrets: secrets::Known::new(global.pin_fd, global.last_try),
        }
    }

    /// Prints data on standard output: lines, of which indented ones are wrapped,
    /// or one JSON value.
    pub fn data(&self, text: &str) {
        self.clear_bar();
        let text = if self.json {
            text::clean_json(text)
        } else if self.colour_out {
            text::clean_painted(&text::wrap_indented(text))
        } else {
            text::clean(&text::wrap_indented(text))
        };
        self.to_stdout(&text);
    }

    /// Prints a program of ours on standard output, as it is.
    #[cfg(feature = "terminal")]
    pub fn script(&self, text: &str) {
        self.to_stdout(text);
    }

    fn to_stdout(&self, text: &str) {
        if let Err(error) = writeln!(std::io::stdout(), "{text}")
            && let Ok(mut unprinted) = self.unprinted.lock()
        {
            unprinted.get_or_insert(error);
        }
    }

    /// The exit code of a command that ended with `code`: success is what was
    /// printed, so that nobody takes half a verdict for a whole one. Where there
    /// is no verdict, who stops reading is told nothing.
    ///
    /// # Errors
    /// Data could not be printed, and `code` would not say that something failed.
    pub fn check_printed(&self, code: u8, verdict: bool) -> Result<u8, CommandError> {
        let unprinted = self.unprinted.lock().ok().and_then(|mut unprinted| unprinted.take());
        match unprinted {
            Some(error) if code == 0 && !verdict && error.kind() == std::io::ErrorKind::BrokenPipe => Ok(error::FAILED),
            Some(error) if matches!(code, 0 | error::STALE) => {
                let message = format!("cannot write to standard output: {error}; what was printed is not all");
                Err(CommandError::failed(message))
            }
            _ => Ok(code),
        }
    }

    /// Prints talk: one or more lines on standard error.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.to_stderr(&text::wrap(&text::clean(text)));
        }
    }

    /// Prints a warning, also when quiet.
    pub fn warn(&self, text: &str) {
        self.labelled("warning:", Paint::Care, text);
    }

    /// Prints an error with causes and hints.
    pub fn error(&self, error: &CommandError) {
        if self.json {
            self.data(&error.to_json().to_string());
        }
        self.labelled("error:", Paint::Bad, error.message());
        for cause in error.causes() {
            self.to_stderr(&text::labelled("  caused by: ", &text::clean(cause)));
        }
        for hint in error.hints() {
            self.to_stderr(&format!("\n{}", text::labelled("hint: ", &text::clean(hint))));
        }
    }

    /// A word in colour, where standard output has colours.
    pub fn paint(&self, word: &str, paint: Paint) -> String {
        painted(word, paint, self.colour_out)
    }

    /// Lines on standard error that begin with a word in colour.
    fn labelled(&self, word: &str, paint: Paint, text: &str) {
        let lines = text::labelled(&format!("{word} "), &text::clean(text));
        let painted = painted(word, paint, self.colour_err);
        self.to_stderr(&lines.replacen(word, &painted, 1));
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
        if let Ok(mut pushes) = self.pushes.lock() {
            for (_, bar) in pushes.bars.drain(..) {
                bar.finish_and_clear();
            }
        }
    }

    fn start_push(&self, mirror: &str, total: u64) {
        if self.bars
            && let Ok(mut pushes) = self.pushes.lock()
        {
            let style = template("Publishing {msg:16!} [{bar:12}] {bytes}/{total_bytes} {bytes_per_sec}");
            let bar = pushes.screen.add(ProgressBar::new(total).with_style(style));
            bar.set_message(text::clean(mirror));
            pushes.bars.push((mirror.to_owned(), bar));
        }
    }

    fn advance_push(&self, mirror: &str, bytes: u64) {
        if let Ok(pushes) = self.pushes.lock()
            && let Some((_, bar)) = pushes.bars.iter().find(|(name, _)| name == mirror)
        {
            bar.inc(bytes);
        }
    }

    fn with_bar(&self, act: impl FnOnce(&ProgressBar)) {
        if let Ok(slot) = self.bar.lock()
            && let Some(bar) = slot.as_ref()
        {
            act(bar);
        }
    }

    fn start_bar(&self, message: &str) {
        self.clear_bar();
        if !self.bars {
            return;
        }
        let bar = ProgressBar::new_spinner().with_style(template("{spinner} {msg:70!}"));
        bar.set_message(text::clean(message));
        bar.enable_steady_tick(Duration::from_millis(120));
        if let Ok(mut slot) = self.bar.lock() {
            *slot = Some(bar);
        }
    }

    /// One line for a finished step, with its evidence.
    fn done(&self, verb: &str, evidence: &str) {
        if !self.quiet {
            let verb = format!("{verb:>12}");
            let lines = text::labelled(&format!("{verb}  "), &text::clean(evidence));
            self.to_stderr(&lines.replacen(&verb, &painted(&verb, Paint::Good, self.colour_err), 1));
        }
    }
}

/// Prints what clap says of a command line, and gives the exit code: help and
/// the version are no errors.
pub fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if !error.use_stderr() {
        return if error.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::from(error::FAILED) };
    }
    let said = error.render().to_string();
    if arguments.iter().any(|argument| argument == "--json") {
        let first = said.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let json = CommandError::usage(first).to_json().to_string();
        let _ = writeln!(std::io::stdout(), "{}", text::clean_json(&json));
    }
    let _ = write!(std::io::stderr(), "{}", text::wrap(&text::clean(&said)));
    ExitCode::from(error::USAGE)
}

/// A word in colour.
fn painted(word: &str, paint: Paint, colour: bool) -> String {
    let [good, care, bad, end] = text::COLOURS;
    let begin = match paint {
        Paint::Good => good,
        Paint::Care => care,
        Paint::Bad => bad,
    };
    if colour { format!("{begin}{word}{end}") } else { word.to_owned() }
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
        Stage::Enrol => "Making keys in",
        Stage::Window => "Opening",
        Stage::Sign => "Signing",
        Stage::Seal => "Sealing",
        Stage::Check => "Checking",
        Stage::Publish => "Publishing",
        Stage::Verify => "Verifying",
        Stage::Download => "Downloading",
        Stage::Import => "Taking",
        Stage::Export => "Writing",
    }
}

impl Progress for Ui {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Begin { stage, what } => self.start_bar(&format!("{} {what}", doing(stage))),
            Event::Length(total) => self.with_bar(|bar| {
                bar.set_length(total);
                bar.set_style(template("{msg:28!} [{bar:10}] {bytes}/{total_bytes} {bytes_per_sec}"));
            }),
            Event::Advance(bytes) => self.with_bar(|bar| bar.inc(bytes)),
            Event::Push { mirror, total } => self.start_push(mirror, total),
            Event::Pushed { mirror, bytes } => self.advance_push(mirror, bytes),
            Event::Output(line) => {
                let shown = crate::manifest::names::quoted(line);
                self.with_bar(|bar| bar.set_message(shown.trim_matches('"').to_owned()));
            }
            Event::Done { evidence, .. } => self.evidence(&evidence),
            Event::Detail(text) => {
                if self.verbose {
                    self.say(text);
                }
            }
            Event::Program(line) | Event::Request(line) => {
                if self.verbose && !self.quiet {
                    // Not wrapped: somebody may want to run it.
                    self.to_stderr(&text::clean(&format!("+ {}", line.replace('\n', "\\n"))));
                }
            }
            Event::Touch { token, what, left } => {
                let more = match left {
                    0 => String::new(),
                    left => format!(" ({left} more)"),
                };
                // Also when quiet: it waits for a person.
                self.to_stderr(&text::wrap(&text::clean(&format!("Touch {token} to sign {what}{more}."))));
            }
            Event::Warning(text) => self.warn(text),
        }
    }
}

impl Ui {
    fn evidence(&self, evidence: &Evidence<'_>) {
        match evidence {
            Evidence::Fetched { branch, commit, signers, bundle } => {
                let from = bundle.map_or_else(String::new, |bundle| format!(", from inbox/{bundle}"));
                self.done("Fetched", &format!("{branch} at {commit}, tag signed by {}{from}", signers.join(", ")));
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
            Evidence::Agreed { files, starter } => {
                self.done("Compared", &format!("{} are what {starter} built, byte for byte", counted(*files, "file")));
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
            Evidence::Tried { key, role, how } => {
                self.done("Tried", &format!("{how} by {key} counts for nothing in {role}"));
            }
            Evidence::Secured { token, firmware } => {
                self.done("Secured", &format!("{token}, firmware {firmware}: PIN, PUK, management key"));
            }
            Evidence::Generated { key, slot, touch } => {
                self.done("Generated", &format!("{key} in slot {slot}, touch {touch}"));
            }
            Evidence::Tested { key, milliseconds } => {
                self.done("Tested", &format!("{key} signed in {}", duration(*milliseconds)));
            }
            Evidence::Opened { to, refused } => {
                self.done(
                    "Opened",
                    &format!("the network to {to}; {} tried, all refused", counted(*refused, "other host")),
                );
            }
            Evidence::Closed { refused } => {
                self.done("Closed", &format!("the network; {} tried, all refused", counted(*refused, "host")));
            }
            Evidence::Published { mirror, serial, files } => self.done(
                "Published",
                &format!("publication {serial} to mirror {mirror} ({})", counted(*files, "new file")),
            ),
        }
    }
}

/// `1 file`, `2 files`, `3 people`.
pub fn counted(count: usize, what: &str) -> String {
    match (count, what) {
        (1, _) => format!("1 {what}"),
        (_, "person") => format!("{count} people"),
        (_, "try") => format!("{count} tries"),
        _ => format!("{count} {what}s"),
    }
}

impl Ui {
    /// Whether there is a person to ask.
    pub fn can_ask(&self) -> bool {
        std::io::stdin().is_terminal()
    }

    /// Asks a question on the terminal and reads one line.
    ///
    /// # Errors
    /// There is no terminal, or it was closed.
    pub fn ask(&self, question: &str) -> Result<String, CommandError> {
        self.clear_bar();
        if !self.can_ask() {
            return Err(CommandError::usage("there is no terminal to ask on; nothing was done"));
        }
        let _ = write!(std::io::stderr(), "{}", text::clean(question));
        let _ = std::io::stderr().flush();
        let mut answer = String::new();
        match std::io::stdin().read_line(&mut answer) {
            Ok(0) | Err(_) => Err(CommandError::failed("the terminal was closed; nothing was done")),
            Ok(_) => Ok(answer),
        }
    }
}

/// Standard input, where it is the socket that this program was started for.
///
/// # Errors
/// The system refuses it.
#[cfg(feature = "terminal")]
pub fn connection() -> std::io::Result<std::os::unix::net::UnixStream> {
    use std::os::fd::AsFd as _;
    Ok(std::io::stdin().as_fd().try_clone_to_owned()?.into())
}

/// A size for people.
#[cfg(feature = "terminal")]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut scaled = bytes * 10 / 1000;
    let mut unit = 0;
    while scaled >= 10_000 && unit + 1 < UNITS.len() {
        scaled /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", scaled / 10, scaled % 10, UNITS[unit])
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
