//! `release util`: for packagers and tests.

use std::fs;
#[cfg(feature = "terminal")]
use std::io::Write as _;
#[cfg(feature = "terminal")]
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(feature = "terminal")]
use clap_mangen::roff::Roff;
#[cfg(feature = "terminal")]
use clap_mangen::roff::roman;
use jiff::Timestamp;
#[cfg(feature = "terminal")]
use serde_json::json;
use sigstore_tuf::FileStore;
use sigstore_tuf::MetadataStore;
use sigstore_tuf::TargetFile;
use sigstore_tuf::Updater;

use super::error::CommandError;
use super::ui::Ui;
use crate::transport::Files;
use crate::transport::Url;
use crate::tuf::client;
#[cfg(feature = "terminal")]
use crate::window::WindowError;
#[cfg(feature = "terminal")]
use crate::window::helper;

/// For packagers and tests
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print completions for a shell
    #[cfg(feature = "terminal")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    #[cfg(feature = "terminal")]
    Man {
        /// The folder to write them to
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Change the firewall for whoever is connected to standard input, for systemd
    #[cfg(feature = "terminal")]
    #[command(hide = true)]
    WindowHelper,
    /// Speak the protocol of the TUF project's conformance suite
    #[command(hide = true)]
    TufClient(TufClient),
}

/// The options of the conformance suite's protocol.
#[derive(Debug, clap::Args)]
pub struct TufClient {
    #[arg(long)]
    metadata_dir: PathBuf,
    #[arg(long)]
    metadata_url: Option<String>,
    #[arg(long)]
    target_name: Vec<String>,
    #[arg(long)]
    target_base_url: Option<String>,
    #[arg(long)]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    action: TufAction,
}

#[derive(Debug, clap::Subcommand)]
enum TufAction {
    /// Take a root as trusted
    Init {
        /// The root
        root: PathBuf,
    },
    /// Refresh the top-level roles
    Refresh,
    /// Refresh, then download targets
    Download,
}

/// Runs `release util`.
pub fn run(command: &Command, ui: &Ui) -> Result<u8, CommandError> {
    match command {
        #[cfg(feature = "terminal")]
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut visible(), "release", &mut script);
            let script = String::from_utf8_lossy(&script);
            if ui.json {
                ui.data(&json!({ "version": 1, "script": script }).to_string());
            } else {
                ui.script(script.trim_end());
            }
        }
        #[cfg(feature = "terminal")]
        Command::Man { folder } => {
            let failed = |error: std::io::Error| {
                CommandError::system(format!("cannot write to {}: {error}", folder.display()), &error)
            };
            fs::create_dir_all(folder).map_err(failed)?;
            let mut command = super::command();
            command.build();
            write_pages(&command, folder).map_err(failed)?;
            ui.say(&format!("Manual pages written to {}", folder.display()));
            if ui.json {
                ui.data(&json!({ "version": 1, "folder": folder.display().to_string() }).to_string());
            }
        }
        #[cfg(feature = "terminal")]
        Command::WindowHelper => {
            let connection = super::ui::connection().map_err(WindowError::Helper)?;
            // systemd keeps what is said.
            ui.say(&helper::serve(connection, ui)?);
        }
        Command::TufClient(client) => {
            let _ = ui;
            client.run()?;
        }
    }
    Ok(0)
}

/// Writes the manual page of a command, and those of the commands below it. Examples are
/// not filled, as other text is: somebody may paste them.
#[cfg(feature = "terminal")]
fn write_pages(command: &clap::Command, folder: &Path) -> std::io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_pages(below, folder)?;
    }
    let examples = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let page = clap_mangen::Man::new(command.clone().after_long_help(clap::builder::Resettable::Reset));
    let mut file = fs::File::create(folder.join(page.get_filename()))?;
    page.render(&mut file)?;
    if let Some(examples) = examples.strip_prefix("Examples:\n") {
        let mut section = Roff::new();
        section.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in examples.lines() {
            section.text([roman(line)]);
        }
        section.control("fi", []).to_writer(&mut file)?;
    }
    file.flush()
}

