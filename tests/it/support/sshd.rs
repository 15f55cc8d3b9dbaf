//! A real sshd on loopback, and the ssh that logs in to it.

use std::fs;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use release::key::agent::Agent;
use tempfile::TempDir;

use super::program;
use super::run;

/// sshd that lets this user log in with some keys.
pub struct Sshd {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Sshd {
    /// Starts with these lines of `authorized_keys`.
    pub fn start(keys: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let base = folder.path().display();
        run(program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.path().join("host")))
            .exits(0);
        fs::write(folder.path().join("keys"), keys.join("\n") + "\n").unwrap();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {base}/host\nPidFile none\nAuthorizedKeysFile {base}/keys\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin yes\nPubkeyAcceptedAlgorithms ssh-ed25519,ecdsa-sha2-nistp256\n\
             Subsystem sftp internal-sftp\n"
        );
        fs::write(folder.path().join("config"), config).unwrap();
        // Where sshd of root keeps its unprivileged half.
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = program("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(folder.path().join("config")).stdin(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "sshd did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        let sshd = Self { child, port, folder };
        sshd.trust(&sshd.host_key());
        sshd
    }

    /// Its host key, without comment.
    pub fn host_key(&self) -> String {
        let line = fs::read_to_string(self.path("host.pub")).unwrap();
        line.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    /// What ssh takes for its host key.
    pub fn trust(&self, host_key: &str) {
        let known = format!("[127.0.0.1]:{} {host_key}\n", self.port);
        fs::write(self.path("known_hosts"), known).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// How often somebody logged in.
    pub fn logins(&self) -> usize {
        fs::read_to_string(self.path("log")).unwrap().matches("Accepted publickey").count()
    }

    /// Options of ssh and sftp, all but the agent.
    pub fn options(&self) -> Vec<String> {
        let known = self.path("known_hosts").display().to_string();
        let mut options = vec!["-F".to_owned(), "none".to_owned()];
        for option in [
            &format!("UserKnownHostsFile={known}"),
            &format!("Port={}", self.port),
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            "HostKeyAlgorithms=ssh-ed25519",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
        ] {
            options.extend(["-o".to_owned(), option.to_owned()]);
        }
        options
    }

    /// ssh or sftp with the key of an agent; the server and what to do there are to
    /// be added.
    pub fn client(&self, name: &str, agent: &Agent) -> Command {
        self.client_with(name, &agent.socket(), &agent.key_file())
    }

    pub fn client_with(&self, name: &str, socket: &Path, key: &Path) -> Command {
        let mut command = program(name);
        command.args(self.options());
        command.args(["-o", &format!("IdentityAgent={}", socket.display())]);
        command.args(["-o", &format!("IdentityFile={}", key.display())]);
        command
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
