//! Paying for calls in flat mode: batches of preimages, and what they mean before anything is locked.

use bitcoin::Amount;
use farthing_protocol::channel::Expiry;
use farthing_protocol::flat::{self, BatchTerms, Explanation, Signed};
use farthing_protocol::lightspeed::Purse;
use farthing_protocol::opening::{Limits, Offer};
use farthing_protocol::payer::{Effect, Input, Reject, call};
use farthing_protocol::{ChannelId, Msat, Payment};

use super::calls::CallsError;
use crate::books::OrderError;
use crate::buyer::Buyer;
use crate::explain::{ExplainError, explain};

/// A batch to be sent to the payee.
#[derive(Clone, Debug)]
pub struct BatchAnnouncement {
    /// Its number and terms.
    pub batch: BatchTerms,
    /// Its locks, and the two signatures.
    pub signed: Signed,
    /// The newest plain payment, for a channel that paid for nothing yet.
    pub payment: Payment,
}

impl Buyer {
    /// What the first batch of these terms would mean in a channel of that capacity, before anything is locked. Blocks.
    ///
    /// # Errors
    /// When a term breaks a limit, or the capacity covers no batch.
    pub fn explain(
        &self,
        offer: &Offer,
        limits: &Limits,
        (capacity, lifetime): (Amount, u32),
        offered: &flat::Terms,
    ) -> Result<Explanation, ExplainError> {
        let now = self.fee_rate()?;
        let expiry = Expiry::at_height(self.height()?.saturating_add(lifetime));
        let rates = (limits.choose_fee_rate(offer, now), now);
        explain(&self.seed, offer, (capacity, expiry), rates, offered)
    }

    /// Makes the next batch of a channel, with as many outputs as the capacity allows, stores it and signs it. A batch that
    /// was announced before and never answered comes again. Blocks: 50 µs for each output.
    ///
    /// # Errors
    /// When nothing is left to pay with, or it could not be stored.
    pub fn announce_batch(
        &self,
        id: ChannelId,
        offered: &flat::Terms,
    ) -> Result<BatchAnnouncement, CallsError> {
        let setup = self.books.setup(&id).ok_or(OrderError::NoChannel(id))?;
        let state = || {
            let entry = self.books.list_blocking()?.into_iter().find(|entry| entry.id == id);
            Ok::<_, OrderError<Reject>>(entry.ok_or(OrderError::NoChannel(id))?.state)
        };
        let now = state()?;
        let batch = match now.purse().and_then(Purse::announced_batch) {
            Some(batch) => batch,
            None => {
                let fit = match now.purse() {
                    Some(purse) => {
                        let fit = purse.fit_batch(&setup.channel, offered);
                        fit.map_err(Reject::from).map_err(OrderError::Rejected)?
                    }
                    None => {
                        let prepaid = Msat::from_amount(setup.channel.params().prepaid).unwrap_or_default();
                        BatchTerms::fit(&setup.channel, 1, now.ledger().paid().max(prepaid), offered)
                    }
                };
                let batch = fit.ok_or(CallsError::Spent(id))?;
                let outcome =
                    self.books.handle_blocking(id, Input::Call(call::Input::AnnounceBatch(batch)))?;
                debug_assert!(outcome.effects.contains(&Effect::AnnounceBatch(batch)));
                batch
            }
        };
        let signed = batch.sign(&setup.channel, &setup.keys)?;
        let payment = state()?.ledger().newest.expect("a batch stands on a payment");
        Ok(BatchAnnouncement { batch, signed, payment })
    }
}
