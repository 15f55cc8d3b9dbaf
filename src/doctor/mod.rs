//! What is true of this machine and its home, and what to do about it: one finding for
//! each thing that a release rests on. Changes nothing, asks no PIN, and uses no network.

mod machine;

use std::fs;
use std::path::Path;

use jiff::Timestamp;

use crate::cut;
use crate::cut::CutError;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::key::KeyError;
use crate::key::piv;
use crate::manifest::Sha256;
use crate::policy::Size;
use crate::process;
use crate::progress::Progress;
use crate::repository::State;
use crate::window::Window;
use crate::window::WindowError;
use crate::window::rules;

/// Where a terminal image leaves its SHA-256 when it boots.
const IMAGE: &str = "/run/release/image";
/// A home with less free space cannot be relied on, in bytes.
const LEAST_SPACE: u64 = 2 << 30;

/// How good a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// As it should be.
    Good,
    /// Somebody should know.
    Care,
    /// To be mended before the next release.
    Bad,
}

impl Grade {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Care => "care",
            Self::Bad => "bad",
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Of what.
    pub what: &'static str,
    /// How good it is.
    pub grade: Grade,
    /// What it is like.
    pub found: String,
    /// What to do.
    pub fix: Option<String>,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, grade: Grade::Good, found: found.into(), fix: None }
    }

    fn care(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what, grade: Grade::Care, found: found.into(), fix: Some(fix.into()) }
    }

    fn bad(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { grade: Grade::Bad, ..Self::care(what, found, fix) }
    }
}

/// Looks at everything.
///
/// # Errors
/// The home cannot be read.
pub fn examine(home: &Home, progress: &dyn Progress, now: Timestamp) -> Result<Vec<Finding>, CutError> {
    let journal = home.journal()?;
    let state = State::load(&home.repository())?;
    let mut all = vec![image(), user()];
    all.extend(machine::examine(Path::new("/proc"))?);
    all.push(programs());
    all.push(firewall(home, progress));
    all.extend(tokens(home));
    all.push(clock(&journal, &state, now));
    all.push(disk(home)?);
    all.extend(expiries(home, &state, now)?);
    Ok(all)
}

fn image() -> Finding {
    let digest = fs::read_to_string(IMAGE).ok().and_then(|text| text.trim_end().parse::<Sha256>().ok());
    match digest {
        Some(digest) => Finding::good("image", format!("sha256 {digest}")),
        None => Finding::care(
            "image",
            "this machine runs no terminal image",
            "nobody can compare what runs here: keep the machine for releases, and nothing else",
        ),
    }
}

fn user() -> Finding {
    if rustix::process::geteuid().is_root() {
        return Finding::care("user", "root", "run `release` as a user of its own, without sudo");
    }
    Finding::good("user", "not root")
}

fn programs() -> Finding {
    let missing: Vec<&str> =
        ["bwrap", "git", "ssh", "unshare"].into_iter().filter(|name| !process::is_installed(name)).collect();
    if missing.is_empty() {
        return Finding::good("programs", "all are installed");
    }
    let fix = "as root: apt-get install bubblewrap git openssh-client util-linux";
    Finding::bad("programs", format!("{} missing", missing.join(", ")), fix)
}

fn firewall(home: &Home, progress: &dyn Progress) -> Finding {
    const LOAD: &str = "as root: scripts/terminal HOME, as RELEASING.md says in *Keep the terminal off the network*";
    if home.terminal.window.is_none() {
        return Finding::care("firewall", "terminal.toml has no [window]", LOAD);
    }
    let look = || {
        let (ours, state) = (rules::expected(home, progress)?, Window::state()?);
        match state.rules {
            Some(kernel) if kernel == ours => Ok(state),
            Some(kernel) => Err(WindowError::OtherRules { kernel, ours }),
            None => Err(WindowError::NotLoaded),
        }
    };
    match look() {
        Err(error) => Finding::bad("firewall", error.to_string(), LOAD),
        Ok(state) => match state.open {
            None => Finding::good("firewall", "loaded, and the network is closed"),
            Some((to, seconds)) => Finding::care(
                "firewall",
                format!("the network is open to {to}, for {seconds} more seconds"),
                "if nothing is under way: release window close",
            ),
        },
    }
}

