//! How git gets to a source: over which transport, to which address, with which
//! proof of who is there. Nothing of the user's takes part: no configuration, no
//! agent, no proxy, no cookies, no credentials but the one key that
//! `terminal.toml` names.

use std::fs;
use std::io;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use super::KeyFault;
use super::Request;
use super::SourceError;
use crate::key::ssh::HostKey;
use crate::manifest::names::one_line;
use crate::manifest::names::quoted;
use crate::policy::KeyFile;
use crate::policy::Location;
use crate::policy::Remote;
use crate::policy::Scheme;
use crate::policy::SourceHost;
use crate::process;
use crate::process::ProcessError;
use crate::process::Program;
use crate::progress::Progress;
use crate::ssh;

/// One way to a source.
pub(super) struct Route {
    /// What git is told to fetch from.
    pub(super) url: String,
    /// The only transport that git may use.
    pub(super) protocol: &'static str,
    /// Settings for this route alone.
    pub(super) settings: Vec<String>,
    /// What git runs for ssh.
    pub(super) ssh: Option<Ssh>,
    /// Where it leads, for messages.
    pub(super) place: String,
    /// Whether it is a file of ours, which does not get better by trying again.
    pub(super) is_bundle: bool,
}

/// How git starts ssh.
pub(super) struct Ssh {
    /// The command.
    pub(super) command: String,
    /// Where ssh says what went wrong: a file apart from its standard error, on
    /// which the host speaks too.
    pub(super) log: PathBuf,
}

impl Ssh {
    /// What ssh itself says, on one line.
    pub(super) fn says(&self) -> Option<String> {
        let mut bytes = Vec::new();
        fs::File::open(&self.log).ok()?.take(MAX_LOG).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if lines.contains(&"Host key verification failed.") {
            return Some("the host showed another key than `host-key`".to_owned());
        }
        (!lines.is_empty()).then(|| one_line(&lines.join("; ")))
    }
}

impl Route {
    /// Whether all that is said of it is said on this machine, by git alone. A host
    /// can say anything, and so can the header of a bundle.
    pub(super) fn is_local(&self) -> bool {
        self.protocol == "file" && !self.is_bundle
    }

    /// All ways to a source, the best first. `folder` takes the files that they
    /// need.
    pub(super) fn all(request: &Request<'_>, folder: &Path, progress: &dyn Progress) -> Result<Vec<Self>, SourceError> {
        if let Some(bundle) = request.bundle {
            let url = bundle.to_str().ok_or_else(|| not_text(bundle))?.to_owned();
            return Ok(vec![Self { is_bundle: true, ..Self::local(url, format!("bundle {}", bundle.display())) }]);
        }
        match request.source {
            Location::Local(path) => {
                let url = local_url(path, request.base)?;
                Ok(vec![Self::local(url, quoted(path))])
            }
            Location::Remote(remote) => {
                let host = request.hosts.iter().find(|entry| *entry.host.get_ref() == remote.host);
                match remote.scheme {
                    Scheme::Https => Ok(vec![Self::https(remote, host, request, folder)?]),
                    Scheme::Ssh => Self::ssh(remote, host, request, folder, progress),
                }
            }
        }
    }

    fn local(url: String, place: String) -> Self {
        Self { url, protocol: "file", settings: Vec::new(), ssh: None, place, is_bundle: false }
    }

    fn https(
        remote: &Remote,
        host: Option<&SourceHost>,
        request: &Request<'_>,
        folder: &Path,
    ) -> Result<Self, SourceError> {
        let seconds = request.bounds.answer.as_secs().max(1);
        let mut settings = vec![
            "http.followRedirects=false".to_owned(),
            "http.sslVerify=true".to_owned(),
            "http.lowSpeedLimit=1000".to_owned(),
            format!("http.lowSpeedTime={seconds}"),
            "credential.helper=".to_owned(),
        ];
        let addresses = host.map_or(&[][..], |host| &host.address);
        if !addresses.is_empty() {
            let list: Vec<String> = addresses.iter().map(|address| bracketed(*address)).collect();
            settings.push(format!("http.curloptResolve={}:{}:{}", remote.host, remote.port(), list.join(",")));
        }
        if let Some(ca) = host.and_then(|host| host.ca.as_ref()) {
            let ca = request.base.join(ca);
            fs::File::open(&ca).map_err(|source| SourceError::Io { path: ca.clone(), source })?;
            settings.push(format!("http.sslCAInfo={}", ca.to_str().ok_or_else(|| not_text(&ca))?));
            // In place of the system's certificates, which curl would add.
            let none = folder.join("no-certificates");
            fs::create_dir_all(&none).map_err(|source| SourceError::Io { path: none.clone(), source })?;
            settings.push(format!("http.sslCAPath={}", none.to_str().ok_or_else(|| not_text(&none))?));
        }
        let url = remote.to_string();
        let place = at(remote, addresses);
        Ok(Self { url, protocol: "https", settings, ssh: None, place, is_bundle: false })
    }

