//! An sftp session over the pipes of `ssh`. The server is not trusted: answers
//! are bounded in size by the protocol's library, and in time and number here.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream;
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::client::rawsession::SftpResult;
use russh_sftp::extensions::HardlinkExtension;
use russh_sftp::protocol::FileAttributes;
use russh_sftp::protocol::OpenFlags;
use russh_sftp::protocol::Packet;
use russh_sftp::protocol::StatusCode;
use sha2::Digest as _;
use tempfile::TempDir;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::Account;
use super::config;
use super::config::Login;
use super::deploy::DeployKeys;
use super::deploy::Opened;
use crate::key::agent;
use crate::key::agent::Allowed;
use crate::manifest::Entry;
use crate::manifest::Sha256;
use crate::policy::SftpEntry;
use crate::process::Conversation;
use crate::publish::Content;
use crate::publish::Listed;
use crate::publish::PublishError;
use crate::publish::pace;
use crate::publish::pace::Pace;

/// How many requests are on their way at once.
pub(super) const IN_FLIGHT: usize = 32;
/// The bytes per second of the slowest disk that we wait for.
const DISK: u64 = 1_000_000;
/// What every server of OpenSSH takes in one write and gives in one read, in bytes. One
/// that takes less would make of a file so many answers that it seems to keep the pace.
const SMALL_WRITE: u64 = 32_000;
/// More is not written at once, whatever the server offers.
const LARGE_WRITE: u64 = 255_000;

/// The extensions of OpenSSH that a push needs, with their versions. A server
/// names those that the account may use.
fn extensions(account: Account) -> [(&'static str, &'static str); 4] {
    let own = match account {
        Account::Pool => "hardlink@openssh.com",
        Account::Pointer => "posix-rename@openssh.com",
    };
    [("limits@openssh.com", "1"), ("statvfs@openssh.com", "2"), ("fsync@openssh.com", "1"), (own, "1")]
}

/// A session of one account.
pub(super) struct Session {
    sftp: RawSftpSession,
    address: String,
    /// How many bytes one write may have.
    chunk: usize,
    pace: Pace,
    /// How many requests wait for an answer.
    waiting: Cell<usize>,
    /// When the last answer came, or the first of these requests was sent.
    last: Cell<Instant>,
}

/// What a name on the server stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// Type and permissions.
    pub mode: u32,
}

impl Found {
    pub(super) fn is_folder(self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    /// Whether it is a plain file that nobody can write to.
    pub(super) fn is_write_once(self) -> bool {
        self.mode == 0o100_444
    }
}

/// A link that could not be made from what is staged, for this reason: the
/// mirror's timer takes staged files away, and seals those that have a name.
#[derive(Debug)]
pub(super) struct StageAgain(pub PublishError);

/// An `ssh` that logs in while something else is done.
pub(super) struct Early(Conversation, TempDir);

/// Begins to log in at the first address, for a session that is wanted later. `None`
/// where the key is in a token: it signs for a login that is waited for.
///
/// # Errors
/// The key cannot be used; ssh cannot be run.
pub(super) fn begin(keys: &DeployKeys<'_>, entry: &SftpEntry, account: Account) -> Result<Option<Early>, PublishError> {
    let (Opened::File(path), Some(address)) = (keys.open(account.key(entry))?, entry.addresses.first()) else {
        return Ok(None);
    };
    let (ssh, folder) = config::start(keys.base(), entry, account, *address, Login::File(&path), keys.progress())?;
    Ok(Some(Early(ssh, folder)))
}

/// Opens a session at the first address that answers, and does some work; `early` has
/// begun with that. Where the key is in a token, ssh may use it for this account of
/// this server, once for each address, and nobody may use it afterwards.
///
/// # Errors
/// The key cannot be used; no session could be opened; what the work gives.
pub(super) fn with<T>(
    keys: &DeployKeys<'_>,
    entry: &SftpEntry,
    account: Account,
    early: Option<Early>,
    work: impl AsyncFnOnce(&Session) -> Result<T, PublishError>,
) -> Result<T, PublishError> {
    match keys.open(account.key(entry))? {
        Opened::File(path) => connect(keys, entry, account, (Login::File(&path), early), work),
        Opened::Token(signer) => {
            let logins = u32::try_from(entry.addresses.len()).unwrap_or(1);
            let allowed = Allowed { user: account.to_string(), host_key: entry.host_key.clone(), logins };
            agent::serve(signer.as_ref(), &allowed, |agent| {
                connect(keys, entry, account, (Login::Agent(agent), None), work)
            })?
        }
    }
}

fn connect<T>(
    keys: &DeployKeys<'_>,
    entry: &SftpEntry,
    account: Account,
    (login, early): (Login<'_>, Option<Early>),
    work: impl AsyncFnOnce(&Session) -> Result<T, PublishError>,
) -> Result<T, PublishError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| PublishError::io(Path::new("/dev/null"), error))?;
    let mut failed = None;
    // What has waited for long may have been cut off: that says nothing about the mirror.
    let begun = entry.addresses.iter().zip(early.map(Some));
    for (address, begun) in begun.chain(entry.addresses.iter().map(|address| (address, None))) {
        let (mut ssh, folder) = match begun {
            Some(Early(ssh, folder)) => (ssh, folder),
            None => config::start(keys.base(), entry, account, *address, login, keys.progress())?,
        };
        match runtime.block_on(Session::open(&mut ssh, account, *address, entry.port)) {
            Ok(session) => {
                let result = runtime.block_on(work(&session));
                drop(session);
                return explained(result, (account, login), ssh, folder);
            }
            Err(error) => failed = explained::<()>(Err(error), (account, login), ssh, folder).err(),
        }
    }
    // There is at least one address (`policy::mirror`).
    Err(failed.unwrap_or(PublishError::Ended { address: String::new(), complaint: String::new() }))
}

