//! `release`: cut, sign and verify releases with a threshold of people.
//!
//! The folders are the architecture; `ARCHITECTURE.md` is the map. With the
//! feature `verify` alone this is what a user needs; `terminal` adds what a
//! release manager needs.

#[cfg(not(feature = "verify"))]
compile_error!("choose at least the feature `verify`");

#[cfg(feature = "terminal")]
pub mod key;
pub mod manifest;
pub mod parallel;
pub mod progress;
pub mod transport;
pub mod tuf;
pub mod verify;

#[cfg(feature = "terminal")]
pub mod abandon;
#[cfg(feature = "terminal")]
pub mod amend;
#[cfg(feature = "terminal")]
pub mod approve;
#[cfg(feature = "terminal")]
pub mod build;
pub mod cli;
#[cfg(feature = "terminal")]
pub mod courier;
#[cfg(feature = "terminal")]
pub mod cut;
#[cfg(feature = "terminal")]
pub mod doctor;
#[cfg(feature = "terminal")]
pub mod enrol;
#[cfg(feature = "terminal")]
pub mod home;
#[cfg(feature = "terminal")]
pub mod import;
#[cfg(feature = "terminal")]
pub mod init;
#[cfg(feature = "terminal")]
pub mod media;
#[cfg(feature = "terminal")]
pub mod openpgp;
#[cfg(feature = "terminal")]
pub mod policy;
#[cfg(feature = "terminal")]
pub mod process;
#[cfg(feature = "terminal")]
pub mod publish;
#[cfg(feature = "terminal")]
pub mod refresh;
#[cfg(feature = "terminal")]
pub mod repository;
#[cfg(feature = "terminal")]
pub mod sign;
#[cfg(feature = "terminal")]
pub mod source;
#[cfg(feature = "terminal")]
pub mod ssh;
#[cfg(feature = "terminal")]
pub mod window;
