//! git, with nothing of the user's, the system's or the repository's
//! configuration, and nothing that could run a program of somebody else.

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use super::Bounds;
use super::Request;
use super::Since;
use super::SourceError;
use super::refs;
use super::refs::TAG;
use super::route::Route;
use super::route::Ssh;
use crate::home::atomic;
use crate::manifest::Pin;
use crate::manifest::claim::GitId;
use crate::manifest::names::printable;
use crate::process;
use crate::process::Confines;
use crate::process::ProcessError;
use crate::process::Program;
use crate::progress::Progress;

/// Settings of every call.
const SETTINGS: [&str; 16] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "core.attributesFile=/dev/null",
    "protocol.allow=never",
    "protocol.version=2",
    "transfer.fsckObjects=true",
    "fetch.fsckObjects=true",
    // One pack, whose size is bounded, in place of a file for each object.
    "fetch.unpackLimit=1",
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "init.templateDir=",
    "init.defaultBranch=none",
];

/// How many commits and files are shown to people.
const SHOWN: usize = 12;
/// What a list of tags may take of memory.
const LIST_MEMORY: u64 = 512 << 20;
/// What a fetch may take of memory.
const FETCH_MEMORY: u64 = 4 << 30;

fn no_tag(request: &Request<'_>) -> SourceError {
    SourceError::NoTag { origin: request.origin(), tag: request.tag.to_owned() }
}

/// A bare repository of ours.
pub(super) struct Git<'a> {
    folder: &'a Path,
    bounds: Bounds,
    progress: &'a dyn Progress,
}

impl<'a> Git<'a> {
    /// Makes a fresh repository; what was there before is removed.
    pub(super) fn init(folder: &'a Path, bounds: Bounds, progress: &'a dyn Progress) -> Result<Self, SourceError> {
        let io = |source| SourceError::Io { path: folder.to_owned(), source };
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        std::fs::create_dir_all(folder).map_err(io)?;
        let git = Self { folder, bounds, progress };
        git.settled(Program::new("git")).args(["init", "--quiet", "--bare"]).arg(folder).run(progress)?;
        Ok(git)
    }

    /// A repository that was made before.
    pub(super) fn at(folder: &'a Path, progress: &'a dyn Progress) -> Self {
        Self { folder, bounds: Bounds::default(), progress }
    }

    /// Gives a call of git all that it may know.
    fn settled(&self, program: Program) -> Program {
        let program = program
            // curl asks the user database for a home, and there for passwords,
            // where it is told of none.
            .env("HOME", "/nonexistent")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_ALLOW_PROTOCOL", "none")
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_NO_LAZY_FETCH", "1")
            .current_dir(self.folder);
        SETTINGS.iter().fold(program, |program, setting| program.usual_args(["-c", setting]))
    }

    /// A call that works on the repository, and on nothing else.
    pub(super) fn call(&self, arguments: &[&str]) -> Program {
        self.settled(Program::new("git")).usual_args(["--git-dir=."]).args(arguments.iter().copied())
    }

    /// A call that meets foreign bytes first.
    fn confined(&self, time: Duration, memory: u64) -> Program {
        let confines = Confines { folder: self.folder, time, memory, file: self.bounds.pack };
        self.settled(Program::confined("git", &confines)).usual_args(["--git-dir=."])
    }

    /// A call that goes to where the source is.
    fn remote(&self, route: &Route, time: Duration, memory: u64) -> Program {
        let mut program = self.confined(time, memory).env("GIT_ALLOW_PROTOCOL", route.protocol);
        if let Some(ssh) = &route.ssh {
            program = program.env("GIT_SSH_COMMAND", &ssh.command).env("GIT_SSH_VARIANT", "ssh");
        }
        route.settings.iter().fold(program, |program, setting| program.usual_args(["-c", setting]))
    }

    pub(super) fn progress(&self) -> &dyn Progress {
        self.progress
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder
    }

    fn text(&self, arguments: &[&str], what: &'static str) -> Result<String, SourceError> {
        let bytes = self.call(arguments).run(self.progress)?;
        let text = String::from_utf8(bytes).map_err(|_| SourceError::Answer(what))?;
        Ok(text.trim_end_matches('\n').to_owned())
    }