/// Says why a connection ended, as ssh knows it.
fn explained<T>(
    result: Result<T, PublishError>,
    (account, login): (Account, Login<'_>),
    ssh: Conversation,
    folder: TempDir,
) -> Result<T, PublishError> {
    let complaint = ssh.end();
    drop(folder);
    // What the agent refused after this follows from it.
    let refusal = match login {
        Login::File(_) => None,
        Login::Agent(agent) => agent.refusals().into_iter().next(),
    };
    result.map_err(|error| match error {
        PublishError::Ended { address, .. } if complaint.contains("Host key verification failed") => {
            PublishError::OtherHost(address)
        }
        PublishError::Ended { address, .. } if complaint.contains("Permission denied") => match refusal {
            Some(refusal) => PublishError::NotSigned { address, account, refusal },
            None => PublishError::Denied { address, account, complaint },
        },
        PublishError::Ended { address, .. } => PublishError::Ended { address, complaint },
        other => other,
    })
}

impl Session {
    async fn open(ssh: &mut Conversation, account: Account, address: IpAddr, port: u16) -> Result<Self, PublishError> {
        let address = match address {
            IpAddr::V4(address) => format!("{address}:{port}"),
            IpAddr::V6(address) => format!("[{address}]:{port}"),
        };
        let broken = |error: io::Error| PublishError::Ended { address: address.clone(), complaint: error.to_string() };
        let (Some(stdin), Some(stdout)) = (ssh.stdin.take(), ssh.stdout.take()) else {
            return Err(broken(io::ErrorKind::BrokenPipe.into()));
        };
        let writer = pipe::Sender::from_owned_fd(stdin).map_err(broken)?;
        let reader = pipe::Receiver::from_owned_fd(stdout).map_err(broken)?;
        // Time is kept here, since requests of ours wait for each other.
        let config = russh_sftp::client::Config { request_timeout_secs: u64::from(u32::MAX), ..Default::default() };
        let sftp = RawSftpSession::new_with_config(tokio::io::join(reader, writer), config);
        let (waiting, last) = (Cell::new(0), Cell::new(Instant::now()));
        let mut session = Self { sftp, address, chunk: 0, pace: Pace::new(pace::RATE), waiting, last };
        let version = session.answer(0, session.sftp.init()).await?;
        let version = version.map_err(|error| session.protocol(&error))?;
        for (name, number) in extensions(account) {
            if version.extensions.get(name).map(String::as_str) != Some(number) {
                return Err(session.protocol(&format!("it has no {name} version {number}")));
            }
        }
        let limits = session.answer(0, session.sftp.limits()).await?.map_err(|error| session.protocol(&error))?;
        let chunk = if limits.max_write_len == 0 { SMALL_WRITE } else { limits.max_write_len };
        session.chunk = usize::try_from(chunk.clamp(SMALL_WRITE, LARGE_WRITE)).unwrap_or(1024);
        Ok(session)
    }

    /// The most bytes that one write has.
    pub(super) fn chunk(&self) -> u64 {
        self.chunk as u64
    }

    fn protocol(&self, reason: &dyn std::fmt::Display) -> PublishError {
        let reason = crate::manifest::names::one_line(&reason.to_string());
        PublishError::Protocol { address: self.address.clone(), reason }
    }

    /// Waits for an answer as long as any come. `bytes` is what it acknowledges.
    async fn answer<T>(
        &self,
        bytes: u64,
        request: impl Future<Output = SftpResult<T>>,
    ) -> Result<SftpResult<T>, PublishError> {
        let asked = Instant::now();
        let patience = pace::silence() + Duration::from_secs(bytes / DISK);
        if self.waiting.replace(self.waiting.get() + 1) == 0 {
            self.last.set(asked);
        }
        let mut request = pin!(request);
        let result = loop {
            let silence = self.last.get().max(asked).elapsed();
            let Some(left) = patience.checked_sub(silence) else {
                return Err(PublishError::Silent(self.address.clone()));
            };
            if let Ok(result) = timeout(left, request.as_mut()).await {
                break result;
            }
        };
        self.waiting.set(self.waiting.get() - 1);
        let waited = self.last.replace(Instant::now()).elapsed();
        if !self.pace.keeps(waited, bytes) {
            return Err(PublishError::Silent(self.address.clone()));
        }
        match result {
            // The library's word for a stream that has ended.
            Err(SftpError::IO(_) | SftpError::UnexpectedBehavior(_)) => {
                Err(PublishError::Ended { address: self.address.clone(), complaint: String::new() })
            }
            other => Ok(other),
        }
    }

    fn refused(&self, what: &'static str, path: &str, error: &SftpError) -> PublishError {
        match error {
            SftpError::Status(status) => {
                let reason = status.status_code.to_string().to_lowercase();
                PublishError::Refused { what, path: path.to_owned(), reason }
            }
            other => self.protocol(other),
        }
    }

    /// sftp has one status for a name that is taken and for a disk that is full.
    async fn failed(&self, what: &'static str, path: &str, needed: u64, error: SftpError) -> PublishError {
        if code(&error) == Some(StatusCode::Failure)
            && let Err(full @ PublishError::Full { .. }) = self.room(path, needed.max(1)).await
        {
            return full;
        }
        self.refused(what, path, &error)
    }

    /// What a name stands for; links are not followed.
    ///
    /// # Errors
    /// The server refuses to say.
    pub(super) async fn look(&self, path: &str) -> Result<Option<Found>, PublishError> {
        match self.answer(0, self.sftp.lstat(path)).await? {
            Ok(found) => Ok(Some(Found { mode: found.attrs.permissions.unwrap_or(0) })),
            Err(error) if code(&error) == Some(StatusCode::NoSuchFile) => Ok(None),
            Err(error) => Err(self.refused("look at", path, &error)),
        }
    }

    /// All that is below a folder and is no folder itself, and folders that cannot be
    /// looked into.
    ///
    /// # Errors
    /// The server refuses, names what cannot be, or has more than `max`.
    pub(super) async fn list(&self, root: &str, max: usize) -> Result<Vec<Listed>, PublishError> {
        let mut listed = Vec::new();
        let mut seen = 0;
        let mut pending = vec![(String::new(), 0)];
        while let Some((below, mode)) = pending.pop() {
            let folder = format!("{root}/{below}");
            let handle = match self.answer(0, self.sftp.opendir(folder.as_str())).await? {
                Ok(handle) => handle.handle,
                // A thief could hide all that he has done behind one.
                Err(error) if code(&error) == Some(StatusCode::PermissionDenied) && !below.is_empty() => {
                    listed.push(Listed { path: below, mode });
                    continue;
                }
                Err(error) => return Err(self.refused("list", &folder, &error)),
            };
            loop {
                let files = match self.answer(0, self.sftp.readdir(handle.as_str())).await? {
                    Ok(names) if !names.files.is_empty() => names.files,
                    Err(error) if code(&error) != Some(StatusCode::Eof) => {
                        return Err(self.refused("list", &folder, &error));
                    }
                    _ => break,
                };
                for file in files {
                    let name = file.filename;
                    // With those of the folder itself, which must end as well.
                    seen += 1;
                    if seen > max {
                        return Err(self.protocol(&format!("it lists more than {max} names")));
                    }
                    if name == "." || name == ".." {
                        continue;
                    }
                    if name.is_empty() || name.len() > 255 || name.contains('/') || below.len() > 4096 {
                        return Err(self.protocol(&format!("what it lists in {folder} cannot be")));
                    }
                    let path = format!("{below}{name}");
                    let found = Found { mode: file.attrs.permissions.unwrap_or(0) };
                    if found.is_folder() {
                        pending.push((format!("{path}/"), found.mode));
                    } else {
                        listed.push(Listed { path, mode: found.mode });
                    }
                }
            }
            let closed = self.answer(0, self.sftp.close(handle)).await?;
            closed.map_err(|error| self.refused("list", &folder, &error))?;
        }
        Ok(listed)
    }

    /// The content of a file; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read, or is longer than `max`.
    pub(super) async fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>, PublishError> {
        let handle = match self.answer(0, self.sftp.open(path, OpenFlags::READ, FileAttributes::empty())).await? {
            Ok(handle) => handle.handle,
            Err(error) if code(&error) == Some(StatusCode::NoSuchFile) => return Ok(None),
            Err(error) => return Err(self.refused("read", path, &error)),
        };
        let mut content = Vec::new();
        loop {
            let offset = content.len() as u64;
            let request = self.sftp.read(handle.as_str(), offset, u32::try_from(SMALL_WRITE).unwrap_or(1024));
            match self.answer(0, request).await? {
                // Servers of OpenSSH give less only at the end; one that gives a byte at a
                // time would take days.
                Ok(piece) if (piece.data.len() as u64) < SMALL_WRITE => {
                    content.extend(piece.data);
                    break;
                }
                Ok(piece) => content.extend(piece.data),
                Err(error) if code(&error) == Some(StatusCode::Eof) => break,
                Err(error) => return Err(self.refused("read", path, &error)),
            }
            if content.len() as u64 > max {
                return Err(self.protocol(&format!("{path} is longer than {max} bytes")));
            }
        }
        let closed = self.answer(0, self.sftp.close(handle)).await?;
        closed.map_err(|error| self.refused("read", path, &error))?;
        Ok(Some(content))
    }

    /// Makes a folder where there is none.
    ///
    /// # Errors
    /// It cannot be made; something else is there.
    pub(super) async fn make_folder(&self, path: &str) -> Result<(), PublishError> {
        match self.look(path).await? {
            Some(found) if found.is_folder() => return Ok(()),
            Some(Found { mode }) => return Err(PublishError::Mode { path: path.to_owned(), mode }),
            None => {}
        }
        let attributes = FileAttributes { permissions: Some(0o755), ..FileAttributes::empty() };
        match self.answer(0, self.sftp.mkdir(path, attributes)).await? {
            Ok(_) => Ok(()),
            // Somebody was faster.
            Err(_) if self.look(path).await?.is_some_and(Found::is_folder) => Ok(()),
            Err(error) => Err(self.failed("make folder", path, 0, error).await),
        }
    }

    /// Demands that so many bytes fit where `path` is. Gives how many do.
    ///
    /// # Errors
    /// They do not; the server does not say.
    pub(super) async fn room(&self, path: &str, needed: u64) -> Result<u64, PublishError> {
        let parent = path.rsplit_once('/').map_or("/", |(parent, _)| if parent.is_empty() { "/" } else { parent });
        let space = self.answer(0, self.sftp.statvfs(parent)).await?;
        let space = space.map_err(|error| self.refused("measure", parent, &error))?;
        let free = space.blocks_avail.saturating_mul(space.fragment_size);
        // Some file systems make up inodes as they need them, and say 0 of 0.
        let no_inodes = space.inodes > 0 && space.inodes_avail == 0;
        if free < needed || no_inodes {
            return Err(PublishError::Full { path: parent.to_owned(), free: if no_inodes { 0 } else { free }, needed });
        }
        Ok(free)
    }

    /// Writes a file that is not there yet: read-only from the first moment, and
    /// on the disk before it is closed. `advanced` is told of every piece that
    /// has arrived.
    ///
    /// # Errors
    /// It cannot be written; the file here is not what it should be, and nothing
    /// may be given its name.
    pub(super) async fn upload(
        &self,
        content: Content,
        entry: &Entry,
        to: &str,
        advanced: &(dyn Fn(u64) + Sync),
    ) -> Result<(), PublishError> {
        let Content { file: mut source, path: from } = content;
        let unreadable = |error| PublishError::io(&from, error);
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let read_only = FileAttributes { permissions: Some(0o444), ..FileAttributes::empty() };
        let handle = match self.answer(0, self.sftp.open(to, flags, read_only)).await? {
            Ok(handle) => handle.handle,
            Err(error) => return Err(self.failed("create", to, entry.length, error).await),
        };
        let mut hasher = sha2::Sha256::new();
        let mut offset = 0;
        let pieces = std::iter::from_fn(|| {
            let mut piece = vec![0; self.chunk];
            let count = match read_full(&mut source, &mut piece) {
                Ok(0) => return None,
                Ok(count) => count,
                Err(error) => return Some(Err(error)),
            };
            piece.truncate(count);
            hasher.update(&piece);
            let at = offset;
            offset += count as u64;
            Some(Ok((at, piece)))
        });
        stream::iter(pieces)
            .map(|piece| {
                let handle = handle.clone();
                async move {
                    let (at, piece) = piece.map_err(unreadable)?;
                    let count = piece.len() as u64;
                    match self.answer(count, self.sftp.write(handle, at, piece)).await? {
                        Ok(_) => {
                            advanced(count);
                            Ok(())
                        }
                        Err(error) => Err(self.failed("write", to, entry.length.saturating_sub(at), error).await),
                    }
                }
            })
            .buffer_unordered(IN_FLIGHT)
            .try_for_each(super::done)
            .await?;
        let synced = self.answer(entry.length, self.sftp.fsync(handle.as_str())).await?;
        let closed = self.answer(0, self.sftp.close(handle)).await?;
        if let Err(error) = synced.and(closed) {
            return Err(self.failed("store", to, 0, error).await);
        }
        if Sha256::from(<[u8; 32]>::from(hasher.finalize())) == entry.sha256 {
            Ok(())
        } else {
            Err(PublishError::ReadBack(from.display().to_string()))
        }
    }

    /// Gives a staged file a name; one that is taken is left alone.
    ///
    /// # Errors
    /// It cannot be given.
    pub(super) async fn link(&self, staged: &str, to: &str) -> Result<Result<(), StageAgain>, PublishError> {
        let Err(error) = self.answer(0, self.sftp.hardlink(staged, to)).await? else {
            return Ok(Ok(()));
        };
        if self.look(to).await?.is_some() {
            return Ok(Ok(()));
        }
        if matches!(code(&error), Some(StatusCode::NoSuchFile | StatusCode::PermissionDenied)) {
            return Ok(Err(StageAgain(self.refused("create", to, &error))));
        }
        Err(self.failed("create", to, 0, error).await)
    }

    /// Moves a file over another one.
    ///
    /// # Errors
    /// Nothing was moved.
    pub(super) async fn replace(&self, staged: &str, to: &str) -> Result<(), PublishError> {
        // Both requests have two paths and nothing else (OpenSSH's PROTOCOL, 4.3 and 4.5).
        let names = HardlinkExtension { oldpath: staged.to_owned(), newpath: to.to_owned() };
        let names: Result<Vec<u8>, _> = names.try_into();
        let names = names.map_err(|error| self.protocol(&error))?;
        match self.answer(0, self.sftp.extended("posix-rename@openssh.com", names)).await? {
            Ok(Packet::Status(status)) if status.status_code == StatusCode::Ok => Ok(()),
            Ok(Packet::Status(status)) => Err(self.failed("replace", to, 0, SftpError::Status(status)).await),
            Ok(_) => Err(self.protocol(&"it answers a rename with something else")),
            Err(error) => Err(self.failed("replace", to, 0, error).await),
        }
    }
}

fn code(error: &SftpError) -> Option<StatusCode> {
    match error {
        SftpError::Status(status) => Some(status.status_code),
        _ => None,
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(source: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
