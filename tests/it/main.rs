//! The integration tests: one binary, so that it links once.
//!
//! Everything is real: the program itself, git, ssh-keygen, bubblewrap, nginx,
//! gpg, sqv, python-tuf and pcscd. `scripts/test` installs what is missing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod support;

mod attestation;
mod build;
mod cli;
mod cut;
mod docs;
mod emulator;
mod forged;
mod fuzz;
mod hostile;
mod interop;
mod invariants;
mod outside;
mod own;
mod pcscd;
mod properties;
mod resume;
mod served;
mod source;
mod tokens;
mod verify;
mod web;
mod words;
