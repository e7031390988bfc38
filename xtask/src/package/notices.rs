//! The crates a binary is linked with, and their licences, which want to be handed on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::project::Project;
use crate::run;

/// How licences' file names begin.
const NAMES: [&str; 5] = ["license", "licence", "copying", "notice", "unlicense"];

/// One section for each crate from elsewhere, with the texts its authors ship; each text is told once.
pub(super) fn collect(project: &Project) -> Result<String> {
    let mut cargo = run::cargo();
    cargo.args(["metadata", "--format-version=1", "--locked", "--filter-platform"]).arg(target()?);
    let metadata: Value = serde_json::from_str(&run::output(cargo.current_dir(project.root()))?)?;
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut text = "connprobe is linked with these crates. Each is used under the licence named with it.\n".to_owned();
    for package in linked(&metadata)? {
        let field = |name: &str| package.get(name).and_then(Value::as_str);
        // Its own crates have no source elsewhere.
        let (Some(_), Some(name), Some(version)) = (field("source"), field("name"), field("version")) else { continue };
        let license = field("license").unwrap_or("see its files");
        text.push_str(&format!("\n== {name} {version}\n{license}\n{}\n", field("repository").unwrap_or_default()));
        let folder = field("manifest_path").and_then(|path| Path::new(path).parent());
        for (file, content) in licences(folder.context("a crate without a folder")?)? {
            match seen.get(&content) {
                Some(first) => text.push_str(&format!("\n-- {file}: as of {first}\n")),
                None => {
                    text.push_str(&format!("\n-- {file}:\n{}\n", content.trim_end()));
                    seen.insert(content, format!("{name} {version} ({file})"));
                }
            }
        }
    }
    Ok(text)
}

/// What the compiler builds for.
fn target() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let told = run::output(std::process::Command::new(rustc).arg("-vV"))?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not tell what it builds for")?.to_owned())
}

/// The packages that end up in the binary, by name: not what only builds or tests it.
fn linked(metadata: &Value) -> Result<Vec<&Value>> {
    let list = |value: &'static str, of: &Value| -> Vec<Value> {
        of.pointer(value).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let packages = metadata.get("packages").and_then(Value::as_array).context("cargo names no packages")?;
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let own = packages.iter().find(|package| text(package, "name").as_deref() == Some("connprobe"));
    let mut waiting = vec![own.and_then(|package| text(package, "id")).context("cargo does not know connprobe")?];
    let nodes: BTreeMap<String, Value> =
        list("/resolve/nodes", metadata).into_iter().filter_map(|node| Some((text(&node, "id")?, node))).collect();
    let mut found = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !found.insert(id.clone()) {
            continue;
        }
        for dependency in nodes.get(&id).map(|node| list("/deps", node)).unwrap_or_default() {
            let is_linked =
                list("/dep_kinds", &dependency).iter().any(|kind| kind.get("kind").is_some_and(Value::is_null));
            waiting.extend(text(&dependency, "pkg").filter(|_| is_linked));
        }
    }
    let mut linked: Vec<_> =
        packages.iter().filter(|package| text(package, "id").is_some_and(|id| found.contains(&id))).collect();
    linked.sort_by_key(|package| text(package, "name"));
    Ok(linked)
}

/// The licences in a crate's folder, by file name.
fn licences(folder: &Path) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for path in super::entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_one = NAMES.iter().any(|begin| name.to_lowercase().starts_with(begin));
        if is_one && path.is_file() {
            found.push((name, String::from_utf8_lossy(&std::fs::read(&path)?).into_owned()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_builds_or_tests_is_not_linked() {
        let dependency = |name: &str, kind: Value| serde_json::json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let package = |name: &str| serde_json::json!({"id": name, "name": name});
        let metadata = serde_json::json!({
            "packages": [package("connprobe"), package("used"), package("below"), package("tests"), package("other")],
            "resolve": {"nodes": [
                {"id": "connprobe", "deps": [dependency("used", Value::Null), dependency("tests", "dev".into())]},
                {"id": "used", "deps": [dependency("below", Value::Null), dependency("other", "build".into())]},
                {"id": "below", "deps": [dependency("used", Value::Null)]},
            ]},
        });
        let names: Vec<_> =
            linked(&metadata).unwrap().iter().map(|package| package["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["below", "connprobe", "used"]);
    }
}
