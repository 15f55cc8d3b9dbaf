//! `release policy`: the project's rules.

use std::path::Path;
use std::path::PathBuf;

use super::error::CommandError;
use super::ui::Ui;
use super::ui::counted;
use crate::home;
use crate::home::HomeError;
use crate::policy::Policy;

/// The project's rules
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check a policy file and show what it says
    Check {
        /// The file; default: that of the home
        file: Option<PathBuf>,
    },
}

/// Runs `release policy`.
pub fn run(command: &Command, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let Command::Check { file } = command;
    let path = file.clone().unwrap_or_else(|| home.join("policy.toml"));
    let text =
        home::read_text(&path)?.ok_or_else(|| CommandError::failed(format!("there is no file {}", path.display())))?;
    let policy = Policy::parse(&path, text).map_err(HomeError::from)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let missing = |file: &&str| !folder.join(file).exists();
    let tag_files: Vec<&str> = policy.tag_files().filter(missing).collect();
    let keys: Vec<&str> = policy.files().filter(missing).filter(|file| !tag_files.contains(file)).collect();
    let role = |name: &str, keys: usize, threshold: u32| format!("  {name:<12} {threshold} of {keys} people");
    let mut lines = vec![format!("{} is well formed", path.display())];
    lines.push(role("root", policy.role.root.keys.len(), *policy.role.root.threshold.get_ref()));
    lines.push(role("targets", policy.role.targets.keys.len(), *policy.role.targets.threshold.get_ref()));
    for (name, product) in &policy.products {
        let rebuilds = *product.rebuilds.get_ref();
        let line = role(name.as_str(), product.keys.len(), *product.threshold.get_ref());
        lines.push(format!("{line}, {rebuilds} independent rebuilds"));
    }
    ui.data(&lines.join("\n"));
    for name in policy.insecure() {
        ui.warn(&format!("demonstration only: `insecure-{name}` is set"));
    }
    if !keys.is_empty() {
        ui.say(&format!("{} of it do not exist yet; `release init` makes them.", counted(keys.len(), "public key")));
    }
    if tag_files.is_empty() {
        return Ok(0);
    }
    Err(CommandError::failed(format!("files that it names are missing: {}", tag_files.join(", "))))
}
