//! git, with nothing of the user's, the system's or the repository's
//! configuration, and nothing that could run a program of somebody else.

use std::path::Path;

use super::SourceError;
use crate::manifest::claim::GitId;
use crate::process::ProcessError;
use crate::process::Program;
use crate::progress::Progress;

/// Where the fetched release tag is kept.
pub(super) const TAG: &str = "refs/inbox/tag";
/// Where fetched branches are kept.
pub(super) const HEADS: &str = "refs/inbox/heads/";
/// Where fetched sign-offs are kept.
pub(super) const SIGNOFFS: &str = "refs/inbox/signoff/";

/// Settings of every call.
const SETTINGS: [&str; 15] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "core.attributesFile=/dev/null",
    "protocol.allow=never",
    "protocol.file.allow=always",
    "transfer.fsckObjects=true",
    "fetch.fsckObjects=true",
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "init.templateDir=",
    "init.defaultBranch=none",
];

/// A bare repository of ours.
pub(super) struct Git<'a> {
    folder: &'a Path,
    progress: &'a dyn Progress,
}

/// A git repository on this machine.
pub(super) fn local_url(source: &str, base: &Path) -> Result<String, SourceError> {
    let scheme = || SourceError::Scheme(source.to_owned());
    if let Some(path) = source.strip_prefix("file://") {
        return if path.starts_with('/') { Ok(source.to_owned()) } else { Err(scheme()) };
    }
    // `host:path` is ssh to git, and anything with `://` another transport.
    if source.contains("://") || source.split('/').next().is_some_and(|first| first.contains(':')) {
        return Err(scheme());
    }
    let path = base.join(source);
    let path = path.canonicalize().map_err(|error| SourceError::Io { path, source: error })?;
    path.to_str().map(|path| format!("file://{path}")).ok_or_else(scheme)
}

impl<'a> Git<'a> {
    /// Makes a fresh repository; what was there before is removed.
    pub(super) fn init(folder: &'a Path, progress: &'a dyn Progress) -> Result<Self, SourceError> {
        let io = |source| SourceError::Io { path: folder.to_owned(), source };
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        std::fs::create_dir_all(folder).map_err(io)?;
        let git = Self { folder, progress };
        git.program(&["init", "--quiet", "--bare"]).arg(folder).run(progress)?;
        Ok(git)
    }

    fn program(&self, arguments: &[&str]) -> Program {
        let mut program = Program::new("git")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_ALLOW_PROTOCOL", "file")
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_NO_LAZY_FETCH", "1")
            .current_dir(self.folder);
        for setting in SETTINGS {
            program = program.usual_args(["-c", setting]);
        }
        program.args(arguments.iter().copied())
    }

    /// A call that works on the repository.
    pub(super) fn call(&self, arguments: &[&str]) -> Program {
        self.program(&[]).usual_args(["--git-dir=."]).args(arguments.iter().copied())
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

    /// Fetches the release tag, its sign-offs, and the branches that match.
    pub(super) fn fetch(&self, url: &str, tag: &str, branch: &str) -> Result<(), SourceError> {
        // Asking first gives a missing tag a message of its own.
        let asked = self.text(&["ls-remote", "--tags", url, &format!("refs/tags/{tag}")], "ls-remote");
        let listed = asked.map_err(|error| match error {
            SourceError::Process(ProcessError::Failed { complaint, .. }) if complaint.contains("dubious ownership") => {
                SourceError::OtherOwner(url.to_owned())
            }
            other => other,
        })?;
        if !listed.lines().any(|line| line.ends_with(&format!("\trefs/tags/{tag}"))) {
            return Err(SourceError::NoTag(tag.to_owned()));
        }
        let specs = [
            format!("refs/tags/{tag}:{TAG}"),
            format!("refs/tags/signoff/{tag}/*:{SIGNOFFS}*"),
            format!("refs/heads/{branch}:{HEADS}{branch}"),
        ];
        let mut arguments = vec!["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", url];
        arguments.extend(specs.iter().map(String::as_str));
        self.call(&arguments).run(self.progress)?;
        self.call(&["fsck", "--strict", "--no-progress", "--no-dangling"]).run(self.progress)?;
        Ok(())
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
