//! Inputs of every kind that holds an address or a name, at random.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use jiff::Timestamp;
use proptest::{collection::vec, option, prelude::*};
use uuid::Uuid;

use super::{Closing, Input, Opening, SameMoment};
use crate::{
    model::{
        Answer, Behind, Checksum, ConnectionEvent, ConnectionKey, ConntrackEntry, ConntrackSettings, ConntrackState,
        ConntrackStatus, ControlMessage, Coverage, Direction, DropPlace, DropReason, DroppedSegment, Event, EventKind,
        Filter, FilterRule, FilterRules, FlowConntrack, FlowEnds, ForwardPath, Hook, HookCount, HookStatus, HostEnd,
        Interface, InvalidSegment, Keepalive, KernelModule, Knowledge, LossPlace, Machine, Mechanism, MissingField,
        ModuleStatus, MonoTime, NeighbourState, NetfilterHook, Origin, Owner, PathStatus, PendingTimer, Place, Port,
        Route, RunCost, SelfTest, ServiceStatus, Site, SocketCookie, SocketLookup, SocketRouting, SocketStatus,
        SocketTimer, SocketView, TcpState, Ticks, TrackedFlow,
    },
    report::Host,
};

/// Names that must be hidden hold this.
pub(super) const SECRET: &str = "secret";

pub(crate) fn inputs() -> BoxedStrategy<Vec<Input>> {
    vec(input(), 0..40).boxed()
}

pub(super) fn address() -> BoxedStrategy<IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)].boxed()
}

fn input() -> BoxedStrategy<Input> {
    prop_oneof![
        1 => opening(),
        5 => event().prop_map(|event| Input::Event(Box::new(event))),
        5 => (at(), answer()).prop_map(|(at, answer)| Input::Answer { at, answer: Box::new(answer) }),
        1 => at().prop_map(|at| Input::Timeout { at }),
        1 => clocks().prop_map(Input::Clocks),
        1 => any::<u64>().prop_map(|inputs| Input::Gap { inputs }),
        1 => closing(),
    ]
    .boxed()
}

fn at() -> BoxedStrategy<MonoTime> {
    any::<u64>().prop_map(MonoTime::from_ns).boxed()
}

fn clocks() -> BoxedStrategy<SameMoment> {
    (at(), any::<i32>())
        .prop_map(|(mono, us)| SameMoment::new(mono, Timestamp::from_microsecond(us.into()).unwrap()))
        .boxed()
}

fn name() -> BoxedStrategy<String> {
    "[a-z]{0,8}".prop_map(|name| format!("{SECRET}-{name}")).boxed()
}

/// What a witness may say that cannot answer.
fn why() -> BoxedStrategy<String> {
    address().prop_map(|address| format!("nothing is known of {address}.")).boxed()
}

fn end() -> BoxedStrategy<SocketAddr> {
    (address(), any::<u16>()).prop_map(SocketAddr::from).boxed()
}

/// Mostly of few connections, so that inputs meet in one case.
fn key() -> BoxedStrategy<ConnectionKey> {
    let few =
        (0..2_u8).prop_map(|last| (1, SocketAddr::from(([10, 0, 0, 1], 1)), SocketAddr::from(([10, 0, 0, last], 2))));
    prop_oneof![2 => few, 1 => (any::<u32>(), end(), end())]
        .prop_map(|(netns, local, remote)| ConnectionKey { netns, local, remote })
        .boxed()
}

