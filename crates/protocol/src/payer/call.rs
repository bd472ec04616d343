//! What can happen to a channel that pays for calls.

use super::Effect;
use crate::amount::Msat;
use crate::channel::Channel;
use crate::flat::BatchTerms;
use crate::lightspeed::purse::{Purse, Unable};
use crate::lightspeed::{CallNumber, ChainTerms};

/// What can happen to a payer's purse.
#[derive(Clone, Debug)]
pub enum Input {
    /// A chain was drawn and is to be announced. The first one turns a channel that paid for pieces into one that pays for
    /// calls.
    Announce(ChainTerms),
    /// A batch of preimages is to be announced, in flat mode. The first one turns a channel that paid for pieces into one
    /// that pays for calls.
    AnnounceBatch(BatchTerms),
    /// The payee took the chain or batch, and is in that epoch.
    Taken {
        /// The chain.
        chain: u32,
        /// The payee's epoch.
        epoch: u32,
    },
    /// The payee refused the chain or batch.
    Refused {
        /// The chain.
        chain: u32,
    },
    /// A call is to be sent that may cost so much.
    Call {
        /// The most that it may cost.
        cost: Msat,
        /// The most that may be paid in all once it is sent: its word may be worth more than it costs.
        most: Msat,
    },
    /// A call that runs is to be allowed to cost more.
    TopUp {
        /// The call.
        number: CallNumber,
        /// How much more.
        by: Msat,
        /// The most that may be paid in all once it is sent.
        most: Msat,
    },
    /// A call was answered: served for `charged`, or not served, never to be, and free.
    Answered {
        /// The call.
        number: CallNumber,
        /// What the payee says that it cost.
        charged: Option<Msat>,
    },
    /// The payee began that epoch.
    Epoch(u32),
    /// The payee says that no call runs any more and what was spent in all.
    Reconcile {
        /// The newest number that had been used when it was asked.
        last: CallNumber,
        /// What it says.
        spent: Msat,
    },
}

impl Input {
    /// A call of at most `cost`, whatever its word is worth.
    pub fn call(cost: Msat) -> Self {
        Self::Call { cost, most: Msat::new(u64::MAX) }
    }

    /// So much more for a call that runs, whatever the word for it is worth.
    pub fn top_up(number: CallNumber, by: Msat) -> Self {
        Self::TopUp { number, by, most: Msat::new(u64::MAX) }
    }
}

impl Purse {
    /// Carries it out. A purse that refused it is not to be used again: it is a copy.
    pub(super) fn handle(&mut self, channel: &Channel, input: Input) -> Result<Option<Effect>, Unable> {
        match input {
            Input::Announce(terms) => {
                let base = self.announce(channel, terms)?;
                Ok(Some(Effect::Announce(terms, base)))
            }
            Input::AnnounceBatch(batch) => {
                self.announce_batch(channel, batch)?;
                Ok(Some(Effect::AnnounceBatch(batch)))
            }
            Input::Taken { chain, epoch } => self.taken(chain, epoch).map(|()| None),
            Input::Refused { chain } => self.refused(chain).map(|()| None),
            Input::Call { cost, most } => {
                let ticket = self.call(channel, cost)?;
                self.check_paid(most)?;
                Ok(Some(Effect::Call(ticket)))
            }
            Input::TopUp { number, by, most } => {
                let ticket = self.top_up(channel, number, by)?;
                self.check_paid(most)?;
                Ok(Some(Effect::Call(ticket)))
            }
            Input::Answered { number, charged } => self.answered(number, charged).map(|()| None),
            Input::Epoch(epoch) => {
                self.turn_to(epoch);
                Ok(None)
            }
            Input::Reconcile { last, spent } => self.reconcile(last, spent).map(|()| None),
        }
    }

    fn check_paid(&self, most: Msat) -> Result<(), Unable> {
        let got = self.paid();
        if got > most {
            return Err(Unable::OverAllowed { most, got });
        }
        Ok(())
    }
}
