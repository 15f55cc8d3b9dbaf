//! A room of its own for a laboratory: a mount namespace, in which file systems
//! fill up, become read-only, and lose their permissions.

use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;

use super::Lab;
use super::Said;
use super::program;
use super::run;

/// The capabilities that let root ignore permissions.
const IGNORE_PERMISSIONS: &str = "-dac_override,-dac_read_search,-fowner";

/// A mount namespace that lives as long as this does.
pub struct Room {
    holder: Child,
    enter: Vec<String>,
    folder: PathBuf,
}

impl Room {
    /// Moves a laboratory into a room of its own, in which each of `folders` is
    /// a file system of 64 MB.
    pub fn around(lab: &mut Lab, folders: &[&str]) -> Self {
        let mut command = program("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "sh", "-c", "echo ready; exec cat"]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let folder = lab.path("");
        let mut enter: Vec<String> =
            ["nsenter", "--target", &holder.id().to_string(), "--mount"].map(String::from).into();
        if !rustix::process::geteuid().is_root() {
            enter.extend(["--user", "--preserve-credentials"].map(String::from));
        }
        enter.push(format!("--wdns={}", folder.display()));
        let room = Self { holder, enter, folder };
        for name in folders {
            room.does(&format!(
                "mkdir -p {name} new && mount -t tmpfs -o size=64m,mode=755 tmpfs new && cp -a {name}/. new && mount --move new {name}"
            ));
        }
        room.lift_permissions(lab, true);
        room
    }

    /// Whether programs of the laboratory may ignore permissions, as root does.
    pub fn lift_permissions(&self, lab: &mut Lab, lifted: bool) {
        let mut through: Vec<&str> = self.enter.iter().map(String::as_str).collect();
        if !lifted {
            through.extend(["setpriv", "--bounding-set", IGNORE_PERMISSIONS]);
        }
        lab.start_through(&through);
    }

    /// Runs a shell command in the room.
    #[track_caller]
    pub fn does(&self, script: &str) -> Said {
        run(program(&self.enter[0]).args(&self.enter[1..]).args(["sh", "-ec", script])).exits(0)
    }

    /// Leaves a file system this many free pages of 4 KiB.
    pub fn leave_pages(&self, folder: &str, free: u32) {
        self.does(&format!(
            "used=$(df -k --output=used {folder} | tail -n 1)\nmount -o remount,size=$((used + 4 * {free}))k {folder}"
        ));
    }

    /// Makes a file system as large as it was.
    pub fn make_space(&self, folder: &str) {
        self.does(&format!("mount -o remount,size=64m {folder}"));
    }

    /// A path of the laboratory, as the room has it.
    pub fn path(&self, path: &str) -> PathBuf {
        let inside = self.folder.join(path);
        Path::new(&format!("/proc/{}/root", self.holder.id())).join(inside.strip_prefix("/").unwrap())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
