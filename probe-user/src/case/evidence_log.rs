use crate::judge::{Evidence, EvidenceKind};

/// How a case began is never forgotten: the first pieces of evidence are kept.
const KEPT_FIRST: usize = 4;
/// And how it stands: the latest. Sixteen together hold every timeout of a connection with the default `tcp_retries2`.
const KEPT_LATEST: usize = 12;

/// The evidence of one case in time order, bounded: the first pieces and the latest.
#[derive(Clone, Debug, Default)]
pub(super) struct EvidenceLog {
    kept: Vec<Evidence>,
    left_out: u64,
}

impl EvidenceLog {
    /// What was kept of it before.
    pub(super) fn kept(kept: Vec<Evidence>, left_out: u64) -> Self {
        Self { kept, left_out }
    }

    /// An empty one in its room.
    pub(super) fn emptied(mut self) -> Self {
        self.kept.clear();
        Self { kept: self.kept, left_out: 0 }
    }

    /// Makes room for so many pieces more.
    pub(super) fn make_room(&mut self, pieces: usize) {
        self.kept.reserve(pieces);
    }

    /// Adds a piece at its place in time; a late one goes before those that are newer.
    pub(super) fn add(&mut self, evidence: Evidence) {
        if self.kept.len() >= KEPT_FIRST + KEPT_LATEST {
            // Room for one more, for a moment, and not for as many again.
            self.kept.reserve_exact(1);
        }
        let place = self.kept.partition_point(|earlier| earlier.at <= evidence.at);
        self.kept.insert(place, evidence);
        if self.kept.len() > KEPT_FIRST + KEPT_LATEST {
            // Where it was dropped is told once.
            let is_place = |evidence: &Evidence| matches!(evidence.kind, EvidenceKind::DropPlace(_));
            let oldest = self.kept.iter().skip(KEPT_FIRST).position(|evidence| !is_place(evidence)).unwrap_or(0);
            self.kept.remove(KEPT_FIRST + oldest);
            self.left_out += 1;
        }
    }

    /// Puts a piece in the place of the latest, of which it is a newer state.
    pub(super) fn replace_latest(&mut self, evidence: Evidence) {
        self.kept.pop();
        self.add(evidence);
    }

    /// Names the function of the segments that were dropped at this address.
    pub(super) fn name_function(&mut self, address: u64, name: Option<&str>) {
        for evidence in &mut self.kept {
            if let EvidenceKind::SegmentDropped(segment) = &mut evidence.kind
                && segment.location == address
            {
                segment.function = name.map(str::to_owned);
            }
        }
    }

    pub(super) fn as_slice(&self) -> &[Evidence] {
        &self.kept
    }

    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DropPlace, Knowledge, MonoTime};

    #[test]
    fn the_first_and_the_latest_are_kept_in_time_order() {
        let mut log = EvidenceLog::default();
        for at in [1, 0, 2, 3].into_iter().chain(4..40) {
            log.add(Evidence { at: MonoTime::from_ns(at), kind: EvidenceKind::ResetSent });
        }
        let times: Vec<_> = log.as_slice().iter().map(|evidence| evidence.at.as_ns()).collect();
        assert_eq!(times, [0, 1, 2, 3].into_iter().chain(28..40).collect::<Vec<_>>());
        assert_eq!(log.left_out(), 24);
    }

    #[test]
    fn the_place_of_a_drop_outlasts_its_copies() {
        let mut log = EvidenceLog::default();
        let place = DropPlace { site: None, functions: Vec::new(), rules: Knowledge::NotAsked };
        for at in 0..40 {
            let kind = if at == 5 { EvidenceKind::DropPlace(Box::new(place.clone())) } else { EvidenceKind::ResetSent };
            log.add(Evidence { at: MonoTime::from_ns(at), kind });
        }
        assert_eq!(Evidence::place(log.as_slice()), Some(&place));
        assert_eq!((log.as_slice().len(), log.left_out()), (KEPT_FIRST + KEPT_LATEST, 24));
    }
}
