//! Real mirrors: `scripts/mirror` sets one up with stock sshd and nginx, in
//! namespaces of its own in which `/etc` and the like can be written to without
//! changing this machine.

use std::fs;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use super::Lab;
use super::Said;
use super::program;
use super::project;
use super::run;

/// What makes a machine of its own out of this one; then `scripts/mirror`. It listens on
/// loopback, or on `$ADDRESS`.
pub const MACHINE: &str = r#"
set -e
mount -t tmpfs none /mnt
for folder in /etc /usr/local /var/lib/nginx /var/log; do
    mkdir -p "/mnt/up$folder" "/mnt/work$folder"
    mount -t overlay overlay -o "lowerdir=$folder,upperdir=/mnt/up$folder,workdir=/mnt/work$folder" "$folder"
done
mount --bind "$LAB/$NAME" /srv
mount -t tmpfs -o mode=755 none /run
mount -t proc none /proc
rm -f /etc/ssh/ssh_host_*
cp "$LAB/$NAME.host" /etc/ssh/ssh_host_ed25519_key
cp "$LAB/$NAME.host.pub" /etc/ssh/ssh_host_ed25519_key.pub
"$SCRIPT" --listen "${ADDRESS:-127.0.0.1}:$HTTP" "$LAB/$NAME.layout" >/srv/setup.log 2>&1
/usr/sbin/sshd -D -f /etc/ssh/release-mirror/sshd_config -o "ListenAddress=${ADDRESS:-127.0.0.1}" -E /srv/sshd.log &
nginx -g 'daemon off;' &
touch /srv/ready
sleep infinity
"#;

