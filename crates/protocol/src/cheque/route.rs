//! The points of a sale through several nodes: a fresh tweak at each hop, so that no point or secret is seen twice.
//!
//! ```text
//!   writer ──T──▶ agent ──T+d1+d2──▶ node ──T+d2──▶ payee            points, locked from left to right
//!            y    ◀────   y+d1+d2   ◀────   y+d2   ◀────             secrets, sold from right to left
//! ```
//!
//! The agent knows the writer, the node the payee. The node sees neither `T` nor `y`, the payee not what is between the agent
//! and the node. The agent and the node together can link both ends; neither can alone, by points.

use super::point::{AdaptorPoint, AdaptorSecret};

/// One lock on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// What the lock is encrypted under.
    pub point: AdaptorPoint,
    /// For whoever makes the lock: what leads from its point back to the point of the promise behind it.
    pub tweak: AdaptorSecret,
}

/// The way from the agent's promise to the payee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// One lock for each hop, the agent's first.
    pub hops: Vec<Hop>,
    /// For the payee: what it adds to the secret that it sells.
    pub payee: AdaptorSecret,
}

impl Route {
    /// A way from the promise under `point`, with one tweak of fresh randomness for each hop, the agent's first. `None`
    /// without any hop, or when tweaks cancel out, which fresh ones do not.
    pub fn new(point: &AdaptorPoint, tweaks: &[AdaptorSecret]) -> Option<Self> {
        let payee = tweaks.last()?.clone();
        let mut hops = Vec::new();
        // What is still added after this hop, its own tweak included.
        let mut added = payee.clone();
        for (index, tweak) in tweaks.iter().enumerate().rev() {
            if index + 1 < tweaks.len() {
                added = added.plus(tweak)?;
            }
            // A node takes away the tweak before its own; the agent everything.
            let back = match index.checked_sub(1) {
                Some(before) => tweaks[before].clone(),
                None => added.negated(),
            };
            hops.push(Hop { point: point.tweaked(&added)?, tweak: back });
        }
        hops.reverse();
        Some(Self { hops, payee })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> AdaptorSecret {
        AdaptorSecret::from_bytes(&[byte; 32]).unwrap()
    }

    #[test]
    fn each_hop_leads_back_to_the_one_before_and_nothing_is_seen_twice() {
        let sold = secret(1);
        for length in 1..=5_u8 {
            let tweaks: Vec<AdaptorSecret> = (0..length).map(|hop| secret(10 + hop)).collect();
            let route = Route::new(&sold.point(), &tweaks).unwrap();
            let mut before = sold.point();
            for hop in &route.hops {
                assert_eq!(hop.point.tweaked(&hop.tweak), Some(before));
                before = hop.point;
            }
            let last = sold.plus(&route.payee).unwrap();
            assert_eq!(last.point(), before, "the payee opens the last lock");
            let back = route.hops.iter().rev().try_fold(last, |secret, hop| secret.plus(&hop.tweak));
            assert_eq!(back, Some(sold.clone()), "and the agent gets what it paid for");

            let mut points: Vec<AdaptorPoint> = route.hops.iter().map(|hop| hop.point).collect();
            points.push(sold.point());
            points.sort_unstable();
            points.dedup();
            assert_eq!(points.len(), route.hops.len() + 1);
        }
        assert_eq!(Route::new(&sold.point(), &[]), None);
    }
}
