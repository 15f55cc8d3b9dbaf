//! A network of its own: the terminal, a host of source, a mirror, and everybody else, in
//! network namespaces on one bridge, with IPv4 and IPv6.

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use super::RELEASE;
use super::Said;
use super::program;
use super::run;

/// Who is on the network, with the last part of its addresses, `10.99.0.N` and `fd99::N`.
pub const MACHINES: [(&str, u8); 4] = [("terminal", 2), ("source", 10), ("mirror", 20), ("internet", 30)];

/// Makes it; it is gone with its first process.
const WORLD: &str = r#"
set -e
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/netns /run/release /run/sshd
ip link set lo up
ip link add bridge type bridge
ip link set bridge up
for machine in $MACHINES; do
    name=${machine%=*} number=${machine#*=}
    ip netns add "$name"
    ip link add "to-$name" type veth peer name eth0 netns "$name"
    ip link set "to-$name" master bridge up
    ip -n "$name" link set lo up
    ip -n "$name" address add "10.99.0.$number/24" dev eth0
    # Without waiting whether somebody else has it.
    ip -n "$name" address add "fd99::$number/64" dev eth0 nodad
    ip -n "$name" link set eth0 up
done
# What is nowhere would leave the terminal.
ip -n terminal route add default via 10.99.0.30
ip -n terminal route add default via fd99::30
echo ready
exec sleep infinity
"#;

/// Answers on ports what it is sent; on port 8 it accepts, and says nothing.
const ECHO: &str = r"
import socket, sys, threading
def talk(connection):
    while data := connection.recv(100):
        connection.sendall(data)
def serve(port):
    listener = socket.create_server(('::', port), family=socket.AF_INET6, dualstack_ipv6=True)
    kept = []
    while True:
        connection, _ = listener.accept()
        kept.append(connection)
        if port != 8:
            threading.Thread(target=talk, args=(connection,), daemon=True).start()
for port in map(int, sys.argv[1:]):
    threading.Thread(target=serve, args=(port,)).start()
names = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
names.bind(('::', 53))
print('ready', flush=True)
while True:
    data, sender = names.recvfrom(100)
    names.sendto(data, sender)
";

/// Says how tries to reach hosts end, at once: a line for each.
const REACH: &str = r"
import concurrent.futures, errno, socket, sys
def reach(target):
    kind, host, port = target.split(',')
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if kind == 'udp' else socket.SOCK_STREAM) as s:
        s.settimeout(3)
        try:
            s.connect((host, int(port)))
            s.send(b'?')
            return 'open' if s.recv(1) == b'?' else 'closed'
        except TimeoutError:
            return 'silent'
        except OSError as error:
            return errno.errorcode[error.errno]
with concurrent.futures.ThreadPoolExecutor(32) as threads:
    for target, said in zip(sys.argv[1:], threads.map(reach, sys.argv[1:])):
        print(target, said)
";

/// Talks over one connection as long as it is answered, then says for how long.
const TALK: &str = r"
import socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)
s.settimeout(2)
begun = last = time.monotonic()
print('ready', flush=True)
try:
    while True:
        s.sendall(b'?')
        s.recv(1)
        last = time.monotonic()
        time.sleep(0.05)
except OSError:
    print(last - begun, flush=True)
";

/// The network.
pub struct Network {
    world: Child,
    init: String,
    /// What was started on it.
    running: Vec<Child>,
    folder: TempDir,
}

impl Network {
    /// The network, with servers on ports 22, 80 and 443 of all machines.
    pub fn new() -> Self {
        let machines: Vec<String> = MACHINES.iter().map(|(name, number)| format!("{name}={number}")).collect();
        let mut command = program("unshare");
        command
            .args(["--net", "--mount", "--fork", "--kill-child", "--propagation", "private"])
            .args(["bash", "-c", WORLD])
            .env("MACHINES", machines.join(" "))
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let world = ready(&mut command);
        let pid = world.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        // For users who may not enter the folder that it is built in.
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(RELEASE, folder.path().join("release")).unwrap();
        Self { world, init: children.trim().to_owned(), running: Vec::new(), folder }
    }

