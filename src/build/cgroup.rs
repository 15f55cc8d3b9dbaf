//! A control group around a build: it bounds memory and processes, for root too,
//! and no process of the build can leave it. See cgroups(7) and the kernel's
//! `admin-guide/cgroup-v2` and `admin-guide/cgroup-v1`.
//!
//! Three ways are tried, and the first that works is taken: a scope that systemd
//! makes, a group of version 2 below a folder that this user may write to, and
//! groups of version 1 below our own. Where none works nothing is built: limits
//! of single processes (setrlimit) bind neither root nor many processes.

use std::fs;
use std::io;
use std::io::ErrorKind;
use std::io::PipeWriter;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::Signal;

use super::BuildError;
use crate::process::Program;
use crate::progress::Progress;
use crate::progress::Silent;

/// Moves the shell into two groups, and becomes the program.
const JOIN: &str = r#"echo 0 >"$0/cgroup.procs" && echo 0 >"$1/cgroup.procs" && shift && exec "$@""#;
/// Becomes the program, beside a process that keeps the scope, and so what the
/// kernel has counted, until we let go of the pipe.
const HOLD: &str = r#"exec 3<&0; cat <&3 >/dev/null 2>&1 & exec "$@" </dev/null 3<&-"#;
/// Says in which scope it runs, and which limits hold there.
const SCOPE: &str = r#"cd "$0$(sed -n s/^0:://p /proc/self/cgroup)" && pwd && cat memory.max memory.swap.max pids.max"#;
/// How long killed processes may take to be gone.
const PATIENCE: u32 = 1000;
/// How long to wait before looking again whether they are.
const PAUSE: Duration = Duration::from_millis(10);

/// What a group bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes, of which none may be swapped out.
    pub(super) memory: u64,
    /// Processes and threads.
    pub(super) processes: u32,
}

/// A group that exists. Dropping it ends what is in it and removes it.
#[derive(Debug)]
pub(super) struct Group {
    way: Way,
    name: String,
    /// Where memory is bounded, and where processes are: one folder but in
    /// version 1.
    memory: PathBuf,
    processes: PathBuf,
}

#[derive(Debug)]
enum Way {
    /// A scope of systemd: the arguments that make it, and what keeps it.
    Scope { arguments: Vec<String>, hold: Option<PipeWriter> },
    /// Version 2.
    Unified,
    /// Version 1.
    Legacy,
}

impl Group {
    /// Makes the group of builds of one home, whose folder of cuts is `cuts`.
    /// Whatever an earlier command left in it is ended: the caller holds the lock
    /// of the home, so nobody needs it.
    ///
    /// # Errors
    /// No way works here.
    pub(super) fn make(cuts: &Path, bounds: Bounds, progress: &dyn Progress) -> Result<Self, BuildError> {
        let folder = cuts.metadata().map_err(|error| BuildError::io(cuts, error))?;
        // No two homes have the same, wherever they are mounted or moved to.
        let name = format!("release-build-{:x}-{:x}", folder.dev(), folder.ino());
        let mut tried = Vec::new();
        for way in [Self::scope, Self::unified, Self::legacy] {
            match way(&name, bounds, progress) {
                Ok(group) => return Ok(group),
                Err(why) => tried.push(why),
            }
        }
        Err(BuildError::NoGroup { tried, hierarchies: hierarchies() })
    }

    /// A scope, which only systemd may make where it runs.
    fn scope(name: &str, bounds: Bounds, progress: &dyn Progress) -> Result<Self, String> {
        if !is_systemd() {
            return Err("systemd does not run".to_owned());
        }
        let refused = |why: String| format!("systemd-run: {why}");
        let mount = mount_of("cgroup2", "").ok_or_else(|| refused("no control groups of version 2".to_owned()))?.0;
        let mut arguments: Vec<String> = ["--scope", "--quiet", "--collect"].map(str::to_owned).into();
        arguments.extend(manager().map(str::to_owned));
        arguments.push(format!("--property=MemoryMax={}", bounds.memory));
        arguments.push("--property=MemorySwapMax=0".to_owned());
        arguments.push(format!("--property=TasksMax={}", bounds.processes));
        let trial = systemd_run(&arguments, &format!("{name}-trial")).args(["sh", "-c", SCOPE]).arg(mount);
        let said = trial.run(progress).map_err(|error| refused(error.to_string()))?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let lines: Vec<&str> = said.lines().collect();
        let Some((parent, [memory, "0", processes])) =
            lines.split_first().and_then(|(folder, limits)| Some((Path::new(folder).parent()?, limits)))
        else {
            return Err(refused("a scope has no limits of memory and swap".to_owned()));
        };
        if [memory, processes].contains(&&"max") {
            return Err(refused("a scope has no limits of memory and processes".to_owned()));
        }
        let folder = parent.join(format!("{name}.scope"));
        let way = Way::Scope { arguments, hold: None };
        let group = Self { way, name: name.to_owned(), memory: folder.clone(), processes: folder };
        group.clear().map_err(refused)?;
        Ok(group)
    }