/// The command line without what is hidden, which completions would offer.
#[cfg(feature = "terminal")]
fn visible() -> clap::Command {
    super::command().mut_subcommand("util", |util| {
        let shown = util.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
        let about = util.get_about().cloned().unwrap_or_default();
        clap::Command::default().name("util").about(about).subcommand_required(true).subcommands(shown)
    })
}

/// Keeps trusted metadata as the suite wants to see it: the newest root under
/// `root.json`, no numbered files; the root chain in a folder of its own.
struct SuiteStore {
    folder: PathBuf,
    files: FileStore,
}

impl MetadataStore for SuiteStore {
    fn load(&self, name: &str) -> sigstore_tuf::Result<Option<Vec<u8>>> {
        self.files.load(name)
    }

    fn store(&self, name: &str, bytes: &[u8]) -> sigstore_tuf::Result<()> {
        let numbered = name
            .split_once('.')
            .is_some_and(|(number, _)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()));
        if numbered || name.starts_with("targets/") {
            return Ok(());
        }
        fs::create_dir_all(&self.folder).map_err(|error| sigstore_tuf::Error::transport(error.to_string()))?;
        self.files.store(name, bytes)
    }
}

impl TufClient {
    fn run(&self) -> Result<(), CommandError> {
        let failed = |error: sigstore_tuf::Error| CommandError::from_error(super::error::FAILED, &error);
        let io = |error: std::io::Error| CommandError::system(error.to_string(), &error);
        match &self.action {
            TufAction::Init { root } => {
                let bytes = super::trust::read_root(root)?;
                fs::create_dir_all(&self.metadata_dir).map_err(io)?;
                fs::write(self.metadata_dir.join("root.json"), bytes).map_err(io)
            }
            TufAction::Refresh => client::run(self.updater()?.refresh(Timestamp::now())).map_err(failed),
            TufAction::Download => {
                let mut updater = self.updater()?;
                let now = Timestamp::now();
                client::run(updater.refresh(now)).map_err(failed)?;
                let folder = self.target_dir.as_ref().ok_or_else(|| CommandError::usage("--target-dir is missing"))?;
                for name in &self.target_name {
                    let target = client::run(updater.get_target_info(name, now))
                        .map_err(failed)?
                        .ok_or_else(|| CommandError::failed("no trusted role lists that target"))?;
                    let path = folder.join(suite_file_name(name));
                    if fs::read(&path).is_ok_and(|bytes| is_target(&bytes, &target)) {
                        continue;
                    }
                    let bytes = client::run(updater.download_target(&target, name)).map_err(failed)?;
                    fs::write(path, bytes).map_err(io)?;
                }
                Ok(())
            }
        }
    }

    fn updater(&self) -> Result<Updater, CommandError> {
        let url = |option: &Option<String>| -> Arc<dyn Files> { Arc::new(Url::new(option.as_deref().unwrap_or(""))) };
        let remote = client::Remote::split(url(&self.metadata_url), url(&self.target_base_url));
        let root = super::trust::read_root(&self.metadata_dir.join("root.json"))?;
        let store = SuiteStore { folder: self.metadata_dir.clone(), files: FileStore::new(&self.metadata_dir) };
        let updater =
            Updater::new(remote, &root).map_err(|error| CommandError::from_error(super::error::FAILED, &error))?;
        // The suite checks the bound on delegations by its default.
        Ok(updater.with_store(store))
    }
}

fn is_target(bytes: &[u8], target: &TargetFile) -> bool {
    bytes.len() as u64 == target.length
        && target.hashes.get("sha256").is_some_and(|hex| *hex == crate::manifest::Sha256::of(bytes).to_string())
}

/// A target's name as one file name.
fn suite_file_name(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}
