//! The configuration of `ssh` for one account of one mirror: everything pinned,
//! everything else off. The user's and the system's files are not read.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use super::Account;
use crate::home::Base;
use crate::key::agent::Agent;
use crate::key::ssh::HostKey;
use crate::policy::Jump;
use crate::policy::SftpEntry;
use crate::process::Conversation;
use crate::process::Program;
use crate::progress::Progress;
use crate::publish::PublishError;
use crate::ssh;

/// Key exchanges, the best first: one that resists quantum computers wherever
/// both sides have it. All of them are authenticated, so that nobody between
/// can choose.
const KEX: [&str; 4] =
    ["mlkem768x25519-sha256", "sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com", "curve25519-sha256"];

/// For every host, besides what ssh is always told.
const EVERYWHERE: &str = "    HostKeyAlgorithms ssh-ed25519
    PubkeyAcceptedAlgorithms ssh-ed25519,ecdsa-sha2-nistp256
    Ciphers chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com
    MACs hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com
    ExitOnForwardFailure yes
";

/// How ssh proves that it may log in to an account.
#[derive(Clone, Copy)]
pub(super) enum Login<'a> {
    /// With the key in a file.
    File(&'a Path),
    /// With the one key of an agent of ours.
    Agent(&'a Agent),
}

/// Starts `ssh` for an account of a mirror at an address. The folder holds what
/// it reads and must live as long as it runs.
///
/// # Errors
/// The deploy key is missing; ssh is missing or cannot be run.
pub(super) fn start(
    base: &Base,
    entry: &SftpEntry,
    account: Account,
    address: IpAddr,
    login: Login<'_>,
    progress: &dyn Progress,
) -> Result<(Conversation, TempDir), PublishError> {
    let known = Program::new("ssh").args(["-Q", "kex"]).run(progress)?;
    let known = String::from_utf8_lossy(&known);
    let kex: Vec<&str> = KEX.into_iter().filter(|name| known.lines().any(|line| line == *name)).collect();
    let folder = tempfile::tempdir().map_err(|error| PublishError::io(&std::env::temp_dir(), error))?;
    fill(base, entry, account, address, login, &kex.join(","), folder.path())?;
    // All paths are relative to its folder: ssh expands characters in others.
    let ssh = Program::new("ssh").args(["-F", "config", "-s", "mirror", "sftp"]).current_dir(folder.path());
    Ok((ssh.talk(progress)?, folder))
}

fn fill(
    base: &Base,
    entry: &SftpEntry,
    account: Account,
    address: IpAddr,
    login: Login<'_>,
    kex: &str,
    folder: &Path,
) -> Result<(), PublishError> {
    let account_name = account.to_string();
    let mut hosts =
        vec![Host { alias: "mirror", address, port: entry.port, user: &account_name, pinned: &entry.host_key, login }];
    let jump_key = entry.jump.as_ref().map(|jump| base.resolve(&jump.key.0));
    if let (Some(jump), Some(key)) = (&entry.jump, &jump_key) {
        let Jump { address, port, user, host_key, .. } = jump;
        let login = Login::File(key);
        hosts.push(Host { alias: "jump", address: *address, port: *port, user, pinned: host_key, login });
    }
    let mut config = String::new();
    let mut known_hosts = String::new();
    for host in &hosts {
        let Host { alias, address, port, user, pinned, login } = host;
        // Writing to a string does not fail.
        let _ = write!(
            config,
            "Host {alias}\n    HostName {address}\n    Port {port}\n    User {user}\n    HostKeyAlias {alias}\n"
        );
        match login {
            Login::File(path) => {
                // ssh would go on without it, and be refused for another reason.
                fs::File::open(path).map_err(|error| PublishError::io(path, error))?;
                let link = folder.join(format!("{alias}.key"));
                symlink(path, &link).map_err(|error| PublishError::io(&link, error))?;
                let _ = writeln!(config, "    IdentityFile {alias}.key");
            }
            // Before what is said of every host, since the first word counts.
            Login::Agent(agent) => {
                let (socket, key) = (agent.socket(), agent.key_file());
                let _ = writeln!(config, "    IdentityAgent {}\n    IdentityFile {}", socket.display(), key.display());
            }
        }
        if *alias == "mirror" && hosts.len() > 1 {
            config.push_str("    ProxyJump jump\n");
        }
        let _ = writeln!(known_hosts, "{alias} {}", pinned.to_line());
    }
    let _ = writeln!(config, "Host *\n{}{EVERYWHERE}    KexAlgorithms {kex}", ssh::SETTINGS);
    for (name, text) in [("config", config), (ssh::KNOWN_HOSTS, known_hosts)] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| PublishError::io(&path, error))?;
    }
    Ok(())
}

/// A server that ssh talks to.
struct Host<'a> {
    alias: &'static str,
    address: IpAddr,
    port: u16,
    user: &'a str,
    pinned: &'a HostKey,
    login: Login<'a>,
}
