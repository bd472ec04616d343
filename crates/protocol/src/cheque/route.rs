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
use crate::keys::ChequeKeys;
use crate::{ChannelId, tagged};

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

/// A payee's tweaks for what is promised under `point` and paid to it in that channel through the nodes of `via`: one for each hop, the
/// agent's first. Always the same ones: a lock that was made while the payee thought of another way can still be cashed. No two ways
/// share one, so whoever is on both cannot tell that they are for the same cheque.
pub fn tweaks(
    keys: &ChequeKeys,
    point: &AdaptorPoint,
    channel: &ChannelId,
    via: &[String],
) -> Vec<AdaptorSecret> {
    let step = |way: [u8; 32], node: &String| tagged::hash("farthing/route", &[&way, node.as_bytes()]);
    let way = via.iter().fold([0; 32], step);
    let tweak = |hop: usize| {
        let hop = (hop as u64).to_be_bytes();
        let parts: [&[u8]; 5] = [&keys.prekeys, &point.to_bytes(), channel.as_bytes(), &way, &hop];
        AdaptorSecret::from_bytes(&tagged::hash("farthing/route-tweak", &parts))
            .expect("a hash in the range of scalars, but for odds of 2^-127")
    };
    (0..=via.len()).map(tweak).collect()
}

impl Route {
    /// A way from the promise under `point`, with one tweak for each hop, the agent's first ([`tweaks`]). `None`
    /// without any hop, or when tweaks cancel out, which random ones do not.
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

    #[test]
    fn each_way_has_tweaks_of_its_own_and_always_the_same() {
        let channel = |byte| ChannelId::from_bytes([byte; 32]);
        let (keys, others) = (keys(1), keys(2));
        let point = secret(1).point();
        let way = |nodes: &[&str]| -> Vec<String> { nodes.iter().map(ToString::to_string).collect() };
        let (one, two) = (way(&["node"]), way(&["node", "other"]));
        let first = tweaks(&keys, &point, &channel(1), &two);
        assert_eq!(first, tweaks(&keys, &point, &channel(1), &two));
        assert_eq!(first.len(), 3, "the agent's and each node's");
        let mut all = first;
        all.extend(tweaks(&keys, &point, &channel(1), &one));
        all.extend(tweaks(&keys, &point, &channel(1), &[]));
        all.extend(tweaks(&keys, &point, &channel(1), &way(&["other", "node"])));
        all.extend(tweaks(&keys, &point, &channel(1), &way(&["third", "other"])));
        all.extend(tweaks(&keys, &point, &channel(2), &two));
        all.extend(tweaks(&keys, &secret(2).point(), &channel(1), &two));
        all.extend(tweaks(&others, &point, &channel(1), &two));
        let mut seen: Vec<[u8; 32]> = all.iter().map(AdaptorSecret::to_bytes).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all.len());
    }

    fn keys(byte: u8) -> ChequeKeys {
        crate::keys::Seed::new([byte; 64], bitcoin::Network::Regtest).cheque_keys()
    }
}
