//! The integration tests: one binary, so that it links once.
//!
//! Everything is real: the program itself, git, ssh and sshd, openssl, bubblewrap,
//! nginx, gpg, sqv and python-tuf. `scripts/test` installs what is missing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod support;

mod agent;
mod attestation;
mod build;
mod cli;
mod cut;
mod docs;
mod forged;
mod fuzz;
mod hostile;
mod interop;
mod invariants;
mod outside;
mod own;
mod properties;
mod resume;
mod served;
mod source;
mod verify;
mod web;
mod words;
