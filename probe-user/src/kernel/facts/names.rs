//! What the places a hook can be attached to are called in the running kernel.

use super::function::{Function, functions};
use crate::model::Hook;

/// The kernel's names; tests pretend that one hook's have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// A hook and the name that every place it can be attached to has instead of its own.
    pub renamed: Option<(Hook, String)>,
}

impl Names {
    /// The tracepoint's name.
    pub fn tracepoint(&self, hook: Hook) -> String {
        self.apply(hook, hook.name())
    }

    /// The functions that together serve the hook, each with its symbol.
    pub fn functions(&self, hook: Hook) -> Vec<(String, Function)> {
        functions(hook).iter().map(|function| (self.apply(hook, function.symbol), *function)).collect()
    }

    fn apply(&self, hook: Hook, name: &str) -> String {
        match &self.renamed {
            Some((renamed, other)) if *renamed == hook => other.clone(),
            Some(_) | None => name.to_owned(),
        }
    }
}
