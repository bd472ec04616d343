//! How a channel ends for the payee, the claims of a published rung or batch included.

use bitcoin::Amount;

use super::{Closed, Setup, State, publishing};
use crate::channel::{Channel, Ending, SpendKind};
use crate::lightspeed::RungClaim;
use crate::lightspeed::tab::Claim;
use crate::sighting::{Funding, Sighting};

impl State {
    /// The ending, once everything that this side can get is deep enough.
    pub(super) fn ended(&self, setup: &Setup, sighting: &Sighting) -> Option<Self> {
        let payee = &setup.channel.params().payee;
        let mut ending = Ending::of(&setup.channel, payee, sighting, setup.policy.finality)?;
        if let (Some(claim), Funding::Spent { by, .. }) = (self.claim(), &sighting.funding) {
            match &claim {
                Claim::Plain(_) => {}
                Claim::Rung(rung) => {
                    if ending.txid == rung.commitment(&setup.channel, &setup.keys).compute_txid() {
                        (ending.received, ending.left) = rung_settled(setup, rung, sighting)?;
                    } else if ending.kind == SpendKind::Commitment {
                        // The plain one, in its place: its claim would have cost more than it pays above that.
                        ending.left = rung.total.floor().checked_sub(ending.received).unwrap_or_default();
                    }
                }
                Claim::Batch(batch) => {
                    if publishing::is_commitment(setup, batch, by) {
                        let (claimed, left) = publishing::settled(setup, batch, sighting)?;
                        ending.received = ending.received.checked_add(claimed).unwrap_or(ending.received);
                        ending.left = left;
                    }
                }
            }
        }
        Some(Self::Closed(Closed { ledger: self.ledger(), ending: Some(ending) }))
    }
}

/// What the claim of a published rung brought, and what was left, once that cannot change any more. `None` while it can.
fn rung_settled(setup: &Setup, rung: &RungClaim, sighting: &Sighting) -> Option<(Amount, Amount)> {
    let finality = setup.policy.finality;
    match sighting.locked.iter().map(|locked| &locked.status).next()? {
        Funding::Spent { by, confirmations } if *confirmations >= finality => {
            let received = Channel::paid_to(by, &setup.channel.params().payee);
            let left = if received == Amount::ZERO { rung.total.floor() } else { Amount::ZERO };
            Some((received, left))
        }
        // Not worth its fee, and the payer may take it by now.
        Funding::Confirmed { confirmations, .. }
            if *confirmations >= finality.saturating_add(rung.delay.get().into()) =>
        {
            Some((Amount::ZERO, rung.total.floor()))
        }
        Funding::Spent { .. } | Funding::Confirmed { .. } | Funding::Unseen | Funding::Unconfirmed(_) => None,
    }
}
