//! The only file that starts programs.
//!
//! Every program gets an empty environment, a fixed PATH and closed standard
//! input unless more is asked for. What it prints is bounded.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::io::BufRead;
use std::io::Read;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::Resource;
use rustix::process::Signal;

use crate::manifest::names::one_line;
use crate::progress::Event;
use crate::progress::Progress;

/// Where programs are looked for, whatever the caller's PATH says.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// More output than this of a program whose output is collected is refused.
const MAX_OUTPUT: u64 = 64 << 20;
/// How much of a program's complaints is kept.
const MAX_COMPLAINT: u64 = 64 << 10;

/// Keeps files that this process was started with, such as that of `--pin-fd`,
/// from the programs that it starts. To be called before there are threads.
pub fn keep_inherited_files() {
    close_fds::set_fds_cloexec(3, &[]);
}

/// Keeps the memory of this process, with PINs and keys, out of core dumps and from
/// other processes of the same user. Programs that it starts leave no core dump
/// either: they are given secrets in pipes.
pub fn keep_memory_private() {
    use rustix::process::Resource;
    use rustix::process::Rlimit;
    // A process may always give up rights of its own; a kernel that cannot is no
    // reason not to go on.
    let _ = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // The limit does not bind a program to which the kernel pipes core dumps.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// A program that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// It is not installed.
    #[error("the program `{0}` is not installed")]
    Missing(String),
    /// It could not be started or talked to.
    #[error("cannot run `{program}`")]
    Io {
        /// Which program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("`{line}` failed ({status}){}", complaint_suffix(.complaint))]
    Failed {
        /// What was run.
        line: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed on standard error first.
        complaint: String,
    },
    /// It printed too much.
    #[error("`{0}` printed more than {MAX_OUTPUT} bytes")]
    TooMuch(String),
}

fn complaint_suffix(complaint: &str) -> String {
    if complaint.is_empty() { String::new() } else { format!(": {complaint}") }
}

/// What a program may use that reads foreign bytes.
#[derive(Debug, Clone, Copy)]
pub struct Confines<'a> {
    /// The only folder that it can write to; it runs there.
    pub folder: &'a Path,
    /// How long it may take; then all its processes are ended.
    pub time: Duration,
    /// How many bytes of memory each of its processes may take.
    pub memory: u64,
    /// How many bytes a file that it writes may have.
    pub file: u64,
}

/// A program to run.
#[derive(Debug)]
pub struct Program {
    command: Command,
    line: String,
}

/// A program that runs. It is killed when this is dropped, with what it has started.
#[derive(Debug)]
pub struct Conversation {
    /// Where it reads.
    pub stdin: Option<OwnedFd>,
    /// Where it writes.
    pub stdout: Option<OwnedFd>,
    child: Child,
    complaint: Option<JoinHandle<String>>,
    is_over: bool,
}

impl Conversation {
    /// Ends it, and gives what it printed on standard error, printable, on one
    /// line.
    pub fn end(mut self) -> String {
        self.kill();
        self.complaint.take().and_then(|complaint| complaint.join().ok()).unwrap_or_default()
    }

    fn kill(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        // What ssh has started to reach a machine behind another one may live on as long
        // as the far end likes, and keeps standard error open. Nobody else has that
        // number before the program was waited for.
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a program printed and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, printable, on one line.
    pub complaint: String,
}

impl Program {
    /// The program `name`, found on the fixed PATH.
    #[expect(clippy::disallowed_methods, reason = "the one place that starts programs")]
    pub fn new(name: &str) -> Self {
        let mut command = Command::new(name);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        Self { command, line: name.to_owned() }
    }

