//! What a kernel offers, as `connprobe check` finds it by each mechanism. Committed for every kernel of the matrix.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use connprobe::model::Mechanism;
use serde::{Deserialize, Serialize};

use crate::probe::Probe;
use crate::require::{self, Requirement};
use crate::wire::{self, Body, Coverage};

/// How the mechanism that the program chooses by itself is listed.
const CHOSEN: &str = "chosen";

/// What one kernel offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelFacts {
    /// As `uname -r` prints it.
    pub release: String,
    /// By mechanism, and `chosen`: what becomes of each hook.
    pub hooks: BTreeMap<String, BTreeMap<String, String>>,
    /// By mechanism, and `chosen`: what becomes of the self-test.
    pub self_test: BTreeMap<String, String>,
    /// Kernel fields that cannot be read, and why.
    pub missing_fields: BTreeMap<String, String>,
}

impl KernelFacts {
    /// What is committed for a kernel of the matrix.
    ///
    /// # Errors
    /// When nothing is.
    pub fn committed(kernel: &str) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/kernels/{kernel}.toml"));
        let text =
            fs::read_to_string(&path).with_context(|| format!("{}: see `cargo xtask kernels`", path.display()))?;
        toml::from_str(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Whether anything can be attached by this mechanism.
    #[must_use]
    pub fn offers(&self, mechanism: Mechanism) -> bool {
        self.hooks.contains_key(mechanism.name())
    }

    /// Finds out about the running kernel.
    ///
    /// # Errors
    /// When the program cannot observe here at all.
    pub fn observe() -> Result<Self> {
        // What can be attached to in connection tracking is there when that is loaded; loading rules for it loads it.
        let _ = require::check(&[Requirement::Conntrack]);
        let (chosen, _) = check(&[])?.context("nothing can be observed")?;
        let mut facts = Self {
            release: chosen.kernel_release.clone(),
            hooks: BTreeMap::new(),
            self_test: BTreeMap::new(),
            missing_fields: chosen
                .missing_fields
                .iter()
                .map(|field| (field.field.clone(), field.why.clone()))
                .collect(),
        };
        facts.add(CHOSEN, &chosen);
        for mechanism in Mechanism::ALL {
            // A mechanism by which nothing can be attached is left out.
            if let Some((coverage, _)) = check(&["--force-mechanism", mechanism.name()])? {
                facts.add(mechanism.name(), &coverage);
            }
        }
        Ok(facts)
    }

    fn add(&mut self, mechanism: &str, coverage: &Coverage) {
        let outcome = |hook: &wire::Hook| match &hook.mechanism {
            Some(chosen) if mechanism == CHOSEN => chosen.clone(),
            Some(_) | None => hook.status.clone(),
        };
        let hooks = coverage.hooks.iter().map(|hook| (hook.hook.clone(), outcome(hook))).collect();
        self.hooks.insert(mechanism.to_owned(), hooks);
        let test = coverage.self_test.as_ref().map_or_else(|| "not tried".to_owned(), |test| test.status.clone());
        self.self_test.insert(mechanism.to_owned(), test);
    }
}

/// What `connprobe check` finds by these options, and its exit code; `None` when nothing can be observed by them.
///
/// # Errors
/// When it cannot be run or says something else than its contract.
pub fn check(options: &[&str]) -> Result<Option<(Coverage, i32)>> {
    let arguments = [&["check", "--format", "json"], options].concat();
    let finished = Probe::start_with_tracefs(&arguments)?.finish(Duration::from_secs(60))?;
    let code = finished.code.context("ended by a signal")?;
    if code == 2 {
        return Ok(None);
    }
    ensure!(finished.stderr.is_empty(), "standard error: {}", finished.stderr);
    match wire::read(finished.records.first().context("no record")?)?.body {
        Body::Coverage(coverage) => Ok(Some((coverage, code))),
        other => anyhow::bail!("not a coverage record: {other:?}"),
    }
}
