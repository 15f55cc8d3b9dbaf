//! `release window`: the network of this terminal.

use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use super::error::CommandError;
use super::ui::Ui;
use super::ui::counted;
use crate::home::Home;
use crate::policy::Destination;
use crate::policy::Time;
use crate::window::State;
use crate::window::Window;
use crate::window::WindowError;
use crate::window::helper;
use crate::window::rules;

/// The network of this terminal
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Open the network for some minutes, to source or to mirrors
    ///
    /// Commands that fetch or publish open it by themselves, and close it again. This is
    /// for what only looks: `release status`, `mirror check`, `mirror audit`, `import
    /// --from`. It closes by itself, and what was connected ends with it.
    ///
    /// Tries from here that nothing else can be reached, and writes both to the journal.
    #[command(after_long_help = "\
Examples:
  Look at the mirrors:
      release window open --for 5m --to mirrors
      release status
      release window close")]
    Open {
        /// Where it leads: `source` or `mirrors`
        #[arg(long, value_name = "WHERE")]
        to: Destination,
        /// How long it stays open, at most 1h
        #[arg(long = "for", value_name = "TIME", default_value = "20m", value_parser = at_most_an_hour)]
        time: Time,
    },
    /// Close the network
    Close,
    /// Is the network open?
    Status,
    /// Print the firewall that terminal.toml asks for, as a file for nft
    ///
    /// Root loads it. What can be reached at all stands in it, by address.
    #[command(after_long_help = "\
Examples:
  As root, after a change of terminal.toml:
      release window rules >/etc/release/terminal.nft
      systemctl restart release-firewall")]
    Rules,
}

fn at_most_an_hour(text: &str) -> Result<Time, String> {
    let time = Time::try_from(text.to_owned())?;
    if time.duration().as_secs() > helper::MAX_SECONDS {
        return Err("a window is open for an hour at most; it can be opened again".to_owned());
    }
    Ok(time)
}

/// Runs `release window`.
pub fn run(command: &Command, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let now = &Timestamp::now;
    let state = match command {
        Command::Open { to, time } => {
            let home = Home::open(home)?;
            let _lock = home.lock("release window open")?;
            Window::of(&home, ui, now).open(*to, time.duration(), &mut home.journal()?)?
        }
        Command::Close => {
            let home = Home::open(home)?;
            let _lock = home.lock("release window close")?;
            Window::of(&home, ui, now).close(&mut home.journal()?)?
        }
        Command::Status => Window::state()?,
        Command::Rules => {
            let rules = rules::render(&Home::open(home)?)?;
            if ui.json {
                ui.data(&json!({ "version": 1, "rules": rules }).to_string());
            } else {
                ui.script(rules.trim_end());
            }
            return Ok(0);
        }
    };
    show(&state, ui)?;
    Ok(0)
}

fn show(state: &State, ui: &Ui) -> Result<(), CommandError> {
    let rules = state.rules.ok_or(WindowError::NotLoaded)?;
    if ui.json {
        let open = state.open.map(|(to, seconds)| json!({ "to": to, "seconds": seconds }));
        let (out, r#in) = state.refused;
        let facts = json!({ "version": 1, "open": open, "rules": rules, "refused": { "out": out, "in": r#in } });
        ui.data(&facts.to_string());
        return Ok(());
    }
    let packets = |count: u64| counted(usize::try_from(count).unwrap_or(usize::MAX), "packet");
    let open = match state.open {
        Some((to, seconds)) => {
            format!("open to {to}, for {}", counted(usize::try_from(seconds).unwrap_or(usize::MAX), "more second"))
        }
        None => "closed".to_owned(),
    };
    ui.data(&format!("  network  {open}"));
    ui.data(&format!("  refused  {} out, {} in", packets(state.refused.0), packets(state.refused.1)));
    ui.data(&format!("  rules    sha256 {rules}"));
    Ok(())
}
