//! What a finding says of a FIN or a RST that was thrown away.

use crate::{
    case::Finding,
    judge::{Evidence, Verdict},
    model::{Checksum, ControlMessage, DroppedSegment, FilterRule, InvalidSegment, Knowledge, Origin, Site},
};

pub(super) fn latest_dropped(finding: &Finding) -> Option<&DroppedSegment> {
    Evidence::dropped(&finding.evidence).map(|[_, (_, latest)]| latest)
}

/// What was dropped, up to the colon before who did it.
pub(super) fn dropped(finding: &Finding, since: &str) -> String {
    let (name, sender) = latest_dropped(finding)
        .map_or(("FIN", true), |segment| (segment.message.name(), !matches!(segment.origin, Origin::Sent)));
    let peer = finding.id.key.remote.ip();
    let whose = if sender {
        format!("{peer} has ended the connection, but its {name}")
    } else {
        format!("The {name} of this host")
    };
    format!("{whose} was thrown away on this host {since}:")
}

/// What connection tracking has told of the latest that was dropped.
pub(super) fn why_invalid(finding: &Finding) -> Option<&InvalidSegment> {
    let [_, (at, latest)] = Evidence::dropped(&finding.evidence)?;
    Evidence::why_invalid(&finding.evidence, at, latest)
}

/// Who dropped what connection tracking held for invalid.
pub(super) fn dropped_for_that(finding: &Finding) -> String {
    match (latest_dropped(finding), dropping_rule(finding)) {
        (Some(segment), _) if !segment.reason.is_seen() => {
            let place = Evidence::place(&finding.evidence).and_then(|place| place.site);
            let by = match place {
                Some(Site::OpenVswitch) => {
                    "it was on its way through Open vSwitch, whose flows drop without a word before Linux 6.6"
                }
                Some(Site::Netfilter(_) | Site::Bridge(_) | Site::TrafficControl) | None => {
                    "who dropped it was not seen"
                }
            };
            format!("and no copy of it has got through; {by}")
        }
        (Some(segment), _) if segment.reason.is_of_open_vswitch() => {
            "and a flow of Open vSwitch drops what is invalid".to_owned()
        }
        (Some(_) | None, Some(rule)) => format!("and {rule} drops it"),
        (Some(_) | None, None) => "and the firewall drops what is invalid".to_owned(),
    }
}

/// The rule that dropped it, where only one can have done it.
pub(super) fn dropping_rule(finding: &Finding) -> Option<&FilterRule> {
    let Knowledge::Known(rules) = &Evidence::place(&finding.evidence)?.rules else { return None };
    rules.only()
}

/// In the words of a frame on the wire, which one sees in a capture.
pub(super) fn padding(finding: &Finding) -> String {
    /// Bytes of an Ethernet header without a tag.
    const ETHERNET: u32 = 14;
    match latest_dropped(finding) {
        Some(segment) => {
            let frame = segment.stated_bytes + ETHERNET;
            let sum = match (segment.padding_in_checksum(), segment.checksum) {
                (Some(padding), _) => {
                    let padded = frame + padding;
                    return format!(
                        " (it is that of the {frame}-byte frame padded to {padded}: who computed it took the padding in)"
                    );
                }
                (None, _) if segment.padding_bytes() == 0 => return String::new(),
                (None, Checksum::Right) => ", and the padding was taken into the sum; it is right without it",
                (None, _) => "; it is wrong without the padding, and with zeros as padding",
            };
            format!(" (a {frame}-byte frame arrived padded to {}{sum})", segment.actual_bytes + ETHERNET)
        }
        None => String::new(),
    }
}

/// Who waits for it, and for how long.
pub(super) fn waits(finding: &Finding) -> &'static str {
    match latest_dropped(finding).map(|segment| segment.origin) {
        Some(Origin::Sent) => "The peer goes on holding its end open.",
        Some(Origin::Received { .. } | Origin::Forwarded { .. }) | None => {
            "The application here still holds the connection for open and waits for more; without keepalive or a timeout of \
             its own it waits for ever."
        }
    }
}

/// For how long another host goes on sending the FIN, and the drop can be seen. The settings are there.
pub(super) fn repeated_until(finding: &Finding) -> Option<String> {
    let segment = latest_dropped(finding)?;
    let sender = match segment.origin {
        Origin::Received { .. } => finding.id.key.remote.ip(),
        Origin::Forwarded { sender, .. } => sender.ip(),
        Origin::Sent => return None,
    };
    // Eight times, the first after 0.2 s at least, each after twice as long (`tcp_orphan_retries`, `net/ipv4/tcp_timer.c`): 102 s.
    (segment.message == ControlMessage::Fin && finding.ruling.verdict == Verdict::SilentlyDroppedFin).then(|| {
        format!(
            "{sender} repeats its FIN for about 100 s by default once its application has closed the socket (net.ipv4.tcp_orphan_retries \
             there); a watch that begins after that finds nothing."
        )
    })
}
