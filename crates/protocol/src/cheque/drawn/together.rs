//! Which promises were signed together, and what their secrets tell of each other.

use serde::{Deserialize, Serialize};

use crate::cheque::point::{AdaptorPoint, AdaptorSecret, missing_secret};

/// The chain may pay any two or more promises together that were ever signed together, also when some of them were settled since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Together {
    /// Points that were signed together, of which one is neither paid nor dead. None is within another.
    sets: Vec<Vec<AdaptorPoint>>,
    /// The secrets that came out of points in them.
    known: Vec<AdaptorSecret>,
}

impl Together {
    /// These are signed together from now on, and every choice of them.
    pub(super) fn note(&mut self, all: Vec<AdaptorPoint>) {
        let is_within =
            |some: &[AdaptorPoint], others: &[AdaptorPoint]| some.iter().all(|point| others.contains(point));
        if all.len() > 1 && !self.sets.iter().any(|others| is_within(&all, others)) {
            self.sets.retain(|others| !is_within(others, &all));
            self.sets.push(all);
        }
    }

    /// A secret came out.
    pub(super) fn learn(&mut self, secret: AdaptorSecret) {
        self.known.push(secret);
    }

    /// Forgets what no commitment can tell of any more: sets without any of these points.
    pub(super) fn keep(&mut self, unresolved: &[AdaptorPoint]) {
        self.sets.retain(|all| all.iter().any(|point| unresolved.contains(point)));
        let sets = &self.sets;
        self.known.retain(|secret| sets.iter().any(|all| all.contains(&secret.point())));
    }

    /// What a commitment may pay of these points: each alone, and with any of those that were signed together with it.
    pub(super) fn choices(&self, unresolved: &[AdaptorPoint]) -> Vec<Vec<AdaptorPoint>> {
        let mut choices: Vec<Vec<AdaptorPoint>> = unresolved.iter().map(|point| vec![*point]).collect();
        for all in &self.sets {
            for chosen in 1..1_usize << all.len() {
                let is_chosen = |index: &usize| chosen >> index & 1 == 1;
                let points: Vec<AdaptorPoint> =
                    (0..all.len()).filter(is_chosen).map(|index| all[index]).collect();
                if points.len() > 1 && points.iter().any(|point| unresolved.contains(point)) {
                    choices.push(points);
                }
            }
        }
        choices
    }

    /// The secret of the only one of these points that has none yet, out of their joint secret.
    pub(super) fn single(&self, points: &[AdaptorPoint], joint: &AdaptorSecret) -> Option<AdaptorSecret> {
        missing_secret(points, joint, &self.known)
    }

    /// How many sets and secrets are kept.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.sets.len(), self.known.len())
    }
}
