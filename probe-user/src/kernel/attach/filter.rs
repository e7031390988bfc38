//! What the operator asked to observe, in the form the kernel programs test.

use std::net::IpAddr;

use connprobe_common::settings::{MAX_FILTER_PORTS, MAX_FILTER_PREFIXES, Prefix};
use ipnet::IpNet;

use crate::model::Filter;

/// Why a filter cannot be put into the kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// More ports than the programs have room for.
    #[error("{0} ports given, but at most {MAX_FILTER_PORTS} can be filtered at once")]
    TooManyPorts(usize),
    /// More prefixes than the programs have room for.
    #[error("{0} peer prefixes given, but at most {MAX_FILTER_PREFIXES} can be filtered at once")]
    TooManyPrefixes(usize),
}

/// Checks that the filter fits the programs.
///
/// # Errors
///
/// When it names more ports or prefixes than they have room for.
pub fn check_filter(filter: &Filter) -> Result<(), FilterError> {
    if filter.ports.len() > MAX_FILTER_PORTS {
        return Err(FilterError::TooManyPorts(filter.ports.len()));
    }
    if filter.peers.len() > MAX_FILTER_PREFIXES {
        return Err(FilterError::TooManyPrefixes(filter.peers.len()));
    }
    Ok(())
}

/// The prefix as the programs compare it: IPv4 mapped into IPv6, masked.
pub(super) fn prefix(net: &IpNet) -> Prefix {
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut mask = mapped(net.netmask());
    if net.netmask().is_ipv4() {
        // The mapping's own 96 bits always count.
        for byte in mask.iter_mut().take(12) {
            *byte = 0xff;
        }
    }
    Prefix { network: mapped(net.network()), mask }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ConnectionKey;

    fn matches(net: &str, address: &str) -> bool {
        let prefix = prefix(&net.parse().unwrap());
        let address = match address.parse().unwrap() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        u128::from_ne_bytes(address) & u128::from_ne_bytes(prefix.mask) == u128::from_ne_bytes(prefix.network)
    }

    #[test]
    fn prefixes_match_as_the_programs_compare_them() {
        assert!(matches("10.1.0.0/16", "10.1.2.3"));
        assert!(matches("10.1.2.3/16", "10.1.9.9"));
        assert!(!matches("10.1.0.0/16", "10.2.2.3"));
        assert!(matches("0.0.0.0/0", "192.0.2.1"));
        assert!(!matches("0.0.0.0/0", "2001:db8::1"));
        assert!(matches("2001:db8::/32", "2001:db8:1::1"));
        assert!(matches("::/0", "192.0.2.1"));
        assert!(!matches("2001:db8::/32", "10.1.2.3"));
    }

    #[test]
    fn a_connection_passes_by_either_port_and_by_its_peer() {
        let key =
            ConnectionKey { netns: 7, local: ([10, 0, 0, 1], 40_000).into(), remote: ([10, 0, 0, 2], 5672).into() };
        let filter = |ports: &[u16], peers: &str| Filter {
            netns: Some(7),
            ports: ports.to_vec(),
            peers: vec![peers.parse().unwrap()],
        };
        assert!(filter(&[5672], "10.0.0.0/24").passes(&key));
        assert!(filter(&[40_000], "10.0.0.2/32").passes(&key));
        assert!(!filter(&[80], "10.0.0.0/24").passes(&key));
        assert!(!filter(&[5672], "10.0.1.0/24").passes(&key));
        assert!(!Filter { netns: Some(8), ..Filter::default() }.passes(&key));
    }

    #[test]
    fn more_than_fits_is_refused_by_name() {
        let filter = Filter { ports: vec![1; MAX_FILTER_PORTS + 1], ..Filter::default() };
        assert_eq!(check_filter(&filter), Err(FilterError::TooManyPorts(17)));
    }
}
