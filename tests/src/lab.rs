//! A lab: namespaces that belong together and vanish together.

use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};

use crate::leftovers;
use crate::netns::{self, Netns};
use crate::registry;

/// How the name of every namespace made here begins; the pid of its maker and a number follow.
pub const PREFIX: &str = "cpt-";

/// Numbers the namespaces of this process.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Owns the namespaces it made. Dropping it ends what was started in them and removes them.
///
/// Any number of labs may live at once, in one process and in several. A [`Netns`] handle may outlive its lab; using it
/// is an error then. Connections that an ended process left behind may keep a removed namespace in the kernel until TCP
/// gives them up.
#[derive(Debug)]
pub struct Lab {
    label: String,
    names: Mutex<Vec<String>>,
}

impl Lab {
    /// A lab without namespaces. The first one of a process removes the namespaces that killed runs have left. `label`
    /// appears in error messages.
    ///
    /// # Errors
    /// Without the right to write to `/run`, or while the process is shutting down.
    pub fn new(label: impl Into<String>) -> Result<Self> {
        let label = label.into();
        drop(registry::open_for_namespaces().with_context(|| format!("lab \"{label}\""))?);
        Ok(Self { label, names: Mutex::new(Vec::new()) })
    }

    /// Makes a namespace with its loopback device up. `name` (small letters, digits, dashes) is the end of its full
    /// name and need not be unique.
    ///
    /// # Errors
    /// Without the rights to unshare and mount, or with another character in the name.
    pub fn netns(&self, name: &str) -> Result<Netns> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        ensure!(!name.is_empty() && name.bytes().all(allowed), "not a name for a namespace: \"{name}\"");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{name}", process::id());

        let mut registry = registry::open_for_namespaces()?;
        registry.add_namespace(&name);
        registry::lock(&self.names).push(name.clone());
        netns::create(&name).with_context(|| format!("lab \"{}\": cannot make namespace {name}", self.label))
    }

    /// What the lab was made for.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Tears the lab down and says what went wrong, which dropping it cannot.
    ///
    /// # Errors
    /// When a child cannot be ended or a namespace cannot be unmounted; the rest is torn down nevertheless.
    pub fn close(self) -> Result<()> {
        self.tear_down()
    }

    fn tear_down(&self) -> Result<()> {
        let names = std::mem::take(&mut *registry::lock(&self.names));
        registry::remove_namespaces(&names).with_context(|| format!("lab \"{}\"", self.label))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A destructor has nobody to tell; what could not be removed now is a leftover for the next run.
        let _ = self.tear_down();
    }
}

/// Removes the namespaces of processes that no longer live and returns their names. [`Lab::new`] does so once in each
/// process.
///
/// # Errors
/// Without the right to write to `/run` or to unmount.
pub fn remove_leftovers() -> Result<Vec<String>> {
    drop(registry::open_for_namespaces()?);
    leftovers::remove(false)
}
