//! The channels to one node: each carries one lock at a time.
//!
//! A payee that has a lock made and stays silent holds one channel of each node on the way until the lock's expiry. So that it cannot keep
//! others waiting, a further channel is opened when all are held for a while; and so that a crowd of them cannot tie up the whole wallet,
//! there is a most.

use std::time::{Duration, Instant};

/// An honest payee's lock holds its channel for seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pauses after openings that failed: each twice as long as the one before. A proposal that was refused costs both sides a few writes.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

/// What an agent knows of the channels to a node.
#[derive(Debug)]
pub(super) struct Trunk {
    node: String,
    most: usize,
    /// Since when locks have held all of its channels.
    held_since: Option<Instant>,
    /// When the next opening may be tried, and how long the pause after that is.
    next_try: Option<Instant>,
    pause: Duration,
}

impl Trunk {
    pub(super) fn new(node: String, most: usize) -> Self {
        Self { node, most, held_since: None, next_try: None, pause: PAUSES.0 }
    }

    /// The address.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// An opening has failed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.next_try = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSES.1);
    }

    /// Whether another channel is to be opened now: of each of those that can serve, `held` says whether a lock holds it; `live` is the number
    /// of all.
    pub(super) fn wants_another(&mut self, held: &[bool], live: usize, now: Instant) -> bool {
        if live >= self.most || self.next_try.is_some_and(|next| now < next) {
            return false;
        }
        if held.is_empty() {
            return true;
        }
        if held.contains(&false) {
            (self.held_since, self.next_try, self.pause) = (None, None, PAUSES.0);
            return false;
        }
        let since = *self.held_since.get_or_insert(now);
        now.saturating_duration_since(since) >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_channel_is_wanted_when_all_have_been_held_for_a_while() {
        let mut trunk = Trunk::new(String::new(), 2);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(trunk.wants_another(&[], 0, at(0)), "there is none");
        assert!(!trunk.wants_another(&[false], 1, at(0)));
        assert!(!trunk.wants_another(&[true], 1, at(1)));
        assert!(!trunk.wants_another(&[true], 1, at(60)));
        assert!(!trunk.wants_another(&[false], 1, at(61)), "the lock was cashed");
        assert!(!trunk.wants_another(&[true], 1, at(62)), "another has only begun");
        assert!(trunk.wants_another(&[true], 1, at(122)));
        assert!(!trunk.wants_another(&[true, false], 2, at(123)), "the new one is free");
        assert!(!trunk.wants_another(&[true, true], 2, at(124)));
        assert!(!trunk.wants_another(&[true, true], 2, at(1_000)), "no more than the most");
    }

    #[test]
    fn openings_that_fail_are_tried_again_ever_more_seldom() {
        let mut trunk = Trunk::new(String::new(), 2);
        let mut now = Instant::now();
        for pause in [200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 60_000, 60_000] {
            assert!(trunk.wants_another(&[], 0, now));
            trunk.failed(now);
            now += Duration::from_millis(pause - 1);
            assert!(!trunk.wants_another(&[], 0, now), "{pause} ms have not gone by");
            now += Duration::from_millis(1);
        }
        assert!(!trunk.wants_another(&[false], 1, now), "there is one");
        trunk.failed(now);
        assert!(trunk.wants_another(&[], 0, now + PAUSES.0), "it begins anew");
    }
}
