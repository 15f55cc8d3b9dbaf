//! The private ssh-agent, with real ssh and sshd, and with messages that no ssh
//! would send.

use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use release::key::Algorithm;
use release::key::KeyError;
use release::key::PublicKey;
use release::key::Signer as _;
use release::key::SoftwareKey;
use release::key::ToSign;
use release::key::agent;
use release::key::agent::Agent;
use release::key::agent::Allowed;
use release::key::agent::Conversation;
use release::key::agent::Refusal;
use release::key::ssh::HostKey;
use release::manifest::KeyName;

use crate::support::program;
use crate::support::random::Random;
use crate::support::run;
use crate::support::sshd::Sshd;

const LOCALHOST: &str = "127.0.0.1";

fn user() -> String {
    run(program("id").arg("-un")).exits(0).out.trim().to_owned()
}

fn key(algorithm: Algorithm) -> SoftwareKey {
    SoftwareKey::generate("deploy".parse().unwrap(), algorithm).unwrap()
}

/// A key, a server that accepts it, and an agent that allows so many logins there.
struct Setup {
    key: SoftwareKey,
    sshd: Sshd,
    allowed: Allowed,
}

impl Setup {
    fn new(algorithm: Algorithm, logins: u32) -> Self {
        let key = key(algorithm);
        let sshd = Sshd::start(&[key.public().to_authorized_key()]);
        let allowed = Allowed { user: user(), host_key: sshd.host_key().parse().unwrap(), logins };
        Self { key, sshd, allowed }
    }

    fn serve<T>(&self, work: impl FnOnce(&Agent) -> T) -> T {
        agent::serve(&self.key, &self.allowed, work).unwrap()
    }

    fn ssh(&self, agent: &Agent) -> Command {
        self.sshd.client("ssh", agent)
    }

    /// Demands that ssh does not log in, and why the agent refused.
    #[track_caller]
    fn refused(&self, agent: &Agent, reasons: &[&str]) {
        let logins = self.sshd.logins();
        let said_by_ssh = run(self.ssh(agent).args([LOCALHOST, "echo", "in"])).exits(255).says("Permission denied");
        assert_eq!(said_by_ssh.out, "");
        assert_eq!(self.sshd.logins(), logins);
        said(agent, reasons);
    }
}

/// Demands what the agent refused, in order, each with a text.
#[track_caller]
fn said(agent: &Agent, reasons: &[&str]) {
    let refusals: Vec<String> = agent.refusals().iter().map(ToString::to_string).collect();
    let fits = refusals.iter().zip(reasons).all(|(refusal, reason)| refusal.contains(reason));
    assert!(fits && refusals.len() == reasons.len(), "{refusals:#?}, not {reasons:#?}");
}

#[test]
fn the_right_server_and_user_are_logged_in_to() {
    for algorithm in [Algorithm::P256, Algorithm::Ed25519] {
        let setup = Setup::new(algorithm, 2);
        setup.serve(|agent| {
            assert_eq!(run(setup.ssh(agent).args([LOCALHOST, "echo", "in"])).exits(0).out, "in\n");
            let batch = setup.sshd.path("batch");
            fs::write(&batch, format!("put {} {}\n", batch.display(), setup.sshd.path("sent").display())).unwrap();
            run(setup.sshd.client("sftp", agent).arg("-b").arg(&batch).arg(LOCALHOST)).exits(0);
            assert_eq!(fs::read(setup.sshd.path("sent")).unwrap(), fs::read(&batch).unwrap());
            said(agent, &[]);
        });
        assert_eq!(setup.sshd.logins(), 2);
    }
}

#[test]
fn another_server_is_not_logged_in_to() {
    // ssh trusts the server; the agent pins another one. The refused bind does not
    // stop ssh, but nothing is signed after it.
    let mut setup = Setup::new(Algorithm::P256, 2);
    let right = setup.allowed.host_key.clone();
    let other = key(Algorithm::Ed25519);
    setup.allowed.host_key = other.public().to_authorized_key().parse().unwrap();
    let reason = format!("the server has host key {right}, but {} is pinned", setup.allowed.host_key);
    setup.serve(|agent| setup.refused(agent, &[&reason, "it had refused this connection before"]));
    // ssh itself stops at another host key than the one that it was told.
    setup.allowed.host_key = right;
    setup.sshd.trust(&other.public().to_authorized_key());
    setup.serve(|agent| {
        run(setup.ssh(agent).args([LOCALHOST, "true"])).exits(255).says("Host key verification failed");
        said(agent, &[]);
    });
    assert_eq!(setup.sshd.logins(), 0);
}

