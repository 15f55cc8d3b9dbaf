//! The integration tests: one binary, so that it links once.
//!
//! Everything is real: the program itself, git, ssh-keygen, sshd, bubblewrap,
//! nginx, gpg, sqv and python-tuf. `scripts/test` installs what is missing.
//! Everything is real: the program itself, git, ssh-keygen, bubblewrap, nginx,
//! gpg, sqv, python-tuf and pcscd. `scripts/test` installs what is missing.
//! Everything is real: the program itself, git, ssh and sshd, openssl, bubblewrap,
//! nginx, gpg, sqv and python-tuf. `scripts/test` installs what is missing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod support;

mod agent;
mod approve;
mod approve_faults;
mod attestation;
mod build;
mod carried;
mod ceremony;
mod cli;
mod courier;
mod cut;
mod deploy;
mod docs;
mod doctor;
mod emulator;
mod faults;
mod forged;
mod fuzz;
mod home;
mod hostile;
mod impostor;
mod interop;
mod invariants;
mod keylife;
mod keys;
mod limits;
mod lost;
mod media;
mod mirror;
mod openpgp;
mod outside;
mod own;
mod pcscd;
mod properties;
mod remote;
mod resume;
mod served;
mod source;
mod source_bundle;
mod thief;
mod tokens;
mod trees;
mod verify;
mod web;
mod window;
mod withdraw;
mod words;
