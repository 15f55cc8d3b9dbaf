//! A private ssh-agent, for publishing over SSH: it lets the `ssh` that we start use
//! one key, for one server and account, while one push lasts.
//!
//! ssh never sees a token or its PIN, and no agent of the user is asked. The socket
//! is in a folder that only we may enter, and gone when the push is over. What ssh
//! wants signed is read: only a login as the allowed user to the server with the
//! pinned host key, which that server has proved to be its own, and no more of them
//! than there are logins to make. Nothing that comes over a forwarded connection is
//! signed.
//!
//! To be used with `IdentityAgent`, `IdentitiesOnly yes`, `IdentityFile` (see
//! [`Agent::key_file`]), `ForwardAgent no`, `HostKeyAlgorithms ssh-ed25519`, and
//! without `SSH_AUTH_SOCK` in the environment. ssh only says that its agent refused;
//! [`Agent::refusals`] says why.

mod conversation;

use std::fs;
use std::fs::Permissions;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU32;

use super::Signer;
use super::ssh::HostKey;
use super::ssh::put_string;

pub use conversation::Conversation;
pub use conversation::Refusal;

/// Longer messages are refused, in bytes. A login has less than 1,000.
const MAX_MESSAGE: u32 = 16 << 10;
/// So many refusals are kept for messages to people.
const MAX_REFUSALS: usize = 16;

/// What the agent signs.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// The account on the server.
    pub user: String,
    /// The server.
    pub host_key: HostKey,
    /// How many logins: one for each `ssh` that is started.
    pub logins: u32,
}

/// An agent that could not be started. ssh was not started either.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The socket cannot be made.
    #[error("cannot make a socket for ssh in {folder}")]
    Socket {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder for temporary files has a name that ssh would read otherwise.
    #[error("cannot make a socket for ssh in {}: its name has other characters than A-Z a-z 0-9 / . _ -", .0.display())]
    Name(PathBuf),
}

/// A running agent.
pub struct Agent {
    folder: PathBuf,
    refusals: Mutex<Vec<Refusal>>,
    connection: Mutex<Connection>,
}

/// The connection that is served.
#[derive(Default)]
struct Connection {
    stream: Option<UnixStream>,
    is_over: bool,
}

impl Agent {
    /// The socket, for `IdentityAgent`.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// The public key, for `IdentityFile`.
    pub fn key_file(&self) -> PathBuf {
        self.folder.join("key.pub")
    }

    /// What was refused, in order.
    pub fn refusals(&self) -> Vec<Refusal> {
        lock(&self.refusals).clone()
    }

    fn refuse(&self, refusal: Refusal) {
        let mut refusals = lock(&self.refusals);
        if refusals.len() < MAX_REFUSALS {
            refusals.push(refusal);
        }
    }

    /// Serves connections one after the other until the agent is stopped.
    fn run(&self, listener: &UnixListener, signer: &dyn Signer, allowed: &Allowed) {
        // Whatever ends this thread, ssh must not wait for it.
        let _stop = Stop { agent: self, listener };
        let left = AtomicU32::new(allowed.logins);
        loop {
            let accepted = listener.accept();
            let mut connection = lock(&self.connection);
            if connection.is_over {
                return;
            }
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => return self.refuse(Refusal::Socket(error.to_string())),
            };
            connection.stream = stream.try_clone().ok();
            drop(connection);
            // Who goes away in the middle of a message is not answered.
            let _ = self.talk(stream, Conversation::new(signer, allowed, &left));
            lock(&self.connection).stream = None;
        }
    }

    fn talk(&self, mut stream: UnixStream, mut conversation: Conversation<'_>) -> io::Result<()> {
        let peer = rustix::net::sockopt::socket_peercred(&stream)?.uid;
        let is_stranger = peer != rustix::process::geteuid();
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let length = u32::from_be_bytes(length);
            if length == 0 || length > MAX_MESSAGE {
                self.refuse(Refusal::Length(length));
                return Ok(());
            }
            let mut message = Vec::new();
            (&mut stream).take(length.into()).read_to_end(&mut message)?;
            if message.len() as u64 != u64::from(length) {
                return Ok(());
            }
            let answer =
                if is_stranger { Err(Refusal::Stranger(peer.as_raw())) } else { conversation.answer(&message) };
            let answer = answer.unwrap_or_else(|refusal| {
                self.refuse(refusal);
                vec![conversation::FAILURE]
            });
            let mut framed = Vec::new();
            put_string(&mut framed, &answer);
            stream.write_all(&framed)?;
        }
    }
}

/// Runs `work` with an agent for `signer`. The agent ends with it, also where it
/// panics: its socket is gone, and who still holds a connection gets no answer.
///
/// # Errors
/// The socket cannot be made; `work` was not done.
pub fn serve<T>(
    signer: &(dyn Signer + Sync),
    allowed: &Allowed,
    work: impl FnOnce(&Agent) -> T,
) -> Result<T, AgentError> {
    let temporary = std::env::temp_dir();
    let failed = |source| AgentError::Socket { folder: temporary.clone(), source };
    let folder = tempfile::Builder::new()
        .prefix("release-agent-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .map_err(failed)?;
    if !is_plain(folder.path()) {
        return Err(AgentError::Name(temporary));
    }
    let agent = Agent { folder: folder.path().to_owned(), refusals: Mutex::default(), connection: Mutex::default() };
    let start = || {
        fs::write(agent.key_file(), signer.public().to_authorized_key() + "\n")?;
        // It has its mode before it has its name: nobody sees it with the umask's.
        let unnamed = agent.folder.join("binding");
        let listener = UnixListener::bind(&unnamed)?;
        fs::set_permissions(&unnamed, Permissions::from_mode(0o600))?;
        fs::rename(&unnamed, agent.socket())?;
        Ok(listener)
    };
    let listener = start().map_err(failed)?;
    std::thread::scope(|scope| {
        let stop = Stop { agent: &agent, listener: &listener };
        std::thread::Builder::new()
            .name("ssh agent".to_owned())
            .spawn_scoped(scope, || agent.run(&listener, signer, allowed))
            .map_err(failed)?;
        let result = work(&agent);
        drop(stop);
        Ok(result)
    })
}

/// Ends the agent's thread, for which the scope waits.
struct Stop<'a> {
    agent: &'a Agent,
    listener: &'a UnixListener,
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        let mut connection = lock(&self.agent.connection);
        connection.is_over = true;
        if let Some(stream) = &connection.stream {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        // Whoever waits in `accept` is told.
        let _ = rustix::net::shutdown(self.listener, rustix::net::Shutdown::Both);
    }
}

/// Whether ssh takes a path for what it is: it expands `%` and `$`, and splits at
/// spaces.
fn is_plain(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept here is whole at any moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
