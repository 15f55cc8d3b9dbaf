//! A thief of a deploy key who does not use sftp's own client, which would ask for less,
//! and what else ssh could give him.

use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Stdio;

use super::published;
use super::with_mirror;
use crate::support::Lab;
use crate::support::mirror::Mirror;
use crate::support::program;
use crate::support::run;

const FILE: &str = "/pub/releases/kestrel/1.1/kestrel-1.1";

// Of draft-ietf-secsh-filexfer-02, which OpenSSH speaks.
const OPEN: u8 = 3;
const SETSTAT: u8 = 9;
const FSETSTAT: u8 = 10;
const REMOVE: u8 = 13;
const RMDIR: u8 = 15;
const RENAME: u8 = 18;
const SYMLINK: u8 = 20;
const EXTENDED: u8 = 200;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;

/// A session in which requests are sent as they are.
struct Raw {
    ssh: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

/// A string of the protocol.
fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat()
}

/// Attributes: those flags, with a value.
fn attributes(flags: u32, value: &[u8]) -> Vec<u8> {
    [&flags.to_be_bytes(), value].concat()
}

impl Raw {
    fn open(lab: &Lab, mirror: &Mirror, account: &str, key: &str) -> Self {
        let mut ssh = mirror.ssh(lab, "ssh", account, key);
        let ssh = ssh.args(["-s", "127.0.0.1", "sftp"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut ssh = ssh.spawn().unwrap();
        let (stdin, stdout) = (ssh.stdin.take().unwrap(), ssh.stdout.take().unwrap());
        let mut raw = Self { ssh, stdin, stdout };
        assert_eq!(raw.send(&[&[1][..], &3_u32.to_be_bytes()].concat())[0], 2);
        raw
    }

    fn send(&mut self, packet: &[u8]) -> Vec<u8> {
        self.stdin.write_all(&text(packet)).unwrap();
        self.stdin.flush().unwrap();
        let mut length = [0; 4];
        self.stdout.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.stdout.read_exact(&mut answer).unwrap();
        answer
    }

    /// The type of the answer, and what comes behind the number of the request.
    fn ask(&mut self, kind: u8, parts: &[Vec<u8>]) -> (u8, Vec<u8>) {
        let answer = self.send(&[&[kind, 0, 0, 0, 7][..], &parts.concat()].concat());
        (answer[0], answer[5..].to_vec())
    }

    /// Whether it was done.
    fn is_done(&mut self, kind: u8, parts: &[Vec<u8>]) -> bool {
        let (kind, rest) = self.ask(kind, parts);
        kind != STATUS || rest[..4] == [0; 4]
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

#[test]
fn requests_that_no_client_would_send_change_nothing() {
    let (lab, mirror) = with_mirror();
    let before = published(&mirror);
    lab.write("junk", "junk\n");
    for (account, key, file) in [("rel-pool", "pool", FILE), ("rel-meta", "pointer", "/pub/metadata/1.root.json")] {
        mirror.sftp(&lab, account, key, "put junk /incoming/raw\n").exits(0);
        let mut raw = Raw::open(&lab, &mirror, account, key);
        let path = |path: &str| text(path);
        let (empty, writable, old) =
            (attributes(1, &[0; 8]), attributes(4, &0o666_u32.to_be_bytes()), attributes(8, &[0, 0, 0, 1, 0, 0, 0, 1]));
        let is_pool = account == "rel-pool";
        let mut attacks: Vec<(&str, u8, Vec<Vec<u8>>)> = vec![
            ("truncate", SETSTAT, vec![path(file), empty.clone()]),
            ("chmod", SETSTAT, vec![path(file), writable.clone()]),
            ("date", SETSTAT, vec![path(file), old.clone()]),
            ("chown", SETSTAT, vec![path(file), attributes(2, &[0; 8])]),
            ("lsetstat", EXTENDED, vec![text("lsetstat@openssh.com"), path(file), writable.clone()]),
            ("remove", REMOVE, vec![path(file)]),
            ("rmdir", RMDIR, vec![path(file.rsplit_once('/').unwrap().0)]),
            ("symlink", SYMLINK, vec![path("/etc/passwd"), path("/pub/link")]),
            ("symlink over", SYMLINK, vec![path("/etc/passwd"), path(file)]),
            ("hardlink over", EXTENDED, vec![text("hardlink@openssh.com"), path("/incoming/raw"), path(file)]),
        ];
        for (name, flags) in [("write", 0x02_u32), ("append", 0x06), ("truncating", 0x12), ("again", 0x3a)] {
            attacks.push((name, OPEN, vec![path(file), flags.to_be_bytes().to_vec(), attributes(0, &[])]));
        }
        // The pointer account may move what is its own; what that allows is shown elsewhere.
        if is_pool {
            for (from, to) in [("/incoming/raw", file), (file, "/incoming/away"), (file, "/pub/releases/away")] {
                attacks.push(("rename", RENAME, vec![path(from), path(to)]));
                attacks.push(("posix-rename", EXTENDED, vec![text("posix-rename@openssh.com"), path(from), path(to)]));
            }
        }
        for (name, kind, parts) in attacks {
            assert!(!raw.is_done(kind, &parts), "{account}: {name}");
            assert_eq!(published(&mirror), before, "{account}: {name}");
        }
        // Through a file that was opened to read.
        let (kind, handle) = raw.ask(OPEN, &[path(file), 1_u32.to_be_bytes().to_vec(), attributes(0, &[])]);
        if kind == HANDLE {
            for attributes in [empty, writable, old] {
                assert!(!raw.is_done(FSETSTAT, &[handle.clone(), attributes]), "{account}: fsetstat");
            }
        }
        // Nothing outside the chroot has a name.
        mirror.as_root("echo canary >/srv/canary; chmod 644 /srv/canary").exits(0);
        for outside in ["/../canary", "/../../canary", "/../../../srv/canary", "/pub/../../canary", "/etc/ssh"] {
            let asked = [path(outside), 1_u32.to_be_bytes().to_vec(), attributes(0, &[])];
            assert!(!raw.is_done(OPEN, &asked), "{account}: {outside}");
        }
        assert_eq!(published(&mirror), before);
    }
    // The pointer account would have a shell after all: what is published for ever is not its.
    let file = format!("/srv/mirror/pool-root{FILE}");
    for command in ["rm -f F", "mv F /srv/x", "echo x >>F", "chmod 666 F", "ln -f /srv/canary F", "touch F.x"] {
        let command = command.replace('F', &file);
        let shell = format!("setpriv --reuid rel-meta --regid rel-meta --clear-groups sh -c '{command}'");
        assert_ne!(mirror.as_root(&shell).code, Some(0), "{command}");
        assert_eq!(published(&mirror), before, "{command}");
    }
}

#[test]
fn ssh_forwards_nothing_and_keys_of_the_thief_open_nothing() {
    let (lab, mirror) = with_mirror();
    // Whoever is let through hears a greeting: that of sshd, or of a socket.
    let greet = "python3 -c 'import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind(\"/srv/greets\")\ns.listen()\n\
                 while True:\n c, _ = s.accept()\n c.send(b\"SSH-greeting\")\n c.close()' >/dev/null 2>&1 &\n\
                 for wait in $(seq 100); do [ ! -S /srv/greets ] || break; sleep 0.1; done; chmod 666 /srv/greets";
    mirror.as_root(greet).exits(0);
    let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (account, key) in [("rel-pool", "pool"), ("rel-meta", "pointer")] {
        let (tcp, socket, socks) = (port(), port(), port());
        let to_tcp = format!("{tcp}:127.0.0.1:{}", mirror.ssh);
        let to_socket = format!("{socket}:/srv/greets");
        // SOCKS 4, to sshd's own port.
        let ask = [&[4, 1][..], &mirror.ssh.to_be_bytes(), &[127, 0, 0, 1, 0]].concat();
        for (arguments, port, ask) in [
            (["-L", &to_tcp], tcp, &[][..]),
            (["-L", &to_socket], socket, &[]),
            (["-D", &socks.to_string()], socks, &ask),
        ] {
            let mut tunnel = mirror.ssh(&lab, "ssh", account, key);
            let mut tunnel = tunnel.args(arguments).args(["-N", "127.0.0.1"]).spawn().unwrap();
            let mut connected = None;
            while connected.is_none() && tunnel.try_wait().unwrap().is_none() {
                connected = TcpStream::connect(("127.0.0.1", port)).ok();
            }
            let mut heard = Vec::new();
            if let Some(mut stream) = connected {
                let _ = stream.write_all(ask);
                let _ = stream.read_to_end(&mut heard);
            }
            let _ = tunnel.kill();
            let _ = tunnel.wait();
            assert!(!String::from_utf8_lossy(&heard).contains("SSH-"), "{account} {arguments:?}: {heard:?}");
        }
        let mut windows = mirror.ssh(&lab, "ssh", account, key);
        windows.env("DISPLAY", "127.0.0.1:77").args(["-o", "LogLevel=INFO", "-Y", "-s", "127.0.0.1", "sftp"]);
        run(&mut windows).says("X11 forwarding request failed");
    }

    // Keys that he puts where ssh usually looks.
    run(program("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(lab.path("home/keys/mirror-eu1-thief")))
    .exits(0);
    lab.copy("home/keys/mirror-eu1-thief.pub", "authorized_keys");
    for (account, key, folder) in [("rel-pool", "pool", "/pub/releases"), ("rel-meta", "pointer", "/pub/metadata")] {
        for place in ["", "/incoming", folder] {
            let plant = format!(
                "-mkdir {place}/.ssh\n-put authorized_keys {place}/.ssh/authorized_keys\n\
                 -put authorized_keys {place}/.ssh/authorized_keys2\n-put authorized_keys {place}/authorized_keys\n"
            );
            mirror.sftp(&lab, account, key, &plant);
        }
        for account in ["rel-pool", "rel-meta", "root"] {
            let said = mirror.sftp(&lab, account, "thief", "ls\n");
            assert_ne!(said.code, Some(0), "{account}: {said:?}");
            said.says("Permission denied");
        }
    }
    // Some of them are there, so that this was tried.
    mirror.as_root("ls /srv/mirror/pool-root/incoming/.ssh/authorized_keys").exits(0);
}
