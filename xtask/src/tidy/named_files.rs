//! Sources that documents and comments name as code are there: a file that is moved takes its mentions along.

use super::{Offence, Source, numbered};

pub(super) fn check(sources: &[Source]) -> Vec<Offence> {
    let files: Vec<String> =
        sources.iter().filter(|source| source.is_rust()).map(|source| format!("/{}", source.path)).collect();
    let is_there = |name: &str| files.iter().any(|file| file.ends_with(&format!("/{name}")));
    let mut offences = Vec::new();
    for source in sources {
        let is_prose = |text: &str| source.path.ends_with(".md") || text.trim_start().starts_with("//");
        for (line, text) in numbered(&source.text).filter(|(_, text)| is_prose(text)) {
            let spans = text.split('`').skip(1).step_by(2);
            let named = spans.filter(|span| is_source(span) && !is_there(span));
            offences.extend(named.map(|span| source.offence(line, format!("{span} is not there"))));
        }
    }
    offences
}

/// The name of a file of Rust, perhaps with folders, and nothing else.
fn is_source(span: &str) -> bool {
    span.strip_suffix(".rs").is_some_and(|name| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || b"0123456789_-/".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_the_end_of_its_path() {
        let file = Source::new("probe-user/src/case/tracker.rs", "// See `case/gone.rs`.\n".to_owned());
        let text = "`case/tracker.rs`, `tracker.rs` and `acker.rs`\n`NAME.rs`, `net/ipv4/tcp.c`, `a b.rs`, `.rs`\n";
        let page = Source::new("docs/design.md", text.to_owned());
        let told: Vec<String> =
            check(&[file, page]).into_iter().map(|offence| format!("{} {}", offence.path, offence.text)).collect();
        let expected =
            ["probe-user/src/case/tracker.rs case/gone.rs is not there", "docs/design.md acker.rs is not there"];
        assert_eq!(told, expected);
    }
}
