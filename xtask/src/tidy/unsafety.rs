//! `unsafe` belongs to the kernel programs and to the few doors named here.

use super::{Offence, Source, code, numbered};

/// Files outside `probe-ebpf` that may be unsafe, relative to the repository, each with its reason beside it.
const ALLOWED_FILES: [&str; 2] = ["probe-user/src/kernel/read/channel.rs", "probe-user/src/kernel/attach/memory.rs"];

pub(super) fn check(sources: &[Source]) -> Vec<Offence> {
    check_with(sources, &ALLOWED_FILES)
}

fn check_with(sources: &[Source], allowed: &[&str]) -> Vec<Offence> {
    let mut offences = Vec::new();
    for source in sources {
        if source.path.starts_with("probe-ebpf/") || allowed.contains(&source.path.as_str()) {
            continue;
        }
        for (line, text) in numbered(&source.code) {
            if code::has_word(text, "unsafe") {
                offences.push(source.offence(line, "unsafe outside probe-ebpf; the doors are listed in this check"));
            }
        }
    }
    offences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_for_kernel_programs_and_listed_files() {
        let text = "#![deny(unsafe_code)]\n// unsafe\nunsafe { f() }\n";
        let sources: Vec<Source> = ["probe-ebpf/src/a.rs", "probe-user/src/b.rs", "probe-user/src/c.rs"]
            .map(|path| Source::new(path, text.to_owned()))
            .into();
        let offences = check_with(&sources, &["probe-user/src/b.rs"]);
        assert_eq!(offences.len(), 1);
        assert_eq!((offences[0].path.as_str(), offences[0].line), ("probe-user/src/c.rs", 3));
    }
}
