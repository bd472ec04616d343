//! From one commitment to the next of the same side: which HTLCs came and went, and whether the money followed.
//!
//! The gateway uses it too: its Lightning node tells the signer whole satoshi after fees and no trimmed HTLC, and a
//! [`super::machine::Proposal`] wants balances in millisatoshi before fees. They follow from the state before.

use super::bolt3::{Contents, Htlc, PaymentHash, Side};
use super::payments::Payments;
use super::reject::Reject;
use crate::amount::Msat;

/// The HTLCs by which two states differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// New ones.
    pub added: Vec<Htlc>,
    /// Those that are gone.
    pub removed: Vec<Htlc>,
}

impl Update {
    /// Equal HTLCs may occur more than once (the parts of one payment), so each is counted.
    pub fn between(from: &[Htlc], to: &[Htlc]) -> Self {
        let mut removed = from.to_vec();
        let mut added = Vec::new();
        for htlc in to {
            match removed.iter().position(|old| old == htlc) {
                Some(same) => drop(removed.swap_remove(same)),
                None => added.push(*htlc),
            }
        }
        Self { added, removed }
    }

    /// The balances of holder and bridge that follow: each is what it was, less the HTLCs that the side offered anew, and with what
    /// came back to it. An HTLC of the holder's that went is the bridge's if its preimage is known, else the holder's again.
    /// One that the bridge offered is the bridge's again: the device is not paid. An amount that nobody has comes out as zero.
    pub fn balances(&self, from: &Contents, is_known: impl Fn(&PaymentHash) -> bool) -> (Msat, Msat) {
        let mut holder = i128::from(from.to_holder.get());
        let mut bridge = i128::from(from.to_bridge.get());
        let mut pay = |side, amount| match side {
            Side::Holder => holder += amount,
            Side::Bridge => bridge += amount,
        };
        for htlc in &self.added {
            pay(htlc.offered_by, -i128::from(htlc.amount.get()));
        }
        for htlc in &self.removed {
            let is_paid = htlc.offered_by == Side::Holder && is_known(&htlc.payment_hash);
            let to = if is_paid { Side::Bridge } else { htlc.offered_by };
            pay(to, i128::from(htlc.amount.get()));
        }
        let msat = |balance| Msat::new(u64::try_from(balance).unwrap_or_default());
        (msat(holder), msat(bridge))
    }

    /// The new state has the balances that follow, and no more and no less than before in all.
    pub(super) fn check_balances(
        &self,
        from: &Contents,
        to: &Contents,
        payments: &Payments,
    ) -> Result<(), Reject> {
        let (holder, bridge) = self.balances(from, |hash| payments.preimage(hash).is_some());
        let sides = [(Side::Holder, holder, to.to_holder), (Side::Bridge, bridge, to.to_bridge)];
        for (side, expected, got) in sides {
            if got != expected {
                let from_bridge = self.removed.iter().any(|htlc| htlc.offered_by == Side::Bridge);
                if side == Side::Holder && got > expected && from_bridge {
                    return Err(Reject::ReceivedFulfilled);
                }
                return Err(Reject::Balance { side, expected, got });
            }
        }
        // A side that offered more than it has would stand at zero above.
        if to.total() != from.total() {
            let (side, expected, got) = (Side::Holder, Msat::ZERO, to.to_holder);
            return Err(Reject::Balance { side, expected, got });
        }
        Ok(())
    }
}
