//! The kernel functions at which a hook can be attached where no tracepoint is to be had, or where they tell more.

use crate::model::Hook;

/// Where in a function a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// At its entry.
    Entry,
    /// At its return, with its result. A kprobe at the entry remembers the arguments, a kretprobe sees the result.
    Return,
}

/// A kernel function with programs of ours, named after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its symbol.
    pub symbol: &'static str,
    /// Where the programs run.
    pub point: Point,
}

const fn entry(symbol: &'static str) -> Function {
    Function { symbol, point: Point::Entry }
}

const fn returns(symbol: &'static str) -> Function {
    Function { symbol, point: Point::Return }
}

/// All functions that together serve `hook`; none where only its tracepoint does.
pub(super) const fn functions(hook: Hook) -> &'static [Function] {
    match hook {
        Hook::InetSockSetState => &const { [entry("tcp_set_state")] },
        Hook::TcpRetransmitSkb => &const { [returns("tcp_retransmit_skb")] },
        Hook::TcpRetransmitSynack => &const { [entry("tcp_rtx_synack")] },
        Hook::TcpReceiveReset => &const { [entry("tcp_reset")] },
        Hook::TcpSendReset => {
            &const { [entry("tcp_v4_send_reset"), entry("tcp_v6_send_reset"), entry("tcp_send_active_reset")] }
        }
        // Its tracepoint is in every kernel; the functions behind it differ from one to the next.
        Hook::KfreeSkb => &[],
        Hook::TcpWriteWakeup => &const { [returns("tcp_write_wakeup"), returns("tcp_send_probe0")] },
        Hook::InetSkErrorReport => &const { [entry("sk_error_report")] },
        Hook::NfCtLogInvalid => &const { [entry("nf_l4proto_log_invalid"), entry("nf_ct_l4proto_log_invalid")] },
    }
}
