use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use proptest::prelude::*;

use super::{
    arbitrary::{SECRET, address, inputs},
    *,
};
use crate::model::{ConnectionEvent, ConnectionKey, Coverage, Event, EventKind, MonoTime, SocketView};

/// A recording of these inputs, some in each frame, and where each frame ends.
fn recording(inputs: &[Input], in_a_frame: usize) -> (Vec<u8>, Vec<(usize, usize)>) {
    let mut bytes = header().into_bytes();
    let mut ends = vec![(bytes.len(), 0)];
    let mut writer = FrameWriter::default();
    let mut written = 0;
    for some in inputs.chunks(in_a_frame) {
        some.iter().for_each(|input| writer.add(input).unwrap());
        let (frame, count) = writer.take().unwrap();
        assert_eq!(count, u64::try_from(some.len()).unwrap());
        bytes.extend(frame);
        written += some.len();
        ends.push((bytes.len(), written));
    }
    (bytes, ends)
}

/// What can be read, and why no more.
fn read(bytes: &[u8]) -> Result<(Vec<Input>, Option<Damage>), NotARecording> {
    let mut reader = Reader::new(bytes)?;
    let mut inputs = Vec::new();
    loop {
        match reader.next_frame() {
            Ok(Some(more)) => inputs.extend(more),
            Ok(None) => return Ok((inputs, None)),
            Err(damage) => {
                assert!(reader.next_frame().unwrap().is_none(), "nothing comes behind what is damaged");
                return Ok((inputs, Some(damage)));
            }
        }
    }
}

