//! Source archive → artifacts, in a sandbox without network.
//!
//! What is built is hostile: it may try to read keys, to call home, or to leave
//! links where artifacts should be. It runs as nobody in particular, sees no
//! home, no token, no network, and what it leaves is looked at only after all
//! its processes are gone.

mod cgroup;
mod compare;
mod environment;
mod limits;
mod sandbox;
mod tree;

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::io::Seek;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;
use std::time::Instant;

use cgroup::Group;
use limits::Limits;
use limits::Watch;
use rustix::io::Errno;

use crate::manifest::Artifact;
use crate::manifest::FileName;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::names::printable;
use crate::manifest::names::quoted;
use crate::policy::Recipe;
use crate::policy::Sandbox;
use crate::policy::Size;
use crate::process::ProcessError;
use crate::progress::Event;
use crate::progress::Progress;
use crate::transport::open_folder;
use crate::transport::open_inside;

pub use cgroup::is_systemd;
pub use environment::Environment;
pub use limits::Reached;

/// How many of the last lines of a log are shown when a build fails.
const TAIL: usize = 20;

/// What to build.
pub struct Request<'a> {
    /// The product.
    pub product: &'a Product,
    /// The version.
    pub version: &'a Version,
    /// How.
    pub recipe: &'a Recipe,
    /// The uncompressed source archive.
    pub tar: &'a Path,
    /// Where inputs are, by digest.
    pub inputs: &'a dyn Fn(Sha256) -> PathBuf,
    /// What the build sees besides `/usr`.
    pub environment: &'a Environment,
    /// `SOURCE_DATE_EPOCH`.
    pub epoch: i64,
    /// How much the build may take.
    pub sandbox: &'a Sandbox,
    /// The folder to work in, in the home's folder of cuts; logs stay there.
    pub work: &'a Path,
    /// The folder that artifacts go to, under their published names.
    pub stage: &'a Path,
}

/// What came out.
#[derive(Debug)]
pub struct Built {
    /// The artifacts, in the recipe's order.
    pub artifacts: Vec<Artifact>,
    /// How long all builds took, in milliseconds.
    pub milliseconds: u64,
}

/// A build that did not give what the recipe says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The sandbox or another program of this terminal failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A file of this terminal cannot be used.
    #[error("cannot use {}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The build environment cannot be described.
    #[error("the build environment cannot be described: {0}")]
    Environment(String),
    /// The recipe's commands failed.
    #[error("the build failed ({status}); its log is {}{}", .log.display(), tail_of(.tail))]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The last lines of it, printable.
        tail: Vec<String>,
    },
    /// It reached a limit.
    #[error("the build was stopped: it {reached}; its log is {}{}", .log.display(), tail_of(.tail))]
    Limit {
        /// Which.
        reached: Reached,
        /// Its log.
        log: PathBuf,
        /// The last lines of it, printable.
        tail: Vec<String>,
    },
    /// Nothing here bounds memory and processes.
    #[error(
        "this terminal cannot bound the memory and the processes of a build, so nothing was built: {}",
        .tried.join("; ")
    )]
    NoGroup {
        /// What was tried, and why it did not work.
        tried: Vec<String>,
        /// Where root could make some: two folders for version 1, one for version
        /// 2, or none.
        hierarchies: Vec<PathBuf>,
    },
    /// Processes of the build cannot be ended.
    #[error("processes of the build do not end, so nothing of it is used: {0}")]
    Undead(String),
    /// An input is not there.
    #[error("input {} (sha256 {sha256}) is not in the home: there is no {}", quoted(.path), .file.display())]
    NoInput {
        /// The path in the recipe.
        path: String,
        /// Its digest.
        sha256: Sha256,
        /// Where it should be.
        file: PathBuf,
    },
    /// An input has other bytes than the recipe says.
    #[error("input {} has SHA-256 {found}, the recipe says {expected}", quoted(.path))]
    WrongInput {
        /// The path in the recipe.
        path: String,
        /// The digest in the recipe.
        expected: Sha256,
        /// The digest of the file.
        found: Sha256,
    },
    /// An input would replace a file of the source tree.
    #[error("input {} would replace a file of the source tree", quoted(.0))]
    InputInTheWay(String),
    /// The build left no such file, or not a plain one.
    #[error("the build left no usable {}: {reason}", quoted(.path))]
    Artifact {
        /// The path in the recipe.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The build left a larger file than is allowed here.
    #[error("the build left {} with {length} bytes; an artifact has at most {} ({limit})", quoted(.path), .limit.bytes())]
    TooLarge {
        /// The path in the recipe.
        path: String,
        /// Its size in bytes.
        length: u64,
        /// The limit.
        limit: Size,
    },
    /// A second build gave other bytes.
    #[error("a second build gave other bytes for {}{}", .files.join(", "), .difference.as_deref().map_or_else(String::new, |text| format!(":\n{text}")))]
    NotReproducible {
        /// The published names of the files that differ.
        files: Vec<String>,
        /// The first lines of diffoscope's report, if it is installed.
        difference: Option<String>,
    },
}

