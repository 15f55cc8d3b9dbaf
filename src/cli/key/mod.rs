//! `release key`: keys and the tokens that hold them.

mod attest;
mod drill;
mod generate;
mod import_public;
mod list;
mod openpgp;
mod selftest;
mod show;
mod unblock;

use std::path::Path;
use std::path::PathBuf;

use super::error::CommandError;
use super::ui::Ui;
use crate::home::Home;
use crate::home::HomeError;

/// Keys, and the tokens that hold them
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Generate(generate::Args),
    List(list::Args),
    Show(show::Args),
    Attest(attest::Args),
    ImportPublic(import_public::Args),
    #[command(subcommand)]
    Openpgp(openpgp::Command),
    Selftest(selftest::Args),
    Drill(drill::Args),
    Unblock(unblock::Args),
}

/// Runs `release key`.
pub fn run(command: &Command, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    match command {
        Command::Generate(args) => generate::run(args, ui),
        Command::List(args) => list::run(args, home, ui),
        Command::Show(args) => show::run(args, home, ui),
        Command::Attest(args) => attest::run(args, home, ui),
        Command::ImportPublic(args) => import_public::run(args, ui),
        Command::Openpgp(command) => openpgp::run(command, home, ui),
        Command::Drill(args) => drill::run(args, ui),
        Command::Selftest(args) => selftest::run(args, home, ui),
        Command::Unblock(args) => unblock::run(args, ui),
    }
}

/// The policy that was named, or that of the home.
fn policy_file(named: Option<&Path>, home: &Path) -> Result<PathBuf, CommandError> {
    match named {
        Some(path) => Ok(path.to_owned()),
        None => match Home::open(home) {
            Ok(home) => Ok(home.folder().join("policy.toml")),
            Err(error @ HomeError::NotAHome { .. }) => {
                Err(CommandError::from(error).hint("where there is no home yet, name the policy with --policy FILE"))
            }
            Err(error) => Err(error.into()),
        },
    }
}