fn tokens(home: &Home) -> Vec<Finding> {
    let mut wanted: Vec<u32> = home.terminal.keys_in_tokens().map(|(_, serial)| serial).collect();
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        let fix = "keys in files are for demonstrations: release key rotate KEY --token SERIAL";
        return vec![Finding::care("tokens", "terminal.toml names none", fix)];
    }
    let mut plugged = match piv::all() {
        Ok(tokens) => tokens,
        Err(error @ KeyError::NoTokenService(_)) => {
            return vec![Finding::bad("tokens", error.to_string(), "as root: systemctl start pcscd.socket")];
        }
        Err(error) => return vec![Finding::bad("tokens", error.to_string(), "plug them in again")],
    };
    let look = |serial: u32| match plugged.iter_mut().find(|token| token.serial() == serial) {
        None => Finding::care("tokens", format!("{serial} is not plugged in"), "plug it in for the release"),
        Some(token) => match token.tries() {
            Ok(0) => Finding::bad(
                "tokens",
                format!("the PIN of {serial} is blocked"),
                format!("release key unblock --token {serial}"),
            ),
            Ok(1) => Finding::care(
                "tokens",
                format!("{serial} has one try of its PIN left"),
                format!("if nobody knows the PIN for sure: release key unblock --token {serial}"),
            ),
            Ok(left) => Finding::good("tokens", format!("{serial} is plugged in; {left} tries of its PIN left")),
            Err(error) => Finding::bad("tokens", format!("{serial}: {error}"), "pull it out, and plug it in again"),
        },
    };
    wanted.into_iter().map(look).collect()
}

fn clock(journal: &Journal, state: &State, now: Timestamp) -> Finding {
    let time = now.strftime("%Y-%m-%d %H:%M:%S UTC");
    match journal.last_time().max(state.sealed()) {
        Some(last) if last > now => Finding::bad(
            "clock",
            format!("{time} is before {}, when this home was last used", last.strftime("%Y-%m-%d %H:%M:%S UTC")),
            "set the clock",
        ),
        Some(last) if now.duration_since(last) > cut::UNATTENDED => Finding::care(
            "clock",
            format!("{time}; this home was last used on {}", last.strftime("%Y-%m-%d")),
            "compare it with another clock: the next release asks for today's date",
        ),
        _ => Finding::good("clock", time.to_string()),
    }
}

fn disk(home: &Home) -> Result<Finding, HomeError> {
    let free = atomic::free_space(home.folder()).map_err(|error| HomeError::io(home.folder(), error))?;
    let (found, build) = (format!("{} free", Size::new(free)), home.terminal.sandbox.disk);
    Ok(match free {
        free if free < LEAST_SPACE => Finding::bad("disk", found, "see RELEASING.md, *Make space*"),
        free if free < build.bytes() => {
            Finding::care("disk", format!("{found}; one build may take {build}"), "see RELEASING.md, *Make space*")
        }
        _ => Finding::good("disk", found),
    })
}

fn expiries(home: &Home, state: &State, now: Timestamp) -> Result<Vec<Finding>, CutError> {
    let all = cut::calendar(state, home)?;
    let first = all.first().map(|expiry| expiry.at);
    let due: Vec<Finding> = all
        .into_iter()
        .filter(|expiry| expiry.due < now)
        .map(|expiry| {
            let date = expiry.at.strftime("%Y-%m-%d");
            let (word, grade) = if expiry.at < now { ("expired", Grade::Bad) } else { ("expires", Grade::Care) };
            let fix = Some(format!("release {}", expiry.command));
            Finding { what: "expiry", grade, found: format!("{} {word} on {date}", expiry.what), fix }
        })
        .collect();
    if !due.is_empty() {
        return Ok(due);
    }
    let found =
        first.map_or_else(|| "nothing expires".to_owned(), |at| format!("nothing before {}", at.strftime("%Y-%m-%d")));
    Ok(vec![Finding::good("expiry", found)])
}