    /// One route for each address, since ssh takes one.
    fn ssh(
        remote: &Remote,
        host: Option<&SourceHost>,
        request: &Request<'_>,
        folder: &Path,
        progress: &dyn Progress,
    ) -> Result<Vec<Self>, SourceError> {
        if !process::is_installed("ssh") {
            return Err(ProcessError::Missing("ssh".to_owned()).into());
        }
        let missing = |what| SourceError::Unpinned { host: remote.host.to_string(), what };
        let host = host.ok_or_else(|| missing("host-key"))?;
        let host_key = host.host_key.as_ref().ok_or_else(|| missing("host-key"))?;
        let KeyFile(key) = host.key.as_ref().ok_or_else(|| missing("key"))?;
        let key = request.base.join(key);
        check_key(&key, progress)?;
        let failed = |source: io::Error| SourceError::Io { path: folder.to_owned(), source };
        fs::write(folder.join(ssh::KNOWN_HOSTS), format!("{} {}\n", remote.host, host_key.to_line()))
            .map_err(failed)?;
        // A name of ours, so that no path needs the quoting of ssh_config(5).
        symlink(&key, folder.join(IDENTITY)).map_err(failed)?;
        let names: Vec<(String, &[IpAddr])> = if host.address.is_empty() {
            vec![(remote.host.to_string(), &[])]
        } else {
            host.address.iter().map(|address| (address.to_string(), std::slice::from_ref(address))).collect()
        };
        let route = |(index, (name, addresses)): (usize, (String, &[IpAddr]))| {
            let (file, log) = (format!("ssh_config.{index}"), format!("ssh_log.{index}"));
            fs::write(folder.join(&file), ssh_config(remote, &name, host_key)).map_err(failed)?;
            Ok(Self {
                url: remote.to_string(),
                protocol: "ssh",
                settings: Vec::new(),
                // Relative to the folder, in which git runs.
                ssh: Some(Ssh { command: format!("ssh -F {file} -E {log}"), log: folder.join(log) }),
                place: at(remote, addresses),
                is_bundle: false,
            })
        };
        names.into_iter().enumerate().map(route).collect()
    }
}

/// The link to the key that logs in.
const IDENTITY: &str = "identity";

/// What is read of what ssh says.
const MAX_LOG: u64 = 64 << 10;

/// Finds out before anybody is connected to whether a key can log in: ssh says it
/// late, and at length.
fn check_key(path: &Path, progress: &dyn Progress) -> Result<(), SourceError> {
    let io = |source| SourceError::Io { path: path.to_owned(), source };
    let fault = |fault| Err(SourceError::LoginKey { path: path.to_owned(), fault });
    let metadata = fs::File::open(path).and_then(|file| file.metadata()).map_err(io)?;
    let mode = metadata.mode() & 0o7777;
    // As ssh does, which lets others care for their own files.
    if metadata.uid() == rustix::process::geteuid().as_raw() && mode & 0o077 != 0 {
        return fault(KeyFault::Mode(mode));
    }
    let public = Program::new("ssh-keygen").args(["-y", "-P", "", "-f"]).arg(path).output(&[], progress)?;
    match public.status.success() {
        true => Ok(()),
        false if public.complaint.contains("incorrect passphrase") => fault(KeyFault::Passphrase),
        false => fault(KeyFault::NoKey(public.complaint)),
    }
}

/// The whole configuration of ssh: `-F` keeps it from reading any other.
fn ssh_config(remote: &Remote, address: &str, host_key: &HostKey) -> String {
    format!(
        "Host *
    HostName {address}
    HostKeyAlias {}
    HostKeyAlgorithms {}
    IdentityFile {IDENTITY}
{}",
        remote.host,
        host_key.algorithms(),
        ssh::SETTINGS
    )
}

/// A git repository on this machine, as a URL.
fn local_url(path: &str, base: &Path) -> Result<String, SourceError> {
    if path.starts_with("file://") {
        return Ok(path.to_owned());
    }
    let path = base.join(path);
    let path = path.canonicalize().map_err(|error| SourceError::Io { path, source: error })?;
    path.to_str().map(|path| format!("file://{path}")).ok_or_else(|| not_text(&path))
}

fn not_text(path: &Path) -> SourceError {
    SourceError::Io { path: PathBuf::from(path), source: io::Error::other("git needs a path of UTF-8 text") }
}

/// An address as URLs write it.
fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// A URL, and the addresses that were used for it.
fn at(remote: &Remote, addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let at = if addresses.is_empty() { String::new() } else { format!(" at {}", addresses.join(", ")) };
    format!("{remote}{at}")
}
