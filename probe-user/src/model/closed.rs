use std::time::Duration;

use super::{ConnectionKey, MonoTime, Place, SocketCookie, TcpState};

/// A connection that is over, as its socket was when it went to CLOSE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedConnection {
    /// When.
    pub at: MonoTime,
    /// Which.
    pub key: ConnectionKey,
    /// The socket's cookie, where the kernel has given it one.
    pub cookie: Option<SocketCookie>,
    /// When this end sent its SYN, or the handshake that the peer began was complete; `None` where that was not seen.
    pub opened: Option<MonoTime>,
    /// When it was established; `None` where it never was, or that was not seen.
    pub established: Option<MonoTime>,
    /// Who opened it; `None` where that was not seen.
    pub role: Option<Role>,
    /// Its state before CLOSE.
    pub last_state: TcpState,
    /// The error that the kernel had set by then, a positive errno, 0 for none.
    pub error: Option<i32>,
    /// How far each half had come by then.
    pub halves: Halves,
    /// What went over it.
    pub amounts: Amounts,
    /// The process that was seen with it.
    pub process: Option<SeenProcess>,
    /// User id of the socket's owner.
    pub uid: Option<u32>,
    /// Inode number of the socket's cgroup.
    pub cgroup_id: Option<u64>,
}

/// What a socket has counted of its connection, as `TCP_INFO` tells it; `None` where this kernel does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Data sent, with what was sent again.
    pub bytes_sent: Option<u64>,
    /// Data sent again.
    pub bytes_retransmitted: Option<u64>,
    /// What the peer has acknowledged: data, and one for each of SYN and FIN.
    pub bytes_acked: Option<u64>,
    /// What was received in order: data, and one for the FIN.
    pub bytes_received: Option<u64>,
    /// Segments sent.
    pub segments_sent: Option<u32>,
    /// Segments received.
    pub segments_received: Option<u32>,
    /// Segments sent again.
    pub segments_retransmitted: Option<u32>,
    /// The smoothed round-trip time at last (RFC 6298), where one was measured.
    pub rtt: Option<Duration>,
    /// The least round-trip time of the last five minutes (`tcp_min_rtt_wlen`), where one was measured.
    pub min_rtt: Option<Duration>,
}

/// How far the two halves of a connection had come when its socket went to CLOSE; `None` where this kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Halves {
    /// Whether the peer's FIN had come in (`SOCK_DONE`, `tcp_fin`).
    pub fin_received: Option<bool>,
    /// Whether all that was sent was acknowledged, this end's FIN included.
    pub all_acked: Option<bool>,
    /// Whether the application had given its descriptor back (`SOCK_DEAD`). Where that is what resets the connection, it comes later.
    pub orphaned: Option<bool>,
    /// Whether no data was to be read any more (`RCV_SHUTDOWN`).
    pub read_shut: Option<bool>,
    /// Whether the application had asked for a RST in place of FIN-WAIT-2 (TCP_LINGER2 below 0).
    pub reset_wanted: Option<bool>,
    /// Segments with data that came in, in order or not.
    pub data_segments_received: Option<u32>,
}

/// Who opened a connection (RFC 9293 section 3.9.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This end.
    ActiveOpen,
    /// The peer.
    PassiveOpen,
}

impl Role {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ActiveOpen => "active_open",
            Self::PassiveOpen => "passive_open",
        }
    }
}

/// A process that made a system call on a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenProcess {
    /// Process id in the initial namespace.
    pub pid: u32,
    /// Name of the thread that called, at most 15 bytes.
    pub comm: String,
    /// What it called.
    pub by: OwnerCall,
}

/// What a process called that is taken for a socket's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerCall {
    /// `connect`.
    Connect,
    /// `close` or `shutdown`, or it ended.
    Close,
}

impl OwnerCall {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Close => "close",
        }
    }
}

/// A cgroup, and what its path names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// Path in the unified hierarchy.
    pub path: String,
    /// What that names.
    pub place: Place,
}

/// One of the two ends, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This end.
    Local,
    /// The peer.
    Remote,
    /// Both at once.
    Simultaneous,
}

impl Side {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Simultaneous => "simultaneous",
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By FINs, as far as this socket lived to see.
    ClosedNormally,
    /// By a RST of one end; of which is `None` where that cannot be told.
    Reset(Option<Side>),
    /// The peer refused it.
    Refused,
    /// The kernel gave up waiting.
    TimedOut,
    /// The network told that the peer cannot be reached.
    Unreachable,
    /// This end gave it up before it was established.
    Aborted,
    /// By another error.
    OtherError,
}

impl Ending {
    /// The names of all in records.
    pub const NAMES: [&'static str; 7] =
        ["closed_normally", "reset", "refused", "timed_out", "unreachable", "aborted", "error"];

    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClosedNormally => "closed_normally",
            Self::Reset(_) => "reset",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Aborted => "aborted",
            Self::OtherError => "error",
        }
    }
}

