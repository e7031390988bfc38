//! `connprobe schema`: the contract of the records.

use super::Exit;
use crate::{report::record, sink::Stdout};

pub(super) fn run() -> anyhow::Result<Exit> {
    Stdout.document(&format!("{:#}\n", record::schema()))?;
    Ok(Exit::Clean)
}