    /// The program under test, where everybody may run it.
    pub fn release(&self) -> PathBuf {
        self.folder.path().join("release")
    }

    /// What programs are started through on a machine, as a user.
    pub fn through(&self, machine: &str, user: u32) -> Vec<String> {
        let init = &self.init;
        let net = format!("--net=/proc/{init}/root/run/netns/{machine}");
        let enter = ["nsenter", "--target", init, "--mount", &net, "--wd=/", "--"];
        enter.map(str::to_owned).into_iter().chain(become_user(user)).collect()
    }

    /// A program on a machine, as a user.
    pub fn program(&self, machine: &str, user: u32, name: &str) -> Command {
        let through = self.through(machine, user);
        let mut command = program(&through[0]);
        command.args(&through[1..]).arg(name);
        command
    }

    /// Runs a script on a machine, as root.
    #[track_caller]
    pub fn on(&self, machine: &str, script: &str) -> Said {
        run(self.program(machine, 0, "bash").args(["-ec", script]))
    }

    /// Starts what runs until the end, with all that it starts, once it says that it is
    /// ready.
    pub fn start(&mut self, machine: &str, user: u32, arguments: &[&str]) {
        let mut command = self.program(machine, 0, "unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]).args(become_user(user));
        self.running.push(ready(command.args(arguments)));
    }

    /// Has a machine answer on ports, and to what looks like DNS.
    pub fn serve(&mut self, machine: &str, ports: &[u16]) {
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        self.start(machine, 0, &[&["/usr/bin/python3", "-c", ECHO], &ports[..]].concat());
    }

    /// How tries from a machine end, each as `tcp,HOST,PORT` or `udp,HOST,PORT`.
    #[track_caller]
    pub fn reach(&self, machine: &str, user: u32, targets: &[String]) -> Vec<(String, String)> {
        let said = run(self.program(machine, user, "/usr/bin/python3").args(["-c", REACH]).args(targets)).exits(0);
        said.out.lines().map(|line| line.split_once(' ').unwrap()).map(|(to, how)| (to.into(), how.into())).collect()
    }

    /// Starts to talk from the terminal to a host, over one connection.
    #[track_caller]
    pub fn talk(&self, user: u32, host: &str, port: u16) -> Talk {
        let mut command = self.program("terminal", user, "/usr/bin/python3");
        command.args(["-c", TALK, host, &port.to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "nobody answered at {host} port {port}");
        Talk { child, said }
    }

    /// Starts the window helper on the terminal, for this user, with no right but the one
    /// that systemd gives it. It must see who connects, and so has no process namespace.
    pub fn start_helper(&mut self, user: u32) {
        let release = self.release();
        let mut command = self.program("terminal", 0, "systemd-socket-activate");
        command
            .args(["--accept", "--inetd", "-l", "/run/release/window"])
            .args(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .args(["--inh-caps", "-all,+net_admin", "--ambient-caps", "-all,+net_admin"])
            .args(["--bounding-set", "-all,+net_admin"])
            .arg(release)
            .args(["util", "window-helper"]);
        self.running.push(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let (socket, begun) = (self.path("/run/release/window"), Instant::now());
        while !socket.exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "systemd-socket-activate did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        chown(&socket, Some(user), None).unwrap();
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// A file of the machines, as this process reaches it.
    pub fn path(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.init).into()
    }
}

/// What a program of a user is started through, by root.
fn become_user(user: u32) -> Vec<String> {
    let id = user.to_string();
    let change = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--"];
    change.map(str::to_owned).into_iter().filter(|_| user != 0).collect()
}

/// Starts a program that says `ready` when it is.
fn ready(command: &mut Command) -> Child {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "{command:?}");
    // It may say more, and must not die of it.
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    child
}

impl Drop for Network {
    fn drop(&mut self) {
        for child in self.running.iter_mut().chain([&mut self.world]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A connection that is talked over.
pub struct Talk {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Talk {
    /// Waits for its end, and gives for how many seconds it was answered.
    pub fn lasted(mut self) -> f64 {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        let _ = self.child.wait();
        line.trim().parse().unwrap()
    }

    /// Whether it is still answered.
    pub fn goes_on(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}
