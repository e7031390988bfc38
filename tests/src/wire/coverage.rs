use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coverage {
    pub kernel_release: String,
    pub degraded: bool,
    pub hooks: Vec<Hook>,
    pub missing_fields: Vec<MissingField>,
    pub scan: Scan,
    pub self_test: Option<SelfTest>,
    pub modules: Vec<Module>,
    pub lifecycle: Option<Lifecycle>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifecycle {
    pub status: String,
    pub mechanism: Option<String>,
    pub why: Option<String>,
    pub runs: Option<u64>,
    pub run_ns: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    pub module: String,
    pub status: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    pub by: String,
    pub why: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfTest {
    pub status: String,
    pub text: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    pub hook: String,
    pub status: String,
    pub mechanism: Option<String>,
    pub why: Option<String>,
    pub runs_for: String,
    pub runs: Option<u64>,
    pub run_ns: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MissingField {
    pub field: String,
    pub why: String,
    pub harmless: bool,
}
