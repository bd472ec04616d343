//! How a channel ends for the payee, the claim of a published rung included.

use bitcoin::Amount;

use super::{Closed, ClosingAlone, Setup, State};
use crate::channel::{Channel, Ending};
use crate::lightspeed::RungClaim;
use crate::lightspeed::tab::Claim;
use crate::sighting::{Funding, Sighting};

impl State {
    /// The ending, once everything that this side can get is deep enough.
    pub(super) fn ended(&self, setup: &Setup, sighting: &Sighting) -> Option<Self> {
        let payee = &setup.channel.params().payee;
        let mut ending = Ending::of(&setup.channel, payee, sighting, setup.policy.finality)?;
        if let Self::ClosingAlone(ClosingAlone { claim: Claim::Rung(rung), .. }) = self
            && ending.txid == rung.commitment(&setup.channel, &setup.keys).compute_txid()
        {
            ending.received = rung_received(setup, rung, sighting)?;
        }
        Some(Self::Closed(Closed { ledger: self.ledger(), ending: Some(ending) }))
    }
}

/// What the claim of a published rung brought, once that cannot change any more. `None` while it can.
fn rung_received(setup: &Setup, rung: &RungClaim, sighting: &Sighting) -> Option<Amount> {
    let finality = setup.policy.finality;
    match sighting.locked.iter().map(|locked| &locked.status).next()? {
        Funding::Spent { by, confirmations } if *confirmations >= finality => {
            Some(Channel::paid_to(by, &setup.channel.params().payee))
        }
        // Not worth its fee, and the payer may take it by now.
        Funding::Confirmed { confirmations, .. }
            if *confirmations >= finality.saturating_add(rung.delay.get().into()) =>
        {
            Some(Amount::ZERO)
        }
        Funding::Spent { .. } | Funding::Confirmed { .. } | Funding::Unseen | Funding::Unconfirmed(_) => None,
    }
}
