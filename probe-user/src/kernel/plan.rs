//! Which mechanism serves which hook. Pure: facts in, plan out.

use std::collections::BTreeMap;

use super::{btf::TracepointArguments, tracepoint_format::TracepointFormat};
use crate::model::{Hook, Mechanism};

/// What the plan depends on.
#[derive(Clone, Debug, Default)]
pub struct PlanFacts<'a> {
    /// BTF tracepoints of this kernel; empty when the kernel itself has no BTF to attach by.
    pub btf_tracepoints: BTreeMap<Hook, TracepointArguments>,
    /// Formats of the classic tracepoints, or why one cannot be read.
    pub formats: BTreeMap<Hook, Result<&'a TracepointFormat, &'a str>>,
}

/// What will be tried for one hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookPlan {
    /// The hook.
    pub hook: Hook,
    /// Mechanisms to try, in order. Empty: unsupported here.
    pub candidates: Vec<Mechanism>,
    /// Why the other mechanisms are no candidates.
    pub excluded: Vec<(Mechanism, String)>,
}

/// What will be tried for every hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One entry a hook, in the order of [`Hook::ALL`].
    pub hooks: Vec<HookPlan>,
}

/// Chooses the mechanisms. `forced` leaves only one, so that a fallback can be exercised where it is not needed.
pub fn plan(facts: &PlanFacts<'_>, forced: Option<Mechanism>) -> Plan {
    let hooks = Hook::ALL.into_iter().map(|hook| plan_hook(hook, facts, forced)).collect();
    Plan { hooks }
}

fn plan_hook(hook: Hook, facts: &PlanFacts<'_>, forced: Option<Mechanism>) -> HookPlan {
    let mut candidates = Vec::new();
    let mut excluded = Vec::new();
    for mechanism in Mechanism::ALL {
        let obstacle = match forced {
            Some(only) if only != mechanism => Some(format!("{only} was forced")),
            Some(_) | None => obstacle(hook, mechanism, facts),
        };
        match obstacle {
            None => candidates.push(mechanism),
            Some(why) => excluded.push((mechanism, why)),
        }
    }
    HookPlan { hook, candidates, excluded }
}

fn obstacle(hook: Hook, mechanism: Mechanism, facts: &PlanFacts<'_>) -> Option<String> {
    match mechanism {
        Mechanism::TpBtf => match facts.btf_tracepoints.get(&hook) {
            None => Some("the kernel's BTF describes no such tracepoint".to_owned()),
            Some(arguments) if arguments.count < least_arguments(hook) => {
                Some(format!("the tracepoint passes only {} arguments here", arguments.count))
            }
            Some(_) => None,
        },
        Mechanism::Tracepoint => match facts.formats.get(&hook) {
            None => Some("tracefs shows no such tracepoint".to_owned()),
            Some(Err(why)) => Some((*why).to_owned()),
            Some(Ok(format)) => needed_fields(hook).iter().find_map(|(name, size_bytes)| {
                format
                    .offset_of(name, *size_bytes)
                    .is_none()
                    .then(|| format!("its record has no {size_bytes}-byte field {name:?}"))
            }),
        },
    }
}

/// How many arguments the program for a BTF tracepoint reads.
const fn least_arguments(hook: Hook) -> usize {
    match hook {
        Hook::InetSockSetState => 3,
        Hook::TcpRetransmitSynack => 2,
        Hook::TcpRetransmitSkb | Hook::TcpReceiveReset | Hook::TcpSendReset | Hook::InetSkErrorReport => 1,
    }
}

/// Which fields the program for a classic tracepoint reads, with their width in bytes.
const fn needed_fields(hook: Hook) -> &'static [(&'static str, u32)] {
    match hook {
        Hook::InetSockSetState => &[("skaddr", 8), ("oldstate", 4), ("newstate", 4)],
        Hook::TcpRetransmitSynack => &[("req", 8)],
        // The record of `inet_sk_error_report` has no `skaddr`: nothing tells which socket and namespace it is about.
        Hook::TcpRetransmitSkb | Hook::TcpReceiveReset | Hook::TcpSendReset | Hook::InetSkErrorReport => {
            &[("skaddr", 8)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(fields: &str) -> TracepointFormat {
        TracepointFormat::parse(fields).unwrap()
    }

    fn facts<'a>(format: &'a TracepointFormat) -> PlanFacts<'a> {
        PlanFacts {
            btf_tracepoints: Hook::ALL.into_iter().map(|hook| (hook, TracepointArguments { count: 3 })).collect(),
            formats: Hook::ALL.into_iter().map(|hook| (hook, Ok(format))).collect(),
        }
    }

    #[test]
    fn btf_tracepoints_come_first_and_classic_ones_are_the_fallback() {
        let format = format("\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;");
        let plan = plan(&facts(&format), None);
        let retransmit = plan.hooks.iter().find(|entry| entry.hook == Hook::TcpRetransmitSkb).unwrap();
        assert_eq!(retransmit.candidates, [Mechanism::TpBtf, Mechanism::Tracepoint]);
    }

    #[test]
    fn a_forced_mechanism_is_the_only_candidate() {
        let format = format("\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;");
        for entry in plan(&facts(&format), Some(Mechanism::Tracepoint)).hooks {
            assert!(!entry.candidates.contains(&Mechanism::TpBtf));
        }
    }

    #[test]
    fn a_record_without_the_socket_is_named_as_the_obstacle() {
        let format = format("\tfield:int error;\toffset:8;\tsize:4;\tsigned:1;");
        let plan = plan(&PlanFacts { btf_tracepoints: BTreeMap::new(), ..facts(&format) }, None);
        let report = plan.hooks.iter().find(|entry| entry.hook == Hook::InetSkErrorReport).unwrap();
        assert!(report.candidates.is_empty());
        assert!(report.excluded.iter().any(|(_, why)| why.contains("skaddr")), "{:?}", report.excluded);
    }

    #[test]
    fn nothing_known_means_nothing_to_try_and_two_reasons_a_hook() {
        for entry in plan(&PlanFacts::default(), None).hooks {
            assert!(entry.candidates.is_empty());
            assert_eq!(entry.excluded.len(), 2);
        }
    }
}