#[test]
fn another_user_is_not_logged_in() {
    let mut setup = Setup::new(Algorithm::P256, 2);
    setup.allowed.user = "rel-pool".to_owned();
    let reason = format!("a login as \"{}\" was to be signed, but only \"rel-pool\" is allowed", user());
    setup.serve(|agent| setup.refused(agent, &[&reason]));
}

#[test]
fn there_are_no_more_logins_than_were_granted() {
    let setup = Setup::new(Algorithm::P256, 1);
    setup.serve(|agent| {
        run(setup.ssh(agent).args([LOCALHOST, "true"])).exits(0);
        setup.refused(agent, &["all 1 logins that it was started for are used up"]);
    });
    assert_eq!(setup.sshd.logins(), 1);
}

#[test]
fn a_login_that_is_not_bound_to_the_server_is_not_signed() {
    let setup = Setup::new(Algorithm::P256, 2);
    setup.serve(|agent| {
        // The method of servers before OpenSSH 8.9.
        let mut ssh = setup.ssh(agent);
        ssh.args(["-o", "PubkeyAuthentication=unbound", LOCALHOST, "true"]);
        run(&mut ssh).exits(255).says("Permission denied");
        // ssh binds the agent all the same, and only the method is another one.
        said(agent, &["the server wants a login by \"publickey\""]);
    });
    assert_eq!(setup.sshd.logins(), 0);
}

#[test]
fn a_forwarded_agent_signs_nothing() {
    let setup = Setup::new(Algorithm::P256, 5);
    setup.serve(|agent| {
        // From the far side the same login, by a copy of the public key: first ssh
        // tells the agent that it is forwarded, then the far ssh binds it itself.
        let key = setup.sshd.path("far.pub");
        fs::copy(agent.key_file(), &key).unwrap();
        let far = format!(
            "ssh {} -o IdentityAgent=SSH_AUTH_SOCK -o IdentityFile={} {LOCALHOST} echo twice",
            setup.sshd.options().join(" "),
            key.display()
        );
        let said_by_ssh = run(setup.ssh(agent).args(["-A", LOCALHOST, &far]));
        said_by_ssh.exits(255).says("Permission denied").does_not_say("twice");
        said(
            agent,
            &[
                "ssh forwarded it to another machine",
                "it had refused this connection before",
                "it had refused this connection before",
            ],
        );
    });
    assert_eq!(setup.sshd.logins(), 1, "the first login only");
}

#[test]
fn whoever_is_not_ssh_gets_the_public_key_and_nothing_else() {
    let setup = Setup::new(Algorithm::P256, 5);
    setup.serve(|agent| {
        let tool = |name: &str| {
            let mut command = program(name);
            command
                .env("SSH_AUTH_SOCK", agent.socket())
                .env("SSH_ASKPASS", "/bin/false")
                .current_dir(setup.sshd.path(""));
            command
        };
        run(tool("ssh-add").arg("-L")).exits(0).says(&setup.key.public().to_authorized_key());
        fs::write(setup.sshd.path("text"), "text").unwrap();
        run(tool("ssh-add").arg("-T").arg(agent.key_file())).exits(1).says("agent refused operation");
        let mut sign = tool("ssh-keygen");
        sign.args(["-Y", "sign", "-n", "file", "-f"]).arg(agent.key_file()).arg("text");
        run(&mut sign).exits(255).says("agent refused operation");
        assert!(!setup.sshd.path("text.sig").exists());
        let unbound = "it was not told to which server the login goes";
        said(agent, &[unbound, unbound]);
        // All keys deleted, a key added, and locked, it would be of no use.
        run(tool("ssh-add").arg("-D")).exits(1);
        run(tool("ssh-add").arg(setup.sshd.path("host"))).exits(1).says("agent refused operation");
        let numbers: Vec<Refusal> = agent.refusals().split_off(2);
        assert!(numbers.iter().all(|refusal| matches!(refusal, Refusal::Message(_))), "{numbers:?}");
        assert!(numbers.contains(&Refusal::Message(19)) && numbers.contains(&Refusal::Message(17)), "{numbers:?}");
        run(tool("ssh-add").arg("-L")).exits(0).says(&setup.key.public().to_authorized_key());
        // Another key of the user's own is not there.
        let other = setup.sshd.path("host.pub");
        run(setup.sshd.client_with("ssh", &agent.socket(), &other).args([LOCALHOST, "true"])).exits(255);
        assert_eq!(run(setup.ssh(agent).args([LOCALHOST, "echo", "in"])).exits(0).out, "in\n");
    });
    assert_eq!(setup.sshd.logins(), 1);
}