    /// The program `name`, held to what it may use. What it starts ends with it,
    /// and it ends with us: nothing that a foreign server keeps waiting is left
    /// behind.
    pub fn confined(name: &str, confines: &Confines<'_>) -> Self {
        let folder = confines.folder;
        let mut program = Self::new("bwrap")
            .usual_args(["--ro-bind", "/", "/", "--dev", "/dev", "--unshare-pid", "--proc", "/proc"])
            // Root could mount the folders above again, to write, and read our memory.
            .usual_args(["--cap-drop", "ALL", "--die-with-parent", "--new-session"])
            .usual_args([OsStr::new("--bind"), folder.as_os_str(), folder.as_os_str()])
            .usual_args([OsStr::new("--chdir"), folder.as_os_str()])
            .usual_args(["--", "timeout", "--kill-after=5"])
            .usual_args([format!("{}", confines.time.as_secs_f64())])
            .usual_args(["prlimit", "--core=0"])
            .usual_args([limit("data", Resource::Data, confines.memory)])
            .usual_args([limit("fsize", Resource::Fsize, confines.file)])
            // A file that gets too long is an error that programs speak of, not
            // a signal that ends them without a word.
            .usual_args(["--", "env", "--ignore-signal=XFSZ", name]);
        name.clone_into(&mut program.line);
        program
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.line.push(' ');
        self.line.push_str(&argument.as_ref().to_string_lossy());
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        for argument in arguments {
            self = self.arg(argument.into());
        }
        self
    }

    /// Adds arguments that messages leave out: the same at every call.
    #[must_use]
    pub fn usual_args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs in this folder.
    #[must_use]
    pub fn current_dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Lets it read from a pipe. Whoever holds the other end can wait with the end.
    #[must_use]
    pub fn stdin(mut self, pipe: io::PipeReader) -> Self {
        self.command.stdin(pipe);
        self
    }

    /// Runs it and collects what it prints. An exit status other than zero is
    /// no error here.
    ///
    /// # Errors
    /// It is missing, cannot be run, or prints too much.
    pub fn output(self, input: &[u8], progress: &dyn Progress) -> Result<Output, ProcessError> {
        let line = self.line.clone();
        let (stdout, status, complaint) = self.piped(
            progress,
            |stdin| stdin.write_all(input),
            |stdout| {
                let mut bytes = Vec::new();
                stdout.take(MAX_OUTPUT + 1).read_to_end(&mut bytes).map(|_| bytes)
            },
        )?;
        if stdout.len() as u64 > MAX_OUTPUT {
            return Err(ProcessError::TooMuch(line));
        }
        Ok(Output { status, stdout, complaint })
    }

    /// Runs it, collects what it prints, and demands success.
    ///
    /// # Errors
    /// As [`Self::output`], and any exit status but zero.
    pub fn run(self, progress: &dyn Progress) -> Result<Vec<u8>, ProcessError> {
        self.feed(&[], progress)
    }

    /// [`Self::run`], with something on its standard input.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn feed(self, input: &[u8], progress: &dyn Progress) -> Result<Vec<u8>, ProcessError> {
        let line = self.line.clone();
        let output = self.output(input, progress)?;
        succeeded(line, output.status, output.complaint)?;
        Ok(output.stdout)
    }

    /// Feeds it from one thread while another reads what it prints, and demands
    /// success.
    ///
    /// # Errors
    /// As [`Self::run`], and those of `read`.
    pub fn exchange<T>(
        self,
        progress: &dyn Progress,
        feed: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send,
        read: impl FnOnce(&mut dyn Read) -> io::Result<T>,
    ) -> Result<T, ProcessError> {
        let line = self.line.clone();
        let (result, status, complaint) = self.piped(progress, feed, read)?;
        succeeded(line, status, complaint)?;
        Ok(result)
    }

    /// Starts it, to be talked to over two pipes while it runs.
    ///
    /// # Errors
    /// It is missing or cannot be run.
    pub fn talk(mut self, progress: &dyn Progress) -> Result<Conversation, ProcessError> {
        progress.event(Event::Program(&self.line));
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = self.spawn()?;
        let (stdin, stdout) = (child.stdin.take().map(OwnedFd::from), child.stdout.take().map(OwnedFd::from));
        let complaint = child.stderr.take().map(|stderr| std::thread::spawn(move || collect_complaint(stderr)));
        Ok(Conversation { stdin, stdout, child, complaint, is_over: false })
    }

