//! The TUF client workflow over our bounded readers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use sigstore_tuf::Error;
use sigstore_tuf::MemoryStore;
use sigstore_tuf::MetadataStore;
use sigstore_tuf::Repository;
use sigstore_tuf::Updater;
use sigstore_tuf::UpdaterConfig;
use sigstore_tuf::transport::FetchFuture;

use super::BEFORE_ALL;
use super::Files;
use crate::manifest::Product;

/// How many root rotations a client follows in one go. The core's default, 32,
/// would lock out a user who comes back after some years.
const MAX_ROOT_ROTATIONS: u32 = 1024;
/// One delegation per product.
const MAX_DELEGATIONS: u32 = 1024;

/// Size limits and search bounds, set rather than left to defaults.
pub fn limits() -> UpdaterConfig {
    let mut config = UpdaterConfig::default();
    config.max_root_rotations = MAX_ROOT_ROTATIONS;
    config.max_delegations = MAX_DELEGATIONS;
    config
}

/// The same files as the core wants to read them: metadata and targets below
/// two places, futures that are ready at once.
pub struct Remote {
    /// The metadata file that was asked for last: errors of the core do not
    /// always say which file they are about.
    last: Arc<Mutex<String>>,
    metadata: Arc<dyn Files>,
    metadata_prefix: &'static str,
    targets: Arc<dyn Files>,
    targets_prefix: &'static str,
}

impl Remote {
    /// A repository laid out as ours: `metadata/` and `targets/` below one place.
    pub fn repository(files: Arc<dyn Files>) -> Self {
        Self {
            last: Arc::default(),
            metadata: files.clone(),
            metadata_prefix: "metadata/",
            targets: files,
            targets_prefix: "targets/",
        }
    }

    /// Metadata and targets in places of their own.
    pub fn split(metadata: Arc<dyn Files>, targets: Arc<dyn Files>) -> Self {
        Self { last: Arc::default(), metadata, metadata_prefix: "", targets, targets_prefix: "" }
    }
}

fn lock(name: &Mutex<String>) -> MutexGuard<'_, String> {
    name.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(files: &dyn Files, path: &str, max: u64) -> sigstore_tuf::Result<Option<Vec<u8>>> {
    files.read(path, max).map_err(|error| Error::transport_with_source(path.to_owned(), error))
}

impl Repository for Remote {
    fn fetch_metadata<'a>(&'a self, name: &'a str, max_length: u64) -> FetchFuture<'a> {
        let path = format!("{}{name}", self.metadata_prefix);
        lock(&self.last).clone_from(&path);
        let file = read(self.metadata.as_ref(), &path, max_length);
        let checked = file.and_then(|file| {
            file.as_deref().map_or(Ok(()), super::well_formed)?;
            Ok(file)
        });
        Box::pin(std::future::ready(checked))
    }

    fn fetch_target<'a>(&'a self, path: &'a str, max_length: u64) -> FetchFuture<'a> {
        let file = read(self.targets.as_ref(), &format!("{}{path}", self.targets_prefix), max_length);
        Box::pin(std::future::ready(file))
    }
}

/// Runs a future that never waits: every read of [`Remote`] is done when its
/// future is made.
///
/// # Errors
/// The future's own, and one if it waits after all.
pub fn run<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(result) => result,
        std::task::Poll::Pending => Err(Error::transport("a reader that never waits did wait")),
    }
}

/// Copies of metadata from one place, each file by its exact bytes.
///
/// What a [`Client`] gives is consistent in itself and signed; whether it is
/// the newest, or still trusted by a newer root from elsewhere, is for `verify`
/// to judge.
#[derive(Debug, Clone, Default)]
pub struct Copies {
    /// Root metadata by version, without the pinned one.
    pub roots: BTreeMap<u64, Vec<u8>>,
    /// `timestamp.json`.
    pub timestamp: Option<Vec<u8>>,
    /// The snapshot.
    pub snapshot: Option<Vec<u8>>,
    /// The top-level targets role.
    pub targets: Option<Vec<u8>>,
    /// Product roles by name.
    pub roles: BTreeMap<Product, Vec<u8>>,
}

/// A TUF client: walks a repository from the pinned root forward.
pub struct Client {
    updater: Updater,
    last: Arc<Mutex<String>>,
    seen: Arc<MemoryStore>,
    products: Vec<Product>,
}

impl Client {
    /// A client of the repository at `files` that trusts `pinned_root`.
    ///
    /// # Errors
    /// A root that is malformed or does not meet its own threshold.
    pub fn new(files: Arc<dyn Files>, pinned_root: &[u8]) -> Result<Self, Error> {
        let seen = Arc::new(MemoryStore::new());
        let remote = Remote::repository(files);
        let last = Arc::clone(&remote.last);
        let updater = Updater::new(remote, pinned_root)?.with_config(limits()).with_store(Arc::clone(&seen));
        Ok(Self { updater, last, seen, products: Vec::new() })
    }

    /// Root chain, timestamp, snapshot and targets. Expiry is not judged.
    ///
    /// # Errors
    /// Whatever breaks the TUF client workflow, and unreadable files.
    pub fn refresh(&mut self) -> Result<(), Error> {
        run(self.updater.refresh(BEFORE_ALL))
    }

    /// The metadata file that was read last, by its path: the one that an error
    /// is about.
    pub fn last_file(&self) -> String {
        lock(&self.last).clone()
    }

    /// The products that the top-level role delegates to.
    pub fn delegated(&self) -> Vec<Product> {
        let delegations = self.updater.trusted().targets_role("targets").and_then(|role| role.delegations.as_ref());
        delegations.map_or_else(Vec::new, |d| d.roles.iter().filter_map(|role| role.name.parse().ok()).collect())
    }

    /// Whether the snapshot lists a role for the product: it may have had no
    /// release yet.
    pub fn has_role(&self, product: &Product) -> bool {
        self.updater.trusted().snapshot().is_some_and(|snapshot| snapshot.meta.contains_key(&format!("{product}.json")))
    }

    /// Loads the role of a product.
    ///
    /// # Errors
    /// As [`Self::refresh`]; also a product that nobody delegates to.
    pub fn load(&mut self, product: &Product) -> Result<(), Error> {
        // The core loads a delegated role when it looks for a target in it. No
        // release has this name, so that the search always ends in that role.
        run(self.updater.get_target_info(&format!("{product}/-/-"), BEFORE_ALL))?;
        if self.updater.trusted().targets_role(product.as_str()).is_none() {
            return Err(Error::UnknownRole(product.to_string()));
        }
        if !self.products.contains(product) {
            self.products.push(product.clone());
        }
        Ok(())
    }

    /// All that was read so far.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn copies(&self) -> Result<Copies, Error> {
        let mut copies = Copies {
            timestamp: self.seen.load("timestamp.json")?,
            snapshot: self.seen.load("snapshot.json")?,
            targets: self.seen.load("targets.json")?,
            ..Copies::default()
        };
        for version in 1..=self.updater.trusted().root().version {
            if let Some(root) = self.seen.load(&format!("root_history/{version}.root.json"))? {
                copies.roots.insert(version, root);
            }
        }
        for product in &self.products {
            if let Some(role) = self.seen.load(&format!("{product}.json"))? {
                copies.roles.insert(product.clone(), role);
            }
        }
        Ok(copies)
    }
}
