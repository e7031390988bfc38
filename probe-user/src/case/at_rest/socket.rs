//! A socket's view in about 120 bytes: a set of bits says what is there, and what is there follows.

use std::time::Duration;

use crate::model::{Keepalive, PendingTimer, SocketCookie, SocketTimer, SocketView, TcpState, Ticks};

/// The set of bits comes first.
const BITS_BYTES: usize = size_of::<u64>();

/// Writes it from `from` on, and returns where it ends; `None` when there is no room, or a time is longer than 584 years.
pub(super) fn write(view: &SocketView, room: &mut [u8], from: usize) -> Option<usize> {
    let SocketView {
        state,
        ticks,
        cookie,
        sequence_is_relative,
        snd_una,
        snd_nxt,
        write_seq,
        snd_wnd_bytes,
        packets_out,
        total_retransmits,
        retransmits,
        backoff,
        probes_out,
        rto,
        rto_max,
        retransmitting_for,
        last_ack_ago,
        user_timeout,
        timer,
        probing_for,
        last_data_ago,
        segment_ago,
        keepalive_due_in,
        keepalive,
        orphaned,
        tcp_retries2,
        tcp_orphan_retries,
        ingress_ifindex,
        egress_ifindex,
        soft_error,
        inode,
        error,
    } = view;
    let mut to = Writer { room, at: from + BITS_BYTES, bits: 0, next: 0 };
    to.optional(state.map(|state| [state as u8]))?;
    to.optional(ticks.map(|ticks| ticks.jiffies.to_ne_bytes()))?;
    to.bytes(ticks.map(|ticks| ticks.hz.to_ne_bytes()).as_ref().map_or(&[], |hz| hz.as_slice()))?;
    to.optional(cookie.map(|cookie| cookie.0.to_ne_bytes()))?;
    to.bit(*sequence_is_relative);
    for number in [snd_una, snd_nxt, write_seq, snd_wnd_bytes, packets_out, total_retransmits] {
        to.optional(number.map(u32::to_ne_bytes))?;
    }
    for count in [retransmits, backoff, probes_out] {
        to.optional(count.map(u8::to_ne_bytes))?;
    }
    for time in [rto, rto_max, retransmitting_for, last_ack_ago, user_timeout] {
        to.time(*time)?;
    }
    to.optional(timer.map(|timer| [timer.kind as u8]))?;
    to.time(timer.map(|timer| timer.due_in))?;
    for time in [probing_for, last_data_ago, segment_ago, keepalive_due_in] {
        to.time(*time)?;
    }
    to.bit(keepalive.is_some());
    if let Some(Keepalive { enabled, idle, interval, probes }) = keepalive {
        to.bit(*enabled);
        to.time(*idle)?;
        to.time(*interval)?;
        to.optional(probes.map(u8::to_ne_bytes))?;
    }
    to.optional(orphaned.map(|orphaned| [u8::from(orphaned)]))?;
    for count in [tcp_retries2, tcp_orphan_retries] {
        to.optional(count.map(u8::to_ne_bytes))?;
    }
    for number in [ingress_ifindex, egress_ifindex] {
        to.optional(number.map(u32::to_ne_bytes))?;
    }
    to.optional(soft_error.map(i32::to_ne_bytes))?;
    to.optional(inode.map(u64::to_ne_bytes))?;
    to.optional(error.map(i32::to_ne_bytes))?;
    let Writer { room, at, bits, .. } = to;
    room.get_mut(from..from + BITS_BYTES)?.copy_from_slice(&bits.to_ne_bytes());
    Some(at)
}