fn tail_of(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!(", which ends:\n    {}", lines.join("\n    "))
}

impl BuildError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// Whether what was built is refused, rather than that it could not be built.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::WrongInput { .. }
                | Self::InputInTheWay(_)
                | Self::Artifact { .. }
                | Self::TooLarge { .. }
                | Self::NotReproducible { .. }
        )
    }
}

/// Builds once, or twice where the recipe says `reproducible`; puts the
/// artifacts into the stage.
///
/// # Errors
/// The build failed, its files cannot be used, or two builds differ. Nothing is
/// left in the stage then; logs and differing files stay in the work folder.
pub fn run(request: &Request<'_>, progress: &dyn Progress) -> Result<Built, BuildError> {
    let first = Attempt { number: 1, folder: request.work.join("build-1") };
    // Everything that must not matter differs: the path outside (also in
    // its depth), the host's name, the number of processors, the second.
    let second = Attempt { number: 2, folder: request.work.join("second").join("build") };
    let built = twice(request, &first, &second, progress);
    if built.as_ref().is_err_and(|error| !matches!(error, BuildError::NotReproducible { .. })) {
        // It may be a disk full, and programs that run as the user of builds.
        first.clear()?;
        second.clear()?;
    }
    built
}

fn twice(
    request: &Request<'_>,
    first: &Attempt,
    second: &Attempt,
    progress: &dyn Progress,
) -> Result<Built, BuildError> {
    let begun = Instant::now();
    first.run(request, progress)?;
    let ended = Instant::now();
    let outputs = first.collect(request)?;
    crate::home::step("build.first");
    if request.recipe.reproducible {
        // A build that writes down the time must not be quick enough to hide it.
        std::thread::sleep(Duration::from_secs(1).saturating_sub(ended.elapsed()));
        second.run(request, progress)?;
        let again = second.collect(request)?;
        compare::same(&outputs, &again, progress)?;
        second.clear()?;
    }
    let mut artifacts = Vec::new();
    for output in outputs {
        output.publish(request.stage)?;
        artifacts.push(output.artifact);
    }
    first.clear()?;
    Ok(Built { artifacts, milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX) })
}

/// One run of the recipe.
struct Attempt {
    number: u32,
    folder: PathBuf,
}

/// A file that a build left. It was opened once, and is read through that only:
/// a process of the build that is still dying can no longer change which file
/// it is, and a change of its content is noticed in the stage.
struct Output {
    path: PathBuf,
    file: File,
    artifact: Artifact,
}

impl Attempt {
    fn source(&self) -> PathBuf {
        self.folder.join("source")
    }

    fn build(&self) -> PathBuf {
        self.folder.join("build")
    }

    fn run(&self, request: &Request<'_>, progress: &dyn Progress) -> Result<(), BuildError> {
        self.clear()?;
        tree::unpack(request.tar, &self.source())?;
        tree::unpack(request.tar, &self.build())?;
        place_inputs(request, &self.build())?;
        let what = format!("{} {}, build {}", request.product, request.version, self.number);
        progress.event(Event::Begin { stage: crate::progress::Stage::Build, what: &what });
        let limits = Limits::now(request.sandbox, request.work)?;
        let cuts = request.work.parent().unwrap_or(request.work);
        let mut group = Group::make(cuts, limits.bounds(), progress)?;
        progress.event(Event::Detail(&format!("Build {}: {limits}; by {group}", self.number)));
        let start = group.start().map_err(|error| BuildError::io(request.work, error))?;
        let program = sandbox::program(start, request, self.number, &self.source(), &self.build())?;
        let mut log = Log::create(request.work.join(format!("build-{}.log", self.number)), limits.log)?;
        let watch = Watch::begin(&limits, &group, request.work)?;
        let status = watch.during(|| program.lines(progress, |line| log.line(line, &watch, progress)));
        let reached = watch.reached().cloned();
        group.close()?;
        let (log, tail) = (log.path, log.tail.into());
        if let Some(reached) = reached {
            return Err(BuildError::Limit { reached, log, tail });
        }
        let status = status?;
        if status.success() { Ok(()) } else { Err(BuildError::Failed { status, log, tail }) }
    }

