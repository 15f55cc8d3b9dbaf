//! The values that pass between stages: names, digests, pins, artifacts,
//! claims, publications, attestations, and the bundle that users verify with.
//!
//! Nothing here does I/O. Every type that comes from a file is checked when it
//! is parsed, so that code further on can rely on it.

pub mod attested;
pub mod bundle;
pub mod claim;
pub mod digest;
pub mod dsse;
pub mod json;
pub mod names;
pub mod publication;
pub mod release;
pub mod suite;

pub use attested::{Attested, Firmware, PinPolicy, Slot, TouchPolicy};
pub use bundle::Bundle;
pub use claim::{Build, Pin, SourceArchive, Tag};
pub use digest::Sha256;
pub use names::{Architecture, Component, FileName, Holder, HostName, KeyName, Line, MirrorName, PackageName};
pub use names::{Product, RepoPath, Suite, Version};
pub use publication::{Class, Entry, Publication};
pub use release::{Artifact, Kind};
