//! The window: the kernel of a terminal lets nothing in or out, but to hosts of source
//! or to mirrors, for as long as something is fetched or published.
//!
//! This program has no right to change that. It asks a small helper, which knows a few
//! words and no address ([`helper`]); what can be reached at all stands in rules that
//! root has loaded ([`rules`]). The kernel closes the window after a lease, which is
//! renewed while there is work: when this program is killed, the window closes by itself,
//! and what was connected ends with it.
//!
//! Each opening is written to the journal, with the digest of the rules that the kernel
//! has, which must be those of `terminal.toml`, and with what was tried from here and
//! refused meanwhile.

pub mod helper;
mod probe;
pub mod rules;

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use jiff::Timestamp;

use self::helper::Request;
use self::probe::Tried;
use crate::home;
use crate::home::Event as Entry;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::manifest::Sha256;
use crate::manifest::json::JsonError;
use crate::policy::Destination;
use crate::policy::WindowEntry;
use crate::process::ProcessError;
use crate::progress::Event;
use crate::progress::Evidence;
use crate::progress::Progress;
use crate::progress::Stage;

pub use helper::State;

/// How long the window stays open after this program was killed. It is renewed in a
/// quarter of that.
const LEASE: Duration = Duration::from_secs(60);
/// A port on which nobody is pinned to serve (RFC 863).
const DISCARD: u16 = 9;

/// A window that was not opened or not closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WindowError {
    /// This machine has no firewall of ours.
    #[error("terminal.toml has no [window]")]
    NoFirewall,
    /// The rules name addresses only.
    #[error("terminal.toml has no `address` for the host {0}, and the firewall takes addresses only")]
    NoAddress(String),
    /// nft is missing, or does not take the rules.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The journal cannot be written.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The helper is not there.
    #[error("cannot talk over {}", helper::SOCKET)]
    Helper(#[source] io::Error),
    /// Somebody else is there.
    #[error("{} is not served by root", helper::SOCKET)]
    Stranger,
    /// The helper says what it never says.
    #[error("the window helper gave an unexpected answer: {0}")]
    Answer(String),
    /// The helper does not do it.
    #[error("the window helper says: {0}")]
    Refused(String),
    /// Who asks has no right to.
    #[error("user {0} may not use the window")]
    Peer(u32),
    /// No request of those that there are.
    #[error("this is no request")]
    Request,
    /// nft says what it never says.
    #[error("nft gave an unexpected answer: {0}")]
    Listing(#[from] JsonError),
    /// The kernel has no rules.
    #[error("the kernel has no firewall of ours: nothing keeps this terminal off the network")]
    NotLoaded,
    /// The kernel took a change, and did not make it.
    #[error("the kernel did not change the window as it was told")]
    NotDone,
    /// The kernel has other rules than those of this home.
    #[error("the firewall in the kernel (sha256 {kernel}) is not the one of this home (sha256 {ours})")]
    OtherRules {
        /// Digest of those in the kernel.
        kernel: Sha256,
        /// Digest of those of this home.
        ours: Sha256,
    },
    /// Something can be reached that should not.
    #[error("{} can be reached from this terminal, and must not be{}", list(.hosts), while_open(*.to))]
    Reachable {
        /// Where the window led, if it was open.
        to: Option<Destination>,
        /// What.
        hosts: Vec<SocketAddr>,
    },
    /// Something else refuses: who knows what, and for how long.
    #[error("{tried} hosts were refused, but the firewall of this terminal refused {counted} packets only")]
    Uncounted {
        /// How many were tried and refused.
        tried: usize,
        /// How many packets were refused by our rules.
        counted: u64,
    },
}

fn list(hosts: &[SocketAddr]) -> String {
    hosts.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
}

fn while_open(to: Option<Destination>) -> String {
    to.map_or_else(String::new, |to| format!(" while the window leads to {to}"))
}

/// The window of a home.
pub struct Window<'a> {
    home: &'a Home,
    progress: &'a dyn Progress,
    now: &'a dyn Fn() -> Timestamp,
}

impl<'a> Window<'a> {
    /// The window of `home`.
    pub fn of(home: &'a Home, progress: &'a dyn Progress, now: &'a dyn Fn() -> Timestamp) -> Self {
        Self { home, progress, now }
    }

    /// Does `work` while the window is open, if this machine has a firewall and
    /// `work` needs a network to get there. The caller holds the lock.
    ///
    /// # Errors
    /// The window cannot be opened, and nothing was done; those of `work`; the window
    /// is not closed.
    pub fn through<T, E: From<WindowError>>(
        &self,
        to: Destination,
        journal: &mut Journal,
        work: impl FnOnce(&mut Journal) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.home.terminal.window.is_none() || rules::pinned(self.home, to)?.is_empty() {
            return work(journal);
        }
        let lease = home::patience(LEASE);
        self.open(to, lease, journal)?;
        let (result, renewed) = std::thread::scope(|scope| {
            let (working, ended) = mpsc::channel();
            let renewing = scope.spawn(move || renew(to, lease, &ended));
            let result = work(journal);
            drop(working);
            (result, renewing.join().unwrap_or(Ok(())))
        });
        let closed = self.close(journal);
        if let Err(error) = renewed {
            let text = format!("the window to {to} closed while it was used: {error}");
            self.progress.event(Event::Warning(&text));
        }
        let result = result?;
        closed?;
        Ok(result)
    }

