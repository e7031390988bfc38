//! A case of which no more is known than what events have told, as a few bytes.
//!
//! Most cases never become a finding: one or two timeouts, and the peer answers. When a link fails there may be a million of
//! them. Between two events such a case is kept as about 170 bytes for its first piece of evidence, in place of some kilobytes.

mod bytes;
mod socket;

use bytes::{Reader, Writer};

use super::{evidence_log::EvidenceLog, open_case::Case, wakes::Wake};
use crate::{
    judge::{Attempt, Evidence, EvidenceKind, SynAckRepeat},
    model::{ConnectionKey, MonoTime, OwnerKnowledge, SocketCookie, SocketView},
};

/// More pieces of evidence make a case of which there is more to know soon.
const MOST_PIECES: usize = 4;
/// Room to write one in: five sockets take less than half of it.
pub(super) const MOST_BYTES: usize = 2_048;

/// Evidence that events alone have told. All but the last have a socket, which follows.
#[derive(Clone, Copy)]
enum Piece {
    RetransmissionTimeout,
    ProbeSent,
    Scanned,
    SynAckRetransmission,
}

impl Piece {
    const ALL: [Self; 4] = [Self::RetransmissionTimeout, Self::ProbeSent, Self::Scanned, Self::SynAckRetransmission];

    /// `None` also for other evidence.
    fn write(Evidence { at, kind }: &Evidence, to: &mut Writer<'_>) -> Option<()> {
        let mut begin = |piece: Self| {
            to.put([piece as u8])?;
            to.put(at.as_ns().to_ne_bytes())
        };
        if let EvidenceKind::RetransmissionTimeout(attempt) = kind {
            begin(Self::RetransmissionTimeout)?;
            write_attempt(attempt, to)
        } else if let EvidenceKind::ProbeSent(attempt) = kind {
            begin(Self::ProbeSent)?;
            write_attempt(attempt, to)
        } else if let EvidenceKind::Scanned(socket) = kind {
            begin(Self::Scanned)?;
            socket::write(socket, to)
        } else if let EvidenceKind::SynAckRetransmission(SynAckRepeat { timeouts, repeats }) = kind {
            begin(Self::SynAckRetransmission)?;
            to.put_optional(timeouts.map(u8::to_ne_bytes))?;
            to.put_optional(repeats.map(u32::to_ne_bytes))
        } else {
            None
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<Evidence> {
        let [piece] = from.get()?;
        let at = MonoTime::from_ns(u64::from_ne_bytes(from.get()?));
        let kind = match Self::ALL.get(usize::from(piece)).copied()? {
            Self::RetransmissionTimeout => EvidenceKind::RetransmissionTimeout(read_attempt(from)?),
            Self::ProbeSent => EvidenceKind::ProbeSent(read_attempt(from)?),
            Self::Scanned => EvidenceKind::Scanned(Box::new(socket::read(from)?)),
            Self::SynAckRetransmission => EvidenceKind::SynAckRetransmission(SynAckRepeat {
                timeouts: from.get_optional()?.map(u8::from_ne_bytes),
                repeats: from.get_optional()?.map(u32::from_ne_bytes),
            }),
        };
        Some(Evidence { at, kind })
    }
}

fn write_attempt(Attempt { send_result, socket }: &Attempt, to: &mut Writer<'_>) -> Option<()> {
    to.put_optional(send_result.map(i32::to_ne_bytes))?;
    socket::write(socket, to)
}

fn read_attempt(from: &mut Reader<'_>) -> Option<Attempt> {
    let send_result = from.get_optional()?.map(i32::from_ne_bytes);
    Some(Attempt { send_result, socket: socket::read(from)? })
}

/// The socket of the latest piece, if it has one that is kept with it: mostly that is the case's.
fn latest_socket(evidence: &[Evidence]) -> Option<&SocketView> {
    let kind = &evidence.last()?.kind;
    if let EvidenceKind::RetransmissionTimeout(attempt) | EvidenceKind::ProbeSent(attempt) = kind {
        Some(&attempt.socket)
    } else if let EvidenceKind::Scanned(socket) = kind {
        Some(socket)
    } else {
        None
    }
}

impl Case {
    /// Writes it into `room` without key and times, which its table has. `None` when more is known of it than events tell, or it
    /// does not fit: then it is kept whole.
    pub(super) fn to_rest<'a>(&self, room: &'a mut [u8; MOST_BYTES]) -> Option<&'a [u8]> {
        let Self {
            number,
            key: _,
            cookie,
            asked_socket: None,
            owner: OwnerKnowledge::NotAsked,
            wake,
            asked_owner: false,
            has_ended: false,
            held_until: None,
            touched: _,
            socket,
            evidence,
            lost_before,
            surroundings,
            socket_unknown: None,
            unknown_in_a_row: 0,
            reported: None,
            is_resumed: false,
        } = self
        else {
            return None;
        };
        let evidence = evidence.as_slice();
        if !surroundings.is_untouched() || evidence.len() > MOST_PIECES {
            return None;
        }
        let has_socket = latest_socket(evidence) != Some(socket);
        let most = room.len();
        let mut to = Writer::new(room);
        to.put(number.to_ne_bytes())?;
        to.put_optional(cookie.map(|cookie| cookie.0.to_ne_bytes()))?;
        to.put(lost_before.to_ne_bytes())?;
        to.put_optional(wake.map(|(_, wake)| [wake.to_byte()]))?;
        to.put([u8::try_from(evidence.len()).ok()?, u8::from(has_socket)])?;
        if has_socket {
            socket::write(socket, &mut to)?;
        }
        for piece in evidence {
            Piece::write(piece, &mut to)?;
        }
        let length = most - to.left();
        room.get(..length)
    }

    /// From what [`to_rest`](Self::to_rest) has written, with `evidence` to be filled. `None` only for other bytes.
    pub(super) fn from_rest(
        key: ConnectionKey,
        wake_at: MonoTime,
        touched: MonoTime,
        bytes: &[u8],
        mut evidence: EvidenceLog,
    ) -> Option<Self> {
        let mut from = Reader::new(bytes);
        let number = u64::from_ne_bytes(from.get()?);
        let cookie = from.get_optional()?.map(|cookie| SocketCookie(u64::from_ne_bytes(cookie)));
        let lost_before = u64::from_ne_bytes(from.get()?);
        let wake = from.get_optional()?.and_then(|[wake]| Wake::from_byte(wake)).map(|wake| (wake_at, wake));
        let [pieces, has_socket] = from.get()?;
        let socket = if has_socket == 0 { None } else { Some(socket::read(&mut from)?) };
        evidence.make_room(usize::from(pieces) + 1);
        for _ in 0..pieces {
            evidence.add(Piece::read(&mut from)?);
        }
        let socket = socket.or_else(|| latest_socket(evidence.as_slice()).cloned())?;
        let mut case = Self::new(number, key, cookie, socket);
        (case.wake, case.touched, case.evidence, case.lost_before) = (wake, touched, evidence, lost_before);
        Some(case)
    }
}
