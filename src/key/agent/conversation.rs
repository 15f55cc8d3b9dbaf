//! What the agent answers on one connection. No I/O: messages go in and out.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use super::Allowed;
use crate::key::KeyError;
use crate::key::Signer;
use crate::key::ToSign;
use crate::key::ssh::Reader;
use crate::key::ssh::fingerprint;
use crate::key::ssh::put_string;
use crate::manifest::names::quoted;

/// Numbers of messages (draft-ietf-sshm-ssh-agent).
pub(super) const FAILURE: u8 = 5;
const SUCCESS: u8 = 6;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const EXTENSION: u8 = 27;
/// By which ssh says to which server a connection leads (OpenSSH's PROTOCOL.agent).
const SESSION_BIND: &[u8] = b"session-bind@openssh.com";

/// What is signed to log in (RFC 4252 section 7).
const USERAUTH_REQUEST: u8 = 50;
/// The method whose signature names the server's host key (OpenSSH's PROTOCOL).
const METHOD: &[u8] = b"publickey-hostbound-v00@openssh.com";

/// Why the agent did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A process of another user.
    #[error("a process of user {0} asked")]
    Stranger(u32),
    /// The operating system gives no more connections.
    #[error("its socket failed: {0}")]
    Socket(String),
    /// Longer than any message that is answered, or empty.
    #[error("a message of {0} bytes came")]
    Length(u32),
    /// Another message than the three that are answered.
    #[error("message {0} came, which it does not know")]
    Message(u8),
    /// Another extension than session-bind.
    #[error("extension {0} came, which it does not know")]
    Extension(String),
    /// A message that does not have its form.
    #[error("a malformed message came: {0}")]
    Malformed(&'static str),
    /// ssh did not say to which server the connection leads.
    #[error("it was not told to which server the login goes, as OpenSSH 8.9 and later do")]
    Unbound,
    /// An earlier request on this connection was refused.
    #[error("it had refused this connection before")]
    Poisoned,
    /// Another machine wants to use the key.
    #[error("ssh forwarded it to another machine")]
    Forwarded,
    /// One connection for two servers.
    #[error("it was told of a second server on one connection")]
    Rebound,
    /// Another server.
    #[error("the server has host key {found}, but {wanted} is pinned")]
    OtherHost {
        /// Fingerprint of the key that it showed.
        found: String,
        /// Fingerprint of the pinned one.
        wanted: String,
    },
    /// The server's signature is wrong.
    #[error("the server did not prove that host key {0} is its own")]
    Unproven(String),
    /// A login on another connection.
    #[error("a login to another server was to be signed")]
    OtherSession,
    /// Another key.
    #[error("key {0} was asked for, which it does not have")]
    OtherKey(String),
    /// Another account.
    #[error("a login as {found} was to be signed, but only {wanted} is allowed")]
    OtherUser {
        /// The account, in quotes.
        found: String,
        /// The one that is allowed, in quotes.
        wanted: String,
    },
    /// Another way to log in.
    #[error("the server wants a login by {0}, which does not name its host key; OpenSSH 8.9 and later can")]
    OtherMethod(String),
    /// Every signature that was granted is made.
    #[error("all {0} logins that it was started for are used up")]
    UsedUp(u32),
    /// The key does not sign.
    #[error("{0}")]
    Key(String),
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        Self::Key(error.to_string())
    }
}

/// What is known of a connection.
enum State {
    /// Nothing yet.
    Fresh,
    /// It leads to the pinned server; this is the session.
    Bound(Vec<u8>),
    /// Something was refused, so that nothing is ever signed on it. Where a bind was
    /// refused as forwarded, ssh on the far machine sends one of its own next.
    Poisoned,
}

/// One connection to the agent.
pub struct Conversation<'a> {
    signer: &'a dyn Signer,
    allowed: &'a Allowed,
    /// Signatures that may still be made, on all connections.
    left: &'a AtomicU32,
    state: State,
}

impl<'a> Conversation<'a> {
    /// A new connection. `left` is how many signatures may still be made.
    pub fn new(signer: &'a dyn Signer, allowed: &'a Allowed, left: &'a AtomicU32) -> Self {
        Self { signer, allowed, left, state: State::Fresh }
    }

    /// Answers one message, both without their length.
    ///
    /// # Errors
    /// What is refused, and must be answered with FAILURE.
    pub fn answer(&mut self, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        let mut reader = Reader(message);
        match reader.byte() {
            None => Err(Refusal::Length(0)),
            Some(REQUEST_IDENTITIES) if reader.is_finished() => Ok(self.identities()),
            Some(REQUEST_IDENTITIES) => Err(Refusal::Malformed("bytes follow a request for keys")),
            Some(SIGN_REQUEST) => {
                let answer = self.sign(reader);
                self.poison_if_refused(&answer);
                answer
            }
            Some(EXTENSION) => match reader.string() {
                Some(SESSION_BIND) => {
                    let answer = self.bind(reader);
                    self.poison_if_refused(&answer);
                    answer
                }
                name => Err(Refusal::Extension(shown(name.unwrap_or_default()))),
            },
            Some(other) => Err(Refusal::Message(other)),
        }
    }

