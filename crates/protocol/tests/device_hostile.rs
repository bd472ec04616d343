//! Gateway and bridge together against the device: any states, in any order, with any money in them. Whatever the device agrees
//! to, no state that somebody can publish takes more from the owner than the approved invoices for which an HTLC was offered.
//!
//! The attacks are mostly well-formed, one step away from what an honest channel does: wild ones are refused at once and find nothing.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod device;

use std::collections::BTreeSet;

use bitcoin::FeeRate;
use device::*;
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::{Htlc, PaymentHash, Side};
use farthing_protocol::device::payments::Source;
use farthing_protocol::device::{Input, Policy, Reject};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// How many invoices the device has approved, of 10,000 sat each.
const APPROVED: u8 = 2;
/// What one may cost: the amount, one percent and one satoshi.
const MOST: u64 = 10_101_000;

/// One request of the two, or what leads to it.
#[derive(Clone, Debug)]
struct Attack {
    side: Side,
    /// Whether the side's old commitment is revoked before, if there is one.
    is_revoked: bool,
    changes: Vec<Change>,
    /// Money that goes from one balance to the other.
    skew: i64,
    /// Shown from now on.
    preimage: Option<u8>,
}

#[derive(Clone, Debug)]
enum Change {
    /// A new HTLC, or one that was there before.
    Add {
        offered_by: Side,
        number: u8,
        msat: u64,
    },
    /// One that the other side's commitment has.
    Copy(Index),
    /// One goes. Its money goes where it belongs, or not.
    Remove {
        which: Index,
        is_honest: bool,
    },
    Fee(u64),
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Holder), Just(Side::Bridge)]
}

fn change() -> impl Strategy<Value = Change> {
    let add = (prop::bool::weighted(0.8), 1..=APPROVED, prop::bool::weighted(0.9));
    prop_oneof![
        3 => add.prop_map(|(is_ours, number, is_exact)| Change::Add {
            offered_by: if is_ours { Side::Holder } else { Side::Bridge },
            number,
            msat: if is_exact { 10_000_000 } else { MOST },
        }),
        4 => any::<Index>().prop_map(Change::Copy),
        4 => (any::<Index>(), prop::bool::weighted(0.9)).prop_map(|(which, is_honest)| Change::Remove { which, is_honest }),
        1 => (500_u64..10_001).prop_map(Change::Fee),
    ]
}

fn attack() -> impl Strategy<Value = Attack> {
    let skew = prop_oneof![20 => Just(0_i64), 1 => -2_000_000_i64..2_000_000];
    let preimage = prop::option::weighted(0.1, 1..=APPROVED);
    (side(), prop::bool::weighted(0.9), vec(change(), 0..3), skew, preimage).prop_map(
        |(side, is_revoked, changes, skew, preimage)| Attack { side, is_revoked, changes, skew, preimage },
    )
}

struct Pair {
    world: World,
    /// The preimages that gateway and bridge have shown.
    known: BTreeSet<u8>,
    /// The payment hashes of all HTLCs of ours that the device ever signed in.
    offered: BTreeSet<PaymentHash>,
}