impl ClosedConnection {
    /// One of which nothing is known but that it ended so.
    #[cfg(test)]
    pub(crate) fn unseen(at: MonoTime, key: ConnectionKey, last_state: TcpState) -> Self {
        Self {
            at,
            key,
            cookie: None,
            opened: None,
            established: None,
            role: None,
            last_state,
            error: None,
            halves: Halves::default(),
            amounts: Amounts::default(),
            process: None,
            uid: None,
            cgroup_id: None,
        }
    }

    /// Whose FIN came first (RFC 9293 section 3.6), by the state before CLOSE; `None` where there was none.
    pub const fn closed_by(&self) -> Option<Side> {
        match self.last_state {
            TcpState::FinWait1 | TcpState::FinWait2 | TcpState::TimeWait => Some(Side::Local),
            TcpState::CloseWait | TcpState::LastAck => Some(Side::Remote),
            TcpState::Closing => Some(Side::Simultaneous),
            TcpState::Established
            | TcpState::SynSent
            | TcpState::SynReceived
            | TcpState::NewSynReceived
            | TcpState::Listen
            | TcpState::Close => None,
        }
    }

    /// How it ended, by that state and the error that the kernel had set.
    pub const fn ending(&self) -> Ending {
        const ECONNABORTED: i32 = 103;
        const ECONNRESET: i32 = 104;
        const EPIPE: i32 = 32;
        const ECONNREFUSED: i32 = 111;
        const ETIMEDOUT: i32 = 110;
        const ENETUNREACH: i32 = 101;
        const EHOSTDOWN: i32 = 112;
        const EHOSTUNREACH: i32 = 113;
        match self.error {
            // `tcp_done`, or `tcp_close` and `tcp_disconnect`, which send a RST next (`tcp_need_reset`).
            Some(0) | None => match self.last_state {
                TcpState::FinWait2 if self.resets_after_its_fin() => Ending::Reset(Some(Side::Local)),
                // The last ACK is what ends these; data unread when the application closes does, too, as does want of memory.
                TcpState::Closing | TcpState::LastAck if matches!(self.halves.all_acked, Some(false)) => {
                    Ending::Reset(Some(Side::Local))
                }
                TcpState::FinWait2 | TcpState::Closing | TcpState::LastAck | TcpState::TimeWait => {
                    Ending::ClosedNormally
                }
                TcpState::Established | TcpState::CloseWait | TcpState::FinWait1 => Ending::Reset(Some(Side::Local)),
                TcpState::SynSent
                | TcpState::SynReceived
                | TcpState::NewSynReceived
                | TcpState::Listen
                | TcpState::Close => Ending::Aborted,
            },
            Some(ECONNREFUSED) => Ending::Refused,
            // `tcp_abort` (an operator's `ss -tK`) sends a RST.
            Some(ECONNABORTED) if self.last_state.is_synchronized() => Ending::Reset(Some(Side::Local)),
            Some(ECONNABORTED) => Ending::Aborted,
            Some(ECONNRESET | EPIPE) => match self.last_state {
                // `tcp_reset` also where data comes in that no application will read: then this end sends the RST.
                TcpState::FinWait1 | TcpState::FinWait2 if self.may_have_got_unwanted_data() => Ending::Reset(None),
                TcpState::FinWait1 | TcpState::FinWait2 => Ending::Reset(Some(Side::Remote)),
                TcpState::Established
                | TcpState::SynSent
                | TcpState::SynReceived
                | TcpState::TimeWait
                | TcpState::Close
                | TcpState::CloseWait
                | TcpState::LastAck
                | TcpState::Listen
                | TcpState::Closing
                | TcpState::NewSynReceived => Ending::Reset(Some(Side::Remote)),
            },
            Some(ETIMEDOUT) => Ending::TimedOut,
            Some(ENETUNREACH | EHOSTDOWN | EHOSTUNREACH) => Ending::Unreachable,
            Some(_) => Ending::OtherError,
        }
    }

    /// Whether this end sends a RST in FIN-WAIT-2, without an error. The peer's FIN ends it well, and so does what replaces a socket that the
    /// application has closed (`tcp_time_wait`). All else is a RST (`__tcp_close`, `tcp_disconnect`, `tcp_rcv_state_process`; as in
    /// Linux 6.12): data unread when the application closes, TCP_LINGER2 below 0, or data in the very segment that acknowledges
    /// the FIN of a closed socket. The last is known only where no data was taken in before: none is from such a segment.
    const fn resets_after_its_fin(&self) -> bool {
        let Halves { fin_received, orphaned, reset_wanted, .. } = self.halves;
        match (fin_received, orphaned) {
            (Some(true), _) | (None, _) | (_, None) => false,
            (Some(false), Some(false)) => true,
            (Some(false), Some(true)) => matches!(reset_wanted, Some(true)) || self.has_got_only_unwanted_data(),
        }
    }

    const fn has_got_only_unwanted_data(&self) -> bool {
        matches!((self.halves.data_segments_received, self.amounts.bytes_received), (Some(1..), Some(0)))
    }

