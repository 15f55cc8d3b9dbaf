//! The integration tests: one binary, so that it links once.
//!
//! Everything is real: the program itself, git, ssh-keygen, sshd, bubblewrap,
//! nginx, gpg, sqv and python-tuf. `scripts/test` installs what is missing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod support;

mod build;
mod cli;
mod cut;
mod docs;
mod faults;
mod forged;
mod fuzz;
mod hostile;
mod interop;
mod invariants;
mod limits;
mod lost;
mod media;
mod mirror;
mod outside;
mod own;
mod properties;
mod remote;
mod resume;
mod served;
mod source;
mod source_bundle;
mod trees;
mod verify;
mod web;
mod words;
