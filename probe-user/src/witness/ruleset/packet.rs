//! What is known of a packet, and whether it meets a condition of a rule.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde_json::Value;

/// A FIN or a RST.
#[derive(Clone, Copy, Debug)]
pub(in crate::witness) struct Packet {
    pub(in crate::witness) source: SocketAddr,
    pub(in crate::witness) destination: SocketAddr,
    /// Whether connection tracking has given it no connection; `None` where that is not known.
    pub(in crate::witness) is_invalid: Option<bool>,
    /// Whether it is a RST; else it is a FIN.
    pub(in crate::witness) is_reset: bool,
}

impl Packet {
    pub(super) const fn is_ipv4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// Whether it meets a condition; `None` where that cannot be told.
    pub(super) fn matches(&self, condition: &Value) -> Option<bool> {
        let (left, right) = (condition.get("left")?, condition.get("right")?);
        match condition.get("op")?.as_str()? {
            "==" => self.compare(left, right),
            "in" if flags_of(left).is_some() => self.has_one_of(right),
            "in" => self.compare(left, right),
            "!=" => self.compare(left, right).map(|is_met| !is_met),
            _ => None,
        }
    }

    /// Whether what `left` names has the value `right`, or one of its values.
    pub(super) fn compare(&self, left: &Value, right: &Value) -> Option<bool> {
        if let Some(mask) = flags_of(left) {
            return self.has_of_mask(mask?, right);
        }
        let part = left.as_object()?.iter().next();
        let (kind, body) = part?;
        let named = |name: &str| body.get(name).and_then(Value::as_str);
        match (kind.as_str(), named("protocol"), named("field").or(named("key"))) {
            ("meta", _, Some("l4proto")) => any(right, &|value| Some(value.as_str()? == "tcp")),
            ("meta", _, Some("nfproto")) => {
                let own = if self.is_ipv4() { "ipv4" } else { "ipv6" };
                any(right, &|value| Some(value.as_str()? == own))
            }
            ("ct", _, Some("state")) => self.is_in_state(right),
            ("payload", Some("tcp"), Some("sport")) => any(right, &|value| is_port(value, self.source.port())),
            ("payload", Some("tcp"), Some("dport")) => any(right, &|value| is_port(value, self.destination.port())),
            ("payload", Some("ip"), _) if !self.is_ipv4() => Some(false),
            ("payload", Some("ip6"), _) if self.is_ipv4() => Some(false),
            ("payload", Some("ip" | "ip6"), Some("saddr")) => any(right, &|value| is_address(value, self.source)),
            ("payload", Some("ip" | "ip6"), Some("daddr")) => any(right, &|value| is_address(value, self.destination)),
            ("payload", Some("ip"), Some("protocol")) | ("payload", Some("ip6"), Some("nexthdr")) => {
                any(right, &|value| Some(value.as_str()? == "tcp"))
            }
            ("payload", Some("udp" | "udplite" | "icmp" | "icmpv6" | "sctp" | "dccp" | "esp" | "ah" | "igmp"), _) => {
                Some(false)
            }
            _ => None,
        }
    }

    /// An invalid packet has no other state, and one that has a connection is not invalid (`nft_ct_get_eval`).
    fn is_in_state(&self, states: &Value) -> Option<bool> {
        let is_invalid = self.is_invalid?;
        let names_invalid = any(states, &|state| Some(state.as_str()? == "invalid"))?;
        let names_only_invalid = states.as_str().is_some();
        match (is_invalid, names_invalid) {
            (true, true) => Some(true),
            // Kept from connection tracking (`notrack`): not told apart.
            (true, false) => (!any(states, &|state| Some(state.as_str()? == "untracked"))?).then_some(false),
            // Which of the valid states it is in is not looked at.
            (false, true) if names_only_invalid => Some(false),
            (false, _) => None,
        }
    }

    /// The value of a flag, where it is known.
    fn flag(&self, name: &str) -> Option<bool> {
        match name {
            "fin" => Some(!self.is_reset),
            "rst" => Some(self.is_reset),
            "syn" => Some(false),
            _ => None,
        }
    }

    /// `tcp flags & MASK == FLAGS`
    fn has_of_mask(&self, mask: &Value, wanted: &Value) -> Option<bool> {
        let mut is_known = true;
        for name in names(mask)? {
            let is_wanted = names(wanted).is_some_and(|wanted| wanted.contains(&name));
            match self.flag(name) {
                Some(is_set) if is_set != is_wanted => return Some(false),
                Some(_) => {}
                None => is_known = false,
            }
        }
        is_known.then_some(true)
    }

    /// `tcp flags FLAGS`: one of them is enough.
    fn has_one_of(&self, flags: &Value) -> Option<bool> {
        let flags: Vec<_> = names(flags)?.into_iter().map(|name| self.flag(name)).collect();
        if flags.contains(&Some(true)) {
            return Some(true);
        }
        flags.iter().all(Option::is_some).then_some(false)
    }
}

/// Whether it is the TCP flags that are compared: `Some` then, with the mask they are taken with, if there is one.
fn flags_of(left: &Value) -> Option<Option<&Value>> {
    let is_flags = |value: &Value| {
        let named = |name| value.get("payload").and_then(|payload| payload.get(name)).and_then(Value::as_str);
        named("protocol") == Some("tcp") && named("field") == Some("flags")
    };
    if is_flags(left) {
        return Some(None);
    }
    match left.get("&").and_then(Value::as_array).map(Vec::as_slice) {
        Some([flags, mask]) if is_flags(flags) => Some(Some(mask)),
        Some(_) | None => None,
    }
}

/// Names of flags: one, a list, or joined by `|`.
fn names(value: &Value) -> Option<Vec<&str>> {
    if let Some(name) = value.as_str() {
        return Some(vec![name]);
    }
    let several = value.as_array().or_else(|| value.get("|").and_then(Value::as_array));
    let several = several?.iter().map(names).collect::<Option<Vec<_>>>()?;
    Some(several.concat())
}

/// Whether a value, or one of a list or a set of values, fits.
fn any(value: &Value, fits: &impl Fn(&Value) -> Option<bool>) -> Option<bool> {
    let Some(several) = value.as_array().or_else(|| value.get("set").and_then(Value::as_array)) else {
        return fits(value);
    };
    let mut is_known = true;
    for value in several {
        match any(value, fits) {
            Some(true) => return Some(true),
            Some(false) => {}
            None => is_known = false,
        }
    }
    is_known.then_some(false)
}

fn is_port(value: &Value, port: u16) -> Option<bool> {
    let own = u64::from(port);
    if let Some(only) = value.as_u64() {
        return Some(only == own);
    }
    let [first, last] = value.get("range")?.as_array()?.as_slice() else { return None };
    Some((first.as_u64()?..=last.as_u64()?).contains(&own))
}

fn is_address(value: &Value, endpoint: SocketAddr) -> Option<bool> {
    if let Some(only) = value.as_str() {
        // A set's name, or a host's, is no address.
        return Some(only.parse::<std::net::IpAddr>().ok()? == endpoint.ip());
    }
    let prefix = value.get("prefix")?;
    let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
    let network = IpNet::new(prefix.get("addr")?.as_str()?.parse().ok()?, length).ok()?;
    Some(network.contains(&endpoint.ip()))
}
