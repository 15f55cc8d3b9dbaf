//! `release export`: what a courier carries to mirrors.

use std::path::Path;
use std::path::PathBuf;

use serde_json::json;

use super::error::CommandError;
use super::ui::Ui;
use super::ui::counted;
use super::ui::size;
use crate::courier::export;
use crate::home::Home;
use crate::repository::Pending;
use crate::repository::State;

/// Write what a courier carries to mirrors
///
/// Writes what the mirrors lack that only a courier reaches, by the receipts that he
/// has brought: each content once, and all names beside it. DIR is made if it is not
/// there, and must have nothing else in it. Needs no key.
///
/// To go on after an interruption, run the same command again.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  Write what mirrors lack:
      release export /media/stick/kestrel

  For a new mirror, a new courier, or a mirror that has lost files:
      release export /media/stick/kestrel --all")]
pub struct Args {
    /// The folder to write
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Carry everything, whatever receipts say
    #[arg(long)]
    all: bool,
}

/// Runs `release export`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let _lock = home.lock("release export")?;
    Pending::finish_interrupted(&home)?;
    let state = State::load(&home.repository())?;
    let done = export::export(&home, &state, &args.dir, args.all, ui)?;
    if ui.json {
        let facts = json!({
            "version": 1, "serial": done.serial, "after": done.after, "files": done.files, "bytes": done.bytes,
            "digest": done.digest,
        });
        ui.data(&facts.to_string());
        return Ok(0);
    }
    let (files, size, dir) = (counted(done.files, "file"), size(done.bytes), args.dir.display());
    let what = match done.after {
        0 => "all publications".to_owned(),
        after if after == done.serial => "nothing that mirrors lack, by their receipts".to_owned(),
        after => format!("what came after publication {after}"),
    };
    ui.say(&format!("Wrote publication {} to {dir}: {what}, {files}, {size}.", done.serial));
    ui.say(&format!("The courier compares its digest:\n\n    {}", done.digest));
    Ok(0)
}
