//! What a recording that is handed on should not tell: addresses, and names of hosts, containers and machines.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipcrypt_rs::IpcryptPfx;
use ipnet::IpNet;
use sha1::{Digest as _, Sha1};
use uuid::Uuid;

use super::{Closing, Input, Opening, scrub::scrub};
use crate::{
    model::{
        Answer, Behind, ConnectionEvent, ConnectionKey, ConntrackStatus, Coverage, DropPlace, DroppedSegment, Event,
        EventKind, FilterRule, FilterRules, FlowConntrack, FlowEnds, ForwardPath, HookStatus, HostEnd, InvalidSegment,
        Knowledge, LinkAddress, Machine, MissingField, Origin, Owner, PathStatus, Place, Port, Route, ScanStatus,
        SelfTest, ServiceStatus, SocketLookup, SocketStatus, TrackedFlow,
    },
    report::Host,
};

/// In place of what is not told at all.
const HIDDEN: &str = "(hidden)";

/// Replaces what a recording should not tell, by a secret that is made for one recording and never written.
///
/// The same address is replaced by the same everywhere in it, and addresses with a common prefix by addresses with a common prefix of
/// that length (ipcrypt-pfx, draft-denis-ipcrypt). Loopback, unspecified, multicast and reserved addresses stay. Names become
/// `hidden-` and digits, the same for the same name.
pub struct Hider {
    addresses: IpcryptPfx,
    names: [u8; 32],
}

impl Hider {
    /// How long a secret is.
    pub const SECRET_BYTES: usize = 64;

    /// Of a random secret; `None` when it is not random.
    pub fn new(secret: &[u8; Self::SECRET_BYTES]) -> Option<Self> {
        let (addresses, names) = secret.split_first_chunk::<{ IpcryptPfx::KEY_BYTES }>()?;
        let (first, second) = addresses.split_at(IpcryptPfx::KEY_BYTES / 2);
        (first != second).then_some(Self { addresses: IpcryptPfx::new(*addresses), names: *names.first_chunk()? })
    }

