//! The command line: words only. One file per command; what a command does is
//! in the stages and, for a cut, in `crate::cut`.

pub mod error;
pub mod ui;

#[cfg(feature = "terminal")]
mod abandon;
#[cfg(feature = "terminal")]
mod approve;
#[cfg(feature = "terminal")]
mod courier;
#[cfg(feature = "terminal")]
mod cut;
#[cfg(feature = "terminal")]
mod doctor;
mod download;
#[cfg(feature = "terminal")]
mod export;
#[cfg(feature = "terminal")]
mod import;
#[cfg(feature = "terminal")]
mod init;
#[cfg(feature = "terminal")]
mod key;
#[cfg(feature = "terminal")]
mod mirror;
mod pinned;
#[cfg(feature = "terminal")]
mod policy;
#[cfg(feature = "terminal")]
mod publish;
#[cfg(feature = "terminal")]
mod refresh;
#[cfg(feature = "terminal")]
mod status;
mod trust;
mod util;
mod verify;
#[cfg(feature = "terminal")]
mod window;
#[cfg(feature = "terminal")]
mod withdraw;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::FromArgMatches;
use clap::Parser;
use clap::Subcommand;
#[cfg(feature = "terminal")]
use clap::parser::ValueSource;

use self::error::CommandError;
use self::ui::Ui;

/// Cut, sign and verify releases with a threshold of people
///
/// Users need `verify`, `download` and `trust`. They trust a root of keys once;
/// from there every release is checked without asking anybody: who signed, who
/// built it, whether it is current.
///
/// Exit status: 0 done or VERIFIED; 1 could not do it; 2 usage; 3 REJECTED;
/// 4 some mirrors only; 5 STALE; 6 WAITING for another person; 70 internal error.
#[derive(Debug, Parser)]
#[command(name = "release", version, max_term_width = 80, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The terminal's state folder
    #[cfg(feature = "terminal")]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "RELEASE_HOME",
        hide_env_values = true,
        default_value = "/var/lib/release"
    )]
    home: PathBuf,
    /// The home if the command line names it, so that hints must as well.
    #[cfg(feature = "terminal")]
    #[arg(skip)]
    named_home: Option<PathBuf>,
    /// Print results as JSON on standard output
    #[arg(long, global = true)]
    json: bool,
    /// Print results and errors only
    #[arg(long, global = true)]
    quiet: bool,
    /// Show programs started and requests made
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Read PINs and passphrases from this file descriptor
    ///
    /// One line for each: the serial number of a token and its PIN, or the name
    /// of a software key and its passphrase. Each line is used at most once.
    #[cfg(feature = "terminal")]
    #[arg(long, global = true, value_name = "N")]
    pin_fd: Option<u32>,
    /// Spend the last try of this token's PIN, if one is left
    ///
    /// When that is wrong as well, the PIN is blocked. Without this, a person is
    /// asked, and a script is refused.
    #[cfg(feature = "terminal")]
    #[arg(long, global = true, value_name = "SERIAL")]
    last_try: Option<u32>,
}