    fn collect(&self, request: &Request<'_>) -> Result<Vec<Output>, BuildError> {
        let root = self.build();
        let root = root.canonicalize().map_err(|error| BuildError::io(&root, error))?;
        let limit = request.sandbox.artifact;
        request
            .recipe
            .artifacts
            .iter()
            .map(|wanted| {
                let refuse = |reason| BuildError::Artifact { path: wanted.path.clone(), reason };
                let path = root.join(&wanted.path);
                let opened = open_folder(&root).and_then(|root| open_inside(root, wanted.path.as_str()));
                let file = opened.map_err(|error| match error {
                    Errno::NOENT | Errno::NOTDIR => refuse("there is none"),
                    Errno::LOOP | Errno::XDEV => refuse("a link leads to it"),
                    // A socket, and a device that does not exist.
                    Errno::NXIO => refuse("it is not a plain file"),
                    Errno::ACCESS => refuse("it cannot be read"),
                    error => BuildError::io(&path, error.into()),
                })?;
                let metadata = file.metadata().map_err(|error| BuildError::io(&path, error))?;
                if !metadata.is_file() {
                    return Err(refuse("it is not a plain file"));
                }
                if metadata.len() == 0 {
                    return Err(refuse("it is empty"));
                }
                let length = metadata.len();
                if length > limit.bytes() {
                    return Err(BuildError::TooLarge { path: wanted.path.clone(), length, limit });
                }
                let (sha256, length) =
                    Sha256::of_reader(&file, &mut |_| {}).map_err(|error| BuildError::io(&path, error))?;
                let artifact = Artifact { name: wanted.name.clone(), kind: wanted.kind, length, sha256, control: None };
                Ok(Output { path, file, artifact })
            })
            .collect()
    }

    fn clear(&self) -> Result<(), BuildError> {
        tree::clear(&self.folder)
    }
}

/// What a build prints: bounded on disk, and its end in memory.
struct Log {
    path: PathBuf,
    file: File,
    limit: Size,
    written: u64,
    tail: VecDeque<String>,
}

impl Log {
    fn create(path: PathBuf, limit: Size) -> Result<Self, BuildError> {
        let file = File::create(&path).map_err(|error| BuildError::io(&path, error))?;
        Ok(Self { path, file, limit, written: 0, tail: VecDeque::new() })
    }

    /// Takes a line. What comes after the end of the log is dropped.
    fn line(&mut self, line: &[u8], watch: &Watch<'_>, progress: &dyn Progress) -> io::Result<()> {
        if watch.reached().is_some() {
            return Ok(());
        }
        self.written += line.len() as u64;
        if self.written > self.limit.bytes() {
            watch.stop("log", format!("printed more than {}", self.limit));
            return writeln!(self.file, "\n[the build printed more than {}: the log was cut off here]", self.limit);
        }
        self.file.write_all(line)?;
        let text = printable(String::from_utf8_lossy(line).trim_end());
        progress.event(Event::Output(&text));
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(text);
        Ok(())
    }
}

impl Output {
    /// Copies the file into the stage. It is a copy, since whoever built it may
    /// own the original.
    fn publish(&self, stage: &Path) -> Result<(), BuildError> {
        let target = stage.join(self.artifact.name.as_str());
        let copy = || -> io::Result<()> {
            let mut source = &self.file;
            source.rewind()?;
            let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(stage)?;
            io::copy(&mut source, file.as_file_mut())?;
            tree::set_mode(file.path(), 0o644)?;
            file.as_file().sync_all()?;
            file.persist(&target)?;
            Ok(())
        };
        copy().map_err(|error| BuildError::io(&target, error))
    }
}

/// Copies the recipe's inputs to their paths, checked on the way.
fn place_inputs(request: &Request<'_>, build: &Path) -> Result<(), BuildError> {
    let inputs: &BTreeMap<String, Sha256> = &request.recipe.inputs;
    for (path, expected) in inputs {
        let file = (request.inputs)(*expected);
        let no_input = || BuildError::NoInput { path: path.clone(), sha256: *expected, file: file.clone() };
        if !file.is_file() {
            return Err(no_input());
        }
        let mut target = build.to_owned();
        for segment in path.split('/') {
            if target.is_symlink() {
                return Err(BuildError::InputInTheWay(path.clone()));
            }
            target.push(segment);
        }
        if target.symlink_metadata().is_ok() {
            return Err(BuildError::InputInTheWay(path.clone()));
        }
        let copy = || -> io::Result<Sha256> {
            if let Some(folder) = target.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let mut content = File::open(&file)?;
            io::copy(&mut content, &mut File::create_new(&target)?)?;
            Ok(Sha256::of_reader(File::open(&target)?, &mut |_| {})?.0)
        };
        let found = copy().map_err(|error| BuildError::io(&target, error))?;
        if found != *expected {
            return Err(BuildError::WrongInput { path: path.clone(), expected: *expected, found });
        }
    }
    tree::set_times(build, request.epoch)
}

/// The name under which the source archive's files stand.
pub fn source_prefix(product: &Product, version: &Version) -> String {
    format!("{product}-{version}")
}

/// The artifact that is the source archive.
pub fn source_artifact(gz: &crate::manifest::claim::CompressedArchive) -> Artifact {
    let name: FileName = gz.name.clone();
    Artifact { name, kind: crate::manifest::Kind::SourceArchive, length: gz.length, sha256: gz.sha256, control: None }
}
