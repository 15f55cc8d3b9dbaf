//! Why a cut stops.

use std::path::PathBuf;

use jiff::Timestamp;
use jiff::civil::Date;

use super::Stopped;
use crate::amend;
use crate::approve::MessageError;
use crate::build::BuildError;
use crate::home::HomeError;
use crate::manifest::Holder;
use crate::manifest::Line;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::openpgp::OpenPgpError;
use crate::policy::ConfigError;
use crate::publish::OldHome;
use crate::publish::Unprepared;
use crate::repository::RepositoryError;
use crate::sign::SignError;
use crate::source::SourceError;
use crate::verify::VerifyError;

/// Why a cut stopped. What was signed and sealed before is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CutError {
    /// The policy has no such product.
    #[error("the policy has no product `{0}`")]
    NoProduct(Product),
    /// The signed policy is another one.
    #[error("policy.toml (sha256 {found}) is not the newest signed policy (sha256 {signed})")]
    OtherPolicy {
        /// The digest that is signed.
        signed: Sha256,
        /// The digest of the file.
        found: Sha256,
    },
    /// The clock is behind what has happened.
    #[error("the clock says {now}, but {what} is from {then}; set the clock")]
    Clock {
        /// The time now.
        now: Timestamp,
        /// What is from later.
        what: &'static str,
        /// Its time.
        then: Timestamp,
    },
    /// The clock is far ahead of what has happened, and nobody confirms it.
    #[error(
        "the clock says {}, but this terminal was last used on {}{}",
        .now.strftime("%Y-%m-%d"),
        .last.strftime("%Y-%m-%d"),
        .said.map_or_else(String::new, |said| format!(", and you say that today is {said}"))
    )]
    Date {
        /// The time now.
        now: Timestamp,
        /// When the terminal was last used.
        last: Timestamp,
        /// What a person says.
        said: Option<Date>,
    },
    /// A top-level role has expired: whatever is released now would be STALE.
    #[error("role `{role}` expired on {}; nothing that is released now would be VERIFIED", .at.strftime("%Y-%m-%d"))]
    Expired {
        /// The role.
        role: &'static str,
        /// When.
        at: Timestamp,
    },
    /// Something expires before the next release.
    #[error(
        "{what} expires on {}, and the policy has the next release on {} at the latest; nothing was built or signed",
        .at.strftime("%Y-%m-%d"),
        .next.strftime("%Y-%m-%d")
    )]
    ExpiresBefore {
        /// What.
        what: String,
        /// When.
        at: Timestamp,
        /// When the next release is made at the latest.
        next: Timestamp,
        /// The command that renews it.
        command: String,
    },
    /// The home is older than the world.
    #[error(transparent)]
    OldHome(#[from] OldHome),
    /// A mirror could not take the release.
    #[error(transparent)]
    Unprepared(#[from] Unprepared),
    /// Another terminal has released under the number that this cut has signed.
    #[error("{product} {version} was signed as manifest {number}, but manifest {newest} is published by now")]
    Overtaken {
        /// The product.
        product: Product,
        /// The version of this cut.
        version: Version,
        /// The number that was signed.
        number: u64,
        /// The number that is published.
        newest: u64,
    },
    /// The version was given up.
    #[error("{product} {version} was abandoned; its number is burned, use another version")]
    Abandoned {
        /// The product.
        product: Product,
        /// The version.
        version: Version,
    },
    /// Another version of the product is not finished.
    #[error("the cut of {product} {other} is not finished")]
    OtherCut {
        /// The product.
        product: Product,
        /// Its version.
        other: Version,
    },
    /// The withdrawal of another version of the product is not finished.
    #[error("the withdrawal of {product} {other} is not finished")]
    OtherWithdrawal {
        /// The product.
        product: Product,
        /// Its version.
        other: Version,
    },
    /// A version that is to be withdrawn, or used instead, was not released.
    #[error("{product} {version} is no release; nothing was signed")]
    NotReleased {
        /// The product.
        product: Product,
        /// The version.
        version: Version,
    },
    /// A version that is to be used instead of itself.
    #[error("{product} {version} cannot be its own successor; nothing was signed")]
    OwnSuccessor {
        /// The product.
        product: Product,
        /// The version.
        version: Version,
    },
    /// The version is withdrawn, or keys were asked to withdraw it, with other words.
    #[error(
        "{product} {version} is withdrawn for the reason \"{reason}\"{}; that cannot be changed",
        .successor.as_ref().map_or_else(String::new, |successor| format!(", with the successor {successor}"))
    )]
    OtherReason {
        /// The product.
        product: Product,
        /// The version.
        version: Version,
        /// The reason that was signed.
        reason: Line,
        /// What was named to be used instead.
        successor: Option<Version>,
    },
    /// A file that is no message of an enrolled person.
    #[error("this is no {what} that counts: {error}; nothing was built or signed")]
    Message {
        /// What it should be.
        what: &'static str,
        /// Why it is not.
        error: MessageError,
    },
    /// A request by the rules of another policy.
    #[error(
        "the request of {starter} follows another policy (sha256 {theirs}) than this home (sha256 {ours}); nothing was \
         built or signed"
    )]
    RequestPolicy {
        /// Who asks, as the request says.
        starter: Holder,
        /// The digest of the starter's policy.
        theirs: Sha256,
        /// The digest of ours.
        ours: Sha256,
    },
    /// A request that nobody should answer.
    #[error("the request of {starter} is refused: {reason}; nothing was signed")]
    Request {
        /// Who asks.
        starter: Holder,
        /// Why.
        reason: String,
    },
    /// A request from before the newest release manifest.
    #[error(
        "the request of {starter} is stale: it follows manifest {follows} of {product}, and manifest {newest} is \
         published; nothing was built or signed"
    )]
    StaleRequest {
        /// The product.
        product: Product,
        /// Who asks.
        starter: Holder,
        /// The manifest that it follows; 0 is none.
        follows: u64,
        /// The newest one.
        newest: u64,
    },
    /// A second request for one version.
    #[error("this terminal has answered another request for {product} {version}, of {starter}; nothing was signed")]
    OtherRequest {
        /// The product.
        product: Product,
        /// The version.
        version: Version,
        /// Who asked first.
        starter: Holder,
    },
    /// A request for a version that this home cuts itself.
    #[error("this home has started {product} {version} itself, and approves no other release of that version")]
    OwnCut {
        /// The product.
        product: Product,
        /// The version.
        version: Version,
    },
    /// Another build environment.
    #[error("this terminal's build environment is not that of {starter}; nothing was built or signed")]
    Environment {
        /// Who asks.
        starter: Holder,
        /// What differs, a line each.
        differences: Vec<String>,
    },
    /// Two terminals got different bytes.
    #[error("this terminal does not get what {holder} built; nothing was signed")]
    Differs {
        /// Who built it elsewhere.
        holder: Holder,
        /// What differs, a line each.
        differences: Vec<String>,
        /// Where the files of this terminal are.
        folder: PathBuf,
    },
    /// An answer that does not count.
    #[error("an answer to the request for {product} {version} does not count: {reason}; nothing was signed")]
    Answer {
        /// The product.
        product: Product,
        /// The version.
        version: Version,
        /// Why.
        reason: String,
    },
    /// A release that no message can hold.
    #[error("no message can carry {product} {version}: {reason}")]
    TooMuch {
        /// The product.
        product: Product,
        /// The version.
        version: Version,
        /// Why.
        reason: String,
    },
    /// The recipe has a mistake.
    #[error("the recipe of commit {} has a mistake: {error}", .commit)]
    Recipe {
        /// The commit, short.
        commit: String,
        /// The mistake.
        error: ConfigError,
    },
    /// A file of the cut changed after it was made.
    #[error("{} has changed since it was made; nothing was signed", .0.display())]
    StageChanged(PathBuf),
    /// Source control.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The build.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A change of the policy or its keys is not finished.
    #[error("a change of the policy is not finished: `release {}`", amend::command(.0.as_str()).join(" "))]
    OtherAmendment(Line),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// Signing.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The person stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// What the home's repository holds from before does not verify any more.
    #[error("the home's repository is damaged; nothing was published: {0}")]
    DamagedRepository(#[source] VerifyError),
    /// What was sealed does not verify. Nobody has seen it.
    #[error("the self-check failed; nothing was published: {0}")]
    SelfCheck(#[source] VerifyError),
    /// A stock OpenPGP verifier refuses what was signed. Nobody has seen it.
    #[error("the self-check failed; nothing was published: {0}")]
    StockVerifier(#[from] OpenPgpError),
}
