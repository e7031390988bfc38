//! Headers of a dropped segment become a [`DroppedSegment`].

use std::net::{IpAddr, SocketAddr};

use connprobe_common::abi::{DropRecord, InvalidRecord, NO_ZONE, UNKNOWN};
use etherparse::{Ipv4Header, Ipv6Header, TcpHeader};

use super::DecodeError;
use crate::model::{
    Checksum, ConnectionEvent, ConnectionKey, ControlMessage, DropReason, DroppedSegment, EventKind, InvalidSegment,
    MonoTime, NetfilterHook, Origin, SocketView,
};

/// `CHECKSUM_PARTIAL` (`include/linux/skbuff.h`): only the pseudo-header's sum is in its place yet.
const CHECKSUM_PARTIAL: u8 = 3;

/// The two versions of IP.
enum Ip {
    V4(Ipv4Header),
    V6(Ipv6Header),
}

impl Ip {
    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        match bytes.first()? >> 4 {
            4 => Ipv4Header::from_slice(bytes).ok().map(|(header, rest)| (Self::V4(header), rest)),
            6 => Ipv6Header::from_slice(bytes).ok().map(|(header, rest)| (Self::V6(header), rest)),
            _ => None,
        }
    }

    fn source(&self) -> IpAddr {
        match self {
            Self::V4(header) => header.source.into(),
            Self::V6(header) => IpAddr::from(header.source).to_canonical(),
        }
    }

    fn destination(&self) -> IpAddr {
        match self {
            Self::V4(header) => header.destination.into(),
            Self::V6(header) => IpAddr::from(header.destination).to_canonical(),
        }
    }

    /// Bytes of its own header, and of the whole packet as it states them.
    fn lengths(&self) -> (u32, u32) {
        match self {
            Self::V4(header) => (u32::try_from(header.header_len()).unwrap_or(0), u32::from(header.total_len)),
            Self::V6(header) => {
                let own = u32::try_from(Ipv6Header::LEN).unwrap_or(0);
                (own, own + u32::from(header.payload_length))
            }
        }
    }

    /// The checksum that a segment without data must carry.
    fn checksum_of(&self, tcp: &TcpHeader) -> Option<u16> {
        match self {
            Self::V4(header) => tcp.calc_checksum_ipv4(header, &[]).ok(),
            Self::V6(header) => tcp.calc_checksum_ipv6(header, &[]).ok(),
        }
    }
}

/// What the flags say, the weightiest first.
const fn message(tcp: &TcpHeader, data_bytes: u32) -> ControlMessage {
    match (tcp.rst, tcp.fin, tcp.syn, tcp.ack) {
        (true, _, _, _) => ControlMessage::Reset,
        (false, true, _, _) => ControlMessage::Fin,
        (false, false, true, true) => ControlMessage::SynAck,
        (false, false, true, false) => ControlMessage::Syn,
        (false, false, false, _) if data_bytes > 0 => ControlMessage::Data,
        (false, false, false, _) => ControlMessage::Ack,
    }
}

/// Decodes the record of a dropped segment.
pub(super) fn decode(record: &DropRecord) -> Result<ConnectionEvent, DecodeError> {
    let reason = DropReason::from_code(record.reason).ok_or(DecodeError::DropReason(record.reason))?;
    let (key, segment) = packet(record, reason)?;
    Ok(event(record, key, EventKind::SegmentDropped(Box::new(segment))))
}

/// Decodes the record of a segment that connection tracking holds for invalid.
pub(super) fn decode_invalid(record: &InvalidRecord) -> Result<ConnectionEvent, DecodeError> {
    let (key, segment) = packet(&record.packet, DropReason::Unseen)?;
    let invalid = InvalidSegment {
        // `nf_conntrack_in` takes away the connection that it has just given.
        segment: DroppedSegment { is_tracked: Some(false), ..segment },
        why: plain(&record.text),
        zone: if record.zone == NO_ZONE { None } else { u16::try_from(record.zone).ok() },
        hook: NetfilterHook::from_kernel(record.netfilter_hook),
    };
    Ok(event(&record.packet, key, EventKind::SegmentInvalid(Box::new(invalid))))
}

/// The kernel's text, up to the zero that ends it, with an ellipsis in the place of what it would write in.
fn plain(text: &[u8]) -> String {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut plain = String::from_utf8_lossy(text).trim().to_owned();
    for placeholder in ["%u", "%d", "%s", "%i", "%x"] {
        plain = plain.replace(placeholder, "…");
    }
    plain
}

fn event(record: &DropRecord, key: ConnectionKey, kind: EventKind) -> ConnectionEvent {
    ConnectionEvent { at: MonoTime::from_ns(record.ktime_ns), key, socket: SocketView::default(), kind }
}