    fn piped<T>(
        mut self,
        progress: &dyn Progress,
        feed: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send,
        read: impl FnOnce(&mut dyn Read) -> io::Result<T>,
    ) -> Result<(T, ExitStatus, String), ProcessError> {
        progress.event(Event::Program(&self.line));
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = self.name();
        let failed = |source| ProcessError::Io { program: program.clone(), source };
        let mut child = self.spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(mut stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err(failed(io::ErrorKind::BrokenPipe.into()));
        };
        let (result, complaint) = std::thread::scope(|scope| {
            // A program that ends before it has read all says why on its own.
            scope.spawn(move || feed(&mut stdin));
            let complaint = scope.spawn(move || collect_complaint(stderr));
            let result = read(&mut stdout);
            drop(stdout);
            (result, complaint.join().unwrap_or_default())
        });
        let status = child.wait().map_err(failed)?;
        // Where the program failed, that says more than a cut-off stream.
        match result {
            Ok(result) => Ok((result, status, complaint)),
            Err(_) if !status.success() => Err(ProcessError::Failed { line: self.line, status, complaint }),
            Err(source) => Err(failed(source)),
        }
    }

    /// Runs it with both outputs in one stream, a call for each line. Gives the
    /// exit status.
    ///
    /// # Errors
    /// It is missing or cannot be run, or `line` fails.
    pub fn lines(
        mut self,
        progress: &dyn Progress,
        mut line: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<ExitStatus, ProcessError> {
        progress.event(Event::Program(&self.line));
        let program = self.name();
        let failed = |source| ProcessError::Io { program: program.clone(), source };
        let (reader, writer) = io::pipe().map_err(failed)?;
        self.command.stdout(writer.try_clone().map_err(failed)?).stderr(writer);
        let mut child = self.spawn()?;
        // Our copies of the writing end, or the reader would never see the end.
        drop(self);
        let mut reader = io::BufReader::new(reader);
        let mut buffer = Vec::new();
        let mut read = || loop {
            buffer.clear();
            // A line without end must not fill the memory.
            if (&mut reader).take(64 << 10).read_until(b'\n', &mut buffer)? == 0 {
                return Ok(());
            }
            line(&buffer)?;
        };
        let result = read();
        if result.is_err() {
            // It must not go on without anybody who listens.
            let _ = child.kill();
        }
        let status = child.wait().map_err(failed)?;
        result.map(|()| status).map_err(failed)
    }

    fn name(&self) -> String {
        self.command.get_program().to_string_lossy().into_owned()
    }

    fn spawn(&mut self) -> Result<Child, ProcessError> {
        let program = self.name();
        self.command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ProcessError::Missing(program),
            _ => ProcessError::Io { program, source },
        })
    }
}

/// Whether a program that was confined ended because its time was over.
pub fn timed_out(status: ExitStatus) -> bool {
    // What timeout(1) gives, and what it gives where it had to kill.
    matches!(status.code(), Some(124 | 137))
}

/// Whether a program is on the fixed PATH.
pub fn is_installed(name: &str) -> bool {
    std::env::split_paths(PATH).any(|folder| folder.join(name).is_file())
}

/// A limit for prlimit(1): nobody may raise one that we were started with.
fn limit(name: &str, resource: Resource, wanted: u64) -> String {
    let ours = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    format!("--{name}={}", wanted.min(ours))
}

fn succeeded(line: String, status: ExitStatus, complaint: String) -> Result<(), ProcessError> {
    if status.success() { Ok(()) } else { Err(ProcessError::Failed { line, status, complaint }) }
}

/// Reads all that a program complains, keeps the beginning, and makes it fit
/// for one line.
fn collect_complaint(mut stderr: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = (&mut stderr).take(MAX_COMPLAINT).read_to_end(&mut bytes);
    let _ = io::copy(&mut stderr, &mut io::sink());
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    one_line(&lines.join("; "))
}