    /// What stands for this address.
    pub fn address(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(v4) => self.v4(v4).into(),
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| self.v6(v6), |v4| self.v4(v4).to_ipv6_mapped()).into(),
        }
    }

    /// The replacements of addresses that stay are themselves replaced until one is found that does not stay: no two addresses get the
    /// same one.
    fn v4(&self, address: Ipv4Addr) -> Ipv4Addr {
        let mut replaced = address;
        while !stays_v4(address) {
            if let IpAddr::V4(v4) = self.addresses.encrypt_ipaddr(replaced.into()) {
                replaced = v4;
            }
            if !stays_v4(replaced) {
                break;
            }
        }
        replaced
    }

    fn v6(&self, address: Ipv6Addr) -> Ipv6Addr {
        let mut replaced = address;
        while !stays_v6(address) {
            replaced = match self.addresses.encrypt_ipaddr(replaced.into()) {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            if !stays_v6(replaced) && replaced.to_ipv4_mapped().is_none() {
                break;
            }
        }
        replaced
    }

    /// Prefixes stay prefixes; but of those that are shorter than the blocks of addresses that stay, some are moved out of them.
    pub(super) fn prefix(&self, prefix: &mut IpNet) {
        const SHORTEST: u8 = 8;
        let bits = if prefix.prefix_len() < SHORTEST { 0 } else { prefix.prefix_len() };
        let hidden = IpNet::new(self.address(prefix.network()), bits);
        *prefix = hidden.map_or(*prefix, |hidden| hidden.trunc());
    }

    fn digest(&self, text: &[u8]) -> [u8; 20] {
        Sha1::new().chain_update(self.names).chain_update(text).finalize().into()
    }

    fn name(&self, name: &mut String) {
        // The root of all cgroups says nothing.
        if matches!(name.as_str(), "" | "/") {
            return;
        }
        let [a, b, c, d, e, f, ..] = self.digest(name.as_bytes());
        *name = format!("hidden-{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}");
    }

    fn id(&self, id: &[u8]) -> Uuid {
        let [bytes @ .., _, _, _, _] = self.digest(id);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// A text of the kernel's or of a witness's, which may name an address.
    fn text(&self, text: &mut String) {
        *text = scrub(text, |address| self.address(address));
    }

    /// An address in the kernel's code. It tells where the kernel lies in memory (KASLR).
    fn code(&self, address: &mut u64) {
        if *address != 0 {
            let [bytes @ .., _, _, _, _, _, _, _, _, _, _, _, _] = self.digest(&address.to_le_bytes());
            *address = u64::from_le_bytes(bytes) | 1;
        }
    }

    fn link_address(&self, address: &mut LinkAddress) {
        let [bytes @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _] = self.digest(address.as_slice());
        *address = bytes;
    }

    fn end(&self, end: &mut SocketAddr) {
        end.set_ip(self.address(end.ip()));
    }

    fn key(&self, key: &mut ConnectionKey) {
        let ConnectionKey { netns: _, local, remote } = key;
        self.end(local);
        self.end(remote);
    }

    /// Replaces what this input should not tell.
    pub fn hide(&self, input: &mut Input) {
        match input {
            Input::Opening(opening) => {
                let Opening { host, clocks: _, at: _, coverage, filter, is_anonymized } = opening.as_mut();
                filter.peers.iter_mut().for_each(|peer| self.prefix(peer));
                *is_anonymized = true;
                self.host(host);
                self.coverage(coverage);
            }
            Input::Coverage { at: _, coverage } => self.coverage(coverage),
            Input::Event(event) => match event.as_mut() {
                Event::Connection(event) => self.event(event),
                Event::Lost { at: _, place: _, count: _ } => {}
            },
            Input::Answer { at: _, answer } => self.answer(answer),
            Input::Closing(closing) => {
                let Closing { at: _, clocks: _, watched: _, hooks: _, undecodable: _, unasked: _ } = closing.as_ref();
            }
            Input::Timeout { .. } | Input::Clocks(_) | Input::Gap { .. } => {}
        }
    }

    fn host(&self, host: &mut Host) {
        let Host { name, machine_id, boot_id } = host;
        self.name(name);
        if let Some(id) = machine_id {
            *id = self.id(id.as_bytes()).simple().to_string();
        }
        *boot_id = self.id(boot_id.as_bytes());
    }

    fn coverage(&self, coverage: &mut Coverage) {
        let Coverage { kernel_release: _, hooks, missing_fields, scan, self_test, modules: _, costs: _, lifecycle } =
            coverage;
        for status in hooks.iter_mut().map(|(_, status)| status).chain(lifecycle.as_mut().map(|own| &mut own.status)) {
            match status {
                HookStatus::Attached(_) | HookStatus::NotLoaded(_) => {}
                HookStatus::Unsupported(why) | HookStatus::Broken(why) => self.text(why),
            }
        }
        for MissingField { field: _, why, harmless: _ } in missing_fields {
            self.text(why);
        }
        match scan {
            ScanStatus::Iterator => {}
            ScanStatus::SockDiag(why) => self.text(why),
        }
        match self_test {
            None | Some(SelfTest::Passed { .. } | SelfTest::Silent(_)) => {}
            Some(SelfTest::Wrong(wrong)) => wrong.iter_mut().for_each(|wrong| self.text(wrong)),
            Some(SelfTest::NotPossible(why)) => self.text(why),
        }
    }

    fn event(&self, event: &mut ConnectionEvent) {
        let ConnectionEvent { at: _, key, socket: _, kind } = event;
        self.key(key);
        match kind {
            EventKind::SegmentDropped(segment) => self.segment(segment),
            EventKind::SegmentInvalid(invalid) => {
                let InvalidSegment { segment, why, zone: _, hook: _ } = invalid.as_mut();
                self.segment(segment);
                self.text(why);
            }
            EventKind::RetransmissionTimeout { .. }
            | EventKind::SynAckRetransmission
            | EventKind::StateChange { .. }
            | EventKind::ResetReceived
            | EventKind::ResetSent
            | EventKind::Scanned
            | EventKind::ProbeSent { .. }
            | EventKind::SynReceived
            | EventKind::SynAckReceived
            | EventKind::SocketError => {}
        }
    }

    fn segment(&self, segment: &mut DroppedSegment) {
        let DroppedSegment {
            message: _,
            origin,
            sequence: _,
            reason: _,
            location,
            stack,
            function: _,
            stated_bytes: _,
            actual_bytes: _,
            data_bytes: _,
            checksum: _,
            is_tracked: _,
            destination_mac,
        } = segment;
        match origin {
            Origin::Forwarded { ifindex: _, sender } => self.end(sender),
            Origin::Received { .. } | Origin::Sent => {}
        }
        if let Some(mac) = destination_mac {
            self.link_address(mac);
        }
        self.code(location);
        stack.iter_mut().for_each(|address| self.code(address));
    }

    fn answer(&self, answer: &mut Answer) {
        match answer {
            Answer::Socket { key, lookup } => {
                self.key(key);
                match lookup {
                    SocketLookup::Found(status) => plain(status),
                    SocketLookup::Gone => {}
                    SocketLookup::Unknown(why) => self.text(why),
                }
            }
            Answer::Owner { key, owner } => {
                self.key(key);
                self.told(owner, |owner| owner.iter_mut().for_each(|owner| self.owner(owner)));
            }
            Answer::Path { key, path } => {
                self.key(key);
                self.told(path, |path| self.path(path));
            }
            Answer::Conntrack { key, conntrack } => {
                self.key(key);
                self.told(conntrack, |status| match status {
                    ConntrackStatus::Tracked(..) | ConntrackStatus::Forgotten(_) | ConntrackStatus::Inactive => {}
                });
            }
            Answer::Service { key, service } => {
                self.key(key);
                self.told(service, |ServiceStatus { listener_inode: _, connections_with_peer: _ }| {});
            }
            Answer::Function { key, address, function } => {
                self.key(key);
                self.code(address);
                self.told(function, |_| {});
            }
            Answer::ForwardPath { key, path } => {
                self.key(key);
                self.told(path, |ForwardPath { ends_here: _, ingress, egress }| {
                    ingress.iter_mut().chain(egress).for_each(|port| self.port(port));
                });
            }
            Answer::FlowConntrack { key, conntrack } => {
                self.key(key);
                self.told(conntrack, |conntrack| match conntrack {
                    FlowConntrack::Active(flows, _) => flows.iter_mut().for_each(|flow| self.flow(flow)),
                    FlowConntrack::Inactive => {}
                });
            }
            Answer::FlowEnds { key, ends } => {
                self.key(key);
                let FlowEnds { receiver, sender } = ends;
                receiver.iter().chain(sender.iter()).for_each(|HostEnd { netns: _, status }| plain(status));
            }
            Answer::DropPlace { key, place } => {
                self.key(key);
                self.told(place, |DropPlace { site: _, functions: _, rules }| match rules {
                    Knowledge::NotAsked => {}
                    Knowledge::Known(FilterRules { candidates, left_out: _ }) => {
                        candidates.iter_mut().for_each(|rule| self.rule(rule));
                    }
                    Knowledge::Unavailable(why) => self.text(why),
                });
            }
        }
    }

    fn told<T>(&self, answer: &mut Result<T, String>, hide: impl FnOnce(&mut T)) {
        match answer {
            Ok(told) => hide(told),
            Err(why) => self.text(why),
        }
    }

    fn owner(&self, owner: &mut Owner) {
        let Owner { pid: _, comm: _, other_holders: _, exe, cgroup, place } = owner;
        if let Some(exe) = exe {
            *exe = format!("{HIDDEN}/{}", exe.rsplit('/').next().unwrap_or_default());
        }
        let Place { container_id, runtime: _, pod_uid, unit, vm } = place;
        [cgroup, container_id, pod_uid, unit, vm].into_iter().flatten().for_each(|name| self.name(name));
    }

    fn path(&self, path: &mut PathStatus) {
        let PathStatus { local_address: _, socket: _, route, ingress: _, reverse_path_filter: _ } = path;
        if let Ok(Route { egress: _, gateway: Some(gateway), neighbour: _ }) = route {
            *gateway = self.address(*gateway);
        }
    }

    fn port(&self, port: &mut Port) {
        let Port { interface: _, behind } = port;
        match behind {
            Some(Behind::Machine(Machine { pid: _, name, uuid })) => {
                if let Some(name) = name {
                    self.name(name);
                }
                if let Some(uuid) = uuid {
                    *uuid = self.id(uuid.as_bytes()).to_string();
                }
            }
            Some(Behind::Netns(_)) | None => {}
        }
    }

    fn flow(&self, flow: &mut TrackedFlow) {
        let TrackedFlow { entry: _, original, reply, closed_by: _ } = flow;
        for end in [&mut original.0, &mut original.1, &mut reply.0, &mut reply.1] {
            self.end(end);
        }
    }

    fn rule(&self, rule: &mut FilterRule) {
        let FilterRule { family: _, table, chain, handle: _, text } = rule;
        self.text(table);
        self.text(chain);
        HIDDEN.clone_into(text);
    }
}

/// Numbers only. A field that is added is decided upon here.
fn plain(status: &SocketStatus) {
    let SocketStatus { state: _, inode: _, retransmits: _, probes: _, heard_ago: _, data_ago: _, timer: _ } = status;
}

/// 0.0.0.0/8 (this host), loopback, multicast, reserved and broadcast: they tell nothing about a host, and what they are tells much.
const fn stays_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    matches!(first, 0 | 127 | 224..)
}

/// Unspecified, loopback and multicast.
const fn stays_v6(address: Ipv6Addr) -> bool {
    address.is_unspecified() || address.is_loopback() || address.is_multicast()
}
