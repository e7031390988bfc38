//! `cargo xtask demo`: a connection dies in network namespaces, connprobe says which and why.

use std::process::ExitCode;

use anyhow::Result;

use crate::lab;
use crate::project::Project;

/// Plays the most common of all failures; its exit code is this one's.
pub(crate) fn main(project: &Project) -> Result<ExitCode> {
    lab::play(project, &["path-cut".into()])
}
