//! What this process has made and must take away again, whichever way it ends.

use std::io;
use std::process::{self, Child};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::leftovers::{self, Claim};
use crate::netns;

/// Everything alive. Making and removing happen under this one lock, so that a signal never meets a half-made thing.
pub(crate) struct Registry {
    /// Set at the end of the process: from then on nothing is made.
    closed: bool,
    handles_signals: bool,
    claim: Option<Claim>,
    /// Namespaces in the order they were made.
    namespaces: Vec<String>,
    children: Vec<Registered>,
}

struct Registered {
    /// Name of the namespace the child was started in; `None`: that of this process.
    namespace: Option<String>,
    child: Weak<Mutex<Child>>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    closed: false,
    handles_signals: false,
    claim: None,
    namespaces: Vec::new(),
    children: Vec::new(),
});

/// The registry, locked, ready to take a child.
pub(crate) fn open() -> Result<MutexGuard<'static, Registry>> {
    let mut registry = lock(&REGISTRY);
    if registry.closed {
        bail!("this process is shutting down");
    }
    if !registry.handles_signals {
        handle_signals().context("cannot handle signals")?;
        registry.handles_signals = true;
    }
    Ok(registry)
}

/// The registry, locked, ready to take a namespace. The first call in a process removes what killed runs have left.
pub(crate) fn open_for_namespaces() -> Result<MutexGuard<'static, Registry>> {
    let mut registry = open()?;
    if registry.claim.is_none() {
        let claim = leftovers::claim_own_pid()?;
        leftovers::remove(true).context("cannot remove what an earlier run has left")?;
        registry.claim = Some(claim);
    }
    Ok(registry)
}

impl Registry {
    /// Remembers a namespace. To be called before it is made: removing one that does not exist is no error.
    pub(crate) fn add_namespace(&mut self, name: &str) {
        self.namespaces.push(name.to_owned());
    }

    /// Remembers a child and the namespace it was started in.
    pub(crate) fn add_child(&mut self, namespace: Option<&str>, child: &Arc<Mutex<Child>>) {
        self.children.retain(|registered| registered.child.strong_count() > 0);
        self.children.push(Registered { namespace: namespace.map(str::to_owned), child: Arc::downgrade(child) });
    }

    /// Kills what runs in these namespaces, then removes them. Goes on after an error and returns the first.
    fn remove_namespaces(&mut self, names: &[String]) -> Result<()> {
        let within = |namespace: Option<&str>| namespace.is_some_and(|name| names.iter().any(|given| given == name));
        let killed = self.kill_children(within);
        let mut removed = Ok(());
        for name in names.iter().rev() {
            removed = removed.and(netns::remove(name));
        }
        self.namespaces.retain(|name| !names.contains(name));
        killed.and(removed)
    }

    fn kill_children(&mut self, of: impl Fn(Option<&str>) -> bool) -> Result<()> {
        let mut result = Ok(());
        for registered in self.children.iter().filter(|registered| of(registered.namespace.as_deref())) {
            if let Some(child) = registered.child.upgrade() {
                result = result.and(kill_and_reap(&mut lock(&child)).context("cannot end a child"));
            }
        }
        self.children.retain(|registered| !of(registered.namespace.as_deref()));
        result
    }
}

/// Removes some of this process's namespaces and ends the children in them.
pub(crate) fn remove_namespaces(names: &[String]) -> Result<()> {
    lock(&REGISTRY).remove_namespaces(names)
}

/// Ends every child, removes every namespace and lets nothing be made any more.
pub(crate) fn shut_down() -> Result<()> {
    let mut registry = lock(&REGISTRY);
    registry.closed = true;
    let killed = registry.kill_children(|_| true);
    let names = registry.namespaces.clone();
    killed.and(registry.remove_namespaces(&names))
}

/// SIGKILL and wait. The standard library sends no signal to a child it has already waited for.
pub(crate) fn kill_and_reap(child: &mut Child) -> io::Result<()> {
    child.kill()?;
    child.wait().map(drop)
}

/// Locks, also after a panic of another holder: what is guarded here is valid after every single step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread waits for a signal that asks the process to end, tears everything down and ends the process with 128 + the signal's number.
fn handle_signals() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let waiting = move || {
        if let Some(signal) = signals.forever().next() {
            let code = if shut_down().is_ok() { 128 + signal } else { 1 };
            process::exit(code);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(waiting).map(drop)
}