/// Whose segment a record is about, and what it is.
fn packet(record: &DropRecord, reason: DropReason) -> Result<(ConnectionKey, DroppedSegment), DecodeError> {
    let headers = record.headers.get(..usize::from(record.headers_bytes)).ok_or(DecodeError::Headers)?;
    let (ip, rest) = Ip::parse(headers).ok_or(DecodeError::Headers)?;
    let (tcp, _) = TcpHeader::from_slice(rest).map_err(|_| DecodeError::Headers)?;
    let (ip_bytes, stated_bytes) = ip.lengths();
    let tcp_bytes = u32::try_from(tcp.header_len()).unwrap_or(0);
    let data_bytes = stated_bytes.saturating_sub(ip_bytes + tcp_bytes);
    let (source, destination) =
        (SocketAddr::new(ip.source(), tcp.source_port), SocketAddr::new(ip.destination(), tcp.destination_port));
    // Who receives it holds the destination, who has made it the source.
    let (origin, local, remote) = match record.ingress_ifindex {
        0 => (Origin::Sent, source, destination),
        ifindex => (Origin::Received { ifindex }, destination, source),
    };
    let segment = DroppedSegment {
        message: message(&tcp, data_bytes),
        origin,
        sequence: tcp.sequence_number,
        reason,
        location: record.location,
        stack: record.stack,
        function: None,
        stated_bytes,
        // 0 where it was not read.
        actual_bytes: if record.packet_bytes == 0 { stated_bytes } else { record.packet_bytes },
        data_bytes,
        checksum: match ip.checksum_of(&tcp) {
            _ if record.checksum_state == CHECKSUM_PARTIAL => Checksum::Offloaded,
            Some(due) if data_bytes == 0 && record.checksum_state != UNKNOWN => {
                if due == tcp.checksum {
                    Checksum::Right
                } else {
                    Checksum::Wrong { carried: tcp.checksum, due }
                }
            }
            Some(_) | None => Checksum::NotVerifiable,
        },
        is_tracked: match record.is_tracked {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
        destination_mac: (record.destination_mac != [0; 6]).then_some(record.destination_mac),
    };
    Ok((ConnectionKey { netns: record.netns, local, remote }, segment))
}

#[cfg(test)]
mod tests {
    use connprobe_common::abi::{ABI_VERSION, hook};
    use etherparse::PacketBuilder;
    use proptest::prelude::*;
    use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

    use super::*;
    use crate::decode::Units;

    const SERVER: [u8; 4] = [10, 0, 0, 2];
    const CLIENT: [u8; 4] = [10, 0, 0, 1];

    fn record(packet: &[u8]) -> DropRecord {
        let mut record = DropRecord::new_zeroed();
        record.abi_version = ABI_VERSION;
        record.hook = hook::KFREE_SKB;
        record.reason = DropReason::NetfilterDrop.code().into();
        record.netns = 7;
        record.ingress_ifindex = 3;
        record.packet_bytes = u32::try_from(packet.len()).unwrap();
        record.headers_bytes = u16::try_from(packet.len()).unwrap();
        record.headers[..packet.len()].copy_from_slice(packet);
        record
    }

    fn fin() -> Vec<u8> {
        let builder = PacketBuilder::ipv4(SERVER, CLIENT, 64).tcp(5672, 40_000, 1, 1_000).fin().ack(9);
        let mut packet = Vec::new();
        builder.write(&mut packet, &[]).unwrap();
        packet
    }

    fn segment(record: &DropRecord) -> DroppedSegment {
        let event = crate::decode::decode(record.as_bytes(), Units::default()).unwrap();
        assert_eq!(event.key.netns, 7);
        let EventKind::SegmentDropped(segment) = event.kind else { panic!("{:?}", event.kind) };
        *segment
    }

    #[test]
    fn a_received_fin_belongs_to_the_end_it_was_sent_to_and_a_sent_one_to_its_sender() {
        let mut record = record(&fin());
        let key = |record: &DropRecord| decode(record).unwrap().key;
        assert_eq!(key(&record).local, (CLIENT, 40_000).into());
        assert_eq!(segment(&record).origin, Origin::Received { ifindex: 3 });
        assert_eq!(segment(&record).destination_mac, None);
        record.destination_mac = [0xfa, 0x16, 0x3e, 1, 2, 3];
        assert_eq!(segment(&record).destination_mac, Some([0xfa, 0x16, 0x3e, 1, 2, 3]));
        record.ingress_ifindex = 0;
        assert_eq!(key(&record).local, (SERVER, 5672).into());
        assert_eq!(segment(&record).origin, Origin::Sent);
    }

    #[test]
    fn a_segment_is_what_its_flags_say() {
        let message = |flags: u8, data_bytes: u16| {
            let mut packet = fin();
            let length = 40 + data_bytes;
            packet[2..4].copy_from_slice(&length.to_be_bytes());
            packet[33] = flags;
            segment(&record(&packet)).message
        };
        assert_eq!(message(0x02, 0), ControlMessage::Syn);
        assert_eq!(message(0x12, 0), ControlMessage::SynAck);
        assert_eq!((message(0x10, 0), message(0x18, 9)), (ControlMessage::Ack, ControlMessage::Data));
        assert_eq!((message(0x11, 9), message(0x14, 0)), (ControlMessage::Fin, ControlMessage::Reset));
    }

    #[test]
    fn a_checksum_is_verified_from_the_headers() {
        let whole = segment(&record(&fin()));
        assert_eq!((whole.message, whole.checksum), (ControlMessage::Fin, Checksum::Right));
        assert_eq!((whole.sequence, whole.end_sequence()), (1, 1));
        let mut packet = fin();
        packet[36] ^= 0x12;
        assert!(matches!(segment(&record(&packet)).checksum, Checksum::Wrong { carried, due } if carried != due));
        let mut offloaded = record(&packet);
        offloaded.checksum_state = CHECKSUM_PARTIAL;
        assert_eq!(segment(&offloaded).checksum, Checksum::Offloaded);
    }

    #[test]
    fn what_connection_tracking_says_is_told_in_its_words_without_the_numbers() {
        let invalid = |text: &[u8], zone| {
            let mut record = InvalidRecord::new_zeroed();
            record.packet = self::record(&fin());
            record.packet.hook = hook::NF_CT_LOG_INVALID;
            record.packet.reason = 0;
            (record.zone, record.netfilter_hook) = (zone, 3);
            record.text[..text.len()].copy_from_slice(text);
            let kind = crate::decode::decode(record.as_bytes(), Units::default()).unwrap().kind;
            let EventKind::SegmentInvalid(invalid) = kind else { panic!("{kind:?}") };
            *invalid
        };
        let checksum = invalid(b"bad checksum", NO_ZONE);
        assert!(checksum.is_verdict() && checksum.is_about_checksum());
        assert_eq!((checksum.why.as_str(), checksum.zone), ("bad checksum", None));
        assert_eq!((checksum.segment.reason, checksum.segment.stated_bytes), (DropReason::Unseen, 40));
        let window = invalid(b"SEQ is over upper bound %u (over the window of the receiver)", 7);
        assert_eq!(window.why, "SEQ is over upper bound … (over the window of the receiver)");
        assert!(window.is_verdict() && window.is_about_window());
        assert_eq!((window.zone, window.hook), (Some(7), Some(NetfilterHook::Output)));
        for accepted in [&b"packet (index %d) in dir %d ignored, state %s"[..], b"lowered timeout to UNACK"] {
            assert!(!invalid(accepted, 0).is_verdict());
        }
        assert_eq!(invalid(&[b'x'; 80], 0).why, "x".repeat(80), "one that no zero ends");
    }

    #[test]
    fn a_fin_with_data_is_not_verified_because_its_data_is_not_there() {
        let builder = PacketBuilder::ipv4(SERVER, CLIENT, 64).tcp(5672, 40_000, 1, 1_000).fin();
        let mut packet = Vec::new();
        builder.write(&mut packet, b"bye").unwrap();
        let mut record = record(&packet[..40]);
        record.packet_bytes = 43;
        let segment = segment(&record);
        assert_eq!((segment.data_bytes, segment.checksum), (3, Checksum::NotVerifiable));
        assert_eq!((segment.sequence, segment.end_sequence()), (1, 4));
    }

    #[test]
    fn bytes_behind_the_stated_end_are_padding() {
        let mut record = record(&fin());
        record.packet_bytes = 46;
        let segment = segment(&record);
        assert_eq!((segment.stated_bytes, segment.padding_bytes()), (40, 6));
    }

    #[test]
    fn ipv6_is_read_alike() {
        let builder = PacketBuilder::ipv6([1; 16], [2; 16], 64).tcp(5672, 40_000, 1, 1_000).rst();
        let mut packet = Vec::new();
        builder.write(&mut packet, &[]).unwrap();
        let segment = segment(&record(&packet));
        assert_eq!((segment.message, segment.checksum), (ControlMessage::Reset, Checksum::Right));
        assert_eq!((segment.stated_bytes, segment.padding_bytes(), segment.data_bytes), (60, 0, 0));
    }

    #[test]
    fn what_is_no_segment_or_has_no_known_reason_is_an_error() {
        let mut cut = record(&fin());
        cut.headers_bytes = 30;
        assert_eq!(decode(&cut), Err(DecodeError::Headers));
        cut.headers_bytes = 500;
        assert_eq!(decode(&cut), Err(DecodeError::Headers));
        let mut unknown = record(&fin());
        unknown.reason = 99;
        assert_eq!(decode(&unknown), Err(DecodeError::DropReason(99)));
    }

    proptest! {
        #[test]
        fn no_record_makes_the_decoder_panic(
            bytes in proptest::collection::vec(any::<u8>(), size_of::<DropRecord>()),
            headers_bytes in 0u16..130,
            first: u8,
        ) {
            let mut record = DropRecord::read_from_bytes(&bytes).unwrap();
            record.reason = 1;
            record.headers_bytes = headers_bytes;
            record.headers[0] = 0x40 | first & 0x2f;
            let _ = decode(&record);
        }
    }
}
