//! `release policy`: the project's rules.

use std::path::Path;
use std::path::PathBuf;

use serde_json::json;

use super::error::CommandError;
use super::key::change;
use super::ui::Ui;
use super::ui::counted;
use crate::home;
use crate::home::HomeError;
use crate::policy::Policy;
use crate::policy::Span;

/// The project's rules
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check a policy file and show what it says
    Check {
        /// The file; default: that of the home
        file: Option<PathBuf>,
    },
    Change(Change),
}

/// Change products, sources and everything else that the policy says
///
/// Take a copy of the `policy.toml` of the home, with its comments, and change that.
/// Files with keys of maintainers that it names are found beside it, or in the home. The
/// change is signed as one of keys is (`release key rotate --help`): as many people as
/// must sign `targets`, on their own terminals; each is shown the lines that change. A
/// product that has releases stays.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  Let one more product be released:
      release policy change new.toml")]
pub struct Change {
    /// The new policy
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    common: change::Common,
}

/// Runs `release policy`.
pub fn run(command: &Command, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let file = match command {
        Command::Check { file } => file,
        Command::Change(Change { file, common }) => return change::policy(file, common, home, ui),
    };
    let path = file.clone().unwrap_or_else(|| home.join("policy.toml"));
    let text = home::read_text(&path)?.ok_or_else(|| {
        CommandError::failed(format!("there is no file {}", path.display()))
            .hint_command("examples/policy.toml is a whole policy; name yours using:", &["policy", "check", "FILE"])
    })?;
    let policy = Policy::parse(&path, text).map_err(HomeError::from)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let missing = |file: &&str| !folder.join(file).exists();
    let tag_files: Vec<&str> = policy.tag_files().filter(missing).collect();
    let keys: Vec<&str> = policy.files().filter(missing).filter(|file| !tag_files.contains(file)).collect();
    let of = |threshold: &Span<u32>, keys: usize| format!("{} of {}", threshold.get_ref(), counted(keys, "person"));
    let (root, targets) = (&policy.role.root, &policy.role.targets);
    let mut lines = vec![format!("{} is well formed", path.display())];
    for (name, role) in [("root", root), ("targets", targets)] {
        lines.push(format!("  {name:<12} {}", of(&role.threshold, role.keys.len())));
    }
    for (name, product) in &policy.products {
        let people = of(&product.threshold, product.keys.len());
        let rebuilds = counted(*product.rebuilds.get_ref() as usize, "independent rebuild");
        lines.push(format!("  {:<12} {people}, {rebuilds}", name.as_str()));
    }
    let facts = json!({
        "version": 1,
        "policy": path.display().to_string(),
        "products": policy.products.keys().collect::<Vec<_>>(),
        "insecure": policy.insecure(),
        "keys_to_be_made": keys,
    });
    if !ui.json {
        ui.data(&lines.join("\n"));
    }
    for name in policy.insecure() {
        ui.warn(&format!("demonstration only: `insecure-{name}` is set"));
    }
    if !tag_files.is_empty() {
        let message = format!("files that {} names are missing: {}", path.display(), tag_files.join(", "));
        let hint = "put them there, relative to the policy: they say who may sign tags";
        return Err(CommandError::failed(message).hint(hint).facts(facts));
    }
    if ui.json {
        ui.data(&facts.to_string());
    }
    let makes = if policy.insecure_software_keys { "release init" } else { "release key generate" };
    match keys.len() {
        0 => {}
        1 => ui.say(&format!("1 public key of it does not exist yet; `{makes}` makes it.")),
        count => ui.say(&format!("{count} public keys of it do not exist yet; `{makes}` makes them.")),
    }
    Ok(0)
}