#[test]
fn the_socket_is_private_and_gone_afterwards() {
    let setup = Setup::new(Algorithm::P256, 2);
    let gone = |socket: &PathBuf| !socket.exists() && !socket.parent().unwrap().exists();
    let (socket, file, open) = setup.serve(|agent| {
        let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&agent.socket()), 0o600);
        assert_eq!(mode(agent.socket().parent().unwrap()), 0o700);
        run(setup.ssh(agent).args([LOCALHOST, "true"])).exits(0);
        // A connection that nobody closes holds up nothing.
        (agent.socket(), agent.key_file(), UnixStream::connect(agent.socket()).unwrap())
    });
    assert!(gone(&socket));
    let mut answer = Vec::new();
    (&open).write_all(&[0, 0, 0, 1, 11]).unwrap_err();
    assert_eq!((&open).read_to_end(&mut answer).unwrap_or(0), 0);
    fs::write(setup.sshd.path("key.pub"), setup.key.public().to_authorized_key()).unwrap();
    for key in [file, setup.sshd.path("key.pub")] {
        let mut ssh = setup.sshd.client_with("ssh", &socket, &key);
        run(ssh.args([LOCALHOST, "true"])).exits(255).says("Permission denied");
    }
    assert_eq!(setup.sshd.logins(), 1);
    // Also when the push panics, in the middle of a conversation.
    let mut seen = None;
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
        setup.serve(|agent| {
            seen = Some((agent.socket(), UnixStream::connect(agent.socket()).unwrap()));
            panic!("in the middle of a push");
        })
    }));
    assert!(result.is_err() && gone(&seen.unwrap().0));
}

#[test]
fn a_process_of_another_user_gets_no_answer() {
    let setup = Setup::new(Algorithm::P256, 1);
    setup.serve(|agent| {
        let open = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let mut list = program("setpriv");
        list.args(["--reuid=65534", "--clear-groups", "ssh-add", "-L"]).env("SSH_AUTH_SOCK", agent.socket());
        // The folder keeps others out; where it does not, the agent does.
        run(&mut list).exits(2).says("Error connecting to agent");
        said(agent, &[]);
        open(agent.socket().parent().unwrap(), 0o755);
        run(&mut list).exits(2).says("Error connecting to agent");
        open(&agent.socket(), 0o666);
        run(&mut list).exits(1).says("agent refused operation").does_not_say("AAAA");
        said(agent, &["a process of user 65534 asked"]);
        run(program("ssh-add").arg("-L").env("SSH_AUTH_SOCK", agent.socket())).exits(0).says("AAAA");
    });
}

#[test]
fn a_folder_that_ssh_would_read_otherwise_is_refused() {
    // A process of its own: the folder for temporary files is its environment.
    let folder = tempfile::Builder::new().prefix("with space").tempdir().unwrap();
    if std::env::var_os("RELEASE_TEST_PLAIN").is_none() {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "agent::a_folder_that_ssh_would_read_otherwise_is_refused"]);
        run(again.env("RELEASE_TEST_PLAIN", "1").env("TMPDIR", folder.path())).exits(0).says("1 passed");
        return;
    }
    let login = Login::new();
    let refused = agent::serve(&login.signer, &login.allowed, |_| panic!("no work is done")).unwrap_err();
    assert!(refused.to_string().contains("its name has other characters than"), "{refused}");
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn sign_with(key: &[u8], data: &[u8], flags: u32) -> Vec<u8> {
    [&[13][..], &string(key), &string(data), &flags.to_be_bytes()].concat()
}

/// Messages of a login, as ssh sends them.
pub struct Login {
    pub signer: SoftwareKey,
    host: SoftwareKey,
    pub allowed: Allowed,
}

impl Login {
    pub fn new() -> Self {
        let host = key(Algorithm::Ed25519);
        let host_key: HostKey = host.public().to_authorized_key().parse().unwrap();
        let allowed = Allowed { user: "rel-pool".to_owned(), host_key, logins: 1 };
        Self { signer: key(Algorithm::P256), host, allowed }
    }

