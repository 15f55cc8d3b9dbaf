//! A real pcscd whose readers are virtual.
//!
//! vpcd, its driver, listens on all addresses for whoever plugs a token in.
//! Hence both run in a sandbox with a network of their own, where `plug.py` opens
//! connections and hands them out.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::io::IoSliceMut;
use std::io::Read;
use std::io::Write;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;
use tempfile::TempDir;

use super::Outcome;
use super::Token;
use super::lock;

/// What a `YubiKey` 5 answers to power.
const ATR: [u8; 23] = [
    0x3b, 0xfd, 0x13, 0x00, 0x00, 0x81, 0x31, 0xfe, 0x15, 0x80, 0x73, 0xc0, 0x21, 0xc0, 0x57, 0x59, 0x75, 0x62, 0x69,
    0x4b, 0x65, 0x79, 0x40,
];

/// vpcd.
const DRIVER: &str = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so";

/// ykcs11 looks at readers of this name only.
const NAME: &str = "Yubico YubiKey OTP+FIDO+CCID";

/// The first port of vpcd, in the sandbox.
pub const PORT: u16 = 27_392;

/// pcscd with some readers. It dies with this value, with the thread that
/// started it, and with the test.
pub struct Pcscd {
    folder: TempDir,
    child: Arc<Mutex<Child>>,
    readers: Vec<Reader>,
}

/// A reader. Clones are the same reader.
#[derive(Clone)]
pub struct Reader(Arc<Inside>);

struct Inside {
    number: u16,
    run: PathBuf,
    child: Arc<Mutex<Child>>,
    plugged: Mutex<Plugged>,
}

#[derive(Default)]
struct Plugged {
    /// The token, its connection, and the number of its plugging.
    token: Option<(Token, TcpStream, usize)>,
    /// Tokens that wait until the reader is empty.
    next: VecDeque<Token>,
}

impl Pcscd {
    /// Starts pcscd with two readers.
    pub fn start() -> Self {
        Self::with_readers(2)
    }

    /// Starts pcscd with an even number of readers, at most 16.
    pub fn with_readers(count: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (configuration, run) = (folder.path().join("conf"), folder.path().join("run"));
        fs::create_dir(&configuration).unwrap();
        fs::create_dir(&run).unwrap();
        let mut text = String::new();
        // One entry makes two readers. The driver keeps them in static variables:
        // further entries need further copies of it.
        for number in (0..count).step_by(2) {
            let port = PORT + number;
            let driver = folder.path().join(format!("{port}.so"));
            fs::copy(DRIVER, &driver).unwrap();
            let driver = driver.display();
            write!(
                text,
                "FRIENDLYNAME \"{NAME} [{number}]\"\nDEVICENAME /dev/null:{port}\nLIBPATH {driver}\nCHANNELID {port}\n"
            )
            .unwrap();
        }
        fs::write(configuration.join("vpcd"), text).unwrap();
        let mut sandbox = Command::new("bwrap");
        sandbox.args([
            "--die-with-parent",
            "--unshare-net",
            "--unshare-pid",
            "--dev-bind",
            "/",
            "/",
            "--proc",
            "/proc",
        ]);
        sandbox.args(["--tmpfs", "/run", "--bind"]).arg(&run).arg("/run/pcscd").arg("--");
        sandbox.args(["python3", "-c", include_str!("plug.py")]).arg(&configuration);
        let log = fs::File::create(folder.path().join("log")).unwrap();
        sandbox.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = Arc::new(Mutex::new(sandbox.spawn().unwrap()));
        let reader = |number| {
            let plugged = Mutex::default();
            Reader(Arc::new(Inside { number, run: run.clone(), child: Arc::clone(&child), plugged }))
        };
        let readers = (0..count).map(reader).collect();
        let pcscd = Self { folder, child, readers };
        wait_until("pcscd started", || {
            assert!(lock(&pcscd.child).try_wait().unwrap().is_none(), "pcscd ended: {}", pcscd.log());
            ["pcscd.comm", "plug"].iter().all(|socket| UnixStream::connect(run.join(socket)).is_ok())
        });
        pcscd
    }

    /// The variable with which programs find this pcscd.
    pub fn variable(&self) -> (&'static str, PathBuf) {
        ("PCSCLITE_CSOCK_NAME", self.folder.path().join("run/pcscd.comm"))
    }

    /// A reader, from 0.
    pub fn reader(&self, number: usize) -> &Reader {
        &self.readers[number]
    }

