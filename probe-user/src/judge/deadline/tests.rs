use super::*;
use crate::model::{Keepalive, PendingTimer, RTO_MAX, Ticks};

fn socket(rto_ms: u64, retransmitting_for_ms: u64) -> SocketView {
    SocketView {
        rto: Some(Duration::from_millis(rto_ms)),
        retransmitting_for: Some(Duration::from_millis(retransmitting_for_ms)),
        user_timeout: Some(Duration::ZERO),
        orphaned: Some(false),
        tcp_retries2: Some(15),
        tcp_orphan_retries: Some(0),
        ..SocketView::default()
    }
}

fn fired_at(at: MonoTime, socket: &SocketView) -> Sight<'_> {
    Sight { at, socket, timer_fired: true }
}

fn in_ms(socket: &SocketView) -> u128 {
    let fired = MonoTime::from_ns(5_000_000_000_000);
    of_retransmission(&fired_at(fired, socket), false).unwrap().at.since(fired).as_millis()
}

/// ip-sysctl.rst: "The default value of 15 yields a hypothetical timeout of 924.6 seconds".
#[test]
fn the_model_gives_the_documented_924_6_seconds() {
    assert_eq!(model_timeout(15, RTO_MAX), Duration::from_millis(924_600));
    assert_eq!(model_timeout(8, RTO_MAX), Duration::from_millis(102_200));
    assert_eq!(model_timeout(0, RTO_MAX), Duration::from_millis(200));
}

/// Documentation/networking/ip-sysctl.rst, `tcp_rto_max_ms`: a smaller maximum shortens the wait.
#[test]
fn a_smaller_maximal_rto_shortens_the_model() {
    assert_eq!(model_timeout(15, Duration::from_secs(10)), Duration::from_millis(12_600 + 10 * 10_000));
}

#[test]
fn the_kernel_gives_up_at_the_first_firing_past_the_limit_not_at_the_limit() {
    // Limit 63 x 200 ms = 12.6 s. From the first retransmission the timer fires after 2, 6, 14, 30, 62 RTOs.
    let mut with_204 = socket(204, 0);
    with_204.tcp_retries2 = Some(5);
    assert_eq!(in_ms(&with_204), 62 * 204);
    let mut with_201 = socket(201, 0);
    with_201.tcp_retries2 = Some(5);
    assert_eq!(in_ms(&with_201), 126 * 201);
}

#[test]
fn each_firing_gives_the_same_deadline_as_the_first() {
    let mut early = socket(220, 0);
    early.tcp_retries2 = Some(6);
    let mut later = socket(880, 6 * 220);
    later.tcp_retries2 = Some(6);
    assert_eq!(in_ms(&early), 6 * 220 + in_ms(&later));
}

#[test]
fn a_user_timeout_ends_the_wait_to_the_millisecond() {
    let mut socket = socket(400, 200);
    socket.user_timeout = Some(Duration::from_secs(3));
    assert_eq!(in_ms(&socket), 2_800);
    socket.retransmitting_for = Some(Duration::from_secs(9));
    assert_eq!(in_ms(&socket), 0);
}

/// `kernel/time/timer.c`: at HZ 250, level 1 covers 252 ms to 2 s in steps of 32 ms, level 2 up to 16 s in steps of 256 ms.
#[test]
fn the_wheel_rounds_up_more_the_longer_the_wait() {
    let wait = |jiffies, ms| {
        TimerWheel { ticks: Some(Ticks { jiffies, hz: 250 }) }.wait(Duration::from_millis(ms)).as_millis()
    };
    assert_eq!(wait(1_000, 200), 204);
    assert_eq!(wait(1_000, 400), 416);
    assert_eq!(wait(1_024, 6_400), 6_400 + 256);
    assert_eq!(wait(1_025, 6_400), 6_400 + 252);
    assert_eq!(TimerWheel { ticks: None }.wait(Duration::from_millis(7)).as_millis(), 7);
}

/// Nominally 62 x 201 ms fall short of 12.6 s; the wheel makes them longer.
#[test]
fn the_wheels_lateness_can_bring_the_end_one_timeout_forward() {
    let mut socket = socket(201, 0);
    socket.tcp_retries2 = Some(5);
    socket.ticks = Some(Ticks { jiffies: 1 << 32, hz: 250 });
    assert!((12_600..14_000).contains(&in_ms(&socket)), "{}", in_ms(&socket));
}

#[test]
fn an_orphan_has_its_own_limit() {
    let mut socket = socket(200, 0);
    socket.orphaned = Some(true);
    let deadline = of_retransmission(&fired_at(MonoTime::default(), &socket), false).unwrap();
    assert_eq!(deadline.set_by, DeadlineSource::TcpOrphanRetries { retries: 8 });
}

#[test]
fn an_orphan_ends_when_its_rto_has_reached_the_maximum() {
    let mut socket = socket(400, 0);
    (socket.orphaned, socket.rto_max) = (Some(true), Some(Duration::from_secs(1)));
    // The next firing comes with an RTO of 0.8 s, the one after it with one of 1 s.
    let deadline = of_retransmission(&Sight { timer_fired: true, ..seen(&socket) }, false).unwrap();
    assert_eq!((after_ms(deadline), deadline.set_by), (1_800, DeadlineSource::TcpOrphanRetries { retries: 0 }));
    socket.tcp_orphan_retries = Some(3);
    let set = of_retransmission(&Sight { timer_fired: true, ..seen(&socket) }, false).unwrap();
    // 200 + 400 + 800 ms, and 1 s that no doubling makes longer.
    assert_eq!((after_ms(set), set.set_by), (2_800, DeadlineSource::TcpOrphanRetries { retries: 3 }));
    socket.soft_error = Some(113);
    assert_eq!(after_ms(of_retransmission(&Sight { timer_fired: true, ..seen(&socket) }, false).unwrap()), 1_800);
}