/// A mirror of a laboratory.
pub struct Mirror {
    name: String,
    child: Child,
    /// Its first process, by which its namespaces are entered.
    init: String,
    pub ssh: u16,
    pub http: u16,
    /// What it has in `/srv`.
    pub disk: PathBuf,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn keygen(path: &Path) -> String {
    run(program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(path)).exits(0);
    let public = fs::read_to_string(format!("{}.pub", path.display())).unwrap();
    public.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// The entry of a mirror in `terminal.toml`, with fresh keys in files, before there
/// is such a machine. Gives its ports.
pub fn enter(lab: &Lab, name: &str) -> (u16, u16) {
    let (ports, add) = entry(lab, name);
    let add: Vec<&str> = add.iter().map(String::as_str).chain(["--software-keys"]).collect();
    lab.runs(&add).exits(0);
    ports
}

/// The same in the folder of a courier.
pub fn enter_in(lab: &Lab, home: &str, name: &str) -> (u16, u16) {
    let (ports, add) = entry(lab, name);
    let add: Vec<&str> = add.iter().map(String::as_str).chain(["--software-keys", "--home", home]).collect();
    lab.runs(&add).exits(0);
    ports
}

/// The ports of a mirror, and the command that enters it but for where its keys are.
pub fn entry(lab: &Lab, name: &str) -> ((u16, u16), Vec<String>) {
    let (ssh, http) = (free_port(), free_port());
    let host = lab.path(&format!("{name}.host"));
    let _ = fs::remove_file(&host);
    let host_key = keygen(&host);
    // No DNS knows that host.
    let url = format!("http://{name}.invalid:{http}");
    let port = ssh.to_string();
    let add = ["mirror", "add", name, "--url", &url, "--address", "127.0.0.1", "--port", &port, "--host-key"];
    ((ssh, http), add.into_iter().chain([host_key.as_str()]).map(str::to_owned).collect())
}

impl Mirror {
    /// A mirror that is entered in `terminal.toml` and runs.
    pub fn set_up(lab: &Lab, name: &str) -> Self {
        let ports = enter(lab, name);
        Self::start(lab, name, ports)
    }

    /// Starts a mirror that is entered; what it had on its disk is there again.
    pub fn start(lab: &Lab, name: &str, ports: (u16, u16)) -> Self {
        Self::start_in(lab, "home", name, ports)
    }

    /// The same for one that is entered in the folder of a courier.
    pub fn start_in(lab: &Lab, home: &str, name: &str, (ssh, http): (u16, u16)) -> Self {
        let layout = lab.runs(&["mirror", "layout", name, "--home", home]).exits(0).out;
        lab.write(&format!("{name}.layout"), layout);
        let disk = lab.path(name);
        fs::create_dir_all(&disk).unwrap();
        let _ = fs::remove_file(disk.join("ready"));
        let mut command = program("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "bash", "-c", MACHINE])
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LAB", lab.path(""))
            .env("NAME", name)
            .env("HTTP", http.to_string())
            .env("SCRIPT", project("scripts/mirror"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(disk.join("machine.log")).unwrap());
        let child = command.spawn().unwrap();
        let mut mirror = Self { name: name.to_owned(), child, init: String::new(), ssh, http, disk };
        let started = Instant::now();
        let is_up = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
        while !mirror.disk.join("ready").exists() || !is_up(ssh) || !is_up(http) {
            let logs = ["setup.log", "machine.log", "sshd.log"].map(|log| fs::read_to_string(mirror.disk.join(log)));
            let ended = mirror.child.try_wait().unwrap();
            assert!(started.elapsed() < Duration::from_secs(60) && ended.is_none(), "no mirror: {logs:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid = mirror.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.trim().clone_into(&mut mirror.init);
        mirror
    }

    /// Runs a script on it as root.
    #[track_caller]
    pub fn as_root(&self, script: &str) -> Said {
        let mut command = program("nsenter");
        command.args(["--target", &self.init, "--mount", "--pid", "--wd=/", "bash", "-ec", script]);
        run(&mut command)
    }

    /// Starts the SSH server of a machine between, whose key is `jump.host`, and which
    /// the key `home/keys/jump` opens. Gives its port.
    pub fn start_jump(&self, lab: &Lab) -> u16 {
        let port = free_port();
        for name in ["jump.host", "home/keys/jump"] {
            keygen(&lab.path(name));
        }
        self.as_root(&format!(
            "useradd -r -s /usr/sbin/nologin jump; usermod -p '*' jump; cd /etc/ssh; cp {0}/jump.host {0}/jump.host.pub .; \
             cp {0}/home/keys/jump.pub jump_keys; /usr/sbin/sshd -f /dev/null -o Port={port} \
             -o ListenAddress=127.0.0.1 -o HostKey=/etc/ssh/jump.host -o AuthorizedKeysFile=/etc/ssh/jump_keys \
             -o PidFile=none -o UsePAM=no -o PermitOpen=127.0.0.1:{1} -E /srv/jump.log",
            lab.path("").display(),
            self.ssh
        ))
        .exits(0);
        port
    }

    /// What a reader types.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// ssh as somebody who has stolen a key would call it, without our
    /// configuration.
    pub fn ssh(&self, lab: &Lab, program_name: &str, account: &str, key: &str) -> std::process::Command {
        let mut command = program(program_name);
        command.current_dir(lab.path("")).args(["-F", "none"]);
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "LogLevel=ERROR",
            &format!("Port={}", self.ssh),
            &format!("User={account}"),
            &format!("IdentityFile=home/keys/mirror-{}-{key}", self.name),
        ] {
            command.args(["-o", option]);
        }
        command
    }

    /// One request of sftp's own client, by a thief.
    #[track_caller]
    pub fn sftp(&self, lab: &Lab, account: &str, key: &str, requests: &str) -> Said {
        lab.write("batch", requests);
        let mut command = self.ssh(lab, "sftp", account, key);
        run(command.args(["-b", "batch", "127.0.0.1"]))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // What is sealed could not be removed with the laboratory.
        let _ = program("chattr").args(["-R", "-f", "-i", "-a"]).arg(&self.disk).output();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
