//! From one commitment to the next of the same side: which HTLCs came and went, and whether the money followed.

use super::bolt3::{Contents, Htlc, Side};
use super::payments::Payments;
use super::reject::Reject;
use crate::amount::Msat;

/// The HTLCs by which two states differ.
#[derive(Debug, Default)]
pub(super) struct Update {
    pub added: Vec<Htlc>,
    pub removed: Vec<Htlc>,
}

impl Update {
    /// Equal HTLCs may occur more than once (the parts of one payment), so each is counted.
    pub(super) fn between(from: &Contents, to: &Contents) -> Self {
        let mut removed = from.htlcs.clone();
        let mut added = Vec::new();
        for htlc in &to.htlcs {
            match removed.iter().position(|old| old == htlc) {
                Some(same) => drop(removed.swap_remove(same)),
                None => added.push(*htlc),
            }
        }
        Self { added, removed }
    }

    /// Each balance is what it was, less the HTLCs that the side offered anew, and with what came back to it. An HTLC of ours
    /// that went either left its preimage, then it is the bridge's, or is the holder's again. One that the bridge offered is the
    /// bridge's again: the device is not paid.
    pub(super) fn check_balances(
        &self,
        from: &Contents,
        to: &Contents,
        payments: &Payments,
    ) -> Result<(), Reject> {
        let mut expected = [i128::from(from.to_holder.get()), i128::from(from.to_bridge.get())];
        let index = |side: Side| match side {
            Side::Holder => 0,
            Side::Bridge => 1,
        };
        for htlc in &self.added {
            expected[index(htlc.offered_by)] -= i128::from(htlc.amount.get());
        }
        for htlc in &self.removed {
            let is_paid = htlc.offered_by == Side::Holder && payments.preimage(&htlc.payment_hash).is_some();
            let gets = if is_paid { Side::Bridge } else { htlc.offered_by };
            expected[index(gets)] += i128::from(htlc.amount.get());
        }
        for (side, got) in [(Side::Holder, to.to_holder), (Side::Bridge, to.to_bridge)] {
            let expected = expected[index(side)];
            if i128::from(got.get()) != expected {
                let from_bridge = self.removed.iter().any(|htlc| htlc.offered_by == Side::Bridge);
                if side == Side::Holder && i128::from(got.get()) > expected && from_bridge {
                    return Err(Reject::ReceivedFulfilled);
                }
                let expected = Msat::new(u64::try_from(expected).unwrap_or_default());
                return Err(Reject::Balance { side, expected, got });
            }
        }
        Ok(())
    }
}
