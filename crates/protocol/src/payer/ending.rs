//! How a channel ends for the payer when the payee published a rung or a batch: what nobody claims in time is the payer's
//! again.

use super::{Account, Closed, Closing, Effect, Setup, State};
use crate::channel::{Channel, Ending, SpendKind};
use crate::hashlock::{self, Locked};
use crate::lightspeed::{Purse, ladder};
use crate::payer::taking_back::{Batch, PATIENCE};
use crate::replacement;
use crate::sighting::{Funding, Sighting};
use crate::transition::Transition;

impl State {
    /// The funding's spend is deep enough. A rung that the payee published and did not claim in time is the payer's again,
    /// and until that is settled the channel is not over.
    pub(super) fn spent_for_good(
        setup: &Setup,
        account: &Account,
        mut ending: Ending,
        sighting: &Sighting,
    ) -> Transition<Self, Effect> {
        let chains = account.purse().map_or(&[][..], Purse::chains);
        let spender = match &sighting.funding {
            Funding::Spent { by, .. } if ending.kind == SpendKind::Commitment => Some(by),
            Funding::Spent { .. } | Funding::Unseen | Funding::Unconfirmed(_) | Funding::Confirmed { .. } => {
                None
            }
        };
        let waits = Closing { account: account.clone(), settlement: None, transaction: None };
        let waits = Transition::to(Self::Closing(waits));
        let batches = account.purse().map_or(&[][..], Purse::batches);
        match spender.and_then(|by| Batch::of(setup, batches, by, sighting)) {
            Some(Batch::Open(back)) => {
                return back.into_iter().map(Effect::Broadcast).fold(waits, Transition::then);
            }
            Some(Batch::Settled { received, left }) => {
                ending.received = ending.received.checked_add(received).unwrap_or(ending.received);
                ending.left = left;
                return Transition::to(Self::Closed(Closed { ledger: account.ledger(), ending }));
            }
            None => {}
        }
        let rung = spender.and_then(|by| ladder::find(&setup.channel, &setup.keys, chains, by));
        let (Some((scripts, value)), Some(locked)) = (rung, sighting.locked.first()) else {
            return Transition::to(Self::Closed(Closed { ledger: account.ledger(), ending }));
        };
        let take_back = || {
            let output = Locked { outpoint: locked.outpoint, value, scripts: &scripts };
            hashlock::take_back(&setup.channel, &setup.keys, &[output], sighting.fee_rate)
        };
        let payer = &setup.channel.params().payer;
        match &locked.status {
            Funding::Spent { by, confirmations } if *confirmations >= setup.finality => {
                let back = Channel::paid_to(by, payer);
                ending.received = ending.received.checked_add(back).unwrap_or(ending.received);
                Transition::to(Self::Closed(Closed { ledger: account.ledger(), ending }))
            }
            Funding::Confirmed { confirmations, .. }
                if *confirmations >= u32::from(scripts.delay().get()) =>
            {
                let waited = confirmations - u32::from(scripts.delay().get());
                match take_back() {
                    Ok(transaction) => waits.then(Effect::Broadcast(transaction)),
                    Err(_not_worth_it) if waited < PATIENCE => waits,
                    Err(_not_worth_it) => {
                        ending.left = value;
                        Transition::to(Self::Closed(Closed { ledger: account.ledger(), ending }))
                    }
                }
            }
            // The payer's own waits for a block, and wants a better fee by now.
            Funding::Spent { by, confirmations: 0 }
                if replacement::is_outbid(by, value, &payer.output, sighting.fee_rate) =>
            {
                take_back().into_iter().map(Effect::Broadcast).fold(waits, Transition::then)
            }
            Funding::Spent { .. } | Funding::Confirmed { .. } | Funding::Unseen | Funding::Unconfirmed(_) => {
                waits
            }
        }
    }
}
