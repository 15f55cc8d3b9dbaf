//! The limits of a build, and who watches that it keeps to them.
//!
//! The kernel bounds memory and processes (`cgroup`); what the build sees of the
//! disk is the one folder `/build`, since all else that it can write to lies in
//! memory. Time, disk and log are bounded from here: whoever reaches a limit is
//! killed, and its folder removed.
//!
//! The disk is bounded by how much less of it is free than before. That needs no
//! help of the file system (quotas, loop devices) and no privileges, costs nothing
//! for any number of files, and also sees files without a name or in closed
//! folders, which a walk through the folder does not. It counts what others write
//! meanwhile: a terminal has no others. It overshoots by what can be written
//! between two looks, for which a tenth of what is free is never given away.

use std::fmt;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use super::BuildError;
use super::cgroup::Bounds;
use super::cgroup::Group;
use crate::policy::Sandbox;
use crate::policy::Size;
use crate::policy::Time;

/// How often is looked.
const TICK: Duration = Duration::from_millis(20);

/// What one build may take on this terminal, now.
pub(super) struct Limits {
    time: Time,
    memory: Size,
    processes: u32,
    disk: Size,
    /// How many files more than before; none where the file system has no limit.
    files: Option<u64>,
    pub(super) log: Size,
}

/// A limit that a build reached.
#[derive(Debug, Clone)]
pub struct Reached {
    /// Its name in `terminal.toml`.
    pub limit: &'static str,
    /// What the build did.
    what: String,
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)
    }
}

impl Limits {
    /// The limits of `sandbox` for a build in the folder `work`: within nine
    /// tenths of what this machine has left of memory, disk and files.
    ///
    /// # Errors
    /// The file system does not say what is free.
    pub(super) fn now(sandbox: &Sandbox, work: &Path) -> Result<Self, BuildError> {
        let free = Free::of(work).map_err(|error| BuildError::io(work, error.into()))?;
        let within = |wanted: Size, there: u64| wanted.min(Size::new(tenths(there) >> 20 << 20));
        Ok(Self {
            time: sandbox.time,
            memory: available_memory().map_or(sandbox.memory, |there| within(sandbox.memory, there)),
            processes: sandbox.processes.number(),
            disk: within(sandbox.disk, free.bytes),
            files: free.files.map(tenths),
            log: sandbox.log,
        })
    }

    /// What the kernel bounds.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds { memory: self.memory.bytes(), processes: self.processes }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, memory, processes, disk, log, .. } = self;
        write!(f, "at most {time}, {memory} of memory, {processes} processes, {disk} of disk, {log} of log")
    }
}

/// Nine tenths.
fn tenths(number: u64) -> u64 {
    number / 10 * 9
}

/// How much memory can be had without swap, by proc(5).
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What a file system has left for users.
#[derive(Debug, Clone, Copy)]
struct Free {
    bytes: u64,
    files: Option<u64>,
}

impl Free {
    fn of(folder: &Path) -> rustix::io::Result<Self> {
        let found = rustix::fs::statvfs(folder)?;
        let bytes = found.f_bavail.saturating_mul(found.f_frsize);
        Ok(Self { bytes, files: (found.f_files > 0).then_some(found.f_favail) })
    }
}

/// Watches one build.
pub(super) struct Watch<'a> {
    limits: &'a Limits,
    group: &'a Group,
    work: PathBuf,
    before: Free,
    begun: Instant,
    reached: OnceLock<Reached>,
}

impl<'a> Watch<'a> {
    /// Begins to count, for a build in the folder `work`.
    ///
    /// # Errors
    /// The file system does not say what is free.
    pub(super) fn begin(limits: &'a Limits, group: &'a Group, work: &Path) -> Result<Self, BuildError> {
        let before = Free::of(work).map_err(|error| BuildError::io(work, error.into()))?;
        Ok(Self { limits, group, work: work.to_owned(), before, begun: Instant::now(), reached: OnceLock::new() })
    }

    /// Looks after `run` until it is over.
    pub(super) fn during<T>(&self, run: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            let (over, is_over) = mpsc::channel::<()>();
            scope.spawn(move || {
                while is_over.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                    if self.reached().is_some() {
                        // Again and again: one that just entered was not there before.
                        self.group.kill();
                    } else {
                        self.look();
                    }
                }
            });
            let result = run();
            drop(over);
            // What it did last counts too.
            self.look();
            result
        })
    }

    /// The first limit that was reached.
    pub(super) fn reached(&self) -> Option<&Reached> {
        self.reached.get()
    }

    /// Notes that a limit was reached and ends the build.
    pub(super) fn stop(&self, limit: &'static str, what: String) {
        let _ = self.reached.set(Reached { limit, what });
        self.group.kill();
    }

    fn look(&self) {
        let limits = self.limits;
        let (no_memory, no_process) = self.group.refusals();
        if no_memory {
            return self.stop("memory", format!("ran out of its {} of memory", limits.memory));
        }
        if no_process {
            return self.stop("processes", format!("had more than {} processes at once", limits.processes));
        }
        if self.begun.elapsed() >= limits.time.duration() {
            return self.stop("time", format!("took longer than {}", limits.time));
        }
        let Ok(now) = Free::of(&self.work) else {
            return;
        };
        if self.before.bytes.saturating_sub(now.bytes) > limits.disk.bytes() {
            return self.stop("disk", format!("filled more than {} of the disk", limits.disk));
        }
        if let (Some(before), Some(now), Some(most)) = (self.before.files, now.files, limits.files)
            && before.saturating_sub(now) > most
        {
            self.stop("disk", format!("made more than {most} files, nine tenths of what the disk has room for"));
        }
    }
}