    /// Opens the window for some time, at most an hour; what was open to elsewhere is
    /// closed. Tries what it must not lead to.
    ///
    /// # Errors
    /// The rules in the kernel are not ours; something else can be reached. The window is
    /// closed then.
    pub fn open(&self, to: Destination, time: Duration, journal: &mut Journal) -> Result<State, WindowError> {
        let ours = rules::expected(self.home, self.progress)?;
        let before = helper::ask(Request::Status)?;
        let kernel = before.rules.ok_or(WindowError::NotLoaded)?;
        if kernel != ours {
            return Err(WindowError::OtherRules { kernel, ours });
        }
        let seconds = time.as_secs().clamp(1, helper::MAX_SECONDS);
        helper::ask(Request::Open(to, seconds))?;
        let mut opened = || {
            let refused = refused(Some(to), &self.elsewhere(Some(to))?, before.refused.0)?;
            let tried = refused.len();
            journal.append((self.now)(), Entry::WindowOpened { to, seconds, rules: kernel, refused })?;
            Ok(tried)
        };
        match opened() {
            Ok(refused) => {
                let evidence = Evidence::Opened { to: to.as_str(), refused };
                self.progress.event(Event::Done { stage: Stage::Window, evidence });
                helper::ask(Request::Status)
            }
            Err(error) => {
                // That it could not be opened as it should is what counts.
                let _ = helper::ask(Request::Close);
                Err(error)
            }
        }
    }

    /// Closes the window, and tries whether it is.
    ///
    /// # Errors
    /// Something can be reached.
    pub fn close(&self, journal: &mut Journal) -> Result<State, WindowError> {
        let before = helper::ask(Request::Close)?;
        let rules = before.rules.ok_or(WindowError::NotLoaded)?;
        let refused = refused(None, &self.elsewhere(None)?, before.refused.0)?;
        let evidence = Evidence::Closed { refused: refused.len() };
        journal.append((self.now)(), Entry::WindowClosed { rules, refused: refused.clone() })?;
        self.progress.event(Event::Done { stage: Stage::Window, evidence });
        Ok(before)
    }

    /// How the window is.
    ///
    /// # Errors
    /// The helper does not know.
    pub fn state() -> Result<State, WindowError> {
        helper::ask(Request::Status)
    }

    /// What must not be reached: other pinned hosts, other ports of those that the window
    /// leads to, hosts that are nowhere, and those that `terminal.toml` names.
    fn elsewhere(&self, to: Option<Destination>) -> Result<Vec<SocketAddr>, WindowError> {
        let mut allowed = Vec::new();
        let mut hosts = probe::NOWHERE.to_vec();
        for destination in Destination::ALL {
            let pinned = rules::pinned(self.home, destination)?;
            if to == Some(destination) {
                hosts.extend(pinned.iter().map(|at| SocketAddr::new(at.ip(), DISCARD)));
                allowed.extend(pinned);
            } else {
                hosts.extend(pinned);
            }
        }
        hosts.extend(self.home.terminal.window.iter().flat_map(WindowEntry::probes));
        hosts.sort_unstable();
        hosts.dedup();
        hosts.retain(|host| !allowed.contains(host));
        Ok(hosts)
    }
}

/// Tries hosts, all of which must be refused, by our rules: they have refused `counted`
/// packets before. Gives what was tried.
fn refused(to: Option<Destination>, hosts: &[SocketAddr], counted: u64) -> Result<Vec<String>, WindowError> {
    let tried = probe::all(hosts);
    let reached: Vec<SocketAddr> =
        tried.iter().filter(|(_, tried)| *tried == Tried::Left).map(|(host, _)| *host).collect();
    if !reached.is_empty() {
        return Err(WindowError::Reachable { to, hosts: reached });
    }
    let refused = tried.iter().filter(|(_, tried)| *tried == Tried::Refused).count();
    let counted = helper::ask(Request::Status)?.refused.0.saturating_sub(counted);
    if counted < refused as u64 {
        return Err(WindowError::Uncounted { tried: refused, counted });
    }
    Ok(tried.into_iter().map(|(host, _)| host.to_string()).collect())
}

/// Opens the window again and again until `ended` is hung up.
fn renew(to: Destination, lease: Duration, ended: &mpsc::Receiver<()>) -> Result<(), WindowError> {
    while ended.recv_timeout(lease / 4) == Err(RecvTimeoutError::Timeout) {
        helper::ask(Request::Open(to, lease.as_secs().max(1)))?;
    }
    Ok(())
}
