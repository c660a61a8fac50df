//! Helpers that `cargo xtask` and the test cluster share: running other programs, the paths of the
//! checkout, and writing OCI images.
//!
//! The crate exists because `xtask` uses the crate of the test cluster as a library, which
//! therefore cannot use `xtask`. It knows neither of them and installs nothing: that is `xtask`'s
//! `setup`.
#![forbid(unsafe_code)]
#![allow(
    clippy::missing_errors_doc,
    reason = "every error is a chain that names the attempt, and its caller prints it"
)]

pub mod image;
pub mod paths;
pub mod shell;