impl Pair {
    fn next(&self, attack: &Attack) -> Next {
        let (mut next, other) = match attack.side {
            Side::Bridge => (self.world.next_bridge(), self.world.next_holder()),
            Side::Holder => (self.world.next_holder(), self.world.next_bridge()),
        };
        for change in &attack.changes {
            match change {
                Change::Add { offered_by, number, msat } => {
                    add(&mut next, Htlc { offered_by: *offered_by, ..htlc(*number, *msat) });
                }
                Change::Copy(_) if other.htlcs.is_empty() => {}
                Change::Copy(which) => add(&mut next, *which.get(&other.htlcs)),
                Change::Remove { .. } if next.htlcs.is_empty() => {}
                Change::Remove { which, is_honest } => {
                    let gone = next.htlcs.swap_remove(which.index(next.htlcs.len()));
                    let is_known =
                        self.known.iter().any(|number| preimage(*number).hash() == gone.payment_hash);
                    let is_paid = gone.offered_by == Side::Holder && is_known;
                    let owner = if is_paid { Side::Bridge } else { gone.offered_by };
                    let to = if *is_honest { owner } else { owner.other() };
                    pay(&mut next, to, gone.amount);
                }
                Change::Fee(rate) => next.fee_rate = FeeRate::from_sat_per_kwu(*rate),
            }
        }
        let (from, amount) =
            (if attack.skew < 0 { Side::Holder } else { Side::Bridge }, attack.skew.unsigned_abs());
        if take(&mut next, from, Msat::new(amount)) {
            pay(&mut next, from.other(), Msat::new(amount));
        }
        next.preimages = self.known.iter().map(|number| preimage(*number)).collect();
        next
    }

    fn carry_out(&mut self, attack: &Attack) -> Result<(), Reject> {
        self.known.extend(attack.preimage);
        if attack.is_revoked && self.world.has_previous(attack.side) {
            match attack.side {
                Side::Bridge => self.world.revoke_bridge()?,
                Side::Holder => self.world.revoke_holder()?,
            }
        }
        let (next, before) = (self.next(attack), self.world.state.clone());
        let result = match attack.side {
            Side::Bridge => self.world.commit_bridge(next).map(drop),
            Side::Holder => self.world.commit_holder(next),
        };
        if result.is_err() {
            assert_eq!(self.world.state, before, "a refusal changes nothing");
        }
        let signed_in = self.world.bridge.last().into_iter().flat_map(|contents| &contents.htlcs);
        let ours = signed_in.filter(|htlc| htlc.offered_by == Side::Holder);
        self.offered.extend(ours.map(|htlc| htlc.payment_hash));
        result
    }

    fn assert_nothing_is_lost(&self) {
        let capacity = Msat::from_amount(CAPACITY).unwrap();
        for contents in self.world.bridge.last().into_iter().chain(self.world.holder.last()) {
            assert_eq!(contents.total(), Some(capacity));
            let gone = capacity.saturating_sub(contents.to_holder);
            let most = Msat::new(MOST * self.offered.len() as u64);
            assert!(gone <= most, "{gone} of the owner's is gone, not {most}: {contents:#?}");
        }
    }
}

fn balance(next: &mut Next, side: Side) -> &mut Msat {
    match side {
        Side::Holder => &mut next.to_holder,
        Side::Bridge => &mut next.to_bridge,
    }
}

fn pay(next: &mut Next, to: Side, amount: Msat) {
    let balance = balance(next, to);
    *balance = balance.saturating_add(amount);
}

/// Whether the side has that much.
fn take(next: &mut Next, from: Side, amount: Msat) -> bool {
    let balance = balance(next, from);
    let rest = balance.checked_sub(amount);
    *balance = rest.unwrap_or(*balance);
    rest.is_some()
}

fn add(next: &mut Next, htlc: Htlc) {
    if take(next, htlc.offered_by, htlc.amount) {
        next.htlcs.push(htlc);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gateway_and_bridge_get_no_more_than_was_approved(attacks in vec(attack(), 1..60)) {
        let mut pair = Pair { world: World::open(), known: BTreeSet::new(), offered: BTreeSet::new() };
        let plenty = Msat::new(1_000_000_000);
        let lax = Policy { version: 2, per_hour: plenty, per_day: plenty, in_flight: plenty, ..policy() };
        pair.world.give(Input::Policy(signed(lax))).unwrap();
        for number in 1..=APPROVED {
            pair.world.approve(invoice(number, 10_000_000), Source::Direct).unwrap();
        }
        for attack in &attacks {
            let _refused = pair.carry_out(attack);
            pair.assert_nothing_is_lost();
        }
    }
}