fn opening() -> BoxedStrategy<Input> {
    let host = (name(), option::of(name()), any::<u128>()).prop_map(|(name, machine_id, boot_id)| Host {
        name,
        machine_id,
        boot_id: Uuid::from_u128(boot_id),
    });
    (host, clocks(), at(), why(), why(), any::<bool>())
        .prop_map(|(host, clocks, at, why, other, is_anonymized)| {
            let coverage = Coverage {
                hooks: vec![
                    (Hook::KfreeSkb, HookStatus::Attached(Mechanism::TpBtf)),
                    (Hook::TcpSendReset, HookStatus::Broken(why.clone())),
                    (Hook::NfCtLogInvalid, HookStatus::NotLoaded(KernelModule::Conntrack)),
                ],
                missing_fields: vec![MissingField { field: "sk_buff._nfct".to_owned(), why, harmless: false }],
                self_test: Some(SelfTest::Wrong(vec![other.clone()])),
                modules: vec![(KernelModule::Conntrack, ModuleStatus::NotLoaded)],
                costs: [(Hook::KfreeSkb, RunCost { runs: 3, time: Duration::from_nanos(7) })].into(),
                ..Coverage::of_sock_diag_alone("6.1.0".to_owned(), &other)
            };
            if !is_anonymized {
                return Input::Coverage { at, coverage: Box::new(coverage) };
            }
            Input::Opening(Box::new(Opening { host, clocks, at, coverage, filter: Filter::default(), is_anonymized }))
        })
        .boxed()
}

fn closing() -> BoxedStrategy<Input> {
    (at(), option::of(clocks()), any::<u64>(), any::<[u64; 4]>())
        .prop_map(|(at, clocks, ns, [seen, emitted, lost, unasked])| {
            let count = HookCount { hook: Hook::KfreeSkb, seen, emitted, lost, suppressed: 0, missed: 0 };
            let (watched, hooks) = (Duration::from_nanos(ns / 8), vec![count]);
            Input::Closing(Box::new(Closing { at, clocks, watched, hooks, undecodable: 0, unasked }))
        })
        .boxed()
}

fn event() -> BoxedStrategy<Event> {
    prop_oneof![
        1 => (at(), any::<u64>()).prop_map(|(at, count)| Event::Lost { at, place: LossPlace::Ring(Hook::KfreeSkb), count }),
        9 => (at(), key(), socket(), kind())
            .prop_map(|(at, key, socket, kind)| Event::Connection(ConnectionEvent { at, key, socket, kind })),
    ].boxed()
}

/// The longest are longer than any that a kernel tells.
fn duration() -> BoxedStrategy<Duration> {
    prop_oneof![
        any::<u32>().prop_map(|us| Duration::from_micros(us.into())),
        (any::<u32>(), 0..1_000_000_000_u32).prop_map(|(seconds, ns)| Duration::new(seconds.into(), ns)),
        Just(Duration::from_secs(u32::MAX.into())),
    ]
    .boxed()
}

pub(crate) fn socket() -> BoxedStrategy<SocketView> {
    let numbers = (option::of(any::<u32>()), option::of(any::<u8>()), option::of(any::<u64>()), any::<u8>());
    let times = proptest::array::uniform10(option::of(duration()));
    (numbers, times, option::of(any::<(u64, u32)>()))
        .prop_map(|((number, count, cookie, retries), times, ticks)| {
            let [
                rto,
                rto_max,
                retransmitting_for,
                last_ack_ago,
                user_timeout,
                probing_for,
                last_data_ago,
                due_in,
                idle,
                interval,
            ] = times;
            SocketView {
                state: Some(TcpState::Established),
                ticks: ticks.map(|(jiffies, hz)| Ticks { jiffies, hz: hz.max(1) }),
                cookie: cookie.map(SocketCookie),
                snd_una: number,
                snd_nxt: number.map(|number| number.wrapping_add(1)),
                write_seq: number.map(|number| number.wrapping_add(2)),
                snd_wnd_bytes: number,
                retransmits: count,
                backoff: count,
                probes_out: count,
                rto,
                rto_max,
                retransmitting_for,
                last_ack_ago,
                user_timeout,
                timer: due_in.map(|due_in| PendingTimer {
                    kind: if retries % 2 == 0 { SocketTimer::Retransmission } else { SocketTimer::Persist },
                    due_in,
                }),
                probing_for,
                last_data_ago,
                keepalive_due_in: due_in,
                keepalive: Some(Keepalive { enabled: true, idle, interval, probes: count }),
                tcp_retries2: Some(retries),
                tcp_orphan_retries: Some(retries),
                inode: cookie,
                soft_error: number.map(u32::cast_signed),
                ..SocketView::default()
            }
        })
        .boxed()
}

