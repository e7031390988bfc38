//! Relative links in the documents lead to files that exist; those in the handbook to files of the handbook, which is all that there is
//! in a browser (`cargo xtask book`) and where a package has put it.

use std::path::{Component, Path, PathBuf};

use super::{Offence, Source, numbered};

const HANDBOOK: &str = "docs/";

pub(super) fn check(sources: &[Source], exists: impl Fn(&Path) -> bool) -> Vec<Offence> {
    let mut offences = Vec::new();
    let documents = sources.iter().filter(|source| {
        source.path.ends_with(".md") && (source.path.starts_with(HANDBOOK) || !source.path.contains('/'))
    });
    for source in documents {
        for (line, target) in targets(&source.text) {
            let Some(path) = resolve(&source.path, &target) else { continue };
            if !exists(&path) {
                offences.push(source.offence(line, format!("{target} leads nowhere")));
            } else if source.path.starts_with(HANDBOOK) && !path.starts_with(HANDBOOK) {
                offences.push(source.offence(line, format!("{target} leads out of the handbook: name it as code")));
            }
        }
    }
    offences
}

/// Link targets outside of code: `[text](target "title")`, images, and definitions `[name]: target`.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for (number, line) in numbered(text) {
        let start = line.trim_start();
        if let Some(end) = fence {
            if start.starts_with(end) {
                fence = None;
            }
            continue;
        }
        fence = ["```", "~~~"].into_iter().find(|mark| start.starts_with(mark));
        if fence.is_some() {
            continue;
        }
        let prose = without_code(line);
        let definition = prose.trim_start().strip_prefix('[').and_then(|rest| rest.split_once("]:"));
        let inline = prose.match_indices("](").filter_map(|(position, mark)| {
            let target = prose.get(position + mark.len()..)?;
            target.get(..closing_parenthesis(target)?)
        });
        for target in definition.map(|(_, target)| target).into_iter().chain(inline) {
            if let Some(target) = target.split_whitespace().next() {
                found.push((number, target.trim_matches(['<', '>']).to_owned()));
            }
        }
    }
    found
}

fn closing_parenthesis(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (position, character) in text.char_indices() {
        match character {
            '(' => open += 1,
            ')' if open == 0 => return Some(position),
            ')' => open -= 1,
            _ => {}
        }
    }
    None
}

/// The line without its code spans; a backtick without a partner is text.
fn without_code(line: &str) -> String {
    let parts: Vec<&str> = line.split('`').collect();
    let unpaired = parts.len().is_multiple_of(2);
    let last = parts.len() - 1;
    parts
        .into_iter()
        .enumerate()
        .filter(|(index, _)| index.is_multiple_of(2) || (unpaired && *index == last))
        .map(|(_, part)| part)
        .collect()
}

/// The file a relative link means, relative to the repository; `None` for addresses and places in the same document.
fn resolve(document: &str, target: &str) -> Option<PathBuf> {
    let file = target.split(['#', '?']).next().unwrap_or(target);
    let has_scheme = file.split_once(':').is_some_and(|(scheme, _)| !scheme.contains('/'));
    if file.is_empty() || has_scheme {
        return None;
    }
    let base = if file.starts_with('/') { Path::new("") } else { Path::new(document).parent()? };
    let mut path = PathBuf::new();
    for component in base.join(file.trim_start_matches('/')).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_a_missing_file_is_found() {
        let text = "See [one](a.md), [two](../README.md#top), ![three](<b.png> \"title\") and [four](https://x.y/z).\n\
                    `[code](no.md)`\n```\n[code](no.md)\n```\n[five]: c/d.md\n[six](#here)\n";
        let source = Source::new("docs/guide.md", text.to_owned());
        let there = |path: &Path| path == Path::new("README.md") || path == Path::new("docs/a.md");
        let offences: Vec<String> =
            check(&[source], there).into_iter().map(|offence| format!("{} {}", offence.line, offence.text)).collect();
        let outside = "1 ../README.md#top leads out of the handbook: name it as code";
        assert_eq!(offences, [outside, "1 b.png leads nowhere", "6 c/d.md leads nowhere"]);
    }

    #[test]
    fn parentheses_inside_a_target_are_kept() {
        assert_eq!(targets("[a](b_(c).md)"), [(1, "b_(c).md".to_owned())]);
    }

    #[test]
    fn only_the_documents_are_read() {
        let source = Source::new("tests/notes.md", "[a](missing.md)".to_owned());
        assert!(check(&[source], |_| false).is_empty());
    }
}