/// Reads one from the beginning of `bytes`, and returns what is behind it.
pub(super) fn read(bytes: &[u8]) -> Option<(SocketView, &[u8])> {
    let (bits, rest) = bytes.split_first_chunk()?;
    let mut from = Reader { rest, bits: u64::from_ne_bytes(*bits) };
    let u32s = |bytes: [u8; 4]| u32::from_ne_bytes(bytes);
    // In the order of writing: fields of a struct are evaluated as they stand.
    let view = SocketView {
        // Declared in the kernel's order, which begins at 1.
        state: from.optional()?.and_then(|[state]| TcpState::from_kernel(state.saturating_add(1))),
        ticks: match from.optional()? {
            Some(jiffies) => {
                Some(Ticks { jiffies: u64::from_ne_bytes(jiffies), hz: u32::from_ne_bytes(from.bytes()?) })
            }
            None => None,
        },
        cookie: from.optional()?.map(|cookie| SocketCookie(u64::from_ne_bytes(cookie))),
        sequence_is_relative: from.bit(),
        snd_una: from.optional()?.map(u32s),
        snd_nxt: from.optional()?.map(u32s),
        write_seq: from.optional()?.map(u32s),
        snd_wnd_bytes: from.optional()?.map(u32s),
        packets_out: from.optional()?.map(u32s),
        total_retransmits: from.optional()?.map(u32s),
        retransmits: from.optional()?.map(u8::from_ne_bytes),
        backoff: from.optional()?.map(u8::from_ne_bytes),
        probes_out: from.optional()?.map(u8::from_ne_bytes),
        rto: from.time()?,
        rto_max: from.time()?,
        retransmitting_for: from.time()?,
        last_ack_ago: from.time()?,
        user_timeout: from.time()?,
        timer: {
            let kind = from.optional()?.and_then(|[kind]| TIMERS.into_iter().find(|known| *known as u8 == kind));
            let due_in = from.time()?;
            kind.zip(due_in).map(|(kind, due_in)| PendingTimer { kind, due_in })
        },
        probing_for: from.time()?,
        last_data_ago: from.time()?,
        segment_ago: from.time()?,
        keepalive_due_in: from.time()?,
        keepalive: if from.bit() {
            Some(Keepalive {
                enabled: from.bit(),
                idle: from.time()?,
                interval: from.time()?,
                probes: from.optional()?.map(u8::from_ne_bytes),
            })
        } else {
            None
        },
        orphaned: from.optional()?.map(|[orphaned]| orphaned != 0),
        tcp_retries2: from.optional()?.map(u8::from_ne_bytes),
        tcp_orphan_retries: from.optional()?.map(u8::from_ne_bytes),
        ingress_ifindex: from.optional()?.map(u32s),
        egress_ifindex: from.optional()?.map(u32s),
        soft_error: from.optional()?.map(i32::from_ne_bytes),
        inode: from.optional()?.map(u64::from_ne_bytes),
        error: from.optional()?.map(i32::from_ne_bytes),
    };
    Some((view, from.rest))
}

const TIMERS: [SocketTimer; 3] = [SocketTimer::Retransmission, SocketTimer::Keepalive, SocketTimer::Persist];

struct Writer<'a> {
    room: &'a mut [u8],
    at: usize,
    bits: u64,
    next: u32,
}

impl Writer<'_> {
    fn bit(&mut self, is_set: bool) {
        self.bits |= u64::from(is_set).wrapping_shl(self.next);
        self.next += 1;
    }

    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.room.get_mut(self.at..self.at + bytes.len())?.copy_from_slice(bytes);
        self.at += bytes.len();
        Some(())
    }

    fn optional<const N: usize>(&mut self, value: Option<[u8; N]>) -> Option<()> {
        self.bit(value.is_some());
        value.map_or(Some(()), |bytes| self.bytes(&bytes))
    }

    /// Most are whole milliseconds, being counted in ticks.
    fn time(&mut self, time: Option<Duration>) -> Option<()> {
        let Some(time) = time else {
            self.optional::<4>(None)?;
            return self.optional::<8>(None);
        };
        let ms = u32::try_from(time.as_millis()).ok().filter(|ms| Duration::from_millis((*ms).into()) == time);
        self.optional(ms.map(u32::to_ne_bytes))?;
        match ms {
            Some(_) => self.optional::<8>(None),
            None => self.optional(Some(u64::try_from(time.as_nanos()).ok()?.to_ne_bytes())),
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    bits: u64,
}

impl Reader<'_> {
    fn bit(&mut self) -> bool {
        let is_set = self.bits & 1 == 1;
        self.bits >>= 1;
        is_set
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*bytes)
    }

    /// The outer is `None` for what was not written here.
    #[expect(clippy::option_option, reason = "one is an error, the other an absent value")]
    fn optional<const N: usize>(&mut self) -> Option<Option<[u8; N]>> {
        if self.bit() { self.bytes().map(Some) } else { Some(None) }
    }

    #[expect(clippy::option_option, reason = "one is an error, the other an absent value")]
    fn time(&mut self) -> Option<Option<Duration>> {
        let ms = self.optional()?.map(|ms| Duration::from_millis(u32::from_ne_bytes(ms).into()));
        let ns = self.optional()?.map(|ns| Duration::from_nanos(u64::from_ne_bytes(ns)));
        Some(ms.or(ns))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::recording::arbitrary::socket;

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(view in socket(), number in 1u8..=12, ns in any::<u64>(), from in 0usize..9) {
            let view = SocketView {
                state: TcpState::from_kernel(number),
                timer: Some(PendingTimer { kind: SocketTimer::Persist, due_in: Duration::from_nanos(ns) }),
                inode: Some(ns),
                keepalive_due_in: view.rto,
                ..view
            };
            let mut room = [0xff; 400];
            let to = write(&view, &mut room, from).unwrap();
            let (back, rest) = read(&room[from..]).unwrap();
            prop_assert_eq!((back, rest.len()), (view.clone(), room.len() - to));
            prop_assert_eq!(write(&view, &mut room[..to - 1], from), None);
        }
    }

    #[test]
    fn a_time_that_no_clock_tells_is_not_cut() {
        let view = SocketView { rto: Some(Duration::MAX), ..SocketView::default() };
        assert_eq!(write(&view, &mut [0; 400], 0), None);
    }
}