    /// Fetches the release tag, its sign-offs, and the branches that match, over
    /// the first route that answers.
    pub(super) fn fetch(&self, routes: &[Route], request: &Request<'_>) -> Result<(), SourceError> {
        // What git runs in begins or does not begin here, where no host has a say.
        self.confined(self.bounds.answer, LIST_MEMORY).arg("version").run(self.progress)?;
        let mut listed = Err(no_tag(request));
        for route in routes {
            listed = self.list(route, request).map(|specs| (route, specs));
            if !matches!(listed, Err(SourceError::Unreachable { .. })) {
                break;
            }
        }
        let (route, specs) = listed?;
        let begun = Instant::now();
        let fetched = self
            .remote(route, self.bounds.fetch, FETCH_MEMORY)
            .args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--stdin"])
            .arg(&route.url)
            .feed(specs.join("\n").as_bytes(), self.progress);
        fetched.map_err(|error| self.judge(route, begun, self.bounds.fetch, error))?;
        let sound = self.confined(self.bounds.fetch, FETCH_MEMORY);
        let sound = sound.args(["fsck", "--strict", "--no-progress", "--no-dangling"]).run(self.progress);
        sound.map(drop).map_err(|error| match error {
            ProcessError::Failed { status, complaint, .. } if !process::timed_out(status) => {
                SourceError::Unsound { place: route.place.clone(), complaint }
            }
            other => other.into(),
        })
    }

    /// Asks what there is, and gives a refspec for each ref that is wanted. What
    /// is fetched afterwards is named in full, so that a source cannot give more
    /// refs than it has told of.
    fn list(&self, route: &Route, request: &Request<'_>) -> Result<Vec<String>, SourceError> {
        let unsound = |complaint: String| SourceError::Unsound { place: route.place.clone(), complaint };
        let program = self.remote(route, self.bounds.answer, LIST_MEMORY);
        let program = if route.is_bundle {
            program.args(["bundle", "list-heads", &route.url])
        } else {
            program.args(["ls-remote", "--tags", "--heads", "--refs", &route.url])
        };
        let begun = Instant::now();
        let listed = program.run(self.progress);
        let bytes = listed.map_err(|error| self.judge(route, begun, self.bounds.answer, error))?;
        let specs = refs::specs(&String::from_utf8_lossy(&bytes), request.tag, request.branch).map_err(unsound)?;
        if specs.iter().any(|spec| spec.ends_with(&format!(":{TAG}"))) { Ok(specs) } else { Err(no_tag(request)) }
    }

    /// Whose fault it is that a source was not fetched. What a host says, which git
    /// passes on, counts against nobody but the host: it may make its own data worse,
    /// as it could by sending others, but never blames this machine.
    fn judge(&self, route: &Route, begun: Instant, time: Duration, error: ProcessError) -> SourceError {
        let place = route.place.clone();
        let (status, complaint) = match error {
            ProcessError::Failed { status, complaint, .. } => (status, complaint),
            ProcessError::TooMuch(_) => {
                return SourceError::Unsound { place, complaint: "it lists too many tags".to_owned() };
            }
            other => return other.into(),
        };
        let says = |words: &[&str]| words.iter().any(|word| complaint.contains(word));
        let unsound = |complaint| SourceError::Unsound { place: place.clone(), complaint };
        if process::timed_out(status) && begun.elapsed() >= time {
            let complaint = format!("it did not finish within {} seconds", time.as_secs());
            SourceError::Unreachable { place, complaint }
        } else if self.has_no_space() || route.is_local() && says(&["No space left on device", "Out of diskspace"]) {
            SourceError::Io { path: self.folder.to_owned(), source: rustix::io::Errno::NOSPC.into() }
        } else if route.is_local() && says(&["dubious ownership"]) {
            SourceError::OtherOwner(place)
        } else if let Some(complaint) = route.ssh.as_ref().and_then(Ssh::says) {
            SourceError::Unreachable { place, complaint }
        } else if says(&["File too large", "ut of memory"]) {
            unsound(format!("it is larger than a source may be ({} bytes in one pack)", self.bounds.pack))
        } else if says(&["mismatched algorithms"]) {
            unsound(refs::OF_SHA256.to_owned())
        } else if route.is_bundle {
            unsound(complaint)
        } else {
            let is_unsound = says(&["fsck error", "pack has bad", "inflate", "corrupt", "bad object"]);
            let said = if route.is_local() { complaint } else { format!("git or the host said: {complaint}") };
            if is_unsound { unsound(said) } else { SourceError::Unreachable { place, complaint: said } }
        }
    }

    /// Whether the disk is full. git does not always say so.
    fn has_no_space(&self) -> bool {
        const NOTHING: u64 = 128 << 10;
        atomic::free_space(self.folder).is_ok_and(|free| free < NOTHING)
    }

    /// The refs below a prefix, without it, sorted by name.
    pub(super) fn refs(&self, prefix: &str) -> Result<Vec<(String, GitId)>, SourceError> {
        let text = self.text(&["for-each-ref", "--format=%(objectname) %(refname)", prefix], "for-each-ref")?;
        text.lines()
            .map(|line| {
                let (id, name) = line.split_once(' ')?;
                Some((name.strip_prefix(prefix)?.to_owned(), id.parse().ok()?))
            })
            .collect::<Option<_>>()
            .ok_or(SourceError::Answer("for-each-ref"))
    }

    /// The id that a ref holds, not followed further.
    pub(super) fn id(&self, name: &str) -> Result<GitId, SourceError> {
        let text = self.text(&["rev-parse", "--verify", "--end-of-options", name], "rev-parse")?;
        text.parse().map_err(|_| SourceError::Answer("rev-parse"))
    }

