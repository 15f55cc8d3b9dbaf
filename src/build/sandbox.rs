//! The sandbox: bubblewrap, with nothing in it that a build does not need.
//!
//! Started by root, the build must not run as root even outside the sandbox's
//! user namespace. An outer bubblewrap, as root, makes the few folders that the
//! build needs reachable below `/mnt` (homes are closed to others), `setpriv`
//! drops all privileges, and the inner one builds the sandbox.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use super::BuildError;
use super::Request;
use super::tree;
use crate::process;
use crate::process::ProcessError;
use crate::process::Program;

/// The program that makes the sandbox.
const BUBBLEWRAP: &str = "bwrap";

/// The user and group that a build of root runs as: from the range that
/// systemd keeps for dynamic users, and in nobody's possession.
const BUILD_ID: u32 = 64_901;
/// Where the outer bubblewrap puts folders for the inner one.
const STAGING: &str = "/mnt";
/// The user and group that the build sees itself as.
const INSIDE_ID: &str = "1000";

/// What builds see of the system beside `/usr`, where it exists: how libraries
/// and alternatives are found, and what dpkg's programs ask, such as which
/// package a library is from.
const SYSTEM: [&str; 6] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/dpkg/origins",
    "/var/lib/dpkg",
];

/// A folder for the sandbox.
struct Bind {
    outside: PathBuf,
    inside: String,
    writable: bool,
}

/// The program that runs the recipe's commands, after `start`.
///
/// # Errors
/// bubblewrap is not installed, or the folder cannot be given to the build.
pub(super) fn program(
    start: Program,
    request: &Request<'_>,
    number: u32,
    source: &Path,
    build: &Path,
) -> Result<Program, BuildError> {
    if !process::is_installed(BUBBLEWRAP) {
        return Err(ProcessError::Missing(BUBBLEWRAP.to_owned()).into());
    }
    let etc = write_etc(request.work)?;
    let bind = |outside: PathBuf, inside: &str, writable| Bind { outside, inside: inside.to_owned(), writable };
    let mut binds = vec![
        bind(source.to_owned(), "/source", false),
        bind(build.to_owned(), "/build", true),
        bind(etc.join("passwd"), "/etc/passwd", false),
        bind(etc.join("group"), "/etc/group", false),
    ];
    for toolchain in request.environment.toolchains() {
        binds.push(bind(toolchain.path.clone(), &toolchain.at, false));
    }

    let mut program = start;
    if rustix::process::geteuid().is_root() {
        tree::give_to(build, BUILD_ID)?;
        program = as_nobody(program, &mut binds);
    }
    if number == 2 {
        // One processor: a build whose result depends on the number shows it.
        program = program.args(["taskset", "--cpu-list", &one_processor()]);
    }
    program = program
        .arg(BUBBLEWRAP)
        .args(["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"])
        .args(["--clearenv", "--cap-drop", "ALL", "--uid", INSIDE_ID, "--gid", INSIDE_ID])
        .args(["--hostname", if number == 2 { "second" } else { "build" }])
        .args(["--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/sbin", "/sbin"])
        .args(["--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"])
        .args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run", "--dir", "/var/tmp"])
        .args(SYSTEM.iter().flat_map(|path| ["--ro-bind-try", path, path]));
    for bind in &binds {
        let how = if bind.writable { "--bind" } else { "--ro-bind" };
        program = program.arg(how).arg(&bind.outside).arg(&bind.inside);
    }
    program = program.args(["--remount-ro", "/", "--chdir", "/build"]);
    for (name, value) in variables(request) {
        program = program.args(["--setenv".to_owned(), name.to_owned(), value]);
    }
    Ok(program.args(["--", "/bin/sh", "-c"]).arg(script(&request.recipe.script)))
}

/// The first processor that this process may use.
fn one_processor() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let digits = allowed.map(|list| list.trim().chars().take_while(char::is_ascii_digit).collect::<String>());
    digits.filter(|digits| !digits.is_empty()).unwrap_or_else(|| "0".to_owned())
}

/// The outer bubblewrap, up to where the inner one begins. Changes the binds to
/// where they then are.
fn as_nobody(start: Program, binds: &mut [Bind]) -> Program {
    // The namespace of processes ends them all when this bubblewrap is killed: it
    // gives up its capabilities, and may then not kill another user's process.
    let mut outer = start.arg(BUBBLEWRAP);
    outer = outer.args(["--unshare-pid", "--die-with-parent", "--dev-bind", "/", "/", "--tmpfs", STAGING]);
    for (index, bind) in binds.iter_mut().enumerate() {
        let staged = PathBuf::from(format!("{STAGING}/{index}"));
        let how = if bind.writable { "--bind" } else { "--ro-bind" };
        outer = outer.arg(how).arg(&bind.outside).arg(&staged);
        bind.outside = staged;
    }
    let id = BUILD_ID.to_string();
    outer.args(["--", "setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]).args([
        "--inh-caps=-all",
        "--ambient-caps=-all",
        "--bounding-set=-all",
        "--no-new-privs",
    ])
}

/// A build needs to know that users exist, and no more about them.
fn write_etc(work: &Path) -> Result<PathBuf, BuildError> {
    let etc = work.join("etc");
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(&etc)?;
        for (name, text) in [
            ("passwd", "root:x:0:0:root:/:/bin/sh\nbuild:x:1000:1000:build:/tmp:/bin/sh\n"),
            ("group", "root:x:0:\nbuild:x:1000:\n"),
        ] {
            fs::write(etc.join(name), text)?;
            tree::set_mode(&etc.join(name), 0o644)?;
        }
        Ok(())
    };
    write().map_err(|error| BuildError::io(&etc, error))?;
    Ok(etc)
}

/// The whole environment of the build.
fn variables(request: &Request<'_>) -> Vec<(&'static str, String)> {
    let programs = |at: &str| if at.ends_with("/bin") { format!("{at}:") } else { format!("{at}/bin:") };
    let toolchains = request.environment.toolchains().iter().map(|toolchain| programs(&toolchain.at));
    vec![
        ("PATH", format!("{}/usr/bin:/bin:/usr/sbin:/sbin", toolchains.collect::<String>())),
        ("HOME", "/tmp".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("LC_ALL", "C.UTF-8".to_owned()),
        ("TZ", "UTC".to_owned()),
        ("SOURCE_DATE_EPOCH", request.epoch.to_string()),
        ("RELEASE_PRODUCT", request.product.to_string()),
        ("RELEASE_VERSION", request.version.to_string()),
    ]
}

/// The commands as one shell script that stops at the first failure and shows
/// what it does.
fn script(lines: &[String]) -> String {
    format!("set -eux\numask 022\n{}", lines.join("\n"))
}
