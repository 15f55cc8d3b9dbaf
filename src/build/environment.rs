//! What a build sees besides its source: the packages below `/usr`, and the
//! toolchains. Two terminals with the same description should get the same
//! bytes; where they do not, the difference is named by package.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use sha2::Digest;

use super::BuildError;
use crate::manifest::Sha256;
use crate::manifest::json;
use crate::manifest::json::JsonError;
use crate::manifest::names::printable;
use crate::parallel::in_parallel;
use crate::policy;

/// dpkg's list of installed packages.
const DPKG_STATUS: &str = "/var/lib/dpkg/status";

/// A described build environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    version: u32,
    packages: BTreeMap<String, String>,
    toolchains: Vec<Toolchain>,
}

/// A folder that builds see, with the digest of its tree.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Toolchain {
    #[serde(skip)]
    pub(super) path: PathBuf,
    pub(super) at: String,
    sha256: Sha256,
}

impl Environment {
    /// Describes the environment of this machine.
    ///
    /// # Errors
    /// dpkg's list or a toolchain cannot be read.
    pub fn describe(toolchains: &[policy::Toolchain]) -> Result<Self, BuildError> {
        let status = fs::read_to_string(DPKG_STATUS)
            .map_err(|error| BuildError::Environment(format!("cannot read {DPKG_STATUS}: {error}")))?;
        let toolchains = toolchains
            .iter()
            .map(|toolchain| {
                let path = toolchain.path.get_ref();
                // The recipe's host may have put a link in front of it.
                let path = path.canonicalize().map_err(|error| BuildError::io(path, error))?;
                let sha256 = tree_digest(&path)?;
                Ok(Toolchain { path, at: toolchain.at.get_ref().clone(), sha256 })
            })
            .collect::<Result<_, BuildError>>()?;
        Ok(Self { version: 1, packages: installed(&status), toolchains })
    }

    /// Reads a description that another terminal has made.
    ///
    /// # Errors
    /// It is not as [`Self::to_vec`] writes it.
    pub fn parse(text: &[u8]) -> Result<Self, BuildError> {
        let malformed = |error: JsonError| BuildError::Environment(format!("a description is malformed: {error}"));
        json::typed(json::from_slice_strict(text).map_err(malformed)?).map_err(malformed)
    }

    /// What differs from the environment of another terminal, a line for each package
    /// and toolchain.
    pub fn differences(&self, there: &Self) -> Vec<String> {
        let toolchains = |of: &Self| -> BTreeMap<String, String> {
            of.toolchains.iter().map(|toolchain| (toolchain.at.clone(), toolchain.sha256.short())).collect()
        };
        let packages = differing(&self.packages, &there.packages);
        let toolchains = differing(&toolchains(self), &toolchains(there));
        packages
            .into_iter()
            .map(|line| format!("package {line}"))
            .chain(toolchains.into_iter().map(|line| format!("toolchain {line}")))
            .collect()
    }

    pub(super) fn toolchains(&self) -> &[Toolchain] {
        &self.toolchains
    }

    /// The digest of the description, which claims name.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn digest(&self) -> Result<Sha256, BuildError> {
        json::digest(self).map_err(|error| BuildError::Environment(error.to_string()))
    }

    /// The description in compact JSON, kept beside the build.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn to_vec(&self) -> Result<Vec<u8>, BuildError> {
        json::to_vec(self).map_err(|error| BuildError::Environment(error.to_string()))
    }
}

fn differing(here: &BTreeMap<String, String>, there: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
    let differs = |name: &&String| here.get(*name) != there.get(*name);
    let show = |found: Option<&String>| found.map_or_else(|| "none".to_owned(), |text| printable(text));
    let line =
        |name: &String| format!("{}: here {}, there {}", printable(name), show(here.get(name)), show(there.get(name)));
    names.into_iter().filter(differs).map(line).collect()
}

/// Installed packages as `name:architecture` with their versions.
fn installed(status: &str) -> BTreeMap<String, String> {
    status
        .split("\n\n")
        .filter_map(|stanza| {
            let field = |name: &str| {
                stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(ToOwned::to_owned)
            };
            let is_installed = field("Status")?.ends_with(" installed");
            let name = format!("{}:{}", field("Package")?, field("Architecture")?);
            is_installed.then_some((name, field("Version")?))
        })
        .collect()
}

/// The digest of a tree: a line for each file, sorted by path, with its kind,
/// whether it can be executed, and the digest of its content or link.
fn tree_digest(root: &Path) -> Result<Sha256, BuildError> {
    let mut files = Vec::new();
    let mut pending = vec![root.to_owned()];
    let read = |path: &Path| -> io::Result<Vec<(PathBuf, fs::FileType)>> {
        fs::read_dir(path)?.map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))).collect()
    };
    while let Some(folder) = pending.pop() {
        for (path, kind) in read(&folder).map_err(|error| BuildError::io(&folder, error))? {
            if kind.is_dir() {
                pending.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    let slots: Vec<(&PathBuf, std::sync::OnceLock<String>)> =
        files.iter().map(|path| (path, std::sync::OnceLock::new())).collect();
    in_parallel(&slots, |(path, slot)| -> Result<(), BuildError> {
        let line = describe_file(path).map_err(|error| BuildError::io(path, error))?;
        let _ = slot.set(line);
        Ok(())
    })?;
    let mut hasher = sha2::Sha256::new();
    for (path, line) in &slots {
        hasher.update(line.get().map(String::as_bytes).unwrap_or_default());
        hasher.update(path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes());
        hasher.update(b"\0");
    }
    Ok(Sha256::from(<[u8; 32]>::from(hasher.finalize())))
}

fn describe_file(path: &Path) -> io::Result<String> {
    let metadata = path.symlink_metadata()?;
    if metadata.is_symlink() {
        let target = fs::read_link(path)?;
        return Ok(format!("link {} ", Sha256::of(target.as_os_str().as_bytes())));
    }
    if !metadata.is_file() {
        return Ok("other ".to_owned());
    }
    let (sha256, _) = Sha256::of_reader(File::open(path)?, &mut |_| {})?;
    let executable = if metadata.permissions().mode() & 0o111 == 0 { "file" } else { "program" };
    Ok(format!("{executable} {sha256} "))
}