    /// Whether data may have come in after nobody was to read any.
    const fn may_have_got_unwanted_data(&self) -> bool {
        !matches!(self.halves.read_shut, Some(false)) && !matches!(self.halves.data_segments_received, Some(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(last_state: TcpState, error: i32) -> ClosedConnection {
        let key = ConnectionKey { netns: 7, local: ([10, 0, 0, 1], 40_000).into(), remote: ([10, 0, 0, 2], 80).into() };
        ClosedConnection { error: Some(error), ..ClosedConnection::unseen(MonoTime::from_ns(1), key, last_state) }
    }

    fn closed(last_state: TcpState, error: i32) -> (Ending, Option<Side>) {
        let closed = of(last_state, error);
        (closed.ending(), closed.closed_by())
    }

    fn ended(last_state: TcpState, error: i32, halves: Halves, amounts: Amounts) -> Ending {
        ClosedConnection { halves, amounts, ..of(last_state, error) }.ending()
    }

    #[test]
    fn the_last_state_tells_whose_fin_came_first() {
        assert_eq!(closed(TcpState::FinWait2, 0), (Ending::ClosedNormally, Some(Side::Local)));
        assert_eq!(closed(TcpState::LastAck, 0), (Ending::ClosedNormally, Some(Side::Remote)));
        assert_eq!(closed(TcpState::Closing, 0), (Ending::ClosedNormally, Some(Side::Simultaneous)));
        assert_eq!(closed(TcpState::FinWait1, 110), (Ending::TimedOut, Some(Side::Local)));
    }

    #[test]
    fn the_error_tells_who_reset_it() {
        assert_eq!(closed(TcpState::Established, 104), (Ending::Reset(Some(Side::Remote)), None));
        assert_eq!(closed(TcpState::Established, 0), (Ending::Reset(Some(Side::Local)), None));
        assert_eq!(closed(TcpState::CloseWait, 32), (Ending::Reset(Some(Side::Remote)), Some(Side::Remote)));
        assert_eq!(closed(TcpState::CloseWait, 0), (Ending::Reset(Some(Side::Local)), Some(Side::Remote)));
        assert_eq!(closed(TcpState::FinWait1, 104), (Ending::Reset(None), Some(Side::Local)));
        assert_eq!(closed(TcpState::Established, 103), (Ending::Reset(Some(Side::Local)), None));
    }

    #[test]
    fn a_fin_that_was_acknowledged_may_be_followed_by_a_reset_of_this_end() {
        let acked = Halves { all_acked: Some(true), ..Halves::default() };
        let waiting = Halves { fin_received: Some(false), orphaned: Some(true), reset_wanted: Some(false), ..acked };
        let reset = Ending::Reset(Some(Side::Local));
        for (case, halves, bytes_received, ending) in [
            ("the peer's FIN has come", Halves { fin_received: Some(true), ..waiting }, 1, Ending::ClosedNormally),
            ("the peer's FIN is to come", waiting, 0, Ending::ClosedNormally),
            ("closed with data unread", Halves { orphaned: Some(false), ..waiting }, 9, reset),
            ("TCP_LINGER2 below 0", Halves { reset_wanted: Some(true), ..waiting }, 0, reset),
            ("data with the ACK", Halves { data_segments_received: Some(1), ..waiting }, 0, reset),
            ("data before", Halves { data_segments_received: Some(1), ..waiting }, 9, Ending::ClosedNormally),
            ("nothing is known", Halves::default(), 0, Ending::ClosedNormally),
        ] {
            let amounts = Amounts { bytes_received: Some(bytes_received), ..Amounts::default() };
            assert_eq!(ended(TcpState::FinWait2, 0, halves, amounts), ending, "{case}");
        }
        let unacked = Halves { all_acked: Some(false), ..Halves::default() };
        for (state, halves, ending) in [
            (TcpState::LastAck, acked, Ending::ClosedNormally),
            (TcpState::LastAck, unacked, reset),
            (TcpState::Closing, acked, Ending::ClosedNormally),
            (TcpState::Closing, unacked, reset),
        ] {
            assert_eq!(ended(state, 0, halves, Amounts::default()), ending, "{state:?} {halves:?}");
        }
    }

    #[test]
    fn a_reset_after_this_ends_fin_is_the_peers_unless_data_may_have_come_that_nobody_reads() {
        let shut = Halves { read_shut: Some(true), data_segments_received: Some(1), ..Halves::default() };
        for (halves, by) in [
            (Halves { read_shut: Some(false), ..shut }, Some(Side::Remote)),
            (Halves { data_segments_received: Some(0), ..shut }, Some(Side::Remote)),
            (shut, None),
        ] {
            assert_eq!(ended(TcpState::FinWait1, 104, halves, Amounts::default()), Ending::Reset(by), "{halves:?}");
        }
    }

    #[test]
    fn what_was_never_established_was_refused_timed_out_or_given_up() {
        assert_eq!(closed(TcpState::SynSent, 111), (Ending::Refused, None));
        assert_eq!(closed(TcpState::SynSent, 110), (Ending::TimedOut, None));
        assert_eq!(closed(TcpState::SynSent, 113), (Ending::Unreachable, None));
        assert_eq!(closed(TcpState::SynSent, 0), (Ending::Aborted, None));
        assert_eq!(closed(TcpState::SynSent, 103), (Ending::Aborted, None));
    }
}
