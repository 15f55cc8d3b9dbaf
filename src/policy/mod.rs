//! The three configuration files: `policy.toml` (the same on every terminal,
//! signed), `terminal.toml` (true of this machine only), `release.toml` (the
//! recipe, in the source tree).
//!
//! Unknown keys, wrong types and dangling names are errors with line, column
//! and the nearest right word.

mod location;
mod mirror;
mod policy_file;
pub mod recipe;
mod sandbox;
mod terminal;
mod text;
mod window;

pub use location::KeyFile;
pub use location::Location;
pub use location::Remote;
pub use location::Scheme;
pub use location::SourceHost;
pub use mirror::DeployKey;
pub use mirror::Jump;
pub use mirror::MirrorEntry;
pub use mirror::SftpEntry;
pub use policy_file::ARCHIVE;
pub use policy_file::CertificateEntry;
pub use policy_file::KeyEntry;
pub use policy_file::Online;
pub use policy_file::Policy;
pub use policy_file::ProductPolicy;
pub use policy_file::Purpose;
pub use policy_file::RoleEntry;
pub use recipe::Recipe;
pub use recipe::RecipeArtifact;
pub use sandbox::Processes;
pub use sandbox::Sandbox;
pub use sandbox::Size;
pub use sandbox::Time;
pub use sandbox::Toolchain;
pub use terminal::Place;
pub use terminal::SharedToken;
pub use terminal::Terminal;
pub use terminal::check_owners;
pub use text::ConfigError;
pub use text::Span;
pub use window::Destination;
pub use window::WindowEntry;