fn kind() -> BoxedStrategy<EventKind> {
    prop_oneof![
        option::of(any::<i32>()).prop_map(|send_result| EventKind::RetransmissionTimeout { send_result }),
        Just(EventKind::StateChange { from: TcpState::Established, to: TcpState::FinWait1 }),
        Just(EventKind::Scanned),
        segment().prop_map(|segment| EventKind::SegmentDropped(Box::new(segment))),
        (segment(), why()).prop_map(|(segment, why)| {
            let invalid = InvalidSegment { segment, why, zone: Some(7), hook: Some(NetfilterHook::Forward) };
            EventKind::SegmentInvalid(Box::new(invalid))
        }),
    ]
    .boxed()
}

fn segment() -> BoxedStrategy<DroppedSegment> {
    (end(), any::<u32>(), any::<u64>(), any::<u16>())
        .prop_map(|(sender, sequence, location, carried)| DroppedSegment {
            message: ControlMessage::Fin,
            origin: Origin::Forwarded { ifindex: 3, sender },
            sequence,
            reason: DropReason::NetfilterDrop,
            location,
            stack: std::array::from_fn(|frame| if frame < 4 { location } else { 0 }),
            function: Some("nf_hook_slow".to_owned()),
            stated_bytes: 40,
            actual_bytes: 46,
            data_bytes: 0,
            checksum: Checksum::Wrong { carried, due: 1 },
            is_tracked: Some(false),
            destination_mac: Some([2, 0, 0, 0, 0, 1]),
        })
        .boxed()
}

/// An answer, or the lack of one.
fn told<T: std::fmt::Debug + 'static>(answer: impl Strategy<Value = T> + 'static) -> BoxedStrategy<Result<T, String>> {
    prop_oneof![4 => answer.prop_map(Ok), 1 => why().prop_map(Err)].boxed()
}

fn answer() -> BoxedStrategy<Answer> {
    prop_oneof![
        (key(), lookup()).prop_map(|(key, lookup)| Answer::Socket { key, lookup }),
        (key(), told(option::of(owner()))).prop_map(|(key, owner)| Answer::Owner { key, owner }),
        (key(), told(conntrack())).prop_map(|(key, conntrack)| Answer::Conntrack { key, conntrack }),
        (key(), told(service())).prop_map(|(key, service)| Answer::Service { key, service }),
        (key(), told(path())).prop_map(|(key, path)| Answer::Path { key, path }),
        (key(), told(forward_path())).prop_map(|(key, path)| Answer::ForwardPath { key, path }),
        (key(), told(flows())).prop_map(|(key, conntrack)| Answer::FlowConntrack { key, conntrack }),
        (key(), flow_ends()).prop_map(|(key, ends)| Answer::FlowEnds { key, ends }),
        (key(), told(place())).prop_map(|(key, place)| Answer::DropPlace { key, place }),
        (key(), any::<u64>(), told(Just(None))).prop_map(|(key, address, function)| Answer::Function {
            key,
            address,
            function
        }),
    ]
    .boxed()
}

fn lookup() -> BoxedStrategy<SocketLookup> {
    prop_oneof![
        status().prop_map(SocketLookup::Found),
        Just(SocketLookup::Gone),
        why().prop_map(SocketLookup::Unknown),
    ]
    .boxed()
}

fn status() -> BoxedStrategy<SocketStatus> {
    (any::<u32>(), any::<[u8; 2]>(), duration(), option::of(duration()), option::of(duration()))
        .prop_map(|(inode, [retransmits, probes], heard_ago, data_ago, due_in)| SocketStatus {
            state: TcpState::Established,
            inode,
            retransmits,
            probes,
            heard_ago,
            data_ago,
            timer: due_in.map(|due_in| (SocketTimer::Retransmission, due_in)),
        })
        .boxed()
}