    /// A group of version 2: below our own, or below the next one above it that
    /// was given to us. Our own holds us, and a group with processes has no inner
    /// ones that are bounded, but for the root of all.
    fn unified(name: &str, bounds: Bounds, progress: &dyn Progress) -> Result<Self, String> {
        let refused = |why: &str| format!("control groups of version 2: {why}");
        let (mount, own) = mount_of("cgroup2", "").ok_or_else(|| refused("not mounted"))?;
        let controllers = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        if !["memory", "pids"].iter().all(|wanted| controllers.split_whitespace().any(|found| found == *wanted)) {
            return Err(refused("the kernel offers none of memory and processes there"));
        }
        let mut why = String::new();
        for parent in own.ancestors().take_while(|parent| parent.starts_with(&mount)) {
            let folder = parent.join(name);
            let group = Self { way: Way::Unified, name: name.to_owned(), memory: folder.clone(), processes: folder };
            match group.set_up(bounds, progress) {
                Ok(()) => return Ok(group),
                // What is said of the nearest one is what somebody can mend.
                Err(error) if why.is_empty() => why = error,
                Err(_) => {}
            }
        }
        Err(refused(&why))
    }

    /// Groups of version 1, below our own.
    fn legacy(name: &str, bounds: Bounds, progress: &dyn Progress) -> Result<Self, String> {
        let refused = |why: &str| format!("control groups of version 1: {why}");
        let own = |controller| {
            mount_of("cgroup", controller).ok_or_else(|| refused(&format!("`{controller}` is not mounted")))
        };
        let (memory, processes) = (own("memory")?.1.join(name), own("pids")?.1.join(name));
        let group = Self { way: Way::Legacy, name: name.to_owned(), memory, processes };
        group.set_up(bounds, progress).map_err(|why| refused(&why))?;
        Ok(group)
    }

    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.memory).chain((self.processes != self.memory).then_some(&self.processes))
    }

    /// Makes the folders, sets the limits, and tries whether a process can enter.
    fn set_up(&self, bounds: Bounds, progress: &dyn Progress) -> Result<(), String> {
        self.clear()?;
        for folder in self.folders() {
            fs::create_dir(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        }
        if let (Way::Unified, Some(parent)) = (&self.way, self.memory.parent()) {
            // Only where groups can be made. Where that was done already, or cannot be,
            // the next lines tell. It is not undone: other builds may need it by then.
            let _ = control(&parent.join("cgroup.subtree_control"), "+memory +pids");
        }
        let memory = bounds.memory.to_string();
        // Version 1 bounds memory and swap together: the same number leaves none.
        let (file, swap_file, swap) = match self.way {
            Way::Legacy => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", memory.as_str()),
            _ => ("memory.max", "memory.swap.max", "0"),
        };
        let set = |path: PathBuf, value: &str| {
            control(&path, value).map_err(|error| format!("cannot write {}: {error}", path.display()))
        };
        set(self.memory.join(file), &memory)?;
        match control(&self.memory.join(swap_file), swap) {
            // Kernels that do not count swap have no such file.
            Err(error) if error.kind() == ErrorKind::NotFound && has_swap() => {
                return Err("the kernel does not bound swap (boot with swapaccount=1, or use no swap)".to_owned());
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(format!("cannot write {}: {error}", self.memory.join(swap_file).display()));
            }
            _ => {}
        }
        if matches!(self.way, Way::Legacy) {
            // Sockets of a network are not counted with the rest there.
            match control(&self.memory.join("memory.kmem.tcp.limit_in_bytes"), &memory) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(format!("cannot bound sockets in {}: {error}", self.memory.display()));
                }
                _ => {}
            }
        }
        set(self.processes.join("pids.max"), &bounds.processes.to_string())?;
        let trial = self.joining().arg("true").output(&[], progress).map_err(|error| error.to_string())?;
        if trial.status.success() {
            Ok(())
        } else {
            let why = Some(trial.complaint).filter(|why| !why.is_empty()).unwrap_or_else(|| trial.status.to_string());
            Err(format!("no process of ours may enter {}: {why}", self.processes.display()))
        }
    }

    fn joining(&self) -> Program {
        Program::new("sh").args(["-c", JOIN]).arg(&self.memory).arg(&self.processes)
    }

    /// The beginning of a command that runs in the group.
    ///
    /// # Errors
    /// There is no pipe to be had.
    pub(super) fn start(&mut self) -> io::Result<Program> {
        let Way::Scope { arguments, hold } = &mut self.way else {
            return Ok(self.joining());
        };
        let (reader, writer) = io::pipe()?;
        *hold = Some(writer);
        Ok(systemd_run(arguments, &self.name).args(["sh", "-c", HOLD, "sh"]).stdin(reader))
    }

    /// What the kernel has done to keep the limits: whether it killed a process
    /// for want of memory, and whether it refused one more process.
    pub(super) fn refusals(&self) -> (bool, bool) {
        let counted = |folder: &Path, file: &str, what: &str| {
            let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
            text.lines().filter_map(|line| line.split_once(' ')).any(|(name, count)| name == what && count != "0")
        };
        let memory = if matches!(self.way, Way::Legacy) { "memory.oom_control" } else { "memory.events" };
        (counted(&self.memory, memory, "oom_kill"), counted(&self.processes, "pids.events", "max"))
    }

    /// Kills all that is in the group. Processes that end may still be there when
    /// this returns.
    pub(super) fn kill(&self) {
        // From now on there are no new ones; that one may be refused does not count.
        let _ = control(&self.processes.join("pids.max"), "0");
        if control(&self.processes.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        // Version 1, and kernels before 5.14.
        for pid in self.members() {
            let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            // Since the list was read, the number may have gone to a stranger.
            let groups = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_pid())).unwrap_or_default();
            if groups.lines().any(|line| line.rsplit('/').next().is_some_and(|last| last.starts_with(&self.name))) {
                let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
            }
        }
    }

    fn members(&self) -> Vec<Pid> {
        let list = fs::read_to_string(self.processes.join("cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
    }

    /// Ends all that is in the group, waits until it is gone, and removes the
    /// group.
    ///
    /// # Errors
    /// Processes cannot be ended, such as those that wait for a broken disk.
    pub(super) fn close(self) -> Result<(), BuildError> {
        self.clear().map_err(BuildError::Undead)
    }

    fn clear(&self) -> Result<(), String> {
        if matches!(self.way, Way::Scope { .. }) && self.memory.exists() {
            self.kill();
            // Where somebody else removes its folder, systemd goes on thinking that the
            // scope is there, and makes no other one of that name.
            let stop =
                systemd("systemctl").args(manager()).args(["stop", "--quiet"]).arg(format!("{}.scope", self.name));
            let _ = stop.output(&[], &Silent);
        }
        for folder in self.folders() {
            let mut patience = PATIENCE;
            loop {
                match fs::remove_dir(folder) {
                    Ok(()) => break,
                    Err(error) if error.kind() == ErrorKind::NotFound => break,
                    Err(error) if error.kind() == ErrorKind::ResourceBusy && patience > 0 => self.kill(),
                    Err(error) => return Err(format!("cannot remove {}: {error}", folder.display())),
                }
                std::thread::sleep(PAUSE);
                patience -= 1;
            }
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = match self.way {
            Way::Scope { .. } => "a scope of systemd",
            Way::Unified => "a control group of version 2",
            Way::Legacy => "control groups of version 1",
        };
        write!(f, "{way} at {}", self.memory.display())
    }
}

fn systemd_run(arguments: &[String], unit: &str) -> Program {
    systemd("systemd-run").args(arguments).arg(format!("--unit={unit}")).arg("--")
}

/// A program that talks to systemd.
fn systemd(name: &str) -> Program {
    let user = rustix::process::geteuid().as_raw();
    Program::new(name).env("XDG_RUNTIME_DIR", format!("/run/user/{user}"))
}

/// The option that names this user's systemd, where it is not that of the machine.
fn manager() -> Option<&'static str> {
    (!rustix::process::geteuid().is_root()).then_some("--user")
}

/// Whether systemd runs this machine, as `sd_booted(3)` finds out.
pub fn is_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn has_swap() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// Writes a value into a file of the kernel's.
fn control(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// Where root could make groups for us: in version 1 below our own ones of memory
/// and of processes, in version 2 at the top; or nowhere.
fn hierarchies() -> Vec<PathBuf> {
    let own = ["memory", "pids"].map(|controller| mount_of("cgroup", controller));
    if let [Some((_, memory)), Some((_, processes))] = own {
        return vec![memory, processes];
    }
    mount_of("cgroup2", "").into_iter().map(|(top, _)| top).collect()
}

/// Where a hierarchy is mounted, and our own group there. See proc(5) for
/// mountinfo, and cgroups(7) for /proc/self/cgroup.
fn mount_of(kind: &str, controller: &str) -> Option<(PathBuf, PathBuf)> {
    let has = |list: &str| controller.is_empty() || list.split(',').any(|name| name == controller);
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let (root, mount) = mounts.lines().find_map(|line| {
        let (fields, tail) = line.split_once(" - ")?;
        let (fields, tail): (Vec<_>, Vec<_>) = (fields.split(' ').collect(), tail.split(' ').collect());
        (tail.first() == Some(&kind) && has(tail.last()?)).then_some((*fields.get(3)?, *fields.get(4)?))
    })?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = if controller.is_empty() { number == "0" } else { has(controllers) };
        is_it.then_some(path)
    })?;
    let below = Path::new(own).strip_prefix(root).ok()?;
    Some((mount.into(), Path::new(mount).join(below)))
}
