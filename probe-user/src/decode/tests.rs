use proptest::prelude::*;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::*;

const UNITS: Units = Units { hz: 250, sock_dead_bit: Some(0), sock_done_bit: Some(1), sock_keepopen_bit: Some(9) };

fn record() -> SocketRecord {
    let mut record = SocketRecord::new_zeroed();
    record.abi_version = ABI_VERSION;
    record.hook = hook::TCP_RETRANSMIT_SKB;
    record.old_state = 1;
    record.new_state = 1;
    record.result = NO_RESULT;
    record.ktime_ns = 10_000_000_000;
    record
}

fn view(record: &SocketRecord) -> SocketView {
    decode(record.as_bytes(), UNITS).unwrap().socket
}

#[test]
fn a_field_whose_bit_is_clear_is_unavailable_not_zero() {
    let view = view(&record());
    assert_eq!(view.snd_una, None);
    assert_eq!(view.rto, None);
    assert_eq!(view.keepalive, None);
    assert_eq!(view.cookie, None);
    assert_eq!(view.state, Some(TcpState::Established));
}

#[test]
fn jiffies_become_durations_by_the_kernels_tick() {
    let mut record = record();
    record.available = Field::IcskRto.bit() | Field::TpRcvTstamp.bit();
    record.rto_jiffies = 50;
    record.jiffies = 0x1_0000_0005;
    record.rcv_tstamp_jiffies = 0xffff_fffb;
    let view = view(&record);
    assert_eq!(view.rto, Some(Duration::from_millis(200)));
    assert_eq!(view.last_ack_ago, Some(Duration::from_millis(40)));
}

#[test]
fn the_retransmission_stamp_is_milliseconds_or_microseconds_of_the_same_clock() {
    let mut record = record();
    record.available = Field::TpRetransStamp.bit();
    record.retrans_stamp = 9_400;
    assert_eq!(view(&record).retransmitting_for, Some(Duration::from_millis(600)));
    record.usec_ts = 1;
    record.retrans_stamp = 9_999_900;
    assert_eq!(view(&record).retransmitting_for, Some(Duration::from_micros(100)));
    record.retrans_stamp = 10_000_001;
    assert_eq!(view(&record).retransmitting_for, Some(Duration::ZERO));
    record.retrans_stamp = 0;
    assert_eq!(view(&record).retransmitting_for, None);
}

#[test]
fn what_was_last_heard_of_weeks_ago_is_weeks_old() {
    let seen = |now: u64, stamp: u32| {
        let mut record = record();
        record.available = Field::TpRcvTstamp.bit() | Field::IcskAckLrcvtime.bit();
        (record.jiffies, record.rcv_tstamp_jiffies, record.lrcvtime_jiffies) = (now, stamp, stamp);
        let view = view(&record);
        assert_eq!(view.last_ack_ago, view.last_data_ago);
        view.last_ack_ago
    };
    let now = 0x3_0000_1000;
    for ticks in [0, 1, 249, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, u32::MAX - 250 * 60] {
        let stamp = low_32_bits(now).wrapping_sub(ticks);
        assert_eq!(seen(now, stamp), Some(UNITS.jiffies(ticks)), "{ticks} ticks");
    }
    for ahead in [1, 250, 250 * 60 - 1] {
        assert_eq!(seen(now, low_32_bits(now) + ahead), Some(Duration::ZERO), "{ahead} ticks ahead");
    }
    // Just booted: the count is about to wrap (`INITIAL_JIFFIES` is -300 HZ), and a stamp that was never set is 0.
    let boot = 0x1_0000_0000 - 300 * 250;
    assert_eq!(seen(boot + 500, low_32_bits(boot)), Some(Duration::from_secs(2)));
    assert_eq!(seen(boot + 500, 0), None);
    assert_eq!(seen(boot + 301 * 250, low_32_bits(boot + 299 * 250)), Some(Duration::from_secs(2)));
}

#[test]
fn a_microsecond_stamp_is_told_for_as_long_as_it_does_not_wrap() {
    let mut record = record();
    record.available = Field::TpRetransStamp.bit();
    record.usec_ts = 1;
    record.ktime_ns = 10_000_000_000_000;
    // Forty minutes: more than 2^31 microseconds.
    record.retrans_stamp = low_32_bits((record.ktime_ns - 2_400_000_000_000) / 1_000);
    assert_eq!(view(&record).retransmitting_for, Some(Duration::from_secs(2_400)));
}