    fn bind_with(&self, session: &[u8], forwarded: u8) -> Vec<u8> {
        let signature = self.host.sign("the session", ToSign::Message(session)).unwrap();
        let signature = [string(b"ssh-ed25519"), string(&signature)].concat();
        let parts = [string(b"session-bind@openssh.com"), string(self.allowed.host_key.blob()), string(session)];
        [&[27][..], &parts.concat(), &string(&signature), &[forwarded]].concat()
    }

    pub fn bind(&self) -> Vec<u8> {
        self.bind_with(b"session", 0)
    }

    /// What is signed, in parts.
    fn parts(&self) -> Vec<Vec<u8>> {
        vec![
            string(b"session"),
            vec![50],
            string(b"rel-pool"),
            string(b"ssh-connection"),
            string(b"publickey-hostbound-v00@openssh.com"),
            vec![1],
            string(b"ecdsa-sha2-nistp256"),
            string(&self.signer.public().ssh_blob()),
            string(self.allowed.host_key.blob()),
        ]
    }

    pub fn sign(&self) -> Vec<u8> {
        sign_with(&self.signer.public().ssh_blob(), &self.parts().concat(), 0)
    }

    /// What the fuzz target reads: the host key, the public key, and messages, each
    /// after its length.
    pub fn seed(&self) -> Vec<u8> {
        let host = self.host.public().to_authorized_key().into_bytes();
        let public = self.signer.public().to_pem().into_bytes();
        let parts = [host, public, vec![11], self.bind(), self.sign(), self.bind_with(b"session", 1), vec![18]];
        let framed = |part: &Vec<u8>| [&u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
        parts.iter().flat_map(framed).collect()
    }

    /// Answers messages on one connection; the last answer, and how many signatures
    /// were asked for.
    fn talk(&self, messages: &[Vec<u8>]) -> (Result<Vec<u8>, Refusal>, u32) {
        let left = AtomicU32::new(self.allowed.logins);
        let mut conversation = Conversation::new(&self.signer, &self.allowed, &left);
        let last = messages.iter().map(|message| conversation.answer(message)).last().unwrap();
        (last, self.allowed.logins - left.load(Ordering::SeqCst))
    }

    #[track_caller]
    fn refused(&self, messages: &[Vec<u8>], reason: &str) {
        let (answer, used) = self.talk(messages);
        let refusal = answer.unwrap_err();
        assert!(refusal.to_string().contains(reason), "{refusal}");
        assert_eq!(used, 0);
        // A connection on which a bind or a signature was refused is of no use.
        let again = [messages, &[self.bind(), self.sign()]].concat();
        assert_eq!(self.talk(&again), (Err(Refusal::Poisoned), 0), "after {reason}");
    }
}

#[test]
fn every_field_of_a_login_is_checked() {
    let login = Login::new();
    let (bind, sign) = (login.bind(), login.sign());
    let (answer, used) = login.talk(&[bind.clone(), sign.clone()]);
    assert_eq!((answer.unwrap()[0], used), (14, 1));
    login.refused(std::slice::from_ref(&sign), "it was not told to which server");
    login.refused(&[bind.clone(), bind.clone()], "told of a second server");
    login.refused(&[login.bind_with(b"session", 1)], "forwarded");
    login.refused(&[login.bind_with(b"other", 0), sign.clone()], "a login to another server");
    let other = Login::new();
    login.refused(&[other.bind()], "but SHA256:");
    let mut unproven = login.bind();
    let last = unproven.len() - 2;
    unproven[last] ^= 1;
    login.refused(&[unproven], "did not prove that host key SHA256:");
    login.refused(&[[login.bind(), vec![0]].concat()], "bytes follow a session-bind");
    login.refused(&[login.bind()[..40].to_vec()], "a session-bind ends early");
    let ours = login.signer.public().ssh_blob();
    let data = login.parts().concat();
    let after_bind = |sign: Vec<u8>| [login.bind(), sign];
    login.refused(&after_bind(sign_with(&other.signer.public().ssh_blob(), &data, 0)), "key SHA256:");
    login.refused(&after_bind(sign_with(&ours, &data, 4)), "unknown flags");
    login.refused(&after_bind([login.sign(), vec![0]].concat()), "bytes follow it");
    login.refused(&after_bind(login.sign()[..9].to_vec()), "ends early");
    for (part, with, reason) in [
        (0, string(b"Session"), "another server"),
        (1, vec![51], "no login"),
        (2, string(b"rel-pool\0"), "a login as \"rel-pool\\u{0}\" was to be signed"),
        (2, string(b"root"), "only \"rel-pool\" is allowed"),
        (3, string(b"ssh-userauth"), "no login"),
        (4, string(b"publickey"), "a login by \"publickey\""),
        (5, vec![0], "no login"),
        (6, string(b"ssh-ed25519"), "no login"),
        (7, string(&other.signer.public().ssh_blob()), "no login"),
        (8, string(other.allowed.host_key.blob()), "no login"),
        (8, Vec::new(), "no login"),
        (8, [string(login.allowed.host_key.blob()), vec![0]].concat(), "no login"),
    ] {
        let mut parts = login.parts();
        parts[part] = with;
        login.refused(&after_bind(sign_with(&ours, &parts.concat(), 0)), reason);
    }
    // What is not about binding or signing is refused, and changes nothing.
    for (strange, refusal) in [
        (vec![], Refusal::Length(0)),
        (vec![18, 1], Refusal::Message(18)),
        (vec![27, 0, 0, 0, 5, b'q', b'u', b'e', b'r', b'y'], Refusal::Extension("\"query\"".to_owned())),
        (vec![11, 0], Refusal::Malformed("bytes follow a request for keys")),
    ] {
        assert_eq!(login.talk(std::slice::from_ref(&strange)).0, Err(refusal));
        assert_eq!(login.talk(&[strange, bind.clone(), sign.clone()]).1, 1);
    }
}

/// A key whose token was pulled out.
struct Broken(SoftwareKey);

impl release::key::Signer for Broken {
    fn name(&self) -> &KeyName {
        self.0.name()
    }

