//! `release key`: keys and the tokens that hold them.

mod attest;
pub mod change;
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
    Rotate(change::Rotate),
    Revoke(change::Revoke),
    AddHolder(change::AddHolder),
    RemoveHolder(change::RemoveHolder),
    SetThreshold(change::SetThreshold),
    Recover(change::Recover),
    Renew(change::Renew),
    Abandon(change::Abandon),
}

/// Runs `release key`.
pub fn run(command: &Command, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    match command {
        Command::Generate(args) => generate::run(args, home, ui),
        Command::List(args) => list::run(args, home, ui),
        Command::Show(args) => show::run(args, home, ui),
        Command::Attest(args) => attest::run(args, home, ui),
        Command::ImportPublic(args) => import_public::run(args, ui),
        Command::Openpgp(command) => openpgp::run(command, home, ui),
        Command::Drill(args) => drill::run(args, home, ui),
        Command::Selftest(args) => selftest::run(args, home, ui),
        Command::Unblock(args) => unblock::run(args, ui),
        Command::Rotate(args) => change::rotate(args, home, ui),
        Command::Revoke(args) => change::revoke(args, home, ui),
        Command::AddHolder(args) => change::add_holder(args, home, ui),
        Command::RemoveHolder(args) => change::remove_holder(args, home, ui),
        Command::SetThreshold(args) => change::set_threshold(args, home, ui),
        Command::Recover(args) => change::recover(args, home, ui),
        Command::Renew(args) => change::renew(args, home, ui),
        Command::Abandon(args) => change::abandon(args, home, ui),
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
