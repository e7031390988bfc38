//! A socket's view in about 120 bytes: a set of bits says what is there, and what is there follows.

use std::time::Duration;

use super::bytes::{Reader, Writer};
use crate::model::{Keepalive, PendingTimer, SocketCookie, SocketTimer, SocketView, TcpState, Ticks};

/// `None` when there is no room, or a time is longer than 584 years.
pub(super) fn write(view: &SocketView, into: &mut Writer<'_>) -> Option<()> {
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
    let first = into.place()?;
    let mut to = Fields { into: std::mem::take(into), bits: 0, next: 0 };
    to.optional(state.map(|state| [state as u8]))?;
    to.optional(ticks.map(|ticks| ticks.jiffies.to_ne_bytes()))?;
    ticks.map_or(Some(()), |ticks| to.into.put(ticks.hz.to_ne_bytes()))?;
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
    *first = to.bits.to_ne_bytes();
    *into = to.into;
    Some(())
}

/// `None` for what was not written here.
pub(super) fn read(bytes: &mut Reader<'_>) -> Option<SocketView> {
    let bits = u64::from_ne_bytes(bytes.get()?);
    let mut from = FieldsBack { from: *bytes, bits };
    let u32s = |bytes: [u8; 4]| u32::from_ne_bytes(bytes);
    // In the order of writing: fields of a struct are evaluated as they stand.
    let view = SocketView {
        // Declared in the kernel's order, which begins at 1.
        state: from.optional()?.and_then(|[state]| TcpState::from_kernel(state.saturating_add(1))),
        ticks: match from.optional()? {
            Some(jiffies) => {
                Some(Ticks { jiffies: u64::from_ne_bytes(jiffies), hz: u32::from_ne_bytes(from.from.get()?) })
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
    *bytes = from.from;
    Some(view)
}

const TIMERS: [SocketTimer; 3] = [SocketTimer::Retransmission, SocketTimer::Keepalive, SocketTimer::Persist];

/// The fields, and a bit for each.
struct Fields<'a> {
    into: Writer<'a>,
    bits: u64,
    next: u32,
}

impl Fields<'_> {
    fn bit(&mut self, is_set: bool) {
        self.bits |= u64::from(is_set).wrapping_shl(self.next);
        self.next += 1;
    }

    #[expect(clippy::inline_always, reason = "its state is in registers only where all that changes it is inline")]
    #[inline(always)]
    fn optional<const N: usize>(&mut self, value: Option<[u8; N]>) -> Option<()> {
        self.bit(value.is_some());
        value.map_or(Some(()), |bytes| self.into.put(bytes))
    }

    /// Most are whole milliseconds, being counted in ticks.
    #[expect(clippy::inline_always, reason = "its state is in registers only where all that changes it is inline")]
    #[inline(always)]
    fn time(&mut self, time: Option<Duration>) -> Option<()> {
        let ms = time.and_then(whole_ms);
        self.optional(ms.map(u32::to_ne_bytes))?;
        match time {
            Some(time) if ms.is_none() => self.optional(Some(ns(time)?.to_ne_bytes())),
            Some(_) | None => self.optional::<8>(None),
        }
    }
}

/// As milliseconds, if it is a whole number of them, and no more than 49 days.
fn whole_ms(time: Duration) -> Option<u32> {
    const MS_IN_NS: u32 = 1_000_000;
    let (seconds, ns) = (u32::try_from(time.as_secs()).ok()?, time.subsec_nanos());
    let ms = seconds.checked_mul(1_000)?.checked_add(ns / MS_IN_NS)?;
    ns.is_multiple_of(MS_IN_NS).then_some(ms)
}

fn ns(time: Duration) -> Option<u64> {
    time.as_secs().checked_mul(1_000_000_000)?.checked_add(time.subsec_nanos().into())
}

struct FieldsBack<'a> {
    from: Reader<'a>,
    bits: u64,
}

impl FieldsBack<'_> {
    fn bit(&mut self) -> bool {
        let is_set = self.bits & 1 == 1;
        self.bits >>= 1;
        is_set
    }

    /// The outer is `None` for what was not written here.
    #[expect(clippy::option_option, reason = "one is an error, the other an absent value")]
    #[expect(clippy::inline_always, reason = "its state is in registers only where all that changes it is inline")]
    #[inline(always)]
    fn optional<const N: usize>(&mut self) -> Option<Option<[u8; N]>> {
        if self.bit() { self.from.get().map(Some) } else { Some(None) }
    }

    #[expect(clippy::option_option, reason = "one is an error, the other an absent value")]
    #[expect(clippy::inline_always, reason = "its state is in registers only where all that changes it is inline")]
    #[inline(always)]
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
        fn what_is_read_is_what_was_written(view in socket(), number in 1u8..=12, ns in any::<u64>()) {
            let view = SocketView {
                state: TcpState::from_kernel(number),
                timer: Some(PendingTimer { kind: SocketTimer::Persist, due_in: Duration::from_nanos(ns) }),
                inode: Some(ns),
                keepalive_due_in: view.rto,
                ..view
            };
            let mut room = [0xff; 400];
            let mut to = Writer::new(&mut room);
            write(&view, &mut to).unwrap();
            let left = to.left();
            let mut from = Reader::new(&room);
            prop_assert_eq!((read(&mut from), from.left()), (Some(view.clone()), left));
            let short = room.len() - left - 1;
            prop_assert_eq!(write(&view, &mut Writer::new(&mut room[..short])), None);
        }
    }

    #[test]
    fn a_time_that_no_clock_tells_is_not_cut() {
        let view = SocketView { rto: Some(Duration::MAX), ..SocketView::default() };
        assert_eq!(write(&view, &mut Writer::new(&mut [0; 400])), None);
    }
}