    fn poison_if_refused(&mut self, answer: &Result<Vec<u8>, Refusal>) {
        if answer.is_err() {
            self.state = State::Poisoned;
        }
    }

    /// The one key.
    fn identities(&self) -> Vec<u8> {
        let mut answer = vec![IDENTITIES_ANSWER, 0, 0, 0, 1];
        put_string(&mut answer, &self.signer.public().ssh_blob());
        put_string(&mut answer, self.signer.name().as_str().as_bytes());
        answer
    }

    fn bind(&mut self, mut reader: Reader<'_>) -> Result<Vec<u8>, Refusal> {
        let mut parts = || Some((reader.string()?, reader.string()?, reader.string()?, reader.byte()?));
        let Some((host_key, session, signature, forwarded)) = parts() else {
            return Err(Refusal::Malformed("a session-bind ends early"));
        };
        if !reader.is_finished() {
            return Err(Refusal::Malformed("bytes follow a session-bind"));
        }
        match &self.state {
            State::Fresh => {}
            State::Bound(_) => return Err(Refusal::Rebound),
            State::Poisoned => return Err(Refusal::Poisoned),
        }
        if forwarded != 0 {
            return Err(Refusal::Forwarded);
        }
        let pinned = &self.allowed.host_key;
        if host_key != pinned.blob() {
            return Err(Refusal::OtherHost { found: fingerprint(host_key), wanted: pinned.to_string() });
        }
        if !pinned.verifies(session, signature) {
            return Err(Refusal::Unproven(pinned.to_string()));
        }
        self.state = State::Bound(session.to_vec());
        Ok(vec![SUCCESS])
    }

    fn sign(&mut self, mut reader: Reader<'_>) -> Result<Vec<u8>, Refusal> {
        let session = match &self.state {
            State::Fresh => return Err(Refusal::Unbound),
            State::Poisoned => return Err(Refusal::Poisoned),
            State::Bound(session) => session,
        };
        let mut parts = || Some((reader.string()?, reader.string()?, reader.number()?));
        let Some((key, data, flags)) = parts() else {
            return Err(Refusal::Malformed("a request to sign ends early"));
        };
        if flags != 0 || !reader.is_finished() {
            return Err(Refusal::Malformed("a request to sign has unknown flags, or bytes follow it"));
        }
        let public = self.signer.public();
        let ours = public.ssh_blob();
        if key != ours {
            return Err(Refusal::OtherKey(fingerprint(key)));
        }
        self.check_login(data, session, &ours)?;
        // At most so many are asked for, whatever becomes of them.
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            return Err(Refusal::UsedUp(self.allowed.logins));
        }
        let signature = self.signer.sign(&format!("the login of {}", self.allowed.user), ToSign::Message(data))?;
        let signature = public
            .ssh_signature(&signature)
            .ok_or_else(|| Refusal::from(KeyError::BadSignature(self.signer.name().clone())))?;
        let mut answer = vec![SIGN_RESPONSE];
        put_string(&mut answer, &signature);
        Ok(answer)
    }

    /// Checks every field of what is to be signed.
    fn check_login(&self, data: &[u8], session: &[u8], ours: &[u8]) -> Result<(), Refusal> {
        const MALFORMED: Refusal = Refusal::Malformed("what is to be signed is no login");
        let mut reader = Reader(data);
        if reader.string().ok_or(MALFORMED)? != session {
            return Err(Refusal::OtherSession);
        }
        if reader.byte() != Some(USERAUTH_REQUEST) {
            return Err(MALFORMED);
        }
        let user = reader.string().ok_or(MALFORMED)?;
        if user != self.allowed.user.as_bytes() {
            return Err(Refusal::OtherUser { found: shown(user), wanted: quoted(&self.allowed.user) });
        }
        if reader.string() != Some(b"ssh-connection") {
            return Err(MALFORMED);
        }
        let method = reader.string().ok_or(MALFORMED)?;
        if method != METHOD {
            return Err(Refusal::OtherMethod(shown(method)));
        }
        let is_whole = reader.byte() == Some(1)
            && reader.string() == Some(self.signer.public().ssh_kind().as_bytes())
            && reader.string() == Some(ours)
            && reader.string() == Some(self.allowed.host_key.blob())
            && reader.is_finished();
        if is_whole { Ok(()) } else { Err(MALFORMED) }
    }
}

fn shown(bytes: &[u8]) -> String {
    quoted(&String::from_utf8_lossy(bytes))
}