    fn public(&self) -> &PublicKey {
        self.0.public()
    }

    fn sign(&self, _: &str, _: ToSign<'_>) -> Result<Vec<u8>, KeyError> {
        Err(KeyError::BadSignature(self.name().clone()))
    }
}

#[test]
fn a_key_that_fails_is_asked_no_more_often_than_was_granted() {
    let login = Login::new();
    let (bind, sign) = (login.bind(), login.sign());
    let broken = Broken(login.signer);
    let left = AtomicU32::new(1);
    let sign_once = || {
        let mut conversation = Conversation::new(&broken, &login.allowed, &left);
        conversation.answer(&bind).unwrap();
        conversation.answer(&sign).unwrap_err()
    };
    assert!(sign_once().to_string().contains("key deploy made a signature that does not verify"));
    assert_eq!(sign_once(), Refusal::UsedUp(1));
}

#[test]
fn no_flipped_bit_of_a_login_is_signed() {
    let login = Login::new();
    let (bind, sign) = (login.bind(), login.sign());
    for bit in 0..bind.len() * 8 {
        let mut flipped = bind.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(login.talk(&[flipped, sign.clone()]).1, 0, "bit {bit} of a bind");
    }
    for bit in 0..sign.len() * 8 {
        let mut flipped = sign.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(login.talk(&[bind.clone(), flipped]).1, 0, "bit {bit} of a request");
    }
    for end in 0..bind.len() {
        assert_eq!(login.talk(&[bind[..end].to_vec(), sign.clone()]).1, 0);
    }
    for end in 0..sign.len() {
        assert_eq!(login.talk(&[bind.clone(), sign[..end].to_vec()]).1, 0);
    }
}

#[test]
fn noise_is_refused_and_ends_nothing() {
    let setup = Setup::new(Algorithm::P256, 1);
    setup.serve(|agent| {
        let mut random = Random::new(7);
        for round in 0..200_usize {
            let length = random.below(300);
            let noise: Vec<u8> = (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
            let mut stream = UnixStream::connect(agent.socket()).unwrap();
            // Sometimes with a length that fits, so that the message is read.
            let sent = if round % 2 == 0 { string(&noise) } else { noise };
            let _ = stream.write_all(&sent);
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.is_empty() || answer == [0, 0, 0, 1, 5], "{answer:?} to {sent:?}");
        }
        assert_eq!(agent.refusals().len(), 16, "no more are kept");
        for (length, answer) in [([0, 0, 0, 0], ""), ([0xff; 4], ""), ([0, 0, 0x40, 1], "")] {
            let mut stream = UnixStream::connect(agent.socket()).unwrap();
            stream.write_all(&length).unwrap();
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text);
            assert_eq!(text, answer, "closed without waiting for what never comes");
        }
        run(setup.ssh(agent).args([LOCALHOST, "true"])).exits(0);
    });
}
