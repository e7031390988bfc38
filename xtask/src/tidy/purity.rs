//! The rooms that do no input or output never name what does. Their dependencies point one way.

use super::{Offence, Source, paths};

/// Below `probe-user/src`.
const PURE_ROOMS: [&str; 6] = ["case", "decode", "judge", "model", "recording", "report"];
/// Rooms of the same crate that do input and output.
const ACTIVE_ROOMS: [&str; 6] = ["app", "cli", "kernel", "main", "sink", "witness"];
/// Crates and modules outside it that do.
const FOREIGN: [&[&str]; 8] = [
    &["aya"],
    &["procfs"],
    &["tokio"],
    &["std", "env"],
    &["std", "fs"],
    &["std", "net", "TcpStream"],
    &["std", "process"],
    &["std", "thread"],
];

pub(super) fn check(sources: &[Source]) -> Vec<Offence> {
    let mut offences = Vec::new();
    for source in sources {
        let Some(module) = module_of(&source.path) else { continue };
        if !module.first().is_some_and(|room| PURE_ROOMS.contains(room)) {
            continue;
        }
        let code: String = source.production_code().map(|(_, line)| format!("{line}\n")).collect();
        for (line, path) in paths::named(&code) {
            if is_impure(&path, module.len()) {
                offences.push(source.offence(line, format!("a pure room names {}", path.join("::"))));
            }
        }
    }
    offences
}

/// The module a file of the user crate holds: `probe-user/src/case/tracker.rs` is `case`, `tracker`.
fn module_of(path: &str) -> Option<Vec<&str>> {
    let inside = path.strip_prefix("probe-user/src/")?.strip_suffix(".rs")?;
    let mut module: Vec<&str> = inside.split('/').collect();
    if module.last() == Some(&"mod") {
        module.pop();
    }
    Some(module)
}

/// `depth` is how many steps up lead from the module to the crate's root.
fn is_impure(path: &[String], depth: usize) -> bool {
    let steps_up = path.iter().take_while(|step| *step == "super").count();
    let from_root = match path.split_first() {
        Some((first, rest)) if first == "crate" => Some(rest),
        _ if steps_up > 0 && steps_up == depth => path.get(steps_up..),
        _ => None,
    };
    if let Some(path) = from_root {
        return path.first().is_some_and(|room| ACTIVE_ROOMS.contains(&room.as_str()));
    }
    FOREIGN.iter().any(|foreign| path.len() >= foreign.len() && path.iter().zip(*foreign).all(|(a, b)| a == b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offences(path: &str, text: &str) -> Vec<String> {
        let source = Source::new(path, text.to_owned());
        check(&[source]).into_iter().map(|offence| format!("{} {}", offence.line, offence.text)).collect()
    }

    #[test]
    fn a_pure_room_may_not_name_io() {
        let text =
            "use crate::model::Event;\nuse std::{net::{IpAddr, TcpStream}, fs};\nfn f() { crate::kernel::x() }\n";
        assert_eq!(
            offences("probe-user/src/case/tracker.rs", text),
            [
                "2 a pure room names std::net::TcpStream",
                "2 a pure room names std::fs",
                "3 a pure room names crate::kernel::x"
            ]
        );
    }

    #[test]
    fn the_way_up_to_another_room_is_followed() {
        assert_eq!(offences("probe-user/src/case/mod.rs", "use super::sink::Sink;").len(), 1);
        assert_eq!(offences("probe-user/src/case/timer.rs", "use super::super::sink::Sink;").len(), 1);
        // A module of the same room that happens to have that name.
        assert!(offences("probe-user/src/decode/header.rs", "use super::kernel::Header;").is_empty());
    }

    #[test]
    fn comments_text_tests_and_other_rooms_may() {
        assert!(offences("probe-user/src/app/mod.rs", "use tokio::time;").is_empty());
        assert!(offences("probe-user/src/case/mod.rs", "// tokio::time\nlet x = \"std::fs::read\";").is_empty());
        assert!(offences("probe-user/src/case/mod.rs", "#[cfg(test)]\nmod tests {\nuse std::fs;\n}\n").is_empty());
        assert!(offences("probe-user/src/model/mod.rs", "fn tokio_like(aya_name: u8) {}").is_empty());
    }
}
