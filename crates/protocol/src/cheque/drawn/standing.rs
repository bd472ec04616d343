//! What may still become of promises, and who is to be asked.

use super::{AdaptorPoint, Drawn, Outcome, TAKEN};

impl Drawn {
    /// Whether a promise may still be paid.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty() || !self.loose.is_empty()
    }

    /// Whether the promise under that point may still be paid, or what became of it was not noted yet.
    pub fn is_pending(&self, point: &AdaptorPoint) -> bool {
        let is_it = |outcome: &Outcome| match outcome {
            Outcome::Paid(secret) => secret.point() == *point,
            Outcome::PaidJointly(points, _) => points.contains(point),
            Outcome::Ended(ended) => ended == point,
        };
        self.unresolved().contains(point) || self.outcomes.iter().any(is_it)
    }

    /// Whether the payee has something to say to the newest update, or may have: a secret, or that the update counts.
    pub fn awaits_word(&self) -> bool {
        self.is_open() || self.settled.iter().any(|(since, _)| *since != TAKEN) || self.lacks_secrets()
    }

    /// Whether the chain has paid several promises together, and the payee could still say which secret is whose: also when all is over.
    pub fn lacks_secrets(&self) -> bool {
        !self.joint.is_empty()
    }

    /// Points that are neither paid nor dead.
    pub(super) fn unresolved(&self) -> Vec<AdaptorPoint> {
        let loose = self.loose.iter().map(|loose| &loose.owed);
        self.open.iter().chain(loose).map(|owed| owed.promise.point).collect()
    }
}
