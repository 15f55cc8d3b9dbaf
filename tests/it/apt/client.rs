//! The apt of this machine, with lists, keys and an installed system of its own: what
//! the machine has is neither read nor changed.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::Said;
use crate::support::program;
use crate::support::run;

/// A machine with apt.
pub struct Client {
    folder: TempDir,
}

/// How a list of sources is written.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    OneLine,
    Deb822,
}

impl Client {
    /// A machine that has the suite `stable`, component `main`, of a repository whose
    /// certificate is this file, armored or binary.
    pub fn new(url: &str, certificate: &Path, form: Form) -> Self {
        let client = Self { folder: tempfile::tempdir().unwrap() };
        let base = client.folder.path().display().to_string();
        for folder in [
            "etc/apt.conf.d",
            "etc/preferences.d",
            "etc/sources.list.d",
            "etc/trusted.gpg.d",
            "state/lists/partial",
            "cache/archives/partial",
            "log",
            "root/var/lib/dpkg/info",
            "root/var/lib/dpkg/updates",
            "root/var/lib/dpkg/triggers",
        ] {
            fs::create_dir_all(client.path(folder)).unwrap();
        }
        for file in ["status", "available"] {
            fs::write(client.path("root/var/lib/dpkg").join(file), "").unwrap();
        }
        let key = client.path("etc").join(certificate.file_name().unwrap());
        fs::copy(certificate, &key).unwrap();
        let key = key.display();
        match form {
            Form::OneLine => {
                fs::write(client.path("etc/sources.list"), format!("deb [signed-by={key}] {url}/apt stable main\n"))
            }
            Form::Deb822 => fs::write(
                client.path("etc/sources.list.d/kestrel.sources"),
                format!("Types: deb\nURIs: {url}/apt\nSuites: stable\nComponents: main\nSigned-By: {key}\n"),
            ),
        }
        .unwrap();
        let config = format!(
            "Dir \"{base}/\"; Dir::Etc \"{base}/etc/\"; Dir::State \"{base}/state/\"; Dir::Cache \"{base}/cache/\";\n\
             Dir::Log \"{base}/log/\"; Dir::State::status \"{base}/root/var/lib/dpkg/status\";\n\
             APT::Architecture \"amd64\"; APT::Architectures {{ \"amd64\"; }}; APT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\"; Acquire::Retries \"0\"; Acquire::http::Proxy \"DIRECT\"; Dpkg::Use-Pty \"0\";\n\
             DPkg::Options {{ \"--root={base}/root\"; \"--force-not-root\"; \"--force-script-chrootless\"; }};\n"
        );
        fs::write(client.path("apt.conf"), config).unwrap();
        client
    }

    /// A path on the machine.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Runs a program of apt, at another time if one is given.
    pub fn runs_at(&self, moment: Option<&str>, arguments: &[&str]) -> Said {
        let mut command = match moment {
            None => program(arguments[0]),
            Some(moment) => {
                let mut command = program("faketime");
                command.args(["-f", moment, arguments[0]]);
                command
            }
        };
        command.args(&arguments[1..]).current_dir(self.folder.path());
        // The language that messages are compared in.
        run(command.env("APT_CONFIG", self.path("apt.conf")).env("LC_ALL", "C"))
    }

    pub fn runs(&self, arguments: &[&str]) -> Said {
        self.runs_at(None, arguments)
    }

    /// Gets the lists. Without the option, what was good before is kept without an
    /// error.
    pub fn update(&self) -> Said {
        self.runs(&["apt-get", "update", "--error-on=any"])
    }

    /// The version that would be installed; nothing if there is none.
    pub fn candidate(&self, package: &str) -> Option<String> {
        let said = self.runs(&["apt-cache", "policy", package]).exits(0).out;
        let line = said.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?.to_owned();
        (line != "(none)").then_some(line)
    }

    /// The version that is installed.
    pub fn installed(&self, package: &str) -> Option<String> {
        let status = fs::read_to_string(self.path("root/var/lib/dpkg/status")).unwrap();
        let stanza = status.split("\n\n").find(|stanza| stanza.starts_with(&format!("Package: {package}\n")))?;
        assert!(stanza.contains("Status: install ok installed\n"), "{stanza}");
        stanza.lines().find_map(|line| line.strip_prefix("Version: ")).map(str::to_owned)
    }

    /// The date of the lists that it has.
    pub fn date(&self) -> Option<String> {
        for entry in fs::read_dir(self.path("state/lists")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().ends_with("_Release")
                || entry.file_name().to_string_lossy().ends_with("_InRelease")
            {
                let text = fs::read_to_string(entry.path()).unwrap();
                return text.lines().find_map(|line| line.strip_prefix("Date: ")).map(str::to_owned);
            }
        }
        None
    }
}