fn conntrack() -> BoxedStrategy<ConntrackStatus> {
    prop_oneof![
        Just(ConntrackStatus::Tracked(entry(), ConntrackSettings::default())),
        Just(ConntrackStatus::Forgotten(ConntrackSettings::default())),
        Just(ConntrackStatus::Inactive),
    ]
    .boxed()
}

fn entry() -> ConntrackEntry {
    ConntrackEntry {
        state: Some(ConntrackState::Established),
        replied: true,
        assured: true,
        expires_in: Some(Duration::from_secs(300)),
        zone: 0,
    }
}

fn service() -> BoxedStrategy<ServiceStatus> {
    (option::of(any::<u32>()), 0..1_000_usize)
        .prop_map(|(listener_inode, connections_with_peer)| ServiceStatus { listener_inode, connections_with_peer })
        .boxed()
}

fn flow_ends() -> BoxedStrategy<FlowEnds> {
    let end = || option::of((any::<u32>(), status()).prop_map(|(netns, status)| HostEnd { netns, status }));
    (end(), end()).prop_map(|(receiver, sender)| FlowEnds { receiver, sender }).boxed()
}

fn owner() -> BoxedStrategy<Owner> {
    (any::<u32>(), [name(), name(), name()])
        .prop_map(|(pid, [cgroup, unit, vm])| Owner {
            pid,
            comm: "haproxy".to_owned(),
            other_holders: 0,
            exe: Some(format!("/home/{SECRET}/bin/haproxy")),
            cgroup: Some(cgroup.clone()),
            place: Place { container_id: Some(cgroup), runtime: None, pod_uid: None, unit: Some(unit), vm: Some(vm) },
        })
        .boxed()
}

fn interface() -> Interface {
    Interface { index: 2, name: "eth0".to_owned() }
}

fn path() -> BoxedStrategy<PathStatus> {
    option::of(address())
        .prop_map(|gateway| PathStatus {
            local_address: true,
            socket: SocketRouting::default(),
            route: Ok(Route { egress: interface(), gateway, neighbour: Some(NeighbourState::Resolved) }),
            ingress: None,
            reverse_path_filter: Some(2),
        })
        .boxed()
}

fn forward_path() -> BoxedStrategy<ForwardPath> {
    (name(), name())
        .prop_map(|(name, uuid)| {
            let machine = Machine { pid: 7, name: Some(name), uuid: Some(uuid) };
            let port = Port { interface: interface(), behind: Some(Behind::Machine(machine)) };
            ForwardPath { ends_here: false, ingress: None, egress: Some(port) }
        })
        .boxed()
}

fn flows() -> BoxedStrategy<FlowConntrack> {
    let flow = (end(), end(), end()).prop_map(|(one, two, three)| TrackedFlow {
        entry: entry(),
        original: (one, two),
        reply: (three, one),
        closed_by: Some(Direction::Reply),
    });
    vec(flow, 0..3).prop_map(|flows| FlowConntrack::Active(flows, ConntrackSettings::default())).boxed()
}

fn place() -> BoxedStrategy<DropPlace> {
    (address(), any::<u64>())
        .prop_map(|(address, handle)| {
            let rule = FilterRule {
                family: "inet".to_owned(),
                table: "filter".to_owned(),
                chain: format!("for-{address}"),
                handle: Some(handle),
                text: format!("ip saddr {address} drop # {SECRET}"),
            };
            DropPlace {
                site: Some(Site::Netfilter(NetfilterHook::Forward)),
                functions: vec!["nf_hook_slow".to_owned(), "ip_forward".to_owned()],
                rules: Knowledge::Known(FilterRules { candidates: vec![rule], left_out: 0 }),
            }
        })
        .boxed()
}
