//! What to do when the network window is not as it should be.

use super::CommandError;
use super::FAILED;
use super::REJECTED;
use super::install;
use crate::process::ProcessError;
use crate::window::WindowError;

/// How root loads the rules anew.
const LOAD: [&str; 2] = ["release window rules >/etc/release/terminal.nft", "systemctl restart release-firewall"];

impl From<WindowError> for CommandError {
    fn from(error: WindowError) -> Self {
        let code = match error {
            WindowError::Peer(_) | WindowError::Request => REJECTED,
            _ => FAILED,
        };
        let result = Self::from_error(code, &error);
        let as_root = |result: Self, why: &str, lines: &[&str]| {
            result.hint_lines(why, &lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>())
        };
        match error {
            WindowError::Home(error) => error.into(),
            WindowError::Process(ProcessError::Missing(program)) => install(result, &program),
            WindowError::NoFirewall => {
                result.hint("RELEASING.md says how a terminal gets one: *Keep the terminal off the network*")
            }
            WindowError::NoAddress(_) => result.hint("add `address` to its [[source]], then have root load the rules"),
            WindowError::Helper(_) | WindowError::Stranger | WindowError::Refused(_) => as_root(
                result,
                "the network is as it was; as root, start the helper, or see what it has said, using:",
                &["systemctl start release-window.socket", "journalctl -u 'release-window@*'"],
            ),
            WindowError::NotLoaded => as_root(result, "pull the cable, then, as root, load it using:", &LOAD),
            WindowError::OtherRules { .. } => as_root(
                result.hint(
                    "the network was not opened; find out who changed terminal.toml, policy.toml or the firewall",
                ),
                "if it was you, as root, load the new rules using:",
                &LOAD,
            ),
            WindowError::Reachable { .. } | WindowError::Uncounted { .. } => as_root(
                result.hint("the window was closed; pull the cable, and find out what else decides here"),
                "as root, see all rules of the kernel using:",
                &["nft list ruleset"],
            ),
            _ => result,
        }
    }
}
