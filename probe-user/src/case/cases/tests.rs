use proptest::prelude::*;

use super::{places::CHUNK, *};
use crate::{
    case::wakes::Wake,
    judge::{Attempt, EvidenceKind},
    model::{SocketCookie, SocketView, TcpState},
};

fn key(netns: u32) -> ConnectionKey {
    ConnectionKey { netns, local: ([10, 0, 0, 1], 5672).into(), remote: ([10, 0, 0, 2], 40_000).into() }
}

fn at(ns: u64) -> MonoTime {
    MonoTime::from_ns(ns)
}

fn case(netns: u32, touched: u64, wake: Option<u64>) -> Box<Case> {
    let socket = SocketView { state: Some(TcpState::Established), snd_una: Some(netns), ..SocketView::default() };
    let mut case = Case::new(netns.into(), key(netns), Some(SocketCookie(netns.into())), socket.clone());
    let attempt = Attempt { send_result: Some(0), socket };
    case.note(at(touched), EvidenceKind::RetransmissionTimeout(attempt));
    (case.touched, case.wake) = (at(touched), wake.map(|wake| (at(wake), Wake::Forget)));
    Box::new(case)
}

#[test]
fn a_case_comes_out_as_it_went_in() {
    let mut cases = Cases::default();
    for (netns, wake) in [(1, None), (2, Some(7))] {
        let before = case(netns, 5, wake);
        assert!(before.to_rest(&mut [0; MOST_BYTES]).is_some_and(|bytes| bytes.len() < 60));
        let told = format!("{before:?}");
        assert!(cases.keep(before).is_none());
        assert_eq!(format!("{:?}", cases.take(&key(netns)).unwrap()), told);
        assert_eq!((cases.len(), cases.contains(&key(netns))), (0, false));
    }
}

#[test]
fn what_witnesses_have_said_is_kept_whole() {
    let mut known = case(1, 5, None);
    known.asked_owner = true;
    assert!(known.to_rest(&mut [0; MOST_BYTES]).is_none());
    let told = format!("{known:?}");
    let mut cases = Cases::with_room(0, 1);
    assert!(cases.keep(known).is_none());
    assert_eq!(format!("{:?}", cases.take(&key(1)).unwrap()), told);
}

#[test]
fn after_a_storm_the_room_goes_back() {
    let mut cases = Cases::default();
    let most = u32::try_from(40 * CHUNK).unwrap();
    for netns in 0..most {
        cases.keep(case(netns, netns.into(), Some(u64::from(netns) + 10)));
    }
    for netns in 1..most {
        assert!(cases.take(&key(netns)).is_some());
    }
    assert!(cases.places.chunks.len() <= 16, "{}", cases.places.chunks.len());
    cases.settle();
    assert_eq!((cases.len(), cases.next_wake()), (1, Some(at(10))));
}

#[test]
fn what_was_taken_out_leaves_nothing_that_is_gone_through_again_and_again() {
    let mut cases = Cases::default();
    // Few enough that the room does not go back.
    let most = u32::try_from(10 * CHUNK).unwrap();
    for netns in 0..most {
        cases.keep(case(netns, netns.into(), Some(u64::from(netns) + 1_000_000)));
    }
    for netns in 10..most {
        assert!(cases.take(&key(netns)).is_some());
    }
    cases.keep(case(most, 5, Some(7)));
    let (queue, wakes) = (cases.queues.at_rest.order.len(), cases.wakes.len());
    assert!(queue < 2_000 && wakes < 2_000, "{queue} and {wakes}");
    // Those that were swept out are entered anew when their places are taken again.
    for netns in 10..most {
        cases.keep(case(netns, netns.into(), Some(u64::from(netns))));
    }
    let due = std::iter::from_fn(|| cases.take_due(at(most.into())).and_then(|due| due.wake));
    let expected = std::iter::once(7).chain(10..most.into()).map(|ns| (at(ns), Wake::Forget));
    assert!(due.eq(expected));
}

proptest! {
    /// Against tables that are sorted anew at each step.
    #[test]
    fn who_is_next_is_who_waits_or_rests_longest(
        steps in prop::collection::vec((0u32..24, prop::option::of(0u64..40), 0u8..4), 1..200),
    ) {
        const ROOM: usize = 8;
        let mut cases = Cases::with_room(ROOM, 0);
        let mut model: Vec<(u32, u64, Option<u64>)> = Vec::new();
        for (now, (netns, wake, action)) in (1_000u64..).zip(steps) {
            let wake = wake.map(|wake| now + wake);
            if action == 0 {
                let mut due: Vec<_> = model.iter().filter_map(|(n, _, wake)| Some((wake.filter(|at| *at <= now)?, *n))).collect();
                due.sort_unstable();
                let mut found = Vec::new();
                while let Some(case) = cases.take_due(at(now)) {
                    found.push((case.wake.unwrap().0.as_ns(), case.key.netns));
                }
                found.sort_unstable();
                prop_assert_eq!(&found, &due);
                model.retain(|(n, ..)| due.iter().all(|(_, d)| d != n));
            } else {
                let known = model.iter().position(|(n, ..)| *n == netns);
                let taken = cases.take(&key(netns));
                prop_assert_eq!(known.is_some(), taken.is_some());
                known.map(|known| model.remove(known));
                if action == 1 {
                    continue;
                }
                let evicted = cases.keep(case(netns, now, wake)).map(|case| case.key.netns);
                let oldest = (model.len() >= ROOM).then(|| model.remove(0).0);
                prop_assert_eq!(evicted, oldest);
                model.push((netns, now, wake));
            }
            cases.settle();
            prop_assert_eq!(cases.next_wake(), model.iter().filter_map(|(.., wake)| *wake).min().map(at));
            prop_assert_eq!(cases.len(), model.len());
        }
    }
}