    /// The type and the size of an object, before it is read.
    pub(super) fn kind(&self, id: &GitId) -> Result<(String, u64), SourceError> {
        let what = "cat-file --batch-check";
        let output = self
            .call(&["cat-file", "--batch-check=%(objecttype) %(objectsize)"])
            .output(format!("{id}\n").as_bytes(), self.progress)?;
        let text = std::str::from_utf8(&output.stdout).map_err(|_| SourceError::Answer(what))?;
        let (kind, size) = text.trim_end().split_once(' ').ok_or(SourceError::Answer(what))?;
        Ok((kind.to_owned(), size.parse().map_err(|_| SourceError::Answer(what))?))
    }

    /// The bytes of an object of a known type and size.
    pub(super) fn object(&self, kind: &str, id: &GitId) -> Result<Vec<u8>, SourceError> {
        Ok(self.call(&["cat-file", kind, id.as_str()]).run(self.progress)?)
    }

    /// Whether one commit is the other or an ancestor of it.
    pub(super) fn is_ancestor(&self, commit: &GitId, of: &GitId) -> Result<bool, SourceError> {
        let output =
            self.call(&["merge-base", "--is-ancestor", commit.as_str(), of.as_str()]).output(&[], self.progress)?;
        match output.status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(SourceError::Answer("merge-base")),
        }
    }

    /// Commits and files between two commits; `None` where one does not follow the
    /// other.
    pub(super) fn since(&self, old: &GitId, new: &GitId) -> Result<Option<Since>, SourceError> {
        let known = self.call(&["cat-file", "-e", &format!("{old}^{{commit}}")]).output(&[], self.progress)?;
        if !known.status.success() || !self.is_ancestor(old, new)? {
            return Ok(None);
        }
        let range = format!("{old}..{new}");
        let count = self.text(&["rev-list", "--count", &range], "rev-list")?;
        let commits = self.text(&["log", &format!("-{SHOWN}"), "--format=%h %s", &range], "log")?;
        let (mut files, mut file_count) = (Vec::new(), 0);
        let diff = self.call(&["diff-tree", "-r", "--no-renames", "--name-status", old.as_str(), new.as_str()]);
        for line in String::from_utf8_lossy(&diff.run(self.progress)?).lines() {
            file_count += 1;
            if files.len() < SHOWN {
                files.push(printable(&line.replace('\t', " ")));
            }
        }
        let commits = commits.lines().map(printable).collect();
        let commit_count = count.parse().map_err(|_| SourceError::Answer("rev-list"))?;
        Ok(Some(Since { commits, commit_count, files, file_count }))
    }

    /// Writes a bundle with the refs of a pin, under the names that they have at the
    /// source.
    pub(super) fn bundle(&self, pin: &Pin, to: &Path) -> Result<(), SourceError> {
        let mut names = vec![format!("refs/heads/{}", pin.branch)];
        self.call(&["update-ref", &names[0], &format!("{}{}", refs::HEADS, pin.branch)]).run(self.progress)?;
        for tag in &pin.tags {
            let name = format!("refs/tags/{}", tag.name);
            self.call(&["update-ref", &name, tag.object.as_str()]).run(self.progress)?;
            names.push(name);
        }
        let path = to.to_string_lossy();
        let mut arguments = vec!["bundle", "create", "--quiet", path.as_ref()];
        arguments.extend(names.iter().map(String::as_str));
        self.call(&arguments).run(self.progress)?;
        Ok(())
    }

    /// When a commit was made, in seconds since 1970.
    pub(super) fn commit_time(&self, commit: &GitId) -> Result<i64, SourceError> {
        let text = self.text(&["show", "--no-patch", "--format=%ct", commit.as_str()], "show")?;
        text.parse().ok().filter(|time| *time >= 0).ok_or(SourceError::Answer("show"))
    }

    /// Reads a plain file at the top of a commit's tree.
    pub(super) fn file(&self, commit: &GitId, name: &'static str, max: u64) -> Result<Vec<u8>, SourceError> {
        let listing = self.text(&["ls-tree", "--full-tree", "-l", commit.as_str(), name], "ls-tree")?;
        let none = || SourceError::NoFile { commit: commit.clone(), file: name };
        let mut fields = listing.split('\t').next().unwrap_or_default().split_ascii_whitespace();
        let (Some(mode), Some(_), Some(id), Some(size)) = (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(none());
        };
        let wrong = |reason| SourceError::Tree { commit: commit.clone(), path: name.to_owned(), reason };
        if !mode.starts_with("100") {
            return Err(wrong("it is not a plain file"));
        }
        if size.parse::<u64>().ok().is_none_or(|size| size > max) {
            return Err(wrong("it is too long"));
        }
        self.object("blob", &id.parse().map_err(|_| SourceError::Answer("ls-tree"))?)
    }
}
