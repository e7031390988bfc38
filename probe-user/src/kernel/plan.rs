//! Which mechanism serves which hook. Pure: facts in, plan out.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Function, Names, TracepointArguments, TracepointFormat};
use crate::model::{Hook, Mechanism};

/// What the plan depends on.
#[derive(Clone, Debug)]
pub struct PlanFacts<'a> {
    /// What the hooks' places are called.
    pub names: Names,
    /// BTF tracepoints of this kernel; empty when the kernel itself has no BTF to attach by.
    pub btf_tracepoints: BTreeMap<Hook, TracepointArguments>,
    /// Functions that the kernel's BTF describes; empty as above.
    pub btf_functions: BTreeSet<String>,
    /// Whether there are kprobes, or why not.
    pub kprobes: Result<(), &'a str>,
    /// Formats of the classic tracepoints, or why one cannot be read.
    pub formats: BTreeMap<Hook, Result<&'a TracepointFormat, &'a str>>,
}

/// What will be tried for one hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookPlan {
    /// The hook.
    pub hook: Hook,
    /// The tracepoint's name.
    pub tracepoint: String,
    /// The functions that together serve the hook, each with its symbol.
    pub functions: Vec<(String, Function)>,
    /// Mechanisms to try, in order. Empty: unsupported here.
    pub candidates: Vec<Mechanism>,
    /// Why the other mechanisms are no candidates; of a forced one's alternatives nothing is said.
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
    for mechanism in
        preference(hook, facts).into_iter().filter(|mechanism| forced.is_none_or(|only| only == *mechanism))
    {
        match obstacle(hook, mechanism, facts) {
            None => candidates.push(mechanism),
            Some(why) => excluded.push((mechanism, why)),
        }
    }
    let (tracepoint, functions) = (facts.names.tracepoint(hook), facts.names.functions(hook));
    HookPlan { hook, tracepoint, functions, candidates, excluded }
}

/// What tells most comes first, then what costs least: a kprobe costs some hundred nanoseconds, anything else some dozens.
fn preference(hook: Hook, facts: &PlanFacts<'_>) -> [Mechanism; Mechanism::ALL.len()] {
    use Mechanism::{Fentry, Kprobe, TpBtf, Tracepoint};
    let tells_result = |arguments: &TracepointArguments| arguments.tell_result(hook);
    match hook {
        // Before 6.17 the tracepoint is passed only when sending succeeded; the function's return tells in any case.
        Hook::TcpRetransmitSkb if !facts.btf_tracepoints.get(&hook).is_some_and(tells_result) => {
            [Fentry, Kprobe, TpBtf, Tracepoint]
        }
        Hook::InetSockSetState
        | Hook::TcpRetransmitSkb
        | Hook::TcpRetransmitSynack
        | Hook::TcpReceiveReset
        | Hook::TcpSendReset
        | Hook::InetSkErrorReport
        | Hook::KfreeSkb
        | Hook::TcpWriteWakeup
        | Hook::NfCtLogInvalid => [TpBtf, Fentry, Tracepoint, Kprobe],
    }
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
        Mechanism::Fentry | Mechanism::Kprobe if facts.names.functions(hook).is_empty() => {
            Some("no function of the same name in every kernel tells it".to_owned())
        }
        Mechanism::Fentry if hook == Hook::NfCtLogInvalid => {
            Some("no trampoline goes to functions with a variable number of arguments".to_owned())
        }
        Mechanism::Fentry => facts.names.functions(hook).into_iter().find_map(|(symbol, _)| {
            let known = facts.btf_functions.contains(&symbol);
            (!known).then(|| format!("the kernel's BTF describes no function {symbol}"))
        }),
        // Whether the functions exist, only trying tells: those of modules come and go.
        Mechanism::Kprobe => facts.kprobes.err().map(str::to_owned),
    }
}

/// How many arguments the program for a BTF tracepoint reads.
const fn least_arguments(hook: Hook) -> usize {
    match hook {
        Hook::InetSockSetState | Hook::KfreeSkb => 3,
        Hook::TcpRetransmitSynack => 2,
        Hook::TcpRetransmitSkb
        | Hook::TcpReceiveReset
        | Hook::TcpSendReset
        | Hook::InetSkErrorReport
        | Hook::TcpWriteWakeup
        | Hook::NfCtLogInvalid => 1,
    }
}

