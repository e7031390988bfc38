use std::net::{IpAddr, SocketAddrV4};

/// The text with each address in it replaced.
pub(super) fn scrub(text: &str, replace: impl Fn(IpAddr) -> IpAddr) -> String {
    let may_be_of_address = |letter: char| letter.is_ascii_hexdigit() || matches!(letter, '.' | ':');
    let mut scrubbed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_candidate = may_be_of_address(first);
        let end = rest.find(|letter| may_be_of_address(letter) != is_candidate).unwrap_or(rest.len());
        let (piece, behind) = rest.split_at(end);
        rest = behind;
        if is_candidate {
            scrubbed.push_str(&replaced(piece, &replace));
        } else {
            scrubbed.push_str(piece);
        }
    }
    scrubbed
}

/// A run of the letters of addresses: one of them, perhaps with a port or with punctuation around it.
fn replaced(run: &str, replace: &impl Fn(IpAddr) -> IpAddr) -> String {
    let whole = |address: &str| {
        address
            .parse::<IpAddr>()
            .map(|address| replace(address).to_string())
            .or_else(|_| {
                let with_port: SocketAddrV4 = address.parse()?;
                Ok::<_, std::net::AddrParseError>(format!("{}:{}", replace((*with_port.ip()).into()), with_port.port()))
            })
            .ok()
    };
    // "::" is an address and not punctuation.
    if let Some(replaced) = whole(run) {
        return replaced;
    }
    let without = run.trim_matches(['.', ':']);
    if let Some(replaced) = whole(without) {
        return run.replacen(without, &replaced, 1);
    }
    // A word before it may end with such letters and a colon ("via:10.0.0.1").
    let behind_a_colon = run.match_indices(':').find_map(|(at, _)| {
        let (before, behind) = run.split_at(at + 1);
        let without = behind.trim_end_matches(['.', ':']);
        Some(before.to_owned() + &behind.replacen(without, &whole(without)?, 1))
    });
    behind_a_colon.unwrap_or_else(|| run.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_texts() {
        let other = |address: IpAddr| match address {
            IpAddr::V4(_) => IpAddr::from([9, 9, 9, 9]),
            IpAddr::V6(_) => "9::9".parse().unwrap(),
        };
        for (text, expected) in [
            ("no route to 10.0.0.1.", "no route to 9.9.9.9."),
            ("10.0.0.1:5672 -> [2001:db8::1]:80, 10.3.0.0/24", "9.9.9.9:5672 -> [9::9]:80, 9.9.9.9/24"),
            ("address: fe80::1: é gone", "address: 9::9: é gone"),
            ("kernel 6.1.0-31 at 12:30:05, 0xffff, dead beef", "kernel 6.1.0-31 at 12:30:05, 0xffff, dead beef"),
            ("via:10.0.0.1 source:10.0.0.1:80.", "via:9.9.9.9 source:9.9.9.9:80."),
            ("", ""),
        ] {
            assert_eq!(scrub(text, other), expected);
        }
    }
}
