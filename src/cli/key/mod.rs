//! `release key`: keys and the tokens that hold them.

mod generate;
mod list;
mod selftest;
mod unblock;

use std::path::Path;

use super::error::CommandError;
use super::ui::Ui;

/// Keys, and the tokens that hold them
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Generate(generate::Args),
    List(list::Args),
    Selftest(selftest::Args),
    Unblock(unblock::Args),
}

/// Runs `release key`.
pub fn run(command: &Command, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    match command {
        Command::Generate(args) => generate::run(args, ui),
        Command::List(args) => list::run(args, home, ui),
        Command::Selftest(args) => selftest::run(args, home, ui),
        Command::Unblock(args) => unblock::run(args, ui),
    }
}
