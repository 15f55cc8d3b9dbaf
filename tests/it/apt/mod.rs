//! The repository for apt.

mod deb;
