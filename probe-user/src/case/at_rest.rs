//! A case of which no more is known than what events have told, as a few bytes.
//!
//! Most cases never become a finding: one or two timeouts, and the peer answers. When a link fails there may be a million of
//! them. Between two events such a case is kept as about 150 bytes for its first piece of evidence, in place of some kilobytes.

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
struct Head<S> {
    number: u64,
    cookie: Option<SocketCookie>,
    lost_before: u64,
    wake: Option<u8>,
    /// `None` when it is the latest piece's.
    socket: Option<S>,
    pieces: u8,
}

/// Evidence that events alone have told.
#[derive(Serialize, Deserialize)]
enum Piece<S> {
    RetransmissionTimeout(MonoTime, Option<i32>, S),
    ProbeSent(MonoTime, Option<i32>, S),
    Scanned(MonoTime, S),
    SynAckRetransmission(MonoTime, Option<u8>, Option<u32>),
}

impl<'a> Piece<&'a SocketView> {
    /// `None` for other evidence.
    fn of(Evidence { at, kind }: &'a Evidence) -> Option<Self> {
        if let EvidenceKind::RetransmissionTimeout(attempt) = kind {
            Some(Self::RetransmissionTimeout(*at, attempt.send_result, &attempt.socket))
        } else if let EvidenceKind::ProbeSent(attempt) = kind {
            Some(Self::ProbeSent(*at, attempt.send_result, &attempt.socket))
        } else if let EvidenceKind::Scanned(socket) = kind {
            Some(Self::Scanned(*at, socket))
        } else if let EvidenceKind::SynAckRetransmission(SynAckRepeat { timeouts, repeats }) = kind {
            Some(Self::SynAckRetransmission(*at, *timeouts, *repeats))
        } else {
            None
        }
    }

    fn socket(&self) -> Option<&'a SocketView> {
        match self {
            Self::RetransmissionTimeout(_, _, socket) | Self::ProbeSent(_, _, socket) | Self::Scanned(_, socket) => {
                Some(socket)
            }
            Self::SynAckRetransmission(..) => None,
        }
    }
}

impl Piece<SocketView> {
    fn into_evidence(self) -> Evidence {
        let attempt = |send_result, socket| Box::new(Attempt { send_result, socket });
        let (at, kind) = match self {
            Self::RetransmissionTimeout(at, result, socket) => {
                (at, EvidenceKind::RetransmissionTimeout(attempt(result, socket)))
            }
            Self::ProbeSent(at, result, socket) => (at, EvidenceKind::ProbeSent(attempt(result, socket))),
            Self::Scanned(at, socket) => (at, EvidenceKind::Scanned(Box::new(socket))),
            Self::SynAckRetransmission(at, timeouts, repeats) => {
                (at, EvidenceKind::SynAckRetransmission(SynAckRepeat { timeouts, repeats }))
            }
        };
        Evidence { at, kind }
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
        let latest = evidence.last().map(Piece::of)?.and_then(|piece| piece.socket());
        let head = Head {
            number: *number,
            cookie: *cookie,
            lost_before: *lost_before,
            wake: wake.map(|(_, wake)| wake.to_byte()),
            socket: Some(socket).filter(|socket| latest != Some(*socket)),
            pieces: u8::try_from(evidence.len()).ok()?,
        };
        let mut length = write(&head, room, 0)?;
        for piece in evidence {
            length = write(&Piece::of(piece)?, room, length)?;
        }
        room.get(..length)
    }

    /// From what [`to_rest`](Self::to_rest) has written. `None` only for other bytes.
    pub(super) fn from_rest(key: ConnectionKey, wake_at: MonoTime, touched: MonoTime, bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = postcard::take_from_bytes::<Head<SocketView>>(bytes).ok()?;
        let mut evidence = EvidenceLog::with_room(usize::from(head.pieces) + 1);
        let mut latest = None;
        for _ in 0..head.pieces {
            let (piece, behind) = postcard::take_from_bytes::<Piece<SocketView>>(rest).ok()?;
            rest = behind;
            evidence.add(piece.into_evidence());
        }
        if head.socket.is_none() {
            latest = evidence.as_slice().last().and_then(|last| Piece::of(last)?.socket()).cloned();
        }
        let wake = head.wake.and_then(Wake::from_byte).map(|wake| (wake_at, wake));
        let socket = head.socket.or(latest)?;
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