#[test]
fn a_retransmission_that_is_told_without_a_result_has_been_sent() {
    let kind = |hook, result| {
        let mut record = record();
        (record.hook, record.result) = (hook, result);
        decode(record.as_bytes(), UNITS).unwrap().kind
    };
    let timeout = |result| kind(hook::TCP_RETRANSMIT_SKB, result);
    assert_eq!(timeout(NO_RESULT), EventKind::RetransmissionTimeout { send_result: Some(0) });
    assert_eq!(timeout(-113), EventKind::RetransmissionTimeout { send_result: Some(-113) });
    assert_eq!(kind(hook::TCP_WRITE_WAKEUP, NO_RESULT), EventKind::ProbeSent { send_result: None });
}

#[test]
fn a_request_that_the_scan_finds_is_as_at_its_latest_repeat() {
    let mut record = record();
    (record.hook, record.old_state, record.new_state) = (hook::SCAN, 12, 12);
    record.available = Field::ReqNumTimeout.bit() | Field::ReqNumRetrans.bit();
    (record.retransmits, record.total_retrans) = (2, 3);
    let event = decode(record.as_bytes(), UNITS).unwrap();
    assert_eq!(event.kind, EventKind::SynAckRetransmission);
    assert_eq!((event.socket.retransmits, event.socket.total_retransmits), (Some(1), Some(2)));
}

#[test]
fn what_comes_in_for_a_synchronized_connection_is_told_by_its_flags() {
    let kind = |flags, state| {
        let mut record = record();
        (record.hook, record.segment_flags, record.old_state, record.new_state) =
            (hook::KFREE_SKB, flags, state, state);
        decode(record.as_bytes(), UNITS).unwrap().kind
    };
    for state in [UNKNOWN_STATE, 1] {
        assert_eq!(kind(0x02, state), EventKind::SynReceived);
        assert_eq!(kind(0x12, state), EventKind::SynAckReceived);
    }
}

#[test]
fn ipv4_mapped_addresses_are_the_ipv4_addresses_they_map() {
    let mut record = record();
    record.local_address = std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets();
    record.local_port = 5672;
    record.remote_address = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
    let key = decode(record.as_bytes(), UNITS).unwrap().key;
    assert_eq!(key.local.to_string(), "10.0.0.1:5672");
    assert_eq!(key.remote.to_string(), "[2001:db8::1]:0");
}

#[test]
fn keepalive_settings_of_zero_mean_the_namespaces_default() {
    let mut record = record();
    record.available = Field::SkFlags.bit()
        | Field::TpKeepaliveTime.bit()
        | Field::TpKeepaliveIntvl.bit()
        | Field::TpKeepaliveProbes.bit();
    record.sk_flags = 1 << 9;
    record.keepalive_probes = 3;
    let keepalive = view(&record).keepalive.unwrap();
    assert!(keepalive.enabled);
    assert_eq!((keepalive.idle, keepalive.interval, keepalive.probes), (None, None, Some(3)));
}

#[test]
fn what_no_program_writes_is_named() {
    let bytes = record();
    let bytes = bytes.as_bytes();
    assert_eq!(decode(&bytes[1..], UNITS), Err(DecodeError::Length { actual: 215, expected: 216 }));
    let mut other = record();
    other.abi_version = 9;
    assert_eq!(decode(other.as_bytes(), UNITS), Err(DecodeError::Version(9)));
    let mut other = record();
    other.hook = 77;
    assert_eq!(decode(other.as_bytes(), UNITS), Err(DecodeError::Hook(77)));
    let mut other = record();
    other.new_state = 0;
    assert_eq!(decode(other.as_bytes(), UNITS), Err(DecodeError::State(0)));
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), hz: u32) {
        let _ = decode(&bytes, Units { hz, sock_dead_bit: Some(200), ..Units::default() });
    }

    #[test]
    fn no_record_of_the_right_length_makes_the_decoder_panic(
        bytes in proptest::collection::vec(any::<u8>(), size_of::<SocketRecord>()),
        hook in 0u16..9,
        state in 0u8..14,
        hz: u32,
    ) {
        let mut record = SocketRecord::read_from_bytes(&bytes).unwrap();
        record.abi_version = ABI_VERSION;
        record.hook = hook;
        record.old_state = state;
        record.new_state = state;
        let _ = decode(record.as_bytes(), Units { hz, ..UNITS });
    }
}
