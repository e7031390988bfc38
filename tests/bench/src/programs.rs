//! Kernel programs, and how long they ran.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use aya::programs::loaded_programs;

pub(crate) use connprobe_tests::programs::held_by;

/// One kernel program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) name: String,
    /// Counted only while statistics are on ([`aya::sys::enable_stats`]).
    pub(crate) run_time: Duration,
    pub(crate) runs: u64,
}

/// The programs with these numbers.
pub(crate) fn look_up(numbers: &BTreeSet<u32>) -> BTreeMap<u32, Program> {
    // A program of another process may be unloaded while the list is walked through.
    let programs = loaded_programs().filter_map(Result::ok).filter(|info| numbers.contains(&info.id()));
    programs
        .map(|info| {
            let name = String::from_utf8_lossy(info.name()).into_owned();
            (info.id(), Program { name, run_time: info.run_time(), runs: info.run_count() })
        })
        .collect()
}

/// What each program of a process did between two looks, those that did nothing left out, the costliest first.
pub(crate) fn between(before: &BTreeMap<u32, Program>, after: &BTreeMap<u32, Program>) -> Vec<Program> {
    let mut programs: Vec<Program> = after
        .iter()
        .map(|(id, after)| {
            let before = before.get(id).cloned().unwrap_or_default();
            Program {
                name: after.name.clone(),
                run_time: after.run_time.saturating_sub(before.run_time),
                runs: after.runs.saturating_sub(before.runs),
            }
        })
        .filter(|program| program.runs > 0)
        .collect();
    programs.sort_by_key(|program| std::cmp::Reverse(program.run_time));
    programs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_run_is_left_out_and_the_costliest_comes_first() {
        let program = |name: &str, run_time: u64, runs: u64| Program {
            name: name.to_owned(),
            run_time: Duration::from_nanos(run_time),
            runs,
        };
        let before = BTreeMap::from([(1, program("a", 10, 1)), (2, program("b", 10, 1))]);
        let after = BTreeMap::from([(1, program("a", 20, 2)), (2, program("b", 10, 1)), (3, program("c", 30, 4))]);
        assert_eq!(between(&before, &after), [program("c", 30, 4), program("a", 10, 1)]);
    }
}