fn hider(seed: u8) -> Hider {
    Hider::new(&std::array::from_fn(|index| u8::try_from(index).unwrap().wrapping_mul(31).wrapping_add(seed))).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(inputs in inputs(), in_a_frame in 1_usize..10) {
        let (read, damage) = read(&recording(&inputs, in_a_frame).0).unwrap();
        prop_assert_eq!(read, inputs);
        prop_assert!(damage.is_none());
    }

    #[test]
    fn of_a_recording_that_was_cut_off_every_whole_frame_is_read(inputs in inputs(), cut in any::<prop::sample::Index>()) {
        let (bytes, ends) = recording(&inputs, 3);
        let cut = cut.index(bytes.len() + 1);
        let whole = ends.iter().rev().find(|(end, _)| *end <= cut);
        match (read(&bytes[..cut]), whole) {
            (Ok((read, damage)), Some((end, count))) => {
                prop_assert_eq!(read.as_slice(), &inputs[..*count]);
                prop_assert_eq!(damage.is_some(), *end < cut);
                if let Some(damage) = damage {
                    prop_assert!(matches!(damage.kind, DamageKind::Truncated));
                    prop_assert_eq!(damage.at_byte, u64::try_from(*end).unwrap());
                }
            }
            (Err(_), None) => {}
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn whatever_byte_is_damaged_what_is_read_was_written(
        inputs in inputs(),
        index in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        let (mut bytes, ends) = recording(&inputs, 3);
        let index = index.index(bytes.len());
        bytes[index] ^= flip;
        match read(&bytes) {
            Ok((read, damage)) => {
                let (_, before) = ends.iter().rev().find(|(end, _)| *end <= index).copied().unwrap_or_default();
                // Else it was in the version of the program, which decides nothing.
                if index >= ends[0].0 {
                    prop_assert_eq!(read.as_slice(), &inputs[..before]);
                    prop_assert!(damage.is_some());
                }
            }
            Err(_) => prop_assert!(index < ends[0].0),
        }
    }

    #[test]
    fn any_bytes_behind_the_header_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
        let _ = read(&[header().as_bytes(), &bytes].concat());
        // A frame that was damaged on purpose has the right checksum.
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let crc = format::checksum(length, &bytes).to_le_bytes();
        let _ = read(&[header().as_bytes(), &length, &crc, &bytes].concat());
    }

    #[test]
    fn nothing_that_must_be_hidden_is_left(inputs in inputs(), seed in any::<u8>()) {
        let hider = hider(seed);
        let mut hidden = inputs.clone();
        hidden.iter_mut().for_each(|input| hider.hide(input));
        let before = format!("{inputs:?}");
        let after = format!("{hidden:?}");
        prop_assert!(!after.contains(SECRET), "{after}");
        let left: Vec<_> = addresses(&after).intersection(&addresses(&before)).copied().collect();
        // One address may by chance stand for another.
        let by_chance = addresses(&before).iter().map(|address| hider.address(*address)).collect::<BTreeSet<_>>();
        prop_assert!(left.iter().all(|address| hider.address(*address) == *address || by_chance.contains(address)), "{left:?}");
        let (bytes, _) = recording(&hidden, 1_000);
        prop_assert_eq!(read(&bytes).unwrap().0, hidden);
    }

    #[test]
    fn addresses_keep_their_common_prefix_and_stay_different(one in address(), other in address(), bits in 0_u32..128) {
        let hider = hider(1);
        prop_assert_eq!(hider.address(one) == hider.address(other), one == other);
        let (IpAddr::V6(one), IpAddr::V6(other)) = (one, other) else { return Ok(()) };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        let near = std::net::Ipv6Addr::from_bits(one.to_bits() & mask | other.to_bits() & !mask);
        if one.is_multicast() || near.is_multicast() {
            return Ok(());
        }
        let common = (one.to_bits() ^ near.to_bits()).leading_zeros();
        let [IpAddr::V6(one), IpAddr::V6(near)] = [one, near].map(|v6| hider.address(v6.into())) else { unreachable!() };
        // One of 256 blocks is mapped to multicast addresses and moved on as a whole.
        if common >= 8 {
            prop_assert_eq!((one.to_bits() ^ near.to_bits()).leading_zeros(), common);
        }
    }
}

proptest! {
    #[test]
    fn a_prefix_that_is_hidden_still_holds_its_addresses(address in address(), bits in 0_u8..=128) {
        let hider = hider(3);
        let Ok(mut prefix) = ipnet::IpNet::new(address, bits) else { return Ok(()) };
        hider.prefix(&mut prefix);
        prop_assert!(prefix.contains(&hider.address(address)), "{prefix} {address}");
    }
}

/// Every address in a text as `Debug` writes it.
fn addresses(text: &str) -> BTreeSet<IpAddr> {
    let found = std::cell::RefCell::new(BTreeSet::new());
    scrub::scrub(text, |address| {
        found.borrow_mut().insert(address);
        address
    });
    found.into_inner()
}

#[test]
fn what_an_address_is_stays_and_its_prefix_is_kept() {
    let hider = hider(7);
    let hide = |address: &str| hider.address(address.parse().unwrap());
    for stays in ["127.0.0.53", "0.0.0.0", "224.0.0.251", "255.255.255.255", "::", "::1", "ff02::1"] {
        assert_eq!(hide(stays), stays.parse::<IpAddr>().unwrap());
    }
    let v4 = ["10.77.1.1", "10.77.1.254", "10.77.2.1", "::ffff:10.77.1.1"].map(hide);
    let bits = |address: &IpAddr| match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => panic!("{v6}"),
    };
    let common = |one: &IpAddr, other: &IpAddr| (bits(one) ^ bits(other)).leading_zeros();
    assert_eq!((common(&v4[0], &v4[1]), common(&v4[0], &v4[2]), common(&v4[0], &v4[3])), (24, 22, 32));
    // Every block of addresses has one of its own, the kept ones among them.
    let blocks: BTreeSet<_> = (0..=255_u8).map(|first| bits(&hider.address([first, 1, 2, 3].into())) >> 24).collect();
    assert_eq!(blocks.len(), 256);
}

