//! The padding of short frames, and checksums that were taken over it.

use super::{Checksum, DroppedSegment};

/// Bytes that Ethernet carries at least behind its own header (IEEE 802.3; `ETH_ZLEN` less `ETH_HLEN`, `include/uapi/linux/if_ether.h`).
const LEAST_CARRIED: u32 = 46;

impl DroppedSegment {
    /// How many bytes of padding its checksum counts in that it should not, as zeros: with them it is right, without them it is wrong.
    /// The kernel may have cut them off already, but the length of a short frame on the wire is known.
    pub fn padding_in_checksum(&self) -> Option<u32> {
        let Checksum::Wrong { carried, due } = self.checksum else { return None };
        let padding = match self.padding_bytes() {
            0 => LEAST_CARRIED.saturating_sub(self.stated_bytes),
            padding => padding,
        };
        (padding > 0 && over_padding(due, padding) == Some(carried)).then_some(padding)
    }
}

/// The checksum that is due when so many zeros follow: only the length in the pseudo-header grows (RFC 9293 section 3.1, RFC 1071).
fn over_padding(due: u16, padding: u32) -> Option<u16> {
    let mut sum = u32::from(!due).checked_add(padding)?;
    while sum > u32::from(u16::MAX) {
        sum = (sum & u32::from(u16::MAX)) + (sum >> 16);
    }
    u16::try_from(sum).ok().map(|sum| !sum)
}

#[cfg(test)]
mod tests {
    use etherparse::{Ipv4Header, TcpHeader, ip_number};

    use super::*;
    use crate::model::{Origin, dropped_fin};

    fn fin(stated_bytes: u32, actual_bytes: u32, checksum: Checksum) -> DroppedSegment {
        DroppedSegment { stated_bytes, actual_bytes, checksum, ..dropped_fin(Origin::Received { ifindex: 1 }) }
    }

    #[test]
    fn a_checksum_over_the_padding_is_known_whether_the_kernel_has_cut_the_padding_off_or_not() {
        for port in [1, 80, 5672, 0xfff0, 0xffff] {
            let mut tcp = TcpHeader::new(port, 40_000, 1, 1);
            (tcp.fin, tcp.ack) = (true, true);
            let ip = Ipv4Header::new(20, 64, ip_number::TCP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
            let due = tcp.calc_checksum_ipv4(&ip, &[]).unwrap();
            let carried = tcp.calc_checksum_ipv4(&ip, &[0; 6]).unwrap();
            let wrong = Checksum::Wrong { carried, due };
            for actual_bytes in [40, 46] {
                assert_eq!(fin(40, actual_bytes, wrong).padding_in_checksum(), Some(6), "port {port}");
            }
            assert_eq!(fin(40, 50, wrong).padding_in_checksum(), None, "it was padded to more");
            assert_eq!(fin(52, 52, wrong).padding_in_checksum(), None, "no frame that long is padded");
            let damaged = Checksum::Wrong { carried: carried ^ 0x100, due };
            assert_eq!(fin(40, 46, damaged).padding_in_checksum(), None);
            assert_eq!(fin(40, 46, Checksum::Right).padding_in_checksum(), None);
        }
    }
}
