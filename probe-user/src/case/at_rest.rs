//! A case of which no more is known than what events have told, as a few bytes.
//!
//! Most cases never become a finding: one or two timeouts, and the peer answers. When a link fails there may be a million of
//! them. Between two events such a case is kept as about 150 bytes for its first piece of evidence, in place of some kilobytes.

mod socket;

use serde::{Deserialize, Serialize};

use super::{evidence_log::EvidenceLog, finding::OwnerKnowledge, open_case::Case, wakes::Wake};
use crate::{
    judge::{Attempt, Evidence, EvidenceKind, SynAckRepeat},
    model::{ConnectionKey, MonoTime, SocketCookie, SocketView},
};

/// More pieces of evidence make a case of which there is more to know soon.
const MOST_PIECES: usize = 4;
/// Room to write one in: five sockets take less than half of it.
pub(super) const MOST_BYTES: usize = 2_048;

/// What is the same for all pieces.
#[derive(Serialize, Deserialize)]
struct Head {
    number: u64,
    cookie: Option<SocketCookie>,
    lost_before: u64,
    wake: Option<u8>,
    pieces: u8,
    /// Whether the socket follows; else it is the latest piece's.
    has_socket: bool,
}

/// Evidence that events alone have told; but for the last, the socket follows.
#[derive(Serialize, Deserialize)]
enum Piece {
    RetransmissionTimeout(MonoTime, Option<i32>),
    ProbeSent(MonoTime, Option<i32>),
    Scanned(MonoTime),
    SynAckRetransmission(MonoTime, Option<u8>, Option<u32>),
}

impl Piece {
    /// With its socket; `None` for other evidence.
    fn of(Evidence { at, kind }: &Evidence) -> Option<(Self, Option<&SocketView>)> {
        if let EvidenceKind::RetransmissionTimeout(attempt) = kind {
            Some((Self::RetransmissionTimeout(*at, attempt.send_result), Some(&attempt.socket)))
        } else if let EvidenceKind::ProbeSent(attempt) = kind {
            Some((Self::ProbeSent(*at, attempt.send_result), Some(&attempt.socket)))
        } else if let EvidenceKind::Scanned(socket) = kind {
            Some((Self::Scanned(*at), Some(socket)))
        } else if let EvidenceKind::SynAckRetransmission(SynAckRepeat { timeouts, repeats }) = kind {
            Some((Self::SynAckRetransmission(*at, *timeouts, *repeats), None))
        } else {
            None
        }
    }

    /// Reads one, and returns what is behind it.
    fn read(bytes: &[u8]) -> Option<(Evidence, &[u8])> {
        let (piece, bytes) = postcard::take_from_bytes(bytes).ok()?;
        let attempt = |send_result, socket| Box::new(Attempt { send_result, socket });
        let ((at, kind), rest) = match piece {
            Self::RetransmissionTimeout(at, result) => {
                let (socket, rest) = socket::read(bytes)?;
                ((at, EvidenceKind::RetransmissionTimeout(attempt(result, socket))), rest)
            }
            Self::ProbeSent(at, result) => {
                let (socket, rest) = socket::read(bytes)?;
                ((at, EvidenceKind::ProbeSent(attempt(result, socket))), rest)
            }
            Self::Scanned(at) => {
                let (socket, rest) = socket::read(bytes)?;
                ((at, EvidenceKind::Scanned(Box::new(socket))), rest)
            }
            Self::SynAckRetransmission(at, timeouts, repeats) => {
                ((at, EvidenceKind::SynAckRetransmission(SynAckRepeat { timeouts, repeats })), bytes)
            }
        };
        Some((Evidence { at, kind }, rest))
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
        let latest = evidence.last().and_then(|last| Piece::of(last)?.1);
        let head = Head {
            number: *number,
            cookie: *cookie,
            lost_before: *lost_before,
            wake: wake.map(|(_, wake)| wake.to_byte()),
            pieces: u8::try_from(evidence.len()).ok()?,
            has_socket: latest != Some(socket),
        };
        let mut length = write(&head, room, 0)?;
        if head.has_socket {
            length = socket::write(socket, room, length)?;
        }
        for piece in evidence {
            let (piece, socket) = Piece::of(piece)?;
            length = write(&piece, room, length)?;
            if let Some(socket) = socket {
                length = socket::write(socket, room, length)?;
            }
        }
        room.get(..length)
    }

    /// From what [`to_rest`](Self::to_rest) has written. `None` only for other bytes.
    pub(super) fn from_rest(key: ConnectionKey, wake_at: MonoTime, touched: MonoTime, bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = postcard::take_from_bytes::<Head>(bytes).ok()?;
        let mut socket = None;
        if head.has_socket {
            let (own, behind) = socket::read(rest)?;
            (socket, rest) = (Some(own), behind);
        }
        let mut evidence = EvidenceLog::with_room(usize::from(head.pieces) + 1);
        for _ in 0..head.pieces {
            let (piece, behind) = Piece::read(rest)?;
            rest = behind;
            evidence.add(piece);
        }
        let latest = || Some(Piece::of(evidence.as_slice().last()?)?.1?.clone());
        let socket = socket.or_else(latest)?;
        let wake = head.wake.and_then(Wake::from_byte).map(|wake| (wake_at, wake));
        Some(Self {
            wake,
            touched,
            evidence,
            lost_before: head.lost_before,
            ..Self::new(head.number, key, head.cookie, socket)
        })
    }
}

fn write(value: &impl Serialize, room: &mut [u8; MOST_BYTES], from: usize) -> Option<usize> {
    let written = postcard::to_slice(value, room.get_mut(from..)?).ok()?.len();
    Some(from + written)
}