#[cfg(feature = "terminal")]
impl Global {
    fn note_source_of_home(&mut self, matches: &clap::ArgMatches) {
        let is_named = matches.value_source("home") == Some(ValueSource::CommandLine);
        self.named_home = is_named.then(|| self.home.clone());
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "terminal")]
    Init(init::Args),
    #[cfg(feature = "terminal")]
    Cut(cut::Args),
    #[cfg(feature = "terminal")]
    Approve(approve::Args),
    #[cfg(feature = "terminal")]
    Rebuild(approve::RebuildArgs),
    #[cfg(feature = "terminal")]
    Publish(publish::Args),
    #[cfg(feature = "terminal")]
    Refresh(refresh::Args),
    #[cfg(feature = "terminal")]
    Status(status::Args),
    #[cfg(feature = "terminal")]
    Import(import::Args),
    #[cfg(feature = "terminal")]
    Export(export::Args),
    #[cfg(feature = "terminal")]
    #[command(subcommand)]
    Courier(courier::Command),
    #[cfg(feature = "terminal")]
    Abandon(abandon::Args),
    #[cfg(feature = "terminal")]
    Withdraw(withdraw::Args),
    #[cfg(feature = "terminal")]
    #[command(subcommand)]
    Key(key::Command),
    #[cfg(feature = "terminal")]
    #[command(subcommand)]
    Mirror(mirror::Command),
    #[cfg(feature = "terminal")]
    #[command(subcommand)]
    Policy(policy::Command),
    #[cfg(feature = "terminal")]
    #[command(subcommand)]
    Window(window::Command),
    #[cfg(feature = "terminal")]
    Doctor(doctor::Args),
    Verify(verify::Args),
    Download(download::Args),
    #[command(subcommand)]
    Trust(trust::Command),
    #[command(subcommand)]
    Util(util::Command),
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    #[cfg(feature = "terminal")]
    {
        crate::process::keep_inherited_files();
        crate::process::keep_memory_private();
    }
    crate::tuf::install_crypto();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let parse = || {
        let matches = command().try_get_matches_from(&arguments)?;
        #[cfg_attr(not(feature = "terminal"), expect(unused_mut, reason = "users have no home"))]
        let mut cli = Cli::from_arg_matches(&matches)?;
        #[cfg(feature = "terminal")]
        cli.global.note_source_of_home(&matches);
        Ok(cli)
    };
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => return ui::usage(&error, &arguments),
    };
    let ui = Ui::new(&cli.global);
    #[cfg(feature = "terminal")]
    let named_home = cli.global.named_home.clone();
    let verdict = matches!(cli.command, Command::Verify(_) | Command::Download(_));
    match run(cli, &ui).and_then(|code| ui.check_printed(code, verdict)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let error = error.with_remedy();
            #[cfg(feature = "terminal")]
            let error = match named_home {
                Some(home) => error.in_home(&home),
                None => error,
            };
            ui.error(&error);
            ExitCode::from(error.code())
        }
    }
}

fn run(cli: Cli, ui: &Ui) -> Result<u8, CommandError> {
    #[cfg(feature = "terminal")]
    let home = cli.global.home.as_path();
    match cli.command {
        #[cfg(feature = "terminal")]
        Command::Init(args) => init::run(&args, home, ui),
        #[cfg(feature = "terminal")]
        Command::Cut(args) => cut::run(&args, home, ui),
        #[cfg(feature = "terminal")]
        Command::Approve(args) => approve::run(&args, home, ui),
        #[cfg(feature = "terminal")]
        Command::Rebuild(args) => approve::rebuild(&args, home, ui),
        #[cfg(feature = "terminal")]
        Command::Publish(args) => publish::run(&args, home, ui),
        #[cfg(feature = "terminal")]
        Command::Refresh(args) => refresh::run(&args, home, ui),
        #[cfg(feature = "terminal")]
        Command::Status(args) => status::run(&args, home, ui),
        #[cfg(feature = "terminal")]
        Command::Import(args) => import::run(&args, home, ui),
        #[cfg(feature = "terminal")]
        Command::Export(args) => export::run(&args, home, ui),
        #[cfg(feature = "terminal")]
        Command::Courier(command) => courier::run(&command, home, ui),
        #[cfg(feature = "terminal")]
        Command::Abandon(args) => abandon::run(&args, home, ui),
        #[cfg(feature = "terminal")]
        Command::Withdraw(args) => withdraw::run(&args, home, ui),
        #[cfg(feature = "terminal")]
        Command::Key(command) => key::run(&command, home, ui),
        #[cfg(feature = "terminal")]
        Command::Mirror(command) => mirror::run(&command, home, ui),
        #[cfg(feature = "terminal")]
        Command::Policy(command) => policy::run(&command, home, ui),
        #[cfg(feature = "terminal")]
        Command::Window(command) => window::run(&command, home, ui),
        #[cfg(feature = "terminal")]
        Command::Doctor(args) => doctor::run(&args, home, ui),
        Command::Verify(args) => verify::run(&args, ui),
        Command::Download(args) => download::run(&args, ui),
        Command::Trust(command) => trust::run(command, ui),
        Command::Util(command) => util::run(&command, ui),
    }
}

/// The whole command line, for completions, manual pages and the check of hints.
pub fn command() -> clap::Command {
    Cli::command()
}

/// A folder of the user's data: `$XDG_DATA_HOME/release`.
fn data_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_DATA_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .or_else(|| set("LOCALAPPDATA"));
    base.map(|base| base.join("release"))
}