/// Which fields the program for a classic tracepoint reads, with their width in bytes.
const fn needed_fields(hook: Hook) -> &'static [(&'static str, u32)] {
    match hook {
        Hook::InetSockSetState => &[("skaddr", 8), ("oldstate", 4), ("newstate", 4)],
        Hook::TcpRetransmitSynack => &[("req", 8)],
        Hook::KfreeSkb => &[("skbaddr", 8), ("reason", 4)],
        // The record of `inet_sk_error_report` has no `skaddr`: nothing tells which socket and namespace it is about.
        Hook::TcpRetransmitSkb
        | Hook::TcpReceiveReset
        | Hook::TcpSendReset
        | Hook::InetSkErrorReport
        | Hook::TcpWriteWakeup
        | Hook::NfCtLogInvalid => &[("skaddr", 8)],
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
            btf_functions: Hook::ALL
                .into_iter()
                .flat_map(|hook| Names::default().functions(hook))
                .map(|(symbol, _)| symbol)
                .collect(),
            kprobes: Ok(()),
            names: Names::default(),
            formats: Hook::ALL.into_iter().map(|hook| (hook, Ok(format))).collect(),
        }
    }

    fn nothing() -> PlanFacts<'static> {
        PlanFacts {
            names: Names::default(),
            btf_tracepoints: BTreeMap::new(),
            btf_functions: BTreeSet::new(),
            kprobes: Err("there are none"),
            formats: BTreeMap::new(),
        }
    }

    fn of(plan: &Plan, hook: Hook) -> &HookPlan {
        plan.hooks.iter().find(|entry| entry.hook == hook).unwrap()
    }

    #[test]
    fn btf_tracepoints_come_first_and_everything_else_is_a_fallback() {
        use Mechanism::{Fentry, Kprobe, TpBtf, Tracepoint};
        let format = format("\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;");
        let plan = plan(&facts(&format), None);
        assert_eq!(of(&plan, Hook::TcpRetransmitSkb).candidates, [TpBtf, Fentry, Tracepoint, Kprobe]);
    }

    #[test]
    fn a_tracepoint_that_does_not_tell_the_result_comes_after_the_functions_return() {
        use Mechanism::{Fentry, Kprobe, TpBtf, Tracepoint};
        let format = format("\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;");
        let mut facts = facts(&format);
        facts.btf_tracepoints.insert(Hook::TcpRetransmitSkb, TracepointArguments { count: 2 });
        assert_eq!(of(&plan(&facts, None), Hook::TcpRetransmitSkb).candidates, [Fentry, Kprobe, TpBtf, Tracepoint]);
        assert_eq!(of(&plan(&facts, None), Hook::TcpReceiveReset).candidates, [TpBtf, Fentry, Tracepoint, Kprobe]);
    }

    #[test]
    fn a_forced_mechanism_is_the_only_candidate() {
        let format = format("\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;");
        let format = &facts(&format);
        for entry in plan(format, Some(Mechanism::Kprobe)).hooks.iter().filter(|entry| entry.hook != Hook::KfreeSkb) {
            assert_eq!(entry.candidates, [Mechanism::Kprobe]);
        }
    }

    #[test]
    fn a_record_without_the_socket_is_named_as_the_obstacle() {
        let format = format("\tfield:int error;\toffset:8;\tsize:4;\tsigned:1;");
        let formats = facts(&format).formats;
        let plan = plan(&PlanFacts { formats, ..nothing() }, None);
        let report = of(&plan, Hook::InetSkErrorReport);
        assert!(report.candidates.is_empty());
        assert!(report.excluded.iter().any(|(_, why)| why.contains("skaddr")), "{:?}", report.excluded);
    }

    #[test]
    fn a_hook_of_several_functions_wants_all_of_them_in_btf() {
        let format = format("\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;");
        let mut facts = facts(&format);
        facts.btf_functions.remove("tcp_v6_send_reset");
        let plan = plan(&facts, Some(Mechanism::Fentry));
        let reset = of(&plan, Hook::TcpSendReset);
        assert!(reset.candidates.is_empty());
        assert!(reset.excluded.iter().any(|(_, why)| why.contains("tcp_v6_send_reset")), "{:?}", reset.excluded);
    }

    #[test]
    fn a_renamed_hook_is_tried_under_its_new_name_only() {
        let format = format("\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;");
        let names = Names { renamed: Some((Hook::TcpReceiveReset, "tcp_reset_of_old".to_owned())) };
        let plan = plan(&PlanFacts { names, ..facts(&format) }, Some(Mechanism::Kprobe));
        let symbols = |hook| of(&plan, hook).functions.iter().map(|(symbol, _)| symbol.clone()).collect::<Vec<_>>();
        assert_eq!(symbols(Hook::TcpReceiveReset), ["tcp_reset_of_old"]);
        assert_eq!(symbols(Hook::InetSockSetState), ["tcp_set_state"]);
    }

    #[test]
    fn nothing_known_means_nothing_to_try_and_a_reason_a_mechanism() {
        for entry in plan(&nothing(), None).hooks {
            assert!(entry.candidates.is_empty());
            assert_eq!(entry.excluded.len(), Mechanism::ALL.len());
        }
    }
}
