//! `release policy`: the project's rules.

use std::path::Path;
use std::path::PathBuf;

use super::error;
use super::error::CommandError;
use super::ui::Ui;
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
    let missing: Vec<&str> = policy.files().filter(|file| !folder.join(file).exists()).collect();
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
        ui.warn(&format!("`insecure-{name}` is set: fit for a demonstration, not for releases"));
    }
    if missing.is_empty() {
        return Ok(0);
    }
    Err(CommandError::new(error::FAILED, format!("files that it names are missing: {}", missing.join(", ")))
        .hint_command("keys that do not exist yet are made by:", &["init", "--policy", "FILE", "--software-keys"]))
}