#[test]
fn names_are_the_same_for_the_same_and_say_nothing() {
    let opening = |seed, name: &str| {
        let host = crate::report::Host {
            name: name.to_owned(),
            machine_id: Some("0123456789abcdef0123456789abcdef".to_owned()),
            boot_id: uuid::Uuid::from_u128(7),
        };
        let coverage = Coverage::of_sock_diag_alone("6.1.0".to_owned(), "");
        let at = MonoTime::from_ns(1);
        let clocks = SameMoment::new(at, jiff::Timestamp::UNIX_EPOCH);
        let peers = vec!["10.3.0.0/16".parse().unwrap()];
        let filter = crate::model::Filter { peers, ..crate::model::Filter::default() };
        let mut input = Input::Opening(Box::new(Opening { host, clocks, at, coverage, filter, is_anonymized: false }));
        hider(seed).hide(&mut input);
        let Input::Opening(opening) = input else { panic!("{input:?}") };
        *opening
    };
    let hidden = opening(1, "compute-3");
    assert!(hidden.is_anonymized && hidden.host.name.starts_with("hidden-"));
    assert_eq!(hidden.host.machine_id.as_ref().unwrap().len(), 32);
    assert_ne!(hidden.filter.peers, ["10.3.0.0/16".parse().unwrap()]);
    let [peer] = *hidden.filter.peers else { panic!("{:?}", hidden.filter) };
    assert!(peer.contains(&hider(1).address([10, 3, 7, 7].into())) && peer.prefix_len() == 16);
    assert_eq!(hidden, opening(1, "compute-3"));
    assert_ne!(hidden.host.name, opening(1, "compute-4").host.name);
    assert_ne!(hidden.host, opening(2, "compute-3").host);
}

#[test]
fn what_is_no_recording_is_told_apart() {
    assert!(matches!(Reader::new(&b""[..]), Err(NotARecording::Empty)));
    for foreign in
        ["x", "\0\0\0", "connprobe-recording", "connprobe-recording one 0.1.0\n", "connprobe-recordings 1 0.1.0\n"]
    {
        assert!(matches!(Reader::new(foreign.as_bytes()), Err(NotARecording::Foreign)), "{foreign}");
    }
    let error = Reader::new(&b"connprobe-recording 2 9.9.9 more\nrest"[..]).unwrap_err().to_string();
    assert!(error.contains("format 2 by connprobe 9.9.9") && error.contains("format 1"), "{error}");
    let header = header();
    Reader::new(header.as_bytes()).unwrap();
    assert_eq!(header.trim_end().rsplit(' ').next(), Some(env!("CARGO_PKG_VERSION")));
}

/// A later version adds fields, and an earlier one knows fewer.
#[test]
fn fields_may_be_added() {
    use ciborium::value::Value;
    let input = Input::Gap { inputs: 7 };
    let mut bytes = Vec::new();
    ciborium::into_writer(&input, &mut bytes).unwrap();
    let mut value: Value = ciborium::from_reader(bytes.as_slice()).unwrap();
    let gap = value.as_map_mut().unwrap()[0].1.as_map_mut().unwrap();
    gap.push((Value::from("why"), Value::from("a slow disk")));
    assert_eq!(value.deserialized::<Input>().unwrap(), input);
}

/// Sums of times that are made up would overflow.
#[test]
fn a_time_that_no_kernel_tells_is_refused() {
    let event = |seconds| {
        let key = ConnectionKey { netns: 1, local: ([10, 0, 0, 1], 1).into(), remote: ([10, 0, 0, 2], 2).into() };
        let rto = Some(Duration::from_secs(seconds));
        Input::Event(Box::new(Event::Connection(ConnectionEvent {
            at: MonoTime::from_ns(1),
            key,
            socket: SocketView { rto, ..Default::default() },
            kind: EventKind::Scanned,
        })))
    };
    let longest = u64::from(u32::MAX);
    let (inputs, damage) = read(&recording(&[event(longest), event(longest + 1)], 1).0).unwrap();
    assert_eq!(inputs, [event(longest)]);
    assert!(matches!(damage.unwrap().kind, DamageKind::Unknown(_)));
}