#[test]
fn an_orphan_does_not_wait_for_a_shut_window_for_ever_though_its_probes_are_answered() {
    let orphan = SocketView { orphaned: Some(true), ..probing(0, 5, 400) };
    let deadline = of_probes(&seen(&orphan), true).unwrap();
    // Waits of 12.8, 25.6, 51.2 and 102.4 s, and the first that the maximum cuts short.
    assert_eq!((after_ms(deadline), deadline.set_by.name()), (400 + 192_000 + 120_000, "tcp_orphan_retries"));
}

#[test]
fn what_the_kernel_does_not_tell_gives_no_deadline() {
    assert_eq!(of_retransmission(&fired_at(MonoTime::default(), &SocketView::default()), false), None);
    let mut socket = socket(200, 0);
    socket.tcp_retries2 = None;
    assert_eq!(of_retransmission(&fired_at(MonoTime::default(), &socket), false), None);
}

fn probing(probes_out: u8, backoff: u8, due_ms: u64) -> SocketView {
    SocketView {
        probes_out: Some(probes_out),
        backoff: Some(backoff),
        probing_for: Some(Duration::from_millis(600)),
        timer: Some(PendingTimer { kind: SocketTimer::Persist, due_in: Duration::from_millis(due_ms) }),
        ..socket(200, 0)
    }
}

fn seen(socket: &SocketView) -> Sight<'_> {
    Sight { at: MonoTime::from_ns(5_000_000_000_000), socket, timer_fired: false }
}

fn after_ms(deadline: Deadline) -> u128 {
    deadline.at.since(MonoTime::from_ns(5_000_000_000_000)).as_millis()
}

#[test]
fn a_retransmission_timer_seen_in_between_fires_first() {
    let timer = Some(PendingTimer { kind: SocketTimer::Retransmission, due_in: Duration::from_millis(100) });
    let view = SocketView { timer, user_timeout: Some(Duration::from_secs(1)), ..socket(400, 300) };
    // Fires 400 ms after the first retransmission, then at the user timeout.
    let deadline = of_retransmission(&seen(&view), false).unwrap();
    assert_eq!((after_ms(deadline), deadline.set_by.name()), (700, "tcp_user_timeout"));
    assert_eq!(of_retransmission(&seen(&socket(400, 300)), false), None);
}

#[test]
fn unanswered_probes_end_with_the_count_of_tcp_retries2() {
    let view = SocketView { tcp_retries2: Some(3), ..probing(1, 1, 400) };
    // Probes 2 and 3 after 400 and 1,200 ms; the firing 1.6 s later gives up.
    let deadline = of_probes(&seen(&view), false).unwrap();
    assert_eq!(
        (after_ms(deadline), deadline.timer, deadline.set_by.name()),
        (2_800, KernelTimer::Probe0, "tcp_retries2")
    );
}

#[test]
fn answered_probes_end_by_a_user_timeout_or_never() {
    assert_eq!(of_probes(&seen(&probing(0, 5, 400)), true), None);
    let view = SocketView { user_timeout: Some(Duration::from_secs(3)), ..probing(0, 5, 400) };
    let deadline = of_probes(&seen(&view), true).unwrap();
    assert_eq!((after_ms(deadline), deadline.set_by.name()), (2_400, "tcp_user_timeout"));
}

#[test]
fn keepalive_ends_with_its_count_of_probes_or_by_a_user_timeout() {
    let keepalive = Some(Keepalive {
        enabled: true,
        idle: Some(Duration::from_secs(60)),
        interval: Some(Duration::from_secs(10)),
        probes: Some(3),
    });
    let view = SocketView {
        keepalive,
        keepalive_due_in: Some(Duration::from_secs(4)),
        probes_out: Some(1),
        last_ack_ago: Some(Duration::from_secs(66)),
        last_data_ago: Some(Duration::from_secs(80)),
        ..socket(200, 0)
    };
    let deadline = of_keepalive(&seen(&view)).unwrap();
    assert_eq!((after_ms(deadline), deadline.set_by), (24_000, DeadlineSource::KeepaliveProbes { probes: 3 }));
    let view = SocketView { user_timeout: Some(Duration::from_secs(75)), ..view };
    let deadline = of_keepalive(&seen(&view)).unwrap();
    assert_eq!((after_ms(deadline), deadline.set_by.name()), (14_000, "tcp_user_timeout"));
}

proptest::proptest! {
    #[test]
    fn no_socket_makes_it_panic_or_look_back(
        rto_ms: u64, max_ms in proptest::option::of(proptest::num::u64::ANY), since_ms: u64, user_ms: u32, retries: u8, orphan: bool, jiffies: u64, hz: u32,
    ) {
        let view = SocketView {
            rto: Some(Duration::from_millis(rto_ms)),
            rto_max: max_ms.map(Duration::from_millis),
            retransmitting_for: Some(Duration::from_millis(since_ms)),
            user_timeout: Some(Duration::from_millis(u64::from(user_ms))),
            orphaned: Some(orphan),
            tcp_retries2: Some(retries),
            tcp_orphan_retries: Some(retries),
            ticks: Some(Ticks { jiffies, hz }),
            ..SocketView::default()
        };
        let fired = MonoTime::from_ns(1 << 50);
        if let Some(deadline) = of_retransmission(&fired_at(fired, &view), false) {
            proptest::prop_assert!(deadline.at >= fired);
        }
    }
}