    /// Kills pcscd: all readers are gone.
    pub fn kill(&self) {
        kill(&self.child);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Pcscd {
    fn drop(&mut self) {
        for reader in &self.readers {
            reader.pull();
        }
        self.kill();
    }
}

fn kill(child: &Mutex<Child>) {
    let mut child = lock(child);
    let _ = child.kill();
    let _ = child.wait();
}

impl Reader {
    /// Plugs a token in, and waits until programs see it.
    #[track_caller]
    pub fn plug(&self, token: &Token) {
        self.empty();
        self.connect(token).expect("pcscd runs");
        self.wait(true);
    }

    /// Pulls the token, also in the middle of what it does, and waits until
    /// programs see that it is gone.
    #[track_caller]
    pub fn unplug(&self) {
        self.pull();
        self.wait(false);
    }

    /// Plugs this token in once the one in the reader is pulled by a fault, and
    /// programs have seen it.
    pub fn queue(&self, token: &Token) {
        lock(&self.0.plugged).next.push_back(token.clone());
    }

    /// Waits until no token is queued and programs see the last one.
    #[track_caller]
    pub fn until_plugged(&self) {
        let is_last = || {
            let plugged = lock(&self.0.plugged);
            plugged.next.is_empty() && plugged.token.is_some()
        };
        wait_until("the last token is plugged in", || is_last() && self.has_token());
    }

    /// Waits until the reader is empty, and pcscd knows: it takes two tokens for
    /// one if it does not look in between.
    #[track_caller]
    fn empty(&self) {
        let is_free = || lock(&self.0.plugged).token.is_none();
        wait_until("the reader is empty", || is_free() && !self.has_token());
    }

    /// Whether programs see a token, as `OpenSC` does.
    fn has_token(&self) -> bool {
        let socket = self.0.run.join("pcscd.comm");
        let mut command = Command::new("opensc-tool");
        let list = command.arg("--list-readers").env("PCSCLITE_CSOCK_NAME", socket).output().unwrap();
        let list = String::from_utf8_lossy(&list.stdout);
        let mut lines = list.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>());
        lines.any(|line| line == [self.0.number.to_string().as_str(), "Yes"])
    }

    #[track_caller]
    fn wait(&self, present: bool) {
        wait_until("the reader noticed", || self.has_token() == present);
    }

    fn connect(&self, token: &Token) -> std::io::Result<()> {
        let stream = self.dial()?;
        let mut plugged = lock(&self.0.plugged);
        plugged.token = Some((token.clone(), stream.try_clone().unwrap(), token.0.hand.plug()));
        let (reader, token) = (self.clone(), token.clone());
        std::thread::spawn(move || {
            if reader.serve(&token, stream).is_none() {
                reader.pull();
                if lock(&reader.0.plugged).next.is_empty() {
                    return;
                }
                reader.empty();
                let next = lock(&reader.0.plugged).next.pop_front();
                // Not when pcscd is gone: the test is over.
                next.map(|next| reader.connect(&next));
            }
        });
        Ok(())
    }

    /// A connection to the reader, made in the sandbox.
    fn dial(&self) -> std::io::Result<TcpStream> {
        let mut helper = UnixStream::connect(self.0.run.join("plug"))?;
        helper.write_all(&(PORT + self.0.number).to_be_bytes())?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC;
        rustix::net::recvmsg(&helper, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        descriptor.map(TcpStream::from).ok_or(std::io::ErrorKind::ConnectionReset.into())
    }

    fn pull(&self) {
        if let Some((token, stream, plugged)) = lock(&self.0.plugged).token.take() {
            let pulled = token.0.hand.pull(plugged);
            let _ = stream.shutdown(Shutdown::Both);
            if pulled {
                token.power_off();
            }
        }
    }

    /// Serves the reader until the token is pulled: nothing, by a fault.
    fn serve(&self, token: &Token, mut stream: TcpStream) -> Option<()> {
        loop {
            let mut length = [0; 2];
            if read(&mut stream, &mut length).is_err() {
                return Some(());
            }
            let mut command = vec![0; usize::from(u16::from_be_bytes(length))];
            if read(&mut stream, &mut command).is_err() {
                return Some(());
            }
            let (answer, is_last) = match command.as_slice() {
                // Power off, on, reset.
                [0..=2] => {
                    token.power_off();
                    continue;
                }
                [4] => (ATR.to_vec(), false),
                command => match token.serve(command) {
                    Outcome::Answer(answer) => (answer, false),
                    Outcome::Last(answer) => (answer, true),
                    // Pulled by the test: another may be in the reader by now.
                    Outcome::Gone => return token.0.hand.is_pulled().then_some(()),
                    Outcome::NoReader => {
                        kill(&self.0.child);
                        return Some(());
                    }
                },
            };
            let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
            if stream.write_all(&[length.as_slice(), &answer].concat()).is_err() {
                return Some(());
            }
            if is_last {
                return None;
            }
        }
    }
}

/// Reads exactly. vpcd sends length and body apart, and waits for the first to be
/// acknowledged: without quick acknowledgement, 40 ms each.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<()> {
    rustix::net::sockopt::set_tcp_quickack(&*stream, true)?;
    stream.read_exact(buffer)
}

/// Waits until something has happened.
#[track_caller]
pub fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < Duration::from_secs(30), "not after 30 seconds: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
